"""Fill docs/how_far.md with what was measured: orders, error bars, where each method leaves.

With --orders and --bars it measures those anew first, into docs/far.json; the two pictures and
their numbers are of ``make far``.
"""

import argparse
import json
from pathlib import Path

import jax
import jax.numpy as jnp

import shadowflow as sf
from shadowflow.cli.jobs import bars
from shadowflow.cli.jobs.orders import far_table, sweep_table
from shadowflow.diagnostics.convergence import convergence
from shadowflow.files import write_json
from shadowflow.lab.models import bilinear_problem

HERE = Path(__file__).parent
PAGE, NUMBERS = HERE / "how_far.md", HERE / "far.json"
INSIDE = {"eps": 0.0, "eps_root": 1e3}
OPTIMIZERS = {  # with the horizon: gradients are about 100
    "sgd": (sf.sgd(), 0.01),
    "momentum .3": (sf.momentum(0.3), 0.005),
    "nesterov .3": (sf.nesterov(0.3), 0.005),
    "rmsprop .5": (sf.rmsprop(0.5, **INSIDE), 2.0),
    "adam .4 .5, eps inside": (sf.adam(0.4, 0.5, **INSIDE), 2.0),
    "adam .4 .5, eps outside": (sf.adam(0.4, 0.5, eps=1e3**0.5), 2.0),
    "adamw .4 .5": (sf.adamw(0.4, 0.5, **INSIDE, weight_decay=0.2), 2.0),
    "nadam .4 .5": (sf.nadam(0.4, 0.5, **INSIDE), 2.0),
    "signum .4": (sf.signum(0.4, eps_root=1e3), 2.0),
    "lion .4 .5": (sf.lion(0.4, 0.5, eps_root=1e3), 2.0),
}
ORDERS = range(3, 9)
GROUPS = ("problem", "dtype", "start", "method")


def orders() -> list[dict]:
    """Slope of every order, as ``convergence`` judges it, from settled starts."""
    rows = []
    with jax.enable_x64(True):
        start = jnp.array([2.8, 3.5])
        for name, (optimizer, horizon) in OPTIMIZERS.items():
            for kind in ("iteration", "flow"):
                for order in ORDERS:
                    exponents = range(5, 10) if order < 6 else range(4, 9 if order == 6 else 8)
                    rates = [horizon * 2.0**-k for k in exponents]
                    (row,) = convergence(
                        bilinear_problem()[0],
                        optimizer,
                        start,
                        horizon,
                        rates,
                        methods=["collocation"],
                        kinds=[kind],
                        orders=[order],
                        start=None,
                    )
                    rows.append(
                        {
                            "optimizer": name,
                            "kind": kind,
                            "order": order,
                            "slope": row.slope,
                            "exact": row.exact,
                            "holds": row.holds,
                            "errors": row.errors,
                        }
                    )
            print(name, flush=True)
    return rows


def orders_table(rows: list[dict]) -> str:
    """Markdown: an optimizer and kind a line, an order a column."""
    shown = {}
    for row in rows:
        cell = "exact" if row["exact"] else f"{row['slope']:.2f}" + ("" if row["holds"] else " ✗")
        shown.setdefault(f"{row['optimizer']}, {row['kind']}", {})[row["order"]] = cell
    lines = [
        "| collocation | " + " | ".join(f"order {order}" for order in ORDERS) + " |",
        "| --- |" + " ---: |" * len(ORDERS),
    ]
    lines += [
        f"| {name} | " + " | ".join(cells.get(order, "") for order in ORDERS) + " |"
        for name, cells in shown.items()
    ]
    good = sum(row["holds"] for row in rows)
    return "\n".join([*lines, "", f"{good} of {len(rows)} hold."])


def bars_table(rows: list[dict]) -> str:
    """Markdown: trusted or not, and the trusted ones by what they are of."""
    trusted = [row for row in rows if row["trusted"]]
    parts = [
        ("all that are trusted", trusted),
        (
            "of these, error above rounding",
            [row for row in trusted if row["error"] > row["rounding"]],
        ),
        ("all that are not trusted", [row for row in rows if not row["trusted"]]),
    ]
    for key in GROUPS:
        parts += [
            (f"trusted, {value}", [row for row in trusted if row[key] == value])
            for value in dict.fromkeys(row[key] for row in rows)
        ]
    lines = [
        "| error bars | number | within a factor of 3 | too small | too large | median |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, chosen in parts:
        found = bars.summary(chosen)
        if found["count"]:
            shares = f"{found['within']:.0%} | {found['small']:.1%} | {found['large']:.0%}"
            lines.append(f"| {name} | {found['count']} | {shares} | {found['median']:.2g} |")
    return "\n".join(lines)


def fenced(lines: list[str]) -> str:
    """Lines as a block of text."""
    return "\n".join(["```text", *"\n".join(lines).strip().splitlines(), "```"])


def put(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of that name."""
    start, end = f"<!-- {name}: start (make far) -->", f"<!-- {name}: end -->"
    before, rest = text.split(start)
    return f"{before}{start}\n\n{content}\n\n{end}{rest.split(end)[1]}"


def main() -> None:
    """Measure what is asked for, then fill the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("orders", "bars"):
        parser.add_argument(f"--{name}", action="store_true", help="measure them anew")
    asked = parser.parse_args()
    found = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
    if asked.orders:
        found["orders"] = orders()
    if asked.bars:
        found["bars"] = bars.measured(bars.cases(), lambda text: print(text, flush=True))
    write_json(NUMBERS, found)
    text = PAGE.read_text(encoding="utf-8")
    text = put(text, "orders", orders_table(found["orders"]))
    text = put(text, "bars", bars_table(found["bars"]))
    for name, table in (("digits", sweep_table), ("mnist", far_table)):
        content = json.loads((HERE / "results" / f"far-{name}.json").read_text(encoding="utf-8"))
        text = put(text, name, fenced(table(content)))
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
