"""The ways to build the shadow of an optimizer, each declared as data.

A new way is a module here and a row of ``METHODS``. The orders, kinds and conditions declared are
what the refusals print and the tests measure.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import (
    collocation,
    differences,
    displaced,
    inertial,
    minibatch,
    optax_collocation as backwards,
    optax_replay as replay,
    taylor,
)


@dataclass(frozen=True)
class Method:
    """A way to build the shadow.

    orders: the orders offered, None: any; a global error of learning_rate^order is what the
        tests fit.
    kinds: "flow" (an ODE), "iteration" (a memoryless step), or both.
    needs_hvp: whether it takes Hessian-vector products, beside gradients.
    summary: one line for tables.
    direction: (problem, optimizer, memory, params, phase) → (first order, second order), for
        methods that are a field on the parameters alone.
    batched: the same with mini-batches.
    build: (optimizer, order, spacing) → direction, where it is made for an order.
    of_state_map: (optimizer, order, spacing, origin) → direction, where it follows any optax
        transformation; origin: the state in which its run began, None: a fresh one.
    runners: kind → (problem, optimizer, order, spacing) → its own step for ``drive``, where it
        carries something from step to step.
    keeps_moments: whether it carries the optimizer's state.
    full_batch: why it needs the full batch; "" where it does not.
    settled, constant: whether it needs a settled memory, a constant learning rate.
    """

    name: str
    orders: tuple[int, ...] | None
    kinds: tuple[str, ...]
    needs_hvp: bool
    summary: str
    direction: Callable | None = None
    batched: Callable | None = None
    build: Callable | None = None
    of_state_map: Callable | None = None
    runners: Mapping[str, Callable] = field(default_factory=dict)
    keeps_moments: bool = False
    full_batch: str = ""
    settled: bool = False
    constant: bool = False

    @property
    def is_field(self) -> bool:
        """Whether it is a function of the step and the parameters alone."""
        return self.direction is not None or self.build is not None

    def offers(self, order: int) -> bool:
        """Whether it has that order."""
        return self.orders is None or order in self.orders

    @property
    def usual(self) -> tuple[int, ...]:
        """The highest order of those up to 2, where it has a limit: what tables show."""
        return (max(order for order in self.orders if order <= 2),) if self.orders else ()

    @property
    def measured(self) -> tuple[int, ...]:
        """The orders that are measured where none are named."""
        return self.orders or (1, 2, 3, 4)


METHODS = {
    method.name: method
    for method in (
        Method(
            "taylor",
            (1, 2),
            ("flow", "iteration"),
            True,
            "the paper's: past gradients expanded around the present point",
            taylor.direction,
            minibatch.taylor,
            of_state_map=replay.taylor,
        ),
        Method(
            "displaced",
            (1, 2),
            ("flow", "iteration"),
            False,
            "nothing expanded: past gradients on a line through two real ones",
            displaced.secant,
            minibatch.displaced,
            of_state_map=replay.secant,
        ),
        Method(
            "linearized",
            (1, 2),
            ("flow", "iteration"),
            True,
            "as displaced, the line from a Hessian-vector product",
            displaced.linearized,
            full_batch="its one line through the gradients of one loss does not exist for "
            "several; method='displaced' reads every batch at its own place",
        ),
        Method(
            "differences",
            (1, 2),
            ("iteration",),
            False,
            "the line through the last two gradients of the run: no work beyond a gradient",
            runners={"iteration": differences.iteration},
            full_batch="the difference of two gradients of different batches is noise of order "
            "1 / learning_rate; use method='taylor' or 'displaced'",
        ),
        Method(
            "collocation",
            None,
            ("flow", "iteration"),
            False,
            "any order: a polynomial path that solves the optimizer's equation at nodes",
            build=collocation.direction,
            of_state_map=backwards.direction,
            runners={"iteration": collocation.iteration},
            full_batch="the path it looks for is smooth, and mini-batches make it jump; use "
            "method='taylor' or 'displaced'",
            settled=True,
            constant=True,
        ),
        Method(
            "inertial",
            (2, 3, 4),
            ("flow",),
            False,
            "the memory kept as a state, the step corrected",
            runners={"flow": inertial.flow},
            keeps_moments=True,
            full_batch="mini-batches make its moments jump within a step, where a direction of "
            "the mean is not the mean of the directions; use method='taylor' or 'displaced'",
        ),
    )
}
