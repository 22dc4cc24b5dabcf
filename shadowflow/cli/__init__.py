"""The command line: shadow, verify, orders, reproduce, claims, train, sweep, derive, data."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

try:
    import tyro
except ImportError as error:
    raise ImportError("The command line needs tyro: pip install 'shadowflow[cli]'") from error

from tyro.conf import CascadeSubcommandArgs, subcommand

from . import sweep
from .claims import Claims
from .data import Data
from .derive import Derive
from .orders import Orders
from .reproduce import Reproduce
from .shadow import ShadowCommand
from .train import Train
from .verify import Verify

Command = (
    Annotated[ShadowCommand, subcommand("shadow")]
    | Verify
    | Orders
    | Reproduce
    | Claims
    | Train
    | Annotated[sweep.SweepCommand, subcommand("sweep")]
    | Derive
    | Data
)


def parse(arguments: Sequence[str] | None = None) -> Command | sweep.Status | sweep.Export:
    """The command that the arguments describe; ends the process after `--help` (with code 0) and
    for unknown flags and values (with code 2).

    >>> parse("shadow opt:adam --opt.b2 0.95 --steps 20".split()).steps
    20
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["sweep"]:  # the train command in it is another command line
        return sweep.parse(words[1:])
    return tyro.cli(
        Command,
        args=words,
        prog="shadowflow",
        description="What an optimizer with memory follows.",
        config=(CascadeSubcommandArgs,),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 2, with a sentence, for refused input."""
    command = parse(arguments)
    try:
        return command.run()
    except (ImportError, TypeError, ValueError) as error:
        if not _is_refusal(error):
            raise
        print(f"shadowflow: {error}", file=sys.stderr)
        return 2


def _is_refusal(error: Exception) -> bool:
    """Whether the package itself raised this, rather than something it called."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = trace.tb_frame.f_globals.get("__name__", "") if trace is not None else ""
    return module.partition(".")[0] == "shadowflow"
