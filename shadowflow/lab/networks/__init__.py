"""Networks for images: a perceptron, a small CNN, ResNets and a vision transformer.

``NETWORKS`` is the table of them, name → constructor; to add one is to add its name here. Nothing
is imported before a constructor is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .interface import Network

_MODULES = {
    "mlp": "mlp",
    "cnn": "cnn",
    "resnet50": "resnet",
    "resnet101": "resnet",
    "simple_vit": "vit",
}


class _Constructors(Mapping[str, Callable[..., "Network"]]):
    """Name → constructor; the module of a constructor is imported when it is looked up."""

    def __getitem__(self, name: str) -> Callable[..., Network]:
        return getattr(import_module(f".{_MODULES[name]}", __name__), name)

    def __iter__(self) -> Iterator[str]:
        return iter(_MODULES)

    def __len__(self) -> int:
        return len(_MODULES)


NETWORKS: Mapping[str, Callable[..., Network]] = _Constructors()


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
    if name not in _MODULES:
        raise ValueError(
            f"network: expected one of {', '.join(map(repr, NETWORKS))}, got {name!r}; "
            "another one is added to shadowflow/lab/networks"
        )
    return NETWORKS[name](**options)
