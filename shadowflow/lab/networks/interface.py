"""What every network is: a pair of pure functions, made of named layers in sequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Array, PRNGKeyArray, PyTree

Params = dict[str, Any]
State = dict[str, Any]


class Apply(Protocol):
    """The type of a network's ``apply``, whose arguments have names."""

    def __call__(
        self, params: PyTree, state: State, images: ArrayLike, train: bool
    ) -> tuple[Array, State]: ...


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
    layers: ``layers()`` → the rows of the table that `describe` prints.
    shape, classes, dtype: as the constructor was told.
    """

    init: Callable[[PRNGKeyArray], tuple[PyTree, State]]
    apply: Apply
    has_batch_norm: bool
    layers: Callable[[], tuple[LayerRow, ...]]
    shape: tuple[int, int, int]
    classes: int
    dtype: np.dtype


@dataclass(frozen=True)
class Layer:
    """A named part of a network: init(key) → (params, state), apply → (values, new state)."""

    name: str
    init: Callable[[PRNGKeyArray], tuple[Params, State]]
    apply: Callable[[Params, State, Array, bool], tuple[Array, State]]


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
    if not is_whole(classes):
        raise ValueError(
            f"classes: expected a whole number of at least 1, got {classes!r}; for example 10"
        )
    if not isinstance(shape, Sequence) or len(shape) != 3 or not all(map(is_whole, shape)):
        raise ValueError(
            "shape: expected three whole numbers of at least 1, (height, width, channels) of the "
            f"images, got {shape!r}; for example (32, 32, 3)"
        )
    number = isinstance(width, Real) and not isinstance(width, bool)
    if not number or not 0 < width < math.inf:
        raise ValueError(
            f"width: expected a positive finite factor of the channel counts, got {width!r}; "
            "1.0 is the published network, 0.25 has a quarter of its channels"
        )
    try:
        found = jnp.dtype(dtype)
    except TypeError:
        found = None
    if found is None or not jnp.issubdtype(found, jnp.floating):
        raise ValueError(
            f"dtype: expected a float dtype, got {dtype!r}; for example jax.numpy.float32"
        )
    height, breadth, channels = map(int, shape)
    return NetworkSettings(int(classes), (height, breadth, channels), float(width), found)


def is_whole(value: Any) -> bool:
    """Whether a value is a whole number of at least 1."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 1


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
        values, new = as_dtype_of(params, images), {}
        for layer in layers:
            own, carried = params.get(layer.name, {}), state.get(layer.name, {})
            values, new[layer.name] = layer.apply(own, carried, values, train)
        return values, _filled(new)

    def rows() -> tuple[LayerRow, ...]:
        found = []
        values = jax.ShapeDtypeStruct((1, *settings.shape), settings.dtype)
        for layer in layers:
            params, state = jax.eval_shape(layer.init, jax.random.key(0))
            values = _shape_behind(layer, params, state, values)
            found.append(LayerRow(layer.name, values.shape[1:], parameter_count(params)))
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


def as_dtype_of(params: PyTree, images: ArrayLike) -> Array:
    """``images`` as an array in the dtype of the parameters."""
    return jnp.asarray(images, jax.tree.leaves(params)[0].dtype)


def parameter_count(params: PyTree) -> int:
    """How many numbers a pytree of arrays, or of their shapes, holds.

    >>> parameter_count({"weight": jnp.zeros((3, 2)), "bias": jnp.zeros(2)})
    8
    """
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def describe(network: Network) -> str:
    """The table of a network's layers as text: name, shape behind the layer, parameters, their sum.

    >>> from shadowflow.lab.networks import build
    >>> print(describe(build("mlp", shape=(28, 28, 1))))
    layer    shape  parameters
    hidden1  64         50,240
    hidden2  64          4,160
    logits   10            650
    total               55,050
    """
    rows = network.layers()
    lines = [("layer", "shape", "parameters")]
    lines += [(row.name, "×".join(map(str, row.shape)), f"{row.parameters:,}") for row in rows]
    lines += [("total", "", f"{sum(row.parameters for row in rows):,}")]
    first, second, third = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(f"{a:<{first}}  {b:<{second}}  {c:>{third}}" for a, b, c in lines)


def _filled(parts: dict[str, Any]) -> dict[str, Any]:
    return {name: part for name, part in parts.items() if part}


def _shape_behind(layer: Layer, params: Any, state: Any, values: Any) -> Any:
    run = lambda *inputs: layer.apply(*inputs, False)[0]
    return jax.eval_shape(run, params, state, values)
