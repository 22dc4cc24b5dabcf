"""Data sets, as numpy arrays."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, Shaped

from ...extras import need
from .sources import find
from .table import TEST_LABELS, TRAIN_LABELS, dataset


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, to train on and to test on: uint8 as published, float32 standardized."""

    train_images: Shaped[np.ndarray, "train ..."]
    train_labels: Int32[np.ndarray, " train"]
    test_images: Shaped[np.ndarray, "test ..."]
    test_labels: Int32[np.ndarray, " test"]


def load(name: str, directory: str | os.PathLike[str] | None = None) -> Images:
    """A data set of handwritten digits, of clothes or of photographs, as it was published.

    name: "mnist", "fashion-mnist", "cifar10", or "cifar100" (the 100 fine labels). directory: the
    only folder to look into; None: that of SHADOWFLOW_DATA, else the cache. The images are 60,000
    to train on and 10,000 to test on, of shape (n, 28, 28), or of CIFAR 50,000 and 10,000 of shape
    (n, 32, 32, 3); labels count from 0.

    Nothing is fetched. The sha256 is checked; that of CIFAR-100 is unknown, so the images of each
    class are counted instead. A damaged or wrong file is passed over with a warning. ValueError for
    an unknown name, or a data set that is nowhere; the message lists the places with the reasons,
    and what to do.

    >>> load("minst")
    Traceback (most recent call last):
    ValueError: name: expected one of mnist, fashion-mnist, cifar10, cifar100, got 'minst' ...
    """
    found = find(dataset(name), directory)
    if found.rejected:
        warnings.warn(
            f"{name}: taken from {found.where}; passed over {'; '.join(found.rejected)}",
            stacklevel=2,
        )
    labels = {key: found.arrays[key].astype(np.int32) for key in (TRAIN_LABELS, TEST_LABELS)}
    return Images(**{**found.arrays, **labels})


def load_digits() -> tuple[Float32[np.ndarray, "1797 64"], Int32[np.ndarray, " 1797"]]:
    """The 1,797 handwritten digits of 8×8 pixels that come with scikit-learn, and their labels.

    The images have mean 0 and variance 1 over all pixels. ImportError where scikit-learn is
    missing.

    >>> images, labels = load_digits()
    >>> images.shape, round(float(images.std()), 3), labels[:3].tolist()
    ((1797, 64), 1.0, [0, 1, 2])
    """
    datasets = need("load_digits", "sklearn.datasets", "scikit-learn")
    pixels, labels = datasets.load_digits(return_X_y=True)
    return ((pixels - pixels.mean()) / pixels.std()).astype(np.float32), labels.astype(np.int32)
