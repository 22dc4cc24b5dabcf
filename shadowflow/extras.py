"""Packages that only a part of shadowflow needs, imported where it needs them."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

INSTALL = {
    "tqdm": "'shadowflow[cli]'",
    "matplotlib": "'shadowflow[cli]'",
    "submitit": "'shadowflow[slurm]'",
    "ray": "'shadowflow[ray]'",
}


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


def check(what: str, packages: Iterable[str]) -> None:
    """ImportError as ``need`` has it where one of these is not installed; none is imported.

    For use before long work.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(f"{what} needs {package}: pip install {INSTALL[package]}")
