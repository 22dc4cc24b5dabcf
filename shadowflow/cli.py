"""The command line: `shadowflow shadow`, `shadowflow verify`."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

try:
    import tyro
except ImportError as error:
    raise ImportError("The command line needs tyro: pip install 'shadowflow[cli]'") from error

from tyro.conf import CascadeSubcommandArgs, FlagCreatePairsOff, arg, subcommand

from shadowflow.report.settings import METHODS, OPTIMIZERS, Choice, Method, Setting

if TYPE_CHECKING:
    from shadowflow.problem import Problem

Opt = Choice | Annotated[None, subcommand("embedded")]
Flag = Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")]

EMBEDDED = (
    ({"b2": 0.95, "eps": 0.0, "eps_root": 1e-6}, 1e-4),
    ({"b2": 0.999, "eps": 0.0, "eps_root": 1e-8}, 1e-3),
)


@dataclass(frozen=True)
class Shadow:
    """Run an optimizer, and beside it the flows that follow it.

    Without an optimizer: two embedded settings of Adam on scikit-learn's digits.
    """

    opt: Opt = None
    learning_rate: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """The step size of the optimizer named (default: 1e-3)."""
    steps: int = 200
    """How many steps."""
    problem: Annotated[str | None, arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    """A (problem, params) tuple in a file (default: a perceptron on the digits)."""
    methods: tuple[Method, ...] = METHODS
    """The ways in which the optimizer is followed."""
    settled: Flag = False
    """Start with the memory of a long run (needed by collocation)."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Of the start of the default problem (default: 0)."""
    out: Path = Path("results")
    """A folder; each configuration gets its own inside."""
    quiet: Flag = False
    """Print no progress."""

    def run(self) -> int:
        """Check everything before the first step, then hand over to the report."""
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"--out: expected a folder, got the file {str(self.out)!r}")
        label = "digits" if self.problem is None else self.problem
        for setting in self.settings(label):
            _check(setting)
        problem, params, label = self._problem()
        from shadowflow.report.run import shadow_job

        shadow_job(self.settings(label), problem, params, out=self.out, quiet=self.quiet)
        return 0

    def settings(self, label: str) -> list[Setting]:
        """The configurations asked for, on the problem of that label."""
        if self.opt is None and self.learning_rate is not None:
            raise ValueError(
                "--learning-rate: expected an optimizer beside it, got "
                f"{self.learning_rate} alone; for example shadowflow shadow opt:adam "
                f"--learning-rate {self.learning_rate}"
            )
        if self.opt is None:
            chosen = [("adam", arguments, rate) for arguments, rate in EMBEDDED]
        else:
            name = next(name for name, kind in OPTIMIZERS.items() if isinstance(self.opt, kind))
            rate = 1e-3 if self.learning_rate is None else self.learning_rate
            chosen = [(name, dataclasses.asdict(self.opt), rate)]
        return [
            Setting(
                name, arguments, rate, self.steps, label, self.seed or 0, self.methods, self.settled
            )
            for name, arguments, rate in chosen
        ]

    def _problem(self) -> tuple[Problem, Any, str]:
        if self.problem is None:
            from shadowflow.lab.models import digits_problem

            return *digits_problem(self.seed or 0), "digits"
        if self.seed is not None:
            raise ValueError(
                f"--seed: expected none beside --problem, got {self.seed}; it is the start of the "
                "default problem, and a file chooses its own"
            )
        from shadowflow.lab.load import load_problem

        return load_problem(self.problem)


def _check(setting: Setting) -> None:
    """Let the zoo refuse an argument, under the name that its flag has here."""
    try:
        setting.build()
    except (TypeError, ValueError) as error:
        name, colon, rest = str(error).partition(":")
        if name not in setting.arguments:
            raise
        raise type(error)(f"--opt.{name.replace('_', '-')}{colon}{rest}") from None


@dataclass(frozen=True)
class Verify:
    """Measure every claim again, and say which hold."""

    json: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Write the numbers to this file too."""
    rows: tuple[str, ...] = ()
    """Only rows whose name contains one of these."""
    full: Flag = False
    """All of every row (the default)."""
    quick: Flag = False
    """A coarser look."""

    def run(self) -> int:
        """0 when every row holds, 1 otherwise."""
        if self.full and self.quick:
            raise ValueError("--full, --quick: expected one of them at most, got both")
        from shadowflow.report.verify import verify_job

        return 0 if verify_job(json=self.json, rows=self.rows, full=not self.quick) else 1


def parse(arguments: Sequence[str] | None = None) -> Shadow | Verify:
    """The command that the arguments describe.

    Raises:
        SystemExit: with code 2 for unknown flags and values, 0 after `--help`.

    Example:
        >>> parse("shadow opt:adam --opt.b2 0.95 --steps 20".split()).steps
        20
    """
    return tyro.cli(
        Shadow | Verify,
        args=arguments,
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
