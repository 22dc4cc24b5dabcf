"""What results share, and their pictures, one function each: the result, and axes or None.

Without axes a new figure is made by pyplot, in the style of all pictures here. Every function
returns the axes; ``axes.figure.savefig("picture.png")`` writes the picture.
"""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .extras import need

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FILE = Path(__file__).with_name("style.mplstyle")
COLOURS = {
    "first order": "#7f7f7f",
    "taylor": "#d55e00",
    "displaced": "#0072b2",
    "linearized": "#56b4e9",
    "differences": "#cc79a7",
    "collocation": "#e69f00",
    "inertial": "#009e73",
}
INK, FAINT, MARK = "#000000", "#7f7f7f", "#d55e00"
SIZE, WIDE = (5.0, 3.2), (7.0, 3.4)  # inches; the second with room for a legend beside the axes
LEVELS = ((0.1, "holds"), (0.4, "holds in part"), (np.inf, "does not hold"))
LEAST_RATIO, MOST_COORDINATES, MOST_TICKS = 1e-4, 60, 7


@contextmanager
def context(*more: str | Path) -> Generator[None]:
    """Matplotlib in the style of the pictures, and of the style files ``more`` on top of it.

    Raises ImportError where matplotlib is not installed.
    """
    need("a picture", "matplotlib", "'shadowflow[cli]'")
    from matplotlib import style

    with style.context([str(FILE), *map(str, more)]):
        yield


@contextmanager
def canvas(axes: Axes | None, size: tuple[float, float] = SIZE) -> Generator[Axes]:
    """``axes``, or those of a new figure; what is drawn in it has the style of pictures here."""
    with context():
        if axes is None:
            from matplotlib import pyplot

            axes = pyplot.subplots(figsize=size)[1]
        yield axes


def inline(draw: Callable[[Axes], Any]) -> str:
    """What ``draw`` draws on axes, as the base64 text of a PNG; pyplot has no part in it."""
    with context():
        from matplotlib.figure import Figure

        figure = Figure(figsize=WIDE)
        draw(figure.subplots())
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")


class Result:
    """A result that says what it is in one line, in words and, where it has ``plot``, in a picture.

    A subclass has ``summary``, one line, or a ``verdict`` in the place of it; it may have
    ``describe()``, several lines of words, and ``plot(axes=None)``, which draws on matplotlib axes
    and returns them. A dataclass needs ``repr=False``, so that its repr is this one.

    >>> class Distance(Result):
    ...     summary = "0.5 after 10 steps"
    >>> Distance()
    Distance(0.5 after 10 steps)
    """

    @property
    def summary(self) -> str:
        """What it is, in one line: the verdict, where no other line is."""
        return self.verdict  # ty: ignore[missing-attribute]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary})"

    def describe(self) -> str:
        """The result in words: the verdict, where there are no more."""
        return getattr(self, "verdict", self.summary)

    def _repr_html_(self) -> str:
        words = f"<pre>{html.escape(self.describe())}</pre>"
        draw = getattr(self, "plot", None)
        if draw is None:
            return words
        try:
            picture = inline(draw)
        except ImportError:  # without matplotlib the words alone
            return words
        name = html.escape(type(self).__name__, quote=True)
        return f'{words}<img alt="{name}" src="data:image/png;base64,{picture}">'


def trajectory(path, axes: Axes | None = None) -> Axes:
    """How far a run has gone: the two-norm of θ − θ_start, step by step.

    path: ``steps``, ``params`` (a pytree with a leading axis [saved]), ``failed_at``.
    """
    from .trees import flat_rows

    flat = flat_rows(path.params)
    with canvas(axes) as axes:
        axes.plot(path.steps, np.linalg.norm(flat - flat[:1], axis=1), color=INK)
        _failed(axes, path.failed_at)
        axes.set(xlabel="step", ylabel="distance from the start (two-norm)")
    return axes


def comparison(found, axes: Axes | None = None) -> Axes:
    """How far two runs are apart at each step, beside how far the first of them has gone.

    found: ``steps``, ``max_norm``, ``two_norm``, ``moved``.
    """
    blue = COLOURS["displaced"]
    with canvas(axes) as axes:
        axes.plot(found.steps, found.two_norm, color=blue, label="two-norm")
        axes.plot(found.steps, found.max_norm, color=blue, ls="--", label="max-norm")
        axes.plot(found.steps, found.moved, color=FAINT, label="way gone (two-norm)")
        _logarithmic(axes, found.two_norm, found.max_norm, found.moved)
        axes.set(xlabel="step", ylabel="distance")
        axes.legend()
    return axes


def validity(found, axes: Axes | None = None) -> Axes:
    """The distance over the way gone, step by step, with the three levels.

    found: ``steps``, ``share``, ``running_max``, ``first_order`` or None, ``basis``. Dots: the
    share at the step; line: its largest value so far, which decides; dashes: first order's.
    """
    share, running = np.asarray(found.share, float), np.asarray(found.running_max, float)
    finite = share[np.isfinite(share) & (share > 0)]
    low = max(LEAST_RATIO, min(0.01, *finite, 0.01)) / 2
    high = max(1.0, *finite, 1.0) * 2
    with canvas(axes) as axes:
        axes.set(yscale="log", ylim=(low, high), xlabel="step")
        axes.set_ylabel(f"distance / way gone, {found.basis}")
        # inside the limits, so that 0 and infinity are seen at the edge of the picture
        inside = lambda some: np.clip(np.asarray(some, float), 1.1 * low, high / 1.1)
        axes.plot(found.steps, inside(share), ".", ms=3, color=FAINT, label="at the step")
        axes.plot(found.steps, inside(running), color=INK, label="largest so far")
        if found.first_order is not None:
            first, grey = inside(found.first_order), COLOURS["first order"]
            axes.plot(found.steps, first, color=grey, ls="--", lw=0.9, label="first order")
        right: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "ha": "right"}
        right |= {"va": "center", "fontsize": "small"}
        start = low
        for level, (end, words) in enumerate(LEVELS):
            end = min(end, high)
            axes.axhspan(start, end, color=MARK, alpha=0.09 * level, lw=0)
            axes.annotate(words, (0.995, np.sqrt(start * end)), **right)
            start = end
        axes.legend(loc="lower right")
    return axes


def error_bar(found, axes: Axes | None = None) -> Axes:
    """The estimated distance from the optimizer, with where it can be trusted.

    found: ``steps``, ``two_norm``, ``rounding``, ``trusted``, ``source``.
    """
    steps, two = np.asarray(found.steps), np.asarray(found.two_norm, float)
    trusted = np.asarray(found.trusted, bool)
    with canvas(axes) as axes:
        if not np.all(trusted):
            axes.plot(steps, two, color=FAINT, ls=":", label="not trusted")
        axes.plot(steps, np.where(trusted, two, np.nan), color=INK, label="trusted")
        axes.plot(steps, found.rounding, color=MARK, lw=0.9, ls="--", label="rounding")
        _logarithmic(axes, two, found.rounding)
        axes.set(xlabel="step", ylabel="estimated error (two-norm)")
        axes.set_title(f"from {found.source}")
        axes.legend()
    return axes


def convergence(rows: Iterable, axes: Axes | None = None) -> Axes:
    """The errors of each row over the learning rates, with the order as a thin line beside them.

    rows: ``method``, ``kind``, ``order``, ``learning_rates``, ``errors``, ``slope``, ``floor``.
    """
    dashes = {"flow": "-", "iteration": "--"}
    rows = list(rows)
    ticks = sorted({rate for row in rows for rate in row.learning_rates})
    with canvas(axes, WIDE) as axes:
        for row in rows:
            errors = np.asarray(row.errors, float)
            slope = "exact" if row.slope is None else f"slope {row.slope:.2f}"
            axes.plot(
                row.learning_rates,
                np.where(np.isfinite(errors) & (errors > 0), errors, np.nan),
                marker="o",
                ms=3,
                color=COLOURS["first order" if row.order == 1 else row.method],
                ls=dashes.get(row.kind, "-"),
                label=f"{row.method} {row.order}, {row.kind}: {slope}",
            )
        for order in sorted({row.order for row in rows}):
            _reference(axes, order, [row for row in rows if row.order == order])
        axes.set(xscale="log", xlabel="learning rate", ylabel="largest error (max-norm)")
        _logarithmic(axes, *(row.errors for row in rows))
        if any(min(row.errors) < 100 * row.floor for row in rows):
            floor = max(row.floor for row in rows)
            axes.axhline(floor, color=MARK, lw=0.9, ls=":", label="rounding")
        if len(ticks) <= MOST_TICKS:
            axes.set_xticks(ticks, [f"{rate:.2g}" for rate in ticks])
            axes.set_xticks([], minor=True)
        axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1.0))
    return axes


def rates(measure, axes: Axes | None = None, *, name: str = "", level: str = "holds") -> Axes:
    """How fast each part of the bias changes a function of the gradient, as bars.

    measure: ``rates``, part → rate per unit of time. name: of the function. level: of the validity:
    what "does not hold" is drawn hollow and says nothing of penalties. The flow without bias is in
    the title, not among the bars.
    """
    parts = {part: rate for part, rate in measure.rates.items() if part != "memoryless"}
    shown = {**parts, "together": sum(parts.values())}
    values = np.asarray(list(shown.values()), float)
    colours = [COLOURS["displaced"] if value < 0 else MARK for value in values]
    title, label = [name] if name else [], "rate of change per unit of time"
    with canvas(axes) as axes:
        bars = axes.barh(list(shown), np.nan_to_num(values), color=colours, height=0.6)
        if level == "does not hold":
            for bar, colour in zip(bars, colours, strict=True):
                bar.set(facecolor="none", edgecolor=colour, linestyle="--")
            title.append("does not hold here: no statement")
        else:
            axes.bar_label(bars, [_signed(value) for value in values], padding=3, fontsize="small")
            label += "\n(below 0: penalizes, above 0: anti-penalizes)"
            if "memoryless" in measure.rates:
                title.append(f"the flow without bias: {_signed(measure.rates['memoryless'])}")
        axes.axvline(0, color=INK, lw=0.6)
        axes.invert_yaxis()
        axes.margins(x=0.18)
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=label, title="; ".join(title))
    return axes


def shuffle_mean(found, axes: Axes | None = None) -> Axes:
    """The coordinates of a mean over shuffles with their standard errors, the largest if many.

    found: ``mean`` and ``standard_error``, pytrees; ``orders``, ``exact``.
    """
    import jax

    flat = lambda tree: np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
    mean, error = flat(found.mean), flat(found.standard_error)
    kept = np.sort(np.argsort(-np.abs(mean), kind="stable")[:MOST_COORDINATES])
    size = "all" if len(kept) == len(mean) else f"the {len(kept)} largest of {len(mean)}"
    how = "every order" if found.exact else f"{found.orders} orders, with standard errors"
    with canvas(axes) as axes:
        axes.errorbar(kept, mean[kept], 0 if found.exact else error[kept], fmt="o", ms=3, color=INK)
        axes.axhline(0, color=FAINT, lw=0.6)
        axes.set(xlabel=f"coordinate ({size})", ylabel="mean over shuffles", title=how)
    return axes


def _signed(value: float) -> str:
    return f"{value:+.3g}".replace("-", "−")


def _reference(axes: Axes, order: int, rows: list) -> None:
    """A thin line of slope ``order``, through the largest of the rows' errors at its end."""
    ends = [
        (row.learning_rates[0], row.errors[0], row.learning_rates)
        for row in rows
        if np.isfinite(row.errors[0]) and row.errors[0] > row.floor
    ]
    if not ends:
        return
    rate, error, along = max(ends, key=lambda end: end[1])
    along = np.asarray(along)
    axes.plot(along, 1.5 * error * (along / rate) ** order, color=FAINT, lw=0.7)
    axes.annotate(f"order {order}", (rate, 1.5 * error), fontsize="small", color=FAINT, ha="right")


def _failed(axes: Axes, failed_at: int | None) -> None:
    if failed_at is not None:
        axes.axvline(failed_at, color=MARK, lw=0.9, ls=":")
        axes.annotate(
            f"not finite from step {failed_at}",
            (failed_at, 0.98),
            xycoords=("data", "axes fraction"),
            rotation=90,
            ha="right",
            va="top",
            fontsize="small",
        )


def _logarithmic(axes: Axes, *values) -> None:
    """A logarithmic scale, where there is a positive number to show on it."""
    if any(np.any(np.asarray(some, float) > 0) for some in values):
        axes.set_yscale("log", nonpositive="mask")
