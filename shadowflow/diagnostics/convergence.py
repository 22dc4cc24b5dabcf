"""How far a shadow is from the real iterates, and how fast that shrinks with the step size."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .. import checks, plots, trees
from ..iterate import iterated
from ..methods import METHODS, choose, planned, unfit
from ..optimizers.base import SETTLED, AbstractOptimizer
from ..plots import Result
from ..problem import Problem
from ..running import FollowedRun, Trajectory, followed
from ..shadow import Shadow, shadowed
from ..trust import level_of, over_way

TOLERANCE, SHORTFALL = 0.15, 0.2
HALVINGS = 3
STEEP = {6: (2, SHORTFALL), 7: (1, 2 * SHORTFALL)}  # fewer halvings fit above float64's rounding
NUDGE = 4  # in units of rounding: by how much a start is moved to see what rounding comes to
MARGIN = 10  # how far an error lies above rounding where it counts


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Distances at the steps that two trajectories share.

    steps: int array [shared]; max_norm: max_j |θ_j − θ̃_j|; two_norm: ‖θ − θ̃‖₂; moved: the
    two-norm distance of the first trajectory from its start, for scale. stopped: why less is
    compared than was run, or why the distances say little, in words; "" for nothing.
    """

    steps: np.ndarray
    max_norm: np.ndarray
    two_norm: np.ndarray
    moved: np.ndarray
    stopped: str

    @property
    def summary(self) -> str:
        """What is missing, if anything; the distance at the last shared step, over the way gone."""
        return (
            f"{self.stopped}{'; ' * bool(self.stopped)}"
            f"{self.two_norm[-1]:.2g} apart at step {self.steps[-1]} (two-norm), "
            f"{self.moved[-1]:.2g} from the start"
        )

    plot = plots.comparison


def compare(real: Trajectory, follow: Trajectory) -> Comparison:
    """The distance between two trajectories, step by step, where both have saved parameters.

    ``stopped`` and the summary say so where one ended or failed before the other, and where their
    learning rates differ. Where one failed at
    its first step the distance is NaN. Raises
    ValueError if they share no step or their parameters do not fit each other.

    >>> params = {"x": np.array([[0.0, 0.0], [3.0, 4.0]])}
    >>> run = Trajectory(np.arange(2), np.arange(2.0), params, None, None)
    >>> compare(run, run).moved
    array([0., 5.])
    """
    for name, path in (("real", real), ("follow", follow)):
        if not (hasattr(path, "steps") and hasattr(path, "params")):
            raise TypeError(
                f"{name}: expected a run, as iterate and shadow return it, got {path!r}."
            )
    steps, here, there = np.intersect1d(real.steps, follow.steps, return_indices=True)
    if not len(steps):
        span, other = (f"steps {path.steps[0]} to {path.steps[-1]}" for path in (real, follow))
        raise ValueError(
            f"follow: expected a trajectory that shares steps with real ({span}), got {other}; "
            "give both the same start and save_every."
        )
    shapes = [jax.tree.map(lambda leaf: leaf.shape[1:], t.params) for t in (real, follow)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"follow: expected parameters of shapes {shapes[0]}, as real's, got {shapes[1]}."
        )
    first, second = _rows(real, here), _rows(follow, there)
    gap = first - second
    far = np.max(np.abs(gap), axis=1)
    origin = first - _rows(real, np.asarray([0]))
    apart = np.linalg.norm(gap, axis=1)
    failed = real.failed_at is not None or follow.failed_at is not None
    if failed and real.steps[0] == follow.steps[0] == steps[-1]:
        far, apart = np.full(1, np.nan), np.full(1, np.nan)
    told = "; ".join(_stops(real, follow, steps[-1]) + _out_of_time(real, here, follow, there))
    return Comparison(steps, far, apart, np.linalg.norm(origin, axis=1), told)


def _stops(real: Trajectory, follow: Trajectory, last: int) -> list[str]:
    """Which of two runs failed or ended before the other, in words."""
    told = [
        f"{name} stopped at step {run.failed_at}, where a non-finite number began"
        for name, run in (("real", real), ("follow", follow))
        if run.failed_at is not None
    ]
    ends = int(real.steps[-1]), int(follow.steps[-1])
    if not told and ends[0] != ends[1]:
        told = [f"real goes to step {ends[0]}, follow to step {ends[1]}"]
    if real.steps[0] == follow.steps[0] == last:
        told.append("no step after the start is compared")
    return told


def _out_of_time(real: Trajectory, here: np.ndarray, follow: Trajectory, there) -> list[str]:
    """That two runs come to the same step at different times, in words."""
    times = [run.times[at] - run.times[at[0]] for run, at in ((real, here), (follow, there))]
    apart = np.flatnonzero(~np.isclose(*times, rtol=1e-6, atol=0))
    if not len(apart):
        return []
    real_time, follow_time = (time[apart[0]] for time in times)
    return [
        f"their learning rates differ: by step {real.steps[here[apart[0]]]} real has come "
        f"{real_time:.4g} in time, follow {follow_time:.4g}"
    ]


def _rows(path: Trajectory, index: np.ndarray) -> np.ndarray:
    return trees.flat_rows(trees.row(path.params, index))


@dataclass(frozen=True)
class OrderRow:
    """Errors of one method, kind and order over step sizes, and the order they show.

    errors: largest max-norm distance over the horizon, per learning rate; slopes: the observed
    order between neighbours; slope: over the last three halvings above the rounding floor (two at
    order 6, one from order 7 on), None where nothing is left to measure; holds: slope within 0.15
    of ``order`` (for a method of any order, whose error may fall faster, at most 0.2 short of it,
    0.4 from order 7 on), or exact (all errors at the floor). floor: ten times the effect of
    rounding, as two runs from starts a few units of rounding apart show it. level: the validity
    level of the smallest step; start: "cold", "settled".
    """

    method: str
    kind: str
    order: int
    start: str
    learning_rates: tuple[float, ...]
    errors: tuple[float, ...]
    slopes: tuple[float, ...]
    slope: float | None
    floor: float
    holds: bool
    level: str

    @property
    def exact(self) -> bool:
        """Whether the shadow is the optimizer itself, to rounding."""
        return max(self.errors) <= self.floor


class OrderTable(Result, list):
    """The rows that ``convergence`` measured, a list of ``OrderRow``."""

    @property
    def summary(self) -> str:
        """How many rows show the order that they should."""
        return f"{sum(row.holds for row in self)} of {len(self)} rows have their order"

    def describe(self) -> str:
        """One line a row: what was measured, its slope, whether it is the declared order."""
        return "\n".join([self.summary, *map(_told, self)])

    plot = plots.convergence


def _told(row: OrderRow) -> str:
    slope = "no slope above rounding" if row.slope is None else f"slope {row.slope:.2f}"
    held = "holds" if row.holds else "does not hold"
    return f"{row.method}, {row.kind}, order {row.order}, {row.start} start: {slope}, {held}"


def convergence(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    horizon: float,
    learning_rates: Sequence[float],
    *,
    methods: Sequence[str] | None = None,
    kinds: Sequence[str] = ("iteration", "flow"),
    orders: Sequence[int] | None = None,
    start: Any = 0,
    progress: Callable[[int], Any] | None = None,
) -> "OrderTable":
    """The observed order of every method, kind and order asked for: a list of ``OrderRow``.

    The error is the largest max-norm distance between ``iterate`` and ``shadow`` over
    ``horizon`` (in time = steps × learning rate), expected to fall as learning_rate^order.
    learning_rates: falling, normally halved; three halvings or more are fitted. methods and
    orders: None for all that the problem and the start allow (from a cold start none above 2).
    start: 0 (cold) or "settled" (the real run then begins in ``settled_state``). progress: called
    with 1 after each row.
    Use float64: raises ValueError for parameters of any other dtype, and for fewer than two
    learning rates.

    >>> import jax.numpy as jnp
    >>> from shadowflow import sgd
    >>> quadratic = Problem(lambda x: jnp.sum(x**2) / 2)
    >>> with jax.enable_x64(True):
    ...     rows = convergence(quadratic, sgd(), jnp.ones(1), 1.0, [0.04, 0.02, 0.01, 0.005],
    ...                        methods=["taylor"], kinds=["flow"], orders=[2])
    >>> round(rows[0].slope, 1), rows[0].holds
    (2.0, True)
    """
    checks.number("horizon", horizon, above=0)
    checks.choice("start", start, (0, SETTLED))
    for rate in learning_rates:
        checks.number("learning_rates", rate, above=0)
    rates = [float(rate) for rate in learning_rates]
    if len(rates) < 2 or any(b >= a for a, b in itertools.pairwise(rates)):
        raise ValueError(f"learning_rates: expected two or more, falling, got {learning_rates!r}.")
    uneven = [h for h in rates if abs(horizon / h - max(1, round(horizon / h))) > 1e-6]
    if uneven:
        raise ValueError(
            f"learning_rates: expected rates that divide the horizon {horizon} into whole steps, "
            f"got {uneven[0]}; halve horizon / n for a whole n."
        )
    run = followed(problem, optimizer, params, rates[-1], 0, start)
    if any(leaf.dtype != np.float64 for leaf in jax.tree.leaves(run.params)):
        raise ValueError(
            "params: expected float64, in which orders can be told from rounding, got "
            f"{jax.tree.leaves(run.params)[0].dtype}; enable x64 and convert the parameters."
        )
    runs = [
        dataclasses.replace(run, learning_rate=rate, steps=max(1, round(horizon / rate)))
        for rate in rates
    ]
    wanted = _wanted(run, methods, kinds, orders)
    beside = dataclasses.replace(runs[0], params=_nudged(run.params))
    real_at = functools.cache(lambda order: [_real(run, order) for run in [*runs, beside]])
    rows = []
    for method, kind, order in wanted:
        real = real_at(max(2, order))
        plans = [planned(run, order=order, method=method, kind=kind) for run in [*runs, beside]]
        follow = [shadowed(plan.run, plan) for plan in plans]
        errors = [_error(a, b) for a, b in zip(real[:-1], follow[:-1], strict=True)]
        apart = [_error(paths[0], paths[-1]) for paths in (real, follow)]
        floor = MARGIN * max(filter(np.isfinite, apart)) * np.sqrt(runs[-1].steps)
        level = _level(real[-2], follow[-2])
        rows.append(order_row(method, kind, order, start, rates, errors, floor, level))
        if progress is not None:
            progress(1)
    return OrderTable(rows)


def _wanted(run: FollowedRun, methods, kinds, orders) -> list[tuple[str, str, int]]:
    """(method, kind, order) to measure: what is named, or all that the problem and start allow."""
    cold = not run.start.settled
    fit = [
        name
        for name, method in METHODS.items()
        if not (unfit(method, run.problem, run.optimizer) or (cold and method.needs_settled))
    ]
    names = fit if methods is None else list(methods)
    for name in names:
        checks.choice("methods", name, METHODS)
    for kind in kinds:
        checks.choice("kinds", kind, ("iteration", "flow"))
    wanted = [
        (name, kind, order)
        for name in names
        for kind in kinds
        for order in (METHODS[name].measured if orders is None else orders)
        if kind in METHODS[name].kinds and (methods is not None or METHODS[name].offers(order))
        if orders is not None or not cold or order <= 2
    ]
    for name, kind, order in wanted:
        choose(name, kind, order)
    if not wanted:
        raise ValueError(
            f"orders: expected something to measure, got none with methods={names}, kinds={kinds}, "
            f"orders={orders} and this start; leave one of them out."
        )
    return wanted


def _real(run: FollowedRun, order: int) -> Trajectory:
    real = iterated(run, order=order)
    if real.failed_at is not None:
        raise ValueError(
            f"learning_rates: expected steps that the optimizer survives, got {run.learning_rate}, "
            f"at which a non-finite number began at step {real.failed_at}; use smaller ones."
        )
    return real


def _nudged(params: PyTree) -> PyTree:
    """The parameters moved by a few units of rounding of the largest, to and fro."""
    size = max(float(np.max(np.abs(leaf))) for leaf in jax.tree.leaves(params))
    by = NUDGE * np.finfo(np.float64).eps * size
    sign = lambda leaf: (-1.0) ** np.arange(leaf.size).reshape(leaf.shape)
    return jax.tree.map(lambda leaf: leaf + by * sign(leaf), params)


def _error(real: Trajectory, follow: Trajectory) -> float:
    if follow.failed_at is not None:
        return float("inf")
    return float(compare(real, follow).max_norm.max())


def _level(real: Trajectory, follow: Shadow) -> str:
    """The level of a shadow from its distance over the way gone."""
    gap = compare(real, follow)
    shares = over_way(gap.two_norm[1:], np.maximum.accumulate(gap.moved[1:]))
    failed = np.inf if follow.failed_at is not None else 0.0
    return level_of(np.max(shares, initial=failed))


def order_row(method, kind, order, start, rates, errors, floor: float, level: str) -> OrderRow:
    """What errors at these rates say of an order; level: that of the smallest rate."""
    seen = [(h, e) for h, e in zip(rates, errors, strict=True) if np.isfinite(e) and e > floor]
    halvings, shortfall = STEEP.get(min(order, max(STEEP)), (HALVINGS, SHORTFALL))
    slope = None
    if len(seen) >= 2:
        (h0, e0), (h1, e1) = seen[max(0, len(seen) - 1 - halvings)], seen[-1]
        slope = float(np.log(e0 / e1) / np.log(h0 / h1))
    with np.errstate(divide="ignore", invalid="ignore"):
        slopes = np.diff(np.log(errors)) / np.diff(np.log(rates))
    miss = None if slope is None else slope - order
    above = np.inf if METHODS[method].orders is None else TOLERANCE
    below = shortfall if METHODS[method].orders is None else TOLERANCE
    holds = max(errors) <= floor or (miss is not None and -below <= miss <= above)
    begun = "cold" if start == 0 else "settled"
    found = tuple(rates), tuple(errors), tuple(map(float, slopes)), slope, float(floor)
    return OrderRow(method, kind, order, begun, *found, bool(holds), level)
