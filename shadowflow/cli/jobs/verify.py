"""Measure the order of every method for every optimizer of the zoo, on the loss of Figure 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from ...diagnostics.convergence import SHORTFALL, TOLERANCE, Row, convergence
from ...files import write_json
from ...lab.models import bilinear_problem
from ...methods import METHODS
from ...optimizers import zoo
from ...paper import theorems
from ...paper.theorems import HORIZON
from . import formatting as words

FULL, QUICK = range(9, 14), range(9, 13)
HIGH = {3: range(7, 12), 4: range(6, 11), 5: range(6, 10)}  # above rounding, and settled enough


@dataclass(frozen=True)
class Case:
    """An optimizer with the hyper-parameters at which its orders are measured.

    scale: the step sizes are scale × 2^-7 … and the horizon scale × 0.5, small for optimizers
    whose step grows with the gradient, which is about 60 at the start. batched: on three
    mini-batches in turn. highest: the highest order of collocation that is measured: 5 where three
    halvings of its error lie above rounding, as they do not for sgd and the sign-like optimizers.
    """

    label: str
    optimizer: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    scale: float = 1.0
    batched: bool = False
    highest: int = 5


ADAM = {"b1": 0.5, "b2": 0.7}
CASES = (
    Case("sgd", "sgd", scale=0.01, highest=3),
    Case("momentum, trace", "momentum", {"decay": 0.6}, 0.01),
    Case("momentum, EMA", "momentum", {"decay": 0.6, "form": "ema"}, 0.01),
    Case("nesterov", "nesterov", {"decay": 0.6}, 0.01),
    Case("rmsprop, eps inside", "rmsprop", {"decay": 0.7, "eps": 0.0, "eps_root": 1e-2}),
    Case("rmsprop, eps outside", "rmsprop", {"decay": 0.7, "eps": 1e-2}),
    Case(
        "rmsprop, inside, corrected",
        "rmsprop",
        {"decay": 0.7, "eps": 0.0, "eps_root": 1e-2, "bias_correction": True},
    ),
    Case("adam, eps inside", "adam", {**ADAM, "eps": 0.0, "eps_root": 1e-2}),
    Case("adam, eps outside", "adam", {**ADAM, "eps": 1e-2}),
    Case("adam, both eps", "adam", {**ADAM, "eps": 1e-2, "eps_root": 1e-2}),
    Case(
        "adam, inside, uncorrected",
        "adam",
        {**ADAM, "eps": 0.0, "eps_root": 1e-2, "bias_correction": False},
    ),
    Case("adamw, eps inside", "adamw", {**ADAM, "eps": 0.0, "eps_root": 1e-2, "weight_decay": 0.1}),
    Case("adamw, eps outside", "adamw", {**ADAM, "eps": 1e-2, "weight_decay": 0.1}),
    Case("nadam, eps inside", "nadam", {**ADAM, "eps": 0.0, "eps_root": 1e-2}),
    Case("nadam, eps outside", "nadam", {**ADAM, "eps": 1e-2}),
    Case("signum", "signum", {"decay": 0.5, "eps_root": 1e3}, highest=3),
    Case("lion", "lion", {"b1": 0.5, "b2": 0.6, "eps_root": 1e3}, highest=3),
    *(Case(row.label, row.optimizer, row.arguments, batched=True) for row in theorems.THEOREMS),
)


def verify_job(*, json: Path | None, rows: tuple[str, ...], full: bool) -> bool:
    """Measure, print and (with ``json``) write the table of orders; True if every row holds.

    rows: substrings of which a row's name must contain one. full: five step sizes instead of
    four. Raises ValueError where no row is left.
    """
    plan = [(case, part) for case in CASES for part in parts(case) if _asked(case, part, rows)]
    if not plan:
        names = ", ".join(case.label for case in CASES)
        raise ValueError(
            f"--rows: expected a part of a row's name, got {' '.join(rows)}; the optimizers are "
            f"{names}; the methods {', '.join(METHODS)}"
        )
    print(
        "Largest distance between the optimizer and its shadow over a horizon of "
        f"{HORIZON} (time = steps × learning rate), on E = ½(3/2 - 2 θ₁θ₂)² from (2.8, 3.5),\n"
        "float64, for halved step sizes. A shadow of order p must come closer by 2^p at each "
        "halving. The slope is that of the last three. The theorems are the paper's, on three\n"
        "mini-batches in turn.\n"
    )
    from tqdm import tqdm

    results: list[tuple[Case, Row]] = []
    with jax.enable_x64(True), tqdm(plan, delay=2, leave=False, unit="row") as bar:
        for case, part in bar:
            results.append((case, measure(case, part, FULL if full else QUICK)))
    print("\n".join(table(results)))
    good = sum(row.holds for _, row in results)
    print(
        f"\n{good} of {len(results)} rows hold: slope within 0.15 of the order (collocation: at "
        "most 0.2 below it), or exact."
    )
    if json is not None:
        write_json(json, evidence(results))
        print(f"Written to {json}")
    return good == len(results)


def parts(case: Case) -> list[tuple[str, str, int]]:
    """(method, kind, order) of a case; order 1 is the same for all memoryless methods."""
    kinds = ("iteration", "flow")
    methods = [m for m in METHODS.values() if not (case.batched and m.full_batch)]
    first = [("taylor", kind, 1) for kind in kinds]
    rest = [
        (method.name, kind, order)
        for method in methods
        for order in (_high(case) if method.orders is None else method.usual)
        for kind in kinds
        if kind in method.kinds
    ]
    return first + rest


def _high(case: Case) -> list[int]:
    return [order for order in HIGH if order <= case.highest]


def _asked(case: Case, part: tuple[str, str, int], rows: tuple[str, ...]) -> bool:
    name = f"{case.label} / {part[0]} / {part[1]} / order {part[2]}"
    return not rows or any(text in name for text in rows)


def measure(case: Case, part: tuple[str, str, int], exponents: range) -> Row:
    """The observed order of one row, from a cold start where the method's order holds there."""
    method, kind, order = part
    optimizer = getattr(zoo, case.optimizer)(**case.arguments)
    problem, params = bilinear_problem()
    problem = theorems.batches() if case.batched else problem
    exponents = HIGH.get(order, exponents)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    corrected = all(moment.corrected for moment in optimizer.moments)
    cold = not METHODS[method].needs_settled and (corrected or not METHODS[method].keeps_moments)
    rates = [case.scale * 2.0**-exponent for exponent in exponents]
    return convergence(
        problem,
        optimizer,
        params,
        case.scale * HORIZON,
        rates,
        methods=[method],
        kinds=[kind],
        orders=[order],
        start=0 if cold else None,
    )[0]


def table(results: list[tuple[Case, Row]]) -> list[str]:
    """The results as lines of text."""
    head = ["optimizer", "method", "kind", "order", "start", "errors", "slope", "holds"]
    return words.table(
        head,
        [
            [
                case.label,
                row.method,
                row.kind,
                str(row.order),
                row.start,
                " ".join(f"{error:.1e}" for error in row.errors),
                slope_text(row),
                "yes" if row.holds else "NO",
            ]
            for case, row in results
        ],
    )


def slope_text(row: Row) -> str:
    """The slope, or "exact"."""
    return "exact" if row.exact or row.slope is None else f"{row.slope:.2f}"


def evidence(results: list[tuple[Case, Row]]) -> dict:
    """The results as JSON: expected, measured, tolerance, holds, and the run they come from."""
    return {
        "horizon": HORIZON,
        "loss": "E = (3/2 - 2 a b)^2 / 2 from (2.8, 3.5), float64",
        "tolerance": TOLERANCE,
        "shortfall": SHORTFALL,
        "rows": [
            {
                "optimizer": case.label,
                "arguments": dict(case.arguments),
                "scale": case.scale,
                "expected": row.order,
                "measured": row.slope,
                "exact": row.exact,
                **dataclasses.asdict(row),
            }
            for case, row in results
        ],
    }
