"""Text that all jobs write alike: aligned tables, numbers, the versions behind a result."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

WIDTH = 96
PACKAGES = ("shadowflow", "jax", "diffrax", "optax")


def versions() -> dict[str, str]:
    """Package → version, of those that a result depends on; a bare checkout has none."""
    return {name: _version(name) for name in PACKAGES}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns below a head: words to the left, numbers to the right.

    >>> print("\\n".join(table(["method", "error"], [["taylor", "2.1"], ["inertial", "0.013"]])))
    method    error
    --------  -----
    taylor      2.1
    inertial  0.013
    """
    columns = list(zip(head, *rows, strict=True))
    widths = [max(map(len, column)) for column in columns]
    aligns = [">" if all(map(_is_number, column[1:])) else "<" for column in columns]
    lines = [head, ["-" * width for width in widths], *rows]
    return [
        "  ".join(
            f"{cell:{align}{width}}"
            for cell, align, width in zip(line, aligns, widths, strict=True)
        ).rstrip()
        for line in lines
    ]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+–" or text == "inf"


def number(value: float) -> str:
    """Two significant digits, in the shorter of both notations; a dash for NaN."""
    return "–" if value != value else f"{value:.2g}"
