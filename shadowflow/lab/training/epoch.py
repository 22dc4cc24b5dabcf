"""One pass over all the images: the loss, its gradient and the accuracy, batch by batch.

The loop over batches runs on the host and every batch in compiled code: within a compiled loop
convolutions are slow on CPU. Sums are of float32, in the order of the batches.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ... import trees

Batch = tuple[Array, Array]


class Ways(NamedTuple):
    """How a network is run: its ``apply``, the name of the loss, the precision of products."""

    apply: Callable
    loss: str
    precision: str


class Sums(NamedTuple):
    """Over the images so far: their number, loss, right answers, and gradient (or None)."""

    count: Array
    loss: Array
    correct: Array
    grad: PyTree | None

    def means(self) -> tuple[Array, Array, PyTree | None]:
        """Mean loss, accuracy, and gradient of the mean loss."""
        grad = None if self.grad is None else trees.scale(1 / self.count, self.grad)
        return self.loss / self.count, self.correct / self.count, grad


def losses(
    name: str, logits: Float[Array, "batch classes"], labels: Int[Array, " batch"]
) -> Float[Array, " batch"]:
    """One loss per image: "cross_entropy", or "mse", the mean square against one-hot labels.

    >>> round(float(losses("mse", jnp.array([[1.0, 0.0, 0.0]]), jnp.array([1]))[0]), 3)
    0.667
    """
    if name == "cross_entropy":
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    wanted = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return jnp.mean((logits - wanted) ** 2, axis=1)


def one_pass(
    ways: Ways, params: PyTree, state: PyTree, batches: Iterable[Batch], *, train: bool
) -> tuple[Sums, PyTree]:
    """Sums over the batches at ``params``, and the network's state after them.

    train: with the gradient, and each batch in training mode, one after the other; what the
    network keeps of one (the running statistics of BatchNorm) is what the next one finds.
    Without it there is no gradient, and the state stays as it is.
    """
    zero = jnp.zeros((), trees.finest_dtype(params))
    total = Sums(zero, zero, zero, trees.zeros_like(params) if train else None)
    with exact(ways.precision):
        for images, labels in batches:
            total, state = _added(ways, train, total, params, state, images, labels)
    return total, state


@eqx.filter_jit
def _added(ways: Ways, train: bool, total: Sums, params, state, images, labels):
    def summed(params):
        logits, after = _logits(ways, params, state, images, train)
        values = losses(ways.loss, logits, labels).astype(total.loss.dtype)
        right = jnp.sum(jnp.argmax(logits, axis=1).astype(labels.dtype) == labels)
        return jnp.sum(values), (right, after)

    if train:
        (value, (right, after)), grad = jax.value_and_grad(summed, has_aux=True)(params)
        grad = jax.tree.map(jnp.add, total.grad, grad)
    else:
        (value, (right, after)), grad = summed(params), None
    right = right.astype(total.correct.dtype)
    return Sums(total.count + len(labels), total.loss + value, total.correct + right, grad), after


def _logits(
    ways: Ways, params: PyTree, state: PyTree, images: Array, train: bool
) -> tuple[Array, PyTree]:
    """Logits in float32 or finer, and the network's new state; products in ``precision``."""
    if ways.precision == "bfloat16":
        low = lambda leaf: leaf.astype(jnp.bfloat16)
        logits, state = ways.apply(jax.tree.map(low, params), state, low(images), train)
        return logits.astype(jnp.float32), state
    return ways.apply(params, state, images, train)


def exact(precision: str) -> AbstractContextManager[None]:
    """Products as exact as asked for, where the device would take fewer bits by default."""
    return jax.default_matmul_precision("tensorfloat32" if precision == "tf32" else "highest")
