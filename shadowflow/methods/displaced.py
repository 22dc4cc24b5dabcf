"""Nothing expanded: every moment reads gradients on a line through two real ones.

The optimizer read its gradients along the way it came. Put them on the line g + x d, with d
from one displaced gradient (secant) or from one Hessian-vector product (linearized), and let
every moment average on it: two gradients, no derivative of Φ, averages of squares stay positive.

Differences, second order for free: the line through the last two gradients of the run itself.
Along the run g_{n−1} − g_n = −(g's change over the last step) = h H F + O(h²), which is what the
displaced form pays a gradient for. Every moment averages ψ on the line g_n + τ d, d = (g_{n−1} −
g_n)/h_{n−1} per unit of time back: one gradient a step, as the optimizer itself (THEORY §7).
Until uncorrected weights have settled, all past directions count as the last one: the order stays,
as that takes a fixed number of steps, the constant there is not that of the sums of §2.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import State, traced
from ..optimizers.moments import AbstractMoments
from ..problem import compiled
from . import minibatch
from .base import (
    AbstractMethod,
    AbstractStepper,
    MemorylessMethod,
    MomentsDirection,
    ShadowPlan,
)
from .batched_replay import BatchedReplay
from .optax_replay import Replay
from .present import Present, present


class DisplacedDirection(MomentsDirection):
    """Moments on the line through ∇E(θ) and one gradient, or one HVP, back where they came from."""

    linearized: bool = eqx.field(static=True, default=False)

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        gradient, change = self.problem.changes(params, self.linearized)
        now, ahead = present(self.optimizer, memory, params, gradient), self.ahead(memory)
        if now.straight:
            longest = jnp.max(jnp.stack([*memory.mean_times(), memory.rate]))
            far = jnp.where(longest > 0, longest, 1.0)  # the time back of the second gradient
            slope = trees.scale(1 / far, change(trees.scale(far, now.direction)))
            return now.direction, now.on_line(slope, ahead)
        moments = self.own_lines(now, change, ahead)
        there = trees.add(params, ahead, now.direction)
        return now.direction, self.optimizer.direction(moments, there, memory.count)

    def own_lines(self, now: Present, change: Callable, ahead: Array | float) -> tuple:
        """While the past directions differ: per moment the line through its own mean place.

        Moments without memory share one displaced gradient; ``ahead`` = 0.0 needs none for them.
        """
        forward, ways = trees.scale(ahead, now.direction), now.displacements()
        still = isinstance(ahead, float) or all(way is not None for way in ways)
        here = trees.zeros_like(now.params) if still else change(forward)
        moments = []
        for i, way in enumerate(ways):
            if way is None:
                moments.append(now.averaged_at(i, here, jnp.ones((1,))))
                continue
            nodes = now.memory.gauss_rule(i)[0] + ahead
            mean = now.memory.mean_time(i) + ahead
            share = jnp.where(mean > 0, nodes / jnp.where(mean > 0, mean, 1.0), 1.0)
            moments.append(now.averaged_at(i, change(trees.add(forward, 1, way)), share))
        return tuple(moments)


class Displaced(MemorylessMethod):
    """The secant form: real gradients only."""

    name = "displaced"
    summary = "nothing expanded: past gradients on a line through two real ones"
    follows_optax = True
    batches_optax = True

    def seen(self, optimizer, params: PyTree, state: State | None):
        """A transformation whose state is averages as moments: no past is run again for these.

        From a state of its run, which tells more of the past than its averages' weights do, as it
        is.
        """
        if optimizer.closed_form or state is not None:
            return optimizer
        try:
            return optimizer.as_moments(params)
        except ValueError:
            return optimizer

    def direction(self, problem, optimizer, phase, *, order=2, spacing=None, start=None):
        """Of moments, of moments on mini-batches, or of any transformation run over its past."""
        if not optimizer.closed_form and problem.batched:
            return BatchedReplay(problem, optimizer, phase, origin=start)
        if not optimizer.closed_form:
            return Replay(problem, optimizer, phase, linear=False, origin=start)
        made = minibatch.BatchedDisplaced if problem.batched else DisplacedDirection
        return made(problem, optimizer, phase)

    def remark(self, plan: ShadowPlan) -> str:
        """What mini-batches cost it."""
        if not plan.run.problem.batched:
            return ""
        if not plan.run.optimizer.closed_form:
            return (
                "With mini-batches each past step that is remembered costs a gradient at its own "
                "place, at every step"
            )
        return (
            "With mini-batches each moment reads its own places: where eps is small this form is "
            "tamer than Taylor's, but not bounded"
        )


class Linearized(MemorylessMethod):
    """The same line, from a Hessian-vector product."""

    name = "linearized"
    summary = "as displaced, the line from a Hessian-vector product"
    needs_hvp = True
    full_batch = (
        "its one line through the gradients of one loss does not exist for several; "
        "method='displaced' reads every batch at its own place"
    )

    def direction(self, problem, optimizer, phase, *, order=2, spacing=None, start=None):
        """Of moments on the full batch."""
        return DisplacedDirection(problem, optimizer, phase, linearized=True)


class DifferencesIteration(AbstractStepper):
    """θ ← θ − h Φ(moments on the line).

    The carry is (θ, memory, gradient one step ago, its step's learning rate, last slope).
    """

    optimizer: AbstractMoments
    order: int = eqx.field(static=True)

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The gradient before the start is a real one, a step back."""
        del state
        return params, memory, self.before(memory, params), memory.rate, trees.zeros_like(params)

    @compiled
    def before(self, memory: Memory, params: PyTree) -> PyTree:
        """The gradient a step back from the start."""
        now = present(self.optimizer, memory, params, self.problem.gradient(params))
        return self.problem.gradient(trees.add(params, memory.rate, now.direction))

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, memory, last, elapsed, slope = carry
        memory = memory.with_rate(rate)
        value, gradient = self.problem.value_and_gradient(params)
        per_time = 1 / jnp.where(elapsed > 0, elapsed, 1.0)
        fresh = trees.scale(per_time, trees.subtract(last, gradient))
        slope = trees.where(elapsed > 0, fresh, slope)
        now = present(self.optimizer, memory, params, gradient)
        first, second = now.direction, now.on_line(slope)
        moved = trees.add(params, -rate, first if self.order == 1 else second)
        finite = jnp.isfinite(value) & trees.all_finite(gradient) & trees.all_finite(moved)
        return (moved, memory.advanced(), gradient, rate, slope), trees.sizes(first, second), finite


class Differences(AbstractMethod):
    """The free second order."""

    name = "differences"
    kinds = ("iteration",)
    summary = "the line through the last two gradients of the run: no work beyond a gradient"
    full_batch = (
        "the difference of two gradients of different batches is noise of order "
        "1 / learning_rate; use method='taylor' or 'displaced'"
    )

    def bind(self, plan: ShadowPlan) -> AbstractStepper:
        return DifferencesIteration(plan.run.tabulated, traced(plan.run.optimizer), plan.order)
