"""`shadowflow train`: a network, full batch, with the measures of every epoch."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..lab.choices import OPTIMIZERS, Adam, Choice
from ..lab.training.config import Data, Ghost, Loss, Model, Per, Precision, Schedule, Training
from ..lab.training.loggers import Tracker
from .flags import Flag


@dataclass(frozen=True)
class Train:
    """Train a network on full batches; killed and started again it goes on, to the bit.

    The folder of a run is named by its whole configuration: the same command again resumes it, or
    finds it done.
    """

    opt: Choice = field(default_factory=Adam)
    model: Model = "mlp"
    """The network."""
    width: float = 1.0
    """A factor on its channels and hidden widths."""
    dataset: Data = "digits"
    """What it is trained on."""
    images: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """The first so many images (default: all)."""
    test_images: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """The first so many images to test on (default: all)."""
    learning_rate: float = 1e-3
    """The step size."""
    schedule: Schedule = "constant"
    """Its course over the epochs."""
    warmup: int = 0
    """Epochs of a linear rise at the start."""
    loss: Loss = "cross_entropy"
    """What is minimised."""
    epochs: int = 100
    """Full-batch steps."""
    ghost_batch: int = 500
    """Images whose statistics BatchNorm uses together."""
    ghost: Ghost = "fixed"
    """The same ghost batches at every epoch, or new ones."""
    micro_batch: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Images at a time within a ghost batch (default: all, on a CPU what is fastest)."""
    pool: int = 1
    """Shrink the images: so many by so many pixels to their mean."""
    standardize: Per = "pixel"
    """What one mean and one standard deviation are taken over."""
    augment: Flag = False
    """Pad by 4, crop and mirror the images, anew at every epoch."""
    test_every: int = 1
    """Epochs between looks at the test images."""
    measure_every: int = 1
    """Epochs between the measures of the gradient and of the optimizer."""
    stop_accuracy: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """Stop at this training accuracy."""
    precision: Precision = "float32"
    """Of the products in the network."""
    devices: int = 1
    """Share the images of a batch out over so many."""
    seed: int = 0
    """Of the start, the order and the augmentation."""
    run_dir: Path = Path("runs")
    """A folder; each configuration gets its own inside."""
    data_dir: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Where the data lie, if not where `shadowflow data get` put them."""
    checkpoint_every: int = 10
    """Epochs between checkpoints."""
    wall_time: Annotated[float | None, arg(metavar="SECONDS", help_behavior_hint="")] = None
    """Stop after so long; the same command goes on."""
    log: Annotated[tuple[Tracker, ...], arg(metavar="TRACKER…", help_behavior_hint="")] = ()
    """Send every record there too: tensorboard, trackio, wandb."""
    describe: Flag = False
    """Print the layers and the number of parameters, and train nothing."""
    quiet: Flag = False
    """Print no progress."""

    def settings(self) -> Training:
        """The configuration."""
        own = {item.name for item in dataclasses.fields(Training)} - {"optimizer", "arguments"}
        name = next(name for name, kind in OPTIMIZERS.items() if isinstance(self.opt, kind))
        return Training(
            optimizer=name,
            arguments=dataclasses.asdict(self.opt),
            **{key: getattr(self, key) for key in own},
        )

    def run(self) -> int:
        """0 where it ended as asked, 1 where a number was not finite."""
        settings = self.settings()
        if self.checkpoint_every < 1:
            raise ValueError(f"--checkpoint-every: expected 1 or more, got {self.checkpoint_every}")
        if self.wall_time is not None and not self.wall_time >= 0:
            raise ValueError(f"--wall-time: expected seconds from 0, got {self.wall_time}")
        from .jobs import training

        if self.describe:
            print(training.description(settings))
            return 0
        return training.train_job(
            settings,
            self.run_dir,
            data_dir=self.data_dir,
            log=self.log,
            quiet=self.quiet,
            checkpoint_every=self.checkpoint_every,
            wall_time=self.wall_time,
        )
