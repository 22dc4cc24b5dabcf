"""The paper's claims, and how each is tried: on runs of a network, or by computing alone.

A claim that fails here is a finding like any other. Each test is at the level ``ALPHA`` by
itself: where there is no effect, one in twenty passes by chance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..diagnostics.bias import implicit_bias
from ..diagnostics.comparison import compare
from ..diagnostics.convergence import TOLERANCE
from ..iterate import iterate
from ..lab.models import digits_problem
from ..optimizers import zoo
from ..shadow import shadow
from . import analysis, remarks, theorems, trials
from .analysis import Swept
from .evidence import Evidence, near, said
from .figures import figure2
from .figures.figure1 import age
from .trials import Trial
from .ways import Way

NETWORKS = ("resnet50", "cnn", "simple_vit", "perceptron")  # the grids of the runs
Trained = Mapping[str, Mapping[str, Swept]]  # grid → sweep → its runs


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    sentence: the claim in words; source: where the paper makes it; needs: the grids whose runs it
    is tried on; tried: takes the scale and those runs, gives a `Trial` for each way of trying it.
    """

    sentence: str
    source: str
    needs: tuple[str, ...]
    tried: Callable[[str, Trained], list[Trial]]


def on_runs(sentence: str, source: str, sweeps: Sequence[str], outcomes: Sequence[str]) -> Claim:
    """A claim on training runs: each of these sweeps and outcomes, on every network.

    Grids of the same runs (one network stands for all at the smallest scale) count once.
    """

    def tried(scale: str, trained: Trained) -> list[Trial]:
        different: dict[tuple[str, ...], Mapping[str, Swept]] = {}
        for name in NETWORKS:
            grid = next(iter(trained[name].values())).grid
            different.setdefault(tuple(run.key() for run in grid.runs()), trained[name])
        return [
            analysis.tried(runs[sweep], outcome)
            for runs in different.values()
            for sweep in sweeps
            for outcome in outcomes
        ]

    return Claim(sentence, source, NETWORKS, tried)


def computed(sentence: str, source: str, tried: Callable[[str], list[Trial]]) -> Claim:
    """A claim that needs no training run."""
    return Claim(sentence, source, (), lambda scale, trained: tried(scale))


INSIDE, OUTSIDE = "perceptron", "outside"  # the same runs but for where ε stands
MARGINS = {"peak": 0.05, "level": 0.05, "accuracy": 0.01}  # of norms relative


def placements(scale: str, trained: Trained) -> list[Trial]:
    """Remark 1.2: runs with ε inside the root against the same with √ε outside, seed by seed.

    The difference of a seed is the mean over the values of ρ that both have; ``MARGINS`` says what
    is too small to be called one.
    """
    inside, outside = (trained[grid]["rho"] for grid in (INSIDE, OUTSIDE))
    same = [inside.row.values.index(value) for value in outside.row.values]
    found = []
    for outcome, margin in MARGINS.items():
        pair = outside.table(outcome), inside.table(outcome)[:, same]
        relative = outcome != "accuracy"
        apart = pair[0] / pair[1] - 1 if relative else pair[0] - pair[1]
        words = "outside over inside, less 1" if relative else "outside less inside"
        run = {"outside": pair[0].tolist(), "inside": pair[1].tolist()}
        claim = f"ε inside or outside: the same {analysis.OUTCOMES[outcome][0]}"
        test = claim, analysis.where(inside), words, analysis.means(apart), margin
        found.append(trials.of_equivalence(*test, **run))
    return found


SETTINGS = ((1e-5, 0.95, 1e-6), (1e-4, 0.95, 1e-6), (1e-3, 0.999, 1e-8))  # h, ρ, ε
STARTS, STEPS, BETA = 5, 60, 0.9
FIRST, SECOND = Way("displaced", 1, "iteration"), Way("taylor", 2, "iteration")


def second_order(scale: str) -> list[Trial]:
    """The paper's second-order iteration against the first-order one, at three settings of Adam.

    Five starts: with four, the smallest p of a sign test is 1/16.
    """
    return [
        trials.of_signs(
            "the second-order iteration is closer to Adam than the first-order one",
            f"perceptron, digits, h = {rate:g}, ρ = {b2:g}, ε = {eps:g}",
            f"distance after {STEPS} steps over first order's",
            [closer(seed, rate, b2, eps) for seed in range(STARTS)],
            b1=BETA,
            b2=b2,
            eps_root=eps,
            learning_rate=rate,
            steps=STEPS,
        )
        for rate, b2, eps in SETTINGS
    ]


def closer(seed: int, rate: float, b2: float, eps: float) -> float:
    """The second-order iteration's distance from Adam in the end, over the first-order one's."""
    with jax.enable_x64(True):
        problem, start = digits_problem(seed)
        adam = zoo.adam(b1=BETA, b2=b2, eps=0.0, eps_root=eps)
        run = problem, adam, jax.tree.map(jnp.float64, start), rate, STEPS
        real = iterate(*run)
        first, second = (
            _end(compare(real, shadow(*run, **way._asdict(), check=False)).two_norm)
            for way in (FIRST, SECOND)
        )
    return second / first


def _end(distances: np.ndarray) -> float:
    """The distance after all steps, infinite where the shadow did not last so long."""
    return float(distances[-1]) if len(distances) == STEPS + 1 else float("inf")


def orderings(scale: str) -> list[Trial]:
    """Figure 2's limit points, in the order in which the paper has them."""
    from tqdm import tqdm

    settings = figure2.SCALES["smoke" if scale == "smoke" else "full"]
    rows = figure2.evidence(figure2.compute(settings, {}, tqdm(disable=True)), settings)
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
SMALL, LARGE = 1e-24, 1e12  # ε far below and far above every squared gradient but 0
REGIMES = {
    SMALL: "√ε ≪ |g|: the one-norm is penalized for β > ρ, anti-penalized for ρ > β",
    LARGE: "√ε ≫ |g|: the two-norm is penalized whatever ρ is",
}


def regimes(scale: str) -> list[Trial]:
    """Table 1 on a network: what is penalized where √ε is far below, and far above, |g|."""
    with jax.enable_x64(True):
        problem, start = digits_problem()
        start = jax.tree.map(jnp.float64, start)
        return [
            trials.of_evidence(
                claim,
                "perceptron, digits, settled memory",
                [row for b1, b2 in DECAYS for row in _regime(problem, start, b1, b2, eps)],
            )
            for eps, claim in REGIMES.items()
        ]


def _regime(problem, start, b1: float, b2: float, eps: float) -> Iterator[Evidence]:
    """The word and the coefficient of the bias: (1+β)/(1−β), less (1+ρ)/(1−ρ) for a small ε."""
    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    adam = zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=eps)
    bias = implicit_bias(problem, adam, start, 1e-4, start="settled")
    wanted = age(b1) - age(b2) if eps == SMALL else age(b1)
    norm = f"the {'one' if eps == SMALL else 'two'}-norm of the gradient"
    name, run = f"β = {b1:g}, ρ = {b2:g}", {"b1": b1, "b2": b2, "eps_root": eps}
    if abs(wanted) > 1e-9 and bias.potential is not None:
        word = "penalizes" if wanted > 0 else "anti-penalizes"
        yield said(f"{name}: Adam and {norm}", bias.potential.effect, word, **run)
    middle = float(np.median(flat(bias.bias_coefficient)[flat(problem.gradient(start)) != 0]))
    tolerance = 1e-3 * max(1.0, abs(wanted))
    yield near(f"{name}: strength of the bias on {norm}", middle, wanted, tolerance, **run)


def orders(scale: str) -> list[Trial]:
    """The four theorems: observed order 2, on mini-batches and on the full batch."""
    ways = [Way("taylor", 2, kind) for kind in theorems.KINDS]
    return [
        _observed(theorem, f"{theorem.label}: the error is of order h²", ways, scale)
        for theorem in theorems.THEOREMS
    ]


def local_orders(scale: str) -> list[Trial]:
    """The four local theorems: observed order 3 of one step, and 2 without the correction."""
    return [
        _observed(theorem, f"{theorem.label}: the error is of order h³", theorem.ways(), scale)
        for theorem in theorems.LOCAL
    ]


def _observed(theorem: theorems.OrderCase, claim: str, ways: Sequence[Way], scale: str) -> Trial:
    exponents = range(9, 13 if scale == "smoke" else 14)
    rows = []
    for batches, batched in (("three mini-batches", True), ("full batch", False)):
        case = dataclasses.replace(theorem, batched=batched)
        for way in ways:
            row = theorems.measure(case, way, exponents)
            slope = float("nan") if row.slope is None else row.slope
            run = {"learning_rates": row.learning_rates, "errors": row.errors}
            words = f"{way.name}, {batches}: observed order"
            rows.append(near(words, slope, row.order, TOLERANCE, **run))
    return trials.of_evidence(claim, "bilinear model", rows, **theorem.arguments)


NORMS = ("peak", "level", "peak_plain", "level_plain")
NORM, TESTED, HILL = (
    "the norm of the gradient",
    "the test accuracy",
    "The hill of the norm is higher",
)
CLOSER = "The second-order iteration is closer to Adam than the first-order one"
WHICH = "Which minimizer Adam reaches follows the sign of the penalty"
WHAT = "What is penalized depends on √ε against |g| and on ρ against β"
ASSUMED = "Derivatives stay bounded and, with ε outside the root, second moments away from 0"
CLAIMS = {
    "rho-norm": on_runs(f"Increasing ρ raises {NORM}", "Figures 4, 6 to 10", ["rho"], NORMS),
    "rho-accuracy": on_runs(
        f"Increasing ρ lowers {TESTED}", "Figures 4, 7, 9", ["rho"], ["accuracy"]
    ),
    "beta-norm": on_runs(f"Increasing β lowers {NORM}", "Figures 5 to 10", ["beta"], NORMS),
    "beta-accuracy": on_runs(
        f"Increasing β raises {TESTED}", "Figures 5, 7, 9", ["beta"], ["accuracy"]
    ),
    "hills": on_runs(
        f"{HILL} for larger ρ and for smaller β", "Figures 6, 8, 10", ["rho", "beta"], ["hill"]
    ),
    "placement": Claim(
        "It makes no difference to training whether ε is inside or outside the root",
        "Remark 1.2",
        (INSIDE, OUTSIDE),
        placements,
    ),
    "second-order": computed(CLOSER, "Figure 3", second_order),
    "figure-2": computed(WHICH, "Figure 2", orderings),
    "table-1": computed(WHAT, "Table 1", regimes),
    "theorems": computed("The modified flow is of order 2", "Theorems B.4, C.4, D.4, E.4", orders),
    "one-step": computed(
        "One step of the modified flow errs by h³", "Theorems B.3, C.3, D.3, E.3", local_orders
    ),
    "assumptions": computed(ASSUMED, "the assumptions of Theorems B.4 to E.4", remarks.within),
    "bias-turned": computed(
        "It is the bias that moves the norm: taken s times, it takes the norm along",
        "equation (5)",
        remarks.causal,
    ),
    "sharpness": computed(
        "The one-norm of the gradient is a sharpness", "the remark on ℓ∞", remarks.sharpness
    ),
}


def needed(names: tuple[str, ...]) -> list[str]:
    """The grids that these claims are tried on."""
    return list(dict.fromkeys(grid for name in names for grid in CLAIMS[name].needs))
