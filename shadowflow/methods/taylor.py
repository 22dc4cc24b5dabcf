"""The paper's own form: past gradients expanded to first order around the present θ.

F_n(θ) = Φ(m) with every gradient taken at θ; one order more, each moment changes by
ψ'(g) · H · (its mean way back), a forward derivative of Φ∘ψ: equations (2), (3), (11), (63).
"""

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import PyTree

from .. import trees
from ..ema_weights import Memory
from . import minibatch
from .base import MemorylessMethod, MomentsDirection
from .optax_replay import Replay
from .present import Present, present


class Expansion(NamedTuple):
    """First order of the displaced moments: H·(mean way) per moment, and H·(learning rate · F)."""

    now: Present
    ways: tuple
    forward: PyTree
    hvp: Callable


class TaylorDirection(MomentsDirection):
    """One gradient and one Hessian-vector product; without bias correction one per moment more."""

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        now, ways, forward, _ = self.expanded(memory, params)
        forward = trees.scale(self.phase, forward)
        tangents = [forward if way is None else trees.add(forward, 1, way) for way in ways]
        changes = tuple(now.moved_moment(i, tangent) for i, tangent in enumerate(tangents))
        ahead = trees.scale(self.phase * memory.rate, now.direction)
        return now.direction, trees.add(now.direction, 1, now.moved_direction(changes, ahead))

    def expanded(self, memory: Memory, params: PyTree) -> Expansion:
        """What the expansion is made of."""
        gradient, hvp = self.problem.linearize(params)
        now = present(self.optimizer, memory, params, gradient)
        product = hvp(now.direction)
        if now.straight:
            ways = tuple(trees.scale(time, product) for time in memory.mean_times())
        else:
            ways = tuple(None if way is None else hvp(way) for way in now.displacements())
        return Expansion(now, ways, trees.scale(memory.rate, product), hvp)


class Taylor(MemorylessMethod):
    """The paper's second-order form."""

    name = "taylor"
    summary = "the paper's: past gradients expanded around the present point"
    needs_hvp = True
    follows_optax = True

    def direction(self, problem, optimizer, phase, *, order=2, spacing=None, start=None):
        """Of moments, of moments on mini-batches, or of any transformation's forward derivative."""
        if not optimizer.closed_form:
            return Replay(problem, optimizer, phase, linear=True, origin=start)
        made = minibatch.BatchedTaylor if problem.batched else TaylorDirection
        return made(problem, optimizer, phase)
