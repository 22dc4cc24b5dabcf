"""Beyond the paper: the constants of Theorems B.4, C.4, D.4 and E.4, and what ε does to them.

C = max |θ_n − θ(nh)|_∞ / h² over a fixed horizon, of the second-order flow from a cold start, full
batch, on two losses: that of Figure 2, where no component of the gradient comes near 0, and a
parabola on whose way one does, so that the sign-like direction turns there. ε inside the root
stands beside √ε outside.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ...diagnostics.comparison import compare
from ...iterate import iterate
from ...lab.models import BILINEAR
from ...optimizers import zoo
from ...optimizers.moments import Optimizer
from ...problem import Problem
from ...shadow import shadow
from ..evidence import Evidence, below, near
from ..theorems import ADAM, HORIZON, RMSPROP
from ..ways import Way
from . import Arrays, Data, Progress, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "The constants of the theorems against ε"
DATA = ()
PARABOLA = Problem(lambda x: (x[0] - 1) ** 2 / 2 + (x[1] + 5) ** 2 / 2)
LOSSES = {
    "away from 0": (BILINEAR, (2.8, 3.5)),
    "near 0": (PARABOLA, (1.2, 0.0)),
}
FAMILIES = {
    "B.4": ("rmsprop", RMSPROP, "outside"),
    "C.4": ("rmsprop", RMSPROP, "inside"),
    "D.4": ("adam", ADAM, "outside"),
    "E.4": ("adam", ADAM, "inside"),
}
WAY = Way("taylor", 2, "flow")
GUIDE = -0.5  # of ε, were errors √ε · f(h/√ε), as where |g| is about √ε all lengths scale by it


@dataclass(frozen=True)
class Constants:
    """√ε, falling; the two step sizes at which C must be the same; how many small ε are fitted."""

    roots: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03, 0.01, 0.003)
    rates: tuple[float, float] = (2.0**-12, 2.0**-14)
    fitted: int = 3


SCALES = {
    "smoke": Constants((1.0, 0.3, 0.1, 0.03), (2.0**-9, 2.0**-11), 2),
    "full": Constants(),
}


def optimizer_of(family: str, root: float) -> Optimizer:
    """The optimizer of a theorem, ε = root² inside or root outside."""
    name, decays, side = FAMILIES[family]
    eps = {"eps": 0.0, "eps_root": root**2} if side == "inside" else {"eps": root}
    return getattr(zoo, name)(**decays, **eps)


def compute(settings: Constants, data: Data, progress: Progress) -> dict[str, np.ndarray]:
    """ "<loss>/<theorem>": C [ε, step sizes]."""
    shape = len(settings.roots), len(settings.rates)
    progress.total = len(LOSSES) * len(FAMILIES) * np.prod(shape)
    arrays = {}
    with jax.enable_x64(True):
        for (loss, (problem, start)), family in itertools.product(LOSSES.items(), FAMILIES):
            found = arrays[f"{loss}/{family}"] = np.empty(shape)
            for i, j in np.ndindex(shape):
                optimizer, rate = optimizer_of(family, settings.roots[i]), settings.rates[j]
                run = problem, optimizer, jnp.asarray(start), rate, round(HORIZON / rate)
                gap = compare(iterate(*run), shadow(*run, **WAY._asdict())).max_norm
                found[i, j] = gap.max() / rate**2
                progress.update(1)
    return arrays


def exponents(arrays: Arrays, settings: Constants, loss: str) -> dict[str, float]:
    """Theorem → the slope of log C against log ε over the smallest ε, at the smaller step."""
    eps = 2 * np.log(settings.roots[-settings.fitted :])
    fit = lambda c: float(np.polyfit(eps, np.log(c[-settings.fitted :, -1]), 1)[0])
    return {family: fit(arrays[f"{loss}/{family}"]) for family in FAMILIES}


def evidence(arrays: Arrays, settings: Constants) -> list[Evidence]:
    """C is one; as ε → 0 it stays or grows, as the gradient is away from 0 or not."""
    rows = []
    for loss in LOSSES:
        constants = {family: arrays[f"{loss}/{family}"] for family in FAMILIES}
        ratios = [float(np.max(np.abs(c[:, 0] / c[:, 1] - 1))) for c in constants.values()]
        claim = (
            f"gradient {loss}: the error over h² is a constant; largest change of it, h quartered"
        )
        run = {name: c.tolist() for name, c in constants.items()}
        rows.append(below(claim, ratios, 0.25, **run))
        for family, slope in exponents(arrays, settings, loss).items():
            claim = f"Theorem {family}, gradient {loss}: C as ε → 0; observed exponent of ε"
            if loss == "near 0":
                rows.append(below(claim, slope, -0.3))
            else:
                rows.append(near(claim, slope, 0, 0.02))
    return rows


def caption(arrays: Arrays, settings: Constants) -> str:
    """What is drawn, and the exponents."""
    told = [
        f"{loss}, {', '.join(f'{family} {slope:.2f}' for family, slope in found.items())}"
        for loss in LOSSES
        for found in [exponents(arrays, settings, loss)]
    ]
    return (
        f"C = max |θ_n − θ(nh)| / h² over the time {HORIZON:g}, of the second-order flow, full "
        f"batch, cold start, float64; ε inside the root (C.4, E.4) and √ε outside (B.4, D.4); "
        f"decays {RMSPROP['decay']:g} (RMSProp) and {ADAM['b1']:g}, {ADAM['b2']:g} (Adam). Large "
        f"marks: h = {settings.rates[0]:.2g}, small: {settings.rates[1]:.2g}. (a) The loss of "
        f"Figure 2: every component of the gradient stays far from 0, and C does not depend on a "
        f"small ε. (b) A parabola on whose way a component comes near 0 at the time 0.2: C grows. "
        f"Dotted: ε^(−1/2), for comparison. Observed "
        f"exponents over the smallest {settings.fitted} ε: {'; '.join(told)}."
    )


def draw(arrays: Arrays, settings: Constants) -> Figure:
    """The figure from its arrays: a panel a loss."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(style.PAGE, 2.9))
    eps = np.square(settings.roots)
    colours = {"rmsprop": style.COLOURS["taylor"], "adam": style.COLOURS["displaced"]}
    names = {"rmsprop": "RMSProp", "adam": "Adam"}
    for axis, loss in zip(axes, LOSSES, strict=True):
        for family, (optimizer, _, side) in FAMILIES.items():
            constants = arrays[f"{loss}/{family}"]
            look = {"color": colours[optimizer], "ls": "-" if side == "inside" else "--"}
            label = f"{family}: {names[optimizer]}, {side}"
            axis.plot(eps, constants[:, 0], marker="o", ms=5, mfc="none", lw=0, color=look["color"])
            axis.plot(eps, constants[:, 1], marker="o", ms=2.5, label=label, **look)
        axis.set(
            xscale="log", yscale="log", xlabel="ε (outside: its root)", title=f"gradient {loss}"
        )
        axis.invert_xaxis()
    highest = max(arrays[f"near 0/{family}"][-1, -1] for family in FAMILIES)
    guide = 2 * highest * (eps / eps[-1]) ** GUIDE
    axes[1].plot(eps, guide, color="black", ls=":", lw=0.9, label="ε$^{-1/2}$")
    axes[0].set(ylabel="C = error / h²", ylim=(0.1, 100))
    style.letter(list(axes))
    figure.legend(*axes[1].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    return figure
