"""What the memory and the finite step of an optimizer penalize, and by how much."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import checks, ema_weights as mem, plots, trees, trust
from ..ema_weights import Memory
from ..methods.optax_replay import Replay
from ..methods.present import Present
from ..methods.taylor import Expansion, TaylorDirection
from ..optimizers.base import AbstractOptimizer, State, traced
from ..optimizers.memory_probe import pointwise
from ..plots import Result
from ..problem import Problem, compiled
from ..running import as_traceable, followed
from ..trust import Validity
from . import bias_checks
from .memory_effect import MEMORY, effect_of_memory, labels

PLAIN, GRID = "memoryless", "discretization"
GAUSS_POINTS = {32: 4, 64: 8}  # on each interval, by the bits of a float


@dataclass(frozen=True, repr=False)
class Measure(Result):
    """A function of the gradient, and how fast each part of the flow changes it.

    value: its sum over all coordinates; per_leaf: the sums of each leaf, as a pytree;
    rates: part → d value / d time that this part of the flow causes, in total; leaf_rates:
    the same per leaf (the share of the motion of that leaf's parameters); coordinate_rates:
    the same per coordinate. A part of the bias with a negative rate penalizes the function,
    with a positive rate anti-penalizes it. exact: part → rate of the effect that the memory of
    the given state has, not predicted but measured; None where no state was given.
    """

    value: float
    per_leaf: PyTree
    rates: dict[str, float]
    leaf_rates: dict[str, PyTree]
    coordinate_rates: dict[str, PyTree]
    rounding: float
    exact: dict[str, float] | None = None

    @property
    def summary(self) -> str:
        """Its value, and the rate at which the bias changes it."""
        return (
            f"value {self.value:.4g}, changed by the bias at {self.bias_rate:+.3g} a unit of time"
        )

    plot = plots.rates

    @property
    def bias_rate(self) -> float:
        """The rate that all parts but the memoryless one cause together."""
        return sum(rate for name, rate in self.rates.items() if name != PLAIN)

    @property
    def effect(self) -> str:
        """What the bias as a whole does, in words."""
        return self.effect_of(self.bias_rate)

    def effect_of(self, rate: float) -> str:
        """The word for one of the rates; one below ``rounding`` changes nothing."""
        if not np.isfinite(rate):
            return "has no finite effect on"
        if not abs(rate) > self.rounding:
            return "does not change"
        return "penalizes" if rate < 0 else "anti-penalizes"


@dataclass(frozen=True, repr=False)
class ImplicitBias(Result):
    """The modified equation at one place, taken apart.

    parts: name → pytree like params, contributions to d params / d time: "memoryless" (the
        first-order flow), one per moment with memory ("momentum" for averages of g, "second
        moment" for averages of g²; for an optax transformation one "memory" for all of its
        state), "discretization" (½ DF F). Their sum is ``whole``.
    potential: the optimizer's own penalized potential, Σ_j ∫_0^{g_j} Φ(y) dy; for Adam with
        eps_root the perturbed one-norm less p·sqrt(eps_root), for momentum ½‖g‖². None for an
        optax transformation that is not pointwise: it has none, and the verdict says so.
    one_norm: Σ_j sqrt(g_j² + eps_root), where eps_root was given, else None.
    bias_coefficient: per coordinate the s in θ' = −(Φ/g)(g + (h/2) s ∇potential): the brace of the
        paper's (3), (1+β)/(1−β) − (1+ρ)/(1−ρ) for |g| ≫ sqrt(ε). None while the moments'
        weights are uncorrected and unsettled (no such form exists there), and for an optax
        transformation.
    effect_of_memory: name → pytree, what the memory of the given state does to this step, exactly:
        the parts "momentum", "second moment", … without any expansion; None without a state.
    validity: the error of the predicted parts relative to them: measured against that effect, or
        estimated from other readings of the same order, with its verdict.
    """

    parts: dict[str, PyTree]
    whole: PyTree
    potential: Measure | None
    one_norm: Measure | None
    bias_coefficient: PyTree | None
    effect_of_memory: dict[str, PyTree] | None
    validity: Validity

    @property
    def summary(self) -> str:
        """Whether the expansion holds here."""
        return self.validity.summary

    def plot(self, axes=None):
        """The rate at which each part changes the potential, or where there is none the norm."""
        measure = self.potential or self.one_norm
        if measure is None:
            return self.validity.plot(axes)
        name = "the penalized potential" if self.potential else "the perturbed one-norm"
        return plots.rates(measure, axes, name=name, level=self.validity.level)

    @property
    def verdict(self) -> str:
        """Whether the expansion holds here, with the reason."""
        return self.validity.verdict

    def describe(self) -> str:
        """The verdict, then what is penalized or anti-penalized, part by part, in words.

        Where the prediction does not hold it is not told; with a state what was measured is.
        """
        measured = {"penalized potential": self.potential, "perturbed one-norm": self.one_norm}
        lines = [f"The prediction {self.verdict}"]
        for name, measure in measured.items():
            if measure is not None:
                lines += _told(name, measure, self.validity.level)
        return "\n".join(lines)


def _told(name: str, measure: Measure, level: str) -> list[str]:
    """What one function of the gradient is said to be changed by: predicted, measured, or both."""
    exact, holds = measure.exact, level != "does not hold"
    if not holds and exact is None:
        return [f"No statement about the {name} (now {measure.value:.4g})."]
    row = lambda part, rate, word: f"  {part:<15} {rate:+.3e} per unit of time  ({word})"
    if exact is None:
        effect, lines = f"The bias {measure.effect}", []
        told = {**measure.rates, "together": measure.bias_rate}
        for part, rate in told.items():
            word = "the flow without bias" if part == PLAIN else measure.effect_of(rate)
            lines.append(row(part, rate, word))
        return [f"{effect} the {name} (now {measure.value:.4g}):", *lines]
    whole = sum(exact.values())
    predicted = {**measure.rates, "together": sum(measure.rates[part] for part in exact)}
    lines = [
        f"Memory {measure.effect_of(whole)} the {name} (now {measure.value:.4g}) in this step:",
        row(PLAIN, measure.rates[PLAIN], "the flow without bias"),
    ]
    told = {**exact, "together": whole} if len(exact) > 1 else exact
    for part, rate in told.items():
        also = f", predicted {predicted[part]:+.3e}" if holds else ""
        lines.append(row(part, rate, f"measured: {measure.effect_of(rate)}{also}"))
    return lines


@checks.hinted
def implicit_bias(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    learning_rate,
    *,
    start: Any = None,
    eps_root: float | None = None,
) -> ImplicitBias:
    """The decomposition of the modified equation (second order, Taylor form) at ``params``.

    θ' = −F − h Σ_i ∂_iΦ ψ_i' H (mean way of moment i) − (h/2) DF F, full batch.
    start: the optimizer's state there, against which the prediction is then measured; or the
    number of the step (0: a cold start's first), or "settled": after a long run. There is no
    default, as these answer different questions, often with opposite signs. ``eps_root``
    asks for the perturbed one-norm with this ε beside the optimizer's own potential. Where
    ``combine`` reads the parameters (weight decay), the potential is that of Φ(y, θ) − Φ(0, θ).
    Costs one gradient and two or three Hessian-vector products (one more per moment where weights
    are not corrected). An optax transformation (``from_optax``) is read by displaced
    gradients, its potential only where it is pointwise.
    Raises ValueError for no start, for a negative step or eps_root, and for mini-batches.

    >>> from shadowflow import momentum
    >>> quadratic = Problem(lambda x: jnp.sum(x**2) / 2)
    >>> bias = implicit_bias(quadratic, momentum(decay=0.5), jnp.ones(1), 0.1, start="settled")
    >>> {name: round(float(part[0]), 3) for name, part in bias.parts.items()}
    {'memoryless': -2.0, 'momentum': -0.4, 'discretization': -0.2}
    """
    if start is None:
        raise ValueError(
            "start: expected the number of a step, 'settled' or a State, got None; pass start=0 "
            "for the first step of a cold start or start='settled' for a long run, as these two "
            "answer different questions, often with opposite signs."
        )
    instead = "there sf.modified_field(…, order=2) less the field of order=1 is the whole bias"
    run = followed(problem, optimizer, params, learning_rate, 0, start, instead=instead)
    problem = run.problem
    if problem.batched:
        raise ValueError(
            "problem: expected a full batch, whose bias is one function of the parameters, got "
            "mini-batches; pass problem.full_batch()."
        )
    if eps_root is not None:
        checks.number("eps_root", eps_root, least=0)
    optimizer, params = run.optimizer, run.params
    rate = as_traceable(learning_rate, run.oldest, run.first)
    memory = mem.ready(optimizer, rate, run.start.step, params, end=run.first)
    analyse = _analyse if optimizer.closed_form else _of_state_map
    given = problem, traced(optimizer), memory, params
    found = analyse(*given, traced(eps_root))
    memories = labels(optimizer).values() if optimizer.closed_form else [MEMORY]
    parts = {name: found.parts[name] for name in (PLAIN, *memories, GRID)}
    known = run.start.state is not None and optimizer.remembers
    exact = _exact(*given, run.start.state) if known else None
    measures = [
        None if pair is None else _measure(*pair, parts, exact)
        for pair in (found.potential, found.norm)
    ]
    remarks = [trust.memory_remark(run, run.first)]
    if found.potential is None:
        remarks.append(
            f"{optimizer.name} is not pointwise: what it does to one coordinate depends on others, "
            "and no potential of its own is penalized coordinate by coordinate"
        )
    if exact is None:
        judged = bias_checks.estimated(run.first, found.doubts, remarks)
    else:
        eps = float(jnp.finfo(trees.finest_dtype(params)).eps)
        noise = 4 * eps * float(trees.norm(parts[PLAIN]))
        errors = bias_checks.errors(parts, exact, filter(None, measures), noise)
        judged = bias_checks.measured(run.first, errors, remarks)
    whole = trees.add(parts[PLAIN], 1, found.bias)
    return ImplicitBias(parts, whole, *measures, found.bias_coefficient, exact, judged)


@compiled
def _exact(problem, optimizer, memory: Memory, params: PyTree, state: State) -> dict[str, PyTree]:
    value, gradient = problem.value_and_gradient(params)
    return effect_of_memory(optimizer, state, params, gradient, memory.rate, value)


class _Analysis(NamedTuple):
    """The arrays behind an ``ImplicitBias``: measures as (values, gradient in the parameters)."""

    parts: dict[str, PyTree]
    bias: PyTree
    potential: tuple[PyTree, PyTree] | None
    norm: tuple[PyTree, PyTree] | None
    bias_coefficient: PyTree | None
    doubts: dict[str, Array]


@compiled
def _analyse(problem, optimizer, memory: Memory, params: PyTree, eps_root) -> _Analysis:
    expansion = TaylorDirection(problem, optimizer, 0.5).expanded(memory, params)
    now, hvp = expansion.now, expansion.hvp
    parts = parts_of(expansion)
    added = [part for name, part in parts.items() if name != PLAIN]
    bias = functools.reduce(lambda total, part: trees.add(total, 1, part), added)
    driven = trees.subtract(now.direction, _at_zero(now))
    potential = potential_of(now), hvp(driven)
    norm = None if eps_root is None else _one_norm(now.gradient, hvp, eps_root)
    doubts = bias_checks.doubts(problem, expansion, parts, bias)
    return _Analysis(parts, bias, potential, norm, _coefficient(now, driven), doubts)


def _of_state_map(problem, optimizer, memory: Memory, params: PyTree, eps_root) -> _Analysis:
    """The same for an optax transformation, from its displaced readings."""
    found = Replay(problem, optimizer, 0.5, linear=False).reading(memory, params)
    first = found.seen.direction
    moved, centred = found.second_order(0.0), found.second_order(0.5)
    parts = {
        PLAIN: trees.scale(-1, first),
        MEMORY: trees.subtract(first, moved),
        GRID: trees.subtract(moved, centred),
    }
    eps = float(jnp.finfo(trees.finest_dtype(params)).eps)
    hvp = problem.linearize(params)[1]
    norm = None if eps_root is None else _one_norm(found.gradient, hvp, eps_root)
    potential = None
    if pointwise(optimizer, params):
        phi = lambda y: optimizer.memoryless_direction(
            params, y, memory.count, memory.rate, found.value
        )
        still = jax.tree.map(jnp.nan_to_num, phi(trees.zeros_like(params)))
        driven = trees.subtract(first, still)
        potential = _integral(phi, still, found.gradient), hvp(driven)
    bias = trees.subtract(first, centred)
    half = trees.scale(2, trees.subtract(first, found.again(jnp.asarray(0.0), jnp.asarray(0.5))))
    next_size = trust.GROWTH * trees.norm(bias)
    doubts = {
        bias_checks.SIZE: bias_checks.ratio(next_size, trees.norm(first)),
        MEMORY: bias_checks.relative(parts[MEMORY], half, 4 * eps * trees.norm(first)),
    }
    return _Analysis(parts, bias, potential, norm, None, doubts)


def parts_of(expansion: Expansion) -> dict[str, PyTree]:
    """Name → contribution to d params / d time: the modified equation taken apart."""
    now, nothing = expansion.now, trees.zeros_like(expansion.now.params)
    parts = {PLAIN: trees.scale(-1, now.direction)}
    every, ways = range(len(now.moments)), expansion.ways
    for i, name in labels(now.optimizer).items():
        moments = tuple(now.moved_moment(k, ways[k]) if k == i else nothing for k in every)
        parts[name] = trees.scale(-1, now.moved_direction(moments, nothing))
    forward = trees.scale(0.5, expansion.forward)
    moments = tuple(now.moved_moment(k, forward) for k in every)
    ahead = trees.scale(now.memory.rate / 2, now.direction)
    return {**parts, GRID: trees.scale(-1, now.moved_direction(moments, ahead))}


def _measure(values: PyTree, slope: PyTree, parts: dict, exact: dict | None) -> Measure:
    """A measure from its values per coordinate and its gradient with respect to the parameters."""
    rate = lambda part: float(trees.inner(slope, part))
    by_coordinate = {name: jax.tree.map(jnp.multiply, slope, part) for name, part in parts.items()}
    eps = float(jnp.finfo(trees.finest_dtype(values)).eps)
    leaf_sums = lambda tree: jax.tree.map(lambda leaf: float(jnp.sum(leaf)), tree)
    return Measure(
        value=float(trees.total(values)),
        per_leaf=leaf_sums(values),
        rates={name: float(trees.total(tree)) for name, tree in by_coordinate.items()},
        leaf_rates={name: leaf_sums(tree) for name, tree in by_coordinate.items()},
        coordinate_rates=by_coordinate,
        rounding=4 * eps * float(trees.total(jax.tree.map(jnp.abs, by_coordinate[PLAIN]))),
        exact=None if exact is None else {name: rate(part) for name, part in exact.items()},
    )


def _one_norm(gradient: PyTree, hvp, eps_root) -> tuple[PyTree, PyTree]:
    """sqrt(g² + eps_root) per coordinate, and ∇ of its sum: H (g / sqrt(g² + eps_root))."""
    root = lambda g: jnp.sqrt(g * g + trees.cast(eps_root, g))
    sign = lambda g: jnp.where(g == 0, 0, g / jnp.where(g == 0, 1, root(g)))
    return jax.tree.map(root, gradient), hvp(jax.tree.map(sign, gradient))


def _at_zero(now: Present) -> PyTree:
    """Φ(0, θ), what ``combine`` adds whatever the gradient; 0 where it does not read θ."""
    nothing = trees.zeros_like(now.params)
    if not now.optimizer.reads_params:
        return nothing
    return now.optimizer.memoryless_direction(now.params, nothing, now.memory.count)


def potential_of(now: Present) -> PyTree:
    """∫_0^g Φ(y) − Φ(0) dy per coordinate."""
    phi = lambda y: now.optimizer.memoryless_direction(now.params, y, now.memory.count)
    return _integral(phi, _at_zero(now), now.gradient)


def _integral(phi: Callable, offset: PyTree, gradient: PyTree) -> PyTree:
    """∫_0^g Φ(y) − offset dy per coordinate, by Gauss rules on the intervals [2^{-l-1}, 2^{-l}] g.

    Φ turns within |y| ~ eps, of any size below g: halving intervals meet it at every scale.
    """
    kind = jnp.finfo(trees.finest_dtype(gradient))
    points, weights = np.polynomial.legendre.leggauss(GAUSS_POINTS[max(32, kind.bits)])
    levels = int(-np.log2(float(kind.eps)))
    widths = 0.5 ** np.arange(1.0, levels + 1)
    rule = np.outer(widths, 1 + (1 + points) / 2).ravel(), np.outer(widths, weights / 2).ravel()

    def add_node(total, node):
        place, share = node
        y = trees.scale(place, gradient)
        rise = jax.tree.map(jnp.multiply, trees.subtract(phi(y), offset), gradient)
        return trees.add(total, share, rise), None

    rule = jax.tree.map(lambda row: jnp.asarray(row, trees.real_dtype()), rule)
    return jax.lax.scan(add_node, trees.zeros_like(gradient), rule)[0]


def _coefficient(now: Present, driven: PyTree) -> PyTree | None:
    """2 (g/Φ) Σ_i (mean age_i + ½) ∂_iΦ ψ_i'(g), pointwise in g, Φ without its value at g = 0."""
    if not now.straight:
        return None
    ones, memory = jax.tree.map(jnp.ones_like, now.params), now.memory
    nothing = trees.zeros_like(now.params)

    def slope(ages: list[Array | float]) -> PyTree:
        tangents = [trees.scale(age, ones) for age in ages]
        moments = tuple(now.moved_moment(i, tangent) for i, tangent in enumerate(tangents))
        return now.moved_direction(moments, nothing)

    total = slope([1.0 for _ in now.moments])
    rate = jnp.where(memory.rate > 0, memory.rate, 1.0)
    aged = slope([time / rate + 0.5 for time in memory.mean_times()])

    def per_coordinate(g, phi, rise, bias):
        still = (g == 0) | (phi == 0)
        ratio = jnp.where(still, 1 / rise, g / jnp.where(still, 1, phi))
        return 2 * ratio * bias

    return jax.tree.map(per_coordinate, now.gradient, driven, total, aged)
