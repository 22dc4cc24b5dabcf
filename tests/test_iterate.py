"""The exact iterates: conventions, schedules, resuming, failures, and the settled state."""

import logging

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from table import PLACE, SMOOTH, smooth_loss

from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.base import State, state_from_optax
from shadowflow.problem import Problem
from shadowflow.running import CHUNK_STEPS
from shadowflow.shadow import settled_state

ADAM = zoo.adam(b1=0.8, b2=0.95, eps=1e-2)
slope = jax.jit(jax.grad(smooth_loss))


def by_hand(rates, b1=0.8, b2=0.95, eps=1e-2):
    """Adam as a loop in numpy, with its moments after the last step."""
    path, m, nu = [np.asarray(PLACE)], np.zeros(3), np.zeros(3)
    for n, rate in enumerate(rates):
        g = np.asarray(slope(path[-1]))
        m, nu = b1 * m + (1 - b1) * g, b2 * nu + (1 - b2) * g**2
        root = np.sqrt(nu / (1 - b2 ** (n + 1)))
        path.append(path[-1] - rate * m / (1 - b1 ** (n + 1)) / (root + eps))
    return np.stack(path), (m, nu)


# --- conventions


def test_three_steps_of_momentum_by_mental_arithmetic():
    """θ_0 is the start; a step reads the gradient, updates the moment, then moves."""
    run = iterate(Problem(lambda x: x**2 / 2), zoo.momentum(decay=0.5), jnp.asarray(1.0), 0.1, 3)
    np.testing.assert_allclose(run.params, [1.0, 0.9, 0.76, 0.614], rtol=1e-14)
    np.testing.assert_allclose(run.times, [0.0, 0.1, 0.2, 0.3], rtol=1e-14)
    np.testing.assert_array_equal(run.steps, [0, 1, 2, 3])
    np.testing.assert_allclose(run.state.moments[0], 0.5 * 1.46, rtol=1e-14)
    assert float(run.state.step) == 3.0 and run.failed_at is None
    np.testing.assert_array_equal(run.last, run.params[-1])


@pytest.mark.parametrize("steps", [1, CHUNK_STEPS - 1, CHUNK_STEPS, CHUNK_STEPS + 1, 150])
def test_any_number_of_steps_is_the_loop_by_hand(steps):
    run = iterate(SMOOTH, ADAM, PLACE, 0.02, steps)
    path, (m, nu) = by_hand([0.02] * steps)
    np.testing.assert_allclose(run.params, path, rtol=1e-11)
    np.testing.assert_allclose(run.state.moments[0], m, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(run.state.moments[1], nu, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(run.steps, np.arange(steps + 1))
    assert float(run.state.step) == steps
    if steps == 150:
        assert not np.array_equal(run.params, path), "a compiled scan and numpy round differently"


def test_zero_steps_are_the_start():
    run = iterate(SMOOTH, ADAM, PLACE, 0.02, 0)
    np.testing.assert_array_equal(run.params, PLACE[None])
    assert list(run.steps) == [0] and list(run.times) == [0.0] and run.failed_at is None
    assert float(run.state.step) == 0.0 and not np.any(run.state.moments[0])


SCHEDULES = {
    "optax": optax.exponential_decay(0.05, 10, 0.5),
    "with an if": lambda n: 0.05 if n < 20 else 0.05 / (n - 10),
    "numpy": lambda n: np.linspace(0.01, 0.06, 80)[n],
    "zero at times": lambda n: 0.03 * (n % 3),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_is_read_at_every_step_and_time_is_its_sum(name):
    rates = [float(SCHEDULES[name](n)) for n in range(70)]
    run = iterate(SMOOTH, ADAM, PLACE, SCHEDULES[name], 70)
    np.testing.assert_allclose(run.params, by_hand(rates)[0], rtol=1e-11)
    np.testing.assert_allclose(run.times, [sum(rates[:n]) for n in range(71)], rtol=1e-13)
    constant = iterate(SMOOTH, ADAM, PLACE, rates[1], 70)
    assert np.max(np.abs(constant.params - run.params)) > 1e-2, "the schedule must matter"


@pytest.mark.parametrize("every", [1, 7, 20, 64, 100, 200])
def test_what_is_saved_is_every_so_many_steps_and_the_last(every):
    whole = iterate(SMOOTH, ADAM, PLACE, 0.02, 130)
    run = iterate(SMOOTH, ADAM, PLACE, 0.02, 130, save_every=every)
    expected = sorted({*range(0, 131, every), 130})
    np.testing.assert_array_equal(run.steps, expected)
    np.testing.assert_array_equal(run.params, whole.params[expected])
    np.testing.assert_array_equal(run.times, whole.times[expected])
    jax.tree.map(np.testing.assert_array_equal, run.state, whole.state)


@pytest.mark.parametrize("traceable", [True, False])
def test_progress_adds_up_to_the_steps(traceable):
    problem = Problem(grad=lambda x: x, traceable=traceable)
    told = []
    iterate(problem, zoo.sgd(), jnp.ones(2), 0.01, 150 if traceable else 5, progress=told.append)
    assert sum(told) == (150 if traceable else 5) and len(told) > 1


def test_pytrees_come_back_as_numpy_with_a_leading_axis():
    params = {"a": jnp.ones((2, 3)), "b": [jnp.asarray(0.5, "float32"), jnp.zeros((0,))]}
    run = iterate(Problem(grad=lambda tree: tree), zoo.momentum(decay=0.5), params, 0.1, 4)
    assert jax.tree.structure(run.params) == jax.tree.structure(params)
    for leaf, saved in zip(jax.tree.leaves(params), jax.tree.leaves(run.params), strict=True):
        assert isinstance(saved, np.ndarray)
        assert saved.shape == (5, *leaf.shape) and saved.dtype == leaf.dtype
    np.testing.assert_allclose(run.params["b"][0] * 2, run.params["a"][:, 0, 0], rtol=1e-6)


# --- resuming


@pytest.mark.parametrize("split", [1, 30, 64, 99])
def test_a_run_in_two_parts_is_the_run_bit_for_bit(split):
    schedule = SCHEDULES["with an if"]
    whole = iterate(SMOOTH, ADAM, PLACE, schedule, 100)
    head = iterate(SMOOTH, ADAM, PLACE, schedule, split)
    tail = iterate(SMOOTH, ADAM, head.last, schedule, 100 - split, start=head.state)
    np.testing.assert_array_equal(tail.params, whole.params[split:])
    np.testing.assert_array_equal(tail.steps, whole.steps[split:])
    np.testing.assert_allclose(tail.times, whole.times[split:] - whole.times[split], rtol=1e-12)
    jax.tree.map(np.testing.assert_array_equal, tail.state, whole.state)


def test_a_second_part_without_its_state_is_another_run():
    """Negative control: it is the state that makes the parts fit."""
    whole, head = (iterate(SMOOTH, ADAM, PLACE, 0.02, steps) for steps in (40, 20))
    cold = iterate(SMOOTH, ADAM, head.last, 0.02, 20)
    assert np.max(np.abs(cold.last - whole.last)) > 1e-3


def optax_loop(transformation, params, state, steps):
    with jax.numpy_dtype_promotion("standard"):
        update = jax.jit(transformation.update)
        for _ in range(steps):
            updates, state = update(slope(params), state, params)
            params = optax.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("rate", [0.02, SCHEDULES["optax"]], ids=["constant", "schedule"])
def test_the_state_of_a_training_loop_goes_on_as_a_run(rate):
    transformation = ADAM.to_optax(rate)
    params, state = optax_loop(transformation, PLACE, transformation.init(PLACE), 25)
    run = iterate(SMOOTH, ADAM, params, rate, 30, start=state)
    whole = iterate(SMOOTH, ADAM, PLACE, rate, 55)
    np.testing.assert_array_equal(run.steps, whole.steps[25:])
    np.testing.assert_allclose(run.times, whole.times[25:] - whole.times[25], rtol=1e-12)
    # from the int32 count of a training loop, optax computes a schedule in float32
    rtol = 1e-7 if callable(rate) else 1e-11
    np.testing.assert_allclose(run.params, whole.params[25:], rtol=rtol)


EMA = optax.chain(optax.ema(0.8, debias=True), optax.scale(-0.02))
MATES = {
    "adam": (ADAM, optax.adam(0.02, 0.8, 0.95, 1e-2), None),
    "adamw": (
        zoo.adamw(b1=0.8, b2=0.95, eps=1e-2, weight_decay=0.3),
        optax.adamw(0.02, 0.8, 0.95, 1e-2, weight_decay=0.3),
        None,
    ),
    "nadam": (zoo.nadam(b1=0.8, b2=0.95, eps=1e-2), optax.nadam(0.02, 0.8, 0.95, 1e-2), None),
    "rmsprop": (
        zoo.rmsprop(decay=0.9, eps=1e-2),
        optax.rmsprop(0.02, 0.9, 1e-2, eps_in_sqrt=False),
        25,
    ),
    "rmsprop-corrected": (
        zoo.rmsprop(decay=0.9, eps=0.0, eps_root=1e-2, bias_correction=True),
        optax.rmsprop(0.02, 0.9, 1e-2, bias_correction=True),
        None,
    ),
    "momentum": (zoo.momentum(decay=0.8), optax.sgd(0.02, momentum=0.8), 25),
    "nesterov": (zoo.nesterov(decay=0.8), optax.sgd(0.02, momentum=0.8, nesterov=True), 25),
    "momentum-ema-corrected": (
        zoo.momentum(decay=0.8, form="ema", bias_correction=True),
        EMA,
        None,
    ),
    "lion": (
        zoo.lion(b1=0.8, b2=0.95, eps_root=0.0),
        optax.lion(0.02, 0.8, 0.95, weight_decay=0.0),
        None,
    ),
    "adam after clipping": (
        ADAM,
        optax.chain(optax.clip(1e9), optax.adam(0.02, 0.8, 0.95, 1e-2)),
        None,
    ),
}


@pytest.mark.parametrize("name", MATES)
def test_a_run_goes_on_from_the_state_of_an_optax_optimizer(name):
    optimizer, transformation, step = MATES[name]
    params, middle = optax_loop(transformation, PLACE, transformation.init(PLACE), 25)
    state = state_from_optax(optimizer, middle, params, step)
    assert float(state.step) == 25.0
    there, end = optax_loop(transformation, params, middle, 30)
    run, cold = (iterate(SMOOTH, optimizer, params, 0.02, 30, start=s) for s in (state, 0))
    np.testing.assert_allclose(run.last, there, rtol=1e-11)
    np.testing.assert_array_equal(run.steps, 25 + np.arange(31))
    known = state_from_optax(optimizer, end, there, 55).moments
    for ours, theirs, fresh in zip(run.state.moments, known, cold.state.moments, strict=True):
        if ours is not None:
            np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-13)
            assert np.max(np.abs(ours - fresh)) > 1e-5, "the state must matter"


def test_a_state_of_another_optax_optimizer_is_refused():
    params = jnp.ones(2)
    momentum = optax.sgd(0.1, momentum=0.8).init(params)
    with pytest.raises(ValueError, match="step: expected the number of updates made"):
        state_from_optax(zoo.momentum(decay=0.8), momentum, params)
    with pytest.raises(ValueError, match="expected averages for the moments of adam"):
        state_from_optax(zoo.adam(), momentum, params, 3)
    with pytest.raises(ValueError, match="expected averages for the moments of momentum"):
        state_from_optax(zoo.momentum(), optax.sgd(0.1).init(params), params, 3)


def test_a_state_that_only_looks_alike_is_refused():
    params = {"a": jnp.ones(2)}
    said = "expected averages for the moments of adam"
    belief = optax.adabelief(0.1).init(params)  # its nu averages another square
    with pytest.raises(ValueError, match=said):
        state_from_optax(zoo.adam(), belief, params)
    adam = optax.adam(0.1).init(params)
    for other in ({"a": jnp.ones(3)}, {"b": jnp.ones(2)}, jnp.ones(2)):
        with pytest.raises(ValueError, match=said):
            state_from_optax(zoo.adam(), adam, other)
    two = optax.chain(optax.ema(0.9), optax.scale_by_adam()).init(params)
    with pytest.raises(ValueError, match=r"one each, like params, got 2"):
        state_from_optax(zoo.adam(), two, params)
    for step in (-3, 2.5):
        with pytest.raises(ValueError, match="step: expected a whole number"):
            state_from_optax(zoo.adam(), adam, params, step)


def test_parameters_may_be_called_like_the_fields_of_a_state():
    params = {"mu": jnp.ones(2), "count": jnp.ones(1)}
    state = state_from_optax(zoo.adam(), optax.adam(0.1).init(params), params)
    assert jax.tree.structure(state.moments[0]) == jax.tree.structure(params)


# --- failures: the step where a number that is not finite began

FAILS_AT = [0, 5, CHUNK_STEPS - 1, CHUNK_STEPS, 73]


def bad_loss(at):
    """θ_n = n; the loss at θ_at is infinite while its gradient is not."""
    return Problem(lambda x: jnp.where(x[0] > at - 0.5, jnp.inf, -x[0]))


def bad_gradient(at):
    return Problem(grad=lambda x: jnp.where(x > at - 0.5, jnp.nan, -1.0))


def bad_gradient_on_the_host(at):
    def grad(x):
        return np.where(np.asarray(x) > at - 0.5, np.nan, -1.0)

    return Problem(grad=grad, traceable=False)


BAD = [bad_loss, bad_gradient, bad_gradient_on_the_host]


@pytest.mark.parametrize("at", FAILS_AT)
@pytest.mark.parametrize("bad", BAD)
def test_a_failure_is_found_where_it_began(bad, at):
    run = iterate(bad(at), zoo.sgd(), jnp.zeros(1), 1.0, 90)
    assert run.failed_at == at
    np.testing.assert_array_equal(run.steps, np.arange(at + 1))
    np.testing.assert_allclose(run.params[:, 0], np.arange(at + 1.0))
    np.testing.assert_allclose(run.times, np.arange(at + 1.0))
    assert float(run.state.step) == at


@pytest.mark.parametrize("at", FAILS_AT)
def test_a_parameter_that_overflows_is_found_where_it_would_begin(at):
    rates = lambda n: 1e308 if n == at else 1.0
    problem = Problem(grad=lambda x: jnp.full_like(x, -2.0))
    run = iterate(problem, zoo.sgd(), jnp.zeros(1), rates, 90)
    assert run.failed_at == at
    np.testing.assert_allclose(run.params[:, 0], 2 * np.arange(at + 1.0))


@pytest.mark.parametrize("bad", BAD)
def test_the_last_good_step_is_kept_also_between_saves(bad):
    for at, expected in ((73, [0, 10, 20, 30, 40, 50, 60, 70, 73]), (64, [0, 50, 64]), (0, [0])):
        every = 10 if at == 73 else 50
        run = iterate(bad(at), zoo.sgd(), jnp.zeros(1), 1.0, 90, save_every=every)
        assert list(run.steps) == expected and run.failed_at == at
        np.testing.assert_allclose(run.params[:, 0], expected)


def test_a_failed_run_goes_on_from_its_last_good_step():
    broken = iterate(bad_gradient(70), zoo.momentum(decay=0.5), jnp.zeros(1), 1.0, 90)
    repaired = Problem(grad=lambda x: jnp.full_like(x, -1.0))
    whole = iterate(repaired, zoo.momentum(decay=0.5), jnp.zeros(1), 1.0, 90)
    assert broken.failed_at is not None and broken.failed_at < 70
    rest = iterate(repaired, zoo.momentum(decay=0.5), broken.last, 1.0, 10, start=broken.state)
    np.testing.assert_array_equal(rest.steps, broken.failed_at + np.arange(11))
    np.testing.assert_allclose(rest.params, whole.params[rest.steps], rtol=1e-14)


def test_a_failure_of_a_resumed_run_has_the_number_of_its_own_step():
    head = iterate(bad_gradient(9), zoo.sgd(), jnp.zeros(1), 1.0, 4)
    tail = iterate(bad_gradient(9), zoo.sgd(), head.last, 1.0, 20, start=head.state)
    assert tail.failed_at == 9 and list(tail.steps) == [4, 5, 6, 7, 8, 9]


def test_a_failure_in_one_leaf_is_a_failure():
    problem = Problem(grad=lambda tree: {"a": tree["a"], "b": jnp.full_like(tree["b"], jnp.inf)})
    run = iterate(problem, zoo.adam(), {"a": jnp.ones(2), "b": jnp.ones(())}, 0.1, 3)
    assert run.failed_at == 0 and np.all(np.isfinite(run.last["b"]))


# --- how it is computed


def test_host_functions_give_the_same_run():
    def grad(x):
        a, b, c = np.asarray(x, float)
        rest = 1.5 - 2 * a * b
        return np.array(
            [
                -2 * b * rest + c * np.cos(a * c),
                -2 * a * rest + 0.5 * c,
                1.2 * c**3 + 0.5 * b + a * np.cos(a * c),
            ]
        )

    host = iterate(Problem(grad=grad, traceable=False), ADAM, PLACE, 0.02, 70, save_every=9)
    real = iterate(SMOOTH, ADAM, PLACE, 0.02, 70, save_every=9)
    np.testing.assert_array_equal(host.steps, real.steps)
    np.testing.assert_allclose(host.params, real.params, rtol=1e-11)
    np.testing.assert_allclose(host.state.moments[1], real.state.moments[1], rtol=1e-9)
    assert not np.array_equal(host.params, real.params)


def compilations(caplog, call):
    """How many programs a call makes the compiler compile."""
    caplog.clear()
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        call()
    return sum("Finished XLA compilation" in record.getMessage() for record in caplog.records)


def test_no_other_number_is_compiled_again(caplog):
    """Other steps, learning rates, schedules, decays and eps; a new Problem of the same loss."""

    def loss(x):
        return jnp.sum(x**4)

    run = lambda optimizer, rate, steps, **options: iterate(
        Problem(loss), optimizer, jnp.ones(7), rate, steps, **options
    )
    assert compilations(caplog, lambda: run(zoo.adam(), 0.01, 10)) > 0
    assert compilations(caplog, lambda: run(zoo.adam(), 0.02, 10)) == 0
    assert compilations(caplog, lambda: run(zoo.adam(), 0.02, 3)) == 0
    assert compilations(caplog, lambda: run(zoo.adam(), 0.02, 200, save_every=3)) == 0
    assert (
        compilations(caplog, lambda: run(zoo.adam(b1=0.5, b2=0.7, eps=0.1, eps_root=0.2), 0.02, 10))
        == 0
    )
    assert compilations(caplog, lambda: run(zoo.adam(), lambda n: 0.1 / (n + 1), 10)) == 0
    assert compilations(caplog, lambda: run(zoo.adam(bias_correction=False), 0.02, 10)) > 0


# --- the settled state

SETTLED = {
    "momentum": zoo.momentum(decay=0.6),
    "nesterov": zoo.nesterov(decay=0.5),
    "rmsprop": zoo.rmsprop(decay=0.7, eps=3e-2, eps_root=1e-2),
    "adam": zoo.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=1e-2),
    "adamw": zoo.adamw(b1=0.5, b2=0.7, eps=3e-2, weight_decay=0.2),
    "nadam": zoo.nadam(b1=0.5, b2=0.7, eps=3e-2),
    "lion": zoo.lion(b1=0.5, b2=0.7, eps_root=1.0),
}


@pytest.mark.parametrize("name", SETTLED)
def test_the_settled_state_is_the_state_of_a_long_run_to_its_order(name):
    """Halving the learning rate halves the distance at order 1 and quarters it at order 2."""
    optimizer, distances = SETTLED[name], {1: [], 2: []}
    for halving in range(4):
        rate = 2.0 ** -(9 + halving)
        run = iterate(SMOOTH, optimizer, PLACE, rate, 128 * 2**halving, save_every=10**6)
        for order, found in distances.items():
            state = settled_state(SMOOTH, optimizer, run.last, rate, order=order)
            gaps = jax.tree.map(
                lambda a, b: jnp.max(jnp.abs(a - b)), state.moments, run.state.moments
            )
            found.append(max(jax.tree.leaves(gaps)))
    for order, found in distances.items():
        slopes = np.log2(np.array(found[:-1]) / np.array(found[1:]))
        assert abs(slopes[-1] - order) < 0.15, f"order {order}: {slopes}"
    assert distances[2][-1] < distances[1][-1] / 10


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", SETTLED)
def test_the_settled_state_of_a_constant_gradient_is_a_fixed_point(name, order):
    optimizer, constant = SETTLED[name], jnp.asarray([0.3, -2.0, 1e-3])
    problem = Problem(grad=lambda x: constant)
    state = settled_state(problem, optimizer, PLACE, 0.1, order=order)
    assert isinstance(state, State) and np.isinf(float(state.step))
    after, _ = optimizer.update(state, constant, PLACE, 0.1)
    kept = [moment for moment in state.moments if moment is not None]
    assert kept
    for moment, before, now in zip(optimizer.moments, state.moments, after.moments, strict=True):
        if before is not None:
            np.testing.assert_allclose(before, moment.transform(constant), rtol=1e-13)
            np.testing.assert_allclose(now, before, rtol=1e-13)


def test_a_run_may_begin_settled():
    """Its weights add up to one from the first step; its steps are counted from 0."""
    optimizer, constant = (
        zoo.adam(b1=0.9, b2=0.999, eps=0.0, bias_correction=False),
        jnp.asarray([0.3, -2.0]),
    )
    problem = Problem(grad=lambda x: constant)
    warm = settled_state(problem, optimizer, jnp.zeros(2), 0.1)
    run = iterate(problem, optimizer, jnp.zeros(2), 0.1, 5, start=warm)
    cold = iterate(problem, optimizer, jnp.zeros(2), 0.1, 5)
    np.testing.assert_array_equal(run.steps, np.arange(6))
    np.testing.assert_allclose(np.diff(run.params, axis=0), [[-0.1, 0.1]] * 5, rtol=1e-12)
    assert np.all(np.abs(cold.params[1] - run.params[1]) > 0.01)
