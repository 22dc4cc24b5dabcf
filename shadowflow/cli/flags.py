"""What the commands share in how they take their flags."""

from __future__ import annotations

from types import NoneType
from typing import TYPE_CHECKING, Annotated, Any, get_args

from tyro.conf import FlagCreatePairsOff, arg

if TYPE_CHECKING:
    from ..optimizers.moments import Optimizer
    from .jobs.settings import Setting

Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


def flag(kind: Any, words: str) -> Any:
    """The type of a flag with its help.

    A flag whose value may be None is left out rather than given that value; one that is a bool
    has no "--no-…" beside it.
    """
    if kind is bool:
        return Annotated[Flag, arg(help=words)]
    if NoneType not in get_args(kind):
        return Annotated[kind, arg(help=words)]
    (own,) = set(get_args(kind)) - {NoneType}
    return Annotated[kind, arg(help=words, metavar=own.__name__.upper(), help_behavior_hint="")]


def built(setting: Setting) -> Optimizer:
    """The optimizer; the zoo may refuse an argument, under the name that its flag has here."""
    try:
        return setting.build()
    except (TypeError, ValueError) as error:
        name, colon, rest = str(error).partition(":")
        if name not in setting.arguments:
            raise
        raise type(error)(f"--opt.{name.replace('_', '-')}{colon}{rest}") from None
