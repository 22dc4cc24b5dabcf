"""The paper's claims on trial: which hold, which do not, which cannot be told here."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ...files import alone, write_json
from ...paper import claims, grid as grids
from ...paper.analysis import Swept, arranged
from ...paper.records import Runs
from ...paper.trials import ALPHA, FAILS, HOLDS, TREND, WEAK, Trial
from . import cost
from .formatting import versions
from .progress import progress

if TYPE_CHECKING:
    from ..claims import Claims

RULE = (
    f'"{HOLDS}": p ≤ {ALPHA:g}, or nothing is random and every row of evidence holds. Else '
    f'"{WEAK}" where even a rank correlation of {TREND:g} (four pairs of five as claimed) would '
    f'have had p > {ALPHA:g}, and else "{FAILS}". Each test by itself, none corrected for '
    f"their number. Three seeds of four values can give p = 7e-5 (three seeds in a sign test: 1/8)."
)


def claims_job(command: Claims, runs: Runs) -> dict[str, Any]:
    """Try the claims, print what became of them, write ``out/claims-<scale>.json``; its content.

    runs: how training runs are obtained. Raises ValueError for a folder that cannot be written, an
    unknown claim, data that are nowhere; at the scale "paper" unless ``yes`` starts the runs.
    """
    only = command.only
    unknown = sorted(set(only) - set(claims.CLAIMS))
    if unknown:
        raise ValueError(
            f"--only: expected among {', '.join(claims.CLAIMS)}, got {', '.join(unknown)}"
        )
    names = tuple(name for name in claims.CLAIMS if name in only or not only)
    with alone(command.out):
        return _tried(command, names, runs)


def _tried(command: Claims, names: tuple[str, ...], runs: Runs) -> dict[str, Any]:
    from tqdm import tqdm

    scale, path = command.scale, command.out / f"claims-{command.scale}.json"
    chosen = [grids.read(name)[scale] for name in claims.needed(names)]
    cost.ask(chosen, command.data_dir, command.yes, command.quiet)
    wanted = {run.key(): run for grid in chosen for run in grid.runs()}
    records = runs(list(wanted.values())) if wanted else []
    trained = {}
    for grid in chosen:
        arrays = arranged(grid, tuple(grid.sweeps), records)
        trained[grid.name] = {name: Swept(grid, name, arrays) for name in grid.sweeps}
    content: dict[str, Any] = {
        "scale": scale,
        "alpha": ALPHA,
        "rule": RULE,
        "versions": versions(),
        "claims": [],
    }
    with progress(total=len(names), quiet=command.quiet, unit="claim") as bar:
        for name in names:
            bar.set_description_str(name)
            claim = claims.CLAIMS[name]
            found = claim.tried(scale, trained)
            with tqdm.external_write_mode():
                print(tell(claim, found), flush=True)
            content["claims"].append(
                {
                    "name": name,
                    "claim": claim.sentence,
                    "source": claim.source,
                    "needs": list(claim.needs),
                    "trials": [dataclasses.asdict(trial) for trial in found],
                }
            )
            write_json(path, content)
            bar.update()
    print(f"{summary(content)}\n{RULE}\nWritten to {path}")
    return content


def tell(claim: claims.Claim, found: Sequence[Trial]) -> str:
    """A claim and all that became of it.

    >>> from shadowflow.paper import trials
    >>> row = trials.of_signs("A is closer than B", "a model", "ratio", [0.5, 2.0, 3.0, 3.0, 2.0])
    >>> print(tell(claims.CLAIMS["theorems"], [row]))
    The modified flow is of order 2 (Theorems B.4, C.4, D.4, E.4)
      does not hold here: A is closer than B; a model
        0.5, 2, 3, 3, 2; ratio < 1 for 1 of 5 seeds; sign test, p = 0.97 ...
    """
    lines = [f"{claim.sentence} ({claim.source})"]
    for trial in found:
        measured = ", ".join(f"{value:.4g}" for value in trial.measured)
        numbers = "" if trial.p is None else f"{measured}; "  # else they stand in the statistic
        lines += [
            f"  {trial.verdict}: {trial.claim}; {trial.where}",
            f"    {numbers}{trial.statistic}",
        ]
    return "\n".join(lines)


def summary(content: dict[str, Any]) -> str:
    """How many trials came out how.

    >>> summary({"claims": [{"trials": [{"verdict": HOLDS}, {"verdict": WEAK}]}]})
    '2 trials: 1 holds, 0 does not hold here, 1 not enough power.'
    """
    counts = Counter(trial["verdict"] for claim in content["claims"] for trial in claim["trials"])
    words = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (HOLDS, FAILS, WEAK))
    return f"{counts.total()} trials: {words}."
