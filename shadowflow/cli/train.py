"""`shadowflow train`: a network, full batch, with the measures of every epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import arg

from ..lab.choices import Adam, Choice, named, whole
from ..lab.training.config import Training, settings
from ..lab.training.loggers import Tracker
from .flags import Flag, flag

TrainingFlags = dataclasses.make_dataclass(
    "TrainingFlags",
    [
        (name, flag(kind, help.words), getattr(Training, name))
        for name, (kind, help) in settings().items()
    ],
    frozen=True,
)


@dataclass(frozen=True)
class Train:
    """Train a network on full batches; killed and started again it resumes, to the bit.

    The folder of a run is named by its whole configuration: the same command again resumes it, or
    finds it done.
    """

    opt: Choice = field(default_factory=Adam)
    training: Annotated[Any, arg(name="", constructor=TrainingFlags)] = field(
        default_factory=TrainingFlags
    )
    run_dir: Path = Path("runs")
    """A folder; each configuration gets its own inside."""
    data_dir: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Where the data lie, if not where `shadowflow data get` put them."""
    checkpoint_every: int = 10
    """Epochs between checkpoints."""
    wall_time: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="")] = None
    """Stop after so long; the same command resumes."""
    log: Annotated[tuple[Tracker, ...], arg(metavar="TRACKER…", help_behavior_hint="")] = ()
    """Send every record there too: tensorboard, trackio, wandb."""
    describe: Flag = False
    """Print the layers and the number of parameters, and train nothing."""
    quiet: Flag = False
    """Print no progress."""

    def settings(self) -> Training:
        """The configuration."""
        name, arguments = named(self.opt)
        return Training(optimizer=name, arguments=arguments, **vars(self.training))

    def run(self) -> int:
        """0 where it ended as asked, 1 where a number was not finite."""
        whole("--checkpoint-every", self.checkpoint_every, 1)
        if self.wall_time is not None and not self.wall_time >= 0:
            raise ValueError(f"--wall-time: expected seconds from 0, got {self.wall_time}")
        from .jobs import training

        if self.describe:
            print(training.description(self.settings()))
            return 0
        return training.train_job(self)
