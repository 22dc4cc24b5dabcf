"""The settled equation as the source of a numpy function."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import sympy as sp
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.precedence import precedence

from .layout import LONG
from .model import GRADIENT, RATE, THETA

if TYPE_CHECKING:
    from .derivation import Derivation


class Printer(NumPyPrinter):
    """Numpy's, with 1/x for the power −1."""

    def _print_Pow(self, expr, rational=False):
        if expr.exp == -1:
            return f"1/{self.parenthesize(expr.base, precedence(expr))}"
        return super()._print_Pow(expr, rational=rational)


def python(derivation: Derivation) -> str:
    """A function ``modified_field`` with its one import."""
    from .derivation import PUSHED

    model = derivation.model
    taken = {GRADIENT: "g", PUSHED: "hd", RATE: "learning_rate", THETA: "params"}
    taken |= {hyper.symbol: hyper.name for hyper in model.hypers}
    names = {symbol: sp.Symbol(name, real=True) for symbol, name in taken.items()}
    field = derivation.field.xreplace(names)
    field = field.xreplace({n: sp.Float(n) for n in field.atoms(sp.Rational) if n.q > LONG**2})
    shared, (value,) = sp.cse(field, symbols=sp.numbered_symbols("x"))
    printer = Printer({"fully_qualified_modules": False})
    lines = [f"    {symbol} = {printer.doprint(part)}" for symbol, part in shared]
    lines.append(f"    return {printer.doprint(value)}")
    functions = sorted(printer.module_imports.get("numpy", ()))
    body = "\n".join(lines)
    for function in functions:
        body = re.sub(rf"(?<![\w.]){function}\(", f"np.{function}(", body)
    params = ["params"] if model.reads_params else []
    keywords = [f"{hyper.name}={hyper.value!r}" for hyper in model.hypers]
    arguments = ", ".join(
        ["g", "hd", "learning_rate", *params, *(["*"] if keywords else []), *keywords]
    )
    words = (
        f'    """d params / d time of {model.name}: settled memory, full batch.\n\n'
        '    g: the gradient; hd: the Hessian times the memoryless direction at g.\n    """'
    )
    imports = "import numpy as np\n\n\n" if functions else ""
    return f"{imports}def modified_field({arguments}):\n{words}\n{body}\n"
