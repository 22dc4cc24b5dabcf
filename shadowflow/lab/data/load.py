"""Data sets, as numpy arrays."""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from . import sources
from .table import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, dataset


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images, to train on and to test on."""

    train_images: UInt8[np.ndarray, "train ..."]
    train_labels: Int32[np.ndarray, " train"]
    test_images: UInt8[np.ndarray, "test ..."]
    test_labels: Int32[np.ndarray, " test"]


def load(name: str, directory: str | os.PathLike[str] | None = None) -> Images:
    """A data set of handwritten digits, of clothes or of photographs, as it was published.

    It is looked for in the folder named, else in the cache, then in what other programs
    installed (`shadowflow.lab.sources` has the order); nothing is fetched. Wherever it is found,
    its sha256 is checked; of CIFAR-100, whose is not known here, the number of images of each
    class. A place that holds something else is passed over with a warning.

    Args:
        name: "mnist", "fashion-mnist", "cifar10", or "cifar100" for its 100 fine labels.
        directory: the only folder to look into; None: that of SHADOWFLOW_DATA, else everywhere.

    Returns:
        60,000 images to train on and 10,000 to test on, uint8 of shape (n, 28, 28), or 50,000 and
        10,000 of shape (n, 32, 32, 3) from CIFAR; and their labels from 0 on, int32 of shape (n,).

    Raises:
        ValueError: the name is unknown, or no place gives the data set; the message lists the
            places, why, and what to do.

    Example:
        >>> load("minst")
        Traceback (most recent call last):
        ValueError: name: expected one of mnist, fashion-mnist, cifar10, cifar100, got 'minst' ...
    """
    found = sources.find(dataset(name), directory)
    if found.rejected:
        warnings.warn(
            f"{name}: taken from {found.where}; passed over {'; '.join(found.rejected)}",
            stacklevel=2,
        )
    return Images(
        found.arrays[TRAIN_IMAGES],
        found.arrays[TRAIN_LABELS].astype(np.int32),
        found.arrays[TEST_IMAGES],
        found.arrays[TEST_LABELS].astype(np.int32),
    )


def load_digits() -> tuple[Float32[np.ndarray, "1797 64"], Int32[np.ndarray, " 1797"]]:
    """The 1,797 handwritten digits of 8×8 pixels that scikit-learn ships.

    Returns:
        Images, float32 of shape (1797, 64), of mean 0 and variance 1 over all pixels, and labels,
        int32 of shape (1797,).

    Raises:
        ImportError: scikit-learn is missing.

    Example:
        >>> images, labels = load_digits()
        >>> images.shape, round(float(images.std()), 3), labels[:3].tolist()
        ((1797, 64), 1.0, [0, 1, 2])
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed: "
            "pip install 'shadowflow[cli]'"
        ) from error
    pixels, labels = datasets.load_digits(return_X_y=True)
    return ((pixels - pixels.mean()) / pixels.std()).astype(np.float32), labels.astype(np.int32)
