"""The grids of Figures 4 to 12: a folder a network, in it a file a scale.

The files are in the dialect of `shadowflow sweep`, which runs them as they are. In those of a
figure every ``[[grid]]`` has a name, gives one of opt.b1 and opt.b2 as a rising list, and the
same seeds, which a test holds them to; ``[figure]`` has the two training losses of the analysis,
``level`` and ``cut``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ..lab.sweep import grid
from ..lab.training.config import Training

FOLDER = Path(__file__).with_name("grids")
SCALES = ("smoke", "laptop", "paper")
SYMBOLS = {"b1": "β", "b2": "ρ"}
LOSSES = {"level": 0.5, "cut": 1.0}


@dataclass(frozen=True)
class Series:
    """One number varied: which (b1 or b2), its rising values, and all else of its runs."""

    vary: str
    values: tuple[float, ...]
    base: Training

    @property
    def symbol(self) -> str:
        """The paper's name of what is varied."""
        return SYMBOLS[self.vary]

    def training(self, value: float, seed: int) -> Training:
        """One run."""
        arguments = {**self.base.arguments, self.vary: value}
        return dataclasses.replace(self.base, arguments=arguments, seed=seed)

    @property
    def other(self) -> tuple[str, float]:
        """The symbol and the value of the decay that is held."""
        name = "b2" if self.vary == "b1" else "b1"
        return SYMBOLS[name], float(self.base.arguments[name])


@dataclass(frozen=True)
class Grid:
    """The runs of a network at a scale.

    seeds: of every cell. level: the training loss at which norms are compared; cut: the one that
    ends the initial fall. sweeps: name → `Series`.
    """

    name: str
    scale: str
    seeds: tuple[int, ...]
    level: float
    cut: float
    sweeps: Mapping[str, Series]

    def cells(self, sweep: str) -> list[list[Training]]:
        """The runs of a series: a list a value, in it one a seed."""
        row = self.sweeps[sweep]
        return [[row.training(value, seed) for seed in self.seeds] for value in row.values]

    def runs(self, *sweeps: str) -> list[Training]:
        """Every run of these series (none named: of all), each once, seed after seed."""
        cells = [cell for name in sweeps or self.sweeps for cell in self.cells(name)]
        found = {
            run.key(): run
            for seed in range(len(self.seeds))
            for run in (cell[seed] for cell in cells)
        }
        return list(found.values())


def read(name: str) -> dict[str, Grid]:
    """Scale → grid of a folder that ships with the package.

    >>> grid = read("cnn")["laptop"]
    >>> grid.sweeps["rho"].values, len(grid.seeds)
    ((0.9, 0.95, 0.99, 0.999), 3)
    """
    paths = {scale: FOLDER / name / f"{scale}.toml" for scale in SCALES}
    return {scale: read_file(path) for scale, path in paths.items() if path.exists()}


def read_file(path: Path) -> Grid:
    """The grid of a file, named by its folder, of the scale that the file is named by.

    Raises ValueError for what is not in the dialect of sweeps.
    """
    base, _, blocks, figure = grid.read(path)
    sweeps = {block.name: _series(base, dict(block.axes)) for block in blocks}
    losses = {name: float(figure.get(name, loss)) for name, loss in LOSSES.items()}
    return Grid(path.parent.name, path.stem, blocks[0].axes["seed"], sweeps=sweeps, **losses)


def _series(base: Training, axes: dict[str, tuple]) -> Series:
    del axes["seed"]
    (varied,) = (name for name, values in axes.items() if len(values) > 1)
    values = axes.pop(varied)
    fixed = {name: value for name, (value,) in axes.items()}
    return Series(varied.removeprefix("opt."), values, grid.overridden(base, fixed))
