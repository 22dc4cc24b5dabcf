"""What a training run is made of, as plain data: known without JAX, named by its whole content."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import NoneType
from typing import (
    TYPE_CHECKING,
    Annotated,
    Any,
    Literal,
    NamedTuple,
    get_args,
    get_origin,
    get_type_hints,
)

from ...files import digest
from ..choices import OPTIMIZERS, Argument, completed, whole

if TYPE_CHECKING:
    from ...optimizers.moments import Optimizer

Model = Literal["mlp", "cnn", "resnet50", "resnet101", "simple_vit"]
Data = Literal["digits", "mnist", "fashion-mnist", "cifar10", "cifar100"]
Per = Literal["pixel", "channel", "all"]
Loss = Literal["cross_entropy", "mse"]
Ghost = Literal["fixed", "reshuffled"]
Schedule = Literal["constant", "cosine", "linear"]
Precision = Literal["float32", "tf32", "bfloat16"]
WIDEST = 1000  # times the channels of a network as it was published


class Help(NamedTuple):
    """What a field is, as the help of its flag says it; least: of a whole number."""

    words: str
    least: int | None = None


@dataclass(frozen=True)
class Training:
    """One run: full-batch training of a network, the gradient summed over ghost batches.

    The flags of `shadowflow train`, the columns of a sweep and the name of a run's folder are made
    from these fields. ValueError for a value out of its range, an unknown name, or values that do
    not go together.

    >>> Training(epochs=3).key()
    'mlp-digits-adam-...'
    """

    model: Annotated[Model, Help("The network.")] = "mlp"
    width: Annotated[float, Help("Factor of its channels and hidden widths.")] = 1.0
    dataset: Annotated[Data, Help("What it is trained on.")] = "digits"
    images: Annotated[int | None, Help("Train on the first so many (default: all).", 1)] = None
    test_images: Annotated[int | None, Help("Test on the first so many (default: all).", 1)] = None
    optimizer: str = "adam"
    arguments: Mapping[str, Argument] = field(default_factory=dict, hash=False)
    learning_rate: Annotated[float, Help("The step size.")] = 1e-3
    schedule: Annotated[Schedule, Help("Its course; cosine and linear end at 0.")] = "constant"
    warmup: Annotated[int, Help("Epochs of a linear rise at the start.", 0)] = 0
    loss: Annotated[Loss, Help("What is minimised; mse: against one-hot labels.")] = "cross_entropy"
    epochs: Annotated[int, Help("Full-batch steps.", 1)] = 100
    ghost_batch: Annotated[int, Help("Images that BatchNorm normalizes together.", 1)] = 500
    ghost: Annotated[Ghost, Help("The same batches at every epoch, or new ones.")] = "fixed"
    micro_batch: Annotated[
        int | None, Help("Images at a time (default: all, on a CPU what is fastest).", 1)
    ] = None
    pool: Annotated[int, Help("Shrink the images: so many by so many pixels become one.", 1)] = 1
    standardize: Annotated[
        Per, Help("What shares a mean and a standard deviation (pixel: the paper's).")
    ] = "pixel"
    augment: Annotated[bool, Help("Pad by 4, crop and mirror, anew at every epoch.")] = False
    test_every: Annotated[int, Help("Epochs between looks at the test images.", 1)] = 1
    measure_every: Annotated[int, Help("Epochs between measures of gradient and optimizer.", 1)] = 1
    stop_accuracy: Annotated[float | None, Help("Stop at this training accuracy.")] = None
    precision: Annotated[Precision, Help("Of products in the network; all else is float32.")] = (
        "float32"
    )
    devices: Annotated[
        int, Help("So many share the images of a batch; its sums then round differently.", 1)
    ] = 1
    seed: Annotated[int, Help("Of the random start, order and augmentation.", 0)] = 0

    def __post_init__(self) -> None:
        _one_of("opt", self.optimizer, tuple(OPTIMIZERS))
        for name, (kind, words) in settings().items():
            value = getattr(self, name)
            if words.least is not None:
                if value is not None or NoneType not in get_args(kind):
                    whole(_flag(name), value, words.least)
            elif get_origin(kind) is Literal:
                _one_of(name, value, get_args(kind))
        for name, most in (("width", WIDEST), ("learning_rate", math.inf)):
            value = getattr(self, name)
            if not (math.isfinite(value) and 0 < value <= most):
                limit = f" of at most {most}" if value > 0 and math.isfinite(value) else ""
                raise ValueError(
                    f"{_flag(name)}: expected a positive finite number{limit}, got {value}"
                )
            object.__setattr__(self, name, float(value))
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
        return f"{self.model}-{self.dataset}-{self.optimizer}-{digest(self.plain())[:12]}"


@functools.cache
def settings() -> Mapping[str, tuple[Any, Help]]:
    """Name → (type, help) of every field but the optimizer and its arguments.

    >>> settings()["seed"]
    (<class 'int'>, Help(words='Of the random start, order and augmentation.', least=0))
    """
    hints = get_type_hints(Training, include_extras=True)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Annotated}


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{_flag(name)}: expected one of {', '.join(known)}, got {value!r}")
