"""The direction of collocation and its run, as the tests of both take them."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from table import BILINEAR, BILINEAR_START, PLACE, with_leaves

from shadowflow import ema_weights as mem, running, trees
from shadowflow.methods import collocation, nodes, planned
from shadowflow.running import chunked, drive


def settled(optimizer, rate, params=PLACE):
    return mem.at(optimizer, jnp.asarray(rate), "settled", params)


def directions(problem, optimizer, rate, params, order, phase=0.5, spacing=None) -> tuple:
    """(first order, that order) by cold sweeps."""
    optimizer = with_leaves(optimizer)
    rule = nodes.rule(optimizer, order, spacing)
    way = collocation.CollocationDirection(problem, optimizer, phase, rule)
    return way(settled(optimizer, rate, params), params)


def distance(one, other) -> float:
    return float(trees.norm(trees.subtract(one, other)))


def followed(optimizer, order: int, rate: float, count: int, *, shift=True, spacing=None):
    """The iteration by one warm sweep a step; without ``shift``, from a path not re-centred."""
    run = running.followed(BILINEAR, optimizer, BILINEAR_START, rate, count, "settled")
    plan = planned(run, method="collocation", order=order, kind="iteration", spacing=spacing)
    advance = plan.method.bind(plan)
    if not shift:
        still = nodes.against_first(np.eye(order))
        advance = eqx.tree_at(lambda run: run.direction.rule.shift, advance, still)
    memory = mem.ready(optimizer, rate, "settled", jnp.ones(1))
    carry = advance.init(BILINEAR_START, memory, None)
    chunks = chunked(advance, carry, np.full(count, rate), traceable=True)
    return drive(chunks, BILINEAR_START, count, 1, None).params
