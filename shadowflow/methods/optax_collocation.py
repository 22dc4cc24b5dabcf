"""Collocation for any state map: fed the gradients of a path, walked until it has settled.

As in ``collocation`` the path through θ is a polynomial that makes the optimizer's own steps at R
nodes s_j = −σ j, and a sweep makes its directions better by one order. What differs is how a
direction is read: no moments are averaged, the optimizer itself runs along the path, from so far
back that it has forgotten where it began. Gradients are computed at the nodes and interpolated.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from ..ema_weights import Memory
from ..optimizers.base import AbstractOptimizer, State
from ..optimizers.memory_probe import mean_age, settling
from ..problem import Problem
from . import nodes
from .base import AbstractDirection


class Walk(eqx.Module):
    """The matrices of an order: as in a ``Rule``, and those of the steps walked.

    ``weights``, ``ways`` [T, R]: per step from the oldest to the present, on (v_0, v_1 − v_0, …):
    the interpolated gradient from those at the nodes, and (θ − θ(s)) / h from the directions.
    """

    places: Array
    slope: Array
    weights: Array
    ways: Array
    spacing: int = eqx.field(static=True)

    @property
    def order(self) -> int:
        """R, the number of nodes."""
        return self.slope.shape[0]


def walk(order: int, spacing: int, settling: int) -> Walk:
    """The ``Walk`` of order R with nodes ``spacing`` steps apart, the oldest one settled.

    >>> walk(2, 1, 3).weights.shape  # three steps to settle, two nodes
    (5, 2)
    """
    step, inverse = 1 / spacing, nodes.summation(order, 1 / spacing)
    times = np.arange(-(settling + spacing * (order - 1)), 1) * step
    powers = lambda at: at[:, None] ** np.arange(1, order + 1)
    ways = powers(times) @ inverse / step
    return Walk(
        nodes.against_first(powers(-np.arange(float(order))) @ inverse / step),
        nodes.against_first(inverse[0]),
        nodes.against_first(nodes.lagrange(order, times)),
        nodes.against_first(ways),
        spacing,
    )


@eqx.filter_jit
def along(
    made: Walk,
    optimizer: AbstractOptimizer,
    rate: Array,
    params: PyTree,
    gradients: PyTree,
    directions: PyTree,
    values: Array | None,
) -> tuple[PyTree, State]:
    """(directions at the nodes, the state before the present gradient is read)."""
    gradients, directions, values = map(nodes.relative, (gradients, directions, values))

    def place(row):
        return trees.add(params, -rate, nodes.times(row, directions))

    def one(carry, rows):
        state, _, _ = carry
        grad, worth = nodes.times(rows[0], (gradients, values))
        after, move = optimizer.update(state, grad, place(rows[1]), rate, worth)
        return (after, state, trees.scale(-1 / rate, move)), None

    rows = made.weights, made.ways
    first = optimizer.init(place(made.ways[0]), rate)
    begin = first, first, trees.zeros_like(params)
    oldest = rows[0].shape[0] - made.spacing * (made.order - 1)
    carry, _ = jax.lax.scan(one, begin, jax.tree.map(lambda row: row[:oldest], rows))

    def segment(carry, rows):
        carry, _ = jax.lax.scan(one, carry, rows)
        return carry, carry[2]

    cut = lambda row: row[oldest:].reshape(made.order - 1, made.spacing, made.order)
    final, later = jax.lax.scan(segment, carry, jax.tree.map(cut, rows))
    found = jax.tree.map(lambda a, b: jnp.concatenate([a[None], b])[::-1], carry[2], later)
    return found, final[1]


class WalkedDirection(AbstractDirection):
    """The direction of order R as a pure function of θ, settled: 1 + (R−1)² gradients."""

    order: int = eqx.field(static=True)
    spacing: int | None = eqx.field(static=True)

    def __call__(self, memory: Memory, params: PyTree) -> tuple[PyTree, PyTree]:
        """(first order, order R) of the direction: phase 0: (θ(0) − θ(1))/h; ½: −θ'(0)/h."""
        made = self.walk(params)
        first, directions, _ = self.path(made, memory.rate, params)
        if self.phase:
            return first, nodes.weighted(made.slope, directions)
        return first, trees.row(directions, 0)

    def walk(self, params: PyTree) -> Walk:
        """The matrices, as long as the optimizer takes to settle."""
        length = settling(self.optimizer, params)
        return walk(self.order, self.spacing or mean_age(length, params), length)

    def path(self, made: Walk, rate: Array, params: PyTree) -> tuple[PyTree, PyTree, State]:
        """(direction of first order, directions at the nodes, the state before the last step)."""
        here = nodes.gradient(self.problem, params)
        everywhere = lambda tree: trees.repeated(tree, made.order)
        along_path = lambda *read: along(made, self.optimizer, rate, params, *read)
        still = everywhere(trees.zeros_like(params))
        directions, state = along_path(everywhere(here), still, self.values(everywhere(params)))
        first = trees.row(directions, 0)
        directions = everywhere(first)
        for _ in range(made.order - 1):
            where = nodes.places(made.places, rate, params, directions)
            gradients = nodes.gradients_at(self.problem, where, here)
            directions, state = along_path(gradients, directions, self.values(where))
        return first, directions, state

    def values(self, where: PyTree) -> Array | None:
        """The losses at the nodes, for an optimizer that reads them."""
        if not self.optimizer.reads_value:
            return None
        return trees.mapped(self.problem.value, where, traceable=False)

    def past_state(self, rate: Array, params: PyTree) -> State:
        """The settled state just before the gradient at θ is read, its step ∞."""
        _, _, state = self.path(self.walk(params), rate, params)
        return State(state.moments, jnp.asarray(jnp.inf, trees.real_dtype()))


def walked(
    problem: Problem,
    optimizer: AbstractOptimizer,
    phase: float,
    order: int,
    spacing: float | None,
) -> WalkedDirection:
    """The direction of an order; ValueError for what only moments can have."""
    if spacing is not None and (not float(spacing).is_integer() or spacing < 1):
        raise ValueError(
            f"spacing: expected whole steps for the optax transformation {optimizer.name}, which "
            f"is run step by step, got {spacing!r}."
        )
    whole = None if spacing is None else int(spacing)
    return WalkedDirection(problem, optimizer, phase, order, whole)
