"""Figure 1: what the bias penalizes in one dimension, as a function of E′.

In one dimension θ' = −(Φ/E′)(E′ + dP/dθ): the bias is the derivative of a potential P(y), y = E′,
with P′(y) = (h/2) s(y) Φ(y). For full-batch Adam P is the paper's (THEORY: Table 1 and its one-
dimensional form). The curves come from ``implicit_bias`` alone and are compared with closed forms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ...diagnostics.bias import PLAIN, implicit_bias
from ...optimizers import zoo
from ...optimizers.moments import Optimizer
from ...problem import Problem
from ..evidence import Evidence, above, below, near
from . import Arrays, Data, Progress, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "What full-batch Adam penalizes in one dimension"
DATA = ()
NODES = 8
RATE = 1.0  # P is proportional to the learning rate: here P / (h/2) is computed
Form = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Potentials:
    """What is drawn: ρ varied at ``eps_root``, ε varied at ``b2``, the zoo at both."""

    b1: float = 0.95
    b2s: tuple[float, ...] = (0.5, 0.9, 0.95, 0.98, 0.99)
    eps_root: float = 1e-2
    b2: float = 0.97
    eps_roots: tuple[float, ...] = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
    reach: float = 0.3
    points: int = 400


SCALES = {"smoke": Potentials(points=60), "full": Potentials()}


class Curve(NamedTuple):
    """An optimizer, and its P / (h/2) in closed form: the paper's for Adam, else its integral."""

    optimizer: Optimizer
    form: Form


def curves(settings: Potentials) -> dict[str, Curve]:
    """Name → curve; those of the zoo are at b1, the last but one ρ, and eps_root."""
    b1, b2, eps = settings.b1, settings.b2s[-2], settings.eps_root
    inside: dict[str, Any] = {"eps": 0.0, "eps_root": eps}
    outside, root = {"eps": eps**0.5}, eps**0.5
    first, second, ahead = age(b1), age(b2), looking_ahead(b1, b1)
    lion = looking_ahead(b1 / b2, b2)
    adam = lambda b2, eps: Curve(
        zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=eps), _inside(first, age(b2), eps)
    )
    return {
        **{f"rho/{b2:g}": adam(b2, eps) for b2 in settings.b2s},
        **{f"eps/{eps:g}": adam(settings.b2, eps) for eps in settings.eps_roots},
        "zoo/sgd": Curve(zoo.sgd(), _square(1.0)),
        "zoo/momentum": Curve(zoo.momentum(decay=b1, form="ema"), _square(first)),
        "zoo/nesterov": Curve(zoo.nesterov(decay=b1, form="ema"), _square(ahead)),
        "zoo/rmsprop": Curve(zoo.rmsprop(decay=b2, **inside), _inside(1.0, second, eps)),
        "zoo/rmsprop, outside": Curve(
            zoo.rmsprop(decay=b2, **outside), _outside(1.0, second, root)
        ),
        "zoo/adam, outside": Curve(
            zoo.adam(b1=b1, b2=b2, **outside), _outside(first, second, root)
        ),
        "zoo/adamw": Curve(zoo.adamw(b1=b1, b2=b2, **inside), _inside(first, second, eps)),
        "zoo/nadam": Curve(zoo.nadam(b1=b1, b2=b2, **inside), _inside(ahead, second, eps)),
        "zoo/signum": Curve(zoo.signum(decay=b1, eps_root=eps), _inside(first, first, eps)),
        "zoo/lion": Curve(zoo.lion(b1=b1, b2=b2, eps_root=eps), _inside(lion, lion, eps)),
    }


def age(decay: float) -> float:
    """(1+β)/(1−β), twice the mean age of a moment at half a step."""
    return (1 + decay) / (1 - decay)


def looking_ahead(share: float, decay: float) -> float:
    """The age of a moment that stands for ``share`` of the step, the gradient for the rest."""
    return share * age(decay) + 1 - share


def _square(factor: float) -> Form:
    return lambda y: factor * y**2 / 2


def _inside(first: float, second: float, eps: float) -> Form:
    """C sqrt(y²+ε) − (1+ρ)/(1−ρ) ε/sqrt(y²+ε) less its value at 0; C = first − second."""
    root, zero = lambda y: np.sqrt(y**2 + eps), np.sqrt(eps)
    return lambda y: (first - second) * (root(y) - zero) - second * eps * (1 / root(y) - 1 / zero)


def _outside(first: float, second: float, eps: float) -> Form:
    """∫_0^|y| (first − second u/(u+ε)) u/(u+ε) du."""

    def form(y: np.ndarray) -> np.ndarray:
        size = np.abs(y)
        log, square = np.log1p(size / eps), eps - eps**2 / (size + eps)
        return first * (size - eps * log) - second * (size - 2 * eps * log + square)

    return form


def compute(settings: Potentials, data: Data, progress: Progress) -> dict[str, np.ndarray]:
    """The gradients "y", and for every curve its potential P / (h/2) with P(0) = 0."""
    with jax.enable_x64(True):
        half = np.concatenate([[0.0], np.geomspace(1e-5, 1, settings.points)]) * settings.reach
        arrays = {"y": np.concatenate([-half[:0:-1], half])}
        every = curves(settings)
        progress.total = len(every)
        for name, curve in every.items():
            arrays[name] = potential(curve.optimizer, arrays["y"])
            progress.update(1)
    return arrays


def potential(optimizer: Optimizer, y: np.ndarray) -> np.ndarray:
    """∫_0^y s(u) Φ(u) du at increasing ``y`` that contain 0, by Gauss rules between them.

    The loss Σ_j u_j θ_j + θ_j²/2 at θ = 0 has the gradients u and the Hessian 1, so that one
    decomposition of the modified equation holds all nodes at once.
    """
    points, weights = np.polynomial.legendre.leggauss(NODES)
    nodes = y[:-1, None] + np.diff(y)[:, None] * (1 + points) / 2
    u = jnp.asarray(nodes.ravel())
    problem = Problem(lambda theta: jnp.sum(u * theta + theta**2 / 2))
    parts = implicit_bias(problem, optimizer, jnp.zeros_like(u), RATE, start="settled").parts
    bias = sum(part for name, part in parts.items() if name != PLAIN)
    slope = np.asarray(2 / RATE * bias * u / parts[PLAIN]).reshape(nodes.shape)
    total = np.concatenate([[0.0], np.cumsum(np.diff(y) / 2 * (slope @ weights))])
    return total - total[np.searchsorted(y, 0.0)]


def evidence(arrays: Arrays, settings: Potentials) -> list[Evidence]:
    """Every curve against its closed form; its two ends against Table 1."""
    errors = {}
    for name, curve in curves(settings).items():
        gap = np.max(np.abs(arrays[name] - curve.form(arrays["y"])))
        errors[name] = float(gap / np.max(np.abs(arrays[name])))
    forms = "largest error of the potentials against their closed forms, relative"
    decay = errors.pop("zoo/adamw")  # its weight decay, 1e-4, is a force of its own
    found = []
    for kind, said in (
        ("rho", "Adam, ρ varied"),
        ("eps", "Adam, ε varied"),
        ("zoo", "the other optimizers"),
    ):
        own = {name: error for name, error in errors.items() if name.startswith(kind)}
        found.append(near(f"{said}: {forms}", max(own.values()), 0.0, 1e-8, errors=own))
    found.append(near(f"AdamW: {forms}", decay, 0.0, 1e-4, weight_decay=1e-4))
    return [*found, *_far_from_0(arrays, settings), _near_0(arrays, settings)]


def _far_from_0(arrays: Arrays, settings: Potentials) -> list[Evidence]:
    """What is penalized where |E′| ≫ √ε, and where penalty turns into anti-penalty."""
    y, eps, found = arrays["y"], settings.eps_root, []
    norm = np.sqrt(y**2 + eps)
    for b2 in settings.b2s:
        curve, strength = arrays[f"rho/{b2:g}"], age(settings.b1) - age(b2)
        run = {"b1": settings.b1, "b2": b2, "eps_root": eps}
        far = float((curve[-1] - curve[-2]) / (norm[-1] - norm[-2]))
        word, judge = ("penalizes", above) if strength >= 0 else ("anti-penalizes", below)
        claim = f"ρ = {b2:g}, |E′| ≫ √ε: Adam {word} the perturbed one-norm; slope of the potential"
        found.append(judge(f"{claim} against it at the edge", far, 0.0, **run))
        if strength < -1e-9:
            top = np.clip(np.argmax(curve), 1, len(y) - 2) + np.arange(-1, 2)
            bend, slope, _ = np.polyfit(y[top], curve[top], 2)
            turn, expected = float(abs(slope / (2 * bend))), (eps * age(settings.b1) / -strength)
            claim = f"ρ = {b2:g}: |E′| at which penalty turns into anti-penalty"
            found.append(near(claim, turn, float(expected**0.5), 1e-2 * expected**0.5, **run))
    return found


def _near_0(arrays: Arrays, settings: Potentials) -> Evidence:
    """What is penalized where |E′| ≪ √ε."""
    first, small = age(settings.b1), np.searchsorted(arrays["y"], 0.0) + 1
    square, twice = arrays["y"][small] ** 2, 2 * np.sqrt(settings.eps_root)
    flat = {f"{b2:g}": float(twice * arrays[f"rho/{b2:g}"][small] / square) for b2 in settings.b2s}
    return near(
        "|E′| ≪ √ε: Adam penalizes the two-norm whatever ρ is; coefficient of "
        "y²/(2√ε) at 0, the worst over ρ",
        max(flat.values(), key=lambda value: abs(value - first)),
        first,
        1e-3 * first,
        coefficients=flat,
    )


def caption(arrays: Arrays, settings: Potentials) -> str:
    """What the figure shows, for a reader of the paper."""
    return (
        f"The potential P(E′) whose derivative is the bias of full-batch Adam in one dimension, "
        f"over h/2, at β = {settings.b1:g}: Adam follows the loss E + P, preconditioned. "
        f"(a) ε = {settings.eps_root:g}: with ρ < β the one-norm of the gradient is penalized "
        f"(valleys), with ρ > β anti-penalized (hills) where |E′| exceeds √ε. (b) ρ = "
        f"{settings.b2:g}: as √ε grows past |E′| the hill becomes a valley. (c) The rest of the "
        f"optimizers at ρ = {settings.b2s[-2]:g}, ε = {settings.eps_root:g} (outside: √ε is added "
        f"to the root), each scaled to its largest value, which stands below its name. Momentum, "
        f"Nesterov, Signum and Lion penalize everywhere; RMSProp and NAdam are as Adam, with β = 0 "
        f"and with a slightly shorter memory."
    )


def draw(arrays: Arrays, settings: Potentials) -> Figure:
    """The figure from its arrays."""
    from matplotlib import pyplot as plt

    y = arrays["y"]
    figure = plt.figure(figsize=(style.PAGE, 5.2))
    parts: Any = figure.subfigures(2, 1, height_ratios=[1.25, 1], hspace=0.04)
    top, bottom = parts
    left, right = top.subplots(1, 2)
    for axis, values, kind, symbol in (
        (left, settings.b2s, "rho", "ρ"),
        (right, settings.eps_roots, "eps", "ε"),
    ):
        for value, colour in zip(values, style.shades(len(values)), strict=True):
            axis.plot(y, arrays[f"{kind}/{value:g}"], color=colour, label=f"{symbol} = {value:g}")
        axis.axhline(0, color="black", lw=0.6)
        axis.set(xlabel="E′", xlim=(y[0], y[-1]))
        axis.legend(loc="lower center" if kind == "rho" else "best")
    left.set(title=f"ε = {settings.eps_root:g}, ρ varied", ylabel="P(E′) / (h/2)")
    right.set(title=f"ρ = {settings.b2:g}, ε varied")
    style.letter((left, right))
    _zoo(bottom, y, {k.partition("/")[2]: v for k, v in arrays.items() if k.startswith("zoo/")})
    return figure


def _zoo(part, y: np.ndarray, curves: Arrays) -> None:
    axes = part.subplots(2, len(curves) // 2, sharex=True, sharey=True)
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=True):
        peak = curve[np.argmax(np.abs(curve))]
        axis.plot(y, curve / abs(peak), color=style.MARK if peak < 0 else style.COLOURS["inertial"])
        axis.axhline(0, color="black", lw=0.6)
        axis.set(ylim=(-1.1, 1.1), yticks=(-1, 0, 1), xlim=(y[0], y[-1]))
        axis.set_title(f"{name}\n{peak:+.3g}".replace("-", "−"), fontsize=7.5)
    part.supxlabel("E′", fontsize=9)
    part.supylabel("(c) P / max |P|", fontsize=9)
