"""Figure 1: what the bias penalizes in one dimension, as a function of E′.

In one dimension θ' = −(Φ/E′)(E′ + dP/dθ): the bias is the derivative of a potential P(y), y = E′,
with P′(y) = (h/2) s(y) Φ(y). For full-batch Adam P is the paper's (THEORY: Table 1 and its one-
dimensional form). The curves come from ``implicit_bias`` alone; the closed forms below are what
they are held against.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from ...diagnostics.bias import PLAIN, implicit_bias
from ...optimizers import zoo
from ...optimizers.moments import Optimizer
from ...problem import Problem
from ..evidence import Evidence, above, below, near
from . import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from ...lab.data.load import Images

TITLE = "What full-batch Adam penalizes in one dimension"
DATA = ()
NODES = 8
RATE = 1.0  # P is proportional to the learning rate: here P / (h/2) is computed


@dataclass(frozen=True)
class Settings:
    """What is drawn: ρ varied at ``eps_root``, ε varied at ``b2``, the zoo at both."""

    b1: float = 0.95
    b2s: tuple[float, ...] = (0.5, 0.9, 0.95, 0.98, 0.99)
    eps_root: float = 1e-2
    b2: float = 0.97
    eps_roots: tuple[float, ...] = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1)
    reach: float = 0.3
    points: int = 400


SCALES = {"smoke": Settings(points=60), "full": Settings()}


def rows(settings: Settings) -> dict[str, Optimizer]:
    """Name → optimizer of every curve; the zoo's are at b1, the last but one ρ, and eps_root."""
    b1, b2, eps = settings.b1, settings.b2s[-2], settings.eps_root
    root = eps**0.5
    adam = lambda b2, eps_root: zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=eps_root)
    return {
        **{f"rho/{b2:g}": adam(b2, eps) for b2 in settings.b2s},
        **{f"eps/{eps:g}": adam(settings.b2, eps) for eps in settings.eps_roots},
        "zoo/sgd": zoo.sgd(),
        "zoo/momentum": zoo.momentum(decay=b1, form="ema"),
        "zoo/nesterov": zoo.nesterov(decay=b1, form="ema"),
        "zoo/rmsprop": zoo.rmsprop(decay=b2, eps=0.0, eps_root=eps),
        "zoo/rmsprop, outside": zoo.rmsprop(decay=b2, eps=root),
        "zoo/adam, outside": zoo.adam(b1=b1, b2=b2, eps=root),
        "zoo/adamw": zoo.adamw(b1=b1, b2=b2, eps=0.0, eps_root=eps),
        "zoo/nadam": zoo.nadam(b1=b1, b2=b2, eps=0.0, eps_root=eps),
        "zoo/signum": zoo.signum(decay=b1, eps_root=eps),
        "zoo/lion": zoo.lion(b1=b1, b2=b2, eps_root=eps),
    }


def work(settings: Settings) -> int:
    """How many times ``compute`` reports progress."""
    return len(rows(settings))


def compute(
    settings: Settings, data: Mapping[str, Images], progress: Callable[[int], Any]
) -> dict[str, np.ndarray]:
    """The gradients "y", and for every row its potential P / (h/2) with P(0) = 0."""
    with jax.enable_x64(True):
        half = np.concatenate([[0.0], np.geomspace(1e-5, 1, settings.points)]) * settings.reach
        y = np.concatenate([-half[:0:-1], half])
        arrays = {"y": y}
        for name, optimizer in rows(settings).items():
            arrays[name] = potential(optimizer, y)
            progress(1)
    return arrays


def potential(optimizer: Optimizer, y: np.ndarray) -> np.ndarray:
    """∫_0^y s(u) Φ(u) du at increasing ``y`` that contain 0, by Gauss rules between them.

    The loss Σ_j u_j θ_j + θ_j²/2 at θ = 0 has the gradients u and the Hessian 1, so that one
    decomposition of the modified equation holds all nodes at once.
    """
    points, weights = np.polynomial.legendre.leggauss(NODES)
    nodes = y[:-1, None] + np.diff(y)[:, None] * (1 + points) / 2
    u = jnp.asarray(nodes.ravel())
    loss = lambda theta: jnp.sum(u * theta + theta**2 / 2)
    parts = implicit_bias(Problem(loss), optimizer, jnp.zeros_like(u), RATE, start="settled").parts
    bias = sum(part for name, part in parts.items() if name != PLAIN)
    slope = np.asarray(2 / RATE * bias * u / parts[PLAIN]).reshape(nodes.shape)
    total = np.concatenate([[0.0], np.cumsum(np.diff(y) / 2 * (slope @ weights))])
    return total - total[np.searchsorted(y, 0.0)]


def age(decay: float) -> float:
    """(1+β)/(1−β), twice the mean age of a moment at half a step."""
    return (1 + decay) / (1 - decay)


def closed_form(name: str, settings: Settings, y: np.ndarray) -> np.ndarray:
    """P / (h/2) of a row as the paper has it for Adam, and the same integral for the others."""
    kind, _, label = name.partition("/")
    b1, b2, eps = settings.b1, settings.b2s[-2], settings.eps_root
    if kind == "rho":
        return _inside(y, age(b1), age(float(label)), eps)
    if kind == "eps":
        return _inside(y, age(b1), age(settings.b2), float(label))
    ahead = lambda share, decay: share * age(decay) + 1 - share
    saturating = eps * (1 / np.sqrt(eps) - 1 / np.sqrt(y**2 + eps))
    return {
        "sgd": lambda: y**2 / 2,
        "momentum": lambda: age(b1) * y**2 / 2,
        "nesterov": lambda: ahead(b1, b1) * y**2 / 2,
        "rmsprop": lambda: _inside(y, 1.0, age(b2), eps),
        "rmsprop, outside": lambda: _outside(y, 1.0, age(b2), eps**0.5),
        "adam, outside": lambda: _outside(y, age(b1), age(b2), eps**0.5),
        "adamw": lambda: _inside(y, age(b1), age(b2), eps),
        "nadam": lambda: _inside(y, ahead(b1, b1), age(b2), eps),
        "signum": lambda: age(b1) * saturating,
        "lion": lambda: ahead(b1 / b2, b2) * saturating,
    }[label]()


def _inside(y, first: float, second: float, eps: float):
    """C sqrt(y²+ε) − (1+ρ)/(1−ρ) ε/sqrt(y²+ε) less its value at 0; C = first − second."""
    root, zero = np.sqrt(y**2 + eps), np.sqrt(eps)
    return (first - second) * (root - zero) - second * eps * (1 / root - 1 / zero)


def _outside(y, first: float, second: float, eps: float):
    """∫_0^|y| (first − second u/(u+ε)) u/(u+ε) du."""
    size = np.abs(y)
    log, square = np.log1p(size / eps), eps - eps**2 / (size + eps)
    return first * (size - eps * log) - second * (size - 2 * eps * log + square)


def evidence(arrays: Mapping[str, np.ndarray], settings: Settings) -> list[Evidence]:
    """Every curve against its closed form; its two ends against Table 1."""
    y, errors = arrays["y"], {}
    for name in rows(settings):
        curve = arrays[name]
        gap = np.max(np.abs(curve - closed_form(name, settings, y)))
        errors[name] = float(gap / np.max(np.abs(curve)))
    forms = "largest error of the potentials against their closed forms, relative"
    decay = errors.pop("zoo/adamw")  # its weight decay, 1e-4, is a force of its own
    found = [
        *(
            near(
                f"{said}: {forms}",
                max(v for k, v in errors.items() if k.startswith(kind)),
                0.0,
                1e-8,
                errors={k: v for k, v in errors.items() if k.startswith(kind)},
            )
            for kind, said in (
                ("rho", "Adam, ρ varied"),
                ("eps", "Adam, ε varied"),
                ("zoo", "the other optimizers"),
            )
        ),
        near(f"AdamW: {forms}", decay, 0.0, 1e-4, weight_decay=1e-4),
    ]
    return found + _ends(arrays, settings)


def _ends(arrays: Mapping[str, np.ndarray], settings: Settings) -> list[Evidence]:
    """What is penalized far from 0 and near it, and where one turns into the other."""
    y, found = arrays["y"], []
    first, eps = age(settings.b1), settings.eps_root
    norm = np.sqrt(y**2 + eps)
    small = np.searchsorted(y, 0.0) + 1
    flat = {}
    for b2 in settings.b2s:
        curve, strength = arrays[f"rho/{b2:g}"], first - age(b2)
        run = {"b1": settings.b1, "b2": b2, "eps_root": eps}
        flat[f"{b2:g}"] = float(2 * np.sqrt(eps) * curve[small] / y[small] ** 2)
        far = float((curve[-1] - curve[-2]) / (norm[-1] - norm[-2]))
        word, judge = ("penalizes", above) if strength >= 0 else ("anti-penalizes", below)
        claim = f"ρ = {b2:g}, |E′| ≫ √ε: Adam {word} the perturbed one-norm; slope of the potential"
        found.append(judge(f"{claim} against it at the edge", far, 0.0, **run))
        if strength < -1e-9:
            near_top = np.clip(np.argmax(curve), 1, len(y) - 2) + np.arange(-1, 2)
            bend, slope, _ = np.polyfit(y[near_top], curve[near_top], 2)
            expected = float(np.sqrt(eps * first / -strength))
            found.append(
                near(
                    f"ρ = {b2:g}: |E′| at which penalty turns into anti-penalty",
                    float(abs(slope / (2 * bend))),
                    expected,
                    1e-2 * expected,
                    **run,
                )
            )
    worst = max(flat.values(), key=lambda value: abs(value - first))
    found.append(
        near(
            "|E′| ≪ √ε: Adam penalizes the two-norm whatever ρ is; coefficient of "
            "y²/(2√ε) at 0, the worst over ρ",
            worst,
            first,
            1e-3 * first,
            coefficients=flat,
        )
    )
    return found


def caption(arrays: Mapping[str, np.ndarray], settings: Settings) -> str:
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


def draw(arrays: Mapping[str, np.ndarray], settings: Settings) -> Figure:
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


def _zoo(part, y: np.ndarray, curves: Mapping[str, np.ndarray]) -> None:
    axes = part.subplots(2, len(curves) // 2, sharex=True, sharey=True)
    for axis, (name, curve) in zip(axes.flat, curves.items(), strict=True):
        peak = curve[np.argmax(np.abs(curve))]
        axis.plot(y, curve / abs(peak), color=style.MARK if peak < 0 else style.COLOURS["inertial"])
        axis.axhline(0, color="black", lw=0.6)
        axis.set(ylim=(-1.1, 1.1), yticks=(-1, 0, 1), xlim=(y[0], y[-1]))
        axis.set_title(f"{name}\n{peak:+.3g}".replace("-", "−"), fontsize=7.5)
    part.supxlabel("E′", fontsize=9)
    part.supylabel("(c) P / max |P|", fontsize=9)
