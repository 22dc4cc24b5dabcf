"""Draw docs/edges.png: error against step size for every method on the digits, with the edges.

Adam runs WARM steps on the digits perceptron in float64; from there every method follows it for
STEPS more. The error is relative to the distance that Adam moves meanwhile. The curvature that the
flow and stability edges are stated in is measured at the start of the stretch (``sf.curvature``).
"""

import argparse
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import shadowflow as sf
from shadowflow import ema_weights as mem
from shadowflow.files import write_json
from shadowflow.lab.models import digits_problem
from shadowflow.monitor.measures import run_measures
from shadowflow.paper.figures.style import COLOURS, styled

HERE = Path(__file__).parent
OPTIONS = {"b1": 0.9, "b2": 0.95, "eps": 0.0, "eps_root": 1e-6}
RATES = [float(rate) for rate in np.geomspace(1e-7, 1e-2, 16)]
WARM, STEPS = 150, 100
SHARE = 0.01
LINES = {
    "first order": {"method": "displaced", "order": 1},
    "taylor": {"method": "taylor"},
    "displaced": {"method": "displaced"},
    "linearized": {"method": "linearized"},
    "differences": {"method": "differences"},
    "collocation": {"method": "collocation", "order": 3},
    "inertial": {"method": "inertial"},
}


def at_rate(problem, optimizer, start, rate: float) -> dict:
    """One step size: λ, the share of coordinates past the ν edge, the error of every method."""
    before = sf.iterate(problem, optimizer, start, rate, WARM, save_every=WARM - 1)
    params = jax.tree.map(jnp.asarray, before.last)
    previous = jax.tree.map(lambda leaf: jnp.asarray(leaf[-2]), before.params)
    grad, last = problem.gradient(params), problem.gradient(previous)
    after, _ = optimizer.update(before.state, grad, params, rate)
    memory = mem.ready(optimizer, rate, WARM, jnp.float64)
    found = run_measures(optimizer, memory, params, grad, after, last_grad=last, per_leaf=False)
    real = sf.iterate(problem, optimizer, params, rate, STEPS, start=before.state)
    moved = float(sf.compare(real, real).moved[-1])
    row = {
        "rate": rate,
        "curvature": sf.curvature(problem, optimizer, params, state=before.state),
        "beyond_nu_edge": float(found.total["beyond_nu_edge"]),
        "errors": {},
    }
    for name, options in LINES.items():
        follow = sf.shadow(
            problem, optimizer, params, rate, STEPS, start=before.state, check=False, **options
        )
        gap = sf.compare(real, follow)
        whole = follow.failed_at is None
        row["errors"][name] = float(gap.two_norm[-1]) / moved if whole else float("inf")
    print(
        f"{rate:.1e}  λ {row['curvature']:8.1f}  ν {row['beyond_nu_edge']:.3f}  "
        + "  ".join(f"{k} {v:.1e}" for k, v in row["errors"].items()),
        flush=True,
    )
    return row


def crossing(rates, values, level: float) -> float | None:
    """The step size at which ``values`` pass ``level``, between the two it lies between."""
    for (h0, v0), (h1, v1) in itertools.pairwise(zip(rates, values, strict=True)):
        if v0 < level <= v1:
            share = np.log(level / max(v0, 1e-12)) / np.log(v1 / max(v0, 1e-12))
            return float(np.exp(np.log(h0) + share * np.log(h1 / h0)))
    return None


def edges(rows: list[dict], optimizer) -> dict[str, float | None]:
    """Name → step size of the three edges."""
    rates = [row["rate"] for row in rows]
    reach = [row["rate"] * row["curvature"] for row in rows]
    return {
        "flow edge": crossing(rates, reach, sf.flow_threshold(optimizer)),
        "ν edge": crossing(rates, [row["beyond_nu_edge"] for row in rows], SHARE),
        "stability edge": crossing(rates, reach, sf.stability_threshold(optimizer)),
    }


def draw(found: dict, path: Path) -> None:
    """The picture, from the numbers alone: errors above, how near the edges are below."""
    from matplotlib import pyplot as plt

    rows = found["rows"]
    rates = [row["rate"] for row in rows]
    with styled():
        figure, (top, bottom) = plt.subplots(
            2, 1, figsize=(8.0, 6.4), sharex=True, height_ratios=[2, 1]
        )
        for name in LINES:
            errors = np.array([row["errors"][name] for row in rows], float)
            label = f"{name}, order 3" if name == "collocation" else name
            top.plot(rates, errors, marker="o", ms=3, lw=1.5, color=COLOURS[name], label=label)
        top.set(
            xscale="log",
            yscale="log",
            ylim=(1e-8, 30),
            ylabel=f"distance after {found['steps']} steps / distance moved",
        )
        top.set_title(
            "Adam (0.9, 0.95, eps_root 1e-6) on the digits perceptron, float64", fontsize=10
        )
        reach = [row["rate"] * row["curvature"] for row in rows]
        bottom.plot(rates, reach, color="#000000", lw=1.5, label="learning rate × curvature")
        bottom.plot(
            rates,
            [row["beyond_nu_edge"] for row in rows],
            color="#7f7f7f",
            lw=1.5,
            label="share of coordinates past the ν edge",
        )
        bottom.set(yscale="log", xlabel="learning rate", ylim=(1e-5, 300))
        bottom.legend(fontsize=8, loc="upper left")
        for name, level in found["levels"].items():
            bottom.axhline(level, color="#d55e00", lw=0.8, ls=":")
            bottom.annotate(
                f"{name}, {level:.2g}",
                (1.0, level),
                ha="right",
                va="bottom",
                xycoords=("axes fraction", "data"),
                fontsize=8,
            )
        for name, rate in found["edges"].items():
            if rate is not None:
                for axis in (top, bottom):
                    axis.axvline(rate, color="#d55e00", lw=0.9, ls=(0, (4, 3)))
                top.annotate(
                    f"{name} ",
                    (rate, 0.02),
                    rotation=90,
                    ha="right",
                    va="bottom",
                    xycoords=("data", "axes fraction"),
                    fontsize=8,
                )
        figure.legend(
            *top.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=8
        )
        figure.savefig(path, dpi=140)
        plt.close(figure)


def measure() -> dict:
    """All numbers of the picture."""
    with jax.enable_x64(True):
        problem, start = digits_problem()
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
        optimizer = sf.adam(**OPTIONS)
        rows = [at_rate(problem, optimizer, start, rate) for rate in RATES]
        marks = edges(rows, optimizer)
        levels = {
            "flow edge": sf.flow_threshold(optimizer),
            "stability edge": sf.stability_threshold(optimizer),
        }
    return {
        "optimizer": OPTIONS,
        "warm": WARM,
        "steps": STEPS,
        "share": SHARE,
        "edges": marks,
        "levels": levels,
        "rows": rows,
    }


def main() -> None:
    """Compute the numbers and write them, unless only the picture is asked for; draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draw", action="store_true", help="from docs/edges.json alone")
    path = HERE / "edges.json"
    if not parser.parse_args().draw:
        write_json(path, measure())
    draw(json.loads(path.read_text(encoding="utf-8")), HERE / "edges.png")


if __name__ == "__main__":
    main()
