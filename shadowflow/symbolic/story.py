"""What is said of a derived equation, in order: sentences and formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from . import penalty
from .algebra import put, tidy
from .layout import CoordinateSum
from .model import GRADIENT, PAST, RATE, STEP, THETA, apart_from_theta
from .settled import Limit
from .steps import FACTOR, RATIO_NOW, direction_at, factor_at

if TYPE_CHECKING:
    from .derivation import Derivation

DOT, PHI, COEFFICIENT, MODIFIED = (sp.Symbol(name) for name in ("θ′", "Φ", "s", "Ẽ"))
MEMORYLESS: Any = sp.Function("Φ")
PUSHED, TILTED, HALF = sp.Symbol("HΦ"), sp.Symbol("∇Ẽ"), RATE / 2


@dataclass(frozen=True)
class Formula:
    """left = right (or another relation), with a remark behind it."""

    left: sp.Expr
    right: sp.Expr
    remark: str = ""
    relation: str = "="


@dataclass(frozen=True)
class Section:
    """A title, and what stands under it."""

    title: str
    items: tuple[str | Formula, ...]


def tell(derivation: Derivation) -> list[Section]:
    """All sections."""
    parts = [_optimizer, _settled, _penalized, _loss, _limits, _at_step, _batched, _edges]
    found = [part(derivation) for part in parts]
    return [section for section in found if section.items]


def _optimizer(d: Derivation) -> Section:
    model = d.model
    letters = [average.letter for average in model.averages]
    answer = model.answer(letters, STEP)
    lines: list = ["θ ← θ − h Φ, per coordinate; g = ∇E is the gradient, H = ∇²E the Hessian."]
    lines.append(Formula(PHI, answer.direction))
    lines += [Formula(symbol, mixed) for symbol, mixed in answer.mixture.items()]
    for average in model.averages:
        if average.decay == 0:
            if average.letter != GRADIENT and average.letter.name != "g":
                lines.append(Formula(average.letter, average.transform(GRADIENT), "no memory"))
            continue
        fresh = (1 - average.decay) * average.transform(GRADIENT)
        remark = f"divided by 1 − {average.decay}^(n+1) in Φ" if average.corrected else ""
        lines.append(Formula(average.letter, average.decay * average.letter + fresh, remark, "←"))
    known = ", ".join(f"{h.symbol} = {h.value:g} ({h.name})" for h in model.hypers)
    lines += [f"Numbers: {known}."] if known else []
    return Section(f"The optimizer: {model.name}", (*lines, *model.notes))


def _settled(d: Derivation) -> Section:
    part = d.settled
    lines: list = []
    if not part.separable:
        bias, drift = d.model.restore(part.bias), d.model.restore(part.drift)
        lines.append(Formula(DOT, -PHI - HALF * (sp.Symbol("K") * PUSHED + drift * PHI)))
        lines += [Formula(PHI, _phi(d)), Formula(sp.Symbol("K"), bias)]
        return Section(TITLE, tuple(lines))
    lines.append(Formula(DOT, _flow(d, sp.Integer(1), part.strength, COEFFICIENT)))
    if not part.constant and part.strength != 0:
        lines.append(Formula(COEFFICIENT, d.strength, "the bias coefficient"))
    if part.offset != 0:
        lines += [Formula(PHI, _phi(d)), Formula(PUSHED, _pushed(d))]
    lines += _potential_lines(d)
    return Section(TITLE, tuple(lines))


TITLE = "The modified equation, settled memory, full batch"


def _phi(d: Derivation) -> sp.Expr:
    if not d.model.odd:
        return d.settled.direction
    return GRADIENT * d.model.restore(d.settled.preconditioner) + d.settled.offset


def _pushed(d: Derivation) -> sp.Expr:
    """HΦ where weight decay adds λθ to Φ: ∇J + λ ∇(θ·∇E − E)."""
    pull = sp.diff(d.settled.offset, THETA)
    return d.potential.gradient + pull * sp.Symbol("∇(θ·∇E − E)")


def _flow(d: Derivation, ratio, strength, name) -> sp.Expr:
    """−κ (r g + (h/2) s ∇J) − v − (h/2) v' Φ."""
    part, potential = d.settled, d.potential
    named = strength if part.constant and name is COEFFICIENT else name
    push = HALF * named * PUSHED if part.offset != 0 else (
        HALF * penalty.product(named, potential.scale) * potential.growth)  # fmt: skip
    inner = ratio * GRADIENT + push if strength != 0 else ratio * GRADIENT
    kappa = d.model.restore(part.preconditioner)
    plain = kappa.is_Number
    flow = sp.Mul(-1, kappa, inner, evaluate=False) if plain and kappa != 1 else (
        sp.Mul(-1, inner, evaluate=False) if plain else -kappa * inner)  # fmt: skip
    if part.offset == 0:
        return flow
    pull = sp.diff(part.offset, THETA)
    if sp.simplify(part.offset - pull * THETA) == 0:
        return flow - pull * (THETA + HALF * PHI)
    return flow - part.offset - HALF * pull * PHI


def _potential_lines(d: Derivation) -> list:
    part, potential = d.settled, d.potential
    if part.linear:
        return []
    if part.potential is None:
        whole = sp.Symbol("∫Φ dg")
        return [Formula(potential.symbol, CoordinateSum(whole), "from 0 to g, per coordinate")]
    shown = CoordinateSum(d.model.restore(part.potential))
    return [Formula(potential.symbol, shown, f"{potential.words}; its gradient is HΦ"
                    if part.offset == 0 else potential.words)]  # fmt: skip


def _penalized(d: Derivation) -> Section:
    part, model = d.settled, d.model
    title = "The bias coefficient s"
    if not part.separable or part.strength == 0 or not model.hypers:
        return Section(title, ())
    lines: list = [
        "s > 0 penalizes " + d.potential.words + ", s < 0 anti-penalizes it.",
    ]
    own = model.numbers()
    lines.append(f"At the numbers above: {_values(d)}.")
    turn = penalty.crossing(part) if not part.constant else None
    if turn is not None:
        where = put(turn[1], own)
        name = model.restore(turn[0])
        if where.is_positive:
            size = sp.sqrt(where) if turn[0].is_Pow else where
            lines.append(Formula(name, turn[1], f"where s changes sign: |g| = {float(size):.3g}"))
    for symbol, rise in penalty.responses(model, part):
        lines.append(Formula(sp.Symbol(f"∂s/∂{symbol}"), model.restore(rise)))
    return Section(title, tuple(lines))


def _values(d: Derivation) -> str:
    """s at the optimizer's own numbers, in both limits."""
    part, own = d.settled, d.model.numbers()
    if part.constant:
        return f"s = {_plain(put(part.strength, own))}"
    limits = [("|g| → 0", part.small), ("|g| → ∞", part.large)]
    return ", ".join(
        f"s → {_plain(put(limit.strength, own))} for {name}"
        for name, limit in limits if limit is not None
    )  # fmt: skip


def _plain(value) -> str:
    return f"{float(value):.6g}".replace("-", "−")


def _loss(d: Derivation) -> Section:
    part, potential = d.settled, d.potential
    title = "The modified loss"
    if not part.separable:
        return Section(title, ("Φ mixes g and θ: no modified loss is looked for.",))
    if part.strength == 0:
        return Section(title, ("The correction vanishes: to second order the flow is θ′ = −Φ.",))
    if part.offset != 0 and not part.constant:
        return Section(title, (
            "s depends on g: in more than one dimension g + (h/2) s HΦ is the gradient of no "
            "function; in the limits below it is.",
        ))  # fmt: skip
    if part.offset != 0:
        return Section(title, ("g + (h/2) s HΦ is a gradient:", *_shifted(d, part.strength)))
    if part.constant:
        kappa = d.model.restore(part.preconditioner)
        kind = "The correction is a gradient" if part.linear else (
            "Up to the preconditioner the correction is a gradient")  # fmt: skip
        loss = penalty.modified_loss(potential, part.strength)
        flow = Formula(DOT, _times(-1, kappa, TILTED))
        return Section(title, (f"{kind}:", flow, Formula(MODIFIED, loss)))
    lines: list = []
    same = penalty.one_decay(d.model, part)
    if part.alike is not None:
        lines += [
            "θ′ is the memoryless direction of another loss, up to h² (the correction by itself is "
            "the gradient of no function in more than one dimension):",
            Formula(DOT, -MEMORYLESS(TILTED)),
            Formula(MODIFIED, penalty.modified_loss(potential, part.alike)),
        ]
    else:
        lines.append(
            "s depends on g: in more than one dimension g + (h/2) s HΦ is the gradient of no "
            "function."
        )
        line = penalty.line_loss(part, potential)
        if line is not None:
            lines += ["In one dimension, with g = E′, it is θ′ = −Φ(g) − (h/2) dW/dθ:",
                      Formula(sp.Symbol("W"), d.model.restore(line))]  # fmt: skip
    if same is not None:
        decays = " = ".join(str(a.decay) for a in d.model.averages)
        lines += [f"If {decays}, then θ′ = −Φ(∇Ẽ) up to h², with",
                  Formula(MODIFIED, penalty.modified_loss(potential, same))]  # fmt: skip
    return Section(title, tuple(lines))


def _times(*factors) -> sp.Expr:
    kept = [sp.sympify(f) for f in factors if f != 1]
    return sp.Mul(*kept)


def _limits(d: Derivation) -> Section:
    part = d.settled
    lines: list = []
    if part.separable and part.small is not None and part.small.preconditioner not in (None, 0):
        factor, loss = penalty.small_loss(part.small, part.offset)
        lines += [
            f"{_far(d, '≪')}:",
            Formula(DOT, _times(-1, factor, TILTED)),
            Formula(MODIFIED, loss),
        ]
    if part.separable and part.large is not None and part.strength != 0:
        lines += [f"{_far(d, '≫')}:", *_large(d, part.large)]
    return Section("Where ε is large, and where it is small", tuple(lines))


def _large(d: Derivation, limit: Limit) -> list:
    part, potential = d.settled, d.potential
    strength = limit.strength
    kappa = d.model.restore(part.preconditioner)
    if strength == 0:
        return ["no correction of this order: the memoryless flow θ′ = −Φ."]
    if part.offset == 0:
        return [Formula(DOT, _times(-1, kappa, TILTED)),
                Formula(MODIFIED, penalty.modified_loss(potential, strength))]  # fmt: skip
    return _shifted(d, strength)


def _shifted(d: Derivation, strength) -> list:
    """−κ ∇Ẽ − λ (θ + (h/2) Φ), where λθ is a part of Φ and s a constant."""
    kappa, pull = d.model.restore(d.settled.preconditioner), sp.diff(d.settled.offset, THETA)
    extra = pull * (penalty.TURNED - penalty.LOSS)
    loss = penalty.LOSS + HALF * strength * (d.potential.value + extra)
    flow = _times(-1, kappa, TILTED) - pull * (THETA + HALF * PHI)
    return [Formula(DOT, flow), Formula(MODIFIED, loss)]


def _far(d: Derivation, relation: str) -> str:
    scales = [("√" if h.name == "eps_root" else "") + str(h.symbol) for h in d.model.hypers
              if h.name in ("eps", "eps_root")]  # fmt: skip
    if not scales:
        return "|g| → 0" if relation == "≪" else "|g| → ∞"
    return f"|g| {relation} {', '.join(scales)}"


def _at_step(d: Derivation) -> Section:
    title = "At step n, full batch"
    part = d.at_step
    if all(a.decay == 0 for a in d.model.averages):
        return Section(title, ("The same at every step: there is no memory.",))
    if part.factors:
        decays = sorted({a.decay for a in d.model.averages if a.decay != 0}, key=str)
        beta = decays[0]
        named = sp.Symbol("s_n")
        lines = [Formula(DOT, _flow(d, sp.Integer(1), part.strength, named)),
                 Formula(named, d.model.restore(part.strength)),
                 Formula(FACTOR(beta), factor_at(beta))]  # fmt: skip
        return Section(title, tuple(lines))
    if part.strength is not None:
        named = sp.Symbol("s_n")
        lines = [Formula(DOT, _flow(d, RATIO_NOW if part.named else part.ratio, part.strength,
                                    named))]  # fmt: skip
        lines += [Formula(named, d.model.restore(part.strength))] * (part.strength != 0)
        lines += [Formula(symbol, value) for symbol, value in part.named.items()]
        return Section(title, tuple(lines))
    return Section(title, tuple(_sums(d)))


def _sums(d: Derivation) -> list:
    """The equation with its sums over the past, where they have no closed form."""
    part, force = d.at_step, sp.Symbol("HΦ_n")
    terms, lines = [], []
    for average, rise, older in zip(d.model.averages, part.slopes, part.shares, strict=True):
        if rise == 0:
            continue
        mark = average.letter.name
        inner, slope, weight = force / 2, sp.Symbol(f"K_{mark}"), average.weight(STEP)
        lines.append(Formula(slope, d.model.restore(rise)))
        if weight != 1:
            inner *= sp.Symbol(f"W_{mark}")
            lines.append(Formula(sp.Symbol(f"W_{mark}"), weight))
        if older is not None:
            inner += sp.Symbol(f"H A_{mark}")
            past = sp.Sum(older * sp.Symbol("Φ_l"), (PAST, 0, STEP - 1))
            lines.append(Formula(sp.Symbol(f"A_{mark}"), past))
        terms.append(sp.Mul(slope, inner))
    drift = sp.diff(part.direction, THETA)
    now = sp.Symbol("Φ_n")
    flow = Formula(DOT, -now - RATE * sp.Add(*terms) - HALF * drift * now)
    direction = direction_at(d.model, PAST)
    shown = d.model.restore(direction)
    if d.model.odd:
        driven, offset = apart_from_theta(direction, d.settled.y)
        shown = d.model.restore(tidy(driven / d.settled.y)) * GRADIENT + offset
    return [flow, Formula(sp.Symbol("Φ_l"), shown, "the memoryless direction at step l"), *lines]


def _batched(d: Derivation) -> Section:
    part = d.batched
    terms = sp.Add.make_args(part.correction)
    down = all(term.could_extract_minus_sign() for term in terms)
    change = -RATE * sp.Add(*(-term for term in terms)) if down else RATE * part.correction
    lines: list = [Formula(DOT, -part.direction + change)]
    lines += [Formula(symbol, value) for symbol, value in part.definitions]
    if any(p is not None for p in part.moving):
        lines.append("F_l is Φ at step l with all gradients taken at θ; step k saw the batch with "
                     "gradient g_k and Hessian H_k.")  # fmt: skip
    else:
        lines.append("F_n is Φ at step n; step n sees the batch with gradient g_n, Hessian H_n.")
    return Section("Mini-batches, step n", tuple(lines))


def _edges(d: Derivation) -> Section:
    title = "How far a step may reach: hΛ, Λ the curvature of the preconditioned loss"
    part = d.edges
    if part.refused:
        return Section(title, ("There are no edges: the direction has no derivative at g = 0.",))
    lines: list = []
    for name, closed, value, words in (
        ("flow edge", part.flow, part.flow_number, "past it no memoryless flow follows"),
        ("stability edge", part.stability, part.stability_number, "past it the optimizer grows"),
    ):
        size = "∞" if math.isinf(value) else f"{value:.4g}"
        if closed is None or closed is sp.oo:
            lines.append(f"{name}: hΛ = {size}; {words}.")
        else:
            shown = sp.Symbol("hΛ")
            here = "" if closed.is_number else f", {size} here"
            lines.append(Formula(shown, closed, f"{name}{here}: {words}"))
    return Section(title, tuple(lines))
