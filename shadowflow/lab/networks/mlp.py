"""The multilayer perceptron of the lab, on images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from ... import checks
from ..models import Layers, mlp_apply, mlp_init
from .interface import LayerRow, Network, State, check_call, checked

HIDDEN = (64, 64)


def mlp(*, hidden: Sequence[int] = HIDDEN, **options: Any) -> Network:
    """A perceptron on the flattened image: dense 64, GELU, dense 64, GELU, dense classes.

    It is `mlp_apply` of `shadowflow.lab.models` (GELU in its tanh form), with the parameters that
    `mlp_init` draws from the same key. hidden: the width of each hidden layer, before the factor.

    >>> [(row.name, row.parameters) for row in mlp(classes=2, shape=(4, 4, 1)).layers()]
    [('hidden1', 1088), ('hidden2', 4160), ('logits', 130)]
    """
    settings = checked(**options)
    inner = [settings.scaled(checks.count("hidden", size, 1)) for size in hidden]
    sizes = [math.prod(settings.shape), *inner, settings.classes]

    def init(key: PRNGKeyArray) -> tuple[Layers, State]:
        return mlp_init(key, sizes, settings.dtype), {}

    def apply(params: Layers, state: State, images: Array, train: bool) -> tuple[Array, State]:
        check_call(images, train, settings)
        return mlp_apply(params, jnp.reshape(images, (len(images), -1))), state

    def rows() -> tuple[LayerRow, ...]:
        names = [f"hidden{i + 1}" for i in range(len(inner))] + ["logits"]
        pairs = zip(names, itertools.pairwise(sizes), strict=True)
        return tuple(LayerRow(name, (n,), (m + 1) * n) for name, (m, n) in pairs)

    return Network(init, apply, False, rows, settings.shape, settings.classes, settings.dtype)
