"""What every refused input has in common."""

import jax.numpy as jnp
import pytest

from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Moment
from shadowflow.problem import Problem

NO_NUMBER = (TypeError, ValueError)
PROBLEM, PARAMS = Problem(lambda x: jnp.sum(x**2)), jnp.ones(2)
ADAM = zoo.adam()
M = [Moment(0.9)]


def first(moments, params, step):
    """A combine that reads one moment."""
    return moments[0]


def refusal_of(call, error=NO_NUMBER) -> str:
    """What the refusal of ``call`` says, which is of that kind and no other."""
    with pytest.raises(error) as caught:
        call()
    return str(caught.value)


def refused(call, *parts, error=ValueError):
    """``call`` raises ``error`` and no other kind, with a message that has all the parts."""
    message = refusal_of(call, error)
    for part in ("expected", "got", *parts):
        assert part in message, f"{part!r} is not in: {message}"
