"""The optimizers of the zoo with their arguments, as plain data: known without JAX.

A test holds every class against the signature of its constructor in `optimizers.zoo`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

Argument = float | bool | str
LARGEST = 2**31 - 1
"""Of the whole numbers that are given: what JAX counts with."""


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
class Nesterov(Momentum):
    """Nesterov momentum."""


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
class _RatioOfAverages:
    b1: float = 0.9
    """β, the decay of the gradients."""
    b2: float = 0.999
    """ρ, the decay of the squared gradients."""
    eps: float = 1e-8
    """Added to the root."""
    eps_root: float = 0.0
    """Added under the root."""


@dataclass(frozen=True)
class Adam(_RatioOfAverages):
    """Adam."""

    bias_correction: bool = True
    """Divide the moments by 1 − β^(n+1) and 1 − ρ^(n+1)."""


@dataclass(frozen=True)
class Adamw(_RatioOfAverages):
    """Adam with decoupled weight decay."""

    weight_decay: float = 1e-4
    """λ, the part of the parameters that is added to the direction."""
    bias_correction: bool = True
    """Divide the moments by 1 − β^(n+1) and 1 − ρ^(n+1)."""


@dataclass(frozen=True)
class Nadam(_RatioOfAverages):
    """Adam with Nesterov momentum."""

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

OPTIMIZERS: dict[str, type[Choice]] = {kind.__name__.lower(): kind for kind in get_args(Choice)}


def named(choice: Choice) -> tuple[str, dict[str, Argument]]:
    """The name of an optimizer in the zoo, and its arguments.

    >>> named(Momentum(0.5))
    ('momentum', {'decay': 0.5, 'form': 'trace', 'bias_correction': False})
    """
    return type(choice).__name__.lower(), dataclasses.asdict(choice)


def completed(optimizer: str, arguments: Mapping[str, Argument]) -> dict[str, Argument]:
    """All arguments of an optimizer, defaults filled in, whole numbers as floats.

    >>> completed("signum", {"decay": 0})
    {'decay': 0.0, 'eps_root': 1e-08, 'bias_correction': False}
    """
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


def whole(flag: str, value: Any, least: int, example: int | None = None) -> None:
    """ValueError for what is no whole number from ``least`` to ``LARGEST``.

    >>> whole("--steps", 0, 1, 200)
    Traceback (most recent call last):
    ValueError: --steps: expected a whole number from 1 to 2,147,483,647, got 0; for example 200
    """
    good = isinstance(value, int) and not isinstance(value, bool) and least <= value <= LARGEST
    if not good:
        given = "" if example is None else f"; for example {example}"
        wanted = f"a whole number from {least} to {LARGEST:,}"
        raise ValueError(f"{flag}: expected {wanted}, got {value!r}{given}")
