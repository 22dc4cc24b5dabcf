"""The modified equation on mini-batches at step n, as the paper's (9).

θ' = −Φ − h Σ_i ∂_iΦ · c_i (P_i + ½ P̄_i) − (h/2) ∂_θΦ · Φ, where ψ_i' = c_i φ_i and
P_i = Σ_k w_k φ_i(g_k) (H_k Σ_{l=k}^{n−1} F_l), P̄_i = Σ_k w_k φ_i(g_k) (H_k F_n).
"""

from __future__ import annotations

from dataclasses import dataclass

import sympy as sp

from .algebra import slope, tidy
from .model import GRADIENT, MIXED, STEP, THETA, Average, Model

INDEX = sp.Symbol("k", integer=True)
FORCE, PUSHED, NOW = sp.Symbol("F_n"), sp.Symbol("H_n F_n"), sp.Symbol("g_n", real=True)
LETTERS = {"g": ("M", "L", "b_k"), "g²": ("V", "P", "r_k"), "": ("W", "Q", "w_k")}


@dataclass(frozen=True)
class Batched:
    """direction: Φ(M, V, …); correction: what multiplies h; definitions: symbol → expression.

    roots: the abbreviations R and D in ``direction`` and ``correction``, among the definitions.
    moving, still: per moment the symbols of P_i and P̄_i; scales: the c_i.
    """

    direction: sp.Expr
    correction: sp.Expr
    definitions: tuple[tuple[sp.Symbol, sp.Expr], ...]
    moments: tuple[sp.Symbol, ...]
    moving: tuple[sp.Symbol | None, ...]
    still: tuple[sp.Symbol, ...]
    scales: tuple[sp.Expr, ...]


def batched(model: Model) -> Batched:
    """The mini-batch form; for Adam h [M(2P+P̄)/(2R³) − (2L+L̄)/(2R)] behind −M/R."""
    names = _names(model.averages)
    moments = tuple(sp.Symbol(m, real=True) for m, *_ in names)
    answer = model.answer(moments, STEP)
    roots: dict[sp.Symbol, sp.Expr] = {}
    terms, definitions, moving, still, scales = [], [], [], [], []
    for a, m, rise, (_, letter, weight) in zip(
        model.averages, moments, answer.partials, names, strict=True
    ):
        scale, inner = slope(a.transform(GRADIENT), GRADIENT).as_coeff_Mul()
        p = None if a.decay == 0 else sp.Symbol(letter)
        bar = (
            inner.subs(GRADIENT, NOW) * PUSHED
            if p is None
            else sp.Symbol(letter[0] + "\u0304" + letter[1:])
        )
        terms.append(-scale * rise * (bar if p is None else 2 * p + bar) / 2)
        definitions += _definitions(a, m, p, bar, inner, weight)
        moving, still, scales = [*moving, p], [*still, bar], [*scales, scale]
    terms.append(-tidy(slope(answer.direction, THETA)) * FORCE / 2)
    direction, *terms = _abbreviated([answer.direction, *terms], (*moments, MIXED), roots)
    shown, used = [], direction.free_symbols | sp.Add(*terms).free_symbols
    for symbol, value in (*answer.mixture.items(), *roots.items(), *definitions):
        if symbol in used:
            shown.append((symbol, value))
            used = used | value.free_symbols
    return Batched(
        direction, sp.Add(*terms), tuple(shown), moments, tuple(moving), tuple(still), tuple(scales)
    )


def _names(averages) -> list[tuple[str, str, str]]:
    """Per moment the names of its value, of P and of its weights."""
    found, count = [], {}
    for average in averages:
        if average.decay == 0 and average.kind == "g":
            found.append(("g_n", "", ""))  # the present gradient
            continue
        value, letter, weight = LETTERS[average.kind]
        count[value] = count.get(value, 0) + 1
        mark = "" if count[value] == 1 else "₀₁₂₃₄₅₆₇₈₉"[count[value] % 10]
        found.append((value + mark, letter + mark, weight[0] + mark + weight[1:]))
    return found


def _definitions(average: Average, m, p, bar, inner, weight: str) -> list:
    """The sums over past steps that are in the equation."""
    plain = lambda name: sp.Symbol(name, commutative=False)
    gradient, hessian, force = plain("g_k"), plain("H_k"), plain("F_l")
    if average.decay == 0:
        return [] if average.kind == "g" else [(m, average.transform(NOW))]
    w, late = sp.Symbol(weight), 1 - average.decay ** (STEP + 1)
    size = (1 - average.decay) * average.decay ** (STEP - INDEX)
    at = lambda e: e.subs(GRADIENT, gradient)
    past = sp.Sum(force, (sp.Symbol("l", integer=True), INDEX, STEP - 1))
    outer = lambda e: sp.Sum(w * e, (INDEX, 0, STEP))
    return [
        (m, outer(at(average.transform(GRADIENT)))),
        (p, outer(at(inner) * hessian * past)),
        (bar, outer(at(inner) * hessian * plain("F_n"))),
        (w, size / late if average.corrected else size),
    ]


def _abbreviated(expressions: list, moments, roots: dict) -> list:
    """Square roots of moments as R, sums of them and numbers as D; ``roots`` collects both."""
    half = lambda e: e.is_Pow and e.exp.is_Rational and e.exp.q == 2 and e.base.has(*moments)
    bases = {p.base for e in expressions for p in e.atoms(sp.Pow) if half(p)}
    for index, base in enumerate(sorted(bases, key=str)):
        root = sp.Symbol("R" if index == 0 else f"R{'₀₁₂₃'[min(index + 1, 3)]}", positive=True)
        roots[root] = sp.sqrt(base)
        expressions = [
            e.subs(base, root**2)
            if e.has(base) and not base.is_Symbol
            else e.replace(
                lambda p, b=base: half(p) and p.base == b, lambda p, r=root: r ** (2 * p.exp)
            )
            for e in expressions
        ]
        sums = {
            a
            for e in expressions
            for a in e.atoms(sp.Add)
            if root in a.args and not a.has(*moments, THETA)
        }
        for total in sorted(sums, key=str)[:1]:
            short = sp.Symbol("D", positive=True)
            roots[short] = total
            expressions = [e.subs(total, short) for e in expressions]
    return expressions
