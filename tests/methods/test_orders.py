"""Global errors fall with the declared power of the learning rate, and wrong variants' do not."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import BILINEAR, BILINEAR_START, CASES, MEMORYLESS, ROWS

from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.methods import METHODS
from shadowflow.methods.inertial import Inertial
from shadowflow.shadow import settled_state, shadow

HORIZON = 0.5
COUNTS = (512, 1024, 2048, 4096)  # all runs outlast the memory: 127 steps for decay 0.7
SHORT = (64, 128, 256, 512)
SCHEDULED = (128, 256, 512, 1024)
FLOOR = 1e-12  # well above what rounding adds up to in 4096 steps

RISING = {"rmsprop-inside", "rmsprop-outside", "rmsprop-both", "adam-uncorrected", "signum", "lion"}


@functools.cache
def real(row: str, count: int):
    return iterate(BILINEAR, ROWS[row](), BILINEAR_START, HORIZON / count, count)


def worst(one, other) -> float:
    """The largest distance of two runs at any saved step, in any coordinate."""
    assert np.array_equal(one.steps, other.steps)
    return float(np.abs(one.params - other.params).max())


def slope(errors) -> float:
    """The mean order over three halvings of the learning rate."""
    assert len(errors) == 4 and min(errors) > FLOOR, errors
    return float(np.log2(errors[0] / errors[-1]) / 3)


def has_order(errors, order) -> bool:
    return abs(slope(errors) - order) < 0.15


def errors_of(row: str, method: str, kind: str, order: int) -> list:
    return [
        worst(
            real(row, count),
            shadow(
                BILINEAR,
                ROWS[row](),
                BILINEAR_START,
                HORIZON / count,
                count,
                method=method,
                kind=kind,
                order=order,
                check=False,
            ),
        )
        for count in COUNTS
    ]


SAMPLE = {
    ("adam-both", "taylor", "flow", 1),
    ("adam-both", "taylor", "flow", 2),
    ("adam-both", "taylor", "iteration", 1),
    ("adam-both", "taylor", "iteration", 2),
    ("adam-both", "displaced", "flow", 2),
    ("adam-both", "linearized", "iteration", 2),
    ("adam-both", "inertial", "flow", 2),
    ("adamw", "displaced", "flow", 2),
    ("rmsprop-outside", "displaced", "iteration", 2),
    ("nadam", "taylor", "iteration", 2),
}
TABLE = [
    (row, *case)
    for row in ROWS
    for case in CASES
    if (row, case[1]) != ("sgd", "iteration") and case[2] <= 2
]
FAMILIES = {"adam-both", "adamw", "rmsprop-outside", "momentum", "nadam", "lion"}


def measured():
    """The cases that are run: all of second order, but for the linearized line (as displaced) and
    first order (the same direction in every method) one row of each family."""
    for case in TABLE:
        row, method, _, order = case
        rare = method == "linearized" or order == 1
        if (rare and row not in FAMILIES) or (order == 1 and method != "taylor"):
            continue
        marks = [] if case in SAMPLE else [pytest.mark.slow]
        yield pytest.param(*case, marks=marks, id="-".join(map(str, case)))


def test_the_sample_is_part_of_the_table():
    assert set(TABLE) >= SAMPLE
    assert {method for _, method, _, _ in TABLE} == {
        name for name, m in METHODS.items() if m.orders
    }


@pytest.mark.parametrize(("row", "method", "kind", "order"), list(measured()))
def test_the_error_has_the_declared_order(row, method, kind, order):
    errors = errors_of(row, method, kind, order)
    assert has_order(errors, order), (slope(errors), errors)
    other = 3 - order
    assert not has_order(errors, other)


@pytest.mark.parametrize("method", MEMORYLESS)
def test_the_iteration_of_gradient_descent_is_gradient_descent(method):
    for order in (1, 2):
        follow = shadow(
            BILINEAR,
            ROWS["sgd"](),
            BILINEAR_START,
            HORIZON / 512,
            512,
            method=method,
            kind="iteration",
            order=order,
            check=False,
        )
        assert worst(real("sgd", 512), follow) < 1e-13


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, marks=[] if row == "rmsprop-both" else [pytest.mark.slow])
        for row in sorted(RISING)
    ],
)
def test_moments_that_rise_from_zero_cost_the_inertial_flow_no_order(row, monkeypatch):
    """A nonlinear combine of them has another mean over a step: left alone it costs O(h)."""
    assert has_order(errors_of(row, "inertial", "flow", 2), 2)
    warm = []
    for count in COUNTS:
        rate = HORIZON / count
        state = settled_state(BILINEAR, ROWS[row](), BILINEAR_START, rate)
        run = iterate(BILINEAR, ROWS[row](), BILINEAR_START, rate, count, start=state)
        follow = shadow(
            BILINEAR,
            ROWS[row](),
            BILINEAR_START,
            rate,
            count,
            method="inertial",
            start="settled",
            check=False,
        )
        warm.append(worst(run, follow))
    assert has_order(warm, 2), slope(warm)
    bound = Inertial.bind
    without = lambda method, plan: dataclasses.replace(bound(method, plan), rising=False)
    monkeypatch.setattr(Inertial, "bind", without)
    assert has_order(errors_of(row, "inertial", "flow", 2), 1)


@pytest.mark.parametrize(("b1", "b2"), [(0.9, 0.95), (0.95, 0.8)])
def test_the_inertial_flow_is_of_second_order_with_long_memory_too(b1, b2):
    errors = []
    for count in COUNTS:
        optimizer, rate = ROWS["adam-both"](b1=b1, b2=b2), HORIZON / count
        run = iterate(BILINEAR, optimizer, BILINEAR_START, rate, count)
        follow = shadow(
            BILINEAR, optimizer, BILINEAR_START, rate, count, method="inertial", check=False
        )
        errors.append(worst(run, follow))
    assert has_order(errors, 2), slope(errors)


# Wrong variants must fail


def own_run(velocity, stages):
    """rate → the path of θ' = velocity(rate, n, θ) by Euler (1 stage) or Runge–Kutta (4)."""

    def step(rate, x, n):
        k1 = velocity(rate, n, x)
        if stages == 1:
            new = x + rate * k1
        else:
            k2 = velocity(rate, n, x + rate / 2 * k1)
            k3 = velocity(rate, n, x + rate / 2 * k2)
            k4 = velocity(rate, n, x + rate * k3)
            new = x + rate / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return new, new

    @jax.jit
    def path(rate):
        numbers = jnp.arange(SHORT[-1])
        return jax.lax.scan(lambda x, n: step(rate, x, n), BILINEAR_START, numbers)[1]

    return path


def own_errors(optimizer, velocity, stages):
    """Errors of ``own_run`` against the optimizer's iterates."""
    path, errors = own_run(velocity, stages), []
    for count in SHORT:
        run = iterate(BILINEAR, optimizer, BILINEAR_START, HORIZON / count, count)
        own = path(jnp.asarray(HORIZON / count))[:count]
        errors.append(float(np.abs(own - run.params[1:]).max()))
    return errors


@pytest.mark.parametrize(
    ("row", "method"),
    [("adam-both", "taylor"), pytest.param("nadam", "displaced", marks=pytest.mark.slow)],
)
def test_field_and_memoryless_step_are_not_interchangeable(row, method):
    """A step as if it were a field, or a field as if it were a step, is of first order."""
    optimizer = ROWS[row]()

    def field(rate, n, x):
        return modified_field(BILINEAR, optimizer, rate, method=method)(n, x)

    def step(rate, n, x):
        return memoryless_step(BILINEAR, optimizer, rate, method=method)(n, x) / rate

    assert has_order(own_errors(optimizer, field, 4), 2)
    assert has_order(own_errors(optimizer, step, 1), 2)
    assert has_order(own_errors(optimizer, step, 4), 1)
    assert has_order(own_errors(optimizer, field, 1), 1)


def test_a_weight_decay_left_where_it_is_costs_an_order():
    """In a flow, combine sees θ half a step ahead; without that the field is of first order."""
    decay = 1.0
    optimizer = ROWS["adamw"](weight_decay=decay)

    def undisplaced(rate, n, x):
        first, second = (
            modified_field(BILINEAR, optimizer, rate, order=order, method="taylor")(n, x)
            for order in (1, 2)
        )
        return second - decay * rate / 2 * first

    assert has_order(own_errors(optimizer, undisplaced, 4), 1)


# Starts within a run


def continued(row, count, *, method, kind, with_state=False):
    """The error of a shadow that begins at step 20 of a run and goes on to the horizon."""
    optimizer, rate = ROWS[row](), HORIZON / count
    before = iterate(BILINEAR, optimizer, BILINEAR_START, rate, 20)
    after = iterate(BILINEAR, optimizer, before.last, rate, count, start=before.state)
    begin = {"start": before.state} if with_state else {"start": 20}
    follow = shadow(
        BILINEAR,
        optimizer,
        before.last,
        rate,
        count,
        method=method,
        kind=kind,
        **begin,
        check=False,
    )
    assert follow.steps[0] == 20 and follow.times[0] == 0
    return worst(after, follow)


@pytest.mark.parametrize(
    ("row", "method", "kind", "with_state"),
    [
        ("adam-both", "displaced", "flow", False),
        ("adam-both", "inertial", "flow", True),
        pytest.param("adam-both", "displaced", "flow", True, marks=pytest.mark.slow),
        pytest.param("adam-both", "taylor", "iteration", False, marks=pytest.mark.slow),
        pytest.param("nadam", "taylor", "flow", False, marks=pytest.mark.slow),
        pytest.param("rmsprop-outside", "linearized", "flow", False, marks=pytest.mark.slow),
        pytest.param("momentum", "displaced", "iteration", False, marks=pytest.mark.slow),
        pytest.param("momentum", "inertial", "flow", True, marks=pytest.mark.slow),
    ],
)
def test_a_shadow_may_begin_at_any_step_of_a_run(row, method, kind, with_state):
    errors = [
        continued(row, count, method=method, kind=kind, with_state=with_state) for count in COUNTS
    ]
    assert has_order(errors, 2), (slope(errors), errors)


def test_forgetting_where_a_run_is_costs_an_order_without_bias_correction():
    """The wrong step number: settled from the start, or fresh in the middle."""
    optimizer, settled, fresh = ROWS["rmsprop-both"](), [], []
    for count in COUNTS:
        rate = HORIZON / count
        follow = shadow(
            BILINEAR, optimizer, BILINEAR_START, rate, count, start="settled", check=False
        )
        settled.append(worst(real("rmsprop-both", count), follow))
        before = iterate(BILINEAR, optimizer, BILINEAR_START, rate, 20)
        after = iterate(BILINEAR, optimizer, before.last, rate, count, start=before.state)
        follow = shadow(BILINEAR, optimizer, before.last, rate, count, check=False)
        fresh.append(float(np.abs(after.params - follow.params).max()))
    assert has_order(settled, 1), slope(settled)
    assert has_order(fresh, 1), slope(fresh)


def test_forgetting_where_a_run_is_costs_accuracy_with_bias_correction():
    """The order does not show it, the constant does."""
    start = {"settled": "settled", "right": 0}
    error = {
        name: worst(
            real("adam-both", 512),
            shadow(
                BILINEAR,
                ROWS["adam-both"](),
                BILINEAR_START,
                HORIZON / 512,
                512,
                start=n,
                check=False,
            ),
        )
        for name, n in start.items()
    }
    assert error["settled"] > 4 * error["right"]


# Learning rate schedules


def wave(rate):
    """A schedule of time: the learning rate follows a cosine as the run goes on."""
    return lambda step: rate * (1 + 0.5 * np.cos(7 * rate * step))


def scheduled_errors(row, method, kind, followed=wave):
    errors = []
    for count in SCHEDULED:
        rate = HORIZON / count
        run = iterate(BILINEAR, ROWS[row](), BILINEAR_START, wave(rate), count)
        follow = shadow(
            BILINEAR,
            ROWS[row](),
            BILINEAR_START,
            followed(rate),
            count,
            method=method,
            kind=kind,
            check=False,
        )
        errors.append(worst(run, follow))
    return errors


@pytest.mark.parametrize(
    ("row", "method", "kind"),
    [
        ("adam-both", "displaced", "flow"),
        pytest.param("adam-both", "taylor", "iteration", marks=pytest.mark.slow),
        pytest.param("adam-both", "inertial", "flow", marks=pytest.mark.slow),
        pytest.param("nadam", "taylor", "flow", marks=pytest.mark.slow),
        pytest.param("momentum", "displaced", "iteration", marks=pytest.mark.slow),
        pytest.param("momentum", "inertial", "flow", marks=pytest.mark.slow),
    ],
)
def test_a_schedule_keeps_the_order(row, method, kind):
    errors = scheduled_errors(row, method, kind)
    assert has_order(errors, 2), (slope(errors), errors)


def test_another_schedule_is_another_run():
    errors = scheduled_errors("adam-both", "displaced", "flow", followed=lambda rate: rate)
    assert min(errors) > 1e-2
