"""Laws of Moment and Optimizer: pytrees of leaves, stable states, dtypes, limits."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import ROWS

from shadowflow.optimizers import zoo
from shadowflow.optimizers.base import State, rate_at, traced
from shadowflow.optimizers.moments import (
    Moment,
    Optimizer,
    decay_power,
    identity,
    safe_sqrt,
    square,
)
from shadowflow.trees import cast

PLACE, GRADS = jnp.asarray([0.5, -1.0, 2.0]), jnp.asarray([[0.4, -0.2, 0.03], [-1.5, 0.4, -0.01]])


def moved(optimizer, grads=GRADS):
    """The last of the steps taken under given gradients."""
    state, move = optimizer.init(PLACE), None
    for grad in grads:
        state, move = optimizer.update(state, grad, PLACE, 0.1)
    return move


# --- an optimizer is a pytree whose numbers are data


def test_its_numbers_are_leaves():
    assert jax.tree.leaves(
        zoo.adamw(b1=0.8, b2=0.95, eps=1e-3, eps_root=1e-4, weight_decay=0.3)
    ) == [0.8, 0.95, 1e-3, 1e-4, 0.3]
    assert jax.tree.leaves(zoo.adam(b1=0.5, b2=0.7, eps=1e-3)) == [0.5, 0.7, 1e-3, 0.0]
    assert jax.tree.leaves(Moment(0.25, square)) == [0.25]


@pytest.mark.parametrize("compile_it", [jax.jit, eqx.filter_jit])
def test_an_optimizer_may_be_an_argument_of_a_compiled_function(compile_it):
    optimizer = zoo.nadam(b1=0.8, b2=0.95, eps=1e-3)
    np.testing.assert_allclose(compile_it(moved)(optimizer), moved(optimizer), rtol=1e-13)


def test_other_values_are_not_compiled_again():
    traces = []

    @jax.jit
    def compiled(optimizer):
        traces.append(1)
        return moved(optimizer)

    first = compiled(zoo.adam(b1=0.8, b2=0.95, eps=1e-3))
    second = compiled(zoo.adam(b1=0.5, b2=0.7, eps=1e-1, eps_root=1e-2))
    assert len(traces) == 1
    np.testing.assert_allclose(
        second, moved(zoo.adam(b1=0.5, b2=0.7, eps=1e-1, eps_root=1e-2)), rtol=1e-13
    )
    assert np.max(np.abs(first - second)) > 1e-3
    compiled(zoo.adam(b1=0.8, b2=0.95, eps=1e-3, bias_correction=False))
    assert len(traces) == 2, "another function is compiled, so that the count is a count"


def test_traced_turns_numbers_into_arrays_and_nothing_else():
    optimizer = traced(zoo.adam(b1=0.8, b2=0.95))
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(optimizer))
    assert jax.tree.structure(optimizer) == jax.tree.structure(zoo.adam(b1=0.8, b2=0.95))
    np.testing.assert_array_equal(moved(optimizer), moved(zoo.adam(b1=0.8, b2=0.95)))


def test_vmap_over_the_hyper_parameters_is_a_loop_over_them():
    settings = [(0.5, 0.7, 1e-2), (0.8, 0.9, 1e-3), (0.0, 0.95, 1e-1)]
    batched = jax.vmap(lambda b1, b2, eps: moved(zoo.adam(b1=b1, b2=b2, eps=eps)))
    found = batched(*(jnp.asarray(column) for column in zip(*settings, strict=True)))
    expected = [moved(zoo.adam(b1=b1, b2=b2, eps=eps)) for b1, b2, eps in settings]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.min(np.ptp(found, axis=0)) > 1e-3


@pytest.mark.parametrize("build", [zoo.adam, zoo.nadam, zoo.lion, zoo.nesterov, zoo.rmsprop])
def test_derivatives_in_the_hyper_parameters_are_difference_quotients(build):
    options = {
        zoo.lion: {"b1": 0.5, "b2": 0.7, "eps_root": 0.02},
        zoo.nesterov: {"decay": 0.6},
        zoo.rmsprop: {"decay": 0.7, "eps": 0.1, "eps_root": 0.02},
    }.get(build, {"b1": 0.5, "b2": 0.7, "eps": 0.1, "eps_root": 0.02})
    size = jax.jit(lambda options: jnp.sum(moved(build(**options)) ** 2))
    slopes, step = jax.jit(jax.grad(size))(options), 1e-6
    for name, value in options.items():
        above, below = (size({**options, name: value + sign * step}) for sign in (1, -1))
        assert abs(slopes[name]) > 1e-7, f"{name} moves nothing"
        np.testing.assert_allclose(slopes[name], (above - below) / (2 * step), rtol=1e-5)


def test_a_traced_zero_decay_keeps_a_state_and_changes_nothing():
    known, hidden = zoo.adam(b1=0.0, b2=0.7), zoo.adam(b1=jnp.asarray(0.0), b2=0.7)
    assert known.init(PLACE).moments[0] is None and hidden.init(PLACE).moments[0] is not None
    np.testing.assert_allclose(moved(hidden), moved(known), rtol=1e-14)


# --- one's own optimizer


def steepest(moments, params, step):
    """An optimizer that is not in the zoo: it reads two averages, θ and the step."""
    slow, fast = moments
    return (2 * fast - slow) / (1 + jnp.abs(params)) + 0.01 * step


class Steepest(eqx.Module):
    """The same with a number of its own."""

    drift: float | jax.Array

    def __call__(self, moments, params, step):
        slow, fast = moments
        return (2 * fast - slow) / (1 + jnp.abs(params)) + cast(self.drift, params) * step


TWO = [Moment(0.9, bias_correction=True), Moment(0.5, lambda g: g**3)]


def test_a_plain_function_and_a_module_are_the_direction_written_by_hand():
    by_function, by_module = Optimizer(TWO, steepest), Optimizer(TWO, Steepest(0.01))
    g, h = np.asarray(GRADS)
    slow = (0.1 * 0.9 * g + 0.1 * h) / (1 - 0.9**2)
    fast = 0.5 * 0.5 * g**3 + 0.5 * h**3
    expected = -0.1 * ((2 * fast - slow) / (1 + np.abs(np.asarray(PLACE))) + 0.01 * 1)
    np.testing.assert_allclose(moved(by_function), expected, rtol=1e-13)
    np.testing.assert_allclose(moved(by_module), expected, rtol=1e-13)
    assert not by_function.time_invariant() and by_function.reads_params


def test_a_number_of_ones_own_is_data_too():
    drifts = jnp.asarray([0.01, 0.2])
    found = jax.jit(jax.vmap(lambda drift: moved(Optimizer(TWO, Steepest(drift)))))(drifts)
    expected = [moved(Optimizer(TWO, Steepest(float(drift)))) for drift in drifts]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    assert np.all(np.abs(found[0] - found[1]) > 0.01)


def test_the_state_is_what_the_moments_remember():
    optimizer = Optimizer([Moment(0.5), Moment(0), Moment(0.75, square)], lambda m, p, s: m[0])
    state = optimizer.init(PLACE)
    for grad in GRADS:
        state, _ = optimizer.update(state, grad, PLACE, 0.1)
    g, h = np.asarray(GRADS)
    assert float(state.step) == 2.0 and state.moments[1] is None
    np.testing.assert_allclose(state.moments[0], 0.25 * g + 0.5 * h, rtol=1e-15)
    np.testing.assert_allclose(state.moments[2], 0.1875 * g**2 + 0.25 * h**2, rtol=1e-15)


# --- structure and dtypes

DTYPES = {
    "float64": ("float64", "float64"),
    "float32": ("float32", "float32"),
    "bfloat16": ("bfloat16", "bfloat16"),
    "mixed": ("float32", "float64"),
}


@pytest.mark.parametrize("dtypes", DTYPES.values(), ids=DTYPES)
@pytest.mark.parametrize("row", ROWS)
def test_an_update_keeps_the_structure_and_the_dtypes(row, dtypes):
    """A state that a scan can carry, also for float32 parameters where the default is float64."""
    optimizer = ROWS[row]()
    params = {"a": jnp.ones((2, 3), dtypes[0]), "b": [jnp.ones((), dtypes[1])]}
    state = optimizer.init(params)
    update = lambda state: optimizer.update(state, params, params, 0.1)
    after, move = jax.eval_shape(update, state)
    of = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, str(leaf.dtype)), tree)
    assert of(after) == of(state)
    assert of(move) == of(params)
    assert all(of(moment) == of(params) for moment in state.moments if moment is not None)


def test_float32_parameters_are_moved_by_float32_arithmetic():
    """Not computed in float64 and rounded at the end: of thirty coordinates some would show it."""
    optimizer, grads = zoo.adam(b1=0.8, b2=0.95), jnp.sin(jnp.arange(1.0, 91.0)).reshape(3, 30)
    moves = {}
    for dtype in ("float32", "float64"):
        place = jnp.ones(30, dtype)
        state = optimizer.init(place)
        for grad in grads:
            state, moves[dtype] = optimizer.update(state, grad.astype(dtype), place, 0.1)
    narrow, wide = np.asarray(moves["float32"]), np.asarray(moves["float64"])
    assert narrow.dtype == np.float32 and wide.dtype == np.float64
    np.testing.assert_allclose(narrow, wide, rtol=1e-4)
    assert np.any(narrow != wide.astype(np.float32))


def test_many_steps_under_scan_are_many_steps():
    optimizer = zoo.nadam(b1=0.8, b2=0.95, eps=1e-3)
    grads = jnp.sin(jnp.arange(30.0)).reshape(10, 3)

    def step(state, grad):
        return optimizer.update(state, grad, PLACE, 0.1)

    state, moves = jax.jit(lambda state: jax.lax.scan(step, state, grads))(optimizer.init(PLACE))
    np.testing.assert_allclose(moves[-1], moved(optimizer, grads), rtol=1e-12)
    assert float(state.step) == 10.0


# --- what an optimizer says about itself

UNIFORM = {
    "sgd",
    "momentum-corrected",
    "rmsprop-corrected",
    "adam-inside",
    "adam-outside",
    "adam-both",
    "adamw",
}


@pytest.mark.parametrize("row", ROWS)
def test_uniform_means_that_a_constant_gradient_gives_a_constant_direction(row):
    optimizer, grad = ROWS[row](), GRADS[0]
    state, moves = optimizer.init(PLACE), []
    for _ in range(4):
        state, move = optimizer.update(state, grad, PLACE, 0.1)
        moves.append(np.asarray(move))
    spread = np.max(np.ptp(moves, axis=0) / np.abs(moves[0]))
    assert optimizer.time_invariant() == (spread < 1e-12)
    assert optimizer.time_invariant() == (row in UNIFORM)


@pytest.mark.parametrize("row", ROWS)
def test_only_weight_decay_reads_the_parameters(row):
    optimizer = ROWS[row]()
    moments = tuple(GRADS[0] ** 2 for _ in optimizer.moments)
    here, there = (optimizer.direction(moments, place, jnp.zeros(())) for place in (PLACE, -PLACE))
    assert optimizer.reads_params == bool(np.any(here != there))
    assert optimizer.reads_params == (row == "adamw")


# --- the guarded functions


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_guarded_root_is_the_root_except_for_its_slope_at_zero(dtype):
    x = jnp.asarray([0.0, 1e-30, 0.25, 4.0, np.inf], dtype)
    np.testing.assert_array_equal(safe_sqrt(x), np.sqrt(np.asarray(x)))
    slopes = jax.vmap(jax.grad(safe_sqrt))(x)
    assert slopes.dtype == dtype and float(slopes[0]) == 0.0
    np.testing.assert_allclose(slopes[1:], 0.5 / np.sqrt(np.asarray(x[1:])), rtol=1e-6)
    forward = jax.jvp(safe_sqrt, (x,), (jnp.ones_like(x),))[1]
    np.testing.assert_array_equal(forward, slopes)
    assert float(jax.grad(jax.grad(safe_sqrt))(jnp.zeros((), dtype))) == 0.0
    assert not np.isfinite(jax.grad(jnp.sqrt)(jnp.zeros((), dtype))), "what is guarded against"


def test_the_guarded_root_does_not_hide_what_is_wrong():
    assert np.all(np.isnan(safe_sqrt(jnp.asarray([np.nan, -1.0, -1e-300]))))
    assert np.isnan(jax.grad(safe_sqrt)(jnp.nan))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_powers_of_a_decay_and_their_limit(decay):
    decay = jnp.asarray(decay)
    powers = [float(decay_power(decay, jnp.asarray(float(n)))) for n in (0, 1, 2, 30)]
    np.testing.assert_allclose(powers, [float(decay) ** n for n in (0, 1, 2, 30)], rtol=1e-12)
    assert float(decay_power(decay, jnp.inf)) == 0.0
    assert float(jax.grad(decay_power)(decay, jnp.inf)) == 0.0
    slopes = [float(jax.grad(decay_power)(decay, jnp.asarray(float(n)))) for n in (1, 2, 3)]
    np.testing.assert_allclose(slopes, [n * float(decay) ** (n - 1) for n in (1, 2, 3)], rtol=1e-12)


def test_a_settled_state_reads_the_moments_as_they_are():
    """At n = ∞ there is nothing to correct, and the step number stays ∞."""
    optimizer = zoo.adam(b1=0.8, b2=0.95, eps=0.0)
    settled = State((GRADS[0], GRADS[0] ** 2), jnp.asarray(jnp.inf))
    state, move = optimizer.update(settled, GRADS[0], PLACE, 0.1)
    np.testing.assert_allclose(move, -0.1 * np.sign(GRADS[0]), rtol=1e-12)
    assert np.isinf(state.step)


def test_a_rate_is_a_number_or_a_schedule_of_whole_steps():
    assert float(rate_at(0.25, 7)) == 0.25
    assert float(rate_at(lambda n: 1 / (1 + n), 3)) == 0.25
    seen = []
    rate_at(lambda n: seen.append(n.dtype) or 0.5, jnp.asarray(2.0))
    assert np.issubdtype(seen[0], np.integer)


def test_pointwise_transforms():
    x = jnp.asarray([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(identity(x), x)
    np.testing.assert_array_equal(square(x), [4.0, 0.0, 9.0])


@pytest.mark.parametrize(
    "moment, told",
    [
        (Moment(0.9, name="mu"), "Moment(mu 0.9, uncorrected)"),
        (Moment(0.99, square, True, name="nu"), "Moment(nu 0.99)"),
        (Moment(0.0), "Moment(present gradient)"),
    ],
)
def test_a_moment_is_told_in_one_line(moment, told):
    assert repr(moment) == told
    assert told.removeprefix("Moment(")[:-1] in repr(Optimizer([moment], lambda m, p, n: m[0]))
