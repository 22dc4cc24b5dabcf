"""The statistics of a claim "the larger this number, the larger (smaller) that outcome".

Outcomes are paired by seed: only runs with the same start, order and data are compared. Within a
seed the null hypothesis makes every order of the outcomes over the grid equally likely; the
numbers of orders are small, so that p-values are exact, by counting.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import stats

from .evidence import Evidence

ALPHA = 0.05
TREND = 0.6  # four pairs of five in the claimed order: a trend that a test must be able to find

TINY = np.finfo(float).tiny  # a standard error of nothing
HOLDS, FAILS, WEAK = "holds", "does not hold here", "not enough power"


@dataclass(frozen=True)
class Trend:
    """A rank correlation, pooled over seeds, and how likely it is without any effect.

    tau: Kendall's: (pairs in the claimed order − pairs against it) / pairs; 1: all as claimed.
    p: the chance of a tau as large or larger, every order of the outcomes within a seed being as
        likely as any other. p_opposite: the same for a tau as small or smaller.
    least_p: the smallest p that so many seeds and values can give. needed: the smallest tau with
        p ≤ ``ALPHA``, NaN where there is none.
    pairs, seeds: how many were compared. agreeing: seeds with a tau above 0, of those ``decided``,
        with a tau other than 0. sign_p: one-sided sign test over those seeds.
    """

    tau: float
    p: float
    p_opposite: float
    least_p: float
    needed: float
    pairs: int
    seeds: int
    agreeing: int
    decided: int
    sign_p: float

    @property
    def verdict(self) -> str:
        """ "holds" where p ≤ ``ALPHA``; else "not enough power" where tau = ``TREND`` would not
        have been found either, and the opposite was not; else "does not hold here".
        """
        if self.p <= ALPHA:
            return HOLDS
        found_opposite = self.p_opposite <= ALPHA
        strong = self.needed <= TREND  # False for NaN
        return FAILS if found_opposite or strong else WEAK

    @property
    def words(self) -> str:
        """The test in one line."""
        if not self.pairs:
            return "nothing to compare"
        return (
            f"τ = {self.tau:+.2f} over {self.pairs} pairs in {self.seeds} seeds, p = {self.p:.2g} "
            f"(the smallest possible: {self.least_p:.2g}); sign test over seeds: "
            f"{self.agreeing} of {self.decided}, p = {self.sign_p:.2g}"
        )


def trend(outcomes: Float[np.ndarray, "seeds values"], rising: bool) -> Trend:
    """Whether the outcomes rise (fall) with the grid's values, which stand in rising order.

    NaN stands for a missing outcome, whose pairs are left out. Ties count for neither side, and
    infinite outcomes as larger or smaller than all others. All orders of a row are counted, which
    takes a second for 8 values.

    >>> test = trend(np.array([[1, 2, 3, 4], [2, 3, 4, 5], [1, 3, 2, 4.0]]), rising=True)
    >>> round(test.tau, 3), round(test.p, 5), test.verdict
    (0.889, 0.00072, 'holds')
    >>> trend(np.array([[1.0, 2.0, 3.0]]), rising=True).verdict
    'not enough power'
    """
    table = np.asarray(outcomes, np.float64)
    seen = [row[~np.isnan(row)] for row in (table if rising else -table)]
    ranks = [np.unique(row, return_inverse=True)[1].tolist() for row in seen]  # equal if tied
    rows = [tuple(row) for row in ranks if len(row) > 1]
    scores = [score(row) for row in rows]
    pairs, total = sum(len(row) * (len(row) - 1) // 2 for row in rows), sum(scores)
    agreeing = sum(value > 0 for value in scores)
    decided = sum(value != 0 for value in scores)
    possible = np.arange(-pairs, pairs + 1)
    chances = functools.reduce(np.convolve, map(orders, rows), np.ones(1))
    tails = np.cumsum(chances[::-1])[::-1]
    found = possible[(possible > 0) & (chances > 0) & (tails <= ALPHA)]
    return Trend(
        tau=total / pairs if pairs else math.nan,
        p=float(tails[pairs + total]),
        p_opposite=float(chances[: pairs + total + 1].sum()),
        least_p=float(chances[chances > 0][-1]),
        needed=float(found[0] / pairs) if len(found) else math.nan,
        pairs=pairs,
        seeds=len(rows),
        agreeing=agreeing,
        decided=decided,
        sign_p=sign_test(agreeing, decided),
    )


def score(row: Sequence[int]) -> int:
    """Rising pairs less falling ones.

    >>> score((0, 2, 1))
    1
    """
    return sum((later > first) - (later < first) for first, later in itertools.combinations(row, 2))


@functools.cache
def orders(row: tuple[int, ...]) -> np.ndarray:
    """The share of all orders of the row that have each score, from the lowest to the highest.

    >>> (6 * orders((0, 1, 2))).tolist()
    [1.0, 0.0, 2.0, 0.0, 2.0, 0.0, 1.0]
    """
    most = len(row) * (len(row) - 1) // 2
    scores = [score(order) + most for order in itertools.permutations(row)]
    return np.bincount(scores, minlength=2 * most + 1) / len(scores)


def sign_test(agreeing: int, decided: int) -> float:
    """The chance of so many heads or more among ``decided`` tosses of a fair coin.

    Three seeds that all agree give 1/8, the smallest p that three can give, which decides nothing;
    five that all agree give 1/32.

    >>> sign_test(3, 3), sign_test(5, 5), sign_test(4, 5)
    (0.125, 0.03125, 0.1875)
    """
    return sum(math.comb(decided, heads) for heads in range(agreeing, decided + 1)) / 2**decided


@dataclass(frozen=True)
class Trial:
    """A claim of the paper, tried.

    claim: a sentence; where: on what; statistic: the test and its result in words; measured: the
    numbers it is about; p: of the test, None where nothing is random; verdict: one of ``HOLDS``,
    ``FAILS``, ``WEAK``; run: what is behind it.
    """

    claim: str
    where: str
    statistic: str
    measured: tuple[float, ...]
    p: float | None
    verdict: str
    run: Mapping[str, Any] = field(default_factory=dict)


def of_signs(claim: str, where: str, said: str, ratios: Sequence[float], **run: Any) -> Trial:
    """A number that is below 1 for every seed where the claim is true: a sign test over seeds.

    A ratio that is not finite counts as not below 1.

    >>> of_signs("closer", "here", "ratio", [0.5, 0.4, 0.6, 0.5, 0.9]).verdict
    'holds'
    >>> of_signs("closer", "here", "ratio", [0.5, 0.4, 0.6]).verdict
    'not enough power'
    """
    agreeing, decided = sum(ratio < 1 for ratio in ratios), len(ratios)
    p, least = sign_test(agreeing, decided), sign_test(decided, decided)
    verdict = HOLDS if p <= ALPHA else FAILS if least <= ALPHA else WEAK
    words = (
        f"{said} < 1 for {agreeing} of {decided} seeds; sign test, p = {p:.2g} (the smallest "
        f"possible: {least:.2g})"
    )
    return Trial(claim, where, words, tuple(map(float, ratios)), p, verdict, run)


def of_equivalence(
    claim: str, where: str, said: str, differences: Sequence[float], margin: float, **run: Any
) -> Trial:
    """Two ways that do the same: the mean difference over seeds is within a margin on both sides.

    By two one-sided t tests at ``ALPHA``, p the larger of their two: equivalent where the 90 %
    interval of the mean lies within the margin, not so where it lies beyond, else undecided.

    >>> of_equivalence("same", "here", "d", [0.01, -0.01, 0.0, 0.02], 0.05).verdict
    'holds'
    >>> of_equivalence("same", "here", "d", [0.1, 0.11, 0.09, 0.1], 0.05).verdict
    'does not hold here'
    >>> of_equivalence("same", "here", "d", [0.1, -0.11, 0.09, 0.0], 0.05).verdict
    'not enough power'
    """
    seen = np.array([value for value in differences if np.isfinite(value)])
    mean = half = p = math.nan
    if len(seen) > 1:
        mean, error = float(seen.mean()), max(float(stats.sem(seen)), TINY)
        half = float(stats.t.ppf(1 - ALPHA, len(seen) - 1)) * error
        p = float(stats.t.sf((margin - abs(mean)) / error, len(seen) - 1))
    verdict = HOLDS if p <= ALPHA else FAILS if abs(mean) - half > margin else WEAK
    words = (
        f"{said}: {mean:.2g} ± {half:.2g} in the mean of {len(seen)} seeds (90 % interval), margin "
        f"{margin:g} stated beforehand; two one-sided t tests, p = {p:.2g}"
    )
    run |= {"margin": margin, "differences": list(map(float, differences))}
    return Trial(claim, where, words, tuple(map(float, differences)), p, verdict, run)


def of_evidence(claim: str, where: str, rows: Sequence[Evidence], **run: Any) -> Trial:
    """A claim on which nothing is random: it holds where each row of its evidence does."""
    good, every = sum(row.holds for row in rows), len(rows)
    words = f"{good} of {every} rows of evidence hold; nothing is random in it"
    verdict = HOLDS if 0 < good == every else FAILS
    run |= {"rows": [dataclasses.asdict(row) for row in rows]}
    return Trial(claim, where, words, (float(good), float(every)), None, verdict, run)
