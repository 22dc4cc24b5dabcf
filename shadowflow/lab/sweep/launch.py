"""Ways to start the workers of a sweep: processes of this machine, Slurm, Ray.

Each waits until every cell has ended. A worker that ends before that, killed or out of its time,
is replaced; another one resumes the cell that it had begun.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

from ...extras import need
from ..locks import bury, fresh
from . import work
from .plan import Sweep

Launcher = Literal["local", "slurm", "ray"]
Watch = Callable[[], Any]
PATIENCE = 0.2  # seconds between looks at the workers
GRACE = 15.0  # seconds a worker gets to end by itself
MINUTES = 240  # of a job of Slurm, unless they are given


def _progress(sweep: Sweep) -> tuple[int, int]:
    """(cells that are left, bytes of their histories)."""
    cells = sweep.left()
    return len(cells), sum(map(sweep.written, cells))


def _keep(
    sweep: Sweep,
    workers: int,
    watch: Watch,
    send: Callable[[], Any],
    ended: Callable[[Any], str | None],
    stop: Callable[[list], Any],
) -> None:
    """Start workers, and another one for each that ends while cells are left.

    ValueError where too many die in a row, while no cell makes progress, to be an accident.
    send: starts a worker. ended: how a worker ended, in words; None while it works. stop: ends
    those that still work, whatever the reason.
    """
    most = workers * (work.DEATHS + 1)  # before that, a cell that kills them all is marked
    deaths, last, running = 0, _progress(sweep), []
    try:
        for _ in range(min(workers, len(sweep.left()))):
            running.append(send())
        while running:
            time.sleep(PATIENCE)
            watch()
            for worker in list(running):
                reason = ended(worker)
                if reason is None:
                    continue
                running.remove(worker)
                if not sweep.left():
                    continue
                now = _progress(sweep)
                deaths, last = 1 if now != last else deaths + 1, now
                if deaths > most:
                    raise ValueError(
                        f"sweep: expected workers that make progress, got {deaths} deaths in "
                        f"a row, the last one: {reason}; once that is mended, the same command "
                        "resumes"
                    )
                running.append(send())
    finally:
        stop(running)


def local(sweep: Sweep, workers: int, watch: Watch) -> None:
    """Processes of this machine, which end with this one; watch is called while they work."""
    environment = os.environ | work.environment(sweep.threads)

    def send() -> tuple[subprocess.Popen, str]:
        token = fresh()
        words = [sys.executable, "-m", "shadowflow.lab.sweep.work", str(sweep.file), token]
        process = subprocess.Popen(
            words, env=environment, start_new_session=True, stdin=subprocess.PIPE
        )
        return process, token

    def ended(worker: tuple[subprocess.Popen, str]) -> str | None:
        process, token = worker
        if process.poll() is None:
            return None
        process.communicate()
        bury(sweep.run_dir, token)
        return f"exit code {process.returncode}"

    def stop(running: list[tuple[subprocess.Popen, str]]) -> None:
        for process, _ in running:
            process.terminate()
        try:
            until = time.monotonic() + GRACE
            for process, _ in running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, until - time.monotonic()))
        finally:  # and at once where the wait is broken off
            for process, token in running:
                process.kill()
                process.communicate()
                bury(sweep.run_dir, token)

    _keep(sweep, workers, watch, send, ended, stop)


def slurm(
    sweep: Sweep,
    workers: int,
    watch: Watch,
    *,
    cluster: str = "slurm",
    options: Mapping[str, Any] | None = None,
) -> None:
    """Jobs of Slurm; one that dies, or whose time is up, is sent anew.

    cluster: "local" for submitit's own stand-in.
    options: of submitit, as ``slurm_partition`` or ``timeout_min``.
    """
    if cluster == "slurm" and shutil.which("srun") is None:
        raise ValueError(
            "--launcher: expected a machine of Slurm, got one without srun; use --launcher local"
        )
    submitit = need("--launcher slurm", "submitit", "'shadowflow[slurm]'")
    executor = submitit.AutoExecutor(folder=sweep.folder / "jobs", cluster=cluster)
    given = {"name": f"sweep-{sweep.name}", "cpus_per_task": sweep.threads, "timeout_min": MINUTES}
    executor.update_parameters(**given | dict(options or {}))
    _keep(
        sweep,
        workers,
        watch,
        send=lambda: executor.submit(work.main, [str(sweep.file.resolve())]),
        ended=lambda job: f"job {job.job_id} is {job.state}" if job.done() else None,
        stop=lambda jobs: [job.cancel() for job in jobs],
    )


def ray(sweep: Sweep, workers: int, watch: Watch) -> None:
    """Tasks of a Ray cluster: the one that RAY_ADDRESS names, or one on this machine.

    A task that dies is followed by another.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    package = need("--launcher ray", "ray", "'shadowflow[ray]'")
    own = not package.is_initialized()
    if own:
        cores = None if "RAY_ADDRESS" in os.environ else workers * sweep.threads
        package.init(include_dashboard=False, log_to_driver=False, num_cpus=cores)
    settings = {"env_vars": work.environment(sweep.threads)}
    task = package.remote(num_cpus=sweep.threads, max_retries=0, runtime_env=settings)(work.main)

    def ended(task: Any) -> str | None:
        ready, _ = package.wait([task], timeout=0)
        return _reason(package, task) if ready else None

    def stop(tasks: list) -> None:
        for task in tasks:  # as Ctrl-C does, then for good
            package.cancel(task)
        if tasks:
            _, tasks = package.wait(tasks, num_returns=len(tasks), timeout=GRACE)
        for task in tasks:
            package.cancel(task, force=True)
        if own:
            package.shutdown()

    send = lambda: task.remote([str(sweep.file.resolve())])
    _keep(sweep, workers, watch, send, ended, stop)


def _reason(package: Any, task: Any) -> str:
    """How a task ended, in words."""
    try:
        return f"exit code {package.get(task)}"
    except (package.exceptions.RayError, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}".strip().splitlines()[0]
