"""One table of optimizers and a few small problems, for every law that runs over all of them."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from shadowflow.fields import memoryless_step, modified_field
from shadowflow.methods import METHODS
from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Optimizer
from shadowflow.problem import Problem

MEMORYLESS = [
    name for name, method in METHODS.items() if method.is_field and not method.needs_settled
]
CASES = [
    (name, kind, order)
    for name, method in METHODS.items()
    for kind in method.kinds
    for order in method.orders or ()
]
EPS = {
    "inside": {"eps": 0.0, "eps_root": 0.1},
    "outside": {"eps": 0.2, "eps_root": 0.0},
    "both": {"eps": 0.2, "eps_root": 0.1},
}


class Row(NamedTuple):
    """An optimizer of the zoo, with decays so small that short runs show their order."""

    build: Callable[..., Optimizer]
    options: dict

    def __call__(self, **changes) -> Optimizer:
        return self.build(**{**self.options, **changes})


ROWS = {
    "sgd": Row(zoo.sgd, {}),
    "momentum": Row(zoo.momentum, {"decay": 0.6}),
    "momentum-ema": Row(zoo.momentum, {"decay": 0.6, "form": "ema"}),
    "momentum-corrected": Row(zoo.momentum, {"decay": 0.6, "form": "ema", "bias_correction": True}),
    "nesterov": Row(zoo.nesterov, {"decay": 0.6}),
    **{f"rmsprop-{place}": Row(zoo.rmsprop, {"decay": 0.7, **eps}) for place, eps in EPS.items()},
    "rmsprop-corrected": Row(zoo.rmsprop, {"decay": 0.7, "bias_correction": True, **EPS["inside"]}),
    **{f"adam-{place}": Row(zoo.adam, {"b1": 0.5, "b2": 0.7, **eps}) for place, eps in EPS.items()},
    "adam-uncorrected": Row(
        zoo.adam, {"b1": 0.5, "b2": 0.7, "bias_correction": False, **EPS["inside"]}
    ),
    "adamw": Row(zoo.adamw, {"b1": 0.5, "b2": 0.7, "weight_decay": 0.2, **EPS["both"]}),
    "nadam": Row(zoo.nadam, {"b1": 0.5, "b2": 0.7, **EPS["both"]}),
    "signum": Row(zoo.signum, {"decay": 0.6, "eps_root": 1.0}),
    "lion": Row(zoo.lion, {"b1": 0.5, "b2": 0.7, "eps_root": 1.0}),
}


REPRESENTATIVE = (
    *("momentum", "momentum-corrected", "nesterov", "rmsprop-outside", "rmsprop-corrected"),
    *("adam-both", "adam-uncorrected", "adamw", "nadam", "lion"),
)  # what the fast tests run over


def bilinear_loss(params):
    """The loss of the paper's Figure 2 over 100, so that the gradient at the start is about 1."""
    return 0.5 * (1.5 - 2 * params[0] * params[1]) ** 2 / 100


@jax.jit  # so that eager derivatives are traced once, not at every call
def smooth_loss(params):
    """Three coupled coordinates; no gradient component is near zero at ``PLACES``."""
    x, y, z = params
    return 0.5 * (1.5 - 2 * x * y) ** 2 + 0.3 * z**4 + 0.5 * y * z + jnp.sin(x * z)


class Smooth(eqx.Module):
    """x → scale · smooth_loss(x @ turn); scale and turn are traced, so all share compilations."""

    scale: Array
    turn: Array

    def __call__(self, params):
        return self.scale * smooth_loss(params @ self.turn)


def smooth(scale=1.0, turn=None) -> Problem:
    """The smooth problem, its loss scaled, its coordinates turned."""
    return Problem(Smooth(jnp.asarray(scale), jnp.eye(3) if turn is None else jnp.asarray(turn)))


BILINEAR, BILINEAR_START = Problem(bilinear_loss), jnp.asarray([2.8, 3.5])
SMOOTH, PLACE = smooth(), jnp.asarray([0.9, 1.4, -0.7])
PLACES = jnp.stack([PLACE, PLACE + 0.1, 1.3 * PLACE, PLACE - 0.03])


def with_leaves(optimizer: Optimizer) -> Optimizer:
    """Its decays and eps as arrays, so that rows of one structure share one compilation."""
    return jax.tree.map(jnp.asarray, optimizer)


def compiled(field, step, params):
    """``field(step, params)`` in one program, where eager calls would compile every operation."""
    return jax.jit(lambda x: field(step, x))(params)


def every_answer(problem: Problem, optimizer: Optimizer, learning_rate, step, places) -> dict:
    """(method, kind, order) → the modified field, or the memoryless step, at each of ``places``.

    One compilation for all; of first order, which all methods share, Taylor's only.
    """
    rate = learning_rate if callable(learning_rate) else jnp.asarray(learning_rate)
    step = step if isinstance(step, str) else jnp.asarray(step)
    return _every_answer(problem, with_leaves(optimizer), rate, step, places)


@eqx.filter_jit
def _every_answer(problem, optimizer, learning_rate, step, places) -> dict:
    build = {"flow": modified_field, "iteration": memoryless_step}

    def at(params):
        return {
            (method, kind, order): build[kind](
                problem, optimizer, learning_rate, order=order, method=method
            )(step, params)
            for method, kind, order in CASES
            if method in MEMORYLESS and (order == 2 or method == "taylor")
        }

    return jax.vmap(at)(places)
