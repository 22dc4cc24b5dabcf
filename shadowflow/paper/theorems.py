"""The paper's theorems on the second-order modified flow of RMSProp and of Adam.

B.4, C.4, D.4 and E.4: on a fixed horizon the optimizer stays within a constant times h² of the
flow, with mini-batches and without. B.3, C.3, D.3 and E.3, on which they rest: a step of the
optimizer whose past lies on the flow ends within a constant times h³ of the flow. The same holds
for the memoryless iteration.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..diagnostics.convergence import MARGIN, OrderRow, convergence, order_row
from ..lab.models import bilinear_problem
from ..methods import METHODS
from ..optimizers import zoo
from ..optimizers.base import SETTLED
from ..optimizers.moments import Optimizer
from ..problem import Problem
from ..running import Trajectory
from ..shadow import shadow
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
    mini-batches in turn, else on the loss of Figure 2. local: of one step, whose order is one
    higher than that of a way. highest: the highest order of collocation
    that is measured: 5 where three halvings of its error lie above rounding, 3 for sgd and the
    sign-like optimizers.
    """

    label: str
    optimizer: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    batched: bool = False
    local: bool = False
    highest: int = 5

    def ways(self) -> list[Way]:
        """All that is measured; order 1, the same for all memoryless methods, once."""
        if self.local:
            return [Way("taylor", order, kind) for order in (1, 2) for kind in KINDS]
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
LOCAL = tuple(
    dataclasses.replace(theorem, label=f"{theorem.label.replace('.4', '.3')}, one step", local=True)
    for theorem in THEOREMS
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
    rates = [case.scale * 2.0**-exponent for exponent in HIGH.get(way.order, exponents)]
    with jax.enable_x64(True):
        problem, params = bilinear_problem()
        problem = batches() if case.batched else problem
        run = problem, optimizer, jnp.float64(params), case.scale * HORIZON, rates
        return local(way, *run) if case.local else overall(way, *run)


def overall(way: Way, problem: Problem, optimizer: Optimizer, params, horizon, rates) -> OrderRow:
    """The order of the largest distance over the horizon."""
    method = METHODS[way.method]
    corrected = all(moment.corrected for moment in optimizer.moments)
    cold = not method.needs_settled and (corrected or not method.keeps_moments)
    (row,) = convergence(
        problem,
        optimizer,
        params,
        horizon,
        rates,
        methods=[way.method],
        kinds=[way.kind],
        orders=[way.order],
        start=0 if cold else SETTLED,
    )
    return row


def local(way: Way, problem: Problem, optimizer: Optimizer, params, horizon, rates) -> OrderRow:
    """The order of the largest error of one step over the horizon, one above that of the way."""
    run = lambda rate: (problem, optimizer, params, rate, round(horizon / rate))
    paths = [shadow(*run(rate), **way._asdict(), check=rate == rates[-1]) for rate in rates]
    errors = [
        float(one_step_errors(problem, optimizer, path, rate).max())
        for path, rate in zip(paths, rates, strict=True)
    ]
    floor = MARGIN * np.finfo(np.float64).eps * float(np.abs(paths[-1].params).max())
    level = paths[-1].validity.level
    return order_row(way.method, way.kind, way.order + 1, 0, rates, errors, floor, level)


def one_step_errors(
    problem: Problem, optimizer: Optimizer, path: Trajectory, learning_rate: float
) -> np.ndarray:
    """Per step of a cold path, the max-norm distance between its move and the optimizer's.

    The optimizer has read the gradients at the path's own points; it never leaves the path.

    >>> from shadowflow import sgd
    >>> bowl, descent = Problem(lambda x: jnp.sum(x**2) / 2), sgd()
    >>> flow = shadow(bowl, descent, jnp.ones(1), 0.1, 2, order=1, method="taylor")
    >>> [round(float(error), 4) for error in one_step_errors(bowl, descent, flow, 0.1)]
    [0.0048, 0.0044]
    """
    points = jnp.asarray(path.params)

    @jax.jit
    def moves(points):
        def step(state, point):
            batch = problem.batch_index(state.step) if problem.batched else None
            gradient = problem.gradient(point, batch)
            return optimizer.update(state, gradient, point, learning_rate)

        return jax.lax.scan(step, optimizer.init(points[0]), points)[1]

    return np.abs(np.asarray(moves(points[:-1])) - np.diff(path.params, axis=0)).max(axis=1)
