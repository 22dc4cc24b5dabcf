"""The picture of one setting: how far each shadow is, and how far the expansion can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from ...files import write
from ...paper.figures.style import COLOURS, positive, styled
from ...trust import HOLDS, PARTLY

BANDS = (  # from, to, colour, words and where they stand: their height, and which part is there
    (1e-6, HOLDS, "#009e73", "holds", HOLDS / 1.6, "bottom"),
    (HOLDS, PARTLY, "#e69f00", "in part", (HOLDS * PARTLY) ** 0.5, "center"),
    (PARTLY, 1e6, "#d55e00", "does not hold", PARTLY * 1.15, "bottom"),
)


def draw(arrays: Mapping[str, np.ndarray], title: str, path: Path) -> Path:
    """Draw a setting from its arrays alone (the npz of ``shadow_job``) to a PNG."""
    from matplotlib import pyplot as plt

    names = [key.removesuffix("/two_norm") for key in arrays if key.endswith("/two_norm")]
    with styled():
        figure, (left, right) = plt.subplots(1, 2, figsize=(9.0, 4.0), width_ratios=[1.15, 1])
        _distances(left, arrays, names)
        _validity(right, arrays, names)
        figure.suptitle(title, fontsize=10)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=7.5)
        write(path, lambda draft: figure.savefig(draft, dpi=160, format="png"))
        plt.close(figure)
    return path


def _line(name: str) -> dict:
    """The look of a line, and its name in the legend."""
    method, order, kind = name.split(" / ")
    family = "first order" if order == "order 1" else method
    label = f"{family}, {kind}" if order == "order 1" else f"{method}, {order}, {kind}"
    dashes = "-" if kind == "flow" else (0, (4, 2))
    return {"color": COLOURS.get(family, "#000000"), "ls": dashes, "label": label, "lw": 1.5}


def _distances(axis, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    look = {"color": "#000000", "lw": 0.8, "ls": ":", "label": "distance moved by the optimizer"}
    axis.plot(arrays["steps"], arrays["moved"], **look)
    lowest = []
    for name in names:
        distance = positive(arrays[f"{name}/two_norm"])
        axis.plot(arrays[f"{name}/saved"], distance, **_line(name))
        late = distance[1 + len(arrays["steps"]) // 20 :]
        lowest += [np.nanmin(late)] if np.any(late > 0) else []
    name = r"distance from the optimizer, $\|\theta - \tilde\theta\|_2$"
    axis.set(yscale="log", xlabel="step", ylabel=name)
    if lowest:
        axis.set_ylim(bottom=min(lowest) / 5)


def _validity(axis, arrays: Mapping[str, np.ndarray], names: Sequence[str]) -> None:
    for low, high, colour, words, height, part in BANDS:
        axis.axhspan(low, high, color=colour, alpha=0.10, lw=0)
        place = {"xy": (0.99, height), "xycoords": ("axes fraction", "data")}
        axis.annotate(words, **place, ha="right", va=part, fontsize=7, color=colour)
    seen = [HOLDS, PARTLY]
    for name in names:
        share = positive(arrays[f"{name}/running_max"])
        axis.plot(arrays[f"{name}/steps"], share, **_line(name))
        late = share[1 + len(share) // 20 :]
        seen += [np.nanmin(late), np.nanmax(late)] if np.any(late > 0) else []
    axis.set(yscale="log", xlabel="step", ylabel="distance over the way gone, largest so far")
    axis.set_ylim(max(1e-5, min(seen) / 2), min(1e5, max(seen) * 3))
