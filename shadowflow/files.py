"""Write result files: each appears whole or not at all, and JSON holds only numbers it knows."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import math
import os
import socket
import uuid
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

DRAFT = ".draft"  # how the names of temporary files end
LOCK = ".lock"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


class NotWritten(OSError, ValueError):
    """A file could not be written; what was at its place is still there."""


def refusal(flag: str, what: str, path: Path, why: OSError | ValueError | str) -> NotWritten:
    """What to raise where ``path`` cannot be written; ``what`` was expected of it.

    >>> print(refusal("--out", "a file", Path("x"), OSError(28, "No space left on device")))
    --out: expected a file, got 'x' (the disk is full); make room and give the same command ...
    """
    remedy, said = "choose another", why
    if isinstance(why, OSError):
        said = why.strerror or str(why)
        if why.errno in NO_SPACE:
            said = "the disk is full"
            remedy = "make room and give the same command again: what was written before is kept"
    shown = str(path) if len(str(path)) < 200 else f"{str(path)[:100]}…"
    return NotWritten(f"{flag}: expected {what}, got {shown!r} ({said}); {remedy}")


def writable(folder: Path, flag: str = "--out") -> None:
    """Make the folder; NotWritten if no file can be written there. For use before long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replaced(folder / ".probe", Path.touch, durable=False).unlink()
    except (OSError, ValueError) as error:  # a ValueError for a name with a zero byte
        raise refusal(flag, "a folder that can be written", folder, error) from None


def writable_file(path: Path, flag: str = "--out") -> Path:
    """``path``; NotWritten unless it is a plain file, or can become one, in a folder that exists.

    For use before long work. A device, a socket or a folder at its place is left alone.
    """
    try:
        _refuse_special(path)
        if not path.parent.is_dir():
            raise ValueError(f"there is no folder {str(path.parent)!r}")
        if not path.exists():
            _replaced(path, Path.touch, durable=False)
            Path(os.path.realpath(path)).unlink()
    except (OSError, ValueError) as error:
        raise refusal(flag, "a file that can be written", path, error) from None
    return path


def _refuse_special(path: Path) -> None:
    if path.exists() and not path.is_file():
        raise ValueError("it is a folder" if path.is_dir() else "it is no plain file")


@contextlib.contextmanager
def alone(folder: Path, flag: str = "--out") -> Generator[None]:
    """Keep every other process that asks for it out of a folder, which is made.

    NotWritten where one is inside; it is named. The system ends the lock with the process.
    """
    writable(folder, flag)
    with contextlib.ExitStack() as stack:
        file = hold(folder / LOCK)
        if file is None:
            with contextlib.suppress(OSError):
                there = (folder / LOCK).read_text(errors="replace").strip()
            raise refusal(
                flag, "a folder in which nothing else is at work", folder, f"in use by {there}"
            )
        stack.enter_context(file)
        yield


def hold(path: Path) -> IO[str] | None:
    """``path``, open and locked until it is closed; None where another process has it locked.

    It holds the process and the machine in words. Where the system has no such locks it is open
    only.
    """
    file = path.open("a+", encoding="utf-8")
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except (ImportError, OSError):  # no such locks here
        pass
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}")
    file.flush()
    return file


def is_held(path: Path) -> bool | None:
    """Whether a process has the lock of ``hold`` on a file; None where that cannot be told."""
    try:
        import fcntl

        with path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (ImportError, OSError):
        return None
    return False


def write(path: Path, fill: Callable[[Path], Any], *, durable: bool = False) -> Path:
    """Write a file in one step: ``fill`` writes a temporary one, which then replaces ``path``.

    durable: wait until the data are on the disk; then even a crash of the machine leaves either
        the old file or the new one. Returns ``path``, whose folder is made. NotWritten where that
        cannot be, where the disk is full, and where something there is no plain file.
    """
    try:
        _refuse_special(path)
    except ValueError as error:
        raise refusal(path.name, "a file that can be written", path, error) from None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _replaced(path, fill, durable)
    except OSError as error:
        raise refusal(path.name, "a file that can be written", path, error) from None


def _replaced(path: Path, fill: Callable[[Path], Any], durable: bool) -> Path:
    place = Path(os.path.realpath(path))  # a link stays one
    draft = place.with_name(f".{uuid.uuid4().hex}{DRAFT}")  # no longer than a name may be
    try:
        fill(draft)
        if durable:
            to_disk(draft)
        os.replace(draft, place)
        if durable and hasattr(os, "O_DIRECTORY"):
            to_disk(place.parent)
    finally:
        draft.unlink(missing_ok=True)
    return path


def to_disk(path: Path) -> None:
    """Flush what was written, so that it outlasts a crash of the machine."""
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def write_text(path: Path, text: str, *, durable: bool = False) -> Path:
    """Write a text in UTF-8."""
    return write(path, lambda draft: draft.write_text(text, encoding="utf-8"), durable=durable)


def write_json(path: Path, content: Any, *, durable: bool = False) -> Path:
    """Write ``content`` as JSON; a number that is not finite becomes null."""
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return write_text(path, text, durable=durable)


NAMES = {"%": "%25", "|": "%7C", "\0": "%00", "/": "|"}  # in a zip file; no two names become one


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, compress: bool = True, durable: bool = False
) -> Path:
    """Write named arrays to an npz file; "/" in a name becomes "|", as zip files need it.

    What else a zip file would change becomes "%" and its number, so that ``read_arrays`` finds
    every array under its own name.
    """
    import numpy as np

    safe = {key.translate(str.maketrans(NAMES)): value for key, value in arrays.items()}
    save = np.savez_compressed if compress else np.savez

    def fill(draft: Path) -> None:
        with draft.open("wb") as file:
            save(file, allow_pickle=False, **safe)

    return write(path, fill, durable=durable)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that ``write_arrays`` wrote, by name."""
    import numpy as np

    def named(key: str) -> str:
        for character, safe in reversed(NAMES.items()):
            key = key.replace(safe, character)
        return key

    with np.load(path, allow_pickle=False) as stored:
        return {named(key): stored[key] for key in stored.files}


def digest(content: Any) -> str:
    """The sha256 of plain data, whatever the order of their names."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def plain(content: Any) -> Any:
    """``content`` in the types that JSON has: arrays become lists, NaN and infinity None.

    >>> plain({"a": (1.5, float("nan"))})
    {'a': [1.5, None]}
    """
    if isinstance(content, dict):
        return {str(key): plain(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [plain(value) for value in content]
    if hasattr(content, "tolist"):
        return plain(content.tolist())
    if isinstance(content, float) and not math.isfinite(content):
        return None
    return content
