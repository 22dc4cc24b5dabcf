"""Readers of the formats that image data sets are stored in."""

from __future__ import annotations

import gzip
import importlib
import io
import math
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from .table import ARRAYS, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS

Arrays = dict[str, np.ndarray]

IDX_FILES = {
    TRAIN_IMAGES: "train-images-idx3-ubyte",
    TRAIN_LABELS: "train-labels-idx1-ubyte",
    TEST_IMAGES: "t10k-images-idx3-ubyte",
    TEST_LABELS: "t10k-labels-idx1-ubyte",
}
NPZ_KEYS = {
    TRAIN_IMAGES: "x_train",
    TRAIN_LABELS: "y_train",
    TEST_IMAGES: "x_test",
    TEST_LABELS: "y_test",
}
UNSIGNED_BYTE = 0x08
GZIP_MAGIC = b"\x1f\x8b"
HUB_COLUMNS = (("image", "img"), ("label", "fine_label"))
"""What repositories of the hub call pictures and labels."""
_PARQUET = (("polars", "polars"), ("pyarrow", "pyarrow.parquet"))


def parse_idx(content: bytes, name: str) -> UInt8[np.ndarray, "..."]:
    """The array in the bytes of an IDX file: a magic number, the sizes of the axes, the data.

    Args:
        content: of the file.
        name: that error messages give the file.

    Returns:
        A writable uint8 array of the shape that the header states.

    Raises:
        ValueError: no IDX header, another type than unsigned bytes, too few or too many bytes.

    Example:
        >>> parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9]), "three").tolist()
        [[7, 8, 9]]
    """
    if len(content) < 4 or content[:2] != b"\0\0":
        raise ValueError(
            f"{name}: expected an IDX file, which starts with two zero bytes, "
            f"got {content[:4].hex(' ') or 'an empty file'}"
        )
    kind, axes = content[2:4]
    if kind != UNSIGNED_BYTE:
        raise ValueError(f"{name}: expected IDX type 0x08 (unsigned bytes), got 0x{kind:02x}")
    start = 4 + 4 * axes
    if len(content) < start:
        raise ValueError(
            f"{name}: expected an IDX header of {start} bytes, got a file of {len(content)}"
        )
    shape = tuple(np.frombuffer(content, ">u4", axes, offset=4).tolist())
    if len(content) - start != math.prod(shape):
        raise ValueError(
            f"{name}: expected {math.prod(shape):,} bytes of data for shape {shape}, "
            f"got {len(content) - start:,}"
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy()


def read_idx(path: Path) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file, gzipped or not.

    Raises:
        ValueError: as ``parse_idx``, or the gzip stream is damaged.
        OSError: the file cannot be read.
    """
    content = path.read_bytes()
    if content.startswith(GZIP_MAGIC):
        try:
            content = gzip.decompress(content)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise ValueError(f"{path}: expected a whole gzip file, got: {error}") from None
    return parse_idx(content, str(path))


def find_idx(folder: Path) -> dict[str, Path]:
    """Those of the four IDX files that a folder holds, raw before gzipped.

    The file names may have a dot in place of the hyphen before `idx`.
    """
    found = {}
    for name, file in IDX_FILES.items():
        spellings = (file, file.replace("-idx", ".idx"))
        paths = [folder / f"{stem}{end}" for end in ("", ".gz") for stem in spellings]
        present = [path for path in paths if path.is_file()]
        if present:
            found[name] = present[0]
    return found


def read_idx_folder(folder: Path) -> Arrays:
    """The arrays in the four IDX files of a folder.

    Raises:
        ValueError: a file is missing, or as ``read_idx``.
        OSError: a file cannot be read.
    """
    found = find_idx(folder)
    missing = [IDX_FILES[name] for name in ARRAYS if name not in found]
    if missing:
        raise ValueError(f"{folder}: expected four IDX files, got none of {', '.join(missing)}")
    return {name: read_idx(found[name]) for name in ARRAYS}


def read_tgz(path: Path, inside: str) -> Arrays:
    """The arrays in the four IDX files of a tar archive; nothing is unpacked onto the disk.

    Args:
        path: of the archive, compressed or not.
        inside: the folder of the files in it.

    Raises:
        ValueError: the archive is damaged, a file is missing, or as ``parse_idx``.
        OSError: the archive cannot be read.
    """
    places = {name: PurePosixPath(inside, file) for name, file in IDX_FILES.items()}
    found = read_members(path, places.values())
    return {name: parse_idx(found[at], f"{path}: {at}") for name, at in places.items()}


def read_members(path: Path, places: Iterable[PurePosixPath]) -> dict[PurePosixPath, bytes]:
    """The contents of some files of a tar archive; nothing is unpacked onto the disk.

    Args:
        path: of the archive, compressed or not.
        places: of the files in it.

    Raises:
        ValueError: the archive is damaged, or a file is missing.
        OSError: the archive cannot be read.
    """
    wanted = list(places)
    try:
        found = dict(_members(path, set(wanted)))
    except (EOFError, tarfile.TarError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path}: expected a whole tar archive, got: {error}") from None
    missing = [str(place) for place in wanted if place not in found]
    if missing:
        raise ValueError(f"{path}: expected {len(wanted)} files, got none of {', '.join(missing)}")
    return found


def _members(path: Path, wanted: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with tarfile.open(path, "r:*") as archive:
        for member in archive:
            place = PurePosixPath(member.name)
            if place not in wanted or not member.isfile():
                continue
            stream = archive.extractfile(member)
            if stream is not None:
                yield place, stream.read()


def read_npz(path: Path) -> Arrays:
    """The arrays under the keys x_train, y_train, x_test and y_test of an npz file.

    Raises:
        ValueError: the file is damaged, no npz file, lacks a key or holds Python objects.
        OSError: the file cannot be opened.
    """
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(f"{path}: expected an npz file, got a truncated one or none")
        try:
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as stored:
                keys = set(stored.files)
                arrays = {name: stored[key] for name, key in NPZ_KEYS.items() if key in keys}
        except Exception as error:  # what a damaged zip raises is of a dozen kinds
            raise ValueError(
                f"{path}: expected a whole npz file, got {type(error).__name__}: {error}"
            ) from None
    missing = [NPZ_KEYS[name] for name in ARRAYS if name not in arrays]
    if missing:
        raise ValueError(
            f"{path}: expected the keys {', '.join(NPZ_KEYS.values())}, "
            f"got none of {', '.join(missing)}"
        )
    return arrays


def read_parquet(
    paths: Sequence[Path],
) -> tuple[UInt8[np.ndarray, "n ..."], Integer[np.ndarray, " n"]]:
    """Images and labels in the parquet files of one part of a data set, as the hub stores them.

    Args:
        paths: of the files, in order, as of ``parquet_columns``.

    Returns:
        Images, uint8 of shape (n, height, width), or (n, height, width, 3) where the pictures
        have colours, and labels of shape (n,).

    Raises:
        ImportError: neither polars nor pyarrow can be imported, or pillow cannot.
        ValueError: a file is no such file, or a picture is neither of 8-bit grey nor RGB.
        OSError: a file cannot be read.
    """
    images, labels = [], []
    for path in paths:
        pictures, numbers = parquet_columns(path)
        images += [_picture(picture, path) for picture in pictures]
        labels += numbers
    if len({image.shape for image in images}) != 1:
        raise ValueError(f"{paths[0].parent}: expected images of one shape, got none or several")
    return np.stack(images), np.array(labels, int)


def parquet_columns(path: Path) -> tuple[list[bytes], list[int]]:
    """Picture files and labels in a parquet file, read by polars or else by pyarrow.

    Args:
        path: of the file, with a column `image` or `img` of structures whose field `bytes` is a
            picture file, and a column `label` or `fine_label`.

    Raises:
        ImportError: neither can be imported.
        ValueError: the file cannot be read, or lacks a column.
    """
    library, name = _parquet_library()
    try:
        if name == "polars":
            table = library.read_parquet(path)
            images, labels = _columns(table.columns)
            return table[images].struct.field("bytes").to_list(), table[labels].to_list()
        # Opened here: a path would be looked up as a folder of partitions.
        with path.open("rb") as stream:
            table = library.read_table(stream)
        images, labels = _columns(table.column_names)
        return [entry["bytes"] for entry in table[images].to_pylist()], table[labels].to_pylist()
    except Exception as error:  # each library has its own kinds
        raise ValueError(
            f"{path}: expected a parquet file with the columns of pictures and labels, "
            f"got {type(error).__name__}: {error}"
        ) from None


def _columns(names: Sequence[str]) -> tuple[str, str]:
    """Those of the pictures and of the labels, the finer ones where there are two kinds."""
    found = [next((name for name in spellings if name in names), None) for spellings in HUB_COLUMNS]
    images, labels = found
    if images is None or labels is None:
        wanted = " and ".join(" or ".join(spellings) for spellings in HUB_COLUMNS)
        raise ValueError(f"expected columns {wanted}, got {', '.join(names)}")
    return images, labels


def _parquet_library() -> tuple[Any, str]:
    for name, module in _PARQUET:
        try:
            return importlib.import_module(module), name
        except ImportError:
            continue
    raise ImportError(
        "its parquet files need polars or pyarrow, and neither is installed: pip install pyarrow"
    )


def pillow() -> Any:
    """Pillow's module of pictures.

    Raises:
        ImportError: pillow cannot be imported.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError(
            "its pictures need pillow, which is not installed: pip install pillow"
        ) from error
    return Image


def _picture(content: bytes | None, path: Path) -> UInt8[np.ndarray, "height width ..."]:
    library = pillow()
    if content is None:
        raise ValueError(f"{path}: expected a picture in every row, got null")
    with library.open(io.BytesIO(content)) as picture:
        if picture.mode not in ("L", "RGB"):
            raise ValueError(
                f"{path}: expected pictures of 8-bit grey or RGB, got mode {picture.mode}"
            )
        return np.asarray(picture)
