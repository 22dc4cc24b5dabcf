"""How the paper's figures are made: in files, on pages, in the style of all pictures."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...files import write
from ...plots import COLOURS as COLOURS, MARK as MARK, context

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAGE = 6.75


@contextmanager
def styled(*more: str | Path) -> Generator[None]:
    """``context`` without a screen, for pictures that go to files."""
    with context(*more):
        import matplotlib

        matplotlib.use("Agg", force=False)
        yield


def shades(count: int, name: str = "viridis") -> list[tuple[float, float, float, float]]:
    """``count`` colours in an order that the eye sees, none too pale for paper."""
    from matplotlib import colormaps

    return [colormaps[name](0.85 * index / max(1, count - 1)) for index in range(count)]


def positive(values: Any) -> np.ndarray:
    """The numbers that a logarithmic axis can show; NaN for all else, None among it."""
    array = np.asarray(values, float)
    return np.where(np.isfinite(array) & (array > 0), array, np.nan)


def letter(axes: Sequence) -> None:
    """(a), (b), … in front of the titles."""
    for index, axis in enumerate(axes):
        axis.set_title(f"({chr(ord('a') + index)}) {axis.get_title()}")


def save(figure: Figure, folder: Path) -> list[Path]:
    """figure.png and figure.pdf in ``folder``, without a date: equal arrays give equal files."""
    from matplotlib import pyplot as plt

    kinds = {"png": {"Software": None}, "pdf": {"CreationDate": None}}
    paths = [
        write(
            folder / f"figure.{kind}",
            lambda draft, kind=kind, said=said: figure.savefig(draft, format=kind, metadata=said),
        )
        for kind, said in kinds.items()
    ]
    plt.close(figure)
    return paths
