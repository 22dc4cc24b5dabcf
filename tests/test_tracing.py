"""The runs under jit, vmap and grad: traced where they can be, refused with what to use instead."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.refusals import refused

from shadowflow.batching import shuffled
from shadowflow.curvature import curvature
from shadowflow.diagnostics.bias import implicit_bias
from shadowflow.diagnostics.error_bar import error_bar
from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.from_optax import from_optax
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow

STEPS, START = 12, jnp.asarray([0.8, -0.3])
SLOPES = jnp.asarray([1.0, 3.0])


def loss(x, scale=1.0):
    return scale * (jnp.sum(SLOPES * x**2) / 2 + jnp.sum(x**4) / 4)


PROBLEM = Problem(loss)


def end(rate=0.05, b1=0.8, eps=0.1, scale=1.0, x=START):
    """The final loss of Adam, in each of its hyper-parameters."""
    problem = Problem(lambda place: loss(place, scale))
    return loss(iterate(problem, zoo.adam(b1=b1, b2=0.9, eps=eps), x, rate, STEPS).last)


@pytest.mark.parametrize(
    ("name", "at"), [("rate", 0.05), ("b1", 0.8), ("eps", 0.1), ("scale", 1.0)]
)
def test_the_gradient_of_a_run_in_a_hyper_parameter_is_that_of_differences(name, at):
    call = lambda value: end(**{name: value})
    slope, by = float(jax.grad(call)(at)), 1e-5
    expected = (float(call(at + by)) - float(call(at - by))) / (2 * by)
    assert abs(slope) > 1e-3
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_a_traced_run_is_the_run_step_by_step():
    """Every field of it, with a schedule, on batches, from every second step."""
    problem = Problem(lambda x, c: jnp.sum((x - c) ** 2) / 2, batches=jnp.arange(3.0))
    rate = lambda n: 0.1 / (1 + n)
    call = lambda x: iterate(problem, zoo.momentum(decay=0.5), x, rate, 7, save_every=2)
    traced, plain = jax.jit(lambda x: vars(call(x)))(START), vars(call(START))
    assert traced["failed_at"] is plain["failed_at"] is None
    for name in ("steps", "times", "params", "state"):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-13), traced[name], plain[name]
        )


def test_a_schedule_of_batches_is_looked_up_or_traced():
    def last(x, schedule):
        loss = lambda x, c: jnp.sum((x - c) ** 2) / 2
        problem = Problem(loss, batches=jnp.arange(3.0), schedule=schedule)
        return iterate(problem, zoo.sgd(), x, 0.1, 5).last

    host = lambda n: [0, 2, 1][n % 3]
    found = jax.jit(lambda x: last(x, host))(START)
    np.testing.assert_allclose(found, last(START, host), rtol=1e-12)
    keys = jax.random.split(jax.random.key(0), 2)
    found = jax.vmap(lambda key: last(START, shuffled(key, 3)))(keys)
    np.testing.assert_allclose(found, [last(START, shuffled(key, 3)) for key in keys], rtol=1e-12)


def test_a_schedule_may_be_traced():
    falling = lambda rate: lambda n: rate / (1.0 + jnp.asarray(n, float))
    call = lambda rate: loss(iterate(PROBLEM, zoo.sgd(), START, falling(rate), 5).last)
    by = 1e-5
    expected = (float(call(0.1 + by)) - float(call(0.1 - by))) / (2 * by)
    np.testing.assert_allclose(jax.grad(call)(0.1), expected, rtol=1e-6)


def test_runs_are_vmapped_over_rates_starts_and_seeds():
    rates = jnp.asarray([0.01, 0.05, 0.2])
    found = jax.vmap(end)(rates)
    np.testing.assert_allclose(found, [end(float(rate)) for rate in rates], rtol=1e-12)
    assert len(set(map(float, found))) == 3
    starts = jnp.stack([START, -2 * START])
    found = jax.vmap(lambda x: iterate(PROBLEM, zoo.sgd(), x, 0.05, 3).params)(starts)
    for row, start in zip(found, starts, strict=True):
        np.testing.assert_allclose(
            row, iterate(PROBLEM, zoo.sgd(), start, 0.05, 3).params, rtol=1e-12
        )


def test_an_optax_transformation_is_traced_too(promotion_as_optax_needs_it):
    def last(b1):
        make = lambda rate: optax.adam(rate, b1=b1, b2=0.9)
        return loss(iterate(PROBLEM, from_optax(make), START, 0.05, STEPS).last)

    np.testing.assert_allclose(jax.jit(last)(0.8), last(0.8), rtol=1e-12)


ADAM = zoo.adam(b1=0.8, b2=0.9, eps=0.1)
after = lambda grad: ADAM.update(ADAM.init(START), grad, START, 0.1)[0]
REFUSED = {
    "shadow": (lambda x, h: shadow(PROBLEM, ADAM, x, h, 3), "jax.lax.scan"),
    "error_bar": (lambda x, h: error_bar(PROBLEM, ADAM, x, h, 3), "sf.memoryless_step"),
    "implicit_bias": (
        lambda x, h: implicit_bias(PROBLEM, ADAM, x, h, start=0),
        "sf.modified_field",
    ),
    "curvature": (lambda x, h: curvature(PROBLEM, ADAM, x), "jax.hessian"),
    "host": (
        lambda x, h: iterate(Problem(grad=np.asarray, traceable=False), ADAM, x, h, 3),
        "outside",
    ),
    "state": (
        lambda x, h: iterate(PROBLEM, ADAM, START, h, 3, start=after(x)),
        "optimizer.update",
    ),
    "steps": (
        lambda x, h: iterate(PROBLEM, ADAM, START, 0.1, (10 * h).astype(int)),
        "static_argnames",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_traced_is_refused_with_what_can(name):
    call, remedy = REFUSED[name]
    refused(lambda: jax.jit(lambda x, h: call(x, h) and 0.0)(START, 0.1), "tra", remedy)
    vmapped = lambda x, h: call(x, h) and 0.0
    refused(lambda: jax.vmap(vmapped)(START[None], jnp.asarray([0.1])), "tra", remedy)


def test_a_loss_that_closes_over_a_traced_value_is_noticed():
    call = lambda c: shadow(Problem(lambda x: c * loss(x)), ADAM, START, 0.1, 3) and 0.0
    refused(lambda: jax.grad(call)(1.0), "tracing", "jax.lax.scan")


def test_instead_of_shadow_the_memoryless_step_is_scanned():
    """As its refusal says; and differentiated in the learning rate, against differences."""

    def last(rate):
        move = memoryless_step(PROBLEM, ADAM, rate)
        return jax.lax.scan(lambda x, n: (x + move(n, x), x), START, jnp.arange(STEPS))[0]

    follow = shadow(PROBLEM, ADAM, START, 0.05, STEPS, kind="iteration", check=False)
    np.testing.assert_allclose(jax.jit(last)(0.05), follow.last, rtol=1e-10)
    by = 1e-5
    expected = (loss(last(0.05 + by)) - loss(last(0.05 - by))) / (2 * by)
    np.testing.assert_allclose(jax.jacfwd(lambda h: loss(last(h)))(0.05), expected, rtol=1e-6)


def test_instead_of_the_bias_two_fields_are_subtracted():
    def bias(x):
        high, low = (modified_field(PROBLEM, ADAM, 1e-3, order=order) for order in (2, 1))
        return high(0, x) - low(0, x)

    whole = implicit_bias(PROBLEM, ADAM, START, 1e-3, start=0)
    expected = whole.whole - whole.parts["memoryless"]
    np.testing.assert_allclose(jax.jit(bias)(START), expected, rtol=2e-2)


def test_instead_of_the_curvature_the_hessian_is_taken():
    top = jax.jit(lambda x: jnp.linalg.eigvalsh(jax.hessian(loss)(x))[-1])(START)
    np.testing.assert_allclose(top, curvature(PROBLEM, zoo.sgd(), START), rtol=1e-6)


def test_a_settled_state_is_traced_in_its_parameters():
    call = lambda x: settled_state(PROBLEM, ADAM, x, 1e-3).moments
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), jax.jit(call)(START), call(START)
    )
