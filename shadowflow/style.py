"""How pictures look: the style file beside this one, and a colour for every method."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

FILE = Path(__file__).with_name("style.mplstyle")
COLOURS = {
    "first order": "#7f7f7f",
    "taylor": "#d55e00",
    "displaced": "#0072b2",
    "linearized": "#56b4e9",
    "differences": "#cc79a7",
    "collocation": "#e69f00",
    "inertial": "#009e73",
}
INK, FAINT, MARK = "#000000", "#7f7f7f", "#d55e00"


@contextmanager
def context(*more: str | Path) -> Generator[None]:
    """Matplotlib in the style of the pictures, and of the style files ``more`` on top of it.

    Raises ImportError where matplotlib is not installed.
    """
    try:
        from matplotlib import style
    except ImportError as error:
        raise ImportError(
            "matplotlib: expected it to be installed, for pictures, but it is not; "
            "pip install 'shadowflow[cli]'."
        ) from error
    with style.context([str(FILE), *map(str, more)]):
        yield
