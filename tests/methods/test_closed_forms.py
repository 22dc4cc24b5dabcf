"""Fields and memoryless steps against formulas written out with dense Hessians and loops."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
import scipy.linalg
from support.rows import fast
from table import (
    EPS,
    MEMORYLESS,
    PLACE,
    PLACES,
    REPRESENTATIVE,
    ROWS,
    SMOOTH,
    every_answer,
    smooth_loss,
)

from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Moment, Optimizer
from shadowflow.problem import Problem
from shadowflow.shadow import shadow

SURFACE = oracles.landscape(smooth_loss)
STEPS = (0, 1, 2, 5, 30)
RATE = 0.02
SCHEDULED = ("momentum", "adam-both", "nadam")
PAST = [row for row in ROWS if row != "sgd"]


def schedule(step):
    """A learning rate that changes by a large part from step to step."""
    return RATE / (1.0 + 0.3 * jnp.asarray(step, float))


def rates(step):
    return float(schedule(step))


def constant(step):
    return RATE


@functools.cache
def answers(build, options, step, scheduled=False):
    rate = schedule if scheduled else RATE
    return every_answer(SMOOTH, build(**dict(options)), rate, step, PLACES)


def library(row: str, step, scheduled=False) -> dict:
    build, options = ROWS[row]
    return answers(build, tuple(options.items()), step, scheduled)


def adam_field(**options):
    """The settled field of Adam, Taylor, second order."""
    return answers(zoo.adam, tuple(options.items()), "settled")["taylor", "flow", 2]


def agree(actual, expected, rtol=1e-11):
    """Equal to rounding, and not bit for bit, or a path would be compared with itself."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
    assert not np.array_equal(actual, expected)


def taylor(row, steps=STEPS, scheduled=False):
    """Fields and moves of second order of a row at several steps, at all places."""
    found = [library(row, n, scheduled) for n in steps]
    return [[f["taylor", kind, 2] for f in found] for kind in ("flow", "iteration")]


def everywhere(function, steps=STEPS):
    """function(place, step) → (field, move), as arrays [step, place, coordinate]."""
    pairs = [[function(place, n) for place in PLACES] for n in steps]
    return [np.array([[pair[i] for pair in at] for at in pairs]) for i in (0, 1)]


@pytest.mark.parametrize("place", EPS)
@pytest.mark.parametrize("name", ["adam", "rmsprop", "rmsprop-corrected"])
def test_the_paper_s_four_theorems_at_every_step(name, place):
    if name == "rmsprop-corrected":
        row, decays = name, {"b1": 0.0, "b2": 0.7}
        place = "inside"
    elif name == "rmsprop":
        row, decays = f"{name}-{place}", {"b1": 0.0, "b2": 0.7, "correct_square": False}
    else:
        row, decays = f"{name}-{place}", {"b1": 0.5, "b2": 0.7}
    fields, moves = everywhere(
        lambda x, n: oracles.theorem([SURFACE] * (n + 1), x, RATE, n, **decays, **EPS[place])
    )
    ours = taylor(row)
    agree(ours[0], fields)
    agree(ours[1], moves)


@pytest.mark.parametrize(
    ("row", "scheduled"),
    fast(
        [(row, False) for row in REPRESENTATIVE] + [(row, True) for row in SCHEDULED],
        [(row, False) for row in PAST] + [(row, True) for row in SCHEDULED],
    ),
)
def test_double_sums_over_past_steps_for_every_optimizer(row, scheduled):
    formula = oracles.formula(row, ROWS[row].options)
    rule = rates if scheduled else constant
    fields, moves = everywhere(lambda x, n: oracles.direct_sums(formula, SURFACE, x, rule, n))
    ours = taylor(row, scheduled=scheduled)
    agree(ours[0], fields)
    agree(ours[1], moves)


def test_gradient_descent_has_no_memory_and_half_a_step_of_curvature():
    for n in (0, 5, "settled"):
        found = library("sgd", n)
        g = np.array([SURFACE.gradient(x) for x in PLACES])
        matrices = [np.eye(3) + RATE / 2 * SURFACE.hessian(x) for x in PLACES]
        agree(found["taylor", "flow", 2], -np.einsum("nij,nj->ni", matrices, g))
        for method in MEMORYLESS:
            np.testing.assert_allclose(found[method, "iteration", 2], -RATE * g, rtol=1e-14)


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, PAST))
def test_one_line_formula_for_every_settled_optimizer(row):
    formula = oracles.formula(row, ROWS[row].options)
    expected = [oracles.one_line(formula, SURFACE, x, RATE) for x in PLACES]
    agree(library(row, "settled")["taylor", "flow", 2], expected)


@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize(("b1", "b2"), [(0.5, 0.7), (0.9, 0.999), (0.99, 0.9)])
def test_the_paper_s_equation_3_at_real_decays(inside, b1, b2):
    eps = {"eps": 0.0, "eps_root": 1e-3} if inside else {"eps": 1e-3, "eps_root": 0.0}
    expected = [oracles.settled_adam(SURFACE, x, RATE, b1, b2, 1e-3, inside) for x in PLACES]
    agree(adam_field(b1=b1, b2=b2, **eps), expected)


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_first_order_is_the_direction_of_an_eternal_gradient(row):
    formula = oracles.formula(row, ROWS[row].options)
    for n in (0, 5, np.inf):
        expected = np.array(
            [
                -formula.combine(oracles.averages(formula, SURFACE.gradient(x), n), np.array(x), n)
                for x in PLACES
            ]
        )
        found = library(row, "settled" if n == np.inf else n)
        np.testing.assert_allclose(found["taylor", "flow", 1], expected, rtol=1e-12)
        np.testing.assert_allclose(found["taylor", "iteration", 1], RATE * expected, rtol=1e-12)
        assert np.abs(found["taylor", "flow", 2] - expected).max() > 1e-3


@pytest.mark.parametrize("method", MEMORYLESS)
@pytest.mark.parametrize("row", ["adam-both", "rmsprop-outside"])
def test_first_order_is_the_same_in_every_method(row, method):
    field = modified_field(SMOOTH, ROWS[row](), RATE, order=1, method=method)(3, PLACE)
    np.testing.assert_allclose(field, library(row, 3)["taylor", "flow", 1][0], rtol=1e-13)


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_far_into_a_run_the_memory_is_settled(row):
    """To rounding. (The secants of an uncorrected optimizer end at other places of a like error:
    both differ from Taylor at second order only, as asserted below.)"""
    late, settled = library(row, 400), library(row, "settled")
    corrected = all(moment[3] for moment in oracles.formula(row, ROWS[row].options).moments)
    for case, value in settled.items():
        if corrected or case[0] != "displaced":
            np.testing.assert_allclose(late[case], value, rtol=1e-11, err_msg=str(case))


@pytest.mark.parametrize("row", ["adam-both", "adam-uncorrected"])
def test_leaving_out_faded_weights_changes_nothing(row):
    """Decays known as numbers shorten the sums to the steps that still weigh something."""
    plain = modified_field(SMOOTH, ROWS[row](), RATE, method="taylor")(400, PLACE)
    np.testing.assert_allclose(plain, library(row, 400)["taylor", "flow", 2][0], rtol=1e-12)


@pytest.mark.parametrize(
    ("row", "scheduled"),
    [("adam-both", False), ("adam-both", True), ("nadam", True), ("rmsprop-outside", False)],
)
def test_a_plain_step_number_gives_what_a_traced_one_gives(row, scheduled):
    rate = schedule if scheduled else RATE
    for n in (0, 3):
        for (method, kind, order), values in library(row, n, scheduled).items():
            build = modified_field if kind == "flow" else memoryless_step
            plain = build(SMOOTH, ROWS[row](), rate, order=order, method=method)(n, PLACE)
            np.testing.assert_allclose(plain, values[0], rtol=1e-12)


def test_the_mean_age_shortcut_is_wrong_without_bias_correction():
    """Off by a large part at step 5, where the double sums are right."""
    decay, n = 0.6, 5
    age = decay / (1 - decay) - (n + 1) * decay ** (n + 1) / (1 - decay ** (n + 1))
    total = (1 - decay ** (n + 1)) / (1 - decay)
    first, second = (library("momentum", n)["taylor", "iteration", order] for order in (1, 2))
    correction = np.asarray(first - second)
    bent = RATE**2 * np.array([SURFACE.hessian(x) @ SURFACE.gradient(x) for x in PLACES])
    shortcut = total**2 * age * bent  # every F_l taken as F_n
    assert np.all(np.abs(shortcut / correction - 1) > 0.1)
    summed = sum(
        decay ** (n - k) * (1 - decay ** (l + 1)) / (1 - decay)
        for k in range(n + 1)
        for l in range(k, n)
    )
    np.testing.assert_allclose(correction, summed * bent, rtol=1e-10)


@pytest.mark.parametrize("row", ["adam-inside", "rmsprop-corrected"])
def test_the_mean_age_shortcut_is_exact_with_bias_correction(row):
    options, n = ROWS[row].options, 5

    def age(decay):
        return 0 if decay == 0 else decay / (1 - decay) - (n + 1) / (decay ** -(n + 1) - 1)

    first, second = age(options.get("b1", 0)), age(options.get("b2", options.get("decay")))
    expected = []
    for x in PLACES:
        g = SURFACE.gradient(x)
        S = np.sqrt(g**2 + 0.1)
        d = SURFACE.hessian(x) @ (g / S)
        expected.append(-RATE * g / S + RATE**2 * (g * second * g * d / S**3 - first * d / S))
    agree(library(row, n)["taylor", "iteration", 2], expected)


def gradients_of(loss):
    return np.array([jax.grad(loss)(x) for x in PLACES])


def one_norm(x):
    return jnp.sum(jnp.abs(jax.grad(smooth_loss)(x)))


def two_norm(x):
    return jnp.sum(jax.grad(smooth_loss)(x) ** 2)


def test_tiny_eps_descends_the_loss_plus_a_one_norm():
    """Equation (5); with these decays the one-norm is anti-penalized."""
    b1, b2 = 0.9, 0.99
    factor = RATE / 2 * ((1 + b1) / (1 - b1) - (1 + b2) / (1 - b2))
    assert factor < 0
    descent = gradients_of(lambda x: smooth_loss(x) + factor * one_norm(x))
    expected = -descent / np.abs(gradients_of(smooth_loss))
    agree(adam_field(b1=b1, b2=b2, eps=0.0, eps_root=1e-24), expected)


@pytest.mark.parametrize("b2", [0.7, 0.99])
def test_huge_eps_descends_the_loss_plus_a_two_norm_whatever_the_second_decay(b2):
    """Equations (6) and (7); the bias by itself, to the parts of g²/eps that they leave out."""
    b1, eps = 0.9, 1e12
    factor = RATE / (4 * np.sqrt(eps)) * (1 + b1) / (1 - b1)
    field = adam_field(b1=b1, b2=b2, eps=0.0, eps_root=eps)
    bias = np.sqrt(eps) * (np.sqrt(eps) * np.asarray(field) + gradients_of(smooth_loss))
    expected = -np.sqrt(eps) * factor * gradients_of(two_norm)
    np.testing.assert_allclose(bias, expected, rtol=1e-4)


@pytest.mark.parametrize("row", ["sgd", "momentum", "momentum-ema", "nesterov"])
def test_linear_optimizers_penalize_the_two_norm(row):
    b = ROWS[row].options.get("decay", 0.0)
    factor, gain = {
        "sgd": (RATE / 4, 1.0),
        "momentum": (RATE / 4 * (1 + b) / (1 - b) ** 2, 1 / (1 - b)),
        "momentum-ema": (RATE / 4 * (1 + b) / (1 - b), 1.0),
        "nesterov": (RATE / 4 * (b * (1 + b) / (1 - b) + 1 - b) / (1 - b), 1 / (1 - b)),
    }[row]
    descent = gain * gradients_of(lambda x: smooth_loss(x) + factor * two_norm(x))
    agree(library(row, "settled")["taylor", "flow", 2], -descent)


# Quadratic losses, where everything is linear algebra

MATRIX = np.array([[2.0, 0.3, 0.0], [0.3, 1.0, -0.4], [0.0, -0.4, 0.5]])
QUADRATIC = Problem(lambda x: 0.5 * x @ jnp.asarray(MATRIX) @ x)
POINT = np.array([1.0, -2.0, 0.5])


def test_modified_field_of_gradient_descent_on_a_quadratic():
    field = modified_field(QUADRATIC, zoo.sgd(), 0.1, method="taylor")(
        "settled", jnp.asarray(POINT)
    )
    agree(field, -(MATRIX + 0.05 * MATRIX @ MATRIX) @ POINT)


def test_modified_field_of_the_settled_heavy_ball_on_a_quadratic():
    b, h = 0.8, 0.1
    field = modified_field(QUADRATIC, zoo.momentum(decay=b), h, method="taylor")(
        "settled", jnp.asarray(POINT)
    )
    curved = h * (1 + b) / (2 * (1 - b) ** 3) * MATRIX @ MATRIX
    agree(field, -(MATRIX / (1 - b) + curved) @ POINT)


def test_gradient_descent_iterates_by_the_power_of_its_matrix():
    run = iterate(QUADRATIC, zoo.sgd(), jnp.asarray(POINT), 0.1, 40)
    values, vectors = np.linalg.eigh(MATRIX)
    expected = [vectors @ ((1 - 0.1 * values) ** n * (vectors.T @ POINT)) for n in range(41)]
    agree(run.params, expected)


@pytest.mark.parametrize("form", ["trace", "ema"])
@pytest.mark.parametrize("ahead", [False, True])
def test_heavy_ball_and_nesterov_iterates_by_the_power_of_their_matrix(form, ahead):
    b, h, eye = 0.8, 0.1, np.eye(3)
    gain = 1.0 if form == "trace" else 1 - b
    moved = b * np.eye(3), MATRIX  # the trace after the step, of (trace, x)
    look = (b * moved[0], b * moved[1] + MATRIX) if ahead else moved
    step = np.block([[moved[0], moved[1]], [-gain * h * look[0], eye - gain * h * look[1]]])
    build = zoo.nesterov if ahead else zoo.momentum
    run = iterate(QUADRATIC, build(decay=b, form=form), jnp.asarray(POINT), h, 40)
    start = np.concatenate([np.zeros(3), POINT])
    expected = [(np.linalg.matrix_power(step, n) @ start)[3:] for n in range(41)]
    agree(run.params, expected)


@pytest.mark.parametrize(
    ("name", "method"),
    fast(
        [("sgd", "taylor"), ("momentum", "displaced")],
        [(name, method) for name in ("sgd", "momentum") for method in ("taylor", "displaced")],
    ),
)
def test_settled_flow_on_a_quadratic_is_the_matrix_exponential(name, method):
    optimizer, linear = {
        "sgd": (zoo.sgd(), MATRIX + 0.05 / 2 * MATRIX @ MATRIX),
        "momentum": (
            zoo.momentum(decay=0.5),
            2 * MATRIX + 0.05 * 1.5 / (2 * 0.5**3) * MATRIX @ MATRIX,
        ),
    }[name]
    run = shadow(
        QUADRATIC,
        optimizer,
        jnp.asarray(POINT),
        0.05,
        60,
        start="settled",
        method=method,
        check=False,
    )
    expected = [scipy.linalg.expm(-0.05 * n * linear) @ POINT for n in range(61)]
    agree(run.params, expected)
    wrong = [scipy.linalg.expm(-0.05 * n * MATRIX) @ POINT for n in range(61)]
    assert np.abs(run.params - np.array(wrong)).max() > 1e-3


# Displaced gradients: averages over every age by themselves

UNIFORM = (
    "momentum-corrected",
    "rmsprop-corrected",
    "adam-inside",
    "adam-outside",
    "adam-both",
    "adamw",
)


@pytest.mark.parametrize(
    ("row", "scheduled"),
    [(row, False) for row in UNIFORM] + [(row, True) for row in UNIFORM if row in SCHEDULED],
)
@pytest.mark.parametrize("method", ["displaced", "linearized"])
def test_displaced_gradients_average_over_every_age(row, method, scheduled):
    formula = oracles.formula(row, ROWS[row].options)
    rule, linearized = rates if scheduled else constant, method == "linearized"

    def both(x, n):
        line = lambda phase: oracles.line(formula, SURFACE, x, rule, n, phase, linearized)
        return -line(0.5), -rule(n) * line(0.0)

    fields, moves = everywhere(both)
    agree([library(row, n, scheduled)[method, "flow", 2] for n in STEPS], fields)
    agree([library(row, n, scheduled)[method, "iteration", 2] for n in STEPS], moves)


def test_weight_decay_is_read_half_a_step_back_while_weights_rise_too():
    """Of a constant slope c: F = W_1 c / (√(W_2 c²) + eps) + λθ, and the same at θ + (h/2) F."""
    c, x, h, n = np.array([0.6, -1.1]), np.array([0.9, 0.4]), 0.1, 3
    adamw = zoo.adamw(b1=0.5, b2=0.7, eps=0.1, weight_decay=0.3, bias_correction=False)
    sloped = Problem(lambda x: jnp.sum(jnp.asarray(c) * x))
    ratio = (1 - 0.5**4) * c / (np.sqrt((1 - 0.7**4) * c**2) + 0.1)
    field = modified_field(sloped, adamw, h, method="displaced")(n, jnp.asarray(x))
    expected = -ratio - 0.3 * (x + h / 2 * (ratio + 0.3 * x))
    np.testing.assert_allclose(field, expected, rtol=1e-12)


@pytest.mark.parametrize("power", [3, 4])
@pytest.mark.parametrize("step", [4, "settled"])
def test_two_nodes_average_cubic_transforms_exactly_and_no_more(power, step):
    """The rule of ages is exact up to the third power; the fourth is the negative control."""
    b1, b2, n = 0.5, 0.8, 200 if step == "settled" else step
    optimizer = Optimizer(
        [Moment(b1, bias_correction=True), Moment(b2, lambda g: g**power, bias_correction=True)],
        lambda moments, params, step: moments[0] / (1 + moments[1] ** 2),
    )
    powers = (b2, lambda g: g**power, lambda g: power * g ** (power - 1), True)
    formula = oracles.Formula(
        [oracles.plain(b1, True), powers], lambda m, x, n: m[0] / (1 + m[1] ** 2), None
    )
    ours = modified_field(SMOOTH, optimizer, 0.05, method="displaced")(step, PLACE)
    expected = -oracles.line(formula, SURFACE, PLACE, lambda step: 0.05, n, 0.5)
    gap = np.abs(ours - expected).max() / np.abs(expected).max()
    assert gap < 1e-12 if power == 3 else gap > 1e-8


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, PAST))
@pytest.mark.parametrize("step", [0, 5, 400, "settled"])
def test_displaced_and_taylor_fields_differ_at_second_order_only(row, step):
    """Halving the learning rate divides the difference by four."""
    found = [every_answer(SMOOTH, ROWS[row](), rate, step, PLACES) for rate in (4e-5, 2e-5)]
    for method in ("displaced", "linearized"):
        for kind in ("flow", "iteration"):
            gaps = [
                np.abs(answer[method, kind, 2] - answer["taylor", kind, 2]).max() / scale
                for answer, scale in zip(
                    found, (1, 1) if kind == "flow" else (4e-5, 2e-5), strict=True
                )
            ]
            if must_be_equal(row, method, kind, step):
                assert gaps[0] < 1e-13
            else:
                assert abs(gaps[0] / gaps[1] - 4) < 0.2, (method, kind, gaps)


def must_be_equal(row, method, kind, step):
    """The line bends nothing for a linear optimizer, and at step 0 there is no past."""
    linear = row.startswith(("momentum", "nesterov"))
    return (linear and method == "linearized") or (kind == "iteration" and step == 0)


def test_secants_differ_from_taylor_visibly_at_a_large_rate():
    found = library("adam-inside", "settled")
    gaps = found["displaced", "flow", 2] - found["taylor", "flow", 2]
    assert np.abs(gaps).max() > 1e-3


def test_the_transform_of_a_moment_matters_in_the_sums():
    """A control of the oracle itself: the second moment without its square is another field."""
    formula = oracles.formula("adam-inside", ROWS["adam-inside"].options)
    wrong = formula._replace(moments=[formula.moments[0], (0.7, np.abs, np.sign, True)])
    right, other = (
        oracles.direct_sums(f, SURFACE, PLACE, constant, 5)[0] for f in (formula, wrong)
    )
    assert np.abs(other - right).max() > 1e-2
