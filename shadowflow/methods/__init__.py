"""The ways to build the shadow of an optimizer, each declared as class data.

A new way is a file here, with its class in ``METHODS``. The orders, kinds and needs declared are
what the refusals print, the tests measure and the tables show.
"""

from .base import AbstractMethod
from .collocation import Collocation
from .differences import Differences
from .displaced import Displaced, Linearized
from .inertial import Inertial
from .taylor import Taylor

METHODS: dict[str, AbstractMethod] = {
    method.name: method
    for method in (
        Taylor(),
        Displaced(),
        Linearized(),
        Differences(),
        Collocation(),
        Inertial(),
    )
}
