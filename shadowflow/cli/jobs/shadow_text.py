"""What a run and its shadows did, in words and tables for a reader who is new to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...diagnostics.bias import ImplicitBias
from ...methods import METHODS
from ...optimizers.moments import Moment, Optimizer, identity, square
from .formatting import number, table
from .settings import Setting
from .shadow_run import Followed, ShadowOutcome

DIGITS = "a GELU perceptron 64-32-32-10 on scikit-learn's 1,797 digits, full batch"


def heading(setting: Setting, params: PyTree) -> str:
    """The optimizer, its learning rate and steps, and the problem with its size."""
    leaves = jax.tree.leaves(params)
    problem = DIGITS if setting.problem == "digits" else setting.problem.rsplit(":", 1)[0]
    return (
        f"{setting.optimizer}, learning rate {setting.learning_rate:g}, {setting.steps} steps\n"
        f"Problem: {problem}; {sum(map(np.size, leaves)):,} parameters, "
        f"{jnp.result_type(leaves[0])}\n"
    )


def tell(found: ShadowOutcome) -> str:
    """All that is said of a setting."""
    end = found.real.steps[-1]
    lines = [
        "The optimizer, g the gradient of the loss at θ, step n = 0, 1, …",
        *_indented(equation(found.optimizer, found.setting.learning_rate)),
        what_happened(found),
        "\nWhich shadows follow it? Measured along the run:",
        *_indented(_trust(found)),
        f"\nHow far each is from the optimizer at step {end}:",
        *_indented(table([_cells(found, line) for line in found.lines])),
    ]
    if found.bias is not None:
        lines += [
            f"What is penalized? At step {end}, with the memory that the optimizer has there:",
            *_indented(bias_lines(found.bias)),
        ]
    elif found.no_bias:
        lines.append(f"What is penalized? Not told: {found.no_bias}.")
    return "\n".join(lines)


def _indented(lines: list[str]) -> list[str]:
    return [f"  {line}".rstrip() for line in lines]


def what_happened(found: ShadowOutcome) -> str:
    """How far the optimizer went, and where it stopped if it did."""
    real = found.real
    text = f"It moved {found.moved:.3g} (two-norm) from its start in {real.steps[-1]} steps"
    if found.problem.loss is not None:
        text += f"; the loss went from {found.loss(0):.4g} to {found.loss(-1):.4g}"
    if real.failed_at is not None:
        text += (
            f".\nIt stopped: a non-finite loss, gradient or parameter began at step "
            f"{real.failed_at} of {found.setting.steps}; below is what came before"
        )
    return text + "."


def _cells(found: ShadowOutcome, line: Followed) -> dict[str, str]:
    """A row of the table; an estimate that is not to be trusted has a question mark."""
    gap, follow, bar = line.gap, line.follow, line.bar
    stop = "" if follow.failed_at is None else f", stopped at step {follow.failed_at}"
    cells = {name: str(value) for name, value in line.way._asdict().items()}
    at = "" if gap.steps[-1] == found.real.steps[-1] else f" (step {gap.steps[-1]})"
    cells |= {"max-norm": number(gap.max_norm[-1]), "two-norm": number(gap.two_norm[-1]) + at}
    if bar is not None:
        cells["estimated"] = number(bar.two_norm[-1]) + ("" if bar.trusted[-1] else "?")
    relative = number(found.relative(line))
    return {**cells, "of first order": relative, "verdict": follow.validity.level + stop}


def _trust(found: ShadowOutcome) -> list[str]:
    """Each method's verdict with its reason, of the kind that it is for, then the remarks."""
    sentences = [
        f"- {line.way.method}, order {line.way.order}: {line.follow.validity.reason}"
        for line in found.lines
        if line.way.kind == METHODS[line.way.method].kinds[0]
    ]
    remarks = dict.fromkeys(text for line in found.lines for text in line.follow.validity.remarks)
    return [*sentences, *(f"{remark}." for remark in remarks)]


def equation(optimizer: Optimizer, learning_rate: float) -> list[str]:
    """The optimizer's own update with its numbers, a line per moment and one for the step.

    >>> from shadowflow.optimizers import zoo
    >>> for line in equation(zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6), 1e-4): print(line)
    m ← 0.9 m + 0.1 g,   m̂ = m / (1 - 0.9^(n+1))
    v ← 0.95 v + 0.05 g²,   v̂ = v / (1 - 0.95^(n+1))
    θ ← θ - 0.0001 · [m̂ / sqrt(v̂ + 1e-06)]
    """
    lines, read = [], []
    for index, moment in enumerate(optimizer.moments):
        name, seen = _names(moment, index)
        if not moment.has_memory:
            read.append(seen)
            continue
        decay = float(moment.decay)
        line = f"{name} ← {decay:g} {name} + {1 - decay:.6g} {seen}"
        if moment.bias_correction:
            line += f",   {name}̂ = {name} / (1 - {decay:g}^(n+1))"
        lines.append(line)
        read.append(f"{name}̂" if moment.bias_correction else name)
    formula = getattr(optimizer.combine, "formula", None)
    step = formula(*read) if formula else f"combine({', '.join(read)})"
    return [*lines, f"θ ← θ - {learning_rate:g} · [{step}]"]


def _names(moment: Moment, index: int) -> tuple[str, str]:
    """The names of a moment and of the transformed gradient that it averages."""
    function = getattr(moment.transform, "func", moment.transform)
    known = {identity: ("m", "g"), square: ("v", "g²")}
    other = f"m{index + 1}", f"{getattr(function, '__name__', 'transform')}(g)"
    return known.get(function, other)


def bias_lines(bias: ImplicitBias) -> list[str]:
    """What is penalized or anti-penalized and by how much, its verdict first."""
    coefficient = [] if bias.validity.level == "does not hold" else _coefficient_lines(bias)
    return [*bias.describe().splitlines(), *coefficient]


def _coefficient_lines(bias: ImplicitBias) -> list[str]:
    """The distribution of the coefficient s of (h/2) s ∇potential over the coordinates."""
    if bias.bias_coefficient is None:
        return []
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(bias.bias_coefficient)])
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    return [
        f"Coefficient s of (h/2) s ∇potential over the coordinates: median {middle:.4g}, 90 % of",
        f"them between {low:.4g} and {high:.4g}; negative (anti-penalizing) in "
        f"{np.mean(values < 0):.0%}.",
    ]
