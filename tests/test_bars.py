"""The table of error bars: its numbers by another way, and which cases are left out."""

import bars
import jax.numpy as jnp
import numpy as np
import pytest
from bars import BarCase

import shadowflow as sf
from shadowflow.paper.ways import Way

LOSS = lambda x: x[0] ** 2 / 2 + 2 * x[1] ** 2 + jnp.sin(x[0] * x[1])
START = [0.9, 1.4]
RATE, STEPS = 1e-4, 12
TAYLOR, INERTIAL = Way("taylor", 1, "flow"), Way("inertial", 2, "flow")


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(bars, "STEPS", STEPS)
    momentum = sf.momentum(decay=0.9)
    monkeypatch.setattr(bars, "OPTIMIZERS", {"momentum": momentum})
    problems = {"mine": lambda: (sf.Problem(LOSS), jnp.array(START))}
    monkeypatch.setattr(bars, "PROBLEMS", problems)
    return momentum


def by_hand(start):
    """Heavy-ball written out: θ ← θ − h m, m ← .9 m + g; and the largest of its distances."""
    theta, memory = np.array(START), np.array(start)
    for _ in range(STEPS):
        slope = np.array([1, 4]) * theta + np.cos(theta[0] * theta[1]) * theta[::-1]
        memory = 0.9 * memory + slope
        theta = theta - RATE * memory
    return theta


@pytest.mark.parametrize("start", ["cold", "settled"])
def test_the_numbers_of_a_case_are_those_of_its_run(small, start):
    said = []
    case = BarCase("mine", "momentum", RATE, "float64", start, TAYLOR)
    (row,) = bars.measured([case], said.append)
    assert said == [f"mine momentum {RATE} float64 {start}"]
    problem, x = sf.Problem(LOSS), jnp.array(START)
    memory = [0.0, 0.0]
    if start == "settled":
        memory = 10 * sf.settled_state(problem, small, x, RATE, order=5).moments[0]  # a sum
    end, begin = by_hand(memory), 0 if start == "cold" else "settled"
    follow = sf.shadow(problem, small, x, RATE, STEPS, **TAYLOR._asdict(), start=begin, check=False)
    assert row["error"] == pytest.approx(np.linalg.norm(end - follow.last), rel=1e-9)
    assert row["moved"] == pytest.approx(np.linalg.norm(end - START), rel=1e-9)
    assert row["estimate"] == pytest.approx(row["error"], rel=0.05) and row["trusted"]
    assert row["estimate"] != row["error"] and row["rounding"] < 1e-12
    told = {"problem": "mine", "start": start, "method": "taylor", "order": 1, "kind": "flow"}
    assert told.items() <= row.items()


def test_what_meets_a_number_that_is_not_finite_is_left_out(small, monkeypatch):
    cliff = lambda x: jnp.sum(jnp.where(x > 0.8, x, jnp.nan))
    monkeypatch.setitem(bars.PROBLEMS, "cliff", lambda: (sf.Problem(cliff), jnp.array([0.9])))
    case = BarCase("cliff", "momentum", 0.02, "float64", "cold", TAYLOR)
    assert bars.measured([case]) == []


def test_the_table_has_every_method_from_the_start_that_it_is_for():
    table = bars.cases()
    assert {case.start for case in table if case.way.method == "collocation"} == {"settled"}
    assert {case.start for case in table if case.optimizer == "adam .9 .999"} == {"cold"}
    steep = [case.rate for case in table if case[:2] == ("bilinear", "momentum .9")]
    assert max(steep) == pytest.approx(1e-5)
    assert len(table) == len(set(table)) == 2 * 4 * 3 * (5 * 6 + 4 * 6)
