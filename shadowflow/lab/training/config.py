"""What a training run is made of, as plain data: known without JAX, named by its whole content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from ..choices import OPTIMIZERS, Argument, completed

if TYPE_CHECKING:
    from ...optimizers.moments import Optimizer

Model = Literal["mlp", "cnn", "resnet50", "resnet101", "simple_vit"]
Data = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
Per = Literal["pixel", "channel", "all"]
Loss = Literal["cross_entropy", "mse"]
Ghost = Literal["fixed", "reshuffled"]
Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["float32", "tf32", "bfloat16"]


@dataclass(frozen=True)
class Training:
    """One run: full-batch training of a network, the gradient summed over ghost batches.

    Args:
        model: a name of the table of networks; width: a factor on its channels.
        dataset: a name of the data sets; images, test_images: the first so many (None: all).
        optimizer, arguments: as the zoo has them. learning_rate: the step size h; schedule: its
            course over the epochs, "cosine" and "linear" ending at 0; warmup: epochs of a linear
            rise at the start.
        loss: "cross_entropy", or "mse" against one-hot labels.
        epochs: full-batch steps.
        ghost_batch: images in a ghost batch, whose statistics BatchNorm uses.
        ghost: "fixed", so that the loss is one function of the parameters, or "reshuffled" at
            every epoch. micro_batch: images at a time within a ghost batch (None: all of
            it, or on a CPU as many as it computes on fastest).
        pool: images are shrunk, pool by pool pixels to their mean.
        standardize: what one mean and deviation are taken over: each "pixel" (the paper's), each
            "channel", or "all". augment: pad by 4, crop and mirror, anew at every epoch.
        test_every: epochs between looks at the test images. measure_every: epochs between measures.
        stop_accuracy: end as soon as the training accuracy reaches it.
        precision: of products in the network; parameters, sums and optimizer are float32.
        devices: how many share the images of a batch; sums then differ in their rounding.
        seed: of the start, the order and the augmentation.

    Raises:
        ValueError: a value out of its range, or an unknown name.

    Example:
        >>> Training(epochs=3).key()
        'mlp-digits-adam-...'
    """

    model: Model = "mlp"
    width: float = 1.0
    dataset: Data = "digits"
    images: int | None = None
    test_images: int | None = None
    optimizer: str = "adam"
    arguments: Mapping[str, Argument] = field(default_factory=dict, hash=False)
    learning_rate: float = 1e-3
    schedule: Schedule = "constant"
    warmup: int = 0
    loss: Loss = "cross_entropy"
    epochs: int = 100
    ghost_batch: int = 500
    ghost: Ghost = "fixed"
    micro_batch: int | None = None
    pool: int = 1
    standardize: Per = "pixel"
    augment: bool = False
    test_every: int = 1
    measure_every: int = 1
    stop_accuracy: float | None = None
    precision: Precision = "float32"
    devices: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, kind in (
            ("model", Model),
            ("dataset", Data),
            ("loss", Loss),
            ("ghost", Ghost),
            ("schedule", Schedule),
            ("precision", Precision),
            ("standardize", Per),
        ):
            _one_of(name, getattr(self, name), get_args(kind))
        _one_of("opt", self.optimizer, tuple(OPTIMIZERS))
        for name in ("width", "learning_rate"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{_flag(name)}: expected a positive finite number, got {value}")
            object.__setattr__(self, name, float(value))
        for name, least in (
            ("epochs", 1),
            ("ghost_batch", 1),
            ("test_every", 1),
            ("measure_every", 1),
            ("warmup", 0),
            ("seed", 0),
            ("pool", 1),
            ("devices", 1),
        ):
            _whole(name, getattr(self, name), least)
        for name in ("images", "test_images", "micro_batch"):
            if getattr(self, name) is not None:
                _whole(name, getattr(self, name), 1)
        if self.stop_accuracy is not None and not 0 < self.stop_accuracy <= 1:
            raise ValueError(
                f"--stop-accuracy: expected a number in (0, 1], got {self.stop_accuracy}"
            )
        if self.warmup > self.epochs:
            raise ValueError(
                f"--warmup: expected at most the {self.epochs} epochs, got {self.warmup}"
            )
        together = min(self.ghost_batch, self.micro_batch or self.ghost_batch)
        if together % self.devices:
            raise ValueError(
                f"--devices: expected a divisor of the {together} images of a batch, got "
                f"{self.devices}; choose another --ghost-batch or --micro-batch"
            )
        object.__setattr__(self, "arguments", completed(self.optimizer, self.arguments))

    @property
    def one_function(self) -> bool:
        """Whether the loss is the same function of the parameters at every epoch."""
        return self.ghost == "fixed" and not self.augment

    def build(self) -> Optimizer:
        """The optimizer itself; the zoo may refuse an argument."""
        from ...optimizers import zoo

        return getattr(zoo, self.optimizer)(**self.arguments)

    def rate(self) -> float | Callable[[int], float]:
        """The learning rate, or the schedule epoch → learning rate."""
        if self.schedule == "constant" and not self.warmup:
            return self.learning_rate
        return self._rate_at

    def _rate_at(self, epoch: int) -> float:
        if epoch < self.warmup:
            return self.learning_rate * (epoch + 1) / (self.warmup + 1)
        share = (epoch - self.warmup) / max(1, self.epochs - self.warmup)
        course = {
            "constant": 1.0,
            "linear": 1 - share,
            "cosine": (1 + math.cos(math.pi * share)) / 2,
        }
        return self.learning_rate * course[self.schedule]

    def plain(self) -> dict[str, Any]:
        """The whole configuration as JSON has it."""
        return dataclasses.asdict(self)

    def key(self) -> str:
        """A name that no other configuration has: readable, then a digest of everything."""
        text = json.dumps(self.plain(), sort_keys=True, separators=(",", ":"))
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{self.model}-{self.dataset}-{self.optimizer}-{digest[:12]}"


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{_flag(name)}: expected one of {', '.join(known)}, got {value!r}")


def _whole(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{_flag(name)}: expected a whole number from {least}, got {value!r}")
