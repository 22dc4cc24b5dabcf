"""Optax transformations whose state is averages, followed with their state kept."""

import functools

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.optax_problem import BILINEAR, BOWL, OPTIONS, PLACE, X, clipped

import shadowflow as sf
from shadowflow.optimizers.ema_probe import averages

PART = functools.partial
ADAM = sf.from_optax(PART(optax.adam, **OPTIONS))


pytestmark = pytest.mark.usefixtures("promotion_as_optax_needs_it")


def distances(make, counts, *, cold, order=2):
    optimizer, errors = sf.from_optax(make), []
    for count in counts:
        rate, begun = 0.2 / count, 0
        if not cold:
            begun = sf.settled_state(BOWL, optimizer, PLACE, rate, order=order)
        run = sf.iterate(BOWL, optimizer, PLACE, rate, count, start=begun)
        follow = sf.shadow(
            BOWL,
            optimizer,
            PLACE,
            rate,
            count,
            method="inertial",
            order=order,
            start=begun,
            check=False,
        )
        errors.append(sf.compare(run, follow).max_norm.max())
    return errors


CASES = {
    "rmsprop": PART(optax.rmsprop, decay=0.7, eps=0.1),
    "adam": PART(optax.adam, b1=0.5, b2=0.7),
    "momentum": PART(optax.sgd, momentum=0.6),
    "nesterov": PART(optax.sgd, momentum=0.6, nesterov=True),
    "adamw": PART(optax.adamw, b1=0.5, b2=0.7, weight_decay=0.1),
    "nadam": PART(optax.nadam, b1=0.5, b2=0.7),
    "lion": PART(optax.lion, b1=0.5, b2=0.7),
    "clip + adam": clipped,
    "lamb": PART(optax.lamb, b1=0.5, b2=0.7),
    "muon": PART(optax.contrib.muon, beta=0.5, adam_b1=0.5, adam_b2=0.7),
    "sgd": optax.sgd,
}


@pytest.mark.parametrize("cold", [True, False])
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name == "rmsprop" else [pytest.mark.slow]) for name in CASES],
)
def test_the_order_is_two_from_any_start(name, cold):
    """Where a sign decides and does not change, the flow is the optimizer to rounding."""
    errors = distances(CASES[name], (128, 256), cold=cold)
    if name == "lion":
        assert max(errors) < 1e-13
        return
    assert 1.85 < np.log2(errors[0] / errors[1]) < 2.15, errors


@pytest.mark.slow
def test_a_settled_start_has_the_higher_orders_too():
    for order in (3, 4):
        errors = distances(CASES["momentum"], (64, 128), cold=False, order=order)
        assert abs(np.log2(errors[0] / errors[1]) - order) < 0.25, errors


def test_it_is_the_inertial_flow_of_the_moments():
    """Two readings of the same averages; of order 2 they differ at that order, by the correction
    that one divides by and the other feeds as a count."""
    own, gaps = sf.adam(**OPTIONS), {}
    for order, rates in ((2, (4e-3, 2e-3)), (4, (4e-3,))):
        gaps[order] = [
            np.abs(
                sf.shadow(
                    BILINEAR, ADAM, X, rate, 12, method="inertial", order=order, check=False
                ).params
                - sf.shadow(
                    BILINEAR, own, X, rate, 12, method="inertial", order=order, check=False
                ).params
            ).max()
            for rate in rates
        ]
    assert gaps[2][0] / gaps[2][1] > 3.5
    assert gaps[4][0] < 1e-12 < gaps[2][1]


def test_the_averages_are_found_by_probing():
    made = averages(sf.from_optax(PART(optax.adam, b1=0.9, b2=0.999)), PLACE)
    assert [float(moment.decay) for moment in made.moments] == pytest.approx([0.9, 0.999, 0])
    assert [len(where) for where in made.places] == [2, 2]
    grad = {"w": jnp.full((2, 2), 2.0), "b": jnp.full(2, -3.0)}
    mu, nu, same = made.transformed(grad)
    np.testing.assert_allclose(mu[0], grad["b"])
    np.testing.assert_allclose(nu[1], grad["w"] ** 2, rtol=1e-12)
    assert same is grad
    trace = averages(sf.from_optax(PART(optax.sgd, momentum=0.9)), PLACE)
    np.testing.assert_allclose(trace.transformed(grad)[0][0], grad["b"] / (1 - 0.9))


def test_a_flow_goes_on_and_the_run_goes_on_from_it():
    whole = sf.shadow(BILINEAR, ADAM, X, 1e-3, 12, method="inertial", check=False)
    first = sf.shadow(BILINEAR, ADAM, X, 1e-3, 5, method="inertial", check=False)
    rest = sf.shadow(
        BILINEAR, ADAM, first.last, 1e-3, 7, method="inertial", start=first.state, check=False
    )
    np.testing.assert_allclose(rest.params, whole.params[5:], rtol=1e-9)
    count = first.state.moments[0][0].count
    assert int(count) == 5 and jnp.issubdtype(count.dtype, jnp.integer)
    ahead = sf.iterate(BILINEAR, ADAM, first.last, 1e-3, 7, start=first.state)
    assert np.abs(ahead.params - whole.params[5:]).max() < 1e-3


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (optax.adagrad, r"adagrad, whose state leaf \[0\].sum_of_squares.* keeps 1 of itself"),
        (optax.adamax, r"adamax, whose state leaf \[0\].nu.* is no average"),
        (optax.amsgrad, r"amsgrad, whose state leaf \[0\].nu_max.* is no average"),
        (optax.adabelief, r"adabelief, whose state leaf \[0\].nu.* is no average"),
        (lambda rate: optax.chain(optax.adam(rate), optax.clip(1e-3)), "proportional to the"),
        (
            lambda rate: optax.chain(optax.add_noise(0.1, 0.5, 1), optax.sgd(rate, momentum=0.9)),
            "rng_key is neither an average nor a count",
        ),
    ],
)
def test_what_is_no_average_is_refused_by_its_name(make, words):
    with pytest.raises(ValueError, match=words):
        sf.shadow(BOWL, sf.from_optax(make), PLACE, 1e-3, 2, method="inertial", check=False)


def test_moments_of_a_transformation_are_not_eliminated_one_by_one():
    with pytest.raises(ValueError, match="keep: expected None for the optax transformation adam"):
        sf.shadow(BILINEAR, ADAM, X, 1e-3, 2, method="inertial", keep=(0,), check=False)
