"""A way of following an optimizer, by name."""

from __future__ import annotations

from typing import Any, NamedTuple

from ..optimizers.moments import Optimizer
from ..problem import Problem
from ..shadow import Shadow, shadow


class Way(NamedTuple):
    """What ``shadow`` calls method, order and kind."""

    method: str
    order: int
    kind: str

    def shadow(
        self,
        problem: Problem,
        optimizer: Optimizer,
        params: Any,
        learning_rate: float,
        steps: int,
        **options: Any,
    ) -> Shadow:
        """The shadow of a run."""
        return shadow(
            problem,
            optimizer,
            params,
            learning_rate,
            steps,
            method=self.method,
            order=self.order,
            kind=self.kind,
            **options,
        )
