"""What a memoryless method says of one step at any place: the modified equation, the iteration."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, PyTree

from . import checks, ema_weights as mem, trees, trust
from .ema_weights import Truncation, truncation_of
from .methods import METHODS, choose, refuse_unfit, unfit
from .methods.base import MemorylessMethod, phase_of
from .optimizers.base import AbstractOptimizer, step_number
from .optimizers.from_optax import as_optimizer
from .optimizers.memory_probe import NotDifferentiable
from .problem import Problem
from .running import as_traceable, oldest_read, probed
from .trust import Validity


@dataclass(frozen=True, eq=False, repr=False)
class Field:
    """``field(step, params)``: what a memoryless method says of one step, at any place.

    step: n = 0, 1, …, an int or traced; or "settled" (refused with mini-batches).
    """

    problem: Problem
    optimizer: Any
    learning_rate: float | Array | Callable
    method: MemorylessMethod
    order: int | str
    kind: str
    spacing: float | None
    tolerance: float | None

    def __call__(self, step: Any, params: PyTree) -> PyTree:
        step = step_number("step", step, self.problem.batched)
        if self.method.needs_settled and not isinstance(step, str):
            raise ValueError(
                f"step: expected 'settled' for method={self.method.name!r}, got {step}; before the "
                "memory has settled use method='displaced' or 'taylor'."
            )
        params, rest = checks.parameters(params)
        problem = self.problem if rest is None else self.problem.around(rest)
        kept = self.truncation(step, params).steps if problem.batched else None
        if problem.batched and isinstance(step, int):
            problem = problem.tabulated(step + 1)
        rate = self.learning_rate
        optimizer = self.method.seen(self.optimizer, params, None)
        if isinstance(step, int) and callable(rate):
            probed(rate, step)
            rate = as_traceable(rate, oldest_read(optimizer, params, step), step)
        end = step if isinstance(step, int) else None
        memory = mem.at(optimizer, rate, step, params, kept, end)
        direction = self.method.direction(
            problem, optimizer, phase_of(self.kind), order=self.order, spacing=self.spacing
        )
        first, step = self.order == 1, self.kind == "iteration"
        if first:
            read = direction.first_move if step else direction.first_order
            found = read(memory, params)
        else:
            found = (direction.moves if step else direction)(memory, params)[1]
        return found if step else trees.scale(-1, found)

    def validity(self, step: Any, params: PyTree) -> Validity:
        """How far it can be trusted at one place: estimated, as no run is known there.

        share: an estimate of its error over the first-order field: of order 1 its correction; of
        higher ones the next term of the series, twice the square of the correction, or where that
        is larger what a neighbour differs by, which is collocation of one order more, else Taylor's
        form beside real gradients. Up to 0.1 it should hold, up to 0.4 in part, and in part at best
        where the error is no smaller than the correction. Raises what a call raises.

        >>> import jax.numpy as jnp
        >>> from shadowflow import momentum
        >>> quadratic = Problem(lambda x: jnp.sum(x**2) / 2)
        >>> field = modified_field(quadratic, momentum(decay=0.5), 0.01)
        >>> field.validity("settled", jnp.ones(1)).level
        'holds'
        """
        own, given = dataclasses.replace, (step, params)
        first = own(self, order=1)(*given)
        size = float(trees.norm(first))
        off = lambda one, other: float(trees.norm(trees.subtract(one, other)))
        if self.order == 1:
            error, source = off(own(self, order=2)(*given), first), "order 2"
            correction = np.inf
        else:
            mine = self(*given)
            correction = off(mine, first)
            ratio = correction / size if size else np.inf
            error, source = trust.GROWTH * ratio * correction, "the size of its correction"
            for name, neighbour in self._neighbours():
                try:
                    gap = off(neighbour(*given), mine)
                except NotDifferentiable:
                    continue
                if not gap <= error:
                    error, source = gap, name
        share = np.nan_to_num(trust.over_way(np.asarray([error]), np.asarray([size])), nan=np.inf)
        level = trust.level_of(share[0])
        words = f"at this place it is off by about {trust.percent(share[0])}"
        if not error < correction:
            level = trust.worst(level, "partly")
            words += ", no less than its correction, which says nothing"
        told = {"holds": "should hold", "partly": "should hold in part"}.get(level, level)
        reason = f"{told}: {words}, estimated from {source}"
        number = step if isinstance(step, int) else 0
        return Validity("estimated", np.asarray([number]), share, None, level, reason)

    def _neighbours(self) -> list[tuple[str, "Field"]]:
        """(name, another reading of the same place): of one order more, or of the same order."""
        if self.method.orders is None:
            order = int(self.order) + 1 if self.order != "auto" else "auto"
            return [(f"order {order}", dataclasses.replace(self, order=order))]
        name = "displaced" if self.method.needs_hvp else "taylor"
        other: Any = METHODS[name]
        hvp = self.problem.traceable or self.problem.hvp is not None
        if unfit(other, self.problem, self.optimizer) or (other.needs_hvp and not hvp):
            return []
        return [(f"method {name}", dataclasses.replace(self, method=other, spacing=None))]

    def __repr__(self) -> str:
        rate = "a schedule" if callable(self.learning_rate) else self.learning_rate
        return (
            f"Field({self.kind} of {self.optimizer.name}, method {self.method.name}, order "
            f"{self.order}, learning rate {rate})"
        )

    def truncation(self, step, params: PyTree) -> Truncation:
        """What of the past is told apart at ``step``, with the bound of what is dropped."""
        steps = step + 1 if isinstance(step, int) else None
        optimizer = self.method.seen(self.optimizer, params, None)
        return truncation_of(optimizer, params, self.tolerance, steps)


def _field(
    problem: Problem, optimizer, learning_rate, order, method: str, kind: str, spacing, tolerance
) -> Field:
    """The ``Field`` of a method, or a refusal that says what to use."""
    found, kind = choose(method, kind, order)
    checks.instance("problem", problem, Problem)
    optimizer = as_optimizer(optimizer, learning_rate)
    if not isinstance(found, MemorylessMethod):
        raise ValueError(
            f"method: expected a memoryless method for a field on the parameters, got "
            f"{method!r}, which carries something from step to step; use "
            f"shadow(…, method={method!r})."
        )
    refuse_unfit(found, problem, optimizer, learning_rate, spacing, tolerance)
    return Field(problem, optimizer, learning_rate, found, order, kind, spacing, tolerance)


@checks.hinted
def memoryless_step(
    problem: Problem,
    optimizer: AbstractOptimizer,
    learning_rate,
    *,
    order: int | str = 2,
    method: str = "displaced",
    spacing: float | None = None,
    memory_tolerance: float | None = None,
) -> Field:
    """The memoryless iteration: ``move(step, params)`` → params_{n+1} − params_n.

    θ ← θ − h F_n(θ) − h² F_n^{(1)}(θ) for order 2 (the paper's (11), (63)), the first term
    alone for order 1; with mini-batches F_n has the gradients of the batches that the steps up to
    n saw, all at θ. step: n = 0, 1, …, an int or traced; or "settled".
    order, spacing: any whole number, or "auto", with method="collocation", whose nodes are
        ``spacing`` steps apart (None: the longest mean age).
    memory_tolerance: with mini-batches, the share of a moment's weight that may be dropped from
        the past (None: what rounding hides, 0: nothing); ``move.truncation(step, params)`` has the
        error bound.
    Differentiable and vmappable in params, decays and eps (reverse mode needs an int step). Not
    jitted: jit what you build of it. Raises ValueError for an unknown method or order, and for
    what a method cannot have (mini-batches, a schedule), with the reason.

    >>> import jax.numpy as jnp
    >>> from shadowflow import momentum, sgd
    >>> move = memoryless_step(Problem(lambda x: x**2 / 2), momentum(decay=0.5), 0.1)
    >>> round(float(move("settled", jnp.asarray(1.0))), 6)  # -h (2 g + h 2 β/(1−β) H 2 g)
    -0.24
    """
    return _field(
        problem, optimizer, learning_rate, order, method, "iteration", spacing, memory_tolerance
    )


@checks.hinted
def modified_field(
    problem: Problem,
    optimizer: AbstractOptimizer,
    learning_rate,
    *,
    order: int | str = 2,
    method: str = "displaced",
    spacing: float | None = None,
    memory_tolerance: float | None = None,
) -> Field:
    """The modified equation: ``field(step, params)`` → d params / d time on [step, step + 1).

    θ' = −F_n(θ) − h [F_n^{(1)}(θ) + ½ DF_n(θ) F_n(θ)] for order 2 (the paper's (2)–(3), and with
    mini-batches (9)), the first term alone for order 1. Time is steps × learning rate. Otherwise
    as ``memoryless_step``.

    >>> import jax.numpy as jnp
    >>> from shadowflow import momentum, sgd
    >>> field = modified_field(Problem(lambda x: x**2 / 2), sgd(), 0.1)
    >>> round(float(field("settled", jnp.asarray(1.0))), 6)  # −(g + (h/2) H g)
    -1.05
    """
    return _field(
        problem, optimizer, learning_rate, order, method, "flow", spacing, memory_tolerance
    )
