"""Where a data set is looked for, in this order.

1. The folder that the user names, by argument or by the environment variable SHADOWFLOW_DATA. If
   there is one, no other place is looked at.
2. The cache: SHADOWFLOW_CACHE, else `shadowflow` in XDG_CACHE_HOME, else in `~/.cache`.
3. On request: the package that holds it, fetched by its client.
4. On another request: the published files, downloaded.

Wherever it is found, its arrays must have the sha256 of the table, or the next place is tried.
If the table has no sha256, they must have its shapes and equally many images of every class.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import UInt8

from ...files import DRAFT, write_arrays
from . import clients
from .formats import NPZ_KEYS, Arrays, file_names, read_archive, read_folder, read_npz
from .table import Dataset

VARIABLE = "SHADOWFLOW_DATA"
STALE_SECONDS = 3600.0
"""The age from which a draft in the cache is taken for that of a process that died."""
Place = tuple[str, Callable[[], Arrays]]
"""The name of a place, and what reads the data set there."""


class NotFound(ValueError):
    """No place gives the data set; the message lists them, and ``rejected`` is as in `Located`."""

    rejected: tuple[str, ...] = ()


class Located(NamedTuple):
    """The arrays of a data set, and where they were found."""

    arrays: Arrays
    where: str
    rejected: tuple[str, ...]
    """The places tried before whose files are damaged or of something else, each with why."""


def find(
    row: Dataset,
    directory: str | os.PathLike[str] | None = None,
    *,
    request: bool = False,
    download: bool = False,
) -> Located:
    """The data set from the first place that has it; `NotFound` where none has it.

    directory: the only folder to look into; None: SHADOWFLOW_DATA, else everywhere. request: ask
    the package client too. download: download the published files too.
    """
    named = os.environ.get(VARIABLE) if directory is None else directory
    if named:
        name = VARIABLE if directory is None else "folder"
        places = _in_folder(row, Path(named).expanduser(), name)
        remedy = f"put it there, or name no folder (--data-dir, {VARIABLE}): the cache is searched"
    else:
        places = _everywhere(row, request, download)
        remedy = "--data-dir with a folder that holds it"
        remedy = remedy if download else f"{row.command(download=request)}, or {remedy}"
    tried, rejected = [], []
    for where, read in places:
        try:
            return Located(verified(row, read()), where, tuple(rejected))
        except (ImportError, OSError, ValueError) as error:
            said = getattr(error, "strerror", None) or str(error)
            tried.append(f"{where}: {' '.join(said.split())}")
            if not isinstance(error, FileNotFoundError):
                rejected.append(tried[-1])
    missing = NotFound("\n  ".join([f"{row.name}: not found; tried", *tried, f"Remedy: {remedy}"]))
    missing.rejected = tuple(rejected)
    raise missing


def _everywhere(row: Dataset, request: bool, download: bool) -> Iterator[Place]:
    yield from _in_folder(row, cache_folder(), "cache")
    if request and row.client is not None:
        where = f"package {row.package} by {row.client}"
        yield where, functools.partial(_fetched, row, clients.fetch_package)
    if download:
        yield f"download from {row.home}", functools.partial(_fetched, row, clients.fetch_files)


def _in_folder(row: Dataset, folder: Path, name: str) -> Iterator[Place]:
    """What a folder holds of the data set; if nothing, a place that says what was looked for."""
    found = list(_held(row, folder)) or [(folder, functools.partial(_nothing, row, folder))]
    yield from ((f"{name} {path}", read) for path, read in found)


def _held(row: Dataset, folder: Path) -> Iterator[tuple[Path, Callable[[], Arrays]]]:
    for stem in dict.fromkeys([row.name, row.name.replace("-", "_")]):
        path = folder / f"{stem}.npz"
        if os.path.isfile(path):
            yield path, functools.partial(read_npz, row, path)
    for path in (folder / inside for inside in (".", *row.folders)):
        if any(os.path.isfile(path / file) for file in file_names(row)):
            yield path, functools.partial(read_folder, row, path)
    for path in (path for pattern in row.archives for path in sorted(folder.glob(pattern))):
        yield path, functools.partial(read_archive, row, path)


def _nothing(row: Dataset, folder: Path) -> Arrays:
    """FileNotFoundError: the place has nothing of it, or only files that are never read."""
    names = os.listdir(folder)  # an OSError says why a folder cannot be read
    if not {*row.pickled}.isdisjoint(names):
        raise FileNotFoundError(
            "the Python version is made of pickles, which can run code when they are read, so it "
            f"is not read; take {' or '.join(row.archives)}, or run {row.command()}"
        )
    raise FileNotFoundError(
        f"holds neither {' nor '.join([f'{row.name}.npz', *row.archives])} nor files such as "
        f"{next(iter(file_names(row)))} (in itself or in its folders {', '.join(row.folders)})"
    )


def _fetched(row: Dataset, fetch: Callable[[Dataset, Path], None]) -> Arrays:
    """The arrays in what is fetched into a temporary folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        fetch(row, Path(name))
        for _, read in _held(row, Path(name)):
            return read()
    raise ValueError("expected the files of the data set, got none of them")


def verified(row: Dataset, arrays: Arrays) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The arrays as uint8, if they are those of the data set; ValueError if they are not.

    Whole numbers of another dtype are converted, and a last axis of length 1 too many is dropped.
    If the table has no sha256, the images of each class are counted.
    """
    checked = {}
    for name, shape in row.shapes().items():
        array = arrays[name]
        if array.shape not in (shape, (*shape, 1)):
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
        whole = array.dtype.kind in "iuf" and array.min() >= 0 and array.max() <= 255
        narrow = array.astype(np.uint8, order="C", copy=False).reshape(shape) if whole else array
        if not whole or not np.array_equal(narrow, array.reshape(shape)):
            raise ValueError(f"{name}: expected whole numbers from 0 to 255, got {array.dtype}")
        if row.sha256 is not None:
            expected, digest = row.sha256[name], hashlib.sha256(narrow.data).hexdigest()
            if digest != expected:
                raise ValueError(f"{name}: expected sha256 {expected[:12]}…, got {digest[:12]}…")
        elif narrow.ndim == 1:
            each, counted = len(narrow) // row.classes, np.bincount(narrow, minlength=row.classes)
            if counted.tolist() != [each] * row.classes:
                raise ValueError(
                    f"{name}: expected {each} of each of {row.classes} classes, "
                    f"got {len(counted)} classes of {counted.min()} to {counted.max()}"
                )
        checked[name] = narrow
    return checked


def cache_folder() -> Path:
    """The folder of the cache; it need not exist."""
    own = os.environ.get("SHADOWFLOW_CACHE")
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(own or Path(shared, "shadowflow")).expanduser()


def cache_file(row: Dataset) -> Path:
    """The file of a data set in the cache; it need not exist."""
    return cache_folder() / f"{row.name}.npz"


def save(row: Dataset, arrays: Arrays) -> Path:
    """Write the arrays of a data set into the cache, whole or not at all, and return the path.

    ValueError where they are not those of the table, or the folder cannot be written.
    """
    content = {NPZ_KEYS[name]: array for name, array in verified(row, arrays).items()}
    path = cache_file(row)
    try:
        for draft in path.parent.glob(f".*{DRAFT}"):
            if time.time() - draft.stat().st_mtime > STALE_SECONDS:
                draft.unlink(missing_ok=True)
        return write_arrays(path, content, compress=False, durable=True)
    except OSError as error:
        raise ValueError(
            f"cache: expected a folder that can be written, got {str(path.parent)!r} "
            f"({error.strerror or error}); name another in SHADOWFLOW_CACHE"
        ) from None
