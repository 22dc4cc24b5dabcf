"""Mini-batches: the past folded by batch, so that its length costs elementwise work only.

v_{n,k} = Σ_{l=k}^{n−1} h_l F_l is the way walked since step k, with F_l the memoryless direction
of step l at the present θ; Y_{i,b} = Σ_{k: b(k)=b} w_{i,n,k} v_{n,k} is what moment i remembers of
it for batch b. Taylor (the paper's (9), Theorems B.4, C.4, D.4, E.4) takes ψ_i'(g_b) H_b Y_{i,b};
displaced reads batch b's gradient at θ + Y_{i,b}/W_{i,b}, where on average moment i saw it.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from .. import ema_weights as mem, trees
from ..ema_weights import Fold, Memory, first_of
from ..optimizers.moments import AbstractMoments, safe_sqrt
from .base import AbstractDirection
from .present import Present


def spread(scalars: Array, leaf: Array) -> Array:
    """[slots] scalars in the dtype of ``leaf`` [slots, …], ready to multiply it."""
    return scalars.astype(leaf.dtype).reshape((-1,) + (1,) * (leaf.ndim - 1))


def average(scalars: Array, stacked: PyTree) -> PyTree:
    """Σ_b scalars_b · stacked_b."""
    return jax.tree.map(lambda leaf: jnp.tensordot(scalars.astype(leaf.dtype), leaf, 1), stacked)


def present_of(
    optimizer: AbstractMoments, memory: Memory, fold: Fold, params: PyTree, gradients: PyTree
) -> Present:
    """F_n(θ): every past gradient of batch b taken as ∇E_b(θ)."""
    here = trees.row(gradients, fold.present_slot)
    moments = tuple(
        optimizer.transformed_by(i, here)
        if weights is None
        else average(fold.sum(i), jax.vmap(partial(optimizer.transformed_by, i))(gradients))
        for i, weights in enumerate(fold.weights)
    )
    direction = optimizer.direction(moments, params, memory.count)
    straight = memory.settled or optimizer.time_invariant(params)
    return Present(optimizer, memory, params, here, moments, direction, straight)


@eqx.filter_jit
def remembered(
    optimizer: AbstractMoments, memory: Memory, fold: Fold, params: PyTree, gradients: PyTree
) -> tuple:
    """Per moment Y_i [slots], None without memory: the optimizer's own recursion, fed from slots.

    With V_l = Σ_{j<l} h_j F_j, Y_{i,b} = Σ_{k: b(k)=b} w_{i,n,k} (V_n − V_k): one row per step.
    """
    n = memory.step if isinstance(memory.step, int) else jnp.asarray(memory.step, jnp.int32)
    first = first_of(n + 1, memory.kept or 0)
    kept = [i for i, weights in enumerate(fold.weights) if weights is not None]
    like = lambda tree: tree
    if optimizer.pointwise:  # is faster on one long array
        params, like = ravel_pytree(params)
        gradients = jax.vmap(lambda tree: ravel_pytree(tree)[0])(gradients)
    zeros, rows = trees.zeros_like(params), trees.zeros_like(gradients)
    fresh = optimizer.transformed(zeros)
    start = ([trees.zeros_like(fresh[i]) for i in kept], zeros, [rows for _ in kept])

    def body(step, carry):
        averages, way, sums = carry
        age = n - step
        slot = fold.slots[age]
        sums = [
            _added(total, slot, trees.scale(fold.weights[i][age], way))
            for i, total in zip(kept, sums, strict=True)
        ]
        here = trees.row(gradients, slot)
        averages, direction = _step(optimizer, fold, params, here, averages, step, first)
        return averages, trees.add(way, fold.rates[age], direction), sums

    _, way, sums = jax.lax.fori_loop(first, n, body, start)
    result: list = [None] * len(fold.weights)
    for i, total in zip(kept, sums, strict=True):
        past = fold.sum(i).at[fold.present_slot].add(-fold.weights[i][0])
        rest = lambda leaf, whole, past=past: spread(past, leaf) * whole[None] - leaf
        result[i] = jax.vmap(like)(jax.tree.map(rest, total, way))
    return tuple(result)


def _added(rows: PyTree, slot, row: PyTree) -> PyTree:
    """``rows`` with ``row`` added to one of them."""
    return jax.tree.map(lambda leaf, more: leaf.at[slot].add(more), rows, row)


def _step(
    optimizer, fold: Fold, params: PyTree, gradient: PyTree, averages: list, step, first
) -> tuple[list, PyTree]:
    """The optimizer's recursion at ``step``, begun at ``first``: (averages, F_step)."""
    count, since = (jnp.asarray(n, trees.real_dtype()) for n in (step, step - first))
    rest, fresh, read, moved = iter(averages), optimizer.transformed(gradient), [], []
    for moment, weights, new in zip(optimizer.moments, fold.weights, fresh, strict=True):
        if weights is None:
            read.append(new)
            continue
        average = trees.add(trees.scale(moment.beta, next(rest)), 1 - moment.beta, new)
        moved.append(average)
        whole = 1.0 if moment.bias_correction else 1 - moment.beta ** (count + 1)
        read.append(trees.scale(whole / (1 - moment.beta ** (since + 1)), average))
    return moved, optimizer.direction(tuple(read), params, count)


class BatchedDirection(AbstractDirection):
    """The directions of both forms on mini-batches."""

    def first_order(self, memory: Memory, params: PyTree) -> PyTree:
        """F_n(θ): one gradient per batch."""
        fold = mem.fold(self.problem, self.optimizer, memory)
        gradients = self.problem.gradients(params, fold.batches)
        return present_of(self.optimizer, memory, fold, params, gradients).direction

    def gathered(self, *at) -> tuple[Present, tuple]:
        """The present and the remembered ways: of the memory, its fold, θ and the gradients."""
        return present_of(self.optimizer, *at), remembered(self.optimizer, *at)


class BatchedTaylor(BatchedDirection):
    """One gradient per batch, one Hessian-vector product per batch and moment with memory."""

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        fold = mem.fold(self.problem, self.optimizer, memory)
        gradients, hvp = self.problem.linearize_each(params, fold.batches)
        now, ways = self.gathered(memory, fold, params, gradients)
        forward = trees.scale(self.phase * memory.rate, now.direction)
        changes = []
        for i, (moment, way) in enumerate(zip(self.optimizer.moments, ways, strict=True)):
            slope = lambda g, t, psi=moment.transform: jax.jvp(psi, (g,), (t,))[1]
            if way is not None:
                ahead = jax.tree.map(
                    lambda y, f, i=i: y + spread(fold.sum(i), y) * f[None], way, forward
                )
                moved = jax.tree.map(jax.vmap(slope), gradients, hvp(ahead))
                changes.append(jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), moved))
            elif self.phase:
                batch = self.problem.batch_index(memory.step)
                product = self.problem.hessian_vector(params, forward, batch)
                changes.append(jax.tree.map(slope, now.gradient, product))
            else:
                changes.append(trees.zeros_like(params))
        correction = now.moved_direction(tuple(changes), forward)
        return now.direction, trees.add(now.direction, 1, correction)


class BatchedDisplaced(BatchedDirection):
    """Gradients only: one per batch at θ, and one per batch and moment with memory at its place."""

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        fold = mem.fold(self.problem, self.optimizer, memory)
        gradients = self.problem.gradients(params, fold.batches)
        now, ways = self.gathered(memory, fold, params, gradients)
        ahead = self.ahead(memory)
        there = trees.add(params, ahead, now.direction)
        moments = []
        for i in range(len(self.optimizer.moments)):
            if ways[i] is not None:
                moments.append(self._two_points(fold, i, gradients, ways[i], there, ahead))
                continue
            batch = self.problem.batch_index(memory.step)
            here = self.problem.gradient(there, batch) if self.phase else now.gradient
            moments.append(self.optimizer.transformed_by(i, here))
        return now.direction, self.optimizer.direction(tuple(moments), there, memory.count)

    def _two_points(self, fold: Fold, index: int, gradients, way, there: PyTree, ahead) -> PyTree:
        """Σ_b W_b · mean of ψ(G_b ± σ_b d_b), G_b the gradient at the batch's mean place.

        d_b = (G_b − g_b)/(mean time) is the change of the gradient per unit of time, σ_b the
        standard deviation of the times: averages of g² see the spread of the places, with no
        more gradients.
        """
        psi, total = jax.vmap(partial(self.optimizer.transformed_by, index)), fold.sum(index)
        safe = jnp.where(total > 0, total, 1)
        mean = fold.sum(index, fold.times) / safe
        variance = fold.sum(index, fold.times**2) / safe - mean**2
        deviation, time = safe_sqrt(jnp.maximum(variance, 0.0)), mean + ahead
        share = jnp.where(time > 0, deviation / jnp.where(time > 0, time, 1.0), 0.0)
        places = jax.tree.map(lambda y, x: x[None] + y / spread(safe, y), way, there)

        moved = self.problem.gradients_at(places, fold.batches)
        gap = jax.tree.map(lambda m, g: spread(share, m) * (m - g), moved, gradients)
        both = trees.add(psi(trees.add(moved, 1, gap)), 1, psi(trees.add(moved, -1, gap)))
        return average(total, trees.scale(0.5, both))
