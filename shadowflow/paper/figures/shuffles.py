"""Beyond the paper: how the sign of Adam's bias depends on β, ρ and the batch size.

At one place of a real network the correction, which is the second-order field of the Taylor form
less the first-order one, is averaged over shuffles (of the present epoch and of all that the memory
still sees) and over the steps of an epoch. Its component along d = ∇‖∇E‖_{1,ε} is told as
s = −⟨d, correction⟩ / ((h/2) ⟨d, d/R⟩), R² = (1/m) Σ_k g_k² + ε, which does not depend on h. For
the full batch the correction is −(h/2) s d/R and s the brace of the paper's (3), which is
(1+β)/(1−β) − (1+ρ)/(1−ρ) where ε ≪ g². s > 0 penalizes the perturbed one-norm of the whole
gradient, s < 0 anti-penalizes it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import t

from ... import ema_weights as mem, trees
from ...diagnostics.bias import implicit_bias
from ...diagnostics.shuffle_mean import over_shuffles
from ...iterate import iterate
from ...lab.data.load import load_digits
from ...lab.models import cross_entropy, mlp_apply, mlp_init, perceptron_problem
from ...methods import minibatch
from ...optimizers import zoo
from ...optimizers.moments import Optimizer
from ...problem import Problem
from ..evidence import Evidence, above, below, near, ordered
from . import Arrays, Data, Progress, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "The sign of Adam's bias against β, ρ and the batch size"
DATA = ()
MEMORIES = 7  # so many times the longest memory are kept of the past: e^-7 of it is dropped


@dataclass(frozen=True)
class BiasGrid:
    """The places (starts × lengths of the run before), the batches, the settings of Adam.

    stages: steps of full-batch Adam at ``warm`` from each start; batches: how many per epoch;
    b2s at b1, b1s at b2: what is varied; draws: shuffles with their reverses; steps: of an epoch,
    evenly spread, over which the mean is taken.
    """

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    stages: tuple[int, ...] = (60, 300)
    warm: tuple[float, float, float] = (1e-3, 0.9, 0.99)
    batches: tuple[int, ...] = (1, 3, 6, 18, 36)
    b1: float = 0.9
    b2s: tuple[float, ...] = (0.95, 0.99, 0.999)
    b2: float = 0.99
    b1s: tuple[float, ...] = (0.0, 0.9, 0.99)
    eps_root: float = 1e-12
    draws: int = 3
    steps: int = 6

    @property
    def panels(self) -> tuple[tuple[tuple[float, float], ...], ...]:
        """(β, ρ) of the lines where ρ is varied, and where β is."""
        return (tuple((self.b1, b2) for b2 in self.b2s), tuple((b1, self.b2) for b1 in self.b1s))

    @property
    def decays(self) -> tuple[tuple[float, float], ...]:
        """Every (β, ρ) once."""
        return tuple(dict.fromkeys(itertools.chain(*self.panels)))


SCALES = {
    "smoke": BiasGrid(
        seeds=(0, 1, 2),
        stages=(60,),
        batches=(1, 36),
        b2s=(0.95, 0.99),
        b1s=(0.9, 0.99),
        draws=2,
        steps=2,
    ),
    "full": BiasGrid(),
}


def key(stage: int, decays: tuple[float, float]) -> str:
    """The name of a line's arrays."""
    return f"{stage}/{decays[0]:g}/{decays[1]:g}"


def size(count: int) -> int:
    """Examples in each of ``count`` batches of the digits; what does not fill one is left out."""
    return len(load_digits()[1]) // count


def compute(settings: BiasGrid, data: Data, progress: Progress) -> dict[str, np.ndarray]:
    """Per stage: "loss" [starts], "noise" [starts, batches]; per line s and its standard error
    over shuffles, [starts, batches], and s of ``implicit_bias`` for the full batch, [starts]."""
    shape = len(settings.seeds), len(settings.batches)
    progress.total = np.prod(shape) * len(settings.stages) * len(settings.decays)
    arrays: dict[str, np.ndarray] = {}

    def put(name: str, value: float, place: tuple[int, ...]) -> None:
        arrays.setdefault(name, np.full(shape[: len(place)], np.nan))[place] = value

    with jax.enable_x64(True):
        images, labels = load_digits()
        whole = perceptron_problem(images, labels)
        for stage, (row, seed) in itertools.product(settings.stages, enumerate(settings.seeds)):
            params = _place(settings, whole, seed, stage)
            put(f"{stage}/loss", float(whole.value(params)), (row,))
            for column, count in enumerate(settings.batches):
                problem = _batched(images, labels, count, seed)
                frame = _frame(problem, params, jnp.asarray(settings.eps_root))
                put(f"{stage}/noise", float(frame.noise), (row, column))
                for decays in settings.decays:
                    found = _strength(settings, problem, params, frame, decays, seed)
                    for name, value in zip(("s", "error"), found, strict=True):
                        put(f"{key(stage, decays)}/{name}", value, (row, column))
                    if count == 1:
                        plain = _plain(settings, whole, params, decays, frame)
                        put(f"{key(stage, decays)}/plain", plain, (row,))
                    progress.update(1)
    return arrays


def adam(settings: BiasGrid, decays: tuple[float, float]) -> Optimizer:
    """The paper's Adam, ε inside the root."""
    return zoo.adam(b1=decays[0], b2=decays[1], eps=0.0, eps_root=settings.eps_root)


def _place(settings: BiasGrid, whole: Problem, seed: int, stage: int):
    rate, decays = settings.warm[0], settings.warm[1:]
    start = mlp_init(jax.random.key(seed), dtype=jnp.float64)
    run = iterate(whole, adam(settings, decays), start, rate, stage, save_every=stage)
    return jax.tree.map(jnp.asarray, run.last)


def _loss(params, batch):
    return cross_entropy(mlp_apply(params, batch[0]), batch[1])


def _batched(images: np.ndarray, labels: np.ndarray, count: int, seed: int) -> Problem:
    """The digits in ``count`` equal batches, dealt out at random; one batch is all of them."""
    order = np.random.default_rng(seed).permutation(len(labels))[: count * size(count)]
    fold = lambda part: jnp.asarray(part.reshape(count, size(count), *part.shape[1:]))
    return Problem(_loss, batches=(fold(images[order].astype(float)), fold(labels[order])))


class Frame(eqx.Module):
    """d, ⟨d, d/R⟩ / 2, and the variance of the batches' gradients over the square of their mean."""

    slope: Any
    scale: jax.Array
    noise: jax.Array


@eqx.filter_jit
def _frame(problem: Problem, params, eps_root) -> Frame:
    every = jnp.arange(problem.count)
    gradients, products = problem.linearize_each(params, every)
    mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), gradients)
    sign = jax.tree.map(lambda g: g / jnp.sqrt(g * g + eps_root), mean)
    copies = jax.tree.map(lambda v: jnp.broadcast_to(v[None], (problem.count, *v.shape)), sign)
    slope = jax.tree.map(lambda v: jnp.mean(v, axis=0), products(copies))
    root = lambda g: jnp.sqrt(jnp.mean(g * g, axis=0) + eps_root)
    scaled = jax.tree.map(lambda d, g: d / root(g), slope, gradients)
    spread = trees.total(jax.tree.map(lambda g: jnp.var(g, axis=0), gradients))
    return Frame(slope, trees.inner(slope, scaled) / 2, spread / trees.inner(mean, mean))


class BiasOfShuffle(eqx.Module):
    """The problem with one shuffle as its schedule → s, the mean over ``steps``."""

    optimizer: Optimizer
    params: Any
    frame: Frame
    steps: jax.Array
    kept: int = eqx.field(static=True)

    def __call__(self, problem: Problem):
        def at(step):
            memory = mem.at(self.optimizer, jnp.ones(()), step, self.params, self.kept)
            taylor = minibatch.BatchedTaylor(problem, self.optimizer, 0.5)
            first, second = taylor(memory, self.params)
            return trees.inner(self.frame.slope, trees.subtract(second, first))

        return jnp.mean(jax.lax.map(at, self.steps)) / self.frame.scale


def past(decays: tuple[float, float]) -> int:
    """How many steps of the past are kept."""
    return int(np.ceil(MEMORIES / (1 - max(decays))))


def _strength(
    settings: BiasGrid, problem: Problem, params, frame: Frame, decays: tuple[float, float], seed
) -> tuple[float, float]:
    kept, count = past(decays), problem.count
    epochs = -(-kept // count) + 1
    last = np.linspace((epochs - 1) * count, epochs * count - 1, settings.steps)
    steps = np.unique(np.round(last).astype(np.int32))
    optimizer = jax.tree.map(jnp.asarray, adam(settings, decays))
    call = BiasOfShuffle(optimizer, params, frame, jnp.asarray(steps), kept)
    samples = None if count == 1 else settings.draws
    found = over_shuffles(call, problem, epochs=epochs, samples=samples, seed=seed)
    return float(found.mean), float(found.standard_error)


def _plain(settings: BiasGrid, whole: Problem, params, decays, frame: Frame) -> float:
    """s for the full batch from ``implicit_bias``: as long a memory, no batches, no shuffles."""
    optimizer, last, eps = adam(settings, decays), past(decays) - 1, settings.eps_root
    found = implicit_bias(whole, optimizer, params, 1.0, start=last, eps_root=eps)
    assert found.one_norm is not None
    return -found.one_norm.bias_rate / float(frame.scale)


def interval(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean over starts (first axis), and half the width of its 95 % interval (Student)."""
    starts = len(values)
    half = t.ppf(0.975, starts - 1) * np.std(values, axis=0, ddof=1) / np.sqrt(starts)
    return np.mean(values, axis=0), half


def signs(values: np.ndarray) -> str:
    """A sign per batch size: "+" or "−" where the 95 % interval over starts has one, else "?".

    >>> signs(np.array([[1.0, -1.0, 1.0], [1.1, -1.1, -1.0]]))
    '+−?'
    """
    mean, half = interval(values)
    return "".join(
        "+" if low > 0 else "−" if high < 0 else "?"
        for low, high in zip(mean - half, mean + half, strict=True)
    )


def evidence(arrays: Arrays, settings: BiasGrid) -> list[Evidence]:
    """The full batch against ``implicit_bias``; what the batch size does to each sign."""
    return [row for stage in settings.stages for row in _at_stage(arrays, settings, stage)]


def _at_stage(arrays: Arrays, settings: BiasGrid, stage: int) -> Iterator[Evidence]:
    where = f"after {stage} steps"
    of = lambda name, decays: arrays[f"{key(stage, decays)}/{name}"]
    lines = {decays: of("s", decays) for decays in settings.decays}
    off = [np.max(np.abs(s[:, 0] / of("plain", decays) - 1)) for decays, s in lines.items()]
    run = {
        "batch sizes": [size(count) for count in settings.batches],
        "noise over signal": arrays[f"{stage}/noise"].mean(axis=0).tolist(),
        "loss": arrays[f"{stage}/loss"].tolist(),
    }
    claim = f"{where}, full batch: s is that of implicit_bias; largest relative difference"
    yield near(claim, float(max(off)), 0.0, 1e-6, **run)
    for (b1, b2), s in lines.items():
        said = f"{where}, β = {b1:g}, ρ = {b2:g}"
        mean, half = interval(s)
        run = {
            "s": mean.tolist(),
            "half of the 95 % interval": half.tolist(),
            "signs": signs(s),
            "standard error over shuffles": of("error", (b1, b2)).mean(axis=0).tolist(),
            "s of every start": s.tolist(),
        }
        if b1 < b2:
            claim = f"{said}: the full batch anti-penalizes; upper end of s"
            yield below(claim, mean[0] + half[0], 0.0, **run)
            claim = f"{said}: the smallest batch does so less, if at all; s over that of"
            yield below(f"{claim} the full batch", mean[-1] / mean[0], 0.5)
        else:
            claim = f"{said}: the smallest batch penalizes; lower end of s"
            yield above(claim, mean[-1] - half[-1], 0.0, **run)
    mean, half = interval(lines[settings.panels[0][0]])
    claim = f"{where}, β = {settings.b1:g}, ρ = {settings.b2s[0]:g}: the sign turns, the smallest"
    yield above(f"{claim} batch penalizes; lower end of s", mean[-1] - half[-1], 0.0)
    ends = [interval(lines[decays])[0][0] for decays in settings.panels[0]]
    yield ordered(f"{where}, full batch: larger ρ, more anti-penalty; s", ends, rising=False)


def caption(arrays: Arrays, settings: BiasGrid) -> str:
    """What is drawn, and every sign."""
    rate, b1, b2 = settings.warm
    sizes = ", ".join(str(size(count)) for count in settings.batches)
    told, shares = [], []
    for stage in settings.stages:
        seen = (
            f"(β, ρ) = ({b1:g}, {b2:g}): {signs(arrays[key(stage, (b1, b2)) + '/s'])}"
            for b1, b2 in settings.decays
        )
        told.append(f"after {stage} steps, {'; '.join(seen)}")
        for decays in settings.decays:
            error = arrays[f"{key(stage, decays)}/error"].mean(axis=0)[1:]
            shares.append(error / interval(arrays[f"{key(stage, decays)}/s"])[1][1:])
    return (
        f"What Adam's bias does to the perturbed one-norm of the whole gradient, ε = "
        f"{settings.eps_root:g} inside the root, at {len(settings.seeds)} starts of a perceptron "
        f"on the digits after {' and '.join(map(str, settings.stages))} steps of full-batch Adam "
        f"(h = {rate:g}, {b1:g}, {b2:g}): s > 0 penalizes it, s < 0 anti-penalizes it, and for "
        f"the full batch s is the brace of the paper's (3). Each s is the mean over shuffles, and "
        f"over the steps of an epoch, of the correction of second order. Bars: 95 % intervals "
        f"(Student) of the mean over starts, each with batches of its own and {settings.draws} "
        f"shuffles with their reverses, whose standard error is at most "
        f"{np.max(np.concatenate(shares)):.1g} of half a bar; dots: every start. The signs that "
        f"the bars have (?: none) at batches of {sizes}: {'; '.join(told)}."
    )


def draw(arrays: Arrays, settings: BiasGrid) -> Figure:
    """The figure from its arrays: a row per stage; left ρ varied, right β varied."""
    from matplotlib import pyplot as plt

    figsize = style.PAGE, 2.5 * len(settings.stages) + 0.3
    figure, axes = plt.subplots(
        len(settings.stages), 2, figsize=figsize, squeeze=False, sharey=True
    )
    for stage, line in zip(settings.stages, axes, strict=True):
        loss = arrays[f"{stage}/loss"].mean()
        for varied, (axis, panel) in enumerate(zip(line, settings.panels, strict=True)):
            for index, decays in enumerate(panel):
                label = f"{'ρβ'[varied]} = {decays[1 - varied]:g}"
                colour = style.shades(len(panel))[index]
                values = arrays[f"{key(stage, decays)}/s"]
                _line(axis, values, settings, index - 1, colour, label)
            other = (f"β = {settings.b1:g}", f"ρ = {settings.b2:g}")[varied]
            axis.set_title(f"{other}, after {stage} steps (loss {loss:.2g})")
            _scales(axis, arrays[f"{stage}/noise"].mean(axis=0), settings)
            axis.legend(loc=("upper right", "lower center")[varied], ncols=(1, 3)[varied])
        line[0].set_ylabel("s   (< 0 anti-penalizes, > 0 penalizes)")
    for axis in axes[-1]:
        axis.set_xlabel("batch size\nvariance of its gradient / squared gradient")
    style.letter(list(axes.flat))
    return figure


def _line(axis, values: np.ndarray, settings: BiasGrid, shift: int, colour, label: str) -> None:
    sizes = np.array([size(count) for count in settings.batches]) * 1.06**shift
    mean, half = interval(values)
    axis.errorbar(sizes, mean, half, color=colour, label=label, marker="o", ms=3, capsize=2.5)
    for row in values:
        axis.plot(sizes, row, ls="", marker=".", ms=2.5, color=colour, alpha=0.5)


def _scales(axis, noise: np.ndarray, settings: BiasGrid) -> None:
    sizes = [size(count) for count in settings.batches]
    axis.axhline(0, color="black", lw=0.8)
    axis.set(xscale="log", xticks=sizes)
    axis.set_yscale("symlog", linthresh=2, linscale=0.6)
    ratios = [f"{x:.0f}" if x >= 10 else f"{x:.2g}" for x in noise]
    axis.set_xticklabels([f"{n}\n{x}" for n, x in zip(sizes, ratios, strict=True)])
    axis.minorticks_off()
