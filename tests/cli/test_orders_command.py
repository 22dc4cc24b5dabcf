"""`shadowflow orders`: its flags, its numbers against independent ones, its files."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import PLACE, SMOOTH, smooth_loss

import shadowflow as sf
from shadowflow import cli
from shadowflow.cli.jobs import orders
from shadowflow.cli.orders import Orders
from shadowflow.lab.models import digits_problem


@pytest.mark.parametrize("corrected", [True, False])
def test_the_curvature_is_that_of_the_dense_preconditioned_hessian(corrected):
    adam = sf.adam(b1=0.9, b2=0.95, eps=1e-3, eps_root=1e-2, bias_correction=corrected)
    run = sf.iterate(SMOOTH, adam, PLACE, 1e-2, 7)
    nu = np.asarray(run.state.moments[1]) / ((1 - 0.95**7) if corrected else 1.0)
    scale = (np.sqrt(nu + 1e-2) + 1e-3) ** -0.5
    hessian = np.asarray(jax.hessian(smooth_loss)(jnp.asarray(run.last)))
    dense = np.linalg.eigvalsh(scale[:, None] * hessian * scale[None, :])[-1]
    found = sf.curvature(SMOOTH, adam, jnp.asarray(run.last), state=run.state)
    assert found == pytest.approx(dense, rel=1e-9)
    assert found != pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-2)


def test_slopes_and_sides():
    rates = [1e-3, 2e-3, 4e-3]
    assert orders.slopes(rates, [3 * rate**3 for rate in rates]) == pytest.approx([3, 3])
    marks = {"flow edge": 0.03, "stability edge": 38.0}
    assert orders.side(0.01, marks) == "below the edges"
    assert orders.side(50, marks) == "past the stability edge"


def test_every_method_and_order_is_a_line_once():
    command = Orders(methods=("taylor", "collocation", "inertial"), orders=(1, 2, 3))
    plan = orders.Plan(command, SMOOTH, sf.adam(), PLACE)
    assert [line.name for line in plan.ways] == [
        "first order, iteration",
        "taylor 2, iteration",
        "collocation 2, iteration",
        "inertial 2, flow",
        "collocation 3, iteration",
        "inertial 3, flow",
    ]


QUADRATIC = sf.Problem(lambda x: 0.5 * jnp.sum(jnp.array([1.0, 8.0]) * x**2))
BEGIN = jnp.array([1.0, 1.0])


def test_a_method_leaves_at_the_first_step_farther_than_a_tenth_of_the_way(tmp_path, capsys):
    """By brute force from the trajectories; past the flow edge .026 of a mode, at rate .05."""
    optimizer = sf.momentum(decay=0.9, form="ema")
    command = Orders(
        learning_rates=(1e-4, 0.05),
        orders=(2,),
        methods=("taylor", "inertial"),
        warm=30,
        steps=40,
        at=0.05,
        far=60,
        out=tmp_path,
        quiet=True,
    )
    orders.orders_job(orders.Plan(command, QUADRATIC, optimizer, BEGIN))
    found = json.loads((tmp_path / "numbers.json").read_text())
    ran = {"optimizer": "adam", "problem": "digits", "seed": 0, "dtype": "float64"}
    assert ran.items() <= found["run"].items() and found["run"]["arguments"]["b2"] == 0.95
    real = sf.iterate(QUADRATIC, optimizer, BEGIN, 0.05, 60)
    follow = sf.shadow(QUADRATIC, optimizer, BEGIN, 0.05, 60, method="taylor", kind="iteration")
    gap = np.linalg.norm(real.params - follow.params, axis=1)
    way = np.linalg.norm(real.params - real.params[:1], axis=1)
    left = next(n for n in range(1, 61) if gap[n] > 0.1 * way[n])
    assert 1 < left < 60
    long = found["long"]["lines"]
    assert long["taylor 2, iteration"]["left"] == left
    np.testing.assert_allclose(long["taylor 2, iteration"]["shares"][1:], gap[1:] / way[1:])
    assert long["inertial 2, flow"]["left"] is None
    assert [row["curvature"] for row in found["sweep"]] == pytest.approx([8.0, 8.0])
    printed = capsys.readouterr().out
    assert "below the edges" in printed and "past the flow edge" in printed
    assert f"step {left}" in printed and "10% of the way" in printed
    assert (tmp_path / "figure.png").stat().st_size > 10_000


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--learning-rates 1e-3 1e-4", "--learning-rates: expected rising"),
        ("--learning-rates", "expected a sweep or a long run"),
        ("--orders 0 1", "--orders: expected whole numbers from 1"),
        ("--steps 0", "--steps: expected 1 or more"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, words):
    with pytest.raises(ValueError, match=words):
        cli.parse(["orders", *flags.split()]).setting()


def test_flags_reach_the_plan(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "import jax.numpy as jnp, shadowflow as sf\n"
        "bowl = sf.Problem(lambda x: jnp.sum(x**2)), jnp.ones(2, jnp.float32)\n"
    )
    calls = []
    monkeypatch.setattr(orders, "orders_job", calls.append)
    words = (
        "orders opt:momentum --opt.decay 0.5 --learning-rates 1e-4 1e-3 --orders 2 1 --methods "
        "inertial taylor --warm 7 --steps 5 --at 0.01 --far 9 --seed 3 --quiet --out"
    )
    flags = [*words.split(), str(tmp_path / "out")]
    assert cli.main([*flags, "--problem", f"{tmp_path / 'mine.py'}:bowl"]) == 0
    assert cli.main([*flags, "--single"]) == 0
    assert cli.main(flags) == 0
    own, single, double = calls
    assert [way.name for way in own.ways] == [
        "first order, iteration",
        "inertial 2, flow",
        "taylor 2, iteration",
    ]
    assert (own.optimizer.name, float(own.optimizer.moments[0].decay)) == ("momentum", 0.5)
    assert own.params.shape == (2,)
    seeded = digits_problem(3)[1][0]["weight"]
    for plan, dtype in ((single, "float32"), (double, "float64")):
        assert plan.params[0]["weight"].dtype == dtype
        np.testing.assert_array_equal(plan.params[0]["weight"], seeded)


def test_flags_reach_the_setting():
    words = "orders opt:momentum --opt.decay 0.5 --learning-rates 1e-4 1e-3 --problem mnist"
    command = cli.parse(words.split())
    assert command.setting().arguments["decay"] == 0.5 and command.problem == "mnist"
    assert cli.parse(["orders"]).setting().arguments["eps_root"] == 1e-6
