"""A shadow's own error bar: how far it is from the iterates, estimated without them.

A more accurate shadow is run beside it, and their distance at a step is the error there, as far as
the neighbour's own error is the smaller one; to it comes what the dtype rounds. Where the two
leave the iterates together their distance says nothing, and the verdict says that.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from . import checks
from .convergence import compare
from .fields import chosen
from .methods import METHODS
from .optimizer import Optimizer, State
from .problem import Problem
from .shadow import Shadow, default_kind, shadow
from .transformation import Transformation
from .validity import PARTLY

SHARE = 0.1  # of the way gone: an error beyond it is past what a neighbour can tell
ROUNDING = 0.3  # of eps · |θ| a step: of uniform rounding in iterates and shadow, square mean


@dataclass(frozen=True)
class ErrorBar:
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


def error_bar(problem: Problem, optimizer: Optimizer, params: PyTree, learning_rate, steps: int, *,
              order: int = 2, method: str = "displaced", kind: str | None = None,
              start: int | None = 0, state: State | None = None, spacing: float | None = None,
              save_every: int = 1, follow: Shadow | None = None) -> ErrorBar:  # fmt: skip
    """How far the shadow of these arguments, those of ``shadow``, is from the optimizer's iterates.

    |order p − its neighbour| at every step, in the norms of ``compare``, and eps · |θ| · √steps of
    rounding. The neighbour: for "collocation" the next order; for the other memoryless methods
    with a memory "inertial", whose error is far smaller, without one "collocation" of the next
    order; with mini-batches the next order, of the highest the other of "taylor" and "displaced";
    for "inertial" its next order. It costs what the neighbour costs, and no run of the optimizer.
    follow: the shadow, where it was run already with the same arguments.

    An estimate is not trusted from the step on at which the neighbour does not hold itself, is
    not finite, or is farther away than a tenth of the way gone: what is left there is that the
    shadow has left. Not in it: that a start is less settled than start=None says.

    Raises what ``shadow`` raises, and ValueError where there is no neighbour.

    >>> import jax.numpy as jnp
    >>> from shadowflow import zoo
    >>> from shadowflow.iterate import iterate
    >>> problem, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> bar = error_bar(problem, zoo.momentum(0.5), x, 1e-2, 50, method="taylor")
    >>> real = compare(iterate(problem, zoo.momentum(0.5), x, 1e-2, 50), bar.follow)
    >>> bool(0.5 < bar.two_norm[-1] / real.two_norm[-1] < 2), bar.neighbour
    (True, 'inertial, order 2, flow')
    """
    kind = default_kind(method) if kind is None else kind
    checks.choice("order == 'auto'", order == "auto", (False,))
    chosen(method, kind, order)
    run = problem, optimizer, params, learning_rate, steps
    common: dict[str, Any] = {"start": start, "state": state, "save_every": save_every}
    if follow is None:
        follow = shadow(*run, order=order, method=method, kind=kind, spacing=spacing, **common)
    beside = neighbour(problem, optimizer, method, order, kind)
    if beside[0] == method:
        common["spacing"] = spacing
    if METHODS[beside[0]].settled and start == 0:
        common["start"] = None  # of an optimizer without memory, which is always settled
    other = shadow(*run, order=beside[1], method=beside[0], kind=beside[2], **common)
    return _bar(follow, other, f"{beside[0]}, order {beside[1]}, {beside[2]}")


def neighbour(problem: Problem, optimizer: Optimizer, method: str, order: int,
              kind: str) -> tuple[str, int, str]:  # fmt: skip
    """(method, order, kind) of the shadow that an error is estimated against.

    >>> from shadowflow import zoo
    >>> neighbour(Problem(lambda x: x**2), zoo.adam(), "collocation", 3, "iteration")
    ('collocation', 4, 'iteration')
    """
    found = METHODS[method]
    if found.orders is None or isinstance(optimizer, Transformation):
        return "collocation", order + 1, kind
    if found.keeps_moments or problem.batched:
        if found.offers(order + 1):
            return method, order + 1, kind
        if found.keeps_moments:
            raise ValueError(
                f"order: expected one below {order} for an error bar of method={method!r}, whose "
                "highest it is: no shadow is nearer to the iterates; lay those beside it with "
                "iterate and compare."
            )
        return ("displaced" if method == "taylor" else "taylor"), order, kind
    if not any(moment.has_memory for moment in optimizer.moments):
        return "collocation", order + 1, kind
    above = [better for better in METHODS["inertial"].orders or () if better > order]
    return "inertial", min(above, default=max(METHODS["inertial"].orders or (2,))), "flow"


def _bar(follow: Shadow, other: Shadow, name: str) -> ErrorBar:
    gap = compare(follow, other)
    steps = gap.steps - gap.steps[0]
    eps, size, largest = _scale(follow)
    rounding = ROUNDING * eps * np.sqrt(steps)
    two, most = gap.two_norm + rounding * size, gap.max_norm + rounding * largest
    ratio = other.validity.running_max
    seen = np.clip(steps - 1, 0, max(len(ratio) - 1, 0))
    held = ratio[seen] <= PARTLY if len(ratio) else np.ones(len(steps), bool)
    near = (two <= SHARE * gap.moved) | (steps == 0)
    trusted = np.logical_and.accumulate(np.isfinite(two) & held & near)
    verdict = _verdict(gap.steps, two, trusted, held, name, follow, other)
    return ErrorBar(gap.steps, most, two, rounding * size, trusted, name, verdict, follow)


def _scale(follow: Shadow) -> tuple[float, float, float]:
    """(eps, |θ| in the two-norm, in the max-norm) of a shadow."""
    leaves = jax.tree.leaves(follow.last)
    eps = max(float(np.finfo(leaf.dtype).eps) for leaf in leaves)
    two = float(np.sqrt(sum(np.sum(np.square(leaf, dtype=float)) for leaf in leaves)))
    return eps, two, max(float(np.max(np.abs(leaf), initial=0.0)) for leaf in leaves)


def _verdict(steps, two, trusted, held, name: str, follow: Shadow, other: Shadow) -> str:
    last = f"{two[-1]:.2g} at step {steps[-1]} (two-norm, against {name})"
    if np.all(trusted) and follow.failed_at is None and other.failed_at is None:
        return f"The error is about {last}."
    step = int(steps[np.argmin(trusted)]) if not np.all(trusted) else int(steps[-1])
    if not np.all(held[: np.argmin(trusted) + 1]):
        why = f"there {name} does not hold itself, and both may leave together"
    elif np.all(trusted):
        why = "there one of both stopped at a number that is not finite"
    else:
        why = f"there {name} is farther away than a tenth of the way gone: the shadow has left"
    return f"The error can be estimated up to step {step}: {why}. Read as no more than a sign: {last}."
