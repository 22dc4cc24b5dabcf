"""The paper's claims on trial: which hold, which do not, which cannot be told here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...files import writable, write_json
from ...paper import claims, grid as grids
from ...paper.figures import of_runs as sweeps
from ...paper.records import Runs, one_by_one
from ...paper.trials import ALPHA, FAILS, HOLDS, TREND, WEAK, Trial
from . import cost
from .reproduce import RUNS

RULE = (
    f'"{HOLDS}": p ≤ {ALPHA:g}, or nothing is random and every row of evidence holds. Else '
    f'"{WEAK}" where even a rank correlation of {TREND:g} (four pairs of five as claimed) would '
    f'have had p > {ALPHA:g}, and else "{FAILS}". Each test by itself, none corrected for '
    f"their number. Three seeds of four values can give p = 7e-5 (three seeds in a sign test: 1/8)."
)


def claims_job(
    scale: str,
    *,
    out: Path,
    only: Sequence[str] = (),
    data_dir: Path | None = None,
    yes: bool = False,
    quiet: bool = False,
    runs: Runs | None = None,
) -> dict[str, Any]:
    """Try the claims, print what became of them, write ``out/claims-<scale>.json``; its content.

    only: names of claims (none: all). runs: how training runs are obtained; None: in this process,
    in ``out/runs``, where the figures' runs are found again. Raises ValueError for a folder that
    cannot be written, a claim that is not there, data that are nowhere; at the scale "paper" for
    runs that ``yes`` does not start.
    """
    unknown = sorted(set(only) - set(claims.CLAIMS))
    if unknown:
        raise ValueError(
            f"--only: expected among {', '.join(claims.CLAIMS)}, got {', '.join(unknown)}"
        )
    names = tuple(name for name in claims.CLAIMS if name in only or not only)
    writable(out)
    chosen = {name: grids.read(grids.grids()[name])[scale] for name in claims.needed(names)}
    cost.ask(list(chosen.values()) if scale == "paper" else [], data_dir, yes)
    obtain = runs or one_by_one(out / RUNS, data_dir=data_dir, quiet=quiet)
    trained = {}
    for name, grid in chosen.items():
        trained[name] = sweeps.arranged(grid, tuple(grid.sweeps), obtain(grid.runs())), grid
    content: dict[str, Any] = {
        "scale": scale,
        "alpha": ALPHA,
        "rule": RULE,
        "versions": {name: version(name) for name in ("shadowflow", "jax", "diffrax", "optax")},
        "claims": [],
    }
    for name in names:
        found = claims.CLAIMS[name].tried(scale, trained)
        print(tell(name, found), flush=True)
        rows = [dataclasses.asdict(trial) for trial in found]
        content["claims"].append({**claims.described(name), "trials": rows})
    path = write_json(out / f"claims-{scale}.json", content)
    print(f"{summary(content)}\n{RULE}\nWritten to {path}")
    return content


def tell(name: str, found: Sequence[Trial]) -> str:
    """A claim and all that became of it.

    >>> from shadowflow.paper import trials
    >>> row = trials.of_signs("A is closer than B", "a model", "ratio", [0.5, 2.0, 3.0, 3.0, 2.0])
    >>> print(tell("theorems", [row]))
    The modified flow is of order 2 (Theorems B.4, C.4, D.4, E.4)
      does not hold here: A is closer than B; a model
        0.5, 2, 3, 3, 2; ratio < 1 for 1 of 5 seeds; sign test, p = 0.97 ...
    """
    claim = claims.CLAIMS[name]
    lines = [f"{claim.sentence} ({claim.source})"]
    for trial in found:
        lines += [
            f"  {trial.verdict}: {trial.claim}; {trial.where}",
            f"    {numbers(trial)}{trial.statistic}",
        ]
    return "\n".join(lines)


def numbers(trial: Trial) -> str:
    """The measured numbers, where the statistic does not say them already."""
    if trial.p is None:
        return ""
    return ", ".join(f"{value:.4g}" for value in trial.measured) + "; "


def summary(content: dict[str, Any]) -> str:
    """How many trials came out how.

    >>> summary({"claims": [{"trials": [{"verdict": HOLDS}, {"verdict": WEAK}]}]})
    '2 trials: 1 holds, 0 does not hold here, 1 not enough power.'
    """
    counts = Counter(trial["verdict"] for claim in content["claims"] for trial in claim["trials"])
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (HOLDS, FAILS, WEAK))
    return f"{counts.total()} trials: {words}."
