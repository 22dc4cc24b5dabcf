"""Arithmetic on pytrees of parameters; every scalar takes the dtype of the leaf it meets."""

from collections.abc import Callable, Iterable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree


def cast(scalar, leaf: Array) -> Array:
    """``scalar`` as an array of ``leaf``'s dtype."""
    return jnp.asarray(scalar, leaf.dtype)


def scale(scalar, tree: PyTree) -> PyTree:
    """``scalar * tree``, leaf by leaf, in the dtype of each leaf."""
    return jax.tree.map(lambda leaf: cast(scalar, leaf) * leaf, tree)


def add(tree: PyTree, scalar, other: PyTree) -> PyTree:
    """``tree + scalar * other``, leaf by leaf, in the dtype of each leaf of ``tree``."""
    return jax.tree.map(lambda a, b: a + cast(scalar, a) * b, tree, other)


def subtract(tree: PyTree, other: PyTree) -> PyTree:
    """``tree - other``, leaf by leaf."""
    return jax.tree.map(jnp.subtract, tree, other)


def zeros_like(tree: PyTree) -> PyTree:
    """Zeros with the shapes and dtypes of ``tree``."""
    return jax.tree.map(jnp.zeros_like, tree)


def almost_zero(leaf: Array) -> float:
    """A number so small that nothing sees it, of which a share of rounding's size is not yet 0."""
    info = jnp.finfo(leaf.dtype)
    return float(info.tiny) / float(info.eps)


def real_dtype() -> jnp.dtype:
    """The dtype of scalars that describe a run (weights, times, norms): JAX's default float."""
    return jnp.zeros(()).dtype


def finest_dtype(params: PyTree) -> jnp.dtype:
    """The dtype that rounds least among the parameters; it decides when a weight counts as 0."""
    return min((leaf.dtype for leaf in jax.tree.leaves(params)), key=lambda d: jnp.finfo(d).eps)


def coarsest_eps(params: PyTree) -> float:
    """The largest relative rounding among the parameters."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))


def total(tree: PyTree) -> Array:
    """The sum over all coordinates of all leaves, as a scalar."""
    sums = [jnp.sum(leaf).astype(real_dtype()) for leaf in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(sums))


def inner(tree: PyTree, other: PyTree) -> Array:
    """The inner product over all coordinates of all leaves."""
    return total(jax.tree.map(jnp.multiply, tree, other))


def norm(tree: PyTree) -> Array:
    """The two-norm over all coordinates of all leaves."""
    return jnp.sqrt(inner(tree, tree))


def sizes(first: PyTree, second: PyTree) -> tuple[Array, Array]:
    """(|second − first|, |first|): the correction and the first-order step of a record."""
    return norm(subtract(second, first)), norm(first)


def is_traced(*trees: PyTree) -> bool:
    """Whether JAX is tracing one of these values, or everything that is computed now, as in jit."""
    leaves = jax.tree.leaves((trees, jnp.zeros(())))
    return any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)


def all_finite(tree: PyTree) -> Array:
    """True where every coordinate of every leaf is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def stays_finite(before: PyTree, after: PyTree) -> Array:
    """True where nothing that was finite has ceased to be so; ±inf may be a state's own start."""
    pairs = zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True)
    kept = [
        jnp.all(jnp.isfinite(b) | ~jnp.isfinite(a))
        for a, b in pairs
        if jnp.issubdtype(jnp.result_type(b), jnp.inexact)
    ]
    return jnp.all(jnp.stack([jnp.asarray(True), *kept]))


def where(condition, tree: PyTree, other: PyTree) -> PyTree:
    """``tree`` where the scalar ``condition`` is true, else ``other``."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, other)


def row(stacked: PyTree, index) -> PyTree:
    """One row of a stacked pytree."""
    return jax.tree.map(lambda leaf: leaf[index], stacked)


def stack(rows: Iterable[PyTree]) -> PyTree:
    """Pytrees alike, stacked along a new leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)


def flat_rows(stacked: PyTree) -> np.ndarray:
    """All leaves side by side, one row of floats per row of the leading axis."""
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(stacked)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


@np.errstate(over="ignore", invalid="ignore")  # of what diverges
def row_norms(leaves: Iterable) -> tuple[np.ndarray, np.ndarray]:
    """(two-norm, max-norm) of each row of some leaves, one leaf being looked at at a time."""
    square, most = 0.0, 0.0
    for leaf in leaves:
        flat = np.asarray(leaf).reshape(len(leaf), -1)
        flat = flat.astype(np.promote_types(flat.dtype, np.float32), copy=False)
        if flat.size:
            most = np.maximum(most, np.maximum(flat.max(axis=1), -flat.min(axis=1)))
        square = square + np.einsum("ij,ij->i", flat, flat, dtype=float, casting="same_kind")
    return np.sqrt(square), np.asarray(most, float)


def repeated(tree: PyTree, count: int) -> PyTree:
    """``count`` rows, all of them ``tree``."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), tree)


def mapped(function: Callable, inputs: PyTree, traceable: bool) -> PyTree:
    """``function`` of every row of ``inputs``, the results stacked.

    In one traced loop; in a Python loop where it is not traceable and needs concrete arrays.
    """
    return scanned(lambda _, one: ((), function(one)), (), inputs, traceable)[1]


def scanned(body: Callable, carry: PyTree, inputs: PyTree, traceable: bool) -> tuple:
    """``jax.lax.scan``, or the same in a Python loop where ``body`` is not traceable."""
    if traceable:
        return jax.lax.scan(body, carry, inputs)
    records = []
    for i in range(len(jax.tree.leaves(inputs)[0])):
        carry, record = body(carry, row(inputs, i))
        records.append(record)
    return carry, stack(records)
