"""What a state map is: how long it remembers, what it depends on, whether JAX differentiates it.

Found by running it, from its states and steps alone.
"""

import functools
import math
from collections.abc import Callable

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
MOST_KNOWN = 256  # answers that are remembered
RATE = 1e-3  # of the probes' steps
LOSS = 100.0  # the value of the loss where none is known
STEPS = 4  # of the runs that a derivative is compared on
WIDTHS = {32: (1e-1, 1e-2), 64: (1e-3, 1e-5)}  # of the difference, by the bits of a float
TOLERANCE = 0.02
SHOWN = 0.4  # of the digits that two states must share; averages get stuck in the rest


class NeverSettles(ValueError):
    """The state does not forget how it began."""


def probed(finding: Callable) -> Callable:
    """``found(optimizer, params)``: made once for an optimizer and shapes of its parameters.

    finding: ``finding(optimizer, draw)``; ``draw(random)`` gives normal numbers of these shapes.
    """
    known: dict = {}  # beside each answer its optimizer, so that no other gets the same identity

    @functools.wraps(finding)
    def found(optimizer: AbstractOptimizer, params: PyTree):
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params))
        parts, kind = jax.tree.flatten(optimizer)
        key = kind, tuple(map(id, parts)), jax.tree.structure(params), shapes

        def draw(random: np.random.Generator) -> PyTree:
            leaves = [jnp.asarray(random.normal(size=shape), dtype) for shape, dtype in shapes]
            return jax.tree.unflatten(key[2], leaves)

        if key not in known:
            while len(known) >= MOST_KNOWN:
                known.pop(next(iter(known)), None)
            with jax.ensure_compile_time_eval():
                known[key] = finding(optimizer, draw), optimizer
        return known[key][0]

    return found


def settling(optimizer: AbstractOptimizer, params: PyTree) -> int:
    """After how many steps an optimizer has forgotten how its state began.

    Two runs at one place, of one made-up gradient, one of them after three others, are laid side
    by side: the first step from which all steps and states share ``SHOWN`` of the digits, and as
    many more as the other digits take, and an eighth. Depends on the shapes alone. Raises
    NeverSettles where they do not within ``LONGEST`` steps, where they are not finite, and for
    states that hold parameters.
    """
    found = _settling(optimizer, params)
    if isinstance(found, str):
        raise NeverSettles(found)
    return found


def remembered(optimizer: AbstractOptimizer, params: PyTree) -> int | None:
    """``settling``, None where the state never forgets."""
    found = _settling(optimizer, params)
    return None if isinstance(found, str) else found


@probed
def _settling(optimizer: AbstractOptimizer, draw: Callable) -> int | str:
    """The number of steps, or why there is none."""
    random = np.random.default_rng(0)
    params, grad = draw(random), draw(random)
    try:
        if positional(optimizer, params):
            raise _refusal(optimizer, "whose state holds parameters, where the run has been")
        state = optimizer.init(params, jnp.asarray(RATE))
        once, state = _forgets(optimizer, state, params, grad, random)
        again, _ = _forgets(optimizer, state, params, grad, random)
        if again > 3 * once + 64:
            raise _refusal(optimizer, "whose memory grows with the number of steps")
    except NeverSettles as reason:
        return str(reason)
    return math.ceil(1.125 / SHOWN * max(once, again))


def _forgets(
    optimizer: AbstractOptimizer, state: State, params: PyTree, grad: PyTree, random
) -> tuple[int, State]:
    """(how many steps it takes to forget three other gradients, the state then)."""
    other = state
    for _ in range(3):
        strange = jax.tree.map(lambda g: jnp.asarray(random.normal(size=g.shape), g.dtype), grad)
        other, _ = stepped(optimizer, other, strange, params)
    last, done, pair, largest = 0, 0, (state, other), None
    least = trees.coarsest_eps(params) ** SHOWN
    while done < LONGEST:
        pair, largest, gaps = _gaps(optimizer, pair, largest, params, grad)
        gaps = np.asarray(gaps)
        if not np.all(np.isfinite(gaps)):
            raise NeverSettles(
                f"optimizer: expected finite steps of {optimizer.name} at a random gradient, got "
                f"NaN or infinity within {done + CHUNK} steps; use other options of it."
            )
        apart = np.flatnonzero(gaps > least)
        if len(apart):
            last = done + int(apart[-1]) + 1
        done += CHUNK
        if done >= 2 * last:  # for as long again they have agreed
            return last, pair[0]
    raise _refusal(
        optimizer,
        f"whose step still shows it after {LONGEST:,} steps, as accumulators and random numbers do",
    )


def _refusal(optimizer: AbstractOptimizer, reason: str) -> NeverSettles:
    return NeverSettles(
        f"optimizer: expected a transformation that forgets how its state began, got "
        f"{optimizer.name}, {reason}; give the number of a step with "
        "method='displaced'."
    )


def stepped(optimizer: AbstractOptimizer, state: State, grad: PyTree, params: PyTree) -> tuple:
    """(state, step taken) of a probe."""
    return optimizer.update(state, grad, params, jnp.asarray(RATE), jnp.asarray(LOSS))


@eqx.filter_jit
def _gaps(optimizer: AbstractOptimizer, pair: tuple, largest, params: PyTree, grad: PyTree):
    """The states after ``CHUNK`` steps, the largest size that each float leaf and step has had,
    and how far apart they were, over that size: the largest of all."""
    real = lambda leaf: jnp.issubdtype(leaf.dtype, jnp.floating)
    size = lambda leaf: jnp.linalg.norm(leaf.ravel()).astype(trees.real_dtype())

    def one(carry, _):
        pair, largest = carry
        taken = [stepped(optimizer, state, grad, params) for state in pair]
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


@probed
def positional(optimizer: AbstractOptimizer, draw: Callable) -> bool:
    """Whether the state holds parameters: a fresh one knows where it was made."""
    random = np.random.default_rng(0)
    made = [jax.tree.leaves(optimizer.init(draw(random))) for _ in range(2)]
    pairs = [pair for pair in zip(*made, strict=True) if eqx.is_inexact_array(pair[0])]
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@probed
def time_invariant(optimizer: AbstractOptimizer, draw: Callable) -> bool:
    """Whether a fresh state steps alike, at one gradient, at every step: all is corrected."""
    random = np.random.default_rng(0)
    params, grad = draw(random), draw(random)
    if positional(optimizer, params):
        return False
    return bool(_unlike(optimizer, params, grad) <= 64 * trees.coarsest_eps(params))


@eqx.filter_jit
def _unlike(optimizer: AbstractOptimizer, params: PyTree, grad: PyTree) -> Array:
    """The largest distance of a step from the first one, over its size."""

    def one(state, _):
        return stepped(optimizer, state, grad, params)

    _, moves = jax.lax.scan(one, optimizer.init(params, jnp.asarray(RATE)), None, length=CHUNK)
    gaps = [
        jnp.max(jnp.linalg.norm((leaf - leaf[:1]).reshape(CHUNK, -1), axis=1))
        / jnp.linalg.norm(leaf[0].ravel())
        for leaf in jax.tree.leaves(moves)
    ]
    return jnp.max(jnp.stack([gap.astype(trees.real_dtype()) for gap in gaps]))


@probed
def pointwise(optimizer: AbstractOptimizer, draw: Callable) -> bool:
    """Whether no coordinate's step depends on the gradients of others."""
    random = np.random.default_rng(0)
    params, some, other = draw(random), draw(random), draw(random)
    flat, unravel = ravel_pytree(params)
    signs = random.choice([-1.0, 1.0], flat.size)
    signs[0], signs[-1] = 1.0, -1.0  # of two coordinates or more, both halves have one
    half = jax.tree.map(lambda leaf: leaf > 0, unravel(jnp.asarray(signs, flat.dtype)))
    mixed = jax.tree.map(jnp.where, half, some, other)
    eps = trees.coarsest_eps(params)
    states = [optimizer.init(params, jnp.asarray(RATE)) for _ in range(2)]
    for _ in range(3):
        taken = [
            stepped(optimizer, state, grad, params)
            for state, grad in zip(states, (some, mixed), strict=True)
        ]
        states, moves = zip(*taken, strict=True)
        gaps = jax.tree.map(lambda h, a, b: jnp.where(h, jnp.abs(a - b), 0), half, *moves)
        leaves = zip(*map(jax.tree.leaves, (gaps, moves[0])), strict=True)
        if any(jnp.max(gap) > 64 * eps * jnp.max(jnp.abs(move)) for gap, move in leaves):
            return False
    return True


class NotDifferentiable(ValueError):
    """The derivative of the state map is zero, NaN or wrong."""


def check_derivative(optimizer: AbstractOptimizer, params: PyTree) -> None:
    """Raise NotDifferentiable unless jvp through ``update`` agrees with a central difference.

    Four steps from a fresh state, their gradients and places normal numbers, displaced along other
    normal numbers; the last step is compared to 2 % in norm, at the width that suits it better. A
    derivative that is zero for all displacements of gradients is none.
    """
    reason = _reason(optimizer, params)
    if reason:
        raise NotDifferentiable(
            f"method: expected a transformation that JAX differentiates for method='taylor', got "
            f"{optimizer.name}, whose forward derivative {reason}; method='displaced' takes none."
        )


@probed
def _reason(optimizer: AbstractOptimizer, draw: Callable) -> str:
    """What is wrong with the derivative; "" for nothing."""
    random = np.random.default_rng(0)
    path = [draw(random) for _ in range(2 * STEPS)]
    ways = [draw(random) for _ in range(2 * STEPS)]
    stay = trees.zeros_like(ways[STEPS:])
    bits = max(jnp.finfo(leaf.dtype).bits for leaf in jax.tree.leaves(path))
    slope = _slope(optimizer, path, ways)
    if not bool(trees.all_finite(slope)):
        return "is NaN or infinite at random gradients"
    if float(trees.norm(_slope(optimizer, path, [*ways[:STEPS], *stay]))) == 0:
        return "does not see the gradients, as its steps have jumps instead of slopes"
    gaps, sizes = [], [float(trees.norm(slope))]
    for width in WIDTHS[max(32, bits)]:
        ends = [_last(optimizer, path, ways, jnp.asarray(side * width)) for side in (1, -1)]
        secant = trees.scale(0.5 / width, trees.subtract(*ends))
        gaps.append(float(trees.norm(trees.subtract(secant, slope))))
        sizes.append(float(trees.norm(secant)))
    if not min(gaps) <= TOLERANCE * max(sizes):
        return f"is {100 * min(gaps) / max(sizes):.1f} % off from finite differences"
    return ""


@eqx.filter_jit
def _last(optimizer: AbstractOptimizer, path: list, ways: list, share: Array) -> PyTree:
    """The last step of a run whose gradients and places are displaced by ``share`` times ways."""
    seen = [trees.add(here, share, way) for here, way in zip(path, ways, strict=True)]
    rate = jnp.asarray(RATE)
    state = optimizer.init(seen[0], rate)
    move = seen[0]
    for grad, params in zip(seen[:STEPS], seen[STEPS:], strict=True):
        state, move = optimizer.update(state, grad, params, rate, jnp.asarray(LOSS))
    return trees.scale(1 / rate, move)


@eqx.filter_jit
def _slope(optimizer: AbstractOptimizer, path: list, ways: list) -> PyTree:
    run = lambda share: _last(optimizer, path, ways, share)
    return jax.jvp(run, (jnp.zeros(()),), (jnp.ones(()),))[1]
