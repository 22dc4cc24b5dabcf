"""The past of a step on mini-batches replayed: every step fed the gradient of its own batch.

As on the full batch (``optax_replay``) the state map is run twice. First with every gradient at θ,
which gives the ways back, v_k: there, one gradient per batch is read. Then with ∇E_b(k)(θ + v_k),
one gradient for every step that is remembered, as the ways of different steps point anywhere.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import State
from ..problem import compiled
from .base import AbstractDirection
from .optax_replay import Past, past_of


class Here(NamedTuple):
    """What the batches give at θ: gradients and losses by slot; steps find theirs by ``slot``."""

    gradients: PyTree
    values: Array | None
    slots: Array | None
    last: Array


class BatchedReplay(AbstractDirection):
    """The direction of order 2 of any state map on mini-batches, at any step.

    origin: the state in which the run began; None: a fresh one at step 0.
    """

    origin: State | None = None

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        past, here = self.read(memory, params, jnp.where(memory.rate > 0, memory.rate, 1.0))
        found = self.replayed(past, here, params)
        return trees.scale(-1 / past.unit, found[0]), trees.scale(-1 / past.unit, found[1])

    def first_order(self, memory: Memory, params: PyTree) -> PyTree:
        past, here = self.read(memory, params, jnp.where(memory.rate > 0, memory.rate, 1.0))
        return trees.scale(-1 / past.unit, self.still(past, here, params)[1])

    def moves(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        return self.replayed(*self.read(memory, params, memory.rate), params)

    def first_move(self, memory: Memory, params: PyTree) -> PyTree:
        return self.still(*self.read(memory, params, memory.rate), params)[1]

    def read(self, memory: Memory, params: PyTree, reads: Array) -> tuple[Past, Here]:
        """The steps to replay, the last of them with the learning rate ``reads``; and the present.

        One gradient per batch, or per step that is remembered if these are fewer.
        """
        past = past_of(self.optimizer, memory, params, self.origin, reads)
        kept, last = memory.kept or 0, jnp.asarray(memory.step)
        few = kept + 1 < self.problem.count
        ages = jnp.arange(kept + 1, dtype=last.dtype)
        seen = self.problem.batch_index(jnp.maximum(last - ages, 0))
        batches = seen if few else jnp.arange(self.problem.count, dtype=jnp.int32)
        gradients, values = self.problem.gradients(params, batches), None
        if self.optimizer.reads_value:
            value = lambda batch: self.problem.value(params, batch)
            values = trees.mapped(value, batches, self.problem.traceable)
        return past, Here(gradients, values, None if few else batches, last)

    @compiled
    def still(self, past: Past, here: Here, params: PyTree) -> tuple[PyTree, PyTree]:
        """(the way from the first step that is replayed, the last step), every gradient at θ."""

        def one(step, carry):
            state, way = carry
            state, move = self.stayed(past, here, params, state, way, step, past.rate_of(step))
            return state, trees.subtract(way, move)

        begun = past.begun(params), trees.zeros_like(params)
        with jax.disable_jit(not self.problem.traceable):
            state, whole = jax.lax.fori_loop(past.first, past.last, one, begun)
        return whole, self.stayed(past, here, params, state, whole, past.last, past.reads)[1]

    @compiled
    def replayed(self, past: Past, here: Here, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, second order) of the last step, in parameters."""
        problem, update = self.problem, self.optimizer.update
        whole, last = self.still(past, here, params)
        share = jnp.where(past.reads == past.rate, self.phase, 0.0)
        base = trees.add(trees.add(params, 1, whole), -share, last)

        def moved_by(state, step, way, walked, rate):
            place, batch = trees.subtract(base, way), problem.batch_index(step)
            own = trees.add(base, 1, walked) if past.positional else place
            value = problem.value(place, batch) if self.optimizer.reads_value else None
            return update(state, problem.gradient(place, batch), own, rate, value)

        def one(step, carry):
            moved, fixed, way, walked = carry
            rate = past.rate_of(step)
            moved, move = moved_by(moved, step, way, walked, rate)
            fixed, still = self.stayed(past, here, params, fixed, way, step, rate)
            return moved, fixed, trees.subtract(way, still), trees.add(walked, 1, move)

        nothing = trees.zeros_like(params)
        begun = past.begun(base), past.begun(params), nothing, nothing
        with jax.disable_jit(not problem.traceable):
            moved, _, _, walked = jax.lax.fori_loop(past.first, past.last, one, begun)
        return last, moved_by(moved, past.last, whole, walked, past.reads)[1]

    def stayed(
        self, past: Past, here: Here, params: PyTree, state: State, way: PyTree, step, rate
    ) -> tuple[State, PyTree]:
        """An update with the gradient that the step's batch has at θ."""
        slot = here.last - step if here.slots is None else self.problem.batch_index(step)
        place = trees.subtract(params, way) if past.positional else params
        value = None if here.values is None else here.values[slot]
        return self.optimizer.update(state, trees.row(here.gradients, slot), place, rate, value)
