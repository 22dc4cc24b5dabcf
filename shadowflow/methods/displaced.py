"""Nothing expanded: every moment reads gradients on a line through two real ones.

The optimizer read its gradients along the way it came. Put them on the line g + x d, with d
from one displaced gradient (secant) or from one Hessian-vector product (linearized), and let
every moment average on it: two gradients, no derivative of Φ, averages of squares stay positive.
"""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from . import minibatch
from .base import MemorylessMethod, MomentsDirection, ShadowPlan, phase_of
from .optax_replay import Replay
from .present import Present, present, two_places


class DisplacedDirection(MomentsDirection):
    """Moments on the line through ∇E(θ) and one gradient, or one HVP, back where they came from."""

    linearized: bool = eqx.field(static=True, default=False)

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, second order) of the direction."""
        gradient, change = self.problem.changes(params, self.linearized)
        now, ahead = present(self.optimizer, memory, params, gradient), self.ahead(memory)
        if now.straight:
            far = two_places(memory)
            slope = trees.scale(1 / far, change(trees.scale(far, now.direction)))
            return now.direction, now.on_line(slope, ahead)
        moments = self._own_lines(now, change, ahead)
        there = trees.add(params, ahead, now.direction)
        return now.direction, self.optimizer.direction(moments, there, memory.count)

    def _own_lines(self, now: Present, change: Callable, ahead: Array | float) -> tuple:
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

    def direction(self, problem, optimizer, start, *, order, kind, spacing=None):
        """Of moments, of moments on mini-batches, or of any transformation run over its past."""
        phase = phase_of(kind)
        if not optimizer.closed_form:
            return Replay(problem, optimizer, phase, linear=False, origin=start)
        made = minibatch.BatchedDisplaced if problem.batched else DisplacedDirection
        return made(problem, optimizer, phase)

    def remark(self, plan: ShadowPlan) -> str:
        """What mini-batches cost it."""
        if not plan.run.problem.batched:
            return ""
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

    def direction(self, problem, optimizer, start, *, order, kind, spacing=None):
        """Of moments on the full batch."""
        return DisplacedDirection(problem, optimizer, phase_of(kind), linearized=True)
