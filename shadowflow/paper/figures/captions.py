"""What Figures 4 to 12 show, in words: the runs, the grid, how each number was read off."""

from __future__ import annotations

from collections.abc import Sequence

from ...optimizers.thresholds import stability_threshold
from ..analysis import DATASETS, MODELS, Swept, in_place
from ..curves import RISE, WINDOW

EDGE_RATE = 1e-3  # from this learning rate on, the stability edge decides what β does to a hill
STABLE = ("smooth", "oscillation")  # the regimes of Ma, Wu and E that the paper assumes
KINDS = {
    "maxima": "For every run (points; a thin line a seed) and their mean (thick): the largest "
    "perturbed one-norm of the gradient and the largest Σ|g| after the initial fall, "
    "filled where the run has a hill; both at the training loss {level}, since a "
    "faster run has the smaller gradient by itself; and the largest test accuracy.",
    "norms": "Every run, a colour a value: the perturbed one-norm of the gradient and Σ|g| an "
    "epoch (dot: end of the initial fall; triangle: top of a hill), and the perturbed "
    "one-norm against the training loss, which shows it at equal loss ({level}: dotted).",
    "curves": "Every run, a colour a value: loss and accuracy on the images to train and to test "
    "on, and the norms against the training loss, which shows them at equal loss "
    "({level}: dotted).",
}


def caption(kind: str, sweeps: Sequence[Swept]) -> str:
    """The whole caption of a figure of that kind."""
    grid = sweeps[0].grid
    varied = "; ".join(f"{values(swept)}, h = {swept.first.learning_rate:g}" for swept in sweeps)
    parts = [
        f"{runs(sweeps[0])}: {varied}.",
        KINDS[kind].format(level=f"{grid.level:g}"),
        f"Norms are running medians over {WINDOW} epochs; the initial fall ends where that of the "
        f"training loss is first below {grid.cut:g}; a hill lies inside the run and is {RISE:g} "
        "times as high as the lowest place since the fall.",
        *map(hills, sweeps),
        *map(regimes, sweeps),
        f"The perturbed one-norm cannot fall below p√ε = {lowest(sweeps[0]):.3g}; Σ|g| can.",
        *map(memory, sweeps),
        *map(edge, sweeps),
    ]
    return " ".join(part for part in parts if part)


def runs(swept: Swept) -> str:
    """What was trained: the optimizer, the network, the images, the length, the seeds."""
    first, seeds = swept.first, len(swept.grid.seeds)
    width = "" if first.width == 1 else f" of width × {first.width:g}"
    images = "all images" if first.images is None else f"the first {first.images:,} images"
    pooled = f", pooled over {first.pool} × {first.pool} pixels" if first.pool > 1 else ""
    return (
        f"Full-batch Adam, {MODELS[first.model]}{width}{in_place(swept)}, {images} of "
        f"{DATASETS.get(first.dataset, first.dataset)}{pooled}, ghost batches of "
        f"{first.ghost_batch}, {'augmented, ' if first.augment else ''}{first.epochs:,} epochs, "
        f"ε = {first.arguments['eps_root']:g} inside the root, {seeds} seed"
        f"{'s' if seeds > 1 else ''}"
    )


def values(swept: Swept) -> str:
    """The grid of a sweep: ρ = 0.9, 0.99 at β = 0.9."""
    row = swept.row
    varied = ", ".join(f"{value:g}" for value in row.values)
    return f"{row.symbol} = {varied} at {row.other[0]} = {row.other[1]:g}"


def hills(swept: Swept) -> str:
    """How many runs of a sweep have a hill, value by value."""
    counts = [0] * len(swept.row.values)
    for (place, _), run in swept.runs.items():
        counts[place] += run["hill"].exists
    found = "no run has a hill"
    if any(counts):
        found = f"{', '.join(map(str, counts))} of {len(swept.grid.seeds)} runs have a hill"
    return f"{swept.row.symbol} varied: {found}."


def regimes(swept: Swept) -> str:
    """How many runs of a sweep are as the paper assumes them, and which are not."""
    stable = [name for name in swept.regimes.values() if name in STABLE]
    counts = ", ".join(f"{name}: {stable.count(name)}" for name in STABLE if name in stable)
    wild = [f"{label} ({name})" for label, name in swept.regimes.items() if name not in STABLE]
    told = f"{len(stable)} of {len(swept.regimes)} runs are in the regime that the paper assumes"
    told += f" ({counts})" if counts else ""
    return f"{swept.row.symbol} varied: {told}{'; not: ' if wild else ''}{', '.join(wild)}."


def lowest(swept: Swept) -> float:
    """p·sqrt(ε), the least perturbed one-norm; ε as the measure has it: eps_root + eps²."""
    given = swept.first.arguments
    eps = float(given["eps_root"]) + float(given["eps"]) ** 2
    return float(swept["parameters"]) * eps**0.5


def memory(swept: Swept) -> str:
    """How long the runs are, in units of the longest memory; empty where that is 10 or more."""
    longest = max(swept.row.other[1], *swept.row.values)
    spans = round(swept.first.epochs * (1 - longest), 9)
    if spans >= 10:
        return ""
    return (
        f"{swept.row.symbol} varied: the runs last only {spans:.2g} times the longest memory, "
        f"1/(1 − {longest:g}) epochs."
    )


def edges(swept: Swept) -> list[float] | None:
    """hλ at the stability edge for each β; None where the learning rate is too small for it."""
    if swept.row.vary != "b1" or swept.first.learning_rate < EDGE_RATE:
        return None
    return [stability_threshold(swept.row.training(value, 0).build()) for value in swept.row.values]


def edge(swept: Swept) -> str:
    """A warning that β acts on a hill through the stability edge, where it does."""
    found = edges(swept)
    if found is None:
        return ""
    return (
        f"At this learning rate the effect of β on a hill is mostly that of the stability edge "
        f"hλ = 2(1+β)/(1−β) = {', '.join(f'{value:.3g}' for value in found)}."
    )
