"""Locks between processes that share nothing but a folder, and the heartbeats that keep them.

A worker has a token and a file of its own that it writes again and again; it also locks a file as
the system has it, from which processes of the same machine see at once whether it lives. The lock
of a cell is the file ``<key>.<n>`` of the highest n, made at once or not at all, and holds the
token of its owner and how far the cell was. The owner gives it up by making ``<key>.<n>.free``. A
worker that sees the owner's heartbeat stand still for long enough makes ``<key>.<n+1>``, and the
owner, should it wake, has lost the lock. Nothing is removed, so no lock can be taken for another;
no two clocks are compared. Where a machine keeps what it knows of a shared folder for a while (NFS:
up to a minute), patience must be longer.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import socket
import threading
import time
import uuid
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from ..files import hold, is_held, refusal, write_text

LOCKS, WORKERS = ".locks", ".workers"
BEATS = 6  # heartbeats in the time after which a worker counts as dead
LOOK = 0.2  # seconds between looks at the worker that has a lock


class Lost(ValueError):
    """The lock is another worker's, which took this one, long silent, for dead."""


def fresh() -> str:
    """A token that no other worker has."""
    return uuid.uuid4().hex[:12]


@dataclass
class Worker:
    """A worker's place in a folder of runs: its token, and what it has seen of the others.

    patience: seconds after which a heartbeat that stands still is that of a dead worker.
    """

    run_dir: Path
    patience: float = 30.0
    token: str = field(default_factory=fresh)
    seen: dict[str, tuple[bytes, float]] = field(default_factory=dict)

    @contextlib.contextmanager
    def alive(self) -> Generator[Worker]:
        """With a heartbeat, process, machine and a number that grows, and none afterwards."""
        ends = threading.Event()

        def beat() -> None:
            for count in itertools.count():
                with contextlib.suppress(OSError):  # a full disk is no death
                    write_text(self.file(self.token), f"{os.getpid()} {machine()} {count}")
                if ends.wait(self.patience / BEATS):
                    return

        thread = threading.Thread(target=beat, daemon=True)
        self.file(self.token).parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            file = hold(self.file(f"{self.token}.lock"))
            if file is not None:
                stack.enter_context(file)
            thread.start()
            try:
                yield self
            finally:
                ends.set()
                thread.join()
                bury(self.run_dir, self.token)

    def file(self, token: str) -> Path:
        """Where a worker's heartbeat is."""
        return self.run_dir / WORKERS / token

    def name(self, token: str) -> str:
        """A worker in words, for a reader."""
        with contextlib.suppress(OSError):
            return self.file(f"{token}.lock").read_text(errors="replace") or "another process"
        return "another process"

    def acquire(self, key: str, progress: int = 0) -> Lock | None:
        """The lock of a cell, where it is free or its owner dead; None where it is not.

        progress: how far the cell is, any number that grows.
        """
        number, owner = newest(self.run_dir, key)
        if owner is not None and not self.dead(owner):
            return None
        path = _path(self.run_dir, key, number + 1)
        draft = path.with_name(f".{self.token}-{path.name}")
        draft.parent.mkdir(parents=True, exist_ok=True)
        try:
            draft.write_text(f"{self.token} {progress}")
            os.link(draft, path)
        except FileExistsError:  # another one was faster
            return None
        except OSError as error:
            raise refusal("--run-dir", "a folder for locks", draft.parent, error) from None
        finally:
            draft.unlink(missing_ok=True)
        return Lock(self.run_dir, key, number + 1)

    def dead(self, token: str) -> bool:
        """Whether a worker has ended, or its heartbeat stood still for longer than patience."""
        return self.lives(token) is False

    def lives(self, token: str) -> bool | None:
        """Whether a worker is at work; None while that is not known.

        Of one of this machine the system says whether it has ended. Else its heartbeat is looked
        at: whether it changes, or stands still for longer than patience.
        """
        if self.file(f"{token}.dead").exists():
            return False
        try:
            beat = self.file(token).read_bytes()
        except OSError:
            beat = b""
        held = is_held(self.file(f"{token}.lock")) if machine().encode() in beat else None
        if held is False:
            return False
        now = time.monotonic()
        last, since = self.seen.setdefault(token, (beat, now))
        if beat != last:
            self.seen[token] = beat, now
            return True
        return False if now - since > self.patience else held


@contextlib.contextmanager
def kept(run_dir: Path, key: str, patience: float = 30.0) -> Generator[Lock]:
    """The lock of a run, while something is computed that no other process may compute.

    That of a dead owner is taken over, on another machine only once it has been silent for as long
    as ``patience``. ValueError where the owner lives; it is named.
    """
    worker = Worker(run_dir, patience)
    with worker.alive():
        while (lock := worker.acquire(key)) is None:
            _, owner = newest(run_dir, key)
            if owner is not None and worker.lives(owner):
                raise ValueError(
                    f"--run-dir: expected a run at which nobody else is, got "
                    f"{str(run_dir / key)!r}, at which {worker.name(owner)} is; let it end or stop "
                    "it: the same command then resumes the run, or finds it done"
                )
            time.sleep(LOOK)
        try:
            yield lock
        finally:
            lock.release()


@functools.cache
def machine() -> str:
    """A word for the running system of this machine, one more time it is started another."""
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return socket.gethostname()


@dataclass(frozen=True)
class Lock:
    """A cell that is this worker's, until it gives it up or is taken for dead."""

    run_dir: Path
    key: str
    number: int

    def check(self) -> None:
        """Raise `Lost` where it is no longer this worker's."""
        if _path(self.run_dir, self.key, self.number + 1).exists():
            raise Lost(f"{self.key}: another worker has taken it over")

    def release(self) -> None:
        """Give it up."""
        _free(_path(self.run_dir, self.key, self.number)).touch()

    def deaths(self) -> int:
        """How many owners in a row have died before this one, all where the cell still is."""
        here = _path(self.run_dir, self.key, self.number)
        for count in range(self.number):
            path = _path(self.run_dir, self.key, self.number - 1 - count)
            if _free(path).exists() or _content(path)[1] != _content(here)[1]:
                return count
        return self.number


def bury(run_dir: Path, token: str) -> None:
    """Mark a worker as dead, so that nobody waits for its heartbeat."""
    path = run_dir / WORKERS / f"{token}.dead"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def newest(run_dir: Path, key: str) -> tuple[int, str | None]:
    """(number of a cell's newest lock, the token of its owner, None where it is free).

    >>> newest(Path("nowhere"), "mlp-digits-adam-0")
    (-1, None)
    """
    numbers = [
        int(path.suffix[1:])
        for path in (run_dir / LOCKS).glob(f"{key}.*")
        if path.suffix[1:].isdigit()
    ]
    number = max(numbers, default=-1)
    path = _path(run_dir, key, number)
    if number < 0 or _free(path).exists():
        return number, None
    return number, _content(path)[0] or None  # a crash of the machine can leave it empty


def _content(path: Path) -> tuple[str, str]:
    """(owner, progress) of a lock; empty words where it is damaged."""
    try:
        owner, _, progress = path.read_text().partition(" ")
    except (OSError, ValueError):
        return "", ""
    return (owner, progress) if owner.isalnum() else ("", "")


def _path(run_dir: Path, key: str, number: int) -> Path:
    return run_dir / LOCKS / f"{key}.{number}"


def _free(path: Path) -> Path:
    return path.with_name(f"{path.name}.free")
