"""A problem of three mini-batches in a given order, and each batch's dense landscape."""

import jax.numpy as jnp
import numpy as np
import oracles
from table import smooth_loss

from shadowflow.problem import Problem

ORDER = np.array([0, 2, 2, 1, 0, 1, 1, 2, 0, 0, 1, 2])  # no cycle, and repeats
DATA = jnp.asarray([[1.0, 0.3, -0.4], [0.8, -0.5, 0.6], [1.2, 0.2, 0.1]])


def batch_loss(params, batch):
    """Another landscape for every batch, no gradient component near zero at ``PLACES``."""
    shift = jnp.stack([batch[1], batch[2], batch[1] * batch[2]])
    return batch[0] * smooth_loss(params) + 0.5 * params @ (shift * params) + shift @ params


PROBLEM = Problem(batch_loss, batches=DATA, schedule=ORDER)
SURFACES = [oracles.landscape(lambda x, c=c: batch_loss(x, c)) for c in DATA]
