"""A sweep on disk: which cells there are, and where each of them runs."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import plain, writable, write_json
from ..choices import whole
from ..training.config import Training
from ..training.history import read_json
from .grid import Block, Cell, cells

FILE = "sweep.json"


@dataclass(frozen=True)
class Sweep:
    """The cells of a sweep, in their order, and how all of them are run.

    A cell's run lies in ``run_dir`` under the name of its configuration, as that of a single
    `shadowflow train`; the sweep's own folder, ``run_dir/sweep-<name>``, says which they are.
    data_dir: where the data lie, if not in the cache. threads: that a worker computes with; on a
    CPU the last bits of a run depend on it, so that it is a part of the sweep. patience: seconds
    without a heartbeat after which a worker counts as dead.
    """

    name: str
    run_dir: Path
    cells: tuple[Cell, ...]
    data_dir: Path | None = None
    checkpoint_every: int = 10
    threads: int = 1
    patience: float = 30.0

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/\\") or self.name.startswith("."):
            raise ValueError(f"--name: expected a name that a folder can have, got {self.name!r}")
        whole("--checkpoint-every", self.checkpoint_every, 1)
        whole("threads", self.threads, 1)
        if not 0 < self.patience < float("inf"):
            raise ValueError(f"--patience: expected seconds above 0, got {self.patience}")

    @property
    def folder(self) -> Path:
        """The sweep's own."""
        return self.run_dir / f"sweep-{self.name}"

    @property
    def file(self) -> Path:
        """The file that its workers read."""
        return self.folder / FILE

    def folder_of(self, cell: Cell) -> Path:
        """Where a cell runs."""
        return self.run_dir / cell.settings.key()

    def failure(self, cell: Cell) -> Path:
        """The file with the message of a cell that failed."""
        return self.folder_of(cell) / "failed.json"

    def forget_failures(self) -> None:
        """Let the cells that failed be tried again."""
        for cell in self.cells:
            self.failure(cell).unlink(missing_ok=True)

    def done(self, cell: Cell) -> bool:
        """Whether the run of a cell has come to its end, diverged or not."""
        return (self.folder_of(cell) / "done.json").exists()

    def left(self) -> list[Cell]:
        """The cells that have not ended: they are not done, and have not failed."""
        return [cell for cell in self.cells if not self.ended(cell)]

    def ended(self, cell: Cell) -> bool:
        """Whether there is nothing left to do for a cell: it is done, diverged, or failed."""
        return self.done(cell) or self.failure(cell).exists()

    def written(self, cell: Cell) -> int:
        """How long the history of a cell is, in bytes."""
        path = self.folder_of(cell) / "history.jsonl"
        return path.stat().st_size if path.exists() else 0

    def plain(self) -> dict[str, Any]:
        """All but the place, as JSON has it."""
        return {
            "name": self.name,
            "data_dir": None if self.data_dir is None else str(self.data_dir),
            "checkpoint_every": self.checkpoint_every,
            "threads": self.threads,
            "patience": self.patience,
            "cells": [
                {
                    "grid": dict(cell.values),
                    "run": cell.settings.key(),
                    "configuration": cell.settings.plain(),
                }
                for cell in self.cells
            ],
        }

    def write(self) -> None:
        """Put it into its folder, unless it is there.

        ValueError where the folder cannot be written, or another sweep there has the name.
        """
        content = plain(self.plain())
        if self.file.exists():
            there = read_json(self.file)
            if there == content:
                return
            if there["cells"] != content["cells"]:
                raise ValueError(
                    f"--name: expected one that no other sweep in {str(self.run_dir)!r} has, got "
                    f"{self.name!r}, a sweep of {len(there['cells'])} other cells"
                )
        writable(self.folder)
        write_json(self.file, content)


def sweep_of(
    base: Training, blocks: Sequence[Block], run_dir: Path, name: str | None = None, **options: Any
) -> Sweep:
    """The sweep of a grid; without a name it is named by its cells.

    options: as `Sweep` has them. ValueError as `grid.cells` and `Sweep` refuse it.

    >>> sweep_of(Training(), [Block({"seed": (0, 1)})], Path("runs"), "seeds").file.as_posix()
    'runs/sweep-seeds/sweep.json'
    """
    found = cells(base, blocks)
    return Sweep(name or digest(found), run_dir, found, **options)


def check(sweep: Sweep, cells: Sequence[Cell], *, here: bool = True) -> None:
    """Refuse, before anything runs, what a cell would refuse, or data that are nowhere.

    here: whether they run on this machine, which then needs their devices. ValueError for an
    optimizer, a network, a number of images or a data set that a cell does not get, and for a
    folder that holds another run; it names the cell.
    """
    from ..data.load import load
    from ..training import start
    from ..training.devices import Devices

    loaded = {"digits"}
    for cell in cells:
        try:
            if start.ended(cell.settings, sweep.run_dir, sweep.data_dir) is not None:
                continue
            cell.settings.build()
            start.network_of(cell.settings)
            start.counts_of(cell.settings)
            if here:
                Devices.of(cell.settings.devices)
            if cell.settings.dataset not in loaded:
                load(cell.settings.dataset, sweep.data_dir)
                loaded.add(cell.settings.dataset)
        except ValueError as error:
            raise ValueError(f"{cell}: {error}") from None


def digest(cells: Sequence[Cell]) -> str:
    """A name for a sweep of these cells."""
    keys = json.dumps([cell.settings.key() for cell in cells])
    return hashlib.sha256(keys.encode()).hexdigest()[:8]


def threads_of(workers: int) -> int:
    """The cores that this process may use, shared out."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, (there or 1) // workers)


def read(file: Path) -> Sweep:
    """The sweep that a file describes; ValueError where it describes none."""
    content = read_json(file)
    try:
        rows, data_dir = content.pop("cells"), content.pop("data_dir")
        found = tuple(
            Cell(index, row["grid"], Training(**row["configuration"]))
            for index, row in enumerate(rows)
        )
        data_dir = None if data_dir is None else Path(data_dir)
        return Sweep(run_dir=file.parent.parent, cells=found, data_dir=data_dir, **content)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{file.name}: expected a sweep of this version in {str(file)!r}, got {error!r}; "
            "start it again in another --run-dir"
        ) from None


def find(run_dir: Path, name: str | None = None) -> Sweep:
    """The sweep in a folder; ValueError where there is none, or several and none is named."""
    there = {
        path.parent.name.removeprefix("sweep-"): path
        for path in sorted(run_dir.glob(f"sweep-*/{FILE}"))
    }
    if name is None and len(there) == 1:
        (name,) = there
    if name not in there:
        got = "none" if not there else f"{', '.join(there)}; say which by --name"
        wanted = "one sweep" if name is None else f"the sweep {name!r}"
        raise ValueError(f"DIR: expected {wanted} in {str(run_dir)!r}, got {got}")
    return read(there[name])
