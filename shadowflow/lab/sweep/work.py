"""A worker: takes the cells of a sweep that nobody else has, one after the other, until all end.

`python -m shadowflow.lab.sweep.work SWEEP.JSON [TOKEN]` is one. JAX is not loaded before there is
a cell to train: how many threads it computes with is settled by the environment until then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shadowflow.files import write_json
from shadowflow.lab.sweep.grid import Cell
from shadowflow.lab.sweep.locks import Lock, Lost, Worker, fresh
from shadowflow.lab.sweep.plan import Sweep, read

WAIT = 0.5  # seconds before looking again at cells that others have
THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Progress = Callable[[int, Mapping[str, Any]], Any]


def environment(threads: int) -> dict[str, str]:
    """What makes a process that begins compute with so many threads.

    >>> environment(2)["NPROC"]
    '2'
    """
    return dict.fromkeys(THREADS, str(threads))


def failure(sweep: Sweep, cell: Cell) -> Path:
    """Where the message of a cell that failed is."""
    return sweep.folder_of(cell) / "failed.json"


def settled(sweep: Sweep, cell: Cell) -> bool:
    """Whether there is nothing left to do for a cell: it is done, diverged, or failed."""
    return (sweep.folder_of(cell) / "done.json").exists() or failure(sweep, cell).exists()


def work(sweep: Sweep, cells: Sequence[Cell] | None = None, token: str | None = None,
         progress: Progress | None = None) -> None:  # fmt: skip
    """Train all cells, or those given, that no other worker has; wait for those that others have.

    A cell that fails is marked, with the reason, and the next one is taken. On SIGTERM, as on
    Ctrl-C, a KeyboardInterrupt comes out; the lock is given up and the run can be gone on with.
    """
    os.environ.update(environment(sweep.threads))
    mine = sweep.cells if cells is None else cells
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread:
        previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    worker = Worker(sweep.run_dir, sweep.patience, token or fresh())
    try:
        with worker.alive():
            while left := [cell for cell in mine if not settled(sweep, cell)]:
                if not any(_try(sweep, cell, worker, progress) for cell in left):
                    time.sleep(WAIT)
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, previous)


def _try(sweep: Sweep, cell: Cell, worker: Worker, progress: Progress | None) -> bool:
    """Whether a cell could be had; then it has been trained, or is marked."""
    if settled(sweep, cell):
        return True
    lock = worker.acquire(cell.settings.key())
    if lock is None:
        return False
    try:
        if not settled(sweep, cell):  # by whoever had it until now
            _train(sweep, cell, lock, progress)
    except Lost:
        return True
    except Exception as error:
        traceback.print_exc()
        write_json(failure(sweep, cell), {"error": f"{type(error).__name__}: {error}"})
    finally:
        lock.release()
    return True


def _train(sweep: Sweep, cell: Cell, lock: Lock, progress: Progress | None) -> None:
    from shadowflow.lab.prepare import train

    train(cell.settings, sweep.run_dir, data_dir=sweep.data_dir, guard=lock.check,
          checkpoint_every=sweep.checkpoint_every, progress=progress)  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """0 when all cells have ended, 130 when it was stopped."""
    path, *token = arguments
    try:
        work(read(Path(path)), token=token[0] if token else None)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
