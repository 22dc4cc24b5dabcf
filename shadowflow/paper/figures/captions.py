"""What Figures 4 to 12 show, in words: the runs, the grid, how each number was read off."""

from __future__ import annotations

from ...lab.training.config import Training
from ...optimizers.thresholds import stability_threshold
from ..curves import RISE, WINDOW
from ..grid import Grid, Series
from .of_runs import DATASETS, EDGE_RATE, MODELS, Arrays, Figure, in_place, read_off


def caption(figure: Figure, arrays: Arrays, grid: Grid) -> str:
    """The whole caption of a figure."""
    rows = [grid.sweeps[name] for name in figure.sweeps]
    parts = [
        f"{runs(rows[0].training(rows[0].values[0], 0), grid)}: "
        + "; ".join(
            f"{sweep(row)}, h = {row.training(row.values[0], 0).learning_rate:g}" for row in rows
        )
        + "."
    ]
    parts += [KINDS[figure.kind].format(level=f"{grid.level:g}"), how(grid)]
    parts += [hills(arrays, grid, name) for name in figure.sweeps]
    parts += [floor(arrays, figure.sweeps[0], rows[0]), *map(memory, rows), *map(edge, rows)]
    return " ".join(part for part in parts if part)


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


def runs(first: Training, grid: Grid) -> str:
    """What was trained.

    >>> from shadowflow.paper import grid
    >>> settings = Training(model="cnn", width=0.25, dataset="cifar10", images=1000, epochs=700)
    >>> runs(settings, grid.read(grid.grids()["cnn"])["smoke"])[:62]
    'Full-batch Adam, CNN of width × 0.25, the first 1,000 images o'
    """
    width = "" if first.width == 1 else f" of width × {first.width:g}"
    width += in_place(grid, first)
    images = "all images" if first.images is None else f"the first {first.images:,} images"
    pool = getattr(first, "pool", 1)
    pooled = f", pooled over {pool} × {pool} pixels" if pool > 1 else ""
    eps = first.arguments["eps_root"]
    return (
        f"Full-batch Adam, {MODELS[first.model]}{width}, {images} of "
        f"{DATASETS.get(first.dataset, first.dataset)}{pooled}, ghost batches of "
        f"{first.ghost_batch}, {'augmented, ' if first.augment else ''}{first.epochs:,} epochs, "
        f"ε = {eps:g} inside the root, {len(grid.seeds)} seed{'s' if len(grid.seeds) > 1 else ''}"
    )


def values(row: Series) -> str:
    """Every value of a sweep."""
    return ", ".join(f"{value:g}" for value in row.values)


def sweep(row: Series) -> str:
    """ρ = 0.9, 0.99 at β = 0.9."""
    return f"{row.symbol} = {values(row)} at {row.other[0]} = {row.other[1]:g}"


def how(grid: Grid) -> str:
    """The definitions behind what was read off."""
    return (
        f"Norms are running medians over {WINDOW} epochs; the initial fall ends where that of the "
        f"training loss is first below {grid.cut:g}; a hill lies inside the run and is {RISE:g} "
        f"times as high as the lowest place since the fall."
    )


def hills(arrays: Arrays, grid: Grid, name: str) -> str:
    """How many runs of a sweep have a hill, value by value."""
    found = read_off(arrays, grid, name)
    counts = [sum(run.numbers["hill"].exists for run in cell) for cell in found]
    row = grid.sweeps[name]
    if not any(counts):
        return f"{row.symbol} varied: no run has a hill."
    return (
        f"{row.symbol} varied: {', '.join(map(str, counts))} of {len(grid.seeds)} runs have a hill."
    )


def floor(arrays: Arrays, name: str, row: Series) -> str:
    """The value below which the perturbed one-norm cannot fall, whatever the gradient."""
    return (
        f"The perturbed one-norm cannot fall below p√ε = {lowest(arrays, name, row):.3g}; Σ|g| can."
    )


def lowest(arrays: Arrays, name: str, row: Series) -> float:
    """p·sqrt(ε), with ε as the measure has it: eps_root + eps²."""
    given = row.training(row.values[0], 0).arguments
    eps = float(given["eps_root"]) + float(given["eps"]) ** 2
    return float(arrays[f"{name}/parameters"]) * eps**0.5


def memory(row: Series) -> str:
    """How long the runs are in units of the longest memory; empty where it is 10 or more."""
    first = row.training(row.values[0], 0)
    longest = max(float(first.arguments[name]) for name in ("b1", "b2") if name != row.vary)
    longest = max(longest, *row.values)
    spans = round(first.epochs * (1 - longest), 9)
    if spans >= 10:
        return ""
    return (
        f"{row.symbol} varied: the runs last only {spans:.2g} times the longest memory, "
        f"1/(1 − {longest:g}) epochs."
    )


def edges(row: Series) -> list[float] | None:
    """hλ at the stability edge, a value of β, where the learning rate makes it matter."""
    if row.vary != "b1" or row.training(row.values[0], 0).learning_rate < EDGE_RATE:
        return None
    return [stability_threshold(row.training(value, 0).build()) for value in row.values]


def edge(row: Series) -> str:
    """What β does by way of the stability edge."""
    found = edges(row)
    if found is None:
        return ""
    return (
        f"At this learning rate the effect of β on a hill is mostly that of the stability edge "
        f"hλ = 2(1+β)/(1−β) = {', '.join(f'{value:.3g}' for value in found)}."
    )
