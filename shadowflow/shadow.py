"""One entry over all methods: the shadow of an optimizer, step by step, with its validity."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import batch_memory as history, checks, ema_weights as mem, trees, trust as validity
from .batch_memory import Window
from .ema_weights import Memory
from .fields import chosen, conditions, direction_of, refuse_window
from .iterate import Chunk, Trajectory, chunked, drive, first_step, rate_table, trajectory
from .methods import METHODS, Method, collocation, inertial, optax_collocation as backwards
from .methods.memoryless import Flow, Iteration, strides
from .optimizers import ema_probe as averages, memory_probe as settling, thresholds as edges
from .optimizers.from_optax import Transformation
from .optimizers.moments import Optimizer, State, traced
from .problem import Problem
from .trust import Validity


@dataclass(frozen=True)
class Shadow(Trajectory):
    """A Trajectory and its validity; ``verdict`` says in words whether it can be trusted.

    order: the order, also where "auto" chose it. window: with mini-batches, what of the past was
    told apart, with the error bound of what was dropped; else None.
    """

    validity: Validity
    order: int
    window: Window | None

    @property
    def verdict(self) -> str:
        """Whether the shadow holds, with the reason."""
        return self.validity.verdict


def settled_state(
    problem: Problem,
    optimizer: Optimizer,
    params: PyTree,
    learning_rate,
    *,
    order: int | str = 2,
    spacing: float | None = None,
) -> State:
    """The state that a long run through ``params`` would have: moments on the slow manifold.

    Each moment averages the gradients of the past along the path of that order (method
    "collocation"; order 1: all of them equal ∇E(θ); "auto": the order whose neighbour differs
    least), to O(learning_rate^order). The moments are those before the gradient at ``params`` is
    read; step = ∞, so weights sum to 1. spacing: as in ``memoryless_step``. Full batch;
    1 + (order − 1)² gradients. Raises ValueError for an order below 1, for mini-batches, and for
    decays that are traced.

    >>> from shadowflow import zoo
    >>> quadratic, momentum = Problem(lambda x: x**2 / 2), zoo.momentum(0.5)
    >>> state = settled_state(quadratic, momentum, jnp.asarray(1.0), 0.1)
    >>> round(float(state.moments[0]), 6)  # g + (mean age 2) · h · 2 g
    1.4
    """
    chosen("collocation", "flow", order)
    checks.learning_rate(learning_rate)
    history.refuse_settled(problem, "problem", None)
    params = problem.check(params)
    order, _ = _order(problem, optimizer, params, learning_rate, order, "flow", spacing)
    memory = mem.at(traced(optimizer), learning_rate, None, trees.finest_dtype(params))
    if isinstance(optimizer, Transformation):
        return backwards.past_state(problem, optimizer, memory, params, order, spacing)
    moments = collocation.past_moments(problem, optimizer, memory, params, order, spacing)
    return State(moments, jnp.asarray(jnp.inf, trees.real_dtype()))


def shadow(
    problem: Problem,
    optimizer: Optimizer,
    params: PyTree,
    learning_rate,
    steps: int,
    *,
    order: int | str = 2,
    method: str = "displaced",
    kind: str | None = None,
    start: int | None = 0,
    state: State | None = None,
    spacing: float | None = None,
    window: float | None = None,
    curvature: float | None = None,
    keep: Sequence[str | int] | None = None,
    save_every: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> Shadow:
    """What the optimizer follows: ``steps`` steps of its modified flow or memoryless iteration.

    method: "taylor", "displaced", "linearized" (orders 1, 2; kinds "flow", "iteration"),
        "differences" (orders 1, 2; "iteration"; one gradient a step), "collocation" (any order;
        settled, full batch), "inertial" (orders 2 to 4, "flow"; keeps the moments and is the
        accurate one at real decays; of optax transformations those whose state is averages).
        Mini-batches: "taylor" and "displaced".
    kind: None for the flow where the method has one.
    order: "auto", with "collocation", takes the order at which neighbouring orders differ least at
        ``params``, and says so where not even order 2 improves on order 1.
    start: the step number of ``params`` in its run, where the memory's weights begin; None:
        settled. state: the run's moments there; sets ``start`` by itself. "inertial" needs it
        for any start but 0 and None.
    spacing, window: as in ``memoryless_step``.
    curvature: if known, the largest eigenvalue that ``shadowflow.curvature`` gives, of the
        matrix that ``flow_threshold`` names: the verdict then says whether the run is past one of
        the optimizer's edges.
    keep: with "inertial" of order 2, the moments that stay states, by name ("mu", "nu") or number;
        the others are eliminated, as the memoryless methods do with all, and ``state`` need not
        have them. None: all; (): none.
    save_every, progress: as in ``iterate``.

    Returns a ``Shadow``: times and steps as ``iterate``'s, so ``compare`` lays one beside the
    other, and per step the validity with its verdict. A non-finite number stops it with
    ``failed_at``. Global error on a fixed horizon: C · learning_rate^order. Raises ValueError
    for unknown names, naming those there are, for what a method cannot have, with the reason, and
    TypeError or ValueError for bad input.

    >>> from shadowflow import zoo
    >>> from shadowflow.iterate import iterate
    >>> quadratic, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> real = iterate(quadratic, zoo.sgd(), x, 0.1, 10)
    >>> round(float(real.last), 4)  # 0.9^10; the gradient flow would give 0.3679
    0.3487
    >>> round(float(shadow(quadratic, zoo.sgd(), x, 0.1, 10, method="taylor").last), 4)
    0.3499
    """
    kind = default_kind(method) if kind is None else kind
    found = chosen(method, kind, order)
    checks.instance("problem", problem, Problem)
    checks.instance("optimizer", optimizer, Optimizer)
    conditions(found, problem, optimizer, learning_rate, spacing)
    refuse_window(problem, window)
    if curvature is not None:
        edges.check_curvature(optimizer, curvature)
    params, steps = problem.check(params), checks.count("steps", steps)
    save_every = checks.count("save_every", save_every, 1)
    optimizer = averages.seen(optimizer, params) if found.keeps_moments else optimizer
    moments = inertial.which(found.name, optimizer, keep, order)
    start, state = _begin(
        problem, optimizer, params, learning_rate, start, state, found, order, moments
    )
    order, auto = _order(problem, optimizer, params, learning_rate, order, kind, spacing)
    first = start or 0
    table = rate_table(learning_rate, first + steps)
    kept = None
    if problem.batched:
        kept = history.window_of(optimizer, trees.finest_dtype(params), window, first + steps)
        problem = problem.tabulated(first + steps)
    course = _Course(
        problem, optimizer, found, kind, order, learning_rate, table, start, spacing, kept, moments
    )
    run = drive(course.chunks(params, state), params, steps, save_every, progress)
    end = state if run.carry is None else run.carry[1]
    if isinstance(optimizer, averages.Averages):
        end = optimizer.given(end)
    path = trajectory(run, first, table, end if found.keeps_moments else None)
    correction, plain, *lowered = ((), ()) if run.records is None else run.records
    said = [
        auto,
        *(validity.lower_remark(order, flags, first) for flags in lowered),
        *_remarks(course, params, int(path.steps[-1])),
    ]
    judged = validity.judge(
        first + np.arange(len(correction)),
        correction,
        plain,
        params=path.params,
        rates=table[first:],
        remarks=said,
        failed_at=path.failed_at,
        memoryless=course.eliminates,
        past=validity.past_edge(
            optimizer, max(table[first:], default=0.0), curvature, course.eliminates
        ),
    )
    return Shadow(
        path.steps, path.times, path.params, path.state, path.failed_at, judged, order, kept
    )


def default_kind(method: str) -> str:
    """The flow, where the method has one."""
    checks.choice("method", method, METHODS)
    return METHODS[method].kinds[0]


def _order(problem, optimizer, params, learning_rate, order, kind, spacing) -> tuple[int, str]:
    """The order as a number, and where it was chosen here what the choice says."""
    if order != "auto":
        return order, ""
    if isinstance(optimizer, Transformation):
        backwards.direction(optimizer, order, spacing)
    memory = mem.ready(optimizer, learning_rate, None, trees.finest_dtype(params))
    phase = 0.0 if kind == "iteration" else 0.5
    ways = collocation.neighbours(optimizer, spacing)
    best, gap = ways.choose(problem, optimizer, memory, params, phase)
    if best > 1:
        return best, (
            f"Order {best} was chosen: there the next order differs least, by {gap:.1g} of the "
            "first-order step at the start"
        )
    return best, (
        f"Not even order 2 improves on order 1, which was chosen: at the start the next order "
        f"differs by {gap:.1g} of the step, and the orders after it by more"
    )


def _length_remark(course: "_Course", params: PyTree) -> str:
    """What to say of the memory of an optax transformation, which has no decays."""
    if not isinstance(course.optimizer, Transformation):
        return ""
    length = settling.remembered(course.optimizer, params)
    if length is None:
        return (
            "Its memory never settles: each step depends on all those before it, and the longer "
            "the run, the less they can be told from the present place"
        )
    return f"It assumes a memory settled by {length} steps before" if course.start is None else ""


def _remarks(course: "_Course", params: PyTree, end: int) -> list[str]:
    optimizer, method, start = course.optimizer, course.method, course.start
    remarks = [validity.memory_remark(optimizer, start, end), _length_remark(course, params)]
    if method.keeps_moments:
        remarks.append(validity.cold_remark(optimizer, start, course.order))
    if course.problem.batched and method.name == "displaced":
        remarks.append(
            "With mini-batches each moment reads its own places: where eps is small this form is "
            "tamer than Taylor's, but not bounded"
        )
    return remarks if course.window is None else [*remarks, course.window.remark]


def _begin(
    problem, optimizer, params, learning_rate, start, state, method: Method, order, kept
) -> tuple:
    """(start, state) made consistent: where the run is, and its moments if the method has them."""
    if start is not None:
        start = checks.count("start", start)
    if state is not None:
        state = inertial.given(optimizer, state, kept, params)
        reached = None if np.isinf(float(state.step)) else first_step(state)
        if start not in (0, reached):
            raise ValueError(
                f"start: expected {reached}, the step of the given state, got {start}; leave "
                "start out, the state has it."
            )
        start = reached
    history.refuse_settled(problem, "start" if state is None else "state", start)
    remembers = isinstance(optimizer, Transformation) or any(
        moment.has_memory for moment in optimizer.moments
    )
    if method.settled and start == 0 and remembers:
        raise ValueError(
            f"start: expected None, or a step by which the memory has settled, got {start}: "
            f"method={method.name!r} describes a settled memory; pass start=None, with the run "
            "begun in settled_state(…, order=…), or start from within a run."
        )
    if state is not None or not method.keeps_moments:
        return start, state
    if start is None:
        whole = optimizer.source if isinstance(optimizer, averages.Averages) else optimizer
        state = settled_state(problem, whole, params, learning_rate, order=order)
        return None, inertial.given(optimizer, state, kept, params)
    if start > 0:
        raise ValueError(
            f"state: expected the optimizer's state at start={start} for method="
            f"{method.name!r}, which keeps the moments, got None; pass state=, or start=None "
            "for a settled start."
        )
    return 0, inertial.without(optimizer.init(params), kept)


@dataclass(frozen=True)
class _Course:
    """How a shadow runs: piece by piece while the weights change, then in the solver's strides."""

    problem: Problem
    optimizer: Optimizer
    method: Method
    kind: str
    order: int
    learning_rate: Any
    table: np.ndarray
    start: int | None
    spacing: float | None
    window: Window | None
    kept: tuple[bool, ...] | None

    @property
    def eliminates(self) -> bool:
        """Whether any moment is no state."""
        return not self.method.keeps_moments or self.kept is not None

    def chunks(self, params: PyTree, state: State | None) -> Iterator[Chunk]:
        """The run, chunk by chunk, for ``drive``."""
        rates = self.table[self.start or 0 :]
        pieces = self._pieces(len(rates), params, state)
        runner, traceable = self._runner(state), self.problem.traceable
        begin = None if self.method.settled else self.start
        carry = runner.init(params, self._memory(params, begin), state)
        for chunk in chunked(runner, carry, rates[:pieces], traceable):
            carry = chunk.carry
            yield chunk
        if pieces == len(rates):
            return
        carry = (carry[0], self._memory(params, None), *carry[2:])
        if isinstance(runner, Flow) and traceable:
            yield from strides(runner, carry, rates[pieces:])
        else:
            yield from chunked(runner, carry, rates[pieces:], traceable)

    def _pieces(self, steps: int, params: PyTree, state: State | None) -> int:
        """Steps whose number matters: all with a schedule, mini-batches or kept moments."""
        if callable(self.learning_rate) or self.method.keeps_moments or self.problem.batched:
            return steps
        if self.start is None or self.method.settled:
            return 0
        if isinstance(self.optimizer, Transformation):
            faded = settling.remembered(self.optimizer, params)
            begun = 0 if state is None else self.start
        else:
            faded, begun = mem.window(self.optimizer, trees.finest_dtype(params)), 0
        return steps if faded is None else min(steps, max(0, begun + faded - self.start))

    def _memory(self, params: PyTree, step: int | None) -> Memory:
        rate = self.learning_rate
        rate = mem.Rates(jnp.asarray(self.table)) if callable(rate) else rate
        kept = None if self.window is None else self.window.steps
        return mem.ready(self.optimizer, rate, step, trees.finest_dtype(params), kept)

    def _runner(self, state: State | None):
        """One step of the method, for ``drive``; state: in which the run begins, if given."""
        own = self.method.runners.get(self.kind)
        if own is not None and not isinstance(self.optimizer, Transformation):
            options = {} if self.kept is None else {"kept": self.kept}
            return own(self.problem, self.optimizer, self.order, self.spacing, **options)
        direction = direction_of(
            self.method, self.problem, self.optimizer, self.order, self.spacing, state
        )
        kind = Iteration if self.kind == "iteration" else Flow
        return kind(self.problem, traced(self.optimizer), direction, self.order)
