"""Distances and observed orders, and that a wrong order is seen."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from support.rows import fast
from table import BILINEAR, BILINEAR_START

import shadowflow as sf
from shadowflow.diagnostics.convergence import OrderTable, _error, _wanted, convergence, order_row
from shadowflow.methods import METHODS
from shadowflow.optimizers import zoo
from shadowflow.running import Trajectory, followed

RATES = [0.1 * 2.0**-k for k in range(4, 8)]


def path(steps, values):
    steps = np.asarray(steps)
    return Trajectory(steps, steps * 0.1, {"x": np.asarray(values, float)}, None, None)


def test_distances_are_norms_over_all_coordinates():
    real = path([0, 1, 2], [[0, 0], [3, 4], [6, 8]])
    follow = path([0, 2], [[0, 0], [6, 5]])
    found = sf.compare(real, follow)
    np.testing.assert_array_equal(found.steps, [0, 2])
    np.testing.assert_array_equal(found.max_norm, [0, 3])
    np.testing.assert_array_equal(found.two_norm, [0, 3])
    np.testing.assert_array_equal(found.moved, [0, 10])


def test_the_two_norms_differ_where_more_than_one_coordinate_does():
    found = sf.compare(path([0], [[3, 4]]), path([0], [[0, 0]]))
    assert (found.max_norm[0], found.two_norm[0]) == (4, 5)


def test_the_error_of_an_order_is_the_largest_on_the_way():
    real, follow = path([0, 1, 2], [[0, 0]] * 3), path([0, 1, 2], [[0, 0], [3, -4], [1, 0]])
    assert _error(real, follow) == 4
    assert _error(real, dataclasses.replace(follow, failed_at=2)) == np.inf


def test_trajectories_that_share_no_step_are_refused():
    with pytest.raises(ValueError, match=r"shares steps with real \(steps 0 to 1\), got steps 5"):
        sf.compare(path([0, 1], [[0], [0]]), path([5, 6], [[0], [0]]))


def line(steps, rate=0.5, failed=None, drift=0.0):
    """A run along a line, from step 0."""
    steps = np.arange(steps + 1)
    return Trajectory(steps, rate * steps, -(rate + drift) * steps[:, None], None, failed)


def test_runs_that_did_not_go_the_same_way_are_told_apart():
    whole = line(9)
    alike = sf.compare(whole, line(9, drift=0.1))
    assert alike.stopped == "" and alike.summary.startswith("0.9 apart at step 9")
    failed = sf.compare(whole, line(6, failed=6))
    assert failed.summary.startswith("follow stopped at step 6, where a non-finite number began; ")
    both = sf.compare(line(7, failed=7), line(6, failed=6)).stopped
    assert "real stopped at step 7" in both and "follow stopped at step 6" in both
    assert sf.compare(line(9), line(4)).stopped == "real goes to step 9, follow to step 4"
    rates = sf.compare(whole, line(9, rate=0.25)).stopped
    assert rates == (
        "their learning rates differ: by step 1 real has come 0.5 in time, follow 0.25"
    )


def test_a_run_that_failed_at_once_is_not_near():
    found = sf.compare(line(9), line(0, failed=0))
    assert "follow stopped at step 0" in found.stopped
    assert "no step after the start is compared" in found.stopped
    assert np.isnan(found.max_norm).all() and np.isnan(found.two_norm).all()
    assert found.moved[0] == 0


def test_parameters_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="follow: expected parameters of shapes"):
        sf.compare(path([0], [[0]]), path([0], [[0, 0]]))


def rows(optimizer, **options):
    return sf.convergence(BILINEAR, optimizer, BILINEAR_START, 0.4, RATES, **options)


def wanted(problem, optimizer, start=0, kinds=("iteration", "flow"), orders=None):
    """What is measured where no methods are named."""
    return _wanted(followed(problem, optimizer, BILINEAR_START, 0.1, 1, start), None, kinds, orders)


def test_all_that_is_declared_is_measured():
    expected = {
        (name, kind, order)
        for name, method in METHODS.items()
        if not method.needs_settled
        for kind in method.kinds
        for order in method.measured
        if order <= 2
    }
    assert set(wanted(BILINEAR, zoo.sgd())) == expected


@pytest.mark.parametrize(
    "method",
    fast(["taylor", "inertial"], [n for n, m in METHODS.items() if not m.needs_settled]),
)
def test_of_gradient_descent_every_iteration_is_exact_and_no_flow_is(method):
    found = rows(zoo.sgd(), methods=[method])
    assert {row.kind for row in found} == set(METHODS[method].kinds)
    assert all(row.holds and row.exact == (row.kind == "iteration") for row in found)


def test_a_first_order_shadow_does_not_pass_for_second_order():
    first = rows(
        zoo.adam(b1=0.5, b2=0.6, eps=0.0, eps_root=0.1),
        methods=["taylor"],
        kinds=["flow"],
        orders=[1],
    )[0]
    assert first.holds
    assert first.slope == pytest.approx(1, abs=0.15)
    claimed = order_row("taylor", "flow", 2, 0, RATES, list(first.errors), 1e-12, "holds")
    assert claimed.slope == pytest.approx(1, abs=0.15)
    assert not claimed.holds


@pytest.mark.parametrize(
    ("method", "power", "holds"),
    [
        ("taylor", 1.9, True),
        ("taylor", 2.1, True),
        ("taylor", 1.8, False),
        ("taylor", 2.2, False),
        ("collocation", 1.85, True),
        ("collocation", 2.6, True),
        ("collocation", 1.75, False),
    ],
)
def test_the_slope_is_held_to_its_tolerance(method, power, holds):
    """0.15 to either side; of a method of any order the error may fall faster, 0.2 more slowly."""
    errors = [rate**power for rate in RATES]
    row = order_row(method, "flow", 2, 0, RATES, errors, 1e-12, "holds")
    assert row.slope == pytest.approx(power) and row.holds is holds


@pytest.mark.parametrize(("order", "power"), [(2, 3.0), (6, 2.5), (8, 4.0)])
def test_the_slope_is_that_of_the_last_halvings_that_fit(order, power):
    """Three, two at order 6, one from order 7 on, of halvings by 2^9, 2^4, 2^1 and 2^4."""
    errors = np.cumprod([1.0, 2.0**-9, 2.0**-4, 2.0**-1, 2.0**-4]).tolist()
    rates = [0.1 * 2.0**-k for k in range(5)]
    row = order_row("collocation", "flow", order, 0, rates, errors, 1e-12, "holds")
    assert row.slope == pytest.approx(power)
    assert row.slopes == pytest.approx([9, 4, 1, 4])


def test_errors_at_the_floor_do_not_count():
    """The slope is that of what lies above it; where nothing does, the shadow is exact."""
    errors = [1e-6, 2.5e-7, 6.25e-8, 5e-8]
    assert not order_row("taylor", "flow", 2, 0, RATES, errors, 1e-9, "holds").holds
    found = order_row("taylor", "flow", 2, 0, RATES, errors, 6e-8, "holds")
    assert found.slope == pytest.approx(2) and found.holds and not found.exact
    assert order_row("taylor", "flow", 2, 0, RATES, errors, 2e-6, "holds").exact


def test_the_floor_is_what_rounding_does_to_the_same_run():
    """Starts that are a few roundings apart end e⁷ times as far apart where the loss is so bent."""
    floors = []
    for bend in (1e-3, -14.0):
        problem = sf.Problem(lambda x, bend=bend: bend / 2 * jnp.sum(x**2))
        (row,) = sf.convergence(
            problem,
            zoo.sgd(),
            jnp.ones(2),
            0.5,
            RATES,
            methods=["taylor"],
            kinds=["iteration"],
            orders=[2],
        )
        floors.append(row.floor)
    assert 1e-14 < floors[0] < 1e-12
    assert floors[1] / floors[0] == pytest.approx(np.exp(7), rel=0.5)


ADAM = zoo.adam(b1=0.3, b2=0.5, eps=0.0, eps_root=0.1)


def test_from_a_settled_start_every_method_is_measured():
    found = {method for method, _, _ in wanted(BILINEAR, ADAM, "settled", orders=[2])}
    assert found == {n for n, m in METHODS.items() if m.offers(2)}


@pytest.mark.parametrize(
    ("method", "order"),
    fast(
        [("collocation", 3)],
        [*((n, 2) for n, m in METHODS.items() if m.offers(2)), ("collocation", 3), ("inertial", 3)],
    ),
)
def test_from_a_settled_start_it_has_its_order(method, order):
    found = rows(ADAM, methods=[method], orders=[order], start="settled")
    assert {row.kind for row in found} == set(METHODS[method].kinds)
    assert all(row.holds for row in found)


def test_with_mini_batches_the_methods_that_take_them_are_measured():
    centres = jnp.asarray([[1.5, 2.0], [1.2, 1.8], [1.9, 2.3]])
    loss = lambda x, c: 0.5 * (c[0] - c[1] * x[0] * x[1]) ** 2 / 100
    problem = sf.Problem(loss, batches=centres)
    found = sf.convergence(
        problem,
        ADAM,
        BILINEAR_START,
        0.4,
        RATES,
        kinds=["iteration"],
        orders=[2],
    )
    assert {row.method for row in found} == {
        n for n, m in METHODS.items() if m.is_field and not (m.full_batch or m.needs_settled)
    }
    assert all(row.holds for row in found)


def test_a_settled_start_is_followed_from_the_settled_state():
    found = rows(
        zoo.rmsprop(decay=0.5, eps=0.0, eps_root=0.1), methods=["inertial"], start="settled"
    )[0]
    assert (found.start, found.holds) == ("settled", True)


def test_progress_is_told_row_by_row():
    told = []
    rows(zoo.sgd(), methods=["taylor"], orders=[2], progress=told.append)
    assert told == [1, 1]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"horizon": 0}, "horizon: expected"),
        ({"learning_rates": [0.1, 0.2]}, "learning_rates: expected two or more, falling"),
        ({"learning_rates": [0.1]}, "learning_rates: expected two or more, falling"),
        ({"params": BILINEAR_START.astype(jnp.float32)}, "params: expected float64"),
        ({"methods": ["euler"]}, "methods: expected one of 'taylor', 'displaced'"),
        ({"orders": [3], "methods": ["taylor"]}, "order .*: expected one of 1, 2, got 3"),
        ({"start": 5}, "start: expected one of 0, 'settled'"),
    ],
)
def test_bad_input_is_refused(change, said):
    given = {"params": BILINEAR_START, "horizon": 0.1, "learning_rates": RATES, **change}
    with pytest.raises(ValueError, match=said):
        sf.convergence(BILINEAR, zoo.sgd(), **given)


def test_step_sizes_that_the_optimizer_does_not_survive_are_refused():
    problem = sf.Problem(lambda x: jnp.sum(jnp.exp(x**2)))
    with pytest.raises(ValueError, match="learning_rates: expected steps that the optimizer surv"):
        sf.convergence(problem, zoo.sgd(), 3 * jnp.ones(1), 10.0, [5.0, 2.5])


def quarter(moments, params, step):
    """m / (v + 1e-4)^¼."""
    m, v = moments
    return m / (v + 1e-4) ** 0.25


OWN = sf.Optimizer((sf.Moment(0.9), sf.Moment(0.95, transform=sf.square)), quarter)
TAYLOR = {"orders": [2], "methods": ["taylor"], "kinds": ["flow"]}


def test_errors_that_are_not_yet_asymptotic_are_called_that():
    """Their slopes rise from 1.4 to 1.98: the order is not refuted, and not shown either."""
    start = jnp.array([2.8, 3.5])
    (row,) = convergence(BILINEAR, OWN, start, 0.25, [2.0**-k for k in (9, 10, 11, 12)], **TAYLOR)
    assert (row.finding, row.holds, row.asymptotic) == ("not yet asymptotic", False, False)
    table = OrderTable([row])
    assert "1 are not yet asymptotic" in table.summary and "a shorter horizon" in table.describe()


def test_step_sizes_are_found_at_which_an_order_shows():
    """Halved until the slopes agree, and not so far that rounding is met."""
    (row,) = convergence(BILINEAR, OWN, jnp.array([2.8, 3.5]), 0.25, **TAYLOR)
    assert row.finding == "holds" and min(row.learning_rates) < 2.0**-12
    np.testing.assert_allclose(np.divide(row.learning_rates[:-1], row.learning_rates[1:]), 2)
    assert np.ptp(row.slopes[-3:]) <= 0.15 and min(row.errors) > row.floor
    exact = convergence(
        BILINEAR, zoo.sgd(), BILINEAR_START, 0.25, **TAYLOR | {"kinds": ["iteration"]}
    )
    assert exact[0].finding == "exact" and len(exact[0].errors) == 2


def test_a_wrong_order_is_not_excused_as_not_yet_asymptotic():
    """Slopes of 1 that agree with each other."""
    errors = [rate**1.0 for rate in RATES]
    row = order_row("taylor", "flow", 2, 0, RATES, errors, 1e-12, "holds")
    assert row.finding == "does not hold"
    stuck = order_row("taylor", "flow", 2, 0, RATES, [1.0] * len(RATES), 1e-12, "holds")
    assert stuck.finding == "not yet asymptotic" and not stuck.holds
