"""The small convolutional network of the paper."""

from __future__ import annotations

from typing import Any

from .interface import Layer, Network, NetworkSettings, checked, sequential, stateless
from .layers import conv, conv_init, dense, dense_init, max_pool, relu

CHANNELS = (32, 64, 128)
HIDDEN = 512


def cnn(**options: Any) -> Network:
    """Three blocks of two 3×3 convolutions, halving the image, then two dense layers.

    A block is convolution, ReLU, convolution, ReLU, 2×2 max-pool; the blocks have 32, 64 and 128
    channels, the hidden dense layer 512 units and a ReLU (Cattaneo, Klusowski & Shigida 2024, *On
    the Implicit Bias of Adam*, appendix H.4). Images have at least 8 by 8 pixels.

    >>> sum(row.parameters for row in cnn().layers())
    1341226
    """
    settings = checked(**options)
    smallest = 2 ** len(CHANNELS)
    rows, columns, inputs = settings.shape
    if min(rows, columns) < smallest:
        raise ValueError(
            f"shape: expected images of at least {smallest} by {smallest} pixels, got {rows} by "
            f"{columns}; they are halved {len(CHANNELS)} times, so enlarge or pad them"
        )
    layers = []
    for number, channels in enumerate(map(settings.scaled, CHANNELS), start=1):
        block = f"block{number}"
        layers += [
            _conv_relu(f"{block}_conv1", inputs, channels, settings),
            _conv_relu(f"{block}_conv2", channels, channels, settings),
            stateless(f"{block}_pool", lambda key: {}, lambda params, values: max_pool(values)),
        ]
        inputs = channels
    flat = (rows // smallest) * (columns // smallest) * inputs
    hidden = settings.scaled(HIDDEN)
    layers += [
        stateless(
            "dense",
            lambda key: dense_init(key, flat, hidden, settings.dtype, before_relu=True),
            lambda params, values: relu(dense(params, values.reshape(len(values), -1))),
        ),
        stateless(
            "logits",
            lambda key: dense_init(key, hidden, settings.classes, settings.dtype),
            dense,
        ),
    ]
    return sequential(layers, settings, has_batch_norm=False)


def _conv_relu(name: str, inputs: int, outputs: int, settings: NetworkSettings) -> Layer:
    return stateless(
        name,
        lambda key: conv_init(key, 3, inputs, outputs, settings.dtype, bias=True),
        lambda params, values: relu(conv(params, values)),
    )
