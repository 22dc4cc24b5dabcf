"""Put what was measured into README and pages: orders, costs, figures, claims, optax."""

import json
from collections import Counter
from pathlib import Path

from shadowflow.cli.jobs.claims import numbers
from shadowflow.cli.jobs.reproduce import expected, found
from shadowflow.paper.evidence import Evidence
from shadowflow.paper.trials import Trial

ROOT = Path(__file__).parent.parent
ORDERS = ("<!-- orders: start (make table) -->", "<!-- orders: end -->")
COSTS = ("<!-- costs: start (make bench) -->", "<!-- costs: end -->")
EVIDENCE = ("<!-- evidence: start (make figures) -->", "<!-- evidence: end -->")
OPTAX = ("<!-- optax: start (make optax) -->", "<!-- optax: end -->")
CLAIMS = ("<!-- claims: start (make laptop) -->", "<!-- claims: end -->")
ROUNDING = 2e-14
SHOWN = ("fig2", "fig3", "fig7", "fig8")
COLUMNS = {
    ("taylor", "iteration", 1): "first order, iteration",
    ("taylor", "flow", 1): "first order, flow",
    ("taylor", "iteration", 2): "taylor 2, iteration",
    ("taylor", "flow", 2): "taylor 2, flow",
    ("displaced", "iteration", 2): "displaced 2, iteration",
    ("displaced", "flow", 2): "displaced 2, flow",
    ("linearized", "iteration", 2): "linearized 2, iteration",
    ("linearized", "flow", 2): "linearized 2, flow",
    ("differences", "iteration", 2): "differences 2, iteration",
    ("inertial", "flow", 2): "inertial 2, flow",
}
ANY_ORDER = {
    ("collocation", kind, order): f"collocation {order}, {kind}"
    for order in (3, 4, 5)
    for kind in ("iteration", "flow")
}


def cell(row: dict) -> str:
    """The measured slope; a dagger for a settled start, a warning where it does not hold."""
    settled = row["start"] == "settled" and row["method"] != "collocation"
    slope = "exact" if row["exact"] or row["measured"] is None else f"{row['measured']:.2f}"
    return slope + ("†" if settled else "") + ("" if row["holds"] else " ✗")


def table(rows: list[dict], columns: dict, title: str) -> list[str]:
    """Markdown: a line per optimizer, a column per method, order and kind."""
    cells = {
        (row["optimizer"], row["method"], row["kind"], row["order"]): cell(row) for row in rows
    }
    names = [
        name
        for name in dict.fromkeys(row["optimizer"] for row in rows)
        if any((name, *column) in cells for column in columns)
    ]
    return [
        f"| {title} | " + " | ".join(columns.values()) + " |",
        "| --- |" + " ---: |" * len(columns),
        *(
            f"| {name} | " + " | ".join(cells.get((name, *column), "") for column in columns) + " |"
            for name in names
        ),
    ]


def render(evidence: dict) -> str:
    """The tables: full batch, the paper's theorems on mini-batches, collocation's orders."""
    rows = evidence["rows"]
    theorems = [row for row in rows if row["optimizer"].startswith("Theorem")]
    full = [row for row in rows if row not in theorems]
    good = sum(row["holds"] for row in rows)
    remark = (
        f"{good} of {len(rows)} rows hold. † from a settled start, as all of the last table, "
        "where an error may fall faster than declared; empty: fewer than three halvings lie above "
        "rounding."
    )
    two = {column: name for column, name in COLUMNS.items() if column[0] in ("taylor", "displaced")}
    return "\n".join(
        [
            *table(full, COLUMNS, "full batch"),
            "",
            *table(theorems, two, "three mini-batches in turn"),
            "",
            *table(full, ANY_ORDER, "any order, full batch"),
            "",
            remark,
        ]
    )


def costs(found: dict) -> str:
    """The ratios of ``make bench`` as Markdown."""
    lines = [
        "| step | ratio (lowest to highest) | asked | MiB | |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for row in [*found["steps"], *found["minibatch"]]:
        asked = (
            "" if row["asked"] is None else f"≤ {row['asked']:g}" + ("" if row["holds"] else " ✗")
        )
        spread = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        lines.append(
            f"| {row['name']} | {spread} | {asked} | {row['memory_mib']:.0f} | {row['note']} |"
        )
    if found["torch"]:
        torch = found["torch"]
        lines.append(
            f"| taylor by torch's double backward, torch's Adam = 1 | {torch['ratio']:.2f} "
            f"({torch['low']:.2f} to {torch['high']:.2f}) | | {torch['memory_mib']:.0f} | torch "
            f"{torch['version']}; memory of the whole process |"
        )
    compiled = ", ".join(
        f"{row['order']}: {row['collocation']:.2f} ({row['nested']:.2f})"
        for row in found["compilation"]
    )
    remark = (
        "The mini-batch fields (20 batches of 500) are over the gradients or products that they "
        "take themselves. Compile time of a collocation field by its order, that of order 2 being "
        f"1, in brackets that of as many nested forward derivatives: {compiled}. Measured on "
        f"{found['device']}."
    )
    workers = found["sweep"]
    pair = (
        f"Two local workers end a sweep of {workers['cells']} runs in {workers['ratio']:.2f} of "
        f"the time of one (asked: ≤ {workers['asked']:g}{'' if workers['holds'] else ' ✗'})."
    )
    return "\n".join([*lines, "", remark, *training(found["training"]), "", pair])


def training(rows: list[dict]) -> list[str]:
    """Epochs of training against PyTorch's; nothing where PyTorch was missing."""
    if not rows:
        return []
    lines = [
        "",
        "| training | epochs a second over PyTorch's (lowest to highest) | asked | with the "
        "measures | the measures, of an epoch | a checkpoint, of an epoch | peak MiB (PyTorch) |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        mark = "" if row["holds"] is not False else " ✗"
        asked = "" if row["asked"] is None else f"≥ {row['asked']:g}{mark}"
        memory = row["memory_mib"]
        lines.append(
            f"| {row['name']}, width {row['width']:g} | {row['ratio']:.2f} ({row['low']:.2f} to "
            f"{row['high']:.2f}) | {asked} | {row['with_measures']:.2f} | "
            f"{row['measures']:.1%} | {row['checkpoint']:.1%} | {memory['ours']:.0f} "
            f"({memory['torch']:.0f}) |"
        )
    return [
        *lines,
        "",
        "Full-batch Adam on 2,000 made-up images of 32×32×3, ghost batches of 500, "
        "float32, each side in a process of its own; a checkpoint is written every 10 epochs.",
    ]


def evidence(results: list[dict]) -> str:
    """Some of the paper's figures with their captions, then every claim of all of them."""
    lines = []
    for content in results:
        name = content["figure"]
        if name in SHOWN:
            lines += [
                f"![{content['title']}](docs/results/{name}.png)",
                "",
                f"*Figure {name[3:]}.* {content['caption']}",
                "",
            ]
    lines += ["| | claim | expected | measured | holds |", "| --- | --- | --- | --- | --- |"]
    for content in results:
        for row in (Evidence(**row) for row in content["rows"]):
            claim = row.claim.replace("|", "\\|")
            verdict = "yes" if row.holds else "**no**"
            cells = (content["figure"], claim, expected(row), found(row), verdict)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def claims(content: dict) -> str:
    """Every claim, what it was tried on, the test, and the verdict."""
    counts = Counter(row["verdict"] for claim in content["claims"] for row in claim["trials"])
    rows = [("claim", "tried on", "statistic", "verdict"), ("---",) * 4]
    for claim in content["claims"]:
        rows.append((f"**{claim['claim']}** ({claim['source']})", "", "", ""))
        rows += [
            (row["claim"], row["where"], numbers(Trial(**row)) + row["statistic"], row["verdict"])
            for row in claim["trials"]
        ]
    lines = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]
    said = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    return "\n".join([*lines, "", f"{counts.total()} trials: {said}. {content['rule']}"])


def constructors(content: dict) -> str:
    """Every constructor of optax: how it settles, its measured orders, what is said of it."""
    rows = content["rows"]
    lines = [
        "| constructor | settles in | order, settled | order, from step 0 | order, first steps | "
        "taylor | |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for row in rows:
        exact = row.get("errors", [1, 1])[1] < ROUNDING
        orders = [
            "exact" if exact and row.get(key) else shown(row.get(key))
            for key in ("settled", "cold", "first steps")
        ]
        length = "never" if row["settling"] is None else f"{row['settling']:,}"
        taylor = row.get("taylor", "")
        taylor = "yes" if taylor is True else "refused" if taylor else ""
        cells = (
            f"`{row['name']}`",
            length if row["followed"] else "",
            *orders,
            taylor,
            row["remark"].replace("|", "\\|"),
        )
        lines.append(f"| {' | '.join(cells)} |")
    followed = sum(row["followed"] for row in rows)
    return "\n".join(
        [
            f"{followed} of the {len(rows)} constructors of optax {content['optax']} that take a "
            "learning rate are followed by the method `displaced`.",
            "",
            *lines,
            "",
            "Steps that the state takes to forget, at the constructor's defaults in float64. "
            "Orders of the flow of second order (of first order in brackets) between the two "
            "smallest of four halved step sizes, at small decays (β = .5, ρ = .7): over a fixed "
            "time from a settled and from a cold start; of what never settles over its first 16 "
            "steps, where one order more is gained in the error and taken off here. exact: to "
            "rounding, no sign having changed.",
        ]
    )


def shown(orders: list[float] | None) -> str:
    """The measured order of the second-order flow, that of the first-order one in brackets."""
    return "" if orders is None else f"{orders[1]:.2f} ({orders[0]:.2f})"


def place(path: Path) -> int:
    """The number of a figure, by which they stand in order; others come last."""
    number = path.stem.removeprefix("fig")
    return int(number) if number.isdigit() else 99


def put(text: str, marks: tuple[str, str], content: str) -> str:
    """``text`` with ``content`` between its marks."""
    before, rest = text.split(marks[0])
    return f"{before}{marks[0]}\n\n{content}\n\n{marks[1]}{rest.split(marks[1])[1]}"


def main() -> None:
    """Replace what stands between the markers."""
    readme, docs = ROOT / "README.md", ROOT / "docs"
    text = readme.read_text(encoding="utf-8")
    text = put(text, ORDERS, render(json.loads((docs / "verify.json").read_text("utf-8"))))
    text = put(text, COSTS, costs(json.loads((docs / "bench.json").read_text("utf-8"))))
    paths = sorted((docs / "results").glob("fig*.json"), key=place)
    found_results = [json.loads(path.read_text("utf-8")) for path in paths]
    text = put(text, EVIDENCE, evidence(found_results))
    tried = docs / "results" / "claims.json"
    if tried.exists():
        text = put(text, CLAIMS, claims(json.loads(tried.read_text("utf-8"))))
    readme.write_text(text, encoding="utf-8")
    page = docs / "bring_your_own_optimizer.md"
    table_of = constructors(json.loads((docs / "optax.json").read_text("utf-8")))
    page.write_text(put(page.read_text("utf-8"), OPTAX, table_of), encoding="utf-8")


if __name__ == "__main__":
    main()
