"""The paper's remarks and assumptions on trial: the one-norm as sharpness, runs that stay within
the theorems and one that leaves them, and what the bias does when it is turned up and down."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from .. import trees
from ..fields import memoryless_step
from ..iterate import iterate
from ..lab.models import bilinear_problem, digits_problem
from ..optimizers import zoo
from ..problem import Problem
from . import analysis, curves, theorems, trials
from .assumptions import assumptions
from .evidence import above, near, said
from .figures.constants import PARABOLA
from .trials import Trial

RADII = tuple(10.0**-power for power in (6, 5, 4, 3, 2, 1, 0))
CLIMB = 40  # signed gradient steps within the box


@eqx.filter_jit
def rise_within(problem: Problem, params: PyTree, radius) -> jax.Array:
    """The largest E(θ + e) − E(θ) found over max|e_j| ≤ radius, climbing from r·sign(∇E).

    By steps of radius/2 along the sign of the gradient, each brought back into the box; the best
    place of all counts, so that the maximum may be larger but not smaller.

    >>> bowl = Problem(lambda x: jnp.sum(x**2) / 2)
    >>> round(float(rise_within(bowl, jnp.asarray([3.0, -4.0]), 0.5)), 4)  # ½(3.5² + 4.5²) − 12.5
    3.75
    """
    here, gradient = problem.value_and_gradient(params)
    box = lambda tree: jax.tree.map(lambda e: jnp.clip(e, -radius, radius), tree)
    along = lambda step, tree: jax.tree.map(lambda g: step * jnp.sign(g), tree)

    def climb(carry, _):
        e, best = carry
        value, gradient = problem.value_and_gradient(trees.add(params, 1, e))
        moved = box(trees.add(e, 1, along(radius / 2, gradient)))
        return (moved, jnp.maximum(best, value - here)), None

    start = along(radius, gradient), jnp.asarray(-jnp.inf, here.dtype)
    (_, best), _ = jax.lax.scan(climb, start, None, length=CLIMB)
    return best


def sharpness(scale: str) -> list[Trial]:
    """r‖∇E‖₁ against the largest rise of the loss in a box, on a network: equal as r → 0."""
    with jax.enable_x64(True):
        problem, start = digits_problem()
        start = jax.tree.map(jnp.float64, start)
        norm = sum(float(jnp.abs(g).sum()) for g in jax.tree.leaves(problem.gradient(start)))
        rises = [float(rise_within(problem, start, jnp.asarray(r))) for r in RADII]
    ratios = [rise / (radius * norm) for rise, radius in zip(rises, RADII, strict=True)]
    run = {"radii": RADII, "ratios": ratios, "one-norm": norm}
    gaps = np.abs(np.array(ratios) - 1)
    order = float(np.polyfit(np.log(RADII[:4]), np.log(gaps[:4]), 1)[0])
    over = "largest rise of the loss within max|e| ≤ r, over r‖∇E‖₁"
    rows = [
        near(f"r = {RADII[0]:g}: {over}", ratios[0], 1, 1e-3, **run),
        near(f"order in r at which that tends to 1, r up to {RADII[3]:g}", order, 1, 0.1),
        above(f"r = {RADII[-1]:g}, too large for it: distance from 1", gaps[-1], 0.5),
    ]
    claim = "r‖∇E‖₁ is how much the loss can rise within a small box"
    return [trials.of_evidence(claim, "perceptron, digits", rows)]


RATE = 2.0**-9
CROSSED = 0.2  # when the sign flow's first gradient component is 0: |x - 1| at the start


def within(scale: str) -> list[Trial]:
    """The runs of the theorems stay within them; one on which a component of ∇E passes 0 does not.

    There ε is small, so that Adam moves as the sign flow: at the time 0.2 it passes x = 1.
    """
    rows, steps = [], round(theorems.HORIZON / RATE)
    with jax.enable_x64(True):
        start = jnp.float64(bilinear_problem()[1])
        for theorem in theorems.THEOREMS:
            optimizer = getattr(zoo, theorem.optimizer)(**theorem.arguments)
            for words, problem in (
                ("three mini-batches", theorems.batches()),
                ("full batch", bilinear_problem()[0]),
            ):
                run = iterate(problem, optimizer, start, RATE, steps)
                found = assumptions(problem, optimizer, run)
                left = found.outside if "outside" in theorem.label else found.inside
                numbers = {"least R": float(found.roots.min())}
                numbers["derivatives"] = found.derivatives.max(axis=0).tolist()
                where = "nowhere" if left is None else f"step {left.step}: {left.why}"
                claim = f"{theorem.label}, {words}: the run leaves the assumptions"
                rows.append(said(claim, where, "nowhere", **numbers))
        adam = zoo.adam(**theorems.ADAM, eps=1e-8)
        run = iterate(PARABOLA, adam, jnp.asarray([1 + CROSSED, 0.0]), RATE, steps)
        left = assumptions(PARABOLA, adam, run).outside
    when = np.nan if left is None else left.step * RATE
    claim = "ε outside, a component of the gradient passes 0: the time at which the run leaves"
    rows.append(near(claim, when, CROSSED, 0.02, step=left and left.step))
    return [trials.of_evidence("the runs stay within the theorems", "bilinear model", rows)]


DIALS = (-1.0, 0.0, 1.0, 2.0)  # 0: no bias; 1: Adam's, to second order
TURNED = ((0.9, 0.99, True), (0.9, 0.5, False))  # β, ρ, whether the norm is to rise with the dial
DIAL_RATE, DIAL_EPS, LEVEL, DIAL_STEPS, SEEDS = 1e-4, 1e-6, 1.5, 500, (0, 1, 2)


def turned(problem: Problem, params: PyTree, b1: float, b2: float, steps: int) -> tuple:
    """(loss, perturbed one-norm) [dials, steps] where Adam's bias is turned up and down.

    θ ← θ + Δ₁ + s (Δ₂ − Δ₁): Δ₁ is the step without memory, Δ₂ the second-order one, both as of
    step n at θ, and s one of ``DIALS``. All else, the start and the data, is the same.
    """
    adam = zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=DIAL_EPS)
    plain, second = (memoryless_step(problem, adam, DIAL_RATE, order=order) for order in (1, 2))

    def run(dial):
        def step(place, n):
            value, gradient = problem.value_and_gradient(place)
            without = plain(n, place)
            bias = trees.subtract(second(n, place), without)
            size = jax.tree.map(lambda g: jnp.sum(jnp.sqrt(g * g + DIAL_EPS)), gradient)
            norm = sum(jax.tree.leaves(size), jnp.zeros(()))
            return trees.add(trees.add(place, 1, without), dial, bias), (value, norm)

        return jax.lax.scan(step, params, jnp.arange(steps))[1]

    return jax.tree.map(np.asarray, jax.jit(jax.lax.map, static_argnums=0)(run, jnp.array(DIALS)))


def causal(scale: str) -> list[Trial]:
    """Whether the norm at equal loss follows the bias alone, up for ρ > β and down for β > ρ."""
    found = []
    for b1, b2, rising in TURNED:
        rows = []
        for seed in SEEDS:
            with jax.enable_x64(True):
                problem, start = digits_problem(seed)
                start = jax.tree.map(jnp.float64, start)
                losses, norms = turned(problem, start, b1, b2, DIAL_STEPS)
            rows.append(
                [curves.at_loss(*both, LEVEL).value for both in zip(norms, losses, strict=True)]
            )
        test = trials.trend(np.array(rows), rising)
        words = f"{'larger' if rising else 'smaller'} perturbed one-norm at training loss {LEVEL:g}"
        run = {
            "sweep": {"s": list(DIALS), "β": b1, "ρ": b2},
            "outcomes": rows,
            "seeds": list(SEEDS),
            "test": dataclasses.asdict(test),
        }
        found.append(
            Trial(
                f"more of the bias: {words}",
                f"perceptron, digits, β = {b1:g}, ρ = {b2:g}, h = {DIAL_RATE:g}",
                test.words,
                analysis.means(np.array(rows).T),
                test.p,
                test.verdict,
                run,
            )
        )
    return found
