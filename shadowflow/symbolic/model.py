"""An optimizer as symbols: its moments, its combine function, its hyper-parameters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from keyword import iskeyword

import jax
import jax.numpy as jnp
import sympy as sp

from ..optimizers.moments import Moment, Optimizer, identity, square
from .algebra import DECAYS, put, slope, tidy, vanishes
from .interpret import number, recorded

GRADIENT, SIZE = sp.Symbol("g", real=True), sp.Symbol("|g|", positive=True)
THETA = sp.Symbol("θ", real=True)
STEP, PAST = sp.symbols("n l", integer=True, nonnegative=True)
MIXED = sp.Symbol("X", real=True)
RATE = sp.Symbol("h", positive=True)
RESERVED = {*"hgsmnlkEJKLMPQRDVWXAFH", "θ", "ν"}  # what else is written in the equation
NAMES = {"b1": "β", "b2": "ρ", "eps": "ε", "eps_root": "ε", "weight_decay": "λ"}


@dataclass(frozen=True)
class Hyper:
    """A hyper-parameter: its symbol, the name under which code knows it, its number."""

    symbol: sp.Symbol
    name: str
    value: float


@dataclass(frozen=True)
class Average:
    """A moment in symbols: its letter, its decay (a symbol, or 0), ψ, whether it is corrected.

    weight(n) is W = Σ_k w_{n,k}: 1 with bias correction, else 1 − decay^{n+1}.
    """

    letter: sp.Symbol
    decay: sp.Expr
    transform: Callable
    corrected: bool
    kind: str

    @property
    def factor(self) -> sp.Expr:
        """2 (mean age + ½) when settled: (1 + β)/(1 − β), and 1 without memory."""
        return sp.Integer(1) if self.decay == 0 else (1 + self.decay) / (1 - self.decay)

    def slope(self, y) -> sp.Expr:
        """ψ' at y."""
        return slope(self.transform(GRADIENT), GRADIENT).subs(GRADIENT, y)

    def weight(self, step) -> sp.Expr:
        if self.corrected or self.decay == 0 or step == sp.oo:
            return sp.Integer(1)
        return 1 - self.decay ** (step + 1)

    def share(self, past, step) -> sp.Expr:
        """Σ_{k≤l} w_{n,k}, the weight of what is older than step l: β^{n−l} (1−β^{l+1}) / c_n."""
        weight = self.decay ** (step - past) * (1 - self.decay ** (past + 1))
        return weight / (1 - self.decay ** (step + 1)) if self.corrected else weight


@dataclass(frozen=True)
class Answer:
    """Φ and its derivatives in the moments, in their letters and perhaps X, a mixture of them."""

    direction: sp.Expr
    partials: tuple[sp.Expr, ...]
    letters: tuple[sp.Symbol, ...]
    mixture: dict[sp.Symbol, sp.Expr]

    def at(self, values) -> tuple[sp.Expr, tuple[sp.Expr, ...]]:
        """(Φ, (∂_iΦ…)) at values of the moments."""
        here = dict(zip(self.letters, values, strict=True))
        here |= {symbol: tidy(put(mixed, here)) for symbol, mixed in self.mixture.items()}
        return put(self.direction, here), tuple(put(part, here) for part in self.partials)


@dataclass(frozen=True)
class Model:
    """name; averages; hypers; direction(moments, θ, step) → expression.

    y: the variable that the algebra is done in, |g| where the direction is odd in g (its
    ``restore`` writes |g| again as g), else g itself.
    """

    name: str
    averages: tuple[Average, ...]
    hypers: tuple[Hyper, ...]
    direction: Callable
    y: sp.Symbol
    reads_params: bool
    notes: tuple[str, ...]

    @property
    def odd(self) -> bool:
        return self.y is SIZE

    def restore(self, expression):
        """The same in terms of g."""
        return sp.sympify(expression).subs(SIZE, sp.Abs(GRADIENT))

    def answer(self, letters, step) -> Answer:
        """Φ and ∂_iΦ as expressions in symbols for the moments."""
        whole = self.direction(letters, THETA, step)
        mixed = _mixture(whole, letters)
        if mixed is None:
            partials = tuple(tidy(slope(whole, letter)) for letter in letters)
            return Answer(whole, partials, tuple(letters), {})
        short = whole.subs(mixed, MIXED)
        chain = tidy(slope(short, MIXED))
        partials = tuple(
            tidy(slope(short, letter)) + chain * tidy(slope(mixed, letter)) for letter in letters
        )
        return Answer(short, partials, tuple(letters), {MIXED: mixed})

    def signed(self, direction) -> sp.Expr:
        """A direction at y in terms of g: the odd part with the sign of g."""
        if not self.odd:
            return direction
        driven, offset = apart_from_theta(direction, self.y)
        kappa = tidy(driven / self.y)
        smooth = kappa.subs(self.y, 0).is_finite
        part = GRADIENT * kappa if smooth else sp.sign(GRADIENT) * tidy(driven)
        return self.restore(part) + offset

    def numbers(self) -> dict[sp.Symbol, sp.Expr]:
        """Symbol → the optimizer's own number, as an exact rational."""
        return {hyper.symbol: number(hyper.value) for hyper in self.hypers}


def model_of(optimizer: Optimizer) -> Model:
    """The optimizer in symbols. Numbers in ``combine`` get a symbol where they are its leaves.

    A leaf that is 0 or 1 stays a number (an eps of 1 does not); a leaf with the value of a
    moment's decay is that decay.
    Raises ValueError for a primitive that is not known, naming it, and for arrays of numbers.
    """
    paths, tree = jax.tree_util.tree_flatten_with_path(optimizer.combine)
    leaves = [(_name(path), leaf) for path, leaf in paths]
    hypers, decays, symbols = _symbols(optimizer, leaves)
    try:
        combine = _recorded(optimizer, tree, [leaf for _, leaf in leaves])
        fixed: tuple[str, ...] = ()
    except jax.errors.ConcretizationTypeError:
        combine = _recorded(optimizer, tree, None)
        hypers = [hyper for hyper in hypers if hyper.symbol in decays]
        fixed = ("combine decides by the values of its numbers, which therefore stay numbers.",)

    def direction(moments, theta, step):
        return combine(*symbols, *moments, theta, step)

    averages = tuple(
        Average(letter, decay, recorded(moment.transform, 1.0), moment.corrected, kind(moment))
        for letter, decay, moment in zip(
            _letters(optimizer), decays, optimizer.moments, strict=True
        )
    )
    odd, notes = _parity(averages, direction)
    return Model(
        optimizer.name,
        averages,
        tuple(hypers),
        direction,
        SIZE if odd else GRADIENT,
        optimizer.reads_params,
        (*fixed, *notes),
    )


def _recorded(optimizer: Optimizer, tree, leaves) -> Callable:
    """combine as a function of (leaves…, moments…, θ, n); with leaves=None these are in it."""
    count = len(optimizer.moments)
    one = 1.0
    likes = [one] * (count + 2)
    if leaves is None:
        found = recorded(
            lambda *a: optimizer.combine(_arrays(a[:count]), *_arrays(a[count:])), *likes
        )
        skip = tree.num_leaves
        return lambda *values: found(*values[skip:])
    size = len(leaves)

    def call(*values):
        combine = jax.tree_util.tree_unflatten(tree, values[:size])
        return combine(_arrays(values[size : size + count]), *_arrays(values[size + count :]))

    return recorded(call, *leaves, *likes)


def _arrays(values) -> tuple:
    return tuple(jnp.asarray(value, float) for value in values)


def _name(path) -> str:
    last = path[-1] if path else None
    return str(getattr(last, "name", getattr(last, "key", getattr(last, "idx", "number"))))


def kind(moment: Moment) -> str:
    """ "g", "g²", or "" for another transform."""
    function = getattr(moment.transform, "func", moment.transform)
    return "g" if function is identity else "g²" if function is square else ""


def _symbols(optimizer: Optimizer, leaves) -> tuple[list[Hyper], list, list]:
    """(hyper-parameters, decay per moment, symbol or number per leaf of combine)."""
    values = [float(number(moment.decay)) for moment in optimizer.moments]
    numbers = [float(number(leaf)) for _, leaf in leaves]
    named = dict(zip([name for name, _ in leaves], numbers, strict=True))
    loose = "b1" in named and named["b1"] not in (*values, 0.0, 1.0)  # as Lion's share of m
    kept = [kind(moment) for moment in optimizer.moments if moment.has_memory]
    usual = loose or sorted(kept) == ["g", "g²"]  # as Adam's, whose names everybody knows
    both = all(named.get(name) for name in ("eps", "eps_root"))
    taken: dict[str, Hyper] = {}

    def fresh(letter: str, name: str, value: float) -> sp.Symbol:
        letter += "₀" * (letter in RESERVED)
        used = sum(hyper.symbol.name.rstrip("₀₁₂₃₄₅₆₇₈₉") == letter for hyper in taken.values())
        symbol = sp.Symbol(
            letter if not used else letter + "₀₁₂₃₄₅₆₇₈₉"[min(used + 1, 9)], positive=True
        )
        known = {hyper.name for hyper in taken.values()}
        name = name if name.isidentifier() and not iskeyword(name) else "number"
        free = (name, *(f"{name}_{count}" for count in range(2, len(known) + 3)))
        taken[symbol.name] = Hyper(symbol, next(n for n in free if n not in known), value)
        return symbol

    decays = []
    for moment, value in zip(optimizer.moments, values, strict=True):
        letter = {"g": "β₂" if loose else "β", "g²": "ρ"}.get(kind(moment), "γ")
        name = {"β": "b1", "ρ": "b2", "β₂": "b2"}.get(letter, "decay") if usual else "decay"
        decays.append(fresh(letter, name, value) if value else sp.Integer(0))
    symbols = []
    for (name, _), value in zip(leaves, numbers, strict=True):
        if value == 0.0 or (value == 1.0 and name not in ("eps", "eps_root", "weight_decay")):
            symbols.append(sp.Integer(int(value)))
        elif value in values:
            symbols.append(decays[values.index(value)])
        else:
            letter = NAMES.get(name, name)
            letter = "β₁" if name == "b1" else "ε₀" if name == "eps_root" and both else letter
            symbols.append(fresh(letter, name, value))
    return sorted(taken.values(), key=_order), decays, symbols


def _mixture(whole, letters) -> sp.Expr | None:
    """A linear combination of two or more moments that Φ is otherwise no linear function of."""
    flat = all(sp.diff(whole, a, b) == 0 for a in letters for b in letters)
    found = [
        e
        for e in whole.atoms(sp.Add)
        if sum(e.has(letter) for letter in letters) > 1
        and all(sp.diff(e, a, b) == 0 for a in letters for b in letters)
    ]
    return None if flat or len(found) != 1 else found[0]


def _order(hyper: Hyper) -> tuple:
    """Decays first, then by name."""
    return hyper.symbol.name[0] not in DECAYS, hyper.symbol.name


def _letters(optimizer: Optimizer) -> list[sp.Symbol]:
    letters: list[str] = []
    for index, moment in enumerate(optimizer.moments):
        letter = {"g": "m", "g²": "ν"}.get(kind(moment), f"m{'₀₁₂₃₄₅₆₇₈₉'[(index + 1) % 10]}")
        letter = "g" if letter == "m" and not moment.has_memory else letter
        low = "₀₁₂₃₄₅₆₇₈₉"[(index + 1) % 10]
        letters.append(letter if letter not in letters else letter + low)
    return [sp.Symbol(letter, real=True) for letter in letters]


def _parity(averages, direction) -> tuple[bool, list[str]]:
    """Whether Φ, less what θ adds, is odd in g and every ∂_iΦ ψ_i' even; what is to be said."""
    letters = [average.letter for average in averages]
    whole = direction(letters, THETA, sp.oo)
    at = lambda y: {a.letter: a.transform(y) for a in averages}
    parts = [
        [slope(whole, a.letter).subs(at(y)) * a.slope(y) for a in averages] for y in (SIZE, -SIZE)
    ]
    driven = [apart_from_theta(whole.subs(at(y)), SIZE)[0] for y in (SIZE, -SIZE)]
    zeros = [driven[0] + driven[1], *(x - y for x, y in zip(*parts, strict=True))]
    jumps = _jumps(whole, letters) or any(a.transform(GRADIENT).has(sp.sign) for a in averages)
    note = "sign(x) = x/|x| is given the derivative 0, which holds away from 0 only."
    return all(map(vanishes, zeros)), [note] if jumps else []


def _jumps(direction, letters) -> bool:
    """Whether Φ has a sign in it: x/|x|, which jumps at 0, but not x/(1 + |x|)."""
    tiny = sp.Rational(1, 10**9)
    for magnitude in direction.atoms(sp.Abs):
        place = {s: sp.Rational(1, 3 + i) for i, s in enumerate(letters)}
        place |= {s: sp.Rational(1, 7) for s in direction.free_symbols - set(letters)}
        moved = next((letter for letter in letters if magnitude.has(letter)), None)
        rest = {s: value for s, value in place.items() if s != moved}
        inside = put(magnitude.args[0], rest)
        if moved is None or not inside.is_polynomial(moved):
            continue
        for root in sp.Poly(inside, moved).nroots():
            sides = [put(direction, rest).subs(moved, root + side) for side in (tiny, -tiny)]
            if abs(sp.N(sides[0] - sides[1])) > sp.sqrt(tiny):
                return True
    return direction.has(sp.sign)


def apart_from_theta(direction, y) -> tuple[sp.Expr, sp.Expr]:
    """(u, v) with Φ = u + v, v what does not depend on the gradient; (Φ, 0) if v has no θ in it."""
    v, u = sp.expand(direction).as_independent(y, as_Add=True)
    return (u, v) if v.has(THETA) else (direction, sp.Integer(0))
