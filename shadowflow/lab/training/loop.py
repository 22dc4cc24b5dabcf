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
from ...files import refusal, to_disk, write_json
from ...monitor.measures import of_two_steps, run_measures
from ...optimizers.base import State
from ...optimizers.moments import Optimizer
from ...running import rate_table
from ..data.load import Images
from ..data.transforms import augment
from ..networks.interface import Network
from . import checkpoint, epoch as passes, history
from .config import Training
from .devices import Devices, at_a_time


class Position(eqx.Module):
    """Everything a run needs to be resumed: where it is, what it has learned and remembers.

    key: the numbers of a random key.
    """

    params: PyTree
    network: PyTree
    optimizer: State
    memory: Memory
    last_grad: PyTree
    key: Array


@dataclass(frozen=True)
class Ending:
    """How a run ended: its folder, the reason, and the last epoch of its history.

    reason: "epochs", "accuracy", "non-finite" (then epoch is where it began), or "time", after
    which the same call resumes it.
    """

    folder: Path
    reason: str
    epoch: int
    notes: tuple[str, ...] = ()


@dataclass
class TrainingRun:
    """The fixed parts of a run, and its loop.

    folder: of this run alone. loggers: each with ``.log(dict, step=)`` or ``.add_scalar(tag, value,
    step)``. checkpoint_every: epochs between checkpoints. wall_time: seconds after which it stops,
    to be resumed. progress: called with every epoch and its record. guard: called before every
    write; what it raises ends the run.
    """

    settings: Training
    network: Network
    data: Images
    folder: Path
    loggers: Sequence[Any] = ()
    checkpoint_every: int = 10
    wall_time: float | None = None
    progress: Callable[[int, Mapping[str, Any]], Any] | None = None
    guard: Callable[[], Any] = lambda: None
    began: float = field(default_factory=time.monotonic)
    saved: int = 0  # the epoch of the last checkpoint, 0 before the first

    def __post_init__(self) -> None:
        self.optimizer = self.settings.build()
        self.rates = rate_table(self.settings.rate(), self.settings.epochs)
        self.devices = Devices.of(self.settings.devices)
        self.ways = passes.Ways(self.network.apply, self.settings.loss, self.settings.precision)
        self.checkpoints = self.folder / "checkpoints"
        self.history = self.folder / "history.jsonl"

    def go(self) -> Ending:
        """Train from the last checkpoint, or from the start, to the end.

        Ctrl-C saves the place that was reached, and is raised again with the epoch in words.
        """
        place, sealed, notes = self.start(), "", ()
        found = checkpoint.restore(self.checkpoints, place, self.settings.plain())
        if found is not None:
            place, self.saved, sealed = found.state, found.epoch, found.history
            notes = tuple(f"passed over {line}" for line in found.passed_over)
        self.guard()
        history.cut(self.history, self.saved, sealed)
        self.here = self.before = self.saved, self.devices.copy(place)
        try:
            end, epoch = self.steps()
        except KeyboardInterrupt:
            if self.here[0] != self.saved:
                self.save(*self.here)
            said = f"epoch {self.saved} is saved in {self.folder}; the same command resumes there"
            raise KeyboardInterrupt(said) from None
        if self.here[0] != self.saved or self.here[0] == 0:
            self.save(*self.here)
        if end != "time":
            self.guard()
            content = {"reason": end, "epoch": epoch, "history": history.seal(self.history)}
            write_json(self.folder / "done.json", content)
        return Ending(self.folder, end, epoch, notes)

    def steps(self) -> tuple[str, int]:
        """Epochs from the present place on, until one ends the run: why, and its number.

        The place is then the last one whose step was finite.
        """
        first = self.here[0]
        while True:
            started, (epoch, place) = time.monotonic(), self.here
            try:
                record, following, finite = self.at(place, epoch, patient=epoch == first)
            except _TimeUp:
                return "time", epoch
            end = self.reason(epoch, record, finite)
            self.tell(epoch, record, time.monotonic() - started)
            if end == "non-finite":
                self.here = self.before
            if end is not None:
                return end, epoch
            self.before, self.here = self.here, (epoch + 1, following)
            if (epoch + 1) % self.checkpoint_every == 0:
                self.save(*self.here)

    def save(self, epoch: int, place: Position) -> None:
        """A checkpoint, once all lines before it are on the disk."""
        self.guard()
        to_disk(self.history)
        sealed = history.seal(self.history, epoch)
        checkpoint.save(self.checkpoints, epoch, place, self.settings.plain(), sealed)
        self.saved = epoch

    def start(self) -> Position:
        """The position before epoch 0, from the seed alone."""
        key, first = jax.random.split(jax.random.key(self.settings.seed))
        params, network = self.network.init(first)
        varies = callable(self.settings.rate())
        learning_rate = mem.Rates(jnp.asarray(self.rates)) if varies else self.rates[0]
        memory = mem.ready(self.optimizer, learning_rate, 0, params)
        zero = trees.zeros_like(params)
        key = jax.random.key_data(key)
        return Position(params, network, self.optimizer.init(params), memory, zero, key)

    def at(self, place: Position, epoch: int, *, patient: bool) -> tuple[dict, Position, bool]:
        """The record of an epoch, the position after its step, and whether that is finite.

        patient: the pass is finished even where the time is up.
        """
        settings = self.settings
        batches = self.in_time(self.batches(place, epoch), patient)
        sums, network = passes.one_pass(self.ways, place.params, place.network, batches, train=True)
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
            tested, _ = passes.one_pass(
                self.ways, place.params, network, self.test_batches, train=False
            )
            test_loss, test_accuracy, _ = tested.means()
            record |= {"test_loss": float(test_loss), "test_accuracy": float(test_accuracy)}
        if epoch == 0:  # there is no gradient before it
            measures = {name: measures[name] for name in measures if not of_two_steps(name)}
        record |= {name: float(value) for name, value in measures.items()}
        return record, following, bool(finite)

    def rate_at(self, epoch: int) -> float:
        """The learning rate of an epoch, after the last that of the last."""
        return float(self.rates[min(epoch, len(self.rates) - 1)])

    @functools.cached_property
    def micro_batch(self) -> int:
        """Images computed on at a time: without BatchNorm those of several ghost batches."""
        settings, count = self.settings, len(self.data.train_labels)
        if settings.micro_batch is not None:
            return settings.micro_batch
        apart = self.network.has_batch_norm or not settings.one_function
        together = min(settings.ghost_batch, count) if apart else count
        return at_a_time(self.network, together, self.devices.count)

    @functools.cached_property
    def fixed_batches(self) -> list[passes.Batch]:
        """The batches of every epoch where they are the same in all, in their places."""
        return self.shared(self.data.train_images, self.data.train_labels, self.micro_batch)

    @functools.cached_property
    def test_batches(self) -> list[passes.Batch]:
        """The test images, batch by batch."""
        size = min(self.micro_batch, self.settings.ghost_batch)
        return self.shared(self.data.test_images, self.data.test_labels, size)

    def shared(self, images: Any, labels: Any, size: int) -> list[passes.Batch]:
        """The images in batches, each shared out over the devices; the last has what is left."""
        places = [slice(start, start + size) for start in range(0, len(labels), size)]
        return [self.devices.share((images[place], labels[place])) for place in places]

    @functools.cached_property
    def whole(self) -> passes.Batch:
        """All images to train on, on the device, to draw from."""
        return jnp.asarray(self.data.train_images), jnp.asarray(self.data.train_labels)

    def batches(self, place: Position, epoch: int) -> Iterator[passes.Batch]:
        """The ghost batches of an epoch, in its order, or the micro-batches within them."""
        settings = self.settings
        if settings.one_function:
            yield from self.fixed_batches
            return
        key = jax.random.wrap_key_data(place.key)
        order_key, image_key = jax.random.split(jax.random.fold_in(key, epoch))
        images, labels = self.whole
        order = jnp.arange(len(labels))
        if settings.ghost == "reshuffled":
            order = jax.random.permutation(order_key, len(labels))
        for index in range(0, -(-len(labels) // settings.ghost_batch)):
            chosen = order[index * settings.ghost_batch : (index + 1) * settings.ghost_batch]
            batch = images[chosen], labels[chosen]
            if settings.augment:
                batch = augment(jax.random.fold_in(image_key, index), batch[0]), batch[1]
            yield from self.shared(*batch, self.micro_batch)

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
        """Why the run ends at this epoch, before its step; None where it does not."""
        if not finite:
            return "non-finite"
        wanted = self.settings.stop_accuracy
        if wanted is not None and record["train_accuracy"] >= wanted:
            return "accuracy"
        if epoch >= self.settings.epochs:
            return "epochs"
        return "time" if self.late else None

    def tell(self, epoch: int, record: Mapping[str, Any], seconds: float) -> None:
        """Append to the history, and hand the same numbers to every logger."""
        self.guard()
        try:
            history.append(self.history, record)
            history.append(self.folder / "timing.jsonl", {"epoch": epoch, "seconds": seconds})
        except OSError as error:
            raise refusal("history", "a folder that can be written", self.folder, error) from None
        for logger in self.loggers:
            hand_over(logger, record, epoch)
        if self.progress is not None:
            self.progress(epoch, record)


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
    memory = place.memory.advanced().with_rate(following)
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


def hand_over(logger: Any, record: Mapping[str, Any], epoch: int) -> None:
    """A record to anything with ``.log(dict, step=)`` or ``.add_scalar(tag, value, step)``."""
    if hasattr(logger, "log"):
        logger.log(dict(record), step=epoch)
        return
    for tag, value in record.items():
        logger.add_scalar(tag, value, epoch)
