"""What the runs of a grid will cost, measured before they begin."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from ...lab.networks.interface import Network
from ...lab.training.config import Training
from ...lab.training.start import counts_of, network_of, train
from ...paper.grid import Grid
from .progress import progress

SAMPLES = (8, 24)  # images of the two trials that the line of the cost goes through
EPOCHS = 4  # of each: the first two compile
COPIES = 8  # of the parameters: two gradients, two moments, the same after a step


class Cost(NamedTuple):
    """The cost of a run.

    seconds: of an epoch, with its share of tests. memory: bytes of one ghost batch computed at
    once, and of all that is as large as the parameters.
    """

    seconds: float
    memory: int


def ask(grids: Sequence[Grid], data_dir: Path | None, yes: bool, quiet: bool = True) -> None:
    """Print what runs of the paper's sizes cost; ValueError where ``yes`` is not given."""
    wanted = [grid for grid in grids if grid.scale == "paper"]
    if not wanted:
        return
    models = defaultdict(list)
    for run in {run.key(): run for grid in wanted for run in grid.runs()}.values():
        models[f"{run.model} on {run.dataset}"].append(run)
    hours = 0.0
    for model, alike in models.items():
        with progress(quiet=quiet, desc=f"measures an epoch of {model}", total=1) as bar:
            found = measured(alike[0], data_dir)
            bar.update()
        own = sum(run.epochs for run in alike) * found.seconds / 3600
        hours += own
        digits = ",.0f" if found.seconds >= 100 else ".3g"
        print(
            f"{model}: {found.seconds:{digits}} s an epoch on this machine (measured on "
            f"{SAMPLES[0]} and {SAMPLES[1]} images), {len(alike)} runs of {alike[0].epochs:,} "
            f"epochs: {own:,.0f} hours; {found.memory / 2**30:,.1f} GiB for a ghost batch of "
            f"{alike[0].ghost_batch} at once"
        )
    if not yes:
        raise ValueError(
            f"--yes: expected it before runs of about {hours:,.0f} hours start, got none; give it "
            "to start them (they are resumed by the same command)"
        )


def measured(settings: Training, data_dir: Path | None = None) -> Cost:
    """The cost of a run: two short ones on few images, and the line through them."""
    images, test_images = counts_of(settings)
    share = test_images / images
    seconds = [
        _seconds(settings, count, max(1, round(share * count)), data_dir) for count in SAMPLES
    ]
    slope = max(0.0, (seconds[1] - seconds[0]) / (SAMPLES[1] - SAMPLES[0]))
    network = network_of(settings)
    memory = batch_memory(network, min(settings.ghost_batch, images))
    return Cost(seconds[0] + slope * (images - SAMPLES[0]), memory + COPIES * size(network))


def _seconds(settings: Training, images: int, tests: int, data_dir: Path | None) -> float:
    """The shortest epoch of a short run."""
    short = dataclasses.replace(
        settings,
        images=images,
        test_images=tests,
        epochs=EPOCHS,
        ghost_batch=images,
        stop_accuracy=None,
        warmup=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        done = train(short, Path(folder), data_dir=data_dir, checkpoint_every=EPOCHS + 1)
        lines = (done.folder / "timing.jsonl").read_text("utf-8").splitlines()
    return min(json.loads(line)["seconds"] for line in lines[2:])


def size(network: Network) -> int:
    """The bytes of the parameters."""
    params, _ = jax.eval_shape(network.init, jax.random.key(0))
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def batch_memory(network: Network, images: int) -> int:
    """The bytes that XLA plans for the gradient of a batch; nothing is computed."""
    params, state = jax.eval_shape(network.init, jax.random.key(0))
    batch = jax.ShapeDtypeStruct((images, *network.shape), network.dtype)
    loss = lambda params, state, images: jnp.mean(
        network.apply(params, state, images, True)[0] ** 2
    )
    plan = jax.jit(jax.grad(loss)).lower(params, state, batch).compile().memory_analysis()
    return int(plan.temp_size_in_bytes + plan.argument_size_in_bytes) if plan is not None else 0
