"""Formulas as text, LaTeX, MathML and numpy: SymPy's printers, with terms in a paper's order."""

from __future__ import annotations

import re
import textwrap
from html import escape, unescape
from typing import TYPE_CHECKING, Any
from xml.dom.minidom import Document

import sympy as sp
from sympy.printing.latex import LatexPrinter
from sympy.printing.mathml import MathMLPresentationPrinter
from sympy.printing.numpy import NumPyPrinter
from sympy.printing.precedence import PRECEDENCE
from sympy.printing.printer import Printer
from sympy.printing.str import StrPrinter

from .model import GRADIENT, PUSHED, RATE, THETA, Model

if TYPE_CHECKING:
    from .sections import Formula, Section

LONGEST = 9  # a number with a denominator above this is written as a decimal
SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
DIGITS = str.maketrans("₀₁₂₃₄₅₆₇₈₉", "0123456789")
COMMANDS = {
    **{"β": "beta", "ρ": "rho", "γ": "gamma", "ε": "varepsilon", "λ": "lambda", "θ": "theta"},
    **{"ν": "nu", "Φ": "Phi", "Λ": "Lambda", "∇": "nabla", "∂": "partial", "·": "cdot", "∫": "int"},
}
LATEX = {ord(letter): rf"\{command} " for letter, command in COMMANDS.items()}
LATEX |= str.maketrans({"‖": r"\|", "′": "'", "−": "-", "²": "^{2}", "Ẽ": r"\tilde{E}"})


def decimals(expression) -> sp.Expr:
    """With decimals in the place of long fractions."""
    long = [n for n in sp.sympify(expression).atoms(sp.Rational) if n.q > LONGEST]
    return sp.sympify(expression).xreplace({n: sp.Float(n, 6) for n in long})


class Trailing(sp.Symbol):
    """A symbol that stands behind the other factors: (1 − β) g, λ θ."""

    @classmethod
    def class_key(cls):
        return 6, 0, cls.__name__


def _data(symbol) -> bool:
    """Whether it is neither a hyper-parameter nor an index."""
    return not symbol.is_positive and not symbol.is_integer


class Ordered(Printer):
    """What the three printers share: 1 − β, g² + ε and E + (h/2) J in this order, h/2 in front."""

    def doprint(self, expr) -> str:
        shown = decimals(expr)
        symbols: Any = shown.free_symbols
        late = {s: Trailing(s.name, **s.assumptions0) for s in symbols if _data(s)}
        return super().doprint(shown.xreplace(late))

    def _as_ordered_terms(self, expr, order=None) -> list:
        terms = sorted(sp.Add.make_args(expr), key=_rank)
        first = next((t for t in terms if not t.could_extract_minus_sign()), terms[0])
        if _later(first) <= _later(terms[0]):
            terms.insert(0, terms.pop(terms.index(first)))
        return terms

    def _print_Mul(self: Any, expr):
        usual: Any = super()
        number = expr.as_coeff_Mul()[0]
        step, rest = number * RATE, expr / (number * RATE)
        share = number.is_Rational and number.is_positive and not number.is_Integer
        if not share or RATE not in expr.args or rest == 1:
            return usual._print_Mul(expr)
        return self.beside(step, self.parenthesize(rest, PRECEDENCE["Mul"], strict=True))


def _later(term) -> bool:
    """Whether it is of the order of h."""
    return RATE in sp.Mul.make_args(term)


def _rank(term) -> tuple:
    """Without h first; then polynomials in g, the step n, hyper-parameters, fractions in g, θ."""
    below = sp.fraction(term)[1]
    driven, low = (any(map(_data, part.free_symbols)) for part in (term, below))
    turning = any("θ" in s.name for s in term.free_symbols)
    counting = any(s.is_integer for s in term.free_symbols)
    group = 4 if turning else 3 if low else 0 if driven else 1 if counting else 2
    return _later(term), group, sp.default_sort_key(term)


class Text(Ordered, StrPrinter):
    """Unicode on one line.

    >>> Text().doprint(sp.sqrt(sp.Symbol("g") ** 2 + 1) / 2)
    '√(g² + 1)/2'
    """

    def __init__(self):
        super().__init__({"full_prec": False})

    def doprint(self, expr) -> str:
        text = re.sub(r"sqrt\((\w+)\)", r"√\1", super().doprint(expr)).replace("sqrt", "√")
        text = re.sub(r"\*\*\([^()]+\)", _tight, text)
        text = re.sub(r"\*\*(\d+)(?![\d.])", lambda power: power[1].translate(SUPERSCRIPTS), text)
        for sign, written in {"**": "^", "*": " ", "-": "−", ">=": "≥", "<=": "≤"}.items():
            text = text.replace(sign, written)
        return text

    def beside(self, step, rest):
        return f"({self._print(step)})*{rest}"

    def _print_Mul(self, expr):
        down = RATE in expr.args and expr.could_extract_minus_sign()
        return f"-{self._print(-expr)}" if down else super()._print_Mul(expr)

    def _print_Abs(self, expr):
        return f"|{self._print(expr.args[0])}|"

    def _print_Max(self, expr):
        return f"{expr.func.__name__.lower()}({self.stringify(expr.args, ', ')})"

    _print_Min = _print_Max

    def _print_Sum(self, expr):
        index, first, last = map(self._print, expr.limits[0])
        inside = self.parenthesize(expr.function, PRECEDENCE["Mul"], strict=True)
        return f"Σ_{{{index}={first}..{last.replace(' ', '')}}} {inside}"

    def _print_Piecewise(self, expr):
        cases = (
            f"{self._print(value)} if {self._print(where)}"
            if where != sp.true
            else f"else {self._print(value)}"
            for value, where in expr.args
        )
        return "{" + ", ".join(cases) + "}"


def _tight(power: re.Match) -> str:
    """**(2*n + 2) as **(2n+2)."""
    return "**" + power[0][2:].replace(" ", "").replace("*", "")


class Latex(Ordered, LatexPrinter):
    r"""LaTeX of KaTeX's subset.

    >>> Latex().doprint(sp.Symbol("β₁") / 2)
    '\\frac{\\beta _{1}}{2}'
    """

    def beside(self, step, rest):
        return f"{self._print(step)} {rest}"

    def _deal_with_super_sub(self, string, style="plain"):
        if len(string) > 2 and string.isascii() and string.isidentifier() and string[1] != "_":
            return r"\mathrm{" + string.replace("_", r"\_") + "}"
        name = re.sub("(.)\u0304", r"\\bar{\1}", string)
        name = re.sub(r"([₀-₉]+)_(\w+)", r"_{\1,\2}", name)
        name = re.sub(r"_(\w+)", r"_{\1}", name)
        name = re.sub("[₀-₉]+(,ε)?", lambda low: f"_{{{low[0].translate(DIGITS)}}}", name)
        return name.translate(LATEX)


class MathML(Ordered, MathMLPresentationPrinter):
    """Presentation MathML, without the enclosing element."""

    def __init__(self):
        super().__init__({"mul_symbol": "\u2062"})  # an invisible times
        plain = Document()  # SymPy's own text is written without escapes
        self.dom.createTextNode = lambda data: plain.createTextNode(unescape(data))

    def _row(self, *parts, tag="mrow") -> Any:
        row: Any = self.dom.createElement(tag)
        for part in parts:
            row.appendChild(part)
        return row

    def _print_Symbol(self, sym, style="plain"):
        usual: Any = super()
        return self._row(*(usual._print_Symbol(sp.Symbol(part)) for part in sym.name.split()))

    def beside(self, step, rest):
        return self._row(self._print(step), rest)

    def _print_AppliedUndef(self, expr):
        name = sp.Symbol(expr.func.__name__)
        return self._row(self._print(name), self._paren_comma_separated(*expr.args))

    def _print_Piecewise(self, expr):
        rows = []
        for value, where in expr.args:
            shown = sp.Symbol("else") if where == sp.true else where
            cells = [self._row(self._print(part), tag="mtd") for part in (value, shown)]
            rows.append(self._row(*cells, tag="mtr"))
        return self._row(self._l_brace(), self._row(*rows, tag="mtable"))


WIDTH = 96
STYLE = """
body { font-family: serif; max-width: 50rem; margin: 2rem auto; padding: 0 1rem; line-height: 1.5 }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
math { font-size: 1.1rem } .formula { margin: .6rem 0 .6rem 1.5rem; overflow-x: auto }
.remark { color: #555; margin-left: 1rem } details { color: #555; font-size: .85rem }
code { white-space: pre-wrap }
"""


def text(sections: list[Section]) -> str:
    """A title, then lines; formulas are indented, their equals signs below one another."""
    say = Text().doprint
    blocks = []
    for section in sections:
        lines = [section.title, "-" * len(section.title)]
        width = max((len(say(formula.left)) for formula in _formulas(section)), default=0)
        for item in section.items:
            if isinstance(item, str):
                lines += textwrap.wrap(item, WIDTH)
            else:
                remark = f"    ({item.remark})" if item.remark else ""
                left, right = say(item.left), say(item.right)
                lines.append(f"  {left:{width}} {item.relation} {right}{remark}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def latex(sections: list[Section]) -> str:
    """Words as % comments, the formulas of a section as one ``aligned`` block."""
    blocks = []
    for section in sections:
        lines = [f"% {section.title}"]
        for item in section.items:
            if isinstance(item, str):
                said = item
            else:
                said = item.remark and f"{Text().doprint(item.left)}: {item.remark}"
            lines += [f"%   {line}" for line in textwrap.wrap(said, WIDTH)]
        rows = " \\\\\n".join(_row(formula, "&") for formula in _formulas(section))
        if rows:
            lines.append(f"\\begin{{aligned}}\n{rows}\n\\end{{aligned}}")
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks) + "\n"


def _formulas(section: Section) -> list[Formula]:
    return [item for item in section.items if not isinstance(item, str)]


def _row(formula: Formula, mark: str = "") -> str:
    """One formula in LaTeX; ``mark`` stands before the relation."""
    relation = {"←": r"\leftarrow"}.get(formula.relation, formula.relation)
    say = Latex().doprint
    return f"{say(formula.left)} {mark}{relation} {say(formula.right)}"


def html(name: str, sections: list[Section]) -> str:
    """A page in itself: MathML, under each section the LaTeX of its formulas."""
    title = f"The modified equation of {escape(name)}"
    body = "\n".join(map(_html_section, sections))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f"<title>{title}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{title}</h1>\n"
        f"{body}\n</body>\n</html>\n"
    )


def _html_section(section: Section) -> str:
    say = MathML().doprint
    parts = [f"<section>\n<h2>{escape(section.title)}</h2>"]
    for item in section.items:
        if isinstance(item, str):
            parts.append(f"<p>{escape(item)}</p>")
            continue
        remark = f'<span class="remark">{escape(item.remark)}</span>' if item.remark else ""
        row = f"<mrow>{say(item.left)}<mo>{item.relation}</mo>{say(item.right)}</mrow>"
        parts.append(f'<div class="formula"><math>{row}</math>{remark}</div>')
    if source := "\n".join(escape(_row(formula)) for formula in _formulas(section)):
        parts.append(f"<details><summary>LaTeX</summary><code>{source}</code></details>")
    return "\n".join([*parts, "</section>"])


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
