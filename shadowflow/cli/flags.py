"""What the commands share in how they take their flags."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, arg

if TYPE_CHECKING:
    from ..optimizers.moments import Optimizer
    from .jobs.settings import Setting

Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]


def built(setting: Setting) -> Optimizer:
    """The optimizer; the zoo may refuse an argument, under the name that its flag has here."""
    try:
        return setting.build()
    except (TypeError, ValueError) as error:
        name, colon, rest = str(error).partition(":")
        if name not in setting.arguments:
            raise
        raise type(error)(f"--opt.{name.replace('_', '-')}{colon}{rest}") from None
