"""`shadowflow orders`: its flags, its numbers against independent ones, its files."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure
from table import PLACE, SMOOTH

import shadowflow as sf
from shadowflow import cli
from shadowflow.cli.jobs import orders, orders_figure
from shadowflow.cli.orders import Orders
from shadowflow.lab.models import digits_problem


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
    follow = sf.shadow(
        QUADRATIC, optimizer, BEGIN, 0.05, 60, method="taylor", kind="iteration", check=False
    )
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


def test_the_stretch_that_is_followed_begins_in_the_state_behind_the_warm_up():
    """Error and curvature from one run of all steps; the curvature is that of every state."""
    adam = sf.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=0.1)
    command = Orders(orders=(2,), methods=("taylor",), warm=5, steps=4, at=0.05, far=6)
    plan = orders.Plan(command, SMOOTH, adam, PLACE)
    whole = sf.iterate(SMOOTH, adam, PLACE, 0.05, 9)
    place = jnp.asarray(whole.params[5])
    state = sf.iterate(SMOOTH, adam, PLACE, 0.05, 5).state
    follow = sf.shadow(
        SMOOTH, adam, place, 0.05, 4, start=state, method="taylor", kind="iteration", check=False
    )
    gap, way = (np.linalg.norm(whole.params[9] - x) for x in (follow.last, whole.params[5]))
    found = orders.at_rate(plan, 0.05)
    assert found["lines"]["taylor 2, iteration"]["error"] == pytest.approx(gap / way, rel=1e-9)
    curved = lambda n, state: sf.curvature(SMOOTH, adam, jnp.asarray(whole.params[n]), state=state)
    assert found["curvature"] == pytest.approx(curved(5, state), rel=1e-9)
    assert abs(found["curvature"] / curved(5, None) - 1) > 1e-3
    along = orders._along(plan)
    assert along["steps"] == [4, 5, 6] and along["values"][1] == found["curvature"]
    assert len(set(along["values"])) == 3


def test_a_way_that_stops_on_the_stretch_is_infinitely_far(monkeypatch):
    stopped = {"shares": np.array([0.0, 0.01]), "left": 2, "whole": False}
    monkeypatch.setattr(orders, "followed", lambda *run, **options: stopped)
    command = Orders(orders=(2,), methods=("taylor",), warm=1, steps=4)
    plan = orders.Plan(command, QUADRATIC, sf.sgd(), BEGIN)
    assert orders.at_rate(plan, 1e-3)["lines"]["taylor 2, iteration"] == {
        "error": np.inf,
        "left": 2,
    }


def told():
    """Numbers as they are written: a way that leaves at the second rate, and one that stays."""
    leaves, stays = {"method": "taylor", "order": 2}, {"method": "inertial", "order": 3}
    leaves["name"], stays["name"] = "taylor 2, iteration", "inertial 3, flow"
    line = lambda error, left: {"error": error, "left": left}
    sweep = [
        {"rate": rate, "curvature": 10.0, "lines": lines}
        for rate, lines in (
            (1e-3, {leaves["name"]: line(1e-3, None), stays["name"]: line(1e-6, None)}),
            (1e-2, {leaves["name"]: line(0.2, 60), stays["name"]: line(1e-3, None)}),
            (1.0, {leaves["name"]: line(float("inf"), 3), stays["name"]: line(0.05, None)}),
        )
    ]
    steps = np.array([0, 100, 200, 300, 1000, 1100])
    way = lambda size, left: {
        "steps": steps,
        "distance": size * steps,
        "left": left,
        "level": "holds" if left is None else "does not hold",
    }
    long = {
        "rate": 1e-2,
        "steps": steps,
        "moved": 1.0 * steps,
        "curvature": {"steps": [4, 1100], "values": [10.0, 500.0]},
        "lines": {leaves["name"]: way(0.5, 300), stays["name"]: way(1e-3, None)},
        "loss": [2.0, 0.5],
    }
    edges = {"flow edge": 0.05, "stability edge": 8.0}
    return {
        "edges": edges,
        "lines": [leaves, stays],
        "steps": 100,
        "warm": 150,
        "sweep": sweep,
        "long": long,
    }


def test_the_table_of_the_sweep_says_where_each_way_leaves():
    lines = [line.split() for line in orders.sweep_table(told())]
    for row in (
        "0.001 0.01 below the edges",
        "0.01 0.1 past the flow edge",
        "1 10 past the stability edge",
        "taylor 2, iteration 1e-03 2e-01 inf 2.3 inf 0.01",
        "inertial 3, flow 1e-06 1e-03 5e-02 3.0 0.8 never",
    ):
        assert row.split() in lines


def test_the_table_of_the_long_run_has_the_distance_on_the_way():
    lines = [line.split() for line in orders.far_table(told())]
    head = "method at step 200 at step 1000 leaves verdict".split()
    assert head in lines
    assert "taylor 2, iteration 1e+02 5e+02 step 300 does not hold".split() in lines
    assert "inertial 3, flow 0.2 1 stays holds".split() in lines
    assert "0.1 at step 4, 5 at step 1100".split() in lines
    (first,) = (line for line in orders.far_table(told()) if "cold start" in line)
    assert "the optimizer goes 1.1e+03 far, the loss from 2 to 0.5" in first


def test_the_picture_marks_where_a_way_leaves_and_the_edges():
    axes = Figure().subplots(2, 2)
    orders_figure._sweep(*axes[:, 0], told())
    orders_figure._long(*axes[:, 1], told())
    lines = {line.get_label(): line for line in axes[0, 0].get_lines()}
    np.testing.assert_array_equal(lines["taylor 2, iteration"].get_ydata(), [1e-3, 0.2, np.nan])
    np.testing.assert_allclose(axes[1, 0].get_lines()[0].get_ydata(), [0.01, 0.1, 10])
    upright = [line.get_xdata()[0] for line in axes[1, 0].get_lines() if len(line.get_xdata()) == 2]
    assert pytest.approx(min(x for x in upright if x > 0)) == 0.005  # × curvature: .05
    (cross,) = (line for line in axes[0, 1].get_lines() if line.get_marker() == "x")
    assert (cross.get_xdata()[0], cross.get_ydata()[0]) == (300, 150)
    np.testing.assert_allclose(axes[1, 1].get_lines()[0].get_ydata(), [0.1, 5])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--learning-rates 1e-3 1e-4", "--learning-rates: expected rising"),
        ("--learning-rates", "expected a sweep or a long run"),
        ("--orders 0 1", "--orders: expected whole numbers from 1"),
        ("--steps 0", "--steps: expected a whole number from 1"),
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
