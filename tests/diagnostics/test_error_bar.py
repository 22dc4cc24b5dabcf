"""A shadow's own error bar against the real error."""

import dataclasses

import bars
import jax.numpy as jnp
import numpy as np
import pytest

import shadowflow as sf
from shadowflow.diagnostics import error_bar as module
from shadowflow.diagnostics.error_bar import _bar
from shadowflow.estimate import Estimate
from shadowflow.trust import rounding_of

QUADRATIC = sf.Problem(lambda x: jnp.sum(jnp.array([1.0, 3.0]) * x**2) / 2)
X = jnp.array([1.0, -0.5])
MOMENTUM = sf.momentum(decay=0.5)


def both(order, method, kind, rate=1e-2, steps=60, optimizer=MOMENTUM, **options):
    """(error bar, real distance)."""
    run = QUADRATIC, optimizer, X, rate, steps
    bar = sf.error_bar(*run, order=order, method=method, kind=kind, **options)
    real = sf.iterate(*run, start=options.get("start", 0))
    return bar, sf.compare(real, bar.follow)


@pytest.mark.parametrize(
    ("order", "method", "kind"),
    [
        (1, "taylor", "flow"),
        (2, "taylor", "iteration"),
        (2, "displaced", "flow"),
        (2, "inertial", "flow"),
    ],
)
def test_the_estimate_is_the_error_within_a_factor(order, method, kind):
    """In both norms; and it is no run of the optimizer, whose distance would be exact."""
    bar, gap = both(order, method, kind)
    for norm in ("two_norm", "max_norm"):
        ratio = getattr(bar, norm)[5:] / getattr(gap, norm)[5:]
        assert np.all((ratio > 1 / 3) & (ratio < 3)) and np.any(ratio != 1)
    assert np.all(bar.trusted) and "is about" in bar.verdict


def test_orders_three_and_four_share_what_a_cold_start_costs():
    """So that the bar of order 3 is too small at first, and right once its own error has grown."""
    bar, gap = both(3, "inertial", "flow")
    ratio = bar.two_norm[2:] / gap.two_norm[2:]  # step 0 is exact
    assert ratio[3] < 1e-3 and 1 / 3 < ratio[-1] < 3


def test_the_highest_order_is_estimated_from_those_below():
    """Extrapolated: of order 4 the distance to order 3 alone would be far too large."""
    bar, gap = both(4, "inertial", "flow", rate=0.05)
    lower = sf.shadow(QUADRATIC, MOMENTUM, X, 0.05, 60, method="inertial", order=3, check=False)
    plain = sf.compare(bar.follow, lower).two_norm[-1]
    assert "order 3, flow and inertial, order 2" in bar.neighbour
    assert gap.two_norm[-1] / 3 < bar.two_norm[-1] < 5 * gap.two_norm[-1] < plain


def test_without_a_memory_the_neighbour_is_the_next_order_also_from_a_cold_start():
    bar, gap = both(2, "taylor", "flow", optimizer=sf.sgd())
    assert bar.neighbour == "collocation, order 3, flow"
    assert 1 / 1.5 < bar.two_norm[-1] / gap.two_norm[-1] < 1.5


def test_an_exact_shadow_has_no_more_than_rounding():
    bar, gap = both(2, "taylor", "iteration", optimizer=sf.sgd())
    assert gap.two_norm[-1] < 1e-14 and bar.two_norm[-1] < 3e-15
    assert "no larger than rounding" in bar.verdict


def test_in_float32_rounding_is_in_it():
    """As large as the iterates' own rounding is, of which float64 knows nothing."""
    problem = sf.Problem(lambda x: 0.5 * jnp.sum(x**2))
    x = jnp.linspace(0.3, 0.9, 200)
    runs = [
        sf.iterate(problem, sf.sgd(), x.astype(dtype), 1e-2, 50).last.astype(float)
        for dtype in (jnp.float32, jnp.float64)
    ]
    bar = sf.error_bar(
        problem, sf.sgd(), x.astype(jnp.float32), 1e-2, 50, method="taylor", kind="iteration"
    )
    rounded = np.linalg.norm(runs[0] - runs[1])
    assert rounded / 3 < bar.rounding[-1] < 3 * rounded and bar.two_norm[-1] >= bar.rounding[-1]


def test_past_the_flow_edge_it_says_that_it_cannot_be_trusted():
    """Learning rate × curvature .6, at the edge .07 of b = .6: both series diverge together."""
    optimizer = sf.momentum(decay=0.6, form="ema")
    rate = 0.2
    state = sf.settled_state(QUADRATIC, optimizer, X, rate, order=1)
    bar, _ = both(2, "collocation", "iteration", rate=rate, optimizer=optimizer, start=state)
    assert not bar.trusted[-1] and "no more than a sign" in bar.verdict
    calm, _ = both(
        2,
        "collocation",
        "iteration",
        rate=1e-3,
        optimizer=optimizer,
        start=sf.settled_state(QUADRATIC, optimizer, X, 1e-3),
    )
    assert np.all(calm.trusted)


MIXED = sf.Problem(
    lambda x, c: jnp.sum(c * x**2) / 2 - jnp.sum(x),
    batches=jnp.array([[1.0, 1.0], [5.0, -3.0], [-4.0, 3.0]]),
)


@pytest.mark.parametrize(
    ("optimizer", "rate"),
    [(sf.sgd(), 1e-2), (sf.momentum(decay=0.9), 1e-3), (sf.adam(b1=0.9, b2=0.99), 1e-3)],
)
def test_on_mini_batches_the_bar_is_the_error_itself(optimizer, rate):
    """Taylor and displaced agree to rounding there, both of them far from the optimizer."""
    run = MIXED, optimizer, jnp.array([1.0, 0.5]), rate, 300
    bar = sf.error_bar(*run)
    other = sf.shadow(*run, method="taylor", check=False)
    gap = sf.compare(sf.iterate(*run), bar.follow)
    np.testing.assert_allclose(bar.two_norm, gap.two_norm, rtol=1e-9)
    assert sf.compare(bar.follow, other).two_norm[-1] < bar.two_norm[-1] / 5
    assert bar.neighbour == "the optimizer's own run" and "The error is " in bar.verdict


def test_a_shadow_that_was_run_is_taken():
    run = QUADRATIC, MOMENTUM, X, 1e-2, 20
    follow = sf.shadow(*run, method="taylor", check=False)
    bar = sf.error_bar(*run, method="taylor", follow=follow)
    assert bar.follow is follow
    np.testing.assert_array_equal(bar.two_norm, sf.error_bar(*run, method="taylor").two_norm)


def test_auto_is_refused():
    with pytest.raises(ValueError, match="order: expected a number, got 'auto'"):
        sf.error_bar(QUADRATIC, MOMENTUM, X, 1e-2, 5, order="auto", method="collocation")


# What is made of an estimate, by hand


WAY = 1.0 + np.arange(10.0)  # the way gone is the number of steps


def estimate_of(share, held=True, **changes):
    """An estimate that is ``share`` of the way gone, of a shadow of one coordinate."""
    two = np.broadcast_to(np.asarray(share, float), (10,)) * WAY
    held = np.broadcast_to(np.asarray(held), (10,))
    zero = np.zeros(10)
    rows = np.arange(10), two, two, zero, WAY, held, "another", "it has left itself", False
    return dataclasses.replace(Estimate(*rows), **changes)


def bar_of(share, held=True, failed_at=None, **changes):
    steps = np.arange(11)
    path = sf.Trajectory(steps, 0.1 * steps, 1.0 + steps[:, None], None, failed_at)
    follow = sf.Shadow(**vars(path), order=2, truncation=None, judged=lambda: None)
    return _bar(follow, estimate_of(share, held, **changes))


@pytest.mark.parametrize(("share", "trusted"), [(0.05, True), (0.09, True), (0.11, False)])
def test_a_tenth_of_the_way_gone_is_where_trust_ends(share, trusted):
    bar = bar_of(share)
    assert bar.trusted[0] and np.all(bar.trusted[1:] == trusted)
    assert ("a tenth of the way gone" in bar.verdict) is not trusted


def test_trust_that_is_lost_stays_lost():
    """After step 4 the two are far apart, afterwards near again."""
    bar = bar_of(np.where(np.arange(10) == 3, 0.5, 1e-3))
    assert bar.trusted[:4].all() and not bar.trusted[4:].any()
    assert "before step 4" in bar.verdict


def test_a_neighbour_that_does_not_hold_is_not_trusted_however_near():
    bar = bar_of(1e-3, np.arange(10) < 6)
    assert bar.trusted[:7].all() and not bar.trusted[7:].any()
    assert "it has left itself" in bar.verdict


def test_an_edge_that_is_passed_leaves_no_trust():
    bar = bar_of(1e-3, past=("does not hold", "past the edge"))
    assert not bar.trusted[1:].any() and "past the edge" in bar.verdict
    assert bar_of(1e-3, past=("partly", "past the flow edge")).trusted.all()


def test_what_is_of_rounding_size_is_trusted_whatever_its_share():
    assert bar_of(0.5, rounding=WAY).trusted.all()


def test_an_estimate_from_the_optimizer_is_called_exact():
    assert bar_of(0.01, exact=True).verdict.startswith("The error is 0.1 at step 10")
    assert bar_of(0.01).verdict.startswith("The error is about 0.1 at step 10")


def test_a_shadow_that_met_what_is_not_finite_is_said_to_end_there():
    """Trusted as far as it went; the same of a neighbour that is shorter."""
    bar = bar_of(0.01, failed_at=10)
    assert bar.trusted.all() and "before step 10: there one of both met a number" in bar.verdict
    shorter = np.where(np.arange(10) < 8, 0.01, np.nan)
    bar = bar_of(shorter, np.isfinite(shorter))
    assert bar.trusted[:9].all() and not bar.trusted[9:].any()
    assert "before step 9: there one of both met a number" in bar.verdict


@pytest.mark.parametrize("flow", [False, True])
def test_rounding_adds_up_at_random_in_an_iteration_and_alike_in_a_flow(flow):
    """In units of eps · |θ|, at step n: .3 √n and .25 n; in the max-norm of the largest."""
    steps, place = np.arange(1, 5), np.array([3.0, 4.0])
    two, most = rounding_of(place, steps, flow)
    unit = np.finfo(float).eps * (0.25 * steps if flow else 0.3 * np.sqrt(steps))
    np.testing.assert_allclose(two, 5 * unit, rtol=1e-12)
    np.testing.assert_allclose(most, 4 * unit, rtol=1e-12)


@pytest.mark.parametrize(("method", "nodes"), [("collocation", 3.0), ("displaced", None)])
def test_the_spacing_is_that_of_the_nodes_where_there_are_some(monkeypatch, method, nodes):
    asked = []

    def planned(run, **options):
        asked.append(options)
        raise InterruptedError

    monkeypatch.setattr(module, "planned", planned)
    with pytest.raises(InterruptedError):
        sf.error_bar(QUADRATIC, MOMENTUM, X, 1e-2, 9, order=2, method=method, spacing=3.0)
    assert [options["spacing"] for options in asked] == [nodes]


def test_two_lower_orders_extrapolate_to_the_highest():
    """With distances e₃ and e₂ of the orders below: the next is e₃²/e₂."""
    bar, _ = both(4, "inertial", "flow", rate=0.05, steps=20)
    run = QUADRATIC, MOMENTUM, X, 0.05, 20
    four, three, two = (
        sf.shadow(*run, method="inertial", order=order, check=False) for order in (4, 3, 2)
    )
    near, far = (sf.compare(*pair).two_norm[2:] for pair in ((four, three), (three, two)))
    np.testing.assert_allclose(bar.two_norm[2:], near**2 / far + bar.rounding[2:], rtol=1e-6)


@pytest.mark.slow
def test_over_a_table_most_trusted_bars_are_right_and_few_too_small():
    """A neighbour of lower order, as a bar, would be right about far fewer of order 2."""
    table = bars.cases(
        ["waves"], ["momentum .9", "adam .9 .95", "adam .9 .999"], [1e-4, 1e-3], ["float64"]
    )
    rows = bars.measured(table)
    trusted = [row for row in rows if row["trusted"]]
    found = bars.summary(trusted)
    assert len(trusted) > len(rows) / 2 and found["within"] >= 0.8 and found["small"] <= 0.05
    wrong = [row | {"estimate": row["moved"] * 0.01} for row in trusted]
    assert bars.summary(wrong)["within"] < 0.5


def test_ratio_counts_an_error_below_rounding_as_rounding():
    row = {"estimate": 2e-7, "error": 0.0, "rounding": 1e-7}
    assert bars.ratio(row) == pytest.approx(2)
