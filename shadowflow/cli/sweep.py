"""`shadowflow sweep`: a grid of training runs, on one machine or many."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tyro.conf import Positional, Suppress, UseAppendAction, arg

from ..files import writable_file
from ..lab.choices import whole
from ..lab.sweep import grid, plan
from .flags import Flag
from .train import Train

Launcher = Literal["local", "slurm", "ray"]
IN_FRONT = "train"


@dataclass(frozen=True)
class SweepCommand:
    """Train over a grid, from a TOML file, or in front of a train command:

    shadowflow sweep --grid opt.b2=0.9,0.99 --grid seed=0,1 train --model mlp opt:adam

    Every cell is the run that `shadowflow train` makes of the same configuration. `shadowflow
    sweep status DIR` says how far a sweep is, `shadowflow sweep export DIR` puts all histories
    into one file.
    """

    file: Annotated[Positional[Path | None], arg(metavar="FILE.toml", help_behavior_hint="")] = None
    """The training and the grid, unless both are given here."""
    grid: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE,…")] = ()
    """A flag of the training and its values; several are multiplied out."""
    launcher: Launcher = "local"
    """Who starts the workers: this machine, Slurm, or Ray."""
    workers: int = 1
    """How many cells run at a time."""
    threads: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Of each worker (default: this machine's, shared out)."""
    index: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Run this cell alone, here: for job arrays of your own."""
    slurm: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="NAME=VALUE")] = ()
    """A parameter of the Slurm jobs, as submitit has it: slurm_partition=gpu, timeout_min=600."""
    run_dir: Path = Path("runs")
    """A folder; every run gets its own inside."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Of the sweep (default: a digest of its cells)."""
    patience: float = 30.0
    """Seconds without a heartbeat after which a worker counts as dead (on NFS above 60)."""
    quiet: Flag = False
    """Print no progress."""
    train: Suppress[Train | None] = field(default=None)

    def planned(self) -> plan.Sweep:
        """The cells, and how they are run; ValueError where they are refused."""
        if (self.file is None) == (self.train is None):
            got = "neither" if self.file is None else "both"
            raise ValueError(
                f"sweep: expected a TOML file or --grid … train …, got {got}; for example "
                "shadowflow sweep --grid seed=0,1 train --model mlp"
            )
        for flag, value in (("workers", self.workers), ("threads", self.threads)):
            if value is not None:
                whole(f"--{flag}", value, 1)
        axes = dict(map(grid.axis, self.grid))
        if len(axes) < len(self.grid):
            raise ValueError(f"--grid: expected each name once, got {', '.join(self.grid)}")
        if self.file is not None:
            base, options, own, _ = grid.read(self.file)
            blocks = [grid.Block({**block.axes, **axes}) for block in own]
        else:
            assert self.train is not None
            base, options = self.train.settings(), _options(self.train)
            blocks = [grid.Block(axes)] if axes else []
        if not blocks:
            raise ValueError("--grid: expected one or more, got none; for example seed=0,1")
        threads = self.threads or plan.threads_of(self.workers)
        return plan.sweep_of(
            base,
            blocks,
            self.run_dir,
            self.name,
            threads=threads,
            patience=self.patience,
            **options,
        )

    def run(self) -> int:
        """0 where every cell ended, 1 where one failed, 130 where it was stopped."""
        options = dict(map(_parameter, self.slurm))
        sweep = self.planned()
        from .jobs import sweep as report

        if self.index is not None:
            return report.one_job(sweep, self.index, quiet=self.quiet)
        return report.sweep_job(
            sweep, self.launcher, self.workers, quiet=self.quiet, options=options
        )


def _parameter(text: str) -> tuple[str, int | str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise ValueError(f"--slurm: expected NAME=VALUE, got {text!r}")
    return name, int(value) if value.isdigit() else value


def _options(train: Train) -> dict[str, Any]:
    """What a sweep takes of a training besides its configuration; ValueError for all else."""
    taken = {"opt", "training", "quiet", *grid.OPTIONS}
    for item in dataclasses.fields(train):
        if item.name not in taken and getattr(train, item.name) != item.default:
            raise ValueError(
                f"--{item.name.replace('_', '-')}: expected none behind {IN_FRONT}, got "
                f"{getattr(train, item.name)}; a sweep's own flags stand before that word"
            )
    return {name: getattr(train, name) for name in grid.OPTIONS}


@dataclass(frozen=True)
class _Planned:
    dir: Annotated[Positional[Path], arg(metavar="DIR", help_behavior_hint="")] = Path("runs")
    """The --run-dir of the sweep."""
    name: Annotated[str | None, arg(metavar="NAME", help_behavior_hint="")] = None
    """Of the sweep, where the folder has several."""


@dataclass(frozen=True)
class Status(_Planned):
    """Say how far a sweep is, how long it still takes, and what failed."""

    def run(self) -> int:
        """0 whatever it says."""
        from .jobs import sweep as report

        print(report.status(plan.find(self.dir, self.name)))
        return 0


@dataclass(frozen=True)
class Export(_Planned):
    """Put the histories of all cells, with their configurations, into one parquet file."""

    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """The file (default: histories.parquet in the sweep's folder)."""

    def run(self) -> int:
        """0 when it is written."""
        from ..lab.sweep import table

        sweep = plan.find(self.dir, self.name)
        out = self.out or sweep.folder / "histories.parquet"
        print(f"Written to {table.export(sweep, writable_file(out))}")
        return 0


def parse(arguments: Sequence[str]) -> SweepCommand | Status | Export:
    """What stands behind `shadowflow sweep`; the train command in it is parsed as by itself.

    >>> parse("--grid seed=0,1 train --model cnn".split()).train.training.model
    'cnn'
    """
    words = list(arguments)
    for name, command in (("status", Status), ("export", Export)):
        if words[:1] == [name]:
            return tyro.cli(command, args=words[1:], prog=f"shadowflow sweep {name}")
    train = None
    if IN_FRONT in words:
        place = words.index(IN_FRONT)
        train = tyro.cli(
            Train,
            args=words[place + 1 :],
            prog=f"shadowflow sweep … {IN_FRONT}",
            config=(tyro.conf.CascadeSubcommandArgs,),
        )
        words = words[:place]
    found = tyro.cli(SweepCommand, args=words, prog="shadowflow sweep")
    return dataclasses.replace(found, train=train)
