"""A measured number beside an expected one, its tolerance, whether it holds, and its run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Evidence:
    """One claim on trial.

    claim: a sentence; expected: a number, or a condition on the number in words; measured: what
    the run gave; tolerance: how far measured may be from an expected number, None for conditions;
    holds: the verdict, False wherever a number is NaN; run: the configuration behind it.
    """

    claim: str
    expected: float | str
    measured: float | tuple[float, ...] | str
    tolerance: float | None
    holds: bool
    run: Mapping[str, Any] = field(default_factory=dict)


def near(claim: str, measured: float, expected: float, tolerance: float, **run: Any) -> Evidence:
    """Holds where |measured − expected| ≤ tolerance.

    >>> near("π", 3.14, 3.1416, 0.01).holds, near("π", float("nan"), 3.1416, 0.01).holds
    (True, False)
    """
    holds = abs(measured - expected) <= tolerance
    return Evidence(claim, expected, float(measured), tolerance, bool(holds), run)


def below(claim: str, measured: float | Sequence[float], bound: float, **run: Any) -> Evidence:
    """Holds where measured < bound; of a list each number, where there is one.

    >>> below("a ratio", 0.3, 1).expected, below("ratios", [0.3, 1.2], 1).holds
    ('< 1', False)
    """
    if isinstance(measured, Sequence):
        found = tuple(map(float, measured))
        holds = bool(found) and all(value < bound for value in found)
        return Evidence(claim, f"each < {bound:g}", found, None, holds, run)
    return Evidence(claim, f"< {bound:g}", float(measured), None, bool(measured < bound), run)


def above(claim: str, measured: float, bound: float, **run: Any) -> Evidence:
    """Holds where measured > bound."""
    return Evidence(claim, f"> {bound:g}", float(measured), None, bool(measured > bound), run)


def ordered(claim: str, measured: Sequence[float], rising: bool, **run: Any) -> Evidence:
    """Holds where every number is larger than the one before it, or with rising=False smaller.

    >>> ordered("grows", [1.0, 2.0, 2.0], True).holds
    False
    """
    found = tuple(map(float, measured))
    known = len(found) > 1 and np.all(np.isfinite(found))
    holds = bool(known and np.all(np.diff(found if rising else found[::-1]) > 0))
    return Evidence(claim, "rising" if rising else "falling", found, None, holds, run)


def said(claim: str, measured: str, expected: str, **run: Any) -> Evidence:
    """Holds where the word is the expected one."""
    return Evidence(claim, expected, measured, None, measured == expected, run)
