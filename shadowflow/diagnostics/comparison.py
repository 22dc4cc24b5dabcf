"""How far two runs are apart, step by step."""

from dataclasses import dataclass

import jax
import numpy as np

from .. import plots, trees
from ..plots import Result
from ..running import Trajectory


@dataclass(frozen=True, repr=False)
class Comparison(Result):
    """Distances at the steps that two trajectories share.

    steps: int array [shared]; max_norm: max_j |θ_j − θ̃_j|; two_norm: ‖θ − θ̃‖₂; moved: the
    two-norm distance of the first trajectory from its start, for scale. stopped: why less is
    compared than was run, or why the distances say little, in words; "" for nothing.
    """

    steps: np.ndarray
    max_norm: np.ndarray
    two_norm: np.ndarray
    moved: np.ndarray
    stopped: str

    @property
    def summary(self) -> str:
        """What is missing, if anything; the distance at the last shared step, over the way gone."""
        return (
            f"{self.stopped}{'; ' * bool(self.stopped)}"
            f"{self.two_norm[-1]:.2g} apart at step {self.steps[-1]} (two-norm), "
            f"{self.moved[-1]:.2g} from the start"
        )

    plot = plots.comparison


def compare(real: Trajectory, follow: Trajectory) -> Comparison:
    """The distance between two trajectories, step by step, where both have saved parameters.

    ``stopped`` and the summary say so where one ended or failed before the other, and where their
    learning rates differ. Where one failed at its first step the distance is NaN. Raises
    ValueError if they share no step or their parameters do not fit each other.

    >>> params = {"x": np.array([[0.0, 0.0], [3.0, 4.0]])}
    >>> run = Trajectory(np.arange(2), np.arange(2.0), params, None, None)
    >>> compare(run, run).moved
    array([0., 5.])
    """
    for name, path in (("real", real), ("follow", follow)):
        if not (hasattr(path, "steps") and hasattr(path, "params")):
            raise TypeError(
                f"{name}: expected a run, as iterate and shadow return it, got {path!r}; for "
                "example sf.iterate(problem, optimizer, params, learning_rate, steps)."
            )
    steps, here, there = np.intersect1d(real.steps, follow.steps, return_indices=True)
    if not len(steps):
        span, other = (f"steps {path.steps[0]} to {path.steps[-1]}" for path in (real, follow))
        raise ValueError(
            f"follow: expected a trajectory that shares steps with real ({span}), got {other}; "
            "give both the same start and save_every."
        )
    shapes = [jax.tree.map(lambda leaf: leaf.shape[1:], t.params) for t in (real, follow)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"follow: expected parameters of shapes {shapes[0]}, as real's, got {shapes[1]}; start "
            "both from the same params."
        )
    first, second = _rows(real, here), _rows(follow, there)
    gap = first - second
    far = np.max(np.abs(gap), axis=1)
    origin = first - _rows(real, np.asarray([0]))
    apart = np.linalg.norm(gap, axis=1)
    failed = real.failed_at is not None or follow.failed_at is not None
    if failed and real.steps[0] == follow.steps[0] == steps[-1]:
        far, apart = np.full(1, np.nan), np.full(1, np.nan)
    told = "; ".join(_stops(real, follow, steps[-1]) + _out_of_time(real, here, follow, there))
    return Comparison(steps, far, apart, np.linalg.norm(origin, axis=1), told)


def _stops(real: Trajectory, follow: Trajectory, last: int) -> list[str]:
    """Which of two runs failed or ended before the other, in words."""
    told = [
        f"{name} stopped at step {run.failed_at}, where a non-finite number began"
        for name, run in (("real", real), ("follow", follow))
        if run.failed_at is not None
    ]
    ends = int(real.steps[-1]), int(follow.steps[-1])
    if not told and ends[0] != ends[1]:
        told = [f"real goes to step {ends[0]}, follow to step {ends[1]}"]
    if real.steps[0] == follow.steps[0] == last:
        told.append("no step after the start is compared")
    return told


def _out_of_time(real: Trajectory, here: np.ndarray, follow: Trajectory, there) -> list[str]:
    """That two runs come to the same step at different times, in words."""
    times = [run.times[at] - run.times[at[0]] for run, at in ((real, here), (follow, there))]
    apart = np.flatnonzero(~np.isclose(*times, rtol=1e-6, atol=0))
    if not len(apart):
        return []
    real_time, follow_time = (time[apart[0]] for time in times)
    return [
        f"their learning rates differ: by step {real.steps[here[apart[0]]]} real has come "
        f"{real_time:.4g} in time, follow {follow_time:.4g}"
    ]


def _rows(path: Trajectory, index: np.ndarray) -> np.ndarray:
    return trees.flat_rows(trees.row(path.params, index))
