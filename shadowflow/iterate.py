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

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from . import checks, trees
from .methods.collocation import begun
from .optimizers.base import AbstractOptimizer, State, rate_at, traced
from .problem import Problem
from .running import (
    Chunk,
    FollowedRun,
    Trajectory,
    as_traceable,
    chunked,
    drive,
    followed,
    trajectory,
)


class ExactStep(eqx.Module):
    """One step of the optimizer itself, as ``drive`` runs it; the carry is (θ, state)."""

    problem: Problem
    optimizer: AbstractOptimizer

    def __call__(self, carry: tuple, rate: Array) -> tuple[tuple, tuple, Array]:
        params, state = carry
        batch = self.problem.batch_index(state.step) if self.problem.batched else None
        value, grad = self.problem.value_and_gradient(params, batch)
        after, move = self.optimizer.update(state, grad, params, rate, value)
        moved = trees.add(params, 1, move)
        finite = jnp.isfinite(value) & trees.all_finite(grad) & trees.all_finite(moved)
        return (moved, after), (), finite & trees.stays_finite(state.moments, after.moments)


@checks.hinted
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
    """The optimizer's own run: ``steps`` steps from ``params``; step n sees the batch of step n.

    optimizer: one of this library, or a plain optax transformation. That one has its learning rate
        inside; ``learning_rate`` then only sets the times.
    learning_rate: a positive float, or a schedule (step → float), read at the run's own steps.
    start: 0, a cold start; a ``State`` (of an earlier Trajectory, of ``Optimizer.to_optax``, of
        ``state_from_optax``) or an optax state, from which the run and its step numbers continue;
        or "settled", the state of ``settled_state``, with steps numbered from 0.
    save_every: keep every ``save_every``-th step, and the last one.
    progress: called with the number of steps done since its last call.

    Returns a ``Trajectory``. If the loss, the gradient or a parameter is not finite, the run stops
    there: ``failed_at`` is the step, and everything before it is returned. Raises ValueError or
    TypeError for bad input. What a function of the problem raises on the way, and Ctrl-C, has the
    Trajectory up to there as its ``partial``, and a note that names the step.

    Under jit, vmap and grad, in params, learning rate, hyper-parameters and what the loss closes
    over, it is one ``jax.lax.scan`` with JAX arrays in the Trajectory: numbers that are not finite
    run on, and ``progress`` is not called. A ``State`` to start from has to be known.

    >>> from shadowflow import Problem, sgd
    >>> run = iterate(Problem(lambda x: x**2 / 2), sgd(), jnp.asarray(1.0), 0.1, 10)
    >>> round(float(run.last), 4)  # 0.9^10
    0.3487
    """
    run = followed(problem, optimizer, params, learning_rate, steps, start, fixed_rate=True)
    save_every = checks.count("save_every", save_every, 1)
    if progress is not None:
        checks.function("progress", progress)
    return _traced(run, save_every) if run.traced else iterated(run, save_every, progress)


def iterated(
    run: FollowedRun, save_every: int = 1, progress: Callable | None = None, order: int = 2
) -> Trajectory:
    """``iterate`` after its checks; order: that of the settled state, if the run begins in it."""
    state, chunks = advanced(run, order)
    driven = drive(chunks, run.params, run.steps, save_every, progress)
    end = state if driven.carry is None else driven.carry[1]
    return driven.unbroken(trajectory(driven, run.first, run.rates, end))


def _traced(run: FollowedRun, save_every: int) -> Trajectory:
    """The run as one scan, for jit, vmap and grad: nothing is looked at on the way."""
    last = max(run.first, run.end - 1)
    rate = as_traceable(run.learning_rate, run.first, last)
    rates = jax.vmap(lambda step: rate_at(rate, step))(jnp.arange(run.first, run.end))
    try:
        with jax.ensure_compile_time_eval():
            problem = run.tabulated
    except jax.errors.JAXTypeError:  # the schedule is traced itself, as in its key
        problem = run.problem
    advance = ExactStep(problem, traced(run.optimizer))

    def step(carry, rate):
        moved, _, _ = advance(carry, rate)
        return moved, moved[0]

    (_, state), path = jax.lax.scan(step, (run.params, begun(run)), rates)
    kept = np.union1d(np.arange(0, run.steps + 1, save_every), [run.steps])
    joined = lambda first, later: jnp.concatenate([first[None], later])[kept]
    times = jnp.concatenate([jnp.zeros(1, rates.dtype), jnp.cumsum(rates)])[kept]
    params = jax.tree.map(joined, run.params, path)
    return Trajectory(kept + run.first, times, params, state, None)  # ty: ignore[invalid-argument-type]


def advanced(run: FollowedRun, order: int = 2) -> tuple[State, Iterator[Chunk]]:
    """The state in which a run begins, and its steps chunk by chunk."""
    state = begun(run, order)
    advance = ExactStep(run.tabulated, traced(run.optimizer))
    return state, chunked(advance, (run.params, state), run.rates, run.problem.traceable)
