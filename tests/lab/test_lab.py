"""The built-in data, model and problems."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.lab.data.load import load_digits
from shadowflow.lab.models import (
    bilinear_problem,
    cross_entropy,
    digits_problem,
    mlp_apply,
    mlp_init,
)


def test_digits():
    images, labels = load_digits()
    assert (images.shape, images.dtype) == ((1797, 64), "float32")
    assert abs(images.mean(dtype=float)) < 1e-6
    assert abs(images.std(dtype=float) - 1) < 1e-6
    assert (labels.shape, labels.dtype) == ((1797,), "int32")
    assert np.bincount(labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_mlp_has_the_stated_shapes_and_scale(dtype):
    params = mlp_init(jax.random.key(0), (400, 300, 10), dtype)
    assert [layer["weight"].shape for layer in params] == [(400, 300), (300, 10)]
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(params))
    assert jnp.std(params[0]["weight"]) == pytest.approx(1 / 20, rel=0.02)
    assert not any(layer["bias"].any() for layer in params)
    logits = mlp_apply(params, np.ones((3, 400), np.float32))
    assert (logits.shape, logits.dtype) == ((3, 10), dtype)


def test_mlp_against_numpy():
    params = mlp_init(jax.random.key(1), (5, 4, 3), jnp.float64)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)
    images = np.random.default_rng(0).normal(size=(7, 5))
    first, last = jax.tree.map(np.asarray, params)
    hidden = images @ first["weight"] + first["bias"]
    inner = np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)
    hidden = hidden / 2 * (1 + np.tanh(inner))
    expected = hidden @ last["weight"] + last["bias"]
    np.testing.assert_allclose(mlp_apply(params, images), expected, rtol=1e-12)


def test_mlp_refuses_too_few_sizes():
    with pytest.raises(ValueError, match="sizes: expected at least two"):
        mlp_init(jax.random.key(0), (64,))


def test_cross_entropy_against_numpy():
    logits = np.random.default_rng(0).normal(size=(6, 4))
    labels = np.array([0, 3, 1, 1, 2, 0])
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -np.log(chances[np.arange(6), labels]).mean()
    assert cross_entropy(jnp.asarray(logits), jnp.asarray(labels)) == pytest.approx(expected)


def test_digits_problem_starts_at_chance_with_one_loss_for_all_seeds():
    problem, params = digits_problem()
    again, others = digits_problem(seed=1)
    assert problem.loss is again.loss
    assert not np.array_equal(params[0]["weight"], others[0]["weight"])
    value, gradient = problem.value_and_gradient(params)
    assert value == pytest.approx(np.log(10), abs=0.15)
    assert jax.tree.map(jnp.shape, gradient) == jax.tree.map(jnp.shape, params)


def test_bilinear_problem_is_the_stated_loss():
    problem, params = bilinear_problem()
    assert params.tolist() == [2.8, 3.5]
    value, gradient = problem.value_and_gradient(params)
    rest = 1.5 - 2 * 2.8 * 3.5
    assert value == pytest.approx(rest**2 / 2)
    np.testing.assert_allclose(gradient, [-2 * 3.5 * rest, -2 * 2.8 * rest])
