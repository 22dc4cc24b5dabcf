"""From the plain data of a training run to what it trains: images, network, folder."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np

from ...files import plain, writable, write_json
from ..data.load import Images, load, load_digits
from ..data.table import dataset
from ..data.transforms import standardize
from ..networks import build
from ..networks.interface import Network
from . import checkpoint, history
from .config import Training
from .loop import Ending, TrainingRun

_built = functools.cache(build)  # equal settings share a network, and what was compiled for it
DIGITS = (1500, 297)  # to train on and to test on, of scikit-learn's one set


def train(
    settings: Training, run_dir: Path, *, data_dir: Path | None = None, **options: Any
) -> Ending:
    """Run a training, or resume it, or find it done; how it ended.

    The configuration names the folder in ``run_dir``. data_dir: where the data lie, if not in the
    cache. options: loggers, checkpoint_every, wall_time, progress and guard of a `TrainingRun`.
    ValueError for a folder that cannot be written or holds another configuration, data that are
    nowhere, a setting that the network or the optimizer refuses.
    """
    folder = run_dir / settings.key()
    done = folder / "done.json"
    if done.exists():
        content = history.read_json(done, "reason", "epoch")
        return Ending(folder, content["reason"], content["epoch"], ("it was done already",))
    network, images = network_of(settings), images_of(settings, data_dir)
    run = TrainingRun(settings, network, images, folder, **options)
    writable(folder, "--run-dir")
    path, wanted = folder / "config.json", plain(settings.plain())
    if path.exists():
        checkpoint.refuse_other(history.read_json(path), wanted, path)
    else:
        write_json(path, wanted)
    return run.go()


def shape_of(name: str, pool: int = 1) -> tuple[tuple[int, int, int], int]:
    """(height, width, channels) of the images behind the pooling, and the number of classes.

    >>> shape_of("cifar100"), shape_of("mnist", 4)
    (((32, 32, 3), 100), ((7, 7, 1), 10))
    """
    (height, width, *channels), classes = (
        ((8, 8), 10) if name == "digits" else (dataset(name).shape, dataset(name).classes)
    )
    if height % pool or width % pool:
        raise ValueError(
            f"--pool: expected a divisor of the {height} by {width} pixels of {name}, got {pool}"
        )
    return (height // pool, width // pool, channels[0] if channels else 1), classes


def counts_of(settings: Training) -> tuple[int, int]:
    """How many images are trained on, and tested on, without loading them.

    Raises ValueError where the data set has not so many.

    >>> counts_of(Training(dataset="mnist", images=500))
    (500, 10000)
    """
    there = DIGITS if settings.dataset == "digits" else dataset(settings.dataset).counts
    wanted = {"--images": settings.images, "--test-images": settings.test_images}
    for (flag, count), most in zip(wanted.items(), there, strict=True):
        if count is not None and count > most:
            raise ValueError(
                f"{flag}: expected at most the {most:,} that {settings.dataset} has, got {count:,}"
            )
    return settings.images or there[0], settings.test_images or there[1]


def network_of(settings: Training) -> Network:
    """The network of a run; ValueError for micro-batches where BatchNorm needs whole ones."""
    shape, classes = shape_of(settings.dataset, settings.pool)
    network = _built(settings.model, classes=classes, shape=shape, width=settings.width)
    if network.has_batch_norm and settings.micro_batch is not None:
        raise ValueError(
            f"--micro-batch: expected none for {settings.model}, got {settings.micro_batch}: "
            "BatchNorm needs the statistics of the whole ghost batch; make that smaller"
        )
    return network


def images_of(settings: Training, data_dir: Path | None = None) -> Images:
    """The first images of a data set, each pixel standardised over those to train on."""
    shape, _ = shape_of(settings.dataset)
    count, test_count = counts_of(settings)
    if settings.dataset == "digits":
        pixels, labels = load_digits()
        cut = DIGITS[0]
        data = Images(pixels[:cut], labels[:cut], pixels[cut:], labels[cut:])
    else:
        data = load(settings.dataset, data_dir)
    images, test_images = standardize(
        _pooled(data.train_images[:count].reshape(-1, *shape), settings.pool),
        _pooled(data.test_images[:test_count].reshape(-1, *shape), settings.pool),
        per=settings.standardize,
    )
    return Images(images, data.train_labels[:count], test_images, data.test_labels[:test_count])


def _pooled(images: np.ndarray, pool: int) -> np.ndarray:
    """The mean of every square of ``pool`` by ``pool`` pixels."""
    if pool == 1:
        return images
    count, height, width, channels = images.shape
    squares = images.reshape(count, height // pool, pool, width // pool, pool, channels)
    return squares.mean((2, 4), dtype=np.float32)
