"""Optax transformations as they are: run, and followed by walking backwards along the path."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.optax_problem import ADAM, BILINEAR, BOWL, OPTIONS, PLACE, X, bowl, clipped

import shadowflow as sf
from shadowflow.optimizers.memory_probe import NeverSettles, mean_age, settling

CENTRES = sf.Problem(lambda x, c: 0.5 * jnp.sum((x - c) ** 2), batches=jnp.arange(3.0))
pytestmark = pytest.mark.usefixtures("promotion_as_optax_needs_it")


def test_it_takes_the_steps_of_optax():
    """Clipping by the global norm, which is not pointwise, and a schedule."""
    schedule = lambda step: 0.1 / (1 + step)
    run = sf.iterate(BOWL, sf.from_optax(clipped), PLACE, schedule, 5)
    tx, params = clipped(lambda count: 0.1 / (1 + count)), PLACE
    state = tx.init(params)
    for n in range(5):
        updates, state = tx.update(jax.grad(bowl)(params), state, params)
        params = optax.apply_updates(params, updates)
        for name, leaf in params.items():
            np.testing.assert_allclose(run.params[name][n + 1], leaf, rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_it_agrees_with_the_moments_to_rounding(order):
    """At the same nodes both average the same polynomial, one by quadrature, one by running it."""
    for kind in (sf.modified_field, sf.memoryless_step):
        options = {"method": "collocation", "order": order, "spacing": 3}
        walked = kind(BILINEAR, ADAM, 1e-3, **options)("settled", X)
        averaged = kind(BILINEAR, sf.adam(**OPTIONS), 1e-3, **options)("settled", X)
        np.testing.assert_allclose(walked, averaged, rtol=1e-11)
        assert order == 1 or not np.array_equal(walked, averaged), "two paths round differently"
    lower = sf.modified_field(
        BILINEAR, ADAM, 1e-3, method="collocation", order=order + 1, spacing=3
    )("settled", X)
    assert not np.allclose(lower, walked, rtol=1e-11)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "make", "order"),
    [
        ("adam", functools.partial(optax.adam, **OPTIONS), 3),
        ("clip + adam", clipped, 2),
        ("muon", functools.partial(optax.contrib.muon, beta=0.5, adam_b1=0.5, adam_b2=0.7), 2),
        ("lamb", functools.partial(optax.lamb, b1=0.5, b2=0.7, weight_decay=1e-2), 2),
        ("adan", functools.partial(optax.adan, b1=0.5, b2=0.6, b3=0.7), 2),
    ],
)
def test_the_order_is_what_is_declared(name, make, order):
    """And one order less fails by one: no test that any path passes."""
    rates = [0.2 * 2.0**-k for k in (6, 7, 8, 9)]
    for asked in (order - 1, order):
        (row,) = sf.convergence(
            BOWL,
            sf.from_optax(make),
            PLACE,
            0.2,
            rates,
            start="settled",
            methods=["collocation"],
            orders=[asked],
            kinds=["iteration"],
        )
        assert row.slope == pytest.approx(asked, abs=0.2), name


def test_the_flow_is_followed_from_a_settled_start():
    state = sf.settled_state(BILINEAR, ADAM, X, 1e-3, order=2)
    moments = sf.settled_state(BILINEAR, sf.adam(**OPTIONS), X, 1e-3, order=2, spacing=3)
    inner = state.moments[0][0]
    np.testing.assert_allclose(inner.mu, moments.moments[0], rtol=1e-5)
    assert math.isinf(float(state.step))
    real = sf.iterate(BILINEAR, ADAM, X, 1e-3, 20, start=state)
    errors = [
        sf.compare(
            real,
            sf.shadow(
                BILINEAR,
                ADAM,
                X,
                1e-3,
                20,
                method="collocation",
                order=order,
                start="settled",
                check=False,
            ),
        ).max_norm[-1]
        for order in (1, 2)
    ]
    assert errors[1] < errors[0] / 50


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_settling_length_is_that_of_the_longest_memory(decay):
    """decay^n = rounding; a stateless one needs none, and a sign does not hide a memory."""
    expected = math.log(np.finfo(float).eps) / math.log(decay)
    assert settling(sf.from_optax(functools.partial(optax.sgd, momentum=decay)), X) == (
        pytest.approx(expected, rel=0.35)
    )
    assert settling(sf.from_optax(functools.partial(optax.lion, b1=0.1, b2=decay)), X) == (
        pytest.approx(expected, rel=0.35)
    )
    assert settling(sf.from_optax(optax.sgd), X) == 0


@pytest.mark.parametrize("make", [optax.adagrad, optax.amsgrad])
def test_what_never_forgets_is_refused(make):
    with pytest.raises(NeverSettles, match=f"forgets how its state began, got {make.__name__}"):
        sf.modified_field(BILINEAR, sf.from_optax(make), 1e-3, method="collocation")("settled", X)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sf.from_optax(lambda rate: rate), "make: expected a function of the learning"),
        (lambda: sf.from_optax(0.1), "make"),
        (
            lambda: sf.shadow(BILINEAR, ADAM, X, 1e-3, 3, method="linearized", check=False),
            r"method: expected one of .*'collocation', 'inertial'\]",
        ),
        (
            lambda: sf.shadow(CENTRES, ADAM, X, 1e-3, 3, method="taylor", check=False),
            r"method: expected one of \['displaced'\] for the optax transformation adam on mini",
        ),
        (lambda: sf.from_optax(optax.lbfgs), "make: expected a transformation that asks .* lbfgs"),
        (lambda: sf.state_from_optax(ADAM, optax.sgd(0.1).init(X), X, 3), "opt_state: expected"),
        (
            lambda: sf.shadow(BILINEAR, ADAM, X, 1e-3, 3, method="collocation", check=False),
            "start: expected",
        ),
        (
            lambda: sf.shadow(
                BILINEAR,
                ADAM,
                X,
                1e-3,
                3,
                method="collocation",
                start="settled",
                spacing=1.5,
                check=False,
            ),
            "spacing: expected whole steps",
        ),
        (
            lambda: sf.shadow(
                BILINEAR,
                ADAM,
                X,
                1e-3,
                3,
                method="collocation",
                start="settled",
                order="auto",
                check=False,
            ),
            "order: expected a number",
        ),
        (
            lambda: sf.shadow(BILINEAR, ADAM, X, 1e-3, 3, curvature=1.0, check=False),
            "optimizer: expected one with moments, from whose decays",
        ),
        (lambda: sf.derive(ADAM), "optimizer: expected a shadowflow.Optimizer, got Transformation"),
    ],
)
def test_what_it_cannot_have_is_refused(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_the_spacing_is_the_mean_age():
    for decay in (0.8, 0.9, 0.99):
        length = math.ceil(1.125 * math.log(np.finfo(float).eps) / math.log(decay))
        assert mean_age(length, X) == pytest.approx(decay / (1 - decay), rel=0.3)
