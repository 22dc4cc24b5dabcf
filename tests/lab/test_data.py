"""The real data sets, where they are cached."""

import hashlib
import struct

import numpy as np
import pytest

from shadowflow.lab.data.load import load
from shadowflow.lab.data.table import ARRAYS, TABLE

MNIST_MD5 = {
    "train_images": "6bbc9ace898e44ae57da46a324031adb",
    "train_labels": "a25bea736e30d166cdddb491f175f624",
    "test_images": "2646ac647ad5339dbf082846283269ea",
    "test_labels": "27ae3e4e09519cfbb04c329615203637",
}
CIFAR10_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
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
        assert hashlib.md5(header + array.tobytes()).hexdigest() == MNIST_MD5[name]
    counts = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(images.train_labels).tolist() == counts


def test_the_real_fashion_mnist():
    """1,000 images of each class to test on; and it is not MNIST."""
    images = real("fashion-mnist")
    assert images.train_images.shape == (60_000, 28, 28)
    assert np.bincount(images.train_labels).tolist() == [6000] * 10
    assert np.bincount(images.test_labels).tolist() == [1000] * 10
    assert TABLE["mnist"].sha256["train_images"] != TABLE["fashion-mnist"].sha256["train_images"]


def test_the_real_cifar10_is_the_published_one():
    """Packed into the author's binary files again, it has their md5."""
    images = real("cifar10")
    pixels = np.concatenate([images.train_images, images.test_images])
    labels = np.concatenate([images.train_labels, images.test_labels]).astype(np.uint8)
    records = np.hstack([labels[:, None], np.moveaxis(pixels, 3, 1).reshape(60_000, 3072)])
    for (name, md5), part in zip(CIFAR10_MD5.items(), np.split(records, 6), strict=True):
        assert hashlib.md5(part.tobytes()).hexdigest() == md5, name
    assert np.bincount(images.train_labels).tolist() == [5000] * 10
