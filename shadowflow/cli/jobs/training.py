"""Training runs for a reader: what is trained, how far it is, how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax

from ...lab.networks.interface import Network
from ...lab.training.config import Training
from ...lab.training.loggers import tracker
from ...lab.training.loop import Ending
from ...lab.training.start import counts_of, network_of, train
from .formatting import table
from .progress import progress

if TYPE_CHECKING:
    from ..train import Train

REASONS = {
    "epochs": "all epochs are done",
    "accuracy": "the training accuracy that was asked for is reached",
    "time": "the time is up; the same command resumes from here",
    "non-finite": "the loss or the gradient is not finite from this epoch on; the last good state "
    "is kept as a checkpoint",
}


def description(settings: Training) -> str:
    """The layers of the network with their parameters, the cost of an epoch, `parameters: N`."""
    network = network_of(settings)
    layers = network.layers()
    total = sum(row.parameters for row in layers)
    sizes = [(row.name, "×".join(map(str, row.shape)), row.parameters) for row in layers]
    rows = [
        {"layer": name, "shape": shape, "parameters": f"{count:,}"}
        for name, shape, count in [*sizes, ("total", "", total)]
    ]
    lines = [settings.model, *table(rows), _cost(settings, network), f"parameters: {total}"]
    return "\n".join(lines)


def _cost(settings: Training, network: Network) -> str:
    images, test_images = counts_of(settings)
    forward = forward_flops(network)
    if forward is None:
        return "estimated cost: unknown, as XLA counts no operations for this device"
    epoch = forward * (3 * images + test_images / settings.test_every)
    return (
        f"estimated cost: {epoch / 1e9:.3g} Gflop an epoch, "
        f"{epoch * settings.epochs / 1e12:.3g} Tflop in all: three "
        f"times the forward pass ({forward / 1e6:.3g} Mflop) for each of {images:,} images, "
        f"once for each of {test_images:,} to test on"
    )


def forward_flops(network: Network) -> float | None:
    """What XLA counts for one image, without computing anything; None where it does not count."""
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    image = jax.ShapeDtypeStruct((1, *network.shape), network.dtype)
    run = jax.jit(lambda params, state, image: network.apply(params, state, image, False)[0])
    return (run.lower(params, state, image).cost_analysis() or {}).get("flops")


def train_job(command: Train) -> int:
    """Train, with a bar of progress, and say how it ended; 1 for numbers that are not finite."""
    settings = command.settings()
    folder = command.run_dir / settings.key()
    with contextlib.ExitStack() as stack:
        trackers = [stack.enter_context(tracker(name, folder, settings)) for name in command.log]
        bar = stack.enter_context(
            progress(total=settings.epochs, quiet=command.quiet, unit="epoch")
        )

        def show(epoch: int, record: Mapping[str, Any]) -> None:
            bar.update(epoch - bar.n)
            bar.set_postfix_str(f"loss {record['train_loss']:.4g}")

        outcome = train(
            settings,
            command.run_dir,
            data_dir=command.data_dir,
            loggers=trackers,
            checkpoint_every=command.checkpoint_every,
            wall_time=command.wall_time,
            progress=show,
        )
    print(tell(outcome))
    return 1 if outcome.reason == "non-finite" else 0


def tell(outcome: Ending) -> str:
    """How a run ended, in words.

    >>> from pathlib import Path
    >>> print(tell(Ending(Path("runs/x"), "epochs", 3)))
    Epoch 3: all epochs are done.
    Written to runs/x: config.json, history.jsonl, timing.jsonl, checkpoints
    """
    return "\n".join(
        [
            *(f"Note: {note}." for note in outcome.notes),
            f"Epoch {outcome.epoch}: {REASONS[outcome.reason]}.",
            f"Written to {outcome.folder}: config.json, history.jsonl, timing.jsonl, checkpoints",
        ]
    )
