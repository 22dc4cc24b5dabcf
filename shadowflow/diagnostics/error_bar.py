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

from .. import checks, plots, trees
from ..methods import METHODS, choose, planned
from ..optimizers.base import SETTLED, AbstractOptimizer, Start
from ..plots import Result
from ..problem import Problem
from ..running import FollowedRun, followed
from ..shadow import Shadow, shadowed
from ..trust import HOLDS
from .convergence import compare

SHARE = 0.1  # of the way gone: an error beyond it is past what a neighbour can tell
ROUNDING = 0.3  # of eps · |θ| √steps: the same increments round alike, what is left is random
BIASED = 0.25  # of eps · |θ| · steps: a flow's increments round otherwise, but alike at every step


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
    - with mini-batches and optax transformations: the next order, of the highest one "taylor" for
      "displaced" and the reverse;
    - of "inertial": its next order; of the highest, e_{p−1}²/e_{p−2} is the estimate, with e the
      distance from an order to the next.

    follow: the shadow, where it was run already with the same arguments.
    The estimate is trusted until the neighbour's own verdict fails, a number is not finite, or the
    two are farther apart than a tenth of the way gone. It leaves out that a start may be less
    settled than ``start="settled"`` says, and an error that the orders 3 and 4 of "inertial" have
    in common in the first steps of a cold run.

    Raises what ``shadow`` raises, and ValueError for order="auto".

    >>> import jax.numpy as jnp
    >>> from shadowflow import iterate, momentum
    >>> problem, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> bar = error_bar(problem, momentum(decay=0.5), x, 1e-2, 50, method="taylor")
    >>> real = compare(iterate(problem, momentum(decay=0.5), x, 1e-2, 50), bar.follow)
    >>> bool(0.5 < bar.two_norm[-1] / real.two_norm[-1] < 2), bar.neighbour
    (True, 'inertial, order 3, flow')
    """
    if order == "auto":
        raise ValueError("order: expected a number, got 'auto'; give the one that shadow chose.")
    _, kind = choose(method, kind, order)
    save_every = checks.count("save_every", save_every, 1)
    own = followed(problem, optimizer, params, learning_rate, steps, start)

    def run(method: str, order: int, kind: str) -> Shadow:
        alone = METHODS[method].needs_settled and own.start.step == 0 and not optimizer.remembers
        settled = dataclasses.replace(own, start=Start(SETTLED, None)) if alone else own
        nodes = spacing if METHODS[method].has_nodes else None
        plan = planned(settled, method=method, order=order, kind=kind, spacing=nodes)
        return shadowed(plan, save_every=save_every)

    follow = run(method, order, kind) if follow is None else _fitting(follow, own)
    beside = neighbours(own.problem, own.optimizer, method, order, kind)
    others = [run(*name) for name in beside]
    name = " and ".join(", ".join((name, f"order {order}", kind)) for name, order, kind in beside)
    flow = "flow" in (kind, beside[0][2])
    return _bar(follow, others, name, flow)


def _fitting(follow: Shadow, run: FollowedRun) -> Shadow:
    """``follow``, or a refusal where its steps are not those of the run."""
    checks.instance("follow", follow, Shadow)
    asked, got = (run.first, run.first + run.steps), (follow.steps[0], follow.steps[-1])
    if got != asked and not (follow.failed_at is not None and got[0] == asked[0]):
        raise ValueError(
            f"follow: expected the shadow of the same arguments, from step {asked[0]} to "
            f"{asked[1]}, got one from {got[0]} to {got[1]}."
        )
    return follow


def neighbours(
    problem: Problem, optimizer: AbstractOptimizer, method: str, order: int, kind: str
) -> list[tuple[str, int, str]]:
    """(method, order, kind) of what an error is estimated against: one above, or two below.

    >>> from shadowflow import adam
    >>> neighbours(Problem(lambda x: x**2), adam(), "collocation", 3, "iteration")
    [('collocation', 4, 'iteration')]
    """
    found = METHODS[method]
    if found.orders is None or (not problem.batched and not optimizer.remembers):
        return [("collocation", order + 1, kind)]
    if found.keeps_moments or problem.batched or not optimizer.closed_form:
        if found.offers(order + 1):
            return [(method, order + 1, kind)]
        if found.keeps_moments:
            return [(method, order - 1, kind), (method, order - 2, kind)]
        return [("displaced" if method == "taylor" else "taylor", order, kind)]
    orders = METHODS["inertial"].orders or ()
    return [("inertial", min(better for better in orders if better > order), "flow")]


@np.errstate(over="ignore", invalid="ignore")  # of what diverges, which is not trusted
def _bar(follow: Shadow, others: list[Shadow], name: str, flow: bool) -> ErrorBar:
    gap = compare(follow, others[0])
    share = np.ones(len(gap.steps))
    if len(others) > 1:
        below = compare(*others).two_norm[: len(share)]
        ratio = gap.two_norm[: len(below)] / np.where(below > 0, below, np.inf)
        share[: len(below)] = np.minimum(1.0, ratio)
    steps = gap.steps - gap.steps[0]
    last, eps = trees.flat_rows(trees.row(follow.params, [-1])), trees.coarsest_eps(follow.params)
    size, largest = np.linalg.norm(last), np.max(np.abs(last), initial=0.0)
    parts = eps * (BIASED * steps if flow else ROUNDING * np.sqrt(steps))
    rounding = parts * size
    two, most = share * gap.two_norm + rounding, share * gap.max_norm + parts * largest
    ratio = others[0].validity.running_max
    seen = np.clip(steps - 1, 0, max(len(ratio) - 1, 0))
    held = ratio[seen] <= HOLDS if len(ratio) else np.ones(len(steps), bool)
    near = (two <= SHARE * gap.moved) | (steps == 0)
    trusted = np.logical_and.accumulate(np.isfinite(two) & held & near)
    whole = len(steps) == len(follow.steps) and follow.failed_at is None
    verdict = _verdict(gap.steps, two, rounding, trusted, held, name, whole)
    return ErrorBar(gap.steps, most, two, rounding, trusted, name, verdict, follow)


def _verdict(steps, two, rounding, trusted, held, name: str, whole: bool) -> str:
    last = f"{two[-1]:.2g} at step {steps[-1]} (two-norm, from {name})"
    if np.all(trusted) and whole:
        if two[-1] < 3 * rounding[-1]:
            return f"The error is no larger than rounding: {last}."
        return f"The error is about {last}."
    left = len(steps) - 1 if np.all(trusted) else int(np.argmin(trusted))
    if np.all(trusted):
        why = "there one of both met a number that is not finite"
    elif not held[left]:
        why = "there the neighbour does not hold itself, and both may leave together"
    else:
        why = "there it is a tenth of the way gone: the shadow has left"
    return (
        f"The error can be estimated before step {steps[left]}: {why}. After it the "
        f"number is no more than a sign: {last}."
    )
