"""The modified equation of a settled memory, full batch, one coordinate at a time.

θ' = −Φ − (h/2) [ K(g) · HΦ + ∂_θΦ · Φ ],   K = Σ_i (1+β_i)/(1−β_i) ∂_iΦ ψ_i'(g).

With Φ = u(g) + v(θ) and u = κ g that is θ' = −κ (g + (h/2) s HΦ) − v − (h/2) v' Φ, s = K/κ: the
bias coefficient. HΦ is ∇J with J = Σ_j ∫_0^{g_j} u, as far as u goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from .algebra import antiderivative, limit, quotient, slope, split, tidy
from .model import THETA, Model, apart_from_theta


@dataclass(frozen=True)
class Limit:
    """κ and s where the gradient is far below every ε, or far above."""

    preconditioner: sp.Expr | None
    strength: sp.Expr


@dataclass(frozen=True)
class Settled:
    """Expressions in y (|g|, or g where Φ is not odd), θ and the hyper-parameters.

    direction: Φ; driven: u; offset: v; slopes: ∂_iΦ ψ_i' per moment; bias: K;
    preconditioner: κ = u/y; strength: s = K/κ; shares: per moment ∂_iΦ ψ_i' / κ;
    potential: ∫u dy, None where it was not found; separable: whether Φ = u(g) + v(θ).
    alike: K/u' where that is free of g: then θ' = −Φ(∇Ẽ) up to h².
    """

    y: sp.Symbol
    direction: sp.Expr
    driven: sp.Expr
    offset: sp.Expr
    slopes: tuple[sp.Expr, ...]
    bias: sp.Expr
    preconditioner: sp.Expr
    shares: tuple[sp.Expr, ...]
    strength: sp.Expr
    potential: sp.Expr | None
    separable: bool
    alike: sp.Expr | None
    small: Limit | None
    large: Limit | None

    @property
    def linear(self) -> bool:
        """Whether u is a multiple of the gradient, so that J is one of ½‖∇E‖²."""
        return not self.preconditioner.has(self.y, THETA)

    @property
    def constant(self) -> bool:
        """Whether the bias coefficient is the same for every gradient."""
        return not self.strength.has(self.y, THETA)


def settled(model: Model) -> Settled:
    """The pieces of the settled equation, simplified.

    For Adam with ε inside: κ = 1/√(g²+ε), s = C_β − C_ρ + C_ρ ε/(g²+ε), C = (1+β)/(1−β).
    """
    y = model.y
    letters = [average.letter for average in model.averages]
    psi = [average.transform(y) for average in model.averages]
    direction, partials = model.answer(letters, sp.oo).at(psi)
    direction = tidy(direction)
    slopes = tuple(
        tidy(part * a.slope(y)) for part, a in zip(partials, model.averages, strict=True)
    )
    driven, offset = apart_from_theta(direction, y)
    driven = tidy(driven)
    kappa = tidy(driven / y)
    shares = tuple(tidy(slope / kappa) for slope in slopes)
    bias = sp.Add(*(a.factor * k for a, k in zip(model.averages, slopes, strict=True)))
    strength = strength_of(model, shares)
    alike = tidy(bias / slope(driven, y)) if slope(driven, y) != 0 else sp.Integer(0)
    return Settled(
        y,
        direction,
        driven,
        offset,
        slopes,
        bias,
        kappa,
        shares,
        strength,
        antiderivative(driven, y),
        not driven.has(THETA),
        None if alike.has(y, THETA) else alike,
        _limit(kappa, strength, y, 0),
        _limit(kappa, strength, y, sp.oo),
    )


def strength_of(model: Model, shares, factor: Callable = lambda a: a.factor) -> sp.Expr:
    """Σ_i factor_i shares_i, moments of the same ψ together, each in its simplest form."""
    groups: dict[str, list] = {}
    for index, (average, share) in enumerate(zip(model.averages, shares, strict=True)):
        groups.setdefault(average.kind or str(index), []).append((factor(average), share))
    total = sp.Integer(0)
    for members in groups.values():
        if len(members) == 1:
            ((weight, share),) = members
            parts = sp.Add.make_args(split(share, model.y))
            total += sp.Add(*(weight * part for part in parts))
        else:
            total += quotient(sp.Add(*(weight * share for weight, share in members)))
    return total


def _limit(kappa, strength, y: sp.Symbol, place) -> Limit | None:
    """The limit, None where nothing depends on the gradient or s has no finite limit."""
    if not (kappa.has(y) or strength.has(y)):
        return None
    found = [limit(part, y, place) for part in sp.Add.make_args(strength)]
    known = [part for part in found if part is not None]
    return Limit(limit(kappa, y, place), sp.Add(*known)) if len(known) == len(found) else None
