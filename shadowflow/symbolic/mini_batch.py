"""The modified equation on mini-batches at step n, as the paper's (9).

θ' = −Φ − h Σ_i ∂_iΦ · c_i (P_i + ½ P̄_i) − (h/2) ∂_θΦ · Φ, where ψ_i' = c_i φ_i and
P_i = Σ_k w_k φ_i(g_k) (H_k Σ_{l=k}^{n−1} F_l), P̄_i = Σ_k w_k φ_i(g_k) (H_k F_n).
"""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import sympy as sp

from .algebra import slope, tidy
from .model import GRADIENT, MIXED, STEP, SUBSCRIPTS, THETA, Average, Model

INDEX, OLDER = sp.symbols("k l", integer=True)
FORCE, PUSHED, NOW = sp.Symbol("F_n"), sp.Symbol("H_n F_n"), sp.Symbol("g_n", real=True)
PAST_GRADIENT, HESSIAN, LATE, PAST = sp.symbols("g_k H_k F_n F_l", commutative=False)
LETTERS = {"g": ("M", "L", "b"), "g²": ("V", "P", "r"), "": ("W", "Q", "w")}


class PastMoment(NamedTuple):
    """A moment on mini-batches: its symbol, those of P and P̄, c in ψ' = c φ, what they stand for.

    Without memory P is 0 and P̄ the product itself.
    """

    moment: sp.Symbol
    moving: sp.Expr
    still: sp.Expr
    scale: sp.Expr
    definitions: list[tuple[sp.Symbol, sp.Expr]]


class Batched(NamedTuple):
    """direction: Φ(M, V, …); correction: what multiplies h; definitions: symbol → expression.

    Among the definitions are the abbreviations R and D of ``direction`` and ``correction``.
    """

    direction: sp.Expr
    correction: sp.Expr
    definitions: list[tuple[sp.Symbol, sp.Expr]]
    pasts: list[PastMoment]


def batched(model: Model) -> Batched:
    """The mini-batch form; for Adam h [M(2P+P̄)/(2R³) − (2L+L̄)/(2R)] behind −M/R."""
    pasts, seen = [], Counter()
    for average in model.averages:
        seen[average.kind] += average.decay != 0
        many = seen[average.kind]
        pasts.append(_past(average, str(many).translate(SUBSCRIPTS) if many > 1 else ""))
    moments = [past.moment for past in pasts]
    answer = model.answer(moments, STEP)
    terms = [
        -past.scale * rise * (2 * past.moving + past.still) / 2
        for past, rise in zip(pasts, answer.partials, strict=True)
    ]
    terms.append(-tidy(slope(answer.direction, THETA)) * FORCE / 2)
    (direction, *terms), roots = _abbreviated([answer.direction, *terms], (*moments, MIXED))
    correction = sp.Add(*terms)
    shown, used = [], direction.free_symbols | correction.free_symbols
    meanings = [meaning for past in pasts for meaning in past.definitions]
    for symbol, value in (*answer.mixture.items(), *roots.items(), *meanings):
        if symbol in used:
            shown.append((symbol, value))
            used = used | value.free_symbols
    return Batched(direction, correction, shown, pasts)


def _past(average: Average, mark: str) -> PastMoment:
    """A moment; ``mark`` is the number behind its letters."""
    value, letter, weight = LETTERS[average.kind]
    scale, inner = slope(average.transform(GRADIENT), GRADIENT).as_coeff_Mul()
    moment = sp.Symbol(value + mark, real=True)
    if average.decay == 0:
        still = inner.subs(GRADIENT, NOW) * PUSHED
        if average.kind == "g":
            return PastMoment(NOW, sp.Integer(0), still, scale, [])
        return PastMoment(moment, sp.Integer(0), still, scale, [(moment, average.transform(NOW))])
    moving, still = sp.Symbol(letter + mark), sp.Symbol(letter + "\u0304" + mark)
    share = sp.Symbol(f"{weight}{mark}_k")
    here = lambda expression: expression.subs(GRADIENT, PAST_GRADIENT)
    total = lambda expression: sp.Sum(share * expression, (INDEX, 0, STEP))
    older = sp.Sum(PAST, (OLDER, INDEX, STEP - 1))
    size = (1 - average.decay) * average.decay ** (STEP - INDEX)
    definitions = [
        (moment, total(here(average.transform(GRADIENT)))),
        (moving, total(here(inner) * HESSIAN * older)),
        (still, total(here(inner) * HESSIAN * LATE)),
        (share, size / (1 - average.decay ** (STEP + 1)) if average.corrected else size),
    ]
    return PastMoment(moment, moving, still, scale, definitions)


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
