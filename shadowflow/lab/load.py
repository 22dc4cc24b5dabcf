"""A problem or an optimizer from a file of the user's own."""

from __future__ import annotations

import hashlib
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..optimizers.moments import Optimizer
    from ..problem import Problem


def load_problem(where: str) -> tuple[Problem, Any, str]:
    """Run a Python file and take a `(problem, params)` tuple from it: `path/to/file.py:name`.

    The problem, the parameters to start from, and a label `file.py:name:digest` with the digest of
    the file's text: an edited file is another problem. ValueError where there is no such file or
    name, or the file does not run; TypeError where the name holds something else.

    >>> load_problem("mine.py")
    Traceback (most recent call last):
    ValueError: --problem: expected path/to/file.py:name, got 'mine.py'; ...
    """
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
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return *found, f"{path.name}:{name}:{digest}"


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
    name = f"_shadowflow_{path.stem}"
    module = sys.modules[name] = types.ModuleType(name)
    module.__file__ = str(path)
    sys.path.insert(0, str(path.parent.resolve()))
    try:
        exec(compile(path.read_bytes(), path, "exec"), vars(module))
    except (Exception, SystemExit) as error:
        raise ValueError(
            f"{flag}: expected a file that runs, got {str(path)!r}, which raised "
            f"{type(error).__name__}: {error}; run it with python to see where"
        ) from error
    finally:
        sys.path.pop(0)
    return {name: value for name, value in vars(module).items() if not name.startswith("__")}
