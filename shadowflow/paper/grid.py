"""Grids of runs: one TOML file a network, a table a scale in it, a table a sweep in that.

The fields of a run stand as `Training` has them, Adam's arguments among them; ``seeds`` and the
two thresholds of the analysis beside them. A sweep is a table that gives one of b1, b2 as a list::

    [laptop]
    model = "cnn"
    epochs = 700
    seeds = [0, 1, 2]
    eps_root = 1e-8

    [laptop.rho]
    b1 = 0.9
    b2 = [0.9, 0.95, 0.99, 0.999]
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from ..lab.choices import Adam
from ..lab.training.config import Training

FOLDER = Path(__file__).with_name("grids")
SYMBOLS = {"b1": "β", "b2": "ρ"}
ARGUMENTS = {field.name for field in dataclasses.fields(Adam)}
FIELDS = {field.name for field in dataclasses.fields(Training)} - {"arguments", "optimizer", "seed"}


@dataclass(frozen=True)
class Sweep:
    """One number varied: which (b1 or b2), its rising values, and the fields of its runs."""

    vary: str
    values: tuple[float, ...]
    fields: Mapping[str, Any]

    @property
    def symbol(self) -> str:
        """The paper's name of what is varied."""
        return SYMBOLS[self.vary]

    def training(self, value: float, seed: int) -> Training:
        """One run."""
        fields: dict[str, Any] = {**self.fields, self.vary: value}
        arguments = {name: given for name, given in fields.items() if name in ARGUMENTS}
        rest = {name: given for name, given in fields.items() if name in FIELDS}
        return Training(optimizer="adam", arguments=arguments, seed=seed, **rest)

    @property
    def other(self) -> tuple[str, float]:
        """The symbol and the value of the decay that is held."""
        name = "b2" if self.vary == "b1" else "b1"
        return SYMBOLS[name], float(self.training(self.values[0], 0).arguments[name])


@dataclass(frozen=True)
class Grid:
    """The runs of a network at a scale.

    seeds: of every cell. level: the training loss at which norms are compared; cut: the one that
    ends the initial fall. sweeps: name → `Sweep`.
    """

    name: str
    scale: str
    seeds: tuple[int, ...]
    level: float
    cut: float
    sweeps: Mapping[str, Sweep]

    def cells(self, sweep: str) -> list[list[Training]]:
        """The runs of a sweep: a list a value, in it one a seed."""
        row = self.sweeps[sweep]
        return [[row.training(value, seed) for seed in self.seeds] for value in row.values]

    def runs(self, *sweeps: str) -> list[Training]:
        """Every run of these sweeps (none named: of all), each once, seed after seed."""
        cells = [cell for name in sweeps or self.sweeps for cell in self.cells(name)]
        found = {
            run.key(): run
            for seed in range(len(self.seeds))
            for run in (cell[seed] for cell in cells)
        }
        return list(found.values())


def grids() -> dict[str, Path]:
    """Name → file of the grids that ship with the package."""
    return {path.stem: path for path in sorted(FOLDER.glob("*.toml"))}


def read(path: Path) -> dict[str, Grid]:
    """Scale → grid of a TOML file.

    Raises ValueError for what is not TOML, for a sweep without exactly one of b1 and b2 as a
    rising list, a field that no run has, and whatever `Training` refuses.

    >>> grid = read(grids()["cnn"])["laptop"]
    >>> grid.sweeps["rho"].values, len(grid.seeds)
    ((0.9, 0.95, 0.99, 0.999), 3)
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"grid: expected TOML in {str(path)!r}, got: {error}") from None
    return {scale: _grid(path.stem, scale, table) for scale, table in content.items()}


def _grid(name: str, scale: str, table: Any) -> Grid:
    where = f"{name}.{scale}"
    if not isinstance(table, dict):
        raise ValueError(f"grid: expected only tables of scales, got {where} = {table!r}")
    own = {key: value for key, value in table.items() if not isinstance(value, dict)}
    seeds = own.pop("seeds", None)
    if not (isinstance(seeds, list) and seeds and len(set(seeds)) == len(seeds)):
        raise ValueError(f"grid: expected a list of different seeds in {where}, got {seeds!r}")
    level, cut = own.pop("level", 0.5), own.pop("cut", 1.0)
    if not 0 < level <= cut:
        raise ValueError(f"grid: expected 0 < level ≤ cut in {where}, got {level} and {cut}")
    sweeps = {
        key: _sweep(f"{where}.{key}", {**own, **value})
        for key, value in table.items()
        if isinstance(value, dict)
    }
    if not sweeps:
        raise ValueError(f"grid: expected a table of a sweep in {where}, got none")
    grid = Grid(name, scale, tuple(seeds), float(level), float(cut), sweeps)
    grid.runs()  # whatever Training refuses
    return grid


def _sweep(where: str, fields: dict[str, Any]) -> Sweep:
    unknown = sorted(set(fields) - FIELDS - ARGUMENTS)
    if unknown:
        raise ValueError(
            f"grid: expected fields of a training run or arguments of Adam in "
            f"{where}, got {', '.join(unknown)}"
        )
    varied = [name for name, value in fields.items() if isinstance(value, list)]
    if len(varied) != 1 or varied[0] not in SYMBOLS:
        raise ValueError(
            f"grid: expected one of b1, b2 as a list in {where}, got "
            f"{', '.join(varied) or 'no list'}"
        )
    values = tuple(map(float, fields.pop(varied[0])))
    if len(values) < 2 or any(after <= before for before, after in pairwise(values)):
        raise ValueError(f"grid: expected two or more rising values in {where}, got {values}")
    return Sweep(varied[0], values, fields)
