"""Nothing expanded: every moment reads gradients on a line through two real ones.

The optimizer read its gradients along the way it came. Put them on the line g + x d, with d
from one displaced gradient (secant) or from one Hessian-vector product (linearized), and let
every moment average on it: two gradients, no derivative of Φ, averages of squares stay positive.
"""

from collections.abc import Callable
from functools import partial

import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import ema_weights as mem, trees
from ..ema_weights import Memory
from ..optimizers.moments import Optimizer
from ..problem import Problem
from .taylor import Present, mean_ways, present


def differences(problem: Problem, params: PyTree, linearized: bool) -> tuple[PyTree, Callable]:
    """(g, way ↦ the change of the gradient along ``way``), by a real gradient or by H·way."""
    if linearized:
        return problem.linearize(params)
    gradient = problem.gradient(params)
    read = lambda way: trees.subtract(problem.gradient(trees.add(params, 1, way)), gradient)
    return gradient, read


def line(optimizer: Optimizer, memory: Memory, now: Present, change: Callable) -> PyTree:
    """The change of the gradient per unit of time back, from the place of the longest memory."""
    times = [mem.mean_time(memory, i) for i in range(len(optimizer.moments))]
    longest = jnp.max(jnp.stack([*times, memory.rate]))
    longest = jnp.where(longest > 0, longest, 1.0)
    return trees.scale(1 / longest, change(trees.scale(longest, now.direction)))


def averaged(
    optimizer: Optimizer, memory: Memory, index: int, gradient: PyTree, slope: PyTree, nodes: Array
) -> PyTree:
    """Moment ``index`` on the line gradient + nodes · slope: W · mean of ψ over its ages."""
    moment = optimizer.moments[index]
    mass = mem.gauss_rule(memory, index)[1]
    if not moment.has_memory:
        nodes, mass = nodes[:1], jnp.ones((1,), mass.dtype)
    mean = mem.line_mean(moment.transform, gradient, slope, nodes, mass)
    return trees.scale(mem.total_weight(optimizer, memory, index), mean)


def direction(
    problem: Problem,
    optimizer: Optimizer,
    memory: Memory,
    params: PyTree,
    phase: float,
    linearized: bool,
) -> tuple[PyTree, PyTree]:
    """(first order, second order) of the direction; phase 0: iteration, ½: flow."""
    gradient, change = differences(problem, params, linearized)
    now = present(optimizer, memory, params, gradient)
    ahead = phase * memory.rate if phase else 0.0
    if memory.settled or optimizer.uniform:
        slope = line(optimizer, memory, now, change)
        moments = tuple(
            averaged(optimizer, memory, i, gradient, slope, mem.gauss_rule(memory, i)[0] + ahead)
            for i in range(len(optimizer.moments))
        )
    else:
        moments = _own_lines(optimizer, memory, params, now, change, ahead)
    there = trees.add(params, ahead, now.direction)
    return now.direction, optimizer.direction(moments, there, memory.count)


def _own_lines(
    optimizer: Optimizer,
    memory: Memory,
    params: PyTree,
    now: Present,
    change: Callable,
    ahead: Array | float,
) -> tuple:
    """While the past directions differ: per moment the line through its own mean place.

    Moments without memory share one displaced gradient; ``ahead`` = 0.0 needs none for them.
    """
    forward = trees.scale(ahead, now.direction)
    ways = mean_ways(optimizer, memory, params, now)
    still = isinstance(ahead, float) or all(way is not None for way in ways)
    here = trees.zeros_like(params) if still else change(forward)
    moments = []
    for i, way in enumerate(ways):
        if way is None:
            moments.append(averaged(optimizer, memory, i, now.gradient, here, jnp.ones((1,))))
            continue
        nodes = mem.gauss_rule(memory, i)[0] + ahead
        mean = mem.mean_time(memory, i) + ahead
        share = jnp.where(mean > 0, nodes / jnp.where(mean > 0, mean, 1.0), 1.0)
        slope = change(trees.add(forward, 1, way))
        moments.append(averaged(optimizer, memory, i, now.gradient, slope, share))
    return tuple(moments)


secant = partial(direction, linearized=False)
linearized = partial(direction, linearized=True)
