"""The settled equation as the source of a numpy function."""

from __future__ import annotations

import sympy as sp
from sympy.printing.numpy import NumPyPrinter

from .model import GRADIENT, PUSHED, RATE, THETA, Model


class Source(NumPyPrinter):
    """NumPy's, with ``np.`` before its functions."""

    def _module_format(self, fqn, register=True):
        return super()._module_format(fqn, register).replace("numpy.", "np.")


def python(model: Model, field: sp.Expr) -> str:
    """The source of a function ``modified_field`` that gives ``field``, with its one import."""
    taken = {GRADIENT: "g", PUSHED: "hd", RATE: "learning_rate", THETA: "params"}
    taken |= {hyper.symbol: hyper.name for hyper in model.hypers}
    names = {symbol: sp.Symbol(name, real=True) for symbol, name in taken.items()}
    shared, (value,) = sp.cse(field.xreplace(names), symbols=sp.numbered_symbols("x"))
    printer = Source()
    lines = [f"    {symbol} = {printer.doprint(part)}" for symbol, part in shared]
    body = "\n".join([*lines, f"    return {printer.doprint(value)}"])
    params = ["params"] if model.reads_params else []
    keywords = [f"{hyper.name}={hyper.value!r}" for hyper in model.hypers]
    star = ["*"] if keywords else []
    arguments = ", ".join(["g", "hd", "learning_rate", *params, *star, *keywords])
    name = model.name.replace("\\", "\\\\").replace('"', "'")
    return f'''{"import numpy as np" if "np." in body else ""}


def modified_field({arguments}):
    """d params / d time of {name}: settled memory, full batch.

    g: the gradient; hd: the Hessian times the memoryless direction at g.
    """
{body}
'''.lstrip()
