"""Any order from gradients alone: the path through θ as a polynomial, by collocation.

Settled, full batch. With s in steps, the path θ(s), θ(0) = θ, of degree R satisfies the
optimizer's own equation θ(s+1) − θ(s) = −h Φ(m(s)), m_i(s) = Σ_k (1−β_i) β_i^k ψ_i(g(θ(s−k))),
at the R nodes s_j = −σ j. A sweep takes the directions Φ at the nodes, finds the path that
makes these steps, reads the gradients at its nodes and averages their polynomial over the
ages by Gauss rules: new directions, better by one order. A path is stored as its R directions;
everything else about it is linear in them, by matrices that the host makes once.
"""

import math
from itertools import pairwise

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import checks, ema_weights as mem, trees
from ..ema_weights import Memory
from ..optimizers.moments import Moment, Optimizer, State, traced
from ..problem import Problem
from .memoryless import sizes

MOST = 6  # orders compared for "auto"
FULL = jax.lax.Precision.HIGHEST  # accelerators would round the products of matrices otherwise


class Rule(eqx.Module):
    """The matrices of order R for one set of decays, made by ``rule``.

    They act on values v_0, …, v_{R−1} at the nodes, written as (v_0, v_1 − v_0, …) so that
    what is common to all nodes goes through unrounded. On the directions: ``places`` [R, R]
    gives (θ − θ(s_j)) / h, ``slope`` [R] −θ'(0) / h, ``shift`` [R, R] the directions of the
    path seen from one step later. On the gradients, per moment: ``ages`` [R, Q, R] gives those
    at its Q ages seen from each node, ``past`` [Q, R] seen from s = −1; ``mass`` [Q] weighs them.
    """

    places: Array
    slope: Array
    shift: Array
    ages: tuple[Array, ...]
    past: tuple[Array, ...]
    mass: tuple[Array, ...]

    @property
    def order(self) -> int:
        """R, the number of nodes."""
        return self.slope.shape[0]


def known_decay(moment: Moment) -> float:
    """The decay as a float; refuse one that is traced or not a scalar."""
    decay = moment.decay
    if not checks.is_concrete(decay) or np.ndim(decay) > 0:
        raise ValueError(
            f"decay: expected a decay known as a number, got {decay!r}; "
            'methods "collocation" and "inertial" make their rules on the host: build it outside '
            'of jit, vmap and grad with one number per moment, or use method="displaced".'
        )
    return float(decay)


def default_spacing(optimizer: Optimizer) -> float:
    """σ, the distance of the nodes in steps: the longest mean age max_i β_i/(1−β_i), at least 1.

    So the rounding of the gradients is amplified little; a smaller σ stays nearer to θ. Raises
    ValueError for a decay that is traced or not a scalar.
    """
    decays = [known_decay(moment) for moment in optimizer.moments]
    return max(1.0, *(decay / (1 - decay) for decay in decays))


def geometric_rule(decay: float, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ages in steps and their weights, exact for Σ_k (1−β) β^k p(k), p of degree 2 count − 1.

    The Gauss rule of the Meixner polynomials (Golub–Welsch), whose recurrence is a_n =
    (n + (n+1) β)/(1−β), b_n = n² β/(1−β)². The weights are positive and sum to 1, so averages
    of squares stay non-negative. β = 0: the age 0 alone.

    >>> ages, mass = geometric_rule(0.5, 2)
    >>> round(float(mass @ ages), 12), round(float(mass @ ages**3), 12)
    (1.0, 13.0)
    """
    if decay == 0:
        return np.zeros(1), np.ones(1)
    n = np.arange(count)
    diagonal = np.diag((n + (n + 1) * decay) / (1 - decay))
    beside = np.diag(n[1:] * math.sqrt(decay) / (1 - decay), 1)
    ages, vectors = np.linalg.eigh(diagonal + beside + beside.T)
    mass = vectors[0] ** 2
    return ages, mass / mass.sum()


def lagrange(order: int, places: np.ndarray) -> np.ndarray:
    """ℓ_k at ``places``, k along a last axis: of degree order − 1, 1 at −k, 0 at other nodes."""
    nodes = -np.arange(float(order))
    values = [
        np.prod((places[..., None] - others) / (node - others), axis=-1)
        for node, others in ((node, nodes[nodes != node]) for node in nodes)
    ]
    return np.stack(values, axis=-1)


def summation(order: int, step: float) -> np.ndarray:
    """[a−1, k]: coefficients of u^a in p_k: p_k(0) = 0, (p_k(u+step) − p_k(u))/step = ℓ_k(u).

    The difference of monomials is triangular and ℓ_k has integer coefficients up to a factor:
    no ill-conditioned matrix is inverted.
    """
    powers, nodes = range(1, order + 1), -np.arange(float(order))
    difference = [
        [math.comb(a, b) * step ** (a - b - 1) if b < a else 0.0 for a in powers]
        for b in range(order)
    ]
    others = [nodes[nodes != node] for node in nodes]
    monomials = [
        np.polynomial.polynomial.polyfromroots(roots) / np.prod(node - roots)
        for node, roots in zip(nodes, others, strict=True)
    ]
    return np.linalg.solve(np.asarray(difference), np.stack(monomials, axis=-1))


def against_first(matrix: np.ndarray) -> Array:
    """A matrix on (v_0, v_1, …) as one on (v_0, v_1 − v_0, …)."""
    whole = matrix.sum(axis=-1, keepdims=True)
    return jnp.asarray(np.concatenate([whole, matrix[..., 1:]], axis=-1), trees.real_dtype())


def rule(optimizer: Optimizer, order: int, spacing: float | None = None) -> Rule:
    """The ``Rule`` of order R for the optimizer's decays, with nodes s_j = −σ j, σ = ``spacing``.

    spacing: in steps; None: ``default_spacing``. The matrices are made in float64 on the host
    and held as arrays, so that one compilation serves all decays. Raises ValueError for an order
    below 1, a spacing not above 0, and a decay that is traced or not a scalar.

    >>> from shadowflow import zoo
    >>> rule(zoo.momentum(0.5), 2, spacing=1.0).slope.tolist()  # −θ'(0)/h = F_0 + ½ (F_1 − F_0)
    [1.0, 0.5]
    """
    checks.instance("optimizer", optimizer, Optimizer)
    order = checks.count("order", order, 1)
    spacing = default_spacing(optimizer) if spacing is None else spacing
    checks.number("spacing", spacing, above=0)
    step, nodes = 1 / float(spacing), -np.arange(float(order))
    inverse = summation(order, step)
    powers = nodes[:, None] ** np.arange(1, order + 1)
    rules = [geometric_rule(known_decay(moment), order) for moment in optimizer.moments]
    seen = lambda times: lagrange(order, times * step)
    return Rule(
        against_first(powers @ inverse / step),
        against_first(inverse[0]),
        against_first(lagrange(order, nodes + step)),
        tuple(against_first(seen(nodes[:, None] / step - ages)) for ages, _ in rules),
        tuple(against_first(seen(-1 - ages)) for ages, _ in rules),
        tuple(jnp.asarray(mass, trees.real_dtype()) for _, mass in rules),
    )


def weighted(matrix: Array, values: PyTree) -> PyTree:
    """A matrix of a ``Rule`` times values at the nodes, a pytree with a leading axis [R]."""

    def leaf(v):
        v = jnp.concatenate([v[:1], v[1:] - v[:1]])
        return jnp.tensordot(trees.cast(matrix, v), v, axes=1, precision=FULL)

    return jax.tree.map(leaf, values)


def average(moment: Moment, ages: Array, mass: Array, gradients: PyTree) -> PyTree:
    """Σ_q mass_q ψ(g(x_q)), with g(x_q) = the q-th row of ``ages`` times the gradients."""

    def mean(g):
        terms = jax.vmap(moment.transform)(g)
        return jnp.tensordot(trees.cast(mass, terms), terms, axes=1, precision=FULL)

    return jax.tree.map(mean, weighted(ages, gradients))


@eqx.filter_jit
def places(rule: Rule, rate: Array, params: PyTree, directions: PyTree) -> PyTree:
    """θ(s_j) at all nodes of the path whose steps are −h times the directions."""
    ways = weighted(rule.places, directions)
    return jax.tree.map(lambda p, way: p[None] - trees.cast(rate, p) * way, params, ways)


@eqx.filter_jit
def directions_at(rule: Rule, optimizer: Optimizer, where: PyTree, gradients: PyTree) -> PyTree:
    """Φ(m(s_j); θ(s_j)) at all nodes, from the gradients there."""

    def one(node):
        place, ages = node
        parts = zip(optimizer.moments, ages, rule.mass, strict=True)
        moments = tuple(average(*part, gradients) for part in parts)
        return optimizer.direction(moments, place, jnp.inf)

    return jax.lax.map(one, (where, rule.ages))


@eqx.filter_jit
def shifted(rule: Rule, directions: PyTree) -> PyTree:
    """The directions at the nodes of the same path, re-centred one step later."""
    return weighted(rule.shift, directions)


@eqx.filter_jit
def _traced_gradient(problem: Problem, params: PyTree) -> PyTree:
    return problem.gradient(params)


def gradient(problem: Problem, params: PyTree) -> PyTree:
    """∇E(θ), traced once for all its uses."""
    return _traced_gradient(problem, params) if problem.traceable else problem.gradient(params)


def gradients_at(problem: Problem, where: PyTree, here: PyTree) -> PyTree:
    """The gradients at all nodes: R − 1 of them, and ``here`` at node 0, which is θ."""
    rest = jax.tree.map(lambda leaf: leaf[1:], where)
    count = jax.tree.leaves(rest)[0].shape[0]
    if count == 0:
        return jax.tree.map(lambda g: g[None], here)
    if problem.traceable:
        others = jax.lax.map(lambda place: gradient(problem, place), rest)
    else:
        node = lambda j: jax.tree.map(lambda leaf: leaf[j], rest)
        taken = [gradient(problem, node(j)) for j in range(count)]
        others = jax.tree.map(lambda *leaves: jnp.stack(leaves), *taken)
    return jax.tree.map(lambda g, more: jnp.concatenate([g[None], more]), here, others)


def sweep(
    problem: Problem,
    optimizer: Optimizer,
    rule: Rule,
    rate: Array,
    params: PyTree,
    here: PyTree,
    directions: PyTree,
) -> tuple[PyTree, PyTree]:
    """(gradients at the nodes of the path of ``directions``, the directions they give).

    Their order is that of the given ones and one more, up to R. ``here`` is ∇E(θ).
    """
    where = places(rule, rate, params, directions)
    gradients = gradients_at(problem, where, here)
    return gradients, directions_at(rule, optimizer, where, gradients)


def _cold(problem: Problem, optimizer: Optimizer, rule: Rule, rate: Array, params: PyTree):
    here = gradient(problem, params)
    first = optimizer.direction(optimizer.transformed(here), params, jnp.inf)
    everywhere = lambda v: jnp.broadcast_to(v, (rule.order, *v.shape))
    known = jax.tree.map(everywhere, (here, first))
    again = lambda _, known: sweep(problem, optimizer, rule, rate, params, here, known[1])
    if problem.traceable:
        return first, *jax.lax.fori_loop(0, rule.order - 1, again, known)
    for n in range(rule.order - 1):
        known = again(n, known)
    return first, *known


_traced_cold = eqx.filter_jit(_cold)


def cold(
    problem: Problem, optimizer: Optimizer, rule: Rule, rate: Array, params: PyTree
) -> tuple[PyTree, PyTree, PyTree]:
    """(direction of first order, gradients, directions at the nodes), from nothing but θ.

    Begins with all past gradients equal to ∇E(θ), which is of order 1; R − 1 sweeps: order R.
    1 + (R−1)² gradients.
    """
    return (_traced_cold if problem.traceable else _cold)(problem, optimizer, rule, rate, params)


class Collocation(eqx.Module):
    """The direction of order R as a pure function of θ, settled: 1 + (R−1)² gradients."""

    rule: Rule

    def __call__(
        self, problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, phase: float
    ) -> tuple[PyTree, PyTree]:
        """(first order, order R) of the direction: phase 0: (θ(0) − θ(1))/h; ½: −θ'(0)/h."""
        first, _, directions = cold(problem, optimizer, self.rule, memory.rate, params)
        if phase:
            return first, weighted(self.rule.slope, directions)
        return first, jax.tree.map(lambda leaf: leaf[0], directions)


class Run(eqx.Module):
    """The iteration of order R along a run, settled, at a constant learning rate.

    The last step's path, re-centred, is of order R already: one sweep, R gradients a step. The
    carry is (parameters, memory, directions at the nodes of the last path).
    """

    problem: Problem
    optimizer: Optimizer
    rule: Rule

    def init(self, params: PyTree, memory: Memory, state: State | None) -> tuple:
        """The carry of ``drive`` before the first step, by cold sweeps."""
        del state
        path = cold(self.problem, self.optimizer, self.rule, memory.rate, params)
        return params, memory, path[2]

    def __call__(self, carry, rate):
        params, memory, directions = carry
        memory = mem.with_rate(memory, rate)
        here = gradient(self.problem, params)
        first = self.optimizer.direction(self.optimizer.transformed(here), params, jnp.inf)
        _, directions = sweep(
            self.problem, self.optimizer, self.rule, memory.rate, params, here, directions
        )
        chosen = jax.tree.map(lambda leaf: leaf[0], directions)
        moved = trees.add(params, -rate, chosen)
        finite = jnp.isfinite(self.problem.value(params)) & trees.all_finite((moved, directions))
        carry = (moved, mem.advance(self.optimizer, memory), shifted(self.rule, directions))
        return carry, sizes(first, chosen), finite


def past_moments(
    problem: Problem,
    optimizer: Optimizer,
    memory: Memory,
    params: PyTree,
    order: int,
    spacing: float | None = None,
) -> tuple:
    """The settled moments just before the gradient at θ is read, to O(h^order).

    m_i(−1) = Σ_k (1−β_i) β_i^k ψ_i(g(θ(−1−k))); None for a moment without memory. order 1: all
    past gradients equal the present one.
    """
    made = rule(optimizer, order, spacing)
    _, gradients, _ = cold(problem, optimizer, made, memory.rate, params)
    parts = zip(optimizer.moments, made.past, made.mass, strict=True)
    return tuple(average(*part, gradients) if part[0].has_memory else None for part in parts)


class Neighbours(eqx.Module):
    """The orders 1 to R side by side, and of them the one whose neighbour is nearest.

    With e_r = |F_{r+1} − F_r| for r = 1 … R − 1, an estimate of the error of order r as long as it
    falls (from where it rises the series diverges, or rounding is met): the r of the least e_r. 1
    means that even order 2 does not improve on order 1. What is not finite is never chosen.
    """

    ways: tuple[Collocation, ...]

    def differences(
        self, problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, phase: float
    ) -> tuple[list[PyTree], Array]:
        """([F_1, …, F_R], [e_1, …, e_{R−1}])."""
        found = [way(problem, optimizer, memory, params, phase)[1] for way in self.ways]
        gaps = [trees.norm(trees.subtract(b, a)) for a, b in pairwise(found)]
        return found, jnp.stack(gaps)

    def choose(
        self, problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, phase: float
    ) -> tuple[int, float]:
        """(the best order at this place, its distance from the next relative to order 1)."""
        found, gaps = self.differences(problem, optimizer, memory, params, phase)
        best = int(best_order(gaps))
        return best, float(gaps[best - 1] / trees.norm(found[0]))

    def __call__(
        self, problem: Problem, optimizer: Optimizer, memory: Memory, params: PyTree, phase: float
    ) -> tuple[PyTree, PyTree]:
        """(first order, best order) of the direction at this place."""
        found, gaps = self.differences(problem, optimizer, memory, params, phase)
        best = best_order(gaps) - 1
        return found[0], jax.tree.map(lambda *leaves: jnp.stack(leaves)[best], *found)


def best_order(differences: Array) -> Array:
    """1 + the index of the least of e_1, e_2, …; what is not finite counts as infinite.

    >>> int(best_order(jnp.array([1e-2, 1e-3, 4e-3, jnp.nan])))
    2
    """
    return 1 + jnp.argmin(jnp.where(jnp.isfinite(differences), differences, jnp.inf))


def neighbours(optimizer: Optimizer, spacing: float | None, most: int = MOST) -> Neighbours:
    """The ``Neighbours`` of orders 1 to ``most``."""
    orders = range(1, checks.count("most", most, 2) + 1)
    return Neighbours(tuple(Collocation(rule(optimizer, r, spacing)) for r in orders))


def direction(optimizer: Optimizer, order: int | str, spacing: float | None) -> eqx.Module:
    """The direction of an order, or for "auto" of the best one at every place."""
    if order == "auto":
        return neighbours(optimizer, spacing)
    return Collocation(rule(optimizer, int(order), spacing))


def iteration(problem: Problem, optimizer: Optimizer, order: int, spacing: float | None) -> Run:
    """The runner of the method."""
    return Run(problem, traced(optimizer), rule(optimizer, order, spacing))
