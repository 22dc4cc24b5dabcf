"""What a derived equation looks like: text, LaTeX, HTML, and the command that prints them."""

import ast
import functools
import re
import xml.etree.ElementTree as ElementTree

import pytest
import sympy as sp
from support.derivations import CORRECTED, FUNCTIONS, derived, own
from support.rows import fast
from table import REPRESENTATIVE, ROWS

import shadowflow as sf
from shadowflow import cli
from shadowflow.lab.choices import OPTIMIZERS
from shadowflow.symbolic.printers import Latex, MathML, Text

EVERY = {
    **ROWS,
    "own": own,
    "branch": lambda: sf.Optimizer(CORRECTED, FUNCTIONS["a branch"]),
    "sharp": lambda: sf.lion(eps_root=0.0),
}

SHOWN = [*REPRESENTATIVE, "own", "branch", "sharp"]
KATEX = {
    *("beta rho gamma varepsilon lambda theta nu Phi nabla infty kappa Lambda partial").split(),
    *("frac sqrt left right sum cdot leftarrow bar tilde mathrm log tanh exp max min").split(),
    *("begin end text geq leq neq wedge vee int operatorname").split(),
}  # all that is written is among these, of which KaTeX 0.19 knows each


@functools.cache
def page(name):
    return derived(name) if name in ROWS else sf.derive(EVERY[name]())


@pytest.mark.parametrize(
    "line",
    [
        "θ′ = −(g + (h/2) s ∇‖∇E‖₁,ε)/√(g² + ε)",
        "s = (1 + β)/(1 − β) − (1 + ρ)/(1 − ρ) + ε (1 + ρ)/((1 − ρ) (g² + ε))",
        "‖∇E‖₁,ε = Σ_{j=1..d} √(g_j² + ε)",
        "g² = ε (1 − ρ) (1 + β)/(2 (ρ − β))",
        "Ẽ = E + (h/2) ((1 + β)/(1 − β) − (1 + ρ)/(1 − ρ)) ‖∇E‖₁,ε",
        "Ẽ = E + (h/4) (1 + β) ‖∇E‖²/(√ε (1 − β))",
        "θ′ = −∇Ẽ/√ε",
        "W = (1 + β) ‖∇E‖₁,ε/(1 − β) − (1 + ρ) ‖∇E‖₁,ε/(1 − ρ) − ε (1 + ρ)/((1 − ρ) √(g² + ε))",
        "c_n(β) = (1 + β)/(1 − β) − 2 β^(n+1) (n + 1)/(1 − β^(n+1))",
        "θ′ = −M/R + h ((2 P + P̄) M/(2 R³) − (2 L + L̄)/(2 R))",
        "r_k = ρ^(n−k) (1 − ρ)/(1 − ρ^(n+1))",
        "hΛ = (1 − √β)/(1 + √β)",
        "hΛ = 2 (1 + β)/(1 − β)",
        "s → 19 for |g| → 0, s → −1980 for |g| → ∞",
    ],
)
def test_adam_prints_the_paper_s_equations(line, adam_text):
    assert line in adam_text


@pytest.fixture(scope="module")
def adam_text():
    """The page of the paper's Adam, spaces drawn together."""
    return re.sub(r" +", " ", sf.derive(sf.adam(eps=0.0, eps_root=1e-8)).text())


@pytest.mark.parametrize(
    ("row", "lines"),
    [
        ("sgd", ["θ′ = −g − (h/4) ∇‖∇E‖²", "Ẽ  = E + (h/4) ‖∇E‖²", "hΛ = 2 "]),
        (
            "momentum",
            ["θ′ = −∇Ẽ/(1 − β)", "Ẽ  = E + (h/4) (1 + β) ‖∇E‖²/(1 − β)²", "− 4 β^(n+1) (n + 1)"],
        ),
        (
            "rmsprop-inside",
            [
                "1 − (1 + ρ)/(1 − ρ) + ε (1 + ρ)/((1 − ρ) (g² + ε))",
                "θ′  = −g_n/R + h ((2 P + P̄) g_n/(2 R³) − H_n F_n/(2 R))",
                "r_k = ρ^(n−k) (1 − ρ)\n",
            ],
        ),
        ("adamw", ["− λ θ − (h/2) λ Φ", "HΦ = ∇J + λ ∇(θ·∇E − E)"]),
        ("signum", ["θ′ = −Φ(∇Ẽ)", "s       = ε (1 + β)/((1 − β) (g² + ε))"]),
        ("lion", ["ε (1 + 2 β₁ − β₂)/((1 − β₂) (g² + ε))", "(1 − β₂)/(1 + √β₁)²"]),
        ("nadam", ["(1 − β + 2 β²)/(1 − β)", "A_m = Σ_{l=0..n−1}"]),
    ],
)
def test_the_other_optimizers_print_theirs(row, lines):
    text = page(row).text()
    for line in lines:
        assert line in text, text


@pytest.mark.parametrize("name", fast(SHOWN, EVERY))
def test_latex_stays_within_katex(name):
    source = page(name).latex()
    blocks = [
        "\n".join(line for line in block.splitlines() if not line.startswith("%"))
        for block in source.split("\n\n")
    ]
    for block in filter(None, blocks):
        assert set(re.findall(r"\\([a-zA-Z]+)", block.replace(r"\\", " "))) <= KATEX
        assert block.isascii(), [c for c in block if not c.isascii()]
        assert block.count("{") == block.count("}")
        assert block.count(r"\left") - block.count(r"\leftarrow") == block.count(r"\right")


@pytest.mark.parametrize("name", fast(SHOWN, EVERY))
def test_html_is_one_well_formed_page_that_needs_nothing_else(name):
    html = page(name).html()
    body = html[html.index("<body>") : html.index("</body>") + len("</body>")]
    tree = ElementTree.fromstring(body)
    assert len(list(tree.iter("math"))) >= 5
    assert all(len(list(f)) == 2 for f in tree.iter("mfrac"))
    assert "piecewise" not in body
    assert not re.search(r"://|src=|href=", html)


@pytest.mark.parametrize("name", fast(SHOWN, EVERY))
def test_text_is_for_readers(name):
    text = page(name).text()
    assert not re.search(r"Piecewise|\*\*|sqrt|Derivative|Heaviside|nan|zoo|ξ", text), text
    assert str(page(name)) == text


def test_a_name_is_a_name_in_every_format():
    name = 'own"""\nimport os\0  # \\ <b>\n"""'
    found = sf.derive(sf.Optimizer([sf.Moment(0.5)], lambda m, p, n: m[0], name))
    (function,) = ast.parse(found.python()).body
    assert isinstance(function, ast.FunctionDef)
    assert "import os" in ast.get_docstring(function)
    comment = found.latex().splitlines()[0]
    assert comment.startswith("% The optimizer: own") and "import os" in comment
    assert "<b>" not in found.html() and "&lt;b&gt;" in found.html()


X, B, R = sp.Symbol("g"), sp.Symbol("β", positive=True), sp.Symbol("ρ", positive=True)


@pytest.mark.parametrize(
    ("expression", "text", "latex"),
    [
        (1 - B, "1 − β", r"1 - \beta "),
        (B - R, "β − ρ", r"\beta  - \rho "),
        (X**2 + sp.Rational(1, 1000), "g² + 0.001", "g^{2} + 0.001"),
        (sp.Rational(1, 10**8) + X, "g + 1.0e−8", r"g + 1.0 \cdot 10^{-8}"),
        (-X / 2, "−g/2", r"- \frac{g}{2}"),
        (X / (1 - B) / 3, "g/(3 (1 − β))", r"\frac{g}{3 \left(1 - \beta \right)}"),
        (sp.sqrt(X**2 + 1), "√(g² + 1)", r"\sqrt{g^{2} + 1}"),
        (sp.Symbol("P̄"), "P̄", r"\bar{P}"),
    ],
)
def test_small_formulas(expression, text, latex):
    assert Text().doprint(expression) == text
    assert Latex().doprint(expression) == latex
    ElementTree.fromstring(f"<math>{MathML().doprint(expression)}</math>")


@pytest.mark.parametrize("form", ["text", "latex", "python", "html"])
def test_the_command_prints_what_the_call_gives(form, capsys):
    words = ["derive", "opt:signum", "--opt.eps-root", "1e-4", "--format", form]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == getattr(sf.derive(sf.signum(eps_root=1e-4)), form)()


def test_the_command_writes_a_file(tmp_path, capsys):
    file = tmp_path / "sgd.html"
    assert cli.main(["derive", "opt:sgd", "--format", "html", "--out", str(file)]) == 0
    assert capsys.readouterr().out == ""
    assert file.read_text() == sf.derive(sf.sgd()).html()


def test_the_command_refuses_in_a_sentence(tmp_path, capsys):
    assert cli.main(["derive", "--out", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "--out: expected a file that can be written, got" in said and "it is a folder" in said
    assert cli.main(["derive", "opt:adam", "--opt.b1", "1.5"]) == 2
    assert "--opt.b1: expected" in capsys.readouterr().err


def test_every_optimizer_of_the_zoo_is_offered():
    for name, kind in OPTIMIZERS.items():
        assert cli.parse(["derive", f"opt:{name}"]).opt == kind()


def test_the_command_takes_an_optimizer_from_a_file(tmp_path, capsys):
    file = tmp_path / "mine.py"
    file.write_text(
        "import shadowflow as sf\n"
        "own = sf.Optimizer([sf.Moment(0.5)], lambda ms, params, step: ms[0], 'own')\nother = 3\n"
    )
    assert cli.main(["derive", "--own", f"{file}:own"]) == 0
    assert "(1 + β)/(1 − β)" in capsys.readouterr().out
    for words, said in (
        (["--own", f"{file}:other"], "expected a shadowflow.Optimizer, got a int"),
        (["--own", f"{file}:no"], "--own: expected a name of"),
        (["opt:sgd", "--own", f"{file}:own"], "--own: expected none beside opt"),
    ):
        assert cli.main(["derive", *words]) == 2
        assert said in capsys.readouterr().err
