"""What a shadow's steps leave beside its path."""

import numpy as np

from shadowflow.following import pursue
from shadowflow.methods import planned
from shadowflow.running import followed
from shadowflow.trust import over_way


def ratios(problem, optimizer, params, rate, steps, *, start=0, method, order=2, kind=None):
    """Per step the second-order correction over the first-order step."""
    run = followed(problem, optimizer, params, rate, steps, start)
    found = pursue(planned(run, method, order, kind))
    return np.asarray(over_way(found.correction, found.plain))
