"""Measure the order of every method for every optimizer of the zoo, on the loss of Figure 2."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ...diagnostics.convergence import SHORTFALL, TOLERANCE, OrderRow
from ...files import write_json
from ...methods import METHODS
from ...paper.theorems import ADAM, HORIZON, INSIDE, LOCAL, RMSPROP, THEOREMS, OrderCase, measure
from . import formatting
from .progress import progress

FULL, QUICK = range(9, 14), range(9, 13)
INTRODUCTION = f"""\
Largest distance between the optimizer and its shadow over a horizon of {HORIZON} (time = steps × \
learning rate), on E = ½(3/2 - 2 θ₁θ₂)² from (2.8, 3.5),
float64, for halved step sizes. A shadow of order p must come closer by 2^p at each halving. The \
slope is that of the last three. The theorems are the paper's, on three
mini-batches in turn, as is heavy-ball (Ghosh et al., ICLR 2023). Of one step, whose past lies on \
the shadow, the order is one higher.
"""


OUTSIDE = {"eps": 1e-2}
CORRECTED, DECAYED = "bias_correction", {"weight_decay": 0.1}
CASES = (
    OrderCase("sgd", "sgd", scale=0.01, highest=3),
    OrderCase("momentum, trace", "momentum", {"decay": 0.6}, 0.01),
    OrderCase("momentum, EMA", "momentum", {"decay": 0.6, "form": "ema"}, 0.01),
    OrderCase("nesterov", "nesterov", {"decay": 0.6}, 0.01),
    OrderCase("rmsprop, eps inside", "rmsprop", {**RMSPROP, **INSIDE}),
    OrderCase("rmsprop, eps outside", "rmsprop", {**RMSPROP, **OUTSIDE}),
    OrderCase("rmsprop, inside, corrected", "rmsprop", {**RMSPROP, **INSIDE, CORRECTED: True}),
    OrderCase("adam, eps inside", "adam", {**ADAM, **INSIDE}),
    OrderCase("adam, eps outside", "adam", {**ADAM, **OUTSIDE}),
    OrderCase("adam, both eps", "adam", {**ADAM, **INSIDE, **OUTSIDE}),
    OrderCase("adam, inside, uncorrected", "adam", {**ADAM, **INSIDE, CORRECTED: False}),
    OrderCase("adamw, eps inside", "adamw", {**ADAM, **INSIDE, **DECAYED}),
    OrderCase("adamw, eps outside", "adamw", {**ADAM, **OUTSIDE, **DECAYED}),
    OrderCase("nadam, eps inside", "nadam", {**ADAM, **INSIDE}),
    OrderCase("nadam, eps outside", "nadam", {**ADAM, **OUTSIDE}),
    OrderCase("signum", "signum", {"decay": 0.5, "eps_root": 1e3}, highest=3),
    OrderCase("lion", "lion", {"b1": 0.5, "b2": 0.6, "eps_root": 1e3}, highest=3),
    OrderCase("heavy-ball (Ghosh et al.)", "momentum", {"decay": 0.6}, 0.01, batched=True),
    *THEOREMS,
    *LOCAL,
)
Results = list[tuple[OrderCase, OrderRow]]


def verify_job(*, json: Path | None, rows: tuple[str, ...], full: bool) -> bool:
    """Measure, print and (with ``json``) write the table of orders; True if every row holds.

    rows: substrings of which a row's name must contain one. full: five step sizes instead of
    four. Raises ValueError where no row is left.
    """
    named = {
        f"{case.label} / {way.method} / {way.kind} / order {way.order}": (case, way)
        for case in CASES
        for way in case.ways()
    }
    plan = [run for name, run in named.items() if not rows or any(part in name for part in rows)]
    if not plan:
        raise ValueError(
            f"--rows: expected a part of a row's name, got {' '.join(rows)}; the optimizers are "
            f"{'; '.join(case.label for case in CASES)}; the methods {'; '.join(METHODS)}"
        )
    print(INTRODUCTION)
    results = []
    with progress(quiet=False, total=len(plan), unit="row") as bar:
        for case, way in plan:
            results.append((case, measure(case, way, FULL if full else QUICK)))
            bar.update()
    print("\n".join(table(results)))
    good = sum(row.holds for _, row in results)
    print(
        f"\n{good} of {len(results)} rows hold: slope within 0.15 of the order (collocation: at "
        "most 0.2 below it), or exact."
    )
    if json is not None:
        print(f"Written to {write_json(json, evidence(results))}")
    return good == len(results)


def table(results: Results) -> list[str]:
    """The results as lines of text."""
    lines = []
    for case, row in results:
        cells = {"optimizer": case.label, "method": row.method, "kind": row.kind}
        cells |= {"order": str(row.order), "start": row.start}
        cells["errors"] = " ".join(f"{error:.1e}" for error in row.errors)
        cells["slope"] = "exact" if row.exact or row.slope is None else f"{row.slope:.2f}"
        lines.append(cells | {"holds": "yes" if row.holds else "NO"})
    return formatting.table(lines)


def evidence(results: Results) -> dict[str, Any]:
    """The results as JSON: expected, measured, tolerance, holds, and the run they come from."""
    rows = []
    for case, row in results:
        run = {"optimizer": case.label, "arguments": dict(case.arguments), "scale": case.scale}
        run |= {"batched": case.batched, "local": case.local}
        order = {"expected": row.order, "measured": row.slope, "exact": row.exact}
        rows.append({**run, **order, **dataclasses.asdict(row)})
    return {
        "horizon": HORIZON,
        "loss": "E = (3/2 - 2 a b)^2 / 2 from (2.8, 3.5), float64",
        "tolerance": TOLERANCE,
        "shortfall": SHORTFALL,
        "rows": rows,
    }
