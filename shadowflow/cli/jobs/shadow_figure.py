"""The picture of one setting: how far each shadow is, and how far into its range the theory is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ...files import write
from ...paper.figures.style import COLOURS, styled
from ...trust import HOLDS, PARTLY


def draw(arrays: Mapping[str, np.ndarray], title: str, path: Path) -> Path:
    """Draw a setting from its arrays alone (the npz of ``shadow_job``) to a PNG.

    arrays: "steps", "moved", and per row "<name>/two_norm", "<name>/steps", "<name>/ratio".
    """
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
    method, order, kind = name.split(" / ")
    family = "first order" if order == "order 1" else method
    label = f"{family}, {kind}" if order == "order 1" else f"{method}, {order}, {kind}"
    style = "-" if kind == "flow" else (0, (4, 2))
    return {"color": COLOURS.get(family, "#000000"), "linestyle": style, "label": label}


def _distances(axis, arrays, names) -> None:
    axis.plot(
        arrays["steps"],
        arrays["moved"],
        color="#000000",
        lw=0.8,
        ls=":",
        label="distance moved by the optimizer",
    )
    for name in names:
        distance = arrays[f"{name}/two_norm"]
        shown = np.where(distance > 0, distance, np.nan)
        axis.plot(arrays[f"{name}/saved"], shown, lw=1.5, **_line(name))
    late = [arrays[f"{name}/two_norm"][1 + len(arrays["steps"]) // 20 :] for name in names]
    low = min((float(values[values > 0].min()) for values in late if np.any(values > 0)), default=0)
    axis.set(
        yscale="log",
        xlabel="step",
        ylabel=r"distance from the optimizer, $\|\theta - \tilde\theta\|_2$",
    )
    if low > 0:
        axis.set_ylim(bottom=low / 5)


def _validity(axis, arrays, names) -> None:
    for low, high, colour, word in (
        (1e-6, HOLDS, "#009e73", "holds"),
        (HOLDS, PARTLY, "#e69f00", "in part"),
        (PARTLY, 1e6, "#d55e00", "does not hold"),
    ):
        axis.axhspan(low, high, color=colour, alpha=0.10, lw=0)
        axis.annotate(
            word,
            (
                0.99,
                np.sqrt(low * high)
                if word == "in part"
                else low * 1.15
                if low == PARTLY
                else high / 1.6,
            ),
            xycoords=("axes fraction", "data"),
            ha="right",
            fontsize=7,
            color=colour,
            va="center" if word == "in part" else "bottom",
        )
    seen = [HOLDS, PARTLY]
    for name in names:
        ratio = arrays[f"{name}/running_max"]
        shown = np.where(np.isfinite(ratio) & (ratio > 0), ratio, np.nan)
        axis.plot(arrays[f"{name}/steps"], shown, lw=1.5, **_line(name))
        late = shown[1 + len(shown) // 20 :]
        seen += [float(np.nanmin(late)), float(np.nanmax(late))] if np.any(late > 0) else []
    axis.set(yscale="log", xlabel="step", ylabel="correction relative to the step, running max.")
    axis.set_ylim(max(1e-5, min(seen) / 2), min(1e5, max(seen) * 3))
