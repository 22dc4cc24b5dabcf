"""The history of a run: one line of JSON an epoch, appended."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...files import plain, write_text


def append(path: Path, record: Mapping[str, Any]) -> None:
    """Append a line, with null for what is not finite; OSError where it cannot be written."""
    line = json.dumps(plain(dict(record)), allow_nan=False, ensure_ascii=False) + "\n"
    with path.open("a", encoding="utf-8") as file:
        file.write(line)


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a history, without a last line that was torn; none where there is no file."""
    if not path.exists():
        return []
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        try:
            record = json.loads(line)
        except ValueError:
            break
        if not (line.endswith("\n") and isinstance(record, dict)):
            break
        records.append(record)
    return records


def seal(path: Path, epoch: int | None = None) -> str:
    """The sha256 of the first ``epoch`` lines of a history, or of all; "" without a file."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        return hashlib.sha256(b"".join(itertools.islice(file, epoch))).hexdigest()


def cut(path: Path, epoch: int, sealed: str = "") -> None:
    """Drop the records from ``epoch`` on: a run that is resumed there writes them again.

    sealed: the ``seal`` that those before it had, if known. ValueError where one of them is
    missing or changed.
    """
    if not path.exists() and epoch == 0:
        return
    kept = read(path)[:epoch]
    whole = [record.get("epoch") for record in kept] == list(range(epoch))
    if not whole or (sealed and seal(path, epoch) != sealed):
        got = "others" if whole else f"{len(kept)} sound records"
        raise ValueError(
            f"history: expected the epochs 0 to {epoch - 1} in {str(path)!r} as they were written, "
            f"got {got}; remove the run's folder to begin again"
        )
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)[:epoch]
    write_text(path, "".join(lines))


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """A JSON file that has these names; ValueError where it is damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path.name}: expected JSON in {str(path)!r}, got: {error}") from None
    if not isinstance(content, dict) or set(names) - set(content):
        raise ValueError(
            f"{path.name}: expected {', '.join(names) or 'names'} in {str(path)!r}, got "
            f"{str(content)[:60]}; remove the file to begin again"
        )
    return content
