"""The modified equation and the memoryless iteration as functions of a step and the parameters."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import batch_memory as history, checks, ema_weights as mem, trees
from .batch_memory import Window
from .iterate import refuse_schedule
from .methods import METHODS, Method
from .optimizers.from_optax import Transformation
from .optimizers.moments import Optimizer, State
from .problem import Problem


def chosen(method: str, kind: str, order) -> Method:
    """The method of that name; refuse unknown names, kinds and orders, naming those there are."""
    checks.choice("method", method, METHODS)
    found = METHODS[method]
    checks.choice(f"kind (method {method!r})", kind, found.kinds)
    if found.orders is not None:
        checks.choice(f"order (method {method!r})", order, found.orders)
    elif order != "auto":
        checks.count(f"order (method {method!r}; or 'auto')", order, 1)
    return found


def conditions(
    method: Method, problem: Problem, optimizer: Optimizer, learning_rate, spacing
) -> None:
    """Refuse mini-batches, a schedule or a spacing of nodes where the method cannot have them, and
    what an optax transformation cannot have."""
    checks.learning_rate(learning_rate)
    if isinstance(optimizer, Transformation):
        refuse_transformation(method, problem, optimizer)
        refuse_schedule(optimizer, learning_rate)
    if problem.batched and method.full_batch:
        raise ValueError(
            f"method: expected one that takes mini-batches, got {method.name!r}: "
            f"{method.full_batch}, or problem.whole() for the full batch."
        )
    if method.constant and callable(learning_rate):
        raise ValueError(
            f"learning_rate: expected a number for method={method.name!r}, got a schedule; use "
            "method='displaced' or 'differences'."
        )
    if spacing is not None and method.build is None:
        raise ValueError(
            f"spacing: expected None for method={method.name!r}, which has no nodes, got "
            f"{spacing!r}; it belongs to method='collocation'."
        )


@dataclass(frozen=True, eq=False)
class Field:
    """``field(step, params)``: what a memoryless method says of one step, at any place.

    step: n = 0, 1, …, an int or traced; None: settled (refused with mini-batches).
    """

    problem: Problem
    optimizer: Optimizer
    learning_rate: float | Array | Callable
    direction: Callable
    method: str
    kind: str
    first: bool
    tolerance: float | None

    def __call__(self, step: Any, params: PyTree) -> PyTree:
        if isinstance(step, (int, float, np.number)):
            step = checks.count("step", step)
        history.refuse_settled(self.problem, "step", step)
        if METHODS[self.method].settled and step is not None:
            raise ValueError(
                f"step: expected None (settled) for method={self.method!r}, got {step}; before the "
                "memory has settled use method='displaced' or 'taylor'."
            )
        params, problem = jax.tree.map(jnp.asarray, params), self.problem
        dtype = trees.finest_dtype(params)
        kept = self.window(step, dtype).steps if problem.batched else None
        if problem.batched and isinstance(step, int):
            problem = problem.tabulated(step + 1)
        memory = mem.at(self.optimizer, self.learning_rate, step, dtype, kept)
        phase, scale = (0.0, -memory.rate) if self.kind == "iteration" else (0.5, -1.0)
        pair = self.direction(problem, self.optimizer, memory, params, phase)
        return trees.scale(scale, pair[0] if self.first else pair[1])

    def window(self, step, dtype=None) -> Window:
        """What of the past is told apart at ``step``, with the bound of what is dropped."""
        steps = step + 1 if isinstance(step, int) else None
        dtype = trees.real_dtype() if dtype is None else dtype
        return history.window_of(self.optimizer, dtype, self.tolerance, steps)


def field_of(
    problem: Problem,
    optimizer: Optimizer,
    learning_rate,
    order,
    method: str,
    kind: str,
    spacing,
    window,
) -> Field:
    """The ``Field`` of a method, or a refusal that says what to use."""
    found = chosen(method, kind, order)
    checks.instance("problem", problem, Problem)
    checks.instance("optimizer", optimizer, Optimizer)
    if not found.is_field:
        raise ValueError(
            f"method: expected a memoryless method for a field on the parameters, got "
            f"{method!r}, which carries something from step to step; use "
            f"shadow(…, method={method!r})."
        )
    conditions(found, problem, optimizer, learning_rate, spacing)
    refuse_window(problem, window)
    return Field(
        problem,
        optimizer,
        learning_rate,
        direction_of(found, problem, optimizer, order, spacing),
        method,
        kind,
        order == 1,
        window,
    )


def direction_of(
    method: Method,
    problem: Problem,
    optimizer: Optimizer,
    order,
    spacing,
    origin: State | None = None,
) -> Callable:
    """The direction function of a method that is a field; origin: where the run of a state map
    began, None: fresh, at step 0."""
    if isinstance(optimizer, Transformation):
        assert method.of_state_map is not None
        return method.of_state_map(optimizer, order, spacing, origin)
    if method.build is not None:
        return method.build(optimizer, order, spacing)
    found = method.batched if problem.batched else method.direction
    assert found is not None
    return jax.tree_util.Partial(found)


def refuse_transformation(method: Method, problem: Problem, optimizer: Optimizer) -> None:
    """Refuse a method that needs moments, and mini-batches, for an optax transformation."""
    can = lambda m: m.of_state_map is not None or m.keeps_moments
    if not can(method):
        able = [name for name, other in METHODS.items() if can(other)]
        raise ValueError(
            f"method: expected one of {able} for the optax transformation {optimizer.name}, which "
            f"has no moments, got {method.name!r}."
        )
    if problem.batched:
        raise ValueError(
            f"problem: expected a full batch for the optax transformation {optimizer.name}, got "
            "mini-batches; pass problem.whole(), or an Optimizer(moments, combine)."
        )


def refuse_window(problem: Problem, window) -> None:
    """Refuse a window where no past steps are told apart, and one that is no share of a weight."""
    if window is None:
        return
    checks.number("window", window, least=0, below=1)
    if not problem.batched:
        raise ValueError(
            f"window: expected None for a full-batch problem, got {window!r}; its weights have "
            "closed forms, so nothing needs to be dropped."
        )


def memoryless_step(
    problem: Problem,
    optimizer: Optimizer,
    learning_rate,
    *,
    order: int | str = 2,
    method: str = "taylor",
    spacing: float | None = None,
    window: float | None = None,
) -> Field:
    """The memoryless iteration: ``move(step, params)`` → params_{n+1} − params_n.

    θ ← θ − h F_n(θ) − h² F_n^{(1)}(θ) for order 2 (the paper's (11), (63)), the first term
    alone for order 1; with mini-batches F_n has the gradients of the batches that the steps up to
    n saw, all at θ. step: n = 0, 1, …, an int or traced; None: settled.
    order, spacing: any whole number, or "auto", with method="collocation", whose nodes are
        ``spacing`` steps apart (None: the longest mean age).
    window: with mini-batches, the share of a moment's weight that may be dropped from the past
        (None: what rounding hides, 0: nothing); ``move.window(step)`` has the error bound.
    Differentiable and vmappable in params, decays and eps (reverse mode needs an int step). Not
    jitted: jit what you build of it. Raises ValueError for an unknown method or order, and for
    what a method cannot have (mini-batches, a schedule), with the reason.

    >>> import jax.numpy as jnp
    >>> from shadowflow import zoo
    >>> move = memoryless_step(Problem(lambda x: x**2 / 2), zoo.momentum(0.5), 0.1)
    >>> round(float(move(None, jnp.asarray(1.0))), 6)  # -h (2 g + h 2 β/(1−β) H 2 g)
    -0.24
    """
    return field_of(problem, optimizer, learning_rate, order, method, "iteration", spacing, window)


def modified_field(
    problem: Problem,
    optimizer: Optimizer,
    learning_rate,
    *,
    order: int | str = 2,
    method: str = "taylor",
    spacing: float | None = None,
    window: float | None = None,
) -> Field:
    """The modified equation: ``field(step, params)`` → d params / d time on [step, step + 1).

    θ' = −F_n(θ) − h [F_n^{(1)}(θ) + ½ DF_n(θ) F_n(θ)] for order 2 (the paper's (2)–(3), and with
    mini-batches (9)), the first term alone for order 1. Time is steps × learning rate. Otherwise
    as ``memoryless_step``.

    >>> import jax.numpy as jnp
    >>> from shadowflow import zoo
    >>> field = modified_field(Problem(lambda x: x**2 / 2), zoo.sgd(), 0.1)
    >>> round(float(field(None, jnp.asarray(1.0))), 6)  # −(g + (h/2) H g)
    -1.05
    """
    return field_of(problem, optimizer, learning_rate, order, method, "flow", spacing, window)
