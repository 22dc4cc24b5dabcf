"""Write every measured table into its page of docs/, between its two marks, from the JSON files.

A page has a pair of comments for each table, ``<!-- NAME: start (make …) -->`` and
``<!-- NAME: end -->``; what stands between them is replaced. Nothing is measured here.
"""

import json
import re
from pathlib import Path

import tables

from shadowflow.cli.jobs.orders import far_table, sweep_table

HERE = Path(__file__).parent


def read(name: str):
    """The content of a JSON file of docs/."""
    return json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))


def figure_contents() -> list[dict]:
    """The evidence of the figures, in their order."""
    paths = (HERE / "results").glob("fig*.json")
    names = sorted((path.stem for path in paths), key=lambda name: int(name.removeprefix("fig")))
    return [read(f"results/{name}") for name in names]


def pages() -> dict[str, dict[str, str]]:
    """Page → name of the marks → what stands between them."""
    bench, far, drawn = read("bench"), read("far"), figure_contents()
    honest = read("honesty")
    return {
        "methods.md": {"methods": tables.methods()},
        "orders.md": tables.orders(read("verify")),
        "costs.md": {
            "costs": tables.costs(bench),
            "compilation": tables.compilation(bench["compilation"]),
            "training": tables.training(bench),
        },
        "paper.md": {"figures": tables.figures(drawn), "counted": tables.counted(drawn)},
        "claims.md": {"claims": tables.claims(read("results/claims"))},
        "bring_your_own_optimizer.md": {"optax": tables.constructors(read("optax"))},
        "when_to_trust.md": {
            "honesty": tables.honesty(honest["rows"]),
            "honesty-drawn": tables.honesty(honest["drawn"]),
        },
        "kinks.md": tables.kinks(read("kinks")),
        "how_far.md": {
            "orders": tables.high_orders(far["orders"]),
            "digits": tables.fenced(sweep_table(read("results/far-digits"))),
            "mnist": tables.fenced(far_table(read("results/far-mnist"))),
        },
    }


def put(text: str, name: str, content: str) -> str:
    """``text`` with ``content`` between the marks of that name.

    >>> put("<!-- a: start (make b) --> old <!-- a: end -->", "a", "new").split()[5:7]
    ['-->', 'new']
    """
    marks = re.compile(rf"(<!-- {name}: start[^>]*-->).*?(<!-- {name}: end -->)", re.DOTALL)
    whole, count = marks.subn(lambda at: f"{at[1]}\n\n{content}\n\n{at[2]}", text)
    if count != 1:
        raise ValueError(f"{name}: expected one pair of marks in the page, got {count}")
    return whole


def filled(page: str, contents: dict[str, str]) -> str:
    """The text of a page with its tables as they were last measured."""
    text = (HERE / page).read_text(encoding="utf-8")
    for name, content in contents.items():
        text = put(text, name, content)
    return text


def main() -> None:
    """Bring every page up to date."""
    for page, contents in pages().items():
        (HERE / page).write_text(filled(page, contents), encoding="utf-8")


if __name__ == "__main__":
    main()
