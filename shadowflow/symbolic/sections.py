"""What is said of a derived equation, in order: sentences and formulas."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import sympy as sp

from . import consequences
from .algebra import slope, tidy
from .equations import FACTOR, RATIO_NOW, direction_at, factor_at
from .model import GRADIENT, PAST, RATE, STEP, THETA

if TYPE_CHECKING:
    from .derivation import Derivation

DOT, PHI, PUSHED, MODIFIED, TILTED = map(sp.Symbol, ("θ′", "Φ", "HΦ", "Ẽ", "∇Ẽ"))
MEMORYLESS: Any = sp.Function("Φ")
COORDINATE, COUNT, COMPONENT = sp.Symbol("j"), sp.Symbol("d"), sp.Symbol("g_j", real=True)
HALF = RATE / 2


def factor(name: str) -> sp.Symbol:
    """A symbol that is printed in front of others, as hyper-parameters are."""
    return sp.Symbol(name, positive=True)


COEFFICIENT, LATE = factor("s"), factor("s_n")


class Formula(NamedTuple):
    """left = right (or another relation), with a remark behind it."""

    left: sp.Expr
    right: sp.Expr
    remark: str = ""
    relation: str = "="


class Section(NamedTuple):
    """A title, and what stands under it."""

    title: str
    items: tuple[str | Formula, ...]


Items = Iterator[str | Formula]


def tell(d: Derivation) -> list[Section]:
    """All sections that have something to say."""
    matrix = f": hΛ, Λ the largest eigenvalue of the {d.edges.matrix}" if d.edges.matrix else ""
    parts = {
        f"The optimizer: {d.model.name}": _optimizer,
        "The modified equation, settled memory, full batch": _settled,
        "The bias coefficient s": _coefficient,
        "The modified loss": _loss,
        "Small and large gradients": _limits,
        "At step n, full batch": _at_step,
        "Mini-batches, step n": _batched,
        f"How far a step may reach{matrix}": _edges,
    }
    found = [Section(title, tuple(part(d))) for title, part in parts.items()]
    return [section for section in found if section.items]


def _optimizer(d: Derivation) -> Items:
    model = d.model
    answer = model.answer(model.letters, STEP)
    yield "θ ← θ − h Φ, in each of d coordinates; g = ∇E is the gradient, H = ∇²E the Hessian."
    yield Formula(PHI, answer.direction)
    for symbol, mixed in answer.mixture.items():
        yield Formula(symbol, mixed)
    for average in model.averages:
        fresh = average.transform(GRADIENT)
        if average.decay != 0:
            remark = f"divided by 1 − {average.decay}^(n+1) in Φ" if average.corrected else ""
            kept = average.decay * average.letter + (1 - average.decay) * fresh
            yield Formula(average.letter, kept, remark, "←")
        elif average.letter != GRADIENT:
            yield Formula(average.letter, fresh, "no memory")
    if known := ", ".join(f"{h.symbol} = {h.value:g} ({h.name})" for h in model.hypers):
        yield f"Numbers: {known}."
    yield from model.notes


def _settled(d: Derivation) -> Items:
    part, potential = d.settled, d.potential
    if not part.separable:
        yield from _mixed(d, factor("K"), d.model.restore(part.bias))
        return
    yield Formula(DOT, _flow(d, sp.Integer(1), part.bias_coefficient, COEFFICIENT))
    if not part.constant:
        yield Formula(COEFFICIENT, d.bias_coefficient, "the bias coefficient")
    if part.offset != 0:
        rate = _decay(d)
        extra = sp.Symbol("H v") if rate is None else rate * sp.Symbol("∇(θ·∇E − E)")
        yield Formula(PHI, d.direction)
        yield Formula(PUSHED, potential.scale * potential.growth + extra)
        if rate is None:
            yield Formula(sp.Symbol("v"), part.offset)
    if part.linear:
        return
    if part.potential is None:
        integral = sp.Symbol("∫Φ dg_j")
        remark = "each integral from 0 to g_j"
    else:
        integral = d.model.restore(part.potential).subs(GRADIENT, COMPONENT)
        remark = potential.words + ("" if part.offset != 0 else "; its gradient is HΦ")
    yield Formula(potential.symbol, sp.Sum(integral, (COORDINATE, 1, COUNT)), remark)


def _mixed(d: Derivation, name: sp.Symbol, bias) -> Items:
    """−Φ − (h/2) (K HΦ + ∂_θΦ Φ), where Φ mixes g and θ."""
    drift = factor("∂Φ/∂θ")
    yield Formula(DOT, -PHI - HALF * (name * PUSHED + drift * PHI))
    yield Formula(PHI, d.direction)
    yield Formula(name, bias)
    yield Formula(drift, tidy(slope(d.direction, THETA)))


def _decay(d: Derivation) -> sp.Expr | None:
    """λ where θ adds λθ to Φ, 0 where it adds nothing, None where it adds something else."""
    rate = slope(d.settled.offset, THETA)
    return None if rate.has(THETA) or d.settled.offset != rate * THETA else rate


def _flow(d: Derivation, ratio, bias_coefficient, name) -> sp.Expr:
    """−κ (r g + (h/2) s HΦ) − v − (h/2) v' Φ; HΦ is ∇J where there is no v."""
    part, potential = d.settled, d.potential
    if part.constant and name is COEFFICIENT:
        name = bias_coefficient
    push = name * PUSHED
    if part.offset == 0:
        push = consequences.product(name, potential.scale) * potential.growth
    inner = ratio * GRADIENT + (HALF * push if bias_coefficient != 0 else 0)
    added = part.offset + HALF * slope(part.offset, THETA) * PHI
    return -d.model.restore(part.preconditioner) * inner - added


def _coefficient(d: Derivation) -> Items:
    part, model = d.settled, d.model
    if not part.separable or part.bias_coefficient == 0 or not model.hypers:
        return
    yield f"s > 0 penalizes {d.potential.words}, s < 0 anti-penalizes it."
    own = model.numbers()
    plain = lambda bias_coefficient: f"{float(bias_coefficient.subs(own)):.6g}".replace("-", "−")
    if part.constant:
        yield f"At the numbers above: s = {plain(part.bias_coefficient)}."
    else:
        limits = {"|g| → 0": part.small, "|g| → ∞": part.large}
        told = [f"s → {plain(lim.bias_coefficient)} for {at}" for at, lim in limits.items() if lim]
        if told:
            yield f"At the numbers above: {', '.join(told)}."
        turn = consequences.crossing(part, own)
        if turn is not None and (where := turn[1].subs(own)).is_positive:
            size = float(sp.sqrt(where) if turn[0].is_Pow else where)
            yield Formula(
                model.restore(turn[0]), turn[1], f"where s changes sign: |g| = {size:.3g}"
            )
    for symbol, rise in consequences.responses(model, part):
        yield Formula(sp.Symbol(f"∂s/∂{symbol}"), model.restore(rise))


def _loss(d: Derivation) -> Items:
    part, potential = d.settled, d.potential
    depends = "s depends on g: in more than one dimension g + (h/2) s HΦ is not a gradient"
    if not part.separable:
        yield "Φ mixes g and θ: no modified loss is looked for."
    elif _decay(d) is None:
        yield "What θ adds to Φ is not linear: no modified loss is looked for."
    elif part.bias_coefficient == 0 and part.offset == 0:
        yield "The correction vanishes: to second order the flow is θ′ = −Φ."
    elif part.offset != 0 and not part.constant:
        yield f"{depends}; in the limits below it is."
    elif part.offset != 0:
        yield "g + (h/2) s HΦ is a gradient:"
        yield from _shifted(d, part.bias_coefficient)
    elif part.constant:
        kind = "" if part.linear else "up to the preconditioner "
        yield f"{kind}the correction is a gradient:".capitalize()
        yield Formula(DOT, -d.model.restore(part.preconditioner) * TILTED)
        yield Formula(MODIFIED, consequences.modified_loss(potential, part.bias_coefficient))
    elif part.alike is not None:
        yield (
            "θ′ is the memoryless direction of another loss, up to h² (the correction by itself is "
            "the gradient of no function in more than one dimension):"
        )
        yield Formula(DOT, -MEMORYLESS(TILTED))
        yield Formula(MODIFIED, consequences.modified_loss(potential, part.alike))
    else:
        yield f"{depends}."
        line = consequences.line_loss(part, potential)
        if line is not None:
            yield "In one dimension, with g = E′, it is the derivative of E + (h/2) W:"
            yield Formula(sp.Symbol("W"), d.model.restore(line))
        decays = [average.decay for average in d.model.averages]
        if 0 not in decays and len(set(decays)) > 1:
            yield f"If {' = '.join(map(str, decays))}, then θ′ = −Φ(∇Ẽ) up to h², with"
            same = d.model.averages[0].factor
            yield Formula(MODIFIED, consequences.modified_loss(potential, same))


def _limits(d: Derivation) -> Items:
    part = d.settled
    if not part.separable or _decay(d) is None:
        return
    if part.small is not None and part.small.preconditioner not in (None, 0):
        factor, loss = consequences.small_loss(part.small, part.offset)
        yield f"{_far(d, '≪', '0')}:"
        yield Formula(DOT, -factor * TILTED)
        yield Formula(MODIFIED, loss)
    if part.large is not None and part.bias_coefficient != 0:
        yield f"{_far(d, '≫', '∞')}:"
        if part.large.bias_coefficient == 0:
            yield "no correction of this order: the memoryless flow θ′ = −Φ."
        else:
            yield from _shifted(d, part.large.bias_coefficient)


def _shifted(d: Derivation, bias_coefficient) -> Items:
    """−κ ∇Ẽ − λθ − (h/2) λΦ, where λθ is a part of Φ and s a constant."""
    rate = slope(d.settled.offset, THETA)
    flow = -d.model.restore(d.settled.preconditioner) * TILTED - rate * THETA - HALF * rate * PHI
    loss = consequences.modified_loss(d.potential, bias_coefficient)
    if rate != 0:
        extra = rate * (consequences.TURNED - consequences.LOSS)
        loss = consequences.LOSS + HALF * bias_coefficient * (d.potential.value + extra)
    yield Formula(DOT, flow)
    yield Formula(MODIFIED, loss)


def _far(d: Derivation, relation: str, end: str) -> str:
    """ "|g| ≪ ε", or "|g| → 0" where there is no ε."""
    roots = {"eps": "", "eps_root": "√"}
    scales = [f"{roots[h.name]}{h.symbol}" for h in d.model.hypers if h.name in roots]
    return f"|g| {relation} {', '.join(scales)}" if scales else f"|g| → {end}"


def _at_step(d: Derivation) -> Items:
    part, restore = d.at_step, d.model.restore
    if all(average.decay == 0 for average in d.model.averages):
        yield "The same at every step: there is no memory."
    elif part.bias_coefficient is None:
        yield from _sums(d)
    elif not d.settled.separable:
        bias = restore(d.settled.preconditioner * part.bias_coefficient)
        yield from _mixed(d, factor("K_n"), bias)
        yield _factor_line(d)
    else:
        yield Formula(
            DOT, _flow(d, RATIO_NOW if part.named else part.ratio, part.bias_coefficient, LATE)
        )
        if part.bias_coefficient != 0:
            yield Formula(LATE, restore(part.bias_coefficient))
        for symbol, value in part.named.items():
            yield Formula(symbol, value)
        if part.bias_coefficient.has(FACTOR):
            yield _factor_line(d)


def _sums(d: Derivation) -> Items:
    """The equation with its sums over the past, where they have no closed form."""
    part, restore = d.at_step, d.model.restore
    now, past, force = sp.symbols("Φ_n Φ_l HΦ_n")
    terms, lines = [], []
    for average, rise, older in zip(d.model.averages, part.slopes, part.shares, strict=True):
        if rise == 0:
            continue
        rises, weight = factor(f"K_{average.letter}"), factor(f"W_{average.letter}")
        inner = force / 2
        lines.append(Formula(rises, restore(rise)))
        if average.weight(STEP) != 1:
            inner *= weight
            lines.append(Formula(weight, average.weight(STEP)))
        if older is not None:
            inner += sp.Symbol(f"H A_{average.letter}")
            total = sp.Sum(older * past, (PAST, 0, STEP - 1))
            lines.append(Formula(sp.Symbol(f"A_{average.letter}"), total))
        terms.append(rises * inner)
    direction = d.model.signed(direction_at(d.model, PAST))
    drift = slope(direction, THETA).subs(PAST, STEP)
    yield Formula(DOT, -now - RATE * sp.Add(*terms) - HALF * drift * now)
    yield Formula(past, direction, "the memoryless direction at step l")
    yield from lines


def _factor_line(d: Derivation) -> Formula:
    decays = sorted({a.decay for a in d.model.averages if a.decay != 0}, key=str)
    return Formula(FACTOR(decays[0]), factor_at(decays[0]))


def _batched(d: Derivation) -> Items:
    part = d.batched
    terms = sp.Add.make_args(part.correction)
    down = all(term.could_extract_minus_sign() for term in terms)
    change = -RATE * sp.Add(*(-term for term in terms)) if down else RATE * part.correction
    yield Formula(DOT, -part.direction + change)
    for symbol, value in part.definitions:
        yield Formula(symbol, value)
    if any(past.moving != 0 for past in part.pasts):
        yield (
            "F_l is Φ at step l with all gradients taken at θ; step k saw the batch with "
            "gradient g_k and Hessian H_k."
        )
    else:
        yield "F_n is Φ at step n; step n sees the batch with gradient g_n, Hessian H_n."


def _edges(d: Derivation) -> Items:
    part = d.edges
    if part.refused:
        yield "There are no edges: the direction has no derivative at g = 0."
        return
    left, grows = "past it no memoryless flow follows the optimizer", "past it the optimizer grows"
    for name, closed, value, words in (
        ("flow edge", part.flow, part.flow_number, left),
        ("stability edge", part.stability, part.stability_number, grows),
    ):
        size = "∞" if math.isinf(value) else f"{value:.4g}"
        if closed is None or closed is sp.oo:
            yield f"{name}: hΛ = {size}; {words}."
        else:
            here = "" if closed.is_number else f", {size} here"
            yield Formula(sp.Symbol("hΛ"), closed, f"{name}{here}: {words}")
