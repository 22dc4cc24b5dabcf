"""A problem or an optimizer from a file of the user's own."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..optimizers.moments import Optimizer
    from ..problem import Problem

OWN = "_shadowflow_"  # how the names of modules begin that are made of a user's file


def load_problem(where: str) -> tuple[Problem, Any, str]:
    """Run a Python file and take a `(problem, params)` tuple from it: `path/to/file.py:name`.

    The problem, the parameters to start from, and a label `file.py:name:digest`. The digest is that
    of the file's text and of what the tuple holds: the parameters, and the functions with every
    array that they read. ValueError where there is no such file or name, or the file does not run;
    TypeError where the name holds something else.

    >>> load_problem("mine.py")
    Traceback (most recent call last):
    ValueError: --problem: expected path/to/file.py:name, got 'mine.py'; ...
    """
    from .. import checks
    from ..problem import Problem

    path, name, found = _named("--problem", where, "a (problem, params) tuple")
    pair = isinstance(found, tuple) and len(found) == 2
    if not pair or not isinstance(found[0], Problem):
        items = found if isinstance(found, tuple) else ()
        of = f" of {', '.join(type(item).__name__ for item in items)}" if items else ""
        raise TypeError(
            f"--problem {where}: expected a (problem, params) tuple, got a "
            f"{type(found).__name__}{of}; for example (shadowflow.Problem(loss), params)"
        )
    try:
        checks.params(found[1])
    except (TypeError, ValueError) as error:
        raise type(error)(f"--problem {where}: {error}") from None
    digest = hashlib.sha256(path.read_bytes())
    for part in _parts(found, path.parent.resolve(), {}):
        digest.update(part)
    return *found, f"{path.name}:{name}:{digest.hexdigest()}"


def _parts(thing: Any, folder: Path, seen: dict[int, Any]) -> Iterator[bytes]:
    """What an object is made of, as bytes: of functions the code and all that they read.

    folder: functions of files elsewhere count by their name. seen: what was met before, kept, so
    that no other object gets its number.
    """
    if isinstance(thing, str | bytes | int | float | complex | None):
        yield repr(thing).encode()
        return
    if not isinstance(thing, tuple):  # equal ones may be one object or two
        if id(thing) in seen:
            return
        seen[id(thing)] = thing
    inside = functools.partial(_parts, folder=folder, seen=seen)
    yield type(thing).__qualname__.encode()
    if hasattr(thing, "dtype") and hasattr(thing, "shape"):
        import jax
        import numpy as np

        if jax.dtypes.issubdtype(thing.dtype, jax.dtypes.prng_key):
            thing = jax.random.key_data(thing)
        yield f"{thing.dtype}{thing.shape}".encode() + np.asarray(thing).tobytes()
    elif isinstance(thing, types.FunctionType):
        yield f"{thing.__module__}.{thing.__qualname__}".encode()
        if Path(thing.__code__.co_filename).resolve().is_relative_to(folder):
            yield from inside(thing.__code__)
            for cell in thing.__closure__ or ():
                with contextlib.suppress(ValueError):  # it is empty
                    yield from inside(cell.cell_contents)
            yield from inside([thing.__defaults__, thing.__kwdefaults__])
            names = _names(thing.__code__)
            yield from inside({n: thing.__globals__[n] for n in names if n in thing.__globals__})
    elif isinstance(thing, types.CodeType):
        yield thing.co_code + repr(thing.co_names).encode()
        yield from inside(thing.co_consts)
    elif isinstance(thing, dict):
        yield from inside([*thing.items()])
    elif isinstance(thing, list | tuple):
        for item in thing:
            yield from inside(item)
    elif isinstance(thing, functools.partial):
        yield from inside([thing.func, thing.args, thing.keywords])
    elif isinstance(thing, types.MethodType):
        yield from inside([thing.__func__, thing.__self__])
    elif not isinstance(thing, types.ModuleType | type):
        yield from inside([getattr(thing, "__wrapped__", None), getattr(thing, "__dict__", None)])


def _names(code: types.CodeType) -> list[str]:
    """The names that a code reads, with those of the functions inside it."""
    inner = [const for const in code.co_consts if isinstance(const, types.CodeType)]
    return [*code.co_names, *(name for const in inner for name in _names(const))]


def load_optimizer(where: str) -> Optimizer:
    """Run a Python file and take a `shadowflow.Optimizer` from it, as `load_problem` does.

    >>> load_optimizer("mine.py")
    Traceback (most recent call last):
    ValueError: --own: expected path/to/file.py:name, got 'mine.py'; ...
    """
    from ..optimizers.moments import Optimizer

    _, _, found = _named("--own", where, "a shadowflow.Optimizer")
    if not isinstance(found, Optimizer):
        raise TypeError(
            f"--own {where}: expected a shadowflow.Optimizer, got a {type(found).__name__}; "
            "for example shadowflow.Optimizer([shadowflow.Moment(0.9)], combine)"
        )
    return found


def _named(flag: str, where: str, what: str) -> tuple[Path, str, Any]:
    """(the file, the name, what the file has under it) of `path/to/file.py:name`."""
    file, colon, name = where.rpartition(":")
    if not (colon and file.endswith(".py") and name.isidentifier()):
        raise ValueError(
            f"{flag}: expected path/to/file.py:name, got {where!r}; name is {what} in that file"
        )
    path = Path(file)
    if not path.is_file():
        raise ValueError(
            f"{flag}: expected a Python file, got {file!r}, which does not exist; "
            f"relative paths start at {Path.cwd()}"
        )
    found = _public_names(flag, path)
    if name not in found:
        raise ValueError(
            f"{flag}: expected a name of {file}, got {name!r}; "
            f"it defines {', '.join(sorted(found)) or 'nothing'}"
        )
    return path, name, found[name]


def _public_names(flag: str, path: Path) -> dict[str, Any]:
    """What the file defines; it may import its neighbours, as a script may."""
    name = f"{OWN}{path.stem}"
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = str(path)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # SystemExit too: the file is not what ends the command
        raise ValueError(
            f"{flag}: expected a file that runs, got {str(path)!r}, which raised "
            f"{type(error).__name__}: {error}; run it with python to see where"
        ) from error
    finally:
        sys.path.pop(0)
    return {name: value for name, value in vars(module).items() if not name.startswith("__")}
