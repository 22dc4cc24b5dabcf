"""The constants of the theorems: their numbers by another way, their evidence, their picture."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import oracles
import pytest

from shadowflow.cli.jobs.reproduce import figure_of
from shadowflow.paper.figures import constants as figure, style

TINY = figure.Constants(roots=(1.0, 0.3), rates=(2.0**-5, 2.0**-6), fitted=2)
SURFACES = {
    "away from 0": oracles.Landscape(
        lambda x: -2 * (1.5 - 2 * x[0] * x[1]) * x[::-1],
        lambda x: np.array(
            [[4 * x[1] ** 2, 8 * x[0] * x[1] - 3], [8 * x[0] * x[1] - 3, 4 * x[0] ** 2]]
        ),
    ),
    "near 0": oracles.Landscape(lambda x: x - [1.0, -5.0], lambda x: np.eye(2)),
}


def by_hand(loss, family, root, h):
    """max |θ_n − θ(nh)| / h², the equation of the theorem by Runge and Kutta, Adam by a loop."""
    surface, start = SURFACES[loss], np.array(figure.LOSSES[loss][1])
    b1, b2 = (0.0, 0.7) if family in ("B.4", "C.4") else (0.5, 0.7)
    eps, eps_root = (0.0, root**2) if family in ("C.4", "E.4") else (root, 0.0)
    real = flow = start
    m = v = 0.0
    steps, worst = round(figure.HORIZON / h), 0.0
    for n in range(steps):
        field = lambda x, n=n: oracles.theorem(
            [surface] * steps, x, h, n, b1, b2, eps, eps_root, b1 > 0
        )[0]
        for _ in range(4):
            k = h / 4
            one = field(flow)
            two = field(flow + k / 2 * one)
            three = field(flow + k / 2 * two)
            flow = flow + k / 6 * (one + 2 * two + 2 * three + field(flow + k * three))
        g = surface.gradient(real)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        nu = v / (1 - b2 ** (n + 1)) if b1 else v
        real = real - h * m / (1 - b1 ** (n + 1)) / (np.sqrt(nu + eps_root) + eps)
        worst = max(worst, np.abs(real - flow).max())
    return worst / h**2


@pytest.fixture(scope="module")
def found():
    done = []
    arrays = figure.compute(TINY, {}, bar := SimpleNamespace(update=done.append))
    assert sum(done) == bar.total
    return arrays


@pytest.mark.parametrize("family", figure.FAMILIES)
@pytest.mark.parametrize("loss", figure.LOSSES)
def test_a_constant_is_the_error_over_h_squared(found, loss, family):
    """The library's flow takes one step of order 3 where this takes four of order 4."""
    for place in ((0, 1), (1, 0)):
        expected = by_hand(loss, family, TINY.roots[place[0]], TINY.rates[place[1]])
        assert found[f"{loss}/{family}"][place] == pytest.approx(expected, rel=0.02)
        assert found[f"{loss}/{family}"][place] != expected


def invented(settings, power=-0.5, spread=1.1):
    """C of exponent ``power`` near 0 and 0 away from it; at the other step ``spread`` times it."""
    eps, arrays = np.square(settings.roots), {}
    for loss in figure.LOSSES:
        for family in figure.FAMILIES:
            constants = 2.0 * eps ** (power if loss == "near 0" else 0)
            arrays[f"{loss}/{family}"] = np.stack([spread * constants, constants], axis=1)
    return arrays


def test_the_exponents_are_those_put_in_and_the_evidence_can_fail():
    settings = figure.SCALES["full"]
    made = invented(settings, -0.62)
    assert figure.exponents(made, settings, "near 0")["D.4"] == pytest.approx(-0.62)
    assert "D.4 -0.62" in figure.caption(made, settings)
    failing = lambda arrays: sum(not row.holds for row in figure.evidence(arrays, settings))
    assert failing(made) == 0
    assert failing(invented(settings, 0.0)) == 4  # as large as it would be away from 0
    assert failing(invented(settings, spread=4.0)) == 2  # an error of order 1
    assert failing({**made, "away from 0/E.4": made["near 0/E.4"]}) == 1


def test_its_picture_is_drawn_from_the_arrays(tmp_path):
    assert figure_of("constants") is figure
    settings = dataclasses.replace(figure.SCALES["full"])
    for folder in ("a", "b"):
        with style.styled():
            style.save(figure.draw(invented(settings), settings), tmp_path / folder)
    first, second = ((tmp_path / folder / "figure.png").read_bytes() for folder in "ab")
    assert first == second


@pytest.mark.slow
def test_the_constants_grow_where_the_gradient_comes_near_0():
    settings = figure.SCALES["smoke"]
    arrays = figure.compute(settings, {}, SimpleNamespace(update=lambda _: None))
    assert all(row.holds for row in figure.evidence(arrays, settings))
