"""What a cell would refuse is refused before anything runs."""

from __future__ import annotations

from collections.abc import Sequence

from ..training.config import Training
from .grid import Cell
from .plan import Sweep


def check(sweep: Sweep, cells: Sequence[Cell]) -> None:
    """Build what some cells train, and see that their data are there.

    Raises:
        ValueError: an optimizer, a network or a number of images that a cell does not get, or
            data that are nowhere; it names the cell.
    """
    from ..data.load import load
    from ..training.start import network_of

    loaded = {"digits"}
    for cell in cells:
        try:
            cell.settings.build()
            network_of(cell.settings)
            _images(cell.settings)
            if cell.settings.dataset not in loaded:
                load(cell.settings.dataset, sweep.data_dir)
                loaded.add(cell.settings.dataset)
        except ValueError as error:
            raise ValueError(f"{cell}: {error}") from None


def _images(settings: Training) -> None:
    from ..training.start import counts_of

    for name, there in zip(("images", "test_images"), counts_of(settings), strict=True):
        wanted = getattr(settings, name)
        if wanted is not None and wanted > there:
            raise ValueError(
                f"--{name.replace('_', '-')}: expected at most the {there:,} that "
                f"{settings.dataset} has, got {wanted:,}"
            )
