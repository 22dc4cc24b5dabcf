"""The inertial flow: the moments stay as states, and only the step is corrected.

In units of steps s, a = ln(1/β), κ = (a/2)/sinh(a/2), at order 2:
  m' = −a (m − ψ(g̃)),  θ' = −h Φ(m̂),  g̃(s) = ∇E(θ(s − ½)),
  m̂ = [ψ(g̃) + (m − ψ(g̃)) β^{½} κ] / (1 − β^{s+½} κ), the denominator 1 without bias correction.
The average is followed exactly (its flow over one step is β), β^{½} κ makes the mean of m̂ over
a step the value after the update, and the gradient half a step back centres it. Without bias
correction a nonlinear Φ of moments that rise from 0 has another mean than the Φ of their mean:
θ' gets −h [G − mean of Φ(m̂)] more, both at the gradient of θ_n held, G after the step.
Step 0 of a cold start is the optimizer's own: Φ of the first gradient is known, and with a small
eps it is another one half a step on. Orders 3 and 4 read m' and θ' from real steps of the
optimizer (``onward``). Full batch only; at any decay, from a cold or a settled start.

keep: the moments left out are no states but averages along the path, read as in ``displaced`` on
one line through two gradients, from their own places and half a step more: order 2.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import checks, trees
from ..ema_weights import Memory
from ..optimizers.base import AbstractOptimizer, Start, State, traced
from ..optimizers.moments import AbstractMoments, decay_power
from . import inertial_rules as rules_of, inertial_step as step_of, ode
from .base import AbstractMethod, AbstractStepper, ShadowPlan
from .collocation import begun
from .nodes import known_decay
from .present import present

FADING, FADING_HIGH = 0.2, 0.5
EARLY_STEPS, EARLY_SUBSTEPS, EARLY_SUBSTEPS_HIGH = 8, 4, 2


def substeps(decays: Sequence[float], order: int = 2) -> int:
    """How often to divide a step so that no memory fades by more than e^-0.2 in a part of it
    (e^-0.5 above order 2, whose solver is of order 8).

    A memory of few steps changes fast within one, at a speed that no smaller learning rate
    reduces; undivided, the solver's error would be of first order in it. For decay 0.9: 1.
    """
    some, fading = [decay for decay in decays if decay > 0], FADING if order == 2 else FADING_HIGH
    return max((math.ceil(-math.log(decay) / fading) for decay in some), default=1)


class InertialFlow(AbstractStepper):
    """One step of the inertial flow.

    The carry is (θ, state, memory, last direction, the number of the last step that moved, whether
    none has moved since a cold start, what the step hands on to the next). The record is (half the
    change of the direction since the last step, the direction, whether order 2 was taken in place
    of a higher one): the size of what a first-order inertial flow, which reads gradient and moments
    half a step late, would miss. What uncorrected weights, rising from 0, change by themselves is
    no such miss and is taken out.
    """

    optimizer: AbstractMoments
    averaged: step_of.Averaged
    substeps: Array
    rules: rules_of.Rules | None
    order: int = eqx.field(static=True)
    kept: tuple[bool, ...] | None = eqx.field(static=True)
    rising: bool = eqx.field(static=True)
    lower: "InertialFlow | None" = None

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """No direction is known before the first step."""
        zeros, fresh = trees.zeros_like(params), memory.count == 0
        return (
            params,
            state,
            memory,
            trees.scale(jnp.nan, zeros),
            memory.count,
            fresh,
            nothing(zeros),
        )

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, state, memory, last, before, unmoved, ahead = carry
        memory = memory.with_rate(rate)
        gradient = self.problem.gradient(params)
        own = lambda: (*self._own(memory, state, params, gradient), ahead, jnp.asarray(False))
        flow = lambda: self._finite_flow(memory, state, (params, gradient), ahead)
        moved, moments, ahead, lowered = self.either(unmoved, own, flow)
        here = trees.scale(1 / jnp.where(rate > 0, rate, 1.0), trees.subtract(params, moved))
        if self.kept is None:
            rise = self._rise(memory, before, params, gradient)
            change = trees.norm(trees.subtract(trees.subtract(here, last), rise)) / 2
            known = (rate > 0) & jnp.isfinite(change)
            record = (jnp.where(known, change, 0.0), trees.norm(here), lowered)
        else:
            record = (*self._eliminated(memory, state, params, gradient), lowered)
        direction = trees.where(rate > 0, here, last)
        before = jnp.where(rate > 0, memory.count, before)
        unmoved = unmoved & (rate == 0)
        finite = jnp.isfinite(self.problem.value(params)) & trees.all_finite((moved, moments))
        state = State(moments, state.step + 1)
        return (moved, state, memory.advanced(), direction, before, unmoved, ahead), record, finite

    def either(self, condition: Array, yes: Callable, no: Callable) -> Any:
        """What one of two functions returns; only that one is called."""
        if self.problem.traceable:
            return jax.lax.cond(condition, yes, no)
        return yes() if condition else no()

    def _own(self, memory: Memory, state: State, params: PyTree, gradient: PyTree) -> tuple:
        """(θ, moments) after the optimizer's own step with this gradient."""
        moments = self._moments(state, self.optimizer.transformed(gradient), 1.0)
        return trees.add(
            params, -memory.rate, self._held(memory, moments, params, gradient)
        ), moments

    def _held(self, memory: Memory, moments: tuple, params: PyTree, gradient: PyTree) -> PyTree:
        fresh = self._fresh(memory, gradient)
        return rules_of.read(self.optimizer, moments, fresh, params, memory.count)

    def _eliminated(self, memory: Memory, state: State, params: PyTree, gradient: PyTree) -> tuple:
        """The record where moments are eliminated: what their places change of the direction."""
        read = lambda fresh: self._direction(memory, state.moments, fresh, params, 0.0)
        first = read(self._fresh(memory, gradient))
        return trees.sizes(first, read(self._on_line(memory, params, gradient, first)))

    def _finite_flow(self, memory: Memory, state: State, here: tuple, ahead: tuple) -> tuple:
        """``_flow``, and whether it is that of order 2 because of what is not finite above it."""
        found = self._flow(memory, state, here, ahead)
        if self.lower is None:
            return *found, jnp.asarray(False)
        below, fits = self.lower, trees.all_finite(found[:2])
        again = lambda: below._flow(memory, state, here, ahead)
        return *self.either(fits, lambda: found, again), ~fits

    def _flow(self, memory: Memory, state: State, here: tuple, ahead: tuple) -> tuple:
        """(θ, moments, what is handed on) one step later."""
        params, gradient = here
        more = self._more(memory, state, params, gradient)
        if self.order == 2 and self.kept is None:
            moved, moments, front = self.averaged(self, memory, state, here, more, ahead)
            return moved, moments, (front, memory.rate)
        reference = self.optimizer.transformed(gradient)
        drift = rules_of.each(trees.zeros_like, state.moments)

        def run(rule):
            field = lambda s, y: self._field(memory, state, reference, rule, more, s, y)
            return ode.one_step(
                field,
                (params, drift),
                traceable=self.problem.traceable,
                substeps=self._parts(memory),
                high_order=self.order > 2,
            )

        moved, drift = self._ruled(memory, run)
        return moved, self._moments(state, reference, 1.0, drift), nothing(params)

    def _ruled(self, memory: Memory, run: Callable) -> tuple:
        """``run`` of the rule that serves at this step."""
        rules = self.rules
        if rules is None or memory.settled:
            return run(None if rules is None else rules.late)
        early = memory.step < rules.begin
        return self.either(early, lambda: run(rules.early), lambda: run(rules.late))

    def _more(self, memory: Memory, state: State, params: PyTree, gradient: PyTree) -> PyTree:
        """The direction of the moments after a step less the mean of that in it, at one gradient:
        what a nonlinear Φ misses of moments that rise from 0."""
        if not self.rising or memory.settled or self.order > 2:
            return trees.zeros_like(params)
        moments = self._moments(state, self.optimizer.transformed(gradient), 1.0)
        fresh_at = jax.tree_util.Partial(step_of.held, self._fresh(memory, gradient))
        place = step_of.straight(params, trees.zeros_like(params))
        whole = self.averaged.whole
        mean, _ = step_of.walk(self.optimizer, memory, whole, state.moments, fresh_at, place)
        return trees.subtract(self._held(memory, moments, params, gradient), mean)

    def _rise(self, memory: Memory, before: Array, params: PyTree, gradient: PyTree) -> PyTree:
        """F_n − F_m at one gradient, m = ``before``: 0 where all F are the same."""
        if memory.settled or self.optimizer.time_invariant(params):
            return trees.zeros_like(params)
        at_step = lambda n: self.optimizer.memoryless_direction(params, gradient, n)
        return trees.subtract(at_step(memory.count), at_step(before))

    def _parts(self, memory: Memory) -> Array:
        """More parts at the start of a cold run: corrected weights vary like 1 / (s + ½) there."""
        if memory.settled:
            return self.substeps
        more = EARLY_SUBSTEPS if self.order == 2 else EARLY_SUBSTEPS_HIGH
        return self.substeps * jnp.where(memory.step < EARLY_STEPS, more, 1)

    def _moments(self, state: State, reference: tuple, s, drift: tuple | None = None) -> tuple:
        """m(s) = β^s m + (1 − β^s) ψ_reference + drift: exact while the gradient stands still."""

        def later(old, moment, psi, extra):
            faded = decay_power(moment.beta, jnp.asarray(s, trees.real_dtype()))
            still = trees.add(trees.scale(faded, old), 1 - faded, psi)
            return still if extra is None else trees.add(still, 1, extra)

        drift = (None,) * len(reference) if drift is None else drift
        return rules_of.each(later, state.moments, self.optimizer.moments, reference, drift)

    def _field(self, memory: Memory, state: State, reference: tuple, rule, more, s, y):
        params, drift = y
        moments = self._moments(state, reference, s, drift)
        now = State(moments, memory.count + jnp.asarray(s, trees.real_dtype()))
        if self.order > 2:
            direction, fresh = rule(self, memory.rate, params, now)
        else:
            direction, fresh = self._half(memory, now, more, params, s)
        pull = lambda extra, moment, psi, base: trees.scale(
            _speed(moment.beta), trees.subtract(trees.subtract(psi, base), extra)
        )
        pulls = rules_of.each(pull, drift, self.optimizer.moments, fresh, reference)
        return trees.scale(-memory.rate, direction), pulls

    def _half(self, memory: Memory, now: State, more, params: PyTree, s) -> tuple[PyTree, tuple]:
        """Order 2, moments left out: (direction, ψ of the gradients half a step back)."""
        gradient = self.problem.gradient(params)
        fresh = self._fresh(memory, gradient)
        here = trees.add(more, 1, self._direction(memory, now.moments, fresh, params, s))
        there = trees.add(params, memory.rate / 2, here)
        late = self._on_line(memory, params, gradient, here)
        return trees.add(more, 1, self._direction(memory, now.moments, late, there, s)), late

    def _fresh(self, memory: Memory, gradient: PyTree) -> tuple:
        """ψ(g) per moment, of an eliminated one as if every gradient so far had been g."""
        fresh = self.optimizer.transformed(gradient)
        if self.kept is None:
            return fresh
        still = self.optimizer.memoryless_moments(gradient, memory.count)
        both = zip(fresh, still, self.kept, strict=True)
        return tuple(psi if kept else mean for psi, mean, kept in both)

    def _on_line(self, memory: Memory, params: PyTree, gradient: PyTree, way: PyTree) -> tuple:
        """ψ per moment on a line through two gradients: half a step back, or over its ages."""
        kept = self.kept or ()
        left = [time for time, some in zip(memory.mean_times(), kept, strict=True) if not some]
        longest = jnp.max(jnp.stack([memory.rate, *left]))
        longest = jnp.where(longest > 0, longest, 1.0)
        far = self.problem.gradient(trees.add(params, longest, way))
        slope = trees.scale(1 / longest, trees.subtract(far, gradient))
        half, now = memory.rate / 2, present(self.optimizer, memory, params, gradient)
        near = self.optimizer.transformed(trees.add(gradient, half, slope))
        return tuple(
            psi if some else now.averaged(i, slope, half)
            for i, (psi, some) in enumerate(zip(near, kept, strict=True))
        )

    def _direction(self, memory: Memory, moments: tuple, fresh: tuple, params: PyTree, s):
        return step_of.direction_at(self.optimizer, memory, moments, fresh, params, s)


def nothing(params: PyTree) -> tuple:
    """What no step has handed on: a gradient at no learning rate."""
    return trees.zeros_like(params), jnp.asarray(jnp.nan, trees.real_dtype())


def _speed(decay: Array) -> Array:
    """a = ln(1/decay); 0 for decay 0, whose moment is read from the gradient alone."""
    return jnp.where(decay > 0, -jnp.log(jnp.where(decay > 0, decay, 0.5)), 0.0)


class Inertial(AbstractMethod):
    """The flow that keeps the memory."""

    name = "inertial"
    orders = (2, 3, 4)
    kinds = ("flow",)
    summary = "the memory kept as a state, the step corrected"
    keeps_moments = True
    follows_optax = True
    full_batch = (
        "mini-batches make its moments jump within a step, where a direction of the mean is not "
        "the mean of the directions; use method='taylor' or 'displaced'"
    )

    def prepared(self, plan: ShadowPlan) -> ShadowPlan:
        """The run of the optimizer as its moments, from the state of those that are kept."""
        run, keep = plan.run, kept_moments(plan.run.optimizer, plan.keep, plan.order)
        optimizer = run.optimizer.as_moments(run.params)
        state = optimizer.taken(begun(run, plan.order, keep=keep))
        if keep is not None:
            moments = zip(state.moments, keep, strict=True)
            state = State(tuple(old if kept else None for old, kept in moments), state.step)
        start = Start(run.start.step, state)
        run = dataclasses.replace(run, optimizer=optimizer, start=start)
        return dataclasses.replace(plan, run=run, keep=keep)

    def remark(self, plan: ShadowPlan) -> str:
        """What uncorrected averages cost order 4 while they rise from 0."""
        run = plan.run
        rising = not all(moment.corrected for moment in run.optimizer.moments)
        if plan.order < 4 or run.start.step != 0 or not rising:
            return ""
        return (
            "Without bias correction a cold start costs the inertial flow of order 4 a small error "
            "of third order, unless the direction is linear in the moments"
        )

    def bind(self, plan: ShadowPlan) -> InertialFlow:
        """The flow of the moments that are kept."""
        optimizer, order = plan.run.optimizer, plan.order
        some = plan.keep or [True] * len(optimizer.moments)
        decays = [known_decay(moment) for moment in optimizer.moments]
        kept = [decay for decay, kept in zip(decays, some, strict=True) if kept]
        states = [m.has_memory and kept for m, kept in zip(optimizer.moments, some, strict=True)]
        if order > 2 and any(
            state and decay == 0 for state, decay in zip(states, decays, strict=True)
        ):
            raise ValueError(
                f"decay: expected the number 0 for a moment without memory at order {order}, got "
                "an array that is 0; pass 0.0."
            )
        faded = [decay if state else None for decay, state in zip(decays, states, strict=True)]
        rising = not all(moment.corrected for moment in optimizer.moments)
        rules = rules_of.rules(kept, order, trees.real_dtype(), rising) if order > 2 else None
        lower = self.bind(dataclasses.replace(plan, order=2)) if order > 2 else None
        return InertialFlow(
            plan.run.tabulated,
            traced(optimizer),
            step_of.averaged(faded),
            jnp.asarray(substeps(kept, order)),
            rules,
            order,
            plan.keep,
            rising,
            lower,
        )


def kept_moments(optimizer: AbstractOptimizer, keep, order) -> tuple[bool, ...] | None:
    """Which moments ``keep`` names, by name or number; None where all that remember are kept.

    Raises ValueError for what names no moment with memory, and for an order other than 2 where
    one is left out.
    """
    if keep is None:
        return None
    if isinstance(keep, str) or not isinstance(keep, Sequence):
        raise TypeError(
            f"keep: expected the names of moments in a list, got {keep!r}; for example ('nu',)."
        )
    if not optimizer.closed_form:
        raise ValueError(
            f"keep: expected None for the optax transformation {optimizer.name}, got {keep!r}; "
            "only moments of shadowflow's own optimizers can be eliminated one by one."
        )
    memories = {i: moment for i, moment in enumerate(optimizer.moments) if moment.has_memory}
    names = [moment.name for moment in memories.values() if moment.name is not None]
    for item in keep:
        checks.choice(f"keep (moments of {optimizer.name})", item, [*names, *memories])
    kept = tuple(
        i not in memories or i in keep or (moment.name is not None and moment.name in keep)
        for i, moment in enumerate(optimizer.moments)
    )
    if all(kept):
        return None
    if order != 2:
        raise ValueError(
            f"order: expected 2 with keep={keep!r}, which leaves out a moment, got {order!r}; "
            "higher orders keep all moments: leave keep out."
        )
    return kept
