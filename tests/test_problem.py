"""A problem gives the same gradients and Hessian-vector products in whatever way it is stated."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.problem import Problem, posed


def loss(x):
    return 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2 + 0.3 * x[1] ** 4


def by_hand(x):
    """(E, ∇E, ∇²E) of the same loss, in numpy."""
    a, b = np.asarray(x, float)
    rest = 1.5 - 2 * a * b
    gradient = np.array([-2 * b * rest, -2 * a * rest + 1.2 * b**3])
    mixed = 8 * a * b - 3
    hessian = np.array([[4 * b**2, mixed], [mixed, 4 * a**2 + 3.6 * b**2]])
    return 0.5 * rest**2 + 0.3 * b**4, gradient, hessian


PLACE, VECTOR = jnp.asarray([0.8, -1.3]), jnp.asarray([0.4, 2.5])
STATED = {
    "loss": Problem(loss),
    "grad": Problem(grad=jax.grad(loss)),
    "loss and grad": Problem(loss, grad=jax.grad(loss)),
    "grad and hvp": Problem(grad=jax.grad(loss), hvp=lambda x, v: jax.hessian(loss)(x) @ v),
    "host": Problem(
        lambda x: by_hand(x)[0],
        grad=lambda x: by_hand(x)[1],
        hvp=lambda x, v: by_hand(x)[2] @ np.asarray(v),
        traceable=False,
    ),
}


@pytest.mark.parametrize("name", STATED)
def test_gradient_value_and_hessian_vector_product_are_those_by_hand(name):
    problem, (energy, gradient, hessian) = STATED[name], by_hand(PLACE)
    value, same = problem.value_and_gradient(PLACE)
    linearized, product = problem.linearize(PLACE)
    for found in (problem.gradient(PLACE), same, linearized):
        assert isinstance(found, jax.Array)
        np.testing.assert_allclose(found, gradient, rtol=1e-13)
    np.testing.assert_allclose(product(VECTOR), hessian @ np.asarray(VECTOR), rtol=1e-13)
    knows_its_loss = problem.loss is not None
    np.testing.assert_allclose(value, energy if knows_its_loss else 0.0, rtol=1e-14)


def test_a_given_gradient_is_used_and_a_given_product_too():
    """Negative control: a wrong one shows up, so the derivative of the loss is not taken."""
    wrong = Problem(loss, grad=lambda x: 2 * jax.grad(loss)(x), hvp=lambda x, v: 7 * v)
    gradient = by_hand(PLACE)[1]
    np.testing.assert_allclose(wrong.gradient(PLACE), 2 * gradient, rtol=1e-13)
    np.testing.assert_allclose(wrong.value_and_gradient(PLACE)[1], 2 * gradient, rtol=1e-13)
    np.testing.assert_allclose(wrong.linearize(PLACE)[1](VECTOR), 7 * np.asarray(VECTOR))


def test_a_product_of_a_given_gradient_is_the_derivative_of_that_gradient():
    doubled = Problem(loss, grad=lambda x: 2 * jax.grad(loss)(x))
    expected = 2 * by_hand(PLACE)[2] @ np.asarray(VECTOR)
    np.testing.assert_allclose(doubled.linearize(PLACE)[1](VECTOR), expected, rtol=1e-13)


def test_linearizing_reads_the_gradient_once():
    calls = []
    problem = Problem(grad=lambda x: calls.append(1) or jax.grad(loss)(x))
    gradient, product = problem.linearize(PLACE)
    product(VECTOR), product(2 * VECTOR)
    assert len(calls) == 1
    np.testing.assert_allclose(gradient, by_hand(PLACE)[1], rtol=1e-13)


SHAPES = {
    "scalar": jnp.asarray(0.7),
    "vector": jnp.asarray([0.7, -0.2]),
    "matrix": jnp.asarray([[0.7, -0.2, 0.4]]),
    "nested": {"a": [jnp.asarray(0.7), (jnp.asarray([[0.1], [0.9]]),)], "b": jnp.zeros((2, 0))},
}


def quartic(params):
    return sum(0.25 * jnp.sum(leaf**4).astype(float) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("shape", SHAPES)
def test_any_pytree_of_arrays_will_do(shape):
    params = SHAPES[shape]
    gradient, product = Problem(quartic).linearize(params)
    curved = product(params)
    for leaf, slope, bend in zip(
        *(jax.tree.leaves(tree) for tree in (params, gradient, curved)), strict=True
    ):
        assert slope.shape == bend.shape == leaf.shape
        np.testing.assert_allclose(slope, leaf**3, rtol=1e-14)
        np.testing.assert_allclose(bend, 3 * leaf**3, rtol=1e-14)


def test_parameters_may_be_numbers_and_numpy_arrays():
    made = posed(Problem(quartic), {"a": 0.5, "b": np.ones(2, np.float32)}).params
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(made))
    assert made["b"].dtype == np.float32


def test_gradients_take_the_dtype_of_the_parameters():
    problem = Problem(grad=lambda x: np.asarray(x, np.float64), traceable=False)
    assert problem.gradient(jnp.ones(2, "float32")).dtype == np.float32
    value, gradient = Problem(quartic).value_and_gradient(jnp.ones(2, "float32"))
    assert gradient.dtype == np.float32 and value.dtype == np.float64


def test_a_loss_with_arrays_of_its_own_is_data():
    """An equinox module as loss: another module of the same kind is not compiled again."""

    class Distance(eqx.Module):
        target: jax.Array

        def __call__(self, x):
            return 0.5 * jnp.sum((x - self.target) ** 2)

    traces = []

    @jax.jit
    def gradient(problem, x):
        traces.append(1)
        return problem.gradient(x)

    for target in (1.0, -2.0):
        found = gradient(Problem(Distance(jnp.full(2, target))), PLACE)
        np.testing.assert_allclose(found, np.asarray(PLACE) - target)
    assert len(traces) == 1


def test_a_problem_stated_twice_is_the_same_to_a_compiler():
    traces = []

    @jax.jit
    def gradient(problem, x):
        traces.append(1)
        return problem.gradient(x)

    gradient(Problem(loss), PLACE)
    gradient(Problem(loss), PLACE)
    assert len(traces) == 1
    gradient(Problem(quartic), PLACE)
    assert len(traces) == 2


def test_host_functions_get_numbers_that_they_can_look_at():
    seen = []

    def grad(x):
        seen.append([float(value) for value in x])
        return np.asarray(x)

    Problem(grad=grad, traceable=False).value_and_gradient(PLACE)
    assert seen == [[0.8, -1.3]]


def test_checking_a_host_problem_does_not_call_it():
    def expensive(x):
        raise AssertionError("called")

    posed(Problem(expensive, grad=expensive, traceable=False), PLACE)
