"""How far a shadow is from the iterates, found out when it is asked for.

The optimizer itself costs one gradient a step, less than any shadow. So where its state is known
it is run, and the distances are the true ones. Where only the number of the step is known, it is
run from the state that a smooth past would have left. That leaves one thing open, the past: the
same run from a state of first order, as if all past gradients had been the present one, says how
much it matters. Past the flow edge a mode oscillates, and no past is smooth.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import trees
from .curvature import curvature
from .following import Apart, distances, memory_known, optimizer_beside
from .iterate import advanced
from .methods.base import ShadowPlan
from .methods.displaced import DisplacedDirection
from .methods.present import present
from .optimizers import thresholds
from .optimizers.base import Start, State, traced
from .problem import compiled
from .running import FollowedRun, Trajectory
from .trust import GROWTH, Validity, estimated as of_estimate, measured, over_way, rounding_of

SHARE = 0.1  # of the way gone: an error beyond it is past what can be told without the past
OWN, SMOOTH = "the optimizer's own run", "the optimizer's run after a smooth past"


@dataclass(frozen=True)
class Estimate:
    """Distances at the saved steps of a shadow, its start left out.

    steps: numbers of the steps taken; two_norm, max_norm: the estimates; rounding: what of the
    two-norm is the dtype's; way: how far the run has gone; held: per step whether its past
    matters so little that the estimate can be believed; source: what it is from; why: what is
    wrong where it does not hold; exact: whether the state was known.
    """

    steps: np.ndarray
    two_norm: np.ndarray
    max_norm: np.ndarray
    rounding: np.ndarray
    way: np.ndarray
    held: np.ndarray
    source: str
    why: str
    exact: bool

    @property
    def trusted(self) -> np.ndarray:
        """Per step whether the estimate can be believed: of a guess up to a tenth of the way."""
        with np.errstate(invalid="ignore"):
            near = self.two_norm <= np.maximum(SHARE * self.way, self.rounding)
        return np.logical_and.accumulate(self.held & (near | self.exact))


def estimate(run: FollowedRun, plan: ShadowPlan, path: Trajectory) -> Estimate:
    """How far ``path``, the shadow of a plan for a run, is from the optimizer's iterates."""
    steps, saved = path.steps[1:] - 1, path.steps[1:] - path.steps[0]
    rounding, largest = rounding_of(path, path.steps[1:], plan.kind == "flow")
    if memory_known(run):
        apart, _ = distances(run, optimizer_beside(run, plan.order), path)
        rows = (_saved(row, saved) for row in (apart.two_norm, apart.max_norm, apart.way))
        two, most, way = rows
        why = "there the optimizer met a number that is not finite"
        return Estimate(steps, two, most, rounding, way, np.isfinite(two), OWN, why, True)
    apart = _after_smooth_past(run, path)
    if apart is None:
        unknown, no = np.full(len(steps), np.nan), np.zeros(len(steps), bool)
        why = f"the optimizer's state at step {run.first} is not known; pass start=state"
        return Estimate(steps, unknown, unknown, rounding, unknown, no, "no state", why, False)
    rows = (apart.two_norm, apart.max_norm, apart.way, apart.first_order)
    two, most, way, past = (_saved(row, saved) for row in rows)
    with np.errstate(over="ignore", invalid="ignore"):  # of what diverges
        grown = GROWTH * np.fmax.accumulate(over_way(past, way))
        left = past * np.fmin(1.0, grown)  # the next term of the series in the past
        held = np.isfinite(two) & (left <= SHARE * way)
    why = f"there the steps before step {run.first} matter, which are not known; pass start=state"
    if edge := _past_flow_edge(run):
        held, why = np.zeros(len(steps), bool), edge
    given = two + left + rounding, most + left + largest, rounding, way, held
    return Estimate(steps, *given, SMOOTH, why, False)


def estimated(
    run: FollowedRun,
    plan: ShadowPlan,
    path: Trajectory,
    past: tuple[str, str],
    remarks: list[str],
    found: Estimate | None = None,
) -> Validity:
    """The validity that the distances of a shadow give it; past: as ``past_edge``, of its run."""
    found = found or estimate(run, plan, path)
    given, failed = (found.steps, found.two_norm, found.way), path.failed_at
    if found.exact:
        dtype = jax.tree.leaves(run.params)[0].dtype
        remarks = [past[1][:1].upper() + past[1][1:], *remarks]
        rest = None, found.rounding
        ran: Any = {"begun": run.first, "failed_at": failed, "remarks": remarks}
        return measured(*given, *rest, dtype=dtype, **ran)
    told: Any = {"source": found.source, "why": found.why, "past": past, "remarks": remarks}
    return of_estimate(*given, found.held, begun=run.first, failed_at=failed, **told)


def _saved(row: np.ndarray, saved: np.ndarray) -> np.ndarray:
    """The values at the saved steps, NaN where the row has ended."""
    there = saved <= len(row)
    found = np.full(len(saved), np.nan)
    found[there] = np.asarray(row, float)[saved[there] - 1]
    return found


def _after_smooth_past(run: FollowedRun, path: Trajectory) -> Apart | None:
    """The distances of the run from second-order state; ``first_order``: from that of first.

    None with mini-batches, and of a transformation that is no averages.
    """
    optimizer = run.optimizer
    if run.problem.batched:
        return None
    if not optimizer.closed_form:
        try:
            optimizer = optimizer.as_moments(run.params)
        except ValueError:
            return None
    memory = dataclasses.replace(run, optimizer=optimizer).memory(run.first - 1)
    states = _past_states(run.problem, traced(optimizer), memory, run.params)
    second, first = (
        advanced(dataclasses.replace(run, optimizer=optimizer, start=Start(run.start.step, state)))[
            1
        ]
        for state in states
    )
    return distances(run, second, path, first)[0]


def _past_flow_edge(run: FollowedRun) -> str:
    """Why no past is smooth that leads to where the run begins, "" if one is or none can tell."""
    try:
        edge = thresholds.flow_threshold(run.optimizer)
        reach = float(run.rates[0]) * curvature(run.problem, run.optimizer, run.params)
    except (IndexError, TypeError, ValueError, RuntimeError):
        return ""
    if reach <= edge:
        return ""
    return (
        f"learning rate × curvature of the {edge.matrix} is {reach:.2g}, past the flow edge "
        f"{edge:.2g}, so the steps before step {run.first} were not smooth; pass start=state"
    )


@compiled
def _past_states(problem, optimizer, memory, params: PyTree) -> tuple[State, State]:
    """The states after the step of ``memory`` on a straight way to ``params``, and on none.

    Moment i has averaged ψ_i(∇E(θ + h (k + 1) F)) over its ages k, or ψ_i(∇E(θ)).
    """
    gradient, change = problem.changes(params, False)
    now = present(optimizer, memory, params, gradient)
    moved = DisplacedDirection(problem, optimizer, 0.0).own_lines(now, change, memory.rate)
    count, step = memory.count, jnp.asarray(memory.count + 1, trees.real_dtype())

    def state(read: tuple) -> State:
        kept = zip(optimizer.moments, read, strict=True)
        moments = tuple(
            trees.scale(moment.correction(count), one) if moment.has_memory else None
            for moment, one in kept
        )
        return State(jax.tree.map(jnp.asarray, moments), step)

    return state(moved), state(now.moments)
