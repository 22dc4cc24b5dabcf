"""The layers that networks are made of: plain functions on dicts of arrays, channels last.

Weights are normal with variance 2/inputs where a ReLU follows (He et al. 2015, *Delving Deep into
Rectifiers*) and 1/inputs elsewhere, where inputs counts the numbers that one output is a sum of.
Biases and shifts begin at 0, scales at 1. Every function returns the dtype it was given; means and
variances are taken in float32 or finer. All can be differentiated forwards and backwards, in any
order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

Arrays = dict[str, Array]
EPS = 1e-5  # added to the variance in both norms
MOMENTUM = 0.1  # the share of the newest batch in the running statistics


def normal_init(
    key: PRNGKeyArray, shape: Sequence[int], inputs: int, dtype: DTypeLike, gain: float = 1.0
) -> Array:
    """Normal weights of variance gain/inputs, in the shape and dtype given."""
    # drawn flat: the same numbers, compiled several times faster than over four axes
    flat = jax.random.normal(key, (math.prod(shape),), dtype)
    return flat.reshape(tuple(shape)) * math.sqrt(gain / inputs)


def conv_init(
    key: PRNGKeyArray, size: int, inputs: int, outputs: int, dtype: DTypeLike, *, bias: bool
) -> Arrays:
    """Parameters of `conv` with a window of ``size`` by ``size``, for a ReLU behind it.

    "weight" [size, size, inputs, outputs] and, if asked for, "bias" [outputs].
    """
    shape = (size, size, inputs, outputs)
    params = {"weight": normal_init(key, shape, size * size * inputs, dtype, gain=2.0)}
    return params | ({"bias": jnp.zeros(outputs, dtype)} if bias else {})


def conv(
    params: Arrays, values: Float[Array, "batch height width inputs"], stride: int = 1
) -> Float[Array, "batch rows columns outputs"]:
    """Convolution with zeros around the image, half a window on each side; its size is odd.

    The window is put on every ``stride``-th pixel from the first one on, so that the result has
    ⌈height/stride⌉ by ⌈width/stride⌉ pixels.

    >>> params = conv_init(jax.random.key(0), 3, 2, 5, jnp.float32, bias=True)
    >>> conv(params, jnp.ones((1, 8, 7, 2), jnp.float32), stride=2).shape
    (1, 4, 4, 5)
    """
    # "SAME" would put the window of a strided convolution elsewhere: it pads less on the left
    pad = params["weight"].shape[0] // 2
    result = jax.lax.conv_general_dilated(
        values,
        params["weight"],
        (stride, stride),
        [(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return _with_bias(params, result)


def dense_init(
    key: PRNGKeyArray, inputs: int, outputs: int, dtype: DTypeLike, *, before_relu: bool = False
) -> Arrays:
    """Parameters of `dense`: "weight" [inputs, outputs] and "bias" [outputs].

    before_relu: doubles the variance of the weights.
    """
    gain = 2.0 if before_relu else 1.0
    weight = normal_init(key, (inputs, outputs), inputs, dtype, gain)
    return {"weight": weight, "bias": jnp.zeros(outputs, dtype)}


def dense(params: Arrays, values: Float[Array, "*batch inputs"]) -> Float[Array, "*batch outputs"]:
    """values · weight + bias, on the last axis.

    >>> params = dense_init(jax.random.key(0), 3, 5, jnp.float32)
    >>> dense(params, jnp.ones((2, 7, 3), jnp.float32)).shape
    (2, 7, 5)
    """
    return _with_bias(params, values @ params["weight"])


def batch_norm_init(channels: int, dtype: DTypeLike) -> tuple[Arrays, Arrays]:
    """Parameters and running statistics of `batch_norm`, all [channels].

    {"scale", "shift"} in ``dtype``, {"mean", "variance"} in float32 or finer.
    """
    fine = _fine(dtype)
    state = {"mean": jnp.zeros(channels, fine), "variance": jnp.ones(channels, fine)}
    return layer_norm_init(channels, dtype), state


def batch_norm(
    params: Arrays, state: Arrays, values: Float[Array, "*batch channels"], train: bool
) -> tuple[Float[Array, "*batch channels"], Arrays]:
    """Every channel to mean 0 and variance 1, then scaled and shifted; the new running statistics.

    All axes but the last are averaged over. In training (``train``) the statistics are those of
    ``values``, and the running ones move a tenth of the way there; otherwise the running ones are
    used. No gradient passes through them. As in PyTorch the running variance is that of the batch
    with the divisor count − 1, the one that normalizes with the divisor count (Ioffe & Szegedy
    2015, *Batch Normalization*). ValueError where a channel to train on has one value, thus no
    variance.

    >>> params, state = batch_norm_init(1, jnp.float32)
    >>> values, state = batch_norm(params, state, jnp.float32([[1], [3]]), train=True)
    >>> [round(float(value), 3) for value in values[:, 0]]
    [-1.0, 1.0]
    >>> {name: round(float(value[0]), 3) for name, value in state.items()}
    {'mean': 0.2, 'variance': 1.1}
    """
    fine = values.astype(_fine(values.dtype))
    if not train:
        centred = fine - _behind(state["mean"], fine)
        return _rescaled(params, centred, state["variance"], values), state
    count = fine.size // fine.shape[-1]
    if count < 2:
        raise ValueError(
            f"images: expected at least 2 values per channel for BatchNorm to train on, got {count}"
            "; take larger batches or images, or evaluate with train=False"
        )
    axes = tuple(range(fine.ndim - 1))
    mean = jnp.mean(fine, axes)
    centred = fine - _behind(mean, fine)
    variance = jnp.mean(centred**2, axes)
    new = {
        "mean": _moved(state["mean"], mean),
        "variance": _moved(state["variance"], variance * (count / (count - 1))),
    }
    return _rescaled(params, centred, variance, values), new


def layer_norm_init(width: int, dtype: DTypeLike) -> Arrays:
    """{"scale", "shift"} [width] of `layer_norm`."""
    return {"scale": jnp.ones(width, dtype), "shift": jnp.zeros(width, dtype)}


def layer_norm(
    params: Arrays, values: Float[Array, "*batch width"]
) -> Float[Array, "*batch width"]:
    """The last axis to mean 0 and variance 1, then scaled and shifted (Ba, Kiros & Hinton 2016).

    >>> values = layer_norm(layer_norm_init(2, jnp.float32), jnp.float32([[1, 3]]))
    >>> [round(float(value), 3) for value in values[0]]
    [-1.0, 1.0]
    """
    fine = values.astype(_fine(values.dtype))
    centred = fine - jnp.mean(fine, -1, keepdims=True)
    variance = jnp.mean(centred**2, -1, keepdims=True)
    return _rescaled(params, centred, variance, values)


def relu(values: Array) -> Array:
    """max(values, 0), made of a primitive that every kind of derivative knows."""
    return jnp.maximum(values, 0)


def gelu(values: Array) -> Array:
    """values · Φ(values) with the normal distribution function Φ (Hendrycks & Gimpel 2016)."""
    return jax.nn.gelu(values, approximate=False)


def max_pool(
    values: Float[Array, "batch height width channels"],
) -> Float[Array, "batch rows columns channels"]:
    """The largest of every 2×2 pixels; a last row or column without a partner is left out.

    Of equal ones the first takes the whole gradient, as in PyTorch; NaN wins.

    >>> max_pool(jnp.arange(16.0).reshape(1, 4, 4, 1))[0, :, :, 0].tolist()
    [[5.0, 7.0], [13.0, 15.0]]
    """
    height, width = values.shape[1:3]
    # selections rather than reduce_window, whose backward pass is slow and not made for jet
    even = values[:, : height // 2 * 2, : width // 2 * 2]
    upper = _larger(even[:, ::2, ::2], even[:, ::2, 1::2])
    lower = _larger(even[:, 1::2, ::2], even[:, 1::2, 1::2])
    return _larger(upper, lower)


def mean_pool(values: Float[Array, "batch *space channels"]) -> Float[Array, "batch channels"]:
    """The mean over all axes but the first and the last.

    >>> mean_pool(jnp.arange(8.0).reshape(1, 2, 2, 2)).tolist()
    [[3.0, 4.0]]
    """
    return jnp.mean(values, tuple(range(1, values.ndim - 1)))


def attention_init(
    key: PRNGKeyArray, width: int, heads: int, head_size: int, dtype: DTypeLike
) -> Arrays:
    """Parameters of `attention`, without biases.

    "qkv" [width, 3, heads, head_size], the weights of queries, keys and values, and "out" [heads,
    head_size, width].
    """
    first, second = jax.random.split(key)
    return {
        "qkv": normal_init(first, (width, 3, heads, head_size), width, dtype),
        "out": normal_init(second, (heads, head_size, width), heads * head_size, dtype),
    }


def attention(
    params: Arrays, values: Float[Array, "batch tokens width"]
) -> Float[Array, "batch tokens width"]:
    """Every token becomes a mean of all tokens' values, weighted by softmax(q·k/√head_size).

    The sum over the heads, projected back to the width; the shapes of the parameters say how many
    heads there are (Vaswani et al. 2017, *Attention Is All You Need*).

    >>> params = attention_init(jax.random.key(0), 8, 2, 3, jnp.float32)
    >>> attention(params, jnp.ones((1, 5, 8), jnp.float32)).shape
    (1, 5, 8)
    """
    query, key, value = jnp.einsum("btw,wkhs->kbhts", values, params["qkv"])
    scores = jnp.einsum("bhqs,bhts->bhqt", query, key) / math.sqrt(query.shape[-1])
    mixed = jnp.einsum("bhqt,bhts->bhqs", jax.nn.softmax(scores), value)
    return jnp.einsum("bhqs,hsw->bqw", mixed, params["out"])


def _fine(dtype: DTypeLike) -> jnp.dtype:
    """``dtype``, or float32 where that is finer; promotion itself may be forbidden."""
    coarse = jnp.finfo(dtype).bits < 32
    return jnp.dtype(jnp.float32 if coarse else dtype)


def _behind(vector: Array, like: Array) -> Array:
    """``vector`` with as many axes as ``like``, along the last of them."""
    return vector.reshape((1,) * (like.ndim - 1) + (-1,))


def _with_bias(params: Arrays, values: Array) -> Array:
    return values + _behind(params["bias"], values) if "bias" in params else values


def _rescaled(params: Arrays, centred: Array, variance: Array, like: Array) -> Array:
    """centred/√(variance + EPS) · scale + shift, in the dtype of ``like``."""
    if variance.ndim == 1:
        variance = _behind(variance, centred)
    scale, shift = (
        _behind(params[name].astype(centred.dtype), centred) for name in ("scale", "shift")
    )
    return (centred * jax.lax.rsqrt(variance + EPS) * scale + shift).astype(like.dtype)


def _moved(running: Array, newest: Array) -> Array:
    newest = jax.lax.stop_gradient(newest).astype(running.dtype)
    return (1 - MOMENTUM) * running + MOMENTUM * newest


def _larger(first: Array, second: Array) -> Array:
    return jnp.where((first >= second) | jnp.isnan(first), first, second)
