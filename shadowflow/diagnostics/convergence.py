"""How far a shadow is from the real iterates, and how fast that shrinks with the step size."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from .. import checks, plots
from ..iterate import iterated
from ..methods import METHODS, choose, planned, unfit
from ..optimizers.base import SETTLED, AbstractOptimizer
from ..plots import Result
from ..problem import Problem
from ..running import FollowedRun, Trajectory, followed
from ..shadow import Shadow, shadowed
from ..trust import level_of, over_way
from .comparison import compare

TOLERANCE, SHORTFALL = 0.15, 0.2
HALVINGS = 3
STEEP = {6: (2, SHORTFALL), 7: (1, 2 * SHORTFALL)}  # fewer halvings fit above float64's rounding
LEAST_ORDER = 0.5  # a slope below it is none of an error that vanishes with the step
NUDGE = 4  # in units of rounding: by how much a start is moved to see what rounding comes to
FEWEST, MOST = 8, 2**16  # steps over the horizon, where they are chosen here
MARGIN = 10  # how far an error lies above rounding where it counts


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

    @property
    def asymptotic(self) -> bool:
        """Whether the slopes above rounding have ceased to rise, so that they are an order."""
        return self.exact or _settled(self.learning_rates, self.errors, self.floor, self.order)

    @property
    def finding(self) -> str:
        """ "holds", "exact", "not yet asymptotic" or "does not hold"."""
        if self.holds:
            return "exact" if self.exact else "holds"
        return "does not hold" if self.asymptotic else "not yet asymptotic"


class OrderTable(Result, list):
    """The rows that ``convergence`` measured, a list of ``OrderRow``."""

    @property
    def summary(self) -> str:
        """How many rows show the order that they should, and of how many it cannot be said yet."""
        early = sum(row.finding == "not yet asymptotic" for row in self)
        more = f"; {early} are not yet asymptotic at these step sizes" if early else ""
        return f"{sum(row.holds for row in self)} of {len(self)} rows have their order{more}"

    def describe(self) -> str:
        """One line a row: whether it is the declared order, what was measured, its slope."""
        return "\n".join([self.summary, *map(_told, self)])

    plot = plots.convergence


def _told(row: OrderRow) -> str:
    slope = "no slope above rounding" if row.slope is None else f"slope {row.slope:.2f}"
    name = f"{row.method}, {row.kind}, order {row.order}, {row.start} start"
    remedy = "; take smaller step sizes, a shorter horizon, or leave learning_rates out"
    return f"{name}: {row.finding}, {slope}{remedy if row.finding.startswith('not yet') else ''}"


@checks.hinted
def convergence(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    horizon: float,
    learning_rates: Sequence[float] | None = None,
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
    learning_rates: falling, normally halved; three halvings or more are fitted. None: each row's
        own, halved from an eighth of the horizon until its error is asymptotic, or rounding, or
        65,536 steps are reached. A row says "not yet asymptotic" where its slopes still rise.
    methods, orders: None for all that the problem and the start allow (from a cold start no order
    above 2). start: 0 (cold) or "settled" (the real run then begins in ``settled_state``).
    progress: called with 1 after each row.
    Use float64: raises ValueError for parameters of any other dtype, and for fewer than two
    learning rates.

    >>> import jax.numpy as jnp
    >>> from shadowflow import sgd
    >>> quadratic = Problem(lambda x: jnp.sum(x**2) / 2)
    >>> with jax.enable_x64(True):
    ...     rows = convergence(quadratic, sgd(), jnp.ones(1), 1.0, [0.04, 0.02, 0.01, 0.005],
    ...                        methods=["taylor"], kinds=["flow"], orders=[2])
    >>> round(rows[0].slope, 1), rows[0].finding
    (2.0, 'holds')
    """
    checks.number("horizon", horizon, above=0, example=1.0)
    checks.choice("start", start, (0, SETTLED))
    if progress is not None:
        checks.function("progress", progress)
    kinds = checks.several("kinds", kinds, "['flow']")
    methods = methods if methods is None else checks.several("methods", methods, "['taylor']")
    orders = orders if orders is None else checks.several("orders", orders, "[1, 2]")
    rates = None if learning_rates is None else _checked(learning_rates, horizon)
    rate = horizon if rates is None else rates[-1]
    instead = "call it outside, as an order is measured on numbers"
    run = followed(problem, optimizer, params, rate, 0, start, instead=instead)
    if any(leaf.dtype != np.float64 for leaf in jax.tree.leaves(run.params)):
        raise ValueError(
            "params: expected float64, in which orders can be told from rounding, got "
            f"{jax.tree.leaves(run.params)[0].dtype}; enable x64 and convert the parameters."
        )
    wanted = _wanted(run, methods, kinds, orders)
    real_at = functools.cache(
        lambda rate, order, nudged: _real(_at(run, rate, horizon, nudged), order)
    )
    rows = []
    for way in wanted:
        given = [*_ladder(horizon)] if rates is None else rates
        rows.append(_measured(run, way, given, horizon, real_at, found_by_itself=rates is None))
        if progress is not None:
            progress(1)
    return OrderTable(rows)


def _checked(learning_rates: Sequence[float], horizon: float) -> list[float]:
    """The learning rates as floats, or a refusal."""
    for rate in checks.several("learning_rates", learning_rates, "[0.02, 0.01]"):
        checks.number("learning_rates", rate, above=0)
    rates = [float(rate) for rate in learning_rates]
    if len(rates) < 2 or any(b >= a for a, b in itertools.pairwise(rates)):
        raise ValueError(
            f"learning_rates: expected two or more, falling, got {learning_rates!r}; leave it out "
            "to have them found."
        )
    uneven = [h for h in rates if abs(horizon / h - max(1, round(horizon / h))) > 1e-6]
    if uneven:
        raise ValueError(
            f"learning_rates: expected rates that divide the horizon {horizon} into whole steps, "
            f"got {uneven[0]}; halve horizon / n for a whole n."
        )
    return rates


def _ladder(horizon: float) -> Iterator[float]:
    """Learning rates, each half of the one before."""
    steps = FEWEST
    while steps <= MOST:
        yield horizon / steps
        steps *= 2


def _at(run: FollowedRun, rate: float, horizon: float, nudged: bool) -> FollowedRun:
    """The run over the horizon at a learning rate; nudged: from a start moved by its rounding."""
    params = _nudged(run.params) if nudged else run.params
    steps = max(1, round(horizon / rate))
    return dataclasses.replace(run, learning_rate=rate, steps=steps, params=params)


def _measured(
    run: FollowedRun, way: tuple, rates: Sequence[float], horizon: float, real_at, found_by_itself
) -> OrderRow:
    """One row; found_by_itself: whether to stop where its errors are asymptotic, and to leave out
    rates at which the optimizer diverges."""
    method, kind, order = way
    used, errors, apart, level = [], [], None, "holds"

    def pair(rate: float, nudged: bool) -> tuple[Trajectory, Shadow]:
        plan = planned(_at(run, rate, horizon, nudged), order=order, method=method, kind=kind)
        return real_at(rate, max(2, order), nudged), shadowed(plan.run, plan)

    for rate in rates:
        try:
            real, follow = pair(rate, nudged=False)
        except ValueError:
            if not found_by_itself or rate == rates[-1]:
                raise
            continue
        used.append(rate)
        errors.append(_error(real, follow))
        level = _level(real, follow)
        if apart is None and np.isfinite(errors[-1]):
            beside = pair(rate, nudged=True)
            apart = max(_error(*ends) for ends in zip((real, follow), beside, strict=True))
        floor = MARGIN * (apart or 0.0) * np.sqrt(round(horizon / rate))
        done = errors[-1] <= floor or _settled(used, errors, floor, order)
        if found_by_itself and len(used) > 1 and done:
            break
    return order_row(method, kind, order, run_start(run), used, errors, float(floor), level)


def run_start(run: FollowedRun) -> Any:
    """ "settled" or 0."""
    return SETTLED if run.start.settled else 0


def _settled(rates: Sequence[float], errors: Sequence[float], floor: float, order: int) -> bool:
    """Whether the last slopes above rounding agree with each other, and the errors fall."""
    seen = [(h, e) for h, e in zip(rates, errors, strict=True) if np.isfinite(e) and e > floor]
    halvings = _halvings(order)
    if len(seen) <= halvings:
        return False
    rate, error = np.log(np.asarray(seen[-halvings - 1 :])).T
    slopes = np.diff(error) / np.diff(rate)
    return bool(np.ptp(slopes) <= TOLERANCE and slopes[-1] >= LEAST_ORDER)


def _halvings(order: int) -> int:
    """How many halvings a slope is fitted over."""
    return STEEP.get(min(order, max(STEEP)), (HALVINGS, SHORTFALL))[0]


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
