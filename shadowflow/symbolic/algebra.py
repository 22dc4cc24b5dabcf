"""Expressions in the form in which a paper would print them."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import sympy as sp
from sympy.integrals.manualintegrate import manualintegrate

DECAYS = "βργ"  # how the symbols that lie in (0, 1) begin
SMALL = 9  # a fraction with a larger denominator is a decimal, which no algebra takes apart


def slope(expression, variable: sp.Symbol) -> sp.Expr:
    """The derivative at a generic point: that of sign is 0."""
    found = sp.diff(expression, variable).replace(sp.DiracDelta, lambda *_: sp.Integer(0))
    found = found.replace(sp.Heaviside, lambda x, *_: sp.Piecewise((1, x > 0), (0, True)))
    return found.replace(sp.Piecewise, _generic)


def _generic(*branches):
    return sp.Piecewise(*((value, where) for value, where in branches if not where.has(sp.Eq)))


def algebraic(expression) -> bool:
    """Whether it has no functions and no unknown exponents: what SymPy integrates in a moment."""
    functions = expression.atoms(sp.Function, sp.Max, sp.Min, sp.Sum)
    exponents = (power.exp for power in expression.atoms(sp.Pow))
    known = all(e.is_Number or all(s.is_integer for s in e.free_symbols) for e in exponents)
    return known and functions == expression.atoms(sp.Abs, sp.sign)


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


def _decimals_kept(function: Callable) -> Callable:
    """The function, which sees symbols for decimals, so that g² + 0.001 stays what it is."""

    @functools.wraps(function)
    def call(expression, *rest):
        decimals = {abs(n) for n in expression.atoms(sp.Rational) if n.q > SMALL}
        names = {n: sp.Dummy(f"d{n}", positive=True) for n in sorted(decimals)}
        masked = expression.xreplace(names | {-n: -name for n, name in names.items()})
        return function(masked, *rest).xreplace({name: n for n, name in names.items()})

    return call


def tidy(expression) -> sp.Expr:
    """The shortest of a few equal forms, with denominators such as 1 − β rather than β − 1.

    >>> x = sp.Symbol("β")
    >>> tidy(x / (x - 1) + 1 / (x - 1))
    -(β + 1)/(1 - β)
    """
    expression = without_abs(sp.sympify(expression))
    if isinstance(expression := sp.piecewise_fold(expression), sp.Piecewise):
        return sp.Piecewise(*((tidy(value), where) for value, where in expression.args))
    return _shortest(expression)


@_decimals_kept
def _shortest(expression) -> sp.Expr:
    plain = expression.replace(sp.sign, lambda x: sp.Abs(x) / x)
    forms = [expression, sp.factor(sp.together(plain)), _by_root(plain)]
    shortest = min(forms, key=lambda form: (sp.count_ops(form), len(str(form))))
    return oriented(sp.powsimp(shortest, deep=True))


def _by_root(expression) -> sp.Expr:
    """Factored as a rational function of R = √(g² + ε), where there is one such root."""
    roots = [p for p in expression.atoms(sp.Pow) if p.base.is_Add and p.exp.is_Rational]
    roots = [p for p in roots if not p.exp.is_Integer]
    if len({p.base for p in roots}) != 1:
        return expression
    base, degree = roots[0].base, sp.ilcm(*(p.exp.q for p in roots), 1)
    powers = [t for t in base.args if t.as_base_exp()[0].is_Symbol and t.as_base_exp()[1].is_Number]
    if not powers:
        return expression
    power = max(powers, key=lambda t: (t.as_base_exp()[1], not t.is_positive, str(t)))
    variable, exponent = power.as_base_exp()
    root = sp.Dummy("R", positive=True)
    inside = expression.subs(variable, (root**degree - base + power) ** (1 / exponent))
    return sp.factor(sp.together(inside)).subs(root, base ** sp.Rational(1, degree))


def quotient(expression) -> sp.Expr:
    """One fraction, factored.

    >>> b = sp.Symbol("β")
    >>> quotient(b * (1 + b) / (1 - b) + 1 - b)
    (2*β**2 - β + 1)/(1 - β)
    """
    return oriented(sp.factor(sp.together(expression)))


def oriented(expression) -> sp.Expr:
    """The same with the number positive in every factor 1 − β of decays.

    >>> x = sp.Symbol("β")
    >>> oriented(2 / (x - 1))
    -2/(1 - β)
    """

    def to_turn(base) -> bool:
        fixed = all(s.name[0] in DECAYS or s.is_integer for s in base.free_symbols)
        return fixed and bool(base.as_coeff_Add()[0].is_negative)

    return expression.replace(lambda e: e.is_Mul or e.is_Pow, lambda e: _turned(e, to_turn))


def positive(expression, numbers: Mapping) -> sp.Expr:
    """−x / (β − ρ) as x / (ρ − β), where β < ρ."""
    return _turned(expression, lambda base: base.subs(numbers).is_negative)


def _turned(product, to_turn: Callable) -> sp.Expr:
    """A product with −x in the place of each factor x to turn, and the sign to go with it."""
    factors = [factor.as_base_exp() for factor in sp.Mul.make_args(product)]
    turned = [base.is_Add and exp.is_Integer and to_turn(base) for base, exp in factors]
    if not any(turned):
        return product
    kept = [(-b if turn else b) ** e for (b, e), turn in zip(factors, turned, strict=True)]
    odd = sum(int(e) for (_, e), turn in zip(factors, turned, strict=True) if turn) % 2
    return sp.Mul(-1 if odd else 1, *kept)


def without_abs(expression) -> sp.Expr:
    """|1 − β^n| as 1 − β^n, all decays being below 1."""

    def signed(inside):
        symbols: list[Any] = sorted(inside.free_symbols, key=str)
        if not all(s.name[0] in DECAYS or s.is_integer for s in symbols):
            return sp.Abs(inside)
        places = [
            {
                s: step if s.is_integer else sp.Rational(i + start, len(symbols) + 9)
                for i, s in enumerate(symbols)
            }
            for step in (0, 1, 7)
            for start in (1, 5, 9)
        ]
        signs = {sp.sign(inside.subs(place)) for place in places}
        return signs.pop() * inside if len(signs) == 1 else sp.Abs(inside)

    return expression.replace(sp.Abs, signed)


@_decimals_kept
def split(expression, y: sp.Symbol) -> sp.Expr:
    """Partial fractions in y², where it is a quotient of polynomials in y²."""
    even = vanishes(expression.subs(y, -y) - expression)
    if not even or not expression.is_rational_function(y):
        return expression
    return sp.Add(*map(oriented, sp.Add.make_args(sp.apart(expression, y))))


def limit(expression, y: sp.Symbol, place) -> sp.Expr | None:
    """The limit y → 0+ or ∞, None where it is not found or not finite."""
    if not algebraic(expression):
        return None
    try:
        found = sp.limit(expression, y, place, "+" if place == 0 else "-")
    except (NotImplementedError, ValueError, TypeError):
        return None
    return quotient(found) if found.is_finite is not False and not found.has(sp.Limit) else None


def integral(expression, y: sp.Symbol) -> sp.Expr | None:
    """∫ dy without a constant, None where it is not found by the ordinary rules.

    A square root R of y² + c is made the variable first, so that the rest is a quotient.
    """
    if not algebraic(expression):
        return None
    powers = [p for p in expression.atoms(sp.Pow) if p.exp.is_Rational and p.exp.q == 2]
    bases = {p.base for p in powers if sp.diff(p.base, y).equals(2 * y)}
    base, variable = bases.pop() if len(bases) == 1 else None, y
    if base is not None:
        variable = sp.Dummy("R", positive=True)
        inside = (expression / y).subs(y, sp.sqrt(variable**2 - base + y**2))
        expression = sp.factor(sp.together(variable * inside))
    if expression.has(y) and base is not None:
        return None
    if expression.is_rational_function(variable):
        expression = sp.apart(expression, variable)
    found = manualintegrate(expression, variable)
    if found.has(sp.Integral):
        return None
    found = found if base is None else found.subs(variable, sp.sqrt(base))
    found = sp.expand(found).replace(sp.log, lambda inside: _scaled_log(inside, y))
    return found.as_independent(y, as_Add=True)[1]


def _scaled_log(inside, y: sp.Symbol) -> sp.Expr:
    """log(x + c) as log(1 + x/c), which differs by a constant and is 0 where x is."""
    constant = inside.as_independent(y, as_Add=True)[0]
    return sp.log(sp.expand(inside / constant)) if constant != 0 else sp.log(inside)
