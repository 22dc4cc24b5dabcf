"""Text, LaTeX and MathML: the three ways in which a laid-out formula is written."""

from __future__ import annotations

import re
from html import escape

SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
SUBSCRIPTS = {ord(low): high for low, high in zip("₀₁₂₃₄₅₆₇₈₉", "0123456789", strict=True)}
LATEX = {
    "β": r"\beta",
    "ρ": r"\rho",
    "γ": r"\gamma",
    "ε": r"\varepsilon",
    "λ": r"\lambda",
    "θ": r"\theta",
    "ν": r"\nu",
    "Φ": r"\Phi",
    "∇": r"\nabla ",
    "‖": r"\|",
    "∞": r"\infty",
    "κ": r"\kappa",
    "Λ": r"\Lambda",
    "′": "'",
    "∂": r"\partial ",
    "·": r"\cdot ",
    "−": "-",
    "²": "^2",
    "∫": r"\int ",
}


SIGNS = {
    "−": "-",
    "·": r"\cdot",
    "≠": r"\ne",
    "≥": r"\ge",
    "≤": r"\le",
    "∧": r"\land",
    "∨": r"\lor",
}


def atoms(name: str) -> list[tuple[str, str, str]]:
    """A symbol's name as (letter, accent, subscript) in a row.

    >>> atoms("H_n F_n"), atoms("P̄"), atoms("β₁")
    ([('H', '', 'n'), ('F', '', 'n')], [('P', '¯', '')], [('β', '', '1')])
    """
    found: list[list[str]] = []
    low = False
    for letter in name:
        if letter in "\u0304\u0303":
            found[-1][1] = "¯" if letter == "\u0304" else "~"
        elif letter == "Ẽ":
            found.append(["E", "~", ""])
        elif letter == "_":
            low = True
        elif ord(letter) in SUBSCRIPTS:
            found[-1][2] += letter.translate(SUBSCRIPTS)
        elif letter == "," or low:
            found[-1][2] += letter.strip()
            low = letter == ","
        elif letter != " ":
            found.append([letter, "", ""])
    return [(a, b, c) for a, b, c in found]


def tight(text: str) -> str:
    """Without spaces, as small print is set."""
    return text.replace(" ", "")


class Text:
    """Unicode on one line: −(g + (h/2) s ∇J)/√(g² + ε)."""

    join = " "

    def symbol(self, name):
        return name

    def number(self, text):
        return text.replace("-", "−")

    def fraction(self, above, below, simple):
        above = above if simple[0] else f"({above})"
        return f"{above}/{below if simple[1] else f'({below})'}"

    def root(self, inside, simple):
        return f"√{inside}" if simple else f"√({inside})"

    def power(self, base, exponent, whole):
        if whole and exponent.isdigit():
            return base + exponent.translate(SUPERSCRIPTS)
        return f"{base}^{exponent}" if exponent.isalnum() else f"{base}^({tight(exponent)})"

    def brackets(self, inside):
        return f"({inside})"

    def bars(self, inside):
        return f"|{inside}|"

    def call(self, name, inside):
        return f"{name}({inside})"

    def total(self, inside, index, first, last):
        return (
            f"Σ_j {inside}" if index is None else (f"Σ_{{{index}={first}..{tight(last)}}} {inside}")
        )

    def sign(self, text):
        return text

    def leading(self, text):
        outside = re.sub(r"\([^()]*\)", "", text)
        return f"({text})" if "/" in outside and " " not in text else text

    def cases(self, cases):
        told = [
            f"{value} if {condition}" if condition else f"else {value}"
            for value, condition in cases
        ]
        return "{" + ", ".join(told) + "}"


class Latex:
    """LaTeX of KaTeX's subset."""

    join = r" \, "

    def symbol(self, name):
        if name == "|g|":
            return r"\left|g\right|"
        if len(name) > 2 and name.isascii() and name.isidentifier() and name[1] != "_":
            return r"\mathrm{" + name.replace("_", r"\_") + "}"
        return "".join(self._atom(*atom) for atom in atoms(name))

    def _atom(self, letter, accent, low):
        plain = LATEX.get(letter, letter)
        plain = {"¯": rf"\bar{{{plain}}}", "~": rf"\tilde{{{plain}}}"}.get(accent, plain)
        return (
            plain
            + (f"_{{{''.join(LATEX.get(c, c) for c in low)}}}" if low else "")
            + ("" if plain[-1:] in " }" or low else " " * plain.startswith("\\"))
        )

    def number(self, text):
        base, e, exponent = text.partition("e")
        return rf"{base} \cdot 10^{{{int(exponent)}}}" if e else text

    def fraction(self, above, below, simple):
        return rf"\frac{{{above}}}{{{below}}}"

    def root(self, inside, simple):
        return rf"\sqrt{{{inside}}}"

    def power(self, base, exponent, whole):
        return f"{{{base}}}^{{{exponent}}}"

    def brackets(self, inside):
        return rf"\left({inside}\right)"

    def bars(self, inside):
        return rf"\left|{inside}\right|"

    def call(self, name, inside):
        known = {"log", "exp", "tanh", "sinh", "cosh", "sin", "cos", "tan", "max", "min"}
        plain = name in LATEX or "_" in name
        written = (
            self.symbol(name)
            if plain
            else (rf"\{name}" if name in known else rf"\operatorname{{{name}}}")
        )
        return rf"{written}\left({inside}\right)"

    def total(self, inside, index, first, last):
        return (
            rf"\sum_j {inside}"
            if index is None
            else (rf"\sum_{{{index}={first}}}^{{{last}}} {inside}")
        )

    def sign(self, text):
        for plain, written in SIGNS.items():
            text = text.replace(plain, written)
        return text

    def leading(self, text):
        return text

    def cases(self, cases):
        rows = [value + " & " + (condition or r"\text{else}") for value, condition in cases]
        body = r" \\ ".join(rows)
        return rf"\begin{{cases}} {body} \end{{cases}}"


class MathML:
    """Presentation MathML, without the enclosing element."""

    join = "<mspace width='0.17em'/>"

    def symbol(self, name):
        if name == "|g|":
            return self.bars("<mi>g</mi>")
        if len(name) > 2 and name.isascii() and name.isidentifier() and name[1] != "_":
            return f"<mi>{name}</mi>"
        return f"<mrow>{''.join(self._atom(*atom) for atom in atoms(name))}</mrow>"

    def _atom(self, letter, accent, low):
        tag = "mo" if letter in "∇‖′∂·−" else "mi"
        plain = f"<{tag}>{escape(letter)}</{tag}>"
        if accent:
            plain = f"<mover accent='true'>{plain}<mo>{accent}</mo></mover>"
        return f"<msub>{plain}<mi>{escape(low)}</mi></msub>" if low else plain

    def number(self, text):
        base, e, exponent = text.partition("e")
        if not e:
            return f"<mn>{text}</mn>"
        power = f"<msup><mn>10</mn><mn>{int(exponent)}</mn></msup>"
        return f"<mrow><mn>{base}</mn><mo>·</mo>{power}</mrow>"

    def fraction(self, above, below, simple):
        return f"<mfrac><mrow>{above}</mrow><mrow>{below}</mrow></mfrac>"

    def root(self, inside, simple):
        return f"<msqrt>{inside}</msqrt>"

    def power(self, base, exponent, whole):
        return f"<msup><mrow>{base}</mrow><mrow>{exponent}</mrow></msup>"

    def brackets(self, inside):
        return f"<mrow><mo>(</mo>{inside}<mo>)</mo></mrow>"

    def bars(self, inside):
        return f"<mrow><mo>|</mo>{inside}<mo>|</mo></mrow>"

    def call(self, name, inside):
        plain, _, low = name.partition("_")
        head = f"<msub><mi>{plain}</mi><mi>{low}</mi></msub>" if low else f"<mi>{plain}</mi>"
        return f"<mrow>{head}{self.brackets(inside)}</mrow>"

    def total(self, inside, index, first, last):
        if index is None:
            return f"<mrow><munder><mo>∑</mo><mi>j</mi></munder>{inside}</mrow>"
        below = f"<mrow>{index}<mo>=</mo>{first}</mrow>"
        head = f"<munderover><mo>∑</mo>{below}<mrow>{last}</mrow></munderover>"
        return f"<mrow>{head}{inside}</mrow>"

    def sign(self, text):
        return f"<mo>{escape(text.strip())}</mo>"

    def leading(self, text):
        return text

    def cases(self, cases):
        rows = "".join(
            f"<mtr><mtd>{value}</mtd><mtd>{condition or '<mtext>else</mtext>'}</mtd></mtr>"
            for value, condition in cases
        )
        return f"<mrow><mo>{{</mo><mtable columnalign='left'>{rows}</mtable></mrow>"
