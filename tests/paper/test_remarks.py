"""Remarks and assumptions as claims: by hand, on problems of a known answer, and failing."""

import functools

import jax.numpy as jnp
import numpy as np
import oracles
import pytest

import shadowflow as sf
from shadowflow.paper import remarks
from shadowflow.paper.trials import FAILS, HOLDS

C = np.array([1.0, 3.0])


def test_the_theorems_runs_stay_within_and_another_does_not(monkeypatch):
    (trial,) = remarks.within("smoke")
    rows = trial.run["rows"]
    assert trial.verdict == HOLDS and len(rows) == 9
    away = sf.Problem(lambda x: (x[0] + 9) ** 2 / 2 + (x[1] + 5) ** 2 / 2)
    monkeypatch.setattr(remarks, "PARABOLA", away)
    monkeypatch.setattr(remarks.theorems, "THEOREMS", remarks.theorems.THEOREMS[:1])
    (trial,) = remarks.within("smoke")
    assert trial.verdict == FAILS and np.isnan(trial.run["rows"][-1]["measured"])


BOWL = sf.Problem(lambda x: jnp.sum(jnp.asarray([1.0, 2.0, 4.0]) * x**2) / 2)
AT = np.array([0.5, -0.2, 0.1])


def test_the_rise_in_a_box_is_that_of_its_corner(monkeypatch):
    """Of a convex parabola r‖g‖₁ + ½ r² Σ c: the ratio is 1 + r Σ c / 2‖g‖₁."""
    monkeypatch.setattr(remarks, "digits_problem", lambda: (BOWL, jnp.asarray(AT)))
    (trial,) = remarks.sharpness("smoke")
    ratios = 1 + np.array(remarks.RADII) * 3.5 / np.sum(np.abs([0.5, -0.4, 0.4]))
    np.testing.assert_allclose(trial.run["rows"][0]["run"]["ratios"], ratios, rtol=1e-9)
    assert trial.verdict == HOLDS
    right = remarks.rise_within
    monkeypatch.setattr(remarks, "rise_within", lambda *given: 1.01 * right(*given))
    assert remarks.sharpness("smoke")[0].verdict == FAILS


def test_the_climb_finds_more_than_the_corner_that_the_gradient_points_to():
    """E = −(x − 0.3)² rises to its top inside the box, which no corner reaches."""
    hill = sf.Problem(lambda x: -((x - 0.3) ** 2))
    found = float(remarks.rise_within(hill, jnp.asarray(0.0), 1.0))
    assert found == pytest.approx(0.09 - 0.04)  # e = 0.5, half a box from the corner
    assert found > -(0.7**2) + 0.09


def test_turning_the_bias_is_adding_so_much_of_the_correction(monkeypatch):
    """Step by step by the closed form of the paper's (63)."""
    monkeypatch.setattr(
        remarks, "memoryless_step", functools.partial(sf.memoryless_step, method="taylor")
    )
    surface = oracles.Landscape(lambda x: x - C * np.sin(x), lambda x: np.diag(1 - C * np.cos(x)))
    problem = sf.Problem(lambda x: jnp.sum(x**2 / 2 + jnp.asarray(C) * jnp.cos(x)))
    start, h = np.array([0.7, -1.2]), remarks.DIAL_RATE
    losses, norms = remarks.turned(problem, jnp.asarray(start), 0.6, 0.8, 30)
    for row, dial in enumerate(remarks.DIALS):
        x = start
        for n in range(30):
            g = surface.gradient(x)
            assert norms[row, n] == pytest.approx(np.sum(np.sqrt(g**2 + 1e-6)), rel=1e-12)
            assert losses[row, n] == pytest.approx(np.sum(x**2 / 2 + C * np.cos(x)), rel=1e-12)
            plain = -h * g / np.sqrt(g**2 + 1e-6)
            _, move = oracles.theorem([surface] * 30, x, h, n, 0.6, 0.8, 0.0, 1e-6)
            x = x + plain + dial * (move - plain)
    assert len(np.unique(norms[:, -1])) == len(remarks.DIALS)


def test_the_norm_must_follow_the_dial_in_both_directions(monkeypatch):
    """Made-up norms that rise with the dial: the claim holds for ρ > β only."""
    fall = np.tile(np.linspace(2.3, 1, 60), (4, 1))
    rise = lambda *given: (fall, np.outer([1.0, 1.1, 1.2, 1.3], np.ones(60)))
    monkeypatch.setattr(remarks, "digits_problem", lambda seed: (BOWL, jnp.asarray(AT)))
    monkeypatch.setattr(remarks, "turned", rise)
    assert [trial.verdict for trial in remarks.causal("smoke")] == [HOLDS, FAILS]


@pytest.mark.slow
def test_the_norm_follows_the_bias_alone():
    assert [trial.verdict for trial in remarks.causal("smoke")] == [HOLDS, HOLDS]
