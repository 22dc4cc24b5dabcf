"""The theorems: their errors by the paper's closed forms, and what their orders depend on."""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.rows import fast

import shadowflow as sf
from shadowflow.cli.jobs import verify
from shadowflow.diagnostics.convergence import order_row
from shadowflow.optimizers import zoo
from shadowflow.paper import theorems
from shadowflow.paper.ways import Way

MEASURED = Path(__file__).parents[2] / "docs" / "verify.json"


@pytest.mark.parametrize("batched", [True, False])
def test_the_orders_of_a_theorem_are_those_of_its_problem(batched):
    """The errors at two step sizes, of a problem written out here; the order is 2."""
    theorem = dataclasses.replace(theorems.THEOREMS[1], batched=batched)
    found = [theorems.measure(theorem, way, range(8, 12)) for way in theorem.ways()[2:4]]
    assert [row.kind for row in found] == ["iteration", "flow"]
    assert all(row.order == 2 and 1.7 < row.slope < 2.3 for row in found)
    assert found[0].learning_rates == tuple(2.0**-k for k in range(8, 12))
    loss = lambda x, c: 0.5 * (c[0] - c[1] * x[0] * x[1]) ** 2
    centres = jnp.array([[1.2, 1.8], [1.5, 2.0], [1.9, 2.3]])
    problem = sf.Problem(lambda x: loss(x, centres[1]))
    if batched:
        problem = sf.Problem(loss, batches=centres)
    rmsprop = sf.rmsprop(decay=0.7, eps=0.0, eps_root=1e-2)
    run = problem, rmsprop, jnp.array([2.8, 3.5]), 2.0**-8, 128
    follow = sf.shadow(*run, method="taylor", order=2, kind="iteration", check=False)
    gap = np.abs(sf.iterate(*run).params - follow.params).max()
    assert found[0].errors[0] == pytest.approx(gap, rel=1e-6)


CENTRES = ((1.2, 1.8), (1.5, 2.0), (1.9, 2.3))
BILINEAR = [
    oracles.Landscape(
        lambda x, c=c, d=d: -d * (c - d * x[0] * x[1]) * np.array([x[1], x[0]]),
        lambda x, c=c, d=d: np.array(
            [
                [(d * x[1]) ** 2, 2 * d**2 * x[0] * x[1] - c * d],
                [2 * d**2 * x[0] * x[1] - c * d, (d * x[0]) ** 2],
            ]
        ),
    )
    for c, d in CENTRES
]


def one_step_by_hand(theorem, batched, h, steps, order):
    """sup over steps of |the move of (11) or (63) − the optimizer's|, past gradients on the path.

    The path is that of the iteration, from the closed form; the optimizer is the definition's sums.
    """
    decays = (
        theorem.arguments.get("b1", 0.0),
        theorem.arguments.get("b2", theorem.arguments.get("decay")),
    )
    eps, root = (theorem.arguments.get(name, 0.0) for name in ("eps", "eps_root"))
    adam = theorem.optimizer == "adam"
    visits = [BILINEAR[n % 3 if batched else 1] for n in range(steps)]
    x, seen, worst = np.array([2.8, 3.5]), [], 0.0
    for n in range(steps):
        seen.append(visits[n].gradient(x))
        b, r = (oracles.weights(decay, n, True) for decay in decays)
        r = r if adam else oracles.weights(decays[1], n, False)
        m, v = b @ np.array(seen), r @ np.array(seen) ** 2
        real = -h * m / (np.sqrt(v + root) + eps)
        scale = h if order == 2 else 1e-30  # of a vanishing step nothing of second order is left
        _, move = oracles.theorem(visits, x, scale, n, *decays, eps, root, adam)
        move = move * h / scale
        worst, x = max(worst, np.abs(real - move).max()), x + move
    return worst


@pytest.mark.parametrize(
    ("index", "batched"),
    fast([(0, True), (3, False)], [(k, b) for k in range(4) for b in (True, False)]),
)
def test_one_step_errs_as_the_paper_s_equation_does(index, batched):
    """Errors at two step sizes from the closed forms, past gradients by sums; and their orders."""
    theorem = theorems.LOCAL[index]
    case = dataclasses.replace(theorem, batched=batched)
    for order in (1, 2):
        row = theorems.measure(case, Way("taylor", order, "iteration"), range(6, 8))
        expected = [
            one_step_by_hand(theorem, batched, 2.0**-k, 2 ** (k - 1), order) for k in (6, 7)
        ]
        np.testing.assert_allclose(row.errors, expected, rtol=1e-6)
        assert row.order == order + 1 and row.slope == pytest.approx(order + 1, abs=0.15)


def test_heavy_ball_with_mini_batches_is_that_of_ghosh_et_al():
    """θ ← θ − h m_n − h² Σ_k β^{n−k} H_k Σ_{l=k}^{n−1} m_l, m_l = Σ_{k≤l} β^{l−k} g_k, and order 2.

    Without the second term, which their equation adds to the mean gradient's, the order is 1.
    """
    (case,) = (case for case in verify.CASES if "Ghosh" in case.label)
    decay, rates = case.arguments["decay"], [0.01 * 2.0**-k for k in (6, 7, 8, 9)]
    for order in (1, 2):
        errors = []
        for rate in rates:
            real = x = np.array([2.8, 3.5])
            velocity, gaps = np.zeros(2), []
            for n in range(round(0.005 / rate)):
                velocity = decay * velocity + BILINEAR[n % 3].gradient(real)
                g = np.array([surface.gradient(x) for surface in BILINEAR])[np.arange(n + 1) % 3]
                H = np.array([surface.hessian(x) for surface in BILINEAR])[np.arange(n + 1) % 3]
                share = decay ** (n - np.arange(n + 1.0))
                m = [share[n - l :] @ g[: l + 1] for l in range(n + 1)]
                ways = np.cumsum([0 * m[0], *m[:n][::-1]], axis=0)[::-1]
                bend = np.einsum("k,kij,kj->i", share, H, ways)
                real = real - rate * velocity
                x = x - rate * m[n] - (order - 1) * rate**2 * bend
                gaps.append(np.abs(real - x).max())
            errors.append(max(gaps))
        found = theorems.measure(case, Way("taylor", order, "iteration"), range(6, 10))
        np.testing.assert_allclose(found.errors, errors, rtol=1e-6)
        assert found.holds and found.order == order


def test_the_theorems_are_those_of_the_paper():
    """B and C of RMSProp, D and E of Adam; eps outside the root in B and D."""
    assert [theorem.label[8:11] for theorem in theorems.LOCAL] == ["B.3", "C.3", "D.3", "E.3"]
    for theorem in (*theorems.THEOREMS, *theorems.LOCAL):
        eps, eps_root = (theorem.arguments.get(name, 0.0) for name in ("eps", "eps_root"))
        outside, adam = theorem.label[8] in "BD", theorem.label[8] in "DE"
        assert (eps > 0, eps_root > 0) == (outside, not outside)
        assert ("outside" in theorem.label, "Adam" in theorem.label) == (outside, adam)
        assert theorem.optimizer == ("adam" if adam else "rmsprop")
        assert getattr(zoo, theorem.optimizer)(**theorem.arguments)
    assert [theorem.label[8:11] for theorem in theorems.THEOREMS] == ["B.4", "C.4", "D.4", "E.4"]


def test_no_order_depends_on_where_rounding_begins():
    """Every row has the same verdict were the floor three times as high or as low; but not if it
    were above all errors."""
    for row in json.loads(MEASURED.read_text("utf-8"))["rows"]:
        errors = [np.inf if error is None else error for error in row["errors"]]
        what = row["method"], row["kind"], row["order"], 0, row["learning_rates"], errors
        found = [order_row(*what, row["floor"] * times, row["level"]) for times in (1 / 3, 1, 3)]
        assert [again.holds for again in found] == [True] * 3, row
        assert order_row(*what, 2 * max(errors) + 1e-300, row["level"]).exact
