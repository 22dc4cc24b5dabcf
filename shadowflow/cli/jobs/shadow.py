"""The main job: run an optimizer, lay its shadows beside it, say and write what came out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...diagnostics.bias import ImplicitBias, implicit_bias
from ...diagnostics.convergence import Comparison, compare
from ...diagnostics.error_bar import ErrorBar, error_bar
from ...files import writable, write_arrays, write_json
from ...iterate import iterate
from ...methods import METHODS
from ...problem import Problem
from ...running import Trajectory
from ...shadow import Shadow, settled_state, shadow
from . import formatting as words
from .settings import Setting
from .shadow_figure import draw

SAVED = 500


@dataclass(frozen=True)
class Line:
    """One row of the table: a shadow and its distance from the optimizer."""

    method: str
    order: int
    kind: str
    follow: Shadow
    gap: Comparison
    bar: ErrorBar | None = None

    @property
    def name(self) -> str:
        """The key of its arrays."""
        return f"{self.method} / order {self.order} / {self.kind}"


def shadow_job(
    settings: list[Setting],
    problem: Problem,
    params: PyTree,
    *,
    out: Path,
    quiet: bool,
    bars: bool = False,
) -> None:
    """Run every setting, print what it did in words, and write figure, numbers and arrays.

    Each setting writes ``out/<key>/``: figure.png, numbers.json, arrays.npz. A run that meets a
    non-finite number says at which step, and what came before it is written all the same.
    bars: beside each distance its estimate, from a neighbour run beside the shadow.
    """
    for setting in settings:
        writable(out / setting.key())
    for index, setting in enumerate(settings):
        print(_heading(index, settings, params))
        one_setting(setting, problem, params, out / setting.key(), quiet, bars)


def _heading(index: int, settings: list[Setting], params: PyTree) -> str:
    setting = settings[index]
    leaves = jax.tree.leaves(params)
    count = sum(np.size(leaf) for leaf in leaves)
    what = {
        "digits": "a GELU perceptron 64-32-32-10 on scikit-learn's 1,797 digits, full batch",
    }.get(setting.problem, setting.problem.rsplit(":", 1)[0])
    lines = [
        "=" * words.WIDTH,
        f"Setting {index + 1} of {len(settings)}: {setting.optimizer}, learning rate "
        f"{setting.learning_rate:g}, {setting.steps} steps",
        f"Problem: {what}; {count:,} parameters, {jnp.result_type(leaves[0])}",
        "",
    ]
    return "\n".join(lines)


def one_setting(
    setting: Setting,
    problem: Problem,
    params: PyTree,
    folder: Path,
    quiet: bool,
    bars: bool = False,
) -> None:
    """Compute, tell and write one setting."""
    optimizer = setting.build()
    rate = setting.learning_rate
    rows = wanted(setting.methods, problem)
    with _bar(quiet, setting.steps * (len(rows) + 1)) as bar:
        every = max(1, setting.steps // SAVED)
        start = 0
        if setting.settled:
            start = settled_state(problem, optimizer, params, rate, order="auto")
        real = iterate(
            problem,
            optimizer,
            params,
            rate,
            setting.steps,
            start=start,
            save_every=every,
            progress=bar.update,
        )
        lines = []
        for method, order, kind in rows:
            follow = shadow(
                problem,
                optimizer,
                params,
                rate,
                setting.steps,
                order=order,
                method=method,
                kind=kind,
                save_every=every,
                start=start,
                progress=bar.update,
            )
            estimate = None
            if bars:
                estimate = error_bar(
                    problem,
                    optimizer,
                    params,
                    rate,
                    setting.steps,
                    method=method,
                    order=follow.order,
                    kind=kind,
                    save_every=every,
                    start=start,
                    follow=follow,
                )
            lines.append(Line(method, follow.order, kind, follow, compare(real, follow), estimate))
    bias = _bias(setting, problem, optimizer, real)
    arrays = _arrays(real, lines)
    tell(setting, optimizer, problem, real, lines, bias)
    write_json(folder / "numbers.json", _numbers(setting, problem, real, lines, bias))
    write_arrays(folder / "arrays.npz", arrays)
    draw(arrays, _title(setting), folder / "figure.png")
    print(f"\nWritten to {folder}: figure.png, numbers.json, arrays.npz\n")


def wanted(methods: tuple[str, ...], problem: Problem) -> list[tuple[str, int | str, str]]:
    """(method, order, kind) of the table: the first order once, then every method's best.

    Of the methods named, those that the problem allows: without Hessian-vector products of a host
    function, or with mini-batches.
    """
    chosen = [METHODS[name] for name in methods]
    if not problem.traceable and problem.hvp is None:
        chosen = [method for method in chosen if not method.needs_hvp]
    if problem.batched:
        chosen = [method for method in chosen if not method.full_batch]
    base = next((m for m in chosen if m.is_field), None)
    first: list[tuple[str, int | str, str]]
    first = [] if base is None else [(base.name, 1, kind) for kind in ("iteration", "flow")]
    rest = [
        (m.name, "auto" if m.orders is None else m.usual[0], kind)
        for m in chosen
        for kind in ("iteration", "flow")
        if kind in m.kinds
    ]
    return first + rest


def _bar(quiet: bool, total: int):
    from tqdm import tqdm

    return tqdm(total=total, delay=2, disable=quiet, unit="step", leave=False)


def _bias(setting: Setting, problem: Problem, optimizer, real: Trajectory) -> ImplicitBias | None:
    lacking = not problem.traceable and problem.hvp is None
    if lacking or problem.batched or real.failed_at is not None:
        return None
    end = jax.tree.map(jnp.asarray, real.last)
    eps_root = float(setting.arguments.get("eps_root", 0.0)) or None
    step = None if setting.settled else int(real.steps[-1])
    return implicit_bias(
        problem, optimizer, end, setting.learning_rate, start=step, eps_root=eps_root
    )


def tell(
    setting: Setting,
    optimizer,
    problem: Problem,
    real: Trajectory,
    lines: list[Line],
    bias: ImplicitBias | None,
) -> None:
    """Print a setting for a newcomer."""
    show = lambda block: print("\n".join(f"  {line}".rstrip() for line in block))
    print("The optimizer, g the gradient of the loss at θ, step n = 0, 1, …")
    show(words.equation(optimizer, setting.learning_rate))
    print(_what_happened(setting, problem, real))
    print(f"\nHow far is each shadow from the optimizer at step {real.steps[-1]}?")
    show(
        words.table(
            [
                "method",
                "order",
                "kind",
                "max-norm",
                "two-norm",
                *(["estimated"] if lines and lines[0].bar else []),
                "of first order",
                "verdict",
            ],
            [_cells(line, lines) for line in lines],
        )
    )
    print(_moral(lines))
    if bias is not None:
        print(f"\nWhat is penalized? At step {real.steps[-1]}, with the weights of that step:")
        show(words.bias_lines(bias, float(setting.arguments.get("eps_root", 0.0)) or None))


def _what_happened(setting: Setting, problem: Problem, real: Trajectory) -> str:
    moved = float(_norm_between(real, 0, -1))
    text = f"It moved {moved:.3g} (two-norm) from its start in {real.steps[-1]} steps"
    if problem.loss is not None:
        first, last = (_loss(problem, real, i) for i in (0, -1))
        text += f"; the loss went from {first:.4g} to {last:.4g}"
    if real.failed_at is not None:
        text += (
            f".\nIt stopped: a non-finite loss, gradient or parameter began at step "
            f"{real.failed_at} of {setting.steps}; below is what came before"
        )
    return text + "."


def _norm_between(path: Trajectory, i: int, j: int) -> float:
    leaves = jax.tree.leaves(path.params)
    return float(np.sqrt(sum(np.sum((leaf[i] - leaf[j]) ** 2, dtype=float) for leaf in leaves)))


def _loss(problem: Problem, path: Trajectory, index: int) -> float:
    place = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), path.params)
    return float("nan") if problem.loss is None else float(problem.full_batch().value(place))


def _cells(line: Line, lines: list[Line]) -> list[str]:
    gap = line.gap
    stop = "" if line.follow.failed_at is None else f", stopped at step {line.follow.failed_at}"
    return [
        line.method,
        str(line.order),
        line.kind,
        words.number(gap.max_norm[-1]),
        words.number(gap.two_norm[-1]),
        *_estimated(line),
        words.number(_relative(line, lines)),
        line.follow.validity.level + stop,
    ]


def _estimated(line: Line) -> list[str]:
    """The error bar of the two-norm, with a question mark where it is not to be trusted."""
    if line.bar is None:
        return []
    return [words.number(line.bar.two_norm[-1]) + ("" if line.bar.trusted[-1] else "?")]


def _relative(line: Line, lines: list[Line]) -> float:
    """The distance at the line's last step over that of the first-order flow at the same step."""
    base = [first.gap for first in lines if first.order == 1 and first.kind == "flow"]
    there = [gap.two_norm[gap.steps == line.gap.steps[-1]] for gap in base]
    if not there or not there[0].size or there[0][0] == 0:
        return float("nan")
    return float(line.gap.two_norm[-1] / there[0][0])


def _moral(lines: list[Line]) -> str:
    """The table in sentences, verdicts with their reasons."""
    sentences = []
    for line in lines:
        if line.kind != METHODS[line.method].kinds[0]:
            continue
        share = _relative(line, lines)
        times = f" ({_times(1 / share)} first order)" if line.order > 1 and share > 0 else ""
        name = f"{line.method}, order {line.order}{times}"
        sentences.append(f"  - {name}: {line.follow.validity.reason}")
    remarks = dict.fromkeys(text for line in lines for text in line.follow.validity.remarks)
    return "\n".join(
        ["Can they be trusted? One by one:", *sentences, *(f"  {remark}." for remark in remarks)]
    )


def _times(factor: float) -> str:
    return f"{factor:.2g} × closer than" if factor >= 1 else f"{1 / factor:.2g} × farther than"


def _title(setting: Setting) -> str:
    values = ", ".join(
        f"{k} = {v:g}"
        for k, v in setting.arguments.items()
        if isinstance(v, float) and not isinstance(v, bool) and v
    )
    return (
        f"{setting.optimizer} on {setting.problem.split(':')[0]}: learning rate "
        f"{setting.learning_rate:g}, {values}"
    )


def _arrays(real: Trajectory, lines: list[Line]) -> dict[str, np.ndarray]:
    arrays = {"steps": real.steps, "times": real.times}
    for path, leaf in jax.tree_util.tree_leaves_with_path(real.params):
        arrays[f"params{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    arrays["moved"] = compare(real, real).moved
    for line in lines:
        valid = line.follow.validity
        arrays |= {
            f"{line.name}/saved": line.gap.steps,
            f"{line.name}/two_norm": line.gap.two_norm,
            f"{line.name}/max_norm": line.gap.max_norm,
            f"{line.name}/steps": valid.steps,
            f"{line.name}/ratio": valid.ratio,
            f"{line.name}/running_max": valid.running_max,
        }
        for path, leaf in jax.tree_util.tree_leaves_with_path(line.follow.last):
            arrays[f"{line.name}/last{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return arrays


def _numbers(
    setting: Setting,
    problem: Problem,
    real: Trajectory,
    lines: list[Line],
    bias: ImplicitBias | None,
) -> dict[str, Any]:
    rows = [
        {
            "method": line.method,
            "order": line.order,
            "kind": line.kind,
            "step": int(line.gap.steps[-1]),
            "max_norm": float(line.gap.max_norm[-1]),
            "two_norm": float(line.gap.two_norm[-1]),
            "largest_two_norm": float(line.gap.two_norm.max()),
            "two_norm_of_first_order": _relative(line, lines),
            "ratio_running_max": float(line.follow.validity.running_max[-1])
            if len(line.follow.validity.ratio)
            else 0.0,
            "level": line.follow.validity.level,
            "verdict": line.follow.verdict,
            "failed_at": line.follow.failed_at,
            "estimated_two_norm": None if line.bar is None else float(line.bar.two_norm[-1]),
            "error_bar": None if line.bar is None else line.bar.verdict,
        }
        for line in lines
    ]
    measured = (
        {}
        if bias is None
        else {
            name: {"value": m.value, "rates": m.rates, "bias_rate": m.bias_rate, "effect": m.effect}
            for name, m in (("potential", bias.potential), ("one_norm", bias.one_norm))
            if m
        }
    )
    return {
        "setting": dataclasses.asdict(setting),
        "versions": {name: version(name) for name in ("shadowflow", "jax", "diffrax", "optax")},
        "real": {
            "step": int(real.steps[-1]),
            "moved": _norm_between(real, 0, -1),
            "loss": [_loss(problem, real, 0), _loss(problem, real, -1)],
            "failed_at": real.failed_at,
        },
        "rows": rows,
        "bias": {**measured, "verdict": None if bias is None else bias.verdict},
    }
