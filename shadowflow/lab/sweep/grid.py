"""From the values of a grid to the cells of a sweep: plain data, known without JAX."""

from __future__ import annotations

import dataclasses
import itertools
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..choices import OPTIMIZERS, Argument
from ..training.config import Training

Value = Argument | None
OPTIONS: dict[str, Any] = {"data_dir": Path, "checkpoint_every": int}
"""Flags of a training that do not name it."""


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

    axes: Mapping[str, tuple[Value, ...]]


def axis(text: str) -> tuple[str, tuple[Value, ...]]:
    """The name and the values of ``--grid NAME=VALUE,VALUE``.

    Raises:
        ValueError: no such flag, no values, or one that is not of the flag's type.

    Example:
        >>> axis("opt.b2=0.9,0.95")
        ('opt.b2', (0.9, 0.95))
    """
    name, equals, values = text.partition("=")
    if not equals:
        raise ValueError(f"--grid: expected NAME=VALUE,VALUE, got {text!r}")
    name = known(name)
    return name, tuple(typed(name, value.strip()) for value in values.split(","))


def known(name: str) -> str:
    """The name of a flag as the configuration has it; ValueError where there is none.

    >>> known("learning-rate")
    'learning_rate'
    """
    plain = name.strip().removeprefix("--").replace("-", "_")
    if plain not in types():
        raise ValueError(
            f"--grid: expected flags of the training ({', '.join(types())}), got {name!r}"
        )
    return plain


def types() -> dict[str, Any]:
    """Name → type of everything that a configuration is made of."""
    found = get_type_hints(Training)
    del found["arguments"]
    found["optimizer"] = Literal.__getitem__(tuple(OPTIMIZERS))
    for kind in OPTIMIZERS.values():
        found |= {f"opt.{name}": hint for name, hint in get_type_hints(kind).items()}
    return found


def typed(name: str, text: str) -> Value:
    """The text of a value as what it is.

    >>> typed("seed", "3"), typed("images", "none"), typed("augment", "true")
    (3, None, True)
    """
    return _fitted(name, text, types()[name])


def _fitted(name: str, text: str, hint: Any) -> Any:
    kinds = get_args(hint)
    if NoneType in kinds:
        if text.lower() == "none":
            return None
        (hint,) = (kind for kind in kinds if kind is not NoneType)
    if get_origin(hint) is Literal:
        if text in get_args(hint):
            return text
        raise ValueError(f"{name}: expected one of {', '.join(get_args(hint))}, got {text!r}")
    words = {float: "a finite number", int: "a whole number", bool: "true or false"}
    try:
        value = {"true": True, "false": False}[text.lower()] if hint is bool else hint(text)
        if hint is float and not math.isfinite(value):
            raise ValueError
    except (KeyError, ValueError):
        raise ValueError(f"{name}: expected {words[hint]}, got {text!r}") from None
    return value


def shown(value: Value) -> str:
    """A value as it is typed.

    >>> shown(True), shown(1e-4), shown(None)
    ('true', '0.0001', 'none')
    """
    return str(value).lower() if isinstance(value, bool | NoneType) else f"{value}"


def cells(base: Training, blocks: Sequence[Block]) -> tuple[Cell, ...]:
    """All cells, block after block; what two blocks share is there once.

    Args:
        base: what the values of the grid override.
        blocks: each with its axes.

    Raises:
        ValueError: two cells of a block are the same, or a configuration is refused; it names
            the cell.

    Example:
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


def read(path: Path) -> tuple[Training, dict[str, Any], list[Block]]:
    """What a TOML file says: the training, its other options, the blocks of the grid.

    ``[train]`` has flags of the training, ``optimizer`` and ``opt.…`` among them; ``[grid]`` the
    lists of values, or several ``[[grid]]`` whose cells are united; a single value is held fixed.

    Raises:
        ValueError: it is no such file, or names what a training does not have.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"FILE: expected a TOML file, got {str(path)!r} ({error})") from None
    for name in content:
        if name not in ("train", "grid"):
            raise ValueError(f"{path.name}: expected [train] and [grid] or [[grid]], got {name!r}")
    try:
        base, options = _base(content.get("train", {}))
        tables = content.get("grid", [])
        blocks = [_block(table) for table in (tables if isinstance(tables, list) else [tables])]
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from None
    if not blocks:
        raise ValueError(f"{path.name}: expected [grid] with lists of values, got none")
    return base, options, blocks


def _base(table: Any) -> tuple[Training, dict[str, Any]]:
    values, options = {}, {}
    for name, value in _flat(_table("train", table)).items():
        plain = name.replace("-", "_")
        if plain in OPTIONS:
            options[plain] = _option(plain, value)
        elif plain in types():
            values[plain] = typed(plain, _text(name, value))
        else:
            there = ", ".join([*types(), *OPTIONS])
            raise ValueError(f"[train]: expected flags of the training ({there}), got {name!r}")
    optimizer = values.pop("optimizer", Training.optimizer)
    return overridden(Training(optimizer=optimizer), values), options


def _option(name: str, value: Any) -> Any:
    return (
        Path(_text(name, value))
        if name == "data_dir"
        else _fitted(name, _text(name, value), OPTIONS[name])
    )


def _block(table: Any) -> Block:
    axes: dict[str, tuple[Value, ...]] = {}
    for name, value in _flat(_table("grid", table)).items():
        plain = known(name)
        if plain in axes:
            raise ValueError(f"[grid]: expected {plain} once, got it twice")
        values = value if isinstance(value, list) else [value]
        if not values:
            raise ValueError(f"[grid]: expected values of {plain}, got none")
        axes[plain] = tuple(typed(plain, _text(name, item)) for item in values)
    if not axes:
        raise ValueError("[grid]: expected lists of values, got none")
    return Block(axes)


def _table(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{name}: expected a table, [{name}], got {value!r}")
    return value


def _flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Names within names joined by dots, as flags have them."""
    found: dict[str, Any] = {}
    for key, value in table.items():
        name = f"{prefix}{key}"
        inner = _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
        twice = sorted(set(inner) & set(found))
        if twice:
            raise ValueError(f"{twice[0]}: expected it once, got it twice")
        found |= inner
    return found


def _text(name: str, value: Any) -> str:
    if isinstance(value, bool | int | float | str):
        return shown(value)
    raise ValueError(f"{name}: expected a number, a word, true or false, got {value!r}")
