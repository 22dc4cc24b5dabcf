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
