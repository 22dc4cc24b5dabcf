"""The real MNIST and Fashion-MNIST, where they are cached."""

import hashlib
import struct

import numpy as np
import pytest

from shadowflow.lab.data.load import load
from shadowflow.lab.data.table import ARRAYS, TABLE

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
