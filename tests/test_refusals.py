"""Bad input is refused at once, by a message with the argument, the value and what is allowed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.refusals import ADAM, NO_NUMBER, PARAMS, PROBLEM, M, first, refused

from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.base import State
from shadowflow.optimizers.moments import Moment, Optimizer
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow

NAN, INF = float("nan"), float("inf")

# --- numbers of an optimizer

DECAYS = [
    ("decay", Moment),
    ("decay", zoo.momentum),
    ("decay", zoo.nesterov),
    ("decay", zoo.rmsprop),
    ("decay", zoo.signum),
    ("b1", zoo.adam),
    ("b2", zoo.adam),
    ("b1", zoo.adamw),
    ("b2", zoo.adamw),
    ("b1", zoo.nadam),
    ("b2", zoo.nadam),
    ("b1", zoo.lion),
    ("b2", zoo.lion),
]


@pytest.mark.parametrize("value", [1.0, 1.5, -0.1, NAN, INF, True])
@pytest.mark.parametrize(("name", "build"), DECAYS)
def test_a_decay_lies_in_zero_to_one(name, build, value):
    refused(lambda: build(**{name: value}), f"{name}:", repr(value), "below 1")


@pytest.mark.parametrize("value", ["0.9", None, [0.9, "x"], ["0.9"]])
def test_a_decay_is_a_number(value):
    refused(lambda: zoo.adam(b1=value), "b1:", repr(value), "below 1", error=NO_NUMBER)


def test_every_one_of_several_decays_is_looked_at():
    refused(lambda: Moment(jnp.asarray([0.5, 1.5])), "decay:", "1.5", "below 1")
    assert Moment(jnp.asarray([0.5, 0.9])).decay.shape == (2,)


def test_decays_that_are_allowed():
    """Negative control: the ends of the interval are where the text says they are."""
    for value in (0, 0.0, 0.5, 0.999999, np.float32(0.9)):
        assert [moment.decay for moment in zoo.adam(b1=value, b2=value).moments] == [value, value]


def test_lion_needs_a_second_decay_above_zero():
    refused(lambda: zoo.lion(b2=0.0), "b2:", "above 0", "got 0.0")


NON_NEGATIVE = [
    *[
        (name, build)
        for name in ("eps", "eps_root")
        for build in (zoo.rmsprop, zoo.adam, zoo.adamw, zoo.nadam)
    ],
    ("weight_decay", zoo.adamw),
    ("eps_root", zoo.signum),
    ("eps_root", zoo.lion),
]


@pytest.mark.parametrize("value", [-1e-8, NAN, INF])
@pytest.mark.parametrize(("name", "build"), NON_NEGATIVE)
def test_eps_and_weight_decay_are_not_negative(name, build, value):
    refused(lambda: build(**{name: value}), f"{name}:", repr(value), "at least 0")
    build(**{name: 0.0})


@pytest.mark.parametrize("build", [zoo.momentum, zoo.nesterov])
def test_an_unknown_form_is_answered_with_the_known_ones(build):
    refused(lambda: build(form="x"), "form:", "'x'", "'trace'", "'ema'")


# --- one's own optimizer


@pytest.mark.parametrize(
    ("transform", "parts"),
    [
        (jnp.sum, ["shape (2, 3)", "got shape ()"]),
        (lambda g: g.T, ["got shape (3, 2)"]),
        (lambda g: g.astype(int), ["dtype float32", "dtype int"]),
        (lambda g: (g, g), ["got (", "keeps shape"]),
        (lambda g: None, ["got None", "keeps shape"]),
    ],
)
def test_a_transform_keeps_shape_and_dtype(transform, parts):
    refused(lambda: Moment(0.9, transform), "transform:", *parts)


@pytest.mark.parametrize(
    ("combine", "parts"),
    [
        (lambda m, p, s: jnp.sum(m[0]), ["shape (2, 3)", "got shape ()"]),
        (lambda m, p, s: m[0][0], ["got shape (3,)"]),
        (lambda m, p, s: m[0] > 0, ["dtype float32", "dtype bool"]),
        (lambda m, p, s: m, ["got (", "keeps shape"]),
    ],
)
def test_a_combine_keeps_shape_and_dtype(combine, parts):
    refused(lambda: Optimizer(M, combine), "combine:", *parts)


@pytest.mark.parametrize("value", [None, 3.0, "sum"])
def test_transform_and_combine_are_functions(value):
    refused(lambda: Optimizer(M, value), "combine:", "a function", repr(value), error=TypeError)
    refused(lambda: Moment(0.9, value), "transform:", "a function", repr(value), error=TypeError)


@pytest.mark.parametrize("moments", [[], [0.9], [Moment(0.9), "g"]])
def test_an_optimizer_has_moments(moments):
    refused(lambda: Optimizer(moments, first), "moments:", "one or more", error=TypeError)


# --- learning rates and steps

RUNS = {
    "iterate": lambda rate, steps=3: iterate(PROBLEM, ADAM, PARAMS, rate, steps),
    "shadow": lambda rate, steps=3: shadow(PROBLEM, ADAM, PARAMS, rate, steps, check=False),
}
BUILDS = {
    **RUNS,
    "settled_state": lambda rate: settled_state(PROBLEM, ADAM, PARAMS, rate),
    "memoryless_step": lambda rate: memoryless_step(PROBLEM, ADAM, rate, method="taylor"),
    "modified_field": lambda rate: modified_field(PROBLEM, ADAM, rate, method="taylor"),
    "to_optax": lambda rate: ADAM.to_optax(rate),
}


@pytest.mark.parametrize("value", [0.0, -0.1, NAN, INF, True])
@pytest.mark.parametrize("call", BUILDS)
def test_a_learning_rate_is_positive_and_finite(call, value):
    refused(lambda: BUILDS[call](value), "learning_rate:", repr(value), "above 0", "finite")


@pytest.mark.parametrize("value", ["0.1", None])
@pytest.mark.parametrize("call", BUILDS)
def test_a_learning_rate_is_a_number(call, value):
    refused(lambda: BUILDS[call](value), "learning_rate:", repr(value), error=NO_NUMBER)


@pytest.mark.parametrize("value", [[0.1, 0.2], np.array([0.1, 0.2]), jnp.asarray([0.1, 0.2])])
@pytest.mark.parametrize("call", RUNS)
def test_a_learning_rate_is_one_number(call, value):
    refused(lambda: RUNS[call](value), "learning_rate:", "0.2", error=NO_NUMBER)


@pytest.mark.parametrize("value", [-0.1, NAN, INF])
@pytest.mark.parametrize("call", RUNS)
def test_a_schedule_gives_finite_rates(call, value):
    schedule = lambda n: value if n == 2 else 0.1
    refused(lambda: RUNS[call](schedule), "learning_rate:", str(value), "step 2", "at least 0")


@pytest.mark.parametrize("value", [-1, 2.5, "3", None, True])
@pytest.mark.parametrize("call", RUNS)
def test_steps_are_a_whole_number(call, value):
    refused(lambda: RUNS[call](0.1, value), "steps:", repr(value), "at least 0")


@pytest.mark.parametrize("value", [-1, 2.5])
def test_saving_is_every_whole_number_of_steps(value):
    refused(
        lambda: iterate(PROBLEM, ADAM, PARAMS, 0.1, 3, save_every=value), "save_every:", repr(value)
    )
    refused(lambda: shadow(PROBLEM, ADAM, PARAMS, 0.1, 3, start=value), "start:", repr(value))


# --- parameters

ENTRIES = {
    "iterate": lambda params: iterate(PROBLEM, ADAM, params, 0.1, 3),
    "shadow": lambda params: shadow(PROBLEM, ADAM, params, 0.1, 3, check=False),
    "settled_state": lambda params: settled_state(PROBLEM, ADAM, params, 0.1),
}


@pytest.mark.parametrize("params", [None, {}, [], jnp.zeros(0), {"a": jnp.zeros((0, 3))}])
@pytest.mark.parametrize("call", ENTRIES)
def test_there_are_parameters(call, params):
    refused(lambda: ENTRIES[call](params), "params:", "at least one float parameter")


@pytest.mark.parametrize("value", [jnp.asarray([1, 2]), 3, True, 1j, jnp.asarray([True])])
@pytest.mark.parametrize("call", ENTRIES)
def test_parameters_are_float(call, value):
    bad = {"a": jnp.ones(2), "b": [value]}
    refused(
        lambda: ENTRIES[call](bad), "params['b'][0]:", "a float array", "dtype", error=TypeError
    )


@pytest.mark.parametrize("value", ["weights", object()])
def test_parameters_are_arrays(value):
    refused(
        lambda: ENTRIES["iterate"]({"a": value}), "params['a']:", "a float array", error=TypeError
    )


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("call", ENTRIES)
def test_parameters_are_finite(call, value):
    bad = {"a": jnp.ones(2), "b": jnp.asarray([0.0, value])}
    refused(lambda: ENTRIES[call](bad), "params['b']:", "finite", "NaN or infinity")


# --- methods, kinds and orders


def test_an_unknown_method_is_answered_with_the_known_ones():
    for call in (
        lambda: shadow(PROBLEM, ADAM, PARAMS, 0.1, 3, method="tailor", check=False),
        lambda: memoryless_step(PROBLEM, ADAM, 0.1, method="tailor"),
        lambda: modified_field(PROBLEM, ADAM, 0.1, method="tailor"),
    ):
        refused(call, "method:", "'tailor'", "'taylor'", "'displaced'", "'inertial'")


def test_an_unknown_kind_is_answered_with_the_known_ones():
    for method, known in (("displaced", ["'flow'", "'iteration'"]), ("inertial", ["'flow'"])):
        call = lambda m=method: shadow(
            PROBLEM, ADAM, PARAMS, 0.1, 3, method=m, kind="ode", check=False
        )
        refused(call, "kind", method, "'ode'", *known)
    refused(
        lambda: shadow(
            PROBLEM, ADAM, PARAMS, 0.1, 3, method="inertial", kind="iteration", check=False
        ),
        "kind",
        "'iteration'",
        "'flow'",
    )


@pytest.mark.parametrize("order", [0, 3, 1.5, 2.0, "2", None])
def test_an_unknown_order_is_answered_with_the_known_ones(order):
    for call in (
        lambda: shadow(PROBLEM, ADAM, PARAMS, 0.1, 3, order=order),
        lambda: memoryless_step(PROBLEM, ADAM, 0.1, order=order, method="taylor"),
        lambda: modified_field(PROBLEM, ADAM, 0.1, order=order, method="taylor"),
    ):
        refused(call, "order", repr(order), "1", "2")
    refused(lambda: shadow(PROBLEM, ADAM, PARAMS, 0.1, 3, method="inertial", order=1), "order", "2")


def test_a_method_with_a_state_is_no_field_on_the_parameters():
    for build in (memoryless_step, modified_field):
        with pytest.raises(ValueError, match="inertial"):
            build(PROBLEM, ADAM, 0.1, method="inertial")


@pytest.mark.parametrize("step", [-1, 2.5, np.float64(3.0)])
@pytest.mark.parametrize("build", [memoryless_step, modified_field])
def test_a_step_of_a_field_is_a_whole_number(build, step):
    refused(lambda: build(PROBLEM, ADAM, 0.1)(step, PARAMS), "step:", "at least 0", str(step))


# --- problems


def test_a_problem_has_a_loss_or_a_gradient():
    refused(lambda: Problem(), "loss:", "grad", "neither")
    refused(lambda: Problem(hvp=lambda x, v: v), "loss:", "grad", "neither")


def test_host_functions_come_with_a_gradient():
    refused(lambda: Problem(lambda x: 1.0, traceable=False), "grad:", "traceable=False", "None")


@pytest.mark.parametrize("name", ["loss", "grad", "hvp"])
def test_what_a_problem_is_made_of_are_functions(name):
    given = {"loss": jnp.sum, name: 3.0}
    refused(lambda: Problem(**given), f"{name}:", "a function", "3.0", error=TypeError)


def entries(problem, params=PARAMS):
    return [
        lambda: iterate(problem, ADAM, params, 0.1, 3),
        lambda: shadow(problem, ADAM, params, 0.1, 3, check=False),
        lambda: settled_state(problem, ADAM, params, 0.1),
    ]


def test_a_loss_is_one_number():
    for call in entries(Problem(lambda x: x**2)):
        refused(call, "loss:", "scalar", "shape (2,)", ".mean()")
    for call in entries(Problem(lambda x: jnp.sum(x).astype(int))):
        refused(call, "loss:", "float scalar", "dtype int")


def test_a_loss_fits_the_parameters():
    problem = Problem(lambda p: jnp.sum(p["a"] @ p["b"]))
    refused(lambda: iterate(problem, zoo.sgd(), {"a": jnp.ones(2)}, 0.1, 1), "loss:", "KeyError")
    misfit = {"a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}
    refused(lambda: iterate(problem, zoo.sgd(), misfit, 0.1, 1), "loss: expected a function")


def test_a_gradient_is_like_the_parameters():
    for call in entries(Problem(grad=lambda x: {"x": x})):
        refused(call, "grad:", "a pytree like params", "'x'")
    for call in entries(Problem(grad=lambda x: x[:1])):
        refused(call, "grad:", "shape (2,)", "got shape (1,)")


def test_a_gradient_of_a_host_function_is_like_the_parameters():
    for call in entries(Problem(grad=lambda x: {"x": np.asarray(x)}, traceable=False)):
        refused(call, "grad:", "a pytree like params", "'x'")
    for call in entries(Problem(grad=lambda x: np.ones(3), traceable=False)):
        refused(call, "grad:", "shape (2,)", "got shape (3,)")


def test_a_product_is_like_the_parameters():
    problem = Problem(grad=lambda x: x, hvp=lambda x, v: v[:1])
    call = lambda: memoryless_step(problem, zoo.momentum(), 0.1, method="taylor")(3, PARAMS)
    refused(call, "hvp:", "shape (2,)", "got shape (1,)")


def test_a_method_with_products_needs_them_from_a_host_function():
    problem = Problem(grad=np.asarray, traceable=False)
    for method in ("taylor", "linearized"):
        refused(
            lambda m=method: shadow(problem, ADAM, PARAMS, 0.1, 3, method=m, check=False),
            "hvp:",
            "None",
            "displaced",
            "inertial",
        )


# --- states

TREE = {"a": jnp.ones((2, 3)), "b": jnp.ones(())}
NICE = ADAM.init(TREE)
BAD_STATES = {
    "of another shape": State((TREE["a"], TREE["a"]), jnp.zeros(())),
    "of another optimizer": zoo.momentum().init(TREE),
    "of other parameters": ADAM.init({"a": jnp.ones(2), "b": jnp.ones(())}),
    "of another dtype": ADAM.init(jax.tree.map(lambda leaf: leaf.astype("float32"), TREE)),
    "without moments": State((), jnp.zeros(())),
}


def with_state(state):
    problem = Problem(lambda tree: jnp.sum(tree["a"] ** 2) + tree["b"] ** 2)
    return [
        lambda: iterate(problem, ADAM, TREE, 0.1, 3, start=state),
        lambda: shadow(problem, ADAM, TREE, 0.1, 3, start=state, method="inertial", check=False),
    ]


@pytest.mark.parametrize("name", BAD_STATES)
def test_a_state_fits_the_optimizer_and_the_parameters(name):
    for call in with_state(BAD_STATES[name]):
        refused(call, "start:", "adam", "one pytree like params")


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (3.0, ["start:", "whole number", "3.0"]),
        (-1, ["start:", "at least 0", "-1"]),
        (True, ["start:", "whole number", "True"]),
        (None, ["start:", "'settled'", "None", "cold"]),
        ("cold", ["start:", "'settled'", "'cold'"]),
        (NICE.moments, ["start:", "adam", "State(moments, step)"]),
        (optax.sgd(0.1, momentum=0.9).init(TREE), ["start:", "adam", "one each"]),
    ],
)
def test_a_start_is_a_number_settled_or_a_state(start, said):
    for call in with_state(start):
        refused(call, *said)


def test_the_state_of_an_optax_run_is_a_start():
    start = optax.adam(0.1).init(TREE)
    for call in with_state(start):
        assert call().steps[0] == 0


@pytest.mark.parametrize("step", [-1.0, 2.5, NAN, -INF])
def test_the_step_of_a_state_is_a_whole_number_or_infinite(step):
    for call in with_state(State(NICE.moments, jnp.asarray(step))):
        refused(call, "state", "step", str(step))


def test_a_start_within_a_run_without_its_state_is_refused():
    problem = Problem(lambda tree: jnp.sum(tree["a"] ** 2) + tree["b"] ** 2)
    refused(
        lambda: shadow(problem, ADAM, TREE, 0.1, 3, start=5, method="inertial", check=False),
        "start:",
        "at step 5",
        "a State",
    )
