"""What a shadow is made of, chosen and checked before anything runs: a method, bound to a run."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import checks
from .batch_memory import Truncation, truncation_of
from .methods import METHODS
from .methods.base import AbstractMethod, AbstractStepper, phase_of
from .methods.collocation import best_of
from .methods.inertial import kept_moments, without
from .optimizers.base import AbstractOptimizer, State
from .problem import Problem
from .running import Chunk, Driven, chunked, drive
from .start import SETTLED, FollowedRun, Start, check_complete


def choose(method: str, kind: str | None, order) -> tuple[AbstractMethod, str]:
    """The method and kind of these names; refuse those that it has not, naming what it has."""
    checks.choice("method", method, METHODS)
    found = METHODS[method]
    kind = found.kinds[0] if kind is None else kind
    checks.choice(f"kind (method {method!r})", kind, found.kinds)
    if found.orders is not None:
        checks.choice(f"order (method {method!r})", order, found.orders)
    elif order != "auto":
        checks.count(f"order (method {method!r}; or 'auto')", order, 1)
    return found, kind


def able(method: AbstractMethod, problem: Problem, optimizer: AbstractOptimizer) -> bool:
    """Whether a method can follow this optimizer on this problem."""
    foreign = not optimizer.closed_form
    return (method.follows_optax or not foreign) and not (
        problem.batched and (foreign or method.full_batch)
    )


def refuse_unable(
    method: AbstractMethod, problem: Problem, optimizer: AbstractOptimizer, learning_rate, spacing
) -> None:
    """Refuse mini-batches, a schedule, a spacing of nodes or an optax transformation where the
    method cannot have them."""
    if not optimizer.closed_form and not method.follows_optax:
        known = [name for name, other in METHODS.items() if other.follows_optax]
        raise ValueError(
            f"method: expected one of {known} for the optax transformation {optimizer.name}, which "
            f"has no moments, got {method.name!r}."
        )
    if problem.batched and not optimizer.closed_form:
        raise ValueError(
            f"problem: expected a full batch for the optax transformation {optimizer.name}, got "
            "mini-batches; pass problem.full_batch(), or an Optimizer(moments, combine)."
        )
    if problem.batched and method.full_batch:
        raise ValueError(
            f"method: expected one that takes mini-batches, got {method.name!r}: "
            f"{method.full_batch}, or problem.full_batch() for the full batch."
        )
    if method.needs_constant_rate and callable(learning_rate):
        raise ValueError(
            f"learning_rate: expected a number for method={method.name!r}, got a schedule; use "
            "method='displaced' or 'differences'."
        )
    if spacing is not None and not method.has_nodes:
        raise ValueError(
            f"spacing: expected None for method={method.name!r}, which has no nodes, got "
            f"{spacing!r}; it belongs to method='collocation'."
        )


def refuse_tolerance(problem: Problem, tolerance) -> None:
    """Refuse a memory_tolerance where no past steps are told apart, and what is no share."""
    if tolerance is None:
        return
    checks.number("memory_tolerance", tolerance, least=0, below=1)
    if not problem.batched:
        raise ValueError(
            f"memory_tolerance: expected None for a full-batch problem, got {tolerance!r}; its "
            "weights have closed forms, so nothing needs to be dropped."
        )


@dataclass(frozen=True)
class ShadowPlan:
    """A method bound to the run that it follows: how the shadow goes, step by step.

    keep: which moments stay states, one flag each; None: all, or none by a memoryless method.
    remark: what the choice of the order says, "" where none was made.
    """

    run: FollowedRun
    method: AbstractMethod
    kind: str
    order: int
    spacing: float | None
    truncation: Truncation | None
    keep: tuple[bool, ...] | None
    remark: str

    @property
    def eliminates(self) -> bool:
        """Whether any moment is no state."""
        return not self.method.keeps_moments or self.keep is not None

    def driven(self, save_every: int, progress) -> tuple[Driven, State | None]:
        """All steps, and the optimizer's state after them, where the method carries it."""
        run = self.run
        driven = drive(self.chunks(), run.params, run.steps, save_every, progress)
        if not self.method.keeps_moments:
            return driven, None
        end = run.start.state if driven.carry is None else driven.carry[1]
        return driven, run.optimizer.given(end)

    def chunks(self) -> Iterator[Chunk]:
        """The run, chunk by chunk: step by step while the steps' numbers matter, then settled."""
        run, kept = self.run, None if self.truncation is None else self.truncation.steps
        rates, pieces, stepper = run.rates, self.numbered_steps(), self.stepper()
        begin = SETTLED if self.method.needs_settled else run.start.step
        carry = stepper.init(run.params, run.memory(begin, kept), run.start.state)
        for chunk in chunked(stepper, carry, rates[:pieces], run.problem.traceable):
            carry = chunk.carry
            yield chunk
        if pieces < len(rates):
            carry = (carry[0], run.memory(SETTLED), *carry[2:])
            yield from stepper.settled_chunks(carry, rates[pieces:])

    def stepper(self) -> AbstractStepper:
        """One step of the method."""
        run = self.run
        return self.method.bind(
            run.tabulated,
            run.optimizer,
            run.start.state,
            order=self.order,
            kind=self.kind,
            spacing=self.spacing,
            keep=self.keep,
        )

    def numbered_steps(self) -> int:
        """Steps whose number matters: all with a schedule, mini-batches or kept moments."""
        run, steps = self.run, len(self.run.rates)
        if callable(run.learning_rate) or self.method.keeps_moments or run.problem.batched:
            return steps
        if run.start.settled or self.method.needs_settled:
            return 0
        length = run.optimizer.memory_length(run.params)
        foreign = run.start.state is not None and not run.optimizer.closed_form
        begun = run.first if foreign else 0
        return steps if length is None else min(steps, max(0, begun + length - run.first))


def planned(
    run: FollowedRun,
    *,
    method: str,
    order: int | str,
    kind: str | None = None,
    spacing: float | None = None,
    memory_tolerance: float | None = None,
    keep: Any = None,
) -> ShadowPlan:
    """The ``ShadowPlan`` of a method for a run; ValueError for what it cannot have, and why."""
    found, kind = choose(method, kind, order)
    refuse_unable(found, run.problem, run.optimizer, run.learning_rate, spacing)
    refuse_tolerance(run.problem, memory_tolerance)
    if found.needs_settled and run.start.step == 0 and run.optimizer.remembers:
        raise ValueError(
            "start: expected 'settled', or a step by which the memory has settled, got 0: "
            f"method={found.name!r} describes a settled memory; pass start='settled', with the run "
            "begun in settled_state(…, order=…), or start from within a run."
        )
    if keep is not None and not found.keeps_moments:
        raise ValueError(
            f"keep: expected None for method={method!r}, got {keep!r}; only method='inertial' "
            "keeps moments as states."
        )
    kept = kept_moments(run.optimizer, keep, order)
    chosen, remark = numbered(run, order, kind, spacing)
    if found.keeps_moments:
        run = with_moments(run, chosen, kept)
    cut = None
    if run.problem.batched:
        last = run.first + run.steps
        cut = truncation_of(run.optimizer, run.params, memory_tolerance, last)
    return ShadowPlan(run, found, kind, chosen, spacing, cut, kept, remark)


def with_moments(run: FollowedRun, order: int, keep: tuple[bool, ...] | None) -> FollowedRun:
    """The run of the optimizer as its moments, from a state of those that are kept."""
    given, optimizer = run.start.state, run.optimizer.as_moments(run.params)
    if keep is not None and given is not None:
        expected = without(State(optimizer.init(run.params).moments, given.step), keep).moments
        state = without(check_complete(given, expected, optimizer.name), keep)
    else:
        state = without(optimizer.taken(run.state(order)), keep)
    return dataclasses.replace(run, optimizer=optimizer, start=Start(run.start.step, state))


def numbered(run: FollowedRun, order, kind: str, spacing: float | None) -> tuple[int, str]:
    """The order as a number, and where it was chosen here what the choice says."""
    if order != "auto":
        return order, ""
    memory, phase = run.memory(SETTLED), phase_of(kind)
    best, gap = best_of(run.problem, run.optimizer, phase, spacing).choose(memory, run.params)
    if best > 1:
        return best, (
            f"Order {best} was chosen: there the next order differs least, by {gap:.1g} of the "
            "first-order step at the start"
        )
    return best, (
        f"Not even order 2 improves on order 1, which was chosen: at the start the next order "
        f"differs by {gap:.1g} of the step, and the orders after it by more"
    )
