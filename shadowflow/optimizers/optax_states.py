"""The averages that the states of optax's own optimizers hold."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from .. import trees

if TYPE_CHECKING:
    from .moments import Optimizer

OPTAX_STATES = (
    "ScaleByAdamState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByLionState",
    "ScaleByScheduleState",
    "TraceState",
    "EmaState",
)


def averages_of(optimizer: "Optimizer", opt_state, params: PyTree) -> tuple:
    """The moments of an optimizer among the averages that an optax state holds."""
    known = lambda node: type(node).__name__ in OPTAX_STATES
    nodes = [node for node in jax.tree.leaves(opt_state, is_leaf=known) if known(node)]
    found = lambda *names: [
        getattr(node, name) for node in nodes for name in names if name in node._fields
    ]
    memories = [moment for moment in optimizer.moments if moment.has_memory]
    scaled = [trees.scale(1 - memories[0].beta, trace) for trace in found("trace") if memories]
    averages = {"identity": [*found("mu", "ema"), *scaled], "square": found("nu")}
    transform = lambda moment: getattr(getattr(moment.transform, "func", None), "__name__", "")
    return tuple(
        _counterpart(optimizer, averages.get(transform(m), []), params) if m.has_memory else None
        for m in optimizer.moments
    )


def _counterpart(optimizer: "Optimizer", values: list, params: PyTree) -> PyTree:
    """The one optax average that a moment has, in the parameters' dtypes."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    alike = [value for value in values if jax.tree.structure(value) == jax.tree.structure(params)]
    if len(values) != 1 or not alike or shapes(alike[0]) != shapes(params):
        raise ValueError(
            f"opt_state: expected averages for the moments of {optimizer.name}, one each, like "
            f"params, got {len(values)} with shapes {[shapes(value) for value in values]}; known "
            f"states are {', '.join(OPTAX_STATES)}; else build a State(moments, step)."
        )
    return jax.tree.map(lambda v, p: jnp.asarray(v, jnp.result_type(p)), alike[0], params)
