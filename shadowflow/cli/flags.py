"""What the commands share in how they take their flags."""

from typing import Annotated

from tyro.conf import FlagCreatePairsOff, arg

Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]
