"""Runs that were never run: curves of a known form, for the figures of training runs."""

import numpy as np

from shadowflow.paper import grid as grids
from shadowflow.paper.records import Record

PARAMETERS = 1_482  # of the perceptron of the smallest grids


def grid(name="cnn", scale="smoke"):
    return grids.read(name)[scale]


def record(settings, effect=1.0, reason="epochs"):
    """A loss that falls from 2.3 by e⁻⁶, and a norm that falls beside it and has a hill.

    The hill is 30 × effect × log10((1−β)/(1−ρ)) high where that is positive, so higher for larger
    ρ and smaller β; the norm at equal loss rises by the same times 5 %, the test accuracy falls by
    as many hundredths; with noise from the seed and the decays.
    """
    b1, b2 = settings.arguments["b1"], settings.arguments["b2"]
    noise = np.random.default_rng([settings.seed, round(1e6 * b1), round(1e6 * b2)])
    share = np.arange(settings.epochs + 1) / settings.epochs
    jitter = lambda size: np.exp(size * noise.standard_normal(len(share)))
    strength = effect * np.log10((1 - b1) / (1 - b2))
    loss = 2.3 * np.exp(-6 * share) * jitter(0.005)
    norm = 12 * np.exp(-6 * share) * (1 + 0.05 * strength)
    norm += 30 * max(0.0, strength) * np.exp(-(((share - 0.6) / 0.1) ** 2))
    norm *= jitter(0.005)
    accuracy = np.clip(1 - loss / 2.3, 0, 1)
    tested = 0.5 * accuracy - 0.01 * strength + 0.001 * noise.standard_normal(len(share))
    seen = np.arange(len(share)) % settings.test_every == 0
    curves = {
        "perturbed_one_norm": norm + PARAMETERS * 1e-4,
        "one_norm": norm,
        "train_loss": loss,
        "train_accuracy": accuracy,
        "test_loss": np.where(seen, 0.7 + loss, np.nan),
        "test_accuracy": np.where(seen, tested, np.nan),
    }
    return Record(settings, reason, curves)


def runs(effect=1.0):
    """What obtains the runs, without running them."""
    return lambda wanted: [record(settings, effect) for settings in wanted]
