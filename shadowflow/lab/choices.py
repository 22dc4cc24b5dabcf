"""The optimizers of the zoo with their arguments, as plain data: known without JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Argument = float | bool | str


@dataclass(frozen=True)
class Sgd:
    """Gradient descent."""


@dataclass(frozen=True)
class Momentum:
    """Heavy-ball momentum."""

    decay: float = 0.9
    """β, the decay of the moment."""
    form: Literal["trace", "ema"] = "trace"
    """A sum of past gradients, or their average, 1−β times as long."""
    bias_correction: bool = False
    """Divide the moment by 1 − β^(n+1)."""


@dataclass(frozen=True)
class Nesterov:
    """Nesterov momentum."""

    decay: float = 0.9
    """β, the decay of the moment."""
    form: Literal["trace", "ema"] = "trace"
    """A sum of past gradients, or their average, 1−β times as long."""
    bias_correction: bool = False
    """Divide the moment by 1 − β^(n+1)."""


@dataclass(frozen=True)
class Rmsprop:
    """RMSProp."""

    decay: float = 0.9
    """ρ, the decay of the squared gradients."""
    eps: float = 1e-8
    """Added to the root."""
    eps_root: float = 0.0
    """Added under the root."""
    bias_correction: bool = False
    """Divide the moment by 1 − ρ^(n+1)."""


@dataclass(frozen=True)
class Adam:
    """Adam."""

    b1: float = 0.9
    """β, the decay of the gradients."""
    b2: float = 0.999
    """ρ, the decay of the squared gradients."""
    eps: float = 1e-8
    """Added to the root."""
    eps_root: float = 0.0
    """Added under the root."""
    bias_correction: bool = True
    """Divide the moments by 1 − β^(n+1) and 1 − ρ^(n+1)."""


@dataclass(frozen=True)
class Adamw:
    """Adam with decoupled weight decay."""

    b1: float = 0.9
    """β, the decay of the gradients."""
    b2: float = 0.999
    """ρ, the decay of the squared gradients."""
    eps: float = 1e-8
    """Added to the root."""
    eps_root: float = 0.0
    """Added under the root."""
    weight_decay: float = 1e-4
    """λ, the part of the parameters that is added to the direction."""
    bias_correction: bool = True
    """Divide the moments by 1 − β^(n+1) and 1 − ρ^(n+1)."""


@dataclass(frozen=True)
class Nadam:
    """Adam with Nesterov momentum."""

    b1: float = 0.9
    """β, the decay of the gradients."""
    b2: float = 0.999
    """ρ, the decay of the squared gradients."""
    eps: float = 1e-8
    """Added to the root."""
    eps_root: float = 0.0
    """Added under the root."""
    bias_correction: bool = True
    """Divide the moments by 1 − β^(n+2), 1 − β^(n+1) and 1 − ρ^(n+1)."""


@dataclass(frozen=True)
class Signum:
    """The smoothed sign of momentum."""

    decay: float = 0.9
    """β, the decay of the moment."""
    eps_root: float = 1e-8
    """ε of the smoothed sign x / √(x² + ε)."""
    bias_correction: bool = False
    """Divide the moment by 1 − β^(n+1)."""


@dataclass(frozen=True)
class Lion:
    """Lion, with a smoothed sign."""

    b1: float = 0.9
    """The share of the moment in the direction."""
    b2: float = 0.99
    """The decay of the moment."""
    eps_root: float = 1e-8
    """ε of the smoothed sign x / √(x² + ε)."""
    bias_correction: bool = False
    """Divide the moment by 1 − β₂^(n+1)."""


Choice = Sgd | Momentum | Nesterov | Rmsprop | Adam | Adamw | Nadam | Signum | Lion

OPTIMIZERS: dict[str, type[Choice]] = {
    "sgd": Sgd,
    "momentum": Momentum,
    "nesterov": Nesterov,
    "rmsprop": Rmsprop,
    "adam": Adam,
    "adamw": Adamw,
    "nadam": Nadam,
    "signum": Signum,
    "lion": Lion,
}


def completed(optimizer: str, arguments: Mapping[str, Argument]) -> dict[str, Argument]:
    """The arguments with defaults filled in, in the zoo's order, whole numbers as floats."""
    defaults = dataclasses.asdict(OPTIMIZERS[optimizer]())
    unknown = sorted(set(arguments) - set(defaults))
    if unknown:
        raise ValueError(
            f"opt:{optimizer}: expected arguments among {', '.join(defaults) or 'none'}, "
            f"got {', '.join(unknown)}"
        )
    given = {**defaults, **arguments}
    return {
        name: value if isinstance(value, bool | str) else float(value)
        for name, value in given.items()
    }
