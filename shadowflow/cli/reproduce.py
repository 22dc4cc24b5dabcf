"""`shadowflow reproduce`: the paper's figures, with their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, get_args

from tyro.conf import Positional, arg

from .claims import OnRuns
from .flags import Flag

Paper = Literal["fig1", "fig2", "fig3"]
Trained = Literal["fig4", "fig5", "fig6", "fig7", "fig8", "fig9", "fig10", "fig11", "fig12"]
Beyond = Literal["perceptron", "resnet101", "cifar100", "shuffles", "constants"]
Name = Literal[Paper, Trained, Beyond, "all"]


@dataclass(frozen=True)
class Reproduce(OnRuns):
    """Compute figures of the paper, draw them, and hold them against what it claims.

    Each figure gets a folder with its arrays, the picture drawn from them (PNG, PDF), and the
    evidence: expected and measured numbers, and whether each claim holds. The exit code is 1
    where one does not. Figures 4 to 12 show training runs, which lie in the folder of --out and
    are shared, resumed and found again; what becomes of the paper's claims on them is reported,
    and changes no exit code. Two go beyond the paper: "shuffles", the sign of the bias against β,
    ρ and the batch size, and "constants", how those of the theorems grow as ε → 0.
    """

    figures: Positional[tuple[Name, ...]] = ("all",)
    """Which figures; all: the paper's three that need no training."""
    scale: Annotated[
        Literal["smoke", "full", "laptop", "paper"] | None, arg(help_behavior_hint="")
    ] = None
    """Seconds to try it out (smoke); the figures of the paper, of fig1 to fig3 (full, their
    default and that of shuffles and constants); narrow networks (laptop, the default of the
    others); or the paper's own sizes."""
    redraw: Flag = False
    """Compute nothing: draw the arrays of an earlier run from --out."""
    style: Annotated[tuple[Path, ...], arg(metavar="FILE.mplstyle", help_behavior_hint="")] = ()
    """Matplotlib style files, applied after the package's own."""

    def run(self) -> int:
        """0 when every row of evidence holds, 1 otherwise."""
        self.check()
        for path in self.style:
            if not path.is_file():
                raise ValueError(
                    f"--style: expected a file, got {str(path)!r}, which does not exist"
                )
        from .jobs.reproduce import reproduce_job
        from .jobs.sweep import obtained

        return 0 if reproduce_job(self, obtained(self)) else 1

    def names(self) -> list[str]:
        """The figures, each once."""
        named = [name for name in self.figures if name != "all"]
        return list(dict.fromkeys([*get_args(Paper), *named] if "all" in self.figures else named))
