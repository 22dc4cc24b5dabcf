"""Collocation for any state map: fed the gradients of a path, walked until it has settled.

As in ``collocation`` the path through θ is a polynomial that makes the optimizer's own steps at R
nodes s_j = −σ j, and a sweep makes its directions better by one order. What differs is how a
direction is read: no moments are averaged, the optimizer itself runs along the path, from so far
back that it has forgotten where it began. Gradients are computed at the nodes and interpolated.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from ..memory import Memory
from ..optimizer import Optimizer, State
from ..problem import Problem
from . import collocation as nodes

LONGEST = 60_000  # steps that a state is given to forget
CHUNK = 512
SLACK = 8.0  # roundings in which two steps may differ that have forgotten how they began


class NeverSettles(ValueError):
    """The state does not forget how it began."""


class Walk(eqx.Module):
    """The matrices of an order: as in a ``Rule``, and those of the steps walked.

    ``weights``, ``ways`` [T, R]: per step from the oldest to the present, on (v_0, v_1 − v_0, …):
    the interpolated gradient from those at the nodes, and (θ − θ(s)) / h from the directions.
    """

    places: Array
    slope: Array
    weights: Array
    ways: Array
    spacing: int = eqx.field(static=True)

    @property
    def order(self) -> int:
        """R, the number of nodes."""
        return self.slope.shape[0]


def walk(order: int, spacing: int, settling: int) -> Walk:
    """The ``Walk`` of order R with nodes ``spacing`` steps apart, the oldest one settled.

    >>> walk(2, 1, 3).weights.shape  # three steps to settle, two nodes
    (5, 2)
    """
    step, inverse = 1 / spacing, nodes.summation(order, 1 / spacing)
    times = np.arange(-(settling + spacing * (order - 1)), 1) * step
    powers = lambda at: at[:, None] ** np.arange(1, order + 1)  # noqa: E731
    ways = powers(times) @ inverse / step
    return Walk(
        nodes.against_first(powers(-np.arange(float(order))) @ inverse / step),
        nodes.against_first(inverse[0]),
        nodes.against_first(nodes.lagrange(order, times)),
        nodes.against_first(ways), spacing,
    )  # fmt: skip


@eqx.filter_jit
def along(made: Walk, optimizer: Optimizer, rate: Array, params: PyTree, gradients: PyTree,
          directions: PyTree) -> tuple[PyTree, State]:  # fmt: skip
    """(directions at the nodes, the state before the present gradient is read)."""
    against = lambda tree: jax.tree.map(  # noqa: E731
        lambda v: jnp.concatenate([v[:1], v[1:] - v[:1]]), tree)  # fmt: skip
    gradients, directions = against(gradients), against(directions)

    def mixed(row, tree):
        dot = lambda v: jnp.tensordot(trees.cast(row, v), v, 1, precision=nodes.FULL)  # noqa: E731
        return jax.tree.map(dot, tree)

    def place(row):
        return trees.add(params, -rate, mixed(row, directions))

    def one(carry, rows):
        state, _, _ = carry
        grad, where = mixed(rows[0], gradients), place(rows[1])
        after, move = optimizer.update(state, grad, where, rate)
        return (after, state, trees.scale(-1 / rate, move)), None

    rows = made.weights, made.ways
    first = optimizer.init(place(made.ways[0]))
    begin = first, first, trees.zeros_like(params)
    oldest = rows[0].shape[0] - made.spacing * (made.order - 1)
    carry, _ = jax.lax.scan(one, begin, jax.tree.map(lambda row: row[:oldest], rows))

    def segment(carry, rows):
        carry, _ = jax.lax.scan(one, carry, rows)
        return carry, carry[2]

    cut = lambda row: row[oldest:].reshape(made.order - 1, made.spacing, made.order)  # noqa: E731
    final, later = jax.lax.scan(segment, carry, jax.tree.map(cut, rows))
    found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[::-1], carry[2], later)
    return found, final[1]


@eqx.filter_jit
def places(made: Walk, rate: Array, params: PyTree, directions: PyTree) -> PyTree:
    """θ(s_j) at all nodes of the path whose steps are −h times the directions."""
    ways = nodes.weighted(made.places, directions)
    return jax.tree.map(lambda p, way: p[None] - trees.cast(rate, p) * way, params, ways)


class Backwards(eqx.Module):
    """The direction of order R as a pure function of θ, settled: 1 + (R−1)² gradients."""

    order: int = eqx.field(static=True)
    spacing: int | None = eqx.field(static=True)

    def __call__(self, problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree,
                 phase: float) -> tuple[PyTree, PyTree]:  # fmt: skip
        """(first order, order R) of the direction: phase 0: (θ(0) − θ(1))/h; ½: −θ'(0)/h."""
        made = self.walk(optimizer, params)
        first, directions, _ = self.path(made, problem, optimizer, memory.rate, params)
        if phase:
            return first, nodes.weighted(made.slope, directions)
        return first, jax.tree.map(lambda leaf: leaf[0], directions)

    def walk(self, optimizer: Optimizer, params: PyTree) -> Walk:
        """The matrices, as long as the optimizer takes to settle."""
        length = settling(optimizer, params)
        spacing = self.spacing or default_spacing(length)
        return walk(self.order, spacing, length)

    def path(self, made: Walk, problem: Problem, optimizer: Optimizer, rate: Array,
             params: PyTree) -> tuple[PyTree, PyTree, State]:  # fmt: skip
        """(direction of first order, directions at the nodes, the state before the last step)."""
        here = nodes.gradient(problem, params)
        everywhere = lambda tree: jax.tree.map(  # noqa: E731
            lambda v: jnp.broadcast_to(v, (made.order, *v.shape)), tree)  # fmt: skip
        still = everywhere(trees.zeros_like(params))
        directions, state = along(made, optimizer, rate, params, everywhere(here), still)
        directions = everywhere(jax.tree.map(lambda leaf: leaf[0], directions))
        first = jax.tree.map(lambda leaf: leaf[0], directions)
        for _ in range(made.order - 1):
            where = places(made, rate, params, directions)
            gradients = nodes.gradients_at(problem, where, here)
            directions, state = along(made, optimizer, rate, params, gradients, directions)
        return first, directions, state


def direction(optimizer: Optimizer, order: int | str, spacing: float | None) -> Backwards:
    """The direction of an order; ValueError for what only moments can have."""
    if order == "auto":
        raise ValueError(
            f"order: expected a number for the optax transformation {optimizer.name}, got 'auto'; "
            "give one, and compare it with its neighbour."
        )
    if spacing is not None and (not float(spacing).is_integer() or spacing < 1):
        raise ValueError(
            f"spacing: expected whole steps for the optax transformation {optimizer.name}, which "
            f"is run step by step, got {spacing!r}."
        )
    return Backwards(int(order), None if spacing is None else int(spacing))


def past_state(problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, order: int,
               spacing: float | None) -> State:  # fmt: skip
    """The settled state just before the gradient at θ is read, its step ∞."""
    way = direction(optimizer, order, spacing)
    made = way.walk(optimizer, params)
    _, _, state = way.path(made, problem, optimizer, memory.rate, params)
    return State(state.moments, jnp.asarray(jnp.inf, trees.real_dtype()))


def default_spacing(settling: int) -> int:
    """The distance of the nodes: about the mean age of a memory that takes so long to fade.

    >>> default_spacing(0), default_spacing(329)  # of b = 0.9 in float64: b / (1 − b) = 9
    (1, 9)
    """
    return max(1, round(settling / 36.5))


def settling(optimizer: Optimizer, params: PyTree) -> int:
    """After how many steps an optimizer has forgotten how its state began.

    Two runs at one place, of one made-up gradient, one of them after three others, are laid side
    by side: the first step from which all steps and states agree to ``SLACK`` roundings, and then
    an eighth more. Depends on the shapes alone. Raises NeverSettles where they do not within
    ``LONGEST`` steps, or where they are not finite.
    """
    shapes = tuple((leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(params))
    with jax.ensure_compile_time_eval():
        return _settling(Hashed(optimizer), jax.tree.structure(params), shapes)


class Hashed:
    """An optimizer by its identity, for the table of lengths."""

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.key = jax.tree.structure(optimizer), tuple(map(id, jax.tree.leaves(optimizer)))

    def __hash__(self) -> int:
        return hash(self.key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hashed) and self.key == other.key


@functools.lru_cache(maxsize=256)
def _settling(hashed: Hashed, structure, shapes) -> int:
    optimizer, random = hashed.optimizer, np.random.default_rng(0)

    def drawn() -> PyTree:
        leaves = [jnp.asarray(random.normal(size=shape), dtype) for shape, dtype in shapes]
        return jax.tree.unflatten(structure, leaves)

    params, grad, rate = drawn(), drawn(), jnp.asarray(1e-3)
    states = [optimizer.init(params) for _ in range(2)]
    for _ in range(3):
        states[1], _ = optimizer.update(states[1], drawn(), params, rate)
    last, done = 0, 0
    eps = max(float(jnp.finfo(dtype).eps) for _, dtype in shapes)
    pair = tuple(states)
    while done < LONGEST:
        pair, gaps = _gaps(optimizer, pair, params, grad, rate)
        gaps = np.asarray(gaps)
        if not np.all(np.isfinite(gaps)):
            raise NeverSettles(
                f"optimizer: expected finite steps of {optimizer.name} at a random gradient, got "
                f"NaN or infinity within {done + CHUNK} steps."
            )
        apart = np.flatnonzero(gaps > SLACK * eps)
        if len(apart):
            last = done + int(apart[-1]) + 1
        done += CHUNK
        if done >= 2 * last:  # for as long again they have agreed
            return math.ceil(last * 1.125)
    raise NeverSettles(
        f"optimizer: expected a transformation that forgets how its state began, got "
        f"{optimizer.name}, whose step still shows it after {LONGEST:,} steps, as accumulators do; "
        "iterate runs it, and a decaying average in its place can be followed."
    )


@eqx.filter_jit
def _gaps(optimizer: Optimizer, pair: tuple, params: PyTree, grad: PyTree, rate: Array):
    """The states after ``CHUNK`` steps, and how far apart they and their steps were, over their
    size: the largest of all float leaves."""  # fmt: skip

    def apart(one: Array, other: Array) -> Array:
        size = jnp.linalg.norm(one.ravel())
        gap = jnp.linalg.norm((one - other).ravel())
        return (gap / jnp.where(size > 0, size, 1.0)).astype(trees.real_dtype())

    def one(pair, _):
        pair, moves = zip(*(optimizer.update(s, grad, params, rate) for s in pair), strict=True)
        both = [jax.tree.leaves((move, state.moments))
                for move, state in zip(moves, pair, strict=True)]  # fmt: skip
        gaps = [apart(*leaves) for leaves in zip(*both, strict=True)
                if jnp.issubdtype(leaves[0].dtype, jnp.floating)]  # fmt: skip
        return pair, jnp.max(jnp.stack(gaps))

    return jax.lax.scan(one, pair, None, length=CHUNK)


def refuse(optimizer: Optimizer, method: str) -> None:
    """ValueError where a method needs moments."""
    if method != "collocation":
        raise ValueError(
            f"method: expected 'collocation' for the optax transformation {optimizer.name}, which "
            f"has no moments, got {method!r}."
        )
