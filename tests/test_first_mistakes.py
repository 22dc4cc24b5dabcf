"""What a newcomer passes first, and the message or the number that comes back."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.refusals import ADAM, NO_NUMBER, PARAMS, PROBLEM, M, first, refused

import shadowflow
from shadowflow.diagnostics.bias import implicit_bias
from shadowflow.diagnostics.comparison import compare
from shadowflow.diagnostics.convergence import convergence
from shadowflow.diagnostics.error_bar import error_bar
from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.base import State
from shadowflow.optimizers.from_optax import from_optax
from shadowflow.optimizers.moments import Moment, Optimizer
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow
from shadowflow.symbolic import derive


def stepwise(step):
    """A schedule that JAX cannot trace."""
    return 1e-3 if step < 3 else 5e-4


@pytest.mark.parametrize("count", [np.asarray(3), jnp.asarray(3), optax.adam(1e-3).init(PARAMS)[0]])
def test_a_start_may_be_the_count_of_an_optax_state(count):
    start = getattr(count, "count", count)
    run = shadow(PROBLEM, ADAM, PARAMS, 1e-3, 2, start=start, check=False)
    assert run.steps[0] == int(start)


@pytest.mark.parametrize("value", [jnp.asarray(3.0), jnp.asarray(True), np.asarray([3, 4])])
def test_an_array_that_is_no_whole_number_is_no_count(value):
    refused(lambda: iterate(PROBLEM, ADAM, PARAMS, 1e-3, value), "steps:", "whole number")


@pytest.mark.parametrize("schedule", [lambda: 1e-3, lambda step: "fast", lambda step: [1e-3, 1e-3]])
def test_a_schedule_that_gives_no_number_is_named(schedule):
    for call in (iterate, shadow):
        run = functools.partial(call, PROBLEM, ADAM, PARAMS, schedule, 2)
        refused(run, "learning_rate:", "at step 0", error=NO_NUMBER)
    refused(
        lambda: implicit_bias(PROBLEM, ADAM, PARAMS, schedule, start=0),
        "learning_rate:",
        error=NO_NUMBER,
    )


def test_fields_and_the_bias_take_a_schedule_that_cannot_be_traced():
    """The numbers of the same schedule as JAX operations; the rate changes within the memory."""
    alike = lambda step: jnp.where(step < 3, 1e-3, 5e-4)
    for make in (modified_field, memoryless_step):
        found, wanted = (make(PROBLEM, ADAM, rate)(5, PARAMS) for rate in (stepwise, alike))
        np.testing.assert_allclose(found, wanted, rtol=1e-6)
    found, wanted = (
        implicit_bias(PROBLEM, ADAM, PARAMS, rate, start=5).whole for rate in (stepwise, alike)
    )
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    constant = implicit_bias(PROBLEM, ADAM, PARAMS, 5e-4, start=5).whole
    assert not np.allclose(found, constant, rtol=1e-6)


def test_a_transformation_is_told_apart_from_what_makes_it():
    refused(lambda: from_optax(optax.adam(1e-3)), "make:", "got a transformation", error=NO_NUMBER)


def test_a_single_moment_is_no_list_of_moments():
    refused(lambda: Optimizer(M[0], first), "moments:", "a list", error=TypeError)


def test_a_function_of_other_arguments_is_named_with_those_it_gets():
    refused(
        lambda: Optimizer(M, lambda m, p: m[0]), "combine(moments, params, step)", error=TypeError
    )
    refused(lambda: Moment(0.9, lambda: 1.0), "transform(grad)", error=TypeError)


def test_a_host_function_is_sent_to_traceable_false():
    host = lambda x: np.asarray(x) * 2
    refused(lambda: iterate(Problem(grad=host), ADAM, PARAMS, 1e-3, 1), "grad:", "traceable=False")
    square = lambda x: np.sum(np.asarray(x) ** 2)
    refused(lambda: iterate(Problem(square), ADAM, PARAMS, 1e-3, 1), "loss:", "traceable=False")
    iterate(Problem(grad=host, traceable=False), ADAM, PARAMS, 1e-3, 1)


def test_a_loss_with_something_beside_it_is_sent_to_has_aux():
    both = lambda x: (jnp.sum(x**2), x)
    refused(lambda: iterate(Problem(both), ADAM, PARAMS, 1e-3, 1), "loss:", "has_aux=True")
    iterate(Problem(both, has_aux=True), ADAM, PARAMS, 1e-3, 1)


def test_what_is_no_run_is_not_compared():
    run = iterate(PROBLEM, ADAM, PARAMS, 1e-3, 1)
    refused(lambda: compare(run, 3), "follow:", "got 3", error=TypeError)
    refused(lambda: compare(None, run), "real:", "got None", error=TypeError)


def test_an_error_bar_refuses_the_shadow_of_another_run():
    run = PROBLEM, ADAM, PARAMS, 1e-3
    bar = functools.partial(error_bar, *run, 3)
    refused(lambda: bar(follow=shadow(*run, 5)), "follow:", "from step 0 to 3", "0 to 5")
    refused(lambda: bar(follow=shadow(*run, 3, start=2)), "follow:", "from 2 to 5")
    refused(lambda: bar(follow=4), "follow:", error=TypeError)
    assert bar(follow=shadow(*run, 3)).verdict == bar().verdict


def test_nothing_to_measure_is_no_table():
    run = functools.partial(convergence, PROBLEM, ADAM, jnp.ones(2, float), 0.01)
    rates = [1e-3, 5e-4]
    refused(lambda: run(rates, orders=[9]), "orders:", "[9]")
    refused(lambda: run(rates, methods=["inertial"], kinds=["iteration"]), "orders:", "inertial")
    refused(lambda: run([1e-3, 0.0]), "learning_rates:", "above 0")


def test_a_derivation_is_one_line_where_it_is_not_printed():
    assert repr(derive(zoo.sgd())) == "Derivation(Optimizer(sgd: present gradient))"


LATE = lambda n: -1e-3 if n == 5 else 1e-3


@pytest.mark.parametrize("make", [modified_field, memoryless_step])
def test_a_field_looks_at_the_rate_of_its_step(make):
    """Also of a schedule that JAX can trace."""
    for schedule in (LATE, lambda n: jnp.where(n == 5, -1e-3, 1e-3)):
        refused(lambda s=schedule: make(PROBLEM, ADAM, s)(5, PARAMS), "learning_rate:", "step 5")
    make(PROBLEM, ADAM, LATE)(4, PARAMS)


def test_the_bias_and_the_settled_state_look_at_the_rate_of_theirs():
    call = functools.partial(implicit_bias, PROBLEM, ADAM, PARAMS, LATE)
    refused(lambda: call(start=5), "learning_rate:", "-0.001 at step 5")
    wrong = lambda n: -1e-3
    refused(lambda: settled_state(PROBLEM, ADAM, PARAMS, wrong), "learning_rate:", "at step 0")


@pytest.mark.parametrize(
    "schedule", [lambda n: {}[n], lambda n: 1 / n, lambda n: None, lambda n: np.ones(2)]
)
def test_a_schedule_that_raises_is_named_with_the_step(schedule):
    for call in (iterate, shadow):
        run = functools.partial(call, PROBLEM, ADAM, PARAMS, schedule, 2)
        refused(run, "learning_rate:", "at step 0", "lambda step:", error=NO_NUMBER)


@pytest.mark.parametrize("params", [3, {}, None, "abc", jnp.asarray([1, 2]), jnp.asarray([np.nan])])
@pytest.mark.parametrize("make", [modified_field, memoryless_step])
def test_a_field_looks_at_its_parameters(make, params):
    refused(lambda: make(PROBLEM, ADAM, 1e-3)(3, params), "params", error=NO_NUMBER)


def test_moments_that_are_not_finite_are_refused_with_their_place():
    bad = Problem(lambda x: jnp.sum(jnp.log(x)))
    place = {"a": jnp.ones(2), "b": jnp.asarray([1.0, 0.0, 2.0])}
    tree = Problem(lambda p: bad.loss(p["a"]) + bad.loss(p["b"]))
    call = lambda: settled_state(tree, zoo.momentum(), place, 1e-3)
    refused(call, "params:", "1 of 3", "moments[0]['b']", "look at the loss")
    nu = jnp.asarray([1.0, jnp.nan])
    state = State((PARAMS, nu), jnp.asarray(4.0))
    for call in (iterate, shadow):
        run = functools.partial(call, PROBLEM, ADAM, PARAMS, 1e-3, 2, start=state)
        refused(run, "start:", "1 of 2", "moments[1]")
    run = functools.partial(implicit_bias, PROBLEM, ADAM, PARAMS, 1e-3, start=state)
    refused(run, "start:", "1 of 2", "moments[1]")


def test_a_gradient_is_real():
    problem = Problem(grad=lambda x: x.astype(complex))
    refused(lambda: iterate(problem, ADAM, PARAMS, 1e-3, 1), "grad:", "complex128", ".real")


def test_float64_is_refused_while_jax_computes_in_float32():
    x = jnp.ones(2)
    assert x.dtype == np.float64
    with jax.enable_x64(False):
        refused(
            lambda: iterate(PROBLEM, ADAM, x, 1e-3, 1),
            "float64",
            'jax.config.update("jax_enable_x64", True)',
            error=TypeError,
        )
        assert iterate(PROBLEM, ADAM, x.astype("float32"), 1e-3, 1).params.dtype == np.float32


@pytest.mark.parametrize(("dtype", "kept"), [("float16", 6e-8), ("bfloat16", 1e-8)])
def test_an_eps_that_the_dtype_rounds_to_zero_is_refused(dtype, kept):
    x = jnp.ones(2, dtype)
    least = float(jnp.finfo(dtype).smallest_subnormal)
    run = lambda eps: iterate(PROBLEM, zoo.adam(eps=eps), x, 1e-2, 1)
    refused(lambda: run(least / 4), "eps:", dtype, "at least")
    assert run(kept).params.dtype == dtype
    run(0.0)


def test_counts_are_what_a_step_can_be_counted_with():
    for call in (iterate, shadow):
        refused(lambda c=call: c(PROBLEM, ADAM, PARAMS, 1e-3, 10**30), "steps:", "at most")


@pytest.mark.parametrize(
    ("function", "named", "hint"),
    [
        (shadowflow.iterate, {"lr": 0.1}, "write learning_rate="),
        (shadowflow.shadow, {"n_steps": 3}, "write steps="),
        (shadowflow.implicit_bias, {"state": None}, "write start="),
        (shadowflow.convergence, {"method": ["taylor"]}, "write methods="),
        (shadowflow.modified_field, {"colour": "red"}, "leave colour= out"),
    ],
)
def test_a_name_that_is_no_argument_is_answered_by_the_one_that_is_meant(function, named, hint):
    refused(lambda: function(**named), f"{function.__name__}:", hint, error=TypeError)
