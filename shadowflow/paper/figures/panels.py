"""Figures 4 to 12, drawn: maxima against the grid, norms and curves per epoch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt, ticker

from ..analysis import PERTURBED, PLAIN, Swept, means
from ..curves import running_median
from . import captions, style

NORM, ONE = style.COLOURS["displaced"], style.COLOURS["taylor"]
EPSILON_NORM, ONE_NORM = r"$\|\nabla E\|_{1,\varepsilon}$", r"$\|\nabla E\|_1$"
MEASURES = ((PERTURBED, EPSILON_NORM), (PLAIN, ONE_NORM))
SPREAD = 0.3  # of the seeds of a value, around its place


def maxima(sweeps: Sequence[Swept]) -> Any:
    """A row per sweep: the largest norm, the norm at equal loss, the largest test accuracy."""
    size = style.PAGE, 2.35 * len(sweeps) + 0.3
    picture, axes = plt.subplots(len(sweeps), 3, figsize=size, squeeze=False)
    for line, swept in zip(axes, sweeps, strict=True):
        at_level = f"at training loss {swept.grid.level:g}"
        kinds = (("peak", "maximum after the fall"), ("level", at_level))
        for axis, (kind, title) in zip(line, kinds, strict=False):
            _points(axis, swept, kind, NORM, "o", EPSILON_NORM)
            _points(axis, swept, f"{kind}_plain", ONE, "s", ONE_NORM)
            axis.set(title=title, ylabel="norm of the gradient")
            _floor(axis, captions.lowest(swept))
        _points(line[2], swept, "accuracy", "black", "o", None)
        line[2].set(title="maximal test accuracy", ylabel="test accuracy")
        for axis in line:
            _places(axis, swept)
    style.letter(list(axes.flat))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return picture


def _points(axis, swept: Swept, outcome: str, colour, marker: str, label: str | None) -> None:
    """Every run, a thin line per seed, and the mean; a maximum is filled only on a hill."""
    values = swept.table(outcome)
    seeds, count = values.shape
    axis.plot(range(count), means(values.T), color=colour, lw=1.3, label=label)
    shift = (np.arange(seeds) - (seeds - 1) / 2) * SPREAD / max(1, seeds)
    for row, aside in zip(values, shift, strict=True):
        axis.plot(np.arange(count) + aside, row, color=colour, lw=0.5, alpha=0.4)
    for (place, seed), run in swept.runs.items():
        filled = not outcome.startswith("peak") or run["hill"].exists
        look = {"color": colour, "mfc": colour if filled else "white", "mew": 0.8, "alpha": 0.75}
        axis.plot(place + shift[seed], values[seed, place], marker, ms=3.5, **look)


def _places(axis, swept: Swept) -> None:
    """The values of the grid, evenly spaced, with the stability edge where it matters."""
    row, edges = swept.row, captions.edges(swept)
    words = [f"{value:g}" for value in row.values]
    if edges is not None:
        words = [f"{word}\n[{edge:.3g}]" for word, edge in zip(words, edges, strict=True)]
    marked = "  [edge $h\\lambda$]" if edges is not None else ""
    axis.set_xticks(range(len(words)), words)
    axis.set(
        xlabel=f"{row.symbol}{marked}   ({row.other[0]} = {row.other[1]:g})",
        xlim=(-0.4, len(words) - 0.6),
    )


def _floor(axis, value: float) -> None:
    """p√ε, where it is in sight."""
    low, high = axis.get_ylim()
    if value >= low - 0.15 * (high - low):
        axis.axhline(value, color=NORM, lw=0.8, ls=":", label="p√ε")


def norms(sweeps: Sequence[Swept]) -> Any:
    """A column per sweep: the perturbed one-norm and Σ|g| by epoch, and against the loss."""
    picture, axes = plt.subplots(3, len(sweeps), figsize=(style.PAGE, 6.6), squeeze=False)
    for column, swept in zip(axes.T, sweeps, strict=True):
        for axis, (measure, name) in zip(column, MEASURES, strict=False):
            _epochs(axis, swept, measure)
            _marks(axis, swept, measure)
            _few_ticks(axis)
            axis.set(ylabel=name, xlabel="epoch")
        _against_loss(column[2], swept, PERTURBED)
        column[2].set(ylabel=EPSILON_NORM)
        other, value = swept.row.other
        rate = swept.first.learning_rate
        column[0].set_title(f"{swept.row.symbol} varied, {other} = {value:g}, h = {rate:g}")
        _legend(column[0], swept)
    style.letter(axes[0])
    return picture


def curves(sweeps: Sequence[Swept]) -> Any:
    """Loss and accuracy on the images to train and to test on, and the norms against the loss."""
    size = style.PAGE, 4.4 * len(sweeps)
    picture, axes = plt.subplots(2 * len(sweeps), 3, squeeze=False, figsize=size)
    for index, swept in enumerate(sweeps):
        lines = axes[2 * index : 2 * index + 2]
        for axis, measure, title in (
            (lines[0, 0], "train_loss", "training loss"),
            (lines[0, 1], "train_accuracy", "training accuracy"),
            (lines[1, 0], "test_loss", "test loss"),
            (lines[1, 1], "test_accuracy", "test accuracy"),
        ):
            _epochs(axis, swept, measure, smooth=False)
            axis.set(xlabel="epoch", title=title)
        _few_ticks(lines[0, 0])
        for axis, (measure, name) in zip(lines[:, 2], MEASURES, strict=True):
            _against_loss(axis, swept, measure)
            axis.set(title=name)
        other, value = swept.row.other
        _legend(lines[0, 1], swept, title=f"{other} = {value:g}", loc="lower right")
    style.letter(list(axes.flat))
    return picture


def _few_ticks(axis) -> None:
    """A logarithmic axis whose numbers are written out: 1, 2, 5 of each decade, or 1 of many."""
    if not np.all(np.isfinite(axis.dataLim.get_points())):
        return  # there is nothing to see
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    subs = (1.0, 2.0, 5.0) if high < 300 * low else (1.0,)
    axis.yaxis.set_major_locator(ticker.LogLocator(subs=subs, numticks=8))
    axis.yaxis.set_major_formatter(ticker.FormatStrFormatter("%g"))
    axis.yaxis.set_minor_formatter(ticker.NullFormatter())


def _legend(axis, swept: Swept, **options: Any) -> None:
    """A line per value, with its stability edge where that matters."""
    row = swept.row
    edges = captions.edges(swept) or [None] * len(row.values)
    lines = [axis.plot([], [], color=colour)[0] for colour in style.shades(len(row.values))]
    labels = [
        f"{row.symbol} = {value:g}" + ("" if edge is None else f", edge $h\\lambda$ = {edge:.3g}")
        for value, edge in zip(row.values, edges, strict=True)
    ]
    axis.legend(lines, labels, **options)


def _each(swept: Swept, measure: str) -> Iterator[tuple[tuple[int, int], Any, np.ndarray]]:
    """(value, seed), the value's colour, and the curve of every run."""
    colours = style.shades(len(swept.row.values))
    for place in swept.runs:
        yield place, colours[place[0]], swept[measure][place].astype(float)


def _epochs(axis, swept: Swept, measure: str, *, smooth: bool = True) -> None:
    for _, colour, values in _each(swept, measure):
        shown = running_median(values) if smooth else values
        seen = np.flatnonzero(np.isfinite(shown))
        axis.plot(seen, shown[seen], color=colour, lw=0.8, alpha=0.75)


def _marks(axis, swept: Swept, measure: str) -> None:
    """A dot where the initial fall ends, a triangle on top of a hill of the perturbed norm."""
    for place, colour, values in _each(swept, measure):
        run, smooth = swept.runs[place], running_median(values)
        for at, marker, size in ((run["fall"].at, "o", 3), (run["hill"].at, "^", 4.5)):
            if at is not None:
                axis.plot(at, smooth[int(at)], marker, ms=size, color=colour, mec="black", mew=0.4)


def _against_loss(axis, swept: Swept, measure: str) -> None:
    losses = swept["train_loss"]
    for place, colour, values in _each(swept, measure):
        loss = running_median(losses[place].astype(float))
        axis.plot(loss, running_median(values), color=colour, lw=0.8, alpha=0.75)
    axis.axvline(swept.grid.level, color="black", lw=0.7, ls=":")
    axis.set_xlabel("training loss")
    seen = losses[np.isfinite(losses) & (losses > 0)]
    if len(seen):
        axis.set_xscale("log")
        _few_ticks(axis)
        axis.set_xlim(float(seen.max()) * 1.05, float(seen.min()) / 1.05)
