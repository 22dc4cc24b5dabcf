"""Reproduce the paper's figures: compute the arrays, draw them, judge them, say what came out."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from shadowflow.files import plain, read_arrays, writable, write_arrays, write_json
from shadowflow.lab.data import load
from shadowflow.paper import style
from shadowflow.paper.evidence import Evidence

if TYPE_CHECKING:
    from shadowflow.lab.data import Images

CONFIGURATION = "configuration"


def reproduce_job(figures: Sequence[str], scale: str, *, out: Path, data_dir: Path | None = None,
                  redraw: bool = False, styles: Sequence[Path] = (),
                  quiet: bool = False) -> bool:  # fmt: skip
    """Write ``out/<figure>-<scale>/``: arrays.npz, figure.png, figure.pdf, evidence.json.

    The picture and the evidence are made from the arrays alone: redraw=True takes those that lie
    there and computes nothing. Everything that is missing is said before the first figure.
    Returns whether every row of evidence holds. Raises ValueError for a folder that cannot be
    written, data that are nowhere, and arrays of another configuration.
    """
    folders = {name: out / f"{name}-{scale}" for name in figures}
    modules = {name: importlib.import_module(f"shadowflow.paper.figure{name.removeprefix('fig')}")
               for name in figures}  # fmt: skip
    for folder in folders.values():
        writable(folder)
    needed = () if redraw else dict.fromkeys(n for m in modules.values() for n in m.DATA)
    data = {name: load(name, data_dir) for name in needed}
    stored = figures if redraw else ()
    ready = {name: _stored(folders[name], modules[name], scale) for name in stored}
    good = True
    for name, module in modules.items():
        arrays = ready.get(name) or _computed(module, scale, data, folders[name], quiet)
        rows = module.evidence(arrays, module.SCALES[scale])
        caption = module.caption(arrays, module.SCALES[scale])
        with style.styled(*styles):
            style.save(module.draw(arrays, module.SCALES[scale]), folders[name])
        content = _content(name, module, scale, caption, rows)
        write_json(folders[name] / "evidence.json", content)
        print(tell(name, module.TITLE, caption, rows))
        print(f"Written to {folders[name]}: figure.png, figure.pdf, evidence.json, arrays.npz\n")
        good &= content["holds"]
    return good


def _configuration(module: ModuleType, scale: str) -> str:
    return json.dumps(plain(dataclasses.asdict(module.SCALES[scale])), sort_keys=True)


def _computed(module: ModuleType, scale: str, data: Mapping[str, Images], folder: Path,
              quiet: bool) -> dict[str, np.ndarray]:  # fmt: skip
    from tqdm import tqdm

    settings = module.SCALES[scale]
    with tqdm(total=module.work(settings), delay=1, disable=quiet, unit="", leave=False,
              desc=module.__name__.rpartition(".")[2]) as bar:  # fmt: skip
        arrays = module.compute(settings, data, bar.update)
    said = np.asarray(_configuration(module, scale))
    write_arrays(folder / "arrays.npz", {**arrays, CONFIGURATION: said})
    return arrays


def _stored(folder: Path, module: ModuleType, scale: str) -> dict[str, np.ndarray]:
    path = folder / "arrays.npz"
    if not path.is_file():
        raise ValueError(
            f"--redraw: expected arrays in {str(folder)!r}, got none; run once without --redraw"
        )
    arrays = read_arrays(path)
    if str(arrays.pop(CONFIGURATION, "")) != _configuration(module, scale):
        raise ValueError(
            f"--redraw: expected arrays of the present configuration in {str(path)!r}, got those "
            "of another; run once without --redraw"
        )
    return arrays


def _content(name: str, module: ModuleType, scale: str, caption: str,
             rows: Sequence[Evidence]) -> dict[str, Any]:  # fmt: skip
    return {
        "figure": name, "title": module.TITLE, "scale": scale, "caption": caption,
        "holds": all(row.holds for row in rows),
        "configuration": dataclasses.asdict(module.SCALES[scale]),
        "versions": {name: version(name) for name in ("shadowflow", "jax", "diffrax", "optax")},
        "rows": [dataclasses.asdict(row) for row in rows],
    }  # fmt: skip


def tell(name: str, title: str, caption: str, rows: Sequence[Evidence]) -> str:
    """The evidence in words, what does not hold first.

    >>> from shadowflow.paper.evidence import below
    >>> print(tell("fig9", "A title", "A caption.", [below("it is small", 2.0, 1.0)]))
    fig9: A title
    A caption.
    0 of 1 rows of evidence hold.
      DOES NOT HOLD  it is small: 2 (expected < 1)
    """
    lines = [f"{name}: {title}", caption,
             f"{sum(row.holds for row in rows)} of {len(rows)} rows of evidence hold."]  # fmt: skip
    for row in sorted(rows, key=lambda row: row.holds):
        verdict = "holds" if row.holds else "DOES NOT HOLD"
        lines.append(f"  {verdict}  {row.claim}: {found(row)} (expected {expected(row)})")
    return "\n".join(lines)


def found(row: Evidence) -> str:
    """What was measured, as a reader wants it: the range where each number has the same bound.

    >>> from shadowflow.paper.evidence import each_below, ordered
    >>> found(each_below("", [0.1, 0.3, 0.2], 1)), found(ordered("", [1, 2], rising=True))
    ('0.1 to 0.3', '1, 2')
    """
    measured = row.measured
    if isinstance(measured, str):
        return measured
    if not isinstance(measured, list | tuple):
        return _digits(measured, 4)
    if str(row.expected).startswith("each"):
        low, high = (_digits(bound(measured), 2) for bound in (min, max))
        return low if low == high else f"{low} to {high}"
    return ", ".join(_digits(value, 6) for value in measured)


def _digits(value: float | None, count: int) -> str:
    return "not finite" if value is None else f"{value:.{count}g}"


def expected(row: Evidence) -> str:
    """What was expected, with its tolerance."""
    if isinstance(row.expected, str):
        return row.expected
    return f"{row.expected:.4g} ± {row.tolerance:.1g}"
