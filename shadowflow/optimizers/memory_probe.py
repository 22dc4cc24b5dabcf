"""What a state map is: how long it remembers, what it depends on, whether JAX differentiates it.

Found by running it, from its states and steps alone.
"""

import functools
import math
import re
from collections.abc import Callable
from typing import Any

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
COORDINATES = 256  # of a leaf that are probed, or a power of two times as many
STEPS = 4  # of the runs that a derivative is compared on
WIDTHS = {32: (1e-1, 1e-2), 64: (1e-3, 1e-5)}  # of the difference, by the bits of a float
TOLERANCE = 0.02
SHOWN = 0.4  # of the digits that two states must share; averages get stuck in the rest
FADING = 0.8  # of 1 / n: what falls no faster from the digits shown on is a sum, no average
MARGIN = 1.125 / SHOWN  # from the steps that these take to those of all digits, and an eighth


class NeverSettles(ValueError):
    """The state does not forget how it began."""


def once(finding: Callable) -> Callable:
    """``found(optimizer, params, *more)``: made once for an optimizer and shapes of its parameters.

    finding: ``finding(optimizer, shapes, *more)``; shapes: params as ``jax.ShapeDtypeStruct``.
    """
    known: dict = {}  # beside each answer its optimizer, so that no other gets the same identity

    @functools.wraps(finding)
    def found(optimizer: AbstractOptimizer, params: PyTree, *more):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
        leaves, structure = jax.tree.flatten(shapes)
        parts, kind = jax.tree.flatten(optimizer)
        key = kind, tuple(map(id, parts)), structure, tuple(leaves), more
        if key not in known:
            while len(known) >= MOST_KNOWN:
                known.pop(next(iter(known)), None)
            with jax.ensure_compile_time_eval():
                known[key] = finding(optimizer, shapes, *more), optimizer
        return known[key][0]

    return found


def probed(finding: Callable) -> Callable:
    """As ``once``, on a part of each leaf: ``finding(optimizer, draw, *more)``.

    ``draw(random)`` gives normal numbers in the shapes of ``part_of``.
    """

    @once
    @functools.wraps(finding)
    def found(optimizer: AbstractOptimizer, shapes: PyTree, *more):
        part = part_of(optimizer, shapes)

        def draw(random: np.random.Generator) -> PyTree:
            normal = lambda leaf: jnp.asarray(random.normal(size=leaf.shape), leaf.dtype)
            return jax.tree.map(normal, part)

        return finding(optimizer, draw, *more)

    return found


@once
def part_of(optimizer: AbstractOptimizer, shapes: PyTree) -> PyTree:
    """Shapes of a few hundred coordinates per leaf that a state map treats as it does the whole.

    Leaves, their names, ranks and dtypes stay, and which side of a leaf is the longer one. What a
    transformation makes of a shape (factored second moments from some size on, matrices turned
    before they are orthogonalised) shows in the operations that JAX traces of it: the parts grow
    until these are those of the whole parameters. What depends on sizes by numbers alone, as norms
    of a leaf do, is probed at the sizes of the part.
    """
    count, whole = COORDINATES, None
    while True:
        part = jax.tree.map(functools.partial(_cut, count), shapes)
        if jax.tree.leaves(part) == jax.tree.leaves(shapes):
            return shapes
        try:
            whole = whole or _operations(optimizer, shapes)
            if _operations(optimizer, part) == whole:
                return part
        except Exception:  # it fits these shapes alone
            return shapes
        count *= 4


def _cut(count: int, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """``leaf`` with about ``count`` coordinates: its longer sides cut, in the same order of length.

    >>> _cut(256, jax.ShapeDtypeStruct((3, 1000, 500), jnp.float32)).shape
    (3, 10, 9)
    """
    if not leaf.ndim:
        return leaf
    sides = sorted(set(leaf.shape))
    free = lambda edge: [side for side in sides if side > edge]
    edge = max(2, round(count ** (1 / leaf.ndim)))
    while free(edge) and math.prod(min(side, edge + 1) for side in leaf.shape) <= count:
        edge += 1
    cut = {side: min(side, edge + i) for i, side in enumerate(free(edge))}
    return jax.ShapeDtypeStruct(tuple(cut.get(side, side) for side in leaf.shape), leaf.dtype)


def _operations(optimizer: AbstractOptimizer, shapes: PyTree) -> list[str]:
    """The operations of ``init`` and ``update`` as JAX traces them, without shapes and names."""
    run = lambda params: stepped(optimizer, optimizer.init(params), params, params)
    return re.findall(r"= ([a-z_0-9]+)", str(jax.make_jaxpr(run)(shapes)))


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


def remembered(
    optimizer: AbstractOptimizer, params: PyTree, within: int | None = None
) -> int | None:
    """``settling``, None where the state never forgets, or not within so many steps."""
    found = _settling(optimizer, params, within)
    return None if isinstance(found, str) else found


@probed
def _settling(optimizer: AbstractOptimizer, draw: Callable, within: int | None = None) -> int | str:
    """The number of steps, or why there is none (``within`` so many)."""
    most = LONGEST if within is None else min(LONGEST, math.ceil(within / MARGIN))
    random = np.random.default_rng(0)
    params, grad = draw(random), draw(random)
    try:
        if positional(optimizer, params):
            raise _refusal(optimizer, "whose state holds parameters, where the run has been")
        state = optimizer.init(params, jnp.asarray(RATE))
        first, state = _forgets(optimizer, state, params, grad, random, most)
        again, _ = _forgets(optimizer, state, params, grad, random, most)
        if again > 3 * first + 64:
            raise _refusal(optimizer, "whose memory grows with the number of steps")
    except NeverSettles as reason:
        return str(reason)
    return math.ceil(MARGIN * max(first, again))


def _forgets(
    optimizer: AbstractOptimizer, state: State, params: PyTree, grad: PyTree, random, most: int
) -> tuple[int, State]:
    """(how many steps it takes to forget three other gradients, the state then)."""
    fresh, other = float(state.step) == 0, state
    for _ in range(3):
        strange = jax.tree.map(lambda g: jnp.asarray(random.normal(size=g.shape), g.dtype), grad)
        other, _ = stepped(optimizer, other, strange, params)
    last, done, pair, largest = 0, 0, (state, other), None
    least = trees.coarsest_eps(params) ** SHOWN
    while done < LONGEST and last <= most:
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
        fades = not (fresh and last) or gaps[-1] * done < FADING * least * last
        if done >= 2 * last and fades:  # for as long again they have agreed
            return last, pair[0]
    raise _refusal(
        optimizer,
        f"whose step still shows it after {done:,} steps, as accumulators and random numbers do",
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


def mean_age(length, params: PyTree) -> Any:
    """About how old a memory is, in steps, that takes ``length`` of them to settle; at least 1.

    A whole number; an array for a ``length`` that is one.

    >>> mean_age(0, jnp.ones(2, jnp.float32)), mean_age(170, jnp.ones(2, jnp.float32))
    (1, 9)
    """
    fading = -math.log(float(jnp.finfo(trees.finest_dtype(params)).eps))
    age = length / (1.125 * fading) - 0.5
    if isinstance(length, int):
        return max(1, round(age))
    return jnp.maximum(1, jnp.round(age)).astype(jnp.int32)


@probed
def positional(optimizer: AbstractOptimizer, draw: Callable) -> bool:
    """Whether the state holds parameters: a fresh one knows where it was made."""
    random = np.random.default_rng(0)
    made = [jax.tree.leaves(optimizer.init(draw(random))) for _ in range(2)]
    pairs = [pair for pair in zip(*made, strict=True) if eqx.is_inexact_array(pair[0])]
    return any(not np.array_equal(a, b, equal_nan=True) for a, b in pairs)


@probed
def time_invariant(optimizer: AbstractOptimizer, draw: Callable) -> bool:
    """Whether a fresh state steps alike, at one gradient, at every step: all is corrected.

    And in proportion to the learning rate, so that with a schedule too its past is straight.
    """
    random = np.random.default_rng(0)
    params, grad = draw(random), draw(random)
    if positional(optimizer, params):
        return False
    return bool(_unlike(optimizer, params, grad) <= 64 * trees.coarsest_eps(params))


@eqx.filter_jit
def _unlike(optimizer: AbstractOptimizer, params: PyTree, grad: PyTree) -> Array:
    """The largest distance of a direction from the first one, over its size; the rate falls."""
    rates = RATE / (1.0 + jnp.arange(CHUNK) % 4)

    def one(state, rate):
        state, move = optimizer.update(state, grad, params, rate, jnp.asarray(LOSS))
        return state, trees.scale(1 / rate, move)

    _, found = jax.lax.scan(one, optimizer.init(params, rates[0]), rates)
    norms = lambda leaf: jnp.linalg.norm(leaf.reshape(CHUNK, -1), axis=1).astype(trees.real_dtype())
    gaps = [
        jnp.max(norms(leaf - leaf[:1])) / jnp.where(norms(leaf)[0] > 0, norms(leaf)[0], 1.0)
        for leaf in jax.tree.leaves(found)
    ]
    return jnp.max(jnp.stack(gaps))


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
