"""Mini-batches: stacked data, and which batch each step sees."""

from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from . import checks
from .optimizers.base import as_pytree


class Shuffled(eqx.Module):
    """The schedule that ``shuffled`` returns."""

    key: Array
    count: int = eqx.field(static=True)

    def __call__(self, step):
        epoch, place = jnp.divmod(jnp.asarray(step), self.count)
        return jax.random.permutation(jax.random.fold_in(self.key, epoch), self.count)[place]


class WithReplacement(eqx.Module):
    """The schedule that ``with_replacement`` returns."""

    key: Array
    count: int = eqx.field(static=True)

    def __call__(self, step):
        return jax.random.randint(jax.random.fold_in(self.key, step), (), 0, self.count)


def shuffled(key: Array, count: int) -> Shuffled:
    """A schedule that sees every one of ``count`` batches once per epoch, each time in a new order.

    A pure function step → batch; the same key gives the same order.

    >>> order = shuffled(jax.random.key(0), 5)
    >>> sorted(int(order(step)) for step in range(5, 10))
    [0, 1, 2, 3, 4]
    """
    checks.key("key", key)
    return Shuffled(key, checks.count("count", count, 1))


def with_replacement(key: Array, count: int) -> WithReplacement:
    """A schedule that draws each step's batch anew, uniformly among ``count``.

    >>> draw = with_replacement(jax.random.key(0), 5)
    >>> all(0 <= int(draw(step)) < 5 for step in range(9))
    True
    """
    checks.key("key", key)
    return WithReplacement(key, checks.count("count", count, 1))


def pad(batches: Sequence[PyTree]) -> tuple[PyTree, np.ndarray]:
    """(batches, weights) for ``Problem``: unequal batches stacked, the shorter filled with zeros.

    batches: pytrees whose leaves differ only in the length of the leading axis, the examples.
    weights: [B, longest], 1 for an example and 0 for the filling. Raises ValueError for an empty
    batch, and for leaves of one batch that differ in length.

    >>> stacked, weights = pad([np.arange(3.0), np.arange(2.0)])
    >>> stacked.tolist(), weights.tolist()
    ([[0.0, 1.0, 2.0], [0.0, 1.0, 0.0]], [[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    """
    sizes = [
        {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batch)}
        for batch in batches
    ]
    if not sizes or any(len(size) != 1 or 0 in size for size in sizes):
        raise ValueError(
            "batches: expected one or more batches whose leaves have the same number of examples, "
            f"1 or more, got {[sorted(size) for size in sizes]}; leave empty batches out."
        )
    lengths = [size.pop() for size in sizes]
    longest = max(lengths)

    def filled(leaf):
        return np.pad(leaf, [(0, longest - len(leaf)), *[(0, 0)] * (np.ndim(leaf) - 1)])

    weights = np.arange(longest)[None, :] < np.asarray(lengths)[:, None]
    stacked = jax.tree.map(lambda *leaves: np.stack([filled(leaf) for leaf in leaves]), *batches)
    return stacked, weights.astype(float)


def checked(batches: PyTree, traceable: bool) -> PyTree:
    """``batches`` as arrays; ValueError where the leaves have no common leading axis."""
    lengths = {np.shape(leaf)[0] if np.ndim(leaf) else 0 for leaf in jax.tree.leaves(batches)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "batches: expected a pytree of arrays with one common leading axis, the batches, got "
            f"leading axes {sorted(lengths)}; for batches of unequal size see "
            "shadowflow.batching.pad."
        )
    words = [leaf for leaf in jax.tree.leaves(batches) if checks.is_words(leaf)]
    if traceable and words:
        raise TypeError(
            f"batches: expected arrays of numbers, got words {words[0]!r}; encode them as numbers, "
            "or give the problem traceable=False."
        )
    return jax.tree.map(jnp.asarray if traceable else np.asarray, batches)


def count(batches: PyTree) -> int:
    """B, the length of the leading axis."""
    return len(jax.tree.leaves(batches)[0])


def checked_schedule(schedule, batches: PyTree | None) -> Callable | Array | None:
    """A schedule as a pytree; ValueError without batches, and for numbers that name no batch."""
    if schedule is None:
        return None
    if batches is None:
        raise ValueError("schedule: expected batches beside it, got none; pass batches=.")
    if callable(schedule):
        return as_pytree(schedule)
    numbers = np.asarray(schedule) if checks.is_concrete(schedule) else schedule
    if numbers.ndim != 1 or not numbers.size or not jnp.issubdtype(numbers.dtype, jnp.integer):
        raise ValueError(
            "schedule: expected None (cyclic), a function step → batch or a list of whole "
            f"numbers, one per step, got {schedule!r}; for example [0, 2, 1]."
        )
    if checks.is_concrete(schedule):
        refuse_outside(numbers, count(batches))
    return jnp.asarray(numbers, jnp.int32)


def refuse_outside(numbers: np.ndarray, count: int) -> None:
    """ValueError where a schedule names a batch that does not exist."""
    outside = np.flatnonzero((numbers < 0) | (numbers >= count))
    if outside.size:
        raise ValueError(
            f"schedule: expected batches 0 to {count - 1}, got {numbers[outside[0]]} at step "
            f"{outside[0]}; take it modulo {count}."
        )


def checked_weights(weights, batches: PyTree | None, grad) -> Array | None:
    """Weights [B, size] as an array, or ValueError."""
    if weights is None:
        return None
    if batches is None or grad is not None:
        raise ValueError(
            "weights: expected batches=, and a loss that returns one value per example, with them, "
            f"got {'no batches' if batches is None else 'grad='}; without these, apply the weights "
            "in your own gradient."
        )
    checks.number("weights", weights, least=0, single=False)
    weights = jnp.asarray(weights)
    if weights.ndim != 2 or len(weights) != count(batches):
        raise ValueError(
            f"weights: expected one row of example weights per batch, [{count(batches)}, size], "
            f"got shape {weights.shape}; shadowflow.batching.pad makes both."
        )
    if checks.is_concrete(weights) and not np.all(np.sum(np.asarray(weights), axis=1) > 0):
        raise ValueError(
            "weights: expected a positive sum for every batch, got a batch of zeros; leave that "
            "batch out."
        )
    return weights


def shares(weights: Array | None, count: int) -> Array | np.ndarray:
    """The share of each batch in the whole loss: the sum of its weights; equal without weights."""
    if weights is None:
        return np.full(count, 1 / count)
    return jnp.sum(weights, axis=1) / jnp.sum(weights)


def batch_index(schedule: Callable | Array | None, count: int, step) -> Int[Array, "*shape"]:
    """The number of the batch that ``step`` sees; ``step`` may be an array of any shape."""
    step = jnp.asarray(step, jnp.int32)
    if schedule is None:
        return step % count
    if not callable(schedule):
        return schedule[step]
    if step.ndim == 0:
        return jnp.asarray(schedule(step), jnp.int32)
    return jax.vmap(lambda n: jnp.asarray(schedule(n), jnp.int32))(step)


class LookedUp(eqx.Module):
    """A schedule as the numbers of the batches of steps ``first``, first + 1, …"""

    numbers: Array
    first: Array

    def __call__(self, step):
        return self.numbers[step - self.first]


def table(
    schedule: Callable | Array | None, count: int, end: int, first: int = 0
) -> Callable | Array | None:
    """A schedule as an array, checked for steps first … end − 1; None (cyclic) stays None.

    Its length is rounded up to a power of two, so that runs of many lengths share a compilation.
    """
    if schedule is None:
        return None
    if not callable(schedule):
        if len(schedule) < end:
            raise ValueError(
                f"schedule: expected a batch for each of {end} steps, got {len(schedule)}; give "
                "more, or a function of the step."
            )
        return schedule
    steps = max(end - first, 1)
    length = 1 << max(6, (steps - 1).bit_length())
    numbers = np.pad(_evaluated(schedule, first, steps), (0, length - steps), mode="edge")
    refuse_outside(numbers, count)
    found = jnp.asarray(numbers, jnp.int32)
    return LookedUp(found, jnp.asarray(first, jnp.int32)) if first else found


def _looked_up(schedule: Callable, step: int):
    try:
        return schedule(step)
    except Exception as error:
        raise ValueError(
            f"schedule: expected a function step → whole number, got {type(error).__name__} at "
            f"step {step}: {error}; call it by itself to see where."
        ) from error


def _evaluated(schedule: Callable, first: int, steps: int) -> np.ndarray:
    """The schedule's values: all at once where JAX can trace it, else one by one."""
    try:
        numbers = np.asarray(jax.jit(jax.vmap(schedule))(jnp.arange(first, first + steps)))
    except Exception:  # of whatever kind: what cannot be traced is called step by step
        numbers = np.asarray([_looked_up(schedule, n) for n in range(first, first + steps)])
    if numbers.shape != (steps,) or not np.issubdtype(numbers.dtype, np.integer):
        raise ValueError(
            "schedule: expected a function step → whole number, got values of shape "
            f"{numbers.shape[1:]} and dtype {numbers.dtype}; for example lambda step: step % 3."
        )
    return numbers
