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
    ("inertial", "flow", 2): "inertial 2, flow",
}


def cell(row: dict) -> str:
    """The measured slope; a dagger for a settled start, a warning where it does not hold."""
    slope = "exact" if row["exact"] or row["measured"] is None else f"{row['measured']:.2f}"
    return slope + ("†" if row["start"] == "settled" else "") + ("" if row["holds"] else " ✗")


def render(evidence: dict) -> str:
    """The table as Markdown: a line per optimizer, a column per method, order and kind."""
    cells = {
        (row["optimizer"], row["method"], row["kind"], row["order"]): cell(row)
        for row in evidence["rows"]
    }
    optimizers = list(dict.fromkeys(row["optimizer"] for row in evidence["rows"]))
    lines = [
        "| optimizer | " + " | ".join(COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * len(COLUMNS),
        *(
            f"| {name} | " + " | ".join(cells[(name, *column)] for column in COLUMNS) + " |"
            for name in optimizers
        ),
    ]
    good = sum(row["holds"] for row in evidence["rows"])
    remark = f"{good} of {len(evidence['rows'])} rows hold. † from a settled start."
    return "\n".join([*lines, "", remark])


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
