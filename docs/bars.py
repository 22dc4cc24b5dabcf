"""How good the error bars are: over a table of problems, the estimate against the real error."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from shadowflow.diagnostics.comparison import compare
from shadowflow.diagnostics.error_bar import error_bar
from shadowflow.iterate import iterate
from shadowflow.lab.models import bilinear_problem, digits_problem
from shadowflow.optimizers import zoo
from shadowflow.paper.ways import Way
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state

WITHIN = 3.0
STEPS = 100
SETTLED_ORDER = 5  # of the start: above every order that is followed from it


def _waves(x):
    coupled = 0.5 * x[1] * x[2] + jnp.sin(x[0] * x[2])
    return 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2 + 0.3 * x[2] ** 4 + coupled


PROBLEMS: dict[str, Callable[[], tuple[Problem, Any]]] = {
    "bilinear": bilinear_problem,
    "waves": lambda: (Problem(_waves), jnp.array([0.9, 1.4, -0.7])),
    "digits": digits_problem,
}
OPTIMIZERS = {
    "momentum .9": zoo.momentum(decay=0.9),
    "adam .9 .95": zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6),
    "adam .9 .999": zoo.adam(b1=0.9, b2=0.999),
    "adam .5 .7": zoo.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=1e-2),
    "lion .9 .99": zoo.lion(b1=0.9, b2=0.99, eps_root=1e-4),
}
WAYS = {
    "cold": (
        Way("taylor", 1, "flow"),
        Way("taylor", 2, "flow"),
        Way("displaced", 2, "flow"),
        Way("differences", 2, "iteration"),
        Way("inertial", 2, "flow"),
        Way("inertial", 3, "flow"),
    ),
    "settled": (
        Way("displaced", 2, "iteration"),
        Way("collocation", 2, "iteration"),
        Way("collocation", 3, "iteration"),
        Way("collocation", 4, "iteration"),
        Way("collocation", 3, "flow"),
        Way("inertial", 2, "flow"),
    ),
}


class BarCase(NamedTuple):
    """A run, and the way in which it is followed; start: "cold" or "settled"."""

    problem: str
    optimizer: str
    rate: float
    dtype: str
    start: str
    way: Way


def cases(
    problems: Sequence[str] = tuple(PROBLEMS),
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    rates: Sequence[float] = (1e-5, 1e-4, 1e-3, 1e-2),
    dtypes: Sequence[str] = ("float32", "float64"),
) -> list[BarCase]:
    """The table: every method from the start that it is for.

    Where gradients are about 100 (bilinear), rates of what steps by the gradient are a thousand
    times smaller. Left out: a memory of .999, to which no settled start of 100 steps is true.
    """
    return [
        BarCase(problem, name, rate * (1e-3 if steep else 1.0), dtype, start, way)
        for problem in problems
        for name in optimizers
        for steep in [problem == "bilinear" and name.startswith("momentum")]
        for dtype in dtypes
        for rate in rates
        for start, ways in WAYS.items()
        if start == "cold" or name != "adam .9 .999"
        for way in ways
    ]


def measured(
    table: Sequence[BarCase], tell: Callable[[str], Any] = lambda text: None
) -> list[dict[str, Any]]:
    """Per case estimate, real error (two-norm, after ``STEPS`` steps), rounding and trust.

    Cases whose optimizer or shadow meets a number that is not finite are left out.
    """
    rows = []
    with jax.enable_x64(True):
        for run, group in itertools.groupby(table, lambda case: case[:-1]):
            tell(" ".join(map(str, run)))
            rows += _of_one_run(list(group))
    return rows


def _of_one_run(group: list[BarCase]) -> Iterator[dict[str, Any]]:
    """The rows of cases that differ in the shadow alone."""
    first = group[0]
    names = {name: getattr(first, name) for name in BarCase._fields if name != "way"}
    problem, params = PROBLEMS[first.problem]()
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, first.dtype), params)
    run = problem, OPTIMIZERS[first.optimizer], params, first.rate
    begin: dict[str, Any] = {}
    if first.start == "settled":
        begin = {"start": settled_state(*run, order=SETTLED_ORDER)}
    real = iterate(*run, STEPS, **begin)
    for case in group:
        with np.errstate(over="ignore"):  # of what diverges, before it is not finite
            bar = error_bar(*run, STEPS, **case.way._asdict(), **begin)
            gap = compare(real, bar.follow)
        if not len(gap.steps) == len(bar.steps) == STEPS + 1:
            continue
        found = {
            "estimate": float(bar.two_norm[-1]),
            "error": float(gap.two_norm[-1]),
            "moved": float(gap.moved[-1]),
            "rounding": float(bar.rounding[-1]),
            "trusted": bool(bar.trusted[-1]),
        }
        if math.isfinite(found["estimate"]) and math.isfinite(found["error"]):
            yield {**names, **case.way._asdict(), **found}


def ratio(row: dict) -> float:
    """Estimate over real error; an error below the dtype's rounding counts as that."""
    return row["estimate"] / max(row["error"], row["rounding"])


def summary(rows: Sequence[dict]) -> dict[str, float]:
    """How many; the shares within a factor of 3, too small, too large; the median ratio.

    >>> made = {"error": 1.0, "rounding": 0.1}
    >>> found = summary([made | {"estimate": value} for value in (0.1, 1.0, 2.0, 9.0)])
    >>> found["within"], found["small"], found["large"]
    (0.5, 0.25, 0.25)
    """
    found = np.array([ratio(row) for row in rows], float)
    if not len(found):
        return {"count": 0}
    return {
        "count": len(found),
        "within": float(np.mean(abs(np.log(found)) <= np.log(WITHIN))),
        "small": float(np.mean(found < 1 / WITHIN)),
        "large": float(np.mean(found > WITHIN)),
        "median": float(np.median(found)),
    }
