"""The paper's figures: curves against independent paths, evidence that can fail."""

import math
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate

from shadowflow.lab.data.load import load
from shadowflow.lab.models import cross_entropy, mlp_apply
from shadowflow.paper import evidence as ev
from shadowflow.paper.figures import figure1, figure2, figure3, style
from shadowflow.paper.figures.figure2 import AdamRun
from shadowflow.paper.figures.figure3 import AdamCase

NAN = float("nan")


NOTHING = SimpleNamespace(update=lambda _: None)  # is told of progress


@pytest.mark.parametrize(
    ("row", "holds"),
    [
        (ev.near("", 1.01, 1, 0.02), True),
        (ev.near("", 1.03, 1, 0.02), False),
        (ev.near("", NAN, 1, 0.02), False),
        (ev.below("", 0.9, 1), True),
        (ev.below("", 1.0, 1), False),
        (ev.below("", NAN, 1), False),
        (ev.above("", 1.1, 1), True),
        (ev.above("", 0.9, 1), False),
        (ev.above("", NAN, 1), False),
        (ev.below("", [0.1, 0.9], 1), True),
        (ev.below("", [0.1, 1.9], 1), False),
        (ev.below("", [0.1, NAN], 1), False),
        (ev.below("", [], 1), False),
        (ev.ordered("", [1, 2, 3], True), True),
        (ev.ordered("", [3, 2, 1], False), True),
        (ev.ordered("", [3, 2, 1], True), False),
        (ev.ordered("", [1, 1, 2], True), False),
        (ev.ordered("", [1, NAN, 2], True), False),
        (ev.ordered("", [1, 2, math.inf], True), False),
        (ev.ordered("", [1], True), False),
        (ev.said("", "holds", "holds"), True),
        (ev.said("", "does not hold", "holds"), False),
    ],
)
def test_evidence(row, holds):
    assert row.holds is holds


SMALL = figure1.Potentials(points=60, b2s=(0.9, 0.95, 0.98, 0.99), eps_roots=(1e-4, 1e-1))


@pytest.fixture(scope="module")
def potentials():
    return figure1.compute(SMALL, {}, NOTHING)


@pytest.mark.parametrize("b2", SMALL.b2s)
def test_the_potential_is_the_integral_of_equation_3(potentials, b2):
    """The paper's (3), written out and integrated by quadrature, over d sqrt(y² + ε)."""
    first, second, eps = 39.0, (1 + b2) / (1 - b2), SMALL.eps_root

    def brace(y):
        return (first - second + second * eps / (y**2 + eps)) * y / np.sqrt(y**2 + eps)

    y, curve = potentials["y"], potentials[f"rho/{b2:g}"]
    for index in (0, 30, 80, len(y) - 1):
        expected, _ = integrate.quad(brace, 0, y[index], epsabs=1e-12)
        assert curve[index] == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_every_curve_of_figure_1_is_judged(potentials):
    """All holds; and no curve can be changed by one part in 1,000 without a row that says so."""
    assert all(row.holds for row in figure1.evidence(potentials, SMALL))
    for name in figure1.curves(SMALL):
        changed = {**potentials, name: potentials[name] * 1.001}
        assert not all(row.holds for row in figure1.evidence(changed, SMALL)), name


def test_evidence_of_figure_1_knows_the_sign(potentials):
    turned = {**potentials, "rho/0.99": -potentials["rho/0.99"]}
    failed = [row.claim for row in figure1.evidence(turned, SMALL) if not row.holds]
    assert any("anti-penalizes" in claim for claim in failed)


SHORT = figure2.BilinearRuns(b1s=(0.5, 0.95), b2s=(0.5, 0.99), rates=(1e-3, 3e-3), least_steps=4000)


@pytest.fixture(scope="module")
def bilinear():
    return figure2.compute(SHORT, {}, NOTHING)


def test_figure_2_is_optax(bilinear):
    """The path and its end, by optax's own Adam; the end lies on the hyperbola."""
    curve = AdamRun(0.95, 0.9, 1e-3)
    tx = optax.adam(curve.rate, curve.b1, curve.b2, eps=0.0, eps_root=SHORT.eps_root)
    loss = lambda x: 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2

    def step(carry, _):
        x, state = carry
        updates, state = tx.update(jax.grad(loss)(x), state)
        x = optax.apply_updates(x, updates)
        return (x, state), x

    start = jnp.array([2.8, 3.5])
    with jax.numpy_dtype_promotion("standard"):
        _, path = jax.lax.scan(step, (start, tx.init(start)), None, length=8000)
    found = bilinear[f"{curve.key}/adam/path"]
    every = 8000 // 3000
    np.testing.assert_allclose(found[1:1000], path[every - 1 :: every][:999], rtol=1e-9)
    np.testing.assert_allclose(found[-1], path[-1], rtol=1e-9)
    assert np.prod(found[-1]) == pytest.approx(0.75, abs=1e-9)


def test_evidence_of_figure_2_can_fail(bilinear):
    rows = figure2.evidence(bilinear, SHORT)
    assert all(row.holds for row in rows), [row for row in rows if not row.holds]
    for family in SHORT.families().values():
        first, last = (f"{curve.key}/adam/path" for curve in (family[0], family[-1]))
        swapped = {**bilinear, first: bilinear[last], last: bilinear[first]}
        assert not all(row.holds for row in figure2.evidence(swapped, SHORT))
    for curve in SHORT.curves():
        key = f"{curve.key}/modified/distance"
        far = {**bilinear, key: 100 * bilinear[key]}
        assert not all(row.holds for row in figure2.evidence(far, SHORT))


def test_families_of_figure_2_vary_one_number():
    for name, column in (("beta", 0), ("rho", 1), ("below", 2), ("above", 2)):
        family = figure2.BilinearRuns().families()[name]
        assert len(family) >= 3
        for other in {0, 1, 2} - {column}:
            assert len({curve[other] for curve in family}) == 1
        values = [curve[column] for curve in family]
        assert values == sorted(set(values))
    families = figure2.BilinearRuns().families()
    assert all(curve.b1 > curve.b2 for curve in families["below"])  # the one-norm is penalized
    assert all(curve.b1 < curve.b2 for curve in families["above"])


ROLES = figure3.PerceptronRuns(
    epochs=8,
    cases=(
        AdamCase(1e-5, 0.95, 1e-6, role="helps"),
        AdamCase(1e-5, 0.95, 1e-6, settled=True, role="helps"),
        AdamCase(1e-3, 0.999, 1e-8, role="fails"),
    ),
)


def invented(**changes):
    """Arrays in which everything that Figure 3 claims holds, but for the changes."""
    ends = {
        figure3.FIRST: 1.0,
        "displaced 2": 0.2,
        "differences 2": 0.2,
        "inertial": 1e-3,
        "collocation 2": 0.2,
        "collocation 3": 0.1,
    }
    arrays = {}
    for case in ROLES.cases:
        arrays[f"{case.key}/moved"] = np.linspace(0, 1, 9)
        arrays[f"{case.key}/loss"] = np.array([2.3, 1.0])
        arrays[f"{case.key}/jump"] = np.asarray(1e-4)
        arrays[f"{case.key}/derivatives"] = np.array([0.1, 4.0, 300.0, 4e4])
        arrays[f"{case.key}/outside"] = np.array([1, 900, 20])
        for name in case.lines():
            end = ends.get(name, 0.5 if case.role == "helps" else 50.0)
            arrays[f"{case.key}/{name}/distance"] = np.linspace(0, end, 9)
            arrays[f"{case.key}/{name}/failed_at"] = np.asarray(-1)
            held = "holds" if case.role == "helps" else "does not hold"
            arrays[f"{case.key}/{name}/verdict"] = np.asarray(held)
    for (index, name), value in changes.get("ends", {}).items():
        arrays[f"{ROLES.cases[index].key}/{name}/distance"] = np.linspace(0, value, 9)
    for (index, name), word in changes.get("verdicts", {}).items():
        arrays[f"{ROLES.cases[index].key}/{name}/verdict"] = np.asarray(word)
    return arrays | changes.get("arrays", {})


@pytest.mark.parametrize(
    "changes",
    [
        {"ends": {(0, figure3.TAYLOR): 1.5}},
        {"ends": {(0, figure3.TAYLOR): NAN}},
        {"ends": {(0, "inertial"): 0.5}},
        {"ends": {(1, "collocation 3"): 0.3}},
        {"ends": {(2, figure3.TAYLOR): 0.5}},
        {"ends": {(2, "inertial"): 0.5}},
        {"ends": {(2, "displaced 2"): 5.0}},
        {"ends": {(2, "differences 2"): 5.0}},
        {"verdicts": {(2, figure3.TAYLOR): "holds"}},
        {"arrays": {f"{ROLES.cases[0].key}/jump": np.asarray(0.9)}},
        {"arrays": {f"{ROLES.cases[2].key}/outside": np.array([8, 0, 20])}},
    ],
)
def test_evidence_of_figure_3_can_fail(changes):
    assert all(row.holds for row in figure3.evidence(invented(), ROLES))
    assert sum(not row.holds for row in figure3.evidence(invented(**changes), ROLES)) == 1


def test_the_caption_of_figure_3_says_which_helps_and_which_fails():
    text = figure3.caption(invented(), ROLES)
    helps, fails = text.split("where it fails")
    assert "(a) second order 0.5" in helps
    assert "(b) second order 0.5" in helps
    assert "(c) second order 50, inertial 0.001" in fails


def images(name):
    """MNIST, or made-up images in its place: as many as are used, and one more."""
    if name == "made up":
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (61, 4, 4), dtype=np.uint8)
        return SimpleNamespace(train_images=pixels, train_labels=rng.integers(0, 10, 61))
    try:
        return load("mnist")
    except ValueError as error:
        pytest.skip(f"shadowflow data get mnist: {error}")


@pytest.mark.parametrize("name", ["made up", pytest.param("mnist", marks=pytest.mark.slow)])
def test_figure_3_by_hand(name, monkeypatch):
    """Adam by optax, the first-order iteration by its formula, one-line gradients, 60 images.

    A settled start remembers other gradients, so its first step is another one. What progress is
    told is positive and adds up, also beyond one compiled stretch of the run.
    """
    monkeypatch.setattr(figure3, "SETTLED_ORDER", 2)
    for lines in ("LINES", "COLLOCATION"):
        monkeypatch.setattr(figure3, lines, {figure3.FIRST: figure3.LINES[figure3.FIRST]})
    mnist, epochs = images(name), 70
    size = mnist.train_images[0].size
    case, settled = (AdamCase(1e-3, 0.95, 1e-6, settled=word) for word in (False, True))
    settings = figure3.PerceptronRuns(
        images=60, sizes=(size, 3, 10), epochs=epochs, cases=(case, settled)
    )
    done, starts = [], []

    def noted(function):
        def call(*run, start, **options):
            starts.append(start)
            return function(*run, start=start, **options)

        return call

    for function in ("iterate", "shadows_along"):
        monkeypatch.setattr(figure3, function, noted(getattr(figure3, function)))
    bar = SimpleNamespace(update=done.append)
    found = figure3.compute(settings, {"mnist": mnist}, bar)
    assert starts[:2] == [0, 0] and starts[2] is starts[3] and starts[2] != 0
    assert sum(done) == bar.total and min(done) > 0
    assert abs(found[f"{settled.key}/moved"][1] - found[f"{case.key}/moved"][1]) > 1e-7
    _, start = figure3.problem_of(settings, {"mnist": mnist})
    pixels = jnp.asarray(mnist.train_images[:60].reshape(60, size) / 255)
    labels = jnp.asarray(mnist.train_labels[:60])
    grad = jax.grad(lambda params: cross_entropy(mlp_apply(params, pixels), labels))
    tx = optax.adam(case.rate, 0.9, case.b2, eps=0.0, eps_root=case.eps_root)
    largest = lambda a, b: jnp.stack(
        jax.tree.leaves(jax.tree.map(lambda x, y: jnp.abs(x - y).max(), a, b))
    ).max()

    def step(carry, _):
        real, state, memoryless = carry
        updates, state = tx.update(grad(real), state)
        real = optax.apply_updates(real, updates)
        memoryless = jax.tree.map(
            lambda x, g: x - case.rate * g / jnp.sqrt(g**2 + case.eps_root),
            memoryless,
            grad(memoryless),
        )
        return (real, state, memoryless), largest(real, memoryless)

    with jax.numpy_dtype_promotion("standard"):
        begin = start, tx.init(start), start
        (real, _, _), gaps = jax.lax.scan(step, begin, None, length=epochs)
    np.testing.assert_allclose(
        found[f"{case.key}/{figure3.FIRST}/distance"], [0, *gaps], rtol=1e-6, atol=1e-14
    )
    assert found[f"{case.key}/moved"][-1] == pytest.approx(float(largest(real, start)), rel=1e-9)
    assert found[f"{case.key}/jump"] < 0.01 and found[f"{case.key}/derivatives"].shape == (4,)
    away, lost, still = found[f"{case.key}/outside"]
    assert 0 <= away < epochs and 0 < lost + still <= sum(map(np.size, jax.tree.leaves(start)))
    assert still == np.sum(np.all(pixels == 0, axis=0)) * 3
    losses = [float(cross_entropy(mlp_apply(x, pixels), labels)) for x in (start, real)]
    np.testing.assert_allclose(found[f"{case.key}/loss"], losses, rtol=1e-9)


def test_what_is_drawn_is_in_the_arrays(potentials, bilinear, tmp_path):
    """Drawing needs nothing but arrays, twice gives the same file, and embeds real fonts."""
    for module, arrays, settings in (
        (figure1, potentials, SMALL),
        (figure2, bilinear, SHORT),
        (figure3, invented(), ROLES),
    ):
        folders = [tmp_path / f"{module.__name__}-{index}" for index in range(2)]
        with style.styled():
            for folder in folders:
                style.save(module.draw(arrays, settings), folder)
        for name in ("figure.png", "figure.pdf"):
            first, second = (folder.joinpath(name).read_bytes() for folder in folders)
            assert first == second
        assert b"/Type3" not in folders[0].joinpath("figure.pdf").read_bytes()
