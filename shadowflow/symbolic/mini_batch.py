"""The modified equation on mini-batches at step n, as the paper's (9).

θ' = −Φ − h Σ_i ∂_iΦ · c_i (P_i + ½ P̄_i) − (h/2) ∂_θΦ · Φ, where ψ_i' = c_i φ_i and
P_i = Σ_k w_k φ_i(g_k) (H_k Σ_{l=k}^{n−1} F_l), P̄_i = Σ_k w_k φ_i(g_k) (H_k F_n).
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from .algebra import slope, tidy
from .model import GRADIENT, MIXED, STEP, SUBSCRIPTS, THETA, Average, Model

INDEX, OLDER = sp.symbols("k l", integer=True)
FORCE, PUSHED, NOW = sp.Symbol("F_n"), sp.Symbol("H_n F_n"), sp.Symbol("g_n", real=True)
PAST_GRADIENT, HESSIAN, LATE, PAST = sp.symbols("g_k H_k F_n F_l", commutative=False)
LETTERS = {"g": ("M", "L", "b"), "g²": ("V", "P", "r"), "": ("W", "Q", "w")}


@dataclass(frozen=True)
class Batched:
    """direction: Φ(M, V, …); correction: what multiplies h; definitions: symbol → expression.

    Among the definitions are the abbreviations R and D of ``direction`` and ``correction``.
    moving, still: per moment the symbols of P_i and P̄_i; scales: the c_i.
    """

    direction: sp.Expr
    correction: sp.Expr
    definitions: tuple[tuple[sp.Symbol, sp.Expr], ...]
    moments: tuple[sp.Symbol, ...]
    moving: tuple[sp.Symbol | None, ...]
    still: tuple[sp.Expr, ...]
    scales: tuple[sp.Expr, ...]


def batched(model: Model) -> Batched:
    """The mini-batch form; for Adam h [M(2P+P̄)/(2R³) − (2L+L̄)/(2R)] behind −M/R."""
    names = _names(model.averages)
    moments = tuple(sp.Symbol(name, real=True) for name, *_ in names)
    answer = model.answer(moments, STEP)
    terms, definitions, moving, still, scales = [], [], [], [], []
    for average, moment, rise, (_, letter, mark, weight) in zip(
        model.averages, moments, answer.partials, names, strict=True
    ):
        scale, inner = slope(average.transform(GRADIENT), GRADIENT).as_coeff_Mul()
        if average.decay == 0:
            p, bar = None, inner.subs(GRADIENT, NOW) * PUSHED
            terms.append(-scale * rise * bar / 2)
            if average.kind != "g":
                definitions.append((moment, average.transform(NOW)))
        else:
            p, bar = sp.Symbol(letter + mark), sp.Symbol(letter + "\u0304" + mark)
            terms.append(-scale * rise * (2 * p + bar) / 2)
            definitions += _definitions(average, moment, p, bar, inner, sp.Symbol(weight))
        moving, still, scales = [*moving, p], [*still, bar], [*scales, scale]
    terms.append(-tidy(slope(answer.direction, THETA)) * FORCE / 2)
    (direction, *terms), roots = _abbreviated([answer.direction, *terms], (*moments, MIXED))
    shown, used = [], sp.Add(direction, *terms).free_symbols | direction.free_symbols
    for symbol, value in (*answer.mixture.items(), *roots.items(), *definitions):
        if symbol in used:
            shown.append((symbol, value))
            used = used | value.free_symbols
    return Batched(
        direction, sp.Add(*terms), tuple(shown), moments, tuple(moving), tuple(still), tuple(scales)
    )


def _names(averages) -> list[tuple[str, str, str, str]]:
    """Per moment the name of its value, of P, the number behind them, the name of its weights."""
    found, count = [], dict.fromkeys(LETTERS, 0)
    for average in averages:
        if average.decay == 0 and average.kind == "g":
            found.append((NOW.name, "", "", ""))
            continue
        value, letter, weight = LETTERS[average.kind]
        count[average.kind] += 1
        many = count[average.kind]
        mark = str(many).translate(SUBSCRIPTS) if many > 1 else ""
        found.append((value + mark, letter, mark, f"{weight}{mark}_k"))
    return found


def _definitions(average: Average, moment, p, bar, inner, weight) -> list:
    """The sums over past steps that are in the equation, and their weights."""
    here = lambda expression: expression.subs(GRADIENT, PAST_GRADIENT)
    total = lambda expression: sp.Sum(weight * expression, (INDEX, 0, STEP))
    past = sp.Sum(PAST, (OLDER, INDEX, STEP - 1))
    size = (1 - average.decay) * average.decay ** (STEP - INDEX)
    return [
        (moment, total(here(average.transform(GRADIENT)))),
        (p, total(here(inner) * HESSIAN * past)),
        (bar, total(here(inner) * HESSIAN * LATE)),
        (weight, size / (1 - average.decay ** (STEP + 1)) if average.corrected else size),
    ]


def _abbreviated(expressions: list, moments) -> tuple[list, dict[sp.Symbol, sp.Expr]]:
    """With R for square roots of moments, D for sums of them and numbers; what these stand for."""
    roots: dict[sp.Symbol, sp.Expr] = {}
    half = lambda e: e.is_Pow and e.exp.is_Rational and e.exp.q == 2 and e.base.has(*moments)
    bases = {p.base for e in expressions for p in e.atoms(sp.Pow) if half(p)}
    for index, base in enumerate(sorted(bases, key=str), 1):
        mark = str(index).translate(SUBSCRIPTS) if index > 1 else ""
        root = sp.Symbol("R" + mark, positive=True)
        roots[root] = sp.sqrt(base)
        expressions = [e.subs(sp.sqrt(base), root) for e in expressions]
        if not base.is_Symbol:
            expressions = [e.subs(base, root**2) for e in expressions]
        sums = {a for e in expressions for a in e.atoms(sp.Add) if root in a.args}
        sums = {a for a in sums if not a.has(*moments, THETA)}
        for total in sorted(sums, key=str)[:1]:
            short = sp.Symbol("D" + mark, positive=True)
            roots[short] = total
            expressions = [e.subs(total, short) for e in expressions]
    return expressions, roots
