"""Figures 4 to 12, drawn: maxima against the grid, norms and curves an epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import pyplot as plt, ticker

from ..curves import running_median
from ..grid import Grid, Series
from . import captions, style
from .of_runs import PERTURBED, PLAIN, Arrays, Figure, Run, means, read_off, table

NORM, ONE = style.COLOURS["displaced"], style.COLOURS["taylor"]
EPSILON_NORM, ONE_NORM = r"$\|\nabla E\|_{1,\varepsilon}$", r"$\|\nabla E\|_1$"
SPREAD = 0.3  # of the seeds of a value, around its place


def draw(figure: Figure, arrays: Arrays, grid: Grid) -> Any:
    """The picture of a figure from its arrays."""
    return {"maxima": maxima, "norms": norms, "curves": training}[figure.kind](
        figure.sweeps, arrays, grid
    )


def maxima(sweeps: Sequence[str], arrays: Arrays, grid: Grid) -> Any:
    """A row a sweep: the largest norm, the norm at equal loss, the largest test accuracy."""
    picture, axes = plt.subplots(
        len(sweeps), 3, figsize=(style.PAGE, 2.35 * len(sweeps) + 0.3), squeeze=False
    )
    for (most, level, accuracy), name in zip(axes, sweeps, strict=True):
        row, found = grid.sweeps[name], read_off(arrays, grid, name)
        at_level = f"at training loss {grid.level:g}"
        for axis, kind, title in (
            (most, "peak", "maximum after the fall"),
            (level, "level", at_level),
        ):
            _points(axis, found, kind, NORM, "o", EPSILON_NORM)
            _points(axis, found, f"{kind}_plain", ONE, "s", ONE_NORM)
            axis.set(title=title, ylabel="norm of the gradient")
            _floor(axis, captions.lowest(arrays, name, row))
        _points(accuracy, found, "accuracy", "black", "o", "")
        accuracy.set(title="maximal test accuracy", ylabel="test accuracy")
        for axis in (most, level, accuracy):
            _places(axis, row)
    style.letter(list(axes.flat))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    picture.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    return picture


def _points(
    axis, found: Sequence[Sequence[Run]], outcome: str, colour, marker: str, label: str
) -> None:
    """Every run, a thin line a seed, and the mean; of maxima only those on a hill are filled."""
    values = table(found, outcome)
    seeds, count = values.shape
    axis.plot(range(count), means(values.T), color=colour, lw=1.3, label=label or None)
    shift = (np.arange(seeds) - (seeds - 1) / 2) * SPREAD / max(1, seeds)
    for seed in range(seeds):
        axis.plot(np.arange(count) + shift[seed], values[seed], color=colour, lw=0.5, alpha=0.4)
    for seed, place in np.ndindex(seeds, count):
        filled = not outcome.startswith("peak") or found[place][seed].numbers["hill"].exists
        axis.plot(
            place + shift[seed],
            values[seed, place],
            marker,
            ms=3.5,
            color=colour,
            mew=0.8,
            mfc=colour if filled else "white",
            alpha=0.75,
        )


def _places(axis, row: Series) -> None:
    """Every value of the grid at its own place, with the stability edge where it rules."""
    edges = captions.edges(row)
    words = [f"{value:g}" for value in row.values]
    if edges is not None:
        words = [f"{word}\n[{edge:.3g}]" for word, edge in zip(words, edges, strict=True)]
    ruled = "  [edge $h\\lambda$]" if edges is not None else ""
    axis.set_xticks(range(len(words)), words)
    axis.set(
        xlabel=f"{row.symbol}{ruled}   ({row.other[0]} = {row.other[1]:g})",
        xlim=(-0.4, len(words) - 0.6),
    )


def _floor(axis, value: float) -> None:
    """p√ε, where it is in sight."""
    low, high = axis.get_ylim()
    if value >= low - 0.15 * (high - low):
        axis.axhline(value, color=NORM, lw=0.8, ls=":", label="p√ε")


def norms(sweeps: Sequence[str], arrays: Arrays, grid: Grid) -> Any:
    """A column a sweep: the perturbed one-norm and Σ|g| an epoch, and against the loss."""
    picture, axes = plt.subplots(3, len(sweeps), figsize=(style.PAGE, 6.6), squeeze=False)
    for column, name in zip(axes.T, sweeps, strict=True):
        row, found = grid.sweeps[name], read_off(arrays, grid, name)
        for axis, measure, said in (
            (column[0], PERTURBED, EPSILON_NORM),
            (column[1], PLAIN, ONE_NORM),
        ):
            _epochs(axis, arrays, name, measure, row)
            _marks(axis, arrays, name, measure, row, found)
            _few_ticks(axis)
            axis.set(ylabel=said, xlabel="epoch")
        _against_loss(column[2], arrays, name, PERTURBED, row, grid)
        column[2].set(ylabel=EPSILON_NORM)
        column[0].set_title(_title(row))
        _legend(column[0], row)
    style.letter(axes[0])
    return picture


def training(sweeps: Sequence[str], arrays: Arrays, grid: Grid) -> Any:
    """Loss and accuracy in training and on the test images, and the norms against the loss."""
    picture, axes = plt.subplots(
        2 * len(sweeps), 3, squeeze=False, figsize=(style.PAGE, 4.4 * len(sweeps))
    )
    for index, name in enumerate(sweeps):
        row, lines = grid.sweeps[name], axes[2 * index : 2 * index + 2]
        panels = (
            ("train_loss", "training loss"),
            ("train_accuracy", "training accuracy"),
            ("test_loss", "test loss"),
            ("test_accuracy", "test accuracy"),
        )
        for axis, (measure, said) in zip(lines[:, :2].ravel(), panels, strict=True):
            _epochs(axis, arrays, name, measure, row, smooth=False)
            axis.set(xlabel="epoch", title=said)
        _few_ticks(lines[0, 0])
        for axis, measure, said in (
            (lines[0, 2], PERTURBED, EPSILON_NORM),
            (lines[1, 2], PLAIN, ONE_NORM),
        ):
            _against_loss(axis, arrays, name, measure, row, grid)
            axis.set(title=said)
        _legend(lines[0, 1], row, title=f"{row.other[0]} = {row.other[1]:g}", loc="lower right")
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


def _title(row: Series) -> str:
    rate = row.training(row.values[0], 0).learning_rate
    return f"{row.symbol} varied, {row.other[0]} = {row.other[1]:g}, h = {rate:g}"


def _legend(axis, row: Series, **options: Any) -> None:
    """A line a value; the stability edges beside them where they rule."""
    edges = captions.edges(row) or [None] * len(row.values)
    lines = [axis.plot([], [], color=colour)[0] for colour in style.shades(len(row.values))]
    labels = [
        f"{row.symbol} = {value:g}" + ("" if edge is None else f", edge $h\\lambda$ = {edge:.3g}")
        for value, edge in zip(row.values, edges, strict=True)
    ]
    axis.legend(lines, labels, **options)


def _each(row: Series, curve: np.ndarray):
    """(place, colour, values an epoch) of every run."""
    for place, colour in enumerate(style.shades(len(row.values))):
        for seed in range(curve.shape[1]):
            yield (place, seed), colour, curve[place, seed].astype(float)


def _epochs(
    axis, arrays: Arrays, name: str, measure: str, row: Series, *, smooth: bool = True
) -> None:
    for _, colour, values in _each(row, arrays[f"{name}/{measure}"]):
        shown = running_median(values) if smooth else values
        seen = np.flatnonzero(np.isfinite(shown))
        axis.plot(seen, shown[seen], color=colour, lw=0.8, alpha=0.75)


def _marks(
    axis, arrays: Arrays, name: str, measure: str, row: Series, found: Sequence[Sequence[Run]]
) -> None:
    """A dot where the initial fall ends, a triangle on top of a hill of the perturbed norm."""
    for (place, seed), colour, values in _each(row, arrays[f"{name}/{measure}"]):
        run, smooth = found[place][seed], running_median(values)
        for at, marker, size in ((run.fall.at, "o", 3), (run.numbers["hill"].at, "^", 4.5)):
            if at is not None:
                axis.plot(at, smooth[int(at)], marker, ms=size, color=colour, mec="black", mew=0.4)


def _against_loss(axis, arrays: Arrays, name: str, measure: str, row: Series, grid: Grid) -> None:
    losses = arrays[f"{name}/train_loss"]
    for index, colour, values in _each(row, arrays[f"{name}/{measure}"]):
        axis.plot(
            running_median(losses[index].astype(float)),
            running_median(values),
            color=colour,
            lw=0.8,
            alpha=0.75,
        )
    axis.axvline(grid.level, color="black", lw=0.7, ls=":")
    axis.set_xlabel("training loss")
    seen = losses[np.isfinite(losses) & (losses > 0)]
    if len(seen):
        axis.set_xscale("log")
        _few_ticks(axis)
        axis.set_xlim(float(seen.max()) * 1.05, float(seen.min()) / 1.05)
