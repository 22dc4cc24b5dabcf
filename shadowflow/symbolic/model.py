"""An optimizer as symbols: its moments, its combine function, its hyper-parameters."""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from typing import Any, NamedTuple

import equinox as eqx
import jax
import numpy as np
import sympy as sp

from ..optimizers.moments import Moment, Optimizer, identity, square
from .algebra import DECAYS, slope, tidy, vanishes

GRADIENT, SIZE = sp.Symbol("g", real=True), sp.Symbol("|g|", positive=True)
THETA = sp.Symbol("θ", real=True)
STEP, PAST = sp.symbols("n l", integer=True, nonnegative=True)
MIXED = sp.Symbol("X", real=True)
RATE, PUSHED = sp.Symbol("h", positive=True), sp.Symbol("HΦ", real=True)
RESERVED = {*"hgsmnlkdjEJKLMPQRDVWXAFH", "θ", "ν"}  # what else is written in the equation
NAMES = {"b1": "β₁", "b2": "ρ", "eps": "ε", "eps_root": "ε", "weight_decay": "λ"}
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter: its symbol, the name under which code knows it, its number."""

    symbol: sp.Symbol
    name: str
    value: float


@dataclass(frozen=True)
class Average:
    """A moment in symbols: its letter, its decay (a symbol, or 0), ψ, whether it is corrected.

    kind: "g", "g²", or "" for another transform.
    """

    letter: sp.Symbol
    decay: sp.Expr
    transform: Callable
    corrected: bool
    kind: str

    @property
    def factor(self) -> sp.Expr:
        """2 (mean age + ½) when settled: (1 + β)/(1 − β), and 1 without memory."""
        return (1 + self.decay) / (1 - self.decay)

    def slope(self, y) -> sp.Expr:
        """ψ' at y."""
        return slope(self.transform(GRADIENT), GRADIENT).subs(GRADIENT, y)

    def weight(self, step) -> sp.Expr:
        """The sum of its weights: 1 with bias correction, else 1 − β^{n+1}."""
        if self.corrected or self.decay == 0 or step == sp.oo:
            return sp.Integer(1)
        return 1 - self.decay ** (step + 1)

    def share(self, past, step) -> sp.Expr:
        """Σ_{k≤l} w_{n,k}, the weight of what is older than step l: β^{n−l} (1−β^{l+1}) / c_n."""
        weight = self.decay ** (step - past) * (1 - self.decay ** (past + 1))
        return weight / (1 - self.decay ** (step + 1)) if self.corrected else weight


class Answer(NamedTuple):
    """Φ and its derivatives in the moments, in their letters and perhaps X, a mixture of them."""

    direction: sp.Expr
    partials: tuple[sp.Expr, ...]
    mixture: dict[sp.Symbol, sp.Expr]


@dataclass(frozen=True)
class Model:
    """An optimizer in symbols; direction(moments, θ, step) gives Φ as an expression.

    y: the variable that the algebra is done in, |g| where the direction is odd in g, else g
    itself; ``restore`` writes |g| in terms of g again.
    """

    name: str
    averages: tuple[Average, ...]
    hypers: tuple[Hyper, ...]
    direction: Callable
    y: sp.Symbol
    reads_params: bool
    notes: tuple[str, ...]

    @property
    def letters(self) -> tuple[sp.Symbol, ...]:
        return tuple(average.letter for average in self.averages)

    def restore(self, expression) -> sp.Expr:
        """The same in terms of g."""
        return sp.sympify(expression).subs(SIZE, sp.Abs(GRADIENT))

    def answer(self, letters, step) -> Answer:
        """Φ and ∂_iΦ as expressions in symbols for the moments."""
        whole = self.direction(letters, THETA, step)
        mixed = _mixture(whole, letters)
        short = whole if mixed is None else whole.subs(mixed, MIXED)
        chain = tidy(slope(short, MIXED))
        partials = tuple(
            tidy(slope(short, letter)) + chain * tidy(slope(mixed or 0, letter))
            for letter in letters
        )
        return Answer(short, partials, {} if mixed is None else {MIXED: mixed})

    def answer_at(self, values, step) -> tuple[sp.Expr, tuple[sp.Expr, ...]]:
        """(Φ, (∂_iΦ…)) at values of the moments."""
        direction, partials, mixture = self.answer(self.letters, step)
        here: dict[Any, Any] = dict(zip(self.letters, values, strict=True))
        here |= {symbol: tidy(mixed.subs(here)) for symbol, mixed in mixture.items()}
        return direction.subs(here), tuple(part.subs(here) for part in partials)

    def signed(self, direction) -> sp.Expr:
        """A direction at y in terms of g: the odd part with the sign of g."""
        if self.y is not SIZE:
            return direction
        driven, offset = apart_from_theta(direction, self.y)
        kappa = tidy(driven / self.y)
        smooth = kappa.subs(self.y, 0).is_finite
        part = GRADIENT * kappa if smooth else sp.sign(GRADIENT) * tidy(driven)
        return self.restore(part) + offset

    def numbers(self) -> dict[Any, sp.Expr]:
        """Symbol → the optimizer's own number, as an exact rational."""
        return {hyper.symbol: number(hyper.value) for hyper in self.hypers}


def model_of(optimizer: Optimizer) -> Model:
    """The optimizer in symbols. Numbers in ``combine`` get a symbol where they are its leaves.

    A leaf that is 0 or 1 stays a number (an eps of 1 does not); a leaf with the value of a
    moment's decay is that decay.
    Raises ValueError for a primitive that is not known, naming it, for arrays of numbers, and
    for a direction that is not finite or reads no moment.
    """
    numbers, rest = eqx.partition(optimizer.combine, eqx.is_array_like)
    paths, tree = jax.tree_util.tree_flatten_with_path(numbers)
    leaves = [leaf for _, leaf in paths]
    values = [float(number(moment.decay)) for moment in optimizer.moments]
    hypers, decays, symbols = _named(
        optimizer, values, [(_name(path), _float(leaf)) for path, leaf in paths]
    )
    one, notes = np.float64(1.0), []
    likes = (leaves, [one for _ in values], one, one)
    rebuilt = lambda leaves: eqx.combine(jax.tree.unflatten(tree, leaves), rest)
    try:
        combine = recorded(lambda leaves, m, *rest: rebuilt(leaves)(tuple(m), *rest), *likes)
    except jax.errors.ConcretizationTypeError:
        combine = recorded(lambda _, m, *rest: optimizer.combine(tuple(m), *rest), *likes)
        hypers = [hyper for hyper in hypers if hyper.symbol in decays]
        notes = ["combine decides by the values of its numbers, which therefore stay numbers."]

    def direction(moments, theta, step):
        found = combine(*symbols, *moments, theta, step)
        over = [p for p in found.atoms(sp.Pow) if p.exp is sp.oo and p.base in decays]
        return found.xreplace(dict.fromkeys(over, sp.Integer(0)))

    averages = tuple(
        Average(letter, decay, recorded(moment.transform, one), moment.corrected, kind(moment))
        for letter, decay, moment in zip(
            _letters(optimizer), decays, optimizer.moments, strict=True
        )
    )
    odd, jumps = _parity(averages, direction)
    if jumps:
        notes.append("sign(x) = x/|x| is given the derivative 0, which holds away from 0 only.")
    seen = "".join(c if c.isprintable() else " " for c in optimizer.name)  # a comment is one line
    name, y = " ".join(seen.split()), SIZE if odd else GRADIENT
    return Model(name, averages, tuple(hypers), direction, y, optimizer.reads_params, tuple(notes))


def kind(moment: Moment) -> str:
    """ "g", "g²", or "" for another transform."""
    function = getattr(moment.transform, "func", moment.transform)
    return "g" if function is identity else "g²" if function is square else ""


def _name(path) -> str:
    last = path[-1] if path else None
    return str(getattr(last, "name", getattr(last, "key", getattr(last, "idx", "number"))))


def _float(leaf) -> float:
    value = number(leaf)
    return float(bool(value)) if value in (sp.true, sp.false) else float(value)


def _named(optimizer: Optimizer, values: list[float], leaves: list) -> tuple[list, list, list]:
    """(hyper-parameters, decay per moment, symbol or number per leaf (name, value) of combine)."""
    hypers: list[Hyper] = []
    known = dict(leaves)
    lion = "b1" in known and known["b1"] not in (*values, 0.0, 1.0)  # its share of m, no decay
    kept = sorted(kind(moment) for moment in optimizer.moments if moment.has_memory)
    codes = {"β": "b1", "ρ": "b2", "β₂": "b2"} if lion or kept == ["g", "g²"] else {}
    letters = {"g": "β₂" if lion else "β", "g²": "ρ", "": "γ"}
    decays: list = []
    for moment, value in zip(optimizer.moments, values, strict=True):
        letter = letters[kind(moment)]
        decays.append(_fresh(hypers, letter, codes.get(letter, "decay"), value) if value else 0)
    both = known.get("eps") and known.get("eps_root")
    own = {**NAMES, "eps_root": "ε₀"} if both else NAMES
    symbols: list = []
    for name, value in leaves:
        if value == 0.0 or (value == 1.0 and name not in ("eps", "eps_root", "weight_decay")):
            symbols.append(sp.Integer(int(value)))
        elif value in values:
            symbols.append(decays[values.index(value)])
        else:
            symbols.append(_fresh(hypers, own.get(name, name), name, value))
    decays_first = lambda hyper: (hyper.symbol.name[0] not in DECAYS, hyper.symbol.name)
    return sorted(hypers, key=decays_first), [sp.sympify(decay) for decay in decays], symbols


def _fresh(hypers: list[Hyper], letter: str, name: str, value: float) -> sp.Symbol:
    """A symbol and a name that no other has, counted where they are taken; ``hypers`` grows."""
    usable = name.isidentifier() and not iskeyword(name)
    letter, name = (letter, name) if usable else ("c", "number")
    letter += "₀" * (letter in RESERVED)
    same = sum(hyper.symbol.name.rstrip("₀₁₂₃₄₅₆₇₈₉") == letter for hyper in hypers)
    letter += str(same + 1).translate(SUBSCRIPTS) if same else ""
    symbol = sp.Symbol(letter, positive=True) if value > 0 else sp.Symbol(letter, real=True)
    taken = {hyper.name for hyper in hypers}
    free = (name, *(f"{name}_{count}" for count in range(2, len(taken) + 3)))
    hypers.append(Hyper(symbol, next(name for name in free if name not in taken), value))
    return symbol


def _letters(optimizer: Optimizer) -> list[sp.Symbol]:
    letters: list[str] = []
    for index, moment in enumerate(optimizer.moments, 1):
        low = str(index).translate(SUBSCRIPTS)
        letter = {"g": "m" if moment.has_memory else "g", "g²": "ν"}.get(kind(moment), "m" + low)
        letters.append(letter if letter not in letters else letter + low)
    return [sp.Symbol(letter, real=True) for letter in letters]


def _mixture(whole, letters) -> sp.Expr | None:
    """A linear combination of two or more moments that Φ is otherwise no linear function of."""
    linear = lambda e: all(sp.diff(e, a, b) == 0 for a in letters for b in letters)
    mixed = [e for e in whole.atoms(sp.Add) if len(e.free_symbols & set(letters)) > 1]
    found = [e for e in mixed if linear(e)]
    return found[0] if len(found) == 1 and not linear(whole) else None


def _parity(averages, direction) -> tuple[bool, bool]:
    """Whether Φ, less what θ adds, is odd in g with even ∂_iΦ ψ_i'; whether a sign jumps in it.

    Raises ValueError for a Φ that is not finite, not real or reads no moment.
    """
    letters = [average.letter for average in averages]
    whole = direction(letters, THETA, sp.oo)
    if whole.has(sp.nan, sp.zoo, sp.oo, sp.I) or not whole.has(*letters):
        raise ValueError(
            f"combine: expected a finite real direction that depends on the moments, got {whole} "
            "once they have settled; give combine a formula that reads moments[0]."
        )
    at = lambda y: {a.letter: a.transform(y) for a in averages}
    slopes = [
        [slope(whole, a.letter).subs(at(y)) * a.slope(y) for a in averages] for y in (SIZE, -SIZE)
    ]
    driven = [apart_from_theta(whole.subs(at(y)), SIZE)[0] for y in (SIZE, -SIZE)]
    odd = all(map(vanishes, [sum(driven), *(x - y for x, y in zip(*slopes, strict=True))]))
    return odd, _jumps(whole) or any(a.transform(GRADIENT).has(sp.sign) for a in averages)


def _jumps(direction) -> bool:
    """Whether Φ has a sign in it: sign(x), or x/|x|, which jumps at 0, but not x/(1 + |x|)."""
    sizes = dict.fromkeys(direction.atoms(sp.Abs), sp.Integer(0))
    below = (p.base for p in direction.atoms(sp.Pow) if p.exp.could_extract_minus_sign())
    return direction.has(sp.sign) or any(
        base.has(sp.Abs) and vanishes(base.xreplace(sizes)) for base in below
    )


def apart_from_theta(direction, y) -> tuple[sp.Expr, sp.Expr]:
    """(u, v) with Φ = u + v, v what does not depend on the gradient; (Φ, 0) if v has no θ in it."""
    v, u = sp.expand(direction).as_independent(y, as_Add=True)
    return (u, v) if v.has(THETA) else (direction, sp.Integer(0))


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
