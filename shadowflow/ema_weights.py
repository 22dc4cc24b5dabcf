"""The memory of an optimizer: weights of past steps, mean times back, Gauss rules of ages.

At step n a moment weighs the gradient of step k ≤ n by w_{n,k} = (1−β) β^{n−k} / c, and read it
the time τ_k = Σ_{l=k}^{n−1} h_l ago. All that the methods need are the sums Z_r = Σ_k (1−β)
β^{n−k} τ_k^r, r = 0…3, which follow a recursion in n without any cancellation.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import trees
from .optimizers.base import AbstractOptimizer, rate_at, traced
from .optimizers.moments import decay_power, safe_sqrt


class Memory(eqx.Module):
    """Where in its run an optimizer is, and how its moments weigh the past there.

    ``sums``: per moment the array (Z_0, Z_1, Z_2, Z_3), None for a moment without memory;
    ``decays``: theirs; ``rate``: the learning rate of step ``step``; ``settled``: n = ∞, all
    weights sum to 1; ``length``: past this many steps no weight is above rounding (None if
    unknown); ``kept``: how many past steps are told apart, with mini-batches.
    """

    step: int | Array
    rate: Array
    sums: tuple
    decays: tuple
    learning_rate: float | Array | Callable
    settled: bool = eqx.field(static=True)
    length: int | Array | None
    kept: int | None = eqx.field(static=True, default=None)

    @property
    def count(self) -> Array:
        """The step number as ``combine`` sees it: ∞ when settled."""
        return jnp.asarray(jnp.inf if self.settled else self.step, trees.real_dtype())

    @property
    def first(self) -> int | Array:
        """The first past step that still has weight."""
        return first_of(self.step, self.length)

    def advanced(self) -> "Memory":
        """One step later; the rate of the new step is filled in by ``with_rate``."""
        sums = tuple(
            None if z is None else advanced(z, decay, self.rate)
            for z, decay in zip(self.sums, self.decays, strict=True)
        )
        where = lambda memory: (memory.step, memory.sums)
        return eqx.tree_at(where, self, (self.step + 1, sums), is_leaf=lambda leaf: leaf is None)

    def with_rate(self, rate) -> "Memory":
        """The same, with ``rate`` as the learning rate of the present step."""
        return eqx.tree_at(lambda m: m.rate, self, jnp.asarray(rate, trees.real_dtype()))

    def mean_time(self, index: int) -> Array:
        """The mean time back of a moment: learning rate × the mean age μ_n(β) of Remark 3.2."""
        sums = self.sums[index]
        return jnp.zeros((), trees.real_dtype()) if sums is None else sums[1] / sums[0]

    def mean_times(self) -> list[Array]:
        """``mean_time`` of every moment."""
        return [self.mean_time(i) for i in range(len(self.sums))]

    def gauss_rule(self, index: int) -> tuple[Array, Array]:
        """Two times back and their weights (arrays of shape (2,)), exact for cubic polynomials.

        The nodes lie within the past, the weights are positive and sum to 1: averages of squares
        stay non-negative. The present alone for a moment without memory.
        """
        sums = self.sums[index]
        if sums is None:
            return jnp.zeros((1,), trees.real_dtype()), jnp.ones((1,), trees.real_dtype())
        mean, second, third = sums[1:] / sums[0]
        variance = jnp.maximum(second - mean**2, 0.0)
        spread = safe_sqrt(variance)
        some = spread > 0
        cube = jnp.where(some, spread, 1.0) ** 3
        skew = jnp.where(some, (third - 3 * mean * second + 2 * mean**3) / cube, 0.0)
        standard = (skew + jnp.asarray([-1.0, 1.0], skew.dtype) * jnp.sqrt(skew**2 + 4)) / 2
        return mean + spread * standard, 1 / (1 + standard**2)


class Rates(eqx.Module):
    """A schedule looked up in a table made beforehand, so that no schedule is ever traced."""

    table: Array

    def __call__(self, step):
        return self.table[step]


def advanced(sums: Array, decay, elapsed) -> Array:
    """(Z_0, …, Z_3) one step later: all times grow by ``elapsed``, a new gradient joins at 0."""
    z0, z1, z2, z3 = sums
    e1, e2, e3 = elapsed, elapsed**2, elapsed**3
    aged = [z0, z1 + e1 * z0, z2 + 2 * e1 * z1 + e2 * z0, z3 + 3 * (e1 * z2 + e2 * z1) + e3 * z0]
    return decay * jnp.stack(aged) + (1 - decay) * jnp.asarray([1.0, 0, 0, 0], sums.dtype)


def settled_sums(decay, rate) -> Array:
    """The limit of the sums for n → ∞ at a constant rate: β/(1−β), β(1+β)/(1−β)², …"""
    b, a = decay, 1 - decay
    ages = [jnp.ones_like(b), b / a, b * (1 + b) / a**2, b * (1 + 4 * b + b * b) / a**3]
    return jnp.stack([age * rate**power for power, age in enumerate(ages)])


def at(
    optimizer: AbstractOptimizer, learning_rate, step, params: PyTree, kept: int | None = None
) -> Memory:
    """The memory at ``step``: a number, traced or not, or "settled", at the schedule's step 0.

    For n = 1, decay β, rate h: mean time back hβ(1−β)/(1−β²).
    """
    settled = isinstance(step, str)
    length = None if callable(learning_rate) else _length(optimizer, params)
    step = 0 if settled else int(step) if isinstance(step, np.integer) else step
    decays = tuple(m.beta if m.has_memory else None for m in optimizer.moments)
    some = [decay for decay in decays if decay is not None]
    if settled:
        found = iter([settled_sums(decay, rate_at(learning_rate, 0)) for decay in some])
    else:
        found = iter(_summed(some, learning_rate, step, length))
    sums = tuple(None if decay is None else next(found) for decay in decays)
    rate = rate_at(learning_rate, step)
    return Memory(step, rate, sums, decays, learning_rate, settled, length, kept)


def ready(
    optimizer: AbstractOptimizer, learning_rate, step, params: PyTree, kept: int | None = None
) -> Memory:
    """``at``, with all numbers as arrays: jit then compiles once for every step and rate."""
    rate = learning_rate if callable(learning_rate) else jnp.asarray(float(learning_rate))
    memory = at(traced(optimizer), rate, step, params, kept)
    whole = lambda n: None if n is None else jnp.asarray(n, jnp.int32)
    length = None if callable(rate) else _length(optimizer, params)
    return dataclasses.replace(memory, step=whole(memory.step), length=whole(length))


def _length(optimizer: AbstractOptimizer, params: PyTree) -> int | None:
    return optimizer.memory_length(params) if optimizer.moments else None


def _summed(decays: list, learning_rate, step, faded: int | None) -> list:
    first = first_of(step, faded)
    zero = jnp.zeros((), trees.real_dtype())
    start = [jnp.stack([1 - decay, zero, zero, zero]) for decay in decays]
    if not decays or (isinstance(step, int) and step == 0):
        return start

    def body(n, sums):
        elapsed = rate_at(learning_rate, n)
        return [advanced(z, decay, elapsed) for z, decay in zip(sums, decays, strict=True)]

    return jax.lax.fori_loop(first, step, body, start)


def first_of(step, length: int | Array | None) -> Any:
    """The first of the last ``length`` steps before ``step``; an int where both are ints."""
    if length is None:
        return 0
    if isinstance(step, int) and isinstance(length, int):
        return max(0, step - length)
    return jnp.maximum(0, step - length)


def mean_displacements(optimizer: AbstractOptimizer, memory: Memory, direction: Callable) -> tuple:
    """Per moment the mean way back, Σ_k w_{n,k} v_{n,k} / W with v_{n,k} = Σ_{l=k}^{n−1} h_l F_l.

    ``direction(l)`` gives F_l(θ), the memoryless direction at step l. The sums are taken as they
    stand, in O(n) elementwise work; None for a moment without memory.
    """
    n, like = memory.step, jax.eval_shape(direction, 0.0)
    kept = [i for i, sums in enumerate(memory.sums) if sums is not None]
    decays = [memory.decays[i] for i in kept]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def body(step, ways):
        count = jnp.asarray(step, trees.real_dtype())
        moved, rate = direction(count), rate_at(memory.learning_rate, step)
        return [
            trees.scale(decay, trees.add(way, (1 - decay_power(decay, count + 1)) * rate, moved))
            for way, decay in zip(ways, decays, strict=True)
        ]

    ways = jax.lax.fori_loop(memory.first, n, body, [zeros for _ in kept])
    masses = [1 - decay_power(decay, memory.count + 1) for decay in decays]
    result = {i: trees.scale(1 / z, way) for i, z, way in zip(kept, masses, ways, strict=True)}
    return tuple(result.get(i) for i in range(len(memory.sums)))


def line_mean(transform: Callable, gradient: PyTree, slope: PyTree, nodes, mass) -> PyTree:
    """Σ_q mass_q · ψ(gradient + nodes_q · slope): the mean of ψ along a line, by a rule."""

    def mean(g: Array, d: Array) -> Array:
        terms = [
            trees.cast(w, g) * transform(g + trees.cast(x, g) * d)
            for x, w in zip(nodes, mass, strict=True)
        ]
        return sum(terms[1:], terms[0])

    return jax.tree.map(mean, gradient, slope)
