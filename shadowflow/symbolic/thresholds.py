"""The flow and stability edges in closed form, as functions of the decays.

With r_i = ∂_iΦ ψ_i'(0), shares a_i = r_i / Σ r and x = hλ, λ an eigenvalue of P⁻¹H, the modes z^n
of the linear optimizer obey x(z) = (1 − z) / Σ_i a_i (1 − β_i) z / (z − β_i). The flow edge is x
where two roots z in (0, 1) meet, the stability edge x where a root reaches the unit circle. Where
the optimizer is linear in the gradient, P⁻¹ = Σ r is a number, and x / Σ r is stated: h times an
eigenvalue of the Hessian itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import sympy as sp

from ..optimizers import thresholds as edges
from ..optimizers.moments import Optimizer
from .algebra import positive, put, quotient, slope, tidy
from .interpret import number
from .model import Model

MODE = sp.Symbol("z")
CLOSE = 1e-8


@dataclass(frozen=True)
class Edges:
    """hλ at both edges: in closed form (None where there is none), as a number, x(z) itself.

    matrix: the one whose eigenvalue λ is. refused: why there are no edges at all, else "". The
    closed forms are the branch that holds at the optimizer's own hyper-parameters.
    """

    flow: sp.Expr | None
    stability: sp.Expr | None
    flow_number: float
    stability_number: float
    response: sp.Expr | None
    matrix: str = ""
    refused: str = ""


def edges_of(model: Model, optimizer: Optimizer) -> Edges:
    """The edges of ``shadowflow.flow_threshold`` and ``stability_threshold`` as formulas."""
    try:
        with jax.enable_x64(True):
            flow, stability = edges.flow_threshold(optimizer), edges.stability_threshold(optimizer)
    except ValueError as error:
        return Edges(None, None, math.nan, math.nan, None, refused=str(error))
    matrix = flow.matrix
    response = _response(model, matrix)
    if response is None:
        return Edges(None, None, flow, stability, None, matrix)
    own = {hyper.symbol: number(hyper.value) for hyper in model.hypers}
    at_minus = [quotient(response.subs(MODE, -1))]
    return Edges(
        _matching(_turning(response), own, flow),
        _matching(at_minus, own, stability),
        flow,
        stability,
        response,
        matrix,
    )


def _response(model: Model, matrix: str) -> sp.Expr | None:
    """x(z), for eigenvalues of ``matrix``; None where the shares depend on the moments held."""
    letters = [average.letter for average in model.averages]
    whole = model.direction(letters, sp.Integer(0), sp.oo)
    slopes = [a.slope(model.y).subs(model.y, 0) for a in model.averages]
    zero = {a.letter: 0 for a, rise in zip(model.averages, slopes, strict=True) if rise != 0}
    answers = [
        tidy(put(slope(whole, a.letter), zero) * rise) if rise != 0 else sp.Integer(0)
        for a, rise in zip(model.averages, slopes, strict=True)
    ]
    total = tidy(sum(answers))
    if total == 0 or total.has(sp.nan, sp.zoo, sp.oo):
        return None
    shares = [tidy(answer / total) for answer in answers]
    if any(share.has(*letters) for share in shares):
        return None
    pull = sum(
        a * (1 if average.decay == 0 else (1 - average.decay) * MODE / (MODE - average.decay))
        for a, average in zip(shares, model.averages, strict=True)
    )
    gain = total if matrix == edges.HESSIAN else 1
    return quotient((1 - MODE) / (gain * pull))


def _turning(response) -> list[sp.Expr]:
    """x at its turning points, and at z = 0."""
    above = sp.numer(sp.together(sp.diff(response, MODE)))
    places = [sp.Integer(0)]
    if above.has(MODE) and sp.degree(above, MODE) <= 2:
        places += sp.solve(above, MODE)
    return [
        sp.limit(response, MODE, place) if place == 0 else _radical(response.subs(MODE, place))
        for place in places
    ]


def _radical(expression) -> sp.Expr:
    """In terms of the roots b = √β, where that makes it a fraction without roots of sums."""
    under = {p.base for p in expression.atoms(sp.Pow) if p.exp.is_Rational and p.exp.q == 2}
    symbols = set().union(*(base.free_symbols for base in under))
    roots = {s: sp.Symbol(s.name + "root", positive=True) for s in sorted(symbols, key=str)}
    inner = sp.simplify(expression.subs({s: root**2 for s, root in roots.items()}))
    found = quotient(inner).subs({root: sp.sqrt(s) for s, root in roots.items()})
    plain = quotient(sp.simplify(expression))
    return min([found, plain], key=sp.count_ops)


def _matching(candidates, own: dict, value: float) -> sp.Expr | None:
    """The first candidate that has the value at the optimizer's own numbers."""
    for candidate in candidates:
        found = sp.N(candidate.subs(own))
        if math.isinf(value) and found in (sp.oo, sp.zoo):
            return sp.oo
        if found.is_real and math.isfinite(value) and abs(float(found) - value) <= CLOSE * value:
            return positive(candidate, own)
    return sp.oo if math.isinf(value) else None
