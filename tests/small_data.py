"""Small data sets in place of the real ones, in every format, and a machine that has nothing."""

import dataclasses
import gzip
import hashlib
import io
import os
import tarfile

import numpy as np
import pytest

from shadowflow.lab.data import sources, table as datasets
from shadowflow.lab.data.table import ARRAYS

FILES = dict(
    zip(
        ARRAYS,
        (
            "train-images-idx3-ubyte",
            "train-labels-idx1-ubyte",
            "t10k-images-idx3-ubyte",
            "t10k-labels-idx1-ubyte",
        ),
        strict=True,
    )
)
KEYS = dict(zip(ARRAYS, ("x_train", "y_train", "x_test", "y_test"), strict=True))


def small_arrays(seed):
    """12 images to train on and 5 to test on, and their labels."""
    random = np.random.default_rng(seed)
    images = [random.integers(0, 256, (count, 28, 28), np.uint8) for count in (12, 5)]
    labels = [random.integers(0, 10, count, np.uint8) for count in (12, 5)]
    return dict(zip(ARRAYS, (images[0], labels[0], images[1], labels[1]), strict=True))


SMALL = {"mnist": small_arrays(0), "fashion-mnist": small_arrays(1)}


def idx(array):
    """An IDX file, written from the format's description."""
    sizes = b"".join(size.to_bytes(4, "big") for size in array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def write_idx(folder, arrays, *, zipped=False, dot=False):
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in FILES.items():
        file = file.replace("-idx", ".idx") if dot else file
        content = idx(arrays[name])
        path = folder / (f"{file}.gz" if zipped else file)
        path.write_bytes(gzip.compress(content, 1) if zipped else content)


def write_npz(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{KEYS[name]: array for name, array in arrays.items()})


def write_tgz(path, arrays, inside="package/data"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in {
            "package/package.json": b"{}",
            **{f"{inside}/{FILES[name]}": idx(array) for name, array in arrays.items()},
        }.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def png(image):
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "png")
    return stream.getvalue()


def program(folder, name, *lines):
    """An executable that notes how it was called in `NAME.calls`, then runs the lines."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    note = f'echo "$@" >> {folder / name}.calls'
    path.write_text("\n".join(["#!/bin/sh", note, *lines, ""]))
    path.chmod(0o755)


def same(found, name="mnist"):
    """Whether these are the arrays of the small data set, whatever type the labels have."""
    arrays = found if isinstance(found, dict) else vars(found)
    return all(np.array_equal(arrays[key], SMALL[name][key]) for key in ARRAYS)


def altered(name="mnist"):
    """The arrays with one pixel changed by one."""
    arrays = {key: array.copy() for key, array in SMALL[name].items()}
    arrays["test_images"][3, 14, 15] ^= 1
    return arrays


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine without data or clients, on which the table's rows are the small data sets."""
    for variable in ("SHADOWFLOW_DATA", "HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    places = {"HOME": "home", "SHADOWFLOW_CACHE": "cache", "PATH": "bin"}
    for variable, folder in places.items():
        monkeypatch.setenv(variable, os.fspath(tmp_path / folder))
    for folder in ("home", "bin", "work"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(sources, "ROOT", tmp_path / "root")
    for name, arrays in SMALL.items():
        digests = {key: hashlib.sha256(arrays[key].tobytes()).hexdigest() for key in ARRAYS}
        row = dataclasses.replace(datasets.TABLE[name], counts=(12, 5), sha256=digests)
        monkeypatch.setitem(datasets.TABLE, name, row)
    return tmp_path
