"""Small models and the problems made of them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int, PRNGKeyArray

from ..problem import Problem
from .data.load import load, load_digits

Layers = list[dict[str, Array]]
TALL = 8


def mlp_init(
    key: PRNGKeyArray, sizes: Sequence[int] = (64, 32, 32, 10), dtype: DTypeLike = jnp.float32
) -> Layers:
    """Parameters of a multilayer perceptron with these widths of input, hidden layers and output.

    One dict a layer: "weight" (inputs, outputs), normal with variance 1/inputs, and "bias"
    (outputs,), zero. ValueError for fewer than two sizes, or a size below 1.

    >>> [layer["weight"].shape for layer in mlp_init(jax.random.key(0))]
    [(64, 32), (32, 32), (32, 10)]
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"sizes: expected at least two widths of 1 or more, got {tuple(sizes)}; "
            "for example (64, 32, 10)"
        )
    return [
        {
            "weight": jax.random.normal(layer_key, (inputs, outputs), dtype) / math.sqrt(inputs),
            "bias": jnp.zeros(outputs, dtype),
        }
        for layer_key, (inputs, outputs) in zip(
            jax.random.split(key, len(sizes) - 1), itertools.pairwise(sizes), strict=True
        )
    ]


def mlp_apply(
    params: Layers, images: Float[Array, "batch inputs"]
) -> Float[Array, "batch outputs"]:
    """Logits of a multilayer perceptron with GELU between its layers, a row per image.

    Computed in the dtype of the parameters, which are those of `mlp_init`.

    >>> mlp_apply(mlp_init(jax.random.key(0)), jnp.zeros((5, 64))).shape
    (5, 10)
    """
    values = jnp.asarray(images, params[0]["weight"].dtype)
    for layer in params[:-1]:
        values = jax.nn.gelu(product(values, layer["weight"]) + layer["bias"][None, :])
    return product(values, params[-1]["weight"]) + params[-1]["bias"][None, :]


def product(
    values: Float[Array, "batch inputs"], weight: Float[Array, "inputs outputs"]
) -> Float[Array, "batch outputs"]:
    """values · weight, so that its derivative by a tall weight is fast on a CPU.

    XLA multiplies (inputs × batch)(batch × outputs) at a third of the speed of its transpose where
    inputs are many and outputs few; the barrier keeps it from exchanging the two.

    >>> product(jnp.ones((1, 20)), jnp.ones((20, 1))).tolist()
    [[20.0]]
    """
    inputs, outputs = weight.shape
    if inputs < TALL * outputs:
        return values @ weight
    rows = jax.lax.optimization_barrier(weight.T)
    return jax.lax.dot_general(values, rows, (((1,), (1,)), ((), ())))


def cross_entropy(
    logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, ""]:
    """Mean cross entropy of logits against class numbers.

    >>> float(cross_entropy(jnp.zeros((3, 10)), jnp.arange(3)) - jnp.log(10.0))
    0.0
    """
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def perceptron_problem(
    images: Float[np.ndarray, "batch inputs"], labels: Int[np.ndarray, " batch"]
) -> Problem:
    """The mean cross entropy of `mlp_apply` on all the images at once, in the parameters' dtype.

    Calls with the same object share what was compiled for it.
    """

    def loss(params: Layers) -> Float[Array, ""]:
        return cross_entropy(mlp_apply(params, jnp.asarray(images)), jnp.asarray(labels))

    return Problem(loss)


@functools.cache
def _digits() -> Problem:
    return perceptron_problem(*load_digits())


def digits_problem(seed: int = 0) -> tuple[Problem, Layers]:
    """The default problem: a 64–32–32–10 perceptron on all 1,797 digits at once.

    The mean cross entropy and float32 parameters to start from. The problem is the same object for
    every seed, so that all calls share what was compiled. ImportError where scikit-learn is
    missing.

    >>> problem, params = digits_problem()
    >>> problem is digits_problem(seed=1)[0]
    True
    """
    return _digits(), mlp_init(jax.random.key(seed))


@functools.cache
def _mnist(count: int) -> Problem:
    data = load("mnist")
    images = data.train_images[:count].reshape(count, -1) / 255.0
    return perceptron_problem(images.astype(np.float32), data.train_labels[:count])


def mnist_problem(seed: int = 0, count: int = 10_000) -> tuple[Problem, Layers]:
    """The perceptron of the paper's Figure 3: 784–32–32–10 on the first MNIST images at once.

    The mean cross entropy and float32 parameters to start from. ValueError where the data are not
    there; the message says how to get them.
    """
    return _mnist(count), mlp_init(jax.random.key(seed), (784, 32, 32, 10))


BILINEAR = Problem(lambda params: 0.5 * (1.5 - 2 * params[0] * params[1]) ** 2)


def bilinear_problem() -> tuple[Problem, Float[Array, "2"]]:
    """The two-dimensional loss ½(3/2 − 2 θ₁ θ₂)², whose minimizers are the hyperbola θ₁ θ₂ = 3/4.

    It starts at (2.8, 3.5), in the default float dtype.

    >>> problem, params = bilinear_problem()
    >>> params.shape
    (2,)
    """
    return BILINEAR, jnp.array([2.8, 3.5])
