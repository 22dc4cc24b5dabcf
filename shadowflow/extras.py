"""Packages that only a part of shadowflow needs, imported where it needs them."""

from __future__ import annotations

from importlib import import_module
from typing import Any


def need(what: str, module: str, install: str) -> Any:
    """A module of another package; ImportError with the remedy where it is not installed.

    >>> need("flying", "no_such.thing", "no-such")
    Traceback (most recent call last):
    ImportError: flying needs no_such: pip install no-such
    """
    try:
        return import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ImportError(f"{what} needs {package}: pip install {install}") from error
