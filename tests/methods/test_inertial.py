"""The inertial flow against its equations solved by other means, and where it is exact."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.integrate import solve_ivp
from support.rows import fast
from table import BILINEAR, BILINEAR_START, REPRESENTATIVE, ROWS, bilinear_loss

from shadowflow.iterate import iterate
from shadowflow.methods.inertial import half_phase
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow

RATE, STEPS = 0.01, 30
SURFACE = oracles.landscape(bilinear_loss)


def gap(one, other) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


def order(errors) -> float:
    """The mean order over halvings of the learning rate."""
    return float(np.log2(errors[0] / errors[-1]) / (len(errors) - 1))


def risen(formula, s, moments, g, theta):
    """L G at s with the gradient held, as G(∞) − Σ_{j≥1} G'(s+j), by differences over 400 steps."""

    def at(times):
        read = []
        for (b, psi, _, corrected), m in zip(formula.moments, moments, strict=True):
            value = (
                psi(g) + (m - psi(g)) * b ** times[:, None] if b else psi(g) + 0 * times[:, None]
            )
            read.append(value / (1 - b ** (s + times[:, None])) if corrected and b else value)
        return formula.combine(read, theta, s + times[:, None] - 1)

    times, small = np.arange(1.0, 401), 1e-4
    slopes = (at(times + small) - at(times - small)) / (2 * small)
    return at(np.full(1, 1e6))[0] - slopes.sum(axis=0)


def equations(formula, displaced=0.5):
    """(s, step number, y) → dy/ds of the published equations, y = (θ, m_1, …, m_I)."""
    decays = [moment[0] for moment in formula.moments]
    speeds = [-np.log(b) if b else 0.0 for b in decays]
    cold = None if all(c or not b for b, _, _, c in formula.moments) else True
    share = [b * a / (1 - b) for b, a in zip(decays, speeds, strict=True)]  # β^{½} κ

    def field(s, n, y):
        theta, *moments = np.split(y, len(decays) + 1)

        def direction(x):
            g = SURFACE.gradient(x)
            read = []
            for (b, psi, _, corrected), m, w in zip(formula.moments, moments, share, strict=True):
                mixed = psi(g) + (m - psi(g)) * w
                read.append(mixed / (1 - b**s * w) if corrected and b else mixed)
            return formula.combine(read, x, n), g

        here, g = direction(theta)
        extra = 0.0 if cold is None else risen(formula, s, moments, g, theta) - here
        there = theta + RATE * displaced * (here + extra)
        move, g = direction(there)
        move = move + extra
        pulls = [
            -a * (m - psi(g))
            for a, m, (_, psi, _, _) in zip(speeds, moments, formula.moments, strict=True)
        ]
        return np.concatenate([-RATE * move, *pulls])

    return field


def solved(formula, displaced=0.5):
    """θ after each step, from a cold start; the solver restarts where the step number changes."""
    field = equations(formula, displaced)
    y = np.concatenate([BILINEAR_START, *[np.zeros(2)] * len(formula.moments)])
    path = [y[:2]]
    for n in range(STEPS):
        piece = lambda s, y, n=n: field(s, n, y)
        done = solve_ivp(piece, (n, n + 1), y, method="DOP853", rtol=1e-11, atol=1e-12)
        y = done.y[:, -1]
        path.append(y[:2])
    return np.stack(path)


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_every_optimizer_follows_the_published_equations(row):
    """Their solution is met ten times closer than they meet the iterates, and the half step
    matters."""
    formula = oracles.formula(row, ROWS[row].options)
    follow = shadow(BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS, method="inertial")
    run = iterate(BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS)
    solver = gap(follow.params, solved(formula))
    assert 0 < solver < gap(run.params, follow.params) / 10
    assert gap(follow.params, solved(formula, displaced=0.0)) > max(20 * solver, 1e-5)


@pytest.mark.parametrize("decay", [0.05, 0.5, 0.9, 0.999, 1 - 1e-9])
def test_the_phase_makes_the_mean_over_a_step_the_value_after_it(decay):
    """β^{½} κ = β ln(1/β) / (1 − β): with it ∫₀¹ β^s ds · β^{½} κ = β."""
    share = np.sqrt(decay) * float(half_phase(jnp.asarray(decay)))
    integral = (1 - decay) / -np.log(decay)
    np.testing.assert_allclose(share * integral, decay, rtol=1e-7)


def test_without_memory_the_phase_is_one():
    assert float(half_phase(jnp.asarray(0.0))) == 1.0
    assert abs(float(half_phase(jnp.asarray(0.5))) - 1) > 1e-3


SLOPE = jnp.asarray([3.0, -0.2])
TILTED = Problem(lambda x: SLOPE @ x)


@pytest.mark.parametrize("row", ["adam-both", "rmsprop-corrected", "momentum-corrected"])
def test_under_a_constant_gradient_a_corrected_optimizer_is_followed_exactly(row):
    run = iterate(TILTED, ROWS[row](), BILINEAR_START, RATE, STEPS)
    follow = shadow(TILTED, ROWS[row](), BILINEAR_START, RATE, STEPS, method="inertial")
    assert gap(run.params, follow.params) < 1e-14 * STEPS
    for mine, real in zip(follow.state.moments, run.state.moments, strict=True):
        assert (mine is None) == (real is None)
        if real is not None:
            np.testing.assert_allclose(mine, real, rtol=1e-13)


def test_under_a_constant_gradient_the_heavy_ball_gains_speed_as_it_does():
    """Without bias correction too, to a twentieth of what leaving out κ would cost."""
    decay = 0.8
    run = iterate(TILTED, zoo.momentum(decay=decay), BILINEAR_START, RATE, STEPS)
    follow = shadow(
        TILTED, zoo.momentum(decay=decay), BILINEAR_START, RATE, STEPS, method="inertial"
    )
    kappa = float(half_phase(jnp.asarray(decay)))
    without = RATE * 3.0 / (1 - decay) * (1 - kappa) * np.sqrt(decay) / -np.log(decay)
    assert gap(run.params, follow.params) < without / 20
    assert gap(run.params, BILINEAR_START[None]) > 1


@pytest.mark.parametrize("row", ["adam-both", "rmsprop-outside", "lion"])
@pytest.mark.parametrize("power", [1, 2])
def test_the_settled_state_is_that_of_a_long_run_to_its_order(row, power):
    errors = []
    for count in (256, 512, 1024, 2048):
        run = iterate(BILINEAR, ROWS[row](), BILINEAR_START, 0.5 / count, count)
        state = settled_state(BILINEAR, ROWS[row](), run.last, 0.5 / count, order=power)
        assert np.isinf(float(state.step))
        errors.append(
            max(
                gap(mine, real)
                for mine, real in zip(state.moments, run.state.moments, strict=True)
                if real is not None
            )
        )
    assert abs(order(errors) - power) < 0.15, errors


@pytest.mark.parametrize("row", ["adam-both", "momentum"])
def test_a_run_can_go_on_from_its_moments(row):
    """They are the run's to first order only (an average over continuous ages is not the one over
    whole steps), but what is read from them, and where the run then goes, to second."""
    moments, after = [], []
    for count in (128, 256, 512, 1024):
        rate = 0.5 / count
        run = iterate(BILINEAR, ROWS[row](), BILINEAR_START, rate, count)
        follow = shadow(BILINEAR, ROWS[row](), BILINEAR_START, rate, count, method="inertial")
        pairs = zip(follow.state.moments, run.state.moments, strict=True)
        moments.append(max(gap(mine, real) for mine, real in pairs))
        ahead = iterate(BILINEAR, ROWS[row](), run.last, rate, 20, start=run.state)
        mine = iterate(BILINEAR, ROWS[row](), follow.last, rate, 20, start=follow.state)
        assert np.array_equal(mine.steps, count + np.arange(21))
        after.append(gap(ahead.params, mine.params))
    assert abs(order(moments) - 1) < 0.15, moments
    assert abs(order(after) - 2) < 0.15, after


@pytest.mark.parametrize("row", ["adam-both", "nadam"])
def test_a_flow_in_two_parts_is_the_flow(row):
    whole = shadow(BILINEAR, ROWS[row](), BILINEAR_START, RATE, 30, method="inertial")
    first = shadow(BILINEAR, ROWS[row](), BILINEAR_START, RATE, 12, method="inertial")
    rest = shadow(BILINEAR, ROWS[row](), first.last, RATE, 18, method="inertial", start=first.state)
    assert rest.steps[0] == 12
    np.testing.assert_allclose(rest.params, whole.params[12:], rtol=1e-13)
    lost = shadow(BILINEAR, ROWS[row](), first.last, RATE, 18, method="inertial")
    assert gap(lost.params, whole.params[12:]) > 1e-4


def test_gradient_descent_reads_its_gradient_half_a_step_ahead():
    def field(t, x):
        return -SURFACE.gradient(x + RATE / 2 * SURFACE.gradient(x))

    done = solve_ivp(
        field,
        (0, RATE * STEPS),
        BILINEAR_START,
        method="DOP853",
        rtol=1e-12,
        atol=1e-13,
        t_eval=RATE * np.arange(STEPS + 1),
    )
    follow = shadow(BILINEAR, zoo.sgd(), BILINEAR_START, RATE, STEPS, method="inertial")
    np.testing.assert_allclose(follow.params, done.y.T, rtol=1e-8)


def test_at_real_decays_it_is_far_closer_than_any_memoryless_flow():
    adam = zoo.adam(b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)
    run = iterate(BILINEAR, adam, BILINEAR_START, RATE, 200)
    far = {
        method: gap(
            run.params, shadow(BILINEAR, adam, BILINEAR_START, RATE, 200, method=method).params
        )
        for method in ("taylor", "displaced", "linearized", "inertial")
    }
    best = min(error for method, error in far.items() if method != "inertial")
    assert far["inertial"] < best / 20, far


def test_a_schedule_enters_the_step_and_not_the_memory():
    """The averages fade per step, whatever the learning rate: a rate of zero stands still."""
    pause = lambda step: RATE if step != 5 else 0.0
    optimizer = ROWS["adam-both"]()
    follow = shadow(BILINEAR, optimizer, BILINEAR_START, pause, 10, method="inertial")
    run = iterate(BILINEAR, optimizer, BILINEAR_START, pause, 10)
    assert np.array_equal(follow.params[5], follow.params[6])
    assert np.all(follow.params[6] != follow.params[7])
    steady = shadow(BILINEAR, optimizer, BILINEAR_START, RATE, 9, method="inertial")
    assert gap(follow.params[7:], steady.params[6:]) > 1e-6
    assert gap(follow.params, run.params) < gap(follow.params[7:], steady.params[6:])


def test_a_gradient_alone_is_enough():
    """A problem given by its gradient alone is followed to the same places."""
    alone = Problem(grad=jax.grad(bilinear_loss))
    paths = [
        shadow(p, ROWS["adam-both"](), BILINEAR_START, RATE, 10, method="inertial").params
        for p in (alone, BILINEAR)
    ]
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-14)
