"""What the settled correction penalizes: the potential's name, where its sign turns, the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from .algebra import antiderivative, positive, quotient, slope, tidy
from .full_batch import Limit, Settled
from .model import RATE, THETA, Model

LOSS, PARAMETERS, TURNED = sp.symbols("E ‖θ‖² θ·∇E")
POTENTIAL, SQUARE = sp.symbols("J ‖∇E‖²")
NORM, PERTURBED_NORM = sp.Symbol("‖∇E‖₁"), sp.Symbol("‖∇E‖₁,ε")


@dataclass(frozen=True)
class Potential:
    """J = scale × symbol; words: what it is."""

    symbol: sp.Symbol
    scale: sp.Expr
    words: str

    @property
    def value(self) -> sp.Expr:
        return self.scale * self.symbol

    @property
    def growth(self) -> sp.Symbol:
        """The gradient of ``symbol``."""
        return sp.Symbol("∇" + self.symbol.name)


def potential_of(model: Model, settled: Settled) -> Potential:
    """The penalized potential Σ_j ∫_0^{g_j} u, by its usual name where it has one."""
    one, found = sp.Integer(1), settled.potential
    if settled.linear:
        words = "the squared two-norm of the gradient"
        return Potential(SQUARE, settled.preconditioner / 2, words)
    if found is not None and model.odd:
        rest = sp.expand(found**2 - settled.y**2)
        if rest == 0:
            return Potential(NORM, one, "the one-norm of the gradient")
        if rest.is_Symbol:
            return Potential(PERTURBED_NORM, one, "the perturbed one-norm of the gradient")
    return Potential(POTENTIAL, one, "the optimizer's own potential")


def product(*factors) -> sp.Expr:
    """A product of hyper-parameters as one fraction; a sum of fractions keeps its terms apart."""
    apart = any(f.is_Add and sp.denom(sp.together(f)) != 1 for f in factors)
    return sp.Mul(*factors) if apart else quotient(sp.Mul(*factors))


def modified_loss(potential: Potential, bias_coefficient) -> sp.Expr:
    """Ẽ = E + (h/2) s J."""
    return LOSS + RATE / 2 * product(bias_coefficient, potential.scale) * potential.symbol


def small_loss(limit: Limit, offset) -> tuple[sp.Expr, sp.Expr]:
    """(c, Ẽ) with θ' = −c ∇Ẽ for gradients far below every ε; with weight decay c = 1.

    There u = κ g and J = κ ‖∇E‖²/2. With Φ = κ g + λθ: HΦ = ∇[κ ‖∇E‖²/2 + λ (θ·∇E − E)] and
    λΦ = ∇[λκ E + λ² ‖θ‖²/2].
    """
    kappa, bias_coefficient = limit.preconditioner, limit.bias_coefficient
    assert kappa is not None
    from_theta = slope(offset, THETA)
    if from_theta == 0:
        return kappa, LOSS + RATE / 4 * product(kappa, bias_coefficient) * SQUARE
    base = kappa * LOSS + from_theta * PARAMETERS / 2
    pushed = kappa * SQUARE / 2 + from_theta * (TURNED - LOSS)
    return sp.Integer(1), base + RATE / 2 * (
        product(kappa, bias_coefficient) * pushed + from_theta * base
    )


def line_loss(settled: Settled, potential: Potential) -> sp.Expr | None:
    """W with θ' = −κ d/dθ (E + (h/2) W) in one dimension: ∫ s u dg, term by term of s."""
    terms = []
    for term in sp.Add.make_args(settled.bias_coefficient):
        fixed, moving = term.as_independent(settled.y, as_Add=False)
        if moving == 1:
            terms.append(fixed * potential.value)
            continue
        found = antiderivative(tidy(moving * settled.driven), settled.y)
        if found is None:
            return None
        terms.append(fixed * found)
    return sp.Add(*terms)


def crossing(settled: Settled, numbers: Mapping) -> tuple[sp.Expr, sp.Expr] | None:
    """(y or y², where s changes sign), None where that is no linear equation."""
    above = sp.numer(sp.together(settled.bias_coefficient))
    if not above.is_polynomial(settled.y):
        return None
    polynomial = sp.Poly(above, settled.y)
    powers = [power for (power,) in polynomial.monoms() if power]
    if powers not in ([1], [2]):
        return None
    place = quotient(-polynomial.nth(0) / polynomial.LC())
    return settled.y ** powers[0], positive(place, numbers)


def responses(model: Model, settled: Settled) -> list[tuple[sp.Symbol, sp.Expr]]:
    """(hyper-parameter, ∂s/∂ of it) for those that s depends on."""
    rises = [(h.symbol, tidy(sp.diff(settled.bias_coefficient, h.symbol))) for h in model.hypers]
    return [(symbol, rise) for symbol, rise in rises if rise != 0]
