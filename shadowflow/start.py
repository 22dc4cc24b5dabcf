"""Where a run begins: resolved once, and the same in every public function.

``start`` is the step number of the given parameters in their run (0: a cold start), "settled" (a
long run came through them), or the optimizer's state there: a ``State`` or that of a running optax
optimizer.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import checks, ema_weights as mem, trees
from .ema_weights import Memory
from .methods.collocation import past_state
from .optimizers.base import AbstractOptimizer, State, state_from_optax
from .optimizers.from_optax import as_optimizer
from .problem import Problem
from .running import rate_table

SETTLED = "settled"


@dataclass(frozen=True)
class Start:
    """step: its number, or "settled"; state: the optimizer's there, where one was given."""

    step: int | str
    state: State | None

    @property
    def settled(self) -> bool:
        """Whether no step number matters."""
        return self.step == SETTLED

    @property
    def first(self) -> int:
        """The number of the first step: 0 from a settled state."""
        return self.step if isinstance(self.step, int) else 0


def resolved(problem: Problem, optimizer: AbstractOptimizer, params: PyTree, start) -> Start:
    """The ``Start`` that an argument means; TypeError or ValueError for what means none."""
    if start is None or (isinstance(start, str) and start != SETTLED):
        raise ValueError(
            f"start: expected the number of a step, 'settled' or a State, got {start!r}; 0 is a "
            "cold start."
        )
    if isinstance(start, str):
        found = Start(SETTLED, None)
    elif isinstance(start, (bool, int, float, np.generic)) or getattr(start, "ndim", 1) == 0:
        found = Start(checks.count("start", start), None)
    else:
        own = isinstance(start, State)
        state = start if own else state_from_optax(optimizer, start, params)
        state = check_state(optimizer, state, params)
        found = Start(SETTLED if state.settled else int(state.step), state)
    refuse_settled(problem, "start", found.step)
    return found


def refuse_settled(problem: Problem, name: str, step) -> None:
    """Refuse a settled memory with mini-batches: which of them would be next?"""
    if problem.batched and isinstance(step, str):
        raise ValueError(
            f"{name}: expected the number of a step with mini-batches, got 'settled': what "
            "comes next depends on which batches came last; pass a number, or "
            "problem.full_batch(), the full-batch problem."
        )


def check_state(optimizer: AbstractOptimizer, state: State, params: PyTree) -> State:
    """``state``, or ValueError if its moments do not fit the optimizer and the parameters.

    A moment may be None where the method does without it.
    """
    expected, given = optimizer.init(params), jax.tree.map(jnp.asarray, state)
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), (expected.moments, given.moments))
    pairs = list(zip(*like, strict=False))
    if len(like[0]) != len(like[1]) or any(got not in (None, want) for want, got in pairs):
        raise ValueError(
            "start: expected a state with one pytree like params per moment with memory, of "
            f"{optimizer.name}; got {like[1]}, expected {like[0]}."
        )
    step = float(given.step)
    if not (step >= 0 and (math.isinf(step) or step.is_integer())):
        raise ValueError(
            "start: expected a state whose step is a whole number of at least 0, or infinity for a "
            f"settled one, got step {step}."
        )
    return State(given.moments, given.step.astype(trees.real_dtype()))


@dataclass(frozen=True)
class FollowedRun:
    """A run that is made or followed: an optimizer on a problem from a start, all of it checked.

    optimizer: an ``AbstractOptimizer``. table: the learning rates of its steps from 0 on.
    """

    problem: Problem
    optimizer: Any
    params: PyTree
    learning_rate: Any
    start: Start
    steps: int
    table: np.ndarray

    @property
    def first(self) -> int:
        """The number of its first step."""
        return self.start.first

    @property
    def rates(self) -> np.ndarray:
        """The learning rates of its own steps."""
        return self.table[self.first :]

    @property
    def tabulated(self) -> Problem:
        """The problem, its schedule of batches looked up for these steps."""
        return self.problem.tabulated(self.first + self.steps)

    def memory(self, step, kept: int | None = None) -> Memory:
        """The memory at a step; a schedule is read from the table, so that none is traced."""
        rate = self.learning_rate
        rate = mem.Rates(jnp.asarray(self.table)) if callable(rate) else rate
        return mem.ready(self.optimizer, rate, step, self.params, kept)

    def state(self, order: int = 2, spacing: float | None = None) -> State:
        """The state in which it begins: the given one, a fresh one, or the settled one."""
        if self.start.state is not None:
            expected = self.optimizer.init(self.params).moments
            return check_complete(self.start.state, expected, self.optimizer.name)
        if self.start.settled:
            rate = self.learning_rate
            return past_state(self.problem, self.optimizer, self.params, rate, order, spacing)
        if self.first > 0:
            raise ValueError(
                f"start: expected the optimizer's state at step {self.first}, which carries its "
                f"moments from there, got {self.first}; pass a State or the optax state, 0 for a "
                "cold start or 'settled'."
            )
        keeps, rate = self.optimizer.keeps_rate, self.learning_rate
        return self.optimizer.init(self.params, rate if keeps else 1.0)


def check_complete(state: State, expected: tuple, name: str) -> State:
    """``state``, or ValueError where a moment with memory is missing in it."""
    missing = [
        i for i, want in enumerate(expected) if want is not None and state.moments[i] is None
    ]
    if missing:
        raise ValueError(
            f"start: expected a state with all moments of {name}, got None for moment {missing[0]};"
            " pass the whole state, or leave that moment out of keep=."
        )
    return state


def followed(
    problem: Problem,
    optimizer,
    params: PyTree,
    learning_rate,
    steps: int,
    start,
    *,
    fixed_rate: bool = False,
) -> FollowedRun:
    """The run that these arguments mean; TypeError or ValueError for bad ones.

    fixed_rate: whether a plain optax transformation will do, whose rate cannot be varied.
    """
    checks.instance("problem", problem, Problem)
    optimizer = as_optimizer(optimizer, fixed_rate=fixed_rate)
    checks.learning_rate(learning_rate)
    refuse_schedule(optimizer, learning_rate)
    params, steps = problem.check(params), checks.count("steps", steps)
    begun = resolved(problem, optimizer, params, start)
    table = rate_table(learning_rate, begun.first + steps)
    return FollowedRun(problem, optimizer, params, learning_rate, begun, steps, table)


def refuse_schedule(optimizer: AbstractOptimizer, learning_rate) -> None:
    """Refuse a schedule for an optimizer that would not see it."""
    if callable(learning_rate) and optimizer.keeps_rate:
        raise ValueError(
            f"learning_rate: expected a number for {optimizer.name}, which keeps it in its state "
            "from the start, got a schedule; make the transformation without a rate in its state."
        )
