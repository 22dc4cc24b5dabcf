"""The paper's four main theorems: the second-order modified flow of RMSProp and of Adam.

Each says that on a fixed horizon the optimizer stays within a constant times h² of the flow, with
mini-batches and without; the same holds for the memoryless iteration.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ..diagnostics.convergence import OrderRow, convergence
from ..lab.models import bilinear_problem
from ..optimizers import zoo
from ..problem import Problem

HORIZON = 0.5
CENTRES = ((1.2, 1.8), (1.5, 2.0), (1.9, 2.3))


class Theorem(NamedTuple):
    """One theorem: its number and optimizer in words, and the optimizer as the zoo has it.

    The decays are small, so that the asymptotic order shows within a few halvings.
    """

    label: str
    optimizer: str
    arguments: Mapping[str, float]


OUTSIDE, INSIDE = {"eps": 1e-1}, {"eps": 0.0, "eps_root": 1e-2}
RMSPROP, ADAM = {"decay": 0.7}, {"b1": 0.5, "b2": 0.7}
THEOREMS = (
    Theorem("Theorem B.4 (RMSProp, eps outside)", "rmsprop", {**RMSPROP, **OUTSIDE}),
    Theorem("Theorem C.4 (RMSProp, eps inside)", "rmsprop", {**RMSPROP, **INSIDE}),
    Theorem("Theorem D.4 (Adam, eps outside)", "adam", {**ADAM, **OUTSIDE}),
    Theorem("Theorem E.4 (Adam, eps inside)", "adam", {**ADAM, **INSIDE}),
)


@functools.cache
def batches() -> Problem:
    """½(c − d θ₁θ₂)² with c and d of its own in each of three batches; needs x64."""
    loss = lambda x, c: 0.5 * (c[0] - c[1] * x[0] * x[1]) ** 2
    return Problem(loss, batches=jnp.asarray(CENTRES, jnp.float64))


def orders(theorem: Theorem, batched: bool, exponents: Sequence[int]) -> list[OrderRow]:
    """The observed orders of the second-order iteration and flow, from a cold start.

    exponents: the learning rates are 2^−exponent. batched: whether on three mini-batches in turn,
    else on the loss of Figure 2.
    """
    optimizer = getattr(zoo, theorem.optimizer)(**theorem.arguments)
    with jax.enable_x64(True):
        problem, start = bilinear_problem()
        return convergence(
            batches() if batched else problem,
            optimizer,
            jnp.asarray(start, jnp.float64),
            HORIZON,
            [2.0**-exponent for exponent in exponents],
            methods=["taylor"],
            orders=[2],
        )
