"""The inertial flow at orders 3 and 4, and with some of its moments eliminated."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from table import BILINEAR, BILINEAR_START, ROWS

from shadowflow.iterate import iterate
from shadowflow.methods import inertial, inertial_rules as onward
from shadowflow.optimizers import zoo
from shadowflow.optimizers.base import State
from shadowflow.optimizers.moments import Moment, Optimizer
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow

HORIZON = 0.5
COUNTS = (64, 128, 256, 512)


def distance(row, count, order, *, cold, keep=None, horizon=HORIZON) -> float:
    """How far the flow is from the iterates at most, from a settled or a cold start."""
    optimizer, rate = ROWS[row](), horizon / count
    start = 0
    if not cold:
        start = settled_state(BILINEAR, optimizer, BILINEAR_START, rate, order=max(4, order))
    run = iterate(BILINEAR, optimizer, BILINEAR_START, rate, count, start=start)
    follow = shadow(
        BILINEAR,
        optimizer,
        BILINEAR_START,
        rate,
        count,
        method="inertial",
        order=order,
        start=start,
        keep=keep,
        check=False,
    )
    return float(np.abs(run.params - follow.params).max())


def slope(errors) -> float:
    return float(np.log2(errors[0] / errors[-1]) / (len(errors) - 1))


def rows(*names):
    """The first of them fast, the others slow."""
    return [
        pytest.param(name, marks=[] if name == names[0] else [pytest.mark.slow]) for name in names
    ]


@pytest.mark.parametrize(
    "row",
    rows(
        "momentum",
        "adam-both",
        "nesterov",
        "nadam",
        "lion",
        "sgd",
        "rmsprop-both",
        "rmsprop-corrected",
        "adamw",
    ),
)
def test_from_a_settled_start_the_error_has_the_declared_order(row):
    found = {}
    for order in (2, 3, 4):
        horizon = 2.0 if order == 4 else HORIZON
        errors = [distance(row, count, order, cold=False, horizon=horizon) for count in COUNTS[-2:]]
        found[order] = slope(errors)
    for order, seen in found.items():
        assert abs(seen - order) < 0.15, found
        assert abs(seen - order + 1) > 0.5


@pytest.mark.parametrize(
    "row",
    rows("momentum", "adam-both", "nesterov", "momentum-corrected", "rmsprop-corrected", "adamw"),
)
def test_a_cold_start_costs_nothing_in_the_higher_orders(row):
    """Its first steps are followed more closely than the rest, whose order is the declared one."""
    for order in (3, 4):
        for count in COUNTS[::3]:
            cold = distance(row, count, order, cold=True)
            assert cold < 1.2 * distance(row, count, order, cold=False) + 1e-13
            assert cold < distance(row, count, order - 1, cold=True) + 1e-13


@pytest.mark.parametrize(
    ("row", "order"),
    [
        ("rmsprop-corrected", 4),
        pytest.param("rmsprop-corrected", 3, marks=pytest.mark.slow),
        pytest.param("adam-both", 4, marks=pytest.mark.slow),
    ],
)
def test_a_cold_start_has_the_order_once_most_of_the_run_is_past_it(row, order):
    errors = [distance(row, count, order, cold=True, horizon=4.0) for count in (1024, 2048)]
    assert abs(slope(errors) - order) < 0.15, errors


def test_the_late_rule_alone_does_not_follow_a_cold_start(monkeypatch):
    right = distance("momentum", 128, 4, cold=True)
    monkeypatch.setattr(onward, "early_steps", lambda *parts: 0)
    assert distance("momentum", 128, 4, cold=True) > 100 * right


@pytest.mark.parametrize("row", rows("rmsprop-both", "nadam", "lion", "adam-uncorrected"))
def test_moments_that_rise_from_zero_keep_order_three(row, monkeypatch):
    """With a nonlinear combine. At order 4 they leave an error of third order, far smaller where
    what the sums over early steps miss is looked up."""
    for count in (256, 512):
        cold = distance(row, count, 3, cold=True, horizon=2.0)
        assert cold < 1.2 * distance(row, count, 3, cold=False, horizon=2.0)
    right, rules = distance(row, 512, 4, cold=True, horizon=2.0), onward.rules
    monkeypatch.setattr(
        onward, "rules", lambda decays, order, dtype, rising: rules(decays, order, dtype, False)
    )
    assert distance(row, 512, 4, cold=True, horizon=2.0) > 2 * right


@pytest.mark.slow
@pytest.mark.parametrize("row", ["rmsprop-both", "nadam"])
def test_at_order_four_they_leave_an_error_of_third_order(row):
    errors = [distance(row, count, 4, cold=True, horizon=2.0) for count in (128, 256)]
    assert abs(slope(errors) - 3) < 0.1, errors


@pytest.mark.slow
def test_a_host_function_is_followed_to_the_same_places():
    gradient = jax.jit(jax.grad(BILINEAR.loss))
    host = Problem(grad=lambda x: np.asarray(gradient(x)), traceable=False)
    momentum = ROWS["momentum"](decay=0.9)
    state = settled_state(BILINEAR, momentum, BILINEAR_START, 1e-2, order=3)
    follow = [
        shadow(
            problem,
            momentum,
            BILINEAR_START,
            1e-2,
            1,
            method="inertial",
            order=order,
            start=state,
            check=False,
        )
        for problem, order in ((host, 3), (BILINEAR, 3), (BILINEAR, 4))
    ]
    np.testing.assert_allclose(follow[0].params, follow[1].params, rtol=1e-13)
    assert np.abs(follow[0].params - follow[2].params).max() > 1e-9


def test_a_pause_and_a_schedule_are_followed():
    pause = lambda step: 0.0 if step == 5 else 0.02 / (1 + 0.001 * step)
    adam = ROWS["adam-both"]()
    run = iterate(BILINEAR, adam, BILINEAR_START, pause, 9)
    far = []
    for order in (2, 3):
        follow = shadow(
            BILINEAR, adam, BILINEAR_START, pause, 9, method="inertial", order=order, check=False
        )
        assert np.array_equal(follow.params[5], follow.params[6])
        far.append(np.abs(follow.params[:6] - run.params[:6]).max())
    assert far[1] < far[0] / 100


# The weights of the rules


def test_the_weights_are_exact_on_what_they_are_made_for():
    """Against the classical expansions: ln(1+x) (1+x)/x, and D/(e^D − 1) in the limit β → 1."""
    mean = onward.weights([onward.logarithmic_mean], [1.0] * 4, [0, 1, 2, 3])[0]
    gregory = [1, 1 / 2, -1 / 6, 1 / 12]  # of differences, from the first node
    binomials = [[1, 0, 0, 0], [-1, 1, 0, 0], [1, -2, 1, 0], [-1, 3, -3, 1]]
    np.testing.assert_allclose(mean, np.asarray(gregory) @ np.asarray(binomials), rtol=1e-12)
    pull = onward.weights([onward.pulled(1 - 1e-9)], [1.0] * 3, [0, -1, 1])[0]
    powers = [pull @ np.asarray([0.0, -1.0, 1.0]) ** k for k in range(3)]
    np.testing.assert_allclose(powers, [1, -1 / 2, 1 / 6], atol=1e-8)


@pytest.mark.parametrize("decay", [0.3, 0.9, 0.999])
def test_the_pull_makes_the_average_of_whole_steps(decay):
    """m' = −a (m − P q) has the solution Σ (1−β) β^k q(s−1−k), here for q = s²."""
    nodes = np.asarray([0, 1, 2, 3])
    pull = onward.weights([onward.pulled(decay)], [1.0] * 4, nodes)[0]
    ages = np.arange(40_000)
    share = (1 - decay) * decay**ages
    average = lambda s: share @ (s - 1.0 - ages) ** 2
    slope = share @ (2 * (0.0 - 1 - ages))
    expected = average(0.0) - slope / np.log(decay)
    np.testing.assert_allclose(pull @ nodes**2, expected, rtol=1e-6, atol=1e-7)


def test_equal_numbers_make_the_sum_exact_on_powers_times_the_decay():
    decay, nodes = 0.6, [0, 1, 2, 3]
    made = onward.weights([lambda z: z.ln()], [1.0, 1.0, decay, decay], nodes)[0]
    s = np.asarray(nodes, float)
    for values, slope in ((s, 1.0), (decay**s, np.log(decay)), (s * decay**s, 1.0)):
        np.testing.assert_allclose(made @ values, slope, atol=1e-11)
    with localcontext() as context:
        context.prec = 30
        assert abs(made @ s**2) > 1e-3 and Decimal(1).ln() == 0


# Moments eliminated


def test_all_moments_named_is_none_left_out():
    adam = ROWS["adam-both"]()
    by = [
        shadow(BILINEAR, adam, BILINEAR_START, 1e-2, 20, method="inertial", keep=keep, check=False)
        for keep in (None, ("mu", "nu"), (1, "mu"), ("nu",))
    ]
    assert np.array_equal(by[0].params, by[1].params)
    assert np.array_equal(by[0].params, by[2].params)
    assert np.abs(by[0].params - by[3].params).max() > 1e-6


@pytest.mark.parametrize(
    ("row", "start", "tolerance"),
    [
        ("adam-both", 0, 1e-10),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ("adam-both", "settled", 1e-10),
                ("lion", "settled", 1e-10),
                ("lion", 0, 1e-6),
            ]
        ),
    ],
)
def test_no_moment_kept_is_the_memoryless_flow(row, start, tolerance):
    """To the rounding of two solvers where all F_l are one, else to second order."""
    args = (BILINEAR, ROWS[row](), BILINEAR_START, 1e-3, 40)
    none = shadow(*args, method="inertial", keep=(), start=start, check=False)
    memoryless = shadow(*args, method="displaced", start=start, check=False)
    assert 0 < np.abs(none.params - memoryless.params).max() < tolerance
    assert (
        np.abs(
            none.params - shadow(*args, method="inertial", start=start, check=False).params
        ).max()
        > 1e-8
    )


@pytest.mark.parametrize(
    ("row", "keep"),
    [
        ("adam-both", ("nu",)),
        *(
            pytest.param(row, keep, marks=pytest.mark.slow)
            for row, keep in [
                ("adam-both", ("mu",)),
                ("adam-uncorrected", ("nu",)),
                ("adam-uncorrected", ("mu",)),
                ("nadam", ("nu",)),
                ("adamw", ("nu",)),
                ("lion", ()),
                ("rmsprop-both", ()),
            ]
        ),
    ],
)
@pytest.mark.parametrize("cold", [True, False])
def test_with_moments_left_out_the_order_is_two(row, keep, cold):
    errors = [distance(row, count, 2, cold=cold, keep=keep) for count in (512, 1024)]
    assert abs(slope(errors) - 2) < 0.15, errors


def test_at_real_decays_keeping_nu_is_far_better_than_keeping_nothing():
    adam = zoo.adam(b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)
    run = iterate(BILINEAR, adam, BILINEAR_START, 1e-3, 300)
    far = [
        np.abs(
            shadow(BILINEAR, adam, BILINEAR_START, 1e-3, 300, **way, check=False).params
            - run.params
        ).max()
        for way in ({"method": "inertial"}, {"method": "inertial", "keep": ("nu",)}, {})
    ]
    assert far[0] < far[1] / 50 and far[1] < far[2] / 10, far


def test_a_flow_goes_on_from_the_moments_it_kept():
    adam, way = ROWS["adam-both"](), {"method": "inertial", "keep": ("nu",)}
    whole = shadow(BILINEAR, adam, BILINEAR_START, 0.01, 20, **way, check=False)
    first = shadow(BILINEAR, adam, BILINEAR_START, 0.01, 8, **way, check=False)
    assert first.state.moments[0] is None
    wild = State((jnp.full(2, 1e3), first.state.moments[1]), first.state.step)
    for state in (first.state, wild):
        rest = shadow(BILINEAR, adam, first.last, 0.01, 12, start=state, **way, check=False)
        np.testing.assert_allclose(rest.params, whole.params[8:], rtol=1e-12)


def test_what_keep_cannot_have_is_refused():
    args = (BILINEAR, ROWS["adam-both"](), BILINEAR_START, 1e-2, 3)
    with pytest.raises(ValueError, match=r"keep .*'mu', 'nu', 0, 1, got 'velocity'"):
        shadow(*args, method="inertial", keep=("velocity",), check=False)
    with pytest.raises(ValueError, match="keep: expected None for method='displaced'"):
        shadow(*args, keep=("nu",), check=False)
    with pytest.raises(TypeError, match="keep: expected the names of moments in a list, got 'nu'"):
        shadow(*args, method="inertial", keep="nu", check=False)
    with pytest.raises(ValueError, match="order: expected 2 with keep"):
        shadow(*args, method="inertial", keep=("nu",), order=3, check=False)
    with pytest.raises(ValueError, match=r"keep .* got 0"):  # the present gradient is no state
        shadow(
            BILINEAR,
            ROWS["rmsprop-both"](),
            BILINEAR_START,
            1e-2,
            3,
            method="inertial",
            keep=(0,),
            check=False,
        )
    plain = Optimizer([Moment(0.5), Moment(0.7)], lambda m, p, n: m[0] + m[1])
    assert inertial.kept_moments(plain, (1,), 2) == (False, True)
    zero = Optimizer([Moment(jnp.asarray(0.0))], lambda m, p, n: m[0])
    with pytest.raises(ValueError, match="decay: expected the number 0"):
        shadow(BILINEAR, zero, BILINEAR_START, 1e-2, 3, method="inertial", order=3, check=False)


def test_where_a_higher_order_is_not_finite_order_two_is_taken_and_said():
    """Its steps onward leave the domain of the loss, which those of the run do not."""
    problem, start = Problem(lambda x: jnp.sum(x**1.5)), jnp.asarray([5e-3, 1.0])
    adam = zoo.adam(b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)
    two, three = (
        shadow(problem, adam, start, 1e-3, 3, method="inertial", order=order) for order in (2, 3)
    )
    assert three.failed_at is None
    assert "Order 2 was taken at 2 of 3 steps (first at step 1), where order 3" in three.verdict
    assert "Order 2 was taken" not in two.verdict
    np.testing.assert_array_equal(three.params, two.params)
