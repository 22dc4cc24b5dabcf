"""Whether JAX's derivative of an optax transformation is one: proved before its first use."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from .base import AbstractOptimizer
from .memory_probe import LOSS, RATE, probed

STEPS = 4
WIDTHS = {32: (1e-1, 1e-2), 64: (1e-3, 1e-5)}  # of the difference, by the bits of a float
TOLERANCE = 0.02


class NotDifferentiable(ValueError):
    """The derivative of the state map is zero, NaN or wrong."""


def check_derivative(optimizer: AbstractOptimizer, params: PyTree) -> None:
    """Raise NotDifferentiable unless jvp through ``update`` agrees with a central difference.

    Four steps from a fresh state, their gradients and places normal numbers, displaced along other
    normal numbers; the last step is compared to 2 % in norm, at the width that suits it better. A
    derivative that is zero for all displacements of gradients is none.
    """
    reason = _reason(optimizer, params)
    if reason:
        raise NotDifferentiable(
            f"method: expected a transformation that JAX differentiates for method='taylor', got "
            f"{optimizer.name}, whose forward derivative {reason}; method='displaced' takes none."
        )


@probed
def _reason(optimizer: AbstractOptimizer, draw: Callable) -> str:
    """What is wrong with the derivative; "" for nothing."""
    random = np.random.default_rng(0)
    path = [draw(random) for _ in range(2 * STEPS)]
    ways = [draw(random) for _ in range(2 * STEPS)]
    stay = trees.zeros_like(ways[STEPS:])
    bits = max(jnp.finfo(leaf.dtype).bits for leaf in jax.tree.leaves(path))
    slope = _slope(optimizer, path, ways)
    if not bool(trees.all_finite(slope)):
        return "is NaN or infinite at random gradients"
    if float(trees.norm(_slope(optimizer, path, [*ways[:STEPS], *stay]))) == 0:
        return "does not see the gradients, as its steps have jumps instead of slopes"
    gaps, sizes = [], [float(trees.norm(slope))]
    for width in WIDTHS[max(32, bits)]:
        ends = [_last(optimizer, path, ways, jnp.asarray(side * width)) for side in (1, -1)]
        secant = trees.scale(0.5 / width, trees.subtract(*ends))
        gaps.append(float(trees.norm(trees.subtract(secant, slope))))
        sizes.append(float(trees.norm(secant)))
    if not min(gaps) <= TOLERANCE * max(sizes):
        return f"is {100 * min(gaps) / max(sizes):.1f} % off from finite differences"
    return ""


@eqx.filter_jit
def _last(optimizer: AbstractOptimizer, path: list, ways: list, share: Array) -> PyTree:
    """The last step of a run whose gradients and places are displaced by ``share`` times ways."""
    seen = [trees.add(here, share, way) for here, way in zip(path, ways, strict=True)]
    rate = jnp.asarray(RATE)
    state = optimizer.init(seen[0], rate)
    move = seen[0]
    for grad, params in zip(seen[:STEPS], seen[STEPS:], strict=True):
        state, move = optimizer.update(state, grad, params, rate, jnp.asarray(LOSS))
    return trees.scale(1 / rate, move)


@eqx.filter_jit
def _slope(optimizer: AbstractOptimizer, path: list, ways: list) -> PyTree:
    run = lambda share: _last(optimizer, path, ways, share)
    return jax.jvp(run, (jnp.zeros(()),), (jnp.ones(()),))[1]
