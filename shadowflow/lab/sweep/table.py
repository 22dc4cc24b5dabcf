"""What has become of a sweep: the state of every cell, the time that is left, all histories."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...extras import need
from ...files import write
from ..locks import Worker, newest
from ..training import history
from .grid import Cell
from .plan import Sweep

State = Literal["done", "non-finite", "failed", "running", "waiting"]
LAST = 20  # epochs whose time the estimate is made of


@dataclass(frozen=True)
class Standing:
    """How far a cell is: its state, the epochs behind it, seconds per epoch, why it failed."""

    cell: Cell
    state: State
    epoch: int
    seconds: float | None
    error: str = ""


def standings(sweep: Sweep) -> list[Standing]:
    """How far every cell is.

    A cell is "running" whose lock a worker holds that has not ended; a killed worker, which could
    not say so, counts until its heartbeat has stood still for as long as the others wait.
    """
    return [_standing(sweep, cell) for cell in sweep.cells]


def _standing(sweep: Sweep, cell: Cell) -> Standing:
    folder = sweep.folder_of(cell)
    told = folder / "history.jsonl"
    epoch = max(0, told.read_bytes().count(b"\n") - 1) if told.exists() else 0
    times = [row["seconds"] for row in history.read(folder / "timing.jsonl")[-LAST:]]
    seconds = statistics.median(times) if times else None
    if (folder / "done.json").exists():
        reason = history.read_json(folder / "done.json", "reason")["reason"]
        return Standing(cell, "non-finite" if reason == "non-finite" else "done", epoch, seconds)
    failed = sweep.failure(cell)
    if failed.exists():
        return Standing(cell, "failed", epoch, seconds, history.read_json(failed, "error")["error"])
    _, owner = newest(sweep.run_dir, cell.settings.key())
    held = owner is not None and _beats(Worker(sweep.run_dir, sweep.patience), owner)
    return Standing(cell, "running" if held else "waiting", epoch, seconds)


def _beats(worker: Worker, token: str) -> bool:
    """Whether a heartbeat is not older than patience, by the clock of this machine."""
    try:
        age = time.time() - worker.file(token).stat().st_mtime
    except OSError:
        return False
    return not worker.file(f"{token}.dead").exists() and age <= worker.patience


def remaining(rows: list[Standing]) -> float | None:
    """Seconds until all is done, at the present number of workers; None where nothing is known."""
    known = [row.seconds for row in rows if row.seconds is not None]
    if not known:
        return None
    typical = statistics.median(known)
    left = sum(
        (row.cell.settings.epochs - row.epoch) * (row.seconds or typical)
        for row in rows
        if row.state in ("running", "waiting")
    )
    return left / max(1, sum(row.state == "running" for row in rows))


def export(sweep: Sweep, path: Path) -> Path:
    """All histories as one parquet file, a row for every cell and epoch.

    Columns: cell, run (the folder's name), state, the whole configuration with the optimizer's
    arguments as opt.b1 …, and all that the histories say; null for what is not finite or was not
    measured. ValueError where no cell has a history, or the file cannot be written.
    """
    polars = need("export", "polars", "'shadowflow[export]'")
    rows = list(_rows(sweep))
    if not rows:
        raise ValueError(f"sweep: expected a cell with a history in {str(sweep.run_dir)!r}, got 0")
    frame = polars.DataFrame(rows, infer_schema_length=None, strict=False)
    return write(path, frame.write_parquet)


def _rows(sweep: Sweep) -> Iterator[dict[str, Any]]:
    for row in standings(sweep):
        configuration = row.cell.settings.plain()
        arguments = configuration.pop("arguments")
        # the schedule's start: every line has a learning rate of its own
        configuration["base_learning_rate"] = configuration.pop("learning_rate")
        fixed = {
            "cell": row.cell.index,
            "run": row.cell.settings.key(),
            "state": row.state,
            **configuration,
            **{f"opt.{name}": value for name, value in arguments.items()},
        }
        for record in history.read(sweep.folder_of(row.cell) / "history.jsonl"):
            yield fixed | record
