"""Reproduce the paper's figures: compute the arrays, draw them, judge them, say what came out."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import alone, plain, read_arrays, write_arrays, write_json
from ...lab.data.load import load
from ...paper.evidence import Evidence
from ...paper.figures import Arrays, Data, style
from ...paper.figures.of_runs import FIGURES, RunFigure
from ...paper.records import Runs
from ...paper.trials import Trial
from . import cost
from .formatting import versions
from .progress import progress

if TYPE_CHECKING:
    from ..reproduce import Reproduce

CONFIGURATION = "configuration"


def figure_of(name: str) -> Any:
    """What computes and draws a figure: a module, or a row of the figures of training runs."""
    if name in FIGURES:
        return FIGURES[name]
    return importlib.import_module(f"...paper.figures.{name.replace('fig', 'figure')}", __package__)


@dataclass(frozen=True)
class Reproduction:
    """A figure at one scale, and the folder of its results."""

    name: str
    figure: Any
    scale: str
    folder: Path

    @classmethod
    def of(cls, name: str, scale: str | None, out: Path) -> Reproduction:
        """At the scale that is named, else at the figure's largest that a laptop can do."""
        figure = figure_of(name)
        known = tuple(figure.SCALES)
        if scale is None:
            scale = next((own for own in ("full", "laptop") if own in known), known[-1])
        if scale not in known:
            raise ValueError(
                f"--scale: expected one of {', '.join(known)} for {name}, got {scale!r}"
            )
        return cls(name, figure, scale, out / f"{name}-{scale}")

    @property
    def settings(self) -> Any:
        """What the figure is computed from."""
        return self.figure.SCALES[self.scale]

    @property
    def trained(self) -> bool:
        """Whether it shows training runs."""
        return isinstance(self.figure, RunFigure)

    @property
    def configuration(self) -> str:
        """The settings as one text, which is stored with the arrays."""
        return json.dumps(plain(dataclasses.asdict(self.settings)), sort_keys=True)

    def compute(self, data: Data, runs: Runs, quiet: bool) -> Arrays:
        """The arrays, which are stored too."""
        figure, settings = self.figure, self.settings
        if self.trained:
            arrays = figure.compute(settings, runs(figure.runs(settings)))
        else:
            with progress(quiet=quiet, desc=self.name, unit="") as bar:
                arrays = figure.compute(settings, data, bar)
        said = {CONFIGURATION: np.asarray(self.configuration)}
        write_arrays(self.folder / "arrays.npz", {**arrays, **said})
        return arrays

    def stored(self) -> Arrays:
        """The arrays of an earlier run; ValueError for none, or those of other settings."""
        path = self.folder / "arrays.npz"
        if not path.is_file():
            raise ValueError(
                f"--redraw: expected arrays in {str(self.folder)!r}, got none; run once without "
                "--redraw"
            )
        arrays = read_arrays(path)
        if str(arrays.pop(CONFIGURATION, "")) != self.configuration:
            raise ValueError(
                f"--redraw: expected arrays of the present configuration in {str(path)!r}, got "
                "those of another; run once without --redraw"
            )
        return arrays

    def finish(self, arrays: Arrays, styles: Sequence[Path]) -> bool:
        """Draw, judge and tell; whether every row of evidence holds."""
        figure, settings = self.figure, self.settings
        with style.styled(*styles):
            style.save(figure.draw(arrays, settings), self.folder)
        rows, caption = figure.evidence(arrays, settings), figure.caption(arrays, settings)
        findings = figure.findings(arrays, settings) if self.trained else []
        holds = all(row.holds for row in rows)
        content = {
            "figure": self.name,
            "title": figure.TITLE,
            "scale": self.scale,
            "caption": caption,
            "holds": holds,
            "configuration": dataclasses.asdict(settings),
            "versions": versions(),
            "rows": [dataclasses.asdict(row) for row in rows],
        }
        if self.trained:
            content["findings"] = [dataclasses.asdict(trial) for trial in findings]
        write_json(self.folder / "evidence.json", content)
        print(tell(self.name, figure.TITLE, caption, rows, findings))
        print(f"Written to {self.folder}: figure.png, figure.pdf, evidence.json, arrays.npz\n")
        return holds


def reproduce_job(command: Reproduce, runs: Runs) -> bool:
    """Write ``out/<figure>-<scale>/``: arrays.npz, figure.png, figure.pdf, evidence.json.

    The picture and the evidence are made from the arrays alone: ``redraw`` takes those that lie
    there and computes nothing. Everything that is missing is said before the first figure.
    runs: how training runs are obtained; at the scale "paper" their cost is printed first, and
    they start only with ``yes``. Returns whether every row of evidence holds. Raises ValueError
    for a folder that cannot be written, data that are nowhere, a scale that a figure does not
    have, and arrays of another configuration.
    """
    chosen = [Reproduction.of(name, command.scale, command.out) for name in command.names()]
    with contextlib.ExitStack() as stack:
        for one in chosen:
            stack.enter_context(alone(one.folder))
        return _reproduced(command, chosen, runs)


def _reproduced(command: Reproduce, chosen: Sequence[Reproduction], runs: Runs) -> bool:
    if command.redraw:
        stored = [one.stored() for one in chosen]  # all of them, before the first is drawn
        good = [one.finish(a, command.style) for one, a in zip(chosen, stored, strict=True)]
        return all(good)
    needed = [name for one in chosen if not one.trained for name in one.figure.DATA]
    data = {name: load(name, command.data_dir) for name in dict.fromkeys(needed)}
    grids = [one.settings for one in chosen if one.trained]
    cost.ask(grids, command.data_dir, command.yes, command.quiet)
    good = [one.finish(one.compute(data, runs, command.quiet), command.style) for one in chosen]
    return all(good)


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

    >>> from shadowflow.paper.evidence import below, ordered
    >>> found(below("", [0.1, 0.3, 0.2], 1)), found(ordered("", [1, 2], rising=True))
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
