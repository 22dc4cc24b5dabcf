"""The picture of ``shadowflow orders``, from its numbers alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...files import write
from ...paper.figures.style import COLOURS, MARK, positive, styled

LEFT = 0.1  # of the way gone: a method that is farther away has left
DASHES = {1: "-", 2: "-", 3: (0, (5, 2)), 4: (0, (2, 1.5))}
EDGE = {"color": MARK, "lw": 0.9, "ls": (0, (4, 3))}


def draw(found: Mapping[str, Any], path: Path) -> Path:
    """Error against step size over how near the edges are, and distance against steps over that."""
    from matplotlib import pyplot as plt

    parts = {part: panels for part, panels in (("sweep", _sweep), ("long", _long)) if found[part]}
    with styled():
        size = 7.5 if len(parts) == 1 else 11.2, 6.6
        figure, axes = plt.subplots(
            2, len(parts), figsize=size, squeeze=False, sharex="col", height_ratios=[2.4, 1]
        )
        for column, panels in zip(axes.T, parts.values(), strict=True):
            panels(*column, found)
        handles, labels = axes[0, -1].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=2 + len(parts), fontsize=8)
        write(path, lambda draft: figure.savefig(draft, dpi=150, format="png"))
        plt.close(figure)
    return path


def _look(line: Mapping[str, Any]) -> dict[str, Any]:
    family = "first order" if line["order"] == 1 else line["method"]
    return {
        "color": COLOURS.get(family, "#000000"),
        "lw": 1.5,
        "label": line["name"],
        "linestyle": DASHES.get(line["order"], (0, (1, 1))),
    }


def _edges(axis, found: Mapping[str, Any]) -> None:
    for edge, level in found["edges"].items():
        axis.axhline(level, **EDGE)
        place = {"xy": (0.01, level), "xycoords": ("axes fraction", "data")}
        axis.annotate(f"{edge}, {level:.2g}", **place, ha="left", va="bottom", fontsize=8)
    axis.set(yscale="log", ylabel="learning rate × curvature")


def _sweep(top, bottom, found: Mapping[str, Any]) -> None:
    rows = [row for row in found["sweep"] if row["lines"]]
    rates = np.array([row["rate"] for row in rows])
    for line in found["lines"]:
        errors = [row["lines"][line["name"]]["error"] for row in rows]
        top.plot(rates, positive(errors), marker="o", ms=2.5, **_look(line))
    reach = positive([row["rate"] * row["curvature"] for row in rows])
    bottom.plot(rates, reach, color="#000000", lw=1.5)
    _edges(bottom, found)
    for level in found["edges"].values():
        past = int(np.argmax(reach > level))
        if past > 0:
            pair = slice(past - 1, past + 1)
            place = np.exp(np.interp(np.log(level), np.log(reach[pair]), np.log(rates[pair])))
            for axis in (top, bottom):
                axis.axvline(place, **EDGE)
    top.axhline(LEFT, color="#7f7f7f", lw=0.8, ls=":")
    title = f"after {found['steps']} steps; above the dots a method has left"
    top.set(xscale="log", yscale="log", ylabel="distance / way gone", title=title)
    top.set_ylim(top=30)
    bottom.set_xlabel("learning rate")


def _long(top, bottom, found: Mapping[str, Any]) -> None:
    long = found["long"]
    moved, late = positive(long["moved"]), [1.0]
    way = {"color": "#000000", "lw": 0.9, "ls": ":", "label": "way the optimizer has gone"}
    top.plot(np.asarray(long["steps"])[1:], moved[1:], **way)
    for line in found["lines"]:
        if line["name"] not in long["lines"]:
            continue
        ended, look = long["lines"][line["name"]], _look(line)
        steps, far = np.asarray(ended["steps"]), positive(ended["distance"])
        late += far[3:][np.isfinite(far[3:])].tolist()
        top.plot(steps, far, **look)
        if ended["left"] is not None and np.any(steps >= ended["left"]):
            left = int(np.argmax(steps >= ended["left"]))
            top.plot(steps[left], far[left], "x", ms=6, mew=1.6, color=look["color"])
    title = f"learning rate {long['rate']:g}; ×: the method leaves"
    top.set(xscale="log", yscale="log", ylabel="distance from the iterates, two-norm", title=title)
    top.set_ylim(min(late) / 4, float(np.nanmax(moved)) * 60)
    steps, values = long["curvature"].values()
    reach = long["rate"] * np.asarray(values, float)
    bottom.plot(steps, reach, color="#000000", lw=1.5, marker="o", ms=3)
    _edges(bottom, found)
    bottom.set_xlabel("step")
