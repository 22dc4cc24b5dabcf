"""The job of ``shadowflow shadow``: run the settings, say and write what came out."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import PyTree

from ...diagnostics.comparison import compare
from ...files import alone, write_arrays, write_json
from ...problem import Problem
from .formatting import versions
from .settings import Setting
from .shadow_figure import draw
from .shadow_run import Followed, ShadowOutcome, key_of, run
from .shadow_text import heading, tell

if TYPE_CHECKING:
    from ..shadow import ShadowCommand


def shadow_job(
    command: ShadowCommand, settings: list[Setting], problem: Problem, params: PyTree
) -> None:
    """Run every setting, print what it did in words, and write figure, numbers and arrays.

    Each setting writes ``out/<key>/``: figure.png, numbers.json, arrays.npz. A run that meets a
    non-finite number says at which step, and what came before it is written all the same; so it is
    where a function of the problem raises, or Ctrl-C stops it. Raises ValueError for a folder that
    cannot be written, or in which another process is at work.
    """
    with contextlib.ExitStack() as stack:
        for setting in settings:
            stack.enter_context(alone(command.out / setting.key()))
        for index, setting in enumerate(settings):
            print("=" * 96)
            print(f"Setting {index + 1} of {len(settings)}: {heading(setting, params)}", flush=True)
            found = run(setting, problem, params, command.quiet, command.error_bars)
            folder = command.out / setting.key()
            written = write(found, folder)
            if found.error is not None:
                step = (found.unfinished[1] if found.unfinished else found.real).steps[-1]
                found.error.__notes__ = [f"at step {step}; what came before is in {folder}"]
                raise found.error
            print(tell(found))
            print(f"\nWritten to {folder}: {written}\n")


def write(found: ShadowOutcome, folder: Path) -> str:
    """Write what was computed of a setting; the names of the files."""
    write_arrays(folder / "arrays.npz", arrays(found))
    write_json(folder / "numbers.json", numbers(found))
    draw(arrays(found), title(found.setting), folder / "figure.png")
    return "figure.png, numbers.json, arrays.npz"


def title(setting: Setting) -> str:
    """The heading of the picture: the optimizer with its numbers, and the problem."""
    given = {name: value for name, value in setting.arguments.items() if type(value) is float}
    values = ", ".join(f"{name} = {value:g}" for name, value in given.items() if value)
    return (
        f"{setting.optimizer} on {setting.problem.split(':')[0]}: learning rate "
        f"{setting.learning_rate:g}, {values}"
    )


def arrays(found: ShadowOutcome) -> dict[str, np.ndarray]:
    """Paths, distances and validity ratios, as they are written and drawn."""

    def leaves(name: str, tree: PyTree) -> dict[str, np.ndarray]:
        paths = jax.tree_util.tree_leaves_with_path(tree)
        return {f"{name}{jax.tree_util.keystr(path)}": np.asarray(leaf) for path, leaf in paths}

    real, content = found.real, {"steps": found.real.steps, "times": found.real.times}
    content |= leaves("params", real.params) | {"moved": compare(real, real).moved}
    for line in found.lines:
        valid = line.follow.validity
        content |= {
            f"{line.name}/saved": line.gap.steps,
            f"{line.name}/two_norm": line.gap.two_norm,
            f"{line.name}/max_norm": line.gap.max_norm,
            f"{line.name}/steps": valid.steps,
            f"{line.name}/share": valid.share,
            f"{line.name}/running_max": valid.running_max,
        }
        content |= leaves(f"{line.name}/last", line.follow.last)
    if found.unfinished is not None:
        way, path = found.unfinished
        gap, name = compare(real, path), f"{key_of(way)}/unfinished"
        content |= {f"{name}/saved": gap.steps, f"{name}/distance": gap.two_norm}
        content |= leaves(f"{name}/last", path.last)
    return content


def numbers(found: ShadowOutcome) -> dict[str, Any]:
    """The numbers behind what is said, as they are written."""
    real, bias = found.real, found.bias
    measures = {} if bias is None else {"potential": bias.potential, "one_norm": bias.one_norm}
    return {
        "setting": dataclasses.asdict(found.setting),
        "stopped": None if found.error is None else type(found.error).__name__,
        "versions": versions(),
        "real": {
            "step": int(real.steps[-1]),
            "moved": found.moved,
            "loss": [found.loss(0), found.loss(-1)],
            "failed_at": real.failed_at,
        },
        "rows": [_row(found, line) for line in found.lines],
        "bias": {
            name: {"value": m.value, "rates": m.rates, "bias_rate": m.bias_rate, "effect": m.effect}
            for name, m in measures.items()
            if m
        }
        | {"verdict": None if bias is None else bias.verdict},
    }


def _row(found: ShadowOutcome, line: Followed) -> dict[str, Any]:
    gap, follow, valid = line.gap, line.follow, line.follow.validity
    return {
        **line.way._asdict(),
        "step": int(gap.steps[-1]),
        "max_norm": float(gap.max_norm[-1]),
        "two_norm": float(gap.two_norm[-1]),
        "largest_two_norm": float(gap.two_norm.max()),
        "two_norm_of_first_order": found.relative(line),
        "share_running_max": float(valid.running_max[-1]) if len(valid.share) else 0.0,
        "basis": valid.basis,
        "level": valid.level,
        "verdict": follow.verdict,
        "failed_at": follow.failed_at,
        "estimated_two_norm": None if line.bar is None else float(line.bar.two_norm[-1]),
        "error_bar": None if line.bar is None else line.bar.verdict,
    }
