"""How far a shadow is from the iterates, estimated without them: from its neighbouring order.

A more accurate shadow is run beside it, and their distance at a step is the error there, as far as
the neighbour's own error is the smaller one; to it comes what the dtype rounds. Mini-batches, and
transformations that are no averages, have no method of a higher order: there the optimizer itself
is the neighbour, which costs less than any shadow.
"""

import dataclasses
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from . import trees
from .curvature import curvature
from .following import distances, optimizer_beside
from .methods import METHODS, planned
from .methods.base import ShadowPlan
from .methods.collocation import past_state
from .optimizers import thresholds
from .optimizers.base import SETTLED, Start, State
from .running import FollowedRun, Trajectory
from .trust import (
    LEVELS,
    Validity,
    estimated as of_estimate,
    measured,
    over_way,
    past_edge,
    rounding_of,
)

SHARE = 0.1  # of the way gone: an error beyond it is past what a neighbour can tell
TURN = 0.1  # of its path: with a larger correction the neighbour may have left itself


@dataclass(frozen=True)
class Estimate:
    """Estimated distances at the saved steps of a shadow, its start left out.

    steps: numbers of the steps taken; two_norm, max_norm: the estimates; rounding: what of the
    two-norm is the dtype's; way: how far the shadow has gone; held: per step whether the neighbour
    is known to hold itself; neighbour: what it is from; why: what is wrong where it does not hold;
    exact: whether the neighbour is the optimizer itself; past: as ``past_edge``, the edge that the
    run is past.
    """

    steps: np.ndarray
    two_norm: np.ndarray
    max_norm: np.ndarray
    rounding: np.ndarray
    way: np.ndarray
    held: np.ndarray
    neighbour: str
    why: str
    exact: bool
    past: tuple[str, str] = ("", "")

    @property
    def trusted(self) -> np.ndarray:
        """Per step whether the estimate can be believed: up to a tenth of the way gone."""
        with np.errstate(invalid="ignore"):
            near = self.two_norm <= np.maximum(SHARE * self.way, self.rounding)
        return np.logical_and.accumulate(self.held & near & (self.past[0] != LEVELS[-1]))


def neighbours(run: FollowedRun, plan: ShadowPlan) -> list[tuple[str, int, str]]:
    """(method, order, kind) of what an error is estimated against: one above, or two below.

    [] where there is none.
    """
    method, order, kind = plan.method, plan.order, plan.kind
    if run.problem.batched:
        return []
    if method.orders is None or not run.optimizer.remembers:
        return [("collocation", order + 1, kind)]
    if method.keeps_moments:
        if method.offers(order + 1):
            return [(method.name, order + 1, kind)]
        return [(method.name, order - 1, kind), (method.name, order - 2, kind)]
    if not run.optimizer.closed_form:
        try:
            run.optimizer.as_moments(run.params)
        except ValueError:
            return []
    return [("inertial", order + 1, "flow")]


def estimate(
    run: FollowedRun, plan: ShadowPlan, path: Trajectory, known: float | None = None
) -> Estimate:
    """How far ``path``, the shadow of a plan for a run, is from the optimizer's iterates.

    known: the largest curvature, as ``shadow`` takes it; None: looked up where it can be.
    """
    beside, run = neighbours(run, plan), with_memory(run)

    def prepared(method: str, order: int, kind: str) -> ShadowPlan:
        alone = METHODS[method].needs_settled and run.start.step == 0
        begun = dataclasses.replace(run, start=Start(SETTLED, None)) if alone else run
        nodes = plan.spacing if METHODS[method].has_nodes else None
        return planned(begun, method=method, order=order, kind=kind, spacing=nodes)

    try:
        plans = [prepared(*name) for name in beside]
    except ValueError:  # a schedule, for one, is refused by collocation
        plans = []
    if not plans:
        return _from_optimizer(run, plan, path)
    below = plans[1].chunks() if len(plans) > 1 else None
    apart, records = distances(plans[0].run, plans[0].chunks(), path, below)
    name = " and ".join(f"{name}, order {order}, {kind}" for name, order, kind in beside)
    share = np.ones(len(apart.two_norm))
    if below is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.fmin(1.0, over_way(apart.two_norm, apart.first_order))
    saved, flow = path.steps[1:] - path.steps[0], "flow" in (plan.kind, beside[0][2])
    rounding, largest = rounding_of(path.last, saved, flow)
    rows = [_saved(row, saved) for row in (share, apart.two_norm, apart.max_norm, apart.way)]
    share, two, most, way = rows
    held = _saved(_held(records, plans[0].run), saved) == 1
    held &= np.isfinite(two)
    why = "there the neighbour does not hold itself, and both may leave together"
    two, most, numbers = share * two + rounding, share * most + largest, path.steps[1:] - 1
    past = _edge(run, path, known, plan)
    return Estimate(numbers, two, most, rounding, way, held, name, why, False, past)


def _saved(row: np.ndarray, saved: np.ndarray) -> np.ndarray:
    """The values at the saved steps, NaN where the row has ended."""
    there = saved <= len(row)
    found = np.full(len(saved), np.nan)
    found[there] = np.asarray(row, float)[saved[there] - 1]
    return found


def _held(records: list, run: FollowedRun) -> np.ndarray:
    """Per step whether the neighbour's corrections are small beside its path so far."""
    if not records:
        return np.zeros(0)
    correction, plain = (np.concatenate([part[i] for part in records]) for i in (0, 1))
    rates = run.rates[: len(correction)]
    turned, gone = (np.cumsum(rates * np.asarray(size, float)) for size in (correction, plain))
    return np.asarray(turned <= TURN * gone, float)


def with_memory(run: FollowedRun) -> FollowedRun:
    """The run, begun at a step whose state is not known, from the state of a smooth past.

    Its moments are those of a settled memory, in so far as they have filled by that step.
    """
    problem, optimizer, first = run.problem, run.optimizer, run.first
    if run.start.state is not None or first == 0 or problem.batched or not optimizer.closed_form:
        return run
    rate = float(run.rates[0]) if run.steps else 0.0
    state = past_state(problem, optimizer, run.params, rate, 2, None)
    filled = lambda moment, mean: (
        None if mean is None else trees.scale(1 - moment.beta**first, mean)
    )
    moments = tuple(map(filled, optimizer.moments, state.moments))
    state = State(moments, jnp.asarray(first, trees.real_dtype()))
    return dataclasses.replace(run, start=Start(run.start.step, state))


def _from_optimizer(run: FollowedRun, plan: ShadowPlan, path: Trajectory) -> Estimate:
    """The distances themselves; nothing where the optimizer's state is not known."""
    steps, flow = path.steps[1:], plan.kind == "flow"
    rounding, _ = rounding_of(path.last, steps - path.steps[0], flow)
    if run.first > 0 and run.start.state is None:
        unknown, no = np.full(len(steps), np.nan), np.zeros(len(steps), bool)
        why = f"the optimizer's state at step {run.first} is not known; pass start=state"
        rows = steps - 1, unknown, unknown, rounding, unknown, no
        return Estimate(*rows, "no state", why, False)
    apart, _ = distances(run, optimizer_beside(run, plan.order), path)
    saved = steps - path.steps[0]
    two, most, way = (_saved(row, saved) for row in (apart.two_norm, apart.max_norm, apart.way))
    why = "there the optimizer met a number that is not finite"
    return Estimate(
        steps - 1, two, most, rounding, way, np.isfinite(two), "the optimizer's own run", why, True
    )


def _edge(
    run: FollowedRun, path: Trajectory, known: float | None, plan: ShadowPlan
) -> tuple[str, str]:
    """The edge that a run is past (``past_edge``), its curvature looked up if it is not known.

    Of optimizers that are linear in the gradient at both ends of the path, of all others at its
    start, as their preconditioner later on remembers what the path alone does not say.
    """
    optimizer, fastest = run.optimizer, max(run.rates, default=0.0)
    if known is not None:
        return past_edge(optimizer, fastest, known, plan.eliminates, plan.follows)
    try:
        linear = thresholds.linear_response(optimizer).linear
        ends = [run.params, jax.tree.map(jnp.asarray, path.last)][: 2 if linear else 1]
        found = max(curvature(run.problem, optimizer, place) for place in ends)
    except (TypeError, ValueError, RuntimeError):
        return "", ""
    return past_edge(optimizer, fastest, found, False)


def estimated(
    run: FollowedRun, plan: ShadowPlan, path: Trajectory, known: float | None, remarks: list[str]
) -> Validity:
    """The validity of ``path`` from its estimated distances; known: as in ``estimate``."""
    found = estimate(run, plan, path, known)
    if found.exact:
        dtype = jax.tree.leaves(run.params)[0].dtype
        given = found.steps, found.two_norm, found.way, None, found.rounding
        return measured(*given, dtype=dtype, failed_at=path.failed_at, remarks=remarks)
    return of_estimate(
        found.steps,
        found.two_norm,
        found.way,
        found.held,
        source=found.neighbour,
        why=found.why,
        failed_at=path.failed_at,
        remarks=remarks,
        past=found.past,
    )
