"""A shadow's error bar: how far it is from the iterates, step by step.

The optimizer's own run tells, which costs less than any shadow. Where its state is not known that
is a guess, made of a smooth past, and the bar says as far as which step it can be believed.
"""

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import PyTree

from .. import checks, plots
from ..estimate import Estimate, estimate
from ..methods import planned
from ..optimizers.base import AbstractOptimizer
from ..plots import Result
from ..problem import Problem
from ..running import FollowedRun, followed
from ..shadow import Shadow, shadowed


@dataclass(frozen=True, repr=False)
class ErrorBar(Result):
    """The distance of a shadow from the iterates, step by step, estimated where it must be.

    steps: step numbers, int array [saved]; max_norm, two_norm: the distances, as ``compare`` has
    them; rounding: what of the two-norm is the dtype's; trusted: per step whether they can be
    believed, bool [saved]; source: the run that they are from, in words; verdict: in words;
    follow: the shadow itself.
    """

    steps: np.ndarray
    max_norm: np.ndarray
    two_norm: np.ndarray
    rounding: np.ndarray
    trusted: np.ndarray
    source: str
    verdict: str
    follow: Shadow

    plot = plots.error_bar


@checks.hinted
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

    In the norms of ``compare``, from the optimizer's own run, of one gradient a step: exact where
    its state at ``start`` is known, as at 0, when settled and of a State. At the number of a step
    alone it is run from the state that a smooth past would have left, each average having read
    its gradients on the straight way to ``params``. With d the distance of that run from the one
    whose past gradients all were the present one, d² over the way gone is added for the past, and
    for rounding .3 eps |θ| √steps, or eps |θ| steps / 4 of a flow. This can be trusted as long as
    it is within a tenth of the way gone. It cannot know of a past that was not smooth, as beside
    a kink. With mini-batches, and of optax transformations that are no averages, a state is needed.

    follow: the shadow, where it was run already with the same arguments.
    Raises what ``shadow`` raises, and ValueError for order="auto".

    >>> import jax.numpy as jnp
    >>> from shadowflow import compare, iterate, momentum
    >>> problem, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> bar = error_bar(problem, momentum(decay=0.5), x, 1e-2, 50, method="taylor")
    >>> real = compare(iterate(problem, momentum(decay=0.5), x, 1e-2, 50), bar.follow)
    >>> bool(bar.two_norm[-1] == real.two_norm[-1]), bar.source
    (True, "the optimizer's own run")
    """
    if order == "auto":
        raise ValueError("order: expected a number, got 'auto'; give the one that shadow chose.")
    save_every = checks.count("save_every", save_every, 1)
    instead = (
        "the distance of sf.iterate from jax.lax.scan over sf.memoryless_step(…) can be traced"
    )
    run = followed(problem, optimizer, params, learning_rate, steps, start, instead=instead)
    plan = planned(run, method=method, order=order, kind=kind, spacing=spacing)
    if follow is not None:
        _fitting(follow, run)
        return _bar(follow, estimate(run, plan, follow))
    follow = shadowed(run, plan, save_every=save_every)
    found = estimate(run, plan, follow)
    judged: Any = functools.partial(cast(Callable, follow.judged), found=found)
    return _bar(dataclasses.replace(follow, judged=judged), found)


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
    return ErrorBar(*given, found.source, verdict, follow)


def _verdict(steps, two, trusted, found: Estimate, whole: bool) -> str:
    known = np.flatnonzero(np.isfinite(two))[-1]
    last = f"{two[known]:.2g} at step {steps[known]} (two-norm, from {found.source})"
    if found.exact and not whole:
        why = "there one of both met a number that is not finite"
        if not known:
            return f"Nothing can be said of the error from step {steps[0]} on: {why}."
        return f"The error is {last}; beyond it is not known, as {why}."
    if np.all(trusted) and whole:
        if len(found.rounding) and two[-1] < 3 * found.rounding[-1]:
            return f"The error is no larger than rounding: {last}."
        if found.exact:
            return f"The error is {last}."
        return f"The error is about {last}."
    left = len(steps) - 1 if np.all(trusted) else int(np.argmin(trusted))
    if found.why and not np.any(np.isfinite(two[1:])):
        why = found.why
    elif np.all(trusted) or not np.isfinite(two[left]):
        why = "there one of both met a number that is not finite"
    elif not found.held[left - 1]:
        why = found.why
    else:
        why = "there it is a tenth of the way gone: the shadow has left"
    return (
        f"The error can be estimated before step {steps[left]}: {why}. After it the "
        f"number is no more than a sign: {last}."
    )
