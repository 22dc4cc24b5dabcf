"""How long a state map remembers: found by running it, from its states and steps alone."""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .. import trees
from .base import AbstractOptimizer, State

LONGEST = 120_000  # steps that a state is given to forget
CHUNK = 512
LOSS = 100.0  # the value of the loss where none is known
SHOWN = 0.4  # of the digits that two states must share; averages get stuck in the rest


class NeverSettles(ValueError):
    """The state does not forget how it began."""


def settling(optimizer: AbstractOptimizer, params: PyTree) -> int:
    """After how many steps an optimizer has forgotten how its state began.

    Two runs at one place, of one made-up gradient, one of them after three others, are laid side
    by side: the first step from which all steps and states share ``SHOWN`` of the digits, and as
    many more as the other digits take, and an eighth. Depends on the shapes alone. Raises
    NeverSettles where they do not within ``LONGEST`` steps, where they are not finite, and for
    states that hold parameters.
    """
    with jax.ensure_compile_time_eval():
        found = _settling(*key_of(optimizer, params))
    if isinstance(found, str):
        raise NeverSettles(found)
    return found


class Hashed:
    """An optimizer by its identity, for the table of lengths."""

    def __init__(self, optimizer: AbstractOptimizer):
        self.optimizer = optimizer
        self.key = jax.tree.structure(optimizer), tuple(map(id, jax.tree.leaves(optimizer)))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and self.key == other.key


def remembered(optimizer: AbstractOptimizer, params: PyTree) -> int | None:
    """``settling``, None where the state never forgets."""
    try:
        return settling(optimizer, params)
    except NeverSettles:
        return None


def drawn(random: np.random.Generator, structure, shapes) -> PyTree:
    """Normal numbers of a pytree's shapes and dtypes."""
    leaves = [jnp.asarray(random.normal(size=shape), dtype) for shape, dtype in shapes]
    return jax.tree.unflatten(structure, leaves)


def key_of(optimizer: AbstractOptimizer, params: PyTree) -> tuple:
    """What a finding depends on: the optimizer and the shapes of the parameters."""
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params))
    return Hashed(optimizer), jax.tree.structure(params), shapes


@functools.lru_cache(maxsize=256)
def _settling(hashed: Hashed, structure, shapes) -> int | str:
    """The number of steps, or why there is none."""
    optimizer, random = hashed.optimizer, np.random.default_rng(0)
    params, grad = (drawn(random, structure, shapes) for _ in range(2))
    if _positional(hashed, structure, shapes):
        return _refusal(optimizer, "whose state holds parameters, where the run has been")
    state = optimizer.init(params, jnp.asarray(1e-3))
    once, state = _forgets(optimizer, state, params, grad, random)
    if isinstance(once, str):
        return once
    again, _ = _forgets(optimizer, state, params, grad, random)
    if isinstance(again, str) or again > 3 * once + 64:
        return _refusal(optimizer, "whose memory grows with the number of steps")
    return math.ceil(1.125 / SHOWN * max(once, again))


def _forgets(
    optimizer: AbstractOptimizer,
    state: State,
    params: PyTree,
    grad: PyTree,
    random: np.random.Generator,
) -> tuple[int | str, State]:
    """(how many steps it takes to forget three other gradients, the state then)."""
    rate, other = jnp.asarray(1e-3), state
    for _ in range(3):
        strange = jax.tree.map(lambda g: jnp.asarray(random.normal(size=g.shape), g.dtype), grad)
        other, _ = optimizer.update(other, strange, params, rate, jnp.asarray(LOSS))
    last, done, pair, largest = 0, 0, (state, other), None
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(params))
    while done < LONGEST:
        pair, largest, gaps = _gaps(optimizer, pair, largest, params, grad, rate)
        gaps = np.asarray(gaps)
        if not np.all(np.isfinite(gaps)):
            return (
                f"optimizer: expected finite steps of {optimizer.name} at a random gradient, got "
                f"NaN or infinity within {done + CHUNK} steps; use other options of it."
            ), pair[0]
        apart = np.flatnonzero(gaps > eps**SHOWN)
        if len(apart):
            last = done + int(apart[-1]) + 1
        done += CHUNK
        if done >= 2 * last:  # for as long again they have agreed
            return last, pair[0]
    return _refusal(
        optimizer,
        f"whose step still shows it after {LONGEST:,} steps, as accumulators and random numbers do",
    ), state


def _refusal(optimizer: AbstractOptimizer, reason: str) -> str:
    return (
        f"optimizer: expected a transformation that forgets how its state began, got "
        f"{optimizer.name}, {reason}; give the number of a step with "
        "method='displaced'."
    )


@eqx.filter_jit
def _gaps(
    optimizer: AbstractOptimizer, pair: tuple, largest, params: PyTree, grad: PyTree, rate: Array
):
    """The states after ``CHUNK`` steps, the largest size that each float leaf and step has had,
    and how far apart they were, over that size: the largest of all."""
    real = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    size = lambda leaf: jnp.linalg.norm(leaf.ravel()).astype(trees.real_dtype())

    def one(carry, _):
        pair, largest = carry
        taken = [optimizer.update(state, grad, params, rate, jnp.asarray(LOSS)) for state in pair]
        pair, moves = zip(*taken, strict=True)
        one, other = (
            [leaf for leaf in jax.tree.leaves((move, state.moments)) if real(leaf)]
            for move, state in zip(moves, pair, strict=True)
        )
        sizes = jnp.stack([size(leaf) for leaf in one])
        largest = jnp.maximum(largest, sizes)
        gap = jnp.stack([size(a - b) for a, b in zip(one, other, strict=True)])
        moving = len(jax.tree.leaves(moves[0]))
        scales = jnp.concatenate([sizes[:moving], largest[moving:]])
        return (pair, largest), jnp.max(gap / jnp.where(scales > 0, scales, 1.0))

    if largest is None:
        count = sum(map(real, jax.tree.leaves((params, pair[0].moments))))
        largest = jnp.zeros(count, trees.real_dtype())
    (pair, largest), gaps = jax.lax.scan(one, (pair, largest), None, length=CHUNK)
    return pair, largest, gaps


def mean_age(length: int, params: PyTree) -> int:
    """About how old a memory is, in steps, that takes ``length`` of them to settle; at least 1.

    >>> mean_age(0, jnp.ones(2, jnp.float32)), mean_age(170, jnp.ones(2, jnp.float32))
    (1, 9)
    """
    fading = -math.log(float(jnp.finfo(trees.finest_dtype(params)).eps))
    return max(1, round(length / (1.125 * fading) - 0.5))


def positional(optimizer: AbstractOptimizer, params: PyTree) -> bool:
    """Whether the state holds parameters: a fresh one knows where it was made."""
    with jax.ensure_compile_time_eval():
        return _positional(*key_of(optimizer, params))


@functools.lru_cache(maxsize=256)
def _positional(hashed: Hashed, structure, shapes) -> bool:
    random = np.random.default_rng(0)
    made = [hashed.optimizer.init(drawn(random, structure, shapes)) for _ in range(2)]
    one, other = map(jax.tree.leaves, made)
    pairs = [pair for pair in zip(one, other, strict=True) if eqx.is_inexact_array(pair[0])]
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in pairs)


def time_invariant(optimizer: AbstractOptimizer, params: PyTree) -> bool:
    """Whether a fresh state steps alike, at one gradient, at every step: all is corrected."""
    with jax.ensure_compile_time_eval():
        return _time_invariant(*key_of(optimizer, params))


@functools.lru_cache(maxsize=256)
def _time_invariant(hashed: Hashed, structure, shapes) -> bool:
    optimizer, random = hashed.optimizer, np.random.default_rng(0)
    params, grad = (drawn(random, structure, shapes) for _ in range(2))
    eps = max(float(jnp.finfo(dtype).eps) for _, dtype in shapes)
    if _positional(hashed, structure, shapes):
        return False
    return bool(_unlike(optimizer, params, grad) <= 64 * eps)


@eqx.filter_jit
def _unlike(optimizer: AbstractOptimizer, params: PyTree, grad: PyTree) -> Array:
    """The largest distance of a step from the first one, over its size."""

    def one(state, _):
        return optimizer.update(state, grad, params, jnp.asarray(1e-3), jnp.asarray(LOSS))

    _, moves = jax.lax.scan(one, optimizer.init(params, jnp.asarray(1e-3)), None, length=CHUNK)
    gaps = [
        jnp.max(jnp.linalg.norm((leaf - leaf[:1]).reshape(CHUNK, -1), axis=1))
        / jnp.linalg.norm(leaf[0].ravel())
        for leaf in jax.tree.leaves(moves)
    ]
    return jnp.max(jnp.stack([gap.astype(trees.real_dtype()) for gap in gaps]))


def pointwise(optimizer: AbstractOptimizer, params: PyTree) -> bool:
    """Whether no coordinate's step depends on the gradients of others."""
    with jax.ensure_compile_time_eval():
        return _pointwise(*key_of(optimizer, params))


@functools.lru_cache(maxsize=256)
def _pointwise(hashed: Hashed, structure, shapes) -> bool:
    optimizer, random = hashed.optimizer, np.random.default_rng(0)
    params, some, other = (drawn(random, structure, shapes) for _ in range(3))
    flat, unravel = ravel_pytree(params)
    signs = random.choice([-1.0, 1.0], flat.size)
    signs[0], signs[-1] = 1.0, -1.0  # of two coordinates or more, both halves have one
    half = jax.tree.map(lambda leaf: leaf > 0, unravel(jnp.asarray(signs, flat.dtype)))
    mixed = jax.tree.map(jnp.where, half, some, other)
    eps = max(float(jnp.finfo(dtype).eps) for _, dtype in shapes)
    states = [optimizer.init(params, jnp.asarray(1e-3)) for _ in range(2)]
    for _ in range(3):
        taken = [
            optimizer.update(state, grad, params, jnp.asarray(1e-3), jnp.asarray(LOSS))
            for state, grad in zip(states, (some, mixed), strict=True)
        ]
        states, moves = zip(*taken, strict=True)
        gaps = jax.tree.map(lambda h, a, b: jnp.where(h, jnp.abs(a - b), 0), half, *moves)
        leaves = zip(*map(jax.tree.leaves, (gaps, moves[0])), strict=True)
        if any(jnp.max(gap) > 64 * eps * jnp.max(jnp.abs(move)) for gap, move in leaves):
            return False
    return True
