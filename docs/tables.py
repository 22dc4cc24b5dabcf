"""What was measured, as Markdown: a function for every table of docs/."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from shadowflow.cli.jobs.reproduce import expected, found
from shadowflow.methods import METHODS
from shadowflow.paper.evidence import Evidence

ROUNDING = 2e-14  # an error below it is exact
MEMORYLESS = ("taylor", "displaced", "linearized")
KINDS = ("iteration", "flow")
FIRST = {("taylor", kind, 1): f"first order, {kind}" for kind in KINDS}
BATCHED = FIRST | {(m, k, 2): f"{m} 2, {k}" for m in MEMORYLESS[:2] for k in KINDS}
LOCAL = {
    ("taylor", kind, order + 1): name
    for order, known in ((1, FIRST), (2, BATCHED))
    for kind in KINDS
    for name in [known["taylor", kind, order]]
}
FULL = FIRST | {
    **{(m, k, 2): f"{m} 2, {k}" for m in MEMORYLESS for k in KINDS},
    ("differences", "iteration", 2): "differences 2, iteration",
    ("inertial", "flow", 2): "inertial 2, flow",
}
ANY_ORDER = {
    ("collocation", kind, order): f"collocation {order}, {kind}"
    for order in (3, 4, 5)
    for kind in KINDS
}
HIGH_ORDERS = range(3, 9)
NUMBER = re.compile(r"$|[-+≤≥]? ?\d|exact|never")  # what a cell of a column of numbers begins with
COUNTED = ", runs "  # rows that count runs: "ρ varied, runs that …"


def table(head: Sequence[str], rows: Iterable[Sequence[str | int]]) -> str:
    """A Markdown table: columns of numbers to the right, all others to the left.

    >>> print(table(("name", "size"), [("a|b", 12), ("c", "≤ 3")]))
    | name | size |
    | --- | ---: |
    | a\\|b | 12 |
    | c | ≤ 3 |
    """
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    numeric = [all(NUMBER.match(row[i]) for row in cells) for i in range(len(head))]
    sides = ["---:" if right else "---" for right in numeric]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, sides, *cells))


def mark(holds: bool | None) -> str:
    """A cross where something does not hold, nothing else."""
    return " ✗" if holds is False else ""


# Orders of every method (make table)


def slope(row: dict) -> str:
    """The measured slope; a dagger for a settled start, a cross where it does not hold."""
    settled = row["start"] == "settled" and row["method"] != "collocation"
    number = "exact" if row["exact"] or row["measured"] is None else f"{row['measured']:.2f}"
    return number + ("†" if settled else "") + mark(row["holds"])


def slopes(rows: list[dict], columns: dict, title: str) -> str:
    """A line per optimizer, a column per method, order and kind."""
    cells = {
        (row["optimizer"], row["method"], row["kind"], row["order"]): slope(row) for row in rows
    }
    lines = [
        [name, *(cells.get((name, *column), "") for column in columns)]
        for name in dict.fromkeys(row["optimizer"] for row in rows)
    ]
    return table([title, *columns.values()], [line for line in lines if any(line[1:])])


def orders(content: dict) -> dict[str, str]:
    """The four tables of orders, and how many of their rows hold."""
    rows = content["rows"]
    local = [row for row in rows if row["local"]]
    batched = [row for row in rows if row["batched"] and not row["local"]]
    full = [row for row in rows if not row["batched"]]
    good = sum(row["holds"] for row in rows)
    return {
        "orders-full": slopes(full, FULL, "full batch"),
        "orders-batches": slopes(batched, BATCHED, "three mini-batches in turn"),
        "orders-local": slopes(local, LOCAL, "one step, three mini-batches in turn"),
        "orders-any": slopes(full, ANY_ORDER, "any order, full batch"),
        "orders-count": f"{good} of {len(rows)} measured orders hold.",
    }


def methods() -> str:
    """What every method offers and needs, from its own declaration."""
    rows = []
    for name, method in METHODS.items():
        needs = [
            text
            for text, wanted in (
                ("Hessian-vector products", method.needs_hvp),
                ("the full batch", method.full_batch),
                ("a settled memory", method.needs_settled),
                ("a constant learning rate", method.needs_settled),
            )
            if wanted
        ]
        offered = "any" if method.orders is None else ", ".join(map(str, method.orders))
        needed = ", ".join(needs) or "gradients only"
        optax = "yes" if method.follows_optax else "no"
        rows.append((f"`{name}`", offered, ", ".join(method.kinds), needed, optax, method.summary))
    return table(("method", "orders", "kinds", "needs", "optax", "idea"), rows)


# Costs (make bench)


def costs(content: dict) -> str:
    """Time of a step over that of an Adam step, and memory."""
    rows = []
    for row in [*content["steps"], *content["minibatch"]]:
        limit = "" if row["asked"] is None else f"≤ {row['asked']:g}{mark(row['holds'])}"
        spread = f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        rows.append((row["name"], spread, limit, f"{row['memory_mib']:.0f}", row["note"]))
    if content["torch"]:
        row = content["torch"]
        rows.append(
            (
                "taylor by double backward in PyTorch",
                f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
                "",
                f"{row['memory_mib']:.0f}",
                f"torch {row['version']}; over torch's Adam; memory of the whole process",
            )
        )
    head = ("step", "time (lowest to highest)", "limit", "MiB", "note")
    return f"{table(head, rows)}\n\nMeasured on {content['device']}."


def compilation(rows: list[dict]) -> str:
    """Compile time of a collocation field by its order."""
    lines = [(row["order"], f"{row['collocation']:.2f}", f"{row['nested']:.2f}") for row in rows]
    return table(("order", "collocation", "nested forward derivatives"), lines)


def training(content: dict) -> str:
    """Epochs of training against PyTorch's, and what two workers save."""
    rows = []
    for row in content["training"]:
        limit = "" if row["asked"] is None else f"≥ {row['asked']:g}{mark(row['holds'])}"
        rows.append(
            (
                f"{row['name']}, width {row['width']:g}",
                f"{row['ratio']:.2f} ({row['low']:.2f} to {row['high']:.2f})",
                limit,
                f"{row['with_measures']:.2f}",
                f"{row['measures']:.1%}",
                f"{row['checkpoint']:.1%}",
                f"{row['memory_mib']['ours']:.0f} ({row['memory_mib']['torch']:.0f})",
            )
        )
    head = ("network", "speed (lowest to highest)", "limit", "with the measures", "measures")
    pair = content["sweep"]
    said = (
        f"Two local workers finish a sweep of {pair['cells']} runs in {pair['ratio']:.2f} of the "
        f"time that one needs (limit: ≤ {pair['asked']:g}{mark(pair['holds'])})."
    )
    return f"{table((*head, 'checkpoint', 'MiB (PyTorch)'), rows)}\n\n{said}"


# The paper's figures and claims (make figures, make laptop)


def figures(contents: list[dict]) -> str:
    """Every figure with its caption, and the table of its evidence."""
    parts = []
    for content in contents:
        name, number = content["figure"], content["figure"].removeprefix("fig")
        parts += [
            f"### Figure {number}. {content['title']}",
            f"![Figure {number}: {content['title']}](results/{name}.png)",
            content["caption"],
        ]
        rows = [Evidence(**row) for row in content["rows"]]
        shown = [row for row in rows if COUNTED not in row.claim]
        if shown:
            head = ("claim", "expected", "measured", "holds")
            cells = [(row.claim, expected(row), found(row), yes(row.holds)) for row in shown]
            parts.append(table(head, cells))
    return "\n\n".join(parts)


def yes(holds: bool) -> str:
    """A verdict as a word."""
    return "yes" if holds else "**no**"


def counted(contents: list[dict]) -> str:
    """How many runs of every figure came to their end, and reached the losses compared at."""
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for content in contents:
        for row in (Evidence(**row) for row in content["rows"]):
            sweep, found_there, what = row.claim.partition(COUNTED)
            if found_there:
                cell = f"{row.measured:g} of {row.expected:g}{mark(row.holds)}"
                number = content["figure"].removeprefix("fig")
                lines.setdefault((number, sweep), {})[what] = cell
    columns = list(dict.fromkeys(what for cells in lines.values() for what in cells))
    rows = [[*key, *(cells.get(what, "") for what in columns)] for key, cells in lines.items()]
    heads = [f"runs {what}" for what in columns]
    return table(["figure", "grid", *heads], rows)


def claims(content: dict) -> str:
    """A section per claim: what it was tried on, the test, and the verdict."""
    parts = []
    for claim in content["claims"]:
        trials = claim["trials"]
        ranked = all("test" in row["run"] for row in trials)
        head = ("on", "outcome", "measured")
        head += ("τ", "p", "seeds") if ranked else ("test",)
        lines = [trial_cells(row, ranked) for row in trials]
        parts += [
            f"### {claim['claim']}",
            f"From {claim['source']} of the paper. {counts(trials)}",
            table((*head, "verdict"), lines),
        ]
    every = [row for claim in content["claims"] for row in claim["trials"]]
    return "\n\n".join([f"All together: {counts(every)}", *parts])


def counts(trials: list[dict]) -> str:
    """How often each verdict was given.

    >>> counts([{"verdict": "holds"}, {"verdict": "holds"}, {"verdict": "not enough power"}])
    '3 trials. holds: 2; not enough power: 1.'
    """
    seen = Counter(row["verdict"] for row in trials)
    verdicts = "; ".join(f"{verdict}: {number}" for verdict, number in sorted(seen.items()))
    return f"{seen.total()} trials. {verdicts}."


def trial_cells(row: dict, ranked: bool) -> tuple[str, ...]:
    """One trial as cells; a rank correlation over seeds has its numbers in columns."""
    numbers = ", ".join(f"{value:.4g}" for value in row["measured"])
    if not ranked:
        said = row["statistic"].removesuffix("; nothing is random in it")
        return row["where"], row["claim"], "" if row["p"] is None else numbers, said, row["verdict"]
    test, (name, values) = row["run"]["test"], next(iter(row["run"]["sweep"].items()))
    at = f"{name} = {', '.join(f'{value:g}' for value in values)}: {numbers}"
    said = row["statistic"].partition("τ = ")[0].strip(" ;")
    return (
        row["where"],
        row["claim"].partition(": ")[2],
        f"{at} ({said})" if said else at,
        f"{test['tau']:+.2f}",
        f"{test['p']:.2g}",
        f"{test['agreeing']} of {test['decided']}",
        row["verdict"],
    )


# Optax (make optax) and how far the order goes (make far)


def constructors(content: dict) -> str:
    """Every constructor of optax: how long it remembers, its measured orders, a remark."""
    rows = content["rows"]
    lines = []
    for row in rows:
        exact = row.get("errors", [1, 1])[1] < ROUNDING
        measured = ["exact" if exact and row.get(k) else two_orders(row.get(k)) for k in STARTS]
        length = "never" if row["settling"] is None else f"{row['settling']:,}"
        taylor = {True: "yes", "": ""}.get(row.get("taylor", ""), "refused")
        settles = length if row["followed"] else ""
        lines.append((f"`{row['name']}`", settles, *measured, taylor, row["remark"]))
    followed = sum(row["followed"] for row in rows)
    head = ("constructor", "settles in", "settled", "from step 0", "16 steps", "taylor", "remark")
    return (
        f"{followed} of the {len(rows)} constructors of optax {content['optax']} that take a "
        f"learning rate are followed by the method `displaced`.\n\n{table(head, lines)}"
    )


STARTS = ("settled", "cold", "first steps")


def two_orders(measured: list[float] | None) -> str:
    """The order of the second-order flow, in brackets that of the first-order one."""
    return "" if measured is None else f"{measured[1]:.2f} ({measured[0]:.2f})"


def high_orders(rows: list[dict]) -> str:
    """Slopes of collocation: a line per optimizer and kind, a column per order."""
    lines: dict[str, dict[int, str]] = {}
    for row in rows:
        cell = "exact" if row["exact"] else f"{row['slope']:.2f}{mark(row['holds'])}"
        lines.setdefault(f"{row['optimizer']}, {row['kind']}", {})[row["order"]] = cell
    cells = [
        [name, *(line.get(order, "") for order in HIGH_ORDERS)] for name, line in lines.items()
    ]
    good = sum(row["holds"] for row in rows)
    head = ["collocation", *(f"order {order}" for order in HIGH_ORDERS)]
    return f"{table(head, cells)}\n\n{good} of {len(rows)} hold."


# The honesty of estimates (make honesty) and kinks (make kinks)


def honesty(rows: list[dict]) -> str:
    """A line per kind of problem: how often an estimate reassured or alarmed falsely, and where.

    Among its false ones the worst is that whose shadow, or bias, was farthest off.
    """
    groups: dict[str, list[dict]] = {}
    for row in rows:
        start = row["setting"]["start"]
        kind = "state unknown" if start == "step" else row["kind"]
        groups.setdefault("bias" if row["method"] == "bias" else kind, []).append(row)
    shadows = [row for row in rows if row["method"] != "bias"]
    lines = []
    for name, chosen in {**groups, "all shadows": shadows}.items():
        runs = len({tuple(map(str, row["setting"].values())) for row in chosen})
        counts = [sum(row[key] for row in chosen) for key in ("reassures", "alarms")]
        wrong = [f"{count} ({count / len(chosen):.1%})" for count in counts]
        lines.append((name, runs, len(chosen), *wrong, worst_of(chosen)))
    return table(("kind", "runs", "estimates", "reassure", "false alarms", "worst"), lines)


def worst_of(rows: list[dict]) -> str:
    """The false reassurance that is farthest off, else the false alarm about the closest."""
    size = lambda row: float("inf") if row["share"] is None else row["share"]
    falsely = [row for row in rows if row["reassures"]]
    if not falsely and not (falsely := [row for row in rows if row["alarms"]]):
        return ""
    row = max(falsely, key=size) if falsely[0]["reassures"] else min(falsely, key=size)
    setting = row["setting"]
    named = f"{setting['problem']}, {setting['optimizer']}, {setting['rate']:g}, {row['method']}"
    return f"{named}: {row['said']}, off by {100 * size(row):.2g} %"


def kinks(content: dict) -> dict[str, str]:
    """Orders with and without kinks, and the effect of memory: predicted against measured."""
    orders = [
        (row["network"], row["method"], *(f"{slope:.2f}" for slope in row["slopes"]))
        for row in content["orders"]
    ]
    halvings = len(orders[0]) - 2
    memory = [
        (
            row["network"],
            row["seed"],
            *(f"{row[key]:.3f}" for key in ("predicted", "measured", "cosine")),
            row["estimated"],
            row["verdict"],
        )
        for row in content["memory"]
    ]
    head = ("network", "method", *(f"halving {i + 1}" for i in range(halvings)))
    other = ("network", "seed", "predicted", "measured", "cosine", "estimate", "with the state")
    return {"kinks-orders": table(head, orders), "kinks-memory": table(other, memory)}


def fenced(lines: list[str]) -> str:
    """Lines as a block of text."""
    return "\n".join(["```text", *"\n".join(lines).strip().splitlines(), "```"])
