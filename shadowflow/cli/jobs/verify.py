"""Measure the order of every method for every optimizer of the zoo, on the loss of Figure 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ...diagnostics.convergence import SHORTFALL, TOLERANCE, OrderRow, convergence
from ...files import write_json
from ...lab.models import bilinear_problem
from ...methods import METHODS
from ...optimizers import zoo
from ...optimizers.base import SETTLED
from ...paper import theorems
from ...paper.theorems import HORIZON
from ...paper.ways import Way
from . import formatting

FULL, QUICK = range(9, 14), range(9, 13)
HIGH = {3: range(7, 12), 4: range(6, 11), 5: range(6, 10)}  # above rounding, and settled enough
KINDS = ("iteration", "flow")
INTRODUCTION = f"""\
Largest distance between the optimizer and its shadow over a horizon of {HORIZON} (time = steps × \
learning rate), on E = ½(3/2 - 2 θ₁θ₂)² from (2.8, 3.5),
float64, for halved step sizes. A shadow of order p must come closer by 2^p at each halving. The \
slope is that of the last three. The theorems are the paper's, on three
mini-batches in turn.
"""


@dataclass(frozen=True)
class OrderCase:
    """An optimizer with the hyper-parameters at which its orders are measured.

    scale: the step sizes are scale × 2^-7 … and the horizon scale × 0.5, small for optimizers
    whose step grows with the gradient, which is about 60 at the start. batched: on three
    mini-batches in turn. highest: the highest order of collocation that is measured: 5 where three
    halvings of its error lie above rounding, 3 for sgd and the sign-like optimizers.
    """

    label: str
    optimizer: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    batched: bool = False
    highest: int = 5

    def ways(self) -> list[Way]:
        """All that is measured; order 1, the same for all memoryless methods, once."""
        high = [order for order in HIGH if order <= self.highest]
        return [Way("taylor", 1, kind) for kind in KINDS] + [
            Way(method.name, order, kind)
            for method in METHODS.values()
            if not (self.batched and method.full_batch)
            for order in (high if method.orders is None else method.usual)
            for kind in KINDS
            if kind in method.kinds
        ]


ADAM, RMSPROP = {"b1": 0.5, "b2": 0.7}, {"decay": 0.7}
INSIDE, OUTSIDE = {"eps": 0.0, "eps_root": 1e-2}, {"eps": 1e-2}
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
    *(
        OrderCase(row.label, row.optimizer, row.arguments, batched=True)
        for row in theorems.THEOREMS
    ),
)
Results = list[tuple[OrderCase, OrderRow]]


def verify_job(*, json: Path | None, rows: tuple[str, ...], full: bool) -> bool:
    """Measure, print and (with ``json``) write the table of orders; True if every row holds.

    rows: substrings of which a row's name must contain one. full: five step sizes instead of
    four. Raises ValueError where no row is left.
    """
    from tqdm import tqdm

    plan = [(case, way) for case in CASES for way in case.ways() if _asked(case, way, rows)]
    if not plan:
        raise ValueError(
            f"--rows: expected a part of a row's name, got {' '.join(rows)}; the optimizers are "
            f"{', '.join(case.label for case in CASES)}; the methods {', '.join(METHODS)}"
        )
    print(INTRODUCTION)
    with jax.enable_x64(True), tqdm(plan, delay=2, leave=False, unit="row") as bar:
        results = [(case, measure(case, way, FULL if full else QUICK)) for case, way in bar]
    print("\n".join(table(results)))
    good = sum(row.holds for _, row in results)
    print(
        f"\n{good} of {len(results)} rows hold: slope within 0.15 of the order (collocation: at "
        "most 0.2 below it), or exact."
    )
    if json is not None:
        print(f"Written to {write_json(json, evidence(results))}")
    return good == len(results)


def _asked(case: OrderCase, way: Way, rows: tuple[str, ...]) -> bool:
    name = f"{case.label} / {way.method} / {way.kind} / order {way.order}"
    return not rows or any(text in name for text in rows)


def measure(case: OrderCase, way: Way, exponents: range) -> OrderRow:
    """The observed order of one row, from a cold start where the method's order holds there."""
    optimizer = getattr(zoo, case.optimizer)(**case.arguments)
    problem, params = bilinear_problem()
    method = METHODS[way.method]
    corrected = all(moment.corrected for moment in optimizer.moments)
    cold = not method.needs_settled and (corrected or not method.keeps_moments)
    (row,) = convergence(
        theorems.batches() if case.batched else problem,
        optimizer,
        jnp.float64(params),
        case.scale * HORIZON,
        [case.scale * 2.0**-exponent for exponent in HIGH.get(way.order, exponents)],
        methods=[way.method],
        kinds=[way.kind],
        orders=[way.order],
        start=0 if cold else SETTLED,
    )
    return row


def table(results: Results) -> list[str]:
    """The results as lines of text."""
    lines = []
    for case, row in results:
        named = [case.label, row.method, row.kind, str(row.order), row.start]
        errors = " ".join(f"{error:.1e}" for error in row.errors)
        slope = "exact" if row.exact or row.slope is None else f"{row.slope:.2f}"
        lines.append([*named, errors, slope, "yes" if row.holds else "NO"])
    head = ["optimizer", "method", "kind", "order", "start", "errors", "slope", "holds"]
    return formatting.table(head, lines)


def evidence(results: Results) -> dict[str, Any]:
    """The results as JSON: expected, measured, tolerance, holds, and the run they come from."""
    rows = []
    for case, row in results:
        run = {"optimizer": case.label, "arguments": dict(case.arguments), "scale": case.scale}
        order = {"expected": row.order, "measured": row.slope, "exact": row.exact}
        rows.append({**run, **order, **dataclasses.asdict(row)})
    return {
        "horizon": HORIZON,
        "loss": "E = (3/2 - 2 a b)^2 / 2 from (2.8, 3.5), float64",
        "tolerance": TOLERANCE,
        "shortfall": SHORTFALL,
        "rows": rows,
    }
