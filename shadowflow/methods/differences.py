"""Second order for free: the line through the last two gradients of the run itself.

Along the run g_{n−1} − g_n = −(g's change over the last step) = h H F + O(h²), which is what the
displaced form pays a gradient for. Every moment averages ψ on the line g_n + τ d, d = (g_{n−1} −
g_n)/h_{n−1} per unit of time back: one gradient a step, as the optimizer itself (THEORY §7).
Until uncorrected weights have settled, all past directions count as the last one: the order stays,
as that takes a fixed number of steps, the constant there is not that of the sums of §2.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import State, traced
from ..optimizers.moments import AbstractMoments
from ..problem import compiled
from .base import AbstractMethod, AbstractStepper, ShadowPlan, sizes
from .present import present


class DifferencesIteration(AbstractStepper):
    """θ ← θ − h Φ(moments on the line).

    The carry is (θ, memory, gradient one step ago, its step's learning rate, last slope).
    """

    optimizer: AbstractMoments
    order: int = eqx.field(static=True)

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The gradient before the start is a real one, a step back."""
        del state
        before = _a_step_back(self, memory, params)
        return params, memory, before, memory.rate, trees.zeros_like(params)

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
        return (moved, memory.advanced(), gradient, rate, slope), sizes(first, second), finite


@compiled
def _a_step_back(run: DifferencesIteration, memory: Memory, params: PyTree) -> PyTree:
    now = present(run.optimizer, memory, params, run.problem.gradient(params))
    return run.problem.gradient(trees.add(params, memory.rate, now.direction))


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
        """The iteration."""
        return DifferencesIteration(plan.run.tabulated, traced(plan.run.optimizer), plan.order)
