"""A shadow's own error bar against the real error."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import shadowflow as sf
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
    ("order", "method", "kind", "start"),
    [(1, "taylor", "flow", 0), (2, "inertial", "flow", 0), (2, "collocation", "flow", "settled")],
)
def test_where_the_state_is_known_the_bar_is_the_error(order, method, kind, start):
    """In both norms, at every step."""
    bar, gap = both(order, method, kind, start=start)
    for norm in ("two_norm", "max_norm"):
        np.testing.assert_allclose(getattr(bar, norm), getattr(gap, norm), rtol=1e-12)
    assert np.all(bar.trusted) and "The error is " in bar.verdict
    assert bar.source == "the optimizer's own run"


BEFORE = 30


def from_within(optimizer, rate, method="displaced", order=2, before=BEFORE, steps=60):
    """(bar without the state after ``before`` steps, real distance, what was estimated)."""
    run = sf.iterate(QUADRATIC, optimizer, X, rate, before)
    args = QUADRATIC, optimizer, jnp.asarray(run.last), rate, steps
    bar = sf.error_bar(*args, start=before, method=method, order=order)
    return bar, sf.compare(sf.iterate(*args, start=run.state), bar.follow)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("optimizer", [MOMENTUM, sf.adam(b1=0.5, b2=0.7, eps=0.1)])
def test_without_the_state_a_smooth_past_says_how_far(optimizer, order):
    """Of first order within a factor; of second, whose own error is that of the past, no less."""
    bar, gap = from_within(optimizer, 1e-2, order=order)
    ratio = bar.two_norm[5:] / gap.two_norm[5:]
    assert np.all(ratio > 1 / 3) and (order > 1 or np.all(ratio < 3))
    assert np.all(bar.trusted) and "is about" in bar.verdict
    assert bar.source == "the optimizer's run after a smooth past"


def test_past_the_flow_edge_no_past_is_smooth():
    """Past the flow edge momentum oscillates: its state is not told by where it is."""
    bar, _ = from_within(sf.momentum(decay=0.9), 0.3, order=1)
    assert not bar.trusted[1] and "past the flow edge 0.0026" in bar.verdict
    assert "pass start=state" in bar.verdict
    run = sf.iterate(QUADRATIC, sf.momentum(decay=0.9), X, 0.3, BEFORE)
    args = QUADRATIC, sf.momentum(decay=0.9), jnp.asarray(run.last), 0.3, 60
    assert sf.error_bar(*args, order=1, start=run.state).trusted.all()


def test_an_exact_shadow_has_no_more_than_rounding():
    bar, gap = both(2, "taylor", "iteration", optimizer=sf.sgd())
    assert gap.two_norm[-1] < 1e-14 and bar.two_norm[-1] < 3e-15
    assert "no larger than rounding" in bar.verdict


def test_of_batches_from_an_unknown_state_nothing_is_said():
    bar = sf.error_bar(MIXED, MOMENTUM, jnp.array([1.0, 0.5]), 1e-3, 5, start=9)
    assert not bar.trusted[1:].any() and "pass start=state" in bar.verdict


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
    assert rounded / 3 < bar.rounding[-1] < 3 * rounded
    assert "no larger than rounding" in bar.verdict


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
    assert bar.source == "the optimizer's own run" and "The error is " in bar.verdict


def test_a_shadow_that_was_run_is_taken():
    run = QUADRATIC, MOMENTUM, X, 1e-2, 20
    follow = sf.shadow(*run, method="taylor", check=False)
    bar = sf.error_bar(*run, method="taylor", follow=follow)
    assert bar.follow is follow
    np.testing.assert_array_equal(bar.two_norm, sf.error_bar(*run, method="taylor").two_norm)


def test_where_a_run_is_no_longer_finite_the_bar_ends_and_tells_the_last_distance_as_it_is():
    quartic = sf.Problem(lambda x: jnp.sum(x**4))
    run = quartic, sf.sgd(), jnp.asarray([10.0]), 1.0, 20
    bar = sf.error_bar(*run, kind="iteration", order=1)
    known = bar.follow.steps[-1]
    assert bar.verdict.endswith(
        "beyond it is not known, as there one of both met a number that is not finite."
    )
    assert f"The error is 0 at step {known}" in bar.verdict  # of sgd first order is the optimizer
    at_once = sf.error_bar(*run[:2], jnp.asarray([1e200]), 1.0, 20)
    assert at_once.verdict.startswith("Nothing can be said of the error from step 0 on: ")


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


def test_where_the_past_matters_it_is_not_trusted_however_near():
    bar = bar_of(1e-3, np.arange(10) < 6)
    assert bar.trusted[:7].all() and not bar.trusted[7:].any()
    assert "it has left itself" in bar.verdict


def test_what_is_of_rounding_size_is_trusted_whatever_its_share():
    assert bar_of(0.5, rounding=WAY).trusted.all()


def test_the_optimizer_s_own_run_is_trusted_and_called_exact():
    bar = bar_of(0.5, exact=True)
    assert bar.trusted.all() and bar.verdict.startswith("The error is 5 at step 10")
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
    path = sf.Trajectory(np.arange(5), np.arange(5.0), np.tile(place, (5, 1)), None, None)
    two, most = rounding_of(path, steps, flow)
    unit = np.finfo(float).eps * (0.25 * steps if flow else 0.3 * np.sqrt(steps))
    np.testing.assert_allclose(two, 5 * unit, rtol=1e-12)
    np.testing.assert_allclose(most, 4 * unit, rtol=1e-12)


def test_rounding_goes_by_the_mean_size_of_the_parameters_so_far():
    """Also between the steps that were saved: at step 3, of those at 0 and 2."""
    places = np.array([[1.0], [8.0], [3.0], [16.0]])
    path = sf.Trajectory(np.array([0, 2, 4, 5]), np.zeros(4), places, None, None)
    two, _ = rounding_of(path, np.array([1, 3, 4, 5]), True)
    unit = np.finfo(float).eps * 0.25
    np.testing.assert_allclose(two, unit * np.array([1, 3 * 4.5, 4 * 4, 5 * 7]), rtol=1e-12)


@pytest.mark.parametrize(("method", "nodes"), [("collocation", 3.0), ("displaced", None)])
def test_spacing_belongs_to_a_method_with_nodes(method, nodes):
    args = {"order": 2, "method": method, "start": "settled", "spacing": 3.0}
    if nodes is None:
        with pytest.raises(ValueError, match="spacing: expected None"):
            sf.error_bar(QUADRATIC, MOMENTUM, X, 1e-2, 9, **args)
    else:
        assert sf.error_bar(QUADRATIC, MOMENTUM, X, 1e-2, 9, **args).trusted.all()
