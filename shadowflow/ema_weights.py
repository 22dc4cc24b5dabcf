"""The memory of an optimizer: weights of past steps, mean times back, Gauss rules of ages.

At step n a moment weighs the gradient of step k ≤ n by w_{n,k} = (1−β) β^{n−k} / c, and read it
the time τ_k = Σ_{l=k}^{n−1} h_l ago. All that the methods need are the sums Z_r = Σ_k (1−β)
β^{n−k} τ_k^r, r = 0…3, which follow a recursion in n without any cancellation.

On mini-batches it matters which batch each past step saw. Summed by batch, the weights are W_b =
Σ_{k: b(k)=b} w_{n,k}; the methods need no more of a past of any length.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import trees
from .optimizers.base import AbstractOptimizer, rate_at, traced
from .optimizers.moments import AbstractMoments, decay_power, safe_sqrt
from .plots import Result
from .problem import Problem


class Memory(eqx.Module):
    """Where in its run an optimizer is, and how its moments weigh the past there.

    ``sums``: per moment the array (Z_0, Z_1, Z_2, Z_3), None for a moment without memory;
    ``decays``: theirs; ``rate``: the learning rate of step ``step``; ``settled``: n = ∞, all
    weights sum to 1; ``length``: past this many steps no weight is above rounding (None if
    unknown); ``kept``: how many past steps are told apart, with mini-batches.
    """

    step: int | Array
    rate: Array
    sums: tuple
    decays: tuple
    learning_rate: float | Array | Callable
    settled: bool = eqx.field(static=True)
    length: int | Array | None
    kept: int | None = eqx.field(static=True, default=None)

    @property
    def count(self) -> Array:
        """The step number as ``combine`` sees it: ∞ when settled."""
        return jnp.asarray(jnp.inf if self.settled else self.step, trees.real_dtype())

    def advanced(self) -> "Memory":
        """One step later; the rate of the new step is filled in by ``with_rate``."""
        sums = tuple(
            None if z is None else advanced(z, decay, self.rate)
            for z, decay in zip(self.sums, self.decays, strict=True)
        )
        where = lambda memory: (memory.step, memory.sums)
        return eqx.tree_at(where, self, (self.step + 1, sums), is_leaf=lambda leaf: leaf is None)

    def with_rate(self, rate) -> "Memory":
        """The same, with ``rate`` as the learning rate of the present step."""
        return eqx.tree_at(lambda m: m.rate, self, jnp.asarray(rate, trees.real_dtype()))

    def mean_time(self, index: int) -> Array:
        """The mean time back of a moment: learning rate × the mean age μ_n(β) of Remark 3.2."""
        sums = self.sums[index]
        return jnp.zeros((), trees.real_dtype()) if sums is None else sums[1] / sums[0]

    def mean_times(self) -> list[Array]:
        """``mean_time`` of every moment."""
        return [self.mean_time(i) for i in range(len(self.sums))]

    def gauss_rule(self, index: int) -> tuple[Array, Array]:
        """Two times back and their weights (arrays of shape (2,)), exact for cubic polynomials.

        The nodes lie within the past, the weights are positive and sum to 1: averages of squares
        stay non-negative. The present alone for a moment without memory.
        """
        sums = self.sums[index]
        if sums is None:
            return jnp.zeros((1,), trees.real_dtype()), jnp.ones((1,), trees.real_dtype())
        mean, second, third = sums[1:] / sums[0]
        variance = jnp.maximum(second - mean**2, 0.0)
        spread = safe_sqrt(variance)
        some = spread > 0
        cube = jnp.where(some, spread, 1.0) ** 3
        skew = jnp.where(some, (third - 3 * mean * second + 2 * mean**3) / cube, 0.0)
        standard = (skew + jnp.asarray([-1.0, 1.0], skew.dtype) * jnp.sqrt(skew**2 + 4)) / 2
        return mean + spread * standard, 1 / (1 + standard**2)


class Rates(eqx.Module):
    """A schedule looked up in a table made beforehand, so that no schedule is ever traced.

    table: from step ``first`` on.
    """

    table: Array
    first: int | Array

    def __init__(self, table: Array, first: int = 0):
        self.table, self.first = table, jnp.asarray(first, jnp.int32)

    def __call__(self, step):
        return self.table[step - self.first]


def advanced(sums: Array, decay, elapsed) -> Array:
    """(Z_0, …, Z_3) one step later: all times grow by ``elapsed``, a new gradient joins at 0."""
    z0, z1, z2, z3 = sums
    e1, e2, e3 = elapsed, elapsed**2, elapsed**3
    aged = [z0, z1 + e1 * z0, z2 + 2 * e1 * z1 + e2 * z0, z3 + 3 * (e1 * z2 + e2 * z1) + e3 * z0]
    return decay * jnp.stack(aged) + (1 - decay) * jnp.asarray([1.0, 0, 0, 0], sums.dtype)


def settled_sums(decay, rate) -> Array:
    """The limit of the sums for n → ∞ at a constant rate: β/(1−β), β(1+β)/(1−β)², …"""
    b, a = decay, 1 - decay
    ages = [jnp.ones_like(b), b / a, b * (1 + b) / a**2, b * (1 + 4 * b + b * b) / a**3]
    return jnp.stack([age * rate**power for power, age in enumerate(ages)])


def at(
    optimizer: AbstractOptimizer,
    learning_rate,
    step,
    params: PyTree,
    kept: int | None = None,
    end: int | None = None,
) -> Memory:
    """The memory at ``step``: a number, traced or not, or "settled", at the schedule's step 0.

    end: a step that the run does not go beyond, if one is known.

    For n = 1, decay β, rate h: mean time back hβ(1−β)/(1−β²).
    """
    settled = isinstance(step, str)
    length = None if settled else optimizer.memory_length(params, end)
    step = 0 if settled else int(step) if isinstance(step, np.integer) else step
    decays = tuple(m.beta if m.has_memory else None for m in optimizer.moments)
    some = [decay for decay in decays if decay is not None]
    if settled:
        found = iter([settled_sums(decay, rate_at(learning_rate, 0)) for decay in some])
    else:
        found = iter(_summed(some, learning_rate, step, length))
    sums = tuple(None if decay is None else next(found) for decay in decays)
    rate = rate_at(learning_rate, step)
    return Memory(step, rate, sums, decays, learning_rate, settled, length, kept)


def ready(
    optimizer: AbstractOptimizer,
    learning_rate,
    step,
    params: PyTree,
    kept: int | None = None,
    end: int | None = None,
) -> Memory:
    """``at``, with all numbers as arrays: jit then compiles once for every step and rate."""
    rate = learning_rate if callable(learning_rate) else jnp.asarray(float(learning_rate))
    memory = at(traced(optimizer), rate, step, params, kept, end)
    whole = lambda n: None if n is None else jnp.asarray(n, jnp.int32)
    length = None if memory.settled else optimizer.memory_length(params, end)
    return dataclasses.replace(memory, step=whole(memory.step), length=whole(length))


def _summed(decays: list, learning_rate, step, faded: int | None) -> list:
    first = first_of(step, faded)
    zero = jnp.zeros((), trees.real_dtype())
    start = [jnp.stack([1 - decay, zero, zero, zero]) for decay in decays]
    if not decays or (isinstance(step, int) and step == 0):
        return start

    def body(n, sums):
        elapsed = rate_at(learning_rate, n)
        return [advanced(z, decay, elapsed) for z, decay in zip(sums, decays, strict=True)]

    return jax.lax.fori_loop(first, step, body, start)


def first_of(step, length: int | Array | None) -> Any:
    """The first of the last ``length`` steps before ``step``; an int where both are ints."""
    if length is None:
        return 0
    if isinstance(step, int) and isinstance(length, int):
        return max(0, step - length)
    return jnp.maximum(0, step - length)


def mean_displacements(optimizer: AbstractOptimizer, memory: Memory, direction: Callable) -> tuple:
    """Per moment the mean way back, Σ_k w_{n,k} v_{n,k} / W with v_{n,k} = Σ_{l=k}^{n−1} h_l F_l.

    ``direction(l)`` gives F_l(θ), the memoryless direction at step l. The sums are taken as they
    stand, in O(n) elementwise work; None for a moment without memory.
    """
    n, like = memory.step, jax.eval_shape(direction, 0.0)
    kept = [i for i, sums in enumerate(memory.sums) if sums is not None]
    decays = [memory.decays[i] for i in kept]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def body(step, ways):
        count = jnp.asarray(step, trees.real_dtype())
        moved, rate = direction(count), rate_at(memory.learning_rate, step)
        return [
            trees.scale(decay, trees.add(way, (1 - decay_power(decay, count + 1)) * rate, moved))
            for way, decay in zip(ways, decays, strict=True)
        ]

    ways = jax.lax.fori_loop(first_of(n, memory.length), n, body, [zeros for _ in kept])
    masses = [1 - decay_power(decay, memory.count + 1) for decay in decays]
    result = {i: trees.scale(1 / z, way) for i, z, way in zip(kept, masses, ways, strict=True)}
    return tuple(result.get(i) for i in range(len(memory.sums)))


def line_mean(transform: Callable, gradient: PyTree, slope: PyTree, nodes, mass) -> PyTree:
    """Σ_q mass_q · ψ(gradient + nodes_q · slope): the mean of ψ along a line, by a rule."""
    terms = [
        trees.scale(weight, transform(trees.add(gradient, node, slope)))
        for node, weight in zip(nodes, mass, strict=True)
    ]
    return functools.reduce(lambda total, term: trees.add(total, 1, term), terms)


@dataclass(frozen=True, repr=False)
class Truncation(Result):
    """How many past steps are kept in a run on mini-batches, and bounds of what is dropped.

    steps: the ages 0 … steps − 1 are kept; their weights are scaled so that each moment keeps its
        total. tolerance: the weight that may be dropped; None: as much as rounding hides.
    decays: of the moments of which something is dropped, 0 for the others.
    """

    steps: int
    tolerance: float | None
    decays: tuple[float, ...]

    @property
    def dropped(self) -> tuple[float, ...]:
        """Per moment a bound of the weight dropped, decay^steps.

        A moment changes by at most as much times the range of ψ(g_b) over the batches, coordinate
        by coordinate: that is the error of the memoryless direction's moments.
        """
        return tuple(decay**self.steps for decay in self.decays)

    @property
    def late(self) -> tuple[float, ...]:
        """Per moment a bound, in steps, of what is missing in its mean age.

        The weight dropped times its age, and the weight missing in the past directions, Σ_l
        (weight missing in F_l) × (weight of the steps up to l). The mean way back changes by at
        most as much × learning rate × the range of the past directions (up to a factor of 2, as a
        direction may change by more than the weight missing in it): that is the error of the
        correction.
        """
        kept, longest, bounds = self.steps, max(self.decays, default=0.0), []
        for decay in self.decays:
            ratio = decay / (longest or 1.0)
            missing = kept if ratio == 1 else min(kept, ratio / (1 - ratio))
            bounds.append(decay**kept * (kept + decay / (1 - decay)) + longest**kept * missing)
        return tuple(bounds)

    @property
    def summary(self) -> str:
        """How many steps are kept, and the largest weight that is dropped."""
        most = max(self.dropped, default=0.0)
        return f"{self.steps} steps, at most {most:.1g} of a moment's weight dropped"

    @property
    def remark(self) -> str:
        """What a verdict says about it; "" where nothing above rounding is dropped."""
        if self.tolerance is None or max(self.dropped) == 0:
            return ""
        return (
            f"Only the last {self.steps} steps of the past are kept: at most "
            f"{max(self.dropped):.1g} of a moment's weight was dropped"
        )


def truncation_of(
    optimizer: AbstractMoments, params: PyTree, tolerance: float | None, steps: int | None
) -> Truncation:
    """The truncation that drops at most ``tolerance`` of any moment's weight.

    tolerance: None: as much as the rounding of ``params`` hides; 0 keeps all. steps: the length of
    the run, beyond which there is nothing to drop; None: unknown. Raises ValueError if the length
    of the run and a decay are both unknown, so that no number of steps can be chosen.

    >>> from shadowflow.optimizers.zoo import adam
    >>> cut = truncation_of(adam(b1=0.5, b2=0.9), jnp.ones(1), 1e-3, 1000)
    >>> cut.steps, round(cut.dropped[1], 5)
    (66, 0.00096)
    """
    if tolerance is not None and not optimizer.closed_form:
        raise ValueError(
            f"memory_tolerance: expected None for the optax transformation {optimizer.name}, whose "
            f"memory has no weights to drop, got {tolerance!r}; leave it out."
        )
    faded = optimizer.memory_length(params, steps)
    if faded is not None and tolerance is not None:
        faded = optimizer.faded(tolerance)
    known = [length for length in (faded, steps) if length is not None]
    if not known:
        raise ValueError(
            "step: expected a number, or decays known as numbers with a memory_tolerance above 0, "
            "got a traced step and no bound for the past; pass step as an int, or "
            "memory_tolerance=1e-6."
        )
    kept = max(1, min(known))
    complete = steps is not None and kept >= steps
    decays = [
        0.0 if complete or not m.has_memory or faded is None else float(m.decay)
        for m in optimizer.moments
    ]
    return Truncation(kept, tolerance, tuple(decays))


class Fold(NamedTuple):
    """The past at one step, gathered in slots: one per batch, or per step if these are fewer.

    batches: the batch of each slot [slots]; slots: the slot of each age [ages]; weights: for each
    moment the weight of each age [ages], None without memory; times: the time since the step of
    each age [ages]; rates: the learning rate of that step [ages].
    """

    batches: Array
    slots: Array
    weights: tuple
    times: Array
    rates: Array

    @property
    def present_slot(self) -> Array:
        """The slot of the present step."""
        return self.slots[0]

    def sum(self, index: int, values: Array | float = 1.0) -> Array:
        """Σ of weight × ``values`` over the ages of each slot, for moment ``index``: [slots]."""
        zeros = jnp.zeros(self.batches.shape, trees.real_dtype())
        return zeros.at[self.slots].add(self.weights[index] * values)


def fold(problem: Problem, optimizer: AbstractMoments, memory: Memory) -> Fold:
    """The weights of the past at the memory's step, by age and slot; O(kept) scalar work."""
    dtype, kept = trees.real_dtype(), memory.kept or 1
    ages, step = jnp.arange(kept, dtype=jnp.int32), jnp.asarray(memory.step, jnp.int32)
    steps = jnp.maximum(step - ages, 0)
    alive = step >= ages
    rates = jax.vmap(lambda n: rate_at(memory.learning_rate, n))(steps)
    times = jnp.concatenate([jnp.zeros((1,), dtype), jnp.cumsum(jnp.where(alive, rates, 0)[1:])])
    weights = []
    for moment in optimizer.moments:
        if not moment.has_memory:
            weights.append(None)
            continue
        raw = jnp.where(alive, (1 - moment.beta) * moment.beta ** ages.astype(dtype), 0)
        weights.append(raw * moment.total_weight(memory.count) / jnp.sum(raw))
    seen = problem.batch_index(steps)
    if kept < problem.count:
        return Fold(seen, ages, tuple(weights), times, rates)
    every = jnp.arange(problem.count, dtype=jnp.int32)
    return Fold(every, seen, tuple(weights), times, rates)
