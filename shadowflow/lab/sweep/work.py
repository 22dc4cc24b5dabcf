"""A worker: takes the cells of a sweep that nobody else has, one after the other, until all end.

`python -m shadowflow.lab.sweep.work SWEEP.JSON TOKEN` is one, until its input ends. JAX is loaded
only where there is a cell to train: the environment settles the number of its threads before.
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

from ...files import write_json
from ..locks import Lock, Lost, Worker, fresh
from .grid import Cell
from .plan import Sweep, read

WAIT = 0.5  # seconds before looking again at cells that others have
DEATHS = 3  # workers in a row that may die at one place of a cell before it counts as failed
THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
Progress = Callable[[int, Mapping[str, Any]], Any]


def environment(threads: int) -> dict[str, str]:
    """Environment variables by which a new process computes with so many threads.

    >>> environment(2)["NPROC"]
    '2'
    """
    return dict.fromkeys(THREADS, str(threads))


def work(
    sweep: Sweep,
    cells: Sequence[Cell] | None = None,
    token: str | None = None,
    progress: Progress | None = None,
) -> None:
    """Train all cells, or those given, that no other worker has; wait for those that others have.

    A cell that fails is marked, with the reason, and the next one is taken; so is one that kills
    its workers. SIGTERM, and SIGUSR2 by which Slurm says that the time is up, raise
    KeyboardInterrupt as Ctrl-C does; the lock is given up, and the run can be resumed.
    """
    os.environ.update(environment(sweep.threads))
    mine = sweep.cells if cells is None else cells
    main_thread = threading.current_thread() is threading.main_thread()
    ends = (signal.SIGTERM, signal.SIGUSR2) if main_thread else ()
    previous = [signal.signal(number, signal.default_int_handler) for number in ends]
    worker = Worker(sweep.run_dir, sweep.patience, token or fresh())
    try:
        with worker.alive():
            while left := [cell for cell in mine if not sweep.ended(cell)]:
                if not any(_try(sweep, cell, worker, progress) for cell in left):
                    time.sleep(WAIT)
    finally:
        for number, handler in zip(ends, previous, strict=True):
            signal.signal(number, handler)


def _try(sweep: Sweep, cell: Cell, worker: Worker, progress: Progress | None) -> bool:
    """Train a cell, or mark it, where its lock can be had; False where another worker has it."""
    if sweep.ended(cell):
        return True
    lock = worker.acquire(cell.settings.key(), sweep.written(cell))
    if lock is None:
        return False
    try:
        if not sweep.ended(cell):  # by whoever had it until now
            _train(sweep, cell, lock, progress)
    except Lost as lost:
        print(f"{cell}: {lost}", file=sys.stderr)
    finally:
        lock.release()
    return True


def _train(sweep: Sweep, cell: Cell, lock: Lock, progress: Progress | None) -> None:
    from ..training.start import train

    try:
        if lock.deaths() >= DEATHS:
            raise RuntimeError(
                f"{lock.deaths()} workers in a row died at the same epoch of it, as they do "
                "where memory runs out"
            )
        train(
            cell.settings,
            sweep.run_dir,
            data_dir=sweep.data_dir,
            guard=lock.check,
            checkpoint_every=sweep.checkpoint_every,
            progress=progress,
        )
    except Lost:
        raise
    except Exception as error:
        lock.check()
        if not isinstance(error, ValueError):  # whose message says it all
            traceback.print_exc()
        write_json(sweep.failure(cell), {"error": f"{type(error).__name__}: {error}"})


def end_with_input() -> None:
    """SIGTERM to this process as soon as its input ends, with the process at the other end."""

    def wait() -> None:
        while os.read(0, 64):
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main(arguments: Sequence[str]) -> int:
    """0 when all cells have ended, 130 when it was stopped."""
    path, *token = arguments
    try:
        work(read(Path(path)), token=token[0] if token else None)
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    end_with_input()
    sys.exit(main(sys.argv[1:]))
