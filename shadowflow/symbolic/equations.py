"""The modified equation, one coordinate at a time: settled, at step n, and on mini-batches.

Settled: θ' = −Φ − (h/2) [ K(g) · HΦ + ∂_θΦ · Φ ],   K = Σ_i (1+β_i)/(1−β_i) ∂_iΦ ψ_i'(g).
With Φ = u(g) + v(θ) and u = κ g that is θ' = −κ (g + (h/2) s HΦ) − v − (h/2) v' Φ, s = K/κ: the
bias coefficient. HΦ is ∇J with J = Σ_j ∫_0^{g_j} u, as far as u goes.

At step n: θ' = −Φ_n − h Σ_i ∂_iΦ ψ_i' [ Σ_{l<n} a_i(l) HΦ_l + ½ W_i HΦ_n ] − (h/2) ∂_θΦ · Φ_n,
where Φ_l is the memoryless direction at step l and a_i(l) = Σ_{k≤l} w_{i,n,k} the weight of what
is older.

On mini-batches at step n, the paper's (9): θ' = −Φ − h Σ_i ∂_iΦ · c_i (P_i + ½ P̄_i)
− (h/2) ∂_θΦ · Φ, where ψ_i' = c_i φ_i and
P_i = Σ_k w_k φ_i(g_k) (H_k Σ_{l=k}^{n−1} F_l), P̄_i = Σ_k w_k φ_i(g_k) (H_k F_n).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import sympy as sp

from .algebra import integral, limit, oriented, quotient, slope, split, tidy, vanishes, without_abs
from .model import GRADIENT, MIXED, PAST, STEP, SUBSCRIPTS, THETA, Average, Model, apart_from_theta

FACTOR: Any = sp.Function("c_n")
RATIO_NOW, RATIO_PAST = sp.symbols("r_n r_l", positive=True)
INDEX, OLDER = sp.symbols("k l", integer=True)
FORCE, PUSHED_NOW, NOW = sp.Symbol("F_n"), sp.Symbol("H_n F_n"), sp.Symbol("g_n", real=True)
PAST_GRADIENT, HESSIAN, LATE, PAST_FORCE = sp.symbols("g_k H_k F_n F_l", commutative=False)
LETTERS = {"g": ("M", "L", "b"), "g²": ("V", "P", "r"), "": ("W", "Q", "w")}


class Limit(NamedTuple):
    """κ and s where the gradient is far below every ε, or far above."""

    preconditioner: sp.Expr | None
    bias_coefficient: sp.Expr


class Settled:
    """Expressions in y (|g|, or g where Φ is not odd), θ and the hyper-parameters, simplified.

    direction: Φ; driven: u; offset: v; slopes: ∂_iΦ ψ_i' per moment; bias: K;
    preconditioner: κ = u/y; bias_coefficient: s = K/κ; shares: per moment ∂_iΦ ψ_i' / κ;
    potential: ∫u dy, None where it was not found; separable: whether Φ = u(g) + v(θ);
    linear: whether u is a multiple of g, so that J is one of ½‖∇E‖²; constant: whether s is the
    same for every gradient; alike: K/u' where that is free of g: then θ' = −Φ(∇Ẽ) up to h²;
    small, large: the limits of κ and s.

    For Adam with ε inside: κ = 1/√(g²+ε), s = C_β − C_ρ + C_ρ ε/(g²+ε), C = (1+β)/(1−β).
    """

    def __init__(self, model: Model):
        y = self.y = model.y
        direction, partials = model.answer_at([a.transform(y) for a in model.averages], sp.oo)
        rises = zip(partials, model.averages, strict=True)
        self.direction = tidy(direction)
        self.slopes = tuple(tidy(part * average.slope(y)) for part, average in rises)
        driven, self.offset = apart_from_theta(self.direction, y)
        self.driven = tidy(driven)
        self.preconditioner = tidy(self.driven / y)
        self.shares = tuple(tidy(slope / self.preconditioner) for slope in self.slopes)
        factors = zip(model.averages, self.slopes, strict=True)
        self.bias = sp.Add(*(average.factor * rise for average, rise in factors))
        self.bias_coefficient = coefficient_of(model, self.shares)
        self.potential = integral(self.driven, y)
        self.separable = not self.driven.has(THETA)
        self.linear = not self.preconditioner.has(y, THETA)
        self.constant = not self.bias_coefficient.has(y, THETA)
        rise = slope(self.driven, y)
        alike = tidy(self.bias / rise) if rise != 0 else sp.Integer(0)
        self.alike = None if alike.has(y, THETA) else alike
        self.small = _limit(self.preconditioner, self.bias_coefficient, y, sp.Integer(0))
        self.large = _limit(self.preconditioner, self.bias_coefficient, y, sp.oo)


def coefficient_of(model: Model, shares, factor: Callable = lambda a: a.factor) -> sp.Expr:
    """Σ_i factor_i shares_i, moments of the same ψ together, each in its simplest form."""
    groups: dict[str, list] = {}
    for index, (average, share) in enumerate(zip(model.averages, shares, strict=True)):
        groups.setdefault(average.kind or str(index), []).append((factor(average), share))
    total = sp.Integer(0)
    for members in groups.values():
        if len(members) == 1:
            ((weight, share),) = members
            total += sp.Add(*(weight * part for part in sp.Add.make_args(split(share, model.y))))
        else:
            total += quotient(sp.Add(*(weight * share for weight, share in members)))
    return total


def _limit(kappa, bias_coefficient, y: sp.Symbol, place) -> Limit | None:
    """The limit, None where nothing depends on the gradient or s has no finite limit."""
    found: list[Any] = [limit(part, y, place) for part in sp.Add.make_args(bias_coefficient)]
    if not (kappa.has(y) or bias_coefficient.has(y)) or None in found:
        return None
    return Limit(limit(kappa, y, place), sp.Add(*found))


@dataclass(frozen=True)
class AtStep:
    """What the settled equation becomes at step n.

    slopes: ∂_iΦ ψ_i' at step n, per moment; shares: a_i(l), None without memory.
    ratio: r_n where u_n = r_n u, else None (then there is no shorter form than the sums).
    bias_coefficient: s_n in θ' = −κ (r_n g + (h/2) s_n HΦ), with c_n(β) for (1+β)/(1−β) where all
    moments are bias-corrected; None where ``ratio`` is, or where Φ reads θ besides.
    named: r_n and the sums A_i that it is written with, where these have no closed form.
    """

    slopes: tuple[sp.Expr, ...]
    shares: tuple[sp.Expr | None, ...]
    ratio: sp.Expr | None
    bias_coefficient: sp.Expr | None
    named: dict[sp.Symbol, sp.Expr]


def factor_at(decay) -> sp.Expr:
    """c_n(β) = 1 + 2 (mean age) = (1+β)/(1−β) − 2(n+1)β^{n+1}/(1−β^{n+1})."""
    late = decay ** (STEP + 1)
    return (1 + decay) / (1 - decay) + sp.Mul(-2, STEP + 1, late, 1 / (1 - late))


def direction_at(model: Model, step) -> sp.Expr:
    """Φ at a step, all gradients being the present one."""
    moments = [a.weight(step) * a.transform(model.y) for a in model.averages]
    return without_abs(model.answer_at(moments, step)[0])


def at_step(model: Model, late: Settled) -> AtStep:
    """The equation at step n; for bias-corrected moments s with c_n(β) for (1+β)/(1−β)."""
    y = model.y
    values = [a.weight(STEP) * a.transform(y) for a in model.averages]
    direction, partials = model.answer_at(values, STEP)
    direction, partials = without_abs(direction), tuple(map(without_abs, partials))
    slopes = tuple(part * a.slope(y) for part, a in zip(partials, model.averages, strict=True))
    shares = tuple(None if a.decay == 0 else a.share(PAST, STEP) for a in model.averages)
    if all(a.weight(STEP) == 1 for a in model.averages) and not direction.has(STEP):
        factor = lambda a: a.factor if a.decay == 0 else FACTOR(a.decay)
        bias_coefficient = coefficient_of(model, late.shares, factor)
        return AtStep(slopes, shares, sp.Integer(1), bias_coefficient, {})
    ratio = _ratio(apart_from_theta(direction, y)[0], late.driven, y)
    rises = [_ratio(now, then, y) for now, then in zip(slopes, late.slopes, strict=True)]
    if late.offset != 0 or not late.separable or ratio is None or None in rises:
        return AtStep(slopes, shares, None, None, {})
    bias_coefficient, named = _closed(model, late, shares, ratio, rises)
    return AtStep(slopes, shares, ratio, bias_coefficient, named)


def _closed(model: Model, late: Settled, shares, ratio, rises) -> tuple[sp.Expr, dict]:
    """s_n = Σ_i s_i q_i (2 Σ_{l<n} a_i(l) r_l + W_i r_n), q_i and r_n what differs from n = ∞.

    Where a sum does not close: all of them as symbols A_i, and r_n as one, with their meanings.
    """
    means = [
        sp.Integer(0) if older is None else closed_sum(older * ratio.subs(STEP, PAST), PAST, STEP)
        for older in shares
    ]
    named: dict = {}
    if any(mean.has(sp.Sum) for mean in means):
        rises = [RATIO_NOW if vanishes(rise - ratio) else rise for rise in rises]
        named[RATIO_NOW], ratio = ratio, RATIO_NOW
        for index, (average, older) in enumerate(zip(model.averages, shares, strict=True)):
            if older is not None:
                means[index] = sp.Symbol(f"A_{average.letter}")
                named[means[index]] = sp.Sum(older * RATIO_PAST, (PAST, 0, STEP - 1))
    parts = zip(model.averages, late.shares, rises, means, strict=True)
    total = sp.Add(*(s * q * (2 * mean + a.weight(STEP) * ratio) for a, s, q, mean in parts))
    decays: set[Any] = {average.decay for average in model.averages} - {0}
    return by_powers(total, *decays, STEP) if len(decays) == 1 and not named else total, named


def closed_sum(summand, index: sp.Symbol, count: sp.Symbol) -> sp.Expr:
    """Σ_{l=0}^{n−1} of a sum of geometric terms in closed form, else the sum as it stands.

    >>> b, l, n = sp.Symbol("β", positive=True), sp.Symbol("l"), sp.Symbol("n")
    >>> closed_sum(b**l, l, n)
    (1 - β**n)/(1 - β)
    """
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(summand)):
        first = term.subs(index, 0)
        ratio = sp.simplify(term.subs(index, index + 1) / term)
        if ratio.has(index):
            return sp.Sum(summand, (index, 0, count - 1))
        total += first * count if ratio == 1 else first * (1 - ratio**count) / (1 - ratio)
    return tidy(total)


def by_powers(expression, base: sp.Symbol, count: sp.Symbol) -> sp.Expr:
    """A polynomial in β^n, power by power, each coefficient in its simplest form."""
    collected = sp.collect(sp.expand(expression), base**count, quotient)
    terms = sp.Add.make_args(collected)
    return sp.Add(*(oriented(sp.factor_terms(sp.powsimp(term))) for term in terms))


def _ratio(now, late, y: sp.Symbol) -> sp.Expr | None:
    """now / late where that does not depend on the gradient or θ."""
    if late == 0:
        return sp.Integer(0) if now == 0 else None
    there = (now / late).subs(y, 1)
    return tidy(there) if vanishes(now / late - there) and not there.has(THETA) else None


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
        still = inner.subs(GRADIENT, NOW) * PUSHED_NOW
        if average.kind == "g":
            return PastMoment(NOW, sp.Integer(0), still, scale, [])
        return PastMoment(moment, sp.Integer(0), still, scale, [(moment, average.transform(NOW))])
    moving, still = sp.Symbol(letter + mark), sp.Symbol(letter + "\u0304" + mark)
    share = sp.Symbol(f"{weight}{mark}_k")
    here = lambda expression: expression.subs(GRADIENT, PAST_GRADIENT)
    total = lambda expression: sp.Sum(share * expression, (INDEX, 0, STEP))
    older = sp.Sum(PAST_FORCE, (OLDER, INDEX, STEP - 1))
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
