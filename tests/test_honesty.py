"""The table of honesty: what it counts, on which runs, and that it would notice a false one."""

import dataclasses
import functools
import json
from pathlib import Path

import honesty_rows
import make_honesty
import numpy as np
import pytest
import tables
from honesty_rows import ROWS, SMOKE, drawn

from shadowflow.diagnostics import error_bar
from shadowflow.estimate import estimate

NUMBERS = Path(make_honesty.NUMBERS)
MOST = {"reassures": 0.02, "alarms": 0.1}


@functools.cache
def smoke():
    return [row for setting in SMOKE for row in make_honesty.shadow_rows(setting)]


def test_a_known_state_never_reassures_and_an_unsmooth_past_is_not_guessed():
    """Of a ReLU, where neighbouring orders leave together, and of momentum past its flow edge."""
    known, unknown = (
        [row for row in smoke() if row["setting"]["start"] == start] for start in ("cold", "step")
    )
    assert not any(row["reassures"] or row["alarms"] for row in known)
    assert {row["method"] for row in known} >= {"taylor 2", "inertial 3", "bias"}
    assert len(unknown) == 5 and all(row["said"] == "does not hold" for row in unknown)
    assert all("past the flow edge" in row["reason"] and row["share"] > 0.1 for row in unknown)


def test_an_estimate_that_says_too_little_is_counted(monkeypatch):
    """Negative control: the same distances divided by a thousand."""
    setting = SMOKE[0]._replace(rate=0.05)

    def too_small(run, plan, path):
        found = estimate(run, plan, path)
        return dataclasses.replace(found, two_norm=found.two_norm / 1e3)

    monkeypatch.setattr(error_bar, "estimate", too_small)
    rows = [*make_honesty.shadow_rows(setting)]
    wrong = [row for row in rows if row["method"] != "bias" and row["share"] > 1e-6]
    assert len(wrong) > 3 and all(row["reassures"] for row in wrong)


def test_the_rows_are_many_and_the_drawn_ones_are_others():
    assert len(ROWS) == len(set(ROWS)) >= 40
    others = [*drawn(make_honesty.DRAWN, make_honesty.SEED)]
    assert not set(others) & set(ROWS) and others == [*drawn(len(others), make_honesty.SEED)]
    for name in ("dtype", "start", "kind"):
        assert {getattr(row, name) for row in ROWS} >= {getattr(row, name) for row in others}
    assert {row.start for row in ROWS} == {"cold", "settled", "step"}
    assert {row.kind for row in ROWS} == set(honesty_rows.KINDS.values())


@pytest.mark.parametrize("name", ["rows", "drawn"])
def test_what_was_measured_last_keeps_what_is_asked(name):
    """At most 2 % of the rows reassure, and 10 % alarm falsely."""
    rows = json.loads(NUMBERS.read_text(encoding="utf-8"))[name]
    for key, most in MOST.items():
        assert np.mean([row[key] for row in rows]) <= most, key


def test_the_table_names_the_worst_of_each_kind():
    setting = SMOKE[0]._asdict()
    row = {"setting": setting, "kind": "kinks", "method": "taylor 2", "said": "holds"}
    rows = [row | {"share": share, "reassures": share > 0.1, "alarms": False} for share in (0.2, 3)]
    told = tables.honesty(rows)
    assert "| kinks | 1 | 2 | 2 (100.0%) | 0 (0.0%) |" in told
    assert "taylor 2: holds, off by 3e+02 %" in told
