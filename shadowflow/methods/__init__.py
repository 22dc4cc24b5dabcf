"""The ways to build the shadow of an optimizer, each declared as data.

A new way is a module here and a row of ``METHODS``. The orders, kinds and needs declared are
what the refusals print and the tests measure.
"""

from collections.abc import Callable
from dataclasses import dataclass

from . import displaced, taylor


@dataclass(frozen=True)
class Method:
    """A way to build the shadow.

    orders: the orders offered; a global error of learning_rate^order is what the tests fit.
    kinds: "flow" (an ODE), "iteration" (a memoryless step), or both.
    direction: for memoryless methods, (problem, optimizer, memory, params, phase) →
        (first order, second order); None for a method that keeps the moments.
    needs_hvp: whether it takes Hessian-vector products, beside gradients.
    summary: one line for tables.
    """

    name: str
    orders: tuple[int, ...]
    kinds: tuple[str, ...]
    direction: Callable | None
    needs_hvp: bool
    summary: str

    @property
    def memoryless(self) -> bool:
        """Whether the method is a field on the parameters alone."""
        return self.direction is not None


METHODS = {
    method.name: method
    for method in (
        Method("taylor", (1, 2), ("flow", "iteration"), taylor.direction, True,
               "the paper's: past gradients expanded around the present point"),
        Method("displaced", (1, 2), ("flow", "iteration"), displaced.secant, False,
               "nothing expanded: past gradients on a line through two real ones"),
        Method("linearized", (1, 2), ("flow", "iteration"), displaced.linearized, True,
               "as displaced, the line from a Hessian-vector product"),
        Method("inertial", (2,), ("flow",), None, False,
               "the memory kept as a state, the step corrected"),
    )
}  # fmt: skip
