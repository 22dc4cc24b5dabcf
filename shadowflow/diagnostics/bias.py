"""What the memory and the finite step of an optimizer penalize, and by how much."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import checks, ema_weights as mem, trees, trust as validity
from ..ema_weights import Memory
from ..methods import optax_replay as replay, taylor
from ..methods.taylor import Expansion, Present
from ..optimizers import memory_probe as settling
from ..optimizers.from_optax import Transformation
from ..optimizers.moments import Optimizer, identity, square, traced
from ..problem import Problem
from ..trust import Validity

PLAIN, MEMORY, GRID = "memoryless", "memory", "discretization"
GAUSS_POINTS = {32: 4, 64: 8}  # on each interval, by the bits of a float


@dataclass(frozen=True)
class Measure:
    """A function of the gradient, and how fast each part of the flow changes it.

    value: its sum over all coordinates; per_leaf: the sums of each leaf, as a pytree;
    rates: part → d value / d time that this part of the flow causes, in total; leaf_rates:
    the same per leaf (the share of the motion of that leaf's parameters); coordinate_rates:
    the same per coordinate. A part of the bias with a negative rate penalizes the function,
    with a positive rate anti-penalizes it.
    """

    value: float
    per_leaf: PyTree
    rates: dict[str, float]
    leaf_rates: dict[str, PyTree]
    coordinate_rates: dict[str, PyTree]
    rounding: float

    @property
    def bias_rate(self) -> float:
        """The rate that all parts but the memoryless one cause together."""
        return sum(rate for name, rate in self.rates.items() if name != PLAIN)

    @property
    def effect(self) -> str:
        """What the bias as a whole does: the words of ``effect``."""
        return self.effect_of(self.bias_rate)

    def effect_of(self, rate: float) -> str:
        """The word for one of the rates; one below ``rounding`` changes nothing."""
        return effect(rate if abs(rate) > self.rounding or not np.isfinite(rate) else 0.0)


def effect(rate: float) -> str:
    """The word for a rate of change that a part of the bias causes."""
    if not np.isfinite(rate):
        return "has no finite effect on"
    return "does not change" if rate == 0 else "penalizes" if rate < 0 else "anti-penalizes"


@dataclass(frozen=True)
class ImplicitBias:
    """The modified equation at one place, taken apart.

    parts: name → pytree like params, contributions to d params / d time: "memoryless" (the
        first-order flow), one per moment with memory ("momentum" for averages of g, "second
        moment" for averages of g²; for an optax transformation one "memory" for all of its
        state), "discretization" (½ DF F). Their sum is ``whole``.
    potential: the optimizer's own penalized potential, Σ_j ∫_0^{g_j} Φ(y) dy; for Adam with
        eps_root the perturbed one-norm less p·sqrt(eps_root), for momentum ½‖g‖². None for an
        optax transformation that is not pointwise: it has none, and the verdict says so.
    one_norm: Σ_j sqrt(g_j² + eps_root), where eps_root was given, else None.
    strength: per coordinate the s in θ' = −(Φ/g)(g + (h/2) s ∇potential): the brace of the
        paper's (3), (1+β)/(1−β) − (1+ρ)/(1−ρ) for |g| ≫ sqrt(ε). None while the moments'
        weights are uncorrected and unsettled (no such form exists there), and for an optax
        transformation.
    validity: the size of the bias relative to the memoryless step, with its verdict.
    """

    parts: dict[str, PyTree]
    whole: PyTree
    potential: Measure | None
    one_norm: Measure | None
    strength: PyTree | None
    validity: Validity

    @property
    def verdict(self) -> str:
        """Whether the expansion holds here, with the reason."""
        return self.validity.verdict

    def describe(self) -> str:
        """What is penalized or anti-penalized, part by part, in a few lines of words."""
        measured = {"penalized potential": self.potential, "perturbed one-norm": self.one_norm}
        lines = []
        for name, measure in measured.items():
            if measure is None:
                continue
            lines.append(f"The bias {measure.effect} the {name} (now {measure.value:.4g}):")
            for part, rate in measure.rates.items():
                word = "the flow without bias" if part == PLAIN else measure.effect_of(rate)
                lines.append(f"  {part:<15} {rate:+.3e} per unit of time  ({word})")
        return "\n".join([*lines, f"Verdict: {self.verdict}"])


def implicit_bias(
    problem: Problem,
    optimizer: Optimizer,
    params: PyTree,
    learning_rate,
    step: int | None = None,
    *,
    eps_root: float | None = None,
) -> ImplicitBias:
    """The decomposition of the modified equation (second order, Taylor form) at ``params``.

    θ' = −F − h Σ_i ∂_iΦ ψ_i' H (mean way of moment i) − (h/2) DF F, evaluated at the step
    number ``step`` (None: settled), full batch. ``eps_root`` asks for the perturbed one-norm
    with this ε beside the optimizer's own potential. Where ``combine`` reads the parameters
    (weight decay), the potential is that of Φ(y, θ) − Φ(0, θ). Costs one gradient and two or
    three Hessian-vector products (one more per moment where weights are not corrected). An optax
    transformation (``from_optax``) is read by displaced gradients, its potential only where it
    is pointwise.
    Raises ValueError for a negative step or eps_root.

    >>> from shadowflow import zoo
    >>> parts = implicit_bias(Problem(lambda x: jnp.sum(x**2) / 2), zoo.momentum(0.5),
    ...                       jnp.ones(1), 0.1)
    >>> {name: round(float(part[0]), 3) for name, part in parts.parts.items()}
    {'memoryless': -2.0, 'momentum': -0.4, 'discretization': -0.2}
    """
    checks.instance("problem", problem, Problem)
    checks.instance("optimizer", optimizer, Optimizer)
    checks.learning_rate(learning_rate)
    if problem.batched:
        raise ValueError(
            "problem: expected a full batch, whose bias is one function of the parameters, got "
            "mini-batches; pass problem.whole()."
        )
    params = problem.check(params)
    if step is not None:
        checks.count("step", step)
    if eps_root is not None:
        checks.number("eps_root", eps_root, least=0)
    memory = mem.ready(optimizer, learning_rate, step, trees.finest_dtype(params))
    whole = isinstance(optimizer, Transformation)
    analyse = _of_state_map if whole else _analyse_compiled if problem.traceable else _analyse
    found = analyse(problem, traced(optimizer), memory, params, traced(eps_root))
    order = [PLAIN, MEMORY, GRID] if whole else names(optimizer)
    parts, bias = {name: found.parts[name] for name in order}, found.bias
    at = 0 if step is None else step
    remarks = [validity.memory_remark(optimizer, step, at)]
    if found.potential is None:
        remarks.append(
            f"{optimizer.name} is not pointwise: what it does to one coordinate depends on others, "
            "and no potential of its own is penalized coordinate by coordinate"
        )
    judged = validity.judge(
        [at],
        [trees.norm(bias)],
        [trees.norm(parts[PLAIN])],
        params=params,
        rates=[float(memory.rate)],
        remarks=remarks,
    )
    potential, norm = (
        None if measured is None else _measure(*measured, parts)
        for measured in (found.potential, found.norm)
    )
    return ImplicitBias(parts, _sum([parts[PLAIN], bias]), potential, norm, found.strength, judged)


class _Analysis(NamedTuple):
    """The arrays behind an ``ImplicitBias``: measures as (values, gradient in the parameters)."""

    parts: dict[str, PyTree]
    bias: PyTree
    potential: tuple[PyTree, PyTree] | None
    norm: tuple[PyTree, PyTree] | None
    strength: PyTree | None


def _analyse(problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, eps_root):
    expansion = taylor.expand(problem, optimizer, memory, params)
    parts = parts_of(optimizer, memory, params, expansion)
    bias = _sum([part for name, part in parts.items() if name != PLAIN])
    now, hvp = expansion.now, expansion.hvp
    driven = trees.subtract(now.direction, _at_zero(optimizer, memory, params))
    potential = potential_of(optimizer, memory, params, now.gradient), hvp(driven)
    norm = None if eps_root is None else _one_norm(now.gradient, hvp, eps_root)
    return _Analysis(
        parts, bias, potential, norm, _strength(optimizer, memory, params, now, driven)
    )


_analyse_compiled = eqx.filter_jit(_analyse)


def _of_state_map(problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, eps_root):
    """The same for an optax transformation, from its displaced readings."""
    found = replay.reading(problem, optimizer, memory, params, None, False)
    first = found.seen.direction
    moved, centred = (found.again(optimizer, params, phase, False) for phase in (0.0, 0.5))
    parts = {
        PLAIN: trees.scale(-1, first),
        MEMORY: trees.subtract(first, moved),
        GRID: trees.subtract(moved, centred),
    }
    hvp = problem.linearize(params)[1]
    norm = None if eps_root is None else _one_norm(found.gradient, hvp, eps_root)
    potential = None
    if settling.pointwise(optimizer, params):
        past = replay.shortest(found.past, optimizer, params)
        phi = lambda y: replay.still(past, optimizer, params, y, found.value).direction
        still = jax.tree.map(jnp.nan_to_num, phi(trees.zeros_like(params)))
        driven = trees.subtract(first, still)
        potential = _integral(phi, still, found.gradient), hvp(driven)
    return _Analysis(parts, trees.subtract(first, centred), potential, norm, None)


def _sum(terms: list[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *terms)


def labels(optimizer: Optimizer) -> dict[int, str]:
    """Index → name of the moments with memory, the names being unique."""
    plain = {identity: "momentum", square: "second moment"}
    names: dict[int, str] = {}
    for i, moment in enumerate(optimizer.moments):
        if moment.has_memory:
            name = plain.get(getattr(moment.transform, "func", None), f"moment {i + 1}")
            names[i] = name if name not in names.values() else f"{name} {i + 1}"
    return names


def names(optimizer: Optimizer) -> list[str]:
    """The names of the parts, in the order in which they are told."""
    return [PLAIN, *labels(optimizer).values(), GRID]


def parts_of(optimizer: Optimizer, memory: Memory, params: PyTree, expansion: Expansion) -> dict:
    """Name → contribution to d params / d time: the modified equation taken apart."""
    now = expansion.now
    nothing = trees.zeros_like(params)
    changed = lambda i, tangent: taylor.moved_moment(optimizer, memory, i, now.gradient, tangent)
    indices = range(len(optimizer.moments))
    parts = {PLAIN: trees.scale(-1, now.direction)}
    for i, name in labels(optimizer).items():
        way = expansion.ways[i]
        moments = tuple(changed(k, way) if k == i else nothing for k in indices)
        change = taylor.moved_direction(optimizer, memory, params, now, moments, nothing)
        parts[name] = trees.scale(-1, change)
    forward = trees.scale(0.5, expansion.forward)
    moments = tuple(changed(k, forward) for k in indices)
    theta = trees.scale(memory.rate / 2, now.direction)
    change = taylor.moved_direction(optimizer, memory, params, now, moments, theta)
    return {**parts, GRID: trees.scale(-1, change)}


def _measure(values: PyTree, slope: PyTree, parts: dict) -> Measure:
    """A measure from its values per coordinate and its gradient with respect to the parameters."""
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
    )


def _one_norm(gradient: PyTree, hvp, eps_root) -> tuple[PyTree, PyTree]:
    """sqrt(g² + eps_root) per coordinate, and ∇ of its sum: H (g / sqrt(g² + eps_root))."""
    root = lambda g: jnp.sqrt(g * g + trees.cast(eps_root, g))
    sign = lambda g: jnp.where(g == 0, 0, g / jnp.where(g == 0, 1, root(g)))
    return jax.tree.map(root, gradient), hvp(jax.tree.map(sign, gradient))


def _at_zero(optimizer: Optimizer, memory: Memory, params: PyTree) -> PyTree:
    """Φ(0, θ), what ``combine`` adds whatever the gradient; 0 where it does not read θ."""
    nothing = trees.zeros_like(params)
    if not optimizer.reads_params:
        return nothing
    return taylor.present(optimizer, memory, params, nothing).direction


def potential_of(optimizer: Optimizer, memory: Memory, params: PyTree, gradient: PyTree) -> PyTree:
    """∫_0^g Φ(y) − Φ(0) dy per coordinate."""
    phi = lambda y: taylor.present(optimizer, memory, params, y).direction
    return _integral(phi, _at_zero(optimizer, memory, params), gradient)


def _integral(phi: Callable, offset: PyTree, gradient: PyTree) -> PyTree:
    """∫_0^g Φ(y) − offset dy per coordinate, by Gauss rules on the intervals [2^{-l-1}, 2^{-l}] g.

    Φ turns within |y| ~ eps, of any size below g: halving intervals meet it at every scale.
    """
    kind = jnp.finfo(trees.finest_dtype(gradient))
    count = GAUSS_POINTS[max(32, kind.bits)]
    points, weights = np.polynomial.legendre.leggauss(count)
    levels = int(-np.log2(float(kind.eps)))
    dtype = trees.real_dtype()
    nodes = jnp.asarray(1 + (1 + points) / 2, dtype)
    shares = jnp.asarray(weights / 2, dtype)

    def add_node(index, total):
        level, point = jnp.divmod(index, count)
        width = 0.5 ** (level + 1).astype(dtype)
        y = trees.scale(width * nodes[point], gradient)
        rise = jax.tree.map(jnp.multiply, trees.subtract(phi(y), offset), gradient)
        return trees.add(total, width * shares[point], rise)

    return jax.lax.fori_loop(0, levels * count, add_node, trees.zeros_like(gradient))


def _strength(
    optimizer: Optimizer, memory: Memory, params: PyTree, now: Present, driven: PyTree
) -> PyTree | None:
    """2 (g/Φ) Σ_i (mean age_i + ½) ∂_iΦ ψ_i'(g), pointwise in g, Φ without its value at g = 0."""
    if not (memory.settled or optimizer.uniform):
        return None
    ones = jax.tree.map(jnp.ones_like, params)
    nothing = trees.zeros_like(params)

    def slope(ages: list[Array | float]) -> PyTree:
        moments = tuple(
            taylor.moved_moment(optimizer, memory, i, now.gradient, trees.scale(age, ones))
            for i, age in enumerate(ages)
        )
        return taylor.moved_direction(optimizer, memory, params, now, moments, nothing)

    indices = range(len(optimizer.moments))
    total = slope([1.0 for _ in indices])
    rate = jnp.where(memory.rate > 0, memory.rate, 1.0)
    aged = slope([mem.mean_time(memory, i) / rate + 0.5 for i in indices])

    def per_coordinate(g, phi, rise, bias):
        still = (g == 0) | (phi == 0)
        ratio = jnp.where(still, 1 / rise, g / jnp.where(still, 1, phi))
        return 2 * ratio * bias

    return jax.tree.map(per_coordinate, now.gradient, driven, total, aged)
