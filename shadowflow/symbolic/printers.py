"""The sections of a derivation as text, LaTeX and HTML."""

from __future__ import annotations

import textwrap
from html import escape
from typing import TYPE_CHECKING

from .dialects import Latex, MathML, Text
from .layout import write

if TYPE_CHECKING:
    from .sections import Formula, Section

WIDTH = 96
STYLE = """
body { font-family: serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
math { font-size: 1.1rem } .formula { margin: .6rem 0 .6rem 1.5rem; overflow-x: auto }
.remark { color: #555; margin-left: 1rem } details { color: #555; font-size: .85rem }
code { white-space: pre-wrap }
"""


def text(sections: list[Section]) -> str:
    """A title, then lines; formulas are indented, their equals signs below one another."""
    blocks = []
    for section in sections:
        lines = [section.title, "-" * len(section.title)]
        formulas = [item for item in section.items if not isinstance(item, str)]
        lefts = [write(formula.left, Text()) for formula in formulas]
        width = max((len(left) for left in lefts), default=0)
        for item in section.items:
            if isinstance(item, str):
                lines += textwrap.wrap(item, WIDTH)
            else:
                lines.append(_text_line(item, width))
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _text_line(formula: Formula, width: int) -> str:
    left = write(formula.left, Text()).ljust(width)
    line = f"  {left} {formula.relation} {write(formula.right, Text())}"
    return f"{line}    ({formula.remark})" if formula.remark else line


def latex(sections: list[Section]) -> str:
    """Words as % comments, the formulas of a section as one ``aligned`` block."""
    blocks = []
    for section in sections:
        words = [f"% {section.title}"]
        for item in section.items:
            said = item if isinstance(item, str) else item.remark and _remark(item)
            words += [f"%   {line}" for line in textwrap.wrap(said, WIDTH)]
        formulas = [item for item in section.items if not isinstance(item, str)]
        rows = [formula_latex(formula, "&") for formula in formulas]
        if rows:
            body = " \\\\\n".join(rows)
            words.append(f"\\begin{{aligned}}\n{body}\n\\end{{aligned}}")
        blocks.append("\n".join(words))
    return "\n\n".join(blocks) + "\n"


def _remark(formula: Formula) -> str:
    return f"{write(formula.left, Text())}: {formula.remark}"


def formula_latex(formula: Formula, mark: str = "") -> str:
    """One formula; ``mark`` stands before the relation."""
    relation = {"←": r"\leftarrow"}.get(formula.relation, formula.relation)
    return f"{write(formula.left, Latex())} {mark}{relation} {write(formula.right, Latex())}"


def html(name: str, sections: list[Section]) -> str:
    """A page in itself: MathML, under each section the LaTeX of its formulas."""
    title = f"The modified equation of {escape(name)}"
    body = "\n".join(map(_html_section, sections))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _html_section(section: Section) -> str:
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>"]
    sources = []
    for item in section.items:
        if isinstance(item, str):
            parts.append(f"<p>{escape(item)}</p>")
            continue
        sides = [write(side, MathML()) for side in (item.left, item.right)]
        remark = f'<span class="remark">{escape(item.remark)}</span>' if item.remark else ""
        parts.append(
            f'<div class="formula"><math><mrow>{sides[0]}<mo>{item.relation}</mo>{sides[1]}</mrow>'
            f"</math>{remark}</div>"
        )
        sources.append(escape(formula_latex(item)))
    if sources:
        code = "\n".join(sources)
        parts.append(f"<details><summary>LaTeX</summary><code>{code}</code></details>")
    return "\n".join([*parts, "</section>"])
