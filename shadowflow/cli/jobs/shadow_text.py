"""What a run and its shadows did, in words and tables for a reader who is new to it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from ...diagnostics.bias import PLAIN, ImplicitBias
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
        f"\nHow far is each shadow from the optimizer at step {end}?",
        *_indented(table([_cells(found, line) for line in found.lines])),
        "Can they be trusted? One by one:",
        *_indented(_trust(found)),
    ]
    if found.bias is not None:
        weights = "a settled memory" if found.setting.settled else "that step"
        lines += [
            f"\nWhat is penalized? At step {end}, with the weights of {weights}:",
            *_indented(bias_lines(found.bias, found.setting.eps_root)),
        ]
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
    """The table in sentences: each method's verdict with its reason, then the remarks."""
    sentences = []
    for line in found.lines:
        method, order, kind = line.way
        if kind == METHODS[method].kinds[0]:
            share, closer = found.relative(line), ""
            if order > 1 and share > 0:
                stopped = line.follow.failed_at is not None
                at = f" at step {line.gap.steps[-1]}, where it stopped" if stopped else ""
                closer = f" ({_times(1 / share)} first order{at})"
            reason = line.follow.validity.reason
            sentences.append(f"- {method}, order {order}{closer}: {reason}")
    remarks = dict.fromkeys(text for line in found.lines for text in line.follow.validity.remarks)
    return [*sentences, *(f"{remark}." for remark in remarks)]


def _times(factor: float) -> str:
    return f"{factor:.2g} × closer than" if factor >= 1 else f"{1 / factor:.2g} × farther than"


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


def bias_lines(bias: ImplicitBias, eps_root: float | None) -> list[str]:
    """What is penalized or anti-penalized and by how much, with the verdict on the expansion."""
    if bias.one_norm is not None:
        measure = bias.one_norm
        what = f"the perturbed one-norm of the gradient, Σ sqrt(g² + {eps_root:g})"
    else:
        measure, what = bias.potential, "the optimizer's own potential, Σ ∫Φ dg"
    if measure is None:
        return [f"Nothing is penalized coordinate by coordinate. The expansion {bias.verdict}"]
    rows = [
        {
            "part": part,
            "rate": f"{rate:+.2e}",
            "effect": "the flow itself" if part == PLAIN else measure.effect_of(rate),
        }
        for part, rate in measure.rates.items()
    ]
    directions = {"penalizes": "down", "anti-penalizes": "up"}
    return [
        "On top of the first-order flow, memory and finite step push "
        + directions.get(measure.effect, "neither up nor down"),
        f"{what} (now {number(measure.value)}).",
        "Rates of change along the flow, per unit of time (time = steps × learning rate):",
        "",
        *table(rows),
        "",
        f"Together: the bias {measure.effect} it, at {measure.bias_rate:+.2e}.",
        *_coefficient_lines(bias),
        f"Can the expansion be trusted here? It {bias.verdict}",
    ]


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
