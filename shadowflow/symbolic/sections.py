"""What is said of a derived equation, in order: sentences and formulas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sympy as sp

from . import penalty
from .algebra import put, slope, tidy
from .layout import CoordinateSum
from .model import GRADIENT, PAST, RATE, STEP, THETA
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
        return Section(TITLE, tuple(_mixed(d, sp.Symbol("K"), d.model.restore(part.bias))))
    lines.append(Formula(DOT, _flow(d, sp.Integer(1), part.strength, COEFFICIENT)))
    if not part.constant and part.strength != 0:
        lines.append(Formula(COEFFICIENT, d.strength, "the bias coefficient"))
    if part.offset != 0:
        lines += [Formula(PHI, _phi(d)), Formula(PUSHED, _pushed(d))]
        lines += [Formula(sp.Symbol("v"), part.offset)] if _pull(d) is None else []
    lines += _potential_lines(d)
    return Section(TITLE, tuple(lines))


TITLE = "The modified equation, settled memory, full batch"


def _phi(d: Derivation) -> sp.Expr:
    return d.model.signed(d.settled.direction)


def _mixed(d: Derivation, name: sp.Symbol, bias) -> list:
    """−Φ − (h/2) (K HΦ + ∂_θΦ Φ), where Φ mixes g and θ."""
    drift = sp.Symbol("∂Φ/∂θ")
    return [
        Formula(DOT, -PHI - HALF * (name * PUSHED + drift * PHI)),
        Formula(PHI, _phi(d)),
        Formula(name, bias),
        Formula(drift, tidy(slope(_phi(d), THETA))),
    ]


def _pull(d: Derivation) -> sp.Expr | None:
    """λ where θ adds λθ to Φ, 0 where it adds nothing, None where it adds something else."""
    pull = slope(d.settled.offset, THETA)
    return None if pull.has(THETA) or d.settled.offset != pull * THETA else pull


def _pushed(d: Derivation) -> sp.Expr:
    """HΦ where weight decay adds λθ to Φ: ∇J + λ ∇(θ·∇E − E)."""
    pull = _pull(d)
    if pull is None:
        return d.potential.gradient + sp.Symbol("H v")
    return d.potential.gradient + pull * sp.Symbol("∇(θ·∇E − E)")


def _flow(d: Derivation, ratio, strength, name) -> sp.Expr:
    """−κ (r g + (h/2) s ∇J) − v − (h/2) v' Φ."""
    part, potential = d.settled, d.potential
    named = strength if part.constant and name is COEFFICIENT else name
    push = (
        HALF * named * PUSHED
        if part.offset != 0
        else (HALF * penalty.product(named, potential.scale) * potential.growth)
    )
    inner = ratio * GRADIENT + push if strength != 0 else ratio * GRADIENT
    kappa = d.model.restore(part.preconditioner)
    plain = kappa.is_Number
    flow = (
        sp.Mul(-1, kappa, inner, evaluate=False)
        if plain and kappa != 1
        else (sp.Mul(-1, inner, evaluate=False) if plain else -kappa * inner)
    )
    if part.offset == 0:
        return flow
    pull = _pull(d)
    if pull is None:
        return flow - part.offset - HALF * slope(part.offset, THETA) * PHI
    return flow - pull * (THETA + HALF * PHI)


def _potential_lines(d: Derivation) -> list:
    part, potential = d.settled, d.potential
    if part.linear:
        return []
    if part.potential is None:
        whole = sp.Symbol("∫Φ dg")
        return [Formula(potential.symbol, CoordinateSum(whole), "from 0 to g, per coordinate")]
    shown = CoordinateSum(d.model.restore(part.potential))
    return [
        Formula(
            potential.symbol,
            shown,
            f"{potential.words}; its gradient is HΦ" if part.offset == 0 else potential.words,
        )
    ]


def _penalized(d: Derivation) -> Section:
    part, model = d.settled, d.model
    title = "The bias coefficient s"
    if not part.separable or part.strength == 0 or not model.hypers:
        return Section(title, ())
    lines: list = [
        "s > 0 penalizes " + d.potential.words + ", s < 0 anti-penalizes it.",
    ]
    own = model.numbers()
    lines += [f"At the numbers above: {_values(d)}."] if _values(d) else []
    turn = penalty.crossing(part, own) if not part.constant else None
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
        for name, limit in limits
        if limit is not None
    )


def _plain(value) -> str:
    return f"{float(value):.6g}".replace("-", "−")


def _loss(d: Derivation) -> Section:
    part, potential = d.settled, d.potential
    title = "The modified loss"
    if not part.separable:
        return Section(title, ("Φ mixes g and θ: no modified loss is looked for.",))
    if _pull(d) is None:
        return Section(title, ("What θ adds to Φ is not linear: no modified loss is looked for.",))
    if part.strength == 0 and part.offset == 0:
        return Section(title, ("The correction vanishes: to second order the flow is θ′ = −Φ.",))
    if part.offset != 0 and not part.constant:
        return Section(
            title,
            (
                "s depends on g: in more than one dimension g + (h/2) s HΦ is the gradient of no "
                "function; in the limits below it is.",
            ),
        )
    if part.offset != 0:
        return Section(title, ("g + (h/2) s HΦ is a gradient:", *_shifted(d, part.strength)))
    if part.constant:
        kappa = d.model.restore(part.preconditioner)
        kind = (
            "The correction is a gradient"
            if part.linear
            else ("Up to the preconditioner the correction is a gradient")
        )
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
            lines += [
                "In one dimension, with g = E′, it is the derivative of E + (h/2) W:",
                Formula(sp.Symbol("W"), d.model.restore(line)),
            ]
    if same is not None:
        decays = " = ".join(str(a.decay) for a in d.model.averages)
        lines += [
            f"If {decays}, then θ′ = −Φ(∇Ẽ) up to h², with",
            Formula(MODIFIED, penalty.modified_loss(potential, same)),
        ]
    return Section(title, tuple(lines))


def _times(*factors) -> sp.Expr:
    kept = [sp.sympify(f) for f in factors if f != 1]
    return sp.Mul(*kept)


def _limits(d: Derivation) -> Section:
    part = d.settled
    lines: list = []
    title = "Small and large gradients"
    if not part.separable or _pull(d) is None:
        return Section(title, ())
    if part.small is not None and part.small.preconditioner not in (None, 0):
        factor, loss = penalty.small_loss(part.small, part.offset)
        lines += [
            f"{_far(d, '≪')}:",
            Formula(DOT, _times(-1, factor, TILTED)),
            Formula(MODIFIED, loss),
        ]
    if part.large is not None and part.strength != 0:
        lines += [f"{_far(d, '≫')}:", *_large(d, part.large)]
    return Section(title, tuple(lines))


def _large(d: Derivation, limit: Limit) -> list:
    part, potential = d.settled, d.potential
    strength = limit.strength
    kappa = d.model.restore(part.preconditioner)
    if strength == 0:
        return ["no correction of this order: the memoryless flow θ′ = −Φ."]
    if part.offset == 0:
        return [
            Formula(DOT, _times(-1, kappa, TILTED)),
            Formula(MODIFIED, penalty.modified_loss(potential, strength)),
        ]
    return _shifted(d, strength)


def _shifted(d: Derivation, strength) -> list:
    """−κ ∇Ẽ − λ (θ + (h/2) Φ), where λθ is a part of Φ and s a constant."""
    kappa, pull = d.model.restore(d.settled.preconditioner), sp.diff(d.settled.offset, THETA)
    extra = pull * (penalty.TURNED - penalty.LOSS)
    loss = penalty.LOSS + HALF * strength * (d.potential.value + extra)
    flow = _times(-1, kappa, TILTED) - pull * (THETA + HALF * PHI)
    return [Formula(DOT, flow), Formula(MODIFIED, loss)]


def _far(d: Derivation, relation: str) -> str:
    scales = [
        ("√" if h.name == "eps_root" else "") + str(h.symbol)
        for h in d.model.hypers
        if h.name in ("eps", "eps_root")
    ]
    if not scales:
        return "|g| → 0" if relation == "≪" else "|g| → ∞"
    return f"|g| {relation} {', '.join(scales)}"


def _at_step(d: Derivation) -> Section:
    title = "At step n, full batch"
    part = d.at_step
    if all(a.decay == 0 for a in d.model.averages):
        return Section(title, ("The same at every step: there is no memory.",))
    if part.factors and not d.settled.separable and part.strength is not None:
        bias = d.model.restore(d.settled.preconditioner * part.strength)
        return Section(title, (*_mixed(d, sp.Symbol("K_n"), bias), _factor_line(d)))
    if part.factors:
        named = sp.Symbol("s_n")
        lines = [
            Formula(DOT, _flow(d, sp.Integer(1), part.strength, named)),
            Formula(named, d.model.restore(part.strength)),
            _factor_line(d),
        ]
        return Section(title, tuple(lines))
    if part.strength is not None:
        named = sp.Symbol("s_n")
        lines = [
            Formula(DOT, _flow(d, RATIO_NOW if part.named else part.ratio, part.strength, named))
        ]
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
        inner, rises, weight = force / 2, sp.Symbol(f"K_{mark}"), average.weight(STEP)
        lines.append(Formula(rises, d.model.restore(rise)))
        if weight != 1:
            inner *= sp.Symbol(f"W_{mark}")
            lines.append(Formula(sp.Symbol(f"W_{mark}"), weight))
        if older is not None:
            inner += sp.Symbol(f"H A_{mark}")
            past = sp.Sum(older * sp.Symbol("Φ_l"), (PAST, 0, STEP - 1))
            lines.append(Formula(sp.Symbol(f"A_{mark}"), past))
        terms.append(sp.Mul(rises, inner))
    now, past = sp.Symbol("Φ_n"), sp.Symbol("Φ_l")
    direction = d.model.signed(direction_at(d.model, PAST))
    drift = slope(direction, THETA).subs(PAST, STEP)
    flow = Formula(DOT, -now - RATE * sp.Add(*terms) - HALF * drift * now)
    return [flow, Formula(past, direction, "the memoryless direction at step l"), *lines]


def _factor_line(d: Derivation) -> Formula:
    decays = sorted({a.decay for a in d.model.averages if a.decay != 0}, key=str)
    return Formula(FACTOR(decays[0]), factor_at(decays[0]))


def _batched(d: Derivation) -> Section:
    part = d.batched
    terms = sp.Add.make_args(part.correction)
    down = all(term.could_extract_minus_sign() for term in terms)
    change = -RATE * sp.Add(*(-term for term in terms)) if down else RATE * part.correction
    lines: list = [Formula(DOT, -part.direction + change)]
    lines += [Formula(symbol, value) for symbol, value in part.definitions]
    if any(p is not None for p in part.moving):
        lines.append(
            "F_l is Φ at step l with all gradients taken at θ; step k saw the batch with "
            "gradient g_k and Hessian H_k."
        )
    else:
        lines.append("F_n is Φ at step n; step n sees the batch with gradient g_n, Hessian H_n.")
    return Section("Mini-batches, step n", tuple(lines))


def _edges(d: Derivation) -> Section:
    part = d.edges
    title = f"How far a step may reach: hΛ, Λ the largest eigenvalue of the {part.matrix}"
    if part.refused:
        title = "How far a step may reach"
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
