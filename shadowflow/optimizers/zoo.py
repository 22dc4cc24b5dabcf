"""The optimizers by name: their moments and their combine function, nothing else.

Everything else about them (memoryless iteration, modified equation, bias, validity) is
derived. Each ``formula`` writes the direction for a reader, given the names of the moments.
"""

import functools
import inspect
from collections.abc import Callable
from types import FunctionType

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from .. import checks
from ..trees import cast
from .moments import Moment, Optimizer, decay_power, safe_sqrt, square


class Mixture(eqx.Module):
    """Φ = (weight · m + (1 − weight) · g) / (1 − decay); with one moment Φ = m / (1 − decay)."""

    weight: float | Array = 1.0
    decay: float | Array = 0.0

    def __call__(self, moments, params, step):
        return mix(self.weight, moments) * cast(1 / (1 - self.decay), params)

    def formula(self, *names):
        mixed = names[0] if len(names) == 1 else f"({self.weight:g} {names[0]} + "
        mixed += "" if len(names) == 1 else f"{1 - self.weight:g} {names[1]})"
        return mixed if self.decay == 0 else f"{1 / (1 - self.decay):g} {mixed}"


class Ratio(eqx.Module):
    """Φ = m / (sqrt(ν + eps_root) + eps)."""

    eps: float | Array
    eps_root: float | Array

    def __call__(self, moments, params, step):
        return moments[0] / denominator(moments[1], self.eps, self.eps_root)

    def formula(self, *names):
        return f"{names[0]} / {denominator_formula(names[1], self.eps, self.eps_root)}"


class Decayed(eqx.Module):
    """Φ = inner direction + weight_decay · θ."""

    inner: Ratio
    weight_decay: float | Array

    def __call__(self, moments, params, step):
        return self.inner(moments, params, step) + cast(self.weight_decay, params) * params

    def formula(self, *names):
        return f"{self.inner.formula(*names)} + {self.weight_decay:g} θ"


def row(make: FunctionType) -> Callable[..., Optimizer]:
    """A constructor that takes its hyper-parameters by name only, and says so."""

    @functools.wraps(make)
    def call(*unnamed, **named) -> Optimizer:
        if unnamed:
            names = ", ".join(inspect.signature(make).parameters) or "none"
            raise TypeError(
                f"{make.__name__}: expected hyper-parameters by name ({names}), got "
                f"{unnamed[0]!r} without one; the learning rate is an argument of iterate, shadow "
                f"and the others: sf.shadow(problem, sf.{make.__name__}(), params, 1e-3, steps)."
            )
        known = list(inspect.signature(make).parameters)
        if unknown := [name for name in named if name not in known]:
            raise TypeError(
                f"{make.__name__}: expected hyper-parameters among {', '.join(known) or 'none'}, "
                f"got {unknown[0]}; {hint(unknown[0], known)}."
            )
        return make(**named)

    return call


ELSEWHERE = {
    "lr": "the learning rate is an argument of iterate, shadow and the others",
    "betas": "pass b1= and b2=",
    "weight_decay": "sf.adamw(weight_decay=…) has it, or sf.from_optax with a chain",
    "nesterov": "sf.nesterov() has it",
    "amsgrad": "sf.from_optax(optax.amsgrad) has it",
    "centered": "sf.from_optax(functools.partial(optax.rmsprop, centered=True)) has it",
    "maximize": "pass the loss with a minus sign",
}
CALLED = {
    "lr": "learning_rate rate step_size eta",
    "b1": "beta1 beta_1 beta momentum",
    "b2": "beta2 beta_2 rho alpha smoothing_constant",
    "decay": "momentum mu beta beta1 b1 rho alpha gamma smoothing_constant",
    "eps": "epsilon",
    "weight_decay": "wd l2 l2_regularization",
}


def hint(unknown: str, known: list[str]) -> str:
    """What to write instead of a hyper-parameter that a row has not, by the names others give it.

    >>> hint("beta1", ["b1", "b2"]), hint("lr", ["decay"]).partition(" is")[0]
    ('write b1=', 'the learning rate')
    """
    meant = [name for name, others in CALLED.items() if unknown in (name, *others.split())]
    if own := [name for name in meant if name in known]:
        return f"write {own[0]}="
    if told := [ELSEWHERE[name] for name in (unknown, *meant) if name in ELSEWHERE]:
        return told[0]
    near = checks.nearest(unknown, known)
    return f"perhaps {near}= is meant" if near else f"leave {unknown}= out"


def denominator(nu: Array, eps, eps_root) -> Array:
    """sqrt(ν + eps_root) + eps."""
    return safe_sqrt(nu + cast(eps_root, nu)) + cast(eps, nu)


def denominator_formula(nu: str, eps, eps_root) -> str:
    """The same for a reader, without the terms that are 0."""
    root = f"sqrt({nu}{f' + {eps_root:g}' if eps_root else ''})"
    return f"({root} + {eps:g})" if eps else root


class LookaheadRatio(eqx.Module):
    """Φ of NAdam: the next step's momentum over sqrt(ν + eps_root) + eps."""

    b1: float | Array
    eps: float | Array
    eps_root: float | Array
    bias_correction: bool = eqx.field(static=True)

    def __call__(self, moments, params, step):
        m, g, nu = moments
        b1 = cast(self.b1, m)
        if self.bias_correction:
            m = m / (1 - decay_power(b1, step + 2))
            g = g / (1 - decay_power(b1, step + 1))
        return (b1 * m + (1 - b1) * g) / denominator(nu, self.eps, self.eps_root)

    def formula(self, *names):
        corrected = self.bias_correction
        m = f"{names[0]} / (1 - {self.b1:g}^(n+2))" if corrected else names[0]
        g = f"{names[1]} / (1 - {self.b1:g}^(n+1))" if corrected else names[1]
        mixed = f"{self.b1:g} {m} + {1 - self.b1:g} {g}"
        return f"({mixed}) / {denominator_formula(names[2], self.eps, self.eps_root)}"


class SmoothedSign(eqx.Module):
    """Φ = s(x) = x / sqrt(x² + eps_root), x = (b1/b2) m + (1 − b1/b2) g."""

    eps_root: float | Array
    b1: float | Array = 1.0
    b2: float | Array = 1.0

    def __call__(self, moments, params, step):
        x = mix(self.b1 / self.b2, moments)
        root = safe_sqrt(x * x + cast(self.eps_root, x))
        return x / jnp.where(root == 0, jnp.ones_like(root), root)

    def formula(self, *names):
        mixed = Mixture(self.b1 / self.b2).formula(*names)
        return f"{mixed} / sqrt({mixed}² + {self.eps_root:g})"


def mix(weight, moments) -> Array:
    """weight · m + (1 − weight) · g of two moments; a single moment as it is."""
    if len(moments) == 1:
        return moments[0]
    weight = cast(weight, moments[0])
    return weight * moments[0] + (1 - weight) * moments[1]


def present() -> Moment:
    """The present gradient as a moment without memory."""
    return Moment(0.0, bias_correction=True)


def summed(decay, form: str):
    """The decay whose 1 / (1 − decay) turns an average into a sum: in trace form, else 0."""
    checks.choice("form", form, ("trace", "ema"))
    return 0.0 if form == "ema" else decay


def epsilons(eps, eps_root):
    """Refuse a negative eps or eps_root."""
    checks.number("eps", eps, least=0)
    checks.number("eps_root", eps_root, least=0)


@row
def sgd() -> Optimizer:
    """Gradient descent: θ ← θ − h g. Agrees with optax.sgd.

    >>> sgd().name
    'sgd'
    """
    return Optimizer([present()], Mixture(), "sgd")


@row
def momentum(*, decay=0.9, form: str = "trace", bias_correction: bool = False) -> Optimizer:
    """Heavy ball. Trace form t ← decay · t + g, θ ← θ − h t, as optax.sgd(momentum=…) and torch;
    ``form="ema"`` steps by m = (1 − decay) t instead. ``decay`` is the paper's β.
    """
    return Optimizer(
        [Moment(decay, bias_correction=bias_correction, name="mu")],
        Mixture(1.0, summed(decay, form)),
        "momentum",
    )


@row
def nesterov(*, decay=0.9, form: str = "trace", bias_correction: bool = False) -> Optimizer:
    """Nesterov's momentum: Φ = β m + (1 − β) g (EMA form), divided by 1 − β in trace form,
    which agrees with optax.sgd(momentum=…, nesterov=True) and torch.
    """
    moments = [Moment(decay, bias_correction=bias_correction, name="mu"), present()]
    return Optimizer(moments, Mixture(decay, summed(decay, form)), "nesterov")


@row
def rmsprop(*, decay=0.9, eps=1e-8, eps_root=0.0, bias_correction: bool = False) -> Optimizer:
    """RMSProp: ν ← ρ ν + (1 − ρ) g², θ ← θ − h g / (sqrt(ν + eps_root) + eps), ρ = ``decay``.

    torch's default is eps outside (the paper's Theorem B.4), optax.rmsprop's is inside
    (eps=0, eps_root=…; Theorem C.4); neither corrects the bias.
    """
    epsilons(eps, eps_root)
    moments = [present(), Moment(decay, square, bias_correction, name="nu")]
    return Optimizer(moments, Ratio(eps, eps_root), "rmsprop")


@row
def adam(*, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, bias_correction: bool = True) -> Optimizer:
    """Adam: θ ← θ − h m̂ / (sqrt(ν̂ + eps_root) + eps) with b1 = β, b2 = ρ (Definition 1.1).

    The paper's "inside" is eps=0, eps_root=ε (Theorem 3.1 = E.4), "outside" eps=ε, eps_root=0
    (Theorem D.4; optax's and torch's default). Raises ValueError for decays outside [0, 1)
    and negative eps or eps_root.

    >>> adam(b2=0.95).moments[1].decay
    0.95
    """
    combine = Ratio(eps, eps_root)
    return ratio_of_averages("adam", b1, b2, eps, eps_root, bias_correction, combine)


@row
def adamw(
    *, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, weight_decay=1e-4, bias_correction: bool = True
) -> Optimizer:
    """AdamW: Adam's direction plus weight_decay · θ, as optax.adamw (decay times learning rate)."""
    checks.number("weight_decay", weight_decay, least=0)
    combine = Decayed(Ratio(eps, eps_root), weight_decay)
    return ratio_of_averages("adamw", b1, b2, eps, eps_root, bias_correction, combine)


def ratio_of_averages(name, b1, b2, eps, eps_root, bias_correction, combine) -> Optimizer:
    """The family of Adam: an average of g over the root of an average of g²."""
    checks.decay("b1", b1)
    checks.decay("b2", b2)
    epsilons(eps, eps_root)
    first = Moment(b1, bias_correction=bias_correction, name="mu")
    return Optimizer([first, Moment(b2, square, bias_correction, name="nu")], combine, name)


@row
def nadam(*, b1=0.9, b2=0.999, eps=1e-8, eps_root=0.0, bias_correction: bool = True) -> Optimizer:
    """NAdam as optax.nadam: Adam whose momentum is β m/(1−β^{n+2}) + (1−β) g/(1−β^{n+1}).

    torch's NAdam has a schedule of β and is another optimizer.
    """
    checks.decay("b1", b1)
    checks.decay("b2", b2)
    epsilons(eps, eps_root)
    moments = [Moment(b1, name="mu"), present(), Moment(b2, square, bias_correction, name="nu")]
    return Optimizer(moments, LookaheadRatio(b1, eps, eps_root, bias_correction), "nadam")


@row
def signum(*, decay=0.9, eps_root=1e-8, bias_correction: bool = False) -> Optimizer:
    """Signum with a smoothed sign: Φ = s(m), s(x) = x / sqrt(x² + eps_root); eps_root=0 is sign."""
    checks.number("eps_root", eps_root, least=0)
    moments = [Moment(decay, bias_correction=bias_correction, name="mu")]
    return Optimizer(moments, SmoothedSign(eps_root), "signum")


@row
def lion(*, b1=0.9, b2=0.99, eps_root=1e-8, bias_correction: bool = False) -> Optimizer:
    """Lion with a smoothed sign, from the updated moment: Φ = s((b1/b2) m + (1 − b1/b2) g).

    eps_root=0 is optax.lion without weight decay. Raises ValueError for b2 = 0.
    """
    checks.decay("b1", b1)
    checks.number("b2", b2, above=0, below=1)
    checks.number("eps_root", eps_root, least=0)
    moments = [Moment(b2, bias_correction=bias_correction, name="mu"), present()]
    return Optimizer(moments, SmoothedSign(eps_root, b1, b2), "lion")
