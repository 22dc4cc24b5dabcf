"""Any order from gradients alone: the path through θ as a polynomial, by collocation.

Settled, full batch. With s in steps, the path θ(s), θ(0) = θ, of degree R satisfies the
optimizer's own equation θ(s+1) − θ(s) = −h Φ(m(s)), m_i(s) = Σ_k (1−β_i) β_i^k ψ_i(g(θ(s−k))),
at the R nodes s_j = −σ j. A sweep takes the directions Φ at the nodes, finds the path that
makes these steps, reads the gradients at its nodes and averages their polynomial over the
ages by Gauss rules: new directions, better by one order. A path is stored as its R directions;
everything else about it is linear in them, by matrices that the host makes once.

Of any other state map no moments are averaged: the optimizer itself runs along the path, from so
far back that it has forgotten where it began. Gradients are computed at the nodes and interpolated.
"""

import dataclasses
from itertools import pairwise
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import SETTLED, AbstractOptimizer, State, complete, rate_at, traced
from ..optimizers.memory_probe import mean_age, settling
from ..optimizers.moments import AbstractMoments, Moment
from ..problem import Problem, compiled
from ..running import FollowedRun
from . import nodes
from .base import AbstractStepper, MemorylessMethod, MomentsDirection, ShadowPlan, phase_of
from .nodes import PathDirection, Rule, rule, weighted

MOST = 6  # orders compared for "auto"


def average(moment: Moment, ages: Array, mass: Array, gradients: PyTree) -> PyTree:
    """Σ_q mass_q ψ(g(x_q)), with g(x_q) = the q-th row of ``ages`` times the gradients."""

    def mean(g):
        terms = jax.vmap(moment.transform)(g)
        return jnp.tensordot(trees.cast(mass, terms), terms, axes=1, precision=nodes.FULL)

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
        where = nodes.places(self.rule.places, rate, params, directions)
        gradients = nodes.gradients_at(self.problem, where, here)
        return gradients, directions_at(self.rule, self.optimizer, where, gradients)

    @compiled
    def path(self, rate: Array, params: PyTree) -> tuple[PyTree, Array, PyTree, PyTree]:
        """As declared, from nothing but θ; what was read are the gradients.

        Begins with all past gradients equal to ∇E(θ), which is of order 1; R − 1 sweeps: order R.
        """
        here = nodes.gradient(self.problem, params)
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
        here = nodes.gradient(self.problem, params)
        first = self.direction.optimizer.memoryless_direction(params, here, jnp.inf)
        _, directions = self.direction.sweep(memory.rate, params, here, directions)
        chosen = trees.row(directions, 0)
        moved = trees.add(params, -rate, chosen)
        finite = jnp.isfinite(self.problem.value(params)) & trees.all_finite((moved, directions))
        carry = moved, memory.advanced(), weighted(self.direction.rule.shift, directions)
        return carry, trees.sizes(first, chosen), finite


class Walk(nodes.Path):
    """The matrices of an order, also those of the steps walked.

    ``weights``, ``ways`` [T, R]: per step from the oldest to the present, on (v_0, v_1 − v_0, …):
    the interpolated gradient from those at the nodes, and (θ − θ(s)) / h from the directions.
    """

    weights: Array
    ways: Array
    spacing: int = eqx.field(static=True)

    @eqx.filter_jit
    def along(
        self, optimizer: AbstractOptimizer, rate: Array, params: PyTree, *read: PyTree
    ) -> tuple[PyTree, State]:
        """(directions at the nodes, the state before the present gradient is read).

        read: the gradients, directions and perhaps the losses at the nodes of the path.
        """
        gradients, directions, values = map(nodes.relative, read)

        def place(row):
            return trees.add(params, -rate, nodes.times(row, directions))

        def one(carry, rows):
            state, _, _ = carry
            grad, worth = nodes.times(rows[0], (gradients, values))
            after, move = optimizer.update(state, grad, place(rows[1]), rate, worth)
            return (after, state, trees.scale(-1 / rate, move)), None

        rows = self.weights, self.ways
        first = optimizer.init(place(self.ways[0]), rate)
        begin = first, first, trees.zeros_like(params)
        oldest = rows[0].shape[0] - self.spacing * (self.order - 1)
        carry, _ = jax.lax.scan(one, begin, jax.tree.map(lambda row: row[:oldest], rows))

        def segment(carry, rows):
            carry, _ = jax.lax.scan(one, carry, rows)
            return carry, carry[2]

        cut = lambda row: row[oldest:].reshape(self.order - 1, self.spacing, self.order)
        final, later = jax.lax.scan(segment, carry, jax.tree.map(cut, rows))
        found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[::-1], carry[2], later)
        return found, final[1]


def walk(order: int, spacing: int, settling: int) -> Walk:
    """The ``Walk`` of order R with nodes ``spacing`` steps apart, the oldest one settled.

    >>> walk(2, 1, 3).weights.shape  # three steps to settle, two nodes
    (5, 2)
    """
    step, inverse = 1 / spacing, nodes.summation(order, 1 / spacing)
    times = np.arange(-(settling + spacing * (order - 1)), 1) * step
    powers = lambda at: at[:, None] ** np.arange(1, order + 1)
    ways = powers(times) @ inverse / step
    return Walk(
        nodes.against_first(powers(-np.arange(float(order))) @ inverse / step),
        nodes.against_first(inverse[0]),
        nodes.against_first(nodes.lagrange(order, times)),
        nodes.against_first(ways),
        spacing,
    )


class WalkedDirection(PathDirection):
    """The direction of order R of any state map."""

    order: int = eqx.field(static=True)
    spacing: float | None = eqx.field(static=True)

    def __check_init__(self):
        if self.spacing is not None and (not float(self.spacing).is_integer() or self.spacing < 1):
            raise ValueError(
                f"spacing: expected whole steps for the optax transformation {self.optimizer.name},"
                f" which is run step by step, got {self.spacing!r}; for example 2."
            )

    def path(self, rate: Array, params: PyTree) -> tuple[PyTree, Array, PyTree, State]:
        """As declared; what was read is the state before the last step.

        The walk is as long as the optimizer takes to settle.
        """
        length = settling(self.optimizer, params)
        made = walk(self.order, int(self.spacing or mean_age(length, params)), length)
        here = nodes.gradient(self.problem, params)
        everywhere = lambda tree: trees.repeated(tree, made.order)
        along_path = lambda *read: made.along(self.optimizer, rate, params, *read)
        still = everywhere(trees.zeros_like(params))
        directions, state = along_path(everywhere(here), still, self.values(everywhere(params)))
        first = trees.row(directions, 0)
        directions = everywhere(first)
        for _ in range(made.order - 1):
            where = nodes.places(made.places, rate, params, directions)
            gradients = nodes.gradients_at(self.problem, where, here)
            directions, state = along_path(gradients, directions, self.values(where))
        return first, made.slope, directions, state

    def values(self, where: PyTree) -> Array | None:
        """The losses at the nodes, for an optimizer that reads them."""
        if not self.optimizer.reads_value:
            return None
        return trees.mapped(self.problem.value, where, traceable=False)

    def past_state(self, rate: Array, params: PyTree) -> State:
        """The settled state just before the gradient at θ is read, its step ∞."""
        *_, state = self.path(rate, params)
        return State(state.moments, jnp.asarray(jnp.inf, trees.real_dtype()))


class BestOrder(MomentsDirection):
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
    problem: Problem, optimizer: Any, params: PyTree, learning_rate, order: int, spacing=None
) -> State:
    """The settled state just before the gradient at θ is read, its step ∞, to O(h^order)."""
    rate = rate_at(learning_rate, 0)
    if not optimizer.closed_form:
        walked = WalkedDirection(problem, optimizer, 0.0, order, spacing)
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
        return complete(run.start.state, optimizer, params, keep)
    if run.start.settled:
        return past_state(problem, optimizer, params, rate, order, spacing)
    fresh = optimizer.init(params, rate if optimizer.keeps_rate else 1.0)
    if run.first > 0 and optimizer.remembers:
        raise ValueError(
            f"start: expected the optimizer's state at step {run.first}, which carries its "
            f"moments from there, got {run.first}; pass a State or the optax state, 0 for a "
            "cold start or 'settled'."
        )
    return State(fresh.moments, fresh.step + run.first)


class Collocation(MemorylessMethod):
    """A path through θ that solves the optimizer's own equation."""

    name = "collocation"
    orders = None
    highest = 12  # the settled move of heavy ball, rate .01, decay .5: 1e-12 at 8, 1e-5 at 16
    summary = "any order: a polynomial path that solves the optimizer's equation at nodes"
    needs_settled = True
    follows_optax = True
    has_nodes = True
    full_batch = (
        "the path it looks for is smooth, and mini-batches make it jump; use method='taylor' or "
        "'displaced'"
    )

    def direction(self, problem, optimizer, phase, *, order=2, spacing=None, start=None):
        """Of moments by Gauss rules, "auto" being the best order at each place; or of any map."""
        if order == "auto":
            return best_of(problem, optimizer, phase, spacing)
        if not optimizer.closed_form:
            return WalkedDirection(problem, optimizer, phase, int(order), spacing)
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
