"""Polynomial paths by their values at nodes: the matrices that act on them, made on the host.

Values v_0, …, v_{R−1} at the nodes are written as (v_0, v_1 − v_0, …), so that what is common to
all nodes goes through unrounded.
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import checks, trees
from ..ema_weights import Memory
from ..optimizers.moments import AbstractMoments, Moment
from ..problem import Problem, compiled
from .base import AbstractDirection

FULL = jax.lax.Precision.HIGHEST  # accelerators would round the products of matrices otherwise


class Path(eqx.Module):
    """The matrices of order R on the directions at the nodes.

    ``places`` [R, R] gives (θ − θ(s_j)) / h, ``slope`` [R] −θ'(0) / h.
    """

    places: Array
    slope: Array

    @property
    def order(self) -> int:
        """R, the number of nodes."""
        return self.slope.shape[0]


class Rule(Path):
    """The matrices of order R for one set of decays, made by ``rule``.

    On the directions also ``shift`` [R, R]: those of the path seen from one step later. On the
    gradients, per moment: ``ages`` [R, Q, R] gives those at its Q ages seen from each node,
    ``past`` [Q, R] seen from s = −1; ``mass`` [Q] weighs them.
    """

    shift: Array
    ages: tuple[Array, ...]
    past: tuple[Array, ...]
    mass: tuple[Array, ...]


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


def default_spacing(optimizer: AbstractMoments) -> float:
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


def rule(optimizer: AbstractMoments, order: int, spacing: float | None = None) -> Rule:
    """The ``Rule`` of order R for the optimizer's decays, with nodes s_j = −σ j, σ = ``spacing``.

    spacing: in steps; None: ``default_spacing``. The matrices are made in float64 on the host
    and held as arrays, so that one compilation serves all decays. Raises ValueError for an order
    below 1, a spacing not above 0, and a decay that is traced or not a scalar.

    >>> from shadowflow.optimizers import zoo
    >>> made = rule(zoo.momentum(decay=0.5), 2, spacing=1.0)
    >>> made.slope.tolist()  # −θ'(0)/h = F_0 + ½ (F_1 − F_0)
    [1.0, 0.5]
    """
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


def times(matrix: Array, tree: PyTree) -> PyTree:
    """A matrix times stacked rows."""
    product = lambda v: jnp.tensordot(trees.cast(matrix, v), v, axes=1, precision=FULL)
    return jax.tree.map(product, tree)


def relative(values: PyTree) -> PyTree:
    """(v_0, v_1 − v_0, …) of (v_0, v_1, …)."""
    return jax.tree.map(lambda v: jnp.concatenate([v[:1], v[1:] - v[:1]]), values)


def weighted(matrix: Array, values: PyTree) -> PyTree:
    """A matrix of a ``Rule`` times values at the nodes, a pytree with a leading axis [R]."""
    return times(matrix, relative(values))


@eqx.filter_jit
def places(matrix: Array, rate: Array, params: PyTree, directions: PyTree) -> PyTree:
    """θ(s_j) at all nodes of the path whose steps are −h times the directions."""
    ways = weighted(matrix, directions)
    return jax.tree.map(lambda p, way: p[None] - trees.cast(rate, p) * way, params, ways)


@compiled
def gradient(problem: Problem, params: PyTree) -> PyTree:
    """∇E(θ), traced once for all its uses."""
    return problem.gradient(params)


def gradients_at(problem: Problem, where: PyTree, here: PyTree) -> PyTree:
    """The gradients at all nodes: R − 1 of them, and ``here`` at node 0, which is θ."""
    if jax.tree.leaves(where)[0].shape[0] == 1:
        return trees.repeated(here, 1)
    rest = trees.row(where, slice(1, None))
    others = trees.mapped(lambda place: gradient(problem, place), rest, problem.traceable)
    return jax.tree.map(lambda g, more: jnp.concatenate([g[None], more]), here, others)


class PathDirection(AbstractDirection):
    """The direction of order R as a pure function of θ, settled: 1 + (R−1)² gradients."""

    @abstractmethod
    def path(self, rate: Array, params: PyTree) -> tuple[PyTree, Array, PyTree, PyTree]:
        """(direction of first order, ``slope``, directions at the nodes, what was read there)."""

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, order R) of the direction: phase 0: (θ(0) − θ(1))/h; ½: −θ'(0)/h."""
        first, slope, directions, _ = self.path(memory.rate, params)
        return first, weighted(slope, directions) if self.phase else trees.row(directions, 0)
