"""What the settled correction penalizes: the potential's name, where its sign turns, the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from .algebra import antiderivative, monic, positive, quotient, slope, tidy
from .model import RATE, THETA, Model
from .settled import Limit, Settled

LOSS, POTENTIAL, GROWTH = sp.Symbol("E"), sp.Symbol("J"), sp.Symbol("∇J")
SQUARE, SQUARE_GROWTH = sp.Symbol("‖∇E‖²"), sp.Symbol("∇‖∇E‖²")
NORMS = {  # what a potential per coordinate may be: the name of its sum
    "one": (sp.Symbol("‖∇E‖₁"), sp.Symbol("∇‖∇E‖₁"), "the one-norm of the gradient"),
    "perturbed": (
        sp.Symbol("‖∇E‖₁,ε"),
        sp.Symbol("∇‖∇E‖₁,ε"),
        "the perturbed one-norm of the gradient",
    ),
}
PARAMETERS, TURNED = sp.Symbol("‖θ‖²"), sp.Symbol("θ·∇E")


@dataclass(frozen=True)
class Potential:
    """J = scale × symbol, its gradient scale × growth; words: what it is."""

    symbol: sp.Symbol
    growth: sp.Symbol
    scale: sp.Expr
    words: str

    @property
    def value(self) -> sp.Expr:
        return self.scale * self.symbol

    @property
    def gradient(self) -> sp.Expr:
        return self.scale * self.growth


def potential_of(model: Model, settled: Settled) -> Potential:
    """The penalized potential Σ_j ∫_0^{g_j} u, by its usual name where it has one."""
    y, found = settled.y, settled.potential
    if settled.linear:
        words = "the squared two-norm of the gradient"
        return Potential(SQUARE, SQUARE_GROWTH, settled.preconditioner / 2, words)
    key = None
    if found is not None and model.odd:
        rest = sp.expand(found**2 - y**2)
        key = "one" if rest == 0 else "perturbed" if rest.is_Symbol else None
    if key is None:
        return Potential(POTENTIAL, GROWTH, sp.Integer(1), "the optimizer's own potential")
    symbol, growth, words = NORMS[key]
    return Potential(symbol, growth, sp.Integer(1), words)


def product(*factors) -> sp.Expr:
    """A product of hyper-parameters as one fraction; a sum keeps its terms apart."""
    if any(
        f.is_Add and len(sp.Add.make_args(f)) > 1 and sp.denom(sp.together(f)) != 1 for f in factors
    ):
        return sp.Mul(*factors)
    return quotient(sp.Mul(*factors))


def modified_loss(potential: Potential, strength) -> sp.Expr:
    """Ẽ = E + (h/2) s J."""
    return LOSS + RATE / 2 * product(strength, potential.scale) * potential.symbol


def small_loss(limit: Limit, offset) -> tuple[sp.Expr, sp.Expr]:
    """(c, Ẽ) with θ' = −c ∇Ẽ for gradients far below every ε; with weight decay c = 1.

    There u = κ g and J = κ ‖∇E‖²/2. With Φ = κ g + λθ: HΦ = ∇[κ ‖∇E‖²/2 + λ (θ·∇E − E)] and
    λΦ = ∇[λκ E + λ² ‖θ‖²/2].
    """
    kappa, strength = limit.preconditioner, limit.strength
    assert kappa is not None
    pull = slope(offset, THETA)
    square = kappa * SQUARE / 2
    if pull == 0:
        return kappa, LOSS + RATE / 4 * product(kappa, strength) * SQUARE
    base = kappa * LOSS + pull * PARAMETERS / 2
    memory = product(kappa, strength) * (square + pull * (TURNED - LOSS))
    return sp.Integer(1), base + RATE / 2 * (memory + pull * base)


def line_loss(settled: Settled, potential: Potential) -> sp.Expr | None:
    """W with θ' = −κ d/dθ (E + (h/2) W) in one dimension: ∫ s u dg, term by term of s."""
    terms = []
    for term in sp.Add.make_args(settled.strength):
        fixed, moving = term.as_independent(settled.y, as_Add=False)
        if moving == 1:
            terms.append(fixed * potential.value)
            continue
        found = antiderivative(tidy(moving * settled.driven), settled.y)
        if found is None:
            return None
        terms.append(fixed * sp.expand(found))
    return sp.Add(*terms)


def crossing(settled: Settled, numbers: Mapping) -> tuple[sp.Expr, sp.Expr] | None:
    """(y or y², where s changes sign), None where that is no linear equation."""
    above = sp.numer(sp.together(settled.strength))
    if not above.is_polynomial(settled.y):
        return None
    powers = [m for (m,) in sp.Poly(above, settled.y).monoms() if m]
    if len(powers) != 1 or powers[0] > 2:
        return None
    (power,), polynomial = powers, sp.Poly(above, settled.y)
    return settled.y**power, positive(quotient(-polynomial.nth(0) / polynomial.nth(power)), numbers)


def responses(model: Model, settled: Settled) -> list[tuple[sp.Symbol, sp.Expr]]:
    """(hyper-parameter, ∂s/∂ of it) for those that s depends on."""
    found = [
        (h.symbol, monic(tidy(sp.diff(settled.strength, h.symbol)), settled.y))
        for h in model.hypers
    ]
    return [(symbol, rise) for symbol, rise in found if rise != 0]


def one_decay(model: Model, settled: Settled) -> sp.Expr | None:
    """(1+β)/(1−β) where two or more decays, made equal, give θ' = −Φ(∇Ẽ); else None."""
    decays = {a.decay for a in model.averages if a.decay != 0}
    if len(decays) < 2 or any(a.decay == 0 for a in model.averages) or settled.alike is not None:
        return None
    return model.averages[0].factor
