"""What every method is: class data that says what it offers, and one way to bind it to a problem.

A memoryless method makes a ``Direction``, which is a field on the parameters: its iteration and
its flow are run here. A method that carries something from step to step makes its own stepper.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory, Truncation
from ..optimizers.base import SETTLED, State, traced
from ..problem import Problem
from ..running import Chunk, FollowedRun, chunked
from . import ode

STRIDE = 128
LANDING = 5  # from this order on a step of the solver ends at every step of the optimizer


class AbstractDirection(eqx.Module):
    """−(movement per unit of time) as a function of the memory and the parameters.

    ``phase``: 0 for the iteration, ½ for the flow, whose field is centred in the step.
    """

    problem: Problem
    optimizer: Any
    phase: float = eqx.field(static=True)

    @abstractmethod
    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, the order asked for) of the direction."""

    def first_order(self, memory: Memory, params: PyTree) -> PyTree:
        """F_n(θ), the memoryless direction alone."""
        return self(memory, params)[0]

    def moves(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, the order asked for) of the step taken, in parameters."""
        first, second = self(memory, params)
        return trees.scale(-memory.rate, first), trees.scale(-memory.rate, second)

    def first_move(self, memory: Memory, params: PyTree) -> PyTree:
        """The first-order step, in parameters."""
        return trees.scale(-memory.rate, self.first_order(memory, params))

    def ahead(self, memory: Memory) -> Array | float:
        """The time from the start of the step to the phase; the number 0.0 for an iteration."""
        return self.phase * memory.rate if self.phase else 0.0


class MomentsDirection(AbstractDirection):
    """A direction of moments on the full batch."""

    def first_order(self, memory: Memory, params: PyTree) -> PyTree:
        """F_n(θ), from one gradient."""
        gradient = self.problem.gradient(params)
        return self.optimizer.memoryless_direction(params, gradient, memory.count)


def per_time(rate: Array, first: PyTree, second: PyTree) -> tuple[Array, Array]:
    """The record of a step from two steps in parameters; of a rate of 0 as they are."""
    share = 1 / jnp.where(rate > 0, rate, 1.0)
    return trees.sizes(trees.scale(share, first), trees.scale(share, second))


class AbstractStepper(eqx.Module):
    """One step of a shadow, as ``running.drive`` takes it: carry[0] is θ.

    The record of a step is (norm of the correction, norm of the first-order step), which its
    validity is judged by.
    """

    problem: Problem

    @abstractmethod
    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The carry before the first step."""

    @abstractmethod
    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        """(carry, record, whether all is finite) after a step."""

    def settled_chunks(self, carry: tuple, rates: np.ndarray) -> Iterator[Chunk]:
        """The steps that remain once no step's number matters."""
        return chunked(self, carry, rates, self.problem.traceable)


class Iteration(AbstractStepper):
    """θ ← θ − h · direction(θ); the carry is (θ, memory).

    sized: whether first order also finds its correction, for the record, at the cost of order 2.
    """

    direction: AbstractDirection
    order: int = eqx.field(static=True)
    sized: bool = eqx.field(static=True, default=True)

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """(θ, memory)."""
        del state
        return params, memory

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, memory = carry
        memory = memory.with_rate(rate)
        pair = self.moves(memory, params)
        moved = trees.add(params, 1, pair[0] if self.order == 1 else pair[1])
        finite = self.finite(memory, params, moved)
        return (moved, memory.advanced()), per_time(rate, *pair), finite

    def moves(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, the order asked for) of the step; first order alone where not ``sized``."""
        if self.sized:
            return self.direction.moves(memory, params)
        return (self.direction.first_move(memory, params),) * 2

    def finite(self, memory: Memory, params: PyTree, moved: PyTree) -> Array:
        """Whether the loss that the step sees and the place that it reaches are finite."""
        batch = self.problem.batch_index(memory.step) if self.problem.batched else None
        return jnp.isfinite(self.problem.value(params, batch)) & trees.all_finite(moved)


class Flow(Iteration):
    """θ' = −direction(θ) with phase ½, the step number fixed over the step, also at its end.

    Integrated beside it: the first-order direction along the same path, whose difference is
    the correction. A first-order flow takes the correction at the start of the step instead.

    The record says last whether one fixed step was taken in place of adaptive ones (``fixed``).
    """

    fixed: bool = eqx.field(static=True, default=False)

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, memory = carry
        memory, traceable = memory.with_rate(rate), self.problem.traceable
        if self.order == 1:
            nothing = trees.zeros_like(params)
            pair = self.moves(memory, params) if self.sized else (nothing, nothing)
            record = per_time(rate, *pair)
            field = lambda s, y: self.direction.first_move(memory, y)
            moved = ode.one_step(field, params, traceable=traceable)
        else:
            field = lambda s, y: self.paired(memory, y[0])
            nothing = trees.zeros_like(params)
            moved, second, first = ode.one_step(
                field, (params, nothing, nothing), traceable=traceable, high_order=self.order > 2
            )
            record = per_time(rate, first, second)
        record = *record, jnp.asarray(self.fixed)
        return (moved, memory.advanced()), record, self.finite(memory, params, moved)

    def paired(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree, PyTree]:
        """The steps of (second order, second order, first order): for θ, and for both ways from 0.

        The ways are integrated beside θ, since a difference of θs would be lost in its rounding.
        """
        first, second = self.direction.moves(memory, params)
        return second, second, first

    def settled_chunks(self, carry: tuple, rates: np.ndarray) -> Iterator[Chunk]:
        """A settled field does not depend on the step, so the solver chooses its own steps.

        Where it gives up, as at kinks, the rest of the run takes one fixed step a step.
        """
        if not self.problem.traceable:
            yield from super().settled_chunks(carry, rates)
            return
        params, memory = carry
        for start in range(0, len(rates), STRIDE):
            length = min(STRIDE, len(rates) - start)
            steps = jnp.minimum(jnp.arange(STRIDE + 1.0), length)
            path, values, records = _stride(self, memory, params, steps)
            rows = [np.asarray(leaf).reshape(STRIDE + 1, -1) for leaf in jax.tree.leaves(path)]
            reached = [np.all(np.isfinite(row[1:]), axis=1) for row in rows]
            taken = np.all(reached, axis=0) & np.isfinite(np.asarray(values))[:-1]
            good = int(np.argmin([*taken[:length], False]))
            params = jax.tree.map(lambda leaf, n=good: leaf[n], path)
            later = jax.tree.map(lambda leaf: leaf[1:], path)
            if good > 0:
                yield Chunk((params, memory), later, records, good, good)
            if good < length:
                rest = dataclasses.replace(self, fixed=True)
                yield from chunked(rest, (params, memory), rates[start + good :], True)
                return


@eqx.filter_jit
def _stride(flow: Flow, memory: Memory, params: PyTree, steps: Array) -> tuple:
    """(θ, loss and record) at all ``steps`` of a settled flow from ``params``."""
    if flow.order == 1:
        field = lambda y: flow.direction.first_move(memory, y)
        path = ode.over_many(field, params, steps)
        correction = plain = jnp.zeros(STRIDE, trees.real_dtype())
        if flow.sized:
            starts = jax.tree.map(lambda leaf: leaf[:-1], path)
            pair = lambda y: trees.sizes(*flow.paired(memory, y)[:0:-1])
            correction, plain = jax.lax.map(pair, starts)
    else:
        field = lambda y: flow.paired(memory, y[0])
        start = (params, trees.zeros_like(params), trees.zeros_like(params))
        path, *ways = ode.over_many(field, start, steps, landing=flow.order >= LANDING)
        second, first = (jax.tree.map(lambda leaf: jnp.diff(leaf, axis=0), way) for way in ways)
        correction, plain = jax.vmap(trees.sizes)(first, second)
    values = jax.lax.map(flow.problem.value, path)
    sizes = correction / memory.rate, plain / memory.rate
    return path, values, (*sizes, jnp.zeros(STRIDE, bool))


@dataclass(frozen=True)
class ShadowPlan:
    """A method and the run that it follows: how the shadow goes, step by step.

    keep: as in ``shadow``; once ``prepared``, one flag per moment: whether it stays a state. None:
    all, or none by a memoryless method. remark: what the choice of the order says, "" where none
    was made. sized: whether first order finds the size of its correction.
    """

    run: FollowedRun
    method: "AbstractMethod"
    kind: str
    order: Any
    spacing: float | None = None
    truncation: Truncation | None = None
    keep: Any = None
    remark: str = ""
    sized: bool = True

    @property
    def kept(self) -> int | None:
        """How many past steps are told apart, with mini-batches."""
        return None if self.truncation is None else self.truncation.steps

    @property
    def eliminates(self) -> bool:
        """Whether any moment is no state."""
        return not self.method.keeps_moments or self.keep is not None

    @property
    def follows(self) -> str:
        """What would follow a mode past the flow's edge, "" where nothing here does."""
        if self.method.keeps_moments:
            return "keep=None"
        return "" if self.run.problem.batched else "method='inertial'"

    @property
    def remarks(self) -> list[str]:
        """What a verdict says of the choices made; "" for nothing."""
        cut = "" if self.truncation is None else self.truncation.remark
        return [self.remark, self.method.remark(self), cut]

    def chunks(self) -> Iterator[Chunk]:
        """The run, chunk by chunk: step by step while the steps' numbers matter, then settled."""
        run, stepper = self.run, self.method.bind(self)
        rates, pieces = run.rates, self.numbered_steps()
        begin = SETTLED if self.method.needs_settled else run.start.step
        carry = stepper.init(run.params, run.memory(begin, self.kept), run.start.state)
        for chunk in chunked(stepper, carry, rates[:pieces], run.problem.traceable):
            carry = chunk.carry
            yield chunk
        if pieces < len(rates):
            carry = (carry[0], run.memory(SETTLED), *carry[2:])
            yield from stepper.settled_chunks(carry, rates[pieces:])

    def numbered_steps(self) -> int:
        """Steps whose number matters: all with a schedule, mini-batches or kept moments."""
        run = self.run
        if callable(run.learning_rate) or self.method.keeps_moments or run.problem.batched:
            return run.steps
        if run.start.settled or self.method.needs_settled:
            return 0
        length = run.optimizer.memory_length(run.params, run.first + run.steps)
        foreign = run.start.state is not None and not run.optimizer.closed_form
        begun = run.first if foreign else 0
        return run.steps if length is None else min(run.steps, max(0, begun + length - run.first))


class AbstractMethod:
    """A way to build the shadow of an optimizer: class data, and ``bind``.

    orders: the orders offered, None: any; a global error of learning_rate^order is what the
        tests fit.
    highest: the highest order offered where there is no list of them.
    kinds: "flow" (an ODE), "iteration" (a step), or both; the first one is taken by default.
    summary: one line for tables.
    needs_hvp: whether it takes Hessian-vector products, beside gradients.
    needs_settled: whether it needs a settled memory, and so a constant learning rate.
    full_batch: why it needs the full batch; "" where it takes mini-batches.
    follows_optax: whether it follows any optax transformation.
    batches_optax: whether it does so on mini-batches too.
    keeps_moments: whether it carries the optimizer's state.
    has_nodes: whether it has nodes, which ``spacing`` sets apart.
    is_field: whether it is a function of the step and the parameters alone.
    """

    name: ClassVar[str]
    orders: ClassVar[tuple[int, ...] | None] = (1, 2)
    highest: ClassVar[int] = 0
    kinds: ClassVar[tuple[str, ...]] = ("flow", "iteration")
    summary: ClassVar[str]
    needs_hvp: ClassVar[bool] = False
    needs_settled: ClassVar[bool] = False
    full_batch: ClassVar[str] = ""
    follows_optax: ClassVar[bool] = False
    batches_optax: ClassVar[bool] = False
    keeps_moments: ClassVar[bool] = False
    has_nodes: ClassVar[bool] = False
    is_field: ClassVar[bool] = False

    def prepared(self, plan: ShadowPlan) -> ShadowPlan:
        """The plan with what only this method can choose; ValueError for what it cannot have."""
        run = plan.run
        optimizer = self.seen(run.optimizer, run.params, run.start.state)
        return dataclasses.replace(plan, run=dataclasses.replace(run, optimizer=optimizer))

    def seen(self, optimizer: Any, params: PyTree, state: State | None) -> Any:
        """The optimizer in the form that this method follows, from a state if one is known."""
        del params, state
        return optimizer

    @abstractmethod
    def bind(self, plan: ShadowPlan) -> AbstractStepper:
        """One step of a prepared plan."""

    def remark(self, plan: ShadowPlan) -> str:
        """What else a verdict says where this method follows that run; "" for nothing."""
        del plan
        return ""

    def offers(self, order: int) -> bool:
        """Whether it has that order."""
        return self.orders is None or order in self.orders

    @property
    def usual(self) -> tuple[int, ...]:
        """The highest order of those up to 2, where it has a limit: what tables show."""
        return (max(order for order in self.orders if order <= 2),) if self.orders else ()

    @property
    def measured(self) -> tuple[int, ...]:
        """The orders that are measured where none are named."""
        return self.orders or (1, 2, 3, 4)


class MemorylessMethod(AbstractMethod):
    """A method that eliminates the memory: its direction is a field on the parameters."""

    is_field = True

    @abstractmethod
    def direction(
        self,
        problem: Problem,
        optimizer: Any,
        phase: float,
        *,
        order: int | str = 2,
        spacing: float | None = None,
        start: State | None = None,
    ) -> AbstractDirection:
        """The direction of an order in a phase.

        spacing: of the nodes, where it has some; start: the state in which the run began, if known.
        """

    def bind(self, plan: ShadowPlan) -> AbstractStepper:
        run, order, phase = plan.run, plan.order, phase_of(plan.kind)
        problem, optimizer, start = run.tabulated, traced(run.optimizer), run.start.state
        spacing = plan.spacing
        made = self.direction(problem, optimizer, phase, order=order, spacing=spacing, start=start)
        return (Flow if phase else Iteration)(problem, made, order, plan.sized)


def phase_of(kind: str) -> float:
    """Where in a step a direction is read: 0 for an iteration, ½ for a flow."""
    return 0.0 if kind == "iteration" else 0.5
