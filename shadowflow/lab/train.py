"""One training loop: full-batch steps of any optimizer, resumable to the bit.

A run's folder holds `config.json`, `history.jsonl` (a line an epoch, nothing of clock or machine),
`timing.jsonl`, `checkpoints/`, and `done.json`, written last. The record of epoch n is of θ_n,
before the n-th step, and stands in the history before any checkpoint that is later.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from shadowflow import memory as mem, trees
from shadowflow.files import write_json
from shadowflow.iterate import rate_table
from shadowflow.lab import checkpoint, history, passes
from shadowflow.lab.training import Training
from shadowflow.lab.transforms import augment
from shadowflow.memory import Memory
from shadowflow.monitor.measures import run_measures
from shadowflow.optimizer import Optimizer, State


@dataclass(frozen=True)
class Images:
    """What is trained and tested on: standardised images and labels, as arrays on the device."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


class Position(eqx.Module):
    """Everything a run needs to go on: where it is, what it has learned, what it remembers."""

    params: PyTree
    network: PyTree
    optimizer: State
    memory: Memory
    last_grad: PyTree
    key: Array


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its folder, the reason, and the last epoch of its history.

    reason: "epochs", "accuracy", "non-finite" (then epoch is where it began), or "time", after
    which the same call goes on.
    """

    folder: Path
    reason: str
    epoch: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Run:
    """The fixed parts of a run, and its loop."""

    settings: Training
    network: Any
    data: Images
    optimizer: Optimizer
    rates: np.ndarray
    folder: Path
    loggers: Sequence[Any] = ()
    checkpoint_every: int = 10
    wall_time: float | None = None
    progress: Callable[[int, Mapping[str, Any]], Any] | None = None
    began: float = field(default_factory=time.monotonic)

    def go(self) -> Outcome:
        """Train from the last checkpoint, or from the start, to the end."""
        configuration = self.settings.plain()
        place, notes = self.start(), ()
        found = checkpoint.restore(self.checkpoints, place, configuration)
        epoch = 0
        if found is not None:
            place, epoch = found.state, found.epoch
            notes = tuple(f"passed over {line}" for line in found.passed_over)
        history.cut(self.folder / "history.jsonl", epoch)
        saved = epoch if found is not None else None
        before, end = place, None
        while end is None:
            started = time.monotonic()
            record, grad, network = self.at(place, epoch)
            end = self.reason(epoch, record, grad)
            self.tell(epoch, record, time.monotonic() - started)
            if end is not None:
                break
            before, place = place, self.step(place, grad, network, epoch)
            epoch += 1
            if epoch % self.checkpoint_every == 0:
                checkpoint.save(self.checkpoints, epoch, place, configuration)
                saved = epoch
        good, where = (before, max(0, epoch - 1)) if end == "non-finite" else (place, epoch)
        if saved != where:
            checkpoint.save(self.checkpoints, where, good, configuration)
        if end != "time":
            write_json(self.folder / "done.json", {"reason": end, "epoch": epoch})
        return Outcome(self.folder, end, epoch, notes)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def start(self) -> Position:
        """The position before epoch 0, from the seed alone."""
        key, first = jax.random.split(jax.random.key(self.settings.seed))
        params, network = self.network.init(first)
        learning_rate = mem.Rates(jnp.asarray(self.rates)) if self.varies else self.rates[0]
        memory = mem.ready(self.optimizer, learning_rate, 0, trees.finest_dtype(params))
        zero = trees.zeros_like(params)
        return Position(params, network, self.optimizer.init(params), memory, zero, key)

    @property
    def varies(self) -> bool:
        """Whether the learning rate has a schedule."""
        return callable(self.settings.rate())

    def at(self, place: Position, epoch: int) -> tuple[dict[str, Any], PyTree, PyTree]:
        """The record of an epoch, the gradient, and the network's state after the pass."""
        settings, apply = self.settings, self.network.apply
        ways = apply, settings.loss, settings.precision
        sums, network = passes.gradient_pass(*ways, place.params, place.network,
                                             self.batches(place, epoch))  # fmt: skip
        loss, accuracy, grad = sums.means()
        record: dict[str, Any] = {
            "epoch": epoch, "learning_rate": float(self.rates[min(epoch, len(self.rates) - 1)]),
            "train_loss": float(loss), "train_accuracy": float(accuracy),
        }  # fmt: skip
        if epoch % settings.test_every == 0 or epoch == settings.epochs:
            tested = passes.look(*ways, place.params, network, passes.split(
                self.data.test_images, self.data.test_labels, settings.ghost_batch))  # fmt: skip
            test_loss, test_accuracy, _ = tested.means()
            record |= {"test_loss": float(test_loss), "test_accuracy": float(test_accuracy)}
        return record | self.measured(place, grad, epoch), grad, network

    def measured(self, place: Position, grad: PyTree, epoch: int) -> dict[str, float]:
        """The measures of a run; those that need two gradients of one function where there are."""
        state, _ = self.optimizer.update(place.optimizer, grad, place.params, place.memory.rate)
        comparable = self.settings.one_function and epoch > 0
        found = run_measures(
            self.optimizer, place.memory, place.params, grad, state, per_leaf=False,
            last_grad=place.last_grad if comparable else None,
            last_rate=float(self.rates[epoch - 1]) if comparable else None,
        )  # fmt: skip
        return found.flat()

    def batches(self, place: Position, epoch: int) -> Iterator[passes.Batch]:
        """The ghost batches of an epoch, in its order, or the micro-batches within them."""
        settings, images, labels = self.settings, self.data.images, self.data.labels
        order_key, image_key = jax.random.split(jax.random.fold_in(place.key, epoch))
        if settings.ghost == "reshuffled":
            order = jax.random.permutation(order_key, len(labels))
            images, labels = images[order], labels[order]
        for index, batch in enumerate(passes.split(images, labels, settings.ghost_batch)):
            if settings.augment:
                batch = _augmented(jax.random.fold_in(image_key, index), batch[0]), batch[1]
            yield from passes.split(*batch, settings.micro_batch or settings.ghost_batch)

    def reason(self, epoch: int, record: Mapping[str, Any], grad: PyTree) -> str | None:
        """Why the run ends at this epoch, before its step; None: it goes on."""
        finite = np.isfinite(record["train_loss"]) and bool(trees.all_finite(grad))
        if not finite:
            return "non-finite"
        wanted = self.settings.stop_accuracy
        if wanted is not None and record["train_accuracy"] >= wanted:
            return "accuracy"
        if epoch >= self.settings.epochs:
            return "epochs"
        late = self.wall_time is not None and time.monotonic() - self.began > self.wall_time
        return "time" if late else None

    def step(self, place: Position, grad: PyTree, network: PyTree, epoch: int) -> Position:
        """The position after the optimizer's step."""
        following = self.rates[min(epoch + 1, len(self.rates) - 1)]
        return _stepped(self.optimizer, place, grad, network, jnp.asarray(following))

    def tell(self, epoch: int, record: Mapping[str, Any], seconds: float) -> None:
        """Append to the history, and hand the same numbers to every logger."""
        try:
            history.append(self.folder / "history.jsonl", record)
            history.append(self.folder / "timing.jsonl", {"epoch": epoch, "seconds": seconds})
        except OSError as error:
            raise ValueError(
                f"history: expected a folder that can be written, got {str(self.folder)!r} "
                f"({error.strerror or error}); the last checkpoint is still there"
            ) from None
        for logger in self.loggers:
            hand_over(logger, record, epoch)
        if self.progress is not None:
            self.progress(epoch, record)


_augmented = jax.jit(augment)


@eqx.filter_jit
def _stepped(optimizer: Optimizer, place: Position, grad: PyTree, network: PyTree,
             following: Array) -> Position:  # fmt: skip
    state, move = optimizer.update(place.optimizer, grad, place.params, place.memory.rate)
    memory = mem.with_rate(mem.advance(optimizer, place.memory), following)
    params = trees.add(place.params, 1.0, move)
    return Position(params, network, state, memory, grad, place.key)


def hand_over(logger: Any, record: Mapping[str, Any], epoch: int) -> None:
    """A record to anything with ``.log(dict, step=)`` or ``.add_scalar(tag, value, step)``."""
    if hasattr(logger, "log"):
        logger.log(dict(record), step=epoch)
        return
    for tag, value in record.items():
        logger.add_scalar(tag, value, epoch)


def finished(folder: Path) -> Outcome | None:
    """How the run in a folder ended, if it did."""
    path = folder / "done.json"
    if not path.exists():
        return None
    content = history.read_json(path)
    return Outcome(folder, content["reason"], content["epoch"], ("it was done already",))


def rates_of(settings: Training) -> np.ndarray:
    """The learning rate of every epoch."""
    return rate_table(settings.rate(), settings.epochs)
