"""Data sets, as numpy arrays."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32


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
