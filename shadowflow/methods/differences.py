"""Second order for free: the line through the last two gradients of the run itself.

Along the run g_{n−1} − g_n = −(g's change over the last step) = h H F + O(h²), which is what the
displaced form pays a gradient for. Every moment averages ψ on the line g_n + τ d, d = (g_{n−1} −
g_n)/h_{n−1} per unit of time back: one gradient a step, as the optimizer itself (THEORY §7).
Until uncorrected weights have settled, all past directions count as the last one: the order stays,
as that takes a fixed number of steps, the constant there is not that of the sums of §2.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import PyTree

from .. import ema_weights as mem, trees
from ..ema_weights import Memory
from ..optimizers.moments import Optimizer, State, traced
from ..problem import Problem
from .displaced import averaged
from .memoryless import sizes
from .taylor import present


class Differences(eqx.Module):
    """One step of the iteration, for ``drive``: θ ← θ − h Φ(moments on the line).

    The carry is (θ, memory, gradient one step ago, its step's learning rate, last slope).
    """

    problem: Problem
    optimizer: Optimizer
    order: int = eqx.field(static=True)

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The carry of ``drive``; the gradient before the start is a real one, a step back."""
        del state
        before = eqx.filter_jit(_a_step_back) if self.problem.traceable else _a_step_back
        last = before(self.problem, self.optimizer, memory, params)
        return params, memory, last, memory.rate, trees.zeros_like(params)

    def __call__(self, carry, rate):
        params, memory, last, elapsed, slope = carry
        memory = mem.with_rate(memory, rate)
        value, gradient = self.problem.value_and_gradient(params)
        fresh = trees.scale(
            1 / jnp.where(elapsed > 0, elapsed, 1.0), trees.subtract(last, gradient)
        )
        slope = trees.where(elapsed > 0, fresh, slope)
        first = present(self.optimizer, memory, params, gradient).direction
        moments = tuple(
            averaged(self.optimizer, memory, i, gradient, slope, mem.gauss_rule(memory, i)[0])
            for i in range(len(self.optimizer.moments))
        )
        second = self.optimizer.direction(moments, params, memory.count)
        moved = trees.add(params, -rate, first if self.order == 1 else second)
        finite = jnp.isfinite(value) & trees.all_finite(gradient) & trees.all_finite(moved)
        memory = mem.advance(self.optimizer, memory)
        return (moved, memory, gradient, rate, slope), sizes(first, second), finite


def _a_step_back(problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree) -> PyTree:
    gradient = problem.gradient(params)
    now = present(optimizer, memory, params, gradient)
    return problem.gradient(trees.add(params, memory.rate, now.direction))


def iteration(problem: Problem, optimizer: Optimizer, order: int, spacing: None) -> Differences:
    """The runner of the method."""
    del spacing
    return Differences(problem, traced(optimizer), order)
