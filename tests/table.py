"""One table of optimizers and a few small problems, for every law that runs over all of them."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from shadowflow import zoo
from shadowflow.methods import METHODS
from shadowflow.optimizer import Optimizer
from shadowflow.problem import Problem
from shadowflow.shadow import memoryless_step, modified_field

MEMORYLESS = [name for name, method in METHODS.items() if method.memoryless]
CASES = [
    (name, kind, order)
    for name, method in METHODS.items()
    for kind in method.kinds
    for order in method.orders
]
EPS = {
    "inside": {"eps": 0.0, "eps_root": 1e-2},
    "outside": {"eps": 1e-2, "eps_root": 0.0},
    "both": {"eps": 3e-2, "eps_root": 1e-2},
}


class Row(NamedTuple):
    """An optimizer of the zoo with decays so small that a short run shows its order.

    ``rate``: what learning rates on the bilinear loss, whose gradient is about 100, are
    multiplied by, so that all rows move at a similar speed.
    """

    build: Callable[..., Optimizer]
    options: dict
    rate: float = 1.0

    def __call__(self, **changes) -> Optimizer:
        return self.build(**{**self.options, **changes})


ROWS = {
    "sgd": Row(zoo.sgd, {}, 0.01),
    "momentum": Row(zoo.momentum, {"decay": 0.6}, 0.01),
    "momentum-ema": Row(zoo.momentum, {"decay": 0.6, "form": "ema"}, 0.01),
    "momentum-corrected": Row(
        zoo.momentum, {"decay": 0.6, "form": "ema", "bias_correction": True}, 0.01
    ),
    "nesterov": Row(zoo.nesterov, {"decay": 0.6}, 0.01),
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


def bilinear_loss(params):
    """The loss of the paper's Figure 2; its minimizers are θ₁ θ₂ = 3/4."""
    return 0.5 * (1.5 - 2 * params[0] * params[1]) ** 2


def smooth_loss(params):
    """Three coupled coordinates; no gradient component is near zero at ``PLACES``."""
    x, y, z = params
    return 0.5 * (1.5 - 2 * x * y) ** 2 + 0.3 * z**4 + 0.5 * y * z + jnp.sin(x * z)


BILINEAR, BILINEAR_START = Problem(bilinear_loss), jnp.asarray([2.8, 3.5])
SMOOTH, PLACE = Problem(smooth_loss), jnp.asarray([0.9, 1.4, -0.7])
PLACES = jnp.stack([PLACE, PLACE + 0.1, 1.3 * PLACE, PLACE - 0.03])


@eqx.filter_jit
def every_answer(problem: Problem, optimizer: Optimizer, learning_rate, step, places) -> dict:
    """(method, kind, order) → the modified field, or the memoryless step, at each of ``places``.

    One compilation for all; of first order, which all methods share, Taylor's only.
    """
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
