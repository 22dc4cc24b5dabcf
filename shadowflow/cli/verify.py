"""`shadowflow verify`: every claim measured again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from .flags import Flag


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
        from .jobs.verify import verify_job

        return 0 if verify_job(json=self.json, rows=self.rows, full=not self.quick) else 1
