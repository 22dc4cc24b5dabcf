"""Forms as a paper would print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sympy as sp

DECAYS = "βργ"  # how the symbols that lie in (0, 1) begin


def put(expression, values: Mapping) -> sp.Expr:
    """The expression with values in the place of symbols."""
    return sp.sympify(expression).subs(dict(values))


def slope(expression, variable: sp.Symbol) -> sp.Expr:
    """The derivative at a generic point: that of sign is 0."""
    found = sp.diff(expression, variable).replace(sp.DiracDelta, lambda *_: sp.Integer(0))
    found = found.replace(sp.Heaviside, lambda x, *_: sp.Piecewise((1, x > 0), (0, True)))
    return found.replace(sp.Piecewise, _generic)


def _generic(*branches):
    kept = [(value, condition) for value, condition in branches if not isinstance(condition, sp.Eq)]
    return sp.Piecewise(*kept)


def algebraic(expression) -> bool:
    """Whether there are only powers with numbers (or the step) in the exponent, no functions.

    What SymPy simplifies, integrates and takes limits of in a moment, rather than in minutes.
    """
    expression = without_abs(expression)
    powers = all(
        p.exp.is_Number or all(s.is_integer for s in p.exp.free_symbols)
        for p in expression.atoms(sp.Pow)
    )
    kinds = sp.Function | sp.Piecewise | sp.Max | sp.Min | sp.Sum
    found = [e for e in sp.preorder_traversal(expression) if isinstance(e, kinds)]
    return powers and all(isinstance(e, sp.Abs | sp.sign) for e in found)


def vanishes(expression) -> bool:
    """Whether an expression is 0, by its value to 30 digits at three places."""
    expression = sp.sympify(expression)
    symbols: list[Any] = sorted(expression.free_symbols, key=str)
    for seed in (3, 7, 11):
        place = {
            s: sp.Integer(seed + i) if s.is_integer else sp.Rational(seed + i * i, 101 + 2 * i)
            for i, s in enumerate(symbols)
        }
        value = sp.N(expression.subs(place), 40)
        if not value.is_number or value.has(sp.nan, sp.zoo) or abs(value) > sp.Float(10) ** -30:
            return False
    return True


def tidy(expression) -> sp.Expr:
    """The shortest of a few equal forms, with denominators such as 1 − β rather than β − 1."""
    expression = sp.sympify(expression)
    if expression.is_Atom:
        return expression
    if expression.has(sp.Piecewise):
        expression = sp.piecewise_fold(expression)
    if isinstance(expression, sp.Piecewise):
        return sp.Piecewise(*((tidy(value), condition) for value, condition in expression.args))
    if not algebraic(expression):
        return _masked(expression)
    simple = sp.simplify(without_abs(expression)).replace(sp.Piecewise, _generic)
    simple = sp.powsimp(without_abs(simple), deep=True)
    rooted = _by_root(simple)
    if rooted is not None:
        return oriented(rooted)
    forms = [simple, sp.factor(simple), sp.simplify(sp.together(expression)), expression]
    return min((oriented(sp.powsimp(form, deep=True)) for form in forms), key=_length)


def quotient(expression) -> sp.Expr:
    """One fraction, factored.

    >>> b = sp.Symbol("β")
    >>> quotient(b * (1 + b) / (1 - b) + 1 - b)
    (2*β**2 - β + 1)/(1 - β)
    """
    return oriented(sp.factor(sp.together(expression)))


def without_abs(expression) -> sp.Expr:
    """|1 − β^n| as 1 − β^n, all decays being below 1."""

    def signed(argument):
        decays = sorted((s for s in argument.free_symbols if s.name[0] in DECAYS), key=str)
        others = argument.free_symbols - set(decays)
        if not decays or not all(s.is_integer for s in others):
            return sp.Abs(argument)
        values = {
            sp.sign(
                argument.subs(dict.fromkeys(others, step)).subs(
                    {s: sp.Rational(i + place, len(decays) + 9) for i, s in enumerate(decays)}
                )
            )
            for step in (0, 1, 7)
            for place in (1, 5, 9)
        }
        return argument if values == {1} else -argument if values == {-1} else sp.Abs(argument)

    return expression.replace(sp.Abs, signed)


def _length(expression) -> tuple:
    return sp.count_ops(expression), len(str(expression))


def by_powers(expression, count: sp.Symbol) -> sp.Expr:
    """A polynomial in β^n, power by power, each coefficient in its simplest form."""
    bases = {p.base for p in expression.atoms(sp.Pow) if p.exp.has(count)}
    if len(bases) != 1:
        return expression
    (base,), power = bases, sp.Symbol("Z", positive=True)

    def named(_, exponent):
        rest, many = sp.expand(exponent).as_independent(count, as_Add=True)
        return base**rest * power ** sp.cancel(many / count)

    found = expression.replace(
        lambda e: e.is_Pow and e.base == base and e.exp.has(count), lambda e: named(*e.args)
    )
    above, below = sp.fraction(sp.together(found))
    if below.has(power):
        return expression
    terms = sp.Poly(sp.expand(above), power).terms()
    return sp.Add(*(_times_power(quotient(c / below), base, count * k) for (k,), c in terms))


def _times_power(coefficient, base, exponent) -> sp.Expr:
    """coefficient · base^exponent, with the powers of base in the coefficient put to the others."""
    factors = sp.Mul.make_args(coefficient)
    mine = [f for f in factors if f.as_base_exp()[0] == base]
    others = [f for f in factors if f not in mine]
    return sp.Mul(*others, base ** sp.Add(exponent, *(f.as_base_exp()[1] for f in mine)))


def _masked(expression) -> sp.Expr:
    """Tidied with its functions, and powers with symbols in the exponent, as mere symbols."""
    masks: dict[sp.Expr, sp.Symbol] = {}

    def mask(part):
        return masks.setdefault(part, sp.Symbol(f"ξ{len(masks)}", real=True))

    def opaque(part) -> bool:
        return (
            not part.is_Atom
            and not algebraic(part)
            and not part.is_Add
            and not part.is_Mul
            and not (part.is_Pow and part.exp.is_Number)
        )

    def covered(part):
        if opaque(part):
            return mask(part)
        return part.func(*map(covered, part.args)) if part.args else part

    found = covered(expression)
    if not algebraic(found) or found == expression:
        return oriented(expression)
    return tidy(found).subs({symbol: part for part, symbol in masks.items()})


def _by_root(expression) -> sp.Expr | None:
    """With the denominator factored as a polynomial in the square root that is in it."""
    above, below = sp.fraction(sp.together(expression))
    bases = {p.base for p in below.atoms(sp.Pow) if p.exp.is_Rational and p.exp.q == 2}
    squares = [b for b in bases if b.is_Add and any(t.is_Pow and t.exp == 2 for t in b.args)]
    if len(squares) != 1:
        return None
    (base,), root = squares, sp.Symbol("R", positive=True)
    square = next(term for term in base.args if term.is_Pow and term.exp == 2)
    rooted = lambda part: part.replace(
        lambda e: e.is_Pow and e.base == base, lambda e: root ** (2 * e.exp)
    )
    sides = [rooted(side) for side in (above, below)]
    above, below = (
        sp.factor(sp.expand(side.subs(square, root**2 - base + square))) if side.has(root) else side
        for side in sides
    )
    stays = any(side.has(square) for side in (above, below) if side.has(root))
    if stays or not below.is_Mul or not any(f.is_Add for f in below.args):
        return None
    return (above / below).subs(root, sp.sqrt(base))


def oriented(expression) -> sp.Expr:
    """The same with the number positive in every factor 1 − β of decays.

    >>> x = sp.Symbol("β")
    >>> oriented(2 / (x - 1))
    -2/(1 - β)
    """

    def to_turn(part) -> bool:
        base, exponent = part.as_base_exp()
        fixed = all(s.name[0] in DECAYS or s.is_integer for s in base.free_symbols)
        negative = base.is_Add and base.as_coeff_Add()[0].is_negative
        return bool(negative and fixed and exponent.is_Integer)

    def turned(part):
        sign, kept = sp.Integer(1), []
        for factor in sp.Mul.make_args(part):
            base, exponent = factor.as_base_exp()
            flip = to_turn(factor)
            sign *= sp.Integer(-1) ** exponent if flip else 1
            kept.append(sp.Pow(-base, exponent) if flip else factor)
        return sp.Mul(sign, *kept)

    whole = lambda e: e.is_Mul or (e.is_Pow and e.exp.is_Integer)
    return expression.replace(lambda e: whole(e) and any(map(to_turn, sp.Mul.make_args(e))), turned)


def positive(expression, numbers: Mapping) -> sp.Expr:
    """−x / (β − ρ) as x / (ρ − β), where β < ρ."""
    sign, kept = sp.Integer(1), []
    for factor in sp.Mul.make_args(expression):
        base, exponent = factor.as_base_exp()
        turn = base.is_Add and exponent == -1 and put(base, numbers).is_negative
        sign *= -1 if turn else 1
        kept.append(1 / (-base) if turn else factor)
    return sp.Mul(sign, *kept)


def split(expression, y: sp.Symbol) -> sp.Expr:
    """Partial fractions in y², where that is what the expression is a quotient of."""
    even = vanishes(expression.subs(y, -y) - expression)
    if not even or not expression.is_rational_function(y):
        return expression
    return sp.Add(*(monic(term, y) for term in sp.Add.make_args(sp.apart(expression, y))))


def monic(term, y: sp.Symbol) -> sp.Expr:
    """With 1 for a number before the highest power of y in the factors of the denominator."""
    kept = []
    for factor in sp.Mul.make_args(oriented(term)):
        base, exponent = factor.as_base_exp()
        if base.is_Add and base.is_polynomial(y) and base.has(y) and exponent.is_Integer:
            lead = sp.LC(base, y)
            if lead.is_Number and lead != 1:
                factor = lead**exponent * sp.expand(base / lead) ** exponent
        kept.append(factor)
    return sp.Mul(*kept)


def closed_sum(summand, index: sp.Symbol, count: sp.Symbol) -> sp.Expr:
    """Σ_{l=0}^{n−1} of a sum of geometric terms in closed form, else the sum as it stands.

    >>> b, l, n = sp.Symbol("β", positive=True), sp.Symbol("l"), sp.Symbol("n")
    >>> closed_sum(b**l, l, n)
    (1 - β**n)/(1 - β)
    """
    total = sp.Integer(0)
    for term in sp.Add.make_args(sp.expand(summand)):
        fixed, moving = term.as_independent(index, as_Add=False)
        ratio = sp.powsimp(moving.subs(index, index + 1) / moving)
        ratio = sp.simplify(ratio)
        if ratio.has(index):
            return sp.Sum(summand, (index, 0, count - 1))
        first = fixed * moving.subs(index, 0)
        total += first * count if ratio == 1 else first * (1 - ratio**count) / (1 - ratio)
    return tidy(total)


def limit(expression, y: sp.Symbol, place) -> sp.Expr | None:
    """The limit y → 0+ or ∞, None where it is not found or not finite."""
    if not algebraic(expression):
        return None
    try:
        found = sp.limit(expression, y, place, "+" if place == 0 else "-")
    except (NotImplementedError, ValueError, TypeError):
        return None
    bad = found.has(sp.oo, -sp.oo, sp.zoo, sp.nan, sp.Limit) or found.has(sp.AccumBounds)
    return None if bad else quotient(found)


def antiderivative(expression, y: sp.Symbol) -> sp.Expr | None:
    """∫ dy without a constant, None where it is not found by the ordinary rules.

    A square root of y² + c is made the variable first, so that the rest is a rational function.
    """
    from sympy.integrals.manualintegrate import manualintegrate

    if not algebraic(expression):
        return None
    roots = {
        p
        for p in expression.atoms(sp.Pow)
        if p.exp.is_Rational and p.exp.q == 2 and sp.simplify(sp.diff(p.base, y) - 2 * y) == 0
    }
    bases = {p.base for p in roots}
    if len(bases) == 1:
        root, (base,) = sp.Symbol("R", positive=True), bases
        inner = sp.simplify((expression / y * root).subs({p: root ** (2 * p.exp) for p in roots}))
        inner = sp.simplify(inner.subs(y, sp.sqrt(root**2 - base + y**2)))
        found = None if inner.has(y) else manualintegrate(sp.apart(inner, root), root)
        found = None if found is None else found.subs(root, sp.sqrt(base))
    else:
        rational = expression.is_rational_function(y)
        found = manualintegrate(sp.apart(expression, y) if rational else expression, y)
    if found is None or found.has(sp.Integral):
        return None
    return _scaled_logs(sp.expand(found), y).as_independent(y, as_Add=True)[1]


def _scaled_logs(expression, y: sp.Symbol) -> sp.Expr:
    """log(x + c) as log(1 + x/c), which is another constant and 0 where x is."""

    def scaled(argument):
        constant = argument.as_independent(y, as_Add=True)[0]
        return sp.log(sp.expand(argument / constant)) if constant != 0 else sp.log(argument)

    return expression.replace(sp.log, scaled)
