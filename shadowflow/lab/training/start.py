"""From the plain data of a training run to what it trains: images, network, folder."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ...files import digest, plain, writable, write_json
from .. import locks
from ..data.load import Images, load, load_digits
from ..data.table import dataset
from ..data.transforms import standardize
from ..networks import build
from ..networks.interface import Network
from . import checkpoint, history
from .config import Training
from .loop import Ending, TrainingRun

_built = functools.cache(build)  # equal settings share a network, and what was compiled for it
CONFIGURATION = "config.json"
DIGITS = (1500, 297)  # to train on and to test on, of scikit-learn's one set


def train(
    settings: Training,
    run_dir: Path,
    *,
    data_dir: Path | None = None,
    guard: Callable[[], Any] | None = None,
    **options: Any,
) -> Ending:
    """Run a training, or resume it, or find it done; how it ended.

    The configuration names the folder in ``run_dir``. data_dir: where the data lie, if not in the
    cache. guard: what says that the run is the caller's; None: a lock is taken for it. options:
    loggers, checkpoint_every, wall_time and progress of a `TrainingRun`. ValueError for a folder
    that cannot be written, in which another process is at work, or which holds a run of another
    configuration or of other data; for data that are nowhere; for a setting that the network or
    the optimizer refuses. Ctrl-C leaves a checkpoint, from which the same call resumes.
    """
    done = ended(settings, run_dir, data_dir)
    if done is not None:
        return done
    network, images = network_of(settings), images_of(settings, data_dir)
    folder, wanted = run_dir / settings.key(), identity(settings, data_dir)
    writable(folder, "--run-dir")
    with contextlib.ExitStack() as stack:
        if guard is None:
            guard = stack.enter_context(locks.kept(run_dir, folder.name)).check
            if (done := ended(settings, run_dir, data_dir)) is not None:  # by who had it until now
                return done
        run = TrainingRun(settings, network, images, folder, guard=guard, **options)
        if not (folder / CONFIGURATION).exists():
            write_json(folder / CONFIGURATION, wanted)
        return run.go()


def ended(settings: Training, run_dir: Path, data_dir: Path | None = None) -> Ending | None:
    """How a run ended that is done; None where it is not.

    ValueError where the folder is that of another run, of other data or of another precision, and
    where what says so, or the history, is not what was written.
    """
    folder = run_dir / settings.key()
    path, done = folder / CONFIGURATION, folder / "done.json"
    if path.exists() or done.exists():
        there = history.read_json(path) if path.exists() else {}
        checkpoint.refuse_other(there, identity(settings, data_dir), path)
    if not done.exists():
        return None
    content = history.read_json(done, "reason", "epoch", "history")
    if content["history"] != history.seal(folder / "history.jsonl"):
        raise ValueError(
            f"history: expected what was written in {str(folder)!r}, got another; remove the "
            "folder to begin again"
        )
    return Ending(folder, content["reason"], content["epoch"], ("it was done already",))


def identity(settings: Training, data_dir: Path | None = None) -> dict[str, Any]:
    """What a run is, as JSON has it: its configuration, the data, and whether JAX is in float64."""
    x64 = bool(jax.config.read("jax_enable_x64"))
    return plain({**settings.plain(), "data": _data_digest(settings, data_dir), "x64": x64})


def _data_digest(settings: Training, data_dir: Path | None) -> str:
    """The digest of all images and labels, of the table where they have to be those of the table.

    Of the digits, which come with a package, the name.
    """
    if settings.dataset == "digits":
        return "digits"
    row = dataset(settings.dataset)
    if row.sha256 is not None:
        return digest(dict(row.sha256))
    data = load(settings.dataset, data_dir)
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    return digest([hashlib.sha256(np.ascontiguousarray(a).data).hexdigest() for a in arrays])


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
