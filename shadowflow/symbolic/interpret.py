"""A pointwise JAX function read as a SymPy expression, primitive by primitive."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import sympy as sp


def recorded(function: Callable, *likes) -> Callable:
    """``function`` of scalars as a function of SymPy expressions, one per leaf of ``likes``.

    likes: pytrees of numbers that say what the arguments look like. Comparisons are decided at
    a generic point: two expressions that are not identical are taken for different, so a guard
    at a single point (a root at 0) drops out. Numbers become exact rationals.

    Raises ValueError that names the primitive which it does not know.

    >>> x = sp.Symbol("x", positive=True)
    >>> recorded(lambda x: jax.numpy.where(x == 0, 0.0, x / x**0.5), 1.0)(x)
    sqrt(x)
    """
    with jax.enable_x64(True):  # so that the numbers in it keep all their digits
        closed = jax.make_jaxpr(function)(*likes)
    return lambda *inputs: sp.sympify(_run(closed.jaxpr, closed.consts, inputs)[0])


def number(value) -> Any:
    """A number as an exact rational, the shortest decimal that rounds to it.

    >>> number(0.1), number(np.float32(1e-8)), number(float("inf"))
    (1/10, 1/100000000, oo)
    """
    value = np.asarray(value)
    if value.shape != ():
        raise ValueError(
            f"optimizer: expected numbers that are the same for every coordinate, got an array "
            f"of shape {value.shape}; derive the equation for one coordinate's number."
        )
    if value.dtype == bool:
        return sp.true if value else sp.false
    return {"inf": sp.oo, "-inf": -sp.oo, "nan": sp.nan}.get(text := str(value[()])) or sp.Rational(
        text
    )


def _run(jaxpr, consts: Sequence, inputs: Sequence) -> list:
    values = dict(zip(jaxpr.constvars, map(number, consts), strict=True))
    values |= dict(zip(jaxpr.invars, inputs, strict=True))
    for equation in jaxpr.eqns:
        found = _apply(equation, [_read(values, atom) for atom in equation.invars])
        values |= dict(zip(equation.outvars, found, strict=True))
    return [_read(values, atom) for atom in jaxpr.outvars]


def _read(values: dict, atom):
    return number(atom.val) if hasattr(atom, "val") else values[atom]


def _apply(equation, inputs: list) -> list:
    name, options = equation.primitive.name, equation.params
    inner = next(
        (options[key] for key in ("jaxpr", "call_jaxpr", "fun_jaxpr") if key in options), None
    )
    if inner is not None and name not in ("scan", "while", "cond"):
        return _run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), inputs)
    if name in UNCHANGED:
        return [inputs[0]]
    if name == "integer_pow":
        return [inputs[0] ** options["y"]]
    if name in OPERATIONS:
        return [OPERATIONS[name](*inputs)]
    raise ValueError(
        f"combine: expected operations that SymPy can take the derivative of, got the primitive "
        f"{name!r}; known are {', '.join(sorted({*OPERATIONS, *UNCHANGED}))}."
    )


def _select(condition, *cases):
    if condition in (sp.true, sp.false):
        return cases[bool(condition)]
    if not condition.is_Relational and not condition.is_Boolean:
        return cases[int(condition)]
    return sp.Piecewise((cases[1], condition), (cases[0], True))


UNCHANGED = (
    *("convert_element_type copy copy_p stop_gradient reduce_precision real").split(),
    *("broadcast_in_dim reshape squeeze optimization_barrier").split(),
)
# what SymPy knows by the same name
SAME = (
    "sqrt exp log sign sin cos tan asin acos atan atan2 sinh cosh tanh asinh acosh atanh erf erfc"
)
OPERATIONS: dict[str, Callable] = {
    **{name: getattr(sp, name) for name in SAME.split()},
    # two expressions that are not identical differ at a generic point
    "eq": lambda x, y: sp.true if x == y else sp.false,
    "ne": lambda x, y: sp.false if x == y else sp.true,
    **{"lt": sp.Lt, "le": sp.Le, "gt": sp.Gt, "ge": sp.Ge},
    **{"and": sp.And, "or": sp.Or, "not": sp.Not, "select_n": _select},
    **{"add": sp.Add, "add_any": sp.Add, "mul": sp.Mul, "max": sp.Max, "min": sp.Min},
    **{"neg": operator.neg, "sub": operator.sub, "div": operator.truediv, "pow": operator.pow},
    "integer_pow": operator.pow,
    "abs": sp.Abs,
    "square": lambda x: x**2,
    "rsqrt": lambda x: 1 / sp.sqrt(x),
    "cbrt": lambda x: sp.sign(x) * sp.Abs(x) ** sp.Rational(1, 3),
    "exp2": lambda x: 2**x,
    "expm1": lambda x: sp.exp(x) - 1,
    "log1p": lambda x: sp.log(1 + x),
    "logistic": lambda x: 1 / (1 + sp.exp(-x)),
    "clamp": lambda low, x, high: sp.Max(low, sp.Min(x, high)),
    "is_finite": lambda x: sp.false if x.is_infinite else sp.true,
}
