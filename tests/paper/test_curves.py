"""What is read off curves: made-up ones with known answers, and ones that have none."""

import numpy as np
import pytest

from shadowflow.paper import curves
from shadowflow.paper.curves import CUT, RISE, WINDOW, Reading

EPOCHS = np.arange(400.0)
LOSS = 2.3 * np.exp(-EPOCHS / 100)
FALL = 84  # 100 log 2.3 = 83.29
LATE = FALL + WINDOW // 2  # no window that ends before it reaches below


def bump(height, place, width=20.0):
    return height * np.exp(-(((EPOCHS - place) / width) ** 2))


def test_the_running_median_is_the_median_of_each_window():
    noise = np.random.default_rng(0).standard_normal(50)
    smooth = curves.running_median(noise)
    half = WINDOW // 2
    assert np.all(np.isnan(smooth[:half])) and np.all(np.isnan(smooth[-half:]))
    for place in range(half, 50 - half):
        window = sorted(noise[place - half : place + half + 1])
        assert smooth[place] == window[half]


def test_a_value_that_is_not_finite_spoils_its_windows_only():
    for bad in (np.nan, np.inf, -np.inf):
        curve = EPOCHS.copy()
        curve[100] = bad
        smooth = curves.running_median(curve)
        spoilt = np.flatnonzero(np.isnan(smooth[5:-5])) + 5
        assert spoilt.tolist() == list(range(95, 106))


def test_the_end_of_the_initial_fall():
    found = curves.initial_fall(LOSS)
    assert found.at == FALL
    assert found.value < CUT <= curves.running_median(LOSS)[FALL - 1]


def test_one_low_value_is_no_end_of_the_fall():
    """The negative control of the window: raw minima end nothing, nor do 5 of 11 epochs."""
    loss = LOSS.copy()
    loss[30:35] = 0.1
    assert curves.initial_fall(loss).at == FALL
    loss[30:36] = 0.1
    assert curves.initial_fall(loss).at == 30


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (np.full(400, 2.3), "the training loss never falls below 1"),
        (LOSS[: WINDOW - 1], "no 11 epochs in a row with a finite training loss"),
        (np.full(400, np.nan), "no 11 epochs in a row with a finite training loss"),
        (np.empty(0), "no 11 epochs in a row with a finite training loss"),
    ],
)
def test_a_run_that_never_falls_says_so_everywhere(loss, words):
    fall = curves.initial_fall(loss)
    assert (fall.exists, fall.words) == (False, words)
    assert np.isnan(fall.value)
    norm = np.ones_like(loss)
    for found in (curves.peak(norm, fall), curves.hill(norm, fall)):
        assert not found.exists and words in found.words
    assert not curves.at_loss(norm, loss, 0.5).exists


def test_a_hill_is_found_with_its_height_and_place():
    norm = 50 * np.exp(-EPOCHS / 50) + 2 + bump(10, 250)
    found = curves.hill(norm, curves.initial_fall(LOSS))
    assert found.at == pytest.approx(250, abs=4)  # the top of a fall and a bump
    assert found.value == pytest.approx(12.3, rel=0.02)  # 10 + 2 + the rest of the fall
    assert found == curves.peak(norm, curves.initial_fall(LOSS))._replace(words=found.words)


def test_the_raw_maximum_is_never_taken():
    norm = 50 * np.exp(-EPOCHS / 50) + 2 + bump(10, 250)
    spiked = norm.copy()
    spiked[[150, 300]] = 1e6
    fall = curves.initial_fall(LOSS)
    assert curves.hill(spiked, fall).value == pytest.approx(curves.hill(norm, fall).value, rel=1e-3)


@pytest.mark.parametrize(
    ("norm", "words"),
    [
        (50 * np.exp(-EPOCHS / 50), "largest where the initial fall ends"),
        (1 + EPOCHS / 100, "largest at the end of the run"),
        (5 + bump(10, 395), "largest at the end of the run"),
        (5 + bump(10, 5), "largest where the initial fall ends"),
        (5 + bump(0.99 * 5 * (RISE - 1), 250, 40), "less than 1.2"),
    ],
)
def test_no_hill(norm, words):
    fall = curves.initial_fall(LOSS)
    found = curves.hill(norm, fall)
    assert not found.exists
    assert found.words.startswith("no hill") and words in found.words
    assert curves.peak(norm, fall).exists


def test_the_rise_of_a_hill_is_measured_from_the_lowest_place_before_it():
    just = 5 + bump(1.02 * 5 * (RISE - 1), 250, 40)
    assert curves.hill(just, curves.initial_fall(LOSS)).exists
    falls_behind = just - np.where(EPOCHS > 300, 4, 0)  # lower, but later
    flat = 5 + bump(0.99 * 5 * (RISE - 1), 250, 40) - np.where(EPOCHS > 300, 4, 0)
    assert curves.hill(falls_behind, curves.initial_fall(LOSS)).exists
    assert not curves.hill(flat, curves.initial_fall(LOSS)).exists


def test_noise_alone_makes_no_hill():
    """The negative control, 5 % of noise: raw, most of these would have risen 1.2 times."""
    fall, raw_hills = curves.initial_fall(LOSS), 0
    for seed in range(20):
        noise = np.exp(0.05 * np.random.default_rng(seed).standard_normal(400))
        raw = noise[FALL:]
        raw_hills += raw.max() > RISE * raw[: raw.argmax() + 1].min()
        for norm in (noise, noise * np.exp(-EPOCHS / 100), noise * np.exp(EPOCHS / 100)):
            assert not curves.hill(norm, fall).exists
    assert raw_hills > 10


def test_a_run_that_ends_right_after_its_fall_has_a_peak_but_no_hill():
    short = slice(0, LATE + 3)
    fall = curves.initial_fall(LOSS[short])
    assert fall.at == FALL
    assert curves.peak(EPOCHS[short], fall).exists
    assert not curves.hill(EPOCHS[short], fall).exists
    fallen = Reading(0.9, 390.0, "")
    assert curves.peak(EPOCHS[:394], fallen).words == "too few epochs after the initial fall"


def test_the_norm_at_a_loss_lies_between_two_epochs():
    found = curves.at_loss(3 * LOSS, LOSS, 0.5)
    assert found.value == pytest.approx(1.5, rel=1e-6)
    assert found.at == pytest.approx(100 * np.log(2.3 / 0.5), abs=0.01)
    assert found.at != round(found.at)


def test_the_norm_at_a_loss_does_not_depend_on_the_speed():
    slow = 2.3 * np.exp(-EPOCHS / 170)
    fast, other = (curves.at_loss(loss**0.7, loss, 0.5).value for loss in (LOSS, slow))
    assert fast == pytest.approx(other, rel=1e-3)
    assert curves.running_median(LOSS**0.7)[150] < 0.9 * curves.running_median(slow**0.7)[150]


@pytest.mark.parametrize(
    ("loss", "words"),
    [
        (LOSS + 1, "never falls to 0.5"),
        (LOSS / 10, "below 0.5 from the start"),
        (np.full(400, np.nan), "no 11 epochs in a row"),
    ],
)
def test_where_no_norm_at_a_loss_is(loss, words):
    found = curves.at_loss(EPOCHS, loss, 0.5)
    assert not found.exists and words in found.words and np.isnan(found.value)


def test_the_highest_value_is_of_the_raw_curve():
    assert curves.highest(np.array([0.1, np.inf, 0.4, np.nan, 0.4]))[:2] == (0.4, 2)
    assert curves.highest(np.full(3, np.nan)).words == "no finite value"


FALLING = 2.3 * np.exp(-EPOCHS / 200)
WAVE = np.where(EPOCHS % 2 == 0, 1.0, -1.0)


@pytest.mark.parametrize(
    ("loss", "name", "at", "spikes"),
    [
        (FALLING, "smooth", None, 0),
        (FALLING * (1 + 0.005 * WAVE), "smooth", None, 0),
        (FALLING * (1 + 0.02 * WAVE), "oscillation", None, 0),
        (FALLING * (1 + 0.2 * np.sin(EPOCHS / 40)), "smooth", None, 0),  # no turn every few epochs
        (FALLING + bump(3, 200, 3), "spikes", 197, 1),
        (FALLING + bump(3, 200, 3) + bump(3, 300, 3), "spikes", 197, 2),
        (FALLING + bump(0.7, 200, 3), "smooth", None, 0),  # 1.8 times
        (FALLING + bump(3, 398, 3), "divergence", 400, 1),  # ends above where it began
        (FALLING + bump(1.5, 398, 3), "spikes", 395, 1),
        (FALLING + np.where(EPOCHS > 200, 3.0, 0.0), "divergence", 201, 0),
        (np.where(EPOCHS > 300, np.nan, FALLING), "divergence", 301, 0),
        (FALLING[::-1], "divergence", 400, 0),
        (np.where(EPOCHS % 15 == 14, 3 * FALLING, FALLING), "oscillation", None, 26),
        (np.where(EPOCHS % 30 == 29, 3 * FALLING, FALLING), "spikes", 29, 13),
        (np.zeros(400), "smooth", None, 0),
        (np.empty(0), "divergence", 0, 0),
        (FALLING[:5], "smooth", None, 0),
    ],
)
def test_the_regime_of_a_made_up_loss(loss, name, at, spikes):
    assert curves.regime(loss)[:3] == (name, at, spikes)


def linear_network(b1, b2, rate):
    """The loss of Adam on ½‖W₃W₂W₁ − B‖² + 0.01, by hand."""
    W = np.random.default_rng(0).normal(size=(3, 4, 4)) * 0.5 + np.eye(4)
    goal, losses, m, v = np.diag([3, 1, 0.3, 0.1]), [], 0.0, 0.0
    for n in range(1, 1501):
        one, two = W[1] @ W[0], W[2] @ W[1]
        rest = W[2] @ one - goal
        losses.append(np.sum(rest**2) / 2 + 0.01)
        g = np.stack([two.T @ rest, W[2].T @ rest @ W[0].T, rest @ one.T])
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        W = W - rate * (m / (1 - b1**n)) / (np.sqrt(v / (1 - b2**n)) + 1e-8)
    return np.array(losses)


@pytest.mark.parametrize(
    ("b1", "b2", "rate", "name"),
    [
        (0.5, 0.999, 0.03, "spikes"),
        (0.9, 0.9, 0.1, "oscillation"),
        (0.99, 0.1, 0.1, "divergence"),
        (0.9, 0.999, 0.03, "smooth"),
    ],
)
def test_the_regimes_of_ma_et_al(b1, b2, rate, name):
    """Spikes for ρ ≫ β, oscillation where they are equal, divergence for β ≫ ρ; and, tame, none."""
    assert curves.regime(linear_network(b1, b2, rate)).name == name
