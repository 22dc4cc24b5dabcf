"""Any order from gradients alone: the path through θ as a polynomial, by collocation.

Settled, full batch. With s in steps, the path θ(s), θ(0) = θ, of degree R satisfies the
optimizer's own equation θ(s+1) − θ(s) = −h Φ(m(s)), m_i(s) = Σ_k (1−β_i) β_i^k ψ_i(g(θ(s−k))),
at the R nodes s_j = −σ j. A sweep takes the directions Φ at the nodes, finds the path that
makes these steps, reads the gradients at its nodes and averages their polynomial over the
ages by Gauss rules: new directions, better by one order. A path is stored as its R directions;
everything else about it is linear in them, by matrices that the host makes once.
"""

import dataclasses
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import SETTLED, State, complete, rate_at, traced
from ..optimizers.moments import AbstractMoments, Moment
from ..problem import Problem, compiled
from ..running import FollowedRun
from . import optax_collocation
from .base import (
    AbstractDirection,
    AbstractStepper,
    MemorylessMethod,
    MomentsDirection,
    ShadowPlan,
    phase_of,
    sizes,
)
from .nodes import FULL, PathDirection, Rule, gradient, gradients_at, places, rule, weighted

MOST = 6  # orders compared for "auto"


def average(moment: Moment, ages: Array, mass: Array, gradients: PyTree) -> PyTree:
    """Σ_q mass_q ψ(g(x_q)), with g(x_q) = the q-th row of ``ages`` times the gradients."""

    def mean(g):
        terms = jax.vmap(moment.transform)(g)
        return jnp.tensordot(trees.cast(mass, terms), terms, axes=1, precision=FULL)

    return jax.tree.map(mean, weighted(ages, gradients))


@eqx.filter_jit
def directions_at(
    rule: Rule, optimizer: AbstractMoments, where: PyTree, gradients: PyTree
) -> PyTree:
    """Φ(m(s_j); θ(s_j)) at all nodes, from the gradients there."""

    def one(node):
        place, ages = node
        parts = zip(optimizer.moments, ages, rule.mass, strict=True)
        moments = tuple(average(*part, gradients) for part in parts)
        return optimizer.direction(moments, place, jnp.inf)

    return jax.lax.map(one, (where, rule.ages))


class CollocationDirection(MomentsDirection, PathDirection):
    """The direction of order R of moments, averaged over their ages by Gauss rules."""

    rule: Rule

    def sweep(
        self, rate: Array, params: PyTree, here: PyTree, directions: PyTree
    ) -> tuple[PyTree, PyTree]:
        """(gradients at the nodes of the path of ``directions``, the directions they give).

        Their order is that of the given ones and one more, up to R. ``here`` is ∇E(θ).
        """
        where = places(self.rule.places, rate, params, directions)
        gradients = gradients_at(self.problem, where, here)
        return gradients, directions_at(self.rule, self.optimizer, where, gradients)

    @compiled
    def path(self, rate: Array, params: PyTree) -> tuple[PyTree, Array, PyTree, PyTree]:
        """As declared, from nothing but θ; what was read are the gradients.

        Begins with all past gradients equal to ∇E(θ), which is of order 1; R − 1 sweeps: order R.
        """
        here = gradient(self.problem, params)
        first = self.optimizer.memoryless_direction(params, here, jnp.inf)
        known = trees.repeated((here, first), self.rule.order)
        again = lambda _, known: self.sweep(rate, params, here, known[1])
        if self.problem.traceable:
            known = jax.lax.fori_loop(0, self.rule.order - 1, again, known)
        else:
            for n in range(self.rule.order - 1):
                known = again(n, known)
        gradients, directions = known
        return first, self.rule.slope, directions, gradients

    def past_moments(self, rate: Array, params: PyTree) -> tuple:
        """The settled moments just before the gradient at θ is read, to O(h^order).

        m_i(−1) = Σ_k (1−β_i) β_i^k ψ_i(g(θ(−1−k))); None for a moment without memory. order 1: all
        past gradients equal the present one.
        """
        *_, gradients = self.path(rate, params)
        parts = zip(self.optimizer.moments, self.rule.past, self.rule.mass, strict=True)
        return tuple(average(*part, gradients) if part[0].has_memory else None for part in parts)


class CollocationIteration(AbstractStepper):
    """The iteration of order R along a run, settled, at a constant learning rate.

    The last step's path, re-centred, is of order R already: one sweep, R gradients a step. The
    carry is (parameters, memory, directions at the nodes of the last path).
    """

    direction: CollocationDirection

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The path through the start, by cold sweeps."""
        del state
        return params, memory, self.direction.path(memory.rate, params)[2]

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, memory, directions = carry
        memory = memory.with_rate(rate)
        here = gradient(self.problem, params)
        first = self.direction.optimizer.memoryless_direction(params, here, jnp.inf)
        _, directions = self.direction.sweep(memory.rate, params, here, directions)
        chosen = trees.row(directions, 0)
        moved = trees.add(params, -rate, chosen)
        finite = jnp.isfinite(self.problem.value(params)) & trees.all_finite((moved, directions))
        carry = moved, memory.advanced(), weighted(self.direction.rule.shift, directions)
        return carry, sizes(first, chosen), finite


class BestOrder(AbstractDirection):
    """The orders 1 to R side by side, and of them the one whose neighbour is nearest.

    With e_r = |F_{r+1} − F_r| for r = 1 … R − 1, an estimate of the error of order r as long as it
    falls (from where it rises the series diverges, or rounding is met): the r of the least e_r. 1
    means that even order 2 does not improve on order 1. What is not finite is never chosen.
    """

    ways: tuple[CollocationDirection, ...]

    def differences(self, memory: Memory, params: PyTree) -> tuple[list[PyTree], Array]:
        """([F_1, …, F_R], [e_1, …, e_{R−1}])."""
        found = [way(memory, params)[1] for way in self.ways]
        gaps = [trees.norm(trees.subtract(b, a)) for a, b in pairwise(found)]
        return found, jnp.stack(gaps)

    def choose(self, memory: Memory, params: PyTree) -> tuple[int, float]:
        """(the best order at this place, its distance from the next relative to order 1)."""
        found, gaps = self.differences(memory, params)
        best = int(best_order(gaps))
        return best, float(gaps[best - 1] / trees.norm(found[0]))

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, best order) of the direction at this place."""
        found, gaps = self.differences(memory, params)
        best = best_order(gaps) - 1
        return found[0], trees.row(trees.stack(found), best)


def best_order(differences: Array) -> Array:
    """1 + the index of the least of e_1, e_2, …; what is not finite counts as infinite.

    >>> int(best_order(jnp.array([1e-2, 1e-3, 4e-3, jnp.nan])))
    2
    """
    return 1 + jnp.argmin(jnp.where(jnp.isfinite(differences), differences, jnp.inf))


def best_of(
    problem: Problem, optimizer: AbstractMoments, phase: float, spacing: float | None
) -> BestOrder:
    """The ``BestOrder`` of orders 1 to ``MOST``; ValueError where there are no moments."""
    if not optimizer.closed_form:
        raise ValueError(
            f"order: expected a number for the optax transformation {optimizer.name}, got 'auto'; "
            "give one, and compare it with its neighbour."
        )
    ways = tuple(
        CollocationDirection(problem, optimizer, phase, rule(optimizer, r, spacing))
        for r in range(1, MOST + 1)
    )
    return BestOrder(problem, optimizer, phase, ways)


def past_state(
    problem: Problem,
    optimizer: Any,
    params: PyTree,
    learning_rate,
    order: int,
    spacing: float | None = None,
) -> State:
    """The settled state just before the gradient at θ is read, its step ∞, to O(h^order)."""
    rate = rate_at(learning_rate, 0)
    if not optimizer.closed_form:
        walked = optax_collocation.walked(problem, optimizer, 0.0, order, spacing)
        return walked.past_state(rate, params)
    made = rule(optimizer, order, spacing)
    moments = CollocationDirection(problem, traced(optimizer), 0.0, made).past_moments(rate, params)
    return State(moments, jnp.asarray(jnp.inf, trees.real_dtype()))


def begun(
    run: FollowedRun, order: int = 2, spacing: float | None = None, keep: tuple | None = None
) -> State:
    """The state in which a run begins: the given one, a fresh one, or the settled one.

    keep: one flag per moment: which of them a given state must have; None: all.
    """
    problem, optimizer, params, rate = run.problem, run.optimizer, run.params, run.learning_rate
    if run.start.state is not None:
        state = run.start.state
        return complete(state, optimizer, params, keep or [True] * len(state.moments))
    if run.start.settled:
        return past_state(problem, optimizer, params, rate, order, spacing)
    if run.first > 0:
        raise ValueError(
            f"start: expected the optimizer's state at step {run.first}, which carries its "
            f"moments from there, got {run.first}; pass a State or the optax state, 0 for a "
            "cold start or 'settled'."
        )
    return optimizer.init(params, rate if optimizer.keeps_rate else 1.0)


class Collocation(MemorylessMethod):
    """A path through θ that solves the optimizer's own equation."""

    name = "collocation"
    orders = None
    summary = "any order: a polynomial path that solves the optimizer's equation at nodes"
    needs_settled = True
    needs_constant_rate = True
    follows_optax = True
    has_nodes = True
    full_batch = (
        "the path it looks for is smooth, and mini-batches make it jump; use method='taylor' or "
        "'displaced'"
    )

    def direction(self, problem, optimizer, start, *, order, kind, spacing=None):
        """Of moments by Gauss rules, "auto" being the best order at each place; or of any map."""
        phase = phase_of(kind)
        if order == "auto":
            return best_of(problem, optimizer, phase, spacing)
        if not optimizer.closed_form:
            return optax_collocation.walked(problem, optimizer, phase, int(order), spacing)
        made = rule(optimizer, int(order), spacing)
        return CollocationDirection(problem, optimizer, phase, made)

    def prepared(self, plan: ShadowPlan) -> ShadowPlan:
        """The order "auto" as a number, with what the verdict says of it."""
        if plan.order != "auto":
            return plan
        run = plan.run
        ways = best_of(run.problem, run.optimizer, phase_of(plan.kind), plan.spacing)
        best, gap = ways.choose(run.memory(SETTLED), run.params)
        remark = (
            f"Order {best} was chosen: there the next order differs least, by {gap:.1g} of the "
            "first-order step at the start"
            if best > 1
            else f"Not even order 2 improves on order 1, which was chosen: at the start the next "
            f"order differs by {gap:.1g} of the step, and the orders after it by more"
        )
        return dataclasses.replace(plan, order=best, remark=remark)

    def bind(self, plan: ShadowPlan) -> AbstractStepper:
        """The iteration keeps its path from step to step; the flow is that of its field."""
        run = plan.run
        if plan.kind == "flow" or not run.optimizer.closed_form:
            return super().bind(plan)
        problem, made = run.tabulated, rule(run.optimizer, plan.order, plan.spacing)
        direction = CollocationDirection(problem, traced(run.optimizer), 0.0, made)
        return CollocationIteration(problem, direction)
