"""The memory of a run on mini-batches: which batch each past step saw, and its weight now.

At step n a moment gives the step of age a = n − k the weight w_a = (1−β) β^a / c. Summed by batch,
the weights are W_b = Σ_{k: b(k)=b} w_{n,k}; the methods need no more of a past of any length.
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from . import trees
from .ema_weights import Memory
from .optimizers.base import rate_at
from .optimizers.moments import AbstractMoments
from .problem import Problem
from .results import Result


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
        kept, longest, bounds = self.steps, max(self.decays), []
        for decay in self.decays:
            ratio = decay / (longest or 1.0)
            missing = kept if ratio == 1 else min(kept, ratio / (1 - ratio))
            bounds.append(decay**kept * (kept + decay / (1 - decay)) + longest**kept * missing)
        return tuple(bounds)

    @property
    def summary(self) -> str:
        """How many steps are kept, and the largest weight that is dropped."""
        return f"{self.steps} steps, at most {max(self.dropped):.1g} of a moment's weight dropped"

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
    faded = optimizer.memory_length(params)
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
