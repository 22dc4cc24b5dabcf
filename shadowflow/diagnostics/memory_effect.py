"""What the memory of an optimizer does to one of its steps, exactly, and by which moment.

S is the direction that the optimizer takes, F the one that it would have taken had every gradient
of its past been the present one: b = S − F is the effect of memory, without any expansion. With
several moments it is split by integrated gradients (Aumann–Shapley): on the straight way from the
memoryless moments m̄ to those that it has, part_i = ∫₀¹ ∂_iΦ(m(t)) (m_i − m̄_i) dt. The parts add up
to b, do not depend on an order, and stay bounded where a gradient crosses zero.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import trees
from ..optimizers.base import AbstractOptimizer, State
from ..optimizers.moments import identity, square

MEMORY = "memory"
NODES = 16  # in u, t = u²: the integrand is singular like t^−½ where the gradient is 0


def labels(optimizer: AbstractOptimizer) -> dict[int, str]:
    """Index → name of the moments with memory, the names being unique."""
    plain = {identity: "momentum", square: "second moment"}
    names: dict[int, str] = {}
    for i, moment in enumerate(optimizer.moments):
        if moment.has_memory:
            name = plain.get(getattr(moment.transform, "func", None), f"moment {i + 1}")
            names[i] = name if name not in names.values() else f"{name} {i + 1}"
    return names


def effect_of_memory(
    optimizer: Any, state: State, params: PyTree, gradient: PyTree, rate, value=None
) -> dict[str, PyTree]:
    """Name → contribution to −b, in parameters per unit of time, as the parts of a modified
    equation; of an optax transformation one part, "memory".

    state: before the step that reads ``gradient`` at ``params``; rate: the learning rate.
    """
    still = optimizer.memoryless_direction(params, gradient, state.step, rate, value)
    safe = jnp.where(rate > 0, rate, 1.0)
    after, move = optimizer.update(state, gradient, params, safe, value)
    if not optimizer.closed_form:
        return {MEMORY: trees.add(trees.scale(1 / safe, move), 1, still)}
    fresh = optimizer.transformed(gradient)
    ends = optimizer.memoryless_moments(gradient, state.step)
    read = optimizer.read(after.moments, fresh, state.step)
    taken = optimizer.direction(read, params, state.step)
    whole = trees.subtract(still, taken)
    if not labels(optimizer):
        return {}
    *firsts, last = labels(optimizer).items()
    parts = {
        name: trees.scale(-1, _along(optimizer, ends, read, index, params, state.step))
        for index, name in firsts
    }
    rest = functools.reduce(trees.subtract, parts.values(), whole)
    return {**parts, last[1]: rest}


def _along(optimizer, start: tuple, end: tuple, index: int, params: PyTree, step) -> PyTree:
    """∫₀¹ ∂_iΦ(m(t)) (m_i(1) − m_i(0)) dt; 0 where the moment does not change."""
    points, weights = np.polynomial.legendre.leggauss(NODES)
    shares, masses = ((1 + points) / 2) ** 2, weights * (1 + points) / 2
    way = tuple(map(trees.subtract, end, start))
    nothing = trees.zeros_like(way)
    change = tuple(one if i == index else nothing[i] for i, one in enumerate(way))
    call = lambda moments: optimizer.direction(moments, params, step)

    def add_node(total, node):
        share, mass = node
        here = tuple(trees.add(a, share, b) for a, b in zip(start, way, strict=True))
        return trees.add(total, mass, jax.jvp(call, (here,), (change,))[1]), None

    rule = tuple(jnp.asarray(row, trees.real_dtype()) for row in (shares, masses))
    found = jax.lax.scan(add_node, trees.zeros_like(params), rule)[0]
    return jax.tree.map(lambda v, d: jnp.where(d == 0, 0, v), found, change[index])
