"""Networks for images: a perceptron, a small CNN, ResNets and a vision transformer."""

from __future__ import annotations

from typing import Any

from ... import checks
from .cnn import cnn
from .interface import Network
from .mlp import mlp
from .resnet import resnet50, resnet101
from .vit import simple_vit

NETWORKS = {make.__name__: make for make in (mlp, cnn, resnet50, resnet101, simple_vit)}
"""Name → constructor."""


def build(name: str, **options: Any) -> Network:
    """The network of a name in ``NETWORKS``, whose parameters are not made yet.

    Every constructor takes ``classes``, ``shape`` (height, width, channels) of the images,
    ``width``, a factor of every channel count and hidden width, and ``dtype`` of every parameter;
    ``mlp`` also ``hidden``, ``simple_vit`` also ``blocks``. ValueError names what is unknown or
    makes no sense.

    >>> list(NETWORKS)
    ['mlp', 'cnn', 'resnet50', 'resnet101', 'simple_vit']
    >>> build("cnn", classes=100).classes
    100
    """
    checks.choice("network", name, NETWORKS)
    return NETWORKS[name](**options)
