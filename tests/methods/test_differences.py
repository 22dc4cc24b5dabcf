"""The iteration from differences of the run's own gradients: weights, cost, schedules, starts."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.records import ratios
from support.refusals import refused
from table import BILINEAR, BILINEAR_START, PLACE, ROWS, SMOOTH, smooth_loss

from shadowflow.fields import memoryless_step
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem
from shadowflow.shadow import shadow

RATE = 0.01
SURFACE = oracles.landscape(smooth_loss)


def follow(row, steps, **options):
    return shadow(
        SMOOTH, ROWS[row](), PLACE, RATE, steps, method="differences", **options, check=False
    )


def by_hand(row, steps, rates=lambda n: RATE, ages=0):
    """The iteration age by age: m_i = Σ_k w_k ψ_i(g + time_k (g_{n−1} − g_n)/h_{n−1}).

    ``ages``: a wrong variant, whose memory is so many steps older than the run.
    """
    formula = oracles.formula(row, ROWS[row].options)
    x, last, path = np.asarray(PLACE), None, [np.asarray(PLACE)]
    for n in range(steps):
        g = SURFACE.gradient(x)
        slope = np.zeros_like(g) if last is None else (last - g) / rates(n - 1)
        moments = []
        for decay, psi, _, corrected in formula.moments:
            share = oracles.weights(decay, n + ages, corrected)
            times = [sum(rates(max(l, 0)) for l in range(k, n)) for k in range(-ages, n + 1)]
            moments.append(sum(w * psi(g + t * slope) for w, t in zip(share, times, strict=True)))
        x, last = x - rates(n) * formula.combine(moments, x, n), g
        path.append(x)
    return np.array(path)


@pytest.mark.parametrize("row", [row for row in ROWS if row != "sgd"])
def test_every_step_is_the_sum_over_ages(row):
    """The weights themselves, transient included: no order test would see them wrong."""
    found, expected = follow(row, 9).params, by_hand(row, 9)
    np.testing.assert_allclose(np.diff(found, axis=0), np.diff(expected, axis=0), rtol=1e-10)
    settled = by_hand(row, 9, ages=30)
    assert np.abs(settled - expected).max() > 1e-6, "the weights of another step are seen"


def test_adam_s_closed_form():
    """m = g + μ(β)(g_{n−1} − g_n), ν = g² + 2 μ(ρ) g (g_{n−1} − g_n) + μ₂(ρ)(g_{n−1} − g_n)²."""
    b1, b2, n = 0.5, 0.7, 6
    run = shadow(
        SMOOTH,
        zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=0.1),
        PLACE,
        RATE,
        n + 1,
        method="differences",
        check=False,
    )
    g, last = (SURFACE.gradient(run.params[k]) for k in (n, n - 1))
    mean = lambda b, p: sum(oracles.weights(b, n, True)[n - a] * a**p for a in range(n + 1))
    m = g + mean(b1, 1) * (last - g)
    nu = g**2 + 2 * mean(b2, 1) * g * (last - g) + mean(b2, 2) * (last - g) ** 2
    step = run.params[n + 1] - run.params[n]
    np.testing.assert_allclose(step, -RATE * m / np.sqrt(nu + 0.1), rtol=1e-10)


def test_it_follows_schedules_by_itself():
    rates = lambda n: RATE * (1.5 if n % 5 < 2 else 0.5)
    run = shadow(SMOOTH, ROWS["adam-both"](), PLACE, rates, 9, method="differences", check=False)
    np.testing.assert_allclose(run.params, by_hand("adam-both", 9, rates), rtol=1e-11)


def wave(rate):
    return lambda step: rate * (1 + 0.5 * np.cos(7 * rate * step))


def jump(rate):
    return lambda step: rate if rate * step < 0.2 else rate / 4


def warm(rate):
    """From 0 on: the first step does not move, and has no difference to offer."""
    return lambda step: rate * min(1.0, 5 * rate * step)


def alternate(rate):
    return lambda step: rate * (1.5 if step % 2 else 0.5)


def slope(schedule):
    errors = []
    for count in (256, 512, 1024, 2048):
        rate = schedule(0.5 / count)
        real = iterate(BILINEAR, ROWS["adam-inside"](), BILINEAR_START, rate, count)
        run = shadow(
            BILINEAR,
            ROWS["adam-inside"](),
            BILINEAR_START,
            rate,
            count,
            method="differences",
            check=False,
        )
        errors.append(float(np.abs(run.params - real.params).max()))
    return float(np.log2(errors[0] / errors[-1]) / 3)


@pytest.mark.parametrize("schedule", [wave, jump, warm, alternate])
def test_schedules_keep_the_second_order(schedule):
    """Even one that alternates: the difference is divided by the rate of its own step."""
    assert abs(slope(schedule) - 2) < 0.15


def test_counting_steps_instead_of_time_costs_an_order_where_the_rate_alternates():
    """Negative control: the difference itself, taken for that of every past step."""
    b1, b2, eps_root = 0.5, 0.7, 0.1
    errors, gradient = [], jax.jit(jax.grad(BILINEAR.loss))
    for count in (64, 128, 256, 512):
        rate = alternate(0.5 / count)
        optimizer = zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=eps_root)
        real = iterate(BILINEAR, optimizer, BILINEAR_START, rate, count).params
        x, last, worst = np.asarray(BILINEAR_START), None, 0.0
        for n in range(count):
            g = np.asarray(gradient(x))
            d = np.zeros(2) if last is None else last - g
            ages = np.arange(n, -1.0, -1.0)
            mean = lambda b, p, n=n, ages=ages: oracles.weights(b, n, True) @ ages**p
            m = g + mean(b1, 1) * d
            nu = g**2 + 2 * mean(b2, 1) * g * d + mean(b2, 2) * d**2
            x, last = x - rate(n) * m / np.sqrt(nu + eps_root), g
            worst = max(worst, float(np.abs(x - real[n + 1]).max()))
        errors.append(worst)
    assert np.log2(errors[0] / errors[-1]) / 3 < 1.3, errors


class Counting:
    def __init__(self):
        self.calls = 0

    def __call__(self, x):
        self.calls += 1
        return jax.grad(smooth_loss)(x)


def test_one_gradient_a_step():
    counting = Counting()
    host = Problem(grad=counting, traceable=False)
    run = shadow(host, ROWS["adam-both"](), PLACE, RATE, 7, method="differences", check=False)
    assert counting.calls == 7 + 2, "and two before the first"
    np.testing.assert_allclose(run.params, follow("adam-both", 7).params, rtol=1e-12)


def test_within_a_run_it_begins_with_a_real_difference():
    errors = []
    for count in (256, 1024):
        rate = 0.5 / count
        optimizer = ROWS["adam-inside"]()
        before = iterate(BILINEAR, optimizer, BILINEAR_START, rate, 20)
        after = iterate(BILINEAR, optimizer, before.last, rate, count, start=before.state)
        run = shadow(
            BILINEAR,
            optimizer,
            before.last,
            rate,
            count,
            method="differences",
            start=20,
            check=False,
        )
        errors.append(float(np.abs(run.params - after.params).max()))
    assert errors[0] / errors[1] > 13


def test_validity_and_first_order():
    second, first = follow("adam-both", 20), follow("adam-both", 20, order=1)
    assert second.validity.level in ("holds", "partly")
    plain = shadow(SMOOTH, ROWS["adam-both"](), PLACE, RATE, 20, kind="iteration", order=1)
    np.testing.assert_allclose(first.params, plain.params, rtol=1e-13)
    assert np.abs(first.params - second.params).max() > 1e-4
    run = SMOOTH, ROWS["adam-both"](), PLACE, RATE, 20
    near, found = (ratios(*run, kind="iteration", method=m) for m in ("displaced", "differences"))
    np.testing.assert_allclose(found[2:], near[2:], rtol=0.3)


def test_it_is_no_field_and_no_flow():
    refused(
        lambda: memoryless_step(SMOOTH, zoo.adam(), RATE, method="differences"),
        "method:",
        "shadow(…, method='differences')",
    )
    refused(lambda: follow("adam-both", 3, kind="flow"), "kind (method 'differences'):")


def test_a_nan_is_met_at_its_step():
    problem = Problem(lambda x: jnp.where(x[0] < 0.87, jnp.nan, smooth_loss(x)))
    run = shadow(problem, ROWS["adam-both"](), PLACE, RATE, 50, method="differences", check=False)
    assert run.failed_at == run.steps[-1] and np.all(np.isfinite(run.params))
