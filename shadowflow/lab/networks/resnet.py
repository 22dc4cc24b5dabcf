"""Residual networks of bottleneck blocks, for small images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax.typing import DTypeLike
from jaxtyping import Array, PRNGKeyArray

from .interface import Layer, Network, Params, State, checked, sequential, stateless
from .layers import batch_norm, batch_norm_init, conv, conv_init, dense, dense_init, mean_pool, relu

STEM = 64
CHANNELS = (64, 128, 256, 512)
EXPANSION = 4  # a block's output has so many times the channels of its 3×3 convolution


def resnet50(**options: Any) -> Network:
    """`resnet` with 3, 4, 6 and 3 blocks; 23,520,842 parameters for 10 classes of RGB images.

    >>> [row.name for row in resnet50().layers()][:3]
    ['stem', 'stage1_block1', 'stage1_block2']
    """
    return resnet((3, 4, 6, 3), **options)


def resnet101(**options: Any) -> Network:
    """`resnet` with 3, 4, 23 and 3 blocks; 42,512,970 parameters for 10 classes of RGB images."""
    return resnet((3, 4, 23, 3), **options)


def resnet(blocks: Sequence[int], **options: Any) -> Network:
    """A residual network v1.5: bottleneck blocks, the stride in their 3×3 convolution.

    The stem is one 3×3 convolution of stride 1 with 64 channels, without a max-pool behind it. A
    block is convolution 1×1, 3×3, 1×1 (four times the channels) plus its own input, through a 1×1
    convolution where the shapes differ; ReLU behind the first two and behind the sum. Every
    convolution is without bias and has BatchNorm behind it. The stages, one to four, have 64, 128,
    256 and 512 channels and as many blocks as ``blocks`` says; from the second on they halve the
    image. Then the mean over all pixels and a dense layer. The state holds the running "mean" and
    "variance" of each BatchNorm, in float32 or finer.

    Source: He, Zhang, Ren & Sun 2016, *Deep Residual Learning for Image Recognition*; there the
    stride is in the first 1×1 convolution, and the stem, made for larger images, is 7×7 with stride
    2 and max-pool.

    >>> network = resnet((1, 1), classes=3, shape=(8, 8, 1), width=0.25)
    >>> [(row.name, row.shape) for row in network.layers()][1:3]
    [('stage1_block1', (8, 8, 64)), ('stage2_block1', (4, 4, 128))]
    """
    settings = checked(**options)
    inputs = settings.scaled(STEM)
    layers = [_stem(settings.shape[-1], inputs, settings.dtype)]
    for stage, count in enumerate(blocks):
        channels = settings.scaled(CHANNELS[stage])
        for block in range(count):
            stride = 2 if stage > 0 and block == 0 else 1
            name = f"stage{stage + 1}_block{block + 1}"
            layers.append(_bottleneck(name, inputs, channels, stride, settings.dtype))
            inputs = EXPANSION * channels
    layers += [
        stateless("pool", lambda key: {}, lambda params, values: mean_pool(values)),
        stateless(
            "logits", lambda key: dense_init(key, inputs, settings.classes, settings.dtype), dense
        ),
    ]
    return sequential(layers, settings, has_batch_norm=True)


def _stem(inputs: int, outputs: int, dtype: DTypeLike) -> Layer:
    def apply(params: Params, state: State, values: Array, train: bool) -> tuple[Array, State]:
        values, state = _conv_norm(params, state, values, 1, train)
        return relu(values), state

    return Layer("stem", lambda key: _conv_norm_init(key, 3, inputs, outputs, dtype), apply)


def _bottleneck(name: str, inputs: int, channels: int, stride: int, dtype: DTypeLike) -> Layer:
    outputs = EXPANSION * channels
    sizes = {
        "reduce": (1, inputs, channels),
        "spatial": (3, channels, channels),
        "expand": (1, channels, outputs),
    }
    if stride != 1 or inputs != outputs:
        sizes["shortcut"] = (1, inputs, outputs)
    strides = {"spatial": stride, "shortcut": stride}

    def init(key: PRNGKeyArray) -> tuple[Params, State]:
        params, state = {}, {}
        for part, part_key in zip(sizes, jax.random.split(key, len(sizes)), strict=True):
            params[part], state[part] = _conv_norm_init(part_key, *sizes[part], dtype)
        return params, state

    def apply(params: Params, state: State, values: Array, train: bool) -> tuple[Array, State]:
        new = {}

        def run(part: str, given: Array) -> Array:
            result, new[part] = _conv_norm(
                params[part], state[part], given, strides.get(part, 1), train
            )
            return result

        inner = relu(run("spatial", relu(run("reduce", values))))
        around = run("shortcut", values) if "shortcut" in sizes else values
        return relu(run("expand", inner) + around), new

    return Layer(name, init, apply)


def _conv_norm_init(
    key: PRNGKeyArray, size: int, inputs: int, outputs: int, dtype: DTypeLike
) -> tuple[Params, State]:
    norm, state = batch_norm_init(outputs, dtype)
    return {"conv": conv_init(key, size, inputs, outputs, dtype, bias=False), "norm": norm}, state


def _conv_norm(
    params: Params, state: State, values: Array, stride: int, train: bool
) -> tuple[Array, State]:
    return batch_norm(params["norm"], state, conv(params["conv"], values, stride), train)
