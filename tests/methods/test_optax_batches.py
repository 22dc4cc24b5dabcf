"""Optax transformations on mini-batches: against moments, against their runs, by their orders."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.batch_problem import DATA, PROBLEM, batch_loss
from table import PLACE

import shadowflow as sf
from shadowflow import batching, ema_weights
from shadowflow.methods.batched_replay import BatchedReplay

OPTIONS = {"b1": 0.5, "b2": 0.7, "eps": 0.0, "eps_root": 1e-2}
RMS = functools.partial(optax.rmsprop, decay=0.7, eps=0.1, eps_in_sqrt=True)
PAIRS = {
    "adam": (functools.partial(optax.adam, **OPTIONS), sf.adam(**OPTIONS)),
    "momentum": (functools.partial(optax.sgd, momentum=0.6), sf.momentum(decay=0.6)),
    "rmsprop": (RMS, sf.rmsprop(decay=0.7, eps=0.0, eps_root=0.1)),
}
SHUFFLED = sf.Problem(batch_loss, batches=DATA, schedule=sf.shuffled(jax.random.key(3), 3))
STEPS = 10
pytestmark = pytest.mark.usefixtures("promotion_as_optax_needs_it")


def unequal():
    """Batches of one, two and three examples."""
    batches, weights = batching.pad([DATA[:1], DATA[:2], DATA])
    return sf.Problem(jax.vmap(batch_loss, (None, 0)), batches=batches, weights=weights)


def apart(one, other):
    return np.max(sf.compare(one, other).max_norm)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("adam", SHUFFLED),
        pytest.param("momentum", PROBLEM, marks=pytest.mark.slow),
        pytest.param("rmsprop", SHUFFLED, marks=pytest.mark.slow),
        pytest.param("adam", unequal(), marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("kind", ["iteration", pytest.param("flow", marks=pytest.mark.slow)])
def test_averages_are_the_moments_to_rounding(name, problem, kind):
    """Of both orders; the order of the batches matters far more than that."""
    make, moments = PAIRS[name]
    way = {"kind": kind, "check": False}
    run = functools.partial(sf.shadow, params=PLACE, learning_rate=0.01, steps=STEPS, **way)
    for order in (1, 2):
        mine, theirs = (
            run(problem, optimizer, order=order) for optimizer in (sf.from_optax(make), moments)
        )
        assert apart(mine, theirs) < 1e-12
    cyclic = run(sf.Problem(batch_loss, batches=DATA, schedule=lambda n: (n + 1) % 3), moments)
    assert apart(cyclic, theirs) > 1e-4


def clipped(rate):
    """Clipping by the global norm of a batch's gradient, and a decay that is masked."""
    return optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.scale_by_adam(b1=0.5, b2=0.7, eps=0.1),
        optax.add_decayed_weights(0.1, mask=lambda tree: jax.tree.map(lambda _: True, tree)),
        optax.scale_by_learning_rate(rate),
    )


def summed(rate):
    """Clipped gradients summed for good, under a root: no average, so its past is replayed."""
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adagrad(rate, 4.0))


def held(rate):
    """A decay of the second moment that grows with the steps: no average either."""
    return optax.chain(
        optax.adafactor(rate, clipping_threshold=None, decay_rate=0.5), optax.trace(0.5)
    )


@pytest.mark.parametrize("kind", ["iteration", pytest.param("flow", marks=pytest.mark.slow)])
@pytest.mark.parametrize("make", [clipped, summed, pytest.param(held, marks=pytest.mark.slow)])
def test_the_order_is_two_on_mini_batches(make, kind):
    """Over a fixed number of steps the error of order n falls as h^(n + 1); order 1 by one less."""
    optimizer, errors = sf.from_optax(make), {1: [], 2: []}
    for order, found in errors.items():
        for rate in (5e-4, 2.5e-4):
            real = sf.iterate(SHUFFLED, optimizer, PLACE, rate, STEPS)
            way = {"order": order, "kind": kind, "check": False}
            follow = sf.shadow(SHUFFLED, optimizer, PLACE, rate, STEPS, **way)
            found.append(apart(real, follow))
        assert np.log2(found[0] / found[1]) == pytest.approx(order + 1, abs=0.15)
    assert errors[2][1] < errors[1][1] / 10


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
def test_a_replayed_past_is_that_of_the_moments_to_the_next_order(name):
    """Two schemes of one order: their fields differ by a small part of the correction."""
    make, moments = PAIRS[name]
    field = sf.modified_field(SHUFFLED, moments, 1e-3)
    first = sf.modified_field(SHUFFLED, moments, 1e-3, order=1)(7, PLACE)
    memory = ema_weights.at(sf.from_optax(make), jnp.asarray(1e-3), 7, PLACE, 8, 7)
    replayed = BatchedReplay(SHUFFLED, sf.from_optax(make), 0.5)(memory, PLACE)
    size = float(jnp.linalg.norm(field(7, PLACE) - first))
    np.testing.assert_allclose(-replayed[0], first, rtol=1e-11)
    assert float(jnp.linalg.norm(-replayed[1] - field(7, PLACE))) < 0.02 * size


@pytest.mark.slow
def test_host_functions_and_one_batch_are_followed_alike():
    """By real arrays in a loop; and copies of one batch are the full batch, to the next order."""
    optimizer = sf.from_optax(summed)
    slope = jax.jit(jax.grad(batch_loss))
    host = sf.Problem(
        grad=lambda x, batch: np.asarray(slope(x, batch)),
        batches=DATA,
        schedule=SHUFFLED.schedule,
        traceable=False,
    )
    runs = [
        sf.shadow(problem, optimizer, PLACE, 4e-3, 4, check=False) for problem in (host, SHUFFLED)
    ]
    assert apart(*runs) < 1e-14
    copies = sf.Problem(batch_loss, batches=jnp.stack([DATA[0]] * 3))
    alone = sf.Problem(lambda x: batch_loss(x, DATA[0]))
    one, other, first = (
        sf.shadow(problem, optimizer, PLACE, 4e-3, 8, order=order, check=False)
        for problem, order in ((copies, 2), (alone, 2), (alone, 1))
    )
    assert apart(one, other) < 0.02 * apart(first, other)


def test_what_mini_batches_cannot_have_is_refused_with_what_can():
    optimizer = sf.from_optax(summed)
    for method in ("taylor", "collocation", "inertial"):
        with pytest.raises(ValueError, match=r"method: expected one of \['displaced'\] .*summed"):
            sf.shadow(PROBLEM, optimizer, PLACE, 1e-3, 2, method=method)
    with pytest.raises(ValueError, match=r"memory_tolerance: expected None .*leave it out"):
        sf.shadow(PROBLEM, optimizer, PLACE, 1e-3, 2, memory_tolerance=1e-3)
    follow = sf.shadow(PROBLEM, optimizer, PLACE, 1e-3, 2)
    assert follow.failed_at is None and "costs a gradient at its own place" in follow.verdict


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["iterates", "iteration", "field"])
def test_the_mean_over_shuffles_is_that_of_the_moments(kind):
    make, moments = PAIRS["momentum"]
    mine, theirs = (
        sf.shuffle_mean(
            SHUFFLED, optimizer, PLACE, 0.01, kind=kind, epochs=2, method="displaced"
        ).mean
        for optimizer in (sf.from_optax(make), moments)
    )
    np.testing.assert_allclose(mine, theirs, rtol=1e-12)
