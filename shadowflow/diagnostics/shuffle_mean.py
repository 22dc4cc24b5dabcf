"""The mean over the shuffles of an epoch: of an optimizer's end, of its shadow's, of its field.

With m batches an epoch sees each of them once, in one of m! orders. For gradient descent the mean
end is to third order in the learning rate h that of the flow of E + (h/4)‖∇E‖² +
(h/(4m)) Σ_k ‖∇E_k − ∇E‖² (Smith et al. 2021), whose field is the mean of the fields here.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jax.tree_util import Partial
from jaxtyping import Array, PyTree

from .. import checks, plots, trees, trust
from ..ema_weights import Memory
from ..iterate import ExactStep
from ..methods import choose, planned
from ..methods.collocation import begun
from ..optimizers.base import AbstractOptimizer, as_pytree, traced
from ..plots import Result
from ..problem import Problem
from ..running import followed
from ..trust import Validity

MOST_ORDERS = math.factorial(6)
SAMPLES = 128
CHUNK, CHUNK_BYTES = 128, 2**26
ITERATES, FIELD = "iterates", "field"
KINDS = (ITERATES, "flow", "iteration", FIELD)


@dataclass(frozen=True, repr=False)
class ShuffleMean(Result):
    """A mean over shuffles, and how well it is known.

    mean: the mean, a pytree like what is averaged; standard_error: of each of its coordinates, 0
    where ``exact``: all orders were taken. orders: how many were taken. failed_at: the first step
    at which in some order a non-finite number began, None where there is none. validity: of the
    shadows or fields averaged, at every step that of the worst order; None for what is exact by
    itself. sampling: in words, which orders were taken.
    """

    mean: PyTree
    standard_error: PyTree
    orders: int
    exact: bool
    failed_at: int | None
    validity: Validity | None
    sampling: str

    plot = plots.shuffle_mean

    @property
    def verdict(self) -> str:
        """Whether the mean holds, with the reason, and which orders it is over."""
        parts = [] if self.validity is None else [self.validity.verdict]
        if self.failed_at is not None and self.validity is None:
            parts.append(f"Does not hold: a non-finite number began at step {self.failed_at}.")
        return " ".join([*parts, f"{self.sampling}."])


def over_shuffles(
    function: Callable,
    problem: Problem,
    *,
    epochs: int = 1,
    first: int = 0,
    samples: int | None = None,
    seed: int = 0,
) -> ShuffleMean:
    """The mean of ``function(problem)`` over the shuffles of ``epochs`` epochs.

    function: gets the problem with one shuffle as its schedule and returns a pytree of float
        arrays. Where the problem is traceable it is traced, and runs for many shuffles at once:
        it may use ``modified_field`` and ``memoryless_step``, not ``iterate`` and ``shadow``.
    first: the step at which the shuffles begin; the steps before it keep the problem's schedule.
    samples, seed: as in ``shuffle_mean``, and so is what is raised.

    >>> centres = Problem(lambda x, c: (x - c) ** 2 / 2, batches=jnp.array([0.0, 1.0, 5.0]))
    >>> found = over_shuffles(lambda p: p.gradient(jnp.asarray(0.0), p.batch_index(1)), centres)
    >>> float(found.mean), found.orders
    (-2.0, 6)
    """
    checks.function("function", function)
    _refuse_full_batch(problem)
    first = checks.count("first", first)
    orders, draws, exact = _orders(problem.count, epochs, samples, seed)
    call = Partial(_plain, problem, as_pytree(function))
    mean, error, _ = _average(call, _after(problem, first, orders), draws, problem)
    said = _said(problem.count, epochs, draws, exact, error)
    return ShuffleMean(mean, error, len(orders), exact, None, None, said)


@checks.hinted
def shuffle_mean(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    learning_rate,
    *,
    kind: str = ITERATES,
    order: int = 2,
    method: str = "taylor",
    epochs: int = 1,
    samples: int | None = None,
    seed: int = 0,
    start: Any = 0,
    memory_tolerance: float | None = None,
) -> ShuffleMean:
    """The mean over the shuffles of ``epochs`` epochs from ``params`` on.

    kind: "iterates", the mean end of the optimizer itself; "flow", "iteration", that of its
        shadows, each with its own order of the batches; "field", the mean over shuffles, and over
        the steps of the last epoch, of the modified equation's right-hand side at ``params``, the
        epochs before being what the memory has seen.
    order, method, memory_tolerance: of the shadows and fields ("taylor", "displaced"), as in
        ``shadow``.
    samples: None for all orders, where there are at most 720 (6 batches in one epoch), the exact
        mean; else 128. A number: so many draws, each an independent uniform shuffle (so one may
        come twice) and the same with every epoch reversed. The two of a pair are averaged first:
        for gradient descent the part of order h² in which orders differ changes sign, and the
        standard error, that of independent pairs, falls from order 2 in h to order 3.
    seed: of the draws.
    start: 0 for a cold start, or the optimizer's state. The steps before it are those of the
        problem's own schedule, which the memory of a shadow sees; from it on m steps are an epoch.

    Over a fixed number of epochs the means of the shadows and of the iterates differ by
    O(learning_rate^(order + 1)). For gradient descent the flow of the mean field is as close. With
    a memory the sum of an epoch's moves depends on the order, which a mean of fields does not
    contain: the flow of the mean field then ends at a distance of order 2.
    Raises ValueError for a full batch, for a settled state, for what a method does not offer and
    for fewer than 2 samples, TypeError for what is no problem or optimizer. Batches count
    equally, also those of unequal weights, as in the runs.

    >>> from shadowflow import sgd
    >>> slopes = Problem(lambda x, c: c * x**2 / 2, batches=jnp.array([0.0, 1.0, 2.0]))
    >>> found = shuffle_mean(slopes, sgd(), jnp.asarray(1.0), 0.1)
    >>> round(float(found.mean), 4), found.exact  # 1.0 · 0.9 · 0.8 in whatever order
    (0.72, True)
    """
    checks.choice("kind", kind, KINDS)
    choose(method, None, order)
    if memory_tolerance is not None:
        checks.number("memory_tolerance", memory_tolerance, least=0, below=1)
    _refuse_full_batch(problem)
    orders, draws, exact = _orders(problem.count, epochs, samples, seed)
    instead = "call it outside; one order of the batches can be traced, by sf.iterate"
    run = followed(
        problem, optimizer, params, learning_rate, orders.shape[1], start, instead=instead
    )
    problem = run.problem
    schedules, last = _after(problem, run.first, orders), run.first + run.steps
    carry, rates, begin = (run.params, begun(run)), jnp.asarray(run.rates), run.first
    if kind == ITERATES:
        call = Partial(_ends, ExactStep(problem, traced(run.optimizer)), carry, rates)
    else:
        run = dataclasses.replace(run, problem=problem.scheduled(jnp.asarray(schedules[0])))
        of_shadow = "flow" if kind == FIELD else kind
        plan = planned(run, method, order, of_shadow, memory_tolerance=memory_tolerance)
        run, stepper = plan.run, plan.method.bind(plan)
        if kind == FIELD:
            begin = last - problem.count
            steps = jnp.arange(begin, last, dtype=jnp.int32)
            memories = jax.vmap(lambda step: run.memory(step, plan.kept))(steps)
            call = Partial(_fields, stepper, run.params, memories)
        else:
            call = Partial(_ends, stepper, (run.params, run.memory(begin, plan.kept)), rates)
    mean, error, records = _average(call, schedules, draws, problem)
    failed, judged = _judged(records, begin)
    said = _said(problem.count, epochs, draws, exact, error)
    return ShuffleMean(mean, error, len(orders), exact, failed, judged, said)


def _refuse_full_batch(problem: Problem) -> None:
    checks.instance("problem", problem, Problem)
    if not problem.batched:
        raise ValueError(
            "problem: expected mini-batches, whose order can be shuffled, got a full batch; pass "
            "batches= to Problem, or use iterate and shadow."
        )


def _orders(count: int, epochs: int, samples: int | None, seed: int) -> tuple:
    """(orders [runs, epochs · count], draws, exact): all of them, or draws with their reverses."""
    epochs, seed = checks.count("epochs", epochs, 1), checks.count("seed", seed)
    if samples is None and epochs * math.lgamma(count + 1) < math.log(MOST_ORDERS + 1):
        shuffles = itertools.permutations(range(count))
        every = np.asarray(list(itertools.product(shuffles, repeat=epochs)), np.int32)
        return every.reshape(len(every), -1), len(every), True
    draws = checks.count("samples", SAMPLES if samples is None else samples, 2)
    ranks = np.tile(np.arange(count, dtype=np.int32), (draws, epochs, 1))
    drawn = np.random.default_rng(seed).permuted(ranks, axis=-1)
    pairs = np.stack([drawn, drawn[..., ::-1]], axis=1)
    return pairs.reshape(2 * draws, -1), draws, False


def _after(problem: Problem, first: int, orders: np.ndarray) -> np.ndarray:
    """The orders as whole schedules: the problem's own for the steps before ``first``."""
    past = np.asarray(problem.tabulated(first).batch_index(np.arange(first)), np.int32)
    return np.concatenate([np.broadcast_to(past, (len(orders), first)), orders], axis=1)


def _shuffled(stepper: Any, schedule) -> Any:
    """The same step of another order of the batches: every problem in it gets the schedule."""
    is_problem = lambda node: isinstance(node, Problem)
    change = lambda node: node.scheduled(schedule) if is_problem(node) else node
    return jax.tree.map(change, stepper, is_leaf=is_problem)


def _said(count: int, epochs: int, draws: int, exact: bool, error: PyTree) -> str:
    what = f"{count} batches" + (f" in {epochs} epochs" if epochs > 1 else "")
    if exact:
        return f"The mean over shuffles is exact, over all {draws} orders of {what}"
    largest = max(float(np.max(leaf, initial=0)) for leaf in jax.tree.leaves(error))
    return (
        f"The mean over shuffles is over {draws} of the orders of {what}, drawn independently, and "
        f"their reverses: its largest standard error is {largest:.2g}"
    )


def _plain(problem: Problem, function: Callable, schedule) -> tuple[PyTree, tuple]:
    """(A function of the problem with this schedule, no records)."""
    return function(problem.scheduled(schedule)), ()


def _ends(stepper: Any, carry: tuple, rates: Array, schedule) -> tuple[PyTree, tuple]:
    """(Parameters after all steps, (record, finite) per step)."""
    advance = _shuffled(stepper, schedule)

    def body(carry, rate):
        carry, record, finite = advance(carry, rate)
        return carry, (record, finite)

    carry, records = trees.scanned(body, carry, rates, advance.problem.traceable)
    return carry[0], records


def _fields(stepper: Any, params: PyTree, memories: Memory, schedule) -> tuple[PyTree, tuple]:
    """(Mean over the memories of the field at ``params``, (sizes, finite) of each)."""
    stepper = _shuffled(stepper, schedule)
    share = -1 / memories.rate.shape[0]

    def body(total, memory):
        pair = stepper.direction(memory, params)
        field = pair[0] if stepper.order == 1 else pair[1]
        return trees.add(total, share, field), (trees.sizes(*pair), trees.all_finite(field))

    return trees.scanned(body, trees.zeros_like(params), memories, stepper.problem.traceable)


def _average(function: Callable, schedules: np.ndarray, draws: int, problem: Problem) -> tuple:
    """(mean, standard error, records [runs, steps]) of ``function`` over the draws' means.

    Sums are taken of differences from the first draw: equal draws have no spread, to the last bit.
    """
    each = len(schedules) // draws
    origin, first, second, kept, like = None, 0.0, 0.0, [], None
    for values, records in _pieces(function, schedules, each, problem):
        like = trees.row(values, 0) if like is None else like
        rows = trees.flat_rows(values)
        rows = rows.reshape(-1, each, rows.shape[1]).mean(axis=1)
        origin = rows[0] if origin is None else origin
        gaps = rows - origin
        first, second = first + np.sum(gaps, axis=0), second + np.sum(gaps**2, axis=0)
        kept.append(records)
    assert origin is not None
    mean, error = origin + first / draws, np.zeros_like(first)
    if each > 1:
        error = np.sqrt(np.maximum(second - first**2 / draws, 0) / (draws * (draws - 1)))
    flat, back = ravel_pytree(jax.tree.map(jnp.asarray, like))
    mean, error = (back(jnp.asarray(found, flat.dtype)) for found in (mean, error))
    return mean, error, jax.tree.map(lambda *rows: np.concatenate(rows), *kept)


def _pieces(
    function: Callable, schedules: np.ndarray, each: int, problem: Problem
) -> Iterator[tuple]:
    """``function`` of all schedules, as many draws at a time as fit, the leaves stacked."""
    if not problem.traceable:
        for start in range(0, len(schedules), each):
            found = [function(row) for row in schedules[start : start + each]]
            yield jax.tree.map(lambda *leaves: np.stack(leaves), *found)
        return
    value, _ = eqx.filter_eval_shape(function, jnp.asarray(schedules[0]))
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(value))
    data = sum(leaf.nbytes for leaf in jax.tree.leaves(problem.batches)) // problem.count
    most = CHUNK_BYTES // (8 * problem.count * max(1, size) + data)
    length = each * max(1, min(CHUNK, most, len(schedules)) // each)
    for start in range(0, len(schedules), length):
        rows = schedules[start : start + length]
        padded = np.pad(rows, ((0, length - len(rows)), (0, 0)), mode="edge")
        found = _many(function, jnp.asarray(padded))
        yield trees.row(jax.device_get(found), slice(len(rows)))


_many = eqx.filter_jit(lambda function, schedules: jax.vmap(function)(schedules))


def _judged(records: tuple, start: int) -> tuple:
    """(failed_at, validity): at every step that of the order whose correction is largest."""
    sizes, finite = records
    bad = np.flatnonzero(~np.all(finite, axis=0))
    failed = start + int(bad[0]) if len(bad) else None
    if not sizes:
        return failed, None
    correction, plain = (np.asarray(size, float) for size in sizes[:2])
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.nan_to_num(correction / plain, nan=np.inf)
    worst = np.argmax(np.where((correction == 0) & (plain == 0), 0, ratio), axis=0)
    each = np.arange(len(worst))
    largest = correction[worst, each], plain[worst, each]
    return failed, trust.by_size(start + each, *largest, failed_at=failed)
