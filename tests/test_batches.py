"""Mini-batch problems: which batch a step sees, losses with keys, weights and auxiliary values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.refusals import refused

from shadowflow.batching import pad, shuffled, with_replacement
from shadowflow.diagnostics.bias import implicit_bias
from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.methods import METHODS
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow

DATA = jnp.asarray([1.0, 2.0, 4.0])
PLACE = jnp.asarray([0.5, -1.0])
ADAM = zoo.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=0.1)


def loss(params, scale):
    return scale * jnp.sum(params**2) / 2 + jnp.sum(jnp.sin(params))


def scale_seen(problem, step):
    """Which of DATA step ``step`` saw: read off its gradient at 2π, where that of sin is 1."""
    return (
        float(problem.gradient(jnp.full(1, 2 * np.pi), problem.batch_index(step))[0] - 1)
        / 2
        / np.pi
    )


# --- schedules


def test_the_default_is_cyclic():
    problem = Problem(loss, batches=DATA)
    assert [int(problem.batch_index(n)) for n in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert scale_seen(problem, 5) == pytest.approx(4.0)
    assert np.array_equal(problem.batch_index(jnp.arange(4)), [0, 1, 2, 0])


def test_a_given_schedule_and_a_function_are_taken_step_by_step():
    given = Problem(loss, batches=DATA, schedule=[2, 0, 2, 1])
    assert [scale_seen(given, n) for n in range(4)] == pytest.approx([4.0, 1.0, 4.0, 2.0])
    for rule in (lambda n: (n + 1) % 3, lambda n: 1 if n > 3 else 0, lambda n: [0, 2][n % 2]):
        problem = Problem(loss, batches=DATA, schedule=rule).tabulated(6)
        assert [int(problem.batch_index(n)) for n in range(6)] == [rule(n) for n in range(6)]


def test_shuffled_sees_every_batch_once_per_epoch_in_changing_order():
    order = shuffled(jax.random.key(3), 7)
    epochs = np.array([[int(order(n)) for n in range(7 * e, 7 * e + 7)] for e in range(4)])
    assert np.array_equal(np.sort(epochs, axis=1), np.tile(np.arange(7), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4
    other = shuffled(jax.random.key(4), 7)
    assert [int(other(n)) for n in range(7)] != list(epochs[0])


def test_with_replacement_is_uniform_and_repeats():
    draw = jax.jit(jax.vmap(with_replacement(jax.random.key(0), 5)))(jnp.arange(5000))
    counts = np.bincount(np.asarray(draw), minlength=5)
    assert np.all(np.abs(counts - 1000) < 5 * np.sqrt(1000 * 0.8))
    assert np.mean(np.diff(np.asarray(draw)) == 0) == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("rule", [shuffled, with_replacement])
def test_a_table_of_a_schedule_is_the_schedule(rule):
    order = rule(jax.random.key(1), 3)
    table = Problem(loss, batches=DATA, schedule=order).tabulated(100).schedule
    assert table.shape == (128,)
    assert np.array_equal(table[:100], [int(order(n)) for n in range(100)])


def test_iterate_sees_the_batches_in_their_order():
    run = iterate(Problem(loss, batches=DATA, schedule=[2, 0, 1]), zoo.sgd(), PLACE, 0.1, 3)
    x = np.asarray(PLACE)
    for scale, found in zip([4.0, 1.0, 2.0], run.params[1:], strict=True):
        x = x - 0.1 * (scale * x + np.cos(x))
        np.testing.assert_allclose(found, x, rtol=1e-14)


def test_a_run_goes_on_with_the_next_batch():
    problem = Problem(loss, batches=DATA, schedule=shuffled(jax.random.key(0), 3))
    whole = iterate(problem, ADAM, PLACE, 0.1, 20)
    first = iterate(problem, ADAM, PLACE, 0.1, 8)
    rest = iterate(problem, ADAM, first.last, 0.1, 12, start=first.state)
    np.testing.assert_allclose(rest.params, whole.params[8:], rtol=1e-13)


def test_a_shadow_may_begin_within_a_run():
    """At step 8 the memory knows which batches steps 0 to 7 saw."""
    problem = Problem(loss, batches=DATA, schedule=shuffled(jax.random.key(0), 3))
    gaps = []
    for rate in (4e-3, 1e-3):
        first = iterate(problem, ADAM, PLACE, rate, 8)
        rest = iterate(problem, ADAM, first.last, rate, 12, start=first.state)
        follow = shadow(problem, ADAM, first.last, rate, 12, start=8, check=False)
        wrong = shadow(problem, ADAM, first.last, rate, 12, check=False)
        gaps.append([float(np.abs(run.params - rest.params).max()) for run in (follow, wrong)])
    assert gaps[0][0] / gaps[1][0] > 12
    assert gaps[1][1] > 20 * gaps[1][0]


# --- what a loss may be


def test_auxiliary_values_are_left_out():
    plain = Problem(loss, batches=DATA)
    extra = Problem(lambda p, c: (loss(p, c), {"scale": c}), batches=DATA, has_aux=True)
    for problem in (plain, extra):
        assert float(problem.value(PLACE, 1)) == pytest.approx(float(loss(PLACE, 2.0)))
    runs = [iterate(problem, ADAM, PLACE, 0.1, 5).params for problem in (plain, extra)]
    assert np.array_equal(*runs)
    full = Problem(lambda p: (jnp.sum(p**2), None), has_aux=True)
    np.testing.assert_allclose(full.gradient(PLACE), 2 * PLACE)
    refused(lambda: Problem(loss, batches=DATA, has_aux=True).value(PLACE, 0), "loss:", "aux")


def noisy(params, scale, key):
    return loss(params, scale) + params @ jax.random.normal(key, params.shape)


def test_a_key_is_folded_with_the_batch_and_stays():
    problem = Problem(noisy, batches=DATA, key=jax.random.key(5))
    for b in (0, 2):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(5), b), (2,))
        np.testing.assert_allclose(
            problem.gradient(PLACE, b), DATA[b] * PLACE + jnp.cos(PLACE) + noise, rtol=1e-13
        )
    full = Problem(lambda p, key: noisy(p, 1.0, key), key=jax.random.key(5))
    noise = jax.random.normal(jax.random.key(5), (2,))
    np.testing.assert_allclose(full.gradient(PLACE), PLACE + jnp.cos(PLACE) + noise, rtol=1e-13)
    field = modified_field(full, ADAM, 0.1, method="taylor")(3, PLACE)
    assert np.all(np.isfinite(field))


def test_fresh_noise_is_a_batch_of_keys():
    keys = jax.random.split(jax.random.key(7), 30)
    problem = Problem(lambda p, key: noisy(p, 1.0, key), batches=keys)
    gaps = []
    for rate in (8e-3, 2e-3):
        real = iterate(problem, ADAM, PLACE, rate, 30)
        follow = shadow(problem, ADAM, PLACE, rate, 30, method="taylor", check=False)
        gaps.append(float(np.abs(real.params - follow.params).max()))
    assert gaps[0] / gaps[1] > 12, "30 steps: a local error of rate²"


def test_unequal_batches_are_padded_and_weighed():
    parts = [np.array([1.0, 2.0, 6.0]), np.array([4.0]), np.array([2.0, 5.0])]
    stacked, weights = pad(parts)
    problem = Problem(lambda p, c: c * jnp.sum(p**2) / 2, batches=stacked, weights=weights)
    for b, part in enumerate(parts):
        np.testing.assert_allclose(problem.gradient(PLACE, b), part.mean() * PLACE, rtol=1e-14)
    mean = np.concatenate(parts).mean()
    assert abs(mean - np.mean([part.mean() for part in parts])) > 0.1
    np.testing.assert_allclose(problem.full_batch().gradient(PLACE), mean * PLACE, rtol=1e-14)
    assert float(problem.full_batch().value(PLACE)) == pytest.approx(mean * 1.25 / 2)


def test_what_weighs_nothing_may_be_nan():
    stacked, weights = pad([np.array([1.0, 4.0]), np.array([9.0])])
    problem = Problem(lambda p, c: jnp.sum(p) * jnp.log(c), batches=stacked, weights=weights)
    np.testing.assert_allclose(problem.value(PLACE, 1), jnp.sum(PLACE) * np.log(9.0), rtol=1e-14)


def test_the_whole_is_the_mean_of_the_batches_on_the_host_too():
    grad = lambda p, c: np.asarray(c * p + np.cos(p))
    hvp = lambda p, v, c: np.asarray(c * v - np.sin(p) * v)
    host = Problem(grad=grad, hvp=hvp, traceable=False, batches=DATA).full_batch()
    traced = Problem(loss, batches=DATA).full_batch()
    mean = float(DATA.mean())
    expected = mean * PLACE + jnp.cos(PLACE)
    for problem in (host, traced):
        assert not problem.batched
        np.testing.assert_allclose(problem.gradient(PLACE), expected, rtol=1e-14)
        found = problem.linearize(PLACE)[1](PLACE)
        np.testing.assert_allclose(found, mean * PLACE - jnp.sin(PLACE) * PLACE, rtol=1e-14)
    real = iterate(traced, ADAM, PLACE, 0.1, 4).params
    np.testing.assert_allclose(iterate(host, ADAM, PLACE, 0.1, 4).params, real, rtol=1e-12)


# --- refusals

BATCHED = Problem(loss, batches=DATA)
WRONG = {
    "no common axis": ({"batches": {"a": DATA, "b": DATA[:2]}}, ["batches:", "[2, 3]", "pad"]),
    "a scalar": ({"batches": jnp.asarray(1.0)}, ["batches:", "leading axis"]),
    "schedule alone": ({"schedule": [0, 1]}, ["schedule:", "batches="]),
    "no such batch": ({"batches": DATA, "schedule": [0, 3]}, ["schedule:", "0 to 2", "step 1"]),
    "no whole numbers": ({"batches": DATA, "schedule": [0.5]}, ["schedule:", "whole numbers"]),
    "weights alone": ({"weights": jnp.ones((3, 2))}, ["weights:", "no batches"]),
    "weights of others": (
        {"batches": DATA, "weights": jnp.ones((2, 2))},
        ["weights:", "[3, size]"],
    ),
    "an empty batch": (
        {"batches": DATA, "weights": jnp.asarray([[1.0], [0.0], [1.0]])},
        ["weights:", "zeros"],
    ),
    "negative": ({"batches": DATA, "weights": -jnp.ones((3, 2))}, ["weights:", "at least 0"]),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_batches_are_refused(name):
    given, parts = WRONG[name]
    refused(lambda: Problem(loss, **given), *parts)


def test_weights_beside_a_gradient_are_refused():
    refused(lambda: Problem(grad=loss, batches=DATA, weights=jnp.ones((3, 2))), "weights:", "grad=")


def test_a_schedule_that_is_too_short_or_leaves_the_batches_is_refused_before_the_run():
    short = Problem(loss, batches=DATA, schedule=[0, 1, 2])
    refused(lambda: iterate(short, ADAM, PLACE, 0.1, 4), "schedule:", "4 steps", "got 3")
    refused(lambda: shadow(short, ADAM, PLACE, 0.1, 4, check=False), "schedule:", "4 steps")
    refused(
        lambda: modified_field(short, ADAM, 0.1, method="taylor")(3, PLACE), "schedule:", "4 steps"
    )
    outside = Problem(loss, batches=DATA, schedule=lambda n: n)
    refused(lambda: iterate(outside, ADAM, PLACE, 0.1, 5), "schedule:", "got 3 at step 3")
    halves = Problem(loss, batches=DATA, schedule=lambda n: n / 2)
    refused(lambda: iterate(halves, ADAM, PLACE, 0.1, 5), "schedule:", "whole number")


def test_a_loss_of_the_wrong_arity_is_refused_in_a_sentence():
    problem = Problem(lambda p: jnp.sum(p), batches=DATA)
    refused(lambda: iterate(problem, ADAM, PLACE, 0.1, 1), "loss:", "loss(params, batch)")
    per_example = Problem(loss, batches=DATA, weights=jnp.ones((3, 2)))
    refused(lambda: iterate(per_example, ADAM, PLACE, 0.1, 1), "loss:", "per example")


@pytest.mark.parametrize("build", [modified_field, memoryless_step])
def test_a_settled_step_is_refused_with_batches(build):
    for method in ("taylor", "displaced"):
        field = build(BATCHED, ADAM, 0.1, method=method)
        refused(
            lambda field=field: field("settled", PLACE), "step:", "mini-batches", "full_batch()"
        )


def test_a_settled_run_is_refused_with_batches():
    refused(
        lambda: shadow(BATCHED, ADAM, PLACE, 0.1, 3, start="settled", check=False),
        "start:",
        "mini-batches",
    )
    refused(lambda: settled_state(BATCHED, ADAM, PLACE, 0.1), "start:", "mini-batches")
    state = settled_state(BATCHED.full_batch(), ADAM, PLACE, 0.1)
    refused(lambda: iterate(BATCHED, ADAM, PLACE, 0.1, 3, start=state), "start:", "settled")
    refused(
        lambda: shadow(BATCHED, ADAM, PLACE, 0.1, 3, start=state, check=False),
        "start:",
        "mini-batches",
    )
    refused(
        lambda: implicit_bias(BATCHED, ADAM, PLACE, 0.1, start=0),
        "problem:",
        "full_batch()",
    )


REASONS = {
    "linearized": "several",
    "differences": "noise of order 1 / learning_rate",
    "collocation": "smooth",
    "inertial": "jump within a step",
}


@pytest.mark.parametrize("method", [m for m in METHODS if METHODS[m].full_batch])
def test_full_batch_methods_refuse_batches_with_the_reason(method):
    call = lambda: shadow(BATCHED, ADAM, PLACE, 0.1, 3, method=method)
    refused(call, "method:", "mini-batches", repr(method), REASONS[method], "full_batch()")


def test_the_batch_must_be_named_where_there_are_several():
    refused(lambda: BATCHED.gradient(PLACE), "batch:", "full_batch()")


def test_a_memory_tolerance_is_a_share_and_needs_batches():
    for share in (-0.1, 1.0, float("nan")):
        refused(
            lambda w=share: shadow(BATCHED, ADAM, PLACE, 0.1, 3, memory_tolerance=w, check=False),
            "memory_tolerance:",
        )
    refused(
        lambda: shadow(
            BATCHED.full_batch(), ADAM, PLACE, 0.1, 3, memory_tolerance=0.1, check=False
        ),
        "memory_tolerance:",
        "full-batch",
    )
    field = modified_field(BATCHED, ADAM, 0.1, memory_tolerance=0.0, method="taylor")
    refused(lambda: jax.jit(field)(3, PLACE), "step:", "traced")
