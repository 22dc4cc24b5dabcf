"""Arithmetic on pytrees of parameters; every scalar takes the dtype of the leaf it meets."""

import math

import jax
import jax.numpy as jnp
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


def real_dtype() -> jnp.dtype:
    """The dtype of scalars that describe a run (weights, times, norms): JAX's default float."""
    return jnp.zeros(()).dtype


def finest_dtype(params: PyTree) -> jnp.dtype:
    """The dtype that rounds least among the parameters; it decides when a weight counts as 0."""
    return min((leaf.dtype for leaf in jax.tree.leaves(params)), key=lambda d: jnp.finfo(d).eps)


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


def all_finite(tree: PyTree) -> Array:
    """True where every coordinate of every leaf is finite."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))


def where(condition, tree: PyTree, other: PyTree) -> PyTree:
    """``tree`` where the scalar ``condition`` is true, else ``other``."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), tree, other)


def joined(tree: PyTree, like: PyTree) -> dict[str, Array]:
    """The leaves as one long array per dtype; pointwise work is faster on few arrays.

    like: the parameters, whose shapes the leaves have. Leading axes before these shapes stay.
    """
    groups: dict[str, list[Array]] = {}
    for leaf, shape in zip(jax.tree.leaves(tree), _shapes(like), strict=True):
        lead = leaf.shape[: leaf.ndim - len(shape)]
        groups.setdefault(str(leaf.dtype), []).append(leaf.reshape(*lead, math.prod(shape)))
    return {dtype: jnp.concatenate(leaves, axis=-1) for dtype, leaves in groups.items()}


def parted(vectors: dict[str, Array], like: PyTree) -> PyTree:
    """The inverse of ``joined``: leaves with the shapes of ``like``, after the leading axes."""
    used = dict.fromkeys(vectors, 0)
    leaves = []
    for leaf in jax.tree.leaves(like):
        dtype, size = str(leaf.dtype), leaf.size
        piece = vectors[dtype][..., used[dtype] : used[dtype] + size]
        leaves.append(piece.reshape(*piece.shape[:-1], *leaf.shape))
        used[dtype] += size
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _shapes(tree: PyTree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]
