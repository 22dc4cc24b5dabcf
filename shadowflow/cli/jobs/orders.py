"""How far the order can be driven: error against order and step size, and where a method leaves."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...curvature import curvature
from ...diagnostics.comparison import compare
from ...files import alone, write_json
from ...iterate import iterate
from ...methods import METHODS
from ...optimizers.moments import Optimizer
from ...optimizers.thresholds import flow_threshold, stability_threshold
from ...paper.ways import Way
from ...problem import Problem
from ...running import Trajectory
from ...shadow import shadow
from . import formatting
from .orders_figure import LEFT, draw

if TYPE_CHECKING:
    from ..orders import Orders

DEFINITION = (
    f"A method has left at the first step at which its distance from the iterates (two-norm) is "
    f"more than {LEFT:.0%} of the way they have gone by then."
)
SAVED, LOOKS = 1000, 12


@dataclass(frozen=True)
class Plan:
    """What the command measures, and the run that it is measured on."""

    command: Orders
    problem: Problem
    optimizer: Optimizer
    params: PyTree

    @functools.cached_property
    def ways(self) -> tuple[Way, ...]:
        """Every method at every one of the orders that it has: its iteration, else its flow.

        Order 1, which the memoryless methods share, once.
        """
        every = [
            Way(name, order, "iteration" if "iteration" in METHODS[name].kinds else "flow")
            for order in sorted(set(self.command.orders))
            for name in self.command.methods
            if METHODS[name].offers(order)
            if not (self.problem.batched and METHODS[name].full_batch)
        ]
        if not every:
            there = [(name, METHODS[name].orders) for name in self.command.methods]
            known = "; ".join(f"{name}: {', '.join(map(str, own or ()))}" for name, own in there)
            raise ValueError(
                f"--orders: expected one that these methods have on this problem ({known}), got "
                f"{', '.join(map(str, self.command.orders))}"
            )
        first = [way for way in every if way.order == 1][:1]
        return (*first, *(way for way in every if way.order > 1))


def orders_job(plan: Plan) -> None:
    """Measure, print tables, and write numbers.json and figure.png, after each rate and run anew.

    ValueError for a folder that cannot be written, or in which another process is at work.
    """
    ways = plan.ways
    with alone(plan.command.out):
        _measure(plan, ways)


def _measure(plan: Plan, ways: Sequence[Way]) -> None:
    command, out, setting = plan.command, plan.command.out, plan.command.setting()
    found = {
        "run": {
            "optimizer": setting.optimizer,
            "arguments": setting.arguments,
            "problem": command.problem or "digits",
            "seed": command.seed,
            "dtype": "float32" if command.single else "float64",
        },
        "definition": DEFINITION,
        "edges": {
            "flow edge": flow_threshold(plan.optimizer),
            "stability edge": stability_threshold(plan.optimizer),
        },
        "lines": [way._asdict() | {"name": way.name} for way in ways],
        "steps": command.steps,
        "warm": command.warm,
        "sweep": [],
        "long": None,
    }

    def keep() -> None:
        write_json(out / "numbers.json", found)
        draw(found, out / "figure.png")

    def tell(done: str) -> None:
        if not command.quiet:
            print(f"  {done} done", flush=True)

    for rate in command.learning_rates:
        found["sweep"].append(at_rate(plan, rate))
        keep()
        tell(f"learning rate {rate:.2g}")
    if command.learning_rates:
        print("\n".join(sweep_table(found)))
    if command.far:
        for long, done in far_run(plan):
            found["long"] = long
            keep()
            tell(done)
        print("\n".join(far_table(found)))
    print(f"\n{DEFINITION}\nWritten to {out}: figure.png, numbers.json")


def at_rate(plan: Plan, rate: float) -> dict[str, Any]:
    """One step size: the curvature at the start of the stretch, every way's error and step."""
    given, warm = (plan.problem, plan.optimizer), plan.command.warm
    before = iterate(*given, plan.params, rate, warm, save_every=max(1, warm))
    if before.failed_at is not None:
        return {"rate": rate, "curvature": None, "lines": {}}
    start = jax.tree.map(jnp.asarray, before.last)
    run = *given, start, rate, plan.command.steps
    real = iterate(*run, start=before.state)
    lines = {}
    for way in plan.ways:
        ended = followed(way, real, run, start=before.state)
        error = ended["shares"][-1] if ended["whole"] else float("inf")
        lines[way.name] = {"error": error, "left": ended["left"]}
    curved = curvature(*given, start, state=before.state)
    return {"rate": rate, "curvature": curved, "lines": lines}


def far_run(plan: Plan) -> Iterator[tuple[dict[str, Any], str]]:
    """The long run from a cold start, after each way anew: its numbers so far, and what is done.

    Methods that describe a settled memory take it for settled from the start.
    """
    rate, far = plan.command.at, plan.command.far
    run = plan.problem, plan.optimizer, plan.params, rate, far
    every = max(1, far // SAVED)
    real = iterate(*run, save_every=every)
    whole = compare(real, real)
    place = lambda index: jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), real.params)
    long: dict[str, Any] = {
        "rate": rate,
        "steps": whole.steps,
        "moved": whole.moved,
        "curvature": _along(plan),
        "lines": {},
        "loss": [float(plan.problem.value(place(index))) for index in (0, -1)],
    }
    yield long, "the optimizer's own run"
    for way in plan.ways:
        begin = "settled" if METHODS[way.method].needs_settled else 0
        long["lines"][way.name] = followed(way, real, run, save_every=every, start=begin)
        yield long, way.name


def _along(plan: Plan) -> dict[str, list]:
    """Step → curvature, at some steps of the run, ever farther apart, each from its state there."""
    steps, values, state, place = [], [], 0, plan.params
    far = plan.command.far
    for end in np.unique(np.geomspace(min(4, far), far, LOOKS).round().astype(int)):
        length, given = int(end) - (steps[-1] if steps else 0), (plan.problem, plan.optimizer)
        run = iterate(*given, place, plan.command.at, length, start=state, save_every=length)
        place, state = jax.tree.map(jnp.asarray, run.last), run.state
        if run.failed_at is not None:
            break
        steps.append(int(end))
        values.append(curvature(*given, place, state=state))
    return {"steps": steps, "values": values}


def followed(way: Way, real: Trajectory, run: tuple, **options: Any) -> dict[str, Any]:
    """How far a way is at every step kept, where it leaves, and its verdict."""
    follow = shadow(*run, **way._asdict(), **options, check=real)
    gap = compare(real, follow)
    steps = gap.steps - gap.steps[0]
    shares = gap.two_norm / np.where(gap.moved > 0, gap.moved, np.inf)
    gone = np.flatnonzero(~(shares <= LEFT))
    whole = follow.failed_at is None
    end = None if whole else int(steps[-1]) + 1
    return {
        "steps": steps,
        "distance": gap.two_norm,
        "shares": shares,
        "left": int(steps[gone[0]]) if len(gone) else end,
        "whole": whole,
        "level": follow.validity.level,
    }


def slopes(rates: Sequence[float], errors: Sequence[float]) -> list[float]:
    """The order that neighbouring step sizes show, smaller to larger."""
    with np.errstate(all="ignore"):
        return (np.diff(np.log(errors)) / np.diff(np.log(rates))).tolist()


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
    reach = [row["rate"] * row["curvature"] for row in rows]
    where = [
        {
            "learning rate": f"{rate:.2g}",
            "× curvature": f"{level:.2g}",
            "where": side(level, found["edges"]),
        }
        for rate, level in zip(rates, reach, strict=True)
    ]
    lines = []
    for line in found["lines"]:
        ended = [row["lines"][line["name"]] for row in rows]
        errors = [np.inf if end["error"] is None else end["error"] for end in ended]
        shown = ["–" if value != value else f"{value:.1f}" for value in slopes(rates, errors)]
        left = [rate for rate, end in zip(rates, ended, strict=True) if end["left"] is not None]
        lines.append(
            {
                "method": line["name"],
                "error, by learning rate": " ".join(f"{error:.0e}" for error in errors),
                "slopes": " ".join(shown),
                "leaves from": f"{left[0]:.2g}" if left else "never",
            }
        )
    return [
        f"\nDistance after {found['steps']} steps, begun at step {found['warm']}, over the way "
        "gone:",
        *formatting.table(where),
        "",
        *formatting.table(lines),
    ]


def far_table(found: dict[str, Any]) -> list[str]:
    """Per line the distance on the way and at the end, and the step at which it leaves."""
    long, edges = found["long"], found["edges"]
    seen = [step for step in (200, 1000) if step <= long["steps"][-1]] or [long["steps"][-1]]
    lines = []
    for name in (line["name"] for line in found["lines"] if line["name"] in long["lines"]):
        ended = long["lines"][name]
        at = dict(zip(ended["steps"], ended["distance"], strict=True))
        far = {f"at step {k}": formatting.number(at[k]) if k in at else "–" for k in seen}
        left = "stays" if ended["left"] is None else f"step {ended['left']}"
        lines.append({"method": name, **far, "leaves": left, "verdict": ended["level"]})
    shown = [
        f"{long['rate'] * value:.2g} at step {step}"
        for step, value in zip(*long["curvature"].values(), strict=True)
    ]
    return [
        f"\nFrom a cold start at {long['rate']:g}; the optimizer goes {long['moved'][-1]:.3g} far, "
        f"the loss from {long['loss'][0]:.3g} to {long['loss'][1]:.3g}.",
        "Learning rate × curvature:",
        *("  " + ", ".join(shown[k : k + 6]) for k in range(0, len(shown), 6)),
        f"  (flow edge {edges['flow edge']:.2g}, stability edge {edges['stability edge']:.3g})",
        "",
        *formatting.table(lines),
    ]
