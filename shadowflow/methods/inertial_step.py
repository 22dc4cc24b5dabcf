"""A step of the inertial flow of order 2: averages followed exactly, two or three gradients.

The flow reads its gradient half a step back, so over a step the places that it reads go from half a
step before θ_n to half a step after it: g̃(s) is the parabola through the gradients there and at
θ_n. With it the averages are exact between nodes where ψ is linear, for any decay:
  m(s+δ) = β^δ m(s) + v ψ(s) + w ψ(s+δ),  w = 1 − (1−β^δ)/(aδ),  v = 1 − β^δ − w;
the weights are positive, so an average of squares stays so. And θ(n+1) = θ_n − h Σ_k b_k Φ(m̂(s_k)),
Lobatto's rule: no gradient more. The gradient at the end of a step is that at the start of the
next one where the learning rate is the same.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import State
from ..optimizers.moments import AbstractMoments, Moment, decay_power
from .inertial_rules import each

# Lobatto's rule on [0, 1], exact on polynomials of degree 9: it sees the β^s of a decay of 1e-3
LOBATTO = np.asarray([1.0, (1 / 3 + 2 / 7**0.5 / 3) ** 0.5, (1 / 3 - 2 / 7**0.5 / 3) ** 0.5])
TIMES = np.concatenate([(1 - LOBATTO) / 2, (1 + LOBATTO[::-1]) / 2])
MASS = np.asarray([1 / 15, (14 - 7**0.5) / 30, (14 + 7**0.5) / 30]) / 2
HALF = ([0.0, 0.25], [0.0, 1.0])  # the midpoint of the first half
WHOLE = (TIMES, np.concatenate([MASS, MASS[::-1]]))


class Nodes(eqx.Module):
    """Times [K] within a step, their weights [K] in a mean over it, and per moment with memory
    what of it is left from one to the next (β^δ) and what of ψ there joins (v), [K] each."""

    times: Array
    mass: Array
    fades: tuple
    joins: tuple


def nodes(decays: Sequence[float | None], times, mass) -> Nodes:
    """The ``Nodes`` for the decays of all moments, None for one that is no state."""
    steps = np.diff(times, prepend=times[0])
    array = lambda values: jnp.asarray(values, trees.real_dtype())
    fades, joins = [], []
    for decay in decays:
        fading = steps * (-np.log(decay) if decay else 1e9)
        safe = np.where(fading > 0, fading, 1.0)
        mean = np.where(fading > 0, -np.expm1(-safe) / safe, 1.0)
        fades.append(None if decay is None else array(np.exp(-fading)))
        joins.append(None if decay is None else array(mean - np.exp(-fading)))
    return Nodes(array(times), array(mass), tuple(fades), tuple(joins))


class Parabola(eqx.Module):
    """middle + (s − ½) slope + (s − ½)² bend."""

    middle: PyTree
    slope: PyTree
    bend: PyTree

    def __call__(self, s: Array) -> PyTree:
        from_middle = s - 0.5
        line = trees.add(self.middle, from_middle, self.slope)
        return trees.add(line, from_middle**2, self.bend)


def straight(middle: PyTree, slope: PyTree) -> Parabola:
    """The parabola without bend."""
    return Parabola(middle, slope, trees.zeros_like(middle))


def through(start: PyTree, middle: PyTree, end: PyTree) -> Parabola:
    """The parabola of three values at s = 0, ½, 1."""
    slope = trees.subtract(end, start)
    both = trees.add(trees.subtract(start, middle), 1, trees.subtract(end, middle))
    return Parabola(middle, slope, trees.scale(2, both))


def half_phase(decay: Array) -> Array:
    """κ = (a/2) / sinh(a/2) for a = ln(1/decay); 1 in the limits decay → 1 and decay = 0."""
    some = decay > 0
    half = -jnp.log(jnp.where(some, decay, 0.5)) / 2
    return jnp.where(some, half / jnp.sinh(half), 1.0)


def direction_at(
    optimizer: AbstractMoments, memory: Memory, moments: tuple, fresh: tuple, params: PyTree, s
) -> PyTree:
    """Φ(m̂) at the time s of a step, from the moments and ψ(g̃) there; None: no state, ψ is read."""
    parts = zip(optimizer.moments, moments, fresh, strict=True)
    read = tuple(_read(moment, memory, old, psi, s) for moment, old, psi in parts)
    return optimizer.direction(read, params, memory.count)


def _read(moment: Moment, memory: Memory, old: PyTree, psi: PyTree, s) -> PyTree:
    if old is None:
        return psi
    decay = moment.beta
    share = jnp.sqrt(decay) * half_phase(decay)
    mixed = trees.add(trees.scale(1 - share, psi), share, old)
    if not moment.bias_correction or memory.settled:
        return mixed
    now = jnp.asarray(s, decay.dtype) + memory.count
    return trees.scale(1 / (1 - decay_power(decay, now) * share), mixed)


def along(optimizer: AbstractMoments, gradients: Parabola, s: Array) -> tuple:
    """ψ per moment of the gradient at the time s."""
    return optimizer.transformed(gradients(s))


def held(fresh: tuple, s: Array) -> tuple:
    """The same ψ at all times."""
    del s
    return fresh


@eqx.filter_jit
def walk(
    optimizer: AbstractMoments,
    memory: Memory,
    points: Nodes,
    moments: tuple,
    fresh_at: Callable,
    place: Parabola,
) -> tuple[PyTree, tuple]:
    """(the mean of the direction over the nodes, the moments at the last one), no gradient taken.

    fresh_at: s ↦ ψ(g̃) per moment, with s ↦ the θ that Φ sees, ``place``.
    """

    def reach(carry, node):
        moments, before, total = carry
        s, share, fades, joins = node
        fresh = fresh_at(s)

        def later(old, psi, past, fade, join):
            kept = trees.add(trees.scale(fade, old), 1 - fade, psi)
            return trees.add(kept, join, trees.subtract(past, psi))

        moments = each(later, moments, fresh, before, fades, joins)
        direction = direction_at(optimizer, memory, moments, fresh, place(s), s)
        return (moments, fresh, trees.add(total, share, direction)), None

    start = moments, fresh_at(points.times[0]), trees.zeros_like(place.middle)
    inputs = points.times, points.mass, points.fades, points.joins
    (moments, _, mean), _ = jax.lax.scan(reach, start, inputs)
    return mean, moments


class Averaged(eqx.Module):
    """The step with all moments kept: ``whole`` and ``half``, the nodes of a step and of its first
    half."""

    whole: Nodes
    half: Nodes

    def __call__(
        self, flow: Any, memory: Memory, state: State, here: tuple, more: PyTree, last: tuple
    ) -> tuple[PyTree, tuple, PyTree]:
        """(θ, moments, gradient half a step ahead) after a step.

        here: (θ, gradient) at its start; more: what is added to the direction all along; last:
        (the gradient half a step ahead, learning rate) of the step before.
        """
        params, gradient = here
        optimizer, rate, (before, known) = flow.optimizer, memory.rate, last

        def start(gradient):
            fresh = optimizer.transformed(gradient)
            return trees.add(
                more, 1, direction_at(optimizer, memory, state.moments, fresh, params, 0.0)
            )

        def looked_back():
            return flow.problem.gradient(trees.add(params, rate / 2, start(gradient)))

        back = flow.either(known == rate, lambda: before, looked_back)
        place = straight(params, trees.scale(-rate, start(back)))

        def mean(points, gradients):
            fresh_at = jax.tree_util.Partial(along, optimizer, gradients)
            found, moments = walk(optimizer, memory, points, state.moments, fresh_at, place)
            return trees.add(found, 1, more), moments

        rising = straight(gradient, trees.scale(2, trees.subtract(gradient, back)))
        way, _ = mean(self.half, rising)
        front = flow.problem.gradient(trees.add(params, -rate / 2, way))
        way, moments = mean(self.whole, through(back, gradient, front))
        return trees.add(params, -rate, way), moments, front


def averaged(decays: Sequence[float | None]) -> Averaged:
    """The step for the decays of all moments."""
    return Averaged(nodes(decays, *WHOLE), nodes(decays, *HALF))
