"""Running a memoryless method: its iteration, and its flow piece by piece.

A memoryless method is a function ``direction(problem, optimizer, memory, params, phase)`` that
returns the directions of first and second order. Each runner is one step for ``drive``: its
record is (norm of the correction, norm of the first-order step).
"""

from collections.abc import Callable, Iterator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import ema_weights as mem, trees
from ..ema_weights import Memory
from ..iterate import Chunk
from ..optimizers.from_optax import Transformation
from ..optimizers.moments import Optimizer, State
from ..problem import Problem
from . import minibatch, ode as solver, taylor

STRIDE = 128
LANDING = 5  # from this order on a step of the solver ends at every step of the optimizer


class Runner(eqx.Module):
    """What both runners know."""

    problem: Problem
    optimizer: Optimizer
    direction: Callable
    order: int = eqx.field(static=True)

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The carry of ``drive`` before the first step."""
        del state
        return params, memory

    def _chosen(self, pair: tuple[PyTree, PyTree]) -> PyTree:
        return pair[0] if self.order == 1 else pair[1]

    def _value(self, memory: Memory, params: PyTree) -> Array:
        """The loss that the step sees, for what is not finite in it."""
        batch = self.problem.visit(memory.step) if self.problem.batched else None
        return self.problem.value(params, batch)


def sizes(first: PyTree, second: PyTree) -> tuple:
    """(|second − first|, |first|), the record that validity is judged by."""
    return trees.norm(trees.subtract(second, first)), trees.norm(first)


class Iteration(Runner):
    """θ ← θ − h · direction(θ), phase 0."""

    def __call__(self, carry, rate):
        params, memory = carry
        memory = mem.with_rate(memory, rate)
        pair = self.direction(self.problem, self.optimizer, memory, params, 0.0)
        moved = trees.add(params, -rate, self._chosen(pair))
        finite = jnp.isfinite(self._value(memory, params)) & trees.all_finite(moved)
        return (moved, mem.advance(self.optimizer, memory)), sizes(*pair), finite


class Flow(Runner):
    """θ' = −direction(θ) with phase ½, the step number fixed over the step, also at its end.

    Integrated beside it: the first-order direction along the same path, whose difference is
    the correction. A first-order flow takes the correction at the start of the step instead.
    """

    def __call__(self, carry, rate):
        params, memory = carry
        memory = mem.with_rate(memory, rate)
        if self.order == 1:
            pair = self.direction(self.problem, self.optimizer, memory, params, 0.5)
            record = sizes(*pair)
            field = lambda s, y: trees.scale(-rate, first_order(self, memory, y))
            moved = solver.one_step(field, params, traceable=self.problem.traceable)
        else:
            field = lambda s, y: paired(self, memory, y[0])
            start = (params, trees.zeros_like(params), trees.zeros_like(params))
            moved, second, first = solver.one_step(
                field, start, traceable=self.problem.traceable, high_order=self.order > 2
            )
            correction, step = sizes(first, second)
            safe = jnp.where(rate > 0, rate, 1.0)
            record = (correction / safe, step / safe)
        finite = jnp.isfinite(self._value(memory, params)) & trees.all_finite(moved)
        return (moved, mem.advance(self.optimizer, memory)), record, finite


def first_order(runner: Runner, memory: Memory, params: PyTree) -> PyTree:
    """F_n(θ): one gradient, or one per batch."""
    if isinstance(runner.optimizer, Transformation):
        return runner.direction(runner.problem, runner.optimizer, memory, params, 0.5)[0]
    if runner.problem.batched:
        return minibatch.first_order(runner.problem, runner.optimizer, memory, params)
    gradient = runner.problem.gradient(params)
    return taylor.present(runner.optimizer, memory, params, gradient).direction


def paired(runner: Runner, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
    """−h · (second order, second order, first order): for θ, and for both ways from 0.

    The ways are integrated beside θ, since a difference of θs would be lost in its rounding.
    """
    first, second = runner.direction(runner.problem, runner.optimizer, memory, params, 0.5)
    forward = trees.scale(-memory.rate, second)
    return forward, forward, trees.scale(-memory.rate, first)


def strides(runner: Flow, carry: tuple, rates) -> Iterator[Chunk]:
    """A settled flow: its field does not depend on the step, so the solver chooses its own."""
    params, memory = carry
    for start in range(0, len(rates), STRIDE):
        length = min(STRIDE, len(rates) - start)
        steps = jnp.minimum(jnp.arange(STRIDE + 1.0), length)
        path, values, records = _stride(runner, memory, params, steps)
        rows = [np.asarray(leaf).reshape(STRIDE + 1, -1) for leaf in jax.tree.leaves(path)]
        reached = [np.all(np.isfinite(row[1:]), axis=1) for row in rows]
        taken = np.all(reached, axis=0) & np.isfinite(np.asarray(values))[:-1]
        good = int(np.argmin([*taken[:length], False]))
        params = jax.tree.map(lambda leaf, n=good: leaf[n], path)
        yield Chunk(
            (params, memory), jax.tree.map(lambda leaf: leaf[1:], path), records, length, good
        )


@eqx.filter_jit
def _stride(runner: Flow, memory: Memory, params: PyTree, steps):
    if runner.order == 1:
        field = lambda y: trees.scale(-memory.rate, first_order(runner, memory, y))
        path = solver.over_many(field, params, steps)
        starts = jax.tree.map(lambda leaf: leaf[:-1], path)
        pair = lambda y: sizes(*paired(runner, memory, y)[:0:-1])
        correction, plain = jax.lax.map(pair, starts)
    else:
        field = lambda y: paired(runner, memory, y[0])
        start = (params, trees.zeros_like(params), trees.zeros_like(params))
        path, *ways = solver.over_many(field, start, steps, landing=runner.order >= LANDING)
        second, first = (jax.tree.map(lambda leaf: jnp.diff(leaf, axis=0), way) for way in ways)
        correction, plain = jax.vmap(sizes)(first, second)
    values = jax.lax.map(runner.problem.value, path)
    return path, values, (correction / memory.rate, plain / memory.rate)
