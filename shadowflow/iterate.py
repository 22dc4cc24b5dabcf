"""The exact iterates of an optimizer.

Conventions, fixed by this example: θ_0 is the start; step n = 0, 1, … reads the gradient at
θ_n, updates the moments, then moves; time is the sum of the learning rates.

>>> import jax.numpy as jnp
>>> from shadowflow import Problem, momentum
>>> problem = Problem(lambda x: x**2 / 2)
>>> run = iterate(problem, momentum(decay=0.5), jnp.asarray(1.0), 0.1, 3)
>>> [round(float(x), 4) for x in run.params]  # t = 1, 1.4, 1.46 after steps 0, 1, 2
[1.0, 0.9, 0.76, 0.614]
>>> [int(n) for n in run.steps], [round(float(t), 2) for t in run.times]
([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3])
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from . import checks, trees
from .methods.collocation import begun
from .optimizers.base import AbstractOptimizer, traced
from .problem import Problem
from .running import Trajectory, chunked, drive, trajectory
from .start import FollowedRun, followed


class ExactStep(eqx.Module):
    """One step of the optimizer itself, as ``drive`` runs it; the carry is (θ, state)."""

    problem: Problem
    optimizer: AbstractOptimizer

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, state = carry
        batch = self.problem.batch_index(state.step) if self.problem.batched else None
        value, grad = self.problem.value_and_gradient(params, batch)
        state, move = self.optimizer.update(state, grad, params, rate, value)
        moved = trees.add(params, 1, move)
        finite = jnp.isfinite(value) & trees.all_finite(grad) & trees.all_finite(moved)
        return (moved, state), (), finite


def iterate(
    problem: Problem,
    optimizer,
    params,
    learning_rate,
    steps: int,
    *,
    start=0,
    save_every: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> Trajectory:
    """What the optimizer does: ``steps`` steps from ``params``; step n sees its mini-batch.

    optimizer: of this library, or a plain optax transformation, which makes its own steps:
        ``learning_rate`` then only says what its rate is, for the times.
    learning_rate: a positive float, or a schedule (step → float), read at the run's own steps.
    start: where in its run the optimizer is at ``params``: 0, a cold start; a ``State`` (of an
        earlier Trajectory, of ``Optimizer.to_optax``, of ``state_from_optax``) or an optax state:
        the step numbers go on from it; "settled": in ``settled_state``, steps numbered from 0.
    save_every: keep every so many steps, and the last; memory grows with what is kept only.
    progress: called with the number of steps done since its last call.

    Returns a ``Trajectory``. A non-finite loss, gradient or parameter stops the run with
    ``failed_at``, and what was computed before is returned. Raises ValueError or TypeError for
    bad input.
    """
    run = followed(problem, optimizer, params, learning_rate, steps, start, fixed_rate=True)
    return iterated(run, checks.count("save_every", save_every, 1), progress)


def iterated(
    run: FollowedRun, save_every: int = 1, progress: Callable | None = None, order: int = 2
) -> Trajectory:
    """``iterate``, its arguments checked; order: of the settled state, where it begins in one."""
    state = begun(run, order)
    advance = ExactStep(run.tabulated, traced(run.optimizer))
    chunks = chunked(advance, (run.params, state), run.rates, run.problem.traceable)
    driven = drive(chunks, run.params, run.steps, save_every, progress)
    end = state if driven.carry is None else driven.carry[1]
    return trajectory(driven, run.first, run.table, end)
