"""Ways to start the workers of a sweep: processes of this machine, Slurm, Ray.

Each waits until every cell has ended. Whatever dies is replaced as long as cells are left; what
it had begun is gone on with by another worker.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Literal

from shadowflow.lab.sweep import work
from shadowflow.lab.sweep.locks import bury, fresh
from shadowflow.lab.sweep.plan import Sweep

Launcher = Literal["local", "slurm", "ray"]
Watch = Callable[[], Any]
PATIENCE = 0.2  # seconds between looks at the workers
TRIES = 3  # how often in a row each worker may die before a cell is finished


class _Deaths:
    """How often workers have died since a cell was last finished."""

    def __init__(self, sweep: Sweep, workers: int) -> None:
        self.sweep, self.left, self.count = sweep, len(sweep.cells) + 1, 0
        self.most = TRIES * workers

    def add(self, reason: str) -> None:
        """One more; ValueError where that is too often to be an accident."""
        left = sum(not work.settled(self.sweep, cell) for cell in self.sweep.cells)
        self.count = 1 if left < self.left else self.count + 1
        self.left = left
        if self.count > self.most:
            raise ValueError(
                f"sweep: expected workers that finish their cells, got {self.count} deaths in a "
                f"row, the last one: {reason}; the same command goes on when that is mended"
            )


def begin(sweep: Sweep) -> None:
    """What failed before is tried again."""
    for cell in sweep.cells:
        work.failure(sweep, cell).unlink(missing_ok=True)


def unfinished(sweep: Sweep) -> bool:
    """Whether a cell is left to do."""
    return not all(work.settled(sweep, cell) for cell in sweep.cells)


def local(sweep: Sweep, workers: int, watch: Watch) -> None:
    """Processes of this machine; watch is called while they work."""
    deaths, running = _Deaths(sweep, workers), {}
    environment = os.environ | work.environment(sweep.threads)

    def start() -> None:
        token = fresh()
        command = [sys.executable, "-m", "shadowflow.lab.sweep.work", str(sweep.file), token]
        running[token] = subprocess.Popen(command, env=environment, start_new_session=True)

    try:
        for _ in range(workers):
            start()
        while running:
            time.sleep(PATIENCE)
            watch()
            for token, process in list(running.items()):
                if process.poll() is None:
                    continue
                del running[token]
                bury(sweep.run_dir, token)
                if process.returncode != 0 and unfinished(sweep):
                    deaths.add(f"exit code {process.returncode}")
                    start()
    finally:
        for process in running.values():
            process.terminate()
        for token, process in running.items():
            process.wait()
            bury(sweep.run_dir, token)


def slurm(sweep: Sweep, workers: int, watch: Watch, *, cluster: str = "slurm",
          options: Mapping[str, Any] | None = None) -> None:  # fmt: skip
    """Jobs of Slurm; one that dies is sent anew.

    cluster: "local" for submitit's own stand-in.
    options: of submitit, as ``slurm_partition`` or ``timeout_min``.
    """
    submitit = extra("submitit", "slurm")
    executor = submitit.AutoExecutor(folder=sweep.folder / "jobs", cluster=cluster)
    given = {"name": f"sweep-{sweep.name}", "cpus_per_task": sweep.threads} | dict(options or {})
    executor.update_parameters(**given)
    send = lambda: executor.submit(work.main, [str(sweep.file.resolve())])  # noqa: E731
    deaths, jobs = _Deaths(sweep, workers), [send() for _ in range(workers)]
    try:
        while jobs:
            time.sleep(PATIENCE)
            watch()
            for job in [job for job in jobs if job.done()]:
                jobs.remove(job)
                if job.state not in ("COMPLETED", "FINISHED") and unfinished(sweep):
                    deaths.add(f"job {job.job_id} is {job.state}")
                    jobs.append(send())
    finally:
        for job in jobs:
            job.cancel()


def ray(sweep: Sweep, workers: int, watch: Watch) -> None:
    """Tasks of a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    A task whose worker dies is tried again by Ray itself.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    package = extra("ray", "ray")
    own = not package.is_initialized()
    if own:
        cores = None if "RAY_ADDRESS" in os.environ else workers * sweep.threads
        package.init(include_dashboard=False, log_to_driver=False, num_cpus=cores)
    settings = {"env_vars": work.environment(sweep.threads)}
    task = package.remote(num_cpus=sweep.threads, max_retries=-1, runtime_env=settings)(work.main)
    tasks = [task.remote([str(sweep.file.resolve())]) for _ in range(workers)]
    try:
        while tasks:
            ready, tasks = package.wait(tasks, timeout=PATIENCE)
            watch()
            package.get(ready)
    finally:
        for left in tasks:
            package.cancel(left, force=True)
        if own:
            package.shutdown()


def extra(package: str, name: str) -> Any:
    """A package that only a launcher needs; ImportError with the remedy."""
    try:
        return import_module(package)
    except ImportError as error:
        raise ImportError(
            f"--launcher {name} needs {package}: pip install 'shadowflow[{name}]'"
        ) from error
