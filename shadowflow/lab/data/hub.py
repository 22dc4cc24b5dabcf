"""What the Hugging Face hub's own client left on this machine."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from .formats import Arrays, read_parquet
from .table import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Dataset


def user_cache() -> Path:
    """The folder for caches of this user's programs."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()


def repository(row: Dataset) -> Path:
    """The folder that the hub's client keeps a data set in; it need not exist."""
    own = os.environ.get("HF_HUB_CACHE")
    home = os.environ.get("HF_HOME")
    if own:
        folder = Path(own).expanduser()
    else:
        folder = (Path(home).expanduser() if home else user_cache() / "huggingface") / "hub"
    return folder / f"datasets--{row.hub.replace('/', '--')}"


def read(row: Dataset, kept: Path) -> Arrays | None:
    """The arrays in the parquet files of a repository: of its main revision, if that is kept.

    Args:
        row: of the table.
        kept: the folder of the repository.

    Returns:
        The arrays, in the original order; None where there are no parquet files of both parts.

    Raises:
        ImportError, OSError, ValueError: as ``read_parquet``.
    """
    main = kept / "refs" / "main"
    if main.is_file():
        snapshots = [kept / "snapshots" / main.read_text(encoding="utf-8").strip()]
    else:
        snapshots = sorted((kept / "snapshots").glob("*"))
    for snapshot in snapshots:
        train = sorted(snapshot.rglob("train-*.parquet"))
        test = sorted(snapshot.rglob("test-*.parquet"))
        if train and test:
            train_images, train_labels = read_parquet(train)
            test_images, test_labels = read_parquet(test)
            return {
                TRAIN_IMAGES: _in_order(row, train_images),
                TRAIN_LABELS: _in_order(row, train_labels),
                TEST_IMAGES: test_images,
                TEST_LABELS: test_labels,
            }
    return None


def _in_order(row: Dataset, array: np.ndarray) -> np.ndarray:
    """The blocks of an array in the original order."""
    if len(array) % len(row.blocks):
        return array  # of another length than the table's, which is said where that is checked
    parts = np.split(array, len(row.blocks))
    return np.concatenate([parts[row.blocks.index(number)] for number in range(len(parts))])
