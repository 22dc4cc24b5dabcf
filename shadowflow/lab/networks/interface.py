"""What every network is: a pair of pure functions, made of named layers in sequence."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PRNGKeyArray, PyTree

from ... import checks

Params = dict[str, Any]
State = dict[str, Any]


class LayerRow(NamedTuple):
    """A line of a network's table: the shape is that of one example's values behind the layer."""

    name: str
    shape: tuple[int, ...]
    parameters: int


@dataclass(frozen=True)
class Network:
    """A network on images, as pure functions; nothing is computed before they are called.

    init: ``init(key)`` → (params, state), the parameters in ``dtype`` and the running statistics
        of BatchNorm, ``{}`` where there is none.
    apply: ``apply(params, state, images, train)`` → (logits [batch, classes], new state).
        ``images`` [batch, height, width, channels] are computed on in the dtype of the
        parameters. ``train`` is a Python bool, static under jit: BatchNorm then uses the
        statistics of these images and moves the running ones; without it the running ones are
        used and the state is returned as it came. No gradient passes through the new state.
        Raises ValueError for images of another shape, for a ``train`` that is traced, and where
        BatchNorm is to train on one value per channel.
    has_batch_norm: the outputs of training then depend on which images are together in a batch.
    layers: ``layers()`` → the rows of its table.
    shape, classes, dtype: as the constructor was told.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, State]]
    apply: Callable[..., tuple[Array, State]]
    has_batch_norm: bool
    layers: Callable[[], tuple[LayerRow, ...]]
    shape: tuple[int, int, int]
    classes: int
    dtype: np.dtype


@dataclass(frozen=True)
class Layer:
    """A named part of a network, as pure functions.

    init(key) → (params, state); apply(params, state, values, train) → (values, new state).
    """

    name: str
    init: Callable[[PRNGKeyArray], tuple[Params, State]]
    apply: Callable[..., tuple[Array, State]]


class NetworkSettings(NamedTuple):
    """What every constructor takes, checked."""

    classes: int
    shape: tuple[int, int, int]
    width: float
    dtype: np.dtype

    def scaled(self, channels: int, multiple: int = 1) -> int:
        """``channels`` times the width factor, rounded to a positive multiple of ``multiple``.

        >>> checked(width=0.3).scaled(64)
        19
        """
        return multiple * max(1, round(channels * self.width / multiple))


def checked(
    *,
    classes: int = 10,
    shape: Sequence[int] = (32, 32, 3),
    width: float = 1.0,
    dtype: DTypeLike = jnp.float32,
) -> NetworkSettings:
    """The arguments that every constructor takes; ValueError names one that makes no sense."""
    checks.count("classes", classes, 1)
    if not isinstance(shape, Sequence) or len(shape) != 3:
        raise ValueError(
            f"shape: expected (height, width, channels) of the images, got {shape!r}; "
            "for example (32, 32, 3)"
        )
    height, breadth, channels = (checks.count("shape", size, 1) for size in shape)
    checks.number("width", width, above=0)
    if not jnp.issubdtype(dtype, jnp.floating):
        raise ValueError(
            f"dtype: expected a float dtype, got {dtype!r}; for example jax.numpy.float32"
        )
    sizes = height, breadth, channels
    return NetworkSettings(int(classes), sizes, float(width), jnp.dtype(dtype))


def stateless(
    name: str,
    init: Callable[[PRNGKeyArray], Params],
    function: Callable[[Params, Array], Array],
) -> Layer:
    """A layer that carries nothing along and is the same in training and in evaluation."""
    return Layer(
        name,
        lambda key: (init(key), {}),
        lambda params, state, values, train: (function(params, values), state),
    )


def sequential(
    layers: Sequence[Layer], settings: NetworkSettings, *, has_batch_norm: bool
) -> Network:
    """The network that runs one layer behind the other; the last one returns the logits.

    Its params and its state are dicts with the names of those layers that have any, so every name
    stands once. has_batch_norm: whether a layer has a state.
    """
    layers = tuple(layers)

    def init(key: PRNGKeyArray) -> tuple[Params, State]:
        params, state = {}, {}
        for layer, layer_key in zip(layers, jax.random.split(key, len(layers)), strict=True):
            params[layer.name], state[layer.name] = layer.init(layer_key)
        return _filled(params), _filled(state)

    def apply(params: Params, state: State, images: ArrayLike, train: bool) -> tuple[Array, State]:
        check_call(images, train, settings)
        values, new = jnp.asarray(images, jax.tree.leaves(params)[0].dtype), {}
        for layer in layers:
            own, carried = params.get(layer.name, {}), state.get(layer.name, {})
            values, new[layer.name] = layer.apply(own, carried, values, train)
        return values, _filled(new)

    def rows() -> tuple[LayerRow, ...]:
        found = []
        values = jax.ShapeDtypeStruct((1, *settings.shape), settings.dtype)
        for layer in layers:
            params, state = jax.eval_shape(layer.init, jax.random.key(0))
            run = functools.partial(layer.apply, train=False)
            values, _ = jax.eval_shape(run, params, state, values)
            count = sum(leaf.size for leaf in jax.tree.leaves(params))
            found.append(LayerRow(layer.name, values.shape[1:], count))
        return tuple(found)

    return Network(
        init, apply, has_batch_norm, rows, settings.shape, settings.classes, settings.dtype
    )


def check_call(images: ArrayLike, train: bool, settings: NetworkSettings) -> None:
    """ValueError for images of another shape than the network's, or a ``train`` that is no bool."""
    got = np.shape(images)
    if len(got) != 4 or got[1:] != settings.shape:
        wanted = ", ".join(map(str, settings.shape))
        raise ValueError(
            f"images: expected shape (batch, {wanted}), got {got}; "
            "reshape them, or build the network with their shape"
        )
    if not isinstance(train, bool):
        raise ValueError(
            f"train: expected True or False, got {train!r}; under jit make it a static argument"
        )


def _filled(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part}
