"""How honest the estimates are: what is said without the optimizer's run, against that run.

Writes docs/honesty.json, from which docs/make_table.py makes the table of the page on trust:
``make honesty``. --smoke: a few rows, printed and not written.
"""

import argparse
import itertools
import json
import warnings
from collections.abc import Iterator
from pathlib import Path

import honesty_rows
import jax
import numpy as np
from honesty_rows import Setting

import shadowflow as sf
from shadowflow.files import plain, write_json
from shadowflow.trust import HOLDS, LEVELS, over_way, rounding_of

NUMBERS = Path(__file__).parent / "honesty.json"
THIRD = 1 / 3
WAYS = [("taylor", 2), ("displaced", 2), ("inertial", 2)]
EVERY = [("taylor", 1), ("linearized", 2), ("differences", 2), ("inertial", 3)]
SETTLED = [("collocation", 2), ("collocation", 3)]
COMMON = ("sgd", "momentum", "adam")  # what every way is measured with
DRAWN, SEED = 32, 2024


def true_share(gap: sf.Comparison, follow: sf.Shadow) -> float:
    """The largest distance from the iterates over the way that they have gone, less rounding."""
    way = np.maximum.accumulate(gap.moved[1:])
    floor, _ = rounding_of(follow, gap.steps[1:], True)
    share = over_way(np.maximum(gap.two_norm[1:] - floor, 0), way)
    return float(np.max(np.nan_to_num(share, nan=np.inf, posinf=np.inf), initial=0.0))


def bar_over_error(bar: sf.ErrorBar, gap: sf.Comparison) -> float:
    """At its least among the steps that are trusted: the bar over the true error; ∞ of rounding."""
    count = min(len(gap.steps), len(bar.steps))
    error, estimate = gap.two_norm[1:count], bar.two_norm[1:count]
    counted = bar.trusted[1:count] & (error > bar.rounding[1:count])
    return float(np.min(estimate[counted] / error[counted], initial=np.inf))


def ways_of(setting: Setting) -> list[tuple[str, int]]:
    """The methods and orders that a run is followed by."""
    if setting.start == "settled":
        return [*WAYS, *SETTLED]
    common = setting.optimizer.split()[0] in COMMON and setting.dtype == "float64"
    return [*WAYS, *EVERY] if common and setting.problem not in honesty_rows.ALONE else WAYS


def shadow_rows(setting: Setting):
    """A row per method: what was estimated, and what is true."""
    problem = honesty_rows.problem_of(setting.problem, setting.scales)
    run = problem, honesty_rows.OPTIMIZERS[setting.optimizer](), setting.params(), setting.rate
    start: int | str = "settled" if setting.start == "settled" else 0
    begun = start
    if setting.start == "step":
        before = sf.iterate(*run, honesty_rows.BEFORE)
        if before.failed_at is not None:
            return
        start, begun = honesty_rows.BEFORE, before.state
        run = *run[:2], jax.numpy.asarray(before.last), setting.rate
    real = sf.iterate(*run, setting.steps, start=begun)
    for method, order in ways_of(setting):
        if start == "settled" and order > 2:  # settled to the order that is followed
            real = sf.iterate(*run, setting.steps, start=sf.settled_state(*run, order=order))
        asked = {"method": method, "order": order, "start": start}
        try:
            bar = sf.error_bar(*run, setting.steps, **asked)
        except ValueError:  # a method that does not take this optimizer, or these batches
            continue
        follow = bar.follow
        gap = sf.compare(real, follow)
        share = true_share(gap, follow)
        if follow.failed_at is not None and follow.failed_at != real.failed_at:
            share = np.inf
        said, ratio = follow.validity.level, bar_over_error(bar, gap)
        yield {
            "setting": setting._asdict(),
            "kind": setting.kind,
            "method": f"{method} {order}",
            "share": share,
            "said": said,
            "reason": follow.validity.reason,
            "trusted": int(np.sum(bar.trusted[1:])),
            "bar_over_error": ratio,
            "reassures": bool((said == LEVELS[0] and share > HOLDS) or ratio < THIRD),
            "alarms": bool(said == LEVELS[-1] and share <= HOLDS),
        }
    if start == 0 and not problem.batched and run[1].closed_form and real.failed_at is None:
        yield bias_row(setting, run, real)


def bias_row(setting: Setting, run: tuple, real: sf.Trajectory) -> dict:
    """What is predicted of the bias at the end, without the optimizer's state and with it."""
    problem, optimizer, _, rate = run
    at = problem, optimizer, real.last, rate
    blind = sf.implicit_bias(*at, start=setting.steps).validity
    seen = sf.implicit_bias(*at, start=real.state).validity
    share = float(seen.share[-1])
    return {
        "setting": setting._asdict(),
        "kind": setting.kind,
        "method": "bias",
        "share": share,
        "said": blind.level,
        "reason": blind.reason,
        "reassures": blind.level == LEVELS[0] and share > HOLDS,
        "alarms": blind.level == LEVELS[-1] and share <= HOLDS,
    }


def ordered(settings: list[Setting]) -> list[Setting]:
    """So that those which share programs come one after another."""
    network = lambda one: one.problem in honesty_rows.NETWORKS
    key = lambda one: (network(one), one.start, one.dtype, one.optimizer.split()[0])
    return sorted(settings, key=key)


def measured(settings: list[Setting], tell=print) -> Iterator[dict]:
    """The rows of all settings, those together which share programs."""
    with jax.enable_x64(True), np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        grouped = itertools.groupby(ordered(settings), lambda one: (one.start, one.dtype))
        for _, group in grouped:
            for setting in group:
                found = [*shadow_rows(setting)]
                wrong = [row["method"] for row in found if row["reassures"] or row["alarms"]]
                tell(f"{setting}: wrong {wrong} of {len(found)}", flush=True)
                yield from found
            jax.clear_caches()


def main() -> None:
    """Measure all rows, or the few of --smoke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="a few rows, printed")
    parser.add_argument("--only", choices=("rows", "drawn"), help="one of the two sets")
    asked = parser.parse_args()
    if asked.smoke:
        print(json.dumps(plain([*measured(honesty_rows.SMOKE)]), indent=1))
        return
    found = json.loads(NUMBERS.read_text(encoding="utf-8")) if NUMBERS.exists() else {}
    sets = {"rows": honesty_rows.ROWS, "drawn": [*honesty_rows.drawn(DRAWN, SEED)]}
    for name, settings in sets.items():
        if asked.only in (None, name):
            found[name] = []
            for row in measured(settings):
                found[name].append(row)
                write_json(NUMBERS, found)


if __name__ == "__main__":
    main()
