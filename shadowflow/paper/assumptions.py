"""What the paper's theorems assume, checked along a run: where does a run leave its theorem?

With ε inside the root (C.4, E.4): the derivatives of each E_k up to order 4 are bounded where the
run goes. With ε outside (B.4, D.4) also R_j ≥ R > 0, R_j² = Σ_k r_{n,k} (∂_jE_k(θ))² the second
moment had every gradient been read at θ: there they hold for an initial period at most.
"""

from __future__ import annotations

from dataclasses import dataclass

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from .. import trees
from ..optimizers.moments import AbstractMoments
from ..problem import Problem
from ..running import Trajectory

ORDERS = 4  # of the derivatives of E that the theorems bound
JUMP = 0.1  # of the change of the gradient over a step: what its derivative may leave open
ZERO = "a component of the second moment is not kept away from 0"


@dataclass(frozen=True)
class Departure:
    """Where a run leaves a theorem: the step, the coordinate (of all in a row), and why."""

    step: int
    coordinate: int
    why: str


@dataclass(frozen=True)
class Assumptions:
    """What was found along a run.

    derivatives [probed, orders]: the largest coordinate of ∂_j(v·∇)^{k−1}E, k = 1 … 4, v being the
        step over its largest coordinate.
    jumps [probed]: the largest coordinate of what the derivatives at both ends of a step leave
        open of the change of the gradient (trapezoid rule), over that of the change: of order h²
        where the loss is smooth, near 1 at a kink.
    roots [steps]: the least R_j of the coordinates that are not still.
    still: how many coordinates have no gradient anywhere on the run; they never move. lost: how
        many others have an R_j that is not above ``least`` somewhere.
    inside, outside: the first ``Departure`` from the theorem with ε there, None without one.
    """

    derivatives: Float[np.ndarray, "probed orders"]
    jumps: Float[np.ndarray, " probed"]
    roots: Float[np.ndarray, " steps"]
    still: int
    lost: int
    inside: Departure | None
    outside: Departure | None


def assumptions(
    problem: Problem,
    optimizer: AbstractMoments,
    run: Trajectory,
    *,
    bound: float = np.inf,
    least: float = 0.0,
    every: int = 1,
) -> Assumptions:
    """What the theorems assume, checked along a run from step 0 with all its steps saved.

    bound: of the derivatives. least: R. every: after how many steps derivatives are taken again.
    The run leaves the theorem with ε inside where a derivative is above ``bound`` or not finite or
    the gradient jumps, and the one with ε outside also where an R_j is at most ``least``; with the
    full batch R_j is 0 between two points at which a component of the gradient has different signs.
    Raises ValueError for a run that does not have every step from 0 on.

    >>> from shadowflow import iterate, rmsprop
    >>> bowl, descent = Problem(lambda x: jnp.sum(x**2) / 2), rmsprop(decay=0.5)
    >>> run = iterate(bowl, descent, jnp.asarray([1.0, 9.0]), 0.1, 20)
    >>> found = assumptions(bowl, descent, run)
    >>> found.inside is None, found.outside.step, found.outside.coordinate
    (True, 13, 0)
    """
    steps = len(run.steps) - 1
    if not np.array_equal(run.steps, np.arange(steps + 1)):
        raise ValueError(
            f"run: expected every step from 0 on, got {run.steps[:3].tolist()} …; save all "
            "of them with save_every=1."
        )
    points = jax.tree.map(jnp.asarray, run.params)
    every_step = np.arange(steps)
    seen = np.asarray(problem.batch_index(every_step)) if problem.batched else 0 * every_step
    gradients = np.asarray(_gradients(problem, points))  # of every batch at every point
    still = np.all(gradients == 0, axis=(0, 1))
    squares = np.einsum("nb,nbj->nj", _shares(optimizer, problem, seen), gradients[:-1] ** 2)
    roots = np.where(still, np.inf, np.sqrt(squares))
    gone = roots <= least
    if not problem.batched:
        gone |= ~still & (gradients[:-1, 0] * gradients[1:, 0] <= 0)
    probed = np.arange(0, steps, every)
    begin, end = (trees.row(points, probed + later) for later in (0, 1))
    batches = jnp.asarray(seen[probed]) if problem.batched else None
    sizes, places, jumps, jumping = map(np.asarray, _smooth(problem, begin, end, batches))
    wild = ~(sizes <= bound)  # also where it is not finite
    broken = wild | (jumps[:, None] > JUMP)
    inside = outside = None
    if broken.any():
        at, order = np.argwhere(broken)[0]
        inside = Departure(int(probed[at]), int(jumping[at]), "the gradient jumps")
        if wild[at, order]:
            why = f"a derivative of order {order + 1} is {sizes[at, order]:.3g}"
            inside = Departure(int(probed[at]), int(places[at, order]), why)
    if gone.any():
        outside = Departure(*map(int, np.argwhere(gone)[0]), ZERO)
    both = [place for place in (inside, outside) if place is not None]
    outside = min(both, key=lambda place: place.step, default=None)
    lost = int(gone.any(axis=0).sum())
    least_root = roots.min(axis=1, initial=np.inf)
    return Assumptions(sizes, jumps, least_root, int(still.sum()), lost, inside, outside)


def _flat(tree: PyTree) -> Float[Array, " coordinates"]:
    return jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@eqx.filter_jit
def _gradients(problem: Problem, points: PyTree) -> Float[Array, "points batches coordinates"]:
    if not problem.batched:
        return jax.lax.map(lambda point: _flat(problem.gradient(point))[None], points)
    every = jnp.arange(problem.count)
    each = lambda point: jax.lax.map(lambda b: _flat(problem.gradient(point, b)), every)
    return jax.lax.map(each, points)


def _shares(optimizer: AbstractMoments, problem: Problem, seen) -> Float[np.ndarray, "steps b"]:
    """The weight of every batch in the second moment, step by step."""
    (moment,) = (moment for moment in optimizer.moments if moment.averages_squares)
    decay, raw, found = float(moment.beta), np.zeros(problem.count), []
    for step, batch in enumerate(seen):
        raw = decay * raw
        raw[batch] += 1 - decay
        found.append(raw / float(moment.correction(step)))
    return np.array(found)


@eqx.filter_jit
def _smooth(problem: Problem, begin: PyTree, end: PyTree, batches: Array | None) -> tuple:
    """Per step: the largest coordinate of each derivative, which it is; the same of the jump."""

    def one(inputs):
        here, there, batch = inputs
        move = trees.subtract(there, here)
        length = jnp.max(jnp.abs(_flat(move)))
        speed = trees.scale(1 / jnp.where(length == 0, 1.0, length), move)
        line = lambda start: (
            lambda time: _flat(problem.gradient(trees.add(start, time, speed), batch))
        )
        first, last = _derivatives(line(here), ORDERS), _derivatives(line(there), 2)
        change = last[0] - first[0]
        rest = jnp.abs(change - length / 2 * (first[1] + last[1]))
        size = jnp.max(jnp.abs(change))
        jump = jnp.max(rest) / jnp.where(size == 0, 1.0, size)
        sizes = jnp.abs(first)
        return sizes.max(axis=1), sizes.argmax(axis=1), jump, rest.argmax()

    return jax.lax.map(one, (begin, end, batches))


def _derivatives(function, count: int) -> Float[Array, "count coordinates"]:
    """function(0) and its derivatives there."""
    found, zero, one = [], jnp.zeros(()), jnp.ones(())
    for _ in range(count):
        found.append(function(zero))
        function = lambda time, f=function: jax.jvp(f, (time,), (one,))[1]
    return jnp.stack(found)
