"""The past of a step replayed: any state map, fed the gradients it saw, as far as θ tells.

Step n reads what its state kept of the steps before. Seen from θ_n = θ they were at θ + v_k,
v_k = Σ_{l=k}^{n−1} h_l F_l(θ), F_l the direction of step l with every gradient at θ. So the state
map is run twice from where it began (or from so far back that it has forgotten): with ∇E(θ) all
along, which gives F_l and the ways v_k, and with the gradients at θ + v_k. These lie on a line or
in a plane through real gradients at a few places, as the ways point in few directions. Nothing in
the state map is differentiated, unless ``linear`` asks for Taylor's form: forward derivatives.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import AbstractOptimizer, State, rate_at
from ..optimizers.memory_probe import check_derivative, mean_age, positional, settling
from .base import AbstractDirection


class Past(eqx.Module):
    """The steps to replay: ``first`` to ``last``, from the state ``origin`` (None: a fresh one).

    ages: how far back the places are whose gradients are read, in steps, the first one's first;
    settled: all directions are the last one, and steps are numbered −length … 0. straight: they
    all are alike. reads: the learning rate that the last step is read with, which is its own,
    ``rate``, or any where that is 0 and a direction is asked for. positional: the state holds
    parameters, so that it is given those that its own steps lead to, from a start so far off that
    they end at θ.
    """

    optimizer: AbstractOptimizer
    first: Array
    last: Array
    ages: Array
    rate: Array
    reads: Array
    rates: Any
    origin: State | None
    settled: bool = eqx.field(static=True)
    straight: bool = eqx.field(static=True)
    positional: bool = eqx.field(static=True)

    @property
    def unit(self) -> Array:
        """What the last step is divided by: its rate, 1 where that is 0."""
        return jnp.where(self.reads > 0, self.reads, 1.0)

    def rate_of(self, step) -> Array:
        """The learning rate of a step."""
        return self.rate if self.settled else rate_at(self.rates, step)

    def begun(self, place: PyTree) -> State:
        """The state before the first step to replay, which began at ``place``."""
        return self.optimizer.init(place, self.rate) if self.origin is None else self.origin


class Still(NamedTuple):
    """With every gradient at θ: the last direction, the ways from the places read, from the first
    step and of the present step, in parameters."""

    direction: PyTree
    ways: list[PyTree]
    whole: PyTree
    forward: PyTree


def past_of(
    optimizer: AbstractOptimizer,
    memory: Memory,
    params: PyTree,
    origin: State | None,
    reads: Array,
) -> Past:
    """What there is to replay at the memory's step, from a run that began in ``origin``.

    Of a settled run: the last steps, as many as the optimizer remembers.
    """
    rate = memory.rate
    if memory.settled:
        length = settling(optimizer, params)
        ages = jnp.asarray([min(mean_age(length, params), length)])
        first, last = jnp.asarray(-length), jnp.asarray(0)
        return Past(optimizer, first, last, ages, rate, reads, None, None, True, True, False)
    length, last = memory.length, jnp.asarray(memory.step)
    begun = jnp.asarray(0 if origin is None else origin.step.astype(int), last.dtype)
    first = begun if length is None else jnp.maximum(begun, last - length)
    if origin is not None and length is not None:
        fresh = optimizer.init(params, rate)
        origin = trees.where(first > begun, State(fresh.moments, origin.step), origin)
    mean = (last - first) // 2 if length is None else mean_age(length, params)
    far = [jnp.asarray(age, last.dtype) for age in (mean, 3 * mean, mean // 3)]
    ages = jnp.stack([jnp.clip(age, 0, last - first) for age in far])
    straight = origin is None and optimizer.time_invariant(params)
    places = positional(optimizer, params)
    if places and origin is not None:
        raise ValueError(
            f"start: expected a step number for {optimizer.name}, whose state holds parameters and "
            "can only be followed from its own step 0, got a state; pass start=0."
        )
    span = first, last, ages, rate, reads, memory.learning_rate
    return Past(optimizer, *span, origin, False, straight, places)


@eqx.filter_jit
def still(past: Past, params: PyTree, gradient: PyTree, value) -> Still:
    """The replay with every gradient at θ."""

    def one(step, carry):
        state, way = carry
        place = trees.subtract(params, way) if past.positional else params
        state, move = past.optimizer.update(state, gradient, place, past.rate_of(step), value)
        return state, trees.subtract(way, move)

    def segment(carry, ends):
        carry = jax.lax.fori_loop(*ends, one, carry)
        return carry, carry[1]

    marks = [(past.last - past.ages).astype(past.last.dtype), past.last[None]]
    marks = jnp.sort(jnp.concatenate(marks))
    starts = jnp.concatenate([past.first[None].astype(marks.dtype), marks[:-1]])
    begun = past.begun(params), trees.zeros_like(params)
    (state, whole), ways = jax.lax.scan(segment, begun, (starts, marks))
    place = trees.subtract(params, whole) if past.positional else params
    _, move = past.optimizer.update(state, gradient, place, past.reads, value)
    order = jnp.argsort(jnp.argsort(-past.ages))
    backs = [
        jax.tree.map(lambda total, seen, i=i: total - seen[order[i]], whole, ways)
        for i in range(len(past.ages))
    ]
    taken = jnp.where(past.reads == past.rate, 1.0, 0.0)
    return Still(trees.scale(-1 / past.unit, move), backs, whole, trees.scale(-taken, move))


def spanned(ways: Sequence[PyTree], dtype) -> list[PyTree]:
    """An orthonormal basis of what the ways span, 0 in the place of what adds nothing."""
    units: list[PyTree] = []
    least = float(jnp.finfo(dtype).eps) ** 0.5
    for way in ways:
        rest = way
        for unit in (*units, *units):
            rest = trees.add(rest, -trees.inner(unit, rest), unit)
        size = trees.norm(rest)
        some = size > least * trees.norm(way)
        units.append(trees.scale(jnp.where(some, 1 / jnp.where(some, size, 1.0), 0.0), rest))
    return units


@eqx.filter_jit
def directions(past: Past, seen: Still, dtype) -> tuple[list[PyTree], Array]:
    """(units, length): where to read gradients, θ + length · unit, from a ``Still``."""
    ways = [seen.ways[0], seen.forward, *seen.ways[1:]]
    back = trees.norm(ways[0])
    length = jnp.where(back > 0, back, trees.norm(seen.forward))
    if past.straight:
        ways = [trees.where(back > 0, *ways[:2])]
    return spanned(ways, dtype), length


class PastReading(eqx.Module):
    """What is known at θ: the gradient, the loss if it is read, the replay with every gradient at
    θ, orthonormal directions in which the ways point, and the gradient's change per length of each.
    """

    past: Past
    params: PyTree
    gradient: PyTree
    value: Array | None
    seen: Still
    units: list[PyTree]
    changes: list[PyTree]

    def second_order(self, phase: float, linear: bool = False) -> PyTree:
        """The direction of second order; phase 0: iteration, ½: flow; linear: Taylor's form."""
        read = _expanded if linear else lambda found, phase: found.again(phase, jnp.ones(()))
        return read(self, jnp.asarray(phase))

    def at(self, way: PyTree, share) -> tuple[PyTree, PyTree, Array | None]:
        """(gradient, parameters, loss) at θ + share · way."""
        change = trees.zeros_like(self.gradient)
        for unit, slope in zip(self.units, self.changes, strict=True):
            change = trees.add(change, share * trees.inner(unit, way), slope)
        gradient, place = trees.add(self.gradient, 1, change), trees.add(self.params, share, way)
        if self.value is None:
            return gradient, place, None
        rise = trees.inner(self.gradient, way) + trees.inner(change, way) / 2
        return gradient, place, self.value + share * rise

    @eqx.filter_jit
    def again(self, phase, share) -> PyTree:
        """The last direction, all displacements times ``share`` (Taylor: d/dshare at 0)."""
        past, seen, update = self.past, self.seen, self.past.optimizer.update

        def way_of(way_so_far, step):
            if past.settled:
                return trees.scale((past.last - step) + phase, seen.forward)
            return trees.add(trees.subtract(seen.whole, way_so_far), phase, seen.forward)

        def one(step, carry):
            moved, fixed, way, walked = carry
            gradient, place, value = self.at(way_of(way, step), share)
            rate = past.rate_of(step)
            own = trees.add(start, 1, walked) if past.positional else place
            moved, move = update(moved, gradient, own, rate, value)
            walked = trees.add(walked, 1, move)
            if not past.settled:
                there = trees.subtract(self.params, way) if past.positional else self.params
                fixed, move = update(fixed, self.gradient, there, rate, self.value)
                way = trees.subtract(way, move)
            return moved, fixed, way, walked

        nothing = trees.zeros_like(self.params)
        start = trees.add(self.params, share, way_of(nothing, past.first))
        fixed = None if past.settled else past.begun(self.params)
        carry = past.begun(start), fixed, nothing, nothing
        moved, _, _, walked = jax.lax.fori_loop(past.first, past.last, one, carry)
        gradient, place, value = self.at(trees.scale(phase, seen.forward), share)
        own = trees.add(start, 1, walked) if past.positional else place
        _, move = update(moved, gradient, own, past.reads, value)
        return trees.scale(-1 / past.unit, move)


@eqx.filter_jit
def _expanded(found: PastReading, phase: Array) -> PyTree:
    """The direction to first order in the displacements. A root of a gradient that is 0 has no
    derivative; it is taken beside 0."""
    beside = lambda g: jnp.where(g == 0, jnp.sqrt(trees.almost_zero(g)), g)
    moved = eqx.tree_at(lambda f: f.gradient, found, jax.tree.map(beside, found.gradient))
    run = lambda share: moved.again(phase, share)
    slope = jax.jvp(run, (jnp.zeros(()),), (jnp.ones(()),))[1]
    return trees.add(found.seen.direction, 1, slope)


class Replay(AbstractDirection):
    """The direction of order 2 of any state map as a function of θ, at any step.

    origin: the state in which the run began; None: a fresh one at step 0. linear: Taylor's form.
    """

    linear: bool = eqx.field(static=True)
    origin: State | None = None

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        return self._orders(self.reading(memory, params))

    def moves(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """As declared; at a rate of 0 what the transformation does whatever the rate is."""
        found = self.reading(memory, params, memory.rate)
        first, second = self._orders(found)
        return trees.scale(-found.past.unit, first), trees.scale(-found.past.unit, second)

    def first_move(self, memory: Memory, params: PyTree) -> PyTree:
        return self.moves(memory, params)[0]

    def _orders(self, found: PastReading) -> tuple[PyTree, PyTree]:
        return found.seen.direction, found.second_order(self.phase, self.linear)

    def reading(self, memory: Memory, params: PyTree, reads: Array | None = None) -> PastReading:
        """One gradient, and one, or a Hessian-vector product, per direction of the ways.

        reads: the learning rate of the last step; None: its own, or any where that is 0.
        """
        if self.linear:
            check_derivative(self.optimizer, params)
        reads = jnp.where(memory.rate > 0, memory.rate, 1.0) if reads is None else reads
        past = past_of(self.optimizer, memory, params, self.origin, reads)
        gradient, change = self.problem.changes(params, self.linear)
        value = self.problem.value(params) if self.optimizer.reads_value else None
        seen = still(past, params, gradient, value)
        units, length = directions(past, seen, trees.finest_dtype(params))
        safe = jnp.where(length > 0, length, 1.0)
        changes = [trees.scale(1 / safe, change(trees.scale(safe, unit))) for unit in units]
        return PastReading(past, params, gradient, value, seen, units, changes)
