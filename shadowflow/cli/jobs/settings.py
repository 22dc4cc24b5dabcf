"""The configuration of a run as plain data: needs no JAX, and is named by its whole content."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from ...files import digest
from ...lab.choices import Argument, completed, whole

if TYPE_CHECKING:
    from ...optimizers.moments import Optimizer

Method = Literal["taylor", "displaced", "linearized", "differences", "collocation", "inertial"]
METHODS: tuple[Method, ...] = ("taylor", "displaced", "differences", "inertial")


@dataclass(frozen=True)
class Setting:
    """One configuration: an optimizer, its step size and length, on one problem.

    optimizer: a name of the zoo; arguments: its keyword arguments, the zoo's defaults for those
    left out; problem: its label; seed: of its start; methods: how the optimizer is followed;
    settled: whether it starts with the memory of a long run instead of none; x64: whether JAX
    computes in float64 where the parameters do not say otherwise. Raises ValueError for a value out
    of its range and for an unknown name.

    >>> setting = Setting("adam", {"b2": 0.95}, learning_rate=1e-4)
    >>> setting.arguments["b1"], setting.key()
    (0.9, 'adam-lr0.0001-...')
    """

    optimizer: str = "adam"
    arguments: Mapping[str, Argument] = field(default_factory=dict, hash=False)
    learning_rate: float = 1e-3
    steps: int = 200
    problem: str = "digits"
    seed: int = 0
    methods: tuple[str, ...] = METHODS
    settled: bool = False
    x64: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(
                "--learning-rate: expected a positive finite number, "
                f"got {self.learning_rate}; for example 1e-3"
            )
        for name, least, example in (("steps", 1, 200), ("seed", 0, 0)):
            whole(f"--{name}", getattr(self, name), least, example)
        if not self.methods or set(self.methods) - set(get_args(Method)):
            raise ValueError(
                f"--methods: expected one or more of {' '.join(get_args(Method))}, "
                f"got {' '.join(self.methods) or 'none'}"
            )
        if "collocation" in self.methods and not self.settled:
            raise ValueError(
                "--methods: expected methods that follow a cold start, got collocation, which "
                "describes a settled memory; add --settled"
            )
        object.__setattr__(self, "learning_rate", float(self.learning_rate))
        object.__setattr__(self, "arguments", completed(self.optimizer, self.arguments))

    @property
    def eps_root(self) -> float | None:
        """The ε under the root, None for an optimizer that has none or has it at 0."""
        return float(self.arguments.get("eps_root", 0.0)) or None

    def build(self) -> Optimizer:
        """The optimizer itself; ValueError or TypeError where the zoo refuses an argument."""
        from ...optimizers import zoo

        return getattr(zoo, self.optimizer)(**self.arguments)

    def key(self) -> str:
        """A short name that no other configuration has: readable, then a digest of everything."""
        return f"{self.optimizer}-lr{self.learning_rate:g}-{digest(dataclasses.asdict(self))[:8]}"
