"""A bar of progress that is there from the first second."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Generator
from typing import Any

TICK, SELDOM = 1.0, 30.0  # seconds: in a terminal, in a file


@contextlib.contextmanager
def progress(*, quiet: bool, **options: Any) -> Generator[Any]:
    """A bar of tqdm whose clock runs while nothing is counted yet, as when programs are compiled.

    options: as tqdm has them.
    """
    from tqdm import tqdm

    ends = threading.Event()
    seconds = TICK if sys.stderr.isatty() else SELDOM
    with tqdm(disable=quiet, leave=False, **options) as bar:

        def tick() -> None:
            while not ends.wait(seconds):
                bar.refresh()

        thread = threading.Thread(target=tick, daemon=True)
        thread.start()
        try:
            yield bar
        finally:
            ends.set()
            thread.join()
