"""Write result files: each appears whole or not at all, and JSON holds only numbers it knows."""

from __future__ import annotations

import hashlib
import json
import math
import os
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def writable(folder: Path, flag: str = "--out") -> None:
    """Make the folder; ValueError if no file can be written there. For use before long work."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / ".probe", lambda draft: draft.touch()).unlink()
    except OSError as error:
        raise ValueError(
            f"{flag}: expected a folder that can be written, got {str(folder)!r} "
            f"({error.strerror}); choose another"
        ) from None


def write(path: Path, fill: Callable[[Path], Any], *, durable: bool = False) -> Path:
    """Write a file in one step: ``fill`` writes a temporary one, which then replaces ``path``.

    durable: wait until the data are on the disk; then even a crash of the machine leaves either
        the old file or the new one. Returns ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{uuid.uuid4().hex}-{path.name}")
    try:
        fill(draft)
        if durable:
            to_disk(draft)
        os.replace(draft, path)
        if durable and hasattr(os, "O_DIRECTORY"):
            to_disk(path.parent)
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


def write_json(path: Path, content: Any, *, durable: bool = False) -> Path:
    """Write ``content`` as JSON; a number that is not finite becomes null."""
    text = json.dumps(plain(content), indent=1, allow_nan=False, ensure_ascii=False) + "\n"
    return write(path, lambda draft: draft.write_text(text, encoding="utf-8"), durable=durable)


def write_arrays(
    path: Path, arrays: Mapping[str, np.ndarray], *, compress: bool = True, durable: bool = False
) -> Path:
    """Write named arrays to an npz file; "/" in a name becomes "|", as zip files need it."""
    import numpy as np

    safe = {key.replace("/", "|"): value for key, value in arrays.items()}
    save = np.savez_compressed if compress else np.savez

    def fill(draft: Path) -> None:
        with draft.open("wb") as file:
            save(file, allow_pickle=False, **safe)

    return write(path, fill, durable=durable)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays that ``write_arrays`` wrote, by name."""
    import numpy as np

    with np.load(path, allow_pickle=False) as stored:
        return {key.replace("|", "/"): stored[key] for key in stored.files}


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
