"""A run, checked once, and the loop that every long run goes through: what its chunks leave."""

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import checks, ema_weights as mem, plots, trees
from .ema_weights import Memory
from .optimizers.base import Start, rate_at, started
from .optimizers.from_optax import as_optimizer, refuse_misfit
from .plots import Result
from .problem import Problem, posed

CHUNK_STEPS = 64
CHUNK_BYTES = 2**27


@dataclass(frozen=True, repr=False)
class Trajectory(Result):
    """Parameters along a run.

    steps: step numbers saved, int array [saved]; the first is the start.
    times: sums of the learning rates from the start of the run up to them, float array [saved].
    params: pytree of numpy arrays with a leading axis [saved]; of a model its float arrays, None
        elsewhere, so that ``eqx.combine(run.last, model)`` is the trained model.
    state: what the run carries after its last step, to go on from (``iterate(start=…)``).
    failed_at: the step at which a non-finite number began, or None. θ of that step is the
        last one saved: it is finite, but the loss, gradient or move from it is not.
    """

    steps: np.ndarray
    times: np.ndarray
    params: PyTree
    state: Any
    failed_at: int | None

    @property
    def summary(self) -> str:
        """Which steps there are, of how many parameters, and where it failed."""
        size = sum(leaf[0].size for leaf in jax.tree.leaves(self.params))
        failed = "" if self.failed_at is None else f", not finite from step {self.failed_at} on"
        return f"steps {self.steps[0]} to {self.steps[-1]}, {size:,} parameters{failed}"

    plot = plots.trajectory

    @property
    def last(self) -> PyTree:
        """The last parameters saved."""
        return jax.tree.map(lambda leaf: leaf[-1], self.params)


def rate_table(learning_rate, steps: int, first: int = 0) -> np.ndarray:
    """The learning rates of so many steps from ``first`` on as a float array."""
    if not callable(learning_rate):
        return np.full(steps, float(learning_rate))
    table = np.asarray([_scheduled(learning_rate, first + n) for n in range(steps)])
    wrong = np.flatnonzero(~(np.isfinite(table) & (table >= 0)))
    if wrong.size:
        raise ValueError(
            f"learning_rate: expected the schedule to give finite numbers of at least 0, "
            f"got {table[wrong[0]]} at step {first + wrong[0]}; change what it returns there."
        )
    return table


def first_line(error: Exception) -> str:
    """The first line of what an error says."""
    return str(error).partition("\n")[0]


def _scheduled(learning_rate: Callable, step: int) -> float:
    try:
        return float(np.asarray(learning_rate(step)).reshape(()))
    except Exception as error:
        kind = TypeError if isinstance(error, TypeError) else ValueError
        raise kind(
            "learning_rate: expected a schedule that takes the number of a step and returns a "
            f"number, got {type(error).__name__} at step {step}: {first_line(error)}; for "
            "example lambda step: 1e-3 / (1 + step)."
        ) from error


def oldest_read(optimizer: Any, params: PyTree, step: int) -> int:
    """The first step whose learning rate and batch an optimizer still remembers at ``step``."""
    length = optimizer.memory_length(params, step) if step else None
    return 0 if length is None else max(0, step - length)


def as_traceable(learning_rate, first: int, last: int):
    """``learning_rate``; of a schedule that JAX cannot trace a table of steps first … last."""
    if not callable(learning_rate):
        return learning_rate
    try:
        known = jax.eval_shape(lambda step: rate_at(learning_rate, step), 0).shape == ()
    except Exception:  # of whatever kind: what cannot be traced is called step by step
        known = False
    if known:
        return learning_rate
    return mem.Rates(jnp.asarray(rate_table(learning_rate, last + 1 - first, first)), first)


@dataclass(frozen=True)
class FollowedRun:
    """An optimizer on a problem, so many steps from a start; made by ``followed``.

    optimizer: an ``AbstractOptimizer``. learning_rate: a number or a schedule. params: the float
    arrays alone. traced: whether JAX is tracing any of it, as under jit, vmap and grad.
    """

    problem: Problem
    optimizer: Any
    params: PyTree
    learning_rate: Any
    start: Start
    steps: int
    traced: bool = False

    @property
    def first(self) -> int:
        """The number of its first step."""
        return self.start.first

    @property
    def end(self) -> int:
        """The number of the step after its last one."""
        return self.first + self.steps

    @functools.cached_property
    def oldest(self) -> int:
        """The first step whose learning rate and batch are read."""
        return oldest_read(self.optimizer, self.params, self.first)

    @functools.cached_property
    def table(self) -> np.ndarray:
        """The learning rates of steps ``oldest`` to the last one."""
        return rate_table(self.learning_rate, self.end - self.oldest, self.oldest)

    @functools.cached_property
    def rates(self) -> np.ndarray:
        """The learning rates of its own steps."""
        return rate_table(self.learning_rate, self.steps, self.first)

    @property
    def tabulated(self) -> Problem:
        """The problem, its schedule of batches looked up for the steps that are read."""
        return self.problem.tabulated(self.end, self.oldest if self.problem.batched else 0)

    def memory(self, step, kept: int | None = None) -> Memory:
        """The memory at a step; a schedule is read from the table, so that none is traced."""
        rate = self.learning_rate
        rate = mem.Rates(jnp.asarray(self.table), self.oldest) if callable(rate) else rate
        return mem.ready(self.optimizer, rate, step, self.params, kept, self.end)


def followed(
    problem: Problem,
    optimizer: Any,
    params: PyTree,
    learning_rate: Any,
    steps: int,
    start: Any,
    *,
    fixed_rate: bool = False,
    instead: str | None = None,
) -> FollowedRun:
    """The run that these arguments mean; TypeError or ValueError for bad ones.

    start: as in ``started``. fixed_rate: whether a plain optax transformation will do, whose rate
    cannot be varied. instead: what to use under jit, vmap and grad; None where it can be traced.
    """
    problem, params, traced = posed(problem, params)
    optimizer = as_optimizer(optimizer, learning_rate, fixed_rate=fixed_rate)
    if not optimizer.closed_form:
        refuse_misfit(optimizer, params)
    begun = started(optimizer, params, start, problem.batched)
    steps = checks.count("steps", steps)
    probe = learning_rate
    if callable(learning_rate):
        probe = probed(learning_rate, begun.first)
    traced = traced or trees.is_traced(optimizer, probe, begun.state)
    if traced and (instead or not problem.traceable):
        other = instead or "call it outside: host functions run outside JAX"
        raise ValueError(
            f"params: expected numbers, got values that JAX is tracing, in these arguments or "
            f"around this call (jit, vmap, grad); {other}."
        )
    checks.kept_by(params, optimizer)
    return FollowedRun(problem, optimizer, params, learning_rate, begun, steps, traced)


def probed(learning_rate: Callable, step: int):
    """A schedule at a step, checked as the table is; a traced value as it is."""
    try:
        found = learning_rate(step)
    except Exception:  # it is called again by what says why
        found = None
    return found if trees.is_traced(found) else rate_table(learning_rate, 1, step)


class Chunk(NamedTuple):
    """A stretch of a run: the carry after its last good step, parameters and records per step,
    how many steps were meant and how many are finite."""

    carry: tuple
    params: PyTree
    records: PyTree
    length: int
    good: int


@dataclass(frozen=True)
class Driven:
    """What ``drive`` returns: saved steps and parameters, records, last carry, failed step.

    error: what a function of the user raised, or Ctrl-C, after the last step saved.
    """

    kept: np.ndarray
    params: PyTree
    records: PyTree
    carry: tuple | None
    failed: int | None
    error: BaseException | None = None

    def unbroken(self, result: Any) -> Any:
        """``result``; where the run was ended by an exception, that one, with ``partial`` = result.

        A note of the exception says at which step it was raised.
        """
        if self.error is None:
            return result
        step = result.steps[-1]
        self.error.add_note(f"at step {step}; `partial` of this exception is the run up to there")
        self.error.partial = result  # ty: ignore[missing-attribute]
        raise self.error


def drive(
    chunks: Iterable[Chunk], params: PyTree, steps: int, save_every: int, progress: Callable | None
) -> Driven:
    """Take chunks from ``params`` on until one ends early, keeping every ``save_every``-th step."""
    saved, records, kept, done, carry = [_stacked(params)], [], [0], 0, None
    error = None
    try:
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
    except (Exception, KeyboardInterrupt) as raised:
        error = raised
    failed = done if done < steps and error is None else None
    if carry is not None and kept[-1] != done:
        saved.append(_stacked(carry[0]))
        kept.append(done)
    stacked = jax.tree.map(lambda *leaves: np.concatenate(leaves), *saved)
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *records) if records else None
    return Driven(np.asarray(kept), stacked, joined, carry, failed, error)


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


def trajectory(run: Driven, first: int, rates: np.ndarray, state) -> Trajectory:
    """A run of ``drive`` from step ``first`` on, at ``rates``, as a Trajectory up to ``state``."""
    times = np.concatenate([[0.0], np.cumsum(rates)])
    failed = None if run.failed is None else run.failed + first
    return Trajectory(run.kept + first, times[run.kept], run.params, state, failed)
