"""Where a shadow holds: judged from the run itself, in numbers and in words.

The theory is asymptotic. The running maximum of |second-order correction| / |first-order step|
says how far into its range a run went: up to 0.1 it holds, up to 0.4 in part, beyond it does
not (the ratio at one instant recovers while the run is already far off; hence the maximum).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import plots
from .optimizers import thresholds
from .optimizers.base import AbstractOptimizer
from .plots import Result
from .running import FollowedRun

HOLDS, PARTLY = 0.1, 0.4
UNSETTLED = 0.05
OPENINGS = {"holds": "holds", "partly": "holds in part", "does not hold": "does not hold"}


@dataclass(frozen=True, repr=False)
class Validity(Result):
    """How far a result can be trusted.

    steps: step numbers, int array [steps]; ratio: the correction relative to the first-order
    step, per step; running_max: its running maximum; level: "holds", "partly", "does not hold"
    or "below rounding"; reason: the same in words; remarks: what else to mind.
    """

    steps: np.ndarray
    ratio: np.ndarray
    running_max: np.ndarray
    level: str
    reason: str
    remarks: tuple[str, ...]

    @property
    def summary(self) -> str:
        """The reason, which begins with the level."""
        return self.reason

    plot = plots.validity

    @property
    def remark(self) -> str:
        """The remarks as one text, "" where there is none."""
        return ". ".join(self.remarks)

    @property
    def verdict(self) -> str:
        """The reason and the remarks as sentences."""
        return " ".join(f"{text}." for text in (self.reason, *self.remarks))


def judge(
    steps,
    correction,
    plain,
    *,
    params: PyTree,
    rates,
    remarks: Sequence[str] = (),
    failed_at: int | None = None,
    memoryless: bool = True,
    past: tuple[str, str] = ("", ""),
) -> Validity:
    """The validity of a run from the sizes of its corrections and of its first-order steps.

    correction, plain: per step, in parameters per unit of time; rates: learning rates; params:
    any parameters of the run, for the size of rounding; remarks: what else the verdict says,
    "" being nothing; past: the edge that the run is past (``past_edge``) and the level that this
    leaves it, whatever the ratio is.
    """
    correction, plain = np.asarray(correction, float), np.asarray(plain, float)
    still = np.where(correction == 0, 0.0, np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(plain > 0, correction / plain, still)
    ratio = np.where(np.isnan(ratio), np.inf, ratio)
    running = np.maximum.accumulate(ratio) if len(ratio) else ratio
    level, reason = _level(np.asarray(steps), ratio, memoryless)
    if failed_at is not None:
        level = "does not hold"
        reason = f"a non-finite number began at step {failed_at}; {reason}"
    elif level == "holds" and _below_rounding(correction, rates, params):
        level = "below rounding"
        dtype = jax.tree.leaves(params)[0].dtype
        remedy = "" if dtype == np.float64 else "; use float64"
        reason = (
            f"cannot be told from rounding: the correction adds up to less than the rounding of "
            f"{dtype}{remedy}"
        )
    if past[1]:
        level = "does not hold" if "does not hold" in (level, past[0]) else past[0]
        reason = f"{past[1]}; {reason}"
    told = f"{OPENINGS[level]}: {reason}" if level in OPENINGS else reason
    return Validity(np.asarray(steps), ratio, running, level, told, tuple(filter(None, remarks)))


def _level(steps: np.ndarray, ratio: np.ndarray, memoryless: bool) -> tuple[str, str]:
    what = "the second-order correction" if memoryless else "half the turn of the direction"
    if not len(ratio):
        return "holds", "no step was taken"
    worst = int(np.argmax(ratio))
    size = f"{ratio[worst]:.2g} of the step" if np.isfinite(ratio[worst]) else "no finite size"
    reason = f"{what} reached {size} (at step {steps[worst]})"
    if ratio[worst] <= HOLDS:
        return "holds", f"{what} stayed within {size} (largest at step {steps[worst]})"
    if ratio[worst] <= PARTLY:
        return "partly", reason
    remedy = "; method='inertial' follows further" if memoryless else ""
    return "does not hold", reason + remedy


def _below_rounding(correction: np.ndarray, rates, params: PyTree) -> bool:
    leaves = jax.tree.leaves(params)
    size = np.sqrt(sum(float(np.sum(np.square(np.asarray(leaf, float)))) for leaf in leaves))
    total = float(np.sum(correction * np.asarray(rates)[: len(correction)]))
    eps = float(jnp.finfo(leaves[0].dtype).eps)
    return len(correction) > 0 and total < eps * size * np.sqrt(len(correction))


def past_edge(
    optimizer: AbstractOptimizer, rate: float, curvature: float | None, memoryless: bool
) -> tuple[str, str]:
    """The edge that learning rate × curvature is past: (the level it leaves, the reason in words).

    ("", "") where it is past none, and where no curvature is known.
    """
    if curvature is None:
        return "", ""
    reach = rate * curvature
    stable = thresholds.stability_threshold(optimizer)
    size = f"learning rate × curvature of the {stable.matrix} is {reach:.2g}, past the"
    if reach > stable:
        return "does not hold", (
            f"{size} stability edge {float(stable):.3g} of the optimizer itself, which oscillates "
            "and grows there"
        )
    flow = thresholds.flow_threshold(optimizer)
    if memoryless and reach > flow:
        return "partly", (
            f"{size} flow edge {float(flow):.2g}, where such a mode oscillates and no memoryless "
            "flow follows it (method='inertial' does)"
        )
    return "", ""


def lower_remark(order: int, lowered, first: int) -> str:
    """What to say of the steps at which order 2 was taken for a higher one; "" for none.

    lowered: a flag per step; first: the number of the first one.
    """
    where = np.flatnonzero(lowered)
    if not len(where):
        return ""
    return (
        f"Order 2 was taken at {len(where)} of {len(lowered)} steps (first at step "
        f"{first + where[0]}), where order {order} is not finite: it looks too many steps ahead"
    )


def memory_remark(run: FollowedRun, end: int) -> str:
    """What to say about the memory's transient; "" where it is over at step ``end``."""
    optimizer, settled = run.optimizer, run.start.settled
    if not optimizer.closed_form:
        length = optimizer.memory_length(run.params, None if settled else end)
        if length is None:
            return (
                f"Its memory has not settled by step {end}: each step depends on all those before "
                "it, and the longer the run, the less they can be told from the present place"
            )
        return f"It assumes a memory settled by {length} steps before" if settled else ""
    decays = [float(m.decay) for m in optimizer.moments if m.has_memory]
    longest = max(decays, default=0.0)
    if settled:
        if longest == 0:
            return ""
        return f"It assumes a settled memory: many times {1 / (1 - longest):.0f} steps before"
    left = longest ** (end + 1)
    if left < UNSETTLED:
        return ""
    return (
        f"The memory has not settled by step {end} ({longest:g}^{end + 1} = {left:.2g}): "
        "the limits (1+b)/(1-b) do not apply yet, the weights of this step do"
    )
