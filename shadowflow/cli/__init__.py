"""The command line: shadow, verify, orders, reproduce, claims, train, sweep, derive, data."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import tyro
from tyro.conf import CascadeSubcommandArgs, subcommand

from .. import extras
from . import failures, sweep
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

DRAWING = (ShadowCommand, Orders, Reproduce)
COUNTING = (*DRAWING, Verify, Claims, Train, sweep.SweepCommand, sweep.Status)
LAUNCHERS = {"slurm": "submitit", "ray": "ray"}


def packages(command: Any) -> Iterator[str]:
    """The packages that a command needs late, when much is computed already."""
    if isinstance(command, COUNTING):
        yield "tqdm"
    if isinstance(command, DRAWING):
        yield "matplotlib"
    launcher = getattr(command, "launcher", "local")
    if launcher in LAUNCHERS:
        yield LAUNCHERS[launcher]


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
    """Run the command line and return its exit code.

    2, with a sentence, for refused input; 130 where Ctrl-C stopped it; 70 for a fault of this
    package, whose traceback SHADOWFLOW_DEBUG=1 shows.
    """
    try:
        command = parse(arguments)
        extras.check("this command", packages(command))
        return command.run()
    except SystemExit as ended:
        if ended.code == failures.REFUSED:
            words = list(sys.argv[1:] if arguments is None else arguments)
            for hint in failures.hints(words):
                print(f"shadowflow: {hint}", file=sys.stderr)
        raise
    except (Exception, KeyboardInterrupt) as error:
        if failures.debugging():
            raise
        line, code = failures.told(error)
        print(f"shadowflow: {line}", file=sys.stderr)
        return code
