"""How figures look: the style file beside this one, and a colour for every method."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ...files import write

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FILE = Path(__file__).with_name("style.mplstyle")
PAGE = 6.75
COLOURS = {
    "first order": "#7f7f7f",
    "taylor": "#d55e00",
    "displaced": "#0072b2",
    "linearized": "#56b4e9",
    "differences": "#cc79a7",
    "collocation": "#e69f00",
    "inertial": "#009e73",
}
MARK = "#d55e00"


@contextmanager
def styled(*more: str | Path) -> Generator[None]:
    """Matplotlib in the style of the figures, and of the style files ``more`` on top of it."""
    import matplotlib

    matplotlib.use("Agg", force=False)
    from matplotlib import pyplot as plt

    with plt.style.context([str(FILE), *map(str, more)]):
        yield


def shades(count: int, name: str = "viridis") -> list[tuple[float, float, float, float]]:
    """``count`` colours in an order that the eye sees, none too pale for paper."""
    from matplotlib import colormaps

    return [colormaps[name](0.85 * index / max(1, count - 1)) for index in range(count)]


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
