"""What an optimizer follows: its shadow along a run, its modified equation, its memoryless step."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from . import checks, trust
from .ema_weights import Truncation
from .estimate import estimated
from .following import (
    Pursuit,
    first_order_beside,
    memory_known,
    optimizer_beside,
    pursue,
    same_run,
)
from .methods import choose, planned
from .methods.base import ShadowPlan
from .methods.collocation import past_state
from .optimizers import thresholds
from .optimizers.base import (
    SETTLED,
    AbstractOptimizer,
    State,
    refuse_not_finite,
)
from .problem import Problem
from .running import FollowedRun, Trajectory, followed
from .trust import Validity

STEP_BY_STEP = (
    "there take move = sf.memoryless_step(…) and jax.lax.scan(lambda x, n: (x + move(n, x), x), …)"
)


@dataclass(frozen=True, repr=False)
class Shadow(Trajectory):
    """A Trajectory and its validity; ``verdict`` says in words whether it can be trusted.

    order: the order, also where "auto" chose it. truncation: with mini-batches, what of the past
    was told apart, with the error bound of what was dropped; else None. judged: the validity
    where it was measured, or what estimates it when it is first asked for.
    """

    order: int
    truncation: Truncation | None
    judged: Validity | Callable[[], Validity]

    @functools.cached_property
    def validity(self) -> Validity:
        """How far it is from the optimizer: measured along the run, or estimated without it."""
        return self.judged if isinstance(self.judged, Validity) else self.judged()

    @property
    def summary(self) -> str:
        """Whether it holds, if that is known by now, and which steps there are."""
        known = isinstance(self.judged, Validity) or "validity" in vars(self)
        told = self.validity.summary if known else "not checked"
        return f"{told}; order {self.order}, {super().summary}"

    def describe(self) -> str:
        """The verdict, then which steps there are."""
        return f"{self.verdict}\nOrder {self.order}, {super().summary}."

    def plot(self, axes=None):
        """The distance from the optimizer over the way gone, step by step."""
        return self.validity.plot(axes)

    @property
    def verdict(self) -> str:
        """Whether the shadow holds, with the reason."""
        return self.validity.verdict


@checks.hinted
def settled_state(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    learning_rate,
    *,
    order: int | str = 2,
    spacing: float | None = None,
) -> State:
    """The state that a long run through ``params`` would have: moments on the slow manifold.

    Each moment averages the gradients of the past along the path of that order (method
    "collocation"; order 1: all of them equal ∇E(θ); "auto": the order whose neighbour differs
    least), to O(learning_rate^order). The moments are those before the gradient at ``params`` is
    read; step = ∞, so weights sum to 1. spacing: as in ``memoryless_step``. Full batch;
    1 + (order − 1)² gradients. Raises ValueError for an order below 1, for mini-batches, and for
    decays that are traced.

    >>> import jax.numpy as jnp
    >>> from shadowflow import momentum
    >>> quadratic, heavy_ball = Problem(lambda x: x**2 / 2), momentum(decay=0.5)
    >>> state = settled_state(quadratic, heavy_ball, jnp.asarray(1.0), 0.1)
    >>> round(float(state.moments[0]), 6)  # g + (mean age 2) · h · 2 g
    1.4
    """
    method, kind = choose("collocation", "flow", order)
    run = followed(problem, optimizer, params, learning_rate, 0, SETTLED)
    order = method.prepared(ShadowPlan(run, method, kind, order, spacing)).order
    state = past_state(run.problem, run.optimizer, run.params, learning_rate, order, spacing)
    if not run.traced:
        refuse_not_finite("params", state, run.optimizer)
    return state


@checks.hinted
def shadow(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    learning_rate,
    steps: int,
    *,
    order: int | str = 2,
    method: str = "displaced",
    kind: str | None = None,
    start: Any = 0,
    spacing: float | None = None,
    memory_tolerance: float | None = None,
    curvature: float | None = None,
    keep: Sequence[str | int] | None = None,
    check: bool | Trajectory = True,
    save_every: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> Shadow:
    """What the optimizer follows: ``steps`` steps of its modified flow or memoryless iteration.

    method: "taylor", "displaced", "linearized" (orders 1, 2; kinds "flow", "iteration"),
        "differences" (orders 1, 2; "iteration"; one gradient a step), "collocation" (any order;
        settled, full batch), "inertial" (orders 2 to 4, "flow"; keeps the moments and is the
        accurate one at real decays; of optax transformations those whose state is averages).
        Mini-batches: "taylor" and "displaced".
    kind: None for the flow where the method has one.
    order: "auto", with "collocation", takes the order at which neighbouring orders differ least at
        ``params``, and says so where not even order 2 improves on order 1.
    start: the step number of ``params`` in its run, where the memory's weights begin (0: cold);
        "settled"; or the optimizer's state there, a ``State`` or that of an optax run, which
        "inertial" needs for any start but 0 and "settled".
    spacing, memory_tolerance: as in ``memoryless_step``.
    curvature: if known, the largest eigenvalue that ``shadowflow.curvature`` gives, of the
        matrix that ``flow_threshold`` names: the verdict then says whether the run is past one of
        the optimizer's edges.
    keep: with "inertial" of order 2, the moments that stay states, by name ("mu", "nu") or number;
        the others are eliminated, as the memoryless methods do with all, and a state need not
        have them. None: all; (): none.
    check: True runs the optimizer and its first order along, so that the verdict is measured, at
        the cost of one gradient a step and those of first order; a Trajectory of ``iterate`` with
        the same arguments is taken for the optimizer's own run. False: the optimizer is run when
        the verdict is first read. Where its state at ``start`` is not known the verdict is an
        estimate, from its run after a smooth past (as ``error_bar``'s).
    save_every, progress: as in ``iterate``.

    Returns a ``Shadow``: times and steps as ``iterate``'s, so ``compare`` lays one beside the
    other, and per step the validity with its verdict: it holds within a tenth of the way gone, in
    part within .4 of it and where it is no closer than first order. A non-finite number stops it
    with ``failed_at``; an exception on the way has the Trajectory up to there as its ``partial``.
    Global error on a fixed horizon: C · learning_rate^order. Raises ValueError for unknown names,
    naming those there are, for what a method cannot have, with the reason, and TypeError or
    ValueError for bad input.

    >>> import jax.numpy as jnp
    >>> from shadowflow import iterate, sgd
    >>> quadratic, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> real = iterate(quadratic, sgd(), x, 0.1, 10)
    >>> round(float(real.last), 4)  # 0.9^10; the gradient flow would give 0.3679
    0.3487
    >>> round(float(shadow(quadratic, sgd(), x, 0.1, 10, method="taylor").last), 4)
    0.3499
    """
    if curvature is not None:
        thresholds.check_curvature(optimizer, curvature)
    save_every = checks.count("save_every", save_every, 1)
    run = followed(problem, optimizer, params, learning_rate, steps, start, instead=STEP_BY_STEP)
    plan = planned(
        run,
        method=method,
        order=order,
        kind=kind,
        spacing=spacing,
        memory_tolerance=memory_tolerance,
        keep=keep,
    )
    if not isinstance(check, bool | Trajectory) or isinstance(check, Shadow):
        raise TypeError(
            f"check: expected True, False or a Trajectory of iterate, got {check!r}; False leaves "
            "the optimizer's own run out."
        )
    if progress is not None:
        checks.function("progress", progress)
    return shadowed(run, plan, check, curvature=curvature, save_every=save_every, progress=progress)


def shadowed(
    run: FollowedRun,
    plan: ShadowPlan,
    check: bool | Trajectory = False,
    *,
    first: Trajectory | None = None,
    curvature: float | None = None,
    save_every: int = 1,
    progress: Callable | None = None,
) -> Shadow:
    """The shadow of a plan for a run; first: that of first order, where it was run already."""
    real: Any = check or None
    beside: Any = first
    if isinstance(check, Trajectory):
        real = same_run("check", check, run)
    elif check:
        real = optimizer_beside(run, plan.order) if memory_known(run) else None
    if real is not None and first is None:
        beside = first_order_beside(run, plan)
    found = pursue(plan, save_every, progress, real=real, first=beside)
    path, made, fastest = found.path, plan.run, max(run.rates, default=0.0)
    told = trust.lower_remarks if plan.method.keeps_moments else trust.fixed_remarks
    remarks = [
        *told(plan.order, found.coarser, made.first),
        trust.memory_remark(made, int(path.steps[-1])),
        *plan.remarks,
    ]
    past = trust.past_edge(run.optimizer, fastest, curvature, plan.eliminates, plan.follows)
    judged: Any = functools.partial(estimated, run, plan, path, past, remarks)
    if found.apart is not None:
        judged = _measured(plan, found, [past[1][:1].upper() + past[1][1:], *remarks])
    return Shadow(**vars(path), order=plan.order, truncation=plan.truncation, judged=judged)


def _measured(plan: ShadowPlan, found: Pursuit, remarks: list[str]) -> Validity:
    apart: Any = found.apart
    taken = np.arange(len(apart.way))
    rounding, _ = trust.rounding_of(found.path, plan.run.first + taken + 1, plan.kind == "flow")
    return trust.measured(
        plan.run.first + taken,
        apart.two_norm,
        apart.way,
        apart.first_order if apart.compared else None,
        rounding,
        dtype=jax.tree.leaves(plan.run.params)[0].dtype,
        begun=plan.run.first,
        failed_at=found.path.failed_at,
        real_failed=apart.real_failed,
        remarks=remarks,
    )
