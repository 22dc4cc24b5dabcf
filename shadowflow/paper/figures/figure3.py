"""Figure 3: how far the memoryless iterations are from Adam on a real network.

A GELU perceptron 784–32–32–10 on the first 10,000 MNIST images, full-batch Adam: the largest
coordinate of θ_n − θ̃_n for the first-order iteration, the paper's second-order one (63), and the
other methods of this library, at several (h, ρ, ε).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ... import trees
from ...diagnostics.comparison import compare
from ...iterate import iterate
from ...lab.models import mlp_init, perceptron_problem
from ...optimizers import zoo
from ...problem import Problem
from ...shadow import settled_state
from ..along import shadows_along
from ..assumptions import JUMP, Assumptions, assumptions
from ..evidence import Evidence, above, below, ordered, said
from ..ways import Way
from . import Arrays, Data, Progress, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Adam and what should follow it, on MNIST"
DATA = ("mnist",)
FIRST, TAYLOR = "first order", "taylor 2"
LINES = {
    FIRST: Way("displaced", 1, "iteration"),
    TAYLOR: Way("taylor", 2, "iteration"),
    "displaced 2": Way("displaced", 2, "iteration"),
    "differences 2": Way("differences", 2, "iteration"),
    "inertial": Way("inertial", 2, "flow"),
}
COLLOCATION = {f"collocation {order}": Way("collocation", order, "iteration") for order in (2, 3)}
OVER = "distance from Adam at the end over first order's"
PROBE = 25  # after so many epochs the derivatives of the loss are taken again
SETTLED_ORDER = 4  # of the start: above every order that is followed from it


@dataclass(frozen=True)
class AdamCase:
    """One setting of Adam; role: what second order is claimed to do, "helps" or "fails"."""

    rate: float
    b2: float
    eps_root: float
    settled: bool = False
    role: str = "shown"

    @property
    def key(self) -> str:
        """The name of its arrays."""
        start = "settled" if self.settled else "cold"
        return f"{self.rate:g}/{self.b2:g}/{self.eps_root:g}/{start}"

    @property
    def said(self) -> str:
        """The setting in words."""
        start = ", settled start" if self.settled else ""
        return f"h = {self.rate:g}, ρ = {self.b2:g}, ε = {self.eps_root:g}{start}"

    def lines(self) -> dict[str, Way]:
        """Name → way of following it; collocation needs a settled memory."""
        return {**LINES, **COLLOCATION} if self.settled else LINES


@dataclass(frozen=True)
class PerceptronRuns:
    """The network, the data, the length of the runs, and the settings of Adam."""

    images: int = 10_000
    sizes: tuple[int, ...] = (784, 32, 32, 10)
    epochs: int = 100
    b1: float = 0.9
    seed: int = 0
    cases: tuple[AdamCase, ...] = (
        AdamCase(1e-5, 0.95, 1e-6, role="helps"),
        AdamCase(1e-4, 0.95, 1e-4, role="helps"),
        AdamCase(1e-5, 0.95, 1e-6, settled=True, role="helps"),
        AdamCase(1e-4, 0.95, 1e-6, settled=True),
        AdamCase(1e-4, 0.95, 1e-6),
        AdamCase(1e-4, 0.999, 1e-8, role="fails"),
        AdamCase(1e-3, 0.95, 1e-6, role="fails"),
        AdamCase(1e-3, 0.999, 1e-8, role="fails"),
    )


SCALES = {
    "smoke": PerceptronRuns(
        images=500,
        epochs=30,
        cases=(
            AdamCase(1e-5, 0.95, 1e-6, role="helps"),
            AdamCase(1e-5, 0.95, 1e-6, settled=True),
            AdamCase(1e-3, 0.999, 1e-8, role="fails"),
        ),
    ),
    "full": PerceptronRuns(),
}


def problem_of(settings: PerceptronRuns, data: Data) -> tuple[Problem, Any]:
    """The loss on the first images, pixels from 0 to 1, and the float64 start."""
    images = data["mnist"].train_images[: settings.images]
    pixels = images.reshape(len(images), -1) / 255.0
    problem = perceptron_problem(pixels, data["mnist"].train_labels[: settings.images])
    return problem, mlp_init(jax.random.key(settings.seed), settings.sizes, jnp.float64)


def compute(settings: PerceptronRuns, data: Data, progress: Progress) -> dict[str, np.ndarray]:
    """Per setting: the loss, the distance moved, and every method's distance and verdict."""
    arrays: dict[str, np.ndarray] = {}
    with jax.enable_x64(True):
        problem, start = problem_of(settings, data)
        progress.total = settings.epochs * sum(1 + len(case.lines()) for case in settings.cases)
        for case in settings.cases:
            adam = zoo.adam(b1=settings.b1, b2=case.b2, eps=0.0, eps_root=case.eps_root)
            begun = 0
            if case.settled:
                begun = settled_state(problem, adam, start, case.rate, order=SETTLED_ORDER)
            run = problem, adam, start, case.rate, settings.epochs
            real = iterate(*run, start=begun, progress=progress.update)
            places = start, jax.tree.map(jnp.asarray, real.last)
            arrays[f"{case.key}/loss"] = np.array([float(problem.value(place)) for place in places])
            rows = trees.flat_rows(real.params)
            arrays[f"{case.key}/moved"] = np.abs(rows - rows[:1]).max(axis=1)
            arrays |= _assumed(settings, case, assumptions(problem, adam, real, every=PROBE))
            shadows = shadows_along(
                real, run, case.lines().values(), start=begun, progress=progress.update
            )
            for name, (_, follow) in zip(case.lines(), shadows, strict=True):
                gap = compare(real, follow).max_norm
                stop = -1 if follow.failed_at is None else follow.failed_at
                line = f"{case.key}/{name}"
                arrays[f"{line}/distance"] = np.full(settings.epochs + 1, np.inf)
                arrays[f"{line}/distance"][: len(gap)] = gap
                arrays[f"{line}/verdict"] = np.asarray(follow.validity.level)
                arrays[f"{line}/failed_at"] = np.asarray(stop)
    return arrays


def _assumed(settings: PerceptronRuns, case: AdamCase, found: Assumptions) -> dict:
    """How smooth the loss is along Adam's run; from which epoch on an R_j is 0, and of how many."""
    away = settings.epochs if found.outside is None else found.outside.step
    return {
        f"{case.key}/derivatives": found.derivatives.max(axis=0),
        f"{case.key}/jump": found.jumps.max(),
        f"{case.key}/outside": np.asarray([away, found.lost, found.still]),
    }


def ends(arrays: Arrays, case: AdamCase) -> tuple[dict[str, float], dict[str, float]]:
    """Name → distance from Adam at the end, and that over the first-order iteration's."""
    end = {name: float(arrays[f"{case.key}/{name}/distance"][-1]) for name in case.lines()}
    return end, {name: distance / end[FIRST] for name, distance in end.items()}


def evidence(arrays: Arrays, settings: PerceptronRuns) -> list[Evidence]:
    """Per setting: second order against first, the inertial flow, collocation's orders, and
    whether Adam's run is one that the theorems are about."""
    found, quiet = [], {}
    for case in settings.cases:
        found += _on_trial(arrays, settings, case)
        if case.role != "fails":
            quiet[case.key] = ends(arrays, case)[1]["inertial"]
    claim = f"all other settings: the inertial flow follows; {OVER}"
    found.append(below(claim, list(quiet.values()), 0.1, ratios=quiet))
    of = lambda what: {case.key: arrays[f"{case.key}/{what}"].tolist() for case in settings.cases}
    jumps, away = of("jump"), of("outside")
    claim = "ε inside: the loss is smooth along Adam's runs; share of a change of the gradient that"
    found.append(
        below(f"{claim} its derivatives leave open", [*jumps.values()], JUMP, **of("derivatives"))
    )
    claim = "ε outside would not do: an R_j is 0, first at epoch"
    columns = "epoch, coordinates with such an R_j, coordinates without any gradient"
    first = [epoch for epoch, *_ in away.values()]
    return [*found, below(claim, first, settings.epochs, **{columns: away})]


def _on_trial(arrays: Arrays, settings: PerceptronRuns, case: AdamCase) -> list[Evidence]:
    end, ratio = ends(arrays, case)
    of = lambda name, what: arrays[f"{case.key}/{name}/{what}"]
    stops = {name: int(of(name, "failed_at")) for name in case.lines()}
    verdicts = {name: str(of(name, "verdict")) for name in case.lines()}
    run = {
        **dataclasses.asdict(case),
        "b1": settings.b1,
        "distances at the end": end,
        "largest move": float(arrays[f"{case.key}/moved"][-1]),
        "not finite from step": {name: stop for name, stop in stops.items() if stop >= 0},
        "loss": [float(value) for value in arrays[f"{case.key}/loss"]],
        "verdicts": verdicts,
    }
    where, paper = case.said, "the paper's second order"
    bounded = "second order unexpanded (displaced, differences) stays bounded"
    rows = {
        "shown": [],
        "helps": [below(f"{where}: {paper} helps; {OVER}", ratio[TAYLOR], 1.0, **run)],
        "fails": [
            above(f"{where}: {paper} fails; {OVER}", ratio[TAYLOR], 1.0, **run),
            said(f"{where}: its own verdict says so", verdicts[TAYLOR], "does not hold"),
            below(
                f"{where}: {bounded}; {OVER}", [ratio["displaced 2"], ratio["differences 2"]], 2.0
            ),
            below(
                f"{where}: the inertial flow follows all the same; {OVER}", ratio["inertial"], 0.1
            ),
        ],
    }[case.role]
    if case.settled and case.role == "helps":
        claim = f"{where}: each order of collocation (1, 2, 3) is closer; distances"
        rows.append(ordered(claim, [end[name] for name in (FIRST, *COLLOCATION)], False))
    return rows


def caption(arrays: Arrays, settings: PerceptronRuns) -> str:
    """What the figure shows, for a reader of the paper; which setting helps and which fails."""
    words = {"helps": [], "fails": [], "shown": []}
    for index, case in enumerate(settings.cases):
        _, ratio = ends(arrays, case)
        words[case.role].append(
            f"({chr(ord('a') + index)}) second order {ratio[TAYLOR]:.2g}, inertial "
            f"{ratio['inertial']:.2g}"
        )
    sizes = "–".join(map(str, settings.sizes))
    return (
        f"Largest coordinate of the difference from full-batch Adam (β = {settings.b1:g}, ε inside "
        f"the root) for {settings.epochs} epochs of a GELU perceptron {sizes} on the first "
        f"{settings.images:,} MNIST images, float64, one start. Dotted: how far Adam itself moved. "
        f"At the end, over the first-order iteration's distance: where the paper's second-order "
        f"iteration (taylor 2) helps, {_list(words['helps'])}; where it fails although the "
        f"inertial flow, which keeps the moments, follows all the same, {_list(words['fails'])}; "
        f"{'further, ' + _list(words['shown']) + '; ' if words['shown'] else ''}"
        f"settled: the moments start as a long run would have left them, which is what collocation "
        f"describes."
    )


def _list(words: list[str]) -> str:
    return ", ".join(words) or "none here"


def draw(arrays: Arrays, settings: PerceptronRuns) -> Figure:
    """The figure from its arrays."""
    from matplotlib import pyplot as plt

    columns = min(4, len(settings.cases))
    lines = -(-len(settings.cases) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(style.PAGE, 2.1 * lines + 0.5), squeeze=False, sharex=True
    )
    for axis, case in zip(axes.flat, settings.cases, strict=False):
        _panel(axis, arrays, case)
        axis.set_title(
            f"h = {_power(case.rate)}, ρ = {case.b2:g},\nε = "
            f"{_power(case.eps_root)}{', settled' if case.settled else ''}"
        )
    style.letter(list(axes.flat[: len(settings.cases)]))
    for axis in axes.flat[len(settings.cases) :]:
        axis.set_visible(False)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    figure.supylabel(r"$\max_j\,|\theta_n - \tilde\theta_n|_j$", fontsize=9)
    seen = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(seen.values(), seen.keys(), loc="outside lower center", ncols=4)
    return figure


def _power(value: float) -> str:
    exponent = int(np.floor(np.log10(value) + 1e-9))
    factor = value / 10.0**exponent
    return (f"{factor:g}·" if abs(factor - 1) > 1e-9 else "") + f"10$^{{{exponent}}}$"


def _panel(axis, arrays: Arrays, case: AdamCase) -> None:
    moved = arrays[f"{case.key}/moved"]
    epochs = np.arange(len(moved))
    axis.plot(epochs[1:], moved[1:], color="black", lw=0.8, ls=":", label="Adam's own move")
    low, high = [], moved[-1]
    for name in case.lines():
        distance = arrays[f"{case.key}/{name}/distance"]
        family = name if name == FIRST else name.split()[0]
        dashes = "--" if name == "collocation 3" else "-"
        axis.plot(
            epochs, style.positive(distance), color=style.COLOURS[family], ls=dashes, label=name
        )
        low.append(distance[len(distance) // 4])
        high = max(high, distance[-1] if np.isfinite(distance[-1]) else high)
    axis.set(yscale="log", ylim=(max(min(low) / 4, 1e-12), high * 3), xlim=(0, len(moved) - 1))
