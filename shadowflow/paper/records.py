"""Records of training runs, which figures and claims are made of, and how runs are obtained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

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


ENDED = ("epochs", "accuracy")  # the reasons of runs that came to the end that was asked for


@dataclass(frozen=True)
class Record:
    """A run, as plain data.

    settings: its whole configuration. reason: how it ended, as ``done.json`` says, or "unfinished"
    without that file. curves: measure → a value per epoch, NaN where none was taken or it was not
    finite.
    """

    settings: Training
    reason: str
    curves: Mapping[str, np.ndarray]


Runs = Callable[[Sequence[Training]], list[Record]]  # in the order asked for


def read(settings: Training, folder: Path) -> Record:
    """The record of the run in a folder; its curves are empty where the run was never begun."""
    done = folder / "done.json"
    reason = history.read_json(done)["reason"] if done.exists() else "unfinished"
    lines = history.read(folder / "history.jsonl")
    curves = {
        name: np.array([np.nan if line.get(name) is None else line[name] for line in lines], float)
        for name in MEASURES
    }
    return Record(settings, reason, curves)


def one_by_one(run_dir: Path, *, data_dir: Path | None = None, quiet: bool = False) -> Runs:
    """Train runs one after the other in this process; a run that is done is read, not repeated."""

    def runs(wanted: Sequence[Training]) -> list[Record]:
        from tqdm import tqdm

        from ..lab.training.start import train

        total = sum(settings.epochs for settings in wanted)
        records, target = [], 0
        with tqdm(total=total, delay=1, disable=quiet, unit="epoch", leave=False) as bar:
            for number, settings in enumerate(wanted, start=1):
                bar.set_description_str(f"run {number} of {len(wanted)}")
                outcome = train(
                    settings,
                    run_dir,
                    data_dir=data_dir,
                    checkpoint_every=100,
                    progress=lambda epoch, record: bar.update(1),
                )
                target += settings.epochs  # also of a run that was done already, or ended early
                bar.update(target - bar.n)
                records.append(read(settings, outcome.folder))
        return records

    return runs
