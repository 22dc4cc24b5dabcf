"""The paper's own form: past gradients expanded to first order around the present θ.

F_n(θ) = Φ(m) with every gradient taken at θ; one order more, each moment changes by
ψ'(g) · H · (its mean way back), a forward derivative of Φ∘ψ: equations (2), (3), (11), (63).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
from jaxtyping import PyTree

from .. import ema_weights as mem, trees
from ..ema_weights import Memory
from ..optimizers.moments import Optimizer
from ..problem import Problem


class Present(NamedTuple):
    """The gradient at θ, the moments as if it had always been so, the direction F_n(θ)."""

    gradient: PyTree
    moments: tuple
    direction: PyTree


def present(optimizer: Optimizer, memory: Memory, params: PyTree, gradient: PyTree) -> Present:
    """The memoryless direction of first order, F_n(θ) = Φ(W_1 ψ_1(g), …, W_I ψ_I(g))."""
    scales = mem.weights(optimizer, memory)
    moments = tuple(map(trees.scale, scales, optimizer.transformed(gradient)))
    return Present(gradient, moments, optimizer.direction(moments, params, memory.count))


def mean_ways(optimizer: Optimizer, memory: Memory, params: PyTree, now: Present) -> tuple:
    """Per moment the mean way it looks back along, −(θ_n − θ_k) averaged with its weights."""
    if memory.settled or optimizer.uniform:
        times = [mem.mean_time(memory, i) for i in range(len(optimizer.moments))]
        return tuple(trees.scale(time, now.direction) for time in times)
    fresh = optimizer.transformed(now.gradient)

    def direction(weights, step):
        return optimizer.direction(tuple(map(trees.scale, weights, fresh)), params, step)

    return mem.mean_ways(optimizer, memory, direction)


class Expansion(NamedTuple):
    """First order of the displaced moments: H·(mean way) per moment, and H·(learning rate · F)."""

    now: Present
    ways: tuple
    forward: PyTree
    hvp: Callable


def expand(problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree) -> Expansion:
    """One gradient and one Hessian-vector product; without bias correction one per moment more."""
    gradient, hvp = problem.linearize(params)
    now = present(optimizer, memory, params, gradient)
    if memory.settled or optimizer.uniform:
        product = hvp(now.direction)
        times = [mem.mean_time(memory, i) for i in range(len(optimizer.moments))]
        ways = tuple(trees.scale(time, product) for time in times)
        return Expansion(now, ways, trees.scale(memory.rate, product), hvp)
    ways = mean_ways(optimizer, memory, params, now)
    ways = tuple(None if way is None else hvp(way) for way in ways)
    return Expansion(now, ways, trees.scale(memory.rate, hvp(now.direction)), hvp)


def moved_moment(optimizer: Optimizer, memory: Memory, index: int, gradient, tangent) -> PyTree:
    """The change of moment ``index`` for a change ``tangent`` of its gradients: W ψ'(g)·tangent."""
    transform = optimizer.moments[index].transform
    change = jax.tree.map(lambda g, t: jax.jvp(transform, (g,), (t,))[1], gradient, tangent)
    return trees.scale(mem.total_weight(optimizer, memory, index), change)


def moved_direction(
    optimizer: Optimizer,
    memory: Memory,
    params: PyTree,
    now: Present,
    moments: tuple,
    theta: PyTree,
) -> PyTree:
    """dΦ for changes of the moments and of the parameters that ``combine`` sees."""
    call: Callable = lambda ms, p: optimizer.direction(ms, p, memory.count)
    return jax.jvp(call, (now.moments, params), (moments, theta))[1]


def direction(
    problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, phase: float
) -> tuple[PyTree, PyTree]:
    """(first order, second order) of the direction; phase 0: iteration, ½: flow."""
    parts = expand(problem, optimizer, memory, params)
    forward = trees.scale(phase, parts.forward)
    tangents = [forward if way is None else trees.add(forward, 1, way) for way in parts.ways]
    changes = tuple(
        moved_moment(optimizer, memory, i, parts.now.gradient, tangent)
        for i, tangent in enumerate(tangents)
    )
    theta = trees.scale(phase * memory.rate, parts.now.direction)
    correction = moved_direction(optimizer, memory, params, parts.now, changes, theta)
    first = parts.now.direction
    return first, trees.add(first, 1, correction)
