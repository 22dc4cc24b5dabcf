"""What is read off the curves of a run: the initial fall, the peak, the hill, the norm at a loss.

Curves are arrays over epochs, NaN where nothing was measured. The test accuracy is read off the raw
curve, all else off running medians over ``WINDOW`` epochs, because the maximum of a raw curve is
mostly noise. Each function returns a `Reading`, whose words say why where there is no number.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

Curve = Float[np.ndarray, " epochs"]

WINDOW = 11  # epochs of the running median: odd, so that it has a middle
SPIKE, RECOVERY = 2.0, 100  # times the loss before it; epochs in which it must come back
CROWD = 0.05  # of all epochs: more spikes than that are an oscillation
SWING, TURNS = 0.01, 0.2  # of an oscillation: its size over the median, how often it turns
CUT = 1.0  # of the training loss (10 classes: log 10 = 2.3 at the start): the end of its fall
RISE = 1.2  # of a hill over the lowest place before it
NAN = float("nan")


class Reading(NamedTuple):
    """A number read off a curve.

    value: the number, NaN where there is none; at: its epoch (between two, where it is
    interpolated), None where there is none; words: what it is, or why there is none.
    """

    value: float
    at: float | None
    words: str

    @property
    def exists(self) -> bool:
        """Whether there is such a number."""
        return self.at is not None


def none(words: str) -> Reading:
    """Nothing was found, and why."""
    return Reading(NAN, None, words)


def running_median(curve: Curve) -> Curve:
    """The median of the ``WINDOW`` values around each value.

    NaN for half a window at either end (everywhere, if the curve is shorter than the window), and
    where a value in the window is not finite.

    >>> running_median(np.arange(13.0) ** 2)[4:9]
    array([nan, 25., 36., 49., nan])
    """
    curve = np.asarray(curve, np.float64)
    smooth = np.full(len(curve), NAN)
    if len(curve) >= WINDOW:
        finite = np.where(np.isfinite(curve), curve, NAN)
        middle = slice(WINDOW // 2, len(curve) - WINDOW // 2)
        smooth[middle] = np.median(np.lib.stride_tricks.sliding_window_view(finite, WINDOW), -1)
    return smooth


def initial_fall(loss: Curve, cut: float = CUT) -> Reading:
    """The end of the initial fall: the first epoch at which the smoothed training loss is < cut.

    The value is the smoothed loss there.

    >>> initial_fall(np.linspace(2, 0, 101)).at
    51
    >>> initial_fall(np.full(101, 2.0)).words
    'the training loss never falls below 1'
    """
    smooth = running_median(loss)
    if not np.any(np.isfinite(smooth)):
        return none(f"no {WINDOW} epochs in a row with a finite training loss")
    below = np.flatnonzero(smooth < cut)
    if not len(below):
        return none(f"the training loss never falls below {cut:g}")
    first = int(below[0])
    return Reading(float(smooth[first]), first, f"the training loss is below {cut:g}")


def peak(norm: Curve, fall: Reading) -> Reading:
    """The largest value of the smoothed norm after the initial fall: what the paper plots.

    It need not be a `hill`: a norm that only falls is largest where the initial fall ends.

    >>> norm = np.array([9.0] * 20 + [4.0] * 20 + [6.0] * 20 + [2.0] * 20)
    >>> peak(norm, Reading(0.9, 25, ""))[:2]
    (6.0, 40)
    """
    smooth, epochs = _after(norm, fall)
    if fall.at is None:
        return none(f"no end of the initial fall: {fall.words}")
    if not len(epochs):
        return none("too few epochs after the initial fall")
    top = int(epochs[np.argmax(smooth[epochs])])
    return Reading(float(smooth[top]), top, "the largest norm after the initial fall")


def _after(norm: Curve, fall: Reading) -> tuple[Curve, np.ndarray]:
    """The smoothed norm, and its epochs from the end of the fall on; none without an end."""
    smooth = running_median(norm)
    begin = np.inf if fall.at is None else fall.at
    return smooth, np.flatnonzero(np.isfinite(smooth) & (np.arange(len(smooth)) >= begin))


def hill(norm: Curve, fall: Reading) -> Reading:
    """The height of the hill after the initial fall, if it is one.

    The `peak` is a hill if it lies at least a window away from the end of the fall and from the
    last smoothed epoch, and is at least ``RISE`` times as high as the lowest smoothed norm between
    the end of the fall and itself.

    >>> norm = np.array([9.0] * 20 + [4.0] * 20 + [6.0] * 20 + [2.0] * 20)
    >>> hill(norm, Reading(0.9, 20, ""))[:2]
    (6.0, 40)
    >>> hill(norm, Reading(0.9, 40, "")).words
    'no hill: the norm is largest where the initial fall ends'
    """
    top, (smooth, epochs) = peak(norm, fall), _after(norm, fall)
    if top.at is None:
        return none(f"no hill: {top.words}")
    if top.at < epochs[0] + WINDOW:
        return none("no hill: the norm is largest where the initial fall ends")
    if top.at > epochs[-1] - WINDOW:
        return none("no hill: the norm is largest at the end of the run")
    times = top.value / float(np.min(smooth[epochs[epochs <= top.at]]))
    if times < RISE:
        words = f"the norm rises to {times:.3g} times its lowest value, less than {RISE:g}"
        return none(f"no hill: {words}")
    return Reading(top.value, top.at, f"{times:.3g} times the lowest norm before it")


def at_loss(curve: Curve, loss: Curve, level: float) -> Reading:
    """The smoothed curve where the smoothed training loss first reaches ``level``.

    Between two epochs both curves are interpolated linearly.

    >>> at_loss(np.arange(41.0), np.linspace(2, 0, 41), 0.51)[:2]
    (29.8, 29.8)
    """
    smooth, of_loss = running_median(curve), running_median(loss)
    epochs = np.flatnonzero(np.isfinite(smooth) & np.isfinite(of_loss))
    if not len(epochs):
        return none(f"no {WINDOW} epochs in a row with finite values")
    reached = np.flatnonzero(of_loss[epochs] <= level)
    if not len(reached):
        return none(f"the training loss never falls to {level:g}")
    if reached[0] == 0:
        return none(f"the training loss is below {level:g} from the start")
    before, after = epochs[reached[0] - 1], epochs[reached[0]]
    share = (of_loss[before] - level) / (of_loss[before] - of_loss[after])
    at = float(before + share * (after - before))
    value = float(smooth[before] + share * (smooth[after] - smooth[before]))
    return Reading(round(value, 12), round(at, 12), f"the training loss is {level:g}")


def highest(curve: Curve) -> Reading:
    """The largest finite value of a raw curve; the paper reads the test accuracy so.

    >>> highest(np.array([0.1, float("nan"), 0.3, 0.2]))[:2]
    (0.3, 2)
    """
    curve = np.asarray(curve, np.float64)
    seen = np.flatnonzero(np.isfinite(curve))
    if not len(seen):
        return none("no finite value")
    top = int(seen[np.argmax(curve[seen])])
    return Reading(float(curve[top]), top, "the largest value")


class Regime(NamedTuple):
    """How a training run behaves: "smooth", "oscillation", "spikes" or "divergence".

    at: the epoch of the first spike, or from which the loss does not come back; else None.
    spikes: how many there are. swing: the size of the oscillation in the second half of the run.
    """

    name: str
    at: int | None
    spikes: int
    swing: float


def regime(loss: Curve) -> Regime:
    """The regime of a training loss, after Ma, Wu and E (2021).

    Spike: the loss is above ``SPIKE`` times the median of the ``WINDOW`` epochs before, and back
    within ``RECOVERY`` epochs. Divergence: it does not come back, ends above where it began, or is
    not finite. Oscillation: over the second half of the run the loss swings about its running
    median by ``SWING`` of it (the 90 % quantile), up and down in turn at ``TURNS`` of the epochs;
    or it has more spikes than ``CROWD`` of its epochs. Else it is smooth. Spikes come with ρ ≫ β,
    divergence with β ≫ ρ; the paper's runs are in between, where an oscillation is stable.

    >>> fall = 2.3 * np.exp(-np.arange(400.0) / 100)
    >>> regime(fall).name, regime(np.where(np.arange(400) == 200, 5.0, fall))[:3]
    ('smooth', ('spikes', 200, 1))
    """
    loss = np.asarray(loss, np.float64)
    length = int(np.argmin(np.append(np.isfinite(loss), False)))
    seen = loss[:length]
    spikes, lost = _spikes(seen)
    half = seen[length // 2 :]
    middle, change = running_median(half), np.diff(half)
    known = middle > 0  # False for NaN
    apart = np.abs(half[known] / middle[known] - 1)
    swing = float(np.quantile(apart, 0.9)) if len(apart) else 0.0
    if length < len(loss) or lost is not None or not length or seen[-1] > seen[0]:
        return Regime("divergence", length if lost is None else lost, len(spikes), swing)
    turns = np.sum(change[1:] * change[:-1] < 0) > TURNS * len(half)
    if len(spikes) > CROWD * length or (not spikes and swing > SWING and turns):
        return Regime("oscillation", None, len(spikes), swing)
    return Regime("spikes" if spikes else "smooth", next(iter(spikes), None), len(spikes), swing)


def _spikes(loss: Curve) -> tuple[list[int], int | None]:
    """Where the spikes of a finite loss begin; from where on it does not come back, if it does not.

    One that the run ends too early to see the end of counts as a spike.
    """
    spikes, place = [], WINDOW
    while place < len(loss):
        limit = SPIKE * np.median(loss[place - WINDOW : place])
        if loss[place] > limit:
            back = np.flatnonzero(loss[place : place + RECOVERY + 1] <= limit)
            if not len(back) and len(loss) - place > RECOVERY:
                return spikes, place
            spikes.append(place)
            place += int(back[0]) if len(back) else RECOVERY
        place += 1
    return spikes, None
