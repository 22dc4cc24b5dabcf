"""What figures of training runs are made of: a record per run, however the runs are obtained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..lab.training import history
from ..lab.training.config import Training

MEASURES = (
    "perturbed_one_norm",
    "one_norm",
    "train_loss",
    "train_accuracy",
    "test_loss",
    "test_accuracy",
)


@dataclass(frozen=True)
class Record:
    """A run, as plain data.

    settings: its whole configuration. reason: how it ended, as ``done.json`` has it, "unfinished"
    where there is none. curves: measure → a value an epoch, NaN where none was taken or it was not
    finite. parameters: of the network, 0 where the run has no epoch.
    """

    settings: Training
    reason: str
    curves: Mapping[str, np.ndarray]
    parameters: int

    @property
    def complete(self) -> bool:
        """Whether it came to the end that was asked for."""
        return self.reason in ("epochs", "accuracy")


Runs = Callable[[Sequence[Training]], list[Record]]  # in the order asked for


def read(settings: Training, folder: Path) -> Record:
    """The record of the run in a folder; of one that was never begun, empty curves."""
    done = folder / "done.json"
    reason = history.read_json(done)["reason"] if done.exists() else "unfinished"
    lines = history.read(folder / "history.jsonl")
    curves = {
        name: np.array([np.nan if line.get(name) is None else line[name] for line in lines], float)
        for name in MEASURES
    }
    return Record(settings, reason, curves, parameters(lines))


def parameters(lines: Sequence[Mapping[str, Any]]) -> int:
    """The number of parameters: Σ|g| over the mean of |g|, of the first epoch that has both.

    >>> parameters([{"one_norm": None}, {"one_norm": 6.0, "mean_abs": 1.5}])
    4
    """
    for line in lines:
        if line.get("one_norm") and line.get("mean_abs"):
            return round(line["one_norm"] / line["mean_abs"])
    return 0


def one_by_one(run_dir: Path, *, data_dir: Path | None = None, quiet: bool = False) -> Runs:
    """Runs in this process, one after the other, each in its own folder, found again when done."""

    def runs(wanted: Sequence[Training]) -> list[Record]:
        from tqdm import tqdm

        from ..lab.training.start import train

        with tqdm(
            total=sum(settings.epochs for settings in wanted),
            delay=1,
            disable=quiet,
            unit="epoch",
            leave=False,
        ) as bar:
            records, target = [], 0
            for number, settings in enumerate(wanted, start=1):
                bar.set_description_str(f"run {number} of {len(wanted)}")
                folder = train(
                    settings,
                    run_dir,
                    data_dir=data_dir,
                    checkpoint_every=100,
                    progress=lambda epoch, record: bar.update(1),
                ).folder
                target += settings.epochs
                bar.update(target - bar.n)
                records.append(read(settings, folder))
        return records

    return runs
