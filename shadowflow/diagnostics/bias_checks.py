"""Whether a predicted bias can be believed: against the memory that an optimizer has, or without.

With a state the effect of memory is known exactly, part by part (``memory_effect``), and what was
predicted is held against it. Without one the prediction is read in other ways that agree with it
to its own order: at displaced gradients, and with gradient differences over the length of a step
in place of Hessian-vector products, which miss the kinks of a loss.
"""

import functools
from collections.abc import Iterable, Mapping

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees, trust
from ..methods.displaced import DisplacedDirection
from ..methods.taylor import Expansion
from ..problem import Problem
from ..trust import Validity, percent
from .memory_effect import labels

SIZE, KINKS, TOGETHER = "its size", "kinks", "all together"
REMEDY = "pass start=state, the optimizer's state there, and the effect of memory is measured"


def doubts(problem: Problem, expansion: Expansion, parts: Mapping[str, PyTree], bias: PyTree):
    """Name → relative error, each an estimate of its own; what rounding explains is left out.

    "its size": twice the bias over the memoryless step, as the next order over it; infinite where
    the gradient is 0, which says nothing of those before it. "kinks": HVP against a gradient
    difference over a step; per part: Taylor's form against the secant's.
    """
    now = expansion.now
    eps, size = float(jnp.finfo(trees.finest_dtype(now.gradient)).eps), trees.norm(now.direction)
    past = sum(now.memory.mean_times()) > 0
    found = {
        SIZE: jnp.where(past & (size == 0), jnp.inf, trust.GROWTH * ratio(trees.norm(bias), size)),
        KINKS: _kinks(problem, expansion, eps),
    }
    displaced = DisplacedDirection(problem, now.optimizer, 0.0)
    there = lambda way: problem.gradient(trees.add(now.params, 1, way))
    change = lambda way: trees.subtract(there(way), now.gradient)
    moments, noise = displaced.own_lines(now, change, 0.0), 4 * eps * size
    others = {}
    for i, name in labels(now.optimizer).items():
        one = tuple(moments[k] if k == i else old for k, old in enumerate(now.moments))
        moved = now.optimizer.direction(one, now.params, now.memory.count)
        others[name] = trees.subtract(now.direction, moved)
        found[name] = relative(parts[name], others[name], noise)
    if len(others) > 1:
        both = (added(parts[name] for name in others), added(others.values()))
        found[TOGETHER] = relative(*both, noise)
    return found


def added(some: Iterable[PyTree]) -> PyTree:
    """The sum of some trees."""
    return functools.reduce(lambda a, b: trees.add(a, 1, b), some)


def _kinks(problem: Problem, expansion: Expansion, eps: float) -> Array:
    """|H F − its central difference over a step| / |H F|."""
    now, rate = expansion.now, expansion.now.memory.rate
    half = jnp.where(rate > 0, rate / 2, 0.5)
    ends = [problem.gradient(trees.add(now.params, side * half, now.direction)) for side in (1, -1)]
    secant = trees.scale(0.5 / half, trees.subtract(*ends))
    noise = 4 * eps * trees.norm(now.gradient) / half
    return relative(expansion.hvp(now.direction), secant, noise)


def relative(predicted: PyTree, other: PyTree, noise: Array | float = 0.0) -> Array:
    """|predicted − other| / |other|, 0 up to ``noise``."""
    gap = trees.norm(trees.subtract(predicted, other))
    return ratio(jnp.where(gap > noise, gap, 0.0), trees.norm(other))


def ratio(size: Array, scale: Array) -> Array:
    """size / scale, 0 of 0 being 0."""
    return jnp.where(size == 0, 0.0, size / scale)


def errors(
    parts: Mapping[str, PyTree], exact: Mapping[str, PyTree], measures, noise: float = 0.0
) -> dict[str, float]:
    """Name → relative error of each part, of them together, and of the net rate of each measure.

    noise: what of a part rounding explains.
    """
    predicted = {name: parts[name] for name in exact}
    found = {name: float(relative(predicted[name], part, noise)) for name, part in exact.items()}
    if len(found) > 1:
        both = added(predicted.values()), added(exact.values())
        found[TOGETHER] = float(relative(*both, noise))
    for measure in measures:
        true, told = sum(measure.exact.values()), sum(measure.rates[name] for name in exact)
        gap = abs(told - true)
        if gap > measure.rounding:
            name = "its rate" if len(found) < 2 else "their rate"
            found[name] = max(found.get(name, 0.0), gap / abs(true) if true else np.inf)
    return found


def estimated(step: int, found: Mapping[str, Array], remarks: list[str]) -> Validity:
    """The validity of a bias whose optimizer's state is not known."""
    shares = {
        name: float(np.nan_to_num(value, nan=np.inf, posinf=np.inf))
        for name, value in found.items()
    }
    worst = max(shares, key=lambda name: shares[name])
    share = shares[worst]
    level = trust.level_of(share)
    told = {"holds": "should hold", "partly": "should hold in part"}.get(level, level)
    words = {
        SIZE: f"the bias is {percent(share / trust.GROWTH)} of the memoryless step"
        if np.isfinite(share)
        else "the gradient is 0 here, which says nothing of those before it",
        KINKS: "Hessian-vector products and gradient differences over the length of a step "
        f"disagree by {percent(shares.get(KINKS, 0.0))}, as at the kinks of a ReLU",
    }
    other = f"read at displaced gradients, what is due to {worst} differs by {percent(share)}"
    cause = KINKS if shares.get(KINKS, 0.0) > trust.HOLDS else worst
    reason = words.get(cause, other.replace("due to all together", "due to memory"))
    if level == "holds":
        reason = f"other readings of it agree within {percent(share)}"
    else:
        remarks = [f"For numbers that hold {REMEDY}", *remarks]
    reason = f"{told}: {reason}, estimated without the optimizer's state"
    return _valid("estimated", step, share, level, reason, remarks)


def measured(step: int, found: Mapping[str, float], remarks: list[str]) -> Validity:
    """The validity of a bias against the effect of the memory that the optimizer has.

    found: name → relative error, of each part, of all of them, and of the net rates told.
    """
    shares = {
        name: float(np.nan_to_num(value, nan=np.inf, posinf=np.inf))
        for name, value in found.items()
    }
    share = max(shares.values(), default=0.0)
    level = trust.level_of(share)
    told = {"partly": "holds in part"}.get(level, level)
    each = ", ".join(f"{name} {percent(value)}" for name, value in shares.items())
    reason = f"{told}: measured against the memory that the optimizer has, it is off by: {each}"
    return _valid("measured", step, share, level, reason, remarks)


def _valid(basis, step: int, share: float, level: str, reason: str, remarks) -> Validity:
    given = np.asarray([step]), np.asarray([share]), None, level, reason
    return Validity(basis, *given, tuple(filter(None, remarks)))
