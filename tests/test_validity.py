"""The verdict: its ratio by other means, its thresholds, its words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.rows import fast
from table import BILINEAR, BILINEAR_START, ROWS

import shadowflow as sf
from shadowflow import trust as validity
from shadowflow.optimizers import zoo
from shadowflow.running import followed

ONES = jnp.ones(4)


def judged(ratios, **options):
    ratios = np.asarray(ratios, float)
    options = {"params": ONES, "rates": np.ones(len(ratios)), **options}
    return validity.judge(np.arange(len(ratios)), ratios, np.ones(len(ratios)), **options)


@pytest.mark.parametrize(
    ("ratios", "level", "words"),
    [
        ([0.01, 0.1, 0.02], "holds", "holds: the second-order correction stayed within 0.1 of"),
        ([0.01, 0.11], "partly", "holds in part: the second-order correction reached 0.11 of"),
        ([0.4, 0.1], "partly", "holds in part: the second-order correction reached 0.4 of"),
        ([0.1, 0.41, 0.1], "does not hold", "does not hold: the second-order correction reached"),
        ([0.1, np.nan], "does not hold", "does not hold: the second-order correction reached no"),
    ],
)
def test_the_running_maximum_decides(ratios, level, words):
    found = judged(ratios)
    assert found.level == level
    assert found.verdict.startswith(words)
    expected = np.maximum.accumulate(np.where(np.isnan(ratios), np.inf, ratios))
    np.testing.assert_array_equal(found.running_max, expected)
    assert f"at step {np.nanargmax(ratios) if np.all(np.isfinite(ratios)) else 1}" in found.verdict


def test_a_run_that_recovers_is_not_forgiven():
    assert judged([0.5, *[0.001] * 50]).level == "does not hold"


def test_a_failed_run_does_not_hold_whatever_its_ratios():
    found = judged([0.01, 0.01], failed_at=2)
    assert found.level == "does not hold"
    assert "a non-finite number began at step 2" in found.verdict


def test_a_correction_below_rounding_is_called_that():
    tiny = {"params": ONES.astype(jnp.float32), "rates": np.full(3, 1e-8)}
    assert judged([0.05] * 3, **tiny).level == "below rounding"
    assert "float32; use float64" in judged([0.05] * 3, **tiny).verdict
    smaller = judged([0.05] * 3, params=ONES.astype(jnp.float64), rates=np.full(3, 1e-17))
    assert smaller.level == "below rounding" and "use float64" not in smaller.verdict
    fine = {**tiny, "params": ONES.astype(jnp.float64)}
    assert judged([0.05] * 3, **fine).level == "holds"
    assert judged([0.5] * 3, **tiny).level == "does not hold"


def test_rounding_adds_up_with_the_root_of_the_number_of_steps():
    """100 corrections of .05, of ‖θ‖ = 2: ten times one rounding is the limit, not one."""
    eps = float(np.finfo(np.float32).eps)
    for total, level in ((5, "below rounding"), (20, "holds")):  # in units of eps · ‖θ‖
        rates = np.full(100, total * eps * 2 / (100 * 0.05))
        single = {"params": ONES.astype(jnp.float32), "rates": rates}
        assert judged([0.05] * 100, **single).level == level


def test_an_edge_that_is_passed_leaves_no_better_level_than_it_allows():
    for ratio, allowed, level in (
        (0.01, "partly", "partly"),
        (0.3, "does not hold", "does not hold"),
        (0.5, "partly", "does not hold"),
    ):
        found = judged([ratio], past=(allowed, "past an edge"))
        assert found.level == level
        assert f"{validity.OPENINGS[level]}: past an edge; the second-order" in found.verdict


def test_along_a_schedule_the_largest_rate_decides_about_the_edge():
    """Steps are numbered as in the run; that of step 3 is past the 2 of gradient descent."""
    rate = lambda n: 0.1 if n == 3 else 1e-3
    quadratic, start = sf.Problem(lambda x: jnp.sum(x**2) / 2), jnp.ones(1)
    for first, steps, level in ((2, 3, "does not hold"), (4, 3, "holds")):
        follow = sf.shadow(quadratic, zoo.sgd(), start, rate, steps, start=first, curvature=30.0)
        assert follow.validity.level == level
        assert follow.validity.steps.tolist() == list(range(first, first + steps))
        assert ("the Hessian is 3, past the stability edge 2" in follow.verdict) == (first == 2)


def test_steps_of_a_lower_order_are_counted_and_the_first_is_named():
    found = validity.lower_remark(3, [False, True, True, False], first=7)
    assert found.startswith("Order 2 was taken at 2 of 4 steps (first at step 8), where order 3")
    assert validity.lower_remark(3, [False] * 4, first=7) == ""


def test_the_longest_memory_is_the_one_that_must_settle():
    """At step 3 a corrected moment lacks β⁴ of its weight."""
    run = followed(BILINEAR, zoo.adam(b1=0.5, b2=0.99), BILINEAR_START, 1e-4, 3, 0)
    assert f"by step 3 (0.99^4 = {0.99**4:.2g})" in validity.memory_remark(run, 3)
    settled = followed(BILINEAR, zoo.adam(b1=0.99, b2=0.9), BILINEAR_START, 1e-4, 3, "settled")
    assert "many times 100 steps" in validity.memory_remark(settled, 3)


def test_a_correction_of_nothing_is_no_finite_ratio():
    found = validity.judge([0], [1.0], [0.0], params=ONES, rates=[1.0])
    assert np.isinf(found.ratio[0])
    still = validity.judge([0], [0.0], [0.0], params=ONES, rates=[1.0])
    assert still.ratio[0] == 0


@pytest.mark.parametrize("method", ["taylor", "displaced"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_ratio_of_an_iteration_is_that_of_its_two_orders(method, order):
    adam, rate = ROWS["adam-inside"](), 0.05
    follow = sf.shadow(
        BILINEAR, adam, BILINEAR_START, rate, 8, method=method, order=order, kind="iteration"
    )
    first, second = (
        sf.memoryless_step(BILINEAR, adam, rate, method=method, order=p) for p in (1, 2)
    )
    for n in (0, 3, 7):
        place = jnp.asarray(follow.params[n])
        plain, full = first(n, place), second(n, place)
        expected = np.linalg.norm(full - plain) / np.linalg.norm(plain)
        np.testing.assert_allclose(follow.validity.ratio[n], expected, rtol=1e-8, atol=1e-12)
    assert follow.validity.ratio[7] > 1e-3


@pytest.mark.parametrize(
    ("order", "start"),
    fast([(1, 0), (2, "settled")], [(1, 0), (2, 0), (1, "settled"), (2, "settled")]),
)
def test_the_ratio_of_a_flow_is_that_of_its_two_fields(order, start):
    adam, rate = ROWS["adam-inside"](), 0.01
    follow = sf.shadow(
        BILINEAR, adam, BILINEAR_START, rate, 8, method="taylor", order=order, start=start
    )
    first, second = (
        sf.modified_field(BILINEAR, adam, rate, order=p, method="taylor") for p in (1, 2)
    )
    for n in (1, 7):
        middle = jnp.asarray((follow.params[n] + follow.params[n + 1]) / 2)
        step = n if start == 0 else "settled"
        plain, full = first(step, middle), second(step, middle)
        expected = np.linalg.norm(full - plain) / np.linalg.norm(plain)
        np.testing.assert_allclose(follow.validity.ratio[n], expected, rtol=0.02)


def test_the_ratio_of_the_inertial_flow_is_half_the_turn_of_its_direction():
    follow = sf.shadow(BILINEAR, ROWS["adam-inside"](), BILINEAR_START, 0.01, 6, method="inertial")
    moves = np.diff(follow.params, axis=0)
    turns = np.linalg.norm(np.diff(moves, axis=0), axis=1) / 2
    np.testing.assert_allclose(
        follow.validity.ratio[1:], turns / np.linalg.norm(moves[1:], axis=1), rtol=1e-6
    )
    assert follow.validity.ratio[0] == 0
    assert "half the turn of the direction" in follow.verdict


@pytest.mark.parametrize("name", ["momentum", "nesterov", "nadam", "rmsprop-inside"])
def test_weights_that_rise_from_zero_are_no_turn_of_the_inertial_direction(name):
    cold = sf.shadow(BILINEAR, ROWS[name](), BILINEAR_START, 1e-4, 12, method="inertial")
    moves = np.diff(cold.params, axis=0)
    raw = np.linalg.norm(np.diff(moves, axis=0), axis=1) / 2 / np.linalg.norm(moves[1:], axis=1)
    assert raw[0] > 0.04
    assert cold.validity.running_max[-1] < raw[0] / 3
    assert cold.validity.level == "holds"


def test_a_turn_is_still_seen_while_weights_rise():
    wild = sf.shadow(BILINEAR, ROWS["momentum"](), BILINEAR_START, 2.0, 12, method="inertial")
    assert wild.validity.level == "does not hold"


def test_a_step_of_rate_zero_is_no_turn_of_the_direction():
    warm = lambda n: 0.0 if n in (0, 4) else 0.002
    args = (BILINEAR, ROWS["adam-inside"](), BILINEAR_START, warm, 8)
    follow = sf.shadow(*args, method="inertial")
    np.testing.assert_array_equal(follow.params[0], follow.params[1])
    assert follow.validity.ratio[0] == follow.validity.ratio[4] == 0
    assert follow.validity.level == "holds"
    assert np.all(follow.validity.ratio[[2, 3, 5, 6]] > 0)


@pytest.mark.parametrize(
    ("decay", "start", "words"),
    [
        (0.99, 0, "The memory has not settled by step 20"),
        (0.5, 0, ""),
        (0.99, "settled", "It assumes a settled memory: many times 100 steps before"),
        pytest.param(0.0, "settled", "", marks=pytest.mark.slow),
    ],
)
def test_an_unsettled_memory_is_remarked(decay, start, words):
    optimizer = zoo.momentum(decay=decay, form="ema", bias_correction=True)
    follow = sf.shadow(BILINEAR, optimizer, BILINEAR_START, 1e-4, 20, start=start)
    assert follow.validity.remark.startswith(words)
    assert bool(follow.validity.remark) == bool(words)
    assert follow.validity.remark in follow.verdict


def test_a_cold_start_without_bias_correction_is_remarked_of_the_inertial_order_4_only():
    args = (BILINEAR, ROWS["rmsprop-inside"](), BILINEAR_START, 1e-4, 3)
    words = "Without bias correction a cold start"
    assert words in sf.shadow(*args, method="inertial", order=4).verdict
    assert words not in sf.shadow(*args, method="inertial", order=4, start="settled").verdict
    assert words not in sf.shadow(*args, method="inertial", order=3).verdict
    assert words not in sf.shadow(*args, method="taylor").verdict


@pytest.mark.slow
def test_the_setting_that_everybody_uses():
    """THEORY's reference run in float32: no memoryless flow holds, the inertial one does."""
    from shadowflow.lab.models import digits_problem

    problem, params = digits_problem()
    adam = zoo.adam(b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)
    real = sf.iterate(problem, adam, params, 1e-3, 200)
    far, level = {}, {}
    ways = [("taylor", 1), ("taylor", 2), ("displaced", 2), ("inertial", 2), ("inertial", 3)]
    for method, order in ways:
        follow = sf.shadow(problem, adam, params, 1e-3, 200, method=method, order=order)
        far[method, order] = sf.compare(real, follow).two_norm[-1]
        level[method, order] = follow.validity.level
    assert level.pop(("inertial", 2)) == level.pop(("inertial", 3)) == "holds"
    assert far["inertial", 3] < far["inertial", 2] / 3
    assert set(level.values()) == {"does not hold"}
    assert far["taylor", 2] > 4 * far["taylor", 1]
    assert far["displaced", 2] < far["taylor", 1]
    assert far["inertial", 2] < far["taylor", 1] / 100


@pytest.mark.slow
def test_the_setting_where_the_theory_helps():
    from shadowflow.lab.models import digits_problem

    problem, params = digits_problem()
    adam = zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6)
    real = sf.iterate(problem, adam, params, 1e-4, 200)
    far = {}
    for method, order in (("taylor", 1), ("taylor", 2), ("displaced", 2), ("inertial", 2)):
        follow = sf.shadow(problem, adam, params, 1e-4, 200, method=method, order=order)
        far[method, order] = sf.compare(real, follow).two_norm[-1]
        assert follow.validity.level in ("holds", "partly")
        assert jax.tree.leaves(follow.params)[0].dtype == np.float32
    assert far["inertial", 2] < far["displaced", 2] / 100
    assert far["displaced", 2] < far["taylor", 2] < far["taylor", 1]
