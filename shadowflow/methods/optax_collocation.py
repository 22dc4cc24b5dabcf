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
from ..optimizers.base import AbstractOptimizer, State
from ..optimizers.memory_probe import mean_age, settling
from ..problem import Problem
from . import nodes


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


class WalkedDirection(nodes.PathDirection):
    """The direction of order R of any state map."""

    order: int = eqx.field(static=True)
    spacing: int | None = eqx.field(static=True)

    def path(self, rate: Array, params: PyTree) -> tuple[PyTree, Array, PyTree, State]:
        """As declared; what was read is the state before the last step.

        The walk is as long as the optimizer takes to settle.
        """
        length = settling(self.optimizer, params)
        made = walk(self.order, self.spacing or mean_age(length, params), length)
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
        return first, made.slope, directions, state

    def values(self, where: PyTree) -> Array | None:
        """The losses at the nodes, for an optimizer that reads them."""
        if not self.optimizer.reads_value:
            return None
        return trees.mapped(self.problem.value, where, traceable=False)

    def past_state(self, rate: Array, params: PyTree) -> State:
        """The settled state just before the gradient at θ is read, its step ∞."""
        *_, state = self.path(rate, params)
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
