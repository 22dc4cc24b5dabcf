"""`shadowflow verify`: the order of every method, measured again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import arg

from ..files import writable_file
from .flags import Flag


@dataclass(frozen=True)
class Verify:
    """Measure the order of every method for every optimizer again, and say which hold."""

    json: Annotated[Path | None, arg(metavar="PATH", help_behavior_hint="")] = None
    """Write the numbers to this file too."""
    rows: tuple[str, ...] = ()
    """Only rows whose name contains one of these."""
    full: Flag = False
    """Five step sizes for every row (the default)."""
    quick: Flag = False
    """Four step sizes instead of five."""

    def run(self) -> int:
        """0 when every row holds, 1 otherwise."""
        if self.full and self.quick:
            raise ValueError("--full, --quick: expected one of them at most, got both")
        if self.json is not None:
            writable_file(self.json, "--json")
        from .jobs.verify import verify_job

        return 0 if verify_job(json=self.json, rows=self.rows, full=not self.quick) else 1
