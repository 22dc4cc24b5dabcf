"""Grids of training runs, in one dialect, as plain data: known without JAX.

A file of `shadowflow sweep`, and every grid of the figures, is TOML::

    [train]                  # flags of the training; opt.… are those of the optimizer
    model = "cnn"
    opt.eps_root = 1e-8

    [[grid]]                 # every combination of its lists; a single value is held fixed
    name = "rho"             # for a figure; may be left out
    opt.b2 = [0.9, 0.99]
    seed = [0, 1, 2]

The cells of several ``[[grid]]`` are united. ``[figure]`` has what a figure of the runs needs.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

from ..choices import OPTIMIZERS, Argument
from ..training.config import Training, settings

Value = Argument | Path | None
OPTIONS: dict[str, Any] = {"data_dir": Path, "checkpoint_every": int}
"""Flags of a training that do not name it."""
TABLES = ("train", "grid", "figure")


@dataclass(frozen=True)
class Cell:
    """One run of a sweep: its number, its values of the grid, its whole configuration."""

    index: int
    values: Mapping[str, Value]
    settings: Training

    def __str__(self) -> str:
        values = ", ".join(f"{name}={shown(value)}" for name, value in self.values.items())
        return f"cell {self.index} ({values})" if values else f"cell {self.index}"


@dataclass(frozen=True)
class Block:
    """Axes whose product is taken, the last one fastest: name → values."""

    axes: Mapping[str, tuple[Any, ...]]
    name: str = ""


class GridFile(NamedTuple):
    """What a TOML file says.

    base: the training; options: its flags in `OPTIONS`; blocks: of the grid; figure: the table of
    that name as it stands.
    """

    base: Training
    options: Mapping[str, Value]
    blocks: tuple[Block, ...]
    figure: Mapping[str, Any]


def axis(text: str) -> tuple[str, tuple[Value, ...]]:
    """The name and the values of ``--grid NAME=VALUE,VALUE``.

    ValueError for no such flag, no values, or one that is not of the flag's type.

    >>> axis("opt.b2=0.9,0.95")
    ('opt.b2', (0.9, 0.95))
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"--grid: expected NAME=VALUE,VALUE, got {text!r}")
    name = known("--grid", name.strip().removeprefix("--"), types())
    return name, tuple(typed(name, value.strip()) for value in values.split(","))


def known(where: str, name: str, flags: Mapping[str, Any]) -> str:
    """The name of a flag with "_" for "-"; ValueError where there is no such flag.

    >>> known("--grid", "learning-rate", types())
    'learning_rate'
    """
    plain = name.replace("-", "_")
    if plain not in flags:
        raise ValueError(
            f"{where}: expected flags of the training ({', '.join(flags)}), got {name!r}"
        )
    return plain


@functools.cache
def types() -> Mapping[str, Any]:
    """Name → type of everything that a configuration is made of."""
    found = {name: kind for name, (kind, _) in settings().items()}
    found["optimizer"] = Literal.__getitem__(tuple(OPTIMIZERS))
    for kind in OPTIMIZERS.values():
        found |= {f"opt.{name}": hint for name, hint in get_type_hints(kind).items()}
    return found


def typed(name: str, value: Any) -> Value:
    """A value, as TOML or the command line has it, in the type of its flag.

    >>> typed("seed", "3"), typed("images", "none"), typed("augment", "true")
    (3, None, True)
    """
    hint, text = {**types(), **OPTIONS}[name], shown(value)
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"{name}: expected a number, a word, true or false, got {value!r}")
    kinds = get_args(hint)
    if NoneType in kinds:
        if text.lower() == "none":
            return None
        (hint,) = (kind for kind in kinds if kind is not NoneType)
    if get_origin(hint) is Literal:
        if text in get_args(hint):
            return text
        raise ValueError(f"{name}: expected one of {', '.join(get_args(hint))}, got {text!r}")
    words = {float: "a finite number", int: "a whole number", bool: "true or false", Path: "a path"}
    try:
        found = {"true": True, "false": False}[text.lower()] if hint is bool else hint(text)
        if hint is float and not math.isfinite(found):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{name}: expected {words[hint]}, got {text!r}") from None
    return found


def shown(value: Any) -> str:
    """A value as it is typed.

    >>> shown(True), shown(1e-4), shown(None)
    ('true', '0.0001', 'none')
    """
    return str(value).lower() if isinstance(value, bool | NoneType) else str(value)


def cells(base: Training, blocks: Sequence[Block]) -> tuple[Cell, ...]:
    """All cells, block after block; what two blocks share is there once.

    ``base`` is the training whose values the grid overrides. ValueError where two cells of a block
    are the same, or a configuration is refused; it names the cell.

    >>> [str(cell) for cell in cells(Training(), [Block({"seed": (0, 1)})])]
    ['cell 0 (seed=0)', 'cell 1 (seed=1)']
    """
    found: dict[str, Cell] = {}
    for block in blocks:
        inside: dict[str, str] = {}
        for values in itertools.product(*block.axes.values()):
            cell = Cell(len(found), dict(zip(block.axes, values, strict=True)), base)
            try:
                cell = dataclasses.replace(cell, settings=overridden(base, cell.values))
            except ValueError as error:
                raise ValueError(f"{cell}: {error}") from None
            key, words = cell.settings.key(), str(cell)
            if key in inside:
                raise ValueError(f"{words}: expected each cell once, got the same as {inside[key]}")
            inside[key] = words
            found.setdefault(key, cell)
    return tuple(found.values())


def overridden(base: Training, values: Mapping[str, Value]) -> Training:
    """A configuration with other values; ValueError where they do not go together."""
    own = {name: value for name, value in values.items() if not name.startswith("opt.")}
    given = {name.removeprefix("opt."): value for name, value in values.items() if name not in own}
    name = own.get("optimizer", base.optimizer)
    kept = dict(base.arguments)
    if name != base.optimizer:
        lost = [
            key
            for key, value in kept.items()
            if value != getattr(OPTIMIZERS[base.optimizer](), key)
        ]
        if lost:
            raise ValueError(
                f"optimizer: expected {base.optimizer}, whose {', '.join(lost)} the training "
                f"gives, got {name}; put opt.{lost[0]} into the grid"
            )
        kept = {}
    return dataclasses.replace(base, **own, arguments={**kept, **given})


def read(path: Path) -> GridFile:
    """What a TOML file in the dialect of this module says.

    ValueError where it is no such file, names what a training does not have, or a name twice.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"FILE: expected a TOML file, got {str(path)!r} ({error})") from None
    for name in content:
        if name not in TABLES:
            raise ValueError(f"{path.name}: expected [train] and [grid] or [[grid]], got {name!r}")
    try:
        base, options = _training(content.get("train", {}))
        tables = content.get("grid", [])
        blocks = tuple(map(_block, tables if isinstance(tables, list) else [tables]))
        figure = _table("figure", content.get("figure", {}))
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not blocks:
        raise ValueError(f"{path.name}: expected [grid] with lists of values, got none")
    return GridFile(base, options, blocks, figure)


def _training(table: Any) -> tuple[Training, dict[str, Value]]:
    values = {}
    for name, given in _values("train", table, {**types(), **OPTIONS}).items():
        if len(given) > 1:
            raise ValueError(f"[train]: expected one value of {name}, got {len(given)}; use [grid]")
        (values[name],) = given
    options = {name: values.pop(name) for name in OPTIONS if name in values}
    optimizer = values.pop("optimizer", Training.optimizer)
    return overridden(Training(optimizer=optimizer), values), options


def _block(table: Any) -> Block:
    table = _table("grid", table)
    axes = _values("grid", {key: table[key] for key in table if key != "name"}, types())
    if not axes:
        raise ValueError("[grid]: expected lists of values, got none")
    return Block(axes, str(table.get("name", "")))


def _values(where: str, table: Any, flags: Mapping[str, Any]) -> dict[str, tuple[Value, ...]]:
    """Name → its values in a table, each of the flag's type."""
    found: dict[str, tuple[Value, ...]] = {}
    for key, value in _flat(_table(where, table)):
        name = known(f"[{where}]", key, flags)
        if name in found:
            raise ValueError(f"[{where}]: expected {name} once, got it twice")
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError(f"[{where}]: expected values of {name}, got none")
        found[name] = tuple(typed(name, item) for item in values)
    return found


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a table, [{name}], got {value!r}")
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value), names within names joined by dots, as flags have them."""
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
