"""How a formula is laid out on paper, once for text, LaTeX and MathML.

Terms are ordered as a reader expects them (1 − β, g² + ε, E + (h/2) J), and a product is written as
a number and decays over their like, then what depends on the gradient, then what is acted on.
"""

from __future__ import annotations

from typing import Any, Protocol

import sympy as sp

from .algebra import DECAYS
from .model import RATE

INDICES = {"n", "l", "k"}
ACTED = ("∇", "‖", "H", "J", "N")  # how the symbols begin that stand behind a product's fractions
SHORT = 9  # above it a fraction that stands alone is written as a decimal
LONG = 100  # the same for one before something else


class Dialect(Protocol):
    """What a way of writing has to know."""

    join: str

    def symbol(self, name: str) -> str: ...
    def number(self, text: str) -> str: ...
    def fraction(self, above: str, below: str, simple: tuple[bool, bool]) -> str: ...
    def root(self, inside: str, simple: bool) -> str: ...
    def power(self, base: str, exponent: str, whole: bool) -> str: ...
    def brackets(self, inside: str) -> str: ...
    def bars(self, inside: str) -> str: ...
    def call(self, name: str, inside: str) -> str: ...
    def total(self, inside: str, index: str | None, first: str, last: str) -> str: ...
    def sign(self, text: str) -> str: ...
    def leading(self, text: str) -> str: ...
    def cases(self, cases: list[tuple[str, str]]) -> str: ...


class CoordinateSum(sp.Function):
    """The sum of a function of g over all coordinates."""


def write(expression, say: Dialect) -> str:
    """A formula in a dialect."""
    expression = sp.sympify(expression)
    if expression.is_Add:
        return _sum(expression, say)
    if expression.is_Rational and expression.q > SHORT:
        return _number(expression, say)
    under = expression.is_Pow and _below(expression.exp)
    if expression.is_Mul or under or expression.is_Rational:
        return _product(expression, say)
    return _factor(expression, say)


def _below(exponent) -> bool:
    """Whether a power stands under the bar: β^(n−k) never does."""
    indexed = any(s.name in INDICES for s in exponent.free_symbols)
    return not indexed and bool(exponent.could_extract_minus_sign())


def _sum(expression, say: Dialect) -> str:
    terms = ordered(expression)
    text = ""
    for index, term in enumerate(terms):
        negative = term.could_extract_minus_sign()
        written = write(-term if negative else term, say)
        if (-term if negative else term).is_Add:
            written = say.brackets(written)
        lead = (
            (say.sign("−") if negative else "")
            if index == 0
            else say.sign(" − " if negative else " + ")
        )
        text += lead + written
    return text


def ordered(expression) -> list:
    """The terms of a sum: without h first, of numbers 1 first, then by what they depend on."""
    terms = sorted(expression.args, key=lambda t: _rank(t, expression))
    positive = next((t for t in terms if not t.could_extract_minus_sign()), None)
    first = positive is not None and positive.has(RATE) <= terms[0].has(RATE)
    if first and terms[0].could_extract_minus_sign():
        terms.remove(positive)
        terms.insert(0, positive)
    return terms


def _rank(term, whole) -> tuple:
    names = {s.name for s in term.free_symbols}
    counting = {s.name for s in whole.free_symbols} <= INDICES
    _, below = sp.fraction(term)
    driven = any(not _fixed(name) for name in names)
    if term.is_Number:
        kind = 9 if counting or not term.is_Integer else 0
    elif any("θ" in name for name in names):
        kind = 4
    elif driven:
        kind = 3 if any(not _fixed(s.name) for s in below.free_symbols) else 1
    else:
        kind = 2.5 if names & INDICES and not counting else 2
    size = -_degree(term) if kind == 1 else _degree(term)
    return term.has(RATE), kind, size, sorted(names), sp.default_sort_key(term)


def _degree(term) -> int:
    return sum(
        int(f.as_base_exp()[1])
        for f in sp.Mul.make_args(term)
        if not f.is_Number and f.as_base_exp()[1].is_Integer
    )


def _fixed(name: str) -> bool:
    """Whether a symbol is a hyper-parameter, the step size, an index or a number of the step."""
    if name[1:2] == "_":
        return name[0] in "rscWKA"
    if len(name) > 2 and name.isascii() and name.isidentifier():
        return True  # a number that a combine function calls so
    return name[0] in DECAYS or name[0] in "ελh" or name in INDICES


def _scalar(factor) -> bool:
    """Whether a factor stands in the first fraction: short numbers, decays, h, the step."""
    if factor.is_Number:
        return factor.is_Integer or factor.q <= LONG
    names = {s.name for s in factor.free_symbols}
    return all(name[0] in DECAYS or name == "h" or name in INDICES for name in names)


def _product(expression, say: Dialect) -> str:
    if expression.could_extract_minus_sign() and not expression.is_Pow:
        inner = _without_sign(expression)
        text = write(inner, say)
        return say.sign("−") + (say.brackets(text) if inner.is_Add else text)
    if expression.is_Rational and (expression.is_Integer or expression.q > LONG):
        return _factor(expression, say)
    scalars, rest, tail = [], [], []
    for factor in sp.Mul.make_args(expression):
        base: Any = factor.as_base_exp()[0]
        acted = base.is_Symbol and base.name.startswith(ACTED)
        if not factor.is_commutative or isinstance(factor, sp.Sum | CoordinateSum) or acted:
            tail.append(factor)
        else:
            (scalars if _scalar(factor) else rest).append(factor)
    parts = _parts(scalars, rest, tail)
    tail = parts.pop()[0]
    shown = [_one(*part, say) for part in parts if part[0] or part[1]]
    last = len(shown) - 1
    shown = [say.leading(t) if tail or i < last else t for i, t in enumerate(shown)]
    middle = say.join if RATE in parts[0][0] else say.sign(" · ")
    row = [middle.join(shown)] if shown else []
    return say.join.join([*row, *(_bracketed(factor, say) for factor in tail)])


def _parts(scalars: list, rest: list, tail: list) -> list:
    """[(above, below) of each fraction in the row, …, (tail,)]."""
    first, second = _fraction(scalars), _fraction(rest)
    step = [f for f in first[0] if f == RATE or f.is_Number] if RATE in first[0] else []
    others = [f for f in first[0] if f not in step]
    plain = all(f.is_Number for f in first[1])
    if step and first[1] and plain and not second[1] and (others or second[0] or tail):
        return [(step, first[1]), (others + second[0], []), (tail,)]
    heavy = any(f.is_Add or f.is_Pow or f.is_Function for f in (*first[0], *first[1]))
    if not (second[0] and second[1] and heavy):
        first, second = (first[0] + second[0], first[1] + second[1]), ([], [])
    alone = len(tail) == 1 and tail[0].is_Symbol and first[1] and not second[0]
    if alone and all(f.is_Number for f in first[0]) and not any(f.is_Number for f in first[1]):
        return [([*first[0], *tail], first[1]), ([],)]
    return [first, second, (tail,)]


def _without_sign(expression):
    if expression.is_Mul and expression.args[0] == -1:
        rest = expression.args[1:]
        return rest[0] if len(rest) == 1 else sp.Mul(*rest, evaluate=False)
    return -expression


def _fraction(factors: list) -> tuple[list, list]:
    above, below = [], []
    for factor in factors:
        base, exponent = factor.as_base_exp()
        if factor.is_Rational and not factor.is_Integer and factor.q <= LONG:
            above += [sp.Integer(factor.p)] * (factor.p != 1)
            below.append(sp.Integer(factor.q))
        elif _below(factor.as_base_exp()[1]) and not factor.is_Number:
            below.append(base ** (-exponent))
        else:
            above.append(factor)
    return sorted(above, key=_place), sorted(below, key=_place)


def _place(factor) -> tuple:
    """Numbers, h, symbols, sums, and last what has the step in its exponent."""
    base, exponent = factor.as_base_exp()
    late = any(s.name in INDICES for s in exponent.free_symbols)
    driven = not all(_fixed(s.name) for s in factor.free_symbols)
    return (
        not factor.is_Number,
        factor != RATE,
        late,
        base.is_Add,
        driven,
        sp.default_sort_key(factor),
    )


def _one(above: list, below: list, say: Dialect) -> str:
    texts = [_row(side, say) for side in (above, below)]
    if not below:
        return texts[0]
    simple = [len(side) <= 1 and not any(f.is_Add for f in side) for side in (above, below)]
    if len(above) == 1 and above[0].is_Add:
        texts[0] = _factor(above[0], say)
    if len(below) == 1 and below[0].is_Add:
        texts[1] = _factor(below[0], say)
    simple[0] = simple[0] or len(above) > 1
    return say.fraction(texts[0], texts[1], (simple[0], simple[1]))


def _row(factors: list, say: Dialect) -> str:
    return say.join.join(_bracketed(f, say) for f in factors) if factors else say.number("1")


def _bracketed(factor, say: Dialect) -> str:
    return say.brackets(write(factor, say)) if factor.is_Add else _factor(factor, say)


def _factor(factor, say: Dialect) -> str:
    if factor.is_Add:
        return _sum(factor, say)
    if factor.is_Symbol:
        return say.symbol(factor.name)
    if factor.is_Number or factor in (sp.oo, sp.zoo, sp.nan):
        return _number(factor, say)
    if factor.is_Pow:
        return _power(factor, say)
    if factor.is_Mul or isinstance(factor, sp.Rational):
        return say.brackets(_product(factor, say))
    if isinstance(factor, sp.Abs):
        return say.bars(write(factor.args[0], say))
    if isinstance(factor, sp.Sum):
        index, first, last = factor.limits[0]
        inside = write(factor.function, say)
        inside = say.brackets(inside) if factor.function.is_Add else inside
        return say.total(inside, write(index, say), write(first, say), write(last, say))
    if isinstance(factor, CoordinateSum):
        inside = write(factor.args[0], say)
        return say.total(say.brackets(inside) if factor.args[0].is_Add else inside, None, "", "")
    if isinstance(factor, sp.Piecewise):
        cases = [
            (write(v, say), "" if c in (True, sp.true) else _relation(c, say))
            for v, c in factor.args
        ]
        return say.cases(cases)
    name = "max" if factor.func is sp.Max else "min" if factor.func is sp.Min else str(factor.func)
    return say.call(name, ", ".join(write(a, say) for a in factor.args))


def _relation(condition, say: Dialect) -> str:
    if not condition.is_Relational:
        words = {sp.And: " ∧ ", sp.Or: " ∨ "}.get(condition.func, ", ")
        return say.sign(words).join(_relation(part, say) for part in condition.args)
    sign = {"==": "=", "!=": "≠", ">=": "≥", "<=": "≤"}.get(condition.rel_op, condition.rel_op)
    return write(condition.lhs, say) + say.sign(f" {sign} ") + write(condition.rhs, say)


def _number(value, say: Dialect) -> str:
    if value in (sp.oo, sp.zoo):
        return say.symbol("∞")
    if value.is_Integer:
        return say.number(str(value))
    return say.number(f"{float(value):.6g}")


def _power(power, say: Dialect) -> str:
    base, exponent = power.as_base_exp()
    if exponent == sp.Rational(1, 2):
        return say.root(write(base, say), base.is_Symbol or base.is_Integer)
    if exponent.is_Rational and exponent.q == 2 and exponent > 0 and not base.is_Symbol:
        return say.power(say.brackets(write(base, say)), write(exponent, say), False)
    if isinstance(base, sp.Abs) and exponent.is_even:
        base = base.args[0]
    plain = base.is_Symbol or base.is_Integer or isinstance(base, sp.Abs) or base.is_Function
    written = write(base, say)
    return say.power(
        written if plain else say.brackets(written), write(exponent, say), bool(exponent.is_Integer)
    )
