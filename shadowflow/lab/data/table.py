"""The data sets that can be loaded, as a table, which stands in `table.toml`."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

TRAIN_IMAGES, TRAIN_LABELS = "train_images", "train_labels"
TEST_IMAGES, TEST_LABELS = "test_images", "test_labels"
ARRAYS = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)


@dataclass(frozen=True)
class Dataset:
    """Labelled images in two parts, to train on and to test on, and where they are published.

    counts: images of each part. shape: of one image: height, width, and channels if it has
    colours. sha256: of each array, as uint8 in C order; None: unknown, so the images of each class
    are counted instead. home, files: an address, and the files published under it with their md5.
    archives: patterns of the names of archives of the files. folders: subfolders of a user's folder
    that may hold the files. client: the program that fetches ``package``; None: no package holds
    the data set. pickled: files and folders of the version made of pickles, which is never read.
    """

    name: str
    counts: Sequence[int]
    shape: Sequence[int]
    classes: int
    citation: str
    home: str
    files: Mapping[str, str]
    folders: Sequence[str]
    archives: Sequence[str] = ()
    sha256: Mapping[str, str] | None = None
    client: Literal["npm", "apt-get"] | None = None
    package: str = ""
    pickled: Sequence[str] = ()

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array.

        >>> TABLE["mnist"].shapes()["test_images"]
        (10000, 28, 28)
        """
        train, test = self.counts
        shapes = ((train, *self.shape), (train,), (test, *self.shape), (test,))
        return dict(zip(ARRAYS, shapes, strict=True))

    def command(self, *, download: bool = False) -> str:
        """The command line that puts the data set into the cache."""
        flag = " --download" if download or self.client is None else ""
        return f"shadowflow data get {self.name}{flag}"


_CONTENT = Path(__file__).with_suffix(".toml").read_text(encoding="utf-8")
TABLE = {name: Dataset(name, **fields) for name, fields in tomllib.loads(_CONTENT).items()}


def dataset(name: str) -> Dataset:
    """The row of the table; ValueError for a name that it does not have."""
    if name not in TABLE:
        raise ValueError(
            f"name: expected one of {', '.join(TABLE)}, got {name!r} "
            "(scikit-learn's digits come from load_digits, without a name)"
        )
    return TABLE[name]
