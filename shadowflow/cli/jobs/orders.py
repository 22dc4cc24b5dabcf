"""How far the order can be driven: error against order and step size, and where a method leaves."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...diagnostics.convergence import compare
from ...diagnostics.curvature import curvature
from ...files import writable, write_json
from ...iterate import iterate
from ...methods import METHODS
from ...optimizers.base import State
from ...optimizers.moments import Optimizer
from ...optimizers.thresholds import flow_threshold, stability_threshold
from ...problem import Problem
from ...running import Trajectory
from ...shadow import shadow
from . import formatting as words

DEFINITION = (
    f"A method has left at the first step at which its distance from the iterates (two-norm) is "
    f"more than {words.LEFT:.0%} of the way they have gone by then."
)
SAVED, LOOKS = 1000, 12


@dataclass(frozen=True)
class Line:
    """A method at an order, in one kind."""

    method: str
    order: int
    kind: str

    @property
    def name(self) -> str:
        """The key of its numbers, and its name in tables and pictures."""
        family = "first order" if self.order == 1 else f"{self.method} {self.order}"
        return f"{family}, {self.kind}"


@dataclass(frozen=True)
class Plan:
    """What is measured: of the sweep over step sizes, and of the long run.

    warm: steps of the optimizer before the stretch of ``steps`` at each of ``rates`` begins; at,
    far: the step size and length of the long run, which begins cold; either may be left out.
    """

    lines: tuple[Line, ...]
    rates: tuple[float, ...] = ()
    warm: int = 150
    steps: int = 100
    at: float = 1e-3
    far: int = 0
    run: dict[str, Any] = field(default_factory=dict)


def lines(methods: Sequence[str], orders: Sequence[int], problem: Problem) -> tuple[Line, ...]:
    """Every method at every one of the orders that it has: its iteration, else its flow.

    Order 1, which the memoryless methods share, once.
    """
    chosen = [
        METHODS[name] for name in methods if not (problem.batched and METHODS[name].full_batch)
    ]
    kind = lambda method: "iteration" if "iteration" in method.kinds else "flow"
    first = [Line(m.name, 1, kind(m)) for m in chosen if 1 in orders and m.offers(1)][:1]
    rest = [
        Line(m.name, order, kind(m))
        for order in orders
        for m in chosen
        if order > 1 and m.offers(order)
    ]
    return (*first, *rest)


def orders_job(
    plan: Plan, problem: Problem, optimizer: Optimizer, params: PyTree, *, out: Path, quiet: bool
) -> None:
    """Measure, print tables, and write numbers.json and figure.png, after every run anew."""
    writable(out)
    found = {
        "run": plan.run,
        "definition": DEFINITION,
        "edges": edges(optimizer),
        "lines": [dataclasses.asdict(line) | {"name": line.name} for line in plan.lines],
        "steps": plan.steps,
        "warm": plan.warm,
        "sweep": [],
        "long": None,
    }
    from .orders_figure import draw

    def keep() -> None:
        write_json(out / "numbers.json", found)
        draw(found, out / "figure.png")

    tell = (lambda text: None) if quiet else (lambda text: print(text, flush=True))
    for rate in plan.rates:
        found["sweep"].append(at_rate(plan, problem, optimizer, params, rate))
        tell(f"  learning rate {rate:.2g} done")
    if plan.rates:
        keep()
        print("\n".join(sweep_table(found)))
    if plan.far:
        far_run(plan, problem, optimizer, params, found, lambda text: (keep(), tell(text)))
        print("\n".join(far_table(found)))
    print(f"\n{DEFINITION}\nWritten to {out}: figure.png, numbers.json")


def edges(optimizer: Optimizer) -> dict[str, float]:
    """Name → learning rate × curvature of the edges."""
    return {
        "flow edge": flow_threshold(optimizer),
        "stability edge": stability_threshold(optimizer),
    }


def at_rate(
    plan: Plan, problem: Problem, optimizer: Optimizer, params: PyTree, rate: float
) -> dict[str, Any]:
    """One step size: the curvature at the start of the stretch, every line's error and step."""
    before = iterate(problem, optimizer, params, rate, plan.warm, save_every=max(1, plan.warm))
    if before.failed_at is not None:
        return {"rate": rate, "curvature": None, "lines": {}}
    start = jax.tree.map(jnp.asarray, before.last)
    real = iterate(problem, optimizer, start, rate, plan.steps, start=before.state)
    curved = curvature(problem, optimizer, start, state=before.state)
    found = {}
    for line in plan.lines:
        ended = _followed(line, problem, optimizer, start, rate, real, before.state, 1)
        found[line.name] = {
            "error": ended["shares"][-1] if ended["whole"] else float("inf"),
            "left": ended["left"],
        }
    return {"rate": rate, "curvature": curved, "lines": found}


def far_run(
    plan: Plan,
    problem: Problem,
    optimizer: Optimizer,
    params: PyTree,
    found: dict[str, Any],
    after: Callable[[str], Any],
) -> None:
    """The long run from a cold start, into ``found["long"]``, line by line.

    Methods that describe a settled memory take it for settled from the start.
    """
    every = max(1, plan.far // SAVED)
    real = iterate(problem, optimizer, params, plan.at, plan.far, save_every=every)
    whole = compare(real, real)
    long: dict[str, Any] = {
        "rate": plan.at,
        "steps": whole.steps,
        "moved": whole.moved,
        "curvature": _along(plan, problem, optimizer, params),
        "lines": {},
        "loss": [_loss(problem, real, index) for index in (0, -1)],
    }
    found["long"] = long
    after("  the optimizer's own run done")
    for line in plan.lines:
        long["lines"][line.name] = _followed(
            line, problem, optimizer, params, plan.at, real, None, every
        )
        after(f"  {line.name} done")


def _loss(problem: Problem, path: Trajectory, index: int) -> float:
    return float(problem.value(jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), path.params)))


def _along(plan: Plan, problem: Problem, optimizer: Optimizer, params: PyTree) -> dict[str, list]:
    """Step → curvature, at some steps of the run, ever farther apart, each from its state there."""
    steps, values, state, place = [], [], 0, params
    for end in np.unique(np.geomspace(min(4, plan.far), plan.far, LOOKS).round().astype(int)):
        length = int(end) - (steps[-1] if steps else 0)
        run = iterate(problem, optimizer, place, plan.at, length, start=state, save_every=length)
        place, state = jax.tree.map(jnp.asarray, run.last), run.state
        if run.failed_at is not None:
            break
        steps.append(int(end))
        values.append(curvature(problem, optimizer, place, state=state))
    return {"steps": steps, "values": values}


def _followed(
    line: Line,
    problem: Problem,
    optimizer: Optimizer,
    start: PyTree,
    rate: float,
    real: Trajectory,
    state: State | None,
    every: int,
) -> dict[str, Any]:
    """How far a line is at every step kept, where it leaves, and its verdict."""
    begun: Any = state
    if state is None:
        begun = "settled" if METHODS[line.method].needs_settled else 0
    steps = int(real.steps[-1] - real.steps[0])
    follow = shadow(
        problem,
        optimizer,
        start,
        rate,
        steps,
        order=line.order,
        method=line.method,
        kind=line.kind,
        save_every=every,
        start=begun,
    )
    gap = compare(real, follow)
    shares = gap.two_norm / np.where(gap.moved > 0, gap.moved, np.inf)
    gone = np.flatnonzero(~(shares <= words.LEFT))
    whole = follow.failed_at is None
    last = None if whole else int(gap.steps[-1] - gap.steps[0]) + 1
    left = int(gap.steps[gone[0]] - gap.steps[0]) if len(gone) else last
    return {
        "steps": gap.steps - gap.steps[0],
        "distance": gap.two_norm,
        "shares": shares,
        "left": left,
        "whole": whole,
        "level": follow.validity.level,
    }


def slopes(rates: Sequence[float], errors: Sequence[float]) -> list[float]:
    """The order that neighbouring step sizes show, smaller to larger."""
    pairs = itertools.pairwise(zip(rates, errors, strict=True))
    with np.errstate(all="ignore"):
        return [float(np.log(b[1] / a[1]) / np.log(b[0] / a[0])) for a, b in pairs]


def side(reach: float, marks: dict[str, float]) -> str:
    """Where learning rate × curvature lies.

    >>> side(0.5, {"flow edge": 0.03, "stability edge": 38.0})
    'past the flow edge'
    """
    past = [name for name, level in marks.items() if reach > level]
    return f"past the {past[-1]}" if past else "below the edges"


def sweep_table(found: dict[str, Any]) -> list[str]:
    """Per step size the side of the edges, per line the errors, slopes, and where it leaves."""
    rows = [row for row in found["sweep"] if row["lines"]]
    rates = [row["rate"] for row in rows]
    where = words.table(
        ["learning rate", "× curvature", "where"],
        [
            [
                f"{row['rate']:.2g}",
                f"{(reach := row['rate'] * row['curvature']):.2g}",
                side(reach, found["edges"]),
            ]
            for row in rows
        ],
    )
    table = []
    for line in found["lines"]:
        ended = [row["lines"][line["name"]] for row in rows]
        errors = [np.inf if end["error"] is None else end["error"] for end in ended]
        shown = ["–" if value != value else f"{value:.1f}" for value in slopes(rates, errors)]
        first = next(
            (
                f"{rate:.2g}"
                for rate, end in zip(rates, ended, strict=True)
                if end["left"] is not None
            ),
            "never",
        )
        table.append(
            [line["name"], " ".join(f"{error:.0e}" for error in errors), " ".join(shown), first]
        )
    return [
        f"\nDistance after {found['steps']} steps, begun at step {found['warm']}, over the way "
        "gone:",
        *where,
        "",
        *words.table(["method", "error, by learning rate", "slopes", "leaves from"], table),
    ]


def far_table(found: dict[str, Any]) -> list[str]:
    """Per line the distance on the way and at the end, and the step at which it leaves."""
    long = found["long"]
    seen = [step for step in (200, 1000) if step <= long["steps"][-1]] or [long["steps"][-1]]
    table = []
    for line in found["lines"]:
        ended = long["lines"].get(line["name"])
        if ended is None:
            continue
        at = dict(zip(ended["steps"], ended["distance"], strict=True))
        cells = [words.number(at[step]) if step in at else "–" for step in seen]
        left = "stays" if ended["left"] is None else f"step {ended['left']}"
        table.append([line["name"], *cells, left, ended["level"]])
    steps = long["curvature"]["steps"]
    reach = [long["rate"] * value for value in long["curvature"]["values"]]
    shown = [f"{value:.2g} at step {step}" for step, value in zip(steps, reach, strict=True)]
    return [
        f"\nFrom a cold start at {long['rate']:g}; the optimizer goes {long['moved'][-1]:.3g} far, "
        f"the loss from {long['loss'][0]:.3g} to {long['loss'][1]:.3g}.",
        "Learning rate × curvature:",
        *("  " + ", ".join(shown[k : k + 6]) for k in range(0, len(shown), 6)),
        f"  (flow edge {found['edges']['flow edge']:.2g}, stability edge "
        f"{found['edges']['stability edge']:.3g})",
        "",
        *words.table(["method", *(f"at step {step}" for step in seen), "leaves", "verdict"], table),
    ]
