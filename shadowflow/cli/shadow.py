"""`shadowflow shadow`: an optimizer, and beside it what it follows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import arg, subcommand

from ..lab.choices import Choice, named
from .flags import Flag, built
from .jobs.settings import METHODS, Method, Setting

if TYPE_CHECKING:
    from ..problem import Problem

Opt = Choice | Annotated[None, subcommand("embedded")]

EMBEDDED = (
    ({"b2": 0.95, "eps": 0.0, "eps_root": 1e-6}, 1e-4),
    ({"b2": 0.999, "eps": 0.0, "eps_root": 1e-8}, 1e-3),
)


@dataclass(frozen=True)
class ShadowCommand:
    """Run an optimizer, and beside it the flows that follow it.

    Without an optimizer: two embedded settings of Adam on scikit-learn's digits.
    """

    opt: Opt = None
    learning_rate: Annotated[float | None, arg(metavar="FLOAT", help_behavior_hint="")] = None
    """The step size of the optimizer that is named (default: 1e-3)."""
    steps: int = 200
    """How many steps."""
    problem: Annotated[str | None, arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    """A (problem, params) tuple in a file (default: a perceptron on the digits)."""
    methods: tuple[Method, ...] = METHODS
    """The ways in which the optimizer is followed."""
    settled: Flag = False
    """Start with the memory of a long run (needed by collocation)."""
    error_bars: Flag = False
    """The error bar beside each distance; "?" where that is not to be trusted."""
    seed: Annotated[int | None, arg(metavar="INT", help_behavior_hint="")] = None
    """Seed of the default problem's start (default: 0)."""
    out: Path = Path("results")
    """A folder; each configuration gets its own inside."""
    quiet: Flag = False
    """Print no progress."""

    def run(self) -> int:
        """Check everything before the first step, then run the job."""
        for setting in self.settings("digits" if self.problem is None else self.problem):
            built(setting)
        problem, params, label = self._problem()
        import jax

        from .jobs.shadow import shadow_job

        shadow_job(self, self.settings(label, jax.config.read("jax_enable_x64")), problem, params)
        return 0

    def settings(self, label: str, x64: bool = False) -> list[Setting]:
        """The configurations asked for, on the problem of that label."""
        rate = self.learning_rate
        if self.opt is None and rate is not None:
            raise ValueError(
                f"--learning-rate: expected an optimizer beside it, got {rate} alone; "
                f"for example shadowflow shadow opt:adam --learning-rate {rate}"
            )
        chosen = [("adam", *setting) for setting in EMBEDDED]
        if self.opt is not None:
            chosen = [(*named(self.opt), 1e-3 if rate is None else rate)]
        rest = label, self.seed or 0, self.methods, self.settled, x64
        return [Setting(*one, self.steps, *rest) for one in chosen]

    def _problem(self) -> tuple[Problem, Any, str]:
        if self.problem is None:
            from ..lab.models import digits_problem

            return *digits_problem(self.seed or 0), "digits"
        if self.seed is not None:
            raise ValueError(
                f"--seed: expected none beside --problem, got {self.seed}; it is the start of the "
                "default problem, and a file chooses its own"
            )
        from ..lab.load import load_problem

        return load_problem(self.problem)
