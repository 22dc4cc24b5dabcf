"""Collocation has the order it is asked for, against exact roots, dense tensors and the runs."""

from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.collocated import directions, distance, followed, settled
from support.rows import fast
from table import (
    BILINEAR,
    BILINEAR_START,
    PLACE,
    REPRESENTATIVE,
    ROWS,
    SMOOTH,
    smooth_loss,
    with_leaves,
)

from shadowflow import trees
from shadowflow.fields import modified_field
from shadowflow.iterate import iterate
from shadowflow.methods import collocation, displaced, nodes
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem
from shadowflow.shadow import shadow

RATES = 2.0 ** -np.arange(10, 14)  # about 1e-3 to 1e-4
BUMPY = Problem(smooth_loss)  # SMOOTH for any dtype


def slope(errors) -> float:
    """The mean order over the halvings of the learning rate."""
    assert min(errors) > 1e-14, errors
    return float(np.log2(errors[0] / errors[-1]) / (len(errors) - 1))


def has_order(errors, order) -> bool:
    return abs(slope(errors) - order) < 0.2


def orders_hold(errors: dict) -> bool:
    """Whether the errors of each order have it, and those of the order below have not."""
    print({order: (slope(found), found) for order, found in errors.items()})
    below = [order for order in errors if order - 1 in errors]
    return all(has_order(found, order) for order, found in errors.items()) and not any(
        has_order(errors[order - 1], order) for order in below
    )


def field(problem, optimizer, rate, params, order, **options):
    return trees.scale(-1, directions(problem, optimizer, rate, params, order, **options)[1])


# The matrices of a rule


@pytest.mark.parametrize("decay", [0.0, 0.01, 0.5, 0.9, 0.99])
def test_the_ages_average_polynomials_as_the_memory_does(decay):
    k = np.arange(int(150 / (1 - decay)))
    weights = (1 - decay) * decay**k
    for count in range(1, 7):
        ages, mass = nodes.geometric_rule(decay, count)
        assert np.all(mass > 0) and np.all(ages > -1e-12)
        dense = [float(weights @ k.astype(float) ** p) for p in range(2 * count + 1)]
        by_rule = [float(mass @ ages**p) for p in range(2 * count + 1)]
        assert np.allclose(by_rule[:-1], dense[:-1], rtol=1e-11, atol=0)
        assert decay == 0 or abs(by_rule[-1] / dense[-1] - 1) > 1e-9, "one degree more must fail"


@pytest.mark.parametrize("spacing", [1, 9, 999])
@pytest.mark.parametrize("order", [1, 2, 3, 6, 9])
def test_places_slope_and_shift_are_those_of_the_path_that_makes_the_steps(order, spacing):
    """In exact arithmetic."""
    made = nodes.rule(zoo.sgd(), order, spacing)
    factors = [Fraction((-1) ** a, a + 2) for a in range(1, order + 1)]
    path = lambda s: sum(c * s**a for a, c in enumerate(factors, 1))
    step = lambda s: path(s + 1) - path(s)
    places = [Fraction(-spacing * j) for j in range(order)]
    array = lambda values: jnp.asarray([float(v) for v in values])
    steps = array(map(step, places))
    scale = float(jnp.abs(steps).max())
    off = lambda matrix, wanted: np.abs(nodes.weighted(matrix, steps) - wanted).max()
    assert off(made.shift, array(step(s + 1) for s in places)) < 1e-12 * scale
    assert off(made.slope, float(factors[0])) < 1e-12 * scale
    assert off(made.places, array(map(path, places))) < 1e-11 * scale * order * spacing


def amplification(decay, order, spacing) -> float:
    """By how much the rounding of the gradients grows in the moment at θ, at worst."""
    made = nodes.rule(zoo.momentum(decay=decay), order, spacing)
    rows = np.asarray(made.ages[0][0])
    rows = np.concatenate([rows[:, :1] - rows[:, 1:].sum(axis=1, keepdims=True), rows[:, 1:]], 1)
    return float(np.abs(np.asarray(made.mass[0]) @ rows).sum())


@pytest.mark.parametrize("decay", [0.9, 0.95, 0.99, 0.999])
def test_wide_nodes_do_not_amplify_rounding_and_narrow_ones_do(decay):
    for order in (2, 3, 4, 5, 6):
        assert amplification(decay, order, None) < 4
        assert amplification(decay, order, 1.0) > 10 ** (order - 1)


# Quadratics: the principal root of the characteristic polynomial


def root_less_one(name: str, decay: float, rate: float) -> float:
    """y = z − 1 for E = x²/2, z the root of the characteristic polynomial that is 1 at h = 0.

    With κ = h (1−β) · gain: sgd y = −h; heavy ball y² + (1−β) y + κ (1 + y) = 0; Nesterov
    y² + (1−β) y + κ (1 + (1+β) y) = 0.
    """
    if name == "sgd":
        return -rate
    kappa = rate * (1 - decay) if name == "ema" else rate
    linear = 1 - decay + kappa * (1 + decay if name == "nesterov" else 1)
    return float(-2 * kappa / (linear + np.sqrt(linear**2 - 4 * kappa)))


QUADRATIC = Problem(lambda x: 0.5 * x**2)
LINEAR = {
    "sgd": (zoo.sgd(), 0.08),
    "trace": (zoo.momentum(decay=0.5), 0.02),
    "ema": (zoo.momentum(decay=0.5, form="ema"), 0.04),
    "nesterov": (zoo.nesterov(decay=0.5), 0.02),
}


def root_errors(name: str, order: int, kind: str) -> list:
    optimizer, largest = LINEAR[name]
    rates, x = largest / 2.0 ** np.arange(4 if order < 6 else 3), jnp.asarray(0.7)
    errors = []
    for rate in rates:
        y = root_less_one(name, 0.5, rate)
        exact = (np.log1p(y) if kind == "flow" else y) / rate * 0.7
        own = field(QUADRATIC, optimizer, rate, x, order, phase=0.5 if kind == "flow" else 0.0)
        errors.append(abs(float(own) - exact))
    return errors


@pytest.mark.parametrize("kind", ["flow", "iteration"])
@pytest.mark.parametrize("name", LINEAR)
def test_on_a_quadratic_every_order_approaches_the_principal_root(name, kind):
    if (name, kind) == ("sgd", "iteration"):
        assert all(max(root_errors(name, order, kind)) < 1e-16 for order in (1, 2, 5))
        return
    assert orders_hold({order: root_errors(name, order, kind) for order in range(1, 7)})


# Dense tensors: the third-order equation of heavy ball (arXiv 2509.08483), trace form


@jax.jit
def heavy_ball(rate, b, mixed=10):
    g, H = jax.grad(smooth_loss)(PLACE), jax.hessian(smooth_loss)(PLACE)
    curved = jnp.einsum("ijk,j,k->i", jax.jacfwd(jax.hessian(smooth_loss))(PLACE), g, g)
    second = (1 + b) / (2 * (1 - b) ** 3) * (H @ g)
    third = (1 + 4 * b + b**2) / (3 * (1 - b) ** 5) * (H @ (H @ g))
    third += (1 + mixed * b + b**2) / (12 * (1 - b) ** 5) * curved
    return -g / (1 - b) - rate * second - rate**2 * third


@pytest.mark.parametrize("b", [0.0, 0.3])
def test_order_three_is_the_published_equation_of_heavy_ball(b):
    optimizer = zoo.momentum(decay=b) if b else zoo.sgd()
    off = lambda order, **wrong: [
        distance(field(SMOOTH, optimizer, rate, PLACE, order), heavy_ball(rate, b, **wrong))
        for rate in RATES
    ]
    for order, expected in ((1, 1), (2, 2), (3, 3), (4, 3), (5, 3)):
        assert has_order(off(order), expected), (order, off(order))
    if b:
        wrong = off(4, mixed=5)
        assert not has_order(wrong, 3) and slope(wrong[2:]) < 2.2, "a wrong coefficient must show"


# The zoo on a loss that is not quadratic


@eqx.filter_jit
def taylor_field(optimizer, rate):
    return modified_field(SMOOTH, optimizer, rate, method="taylor")("settled", PLACE)


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_order_two_agrees_with_the_paper_s_second_order(row):
    optimizer = with_leaves(ROWS[row]())
    off = lambda order: [
        distance(field(SMOOTH, optimizer, rate, PLACE, order), taylor_field(optimizer, rate))
        for rate in map(jnp.asarray, RATES)
    ]
    assert has_order(off(2), 2), off(2)
    assert has_order(off(1), 1)


FAST = {"adam-inside", "adamw"}
NONLINEAR = ["adam-inside", "adam-both", "adam-outside", "adamw", "nadam", "rmsprop-inside", "lion"]


@pytest.mark.parametrize(
    "row", [pytest.param(row, marks=[] if row in FAST else [pytest.mark.slow]) for row in NONLINEAR]
)
@pytest.mark.parametrize("phase", [0.0, 0.5])
def test_neighbouring_orders_differ_by_the_error_of_the_lower(row, phase):
    optimizer = ROWS[row]()
    at = lambda rate, order: field(SMOOTH, optimizer, rate, PLACE, order, phase=phase)
    gap = lambda rate, order: distance(at(rate, order), at(rate, order + 1))
    assert orders_hold({order: [gap(rate, order) for rate in RATES] for order in (1, 2, 3, 4)})


def test_the_secant_is_order_two():
    optimizer = with_leaves(ROWS["adam-both"]())
    memory = settled(optimizer, 0.01)
    secant = displaced.DisplacedDirection(SMOOTH, optimizer, 0.0)(memory, PLACE)[1]
    own = directions(SMOOTH, optimizer, 0.01, PLACE, 2, phase=0.0)[1]
    assert 0 < distance(secant, own) < 1e-13


@pytest.mark.parametrize("phase", [0.0, 0.5])
@pytest.mark.parametrize("row", ["adam-both", "adamw", "lion"])
def test_at_rate_zero_every_order_is_the_first(row, phase):
    for order in (1, 2, 4):
        first, chosen = directions(SMOOTH, ROWS[row](), 0.0, PLACE, order, phase)
        assert distance(first, chosen) < 1e-15 and bool(trees.all_finite(chosen))


# Along a run: one sweep a step

HORIZON, COUNTS = 1.0, (128, 256, 512, 1024)


def settled_run(optimizer, order: int, rate: float, count: int):
    """What the optimizer does from moments on the slow manifold."""
    state = collocation.past_state(BILINEAR, optimizer, BILINEAR_START, rate, order)
    return iterate(BILINEAR, optimizer, BILINEAR_START, rate, count, start=state).params


def run_errors(row: str, order: int, **options) -> list:
    optimizer, errors = ROWS[row](), []
    for count in COUNTS:
        rate = HORIZON / count
        real = settled_run(optimizer, order, rate, count)
        follow = followed(optimizer, order, rate, count, **options)
        errors.append(float(np.abs(follow - real).max()))
    return errors


RUNS = [("adam-inside", None), ("adamw", None), ("lion", 1.0), ("rmsprop-both", None)]


@pytest.mark.parametrize(
    ("row", "spacing"),
    [pytest.param(*case, marks=[] if case[0] in FAST else [pytest.mark.slow]) for case in RUNS],
)
def test_one_warm_sweep_a_step_keeps_the_order(row, spacing):
    assert orders_hold({order: run_errors(row, order, spacing=spacing) for order in (1, 2, 3, 4)})


def test_a_path_that_is_not_re_centred_stays_at_order_two():
    assert all(has_order(run_errors("adam-inside", order, shift=False), 2) for order in (3, 4))


def test_a_run_stops_where_the_loss_is_not_finite():
    """Though the gradient is, there and at every node."""
    x, rate = jnp.asarray(1.0), 0.1
    problem = Problem(lambda x: jnp.where(x < 0.7, jnp.inf, 0.5 * x**2), grad=lambda x: x)
    run = shadow(
        problem,
        zoo.momentum(decay=0.0),
        x,
        rate,
        9,
        method="collocation",
        order=3,
        kind="iteration",
        start="settled",
        check=False,
    )
    assert run.failed_at == 4 and np.allclose(run.params, 0.9 ** np.arange(5), rtol=1e-14)


@pytest.mark.slow
@pytest.mark.parametrize("order", [3, 4])
def test_the_flow_has_the_order_over_a_run(order):
    optimizer, errors = ROWS["adamw"](), []
    for count in (64, 128, 256, 512):
        rate = HORIZON / count
        follow = shadow(
            BILINEAR,
            optimizer,
            BILINEAR_START,
            rate,
            count,
            start="settled",
            method="collocation",
            kind="flow",
            order=order,
            check=False,
        )
        real = settled_run(optimizer, order, rate, count)
        errors.append(float(np.abs(follow.params - real).max()))
    assert has_order(errors, order), (slope(errors), errors)


@pytest.mark.parametrize("row", ["adam-inside", "lion"])
def test_the_past_moments_are_those_of_a_long_run(row):
    optimizer = ROWS[row]()
    errors = {order: [] for order in (1, 2, 3, 4)}
    for count in COUNTS:
        run = iterate(BILINEAR, optimizer, BILINEAR_START, HORIZON / count, count)
        last, rate = jnp.asarray(run.last), HORIZON / count
        for order in errors:
            moments = collocation.past_state(BILINEAR, optimizer, last, rate, order).moments
            errors[order].append(distance(moments, run.state.moments))
    assert orders_hold(errors)


# The distance of the nodes


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_distance_of_the_nodes_matters_at_the_order_only(order):
    optimizer = ROWS["adam-both"](b2=0.8)
    assert nodes.default_spacing(optimizer) == pytest.approx(4)
    at = lambda rate, spacing: field(SMOOTH, optimizer, rate, PLACE, order, spacing=spacing)
    errors = [distance(at(rate, None), at(rate, 1.0)) for rate in RATES / 2]
    assert has_order(errors, order), (slope(errors), errors)


def test_wide_nodes_keep_float32_where_narrow_ones_lose_it():
    optimizer = zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-2)
    low = PLACE.astype(jnp.float32)

    def off(order, spacing):
        at = lambda x: field(BUMPY, optimizer, 1e-4, x, order, spacing=spacing)
        return distance(at(low).astype(float), at(low.astype(float)))

    assert all(0 < off(order, None) < 2e-6 for order in (2, 3, 4, 5))
    assert off(3, 1.0) > 100 * off(3, None) and off(5, 1.0) > 1e-2


# Which order


def test_the_best_order_is_high_inside_the_regime_and_one_past_its_edge():
    optimizer = with_leaves(zoo.momentum(decay=0.9, form="ema"))
    ways = collocation.best_of(QUADRATIC, optimizer, 0.5, None)
    x, best = jnp.asarray(1.0), {}
    for rate in (1e-3, 0.01, 0.04, 0.1):  # the flow edge is at 0.026
        memory = settled(optimizer, rate, x)
        found, differences = ways.differences(memory, x)
        assert float(differences[1]) == pytest.approx(abs(float(found[2] - found[1])))
        best[rate] = int(collocation.best_order(differences))
        pair = ways(memory, x)
        assert len(found) == 6 and pair == (found[0], found[best[rate] - 1])
    assert best == {1e-3: 5, 0.01: 5, 0.04: 3, 0.1: 1}
    assert int(collocation.best_order(jnp.asarray([1.0, 0.1, jnp.nan, jnp.nan]))) == 2
    assert int(collocation.best_order(jnp.asarray([jnp.inf, jnp.nan]))) == 1
