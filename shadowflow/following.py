"""A plan run step by step, and beside it, in the same steps, the optimizer that it follows.

The iterates cost one gradient a step, less than any shadow, so how far a shadow is from them need
not be guessed. All runs advance chunk by chunk: no more of them is kept than the distances.
"""

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from . import trees
from .iterate import advanced
from .methods import planned, unfit
from .methods.base import ShadowPlan
from .methods.displaced import Displaced
from .optimizers.base import complete
from .running import Chunk, FollowedRun, Trajectory, drive, trajectory


@dataclass(frozen=True)
class Apart:
    """Distances from the optimizer's iterates after each step, NaN where those are not known.

    two_norm, max_norm: of the shadow; first_order: two-norm of first order's; way: the largest
    two-norm distance of the iterates from their start so far; real_failed: the step at which the
    optimizer itself met a number that is not finite, or None; compared: whether a first order was
    run along.
    """

    two_norm: np.ndarray
    max_norm: np.ndarray
    first_order: np.ndarray
    way: np.ndarray
    real_failed: int | None
    compared: bool


@dataclass(frozen=True)
class Pursuit:
    """What a plan left: the path; per step the sizes of the correction and of the first-order step.

    coarser: per step whether it was taken in a coarser way, by a lower order or as one fixed step,
    None of a method that has no such way; apart: the distances, None where they are not measured.
    """

    path: Trajectory
    correction: np.ndarray
    plain: np.ndarray
    coarser: np.ndarray | None
    apart: Apart | None


class Rows:
    """The steps of a run, given out as many at a time as are asked for.

    path: the run's chunks, or a Trajectory, of which there are the steps that it saved.
    """

    def __init__(self, path: Iterator[Chunk] | Trajectory, first: int):
        self.done, self.failed = 0, None
        if isinstance(path, Trajectory):
            self.chunks: Iterator[Chunk] = iter(())
            self.steps = path.steps[1:] - first - 1
            self.kept = jax.tree.map(lambda leaf: leaf[1:], path.params)
            self.failed = path.failed_at
        else:
            self.chunks, self.steps, self.kept = path, np.zeros(0, int), None
            self.first = first

    def take(self, count: int) -> tuple[np.ndarray, PyTree]:
        """(which of the next ``count`` steps are known, the parameters after these)."""
        end = self.done + count
        while self.failed is None and (not len(self.steps) or self.steps[-1] < end - 1):
            chunk = next(self.chunks, None)
            if chunk is None:
                break
            self._add(chunk)
        known = np.searchsorted(self.steps, end)
        index, rows = self.steps[:known] - self.done, self.kept
        if rows is not None:
            rows = jax.tree.map(lambda leaf: leaf[:known], self.kept)
            self.kept = jax.tree.map(lambda leaf: leaf[known:], self.kept)
        self.steps, self.done = self.steps[known:], end
        return index, rows

    def _add(self, chunk: Chunk) -> None:
        begin = self.steps[-1] + 1 if len(self.steps) else self.done
        fresh = jax.tree.map(lambda leaf: np.asarray(leaf)[: chunk.good], chunk.params)
        join = lambda old, new: np.concatenate([old, new])
        self.kept = fresh if self.kept is None else jax.tree.map(join, self.kept, fresh)
        self.steps = np.concatenate([self.steps, begin + np.arange(chunk.good)])
        if chunk.good < chunk.length:
            self.failed = self.first + begin + chunk.good


def pursue(
    plan: ShadowPlan,
    save_every: int = 1,
    progress: Callable | None = None,
    *,
    real: Iterator[Chunk] | Trajectory | None = None,
    first: Iterator[Chunk] | Trajectory | None = None,
) -> Pursuit:
    """Run a plan; real, first: the optimizer and its first order, to measure distances from."""
    run, beside, chunks = plan.run, None, plan.chunks()
    if real is not None:
        beside = Beside(run, real, first)
        chunks = beside.measured(chunks)
    driven = drive(chunks, run.params, run.steps, save_every, progress)
    end = None
    if plan.method.keeps_moments:
        end = run.optimizer.given(run.start.state if driven.carry is None else driven.carry[1])
    path = driven.unbroken(trajectory(driven, run.first, run.rates, end))
    nothing = np.zeros(0)
    correction, plain, *coarser = driven.records or (nothing, nothing)
    apart = None if beside is None else beside.apart()
    return Pursuit(path, correction, plain, coarser[0] if coarser else None, apart)


def distances(
    run: FollowedRun,
    chunks: Iterator[Chunk],
    path: Trajectory,
    below: Iterator[Chunk] | None = None,
) -> tuple[Apart, list]:
    """How far other runs are from ``path``, and the records of the first; none is kept.

    The first is that of ``chunks``; below: another, whose distances from the first are
    ``first_order``.
    """
    beside, records = Beside(run, path, below, from_real=False), []
    for chunk in beside.measured(chunks):
        records.append(jax.tree.map(lambda leaf, n=chunk.good: np.asarray(leaf)[:n], chunk.records))
        if chunk.good < chunk.length:
            break
    return beside.apart(), records


class Beside:
    """The optimizer's iterates, and its first order, along the chunks of a shadow.

    from_real: whether first order is measured from the iterates, or from the shadow.
    """

    def __init__(self, run: FollowedRun, real: Any, first: Any, from_real: bool = True):
        self.from_real = from_real
        self.real = Rows(real, run.first)
        self.first = None if first is None else Rows(first, run.first)
        self.parts: list[np.ndarray] = []
        self.origin = jax.tree.map(lambda leaf: np.asarray(leaf)[None], run.params)

    def measured(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        """The same chunks; the distances of their steps are kept."""
        for chunk in chunks:
            self.parts.append(self._distances(chunk.params, chunk.good))
            yield chunk

    def _distances(self, follow: PyTree, count: int) -> np.ndarray:
        found = np.full((4, count), np.nan)
        rows = lambda tree, index: jax.tree.map(lambda leaf: np.asarray(leaf)[index], tree)
        known, real = self.real.take(count)
        if len(known):
            found[0, known], found[1, known] = norms(rows(follow, known), real)
            found[3, known] = norms(real, self.origin)[0]
        if self.first is not None:
            there, first = self.first.take(count)
            both, here, other = np.intersect1d(known, there, return_indices=True)
            if len(both):
                beside = rows(real, here) if self.from_real else rows(follow, both)
                found[2, both] = norms(beside, rows(first, other))[0]
        return found

    def apart(self) -> Apart:
        """All distances."""
        two, most, first, way = np.concatenate([np.zeros((4, 0)), *self.parts], axis=1)
        way = np.fmax.accumulate(way) if len(way) else way
        way = np.where(np.isnan(two), np.nan, way)
        return Apart(two, most, first, way, self.real.failed, self.first is not None)


def norms(rows: PyTree, others: PyTree) -> tuple[np.ndarray, np.ndarray]:
    """Row by row the distance in two-norm and in max-norm."""
    pairs = zip(jax.tree.leaves(rows), jax.tree.leaves(others), strict=True)
    return trees.row_norms(np.asarray(a) - np.asarray(b) for a, b in pairs)


def memory_known(run: FollowedRun) -> bool:
    """Whether the optimizer can be run: its state at the start is given, fresh or settled."""
    if run.start.state is None:
        return run.start.settled or run.first == 0 or not run.optimizer.remembers
    try:
        complete(run.start.state, run.optimizer, run.params, None)
    except ValueError:
        return False
    return True


def optimizer_beside(run: FollowedRun, order: int) -> Iterator[Chunk]:
    """The optimizer's own steps, from a settled state of at least that order."""
    return advanced(run, max(2, order))[1]


def first_order_beside(run: FollowedRun, plan: ShadowPlan) -> Iterator[Chunk] | None:
    """First order's steps, of the plan's kind; None for a plan that is first order itself."""
    if plan.order == 1 or unfit(Displaced(), run.problem, run.optimizer):
        return None
    first = planned(run, "displaced", 1, plan.kind)
    return dataclasses.replace(first, truncation=plan.truncation, sized=False).chunks()


def same_run(name: str, real: Trajectory, run: FollowedRun) -> Trajectory:
    """``real``, or a refusal where it is not a run from the same start."""
    instead = (
        "pass iterate(problem, optimizer, params, learning_rate, steps, start=start), or True."
    )
    same = jax.tree.structure(real.params) == jax.tree.structure(run.params)
    if real.steps[0] == run.first and same:
        first = zip(*map(jax.tree.leaves, (trees.row(real.params, 0), run.params)), strict=True)
        same = all(np.shape(a) == np.shape(b) and np.array_equal(a, b) for a, b in first)
    if real.steps[0] != run.first or not same:
        raise ValueError(
            f"{name}: expected the optimizer's run from the same params at step {run.first}, got "
            f"one from other params or from step {real.steps[0]}; {instead}"
        )
    if real.steps[-1] < run.end and real.failed_at is None:
        raise ValueError(
            f"{name}: expected the optimizer's run up to step {run.end}, got one that ends at step "
            f"{real.steps[-1]}; {instead}"
        )
    taken = real.steps[real.steps <= run.end] - run.first
    due = np.concatenate([[0.0], np.cumsum(run.rates)])[taken]
    if not np.allclose(real.times[: len(taken)], due, rtol=1e-5, atol=0):
        raise ValueError(
            f"{name}: expected the optimizer's run at the same learning rate, which comes to the "
            f"time {due[-1]:.6g}, got one that comes to {real.times[len(taken) - 1]:.6g}; {instead}"
        )
    return real
