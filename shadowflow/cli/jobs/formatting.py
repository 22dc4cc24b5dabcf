"""Text that all jobs write alike: aligned tables, numbers, the versions behind a result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version

PACKAGES = ("shadowflow", "jax", "diffrax", "optax")


def versions() -> dict[str, str]:
    """Package → version, of those that a result depends on; a bare checkout has none."""
    found = dict.fromkeys(PACKAGES, "not installed")
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def table(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Lines of aligned columns below their names: words to the left, numbers to the right.

    >>> rows = {"method": "taylor", "error": "2.1"}, {"method": "inertial", "error": "0.013"}
    >>> print("\\n".join(table(rows)))
    method    error
    --------  -----
    taylor      2.1
    inertial  0.013
    """
    columns = [[name, *(row[name] for row in rows)] for name in (rows[0] if rows else ())]
    cells = []
    for name, *below in columns:
        width, align = max(map(len, [name, *below])), ">" if all(map(_is_number, below)) else "<"
        cells.append([f"{cell:{align}{width}}" for cell in (name, "-" * width, *below)])
    return ["  ".join(line).rstrip() for line in zip(*cells, strict=True)]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+–" or text == "inf"


def number(value: float) -> str:
    """Two significant digits, in the shorter of both notations; a dash for NaN."""
    return "–" if value != value else f"{value:.2g}"
