"""Where a shadow holds: how far it is from the optimizer, measured or estimated, and in words.

What decides is the distance from the iterates over the way that they have gone, at its largest so
far: up to 0.1 a shadow holds, up to 0.4 in part, beyond it does not. A shadow of second order or
more that is no closer than first order holds in part at best: its correction says nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from . import plots, trees
from .optimizers import thresholds
from .optimizers.base import AbstractOptimizer
from .plots import Result
from .running import FollowedRun, Trajectory

HOLDS, PARTLY = 0.1, 0.4
LEVELS = ("holds", "partly", "does not hold")
UNSETTLED = 0.05
GROWTH = 2  # of a further term beside the one before: 1, 1, 2, 5, … for an average, where linear
ALIKE = 1.05  # a factor between two distances that makes no difference
ROUNDING = 0.3  # of eps · |θ| √steps: the same increments round alike, what is left is random
BIASED = 0.25  # of eps · |θ| · steps: a flow's increments round otherwise, but alike at every step


@dataclass(frozen=True, repr=False)
class Validity(Result):
    """How far a result can be trusted.

    basis: "measured", against the optimizer's own run, or "estimated", without it. steps: the
    numbers of the steps taken, int array; share: per step the distance from the optimizer after
    it, over the way that it has gone (of a bias: the error over the bias); first_order: the same
    of first order, where it was measured too. running_max: the largest share so far.
    level: "holds", "partly" or "does not hold"; reason: the same in words; remarks: what else to
    mind.
    """

    basis: str
    steps: np.ndarray
    share: np.ndarray
    first_order: np.ndarray | None
    level: str
    reason: str
    remarks: tuple[str, ...] = ()

    @property
    def running_max(self) -> np.ndarray:
        """The largest share so far, per step."""
        return np.maximum.accumulate(self.share) if len(self.share) else self.share

    @property
    def summary(self) -> str:
        """The reason, which says the level and whether it was measured."""
        return self.reason

    plot = plots.validity

    @property
    def remark(self) -> str:
        """The remarks as one text, "" where there is none."""
        return ". ".join(self.remarks)

    @property
    def verdict(self) -> str:
        """The reason and the remarks as sentences."""
        return " ".join(f"{text}." for text in (self.reason, *self.remarks))


def level_of(share: float) -> str:
    """The level of a distance over the way gone.

    >>> level_of(0.003), level_of(0.2), level_of(float("nan"))
    ('holds', 'partly', 'does not hold')
    """
    return LEVELS[0] if share <= HOLDS else LEVELS[1] if share <= PARTLY else LEVELS[2]


def worst(*levels: str) -> str:
    """The least of some levels."""
    return max(levels, key=LEVELS.index)


@np.errstate(over="ignore", invalid="ignore")  # of what diverges
def rounding_of(path: Trajectory, steps: np.ndarray, flow: bool) -> tuple[np.ndarray, np.ndarray]:
    """What rounding adds to a distance by these steps: in the two-norm and the max-norm.

    In proportion to the mean size of the parameters so far: what was rounded where they were large
    is not undone where they are small.
    """
    taken = steps - path.steps[0]
    at = np.searchsorted(path.steps, steps, side="right") - 1
    parts = trees.coarsest_eps(path.last) * (BIASED * taken if flow else ROUNDING * np.sqrt(taken))
    sizes = trees.row_norms(jax.tree.leaves(path.params))
    means = [np.cumsum(size)[at] / (at + 1) for size in sizes]
    return parts * means[0], parts * means[1]


def over_way(distance: np.ndarray, way: np.ndarray) -> np.ndarray:
    """A distance over the way gone: 0 of 0 is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(distance == 0, 0.0, distance / way)


@np.errstate(over="ignore", invalid="ignore")  # of what diverges
def measured(
    steps: np.ndarray,
    distance: np.ndarray,
    way: np.ndarray,
    first: np.ndarray | None,
    rounding: np.ndarray,
    *,
    dtype,
    begun: int | None = None,
    failed_at: int | None = None,
    real_failed: int | None = None,
    remarks: Sequence[str] = (),
) -> Validity:
    """The validity of a shadow from its distances from the optimizer's iterates.

    steps, distance, way, rounding: per step; first: the distance of first order, None where it is
    not known or is what is judged. begun: the number of the run's first step, None for the first
    of ``steps``. failed_at, real_failed: where the shadow, and the optimizer itself, met a number
    that is not finite.
    """
    known = np.isfinite(way)
    steps, distance, way, rounding = (row[known] for row in (steps, distance, way, rounding))
    share = over_way(distance, way)
    counted = over_way(np.maximum(distance - rounding, 0), way)
    level = level_of(np.max(counted, initial=0.0))
    many = _many(steps, begun)
    reason = _course(steps, share, counted, many)
    if len(steps) and not np.any(counted):
        reason = f"to the rounding of {dtype} after {many}"
    if first is not None and len(steps):
        first = over_way(first[known], way)
        better, words = _beside(distance, first * way, rounding, first)
        level = level if better else worst(level, "partly")
        reason += words
    if len(steps) and not np.any(way) and not np.any(distance):
        reason = f"neither it nor the optimizer has moved after {many}"
    elif len(steps) and counted[-1] <= HOLDS < share[-1]:
        level = worst(level, "partly")
        reason += f"; off by {_of_way(share[-1])}, which may be rounding: no more can be told"
    if not len(known):
        reason = "no step was taken"
    elif not len(steps):
        level, reason = "does not hold", "no step of the optimizer is known"
    opening = {"holds": "follows", "partly": "follows in part", "does not hold": "does not follow"}
    if failed_at is not None:
        level = "does not hold"
        reason = f"a non-finite number began at step {failed_at}; until then {reason}"
    if real_failed is not None:
        remarks = [
            f"The optimizer itself met a number that is not finite at step {real_failed}",
            *remarks,
        ]
    told = f"{opening[level]}: {reason}"
    return Validity("measured", steps, share, first, level, told, tuple(filter(None, remarks)))


def _course(steps: np.ndarray, share: np.ndarray, counted: np.ndarray, many: str) -> str:
    """Where it left, if it did, and how far off it is at the end."""
    if not len(steps):
        return ""
    end = f"{percent(share[-1])} after {many}"
    gone = np.flatnonzero(~(counted <= HOLDS))
    if len(gone):
        return f"left at step {steps[gone[0]]} ({_of_way(share[gone[0]])}), {end}"
    top = int(np.argmax(share))
    if share[top] > 2 * share[-1]:
        return f"within {_of_way(share[top])} (at step {steps[top]}), {end}"
    return f"within {_of_way(share[top])} after {many}"


def _of_way(share: float) -> str:
    return f"{percent(share)} of the way gone".replace("× of", "×")


def _many(steps: np.ndarray, begun: int | None) -> str:
    """How many steps were taken up to the last of these, and of how many of them it is told."""
    if not len(steps):
        return "0 steps"
    count = steps[-1] + 1 - (steps[0] if begun is None else begun)
    seen = "" if len(steps) == count else f" (measured at {len(steps)} of them)"
    return "1 step" if count == 1 else f"{count} steps{seen}"


def _beside(distance, first, rounding, shares) -> tuple[bool, str]:
    """(whether it is closer than first order, or neither can be told; the same in words)."""
    both = np.isfinite(first)
    size = lambda row: float(np.linalg.norm(row[both]))
    mine, other, floor = size(distance), size(first), size(rounding)
    if not np.any(both):
        return True, ", where first order is not finite"
    if mine <= floor and other <= floor:
        return True, ", as first order does"
    if mine <= floor:
        return True, f" (first order: within {percent(np.max(shares[both]))})"
    factor = max(other / mine, 1e-9) if mine else np.inf
    if factor > ALIKE:
        return True, f", {times(factor)} × closer than first order"
    farther = "as far as" if factor * ALIKE > 1 else f"{times(1 / factor)} × farther than"
    return False, f", {farther} first order, so its correction says nothing"


def percent(share: float) -> str:
    """A share in words.

    >>> percent(0.00312), percent(0.5), percent(12.0), percent(float("nan"))
    ('0.31 %', '50 %', '12 ×', 'an unknown part')
    """
    if not np.isfinite(share):
        return "an unknown part"
    return f"{100 * share:.2g} %" if share < 0.995 else f"{times(share)} ×"


def times(factor: float) -> str:
    """A factor in two digits, without an exponent where it can be read so.

    >>> times(1.234), times(230.4), times(1.5e7)
    ('1.2', '230', '1.5e+07')
    """
    return f"{float(f'{factor:.2g}'):.0f}" if 100 <= factor < 1e5 else f"{factor:.2g}"


def estimated(
    steps: np.ndarray,
    distance: np.ndarray,
    way: np.ndarray,
    held: np.ndarray,
    *,
    source: str,
    why: str,
    begun: int | None = None,
    failed_at: int | None = None,
    remarks: Sequence[str] = (),
    past: tuple[str, str] = ("", ""),
) -> Validity:
    """The validity of a shadow from an estimate of its distances, where nothing was measured.

    held: per step whether the estimate can be believed; why: what is wrong where it cannot;
    source: what it is from. past: the edge that the run is past (``past_edge``) and the level
    that this leaves it. begun: as in ``measured``.
    """
    share, course = over_way(distance, way), lambda n: _course(*given(n), _many(steps[:n], begun))
    given = lambda n: (steps[:n], share[:n], share[:n])
    level = level_of(np.max(share, initial=0.0))
    if not len(steps):
        reason = "no step was taken"
    elif np.all(held):
        reason = f"{course(len(steps))}, estimated from {source}"
    else:
        level, left = "does not hold", int(np.argmin(held))
        reason = f"nothing can be said from step {steps[left]} on: {why} (estimated from {source})"
        if left:
            reason = f"{course(left)}, and {reason}"
    if failed_at is not None:
        level = "does not hold"
        reason = f"a non-finite number began at step {failed_at}; until then {reason}"
    if past[1]:
        level, reason = worst(level, past[0]), f"{past[1]}; {reason}"
    told = {"holds": "should follow", "partly": "should follow in part"}.get(level, level)
    kept = tuple(filter(None, remarks))
    return Validity("estimated", steps, share, None, level, f"{told}: {reason}", kept)


def by_size(
    steps: np.ndarray,
    correction: np.ndarray,
    plain: np.ndarray,
    *,
    failed_at: int | None = None,
    remarks: Sequence[str] = (),
) -> Validity:
    """The validity of what can be neither measured nor estimated from a neighbour: from the size
    of the second-order correction relative to the first-order step.

    >>> by_size(np.arange(2), np.array([0.01, 0.02]), np.ones(2)).reason
    'should hold: the correction stays within 2 % of the step, estimated from its size alone'
    """
    share = np.nan_to_num(over_way(np.asarray(correction), np.asarray(plain)), nan=np.inf)
    level = level_of(np.max(share, initial=0.0))
    reason = "no step was taken"
    if len(share):
        top = int(np.argmax(share))
        reason = (
            f"the correction stays within {percent(share[top])} of the step"
            if level == "holds"
            else f"the correction reaches {percent(share[top])} of the step (at step {steps[top]})"
        ) + ", estimated from its size alone"
    if failed_at is not None:
        level, reason = "does not hold", f"a non-finite number began at step {failed_at}; {reason}"
    told = {"holds": "should hold", "partly": "should hold in part"}.get(level, level)
    kept = tuple(filter(None, remarks))
    return Validity("estimated", np.asarray(steps), share, None, level, f"{told}: {reason}", kept)


def past_edge(
    optimizer: AbstractOptimizer,
    rate: float,
    curvature: float | None,
    memoryless: bool,
    follows: str = "",
) -> tuple[str, str]:
    """The edge that learning rate × curvature is past: (the level it leaves, the reason in words).

    ("", "") where it is past none, and where no curvature is known. follows: what does follow such
    a mode, "" where nothing does.
    """
    if curvature is None:
        return "", ""
    reach = rate * curvature
    stable = thresholds.stability_threshold(optimizer)
    size = f"learning rate × curvature of the {stable.matrix} is {reach:.2g}, past the"
    if reach > stable:
        return "does not hold", (
            f"{size} stability edge {float(stable):.3g} of the optimizer itself, which oscillates "
            "and grows there"
        )
    flow = thresholds.flow_threshold(optimizer)
    if memoryless and reach > flow:
        return "partly", (
            f"{size} flow edge {float(flow):.2g}, where such a mode oscillates and no memoryless "
            f"flow follows it{follows and f' ({follows} does)'}"
        )
    return "", ""


def lower_remarks(order: int, lowered: np.ndarray | None, first: int) -> list[str]:
    """What to say of the steps at which order 2 was taken for a higher one, if there are any.

    lowered: a flag per step; first: the number of the first one.
    """
    why = f"where order {order} is not finite: it looks too many steps ahead"
    return [f"Order 2 was taken at {where}, {why}" for where in _told(lowered, first)]


def fixed_remarks(order: int, fixed: np.ndarray | None, first: int) -> list[str]:
    """The same of steps that a flow took in one piece, as its solver's own were too many."""
    why = "where it is not smooth enough for a solver that chooses its own steps"
    return [
        f"The flow of order {order} was solved by one step per step of the optimizer at {where}, "
        f"{why}"
        for where in _told(fixed, first)
    ]


def _told(flags: np.ndarray | None, first: int) -> list[str]:
    """How many of the steps are flagged, and from where on; nothing for none."""
    where = np.flatnonzero(flags) if flags is not None else ()
    if flags is None or not len(where):
        return []
    return [f"{len(where)} of {len(flags)} steps (first at step {first + where[0]})"]


def memory_remark(run: FollowedRun, end: int) -> str:
    """What to say about the memory's transient; "" where it is over at step ``end``."""
    optimizer, settled = run.optimizer, run.start.settled
    if not optimizer.closed_form:
        length = optimizer.memory_length(run.params, None if settled else end)
        if length is None:
            return (
                f"Its memory has not settled by step {end}: each step depends on all those before "
                "it, and the longer the run, the less they can be told from the present place"
            )
        return f"It assumes a memory settled by {length} steps before" if settled else ""
    decays = [float(m.decay) for m in optimizer.moments if m.has_memory]
    longest = max(decays, default=0.0)
    if settled:
        if longest == 0:
            return ""
        return f"It assumes a settled memory: many times {1 / (1 - longest):.0f} steps before"
    left = longest ** (end + 1)
    if left < UNSETTLED:
        return ""
    return (
        f"The memory has not settled by step {end} ({longest:g}^{end + 1} = {left:.2g}): "
        "the limits (1+b)/(1-b) do not apply yet, the weights of this step do"
    )
