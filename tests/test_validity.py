"""The verdict: measured against the optimizer's own run, or estimated, and in which words."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.records import ratios
from support.refusals import refused
from support.rows import fast
from table import BILINEAR, BILINEAR_START, ROWS

import shadowflow as sf
from shadowflow import trust
from shadowflow.optimizers import zoo
from shadowflow.running import followed

QUADRATIC = sf.Problem(lambda x: jnp.sum(x**2) / 2)


def measured(shares, first=None, rounding=0.0, way=None, **options):
    """The validity of a shadow, ``shares`` of the way gone off; the way grows by 1 a step."""
    shares = np.asarray(shares, float)
    way = 1.0 + np.arange(len(shares)) if way is None else np.asarray(way, float)
    first = None if first is None else np.asarray(first, float) * way
    floor = np.full(len(shares), rounding)
    return trust.measured(
        np.arange(len(shares)), shares * way, way, first, floor, dtype="float32", **options
    )


@pytest.mark.parametrize(
    ("shares", "level", "words"),
    [
        ([0.01, 0.1], "holds", "follows: within 10 % of the way gone after 2 steps"),
        ([0.05, 0.01, 0.003], "holds", "follows: within 5 % of the way gone (at step 0), 0.3 % af"),
        ([0.01, 0.11], "partly", "follows in part: left at step 1 (11 % of the way gone), 11 % a"),
        ([0.4, 0.02], "partly", "follows in part: left at step 0 (40 % of the way gone), 2 % aft"),
        ([0.1, 0.41, 0.1], "does not hold", "does not follow: left at step 1 (41 % of the way"),
        ([0.1, np.inf], "does not hold", "does not follow: left at step 1 (an unknown part"),
        ([], "holds", "follows: no step was taken"),
    ],
)
def test_the_largest_share_of_the_way_gone_decides(shares, level, words):
    found = measured(shares)
    assert (found.level, found.basis) == (level, "measured")
    assert found.verdict.startswith(words)
    np.testing.assert_array_equal(found.running_max, np.maximum.accumulate(shares))


def test_a_run_that_recovers_is_not_forgiven():
    assert measured([0.5, *[0.001] * 50]).level == "does not hold"


@pytest.mark.parametrize(
    ("first", "level", "words"),
    [
        (0.02 * 230, "holds", ", 230 × closer than first order"),
        (0.0205, "partly", ", as far as first order, so its correction says nothing"),
        (0.01, "partly", ", 2 × farther than first order, so its correction says nothing"),
        (np.nan, "holds", ", where first order is not finite"),
    ],
)
def test_a_second_order_that_is_no_closer_than_first_holds_in_part_at_best(first, level, words):
    found = measured([0.02] * 5, first=[first] * 5)
    assert found.level == level and found.reason.endswith(words)
    assert measured([0.5] * 5, first=[0.6] * 5).level == "does not hold"


def test_distances_of_rounding_size_are_told_as_that():
    both = measured([1e-7] * 3, first=[2e-7] * 3, rounding=1e-6)
    assert both.level == "holds" and both.reason.endswith(
        "to the rounding of float32 after 3 steps, as first order does"
    )
    one = measured([1e-7] * 3, first=[0.03] * 3, rounding=1e-6)
    assert (
        one.level == "holds"
        and "rounding of float32 after 3 steps (first order: within 3 %)" in one.verdict
    )
    assert measured([0.5, 0.05], rounding=0.45).level == "holds"  # its first step was as small
    assert measured([0.5], rounding=0.3).level == "partly"


def test_what_rounding_may_hide_is_told_and_does_not_hold():
    """A way no longer than its rounding: the distance may be anything up to that."""
    found = measured([0.3] * 3, first=[0.3] * 3, rounding=1.0)
    assert found.level == "partly"
    assert found.reason.endswith(
        "off by 30 % of the way gone, which may be rounding: no more can be told"
    )
    assert "off by 1.5 × the way gone" in measured([1.5], rounding=1.45).reason
    far = sf.Problem(lambda p: 50 * jnp.sum((p["a"] - 1) ** 2) + 0 * jnp.sum(p["unused"]))
    params = {"a": jnp.zeros(3, "float32"), "unused": jnp.full(1000, 1e5, "float32")}
    left = sf.shadow(far, zoo.adam(), params, 1e-2, 100, method="taylor")
    assert left.validity.share[-1] > 0.1 and left.validity.level != "holds"


def test_a_failed_run_does_not_hold_whatever_its_distance():
    found = measured([0.01, 0.01], failed_at=2)
    assert found.level == "does not hold"
    assert "a non-finite number began at step 2; until then within 1 %" in found.verdict
    real = measured([0.01, 0.01], real_failed=2)
    assert real.level == "holds" and "The optimizer itself met a number that" in real.verdict


def test_what_has_not_moved_is_not_off():
    found = measured([0.0, 0.0], way=[0.0, 0.0])
    assert found.level == "holds" and np.all(found.share == 0)
    assert found.verdict == "follows: neither it nor the optimizer has moved after 2 steps."


def test_steps_of_which_no_run_is_known_are_not_said_to_follow():
    found = measured([np.nan] * 3, way=[np.nan] * 3, real_failed=0)
    assert found.level == "does not hold"
    assert "no step of the optimizer is known. The optimizer itself met a num" in found.verdict


@pytest.mark.parametrize(
    ("shares", "edge", "level"),
    [
        ([0.01, 0.09], "", "holds"),
        ([0.3, 0.01], "", "partly"),
        ([0.01, 0.09], "partly", "partly"),
        ([0.5, 0.01], "partly", "does not hold"),
        ([0.01, 0.01], "does not hold", "does not hold"),
    ],
)
def test_an_estimate_holds_no_better_than_the_edge_that_is_passed_leaves_it(shares, edge, level):
    way, past = np.ones(2), (edge, edge and "past the edge")
    rest = {"held": np.ones(2, bool), "source": "a run", "why": ""}
    found = trust.estimated(np.arange(2), np.asarray(shares), way, past=past, **rest)
    assert found.level == level
    assert ("past the edge; " in found.reason) == bool(edge)


def test_what_cannot_be_believed_at_one_step_is_not_believed():
    held = np.array([True, False, True])
    given = np.arange(3), np.full(3, 0.01), np.ones(3), held
    found = trust.estimated(*given, source="a run", why="the past matters")
    assert found.level == "does not hold"
    assert "after 1 step, and nothing can be said from step 1 on: the past mat" in found.reason


def test_only_memoryless_flows_mind_the_flow_edge():
    heavy = zoo.momentum(decay=0.9)
    assert trust.past_edge(heavy, 0.1, 1.0, memoryless=False) == ("", "")
    level, said = trust.past_edge(heavy, 0.1, 1.0, memoryless=True)
    assert level == "partly" and "past the flow edge 0.0026" in said
    level, said = trust.past_edge(heavy, 0.1, 40.0, memoryless=False)
    assert level == "does not hold" and "past the stability edge 3.8" in said


@pytest.mark.parametrize(("method", "start"), [("displaced", 0), ("inertial", "settled")])
def test_the_verdict_is_the_distance_from_the_optimizer_s_own_run(method, start):
    """By ``compare``, of runs made one by one; a Trajectory serves as well, also a sparse one."""
    args = BILINEAR, ROWS["adam-inside"](), BILINEAR_START, 0.02, 40
    found = sf.shadow(*args, method=method, start=start)
    real = sf.iterate(*args, start=start)
    first = sf.shadow(*args, order=1, start=start, check=False)
    gap = sf.compare(real, found)
    way = np.maximum.accumulate(gap.moved[1:])
    np.testing.assert_allclose(found.validity.share, gap.two_norm[1:] / way, rtol=1e-9)
    base = sf.compare(real, first).two_norm[1:] / way
    np.testing.assert_allclose(found.validity.first_order, base, rtol=1e-9)
    factor = np.linalg.norm(base * way) / np.linalg.norm(gap.two_norm)
    assert f"{trust.times(factor)} × closer than first order" in found.verdict
    given = sf.shadow(*args, method=method, start=start, check=real)
    np.testing.assert_array_equal(given.validity.share, found.validity.share)
    sparse = sf.iterate(*args, start=start, save_every=13)
    some = sf.shadow(*args, method=method, start=start, check=sparse, save_every=7).validity
    np.testing.assert_array_equal(some.steps, [12, 25, 38, 39])
    np.testing.assert_array_equal(some.share, found.validity.share[some.steps])
    assert "after 40 steps (measured at 4 of them)" in some.verdict
    later = sf.shadow(*args, method=method, start=start, check=False, save_every=25)
    assert "after 40 steps (measured at 2 of them)" in later.verdict


def test_another_run_than_the_optimizer_s_is_refused():
    args = BILINEAR, zoo.sgd(), BILINEAR_START, 0.01, 5
    other = sf.iterate(BILINEAR, zoo.sgd(), BILINEAR_START + 1, 0.01, 5)
    refused(lambda: sf.shadow(*args, check=other), "check:", "iterate(problem, optimizer")
    refused(lambda: sf.shadow(*args, check="yes"), "check:", "a Trajectory", error=TypeError)
    refused(lambda: sf.shadow(*args, check=sf.shadow(*args)), "check:", "a Traj", error=TypeError)
    short = sf.iterate(*args[:-1], 3)
    refused(lambda: sf.shadow(*args, check=short), "up to step 5, got one that ends at step 3")
    faster = sf.iterate(*args[:-2], lambda step: 0.01 + 1e-4 * (step == 2), 9, save_every=4)
    refused(lambda: sf.shadow(*args, check=faster), "check:", "at the same learning rate")
    for real in (sf.iterate(*args), sf.iterate(*args[:-1], 9), sf.iterate(*args, save_every=2)):
        assert sf.shadow(*args, check=real).validity.level == "holds"


def test_what_is_not_checked_is_measured_when_it_is_asked_for():
    calls = []

    def gradient(x):
        calls.append(1)
        return x

    host = sf.Problem(grad=gradient, traceable=False)
    follow = sf.shadow(host, zoo.momentum(decay=0.5), jnp.ones(2), 0.01, 4, check=False)
    made = len(calls)
    assert "not checked" in repr(follow) and len(calls) == made
    found = follow.validity
    assert len(calls) > made and found.basis == "measured"
    assert found.verdict.startswith("follows: within")
    assert follow.validity is found


def test_where_the_optimizer_cannot_be_run_it_is_estimated():
    """At step 7 its memory is not known: the estimate takes it as filled along a smooth past."""
    args = BILINEAR, ROWS["adam-inside"](), BILINEAR_START, 1e-3, 20
    found = sf.shadow(*args, start=7).validity
    assert found.basis == "estimated" and found.verdict.startswith("should follow: within")
    assert "estimated from the optimizer's run after a smooth past" in found.verdict
    assert sf.shadow(*args, start=7).validity.level == "holds"
    assert sf.shadow(*args, start=0).validity.basis == "measured"


def quarter(moments, params, step):
    """m / (v + 1e-4)^¼."""
    m, v = moments
    return m / (v + 1e-4) ** 0.25


def test_a_second_order_farther_than_first_says_so():
    own = sf.Optimizer((sf.Moment(0.9), sf.Moment(0.95, transform=sf.square)), quarter)
    problem = sf.Problem(lambda x: (1.5 - 2 * x[0] * x[1]) ** 2 / 2)
    run = problem, own, jnp.array([2.8, 3.5]), 1e-3, 300
    found = {order: sf.shadow(*run, order=order, method="taylor").validity for order in (1, 2)}
    assert found[2].share[-1] > found[1].share[-1]
    assert found[2].level != "holds" and "farther than first order" in found[2].verdict


CONVERGED = {
    "momentum on a parabola": (QUADRATIC, zoo.momentum(decay=0.9), jnp.ones(1), 0.01, 400),
    "adam on a parabola": (QUADRATIC, zoo.adam(b1=0.9, b2=0.99), jnp.ones(1), 0.01, 300),
}


@pytest.mark.parametrize("name", CONVERGED)
def test_a_run_that_has_converged_is_followed_by_the_inertial_flow(name):
    """Its direction passes through zero, and turns there as much as it can."""
    found = sf.shadow(*CONVERGED[name], method="inertial").validity
    assert found.level == "holds" and found.share[-1] < 1e-3
    alone = sf.shadow(*CONVERGED[name], method="inertial", check=False).validity
    assert alone.level == "holds" and alone.basis == "measured"


UNSTABLE = {
    "one coordinate of 1e-8": (
        sf.Problem(lambda x: (x[0] ** 2 + 1000 * x[1] ** 2) / 2),
        jnp.array([1.0, 1e-8]),
        2.05e-3,
        600,
    ),
    "a curvature that grows along the way": (
        sf.Problem(lambda z: -z[0] + (90 + 20 * z[0]) * z[1] ** 2 / 2),
        jnp.array([0.0, 1e-3]),
        2e-2,
        100,
    ),
}


@pytest.mark.parametrize("name", UNSTABLE)
def test_an_optimizer_that_diverges_in_one_coordinate_is_not_followed(name):
    """The flow stays where it is stable; in the two-norm, and to its neighbour, all is well."""
    problem, start, rate, steps = UNSTABLE[name]
    run = problem, zoo.sgd(), start, rate, steps
    assert sf.shadow(*run).validity.level == "does not hold"
    alone = sf.shadow(*run, check=False).validity
    assert alone.level == "does not hold"
    bar = sf.error_bar(*run)
    assert bar.two_norm[-1] > np.linalg.norm(bar.follow.last - start)


def test_a_state_that_overflows_stops_the_run_at_its_step():
    """ν = g² is infinite in float32: the parameters stand still, and no number of theirs is bad."""
    steep = sf.Problem(lambda x: 5e19 * jnp.sum(x**2))
    run = sf.iterate(steep, zoo.adam(), jnp.ones(2, jnp.float32), 1e-3, 5)
    assert run.failed_at == 0
    assert sf.iterate(QUADRATIC, zoo.adam(), jnp.ones(2, jnp.float32), 1e-3, 5).failed_at is None


def test_along_a_schedule_the_largest_rate_decides_about_the_edge():
    """Steps are numbered as in the run; that of step 3 is past the 3 of momentum .5.

    The curvature is not the loss's own: what was measured says that the run is followed.
    """
    rate = lambda n: 0.1 if n == 3 else 1e-3
    for first, steps, level in ((2, 3, "does not hold"), (4, 3, "holds")):
        state = sf.State((jnp.ones(1),), jnp.asarray(float(first)))
        args = QUADRATIC, zoo.momentum(decay=0.5), jnp.ones(1), rate, steps
        follow = sf.shadow(*args, start=state, curvature=40.0)
        assert follow.validity.basis == "measured"
        assert follow.validity.steps.tolist() == list(range(first, first + steps))
        alone = sf.shadow(*args, start=first, curvature=40.0, check=False).validity
        assert alone.level == level
        assert ("the Hessian is 4, past the stability edge 3" in follow.verdict) == (first == 2)


def test_steps_of_a_lower_order_are_counted_and_the_first_is_named():
    found = trust.lower_remarks(3, np.array([False, True, True, False]), first=7)
    assert found[0].startswith("Order 2 was taken at 2 of 4 steps (first at step 8), where order 3")
    assert trust.lower_remarks(3, np.array([False] * 4), first=7) == []


def test_the_longest_memory_is_the_one_that_must_settle():
    """At step 3 a corrected moment lacks β⁴ of its weight."""
    run = followed(BILINEAR, zoo.adam(b1=0.5, b2=0.99), BILINEAR_START, 1e-4, 3, 0)
    assert f"by step 3 (0.99^4 = {0.99**4:.2g})" in trust.memory_remark(run, 3)
    settled = followed(BILINEAR, zoo.adam(b1=0.99, b2=0.9), BILINEAR_START, 1e-4, 3, "settled")
    assert "many times 100 steps" in trust.memory_remark(settled, 3)


@pytest.mark.parametrize("method", ["taylor", "displaced"])
@pytest.mark.parametrize("order", [1, 2])
def test_the_ratio_of_an_iteration_is_that_of_its_two_orders(method, order):
    adam, rate = ROWS["adam-inside"](), 0.05
    args, way = (BILINEAR, adam, BILINEAR_START, rate, 8), {"method": method, "order": order}
    follow = sf.shadow(*args, **way, kind="iteration", check=False)
    found = ratios(*args, **way, kind="iteration")
    first, second = (
        sf.memoryless_step(BILINEAR, adam, rate, method=method, order=p) for p in (1, 2)
    )
    for n in (0, 3, 7):
        place = jnp.asarray(follow.params[n])
        plain, full = first(n, place), second(n, place)
        expected = np.linalg.norm(full - plain) / np.linalg.norm(plain)
        np.testing.assert_allclose(found[n], expected, rtol=1e-8, atol=1e-12)
    assert found[7] > 1e-3


@pytest.mark.parametrize(
    ("order", "start"),
    fast([(1, 0), (2, "settled")], [(1, 0), (2, 0), (1, "settled"), (2, "settled")]),
)
def test_the_ratio_of_a_flow_is_that_of_its_two_fields(order, start):
    adam, rate = ROWS["adam-inside"](), 0.01
    args = BILINEAR, adam, BILINEAR_START, rate, 8
    follow = sf.shadow(*args, method="taylor", order=order, start=start, check=False)
    found = ratios(*args, method="taylor", order=order, start=start)
    first, second = (
        sf.modified_field(BILINEAR, adam, rate, order=p, method="taylor") for p in (1, 2)
    )
    for n in (1, 7):
        middle = jnp.asarray((follow.params[n] + follow.params[n + 1]) / 2)
        step = n if start == 0 else "settled"
        plain, full = first(step, middle), second(step, middle)
        expected = np.linalg.norm(full - plain) / np.linalg.norm(plain)
        np.testing.assert_allclose(found[n], expected, rtol=0.02)


def test_the_ratio_of_the_inertial_flow_is_half_the_turn_of_its_direction():
    args = BILINEAR, ROWS["adam-inside"](), BILINEAR_START, 0.01, 6
    follow = sf.shadow(*args, method="inertial", check=False)
    found = ratios(*args, method="inertial")
    moves = np.diff(follow.params, axis=0)
    turns = np.linalg.norm(np.diff(moves, axis=0), axis=1) / 2
    np.testing.assert_allclose(found[1:], turns / np.linalg.norm(moves[1:], axis=1), rtol=1e-6)
    assert found[0] == 0


@pytest.mark.parametrize("name", ["momentum", "nesterov", "nadam", "rmsprop-inside"])
def test_weights_that_rise_from_zero_are_no_turn_of_the_inertial_direction(name):
    args = BILINEAR, ROWS[name](), BILINEAR_START, 1e-4, 12
    cold = sf.shadow(*args, method="inertial", check=False)
    moves = np.diff(cold.params, axis=0)
    raw = np.linalg.norm(np.diff(moves, axis=0), axis=1) / 2 / np.linalg.norm(moves[1:], axis=1)
    assert raw[0] > 0.04
    assert np.max(ratios(*args, method="inertial")) < raw[0] / 3


def test_a_turn_is_still_seen_while_weights_rise():
    run = BILINEAR, ROWS["momentum"](), BILINEAR_START, 2.0, 12
    assert np.max(ratios(*run, method="inertial")) > 0.4


def test_a_step_of_rate_zero_is_no_turn_of_the_direction():
    warm = lambda n: 0.0 if n in (0, 4) else 0.002
    args = (BILINEAR, ROWS["adam-inside"](), BILINEAR_START, warm, 8)
    follow = sf.shadow(*args, method="inertial")
    np.testing.assert_array_equal(follow.params[0], follow.params[1])
    turned = ratios(*args, method="inertial")
    assert turned[0] == turned[4] == 0 and np.all(turned[[2, 3, 5, 6]] > 0)
    assert follow.validity.level == "holds"


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
    assert level.pop(("displaced", 2)) == "partly"
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
