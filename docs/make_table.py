"""Put the table of measured orders (docs/verify.json) into the README, between its markers."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
START, END = "<!-- orders: start (make table) -->", "<!-- orders: end -->"
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
    names = [name for name in dict.fromkeys(row["optimizer"] for row in rows)
             if any((name, *column) in cells for column in columns)]  # fmt: skip
    return [
        f"| {title} | " + " | ".join(columns.values()) + " |",
        "| --- |" + " ---: |" * len(columns),
        *(
            f"| {name} | "
            + " | ".join(cells.get((name, *column), "") for column in columns) + " |"
            for name in names
        ),
    ]  # fmt: skip


def render(evidence: dict) -> str:
    """The tables: full batch, the paper's theorems on mini-batches, collocation's orders."""
    rows = evidence["rows"]
    theorems = [row for row in rows if row["optimizer"].startswith("Theorem")]
    full = [row for row in rows if row not in theorems]
    good = sum(row["holds"] for row in rows)
    remark = f"{good} of {len(rows)} rows hold. † from a settled start, as all of the last table."
    two = {column: name for column, name in COLUMNS.items() if column[0] in ("taylor", "displaced")}
    return "\n".join([
        *table(full, COLUMNS, "full batch"), "",
        *table(theorems, two, "three mini-batches in turn"), "",
        *table(full, ANY_ORDER, "any order, full batch"), "",
        remark,
    ])  # fmt: skip


def main() -> None:
    """Replace what stands between the markers."""
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    evidence = json.loads((ROOT / "docs" / "verify.json").read_text(encoding="utf-8"))
    before, rest = text.split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}\n\n{render(evidence)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
