"""Figures 4 to 12: what ρ and β do to the norm of the gradient and to the test accuracy.

One table of figures, all drawn from the runs of a grid: the maxima of each run, its norm per epoch,
or its training and test curves. ``findings`` are the paper's claims on these runs, ``evidence``
only says whether the runs can be compared.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ...lab.training.config import Training
from .. import grid as grids
from ..analysis import OUTCOMES, Arrays, Swept, arranged, fitness, tried
from ..evidence import Evidence
from ..grid import Grid
from ..records import Record
from ..trials import Trial
from . import captions

Kind = Literal["maxima", "norms", "curves"]


@dataclass(frozen=True)
class RunFigure:
    """A figure of training runs; it has what the modules of Figures 1 to 3 have.

    grid: the name of its TOML file; sweeps: those of the file that it shows; kind: how.
    """

    grid: str
    sweeps: tuple[str, ...]
    kind: Kind
    TITLE: str

    @functools.cached_property
    def SCALES(self) -> dict[str, Grid]:
        """Scale → grid."""
        return grids.read(self.grid)

    def runs(self, grid: Grid) -> list[Training]:
        """The runs that it shows."""
        return grid.runs(*self.sweeps)

    def compute(self, grid: Grid, records: Sequence[Record]) -> dict[str, np.ndarray]:
        """The arrays of the runs."""
        return arranged(grid, self.sweeps, records)

    def swept(self, arrays: Arrays, grid: Grid) -> list[Swept]:
        """The runs, sweep by sweep."""
        return [Swept(grid, name, arrays) for name in self.sweeps]

    def evidence(self, arrays: Arrays, grid: Grid) -> list[Evidence]:
        """Whether the runs can be compared."""
        return [row for swept in self.swept(arrays, grid) for row in fitness(swept)]

    def findings(self, arrays: Arrays, grid: Grid) -> list[Trial]:
        """The paper's claims on these runs."""
        return [tried(swept, name) for swept in self.swept(arrays, grid) for name in OUTCOMES]

    def caption(self, arrays: Arrays, grid: Grid) -> str:
        """What the figure shows, for a reader of the paper."""
        return captions.caption(self.kind, self.swept(arrays, grid))

    def draw(self, arrays: Arrays, grid: Grid) -> Any:
        """The picture from the arrays."""
        from . import panels

        return getattr(panels, self.kind)(self.swept(arrays, grid))


BOTH = ("rho", "beta")
MAXIMA = "The norm of the gradient and the test accuracy"
NORMS, CURVES = "The norm of the gradient in training", "Training and test curves by"
FIGURES = {
    name: RunFigure(grid, sweeps, kind, title)
    for name, grid, sweeps, kind, title in (
        ("fig4", "resnet50", ("rho",), "maxima", f"{MAXIMA} against ρ, ResNet-50"),
        ("fig5", "resnet50", ("beta",), "maxima", f"{MAXIMA} against β, ResNet-50"),
        ("fig6", "resnet50", BOTH, "norms", f"{NORMS}, ResNet-50"),
        ("fig7", "cnn", BOTH, "maxima", f"{MAXIMA} against ρ and β, CNN"),
        ("fig8", "cnn", BOTH, "norms", f"{NORMS}, CNN"),
        ("fig9", "simple_vit", BOTH, "maxima", f"{MAXIMA} against ρ and β, SimpleViT"),
        ("fig10", "simple_vit", BOTH, "norms", f"{NORMS}, SimpleViT"),
        ("fig11", "resnet50", ("rho",), "curves", f"{CURVES} ρ, ResNet-50"),
        ("fig12", "resnet50", ("beta",), "curves", f"{CURVES} β, ResNet-50"),
        ("perceptron", "perceptron", BOTH, "maxima", f"{MAXIMA}, a perceptron"),
        ("resnet101", "resnet101", BOTH, "maxima", f"{MAXIMA}, ResNet-101"),
        ("cifar100", "cifar100", BOTH, "maxima", f"{MAXIMA}, CIFAR-100"),
    )
}
