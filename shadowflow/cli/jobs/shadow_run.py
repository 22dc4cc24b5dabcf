"""The run of an optimizer, and beside it the runs of its shadows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from ...diagnostics.bias import ImplicitBias, implicit_bias
from ...diagnostics.comparison import Comparison, compare
from ...diagnostics.error_bar import ErrorBar, error_bar
from ...iterate import iterate
from ...methods import METHODS
from ...optimizers.moments import Optimizer
from ...paper.along import shadows_along
from ...paper.ways import Way
from ...problem import Problem
from ...running import Trajectory
from ...shadow import Shadow, settled_state
from .progress import progress
from .settings import Setting

SAVED = 500


def key_of(way: Way) -> str:
    """The key of the arrays of a way."""
    return f"{way.method} / order {way.order} / {way.kind}"


@dataclass(frozen=True)
class Followed:
    """A shadow, its distance from the optimizer, and the estimate of that where one was asked."""

    way: Way
    follow: Shadow
    gap: Comparison
    bar: ErrorBar | None = None

    @property
    def name(self) -> str:
        """The key of its arrays."""
        return key_of(self.way)


@dataclass(frozen=True)
class ShadowOutcome:
    """The run of an optimizer, its shadows, and its implicit bias at the end, if it has one.

    no_bias: why it has none. error: what ended the computation early, an exception of the
    problem's functions or Ctrl-C; unfinished: the way that was run then, and how far it came.
    """

    setting: Setting
    problem: Problem
    optimizer: Optimizer
    real: Trajectory
    lines: list[Followed]
    bias: ImplicitBias | None = None
    no_bias: str = ""
    error: BaseException | None = None
    unfinished: tuple[Way, Trajectory] | None = None

    def loss(self, index: int) -> float:
        """The loss at a saved place of the run, NaN for a problem that has only gradients.

        NaN too where the computation was ended: its functions may raise again.
        """
        if self.problem.loss is None or self.error is not None:
            return float("nan")
        place = jax.tree.map(lambda leaf: jnp.asarray(leaf[index]), self.real.params)
        return float(self.problem.full_batch().value(place))

    @property
    def moved(self) -> float:
        """The two-norm of the way from the start to the end."""
        return float(compare(self.real, self.real).moved[-1])

    def relative(self, line: Followed) -> float:
        """A shadow's last distance, over that of the first-order flow at the same step."""
        base = [other.gap for other in self.lines if other.way[1:] == (1, "flow")]
        there = [gap.two_norm[gap.steps == line.gap.steps[-1]] for gap in base]
        if not there or not there[0].size or there[0][0] == 0:
            return float("nan")
        return float(line.gap.two_norm[-1] / there[0][0])


def run(
    setting: Setting, problem: Problem, params: PyTree, quiet: bool, bars: bool
) -> ShadowOutcome:
    """Compute one setting."""
    optimizer, rate, steps = setting.build(), setting.learning_rate, setting.steps
    given, start = (problem, optimizer, params, rate), 0
    ways, lines = wanted(setting.methods, problem), []
    options: dict[str, Any] = {"save_every": max(1, steps // SAVED)}
    real = bias = error = unfinished = None
    no_bias = ""
    total = steps * (len(ways) + 1)
    with progress(total=total, quiet=quiet, unit="step") as bar:
        try:
            if setting.settled:
                bar.set_description("the settled memory")
                start = settled_state(*given, order="auto")
            options |= {"start": start}
            bar.set_description("the optimizer")
            real = iterate(*given, steps, **options, progress=bar.update)
            run = (*given, steps)
            bar.set_description("its shadows")
            for way, follow in shadows_along(real, run, ways, **options, progress=bar.update):
                estimate = None
                if bars:
                    estimate = error_bar(*given, steps, **way._asdict(), **options, follow=follow)
                lines.append(Followed(way, follow, compare(real, follow), estimate))
            bar.set_description("the bias")
            bias, no_bias = bias_of(setting, given, real)
        except (Exception, KeyboardInterrupt) as raised:
            error, partial = raised, getattr(raised, "partial", None)
            if real is None and (partial is None or len(partial.steps) == 1):
                raise
            if real is None:
                real = partial
            elif partial is not None:
                unfinished = ways[len(lines)], partial
    assert real is not None
    found = setting, problem, optimizer, real, lines, bias, no_bias
    return ShadowOutcome(*found, error, unfinished)


def wanted(methods: tuple[str, ...], problem: Problem) -> list[Way]:
    """The lines of the table: the first order once, then every method's best.

    Only methods that the problem allows: some need Hessian-vector products, which a host function
    may lack, and some the full batch.
    """
    chosen = [METHODS[name] for name in methods]
    if _without_hvp(problem):
        chosen = [method for method in chosen if not method.needs_hvp]
    if problem.batched:
        chosen = [method for method in chosen if not method.full_batch]
    kinds = ("iteration", "flow")
    base = next((method.name for method in chosen if method.is_field), None)
    first = [Way(base, 1, kind) for kind in kinds if base]
    return first + [
        Way(method.name, "auto" if method.orders is None else method.usual[0], kind)
        for method in chosen
        for kind in kinds
        if kind in method.kinds
    ]


def _without_hvp(problem: Problem) -> bool:
    return not problem.traceable and problem.hvp is None


def bias_of(setting: Setting, given: tuple, real: Trajectory) -> tuple[ImplicitBias | None, str]:
    """The bias where the run ended, measured against its memory there; or why there is none."""
    problem, optimizer, _, rate = given
    if problem.batched:
        return None, (
            "with mini-batches the bias is no function of the parameters alone, and that of the "
            "full batch is not what happens"
        )
    if _without_hvp(problem):
        return None, "the problem has no Hessian-vector products; give it hvp="
    if real.failed_at is not None:
        return None, "the run ended in a number that is not finite"
    end = jax.tree.map(jnp.asarray, real.last)
    options: dict[str, Any] = {"start": real.state, "eps_root": setting.eps_root}
    return implicit_bias(problem, optimizer, end, rate, **options), ""
