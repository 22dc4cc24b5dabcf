"""The inertial flow: the moments stay as states, and only the step is corrected.

In units of steps s, a = ln(1/β), κ = (a/2)/sinh(a/2):
  m' = −a (m − ψ(g̃)),  θ' = −h Φ(m̂),  g̃ = ∇E(θ + ½ h Φ),
  m̂ = [ψ(g̃) + (m − ψ(g̃)) β^{½} κ] / (1 − β^{s+½} κ), the denominator 1 without bias correction.
The average is followed exactly (its flow over one step is β), β^{½} κ makes the mean of m̂ over
a step the value after the update, and the half step centres the gradient. Full batch only;
order 2, at any decay, from a cold or a settled start.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import memory as mem, trees
from ..memory import Memory
from ..optimizer import Moment, Optimizer, State, decay_power, traced
from ..problem import Problem
from . import onward, solver, taylor

FADING = 0.2
EARLY_STEPS, EARLY_SUBSTEPS = 8, 4


def substeps(optimizer: Optimizer) -> int:
    """How often to divide a step so that no memory fades by more than e^-0.2 in a part of it.

    A memory of few steps changes fast within one, at a speed that no smaller learning rate
    reduces; undivided, the solver's error would be of first order in it. For decay 0.9: 1.
    """
    decays = [float(m.decay) for m in optimizer.moments if m.has_memory and float(m.decay) > 0]
    return max((math.ceil(-math.log(decay) / FADING) for decay in decays), default=1)


def half_phase(decay: Array) -> Array:
    """κ = (a/2) / sinh(a/2) for a = ln(1/decay); 1 in the limits decay → 1 and decay = 0."""
    some = decay > 0
    half = -jnp.log(jnp.where(some, decay, 0.5)) / 2
    return jnp.where(some, half / jnp.sinh(half), 1.0)


class Inertial(eqx.Module):
    """One step of the inertial flow, for ``drive``.

    The carry is (θ, state, memory, last direction, last memory). The record is (half the change
    of the direction since the last step, the direction): the size of what a first-order
    inertial flow, which reads gradient and moments half a step late, would miss. What uncorrected
    weights, rising from 0, change by themselves is no such miss and is taken out.
    """

    problem: Problem
    optimizer: Optimizer
    substeps: Array
    rules: onward.Rules | None
    order: int = eqx.field(static=True)

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The carry of ``drive`` before the first step."""
        return params, state, memory, trees.scale(jnp.nan, trees.zeros_like(params)), memory

    def __call__(self, carry, rate):
        params, state, memory, last, before = carry
        memory = mem.with_rate(memory, rate)
        gradient = self.problem.gradient(params)
        reference = self.optimizer.transformed(gradient)
        drift = tuple(trees.zeros_like(params) if m.has_memory else None
                      for m in self.optimizer.moments)  # fmt: skip
        moved, drift = self._flow(memory, state, reference, (params, drift))
        moments = self._moments(state, reference, drift, 1.0)
        here = trees.scale(1 / jnp.where(rate > 0, rate, 1.0), trees.subtract(params, moved))
        rise = self._rise(memory, before, params, gradient)
        change = trees.norm(trees.subtract(trees.subtract(here, last), rise)) / 2
        known = (rate > 0) & jnp.isfinite(change)
        record = (jnp.where(known, change, 0.0), trees.norm(here))
        direction = trees.where(rate > 0, here, last)
        before = trees.where(rate > 0, memory, before)
        finite = jnp.isfinite(self.problem.value(params)) & trees.all_finite((moved, moments))
        state = State(moments, state.step + 1)
        memory = mem.advance(self.optimizer, memory)
        return (moved, state, memory, direction, before), record, finite

    def _flow(self, memory: Memory, state: State, reference: tuple, y: tuple) -> tuple:
        """(θ, drift) one step later."""
        def run(rule):
            field = lambda s, y: self._field(memory, state, reference, rule, s, y)  # noqa: E731
            return solver.one_step(field, y, traceable=self.problem.traceable,
                                   substeps=self._parts(memory),
                                   high_order=self.order > 2)  # fmt: skip

        if self.rules is None or memory.settled:
            return run(None if self.rules is None else self.rules.late)
        begun = memory.step < self.rules.begin
        if not self.problem.traceable:
            return run(self.rules.early if begun else self.rules.late)
        return jax.lax.cond(begun, lambda: run(self.rules.early), lambda: run(self.rules.late))

    def _rise(self, memory: Memory, before: Memory, params: PyTree, gradient: PyTree) -> PyTree:
        """F_n − F_m at one gradient, m the last step that moved: 0 where all F are the same."""
        if memory.settled or self.optimizer.uniform:
            return trees.zeros_like(params)
        now, then = (
            taylor.present(self.optimizer, step, params, gradient).direction
            for step in (memory, before)
        )
        return trees.subtract(now, then)

    def _parts(self, memory: Memory) -> Array:
        """More parts at the start of a cold run: corrected weights vary like 1 / (s + ½) there."""
        if memory.settled:
            return self.substeps
        return self.substeps * jnp.where(memory.step < EARLY_STEPS, EARLY_SUBSTEPS, 1)

    def _moments(self, state: State, reference: tuple, drift: tuple, s) -> tuple:
        """m(s) = β^s m + (1 − β^s) ψ_reference + drift: exact while the gradient stands still."""
        moments = []
        for moment, old, psi, extra in zip(self.optimizer.moments, state.moments, reference,
                                           drift, strict=True):  # fmt: skip
            if old is None:
                moments.append(None)
                continue
            faded = decay_power(moment.rate, jnp.asarray(s, trees.real_dtype()))
            still = trees.add(trees.scale(faded, old), 1 - faded, psi)
            moments.append(trees.add(still, 1, extra))
        return tuple(moments)

    def _field(self, memory: Memory, state: State, reference: tuple, rule, s, y):
        params, drift = y
        moments = self._moments(state, reference, drift, s)
        now = State(moments, memory.count + jnp.asarray(s, trees.real_dtype()))
        if self.order > 2:
            make = onward.early if isinstance(rule, onward.Early) else onward.late
            direction, fresh = make(rule, self.problem, self.optimizer, memory.rate, params, now)
        else:
            direction, fresh = self._half(memory, now, rule, params, s)
        pull = tuple(
            None if extra is None or psi is None
            else trees.scale(_speed(moment.rate), _pull(psi, base, extra))
            for moment, extra, psi, base in zip(
                self.optimizer.moments, drift, fresh, reference, strict=True
            )
        )
        return trees.scale(-memory.rate, direction), pull

    def _half(self, memory: Memory, now: State, rule, params: PyTree, s) -> tuple[PyTree, tuple]:
        """Order 2: the gradient half a step back, and of a transient what the phase misses."""
        gradient = self.problem.gradient(params)
        here = self._direction(memory, now.moments, gradient, params, s)
        mended = here
        if rule is not None:
            fresh = self.optimizer.transformed(gradient)
            mended = onward.still(rule, self.optimizer, params, now, fresh)
        there = trees.add(params, memory.rate / 2, mended)
        gradient = self.problem.gradient(there)
        direction = self._direction(memory, now.moments, gradient, there, s)
        if rule is not None:
            direction = trees.add(direction, 1, trees.subtract(mended, here))
        return direction, self.optimizer.transformed(gradient)

    def _direction(self, memory: Memory, moments: tuple, gradient: PyTree, params: PyTree, s):
        fresh = self.optimizer.transformed(gradient)
        read = tuple(
            self._read(moment, memory, old, psi, s)
            for moment, old, psi in zip(self.optimizer.moments, moments, fresh, strict=True)
        )
        return self.optimizer.direction(read, params, memory.count)

    def _read(self, moment: Moment, memory: Memory, old: PyTree, psi: PyTree, s) -> PyTree:
        if old is None:
            return psi
        decay = moment.rate
        share = jnp.sqrt(decay) * half_phase(decay)
        mixed = trees.add(trees.scale(1 - share, psi), share, old)
        if not moment.bias_correction or memory.settled:
            return mixed
        now = jnp.asarray(s, decay.dtype) + memory.count
        return trees.scale(1 / (1 - decay_power(decay, now) * share), mixed)


def _speed(decay: Array) -> Array:
    """a = ln(1/decay); 0 for decay 0, whose moment is read from the gradient alone."""
    return jnp.where(decay > 0, -jnp.log(jnp.where(decay > 0, decay, 0.5)), 0.0)


def _pull(psi: PyTree, base: PyTree, extra: PyTree) -> PyTree:
    return trees.subtract(trees.subtract(psi, base), extra)


def flow(problem: Problem, optimizer: Optimizer, order: int, spacing: None) -> Inertial:
    """The runner of the method."""
    del spacing
    dtype = jnp.float64
    corrected = all(moment.corrected for moment in optimizer.moments)
    if order > 2:
        rules = onward.rules(optimizer, order, dtype)
    else:
        rules = None if corrected else onward.transient(optimizer, dtype)
    return Inertial(problem, traced(optimizer), jnp.asarray(substeps(optimizer)), rules, order)
