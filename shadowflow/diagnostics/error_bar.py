"""A shadow's own error bar: how far it is from the iterates, estimated without them.

A more accurate shadow is run beside it, and their distance at a step is the error there, as far as
the neighbour's own error is the smaller one; to it comes what the dtype rounds. Where the two
leave the iterates together their distance says nothing, and the verdict says that.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import PyTree

from .. import checks, plots
from ..estimate import Estimate, estimate
from ..methods import METHODS, planned
from ..optimizers.base import SETTLED, AbstractOptimizer, Start
from ..plots import Result
from ..problem import Problem
from ..running import FollowedRun, followed
from ..shadow import Shadow, shadowed
from ..trust import LEVELS


@dataclass(frozen=True, repr=False)
class ErrorBar(Result):
    """The estimated distance of a shadow from the iterates, step by step.

    steps: step numbers, int array [saved]; max_norm, two_norm: the estimates, as ``compare`` has
    the distances; rounding: what of the two-norm is the dtype's; trusted: per step whether the
    estimate can be believed, bool [saved]; neighbour: the shadow it was held against, in words;
    verdict: in words; follow: the shadow itself.
    """

    steps: np.ndarray
    max_norm: np.ndarray
    two_norm: np.ndarray
    rounding: np.ndarray
    trusted: np.ndarray
    neighbour: str
    verdict: str
    follow: Shadow

    plot = plots.error_bar


def error_bar(
    problem: Problem,
    optimizer: AbstractOptimizer,
    params: PyTree,
    learning_rate,
    steps: int,
    *,
    order: int = 2,
    method: str = "displaced",
    kind: str | None = None,
    start: Any = 0,
    spacing: float | None = None,
    save_every: int = 1,
    follow: Shadow | None = None,
) -> ErrorBar:
    """How far the shadow of these arguments, those of ``shadow``, is from the optimizer's iterates.

    The estimate at a step is the distance from a more accurate shadow, its neighbour, in the norms
    of ``compare``, and what rounding adds: .3 eps |θ| √steps, or eps |θ| steps / 4 where one of the
    two is a flow. It costs what the neighbour costs, and no run of the optimizer. The neighbour is

    - of "collocation", and of all methods where there is no memory: collocation, the next order;
    - of the other memoryless methods: "inertial", whose error is far smaller;
    - with mini-batches, and of optax transformations that are no averages, the optimizer itself:
      nothing there is of a higher order, and its own run costs less than any shadow;
    - of "inertial": its next order; of the highest, e_{p−1}²/e_{p−2} is the estimate, with e the
      distance from an order to the next.

    follow: the shadow, where it was run already with the same arguments.
    The estimate is trusted until the neighbour's own correction exceeds a tenth of its path, a
    number is not finite, or the two are farther apart than a tenth of the way gone. It leaves out
    that a start may be less settled than ``start="settled"`` says.

    Raises what ``shadow`` raises, and ValueError for order="auto".

    >>> import jax.numpy as jnp
    >>> from shadowflow import compare, iterate, momentum
    >>> problem, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> bar = error_bar(problem, momentum(decay=0.5), x, 1e-2, 50, method="taylor")
    >>> real = compare(iterate(problem, momentum(decay=0.5), x, 1e-2, 50), bar.follow)
    >>> bool(0.5 < bar.two_norm[-1] / real.two_norm[-1] < 2), bar.neighbour
    (True, 'inertial, order 3, flow')
    """
    if order == "auto":
        raise ValueError("order: expected a number, got 'auto'; give the one that shadow chose.")
    save_every = checks.count("save_every", save_every, 1)
    checks.choice("method", method, METHODS)
    instead = (
        "the distance of sf.iterate from jax.lax.scan over sf.memoryless_step(…) can be traced"
    )
    run = followed(problem, optimizer, params, learning_rate, steps, start, instead=instead)
    alone = METHODS[method].needs_settled and run.start.step == 0 and not optimizer.remembers
    settled = dataclasses.replace(run, start=Start(SETTLED, None)) if alone else run
    nodes = spacing if METHODS[method].has_nodes else None
    plan = planned(settled, method=method, order=order, kind=kind, spacing=nodes)
    if follow is None:
        follow = shadowed(settled, plan, save_every=save_every)
    else:
        _fitting(follow, run)
    return _bar(follow, estimate(settled, plan, follow))


def _fitting(follow: Shadow, run: FollowedRun) -> None:
    """A refusal where the steps of ``follow`` are not those of the run."""
    checks.instance("follow", follow, Shadow)
    asked, got = (run.first, run.first + run.steps), (follow.steps[0], follow.steps[-1])
    if got != asked and not (follow.failed_at is not None and got[0] == asked[0]):
        raise ValueError(
            f"follow: expected the shadow of the same arguments, from step {asked[0]} to "
            f"{asked[1]}, got one from {got[0]} to {got[1]}; leave follow out, and it is run here."
        )


def _bar(follow: Shadow, found: Estimate) -> ErrorBar:
    """The estimate with the start before it, where nothing is off yet."""
    whole = follow.failed_at is None and bool(np.all(np.isfinite(found.two_norm)))
    zero = lambda row: np.concatenate([[0.0], row])
    two, most, rounding = map(zero, (found.two_norm, found.max_norm, found.rounding))
    trusted = np.concatenate([[True], found.trusted])
    verdict = _verdict(follow.steps, two, trusted, found, whole)
    given = follow.steps, most, two, rounding, trusted
    return ErrorBar(*given, found.neighbour, verdict, follow)


def _verdict(steps, two, trusted, found: Estimate, whole: bool) -> str:
    known = np.flatnonzero(np.isfinite(two))[-1]
    last = f"{two[known]:.2g} at step {steps[known]} (two-norm, from {found.neighbour})"
    if np.all(trusted) and whole:
        if found.exact:
            return f"The error is {last}."
        if len(found.rounding) and two[-1] < 3 * found.rounding[-1]:
            return f"The error is no larger than rounding: {last}."
        return f"The error is about {last}."
    left = len(steps) - 1 if np.all(trusted) else int(np.argmin(trusted))
    if np.all(trusted) or not np.isfinite(two[left]):
        why = "there one of both met a number that is not finite"
    elif found.past[0] == LEVELS[-1]:
        why = found.past[1]
    elif not found.held[left - 1]:
        why = found.why
    else:
        why = "there it is a tenth of the way gone: the shadow has left"
    return (
        f"The error can be estimated before step {steps[left]}: {why}. After it the "
        f"number is no more than a sign: {last}."
    )
