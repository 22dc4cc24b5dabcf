"""What follows from the equation: the penalized potential, the modified loss, both edges.

The edges are functions of the decays. With r_i = ∂_iΦ ψ_i'(0), shares a_i = r_i / Σ r and x = hλ,
λ an eigenvalue of P⁻¹H, the modes z^n of the linear optimizer obey
x(z) = (1 − z) / Σ_i a_i (1 − β_i) z / (z − β_i). The flow edge is x where two roots z in (0, 1)
meet, the stability edge x where a root reaches the unit circle. Where the optimizer is linear in
the gradient, P⁻¹ = Σ r is a number, and x / Σ r is stated: h times an eigenvalue of the Hessian
itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import sympy as sp

from ..optimizers import thresholds as edges
from ..optimizers.moments import Optimizer
from .algebra import DECAYS, integral, oriented, positive, quotient, slope, tidy
from .equations import Limit, Settled
from .model import RATE, SIZE, THETA, Model

LOSS, PARAMETERS, TURNED = sp.symbols("E ‖θ‖² θ·∇E")
POTENTIAL, SQUARE = sp.symbols("J ‖∇E‖²")
NORM, PERTURBED_NORM = sp.Symbol("‖∇E‖₁"), sp.Symbol("‖∇E‖₁,ε")
MODE = sp.Symbol("z")
CLOSE = 1e-8


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
    if found is not None and settled.y is SIZE:
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
        found = integral(tidy(moving * settled.driven), settled.y)
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


@dataclass(frozen=True)
class Edges:
    """hλ at both edges: in closed form (None where there is none), as a number.

    matrix: the one whose eigenvalue λ is. refused: why there are no edges at all, else "". The
    closed forms are the branch that holds at the optimizer's own hyper-parameters.
    """

    flow: sp.Expr | None
    stability: sp.Expr | None
    flow_number: float
    stability_number: float
    matrix: str = ""
    refused: str = ""


def edges_of(model: Model, optimizer: Optimizer) -> Edges:
    """The edges of ``shadowflow.flow_threshold`` and ``stability_threshold`` as formulas."""
    try:
        with jax.enable_x64(True):
            flow, stability = edges.flow_threshold(optimizer), edges.stability_threshold(optimizer)
    except ValueError as error:
        return Edges(None, None, math.nan, math.nan, refused=str(error))
    response = _response(model, flow.matrix)
    if response is None:
        return Edges(None, None, flow, stability, flow.matrix)
    own = model.numbers()
    closed_flow = _matching(_turning(response), own, flow)
    closed_stability = _matching([quotient(response.subs(MODE, -1))], own, stability)
    return Edges(closed_flow, closed_stability, flow, stability, flow.matrix)


def _response(model: Model, matrix: str) -> sp.Expr | None:
    """x(z), for eigenvalues of ``matrix``; None where the shares depend on the moments held."""
    whole = model.direction(model.letters, sp.Integer(0), sp.oo)
    slopes = {a.letter: a.slope(model.y).subs(model.y, 0) for a in model.averages}
    zero: dict[Any, int] = {letter: 0 for letter, rise in slopes.items() if rise != 0}
    answers = [tidy(slope(whole, m).subs(zero) * slopes[m]) if m in zero else 0 for m in slopes]
    total = tidy(sum(answers))
    if total == 0 or total.has(sp.nan, sp.zoo, sp.oo):
        return None
    shares = [tidy(answer / total) for answer in answers]
    if any(share.has(*model.letters) for share in shares):
        return None
    decays = [average.decay for average in model.averages]
    pull = (a * (1 - b) * MODE / (MODE - b) for a, b in zip(shares, decays, strict=True))
    gain = total if matrix == edges.HESSIAN else 1
    return quotient((1 - MODE) / (gain * sum(pull)))


def _turning(response) -> list[sp.Expr]:
    """x at z = 0 and at its turning points, found as functions of the √β."""
    decays = [s for s in response.free_symbols if s.name[0] in DECAYS]
    roots = {s: sp.Symbol(f"√{s}", positive=True) for s in decays}
    rooted = response.subs({s: root**2 for s, root in roots.items()})
    above = sp.numer(sp.together(sp.diff(rooted, MODE)))
    turns = sp.solve(above, MODE) if above.has(MODE) and sp.degree(above, MODE) <= 2 else []
    found = [sp.limit(rooted, MODE, 0), *(rooted.subs(MODE, place) for place in turns)]
    back = {root: sp.sqrt(s) for s, root in roots.items()}
    forms = lambda side: (sp.factor(side).subs(back), sp.factor(sp.expand(side).subs(back)))
    shorter = lambda side: min(forms(side), key=sp.count_ops)
    sides = (sp.fraction(sp.cancel(sp.simplify(x))) for x in found)
    return [oriented(shorter(above) / shorter(below)) for above, below in sides]


def _matching(candidates, own: dict, value: float) -> sp.Expr | None:
    """The first candidate that has the value at the optimizer's own numbers."""
    for candidate in candidates:
        found = sp.N(candidate.subs(own))
        if math.isinf(value) and found in (sp.oo, sp.zoo):
            return sp.oo
        if found.is_real and math.isfinite(value) and abs(float(found) - value) <= CLOSE * value:
            return positive(candidate, own)
    return sp.oo if math.isinf(value) else None
