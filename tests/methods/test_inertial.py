"""The inertial flow against its equations solved by other means, and where it is exact."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.integrate import solve_ivp
from support.rows import fast
from table import BILINEAR, BILINEAR_START, REPRESENTATIVE, ROWS, bilinear_loss

from shadowflow.iterate import iterate
from shadowflow.methods.inertial_step import half_phase
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


def equations(formula, settled=False):
    """(s, step number, y, θ half a step ago) → dy/ds as published, y = (θ, m_1, …, m_I)."""
    decays = [moment[0] for moment in formula.moments]
    speeds = [-np.log(b) if b else 0.0 for b in decays]
    rising = not settled and any(b and not c for b, _, _, c in formula.moments)
    share = [b * a / (1 - b) for b, a in zip(decays, speeds, strict=True)]  # β^{½} κ

    def field(s, n, y, before):
        moments, g, read = np.split(y, len(decays) + 1)[1:], SURFACE.gradient(before), []
        for (b, psi, _, corrected), m, w in zip(formula.moments, moments, share, strict=True):
            mixed = psi(g) + (m - psi(g)) * w
            read.append(mixed / (1 - b**s * w) if corrected and b and not settled else mixed)
        move = formula.combine(read, before, n)
        if rising:
            move = risen(formula, s, moments, g, before)
        pulls = [
            -a * (m - psi(g))
            for a, m, (_, psi, _, _) in zip(speeds, moments, formula.moments, strict=True)
        ]
        return np.concatenate([-RATE * move, *pulls])

    return field


def solved(formula, y, first, steps, delay=0.5, settled=False):
    """θ after each step, by pieces of ``delay``, in each of which the past is known; before the
    first one the path is its tangent."""
    field = equations(formula, settled)
    slope = field(first, first, y, y[:2])[:2]
    past, path, pieces = (lambda s: y[:2] + (s - first) * slope), [y[:2]], 2 if delay else 1

    for n in range(first, first + steps):
        for s in n + np.arange(pieces) / pieces:
            before = past if delay else None
            piece = lambda s, y, n=n, b=before: field(s, n, y, b(s - delay) if b else y[:2])
            ends = (s, s + 1 / pieces)
            done = solve_ivp(
                piece, ends, y, method="DOP853", rtol=1e-11, atol=1e-12, dense_output=True
            )
            past, y = (lambda s, found=done.sol: found(s)[:2]), done.y[:, -1]
        path.append(y[:2])
    return np.stack(path)


def begun(formula, run):
    """(θ, moments) after the optimizer's own step 0."""
    g = SURFACE.gradient(BILINEAR_START)
    moments = [(1 - b) * psi(g) for b, psi, _, _ in formula.moments]
    return np.concatenate([run.params[1], *moments])


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_every_optimizer_follows_the_published_equations(row):
    """From the optimizer's own first step on their solution is met ten times closer than they meet
    the iterates, and the half step matters. (Three times where Φ reads the step, which jumps.)"""
    formula = oracles.formula(row, ROWS[row].options)
    follow = shadow(
        BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS, method="inertial", check=False
    )
    run = iterate(BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS)
    np.testing.assert_allclose(follow.params[1], run.params[1], rtol=1e-15)
    y = begun(formula, run)
    solver = gap(follow.params[1:], solved(formula, y, 1, STEPS - 1))
    least = 3 if row == "nadam" else 10
    assert 0 < solver < gap(run.params, follow.params) / least
    assert gap(follow.params[1:], solved(formula, y, 1, STEPS - 1, delay=0)) > 6 * solver


def test_a_settled_start_follows_them_without_correction():
    row = "rmsprop-both"
    formula, optimizer = oracles.formula(row, ROWS[row].options), ROWS[row]()
    state = settled_state(BILINEAR, optimizer, BILINEAR_START, RATE)
    follow = shadow(
        BILINEAR,
        optimizer,
        BILINEAR_START,
        RATE,
        STEPS,
        method="inertial",
        start=state,
        check=False,
    )
    run = iterate(BILINEAR, optimizer, BILINEAR_START, RATE, STEPS, start=state)
    y = np.concatenate([BILINEAR_START, np.zeros(2), state.moments[1]])
    solver = gap(follow.params, solved(formula, y, 0, STEPS, settled=True))
    assert 0 < solver < gap(run.params, follow.params) / 10
    assert gap(follow.params, solved(formula, y, 0, STEPS)) > 10 * solver


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
    follow = shadow(
        TILTED, ROWS[row](), BILINEAR_START, RATE, STEPS, method="inertial", check=False
    )
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
        TILTED,
        zoo.momentum(decay=decay),
        BILINEAR_START,
        RATE,
        STEPS,
        method="inertial",
        check=False,
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
        follow = shadow(
            BILINEAR, ROWS[row](), BILINEAR_START, rate, count, method="inertial", check=False
        )
        pairs = zip(follow.state.moments, run.state.moments, strict=True)
        moments.append(max(gap(mine, real) for mine, real in pairs))
        ahead = iterate(BILINEAR, ROWS[row](), run.last, rate, 20, start=run.state)
        mine = iterate(BILINEAR, ROWS[row](), follow.last, rate, 20, start=follow.state)
        assert np.array_equal(mine.steps, count + np.arange(21))
        after.append(gap(ahead.params, mine.params))
    assert abs(order(moments) - 1) < 0.15, moments
    assert abs(order(after) - 2) < 0.15, after


@pytest.mark.parametrize("row", ["adam-both", "nadam"])
def test_a_flow_in_two_parts_is_the_flow_to_one_order_more(row):
    """The gradient half a step back is read anew there: wrong to second order, over one step."""
    apart, lost = [], []
    for count in (32, 64):
        flow = functools.partial(
            shadow,
            BILINEAR,
            ROWS[row](),
            learning_rate=0.5 / count,
            method="inertial",
            check=False,
        )
        half = count // 2
        whole, first = (flow(BILINEAR_START, steps=steps) for steps in (count, half))
        rest = flow(first.last, steps=half, start=first.state)
        assert rest.steps[0] == half
        apart.append(gap(rest.params, whole.params[half:]))
        lost.append(gap(flow(first.last, steps=half).params, whole.params[half:]))
    assert abs(order(apart) - 3) < 0.1, apart
    assert lost[1] > 1e4 * apart[1], lost


def test_at_real_decays_it_is_far_closer_than_any_memoryless_flow():
    adam = zoo.adam(b1=0.9, b2=0.999, eps=0.0, eps_root=1e-8)
    run = iterate(BILINEAR, adam, BILINEAR_START, RATE, 200)
    far = {
        method: gap(
            run.params,
            shadow(BILINEAR, adam, BILINEAR_START, RATE, 200, method=method, check=False).params,
        )
        for method in ("taylor", "displaced", "linearized", "inertial")
    }
    best = min(error for method, error in far.items() if method != "inertial")
    assert far["inertial"] < best / 20, far


def test_a_schedule_enters_the_step_and_not_the_memory():
    """The averages fade per step, whatever the learning rate: a rate of zero stands still."""
    pause = lambda step: RATE if step != 5 else 0.0
    optimizer = ROWS["adam-both"]()
    follow = shadow(BILINEAR, optimizer, BILINEAR_START, pause, 10, method="inertial", check=False)
    run = iterate(BILINEAR, optimizer, BILINEAR_START, pause, 10)
    assert np.array_equal(follow.params[5], follow.params[6])
    assert np.all(follow.params[6] != follow.params[7])
    steady = shadow(BILINEAR, optimizer, BILINEAR_START, RATE, 9, method="inertial", check=False)
    assert gap(follow.params[7:], steady.params[6:]) > 1e-6
    assert gap(follow.params, run.params) < gap(follow.params[7:], steady.params[6:])


def test_a_gradient_is_taken_twice_a_step_and_once_more_where_the_rate_changes():
    """One more at the first step too, unless it is the optimizer's own."""
    rates = [0.0, 1e-2, 1e-2, 1e-2, 2e-2, 2e-2]
    counts = []
    for steps in range(1, len(rates) + 1):
        taken = []
        host = Problem(grad=lambda x, t=taken: t.append(x) or np.asarray(x), traceable=False)
        rate = lambda n: rates[int(n)]
        shadow(host, ROWS["adam-both"](), jnp.ones(2), rate, steps, method="inertial", check=False)
        counts.append(len(taken))
    assert np.diff(counts, prepend=0).tolist() == [1, 1, 3, 2, 3, 2]


@pytest.mark.parametrize(
    ("order", "keep"), [(2, None), (2, ("nu",)), pytest.param(3, None, marks=pytest.mark.slow)]
)
def test_the_first_step_that_moves_is_the_optimizers_own(order, keep):
    """Where eps is small it is sign(g), which half a step on is another where g is near zero."""
    adam, start = zoo.adam(b1=0.9, b2=0.999), jnp.asarray([1e-4, 1.0])
    problem = Problem(lambda x: 0.5 * jnp.sum(x**2))
    for rate in (1e-3, lambda n: 1e-3 if n >= 3 else 0.0):
        run = iterate(problem, adam, start, rate, 5)
        follow = shadow(
            problem, adam, start, rate, 5, method="inertial", order=order, keep=keep, check=False
        )
        own = follow.steps[np.argmax(follow.params[:, 0] != 1e-4)]
        assert own == (4 if callable(rate) else 1)
        np.testing.assert_allclose(follow.params[own], run.params[own], rtol=1e-14)
        assert gap(follow.params[own + 1], run.params[own + 1]) > 1e-9
    begun = iterate(problem, adam, start, lambda n: 0.0, 1).state  # as if the memory were not fresh
    later = shadow(
        problem,
        adam,
        start,
        1e-3,
        1,
        method="inertial",
        order=order,
        keep=keep,
        start=begun,
        check=False,
    )
    run = iterate(problem, adam, start, 1e-3, 1, start=begun)
    assert gap(later.params, run.params) > 1e-4


def test_a_gradient_alone_is_enough():
    """A problem given by its gradient alone is followed to the same places."""
    alone = Problem(grad=jax.grad(bilinear_loss))
    paths = [
        shadow(
            p, ROWS["adam-both"](), BILINEAR_START, RATE, 10, method="inertial", check=False
        ).params
        for p in (alone, BILINEAR)
    ]
    np.testing.assert_allclose(paths[0], paths[1], rtol=1e-14)
