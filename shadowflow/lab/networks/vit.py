"""The plain vision transformer for small images."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, Float, PRNGKeyArray

from ... import checks
from .interface import Layer, Network, Params, checked, sequential, stateless
from .layers import (
    attention,
    attention_init,
    dense,
    dense_init,
    gelu,
    layer_norm,
    layer_norm_init,
    mean_pool,
)

PATCH = 4
BLOCKS = 6
HEADS, HEAD_SIZE = 16, 64
WIDTH, HIDDEN = 512, 1024
TEMPERATURE = 10_000.0  # the longest wave of the positions over the shortest


def simple_vit(*, blocks: int = BLOCKS, **options: Any) -> Network:
    """SimpleViT: patches of 4×4 pixels, 6 transformer blocks, the mean of all tokens, a dense head.

    A patch passes layer norm, dense 512, layer norm, and gets its place added as fixed sines and
    cosines; there is no class token. A block is x + attention(norm x), 16 heads of 64 without
    biases, then x + dense(GELU(dense(norm x))) with 1024 hidden units. A last layer norm stands
    before the mean (Beyer, Zhai & Kolesnikov 2022, *Better plain ViT baselines for ImageNet-1k*).
    Both sides of the images are multiples of 4. The factor ``width`` is one of the width (then a
    multiple of 4), of the hidden width and of the number of heads, whose size stays 64.

    >>> sum(row.parameters for row in simple_vit().layers())
    18928234
    """
    settings = checked(**options)
    checks.count("blocks", blocks, 1)
    height, breadth, channels = settings.shape
    if height % PATCH or breadth % PATCH:
        raise ValueError(
            f"shape: expected sides that are multiples of {PATCH}, got {height} by {breadth}; "
            f"pad the images to whole patches of {PATCH} by {PATCH} pixels"
        )
    tokens = settings.scaled(WIDTH, multiple=4)
    heads, hidden = settings.scaled(HEADS), settings.scaled(HIDDEN)
    places = positions(height // PATCH, breadth // PATCH, tokens)
    layers = [_embedding(PATCH**2 * channels, tokens, places, settings.dtype)]
    layers += [
        _block(f"block{number + 1}", tokens, heads, hidden, settings.dtype)
        for number in range(blocks)
    ]
    layers += [
        stateless("norm", lambda key: layer_norm_init(tokens, settings.dtype), layer_norm),
        stateless("pool", lambda key: {}, lambda params, values: mean_pool(values)),
        stateless(
            "logits", lambda key: dense_init(key, tokens, settings.classes, settings.dtype), dense
        ),
    ]
    return sequential(layers, settings, has_batch_norm=False)


def positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "tokens width"]:
    """Fixed places of the tokens in the plane, row after row, in float64.

    A row per token: a quarter each of sin ωx, cos ωx, sin ωy, cos ωy for the column x and the row
    y, with width/4 frequencies ω from 1 down to 1/10,000; ``width`` is a multiple of 4.

    >>> positions(1, 2, 4).round(2).tolist()
    [[0.0, 1.0, 0.0, 1.0], [0.84, 0.54, 0.0, 1.0]]
    """
    quarter = width // 4
    frequencies = TEMPERATURE ** -(np.arange(quarter) / max(1, quarter - 1))
    y, x = (np.outer(place.ravel(), frequencies) for place in np.mgrid[:rows, :columns])
    return np.concatenate([np.sin(x), np.cos(x), np.sin(y), np.cos(y)], axis=1)


def patches(
    images: Float[Array, "batch height width channels"],
) -> Float[Array, "batch tokens pixels"]:
    """The 4×4 patches of images, row after row; each lists its pixels row after row.

    >>> patches(jnp.arange(32.0).reshape(1, 4, 8, 1))[0, 1, :5].tolist()
    [4.0, 5.0, 6.0, 7.0, 12.0]
    """
    batch, height, width, channels = images.shape
    rows, columns = height // PATCH, width // PATCH
    cut = images.reshape(batch, rows, PATCH, columns, PATCH, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, rows * columns, PATCH**2 * channels)


def _embedding(pixels: int, width: int, places: np.ndarray, dtype: DTypeLike) -> Layer:
    def init(key: PRNGKeyArray) -> Params:
        return {
            "norm_before": layer_norm_init(pixels, dtype),
            "dense": dense_init(key, pixels, width, dtype),
            "norm_after": layer_norm_init(width, dtype),
        }

    def apply(params: Params, images: Array) -> Array:
        values = dense(params["dense"], layer_norm(params["norm_before"], patches(images)))
        values = layer_norm(params["norm_after"], values)
        return values + jnp.asarray(places, values.dtype)[None]

    return stateless("patches", init, apply)


def _block(name: str, width: int, heads: int, hidden: int, dtype: DTypeLike) -> Layer:
    def init(key: PRNGKeyArray) -> Params:
        first, second, third = jax.random.split(key, 3)
        return {
            "attention_norm": layer_norm_init(width, dtype),
            "attention": attention_init(first, width, heads, HEAD_SIZE, dtype),
            "mlp_norm": layer_norm_init(width, dtype),
            "dense1": dense_init(second, width, hidden, dtype),
            "dense2": dense_init(third, hidden, width, dtype),
        }

    def apply(params: Params, values: Array) -> Array:
        values = values + attention(
            params["attention"], layer_norm(params["attention_norm"], values)
        )
        inner = gelu(dense(params["dense1"], layer_norm(params["mlp_norm"], values)))
        return values + dense(params["dense2"], inner)

    return stateless(name, init, apply)
