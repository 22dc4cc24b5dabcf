"""Several shadows of one run, each measured against it, first order being run once per kind."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from ..methods import planned
from ..running import Trajectory, followed
from ..shadow import Shadow, shadowed
from .ways import Way


def shadows_along(
    real: Trajectory,
    run: tuple,
    ways: Iterable[Way],
    *,
    start: Any = 0,
    save_every: int = 1,
    progress: Callable[[int], Any] | None = None,
) -> Iterator[tuple[Way, Shadow]]:
    """(way, shadow) one by one; run: problem, optimizer, params, learning rate, steps of ``real``.

    A way's order "auto" is returned as the number that was chosen. The start that a method needs
    to be settled is ``start`` itself, the state that ``real`` began in.
    """
    given, firsts = followed(*run, start), {}
    for way in ways:
        plan = planned(given, **way._asdict())
        known: dict[str, Any] = {"save_every": save_every, "progress": progress}
        follow = shadowed(given, plan, real, first=firsts.get(plan.kind), **known)
        if plan.order == 1:
            firsts[plan.kind] = follow
        yield way._replace(order=plan.order), follow
