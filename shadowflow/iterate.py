"""The exact iterates of an optimizer, and the loop that every long run here goes through.

Conventions, fixed by this example: θ_0 is the start; step n = 0, 1, … reads the gradient at
θ_n, updates the moments, then moves; time is the sum of the learning rates.

>>> import jax.numpy as jnp
>>> from shadowflow.problem import Problem
>>> from shadowflow.zoo import momentum
>>> run = iterate(Problem(lambda x: x**2 / 2), momentum(0.5), jnp.asarray(1.0), 0.1, 3)
>>> [round(float(x), 4) for x in run.params]  # t = 1, 1.4, 1.46 after steps 0, 1, 2
[1.0, 0.9, 0.76, 0.614]
>>> [int(n) for n in run.steps], [round(float(t), 2) for t in run.times]
([0, 1, 2, 3], [0.0, 0.1, 0.2, 0.3])
"""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import checks, trees
from .optimizers.moments import Optimizer, State, traced
from .problem import Problem

CHUNK_STEPS = 64
CHUNK_BYTES = 2**27


@dataclass(frozen=True)
class Trajectory:
    """Parameters along a run.

    steps: step numbers saved, int array [saved]; the first is the start.
    times: sums of learning rates up to them, float array [saved].
    params: pytree of numpy arrays with a leading axis [saved].
    state: what the run carries after its last step, to go on from (``iterate(state=…)``).
    failed_at: the step at which a non-finite number began, or None. θ of that step is the
        last one saved: it is finite, but the loss, gradient or move from it is not.
    """

    steps: np.ndarray
    times: np.ndarray
    params: PyTree
    state: Any
    failed_at: int | None

    @property
    def last(self) -> PyTree:
        """The last parameters saved."""
        return jax.tree.map(lambda leaf: leaf[-1], self.params)


class ExactStep(eqx.Module):
    """One step of the optimizer itself, as ``drive`` runs it."""

    problem: Problem
    optimizer: Optimizer

    def __call__(self, carry, rate):
        params, state = carry
        batch = self.problem.visit(state.step) if self.problem.batched else None
        value, grad = self.problem.value_and_gradient(params, batch)
        state, move = self.optimizer.update(state, grad, params, rate, value)
        moved = trees.add(params, 1, move)
        finite = jnp.isfinite(value) & trees.all_finite(grad) & trees.all_finite(moved)
        return (moved, state), (), finite


def iterate(
    problem: Problem,
    optimizer: Optimizer,
    params: PyTree,
    learning_rate,
    steps: int,
    *,
    state: State | None = None,
    save_every: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> Trajectory:
    """What the optimizer does: ``steps`` steps from ``params``; step n sees its mini-batch.

    learning_rate: a positive float, or a schedule (step → float), read at the run's own steps.
    state: None for a cold start; else a ``State`` (of an earlier Trajectory, of
        ``Optimizer.to_optax``, of ``state_from_optax``, or ``settled_state``): the step
        numbers go on from ``state.step``, from 0 if that is ∞.
    save_every: keep every so many steps, and the last; memory grows with what is kept only.
    progress: called with the number of steps done since its last call.

    Returns a ``Trajectory``. A non-finite loss, gradient or parameter stops the run with
    ``failed_at``, and what was computed before is returned. Raises ValueError or TypeError for
    bad input.
    """
    checks.instance("problem", problem, Problem)
    checks.instance("optimizer", optimizer, Optimizer)
    checks.learning_rate(learning_rate)
    params = problem.check(params)
    steps, save_every = checks.count("steps", steps), checks.count("save_every", save_every, 1)
    refuse_schedule(optimizer, learning_rate)
    begun = learning_rate if optimizer.keeps_rate else 1.0
    state = (
        optimizer.init(params, begun) if state is None else check_state(optimizer, state, params)
    )
    first = first_step(state)
    rates = rate_table(learning_rate, first + steps)
    if problem.batched and np.isinf(float(state.step)):
        raise ValueError(
            "state: expected one with the number of a step, for a problem with mini-batches, got "
            "a settled one; the schedule of batches begins somewhere."
        )
    advance = ExactStep(problem.tabulated(first + steps), traced(optimizer))
    chunks = chunked(advance, (params, state), rates[first:], problem.traceable)
    run = drive(chunks, params, steps, save_every, progress)
    return trajectory(run, first, rates, state if run.carry is None else run.carry[1])


def refuse_schedule(optimizer: Optimizer, learning_rate) -> None:
    """Refuse a schedule for an optimizer that would not see it."""
    if callable(learning_rate) and optimizer.keeps_rate:
        raise ValueError(
            f"learning_rate: expected a number for {optimizer.name}, which keeps it in its state "
            "from the start, got a schedule; make the transformation without a rate in its state."
        )


def first_step(state: State) -> int:
    """The step number that a state goes on from: 0 when it is settled."""
    return 0 if np.isinf(float(state.step)) else int(state.step)


def check_state(optimizer: Optimizer, state: State, params: PyTree) -> State:
    """``state``, or ValueError if its moments do not fit the optimizer and the parameters."""
    if not isinstance(state, State):
        raise TypeError(
            f"state: expected a shadowflow.State, got {type(state).__name__}; convert the state "
            "of an optax optimizer with state_from_optax(optimizer, opt_state, params)."
        )
    expected, given = optimizer.init(params), jax.tree.map(jnp.asarray, state)
    shapes = [jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), s) for s in (expected, given)]
    if jax.tree.structure(expected) != jax.tree.structure(given) or (
        shapes[0].moments != shapes[1].moments
    ):
        raise ValueError(
            "state: expected one pytree like params per moment with memory, of "
            f"{optimizer.name}; got {shapes[1].moments}, expected {shapes[0].moments}."
        )
    step = float(given.step)
    if not (step >= 0 and (math.isinf(step) or step.is_integer())):
        raise ValueError(
            "state: expected its step to be a whole number of at least 0, or infinity for a "
            f"settled one, got step {step}."
        )
    return State(given.moments, given.step.astype(trees.real_dtype()))


def rate_table(learning_rate, steps: int) -> np.ndarray:
    """The learning rates of steps 0 … steps − 1 as a float array."""
    if not callable(learning_rate):
        return np.full(steps, float(learning_rate))
    table = [checks.schedule_rate(learning_rate(n), n) for n in range(steps)]
    return np.asarray(table, dtype=float)


class Chunk(NamedTuple):
    """A stretch of a run: the carry after its last good step, parameters and records per step,
    how many steps were meant and how many are finite."""

    carry: tuple
    params: PyTree
    records: PyTree
    length: int
    good: int


@dataclass(frozen=True)
class Run:
    """What ``drive`` returns: saved steps and parameters, records, last carry, failed step."""

    kept: np.ndarray
    params: PyTree
    records: PyTree
    carry: tuple | None
    failed: int | None


def drive(
    chunks: Iterable[Chunk], params: PyTree, steps: int, save_every: int, progress: Callable | None
) -> Run:
    """Take chunks from ``params`` on until one ends early, keeping every ``save_every``-th step."""
    saved, records, kept, done, carry = [_stacked(params)], [], [0], 0, None
    for chunk in chunks:
        carry, path, record, length, good = chunk
        numbers = done + 1 + np.arange(good)
        chosen = numbers % save_every == 0
        saved.append(jax.tree.map(lambda leaf, c=chosen: np.asarray(leaf)[: len(c)][c], path))
        records.append(jax.tree.map(lambda leaf, n=good: np.asarray(leaf)[:n], record))
        kept += list(numbers[chosen])
        done += good
        if progress is not None:
            progress(good)
        if good < length:
            break
    failed = done if done < steps else None
    if carry is not None and kept[-1] != done:
        saved.append(_stacked(carry[0]))
        kept.append(done)
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *saved)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *records) if records else None
    return Run(np.asarray(kept), stacked, joined, carry, failed)


def chunked(advance, carry: tuple, rates: np.ndarray, traceable: bool) -> Iterator[Chunk]:
    """``advance(carry, rate) → (carry, record, finite)`` over all rates; parameters = carry[0].

    In chunks of one compiled scan where ``traceable`` (the last one padded: one compilation
    for every length), else in a host loop. A step that is not finite is not taken.
    """
    return (_scan_chunks if traceable else _host_chunks)(advance, carry, rates)


@eqx.filter_jit
def _scan(advance, carry, rates: Array, active: Array):
    def step(inner, rate):
        moved, record, finite = advance(inner, rate)
        return trees.where(finite, moved, inner), record, finite

    shapes = jax.eval_shape(lambda c: advance(c, rates[0])[1], carry)
    blank = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan, leaf.dtype), shapes)

    def body(carry, inputs):
        inner, alive = carry
        rate, wanted = inputs
        wanted = wanted & alive
        rest = lambda inner, rate: (inner, blank, jnp.asarray(True))
        new, record, finite = jax.lax.cond(wanted, step, rest, inner, rate)
        return (new, alive & finite), (new[0], record, wanted & finite)

    start = (carry, jnp.asarray(True))
    (carry, _), (params, records, done) = jax.lax.scan(body, start, (rates, active))
    return carry, params, records, done


def _scan_chunks(advance, carry: tuple, rates: np.ndarray) -> Iterator[Chunk]:
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(carry[0]))
    longest = max(1, min(CHUNK_STEPS, CHUNK_BYTES // max(size, 1)))
    for start in range(0, len(rates), longest):
        piece = rates[start : start + longest]
        padded = np.pad(piece, (0, longest - len(piece)), constant_values=1.0)
        active = jnp.asarray(np.arange(longest) < len(piece))
        carry, params, records, done = _scan(advance, carry, jnp.asarray(padded), active)
        yield Chunk(carry, params, records, len(piece), int(np.sum(done)))


def _host_chunks(advance, carry: tuple, rates: np.ndarray) -> Iterator[Chunk]:
    for rate in rates:
        moved, record, finite = advance(carry, jnp.asarray(rate))
        carry = moved if finite else carry
        yield Chunk(carry, _stacked(carry[0]), _stacked(record), 1, int(finite))


def _stacked(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[None], tree)


def trajectory(run: Run, first: int, rates: np.ndarray, state) -> Trajectory:
    """A run of ``drive`` that began at step ``first`` as a Trajectory ending in ``state``."""
    times = np.concatenate([[0.0], np.cumsum(rates)])
    failed = None if run.failed is None else run.failed + first
    return Trajectory(run.kept + first, times[run.kept + first], run.params, state, failed)
