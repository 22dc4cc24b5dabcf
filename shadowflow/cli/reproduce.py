"""`shadowflow reproduce`: the paper's figures, with their evidence."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import Positional, arg

from shadowflow.cli.flags import Flag

Name = Literal["fig1", "fig2", "fig3", "all"]
FIGURES = ("fig1", "fig2", "fig3")


@dataclass(frozen=True)
class Reproduce:
    """Compute figures of the paper, draw them, and hold them against what it claims.

    Each figure gets a folder with its arrays, the picture drawn from them (PNG, PDF), and the
    evidence: expected and measured numbers, and whether each claim holds. The exit code is 1
    where one does not.
    """

    figures: Positional[tuple[Name, ...]] = ("all",)
    """Which figures."""
    scale: Literal["smoke", "full"] = "full"
    """Seconds to try it out, or the figures of the paper (fig3 takes minutes)."""
    out: Path = Path("results")
    """A folder; each figure gets its own inside."""
    data_dir: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Where the data lie, if not where `shadowflow data get` put them."""
    redraw: Flag = False
    """Draw the arrays that lie in --out, compute nothing."""
    style: Annotated[tuple[Path, ...], arg(metavar="FILE.mplstyle", help_behavior_hint="")] = ()
    """Matplotlib style files on top of the own one."""
    quiet: Flag = False
    """Print no progress."""

    def run(self) -> int:
        """0 when every row of evidence holds, 1 otherwise."""
        for path in self.style:
            if not path.is_file():
                raise ValueError(f"--style: expected a file, got {str(path)!r}, which is none")
        chosen = FIGURES if "all" in self.figures else tuple(dict.fromkeys(self.figures))
        from shadowflow.report.reproduce import reproduce_job

        good = reproduce_job(chosen, self.scale, out=self.out, data_dir=self.data_dir,
                             redraw=self.redraw, styles=self.style, quiet=self.quiet)  # fmt: skip
        return 0 if good else 1
