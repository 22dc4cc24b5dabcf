"""Figures 4 to 12: what ρ and β do to the norm of the gradient and to the test accuracy.

One table of figures, all drawn from the curves of the runs of a grid: the maxima of each run, its
norm an epoch, or its training and test curves. What the paper claims of them stands in
``findings``, tried by the statistics of `trials`; ``evidence`` only says whether the runs are fit
to try it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

import numpy as np

from ...lab.training.config import Training
from ...lab.training.start import shape_of
from .. import curves, grid as grids, trials
from ..curves import Found
from ..evidence import Evidence, near
from ..grid import Grid, Series
from ..records import MEASURES, Record
from ..trials import Trial

Arrays = Mapping[str, np.ndarray]
Kind = Literal["maxima", "norms", "curves"]
PERTURBED, PLAIN = "perturbed_one_norm", "one_norm"
AT_CHANCE = 1.5  # times the accuracy of guessing: a mean below it tells nothing of generalization
EDGE_RATE = 1e-3  # from this learning rate on the hill's β is that of the stability edge
MODELS = {
    "mlp": "Perceptron",
    "cnn": "CNN",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "simple_vit": "SimpleViT",
}
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


class Outcome(NamedTuple):
    """A number of a run. said: in a sentence; up: whether the paper has it rise with ρ."""

    said: str
    up: bool


OUTCOMES = {
    "peak": Outcome("maximal perturbed one-norm after the initial fall", True),
    "level": Outcome("perturbed one-norm at equal training loss", True),
    "hill": Outcome("hill of the perturbed one-norm", True),
    "accuracy": Outcome("maximal test accuracy", False),
    "peak_plain": Outcome("maximal Σ|g| after the initial fall", True),
    "level_plain": Outcome("Σ|g| at equal training loss", True),
}


@dataclass(frozen=True)
class Figure:
    """A figure of training runs; has what the modules of Figures 1 to 3 have.

    grid: the name of its TOML file; sweeps: those of the file that it shows; kind: how.
    """

    grid: str
    sweeps: tuple[str, ...]
    kind: Kind
    TITLE: str

    @functools.cached_property
    def SCALES(self) -> dict[str, Grid]:
        """Scale → grid."""
        return grids.read(grids.grids()[self.grid])

    def runs(self, grid: Grid) -> list[Training]:
        """What must be trained."""
        return grid.runs(*self.sweeps)

    def compute(self, grid: Grid, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The arrays of the runs, given in the order of ``runs``."""
        return arranged(grid, self.sweeps, records)

    def evidence(self, arrays: Arrays, grid: Grid) -> list[Evidence]:
        """Whether every run is fit to be compared."""
        return [row for sweep in self.sweeps for row in fitness(arrays, grid, sweep)]

    def findings(self, arrays: Arrays, grid: Grid) -> list[Trial]:
        """The paper's claims on these runs."""
        return [tried(arrays, grid, sweep, name) for sweep in self.sweeps for name in OUTCOMES]

    def caption(self, arrays: Arrays, grid: Grid) -> str:
        """What the figure shows, for a reader of the paper."""
        from .captions import caption

        return caption(self, arrays, grid)

    def draw(self, arrays: Arrays, grid: Grid) -> Any:
        """The picture from the arrays."""
        from .panels import draw

        return draw(self, arrays, grid)


BOTH = ("rho", "beta")
FIGURES = {
    "fig4": Figure(
        "resnet50",
        ("rho",),
        "maxima",
        "The norm of the gradient and the test accuracy against ρ, ResNet-50",
    ),
    "fig5": Figure(
        "resnet50",
        ("beta",),
        "maxima",
        "The norm of the gradient and the test accuracy against β, ResNet-50",
    ),
    "fig6": Figure("resnet50", BOTH, "norms", "The norm of the gradient in training, ResNet-50"),
    "fig7": Figure(
        "cnn", BOTH, "maxima", "The norm of the gradient and the test accuracy against ρ and β, CNN"
    ),
    "fig8": Figure("cnn", BOTH, "norms", "The norm of the gradient in training, CNN"),
    "fig9": Figure(
        "simple_vit",
        BOTH,
        "maxima",
        "The norm of the gradient and the test accuracy against ρ and β, SimpleViT",
    ),
    "fig10": Figure("simple_vit", BOTH, "norms", "The norm of the gradient in training, SimpleViT"),
    "fig11": Figure("resnet50", ("rho",), "curves", "Training and test curves by ρ, ResNet-50"),
    "fig12": Figure("resnet50", ("beta",), "curves", "Training and test curves by β, ResNet-50"),
    "perceptron": Figure(
        "perceptron", BOTH, "maxima", "The norm of the gradient and the test accuracy, a perceptron"
    ),
    "resnet101": Figure(
        "resnet101", BOTH, "maxima", "The norm of the gradient and the test accuracy, ResNet-101"
    ),
    "cifar100": Figure(
        "cifar100", BOTH, "maxima", "The norm of the gradient and the test accuracy, CIFAR-100"
    ),
}


def arranged(grid: Grid, sweeps: Sequence[str], records: Sequence[Record]) -> dict[str, np.ndarray]:
    """ "<sweep>/<measure>" [values, seeds, epochs], NaN after the end of a run and where a value
    is not finite; "<sweep>/reason" [values, seeds]: how it ended; "<sweep>/parameters".

    Raises ValueError where a run has no record.
    """
    by_key = {record.settings.key(): record for record in records}
    arrays = {}
    for sweep in sweeps:
        cells = grid.cells(sweep)
        wanted = [run for cell in cells for run in cell]
        missing = [run.key() for run in wanted if run.key() not in by_key]
        if missing:
            raise ValueError(
                f"records: expected one of {missing[0]} and {len(missing) - 1} "
                f"others, got {len(records)} of other runs"
            )
        found = [by_key[run.key()] for run in wanted]
        shape = len(cells), len(grid.seeds)
        for name in MEASURES:
            padded = list(zip_longest(*(record.curves[name] for record in found), fillvalue=np.nan))
            curve = np.array(padded, np.float32).reshape(len(padded), *shape)
            arrays[f"{sweep}/{name}"] = np.moveaxis(curve, 0, -1)
        arrays[f"{sweep}/reason"] = np.array([record.reason for record in found]).reshape(shape)
        arrays[f"{sweep}/parameters"] = np.array(max(record.parameters for record in found))
    return arrays


class Run(NamedTuple):
    """What is read off the curves of one run: see ``OUTCOMES``; fall: the end of its fall."""

    fall: Found
    numbers: dict[str, Found]


def read_off(arrays: Arrays, grid: Grid, sweep: str) -> list[list[Run]]:
    """A list a value, in it a `Run` a seed."""
    shape = arrays[f"{sweep}/reason"].shape
    one = lambda *index: _read_off(
        {name: arrays[f"{sweep}/{name}"][index].astype(float) for name in MEASURES}, grid
    )
    return [[one(value, seed) for seed in range(shape[1])] for value in range(shape[0])]


def _read_off(run: Mapping[str, np.ndarray], grid: Grid) -> Run:
    loss = run["train_loss"]
    fall = curves.initial_fall(loss, grid.cut)
    return Run(
        fall,
        {
            "peak": curves.peak(run[PERTURBED], fall),
            "level": curves.at_loss(run[PERTURBED], loss, grid.level),
            "hill": curves.hill(run[PERTURBED], fall),
            "accuracy": curves.highest(run["test_accuracy"]),
            "peak_plain": curves.peak(run[PLAIN], fall),
            "level_plain": curves.at_loss(run[PLAIN], loss, grid.level),
        },
    )


def table(runs: Sequence[Sequence[Run]], outcome: str) -> np.ndarray:
    """[seeds, values]: an outcome, NaN where there is none; a run without a hill has height 0."""

    def number(run: Run) -> float:
        found = run.numbers[outcome]
        flat = outcome == "hill" and not found.exists and run.numbers["peak"].exists
        return 0.0 if flat else found.value

    return np.array([[number(run) for run in cell] for cell in runs]).T


def fitness(arrays: Arrays, grid: Grid, sweep: str) -> list[Evidence]:
    """Every run is complete, ends its initial fall, and reaches the loss of the comparison."""
    row = grid.sweeps[sweep]
    reasons, runs = arrays[f"{sweep}/reason"], read_off(arrays, grid, sweep)
    every = {
        f"{row.symbol} = {value:g}, seed {seed}": (runs[i][j], str(reasons[i, j]))
        for i, value in enumerate(row.values)
        for j, seed in enumerate(grid.seeds)
    }
    ended = {
        name: reason for name, (_, reason) in every.items() if reason not in ("epochs", "accuracy")
    }
    unfallen = {name: run.fall.words for name, (run, _) in every.items() if not run.fall.exists}
    unequal = {
        name: run.numbers["level"].words
        for name, (run, _) in every.items()
        if not run.numbers["level"].exists
    }
    count = lambda words, without: near(
        f"{row.symbol} varied, {words}", len(every) - len(without), len(every), 0, without=without
    )
    return [
        count("runs that came to their end with finite numbers", ended),
        count(f"runs whose training loss falls below {grid.cut:g}", unfallen),
        count(f"runs whose training loss passes {grid.level:g}", unequal),
    ]


def where(grid: Grid) -> str:
    """The network and the scale, as a claim names them."""
    row = next(iter(grid.sweeps.values()))
    first = row.training(row.values[0], 0)
    data = DATASETS.get(first.dataset, first.dataset)
    return f"{MODELS[first.model]}{in_place(grid, first)}, {data}, {grid.scale}"


def in_place(grid: Grid, first: Training) -> str:
    """Which network of a figure another one stands for, if it does."""
    return f" in place of {MODELS[grid.name]}" if grid.name in MODELS.keys() - {first.model} else ""


def tried(arrays: Arrays, grid: Grid, sweep: str, outcome: str) -> Trial:
    """A claim of the paper on a sweep: how an outcome goes with what is varied."""
    row, runs = grid.sweeps[sweep], read_off(arrays, grid, sweep)
    said, up = OUTCOMES[outcome]
    rising = up == (row.vary == "b2")
    values = table(runs, outcome)
    found = trials.of_trend(
        f"larger {row.symbol}: {'larger' if rising else 'smaller'} {said}"
        + (f" ({grid.level:g})" if "equal" in said else ""),
        where(grid),
        trials.trend(values, rising),
        means(values.T),
        sweep={row.symbol: list(row.values), row.other[0]: row.other[1]},
        outcomes=values.tolist(),
        seeds=list(grid.seeds),
        missing=lacking(grid, row, runs, outcome),
    )
    remark = _remark(row, outcome, values)
    if not remark:
        return found
    return dataclasses.replace(found, verdict=trials.WEAK, statistic=f"{remark}; {found.statistic}")


def _remark(row: Series, outcome: str, values: np.ndarray) -> str:
    """Why nothing can be told, whatever a test says; empty where something can."""
    mean = means(values.reshape(1, -1))[0]
    if outcome == "hill" and mean == 0:
        return "no run has a hill"
    chance = 1 / shape_of(row.training(row.values[0], 0).dataset)[1]
    if outcome == "accuracy" and mean < AT_CHANCE * chance:
        return f"the test accuracy is at chance, {chance:g}, where nothing can be seen"
    return ""


def means(columns: np.ndarray) -> tuple[float, ...]:
    """The mean of each row without its NaN, NaN where nothing else is in it.

    >>> means(np.array([[1.0, np.nan, 2.0], [np.nan] * 3]))
    (1.5, nan)
    """
    seen = [column[~np.isnan(column)] for column in columns]
    return tuple(float(column.mean()) if len(column) else float("nan") for column in seen)


def lacking(grid: Grid, row: Series, runs: Sequence[Sequence[Run]], outcome: str) -> dict[str, str]:
    """The runs without an outcome, and why they have none."""
    return {
        f"{row.symbol} = {value:g}, seed {seed}": run.numbers[outcome].words
        for value, cell in zip(row.values, runs, strict=True)
        for seed, run in zip(grid.seeds, cell, strict=True)
        if not run.numbers[outcome].exists
    }
