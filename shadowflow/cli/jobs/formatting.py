"""What was computed, in words and tables for a reader who is new to it."""

from __future__ import annotations

from collections.abc import Sequence

from ...diagnostics.bias import PLAIN, ImplicitBias, Measure
from ...optimizers.moments import Moment, Optimizer, identity, square

WIDTH = 96
LEFT = 0.1  # of the way gone: a distance beyond it is a shadow that has left


def equation(optimizer: Optimizer, learning_rate: float) -> list[str]:
    """The optimizer's own update with its numbers, a line per moment and one for the step.

    >>> from shadowflow import zoo
    >>> for line in equation(zoo.adam(0.9, 0.95, 0.0, 1e-6), 1e-4): print(line)
    m ← 0.9 m + 0.1 g,   m̂ = m / (1 - 0.9^(n+1))
    v ← 0.95 v + 0.05 g²,   v̂ = v / (1 - 0.95^(n+1))
    θ ← θ - 0.0001 · [m̂ / sqrt(v̂ + 1e-06)]
    """
    lines, read = [], []
    for index, moment in enumerate(optimizer.moments):
        name = _name(moment, index)
        if not moment.has_memory:
            read.append(_transformed(moment))
            continue
        decay = float(moment.decay)
        line = f"{name} ← {decay:g} {name} + {1 - decay:.6g} {_transformed(moment)}"
        if moment.bias_correction:
            line += f",   {name}̂ = {name} / (1 - {decay:g}^(n+1))"
        lines.append(line)
        read.append(f"{name}̂" if moment.bias_correction else name)
    formula = getattr(optimizer.combine, "formula", None)
    step = formula(*read) if formula else f"combine({', '.join(read)})"
    return [*lines, f"θ ← θ - {learning_rate:g} · [{step}]"]


def _name(moment: Moment, index: int) -> str:
    names = {identity: "m", square: "v"}
    return names.get(getattr(moment.transform, "func", None), f"m{index + 1}")


def _transformed(moment: Moment) -> str:
    function = getattr(moment.transform, "func", moment.transform)
    known = {identity: "g", square: "g²"}
    return known.get(function, f"{getattr(function, '__name__', 'transform')}(g)")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of aligned columns: words to the left, numbers to the right."""
    cells = [list(head), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(head))]
    numeric = [all(_is_number(row[i]) for row in rows) for i in range(len(head))]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return [line(cells[0]), "  ".join("-" * width for width in widths), *map(line, cells[1:])]


def _is_number(text: str) -> bool:
    return text[:1].isdigit() or text[:1] in "-+–" or text == "inf"


def number(value: float) -> str:
    """Two significant digits, in the shorter of both notations."""
    return "–" if value != value else f"{value:.2g}"


def bias_lines(bias: ImplicitBias, eps_root: float | None) -> list[str]:
    """What is penalized or anti-penalized and by how much, with the verdict on the expansion."""
    measure = bias.potential if bias.one_norm is None else bias.one_norm
    if measure is None:
        return [f"Nothing is penalized coordinate by coordinate. The expansion {bias.verdict}"]
    what = (
        "the optimizer's own potential, Σ ∫Φ dg"
        if bias.one_norm is None
        else f"the perturbed one-norm of the gradient, Σ sqrt(g² + {eps_root:g})"
    )
    lines = [
        f"On top of the first-order flow, memory and finite step push {_direction(measure)}",
        f"{what} (now {number(measure.value)}).",
        "Rates of change along the flow, per unit of time (time = steps × learning rate):",
        "",
        *table(
            ["part", "rate", "effect"],
            [
                [
                    part,
                    f"{rate:+.2e}",
                    "the flow itself" if part == PLAIN else measure.effect_of(rate),
                ]
                for part, rate in measure.rates.items()
            ],
        ),
        "",
        f"Together: the bias {measure.effect} it, at {measure.bias_rate:+.2e}.",
    ]
    return [*lines, *strength_lines(bias), f"Can the expansion be trusted here? It {bias.verdict}"]


def _direction(measure: Measure) -> str:
    return {"penalizes": "down", "anti-penalizes": "up"}.get(measure.effect, "neither up nor down")


def strength_lines(bias: ImplicitBias) -> list[str]:
    """The distribution of the coefficient s of (h/2) s ∇potential over the coordinates."""
    import jax
    import numpy as np

    if bias.bias_coefficient is None:
        return []
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(bias.bias_coefficient)])
    low, middle, high = np.quantile(values, [0.05, 0.5, 0.95])
    share = float(np.mean(values < 0))
    return [
        f"Coefficient s of (h/2) s ∇potential over the coordinates: median {middle:.4g}, 90 % of",
        f"them between {low:.4g} and {high:.4g}; negative (anti-penalizing) in {share:.0%}.",
    ]
