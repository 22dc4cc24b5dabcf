"""The modified equation at step n, full batch: the weights of a memory that has not settled.

θ' = −Φ_n − h Σ_i ∂_iΦ ψ_i' [ Σ_{l<n} a_i(l) HΦ_l + ½ W_i HΦ_n ] − (h/2) ∂_θΦ · Φ_n, where Φ_l is
the memoryless direction at step l and a_i(l) = Σ_{k≤l} w_{i,n,k} the weight of what is older.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sympy as sp

from .algebra import by_powers, closed_sum, tidy, vanishes, without_abs
from .model import PAST, STEP, THETA, Model, apart_from_theta
from .settled import Settled, strength_of

FACTOR: Any = sp.Function("c_n")
RATIO_NOW, RATIO_PAST = sp.Symbol("r_n"), sp.Symbol("r_l")


@dataclass(frozen=True)
class AtStep:
    """What the settled equation becomes at step n.

    direction: Φ_n; slopes: ∂_iΦ ψ_i' at step n, per moment; shares: a_i(l), None without memory.
    ratio: r_n where u_n = r_n u, else None (then there is no shorter form than the sums).
    strength: s_n in θ' = −κ (r_n g + (h/2) s_n HΦ), None where ``ratio`` is or Φ reads θ besides,
    ``named``: r_n and the sums A_i that it is written with, where these have no closed form;
    factors: whether it is written with c_n(β) in the place of (1+β)/(1−β).
    """

    direction: sp.Expr
    slopes: tuple[sp.Expr, ...]
    shares: tuple[sp.Expr | None, ...]
    ratio: sp.Expr | None
    strength: sp.Expr | None
    factors: bool
    named: dict[sp.Symbol, sp.Expr]


def factor_at(decay) -> sp.Expr:
    """c_n(β) = 1 + 2 (mean age) = (1+β)/(1−β) − 2(n+1)β^{n+1}/(1−β^{n+1})."""
    late = decay ** (STEP + 1)
    return (1 + decay) / (1 - decay) + sp.Mul(-2, STEP + 1, late, 1 / (1 - late))


def direction_at(model: Model, step) -> sp.Expr:
    """Φ at a step, all gradients being the present one."""
    letters = [average.letter for average in model.averages]
    moments = [a.weight(step) * a.transform(model.y) for a in model.averages]
    return without_abs(model.answer(letters, step).at(moments)[0])


def at_step(model: Model, settled: Settled) -> AtStep:
    """The equation at step n; for bias-corrected moments s with c_n(β) for (1+β)/(1−β)."""
    y = model.y
    letters = [average.letter for average in model.averages]
    values = [a.weight(STEP) * a.transform(y) for a in model.averages]
    direction, partials = model.answer(letters, STEP).at(values)
    direction, partials = without_abs(direction), tuple(map(without_abs, partials))
    slopes = tuple(part * a.slope(y) for part, a in zip(partials, model.averages, strict=True))
    shares = tuple(None if a.decay == 0 else a.share(PAST, STEP) for a in model.averages)
    if all(a.weight(STEP) == 1 for a in model.averages) and not direction.has(STEP):
        changed = {a.factor: FACTOR(a.decay) for a in model.averages if a.decay != 0}
        strength = _with_factors(model, settled, changed)
        return AtStep(direction, slopes, shares, sp.Integer(1), strength, True, {})
    ratio = _ratio(apart_from_theta(direction, y)[0], settled.driven, y)
    rises = [_ratio(now, late, y) for now, late in zip(slopes, settled.slopes, strict=True)]
    if settled.offset != 0 or not settled.separable or ratio is None or None in rises:
        return AtStep(direction, slopes, shares, None, None, False, {})
    strength, named = _closed(model, settled, shares, ratio, rises)
    return AtStep(direction, slopes, shares, ratio, strength, False, named)


def _closed(model: Model, settled: Settled, shares, ratio, rises) -> tuple[sp.Expr, dict]:
    """s_n = Σ_i s_i q_i (2 Σ_{l<n} a_i(l) r_l + W_i r_n), q_i and r_n what differs from n = ∞.

    Where a sum does not close: all of them as symbols A_i, and r_n as one, with their meanings.
    """
    means = [
        sp.Integer(0) if older is None else closed_sum(older * ratio.subs(STEP, PAST), PAST, STEP)
        for older in shares
    ]
    closed, named = not any(mean.has(sp.Sum) for mean in means), {}
    if not closed:
        named[RATIO_NOW] = ratio
        rises = [RATIO_NOW if vanishes(rise - ratio) else rise for rise in rises]
        for index, (average, older) in enumerate(zip(model.averages, shares, strict=True)):
            if older is not None:
                means[index] = sp.Symbol(f"A_{average.letter}")
                named[means[index]] = sp.Sum(older * RATIO_PAST, (PAST, 0, STEP - 1))
    total = sum(
        share * rise * (2 * mean + average.weight(STEP) * (ratio if closed else RATIO_NOW))
        for average, share, rise, mean in zip(
            model.averages, settled.shares, rises, means, strict=True
        )
    )
    return by_powers(sp.sympify(total), STEP) if closed else total, named


def _ratio(now, late, y: sp.Symbol) -> sp.Expr | None:
    """now / late where that does not depend on the gradient or θ."""
    if late == 0:
        return sp.Integer(0) if now == 0 else None
    found = now / late
    there = found.subs(y, 1)
    if not vanishes(found - there) or there.has(THETA):
        return None
    return tidy(there)


def _with_factors(model: Model, settled: Settled, changed: dict) -> sp.Expr:
    """The settled coefficient with c_n(β) in the place of (1+β)/(1−β)."""
    return strength_of(model, settled.shares, lambda a: changed.get(a.factor, a.factor))
