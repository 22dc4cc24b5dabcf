"""The paper's claims, and how each is tried: on runs of a network, or by computing alone.

A claim that fails here is a finding like any other. Each test is at the level ``ALPHA`` by
itself: of so many, one in twenty passes by chance where nothing is there.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..diagnostics.bias import implicit_bias
from ..diagnostics.convergence import TOLERANCE, compare
from ..iterate import iterate
from ..lab.models import digits_problem
from ..optimizers import zoo
from . import theorems, trials
from .evidence import Evidence, near, said
from .figures import figure2, of_runs as sweeps
from .figures.figure1 import age
from .figures.of_runs import Arrays
from .grid import Grid
from .trials import Trial
from .ways import Way

NETWORKS = ("resnet50", "cnn", "simple_vit", "perceptron")  # the grids of the runs
Trained = Mapping[str, tuple[Arrays, Grid]]  # grid → its arrays, and itself


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    sentence: as it is claimed; source: where; needs: the grids whose runs it is tried on; ``tried``
    takes the scale and those runs and gives a `Trial` for each way of trying it.
    """

    sentence: str
    source: str
    needs: tuple[str, ...]
    tried: Callable[[str, Trained], list[Trial]]


def on_runs(sentence: str, source: str, *outcomes: tuple[str, str]) -> Claim:
    """A claim on training runs: (sweep, outcome) pairs, on every network.

    Grids of the same runs (one network stands for all at the smallest scale) count once.
    """

    def tried(scale: str, trained: Trained) -> list[Trial]:
        different: dict[tuple[str, ...], str] = {}
        for name in NETWORKS:
            different.setdefault(tuple(run.key() for run in trained[name][1].runs()), name)
        return [
            sweeps.tried(*trained[name], sweep, outcome)
            for name in different.values()
            for sweep, outcome in outcomes
        ]

    return Claim(sentence, source, NETWORKS, tried)


def computed(sentence: str, source: str, tried: Callable[[str], list[Trial]]) -> Claim:
    """A claim that needs no training run."""
    return Claim(sentence, source, (), lambda scale, trained: tried(scale))


SETTINGS = ((1e-5, 0.95, 1e-6), (1e-4, 0.95, 1e-6), (1e-3, 0.999, 1e-8))  # h, ρ, ε
STARTS, STEPS, BETA = 5, 60, 0.9


def second_order(scale: str) -> list[Trial]:
    """The paper's second-order iteration against the first-order one, at three settings of Adam.

    Five starts: with four, the smallest p of a sign test is 1/16.
    """
    found = []
    for rate, b2, eps in SETTINGS:
        ratios = [_closer(seed, rate, b2, eps) for seed in range(STARTS)]
        run = {"b1": BETA, "b2": b2, "eps_root": eps, "learning_rate": rate, "steps": STEPS}
        found.append(
            trials.of_signs(
                "the second-order iteration is closer to Adam than the first-order one",
                f"perceptron, digits, h = {rate:g}, ρ = {b2:g}, ε = {eps:g}",
                f"distance after {STEPS} steps over first order's",
                ratios,
                **run,
            )
        )
    return found


def _closer(seed: int, rate: float, b2: float, eps: float) -> float:
    with jax.enable_x64(True):
        problem, start = digits_problem(seed)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
        run = problem, zoo.adam(b1=BETA, b2=b2, eps=0.0, eps_root=eps), start, rate, STEPS
        real = iterate(*run)
        ends = [
            _end(compare(real, way.shadow(*run)).two_norm)
            for way in (Way("displaced", 1, "iteration"), Way("taylor", 2, "iteration"))
        ]
    return ends[1] / ends[0]


def _end(distances: np.ndarray) -> float:
    """The distance after all steps, infinite where the shadow did not last so long."""
    return float(distances[-1]) if len(distances) == STEPS + 1 else float("inf")


def orderings(scale: str) -> list[Trial]:
    """Figure 2's limit points, in the order in which the paper has them."""
    settings = figure2.SCALES["smoke" if scale == "smoke" else "full"]
    rows = figure2.evidence(figure2.compute(settings, {}, lambda done: None), settings)
    where = f"bilinear model, {len(settings.curves())} settings of Adam"
    kinds = {
        "end at points of smaller or larger one-norm, as the penalty has it": "ends at",
        "are followed by the modified flow closer than by the first-order one": (
            "the modified flow: largest distance"
        ),
    }
    return [
        trials.of_evidence(
            f"the paths of Adam {claim}", where, [row for row in rows if mark in row.claim]
        )
        for claim, mark in kinds.items()
    ]


DECAYS = ((0.9, 0.5), (0.9, 0.9), (0.9, 0.999), (0.0, 0.999))
EXTREMES = (1e-24, 1e12)  # ε far below and far above every squared gradient but 0


def regimes(scale: str) -> list[Trial]:
    """Table 1 on a network: what is penalized where √ε is far below, and far above, |g|.

    The strength of the bias is (1+β)/(1−β) − (1+ρ)/(1−ρ) below, (1+β)/(1−β) above.
    """
    rows: dict[float, list[Evidence]] = {eps: [] for eps in EXTREMES}
    with jax.enable_x64(True):
        problem, start = digits_problem()
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
        grads = np.concatenate(
            [np.ravel(leaf) for leaf in jax.tree.leaves(problem.gradient(start))]
        )
        for (b1, b2), eps in itertools.product(DECAYS, EXTREMES):
            adam = zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=eps)
            bias = implicit_bias(problem, adam, start, 1e-4, start="settled")
            strengths = np.concatenate(
                [np.ravel(x) for x in jax.tree.leaves(bias.bias_coefficient)]
            )
            small = eps == EXTREMES[0]
            wanted = age(b1) - age(b2) if small else age(b1)
            run = {"b1": b1, "b2": b2, "eps_root": eps}
            name = f"β = {b1:g}, ρ = {b2:g}"
            norm = "the one-norm of the gradient" if small else "the two-norm of the gradient"
            word = "penalizes" if wanted > 1e-9 else "anti-penalizes" if wanted < -1e-9 else None
            if word is not None and bias.potential is not None:
                rows[eps].append(
                    said(f"{name}: Adam and {norm}", bias.potential.effect, word, **run)
                )
            middle = float(np.median(strengths[grads != 0]))
            rows[eps].append(
                near(
                    f"{name}: strength of the bias on {norm}",
                    middle,
                    wanted,
                    1e-3 * max(1.0, abs(wanted)),
                    **run,
                )
            )
    words = (
        "√ε ≪ |g|: the one-norm is penalized for β > ρ, anti-penalized for ρ > β",
        "√ε ≫ |g|: the two-norm is penalized whatever ρ is",
    )
    return [
        trials.of_evidence(claim, "perceptron, digits, settled memory", rows[eps])
        for claim, eps in zip(words, EXTREMES, strict=True)
    ]


def orders(scale: str) -> list[Trial]:
    """The four theorems: observed order 2, on mini-batches and on the full batch."""
    exponents = range(9, 13) if scale == "smoke" else range(9, 14)
    found = []
    for theorem in theorems.THEOREMS:
        rows = [
            near(
                f"{row.kind}, {'three mini-batches' if batched else 'full batch'}: observed order",
                float("nan") if row.slope is None else row.slope,
                2,
                TOLERANCE,
                learning_rates=row.learning_rates,
                errors=row.errors,
            )
            for batched in (True, False)
            for row in theorems.orders(theorem, batched, exponents)
        ]
        found.append(
            trials.of_evidence(
                f"{theorem.label}: the error is of order h²",
                "bilinear model",
                rows,
                **theorem.arguments,
            )
        )
    return found


NORMS = ("peak", "level", "peak_plain", "level_plain")
CLAIMS = {
    "rho-norm": on_runs(
        "Increasing ρ raises the norm of the gradient",
        "Figures 4, 6 to 10",
        *(("rho", name) for name in NORMS),
    ),
    "rho-accuracy": on_runs(
        "Increasing ρ lowers the test accuracy", "Figures 4, 7, 9", ("rho", "accuracy")
    ),
    "beta-norm": on_runs(
        "Increasing β lowers the norm of the gradient",
        "Figures 5 to 10",
        *(("beta", name) for name in NORMS),
    ),
    "beta-accuracy": on_runs(
        "Increasing β raises the test accuracy", "Figures 5, 7, 9", ("beta", "accuracy")
    ),
    "hills": on_runs(
        "The hill of the norm is higher for larger ρ and for smaller β",
        "Figures 6, 8, 10",
        ("rho", "hill"),
        ("beta", "hill"),
    ),
    "second-order": computed(
        "The second-order iteration is closer to Adam than the first-order one",
        "Figure 3",
        second_order,
    ),
    "figure-2": computed(
        "Which minimizer Adam reaches follows the sign of the penalty", "Figure 2", orderings
    ),
    "table-1": computed(
        "What is penalized depends on √ε against |g| and on ρ against β", "Table 1", regimes
    ),
    "theorems": computed("The modified flow is of order 2", "Theorems B.4, C.4, D.4, E.4", orders),
}


def needed(names: tuple[str, ...]) -> list[str]:
    """The grids that these claims are tried on."""
    return list(dict.fromkeys(grid for name in names for grid in CLAIMS[name].needs))


def described(name: str) -> dict[str, Any]:
    """A claim as JSON has it."""
    claim = CLAIMS[name]
    return {
        "name": name,
        "claim": claim.sentence,
        "source": claim.source,
        "needs": list(claim.needs),
    }
