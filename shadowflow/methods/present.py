"""The present: what one gradient at θ says of the moments, had it always been so."""

import functools
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory, line_mean, mean_displacements
from ..optimizers.moments import AbstractMoments


class Present(eqx.Module):
    """The gradient at θ, the moments had it always been so, and the direction F_n(θ).

    The methods start from it: the memory has read its gradients along the way it came, and what
    that changes of the moments and of the direction is found here. straight: whether all past
    directions are the present one, so that the way back is straight.
    """

    optimizer: AbstractMoments
    memory: Memory
    params: PyTree
    gradient: PyTree
    moments: tuple
    direction: PyTree
    straight: bool = eqx.field(static=True)

    def at_step(self, step) -> PyTree:
        """F_l(θ), the memoryless direction of another step at the same place."""
        return self.optimizer.memoryless_direction(self.params, self.gradient, step)

    def displacements(self) -> tuple:
        """Per moment the mean way it looks back along, −(θ_n − θ_k) averaged with its weights."""
        if self.straight:
            return tuple(trees.scale(time, self.direction) for time in self.memory.mean_times())
        return mean_displacements(self.optimizer, self.memory, self.at_step)

    def moved_moment(self, index: int, tangent: PyTree) -> PyTree:
        """The change of a moment for a change of its gradients: W ψ'(g) · tangent."""
        moment = self.optimizer.moments[index]
        transform = functools.partial(self.optimizer.transformed_by, index)
        change = jax.jvp(transform, (self.gradient,), (tangent,))[1]
        return trees.scale(moment.total_weight(self.memory.count), change)

    def moved_direction(self, moments: tuple, params: PyTree) -> PyTree:
        """dΦ for changes of the moments and of the parameters that Φ sees."""
        call: Any = lambda ms, p: self.optimizer.direction(ms, p, self.memory.count)
        return jax.jvp(call, (self.moments, self.params), (moments, params))[1]

    def averaged(self, index: int, slope: PyTree, ahead: Array | float = 0.0) -> PyTree:
        """A moment that read its gradients on the line g + time back · slope.

        W · the mean of ψ over the moment's ages, all of them longer by ``ahead``.
        """
        return self.averaged_at(index, slope, self.memory.gauss_rule(index)[0] + ahead)

    def averaged_at(self, index: int, slope: PyTree, nodes: Array) -> PyTree:
        """The same with the gradients of its ages at g + nodes · slope."""
        moment, mass = self.optimizer.moments[index], self.memory.gauss_rule(index)[1]
        transform = functools.partial(self.optimizer.transformed_by, index)
        mean = line_mean(transform, self.gradient, slope, nodes, mass)
        return trees.scale(moment.total_weight(self.memory.count), mean)

    @eqx.filter_jit
    def on_line(self, slope: PyTree, ahead: Array | float = 0.0) -> PyTree:
        """The direction of moments that all read the same line, from ``ahead`` further on."""
        moments = tuple(self.averaged(i, slope, ahead) for i in range(len(self.moments)))
        there = trees.add(self.params, ahead, self.direction)
        return self.optimizer.direction(moments, there, self.memory.count)


@eqx.filter_jit
def present(optimizer: AbstractMoments, memory: Memory, params: PyTree, gradient) -> Present:
    """The ``Present`` of an optimizer at ``params``: F_n(θ) = Φ(W_1 ψ_1(g), …, W_I ψ_I(g))."""
    moments = optimizer.memoryless_moments(gradient, memory.count)
    direction = optimizer.direction(moments, params, memory.count)
    straight = memory.settled or optimizer.time_invariant(params)
    return Present(optimizer, memory, params, gradient, moments, direction, straight)
