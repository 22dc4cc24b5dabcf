"""Sweeps for a reader: how far they are, what failed, how they ended."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...lab.sweep import launch, table, work
from ...lab.sweep.grid import Cell, shown
from ...lab.sweep.plan import Sweep, check, digest, threads_of
from ...lab.training.config import Training
from ...paper.records import Record, Runs, one_by_one, read
from . import formatting

if TYPE_CHECKING:
    from ..claims import OnRuns

LOOK = 2.0  # seconds between looks at the cells while they run


def sweep_job(
    sweep: Sweep,
    launcher: launch.Launcher,
    workers: int,
    *,
    quiet: bool,
    options: dict[str, Any] | None = None,
) -> int:
    """Run all cells and say how they ended: 0, or 1 where one failed; 130 where it was stopped."""
    from tqdm import tqdm

    check(sweep, sweep.cells, here=launcher == "local")
    sweep.write()
    sweep.forget_failures()
    total = sum(cell.settings.epochs for cell in sweep.cells)
    bar = tqdm(total=total, delay=1, disable=quiet, unit="epoch", leave=False)
    last = 0.0

    def watch() -> None:
        nonlocal last
        if bar.disable or time.monotonic() - last < LOOK:
            return
        last, rows = time.monotonic(), table.standings(sweep)
        bar.update(sum(row.epoch for row in rows) - bar.n)
        bar.set_postfix_str(counted(rows))

    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with bar:
            extra = {"options": options} if launcher == "slurm" else {}
            getattr(launch, launcher)(sweep, workers, watch, **extra)
    except KeyboardInterrupt:
        print(f"Stopped. {counted(table.standings(sweep))}; the same command resumes.")
        return 130
    finally:
        signal.signal(signal.SIGTERM, previous)
    return ended(sweep)


def obtained(command: OnRuns) -> Runs:
    """Runs that workers share, as the figures take them; of one worker, in this process."""
    run_dir, data_dir = command.out / "runs", command.data_dir
    if command.launcher == "local" and command.workers == 1:
        return one_by_one(run_dir, data_dir=data_dir, quiet=command.quiet)

    def runs(wanted: Sequence[Training]) -> list[Record]:
        differ = lambda run: {
            "opt.b1": run.arguments["b1"],
            "opt.b2": run.arguments["b2"],
            "seed": run.seed,
        }
        cells = tuple(Cell(index, differ(run), run) for index, run in enumerate(wanted))
        threads = threads_of(command.workers)
        sweep = Sweep(
            digest(cells), run_dir, cells, data_dir, checkpoint_every=100, threads=threads
        )
        if sweep_job(sweep, command.launcher, command.workers, quiet=command.quiet) == 130:
            raise KeyboardInterrupt
        return [read(cell.settings, sweep.folder_of(cell)) for cell in cells]

    return runs


def one_job(sweep: Sweep, index: int, *, quiet: bool) -> int:
    """Run one cell here; 0, or 1 where it failed, 130 where it was stopped."""
    from tqdm import tqdm

    if not 0 <= index < len(sweep.cells):
        raise ValueError(
            f"--index: expected a cell from 0 to {len(sweep.cells) - 1}, got {index}; "
            "`shadowflow sweep status` lists them"
        )
    cell = sweep.cells[index]
    check(sweep, [cell])
    sweep.write()
    sweep.failure(cell).unlink(missing_ok=True)
    with tqdm(total=cell.settings.epochs, delay=1, disable=quiet, unit="epoch", leave=False) as bar:
        try:
            work.work(sweep, [cell], progress=lambda epoch, _: bar.update(epoch - bar.n))
        except KeyboardInterrupt:
            return 130
    row = table.standings(sweep)[index]
    print(f"{cell}: {row.state}" + (f", {row.error}" if row.error else ""))
    return 1 if row.state == "failed" else 0


def counted(rows: list[table.Standing]) -> str:
    """How many cells are in which state.

    >>> counted([])
    'no cells'
    """
    numbers = Counter(row.state for row in rows)
    return ", ".join(f"{number} {state}" for state, number in numbers.items()) or "no cells"


def status(sweep: Sweep) -> str:
    """A line per cell with its values of the grid, the time that is left, and what failed."""
    rows = table.standings(sweep)
    names = list(dict.fromkeys(name for row in rows for name in row.cell.values))
    cells = [
        {
            "cell": str(row.cell.index),
            **{
                name: shown(row.cell.values[name]) if name in row.cell.values else ""
                for name in names
            },
            "state": row.state,
            "epoch": f"{row.epoch} of {row.cell.settings.epochs}",
            "seconds an epoch": "" if row.seconds is None else f"{row.seconds:.3g}",
        }
        for row in rows
    ]
    text = [*formatting.table(cells), f"{counted(rows)}.{_left(rows)}"]
    text += [f"{row.cell} failed: {row.error}" for row in rows if row.state == "failed"]
    return "\n".join(text)


def _left(rows: list[table.Standing]) -> str:
    from tqdm import tqdm

    seconds = table.remaining(rows)
    if not any(row.state in ("running", "waiting") for row in rows):
        return ""
    if seconds is None:
        return " No epoch is done yet, so the time that is left is not known."
    busy = sum(row.state == "running" for row in rows)
    return f" About {tqdm.format_interval(seconds)} left with {max(1, busy)} at work."


def ended(sweep: Sweep) -> int:
    """Say how all cells ended; 1 where one failed."""
    rows = table.standings(sweep)
    print(
        f"{counted(rows)}. Written to {sweep.run_dir}{os.sep}: a folder per run, and "
        f"{sweep.folder.name}"
    )
    for row in rows:
        if row.state in ("failed", "non-finite"):
            print(f"{row.cell}: {row.state}" + (f": {row.error}" if row.error else ""))
    return 1 if any(row.state == "failed" for row in rows) else 0
