"""The ways to build the shadow of an optimizer, each declared as class data.

A new way is a class in a file here, named in ``METHODS``. The orders, kinds and needs declared are
what the refusals print, the tests measure and the tables show. A method chosen for a run is a
plan, checked before anything runs.
"""

from typing import Any

from .. import checks
from ..ema_weights import truncation_of
from ..optimizers.base import AbstractOptimizer
from ..problem import Problem
from ..running import FollowedRun
from .base import AbstractMethod, ShadowPlan
from .collocation import Collocation
from .displaced import Differences, Displaced, Linearized
from .inertial import Inertial
from .taylor import Taylor

METHODS: dict[str, AbstractMethod] = {
    method.name: method
    for method in (Taylor(), Displaced(), Linearized(), Differences(), Collocation(), Inertial())
}


def choose(method: str, kind: str | None, order) -> tuple[AbstractMethod, str]:
    """The method and kind of these names; refuse those that it has not, naming what it has."""
    checks.choice("method", method, METHODS)
    found = METHODS[method]
    kind = found.kinds[0] if kind is None else kind
    checks.choice(f"kind (method {method!r})", kind, found.kinds)
    if found.orders is not None:
        checks.choice(f"order (method {method!r})", order, found.orders)
    elif order != "auto":
        checks.count(f"order (method {method!r}; or 'auto')", order, 1)
        if order > found.highest:
            raise ValueError(
                f"order: expected at most {found.highest} for method={method!r}, got {order}, "
                "where the rounding of float64 has outgrown what an order gains; order='auto' "
                "finds the best one."
            )
    return found, kind


def unfit(method: AbstractMethod, problem: Problem, optimizer: AbstractOptimizer) -> str:
    """Why a method cannot follow this optimizer on this problem, and what to do; "" if it can."""
    name, foreign = method.name, not optimizer.closed_form
    if foreign and not method.follows_optax:
        known = [name for name, other in METHODS.items() if other.follows_optax]
        return (
            f"method: expected one of {known} for the optax transformation {optimizer.name}, which "
            f"has no moments, got {name!r}."
        )
    if problem.batched and foreign and not method.batches_optax:
        known = [name for name, other in METHODS.items() if other.batches_optax]
        return (
            f"method: expected one of {known} for the optax transformation {optimizer.name} on "
            f"mini-batches, got {name!r}; or pass problem.full_batch() for the full batch."
        )
    if problem.batched and method.full_batch:
        return (
            f"method: expected one that takes mini-batches, got {name!r}: {method.full_batch}, or "
            "problem.full_batch() for the full batch."
        )
    if method.needs_hvp and not problem.traceable and problem.hvp is None:
        known = [name for name, other in METHODS.items() if not other.needs_hvp]
        return (
            f"hvp: expected a Hessian-vector product for method={name!r} of a host function, got "
            f"None; pass hvp= to Problem, or method= one of {known}, which need gradients only."
        )
    return ""


def refuse_unfit(
    method: AbstractMethod, problem: Problem, optimizer, learning_rate, spacing, memory_tolerance
) -> None:
    """ValueError where the method cannot have the optimizer, the problem or one of the options."""
    if reason := unfit(method, problem, optimizer):
        raise ValueError(reason)
    if method.needs_settled and callable(learning_rate):
        raise ValueError(
            f"learning_rate: expected a number for method={method.name!r}, got a schedule; use "
            "method='displaced' or 'differences'."
        )
    if spacing is not None and not method.has_nodes:
        raise ValueError(
            f"spacing: expected None for method={method.name!r}, which has no nodes, got "
            f"{spacing!r}; it belongs to method='collocation'."
        )
    if memory_tolerance is None:
        return
    checks.number("memory_tolerance", memory_tolerance, least=0, below=1)
    if not problem.batched:
        raise ValueError(
            f"memory_tolerance: expected None for a full-batch problem, got {memory_tolerance!r}; "
            "its weights have closed forms, so nothing needs to be dropped."
        )


def planned(
    run: FollowedRun,
    method: str,
    order: int | str,
    kind: str | None = None,
    spacing: float | None = None,
    memory_tolerance: float | None = None,
    keep: Any = None,
) -> ShadowPlan:
    """The ``ShadowPlan`` of a method for a run; ValueError for what it cannot have, and why."""
    found, kind = choose(method, kind, order)
    problem, optimizer = run.problem, run.optimizer
    refuse_unfit(found, problem, optimizer, run.learning_rate, spacing, memory_tolerance)
    if found.needs_settled and run.start.step == 0 and optimizer.remembers:
        raise ValueError(
            "start: expected 'settled', or a step by which the memory has settled, got 0: "
            f"method={found.name!r} describes a settled memory; pass start='settled', with the run "
            "begun in settled_state(…, order=…), or start from within a run."
        )
    if keep is not None and not found.keeps_moments:
        raise ValueError(
            f"keep: expected None for method={method!r}, got {keep!r}; only method='inertial' "
            "keeps moments as states."
        )
    cut = None
    if problem.batched:
        seen = found.seen(optimizer, run.params, run.start.state)
        cut = truncation_of(seen, run.params, memory_tolerance, run.end)
    return found.prepared(ShadowPlan(run, found, kind, order, spacing, cut, keep))
