"""How much faster two local workers end a sweep than one, each with one thread: `ratio()`."""

import tempfile
import time
from pathlib import Path

from shadowflow.lab.sweep import launch, plan
from shadowflow.lab.sweep.grid import Block
from shadowflow.lab.training.config import Training

BASE = Training(model="mlp", images=1500, test_images=100, epochs=6000, test_every=100)
SEEDS, ASKED = (0, 1, 2, 3, 4, 5), 0.6


def seconds(workers: int, folder: Path) -> float:
    """Of a whole sweep, from the start of its workers to the end of the last one."""
    sweep = plan.sweep_of(BASE, [Block({"seed": SEEDS})], folder)
    sweep.write()
    start = time.perf_counter()
    launch.local(sweep, workers, lambda: None)
    return time.perf_counter() - start


def ratio() -> dict:
    """Time with two workers over that with one, one round after another."""
    with tempfile.TemporaryDirectory() as name:
        one, two = (seconds(workers, Path(name) / str(workers)) for workers in (1, 2))
    return {
        "ratio": two / one,
        "asked": ASKED,
        "holds": two / one <= ASKED,
        "cells": len(SEEDS),
        "seconds": [one, two],
    }


if __name__ == "__main__":
    print(ratio())
