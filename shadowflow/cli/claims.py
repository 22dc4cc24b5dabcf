"""`shadowflow claims`: the paper's claims on trial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from tyro.conf import arg

from ..lab.choices import whole
from .flags import Flag
from .sweep import Launcher


@dataclass(frozen=True)
class OnRuns:
    """The flags of the commands that train networks; their runs lie in one folder of --out."""

    out: Path = Path("results")
    """A folder for all that is written, the training runs among it."""
    data_dir: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Where the data lie, if not where `shadowflow data get` put them."""
    yes: Flag = False
    """Start the runs of the paper's sizes, whose cost is printed first."""
    launcher: Launcher = "local"
    """Who starts the workers of the training runs: this machine, Slurm, or Ray."""
    workers: int = 1
    """How many training runs at a time."""
    quiet: Flag = False
    """Print no progress."""

    def check(self) -> None:
        """ValueError for no workers."""
        whole("--workers", self.workers, 1)


@dataclass(frozen=True)
class Claims(OnRuns):
    """Try the paper's claims, and say which hold, which do not, and which cannot be told.

    The training runs are those of `shadowflow reproduce`, and are found again in the same --out.
    The exit code is 0 whatever becomes of a claim: one that fails is a finding.
    """

    scale: Literal["smoke", "laptop", "paper"] = "laptop"
    """Seconds to try it out, narrow networks, or the paper's own sizes."""
    only: tuple[str, ...] = ()
    """Names of claims (default: all)."""

    def run(self) -> int:
        """0."""
        self.check()
        from .jobs.claims import claims_job
        from .jobs.sweep import obtained

        claims_job(self, obtained(self))
        return 0
