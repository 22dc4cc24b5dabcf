"""The inertial flow of any order: run the optimizer a few steps onward, and take the logarithm.

With s in steps let θ(s), m(s) go smoothly through the iterates: for every real s
  m(s+1) = β m(s) + (1−β) q(s),  θ(s+1) − θ(s) = −h G(s+1),  q = ψ(∇E(θ)),  G = Φ(m̂).
With D = d/ds, z = e^D the shift by a step and a = ln(1/β), their derivatives are
  m' = −a (m − P q),  P = (1−β) (1 + D/a) / (z − β);   θ' = −h L G,  L = D / (1 − 1/z).
Both are read from real steps of the optimizer: a functional of the shift is a sum over whole
steps that is exact on chosen functions, powers of s and the decays' β^s. Late in a run, or
settled, order R takes the R nodes −1, 0, …, R − 2 and R gradients. Early, where the weights
of a cold start bend within a step, L G(s) = L G(s+M) − Σ_{j=1}^{M} G'(s+j): M derivatives are
taken as they are and L only where the start is far behind. Where not all moments are corrected
the slopes of q bend too: what the sums over steps miss of θ' = −h L G there is small, and along
that way q is read once more (so a nonlinear Φ has order 3 from a cold start, not 4).
"""

import math
from collections.abc import Callable, Sequence
from decimal import Context, Decimal, localcontext
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from ..optimizers.base import State
from ..optimizers.moments import AbstractMoments
from .nodes import against_first, times, weighted

EXPLICIT, BESIDE, KEPT = 7, 5, 4  # M; nodes beside s + M + ½; powers of s at least
STEPS = EXPLICIT + BESIDE
LEAST_EARLY, MOST_GROWTH = 16, 1e3
DIGITS, APART = 400, Decimal("1e-15")


def weights(symbols: Sequence[Callable], spectrum: Sequence[float], nodes: Sequence[int]):
    """[symbol, node]: Σ_j w_j z^{node_j} = symbol(z) at all z of the spectrum.

    As many nodes as numbers in the spectrum; a number that comes n times makes the sum exact on
    s^k z^s, k < n. So near 1 the equations are all but singular: solved in decimals, with the
    equal numbers set apart.

    >>> weights([logarithmic_mean], [1.0, 1.0], [0, 1]).round(12).tolist()  # exact on 1 and s
    [[0.5, 0.5]]
    """
    with localcontext(Context(prec=DIGITS)):
        points = [Decimal(z) * (1 + APART * (k + 1)) for k, z in enumerate(spectrum)]
        rows = [[z**node for node in nodes] + [f(z) for f in symbols] for z in points]
        table, each = np.asarray(rows, object), np.arange(len(rows))
        for k in each:
            pivot = k + np.argmax(np.abs(table[k:, k]))
            table[[k, pivot]] = table[[pivot, k]]
            table[k] /= table[k, k]
            table[each != k] -= np.outer(table[each != k, k], table[k])
        return table[:, len(rows) :].T.astype(float, order="C")


def logarithmic_mean(z: Decimal) -> Decimal:
    """L = z ln z / (z − 1)."""
    return z * z.ln() / (z - 1)


def pulled(decay: float) -> Callable:
    """P = (1−β)(1 + ln z / a) / (z − β)."""

    def symbol(z: Decimal) -> Decimal:
        beta = Decimal(decay)
        return (1 - beta) * (1 - z.ln() / beta.ln()) / (z - beta)

    return symbol


class Late(eqx.Module):
    """Sums over the nodes 0, 1, …, R − 2, −1. ``back`` [R − 1]: the value at −1 from those at the
    others; ``mean`` [R]: L over G at 1, …, R − 1, 0; ``pull``: P per moment over q."""

    back: Array
    mean: Array
    pull: tuple

    def __call__(self, flow: Any, rate: Array, params: PyTree, state: State) -> tuple:
        """(L G, P q per moment) at s from R − 1 steps onward and one place back."""
        order = self.mean.shape[0]
        steps = march(flow, rate, params, state, order - 1)
        back = lambda tree: weighted(self.back, tree)
        count, before = state.step - 1, back(steps.places)
        guess = read(flow.optimizer, state.moments, tuple(map(back, steps.fresh)), before, count)
        before = trees.add(params, rate, guess)
        fresh = flow.optimizer.transformed(flow.problem.gradient(before))
        last = read(flow.optimizer, state.moments, fresh, before, count)
        joined = lambda tree, one: jax.tree.map(
            lambda many, v: jnp.concatenate([many, v[None]]), tree, one
        )
        pulls = tuple(
            None if row is None else weighted(row, joined(many, one))
            for row, many, one in zip(self.pull, steps.fresh, fresh, strict=True)
        )
        return weighted(self.mean, joined(steps.directions, last)), pulls


class Early(eqx.Module):
    """Sums over the steps 0, …, STEPS − 1: ``pull`` P per moment, ``slope`` the derivatives of q
    at 0, …, M − 1, ``drift`` their sums in the derivative of each moment at 1, …, M;
    ``mean``: z^M L over G at 1, …, STEPS. ``powers`` [M, M], ``more`` [M]: the same two per moment
    from what ``slope`` misses of q'; ``rising``: whether that is looked up."""

    pull: tuple
    slope: Array
    drift: tuple
    mean: Array
    powers: tuple
    more: tuple
    rising: bool = eqx.field(static=True)

    def __call__(self, flow: Any, rate: Array, params: PyTree, state: State) -> tuple:
        """(L G, P q per moment) at s from ``STEPS`` steps onward.

        The slopes of θ and q over these steps bend too where the weights rise from 0. θ' there is
        −h L G, and what the sums over places miss of it is a way along which q is read again.
        """
        steps = march(flow, rate, params, state, STEPS)
        places, fresh = _first(steps.places), _first(steps.fresh)
        way = weighted(self.slope, steps.places)
        slope, missed = way, trees.zeros_like(fresh)
        for again in (True, False) if self.rising else (False,):
            changes, pulls = _changes(self, flow.optimizer, state, steps.fresh, missed)
            slopes = tuple(weighted(self.slope, many) for many in steps.fresh)
            tangents = changes, trees.add(slopes, 1, missed), slope
            mean, bends = mean_after(self, flow.optimizer, steps, tangents)
            if again:
                slope = jax.tree.map(
                    lambda v, w: trees.cast(-rate, v) * (v[None] + jnp.cumsum(w, axis=0) - w),
                    mean,
                    bends,
                )
                there = trees.add(places, 1, trees.subtract(slope, way))
                read_at = lambda place: flow.optimizer.transformed(flow.problem.gradient(place))
                missed = trees.subtract(trees.mapped(read_at, there, flow.problem.traceable), fresh)
        return mean, pulls


class Rules(eqx.Module):
    """Both rules of an order, and the step from which on the late one serves."""

    late: Late
    early: Early
    begin: Array


def rules(decays: list[float], order: int, dtype, rising: bool) -> Rules:
    """The ``Rules`` of the order for the decays of all moments; rising: not all are corrected."""
    nodes, ones = [*range(order - 1), -1], [1.0] * order
    late = Late(
        against_first(weights([lambda z: 1 / z], ones[1:], nodes[:-1])[0]),
        against_first(weights([logarithmic_mean], ones, [node + 1 for node in nodes])[0]),
        tuple(_pulls(decay, ones, nodes) for decay in decays),
    )
    early = early_rules(decays, order, rising)
    return Rules(late, early, jnp.asarray(early_steps(decays, order, dtype)))


def _pulls(decay: float, spectrum: list, nodes: Sequence[int]) -> Array | None:
    return against_first(weights([pulled(decay)], spectrum, nodes)[0]) if decay > 0 else None


def early_rules(decays: list, order: int, rising: bool) -> Early:
    """Exact on polynomials and, as far as the nodes reach, on β^s and s β^s."""
    distinct = sorted({decay for decay in decays if decay > 0}, reverse=True)
    products = [a * b for i, a in enumerate(distinct) for b in distinct[i:]]
    fading = (3 * distinct + products)[: STEPS - 1 - max(order, KEPT)]
    spectrum = [1.0] * (STEPS - len(fading)) + fading
    derivatives = [lambda z, j=j: z**j * z.ln() for j in range(EXPLICIT)]
    slope = weights(derivatives, spectrum, range(STEPS))
    tail = range(EXPLICIT - BESIDE + 1, STEPS + 1)
    far = lambda z: z**EXPLICIT * logarithmic_mean(z)
    mean = weights([far], spectrum[STEPS - len(tail) :], tail)[0]
    steps = np.arange(EXPLICIT)
    ages = steps[:, None] - steps
    powers = lambda decay: (1 - decay) * np.where(ages >= 0, decay ** np.maximum(ages, 0.0), 0.0)
    arrays = lambda make: tuple(jnp.asarray(make(decay), trees.real_dtype()) for decay in decays)
    return Early(
        tuple(_pulls(decay, spectrum, range(STEPS)) for decay in decays),
        against_first(slope),
        tuple(against_first(powers(decay) @ slope) for decay in decays),
        against_first(np.concatenate([np.zeros(STEPS - len(tail)), mean])),
        arrays(powers),
        arrays(_more),
        rising,
    )


def _more(decay: float) -> np.ndarray:
    """−((1−β)/a) β^{−j−1}, j = 0, …, M − 1; no more steps than rounding allows."""
    if decay == 0:
        return np.zeros(EXPLICIT)
    growth = decay ** -np.arange(1.0, EXPLICIT + 1)
    return np.where(growth < MOST_GROWTH, (1 - decay) / math.log(decay) * growth, 0.0)


def early_steps(decays: list, order: int, dtype) -> int:
    """Until when what a cold start left, times what the late rule misses of it, is seen."""
    floor = 1e3 * float(jnp.finfo(dtype).eps)
    fade = [math.log(floor / (1 - decay) ** order) / math.log(decay) for decay in decays if decay]
    return max(LEAST_EARLY, math.ceil(max(fade))) if fade else 0


class Steps(eqx.Module):
    """Steps of the optimizer, stacked: places θ, fresh ψ(g) per moment, moments and direction
    after them, and the number of the first."""

    places: PyTree
    fresh: tuple
    moments: tuple
    directions: PyTree
    count: Array


def march(flow: Any, rate: Array, params: PyTree, state: State, length: int) -> Steps:
    """``length`` real steps of what ``flow`` follows: one gradient each."""
    problem, optimizer = flow.problem, flow.optimizer

    def one(carry, _):
        here, state = carry
        gradient = problem.gradient(here)
        after, move = optimizer.update(state, gradient, here, 1.0)
        made = (here, optimizer.transformed(gradient), after.moments, trees.scale(-1.0, move))
        return (trees.add(here, rate, move), after), made

    _, made = trees.scanned(one, (params, state), jnp.arange(length), problem.traceable)
    return Steps(*made, state.step)


def each(function: Callable, kept: tuple, *parts: Sequence) -> tuple:
    """``function`` of every moment kept and its part of each of ``parts``; None for the others."""
    rows = zip(kept, *parts, strict=True)
    return tuple(None if one is None else function(one, *rest) for one, *rest in rows)


def read(optimizer: AbstractMoments, moments: tuple, fresh: tuple, params: PyTree, step) -> PyTree:
    """G: the direction from moments just updated in step ``step``."""
    return optimizer.direction(optimizer.read(moments, fresh, step), params, step)


def _first(tree: PyTree) -> PyTree:
    return trees.row(tree, slice(EXPLICIT))


def _outer(powers: Array, tree: PyTree) -> PyTree:
    """Each of the powers times the tree, stacked."""
    return jax.tree.map(lambda v: jnp.tensordot(trees.cast(powers, v), v, 0), tree)


def _changes(
    rules: Early, optimizer: AbstractMoments, state: State, fresh: tuple, missed: tuple
) -> tuple[tuple, tuple]:
    """(m'(s+j) for j = 1, …, M, P q) per moment; missed: of q' by the sums over steps.

    m'(s+j) = β^j m'(s) + Σ_{i<j} (1−β) β^{j−1−i} q'(s+i), and P q with what is missed is
    −((1−β)/a) Σ_j β^{−j−1} of it more.
    """
    changes, pulls = [], []
    for i, (moment, old) in enumerate(zip(optimizer.moments, state.moments, strict=True)):
        if old is None:
            changes.append(None)
            pulls.append(None)
            continue
        pull = trees.add(weighted(rules.pull[i], fresh[i]), 1, times(rules.more[i], missed[i]))
        speed = trees.scale(jnp.log(moment.beta), trees.subtract(old, pull))
        faded = moment.beta ** jnp.arange(1.0, EXPLICIT + 1)
        drift = trees.add(weighted(rules.drift[i], fresh[i]), 1, times(rules.powers[i], missed[i]))
        changes.append(trees.add(drift, 1, _outer(faded, speed)))
        pulls.append(pull)
    return tuple(changes), tuple(pulls)


def mean_after(rules: Early, optimizer: AbstractMoments, steps: Steps, tangents: tuple):
    """(L G(s) = L G(s+M) − Σ_{j=1}^{M} G'(s+j), the G' stacked); tangents: of (moments, fresh,
    places) there."""
    first = _first((steps.moments, steps.fresh, steps.places))
    counts = steps.count + jnp.arange(EXPLICIT, dtype=steps.count.dtype)

    def slope(values, change, count):
        call = lambda m, q, p, n: read(optimizer, m, q, p, n)
        return jax.jvp(call, (*values, count), (*change, jnp.ones_like(count)))[1]

    slopes = jax.vmap(slope)(first, tangents, counts)
    tail = weighted(rules.mean, steps.directions)
    return jax.tree.map(lambda a, b: a - jnp.sum(b, axis=0), tail, slopes), slopes
