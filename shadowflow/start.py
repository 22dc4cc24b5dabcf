"""The run that is made or followed: all that belongs to it, checked once, as one object."""

import functools
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import checks, ema_weights as mem
from .ema_weights import Memory
from .optimizers.base import Start, started
from .optimizers.from_optax import as_optimizer
from .problem import Problem, checked
from .running import rate_table


@dataclass(frozen=True)
class FollowedRun:
    """An optimizer on a problem, so many steps from a start; made by ``followed``.

    optimizer: an ``AbstractOptimizer``. learning_rate: a number or a schedule.
    """

    problem: Problem
    optimizer: Any
    params: PyTree
    learning_rate: Any
    start: Start
    steps: int

    @property
    def first(self) -> int:
        """The number of its first step."""
        return self.start.first

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The learning rates of steps 0 to the last one."""
        return rate_table(self.learning_rate, self.first + self.steps)

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

    start: as in ``started``. fixed_rate: whether a plain optax transformation will do, whose rate
    cannot be varied.
    """
    params = checked(problem, params)
    optimizer = as_optimizer(optimizer, learning_rate, fixed_rate=fixed_rate)
    begun = started(optimizer, params, start, problem.batched)
    steps = checks.count("steps", steps)
    return FollowedRun(problem, optimizer, params, learning_rate, begun, steps)
