"""The paper's four main theorems: the second-order modified flow of RMSProp and of Adam.

Each says that on a fixed horizon the optimizer stays within a constant times h² of the flow, with
mini-batches and without; the same holds for the memoryless iteration.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp

from ..diagnostics.convergence import OrderRow, convergence
from ..lab.models import bilinear_problem
from ..methods import METHODS
from ..optimizers import zoo
from ..optimizers.base import SETTLED
from ..problem import Problem
from .ways import Way

HORIZON = 0.5
HIGH = {3: range(7, 12), 4: range(6, 11), 5: range(6, 10)}  # above rounding, and settled enough
KINDS = ("iteration", "flow")
CENTRES = ((1.2, 1.8), (1.5, 2.0), (1.9, 2.3))


@dataclass(frozen=True)
class OrderCase:
    """An optimizer with the hyper-parameters at which its orders are measured.

    scale: the step sizes are scale × 2^-7 … and the horizon scale × 0.5, small for optimizers
    whose step grows with the gradient, which is about 60 at the start. batched: on three
    mini-batches in turn, else on the loss of Figure 2. highest: the highest order of collocation
    that is measured: 5 where three halvings of its error lie above rounding, 3 for sgd and the
    sign-like optimizers.
    """

    label: str
    optimizer: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    batched: bool = False
    highest: int = 5

    def ways(self) -> list[Way]:
        """All that is measured; order 1, the same for all memoryless methods, once."""
        high = [order for order in HIGH if order <= self.highest]
        return [Way("taylor", 1, kind) for kind in KINDS] + [
            Way(method.name, order, kind)
            for method in METHODS.values()
            if not (self.batched and method.full_batch)
            for order in (high if method.orders is None else method.usual)
            for kind in KINDS
            if kind in method.kinds
        ]


OUTSIDE, INSIDE = {"eps": 1e-1}, {"eps": 0.0, "eps_root": 1e-2}
RMSPROP, ADAM = {"decay": 0.7}, {"b1": 0.5, "b2": 0.7}  # small: the order shows in few halvings
THEOREMS = tuple(
    OrderCase(label, optimizer, arguments, batched=True)
    for label, optimizer, arguments in (
        ("Theorem B.4 (RMSProp, eps outside)", "rmsprop", {**RMSPROP, **OUTSIDE}),
        ("Theorem C.4 (RMSProp, eps inside)", "rmsprop", {**RMSPROP, **INSIDE}),
        ("Theorem D.4 (Adam, eps outside)", "adam", {**ADAM, **OUTSIDE}),
        ("Theorem E.4 (Adam, eps inside)", "adam", {**ADAM, **INSIDE}),
    )
)


@functools.cache
def batches() -> Problem:
    """½(c − d θ₁θ₂)² with c and d of its own in each of three batches; needs x64."""
    loss = lambda x, c: 0.5 * (c[0] - c[1] * x[0] * x[1]) ** 2
    return Problem(loss, batches=jnp.asarray(CENTRES, jnp.float64))


def measure(case: OrderCase, way: Way, exponents: Sequence[int]) -> OrderRow:
    """The observed order of a way, from a cold start where the method's order holds there.

    exponents: the step sizes are scale × 2^−exponent, up to order 2.
    """
    optimizer = getattr(zoo, case.optimizer)(**case.arguments)
    method = METHODS[way.method]
    corrected = all(moment.corrected for moment in optimizer.moments)
    cold = not method.needs_settled and (corrected or not method.keeps_moments)
    with jax.enable_x64(True):
        problem, params = bilinear_problem()
        (row,) = convergence(
            batches() if case.batched else problem,
            optimizer,
            jnp.float64(params),
            case.scale * HORIZON,
            [case.scale * 2.0**-exponent for exponent in HIGH.get(way.order, exponents)],
            methods=[way.method],
            kinds=[way.kind],
            orders=[way.order],
            start=0 if cold else SETTLED,
        )
    return row
