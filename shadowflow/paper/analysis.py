"""The runs of a grid: their curves as arrays, the numbers read off them, the claims tried on them.

``arranged`` makes the arrays that a figure stores, and `Swept` reads one sweep of them. ``fitness``
says whether its runs can be compared at all, ``tried`` puts a claim of the paper to the test.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np

from ..lab.training.config import Training
from ..lab.training.start import network_of, shape_of
from . import curves, trials
from .curves import Reading
from .evidence import Evidence, near
from .grid import Grid, Series
from .records import ENDED, MEASURES, Record
from .trials import Trial

Arrays = Mapping[str, np.ndarray]
PERTURBED, PLAIN = "perturbed_one_norm", "one_norm"
AT_CHANCE = 1.5  # times the accuracy of guessing: a mean below it tells nothing of generalization
MODELS = {
    "mlp": "Perceptron",
    "cnn": "CNN",
    "resnet50": "ResNet-50",
    "resnet101": "ResNet-101",
    "simple_vit": "SimpleViT",
}
DATASETS = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


OUTCOMES = {  # number of a run: its name in a sentence, whether the paper has it rise with ρ
    "peak": ("maximal perturbed one-norm after the initial fall", True),
    "level": ("perturbed one-norm at equal training loss", True),
    "hill": ("hill of the perturbed one-norm", True),
    "accuracy": ("maximal test accuracy", False),
    "peak_plain": ("maximal Σ|g| after the initial fall", True),
    "level_plain": ("Σ|g| at equal training loss", True),
}


def arranged(grid: Grid, sweeps: Sequence[str], records: Sequence[Record]) -> dict[str, np.ndarray]:
    """The runs of these sweeps as arrays, given their records in any order.

    "<sweep>/<measure>" [values, seeds, epochs] holds the curves, NaN after the end of a run and
    where a value is not finite; "<sweep>/reason" [values, seeds] says how each run ended;
    "<sweep>/parameters" is the number of parameters.
    """
    by_key = {record.settings.key(): record for record in records}
    arrays = {}
    for sweep in sweeps:
        cells = grid.cells(sweep)
        found = [by_key[run.key()] for cell in cells for run in cell]
        shape = len(cells), len(grid.seeds)
        for name in MEASURES:
            padded = list(zip_longest(*(record.curves[name] for record in found), fillvalue=np.nan))
            curve = np.array(padded, np.float32).reshape(len(padded), *shape)
            arrays[f"{sweep}/{name}"] = np.moveaxis(curve, 0, -1)
        arrays[f"{sweep}/reason"] = np.array([record.reason for record in found]).reshape(shape)
        layers = network_of(cells[0][0]).layers()
        arrays[f"{sweep}/parameters"] = np.array(sum(layer.parameters for layer in layers))
    return arrays


@dataclass(frozen=True)
class Swept:
    """The runs of one sweep of a grid: a curve per measure, and the numbers read off the curves.

    sweep: what is varied; arrays: those of ``arranged``, of which it reads its own.
    """

    grid: Grid
    name: str
    arrays: Arrays

    @property
    def row(self) -> Series:
        """What is varied, and over which values."""
        return self.grid.sweeps[self.name]

    @property
    def first(self) -> Training:
        """The run of the first value and seed, for what all runs have in common."""
        return self.row.training(self.row.values[0], 0)

    def __getitem__(self, array: str) -> np.ndarray:
        """One of the sweep's arrays: of a measure [values, seeds, epochs], or "reason"."""
        return self.arrays[f"{self.name}/{array}"]

    @functools.cached_property
    def runs(self) -> dict[tuple[int, int], dict[str, Reading]]:
        """(value, seed), counted from 0 → the end of the run's "fall" and each of ``OUTCOMES``."""

        def read(place: tuple[int, int]) -> dict[str, Reading]:
            names = (PERTURBED, PLAIN, "train_loss", "test_accuracy")
            norm, plain, loss, accuracy = (self[name][place].astype(float) for name in names)
            fall = curves.initial_fall(loss, self.grid.cut)
            return {
                "fall": fall,
                "peak": curves.peak(norm, fall),
                "level": curves.at_loss(norm, loss, self.grid.level),
                "hill": curves.hill(norm, fall),
                "accuracy": curves.highest(accuracy),
                "peak_plain": curves.peak(plain, fall),
                "level_plain": curves.at_loss(plain, loss, self.grid.level),
            }

        return {place: read(place) for place in np.ndindex(self["reason"].shape)}

    @functools.cached_property
    def regimes(self) -> dict[str, str]:
        """Name of a run → "smooth", "oscillation", "spikes" or "divergence"."""
        found = {}
        for place in self.runs:
            loss = self["train_loss"][place].astype(float)
            if self["reason"][place] != "non-finite":  # what follows the end of a run is NaN
                loss = loss[: np.flatnonzero(np.isfinite(loss)).max(initial=-1) + 1]
            found[self.label(place)] = curves.regime(loss).name
        return found

    def label(self, place: tuple[int, int]) -> str:
        """The name of a run in words."""
        value, seed = self.row.values[place[0]], self.grid.seeds[place[1]]
        return f"{self.row.symbol} = {value:g}, seed {seed}"

    def table(self, outcome: str) -> np.ndarray:
        """An outcome [seeds, values]: NaN where there is none, 0 for the height of no hill."""

        def number(run: dict[str, Reading]) -> float:
            flat = outcome == "hill" and not run["hill"].exists and run["peak"].exists
            return 0.0 if flat else run[outcome].value

        return np.reshape([number(run) for run in self.runs.values()], self["reason"].shape).T

    def without(self, outcome: str) -> dict[str, str]:
        """The runs that have no such outcome, and why."""
        return {
            self.label(place): run[outcome].words
            for place, run in self.runs.items()
            if not run[outcome].exists
        }


def fitness(swept: Swept) -> list[Evidence]:
    """Whether every run is complete, ends its initial fall, and reaches the loss to compare at;
    with the regime of each, which the paper's experiments assume to be a stable one."""
    reasons = swept["reason"]
    stopped = {
        swept.label(place): str(reason)
        for place, reason in np.ndenumerate(reasons)
        if reason not in ENDED
    }

    def count(words: str, without: Mapping[str, str], **run: Any) -> Evidence:
        claim = f"{swept.row.symbol} varied, {words}"
        return near(claim, reasons.size - len(without), reasons.size, 0, without=without, **run)

    ended = "runs that came to their end with finite numbers"
    return [
        count(ended, stopped, regimes=swept.regimes),
        count(f"runs whose training loss falls below {swept.grid.cut:g}", swept.without("fall")),
        count(f"runs whose training loss passes {swept.grid.level:g}", swept.without("level")),
    ]


def tried(swept: Swept, outcome: str) -> Trial:
    """The paper's claim on how an outcome goes with what is varied, on these runs."""
    row, grid, values = swept.row, swept.grid, swept.table(outcome)
    outcome_words, up = OUTCOMES[outcome]
    rising = up == (row.vary == "b2")
    claim = f"larger {row.symbol}: {'larger' if rising else 'smaller'} {outcome_words}"
    claim += f" ({grid.level:g})" if "equal" in outcome_words else ""
    test = trials.trend(values, rising)
    run = {
        "sweep": {row.symbol: list(row.values), row.other[0]: row.other[1]},
        "outcomes": values.tolist(),
        "seeds": list(grid.seeds),
        "missing": swept.without(outcome),
        "test": dataclasses.asdict(test),
    }
    words, verdict = test.words, test.verdict
    if remark := _remark(swept, outcome, values):
        words, verdict = f"{remark}; {words}", trials.WEAK
    return Trial(claim, where(swept), words, means(values.T), test.p, verdict, run)


def _remark(swept: Swept, outcome: str, values: np.ndarray) -> str:
    """Why nothing can be told, whatever a test says; empty where something can."""
    (mean,) = means(values.reshape(1, -1))
    if outcome == "hill" and mean == 0:
        return "no run has a hill"
    chance = 1 / shape_of(swept.first.dataset)[1]
    if outcome == "accuracy" and mean < AT_CHANCE * chance:
        return f"the test accuracy is at chance, {chance:g}, where nothing can be seen"
    return ""


def means(rows: np.ndarray) -> tuple[float, ...]:
    """The mean of each row without its NaN; NaN for a row that has nothing else.

    >>> means(np.array([[1.0, np.nan, 2.0], [np.nan] * 3]))
    (1.5, nan)
    """
    seen = [row[~np.isnan(row)] for row in rows]
    return tuple(float(row.mean()) if len(row) else float("nan") for row in seen)


def where(swept: Swept) -> str:
    """The network, the data and the scale, as a claim names them."""
    data = DATASETS.get(swept.first.dataset, swept.first.dataset)
    return f"{MODELS[swept.first.model]}{in_place(swept)}, {data}, {swept.grid.scale}"


def in_place(swept: Swept) -> str:
    """Which network of a figure another one stands for, if it does."""
    name = swept.grid.name
    return f" in place of {MODELS[name]}" if name in MODELS.keys() - {swept.first.model} else ""
