"""The memory of a run on mini-batches: which batch each past step saw, and what it weighs now.

At step n a moment weighs the step of age a = n − k by w_a = (1−β) β^a / c. Folded by batch, the
weights are W_b = Σ_{k: b(k)=b} w_{n,k}: all that the methods need of a past of any length.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from . import checks, ema_weights as mem, trees
from .ema_weights import Memory
from .optimizers.moments import Optimizer, rate_at
from .problem import Problem


@dataclass(frozen=True)
class Window:
    """How much of the past of a run on mini-batches is told apart, and what is dropped.

    steps: ages 0 … steps − 1 are kept; their weights are scaled so that each moment keeps its
        total. tolerance: the weight that may be dropped, None: what rounding hides.
    dropped: per moment a bound of the weight dropped, decay^steps (0 for a moment without
        memory). A moment changes by at most ``dropped`` times the range of ψ(g_b) over the
        batches, coordinate by coordinate: that is the error of the memoryless direction's moments.
    late: per moment a bound, in steps, of what is missing in its mean age: the weight dropped times
        its age, and the weight missing in the past directions. The mean way back changes by at
        most ``late`` × learning rate × the range of the past directions (up to a factor of 2,
        as a direction may change by more than the weight missing in it): that is the error of
        the correction.
    """

    steps: int
    tolerance: float | None
    dropped: tuple[float, ...]
    late: tuple[float, ...]

    @property
    def remark(self) -> str:
        """What a verdict says of it; "" where nothing above rounding is dropped."""
        if self.tolerance is None or max(self.dropped) == 0:
            return ""
        return (
            f"Of the past only the last {self.steps} steps are told apart: at most "
            f"{max(self.dropped):.1g} of a moment's weight was dropped"
        )


def window_of(optimizer: Optimizer, dtype, tolerance: float | None, steps: int | None) -> Window:
    """The window that drops at most ``tolerance`` of any moment's weight.

    tolerance: None for what ``dtype`` cannot tell from 0; 0 keeps all. steps: the length of the
    run, at which nothing is left to drop; None: unknown. Raises ValueError where both the run's
    length and a decay are unknown, so that no length can be chosen.

    >>> from shadowflow.zoo import adam
    >>> window = window_of(adam(0.5, 0.9), jnp.float64, 1e-3, 1000)
    >>> window.steps, round(window.dropped[1], 5)
    (66, 0.00096)
    """
    if tolerance is not None:
        checks.number("window", tolerance, least=0, below=1)
    faded = mem.window(optimizer, dtype)
    if faded is not None and tolerance is not None:
        faded = _faded(optimizer, tolerance)
    known = [length for length in (faded, steps) if length is not None]
    if not known:
        raise ValueError(
            "step: expected a number, or decays known as numbers with a window above 0, got a "
            "traced step and no bound for the past; pass step as an int, or window=1e-6."
        )
    kept = max(1, min(known))
    complete = steps is not None and kept >= steps
    decays = [
        0.0 if complete or not m.has_memory or faded is None else float(m.decay)
        for m in optimizer.moments
    ]
    dropped = [decay**kept for decay in decays]
    longest = max(decays)
    late = [_late(decay, longest, kept) for decay in decays]
    return Window(kept, tolerance, tuple(dropped), tuple(late))


def _late(decay: float, longest: float, kept: int) -> float:
    """Σ age × weight dropped, and Σ_l (weight missing in F_l) × (weight of the steps up to l)."""
    if decay == 0:
        return 0.0
    ratio = decay / longest
    missing = kept if ratio == 1 else min(kept, ratio / (1 - ratio))
    return decay**kept * (kept + decay / (1 - decay)) + longest**kept * missing


def _faded(optimizer: Optimizer, tolerance: float) -> int | None:
    longest = max((float(m.decay) for m in optimizer.moments if m.has_memory), default=0.0)
    if longest == 0:
        return 1
    return math.ceil(math.log(tolerance) / math.log(longest)) if tolerance > 0 else None


class Fold(NamedTuple):
    """The past at one step, folded into slots: one per batch, or per step where those are fewer.

    batches: the batch of each slot [slots]; slots: the slot of each age [ages]; weights: per
    moment the weight of each age [ages], None without memory; times: how long ago, [ages]; rates:
    the learning rate of each age's step, [ages].
    """

    batches: Array
    slots: Array
    weights: tuple
    times: Array
    rates: Array

    def sum(self, index: int, values: Array | float = 1.0) -> Array:
        """Σ of weight × ``values`` over the ages of each slot, for moment ``index``: [slots]."""
        zeros = jnp.zeros(self.batches.shape, trees.real_dtype())
        return zeros.at[self.slots].add(self.weights[index] * values)


def fold(problem: Problem, optimizer: Optimizer, memory: Memory) -> Fold:
    """The weights of the past at the memory's step, by age and slot; O(kept) scalar work."""
    dtype, kept = trees.real_dtype(), memory.kept or 1
    ages, step = jnp.arange(kept, dtype=jnp.int32), jnp.asarray(memory.step, jnp.int32)
    steps = jnp.maximum(step - ages, 0)
    alive = step >= ages
    rates = jax.vmap(lambda n: rate_at(memory.learning_rate, n))(steps)
    times = jnp.concatenate([jnp.zeros((1,), dtype), jnp.cumsum(jnp.where(alive, rates, 0)[1:])])
    weights = []
    for index, moment in enumerate(optimizer.moments):
        if not moment.has_memory:
            weights.append(None)
            continue
        raw = jnp.where(alive, (1 - moment.rate) * moment.rate ** ages.astype(dtype), 0)
        weights.append(raw * mem.total_weight(optimizer, memory, index) / jnp.sum(raw))
    seen = problem.visit(steps)
    if kept < problem.count:
        return Fold(seen, ages, tuple(weights), times, rates)
    every = jnp.arange(problem.count, dtype=jnp.int32)
    return Fold(every, seen, tuple(weights), times, rates)


def first_kept(memory: Memory) -> int | Array:
    """The first step that is told apart; an int where the step is one."""
    step, kept = memory.step, memory.kept or 0
    if isinstance(step, int):
        return max(0, step + 1 - kept)
    return jnp.maximum(0, jnp.asarray(step, jnp.int32) + 1 - kept)


def present_slot(fold: Fold) -> Array:
    """The slot of the present step."""
    return fold.slots[0]


def refuse_settled(problem: Problem, name: str, step) -> None:
    """Refuse a settled state with batches: which of them would be next?"""
    if problem.batched and step is None:
        raise ValueError(
            f"{name}: expected the number of a step with mini-batches, got None (settled): what "
            "comes next depends on which batches came last; pass a number, or problem.whole(), "
            "the full-batch problem."
        )
