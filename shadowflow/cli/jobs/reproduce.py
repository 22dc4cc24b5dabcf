"""Reproduce the paper's figures: compute the arrays, draw them, judge them, say what came out."""

from __future__ import annotations

import dataclasses
import importlib
import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import plain, read_arrays, writable, write_arrays, write_json
from ...lab.data.load import load
from ...paper.evidence import Evidence
from ...paper.figures import of_runs as sweeps, style
from ...paper.records import Runs, one_by_one
from ...paper.trials import Trial
from . import cost

if TYPE_CHECKING:
    from ...lab.data.load import Images

CONFIGURATION = "configuration"
RUNS = "runs"  # the folder of the training runs, which all figures in it share


def reproduce_job(
    figures: Sequence[str],
    scale: str | None,
    *,
    out: Path,
    data_dir: Path | None = None,
    redraw: bool = False,
    styles: Sequence[Path] = (),
    yes: bool = False,
    quiet: bool = False,
    runs: Runs | None = None,
) -> bool:
    """Write ``out/<figure>-<scale>/``: arrays.npz, figure.png, figure.pdf, evidence.json.

    The picture and the evidence are made from the arrays alone: redraw=True takes those that lie
    there and computes nothing. Everything that is missing is said before the first figure.
    scale: None, "full" of Figures 1 to 3, "laptop" of those of training runs. runs: how these are
    obtained; None: in this process, in ``out/runs``, where they are found again. At the scale
    "paper" their cost is printed first, and they start only with yes=True.
    Returns whether every row of evidence holds. Raises ValueError for a folder that cannot be
    written, data that are nowhere, a scale that a figure does not have, and arrays of another
    configuration.
    """
    chosen = {name: figure_of(name) for name in figures}
    scales = {name: scale_of(name, figure, scale) for name, figure in chosen.items()}
    folders = {name: out / f"{name}-{scales[name]}" for name in figures}
    for folder in folders.values():
        writable(folder)
    trained = [name for name, figure in chosen.items() if isinstance(figure, sweeps.Figure)]
    needed = dict.fromkeys(
        data for name in chosen if name not in trained and not redraw for data in chosen[name].DATA
    )
    source: Sources = (
        {name: load(name, data_dir) for name in needed},
        runs or one_by_one(out / RUNS, data_dir=data_dir, quiet=quiet),
    )
    ready = {
        name: _stored(folders[name], chosen[name], scales[name])
        for name in (figures if redraw else ())
    }
    if not redraw:
        cost.ask(
            [chosen[name].SCALES[scales[name]] for name in trained if scales[name] == "paper"],
            data_dir,
            yes,
        )
    good = True
    for name, figure in chosen.items():
        arrays = ready.get(name) or _computed(
            name, figure, scales[name], source, folders[name], quiet
        )
        with style.styled(*styles):
            style.save(figure.draw(arrays, figure.SCALES[scales[name]]), folders[name])
        content = _content(name, figure, scales[name], arrays)
        write_json(folders[name] / "evidence.json", content)
        print(
            tell(
                name,
                figure.TITLE,
                content["caption"],
                [Evidence(**row) for row in content["rows"]],
                [Trial(**row) for row in content.get("findings", ())],
            )
        )
        print(f"Written to {folders[name]}: figure.png, figure.pdf, evidence.json, arrays.npz\n")
        good &= content["holds"]
    return good


Sources = tuple[Mapping[str, "Images"], Runs]


def figure_of(name: str) -> Any:
    """What computes and draws a figure: a module, or a row of the figures of training runs."""
    if name in sweeps.FIGURES:
        return sweeps.FIGURES[name]
    return importlib.import_module(f"shadowflow.paper.figures.{name.replace('fig', 'figure')}")


def scale_of(name: str, figure: Any, scale: str | None) -> str:
    """The scale of a figure: the one asked for, or its own largest that a laptop can do."""
    known = tuple(figure.SCALES)
    if scale is None:
        scale = next((own for own in ("full", "laptop") if own in known), known[-1])
    if scale not in known:
        raise ValueError(f"--scale: expected one of {', '.join(known)} for {name}, got {scale!r}")
    return scale


def _configuration(figure: Any, scale: str) -> str:
    return json.dumps(plain(dataclasses.asdict(figure.SCALES[scale])), sort_keys=True)


def _computed(
    name: str, figure: Any, scale: str, source: Sources, folder: Path, quiet: bool
) -> dict[str, np.ndarray]:
    from tqdm import tqdm

    settings, (data, runs) = figure.SCALES[scale], source
    if isinstance(figure, sweeps.Figure):
        arrays = figure.compute(settings, runs(figure.runs(settings)))
    else:
        with tqdm(
            total=figure.work(settings), delay=1, disable=quiet, unit="", leave=False, desc=name
        ) as bar:
            arrays = figure.compute(settings, data, bar.update)
    said = np.asarray(_configuration(figure, scale))
    write_arrays(folder / "arrays.npz", {**arrays, CONFIGURATION: said})
    return arrays


def _stored(folder: Path, figure: Any, scale: str) -> dict[str, np.ndarray]:
    path = folder / "arrays.npz"
    if not path.is_file():
        raise ValueError(
            f"--redraw: expected arrays in {str(folder)!r}, got none; run once without --redraw"
        )
    arrays = read_arrays(path)
    if str(arrays.pop(CONFIGURATION, "")) != _configuration(figure, scale):
        raise ValueError(
            f"--redraw: expected arrays of the present configuration in {str(path)!r}, got those "
            "of another; run once without --redraw"
        )
    return arrays


def _content(
    name: str, figure: Any, scale: str, arrays: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    settings = figure.SCALES[scale]
    rows = figure.evidence(arrays, settings)
    content = {
        "figure": name,
        "title": figure.TITLE,
        "scale": scale,
        "caption": figure.caption(arrays, settings),
        "holds": all(row.holds for row in rows),
        "configuration": dataclasses.asdict(settings),
        "versions": {name: version(name) for name in ("shadowflow", "jax", "diffrax", "optax")},
        "rows": [dataclasses.asdict(row) for row in rows],
    }
    if isinstance(figure, sweeps.Figure):
        content["findings"] = [dataclasses.asdict(f) for f in figure.findings(arrays, settings)]
    return content


def tell(
    name: str, title: str, caption: str, rows: Sequence[Evidence], findings: Sequence[Trial] = ()
) -> str:
    """The evidence in words, what does not hold first; then the paper's claims and what became
    of them here, which is no matter of right or wrong.

    >>> from shadowflow.paper.evidence import below
    >>> print(tell("fig9", "A title", "A caption.", [below("it is small", 2.0, 1.0)]))
    fig9: A title
    A caption.
    0 of 1 rows of evidence hold.
      DOES NOT HOLD  it is small: 2 (expected < 1)
    """
    lines = [
        f"{name}: {title}",
        caption,
        f"{sum(row.holds for row in rows)} of {len(rows)} rows of evidence hold.",
    ]
    for row in sorted(rows, key=lambda row: row.holds):
        verdict = "holds" if row.holds else "DOES NOT HOLD"
        lines.append(f"  {verdict}  {row.claim}: {found(row)} (expected {expected(row)})")
    for trial in findings:
        lines.append(f"  claim {trial.verdict}: {trial.claim}; {trial.statistic}")
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
