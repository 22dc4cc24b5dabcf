"""The memory of an optimizer: weights of past steps, mean times back, Gauss rules of ages.

At step n a moment weighs the gradient of step k ≤ n by w_{n,k} = (1−β) β^{n−k} / c, and read it
the time τ_k = Σ_{l=k}^{n−1} h_l ago. All that the methods need are the sums Z_r = Σ_k (1−β)
β^{n−k} τ_k^r, r = 0…3, which follow a recursion in n without any cancellation.
"""

import dataclasses
import math
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import checks, trees
from .optimizers.moments import Optimizer, decay_power, rate_at, safe_sqrt, traced


class Memory(eqx.Module):
    """Where in its run an optimizer is, and how its moments weigh the past there.

    ``sums``: per moment the array (Z_0, Z_1, Z_2, Z_3), None for a moment without memory;
    ``rate``: the learning rate of step ``step``; ``settled``: n = ∞, all weights sum to 1;
    ``window``: past this many steps no weight is above rounding (None if unknown); ``kept``: how
    many past steps are told apart, with mini-batches.
    """

    step: int | Array
    rate: Array
    sums: tuple
    learning_rate: float | Array | Callable
    settled: bool = eqx.field(static=True)
    window: int | Array | None
    kept: int | None = eqx.field(static=True, default=None)

    @property
    def count(self) -> Array:
        """The step number as ``combine`` sees it: ∞ when settled."""
        return jnp.asarray(jnp.inf if self.settled else self.step, trees.real_dtype())


class Rates(eqx.Module):
    """A schedule looked up in a table made beforehand, so that no schedule is ever traced."""

    table: Array

    def __call__(self, step):
        return self.table[step]


def window(optimizer: Optimizer, dtype) -> int | None:
    """Steps after which the longest memory has faded below ``dtype``'s rounding.

    A quarter more than decay^n = eps asks for, so that ages are exact to rounding too. None
    if a decay is traced or not a scalar. For decay 0.9 in float64: 428.
    """
    decays = [moment.decay for moment in optimizer.moments if moment.has_memory]
    if not all(checks.is_concrete(decay) and np.ndim(decay) == 0 for decay in decays):
        return None
    longest = max((float(decay) for decay in decays), default=0.0)
    if longest == 0:
        return 1
    return math.ceil(1.25 * math.log(float(jnp.finfo(dtype).eps)) / math.log(longest))


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


def at(optimizer: Optimizer, learning_rate, step, dtype, kept: int | None = None) -> Memory:
    """The memory at ``step``; ``step=None``: settled (with a schedule: at its step 0).

    ``step`` may be traced. For n = 1, decay β, rate h: mean time back hβ(1−β)/(1−β²).
    """
    settled, faded = step is None, None if callable(learning_rate) else window(optimizer, dtype)
    step = 0 if settled else int(step) if isinstance(step, np.integer) else step
    decays = [m.rate for m in optimizer.moments if m.has_memory]
    if settled:
        sums = [settled_sums(decay, rate_at(learning_rate, 0)) for decay in decays]
    else:
        sums = _summed(decays, learning_rate, step, faded)
    rest = iter(sums)
    sums = tuple(next(rest) if m.has_memory else None for m in optimizer.moments)
    rate = rate_at(learning_rate, step)
    return Memory(step, rate, sums, learning_rate, settled, faded, kept)


def ready(optimizer: Optimizer, learning_rate, step, dtype, kept: int | None = None) -> Memory:
    """``at``, with all numbers as arrays: jit then compiles once for every step and rate."""
    rate = learning_rate if callable(learning_rate) else jnp.asarray(float(learning_rate))
    memory = at(traced(optimizer), rate, step, dtype, kept)
    whole = lambda n: None if n is None else jnp.asarray(n, jnp.int32)
    faded = None if callable(rate) else whole(window(optimizer, dtype))
    return dataclasses.replace(memory, step=whole(memory.step), window=faded)


def _summed(decays: list, learning_rate, step, faded: int | None) -> list:
    first = _first(step, faded)
    zero = jnp.zeros((), trees.real_dtype())
    start = [jnp.stack([1 - decay, zero, zero, zero]) for decay in decays]
    if not decays or (isinstance(step, int) and step == 0):
        return start

    def body(n, sums):
        elapsed = rate_at(learning_rate, n)
        return [advanced(z, decay, elapsed) for z, decay in zip(sums, decays, strict=True)]

    return jax.lax.fori_loop(first, step, body, start)


def _first(step, faded):
    """The first past step that still has weight at ``step``; an int where both are ints."""
    if faded is None:
        return 0
    known = isinstance(step, int) and isinstance(faded, int)
    return max(0, step - faded) if known else jnp.maximum(0, step - faded)


def advance(optimizer: Optimizer, memory: Memory) -> Memory:
    """The memory one step later; the rate of the new step is filled in by ``with_rate``."""
    sums = tuple(
        None if z is None else advanced(z, moment.rate, memory.rate)
        for z, moment in zip(memory.sums, optimizer.moments, strict=True)
    )
    return eqx.tree_at(lambda m: (m.step, m.sums), memory, (memory.step + 1, sums), is_leaf=_none)


def with_rate(memory: Memory, rate) -> Memory:
    """The same memory, with ``rate`` as the learning rate of the present step."""
    return eqx.tree_at(lambda m: m.rate, memory, jnp.asarray(rate, trees.real_dtype()))


def _none(leaf) -> bool:
    return leaf is None


def total_weight(optimizer: Optimizer, memory: Memory, index: int) -> Array:
    """W = Σ_k w_{n,k}: 1 with bias correction, else 1 − β^{n+1}."""
    moment, sums = optimizer.moments[index], memory.sums[index]
    if sums is None or moment.bias_correction or memory.settled:
        return jnp.ones((), trees.real_dtype())
    return sums[0]


def mean_time(memory: Memory, index: int) -> Array:
    """The mean time back of a moment: learning rate × the mean age μ_n(β) of Remark 3.2."""
    sums = memory.sums[index]
    return jnp.zeros((), trees.real_dtype()) if sums is None else sums[1] / sums[0]


def gauss_rule(memory: Memory, index: int) -> tuple[Array, Array]:
    """Two times back and their weights (arrays of shape (2,)), exact for cubic polynomials.

    The nodes lie within the past, the weights are positive and sum to 1: averages of squares
    stay non-negative.
    """
    sums = memory.sums[index]
    if sums is None:
        return jnp.zeros((2,), trees.real_dtype()), jnp.full((2,), 0.5, trees.real_dtype())
    mean, second, third = sums[1:] / sums[0]
    variance = jnp.maximum(second - mean**2, 0.0)
    spread = safe_sqrt(variance)
    some = spread > 0
    cube = jnp.where(some, spread, 1.0) ** 3
    skew = jnp.where(some, (third - 3 * mean * second + 2 * mean**3) / cube, 0.0)
    standard = (skew + jnp.asarray([-1.0, 1.0], skew.dtype) * jnp.sqrt(skew**2 + 4)) / 2
    return mean + spread * standard, 1 / (1 + standard**2)


def mean_ways(optimizer: Optimizer, memory: Memory, direction: Callable) -> tuple:
    """Per moment the mean way back, Σ_k w_{n,k} v_{n,k} / W with v_{n,k} = Σ_{l=k}^{n−1} h_l F_l.

    ``direction(weights, l)`` gives F_l(θ), the memoryless direction at step l. The sums are
    taken as they stand, in O(n) elementwise work; None for a moment without memory.
    """
    n, like = memory.step, jax.eval_shape(direction, _unit_weights(optimizer), 0.0)
    first = _first(n, memory.window)
    kept = [i for i, sums in enumerate(memory.sums) if sums is not None]
    decays = [optimizer.moments[i].rate for i in kept]
    start = [1 - decay_power(decay, jnp.asarray(first, trees.real_dtype()) + 1) for decay in decays]
    zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def body(step, carry):
        masses, ways = carry
        raw = dict(zip(kept, masses, strict=True))
        moved = direction(_weights(optimizer, raw), jnp.asarray(step, trees.real_dtype()))
        rate = rate_at(memory.learning_rate, step)
        ways = [
            trees.scale(decay, trees.add(way, mass * rate, moved))
            for way, mass, decay in zip(ways, masses, decays, strict=True)
        ]
        return [d * mass + 1 - d for d, mass in zip(decays, masses, strict=True)], ways

    ways = [zeros for _ in kept]
    masses, ways = jax.lax.fori_loop(first, n, body, (start, ways))
    result = {i: trees.scale(1 / z, way) for i, z, way in zip(kept, masses, ways, strict=True)}
    return tuple(result.get(i) for i in range(len(memory.sums)))


def _unit_weights(optimizer: Optimizer) -> tuple:
    return tuple(jnp.ones((), trees.real_dtype()) for _ in optimizer.moments)


def _weights(optimizer: Optimizer, masses: dict) -> tuple:
    one = jnp.ones((), trees.real_dtype())
    return tuple(
        one if moment.corrected else masses[i] for i, moment in enumerate(optimizer.moments)
    )


def weights(optimizer: Optimizer, memory: Memory) -> tuple:
    """(W_1, …, W_I) at the memory's step."""
    return tuple(total_weight(optimizer, memory, i) for i in range(len(optimizer.moments)))


def leaf_mean(transform: Callable, gradient: Array, slope: Array, nodes: Array, mass: Array):
    """Σ_q mass_q · transform(gradient + nodes_q · slope), for one leaf."""
    terms = [
        trees.cast(w, gradient) * transform(gradient + trees.cast(x, gradient) * slope)
        for x, w in zip(nodes, mass, strict=True)
    ]
    return sum(terms[1:], terms[0])


def line_mean(transform: Callable, gradient: PyTree, slope: PyTree, nodes, mass) -> PyTree:
    """The mean of ψ along the line gradient + x · slope under a rule of nodes x."""
    return jax.tree.map(lambda g, d: leaf_mean(transform, g, d, nodes, mass), gradient, slope)
