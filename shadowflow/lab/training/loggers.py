"""Trackers by name, each a package of its own that is imported only here."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal, get_args

from ...extras import need
from .config import Training

Tracker = Literal["tensorboard", "trackio", "wandb"]
PACKAGES = {"tensorboard": "tensorboardX"}


@contextlib.contextmanager
def tracker(name: Tracker, folder: Path, settings: Training) -> Generator[Any]:
    """A tracker of a run, as ``train(loggers=…)`` takes it; it is closed at the end.

    "tensorboard" writes to `tensorboard` in the run's folder; "wandb" and "trackio" to a run of the
    project shadowflow that is named as the folder, where wandb resumes one that is there.
    ImportError where its package is not installed.
    """
    if name not in get_args(Tracker):
        raise ValueError(f"--log: expected one of {', '.join(get_args(Tracker))}, got {name!r}")
    package = PACKAGES.get(name, name)
    module = need(f"--log {name}", package, package)
    if name == "tensorboard":
        with contextlib.closing(module.SummaryWriter(str(folder / "tensorboard"))) as writer:
            yield writer
        return
    again = {"id": folder.name, "resume": "allow"} if name == "wandb" else {}
    run = module.init(project="shadowflow", name=folder.name, config=settings.plain(), **again)
    try:
        yield run
    finally:
        run.finish()
