"""Figure 2: where Adam ends on the hyperbola of minimizers of ½(3/2 − 2θ₁θ₂)².

Near the hyperbola the one-norm of the gradient is proportional to the one-norm of the parameters:
penalizing it (β > ρ) bends the path towards points of smaller one-norm, anti-penalizing it
(ρ > β) away from them, and the more so the larger the learning rate. The first-order flow cannot
see any of the three.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...diagnostics.comparison import compare
from ...iterate import iterate
from ...lab.models import bilinear_problem
from ...optimizers import zoo
from ..along import shadows_along
from ..evidence import Evidence, below, ordered
from ..ways import Way
from . import Arrays, Data, Progress, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Adam on a bilinear model: which minimizer it reaches"
DATA = ()
FLOWS = {
    "first order": Way("displaced", 1, "flow"),
    "modified": Way("displaced", 2, "flow"),
    "inertial": Way("inertial", 2, "flow"),
}


class AdamRun(NamedTuple):
    """One run of Adam."""

    b1: float
    b2: float
    rate: float

    @property
    def key(self) -> str:
        """The name of its arrays."""
        return f"{self.b1:g}/{self.b2:g}/{self.rate:g}"


@dataclass(frozen=True)
class BilinearRuns:
    """Left: β varied at ``middle`` ρ, ρ at ``middle`` β. Right: learning rates, ρ < β and ρ > β."""

    eps_root: float = 1e-2
    horizon: float = 8.0
    least_steps: int = 6000
    middle: float = 0.9
    rate: float = 1e-3
    b1s: tuple[float, ...] = (0.5, 0.9, 0.95, 0.97)
    b2s: tuple[float, ...] = (0.5, 0.9, 0.95, 0.99)
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3, 1e-2)
    small_b2: float = 0.5
    large_b2: float = 0.99

    def families(self) -> dict[str, list[AdamRun]]:
        """Name → the runs in which one number varies, in its order."""
        middle = self.middle
        return {
            "beta": [AdamRun(b1, middle, self.rate) for b1 in self.b1s],
            "rho": [AdamRun(middle, b2, self.rate) for b2 in self.b2s],
            "below": [AdamRun(middle, self.small_b2, rate) for rate in self.rates],
            "above": [AdamRun(middle, self.large_b2, rate) for rate in self.rates],
        }

    def curves(self) -> list[AdamRun]:
        """All runs, each once."""
        return list(dict.fromkeys(run for family in self.families().values() for run in family))


SCALES = {
    "smoke": BilinearRuns(b1s=(0.5, 0.97), b2s=(0.5, 0.99), rates=(1e-3, 1e-2), least_steps=6000),
    "full": BilinearRuns(),
}


def compute(settings: BilinearRuns, data: Data, progress: Progress) -> dict[str, np.ndarray]:
    """Per run: Adam's path and its last gradient; per flow the path, its distance, its verdict."""
    arrays: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        problem, start = bilinear_problem()
        progress.total = len(settings.curves()) * (1 + len(FLOWS))
        for curve in settings.curves():
            adam = zoo.adam(b1=curve.b1, b2=curve.b2, eps=0.0, eps_root=settings.eps_root)
            steps = max(settings.least_steps, round(settings.horizon / curve.rate))
            run = problem, adam, jnp.float64(start), curve.rate, steps
            save_every = max(1, steps // 3000)
            real = iterate(*run, save_every=save_every)
            gradient = problem.gradient(jnp.asarray(real.last))
            arrays[f"{curve.key}/adam/path"] = np.asarray(real.params)
            arrays[f"{curve.key}/adam/gradient"] = np.abs(gradient).max()
            progress.update(1)
            shadows = shadows_along(real, run, FLOWS.values(), save_every=save_every)
            for name, (_, follow) in zip(FLOWS, shadows, strict=True):
                arrays[f"{curve.key}/{name}/path"] = np.asarray(follow.params)
                arrays[f"{curve.key}/{name}/distance"] = compare(real, follow).max_norm
                arrays[f"{curve.key}/{name}/verdict"] = np.asarray(follow.validity.level)
                progress.update(1)
    return arrays


def limit(arrays: Arrays, curve: AdamRun, name: str) -> float:
    """The one-norm of the parameters where a path ends."""
    return float(np.abs(arrays[f"{curve.key}/{name}/path"][-1]).sum())


def evidence(arrays: Arrays, settings: BilinearRuns) -> list[Evidence]:
    """The orderings of the limit points, the paths' distances, and that limits were reached."""
    curves = settings.curves()
    distances = {
        curve.key: {name: float(np.max(arrays[f"{curve.key}/{name}/distance"])) for name in FLOWS}
        for curve in curves
    }
    verdicts = {
        curve.key: {name: str(arrays[f"{curve.key}/{name}/verdict"]) for name in FLOWS}
        for curve in curves
    }
    ratio = lambda name: [d[name] / d["first order"] for d in distances.values()]
    spread = lambda name: float(np.ptp([limit(arrays, curve, name) for curve in curves]))
    run = {"largest distances of β/ρ/h": distances, "verdicts": verdicts}
    over = "largest distance from Adam's path over that of first order, every run"
    return [
        *_orderings(arrays, settings),
        below(
            "the first-order flow sees none of this: spread of its one-norms over that of Adam's",
            spread("first order") / spread("adam"),
            0.01,
        ),
        below(f"the modified flow: {over}", ratio("modified"), 1.0, **run),
        below(f"the inertial flow: {over}", ratio("inertial"), 0.01),
        below(
            "Adam has reached its minimizer: largest gradient at the end, every run",
            [float(arrays[f"{curve.key}/adam/gradient"]) for curve in curves],
            1e-6,
        ),
    ]


def _orderings(arrays: Arrays, settings: BilinearRuns) -> Iterator[Evidence]:
    families = settings.families()
    for name, said, end in (
        ("beta", "larger β", "smaller"),
        ("rho", "larger ρ", "larger"),
        ("below", "larger learning rate at ρ < β", "smaller"),
        ("above", "larger learning rate at ρ > β", "larger"),
    ):
        run = {"curves": [curve._asdict() for curve in families[name]]}
        for path, who in (("adam", "Adam"), ("modified", "the modified flow")):
            limits = [limit(arrays, curve, path) for curve in families[name]]
            claim = f"{said}: {who} ends at a point of {end} one-norm"
            yield ordered(claim, limits, end == "larger", **run)


def caption(arrays: Arrays, settings: BilinearRuns) -> str:
    """What the figure shows, for a reader of the paper."""
    ratios = [
        np.max(arrays[f"{curve.key}/modified/distance"])
        / np.max(arrays[f"{curve.key}/first order/distance"])
        for curve in settings.curves()
    ]
    return (
        f"Full-batch Adam (solid) on E(θ) = ½(3/2 − 2θ₁θ₂)² from (2.8, 3.5), ε = "
        f"{settings.eps_root:g} inside the root, and its second-order modified flow (dashed); the "
        f"whole way in the insets. Grey: level sets of E; black: its minimizers θ₁θ₂ = 3/4; "
        f"shaded: points of smaller one-norm than the end of the first-order flow (dotted), "
        f"which is the same for all. (a) h = {settings.rate:g}: larger β ends at smaller, larger ρ "
        f"at larger one-norms. (b) Larger h moves the end to smaller one-norms at ρ = "
        f"{settings.small_b2:g} < β = {settings.middle:g} and to larger ones at ρ = "
        f"{settings.large_b2:g} > β. The modified flow's largest distance from Adam is "
        f"{min(ratios):.2g} to {max(ratios):.2g} of the first-order flow's. It does not hold "
        f"everywhere: near the hyperbola h times the curvature passes the flow edge of most runs, "
        f"Adam's path begins to oscillate, and the flow's own verdict says so; the inertial flow "
        f"(in the evidence) goes on."
    )


def draw(arrays: Arrays, settings: BilinearRuns) -> Figure:
    """The figure from its arrays."""
    from matplotlib import pyplot as plt

    families = settings.families()
    figure, axes = plt.subplots(1, 2, figsize=(style.PAGE, 4.4))
    views = (((0.52, 0.70), (1.22, 1.40)), ((0.36, 0.96), (1.02, 1.62)))
    left = dict.fromkeys(families["beta"] + families["rho"])
    right = families["below"], families["above"]
    for axis, view in zip(axes, views, strict=True):
        _ground(axis, view, limit(arrays, settings.curves()[0], "first order"))
    for curve, colour in zip(left, style.shades(len(left), "turbo"), strict=True):
        _paths(axes[0], arrays, curve, colour, f"β = {curve.b1:g}, ρ = {curve.b2:g}")
    for family, name in zip(right, ("Blues", "Oranges"), strict=True):
        for index, curve in enumerate(family):
            colour = plt.get_cmap(name)(0.95 - 0.5 * index / max(1, len(family) - 1))
            _paths(axes[1], arrays, curve, colour, f"ρ = {curve.b2:g}, h = {curve.rate:g}")
    axes[0].set_title(f"h = {settings.rate:g}; β and ρ varied")
    axes[1].set_title(f"β = {settings.middle:g}; h varied at ρ < β and ρ > β")
    style.letter(axes)
    for axis, curves in zip(axes, (left, right[0] + right[1]), strict=True):
        _inset(axis, arrays, list(curves))
        axis.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)
    return figure


def _ground(axis, view, norm: float) -> None:
    """Level sets, the hyperbola, and the side of smaller one-norm."""
    x, y = (np.linspace(*side, 300) for side in view)
    loss = 0.5 * (1.5 - 2 * x[None, :] * y[:, None]) ** 2
    axis.contour(x, y, loss, levels=np.geomspace(1e-3, 1e2, 11), colors="0.8", linewidths=0.6)
    axis.plot(x, 0.75 / x, color="black", lw=1.6)
    axis.fill_between(x, view[1][0], norm - x, color="0.5", alpha=0.12, lw=0)
    axis.set(xlabel="θ$_1$", ylabel="θ$_2$", xlim=view[0], ylim=view[1], aspect="equal")
    axis.grid(False)


def _paths(axis, arrays, curve: AdamRun, colour, label: str) -> None:
    adam, modified = (arrays[f"{curve.key}/{name}/path"] for name in ("adam", "modified"))
    axis.plot(*arrays[f"{curve.key}/first order/path"].T, color="0.45", lw=0.8, ls=":")
    axis.plot(*adam.T, color=colour, lw=1.2, label=label)
    axis.plot(*modified.T, color=colour, lw=1.2, ls=(0, (3, 2)), alpha=0.8)
    axis.plot(*adam[-1], "o", color=colour, ms=4, zorder=4)


def _inset(axis, arrays, curves: list[AdamRun]) -> None:
    """The whole way, from the start."""
    inset = axis.inset_axes((0.66, 0.04, 0.32, 0.32))
    for curve in curves:
        inset.plot(*arrays[f"{curve.key}/adam/path"].T, lw=0.7, color="0.3")
    x = np.linspace(0.15, 3.6, 200)
    inset.plot(x, 0.75 / x, color="black", lw=1.2)
    inset.plot(2.8, 3.5, "k*", ms=5)
    inset.set(xlim=(0, 3.2), ylim=(0, 3.8), xticks=(), yticks=())
    inset.grid(False)
