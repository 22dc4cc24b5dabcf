"""One training loop: full-batch steps of any optimizer, resumable to the bit.

A run's folder holds `config.json`, `history.jsonl` (a line an epoch, nothing of clock or machine),
`timing.jsonl`, `checkpoints/`, and `done.json`, written last. The record of epoch n is of θ_n,
before the n-th step, and stands in the history before any checkpoint that is later.
"""

from __future__ import annotations

import functools
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

from ... import ema_weights as mem, trees
from ...ema_weights import Memory
from ...files import write_json
from ...iterate import rate_table
from ...monitor.measures import run_measures
from ...optimizers.moments import Optimizer, State
from ..data.transforms import augment
from . import checkpoint, epoch as passes, history
from .config import Training
from .devices import Devices, at_a_time


@dataclass(frozen=True)
class Images:
    """What is trained and tested on: standardised images and labels, on the host."""

    images: np.ndarray
    labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


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
    devices: Devices = field(default_factory=lambda: Devices.of(1))
    loggers: Sequence[Any] = ()
    checkpoint_every: int = 10
    wall_time: float | None = None
    progress: Callable[[int, Mapping[str, Any]], Any] | None = None
    guard: Callable[[], Any] | None = None
    began: float = field(default_factory=time.monotonic)

    def go(self) -> Outcome:
        """Train from the last checkpoint, or from the start, to the end."""
        place, notes = self.start(), ()
        found = checkpoint.restore(self.checkpoints, place, self.settings.plain())
        epoch = 0
        if found is not None:
            place, epoch = found.state, found.epoch
            notes = tuple(f"passed over {line}" for line in found.passed_over)
        place = self.devices.copy(place)
        self.permitted()
        history.cut(self.history, epoch)
        saved, first = epoch if found is not None else None, epoch
        before, end = place, None
        while end is None:
            started = time.monotonic()
            try:
                record, following, finite = self.at(place, epoch, patient=epoch == first)
            except _TimeUp:
                end = "time"
                break
            end = self.reason(epoch, record, finite)
            self.tell(epoch, record, time.monotonic() - started)
            if end is not None:
                break
            before, place = place, following
            epoch += 1
            if epoch % self.checkpoint_every == 0:
                self.save(epoch, place)
                saved = epoch
        good, where = (before, max(0, epoch - 1)) if end == "non-finite" else (place, epoch)
        if saved != where:
            self.save(where, good)
        if end != "time":
            self.permitted()
            write_json(self.folder / "done.json", {"reason": end, "epoch": epoch})
        return Outcome(self.folder, end, epoch, notes)

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    @property
    def history(self) -> Path:
        """The file of the records."""
        return self.folder / "history.jsonl"

    def save(self, epoch: int, place: Position) -> None:
        """A checkpoint, once all lines before it are on the disk."""
        self.permitted()
        history.to_disk(self.history)
        checkpoint.save(self.checkpoints, epoch, place, self.settings.plain())

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

    def at(self, place: Position, epoch: int, *, patient: bool) -> tuple[dict, Position, bool]:
        """The record of an epoch, the position after its step, and whether that is finite.

        patient: the pass is finished even where the time is up.
        """
        settings, apply = self.settings, self.network.apply
        ways = apply, settings.loss, settings.precision
        sums, network = passes.gradient_pass(
            *ways, place.params, place.network, self.in_time(self.batches(place, epoch), patient)
        )
        gradients = 0 if epoch % settings.measure_every else 1 + settings.one_function
        rates = self.rate_at(max(0, epoch - 1)), self.rate_at(epoch + 1)
        following, found = advanced(
            self.optimizer, gradients, place, sums, network, *map(np.asarray, rates)
        )
        loss, accuracy, finite, measures = jax.device_get(found)
        record: dict[str, Any] = {
            "epoch": epoch,
            "learning_rate": self.rate_at(epoch),
            "train_loss": float(loss),
            "train_accuracy": float(accuracy),
        }
        if epoch % settings.test_every == 0 or epoch == settings.epochs:
            tested = passes.look(*ways, place.params, network, self.test_batches)
            test_loss, test_accuracy, _ = tested.means()
            record |= {"test_loss": float(test_loss), "test_accuracy": float(test_accuracy)}
        if epoch == 0:  # there is no gradient before it
            measures = {name: measures[name] for name in _names_of_one(self.optimizer, place)}
        record |= {name: float(value) for name, value in measures.items()}
        return record, following, bool(finite)

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, after the last that of the last."""
        return float(self.rates[min(epoch, len(self.rates) - 1)])

    @functools.cached_property
    def micro_batch(self) -> int:
        """Images computed on at a time: without BatchNorm those of several ghost batches."""
        settings, count = self.settings, len(self.data.labels)
        if settings.micro_batch is not None:
            return settings.micro_batch
        apart = self.network.has_batch_norm or not settings.one_function
        together = min(settings.ghost_batch, count) if apart else count
        return at_a_time(self.network, together, self.devices.count)

    @functools.cached_property
    def fixed_batches(self) -> list[passes.Batch]:
        """The batches of every epoch where they are the same in all, in their places."""
        size = self.micro_batch
        if self.network.has_batch_norm:
            size = self.settings.ghost_batch
        parts = passes.split(self.data.images, self.data.labels, size)
        return [self.devices.share(batch) for batch in parts]

    @functools.cached_property
    def test_batches(self) -> list[passes.Batch]:
        """The test images, batch by batch."""
        size = min(self.micro_batch, self.settings.ghost_batch)
        parts = passes.split(self.data.test_images, self.data.test_labels, size)
        return [self.devices.share(batch) for batch in parts]

    @functools.cached_property
    def whole(self) -> passes.Batch:
        """All images to train on, on the device, to draw from."""
        return jnp.asarray(self.data.images), jnp.asarray(self.data.labels)

    def batches(self, place: Position, epoch: int) -> Iterator[passes.Batch]:
        """The ghost batches of an epoch, in its order, or the micro-batches within them."""
        settings = self.settings
        if settings.one_function:
            yield from self.fixed_batches
            return
        order_key, image_key = jax.random.split(jax.random.fold_in(place.key, epoch))
        images, labels = self.whole
        order = jnp.arange(len(labels))
        if settings.ghost == "reshuffled":
            order = jax.random.permutation(order_key, len(labels))
        for index in range(0, -(-len(labels) // settings.ghost_batch)):
            chosen = order[index * settings.ghost_batch : (index + 1) * settings.ghost_batch]
            batch = images[chosen], labels[chosen]
            if settings.augment:
                batch = _augmented(jax.random.fold_in(image_key, index), batch[0]), batch[1]
            yield from map(self.devices.share, passes.split(*batch, self.micro_batch))

    def in_time(self, batches: Iterator[passes.Batch], patient: bool) -> Iterator[passes.Batch]:
        """The batches, until the time is up."""
        for batch in batches:
            if not patient and self.late:
                raise _TimeUp
            yield batch

    @property
    def late(self) -> bool:
        """Whether the time that the run was given is up."""
        return self.wall_time is not None and time.monotonic() - self.began > self.wall_time

    def reason(self, epoch: int, record: Mapping[str, Any], finite: bool) -> str | None:
        """Why the run ends at this epoch, before its step; None: it goes on."""
        if not finite:
            return "non-finite"
        wanted = self.settings.stop_accuracy
        if wanted is not None and record["train_accuracy"] >= wanted:
            return "accuracy"
        if epoch >= self.settings.epochs:
            return "epochs"
        return "time" if self.late else None

    def permitted(self) -> None:
        """Let whoever shares the folder out object before it is written to."""
        if self.guard is not None:
            self.guard()

    def tell(self, epoch: int, record: Mapping[str, Any], seconds: float) -> None:
        """Append to the history, and hand the same numbers to every logger."""
        self.permitted()
        try:
            history.append(self.history, record)
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


class _TimeUp(Exception):
    """Raised within an epoch, whose work is then lost."""


@eqx.filter_jit
def advanced(
    optimizer: Optimizer,
    gradients: int,
    place: Position,
    sums: passes.Sums,
    network: PyTree,
    last_rate: Array,
    following: Array,
) -> tuple:
    """The position after the step; loss, accuracy, whether all is finite, measures by name.

    gradients: those of one function that the measures may read: 0 (no measures), 1, or 2.
    """
    loss, accuracy, grad = sums.means()
    state, move = optimizer.update(place.optimizer, grad, place.params, place.memory.rate)
    measures = _measured(optimizer, gradients, place, grad, state, last_rate)
    memory = mem.with_rate(mem.advance(optimizer, place.memory), following)
    params = trees.add(place.params, 1.0, move)
    after = Position(params, network, state, memory, grad, place.key)
    return after, (loss, accuracy, jnp.isfinite(loss) & trees.all_finite(grad), measures)


def _measured(
    optimizer: Optimizer,
    gradients: int,
    place: Position,
    grad: PyTree,
    state: State,
    last_rate: Array,
) -> dict[str, Array]:
    if gradients == 0:
        return {}
    moments = tuple(None if m is None else _long(m) for m in state.moments)
    return run_measures(
        optimizer,
        place.memory,
        _long(place.params),
        _long(grad),
        State(moments, state.step),
        per_leaf=False,
        last_grad=_long(place.last_grad) if gradients == 2 else None,
        last_rate=last_rate if gradients == 2 else None,
    ).total


def _long(tree: PyTree) -> Array:
    """All coordinates in one vector: one kernel where each leaf had its own."""
    return jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(tree)])


def _names_of_one(optimizer: Optimizer, place: Position) -> list[str]:
    """The measures that need no gradient of the step before."""

    def measures(place: Position) -> dict[str, Array]:
        grad = place.last_grad
        state, _ = optimizer.update(place.optimizer, grad, place.params, place.memory.rate)
        return _measured(optimizer, 1, place, grad, state, place.memory.rate)

    return list(eqx.filter_eval_shape(measures, place))


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
