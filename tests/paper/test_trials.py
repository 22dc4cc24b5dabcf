"""The statistics of claims: against scipy, by counting, and under a null that is true."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from shadowflow.paper import trials
from shadowflow.paper.evidence import near
from shadowflow.paper.trials import ALPHA, FAILS, HOLDS, WEAK, trend

UP = np.arange(4.0)


@pytest.mark.parametrize("row", list(itertools.permutations(range(5)))[::7])
def test_one_seed_is_kendall_s_test(row):
    found = trend(np.array([row], float), rising=True)
    exact = stats.kendalltau(range(5), row, alternative="greater", method="exact")
    assert found.tau == pytest.approx(exact.statistic)
    assert found.p == pytest.approx(exact.pvalue)


def test_several_seeds_are_pooled_within_seeds():
    """All orders of three seeds of three values, counted one by one."""
    table = np.array([[0, 2, 1], [5, 6, 9], [3, 1, 2.0]])
    score = lambda row: sum(np.sign(b - a) for a, b in itertools.combinations(row, 2))
    observed = sum(map(score, table))
    every = list(itertools.product(itertools.permutations(range(3)), repeat=3))
    as_large = sum(sum(map(score, rows)) >= observed for rows in every)
    found = trend(table, rising=True)
    assert found.p == pytest.approx(as_large / len(every))
    assert found.tau == pytest.approx(observed / 9)
    assert (found.pairs, found.seeds, found.least_p) == (9, 3, pytest.approx(1 / 6**3))


def test_the_offset_of_a_seed_does_not_matter_and_mixing_seeds_would():
    offsets = np.array([[0.0], [100.0], [200.0]])
    assert trend(UP + offsets, True) == trend(UP + 0 * offsets, True)
    assert trend(UP - offsets.T[:, [0, 1, 2, 0]] * 0, True).tau == 1


def test_falling_is_rising_turned_round():
    table = np.random.default_rng(0).standard_normal((3, 4))
    falls, rises = trend(table, rising=False), trend(table, rising=True)
    assert falls.tau == -rises.tau
    assert falls.p == pytest.approx(rises.p_opposite)
    assert trend(-table, rising=True) == falls


def test_a_test_is_told_with_its_numbers():
    """Nine of ten pairs of one seed, four of ten of the other: none of the numbers is another."""
    found = trend(np.array([[0, 1, 2, 4, 3], [1, 0, 3, 4, 2.0]]), rising=True)
    assert found.words == (
        f"τ = +0.60 over 20 pairs in 2 seeds, p = {found.p:.2g} (the smallest possible: 6.9e-05); "
        "sign test over seeds: 2 of 2, p = 0.25"
    )
    assert 0.005 < found.p < 0.05


def test_ties_count_for_neither_side():
    found = trend(np.array([[1.0, 1.0, 2.0]]), rising=True)
    assert found.tau == pytest.approx(2 / 3)
    assert found.p == pytest.approx(1 / 3)  # the large one is last in a third of all orders
    flat = trend(np.zeros((3, 4)), rising=True)
    assert (flat.tau, flat.p, flat.decided, flat.verdict) == (0, 1, 0, WEAK)


def test_what_there_is_not_is_left_out():
    nan = math.nan
    whole = trend(np.array([[1, 2, 3], [1, 3, 2.0]]), True)
    with_gaps = trend(np.array([[1, nan, 2, 3], [1, 3, nan, 2], [nan, nan, nan, 5]]), True)
    assert with_gaps == whole
    nothing = trend(np.full((3, 4), nan), True)
    assert (nothing.pairs, nothing.verdict) == (0, WEAK)
    assert nothing.words == "nothing to compare"


def test_three_seeds_of_four_values_have_power_and_fewer_have_not():
    assert trend(np.tile(UP, (3, 1)), True).least_p == pytest.approx(1 / 24**3)
    assert trend(np.tile(-UP, (3, 1)), True).verdict == FAILS
    mixed = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2.0]])
    assert trend(mixed, True).verdict == FAILS  # τ = .6 would have been found
    for small in (mixed[:2], mixed[:, :3]):
        assert trend(small, True).verdict == WEAK
    assert trend(np.tile(UP, (1, 1)), True).verdict == HOLDS  # 1/24: one seed, all in order
    assert trend(np.tile(UP[:3], (1, 1)), True).verdict == WEAK  # 1/6 is the smallest p


def test_the_needed_tau_is_the_smallest_significant_one():
    found = trend(np.array([[0, 1, 2, 3], [3, 2, 1, 0], [1, 0, 3, 2.0]]), True)
    orders = itertools.product(itertools.permutations(range(4)), repeat=3)
    scores = np.array([sum(map(trials.score, rows)) for rows in orders])
    needed = round(found.needed * found.pairs)
    assert np.mean(scores >= needed) <= ALPHA < np.mean(scores >= needed - 2)


def test_without_an_effect_a_claim_holds_at_most_once_in_twenty():
    """The level of the test, and the power that is claimed for three seeds of four values."""
    rng = np.random.default_rng(1)
    chance = [trend(rng.standard_normal((3, 4)), True).verdict == HOLDS for _ in range(1000)]
    assert np.mean(chance) <= ALPHA + 0.02
    effect = [trend(rng.standard_normal((3, 4)) + UP, True).verdict == HOLDS for _ in range(300)]
    assert np.mean(effect) > 0.8


@pytest.mark.parametrize(("heads", "tosses"), [(0, 0), (3, 3), (4, 5), (0, 4), (7, 12)])
def test_the_sign_test(heads, tosses):
    wanted = 1.0 if tosses == 0 else stats.binomtest(heads, tosses, alternative="greater").pvalue
    assert trials.sign_test(heads, tosses) == pytest.approx(wanted)


def test_signs_of_ratios():
    of = lambda *ratios: trials.of_signs("", "", "ratio", ratios)
    assert of(0.5, 0.5, 0.5, 0.5, 0.5).verdict == HOLDS
    assert of(0.5, 0.5, 0.5, 0.5, math.inf).verdict == FAILS
    assert of(0.5, 0.5, 0.5, 0.5, math.nan).p == pytest.approx(6 / 32)
    assert of(0.5, 0.5, 0.5, 0.5, 1.0).verdict == FAILS  # as far is no closer
    assert of(0.5, 0.5, 0.5, 0.5).verdict == WEAK
    assert of().verdict == WEAK


def test_claims_on_which_nothing_is_random():
    good, bad = near("", 1, 1, 0.1), near("", 2, 1, 0.1)
    assert trials.of_evidence("", "", [good, good]).verdict == HOLDS
    assert trials.of_evidence("", "", [good, bad]).verdict == FAILS
    assert trials.of_evidence("", "", []).verdict == FAILS
    assert trials.of_evidence("", "", [good]).p is None


def test_equivalence_is_two_one_sided_tests():
    """p and the interval by scipy's own one-sample tests against either end of the margin."""
    values = np.array([0.02, -0.01, 0.03, 0.015, 0.0])
    found = trials.of_equivalence("same", "here", "d", values, 0.03)
    below = stats.ttest_1samp(values, 0.03, alternative="less").pvalue
    above = stats.ttest_1samp(values, -0.03, alternative="greater").pvalue
    assert found.p == pytest.approx(max(below, above), rel=1e-12) and found.verdict == HOLDS
    low, high = stats.t.interval(0.9, 4, loc=values.mean(), scale=stats.sem(values))
    assert f"{values.mean():.2g} ± {(high - low) / 2:.2g}" in found.statistic
    verdict = lambda *given: trials.of_equivalence("", "", "", *given).verdict
    assert verdict(values + 1, 0.03) == FAILS and verdict(values + 0.02, 0.03) == WEAK
    assert verdict([0.01, 0.01], 0.03) == HOLDS and verdict([0.01, np.nan], 0.03) == WEAK
