"""The theory written out with dense Hessians and explicit loops, in numpy.

Nothing here uses the library: the optimizers are written down again, with their derivatives by
hand, and every sum over past steps is a loop. Slow on purpose.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np


class Landscape(NamedTuple):
    """A loss with its gradient and its full Hessian, as numpy functions of a flat vector."""

    gradient: Callable
    hessian: Callable


def landscape(loss: Callable) -> Landscape:
    gradient, hessian = jax.jit(jax.grad(loss)), jax.jit(jax.hessian(loss))
    return Landscape(lambda x: np.asarray(gradient(x)), lambda x: np.asarray(hessian(x)))


class Formula(NamedTuple):
    """Moments (decay, ψ, ψ', bias-corrected), Φ(moments, θ, n), its partials, and its λ of λθ."""

    moments: list
    combine: Callable
    partials: Callable
    weight_decay: float = 0.0


def plain(decay, corrected):
    return decay, lambda g: g, np.ones_like, corrected


def squared(decay, corrected):
    return decay, lambda g: g**2, lambda g: 2 * g, corrected


def sgd() -> Formula:
    return Formula([plain(0, True)], lambda m, x, n: m[0], lambda m, x, n: [np.ones_like(x)])


def momentum(decay, form="trace", bias_correction=False) -> Formula:
    gain = 1 if form == "ema" else 1 / (1 - decay)
    return Formula(
        [plain(decay, bias_correction)],
        lambda m, x, n: gain * m[0],
        lambda m, x, n: [gain * np.ones_like(x)],
    )


def nesterov(decay) -> Formula:
    a, b = decay / (1 - decay), 1.0
    return Formula(
        [plain(decay, False), plain(0, True)],
        lambda m, x, n: a * m[0] + b * m[1],
        lambda m, x, n: [a * np.ones_like(x), b * np.ones_like(x)],
    )


def adam(b1, b2, eps, eps_root, bias_correction=True, weight_decay=0.0) -> Formula:
    def combine(m, x, n):
        return m[0] / (np.sqrt(m[1] + eps_root) + eps) + weight_decay * x

    def partials(m, x, n):
        root = np.sqrt(m[1] + eps_root)
        return [1 / (root + eps), -m[0] / (2 * root * (root + eps) ** 2)]

    moments = [plain(b1, bias_correction), squared(b2, bias_correction)]
    return Formula(moments, combine, partials, weight_decay)


def rmsprop(decay, eps, eps_root, bias_correction=False) -> Formula:
    formula = adam(0, decay, eps, eps_root)
    return formula._replace(moments=[plain(0, True), squared(decay, bias_correction)])


def nadam(b1, b2, eps, eps_root) -> Formula:
    def parts(m, n):
        ahead = b1 / (1 - b1 ** (n + 2))
        now = (1 - b1) / (1 - b1 ** (n + 1))
        return ahead, now, np.sqrt(m[2] + eps_root)

    def combine(m, x, n):
        ahead, now, root = parts(m, n)
        return (ahead * m[0] + now * m[1]) / (root + eps)

    def partials(m, x, n):
        ahead, now, root = parts(m, n)
        top, bottom = ahead * m[0] + now * m[1], root + eps
        return [ahead / bottom, now / bottom, -top / (2 * root * bottom**2)]

    return Formula([plain(b1, False), plain(0, True), squared(b2, True)], combine, partials)


def lion(b1, b2, eps_root) -> Formula:
    share = b1 / b2
    mixed = lambda m: share * m[0] + (1 - share) * m[1]

    def partials(m, x, n):
        slope = eps_root / (mixed(m) ** 2 + eps_root) ** 1.5
        return [share * slope, (1 - share) * slope]

    return Formula(
        [plain(b2, False), plain(0, True)],
        lambda m, x, n: mixed(m) / np.sqrt(mixed(m) ** 2 + eps_root),
        partials,
    )


def signum(decay, eps_root) -> Formula:
    formula = lion(decay, decay, eps_root)
    return Formula(
        formula.moments[:1],
        lambda m, x, n: formula.combine([m[0], 0], x, n),
        lambda m, x, n: formula.partials([m[0], 0], x, n)[:1],
    )


FORMULAS = {
    "sgd": sgd,
    "momentum": momentum,
    "nesterov": nesterov,
    "rmsprop": rmsprop,
    "adam": adam,
    "adamw": adam,
    "nadam": nadam,
    "signum": signum,
    "lion": lion,
}


def formula(row: str, options: dict) -> Formula:
    """The formula of a row of the table, "adam-inside" → ``adam`` with the row's options."""
    return FORMULAS[row.partition("-")[0]](**options)


def weights(decay, n: int, corrected: bool) -> np.ndarray:
    """w_{n,k} for k = 0 … n."""
    raw = np.array([(1 - decay) * decay ** (n - k) for k in range(n + 1)])
    return raw / (1 - decay ** (n + 1)) if corrected else raw


def averages(formula: Formula, gradient, n) -> list:
    """The moments at step n if every gradient so far had been the present one; n = ∞: settled."""
    total = [
        1.0 if n == np.inf else weights(decay, n, corrected).sum()
        for decay, _, _, corrected in formula.moments
    ]
    return [w * psi(gradient) for w, (_, psi, _, _) in zip(total, formula.moments, strict=True)]


def way(formula: Formula, gradient, x, rates, k: int, n: int):
    """v_{n,k} = Σ_{l=k}^{n−1} h_l F_l."""
    total = np.zeros_like(x)
    for l in range(k, n):
        total = total + rates(l) * formula.combine(averages(formula, gradient, l), x, l)
    return total


def direct_sums(formula: Formula, surface: Landscape, x, rates: Callable, n: int) -> tuple:
    """(field, move) at step n by the double sum over past steps k and l."""
    x = np.asarray(x)
    g, H, h = surface.gradient(x), surface.hessian(x), rates(n)
    now = averages(formula, g, n)
    direction = formula.combine(now, x, n)
    back, forward = 0.0, formula.weight_decay * direction
    for (decay, _, slope, corrected), part in zip(
        formula.moments, formula.partials(now, x, n), strict=True
    ):
        for k, weight in enumerate(weights(decay, n, corrected)):
            back = back + part * weight * slope(g) * (H @ way(formula, g, x, rates, k, n))
            forward = forward + part * weight * slope(g) * (H @ direction)
    return -direction - back - h / 2 * forward, -h * (direction + back)


def one_line(formula: Formula, surface: Landscape, x, h: float) -> np.ndarray:
    """The settled field, −Φ − h Σ_i (1+β_i)/(2(1−β_i)) ∂_iΦ ψ_i'(g) (HΦ)."""
    x = np.asarray(x)
    g, H = surface.gradient(x), surface.hessian(x)
    now = averages(formula, g, np.inf)
    direction = formula.combine(now, x, np.inf)
    total = -direction - h / 2 * formula.weight_decay * direction
    for (decay, _, slope, _), part in zip(
        formula.moments, formula.partials(now, x, np.inf), strict=True
    ):
        total = total - h * (1 + decay) / (2 * (1 - decay)) * part * slope(g) * (H @ direction)
    return total


def theorem(visits, x, h, n, b1, b2, eps, eps_root, correct_square=True) -> tuple:
    """(field, move) of the paper's Theorems B.4, C.4, D.4 and E.4 at step n: equation (9).

    ``visits``: the landscape that each step saw (the same one n + 1 times for the full batch);
    ``b1`` = 0 is RMSProp. M, R, L, L̄, P, P̄ as in the paper, R the root with eps_root in it.
    """
    x = np.asarray(x)
    g = [surface.gradient(x) for surface in visits[: n + 1]]
    H = [surface.hessian(x) for surface in visits[: n + 1]]

    def scaled(step):
        b = [(1 - b1) * b1 ** (step - k) / (1 - b1 ** (step + 1)) for k in range(step + 1)]
        r = [(1 - b2) * b2 ** (step - k) for k in range(step + 1)]
        r = [value / (1 - b2 ** (step + 1)) for value in r] if correct_square else r
        M = sum(b[k] * g[k] for k in range(step + 1))
        R = np.sqrt(sum(r[k] * g[k] ** 2 for k in range(step + 1)) + eps_root)
        return b, r, M, R, R + eps

    b, r, M, R, D = scaled(n)
    u = [scaled(l)[2] / scaled(l)[4] for l in range(n + 1)]
    past = [H[k] @ sum(u[k:n], np.zeros_like(x)) for k in range(n + 1)]
    L = sum(b[k] * past[k] for k in range(n + 1))
    L_bar = sum(b[k] * (H[k] @ u[n]) for k in range(n + 1))
    P = sum(r[k] * g[k] * past[k] for k in range(n + 1))
    P_bar = sum(r[k] * g[k] * (H[k] @ u[n]) for k in range(n + 1))
    field = -M / D + h * (M * (2 * P + P_bar) / (2 * D**2 * R) - (2 * L + L_bar) / (2 * D))
    move = -h * M / D + h**2 * (M * P / (D**2 * R) - L / D)
    return field, move


def settled_adam(surface: Landscape, x, h, b1, b2, eps, inside: bool) -> np.ndarray:
    """The paper's equation (3), and its form with eps outside the root."""
    x = np.asarray(x)
    g, H = surface.gradient(x), surface.hessian(x)
    first, second = (1 + b1) / (1 - b1), (1 + b2) / (1 - b2)
    if inside:
        denominator = np.sqrt(g**2 + eps)
        brace = first - second + second * eps / (g**2 + eps)
    else:
        denominator = np.abs(g) + eps
        brace = first - second * np.abs(g) / denominator
    return -(g + h / 2 * brace * (H @ (g / denominator))) / denominator


def line(formula, surface, x, rates, n, phase, linearized=False) -> np.ndarray:
    """The direction with all past gradients on one line through two real ones, age by age.

    For optimizers whose F_l is the same at every step l ≤ n.
    """
    x = np.asarray(x)
    g, h = surface.gradient(x), rates(n)
    direction = formula.combine(averages(formula, g, n), x, n)
    back = np.array([sum(rates(l) for l in range(k, n)) for k in range(n + 1)])
    shares = [weights(decay, n, corrected) for decay, _, _, corrected in formula.moments]
    longest = max(*(float(w @ back) for w in shares), h)
    slope = (surface.gradient(x + longest * direction) - g) / longest
    if linearized:
        slope = surface.hessian(x) @ direction
    moments = []
    for (_, psi, _, _), share in zip(formula.moments, shares, strict=True):
        total = np.zeros_like(g)
        for weight, time in zip(share, back, strict=True):
            total = total + weight * psi(g + (time + phase * h) * slope)
        moments.append(total)
    return formula.combine(moments, x + phase * h * direction, n)


# Mini-batches: ``visits`` is the list of landscapes that steps 0, 1, … saw


def seen_averages(formula: Formula, visits, x, n: int) -> list:
    """The moments at step n with every past gradient taken at x."""
    return [
        sum(
            w * psi(surface.gradient(x))
            for w, surface in zip(weights(decay, n, corrected), visits, strict=False)
        )
        for decay, psi, _, corrected in formula.moments
    ]


def seen_ways(formula: Formula, visits, x, rates: Callable, n: int) -> list:
    """v_{n,k} = Σ_{l=k}^{n−1} h_l F_l for k = 0 … n."""
    moves = [
        rates(l) * formula.combine(seen_averages(formula, visits, x, l), x, l) for l in range(n)
    ]
    return [sum(moves[k:], np.zeros_like(x)) for k in range(n + 1)]


def batch_sums(formula: Formula, visits, x, rates: Callable, n: int) -> tuple:
    """(field, move) of second order at step n: dense Hessians, a loop over all past steps."""
    x = np.asarray(x)
    now, h = seen_averages(formula, visits, x, n), rates(n)
    direction = formula.combine(now, x, n)
    ways = seen_ways(formula, visits, x, rates, n)
    back, forward = 0.0, formula.weight_decay * direction
    for (decay, _, slope, corrected), part in zip(
        formula.moments, formula.partials(now, x, n), strict=True
    ):
        for k, weight in enumerate(weights(decay, n, corrected)):
            g, H = visits[k].gradient(x), visits[k].hessian(x)
            back = back + part * weight * slope(g) * (H @ ways[k])
            forward = forward + part * weight * slope(g) * (H @ direction)
    return -direction - back - h / 2 * forward, -h * (direction + back)


def batch_places(formula: Formula, visits, x, rates: Callable, n: int, phase: float) -> np.ndarray:
    """The displaced direction: every moment reads every batch at its mean place, spread by two
    points (THEORY §4.2), each sum by itself."""
    x = np.asarray(x)
    h = rates(n)
    direction = formula.combine(seen_averages(formula, visits, x, n), x, n)
    ways = seen_ways(formula, visits, x, rates, n)
    times = [sum(rates(l) for l in range(k, n)) for k in range(n + 1)]
    moments = []
    for decay, psi, _, corrected in formula.moments:
        share, total = weights(decay, n, corrected), 0.0
        for surface in {id(s): s for s in visits[: n + 1]}.values():
            mine = [k for k in range(n + 1) if visits[k] is surface]
            W = sum(share[k] for k in mine)
            if W == 0:
                continue
            mean = lambda values, mine=mine, W=W, share=share: (
                sum(share[k] * values[k] for k in mine) / W
            )
            time = mean(times)
            deviation = np.sqrt(sum(share[k] * (times[k] - time) ** 2 for k in mine) / W)
            moved = surface.gradient(x + mean(ways) + phase * h * direction)
            still = surface.gradient(x)
            gap = 0 if time + phase * h == 0 else (moved - still) / (time + phase * h) * deviation
            total = total + W * (psi(moved + gap) + psi(moved - gap)) / 2
        moments.append(total)
    return formula.combine(moments, x + phase * h * direction, n)
