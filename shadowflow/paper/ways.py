"""A way of following an optimizer, as figures, claims and tables name it."""

from __future__ import annotations

from typing import Any, NamedTuple


class Way(NamedTuple):
    """The method, order and kind that ``shadow`` is called with: ``shadow(…, **way._asdict())``.

    order: a number, or "auto" before the shadow has chosen it.
    """

    method: str
    order: Any
    kind: str

    @property
    def name(self) -> str:
        """The name in tables and pictures; all memoryless methods share their first order.

        >>> Way("taylor", 2, "flow").name, Way("displaced", 1, "flow").name
        ('taylor 2, flow', 'first order, flow')
        """
        family = "first order" if self.order == 1 else f"{self.method} {self.order}"
        return f"{family}, {self.kind}"
