"""Learning rates of 0, as schedules begin and end with: the shadow stands still as the optimizer
does, and the steps after them read a memory that these steps filled."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.optax_problem import BOWL, PLACE

import shadowflow as sf

STEPS = 12
ZEROS = (0, 5, 6, STEPS - 1)
WARM = optax.warmup_cosine_decay_schedule(0.0, 2e-3, 4, STEPS - 1)
OPTIONS = {"b1": 0.5, "b2": 0.7, "eps": 0.0, "eps_root": 1e-2}
PAIRS = {
    "adam": (functools.partial(optax.adam, **OPTIONS), sf.adam(**OPTIONS)),
    "momentum": (functools.partial(optax.sgd, momentum=0.6), sf.momentum(decay=0.6)),
}
pytestmark = pytest.mark.usefixtures("promotion_as_optax_needs_it")


def gaps(step):
    """Zeros at the start, in the middle and at the end."""
    still = functools.reduce(jnp.logical_or, [step == n for n in ZEROS])
    return jnp.where(still, 0.0, 2e-3 / (1 + 0.1 * step))


def decaying(rate):
    """Adam, and a decay of the parameters that does not know the learning rate."""
    adam = optax.scale_by_adam(b1=0.5, b2=0.7)
    decay = optax.add_decayed_weights(-1e-3)
    return optax.chain(adam, optax.scale_by_learning_rate(rate), decay)


def ends(run):
    return np.concatenate([np.ravel(leaf[-1]) for leaf in jax.tree.leaves(run.params)])


def followed(optimizer, schedule=gaps, **options):
    found = sf.shadow(BOWL, optimizer, PLACE, schedule, STEPS, **options, check=False)
    assert found.failed_at is None
    return found


@pytest.mark.parametrize(
    ("name", "options", "slack"),
    [
        ("adam", {"kind": "flow"}, 1e-10),
        ("momentum", {"kind": "iteration"}, 1e-10),
        ("adam", {"kind": "iteration", "method": "taylor"}, 1e-7),
        pytest.param("momentum", {"kind": "flow"}, 1e-10, marks=pytest.mark.slow),
        pytest.param("adam", {"kind": "flow", "method": "taylor"}, 1e-7, marks=pytest.mark.slow),
        pytest.param("momentum", {"method": "inertial"}, 1e-10, marks=pytest.mark.slow),
        pytest.param("adam", {"method": "inertial"}, 2e-2, marks=pytest.mark.slow),
        pytest.param("momentum", {"method": "taylor"}, 2e-3, marks=pytest.mark.slow),
    ],
)
def test_a_transformation_goes_as_its_moments_do(name, options, slack):
    """Of the correction; which order 1 and the same rates without zeros are far from."""
    make, moments = PAIRS[name]
    mine, theirs = (ends(followed(opt, **options)) for opt in (sf.from_optax(make), moments))
    options = {"order": 1} if options.get("method") == "inertial" else options | {"order": 1}
    correction = np.max(np.abs(theirs - ends(followed(moments, **options))))
    assert np.max(np.abs(mine - theirs)) < slack * correction
    other = ends(followed(moments, lambda step: gaps(step + 1), **options))
    assert np.max(np.abs(other - theirs)) > correction / 10


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (decaying, "iteration"),
        pytest.param(decaying, "flow", marks=pytest.mark.slow),
        pytest.param(optax.adagrad, "iteration", marks=pytest.mark.slow),
        pytest.param(optax.amsgrad, "flow", marks=pytest.mark.slow),
        pytest.param(optax.contrib.schedule_free_sgd, "iteration", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("schedule", [gaps, pytest.param(WARM, marks=pytest.mark.slow)])
def test_what_has_no_moments_is_followed_too(make, kind, schedule):
    """At a rate of 0 it does what the transformation does then, be it nothing or a decay."""
    optimizer = sf.from_optax(make, "transformation")
    real = sf.iterate(BOWL, optimizer, PLACE, schedule, STEPS)
    apart = {}
    for order in (1, 2):
        gap = sf.compare(real, followed(optimizer, schedule, kind=kind, order=order)).max_norm
        assert gap[1] < (1e-14 if kind == "iteration" else 1e-5)
        apart[order] = gap[-1]
    assert apart[2] < apart[1] / 20
    moved = sf.compare(real, real).moved[1]
    assert (moved > 1e-4) == (make is decaying)


@pytest.mark.parametrize("name", PAIRS)
def test_a_field_at_a_rate_of_0_is_that_of_the_moments(name):
    """Per unit of time it is what it would be at a small rate; as a step it is none."""
    make, moments = PAIRS[name]
    for build in (sf.modified_field, sf.memoryless_step):
        for method in ("displaced", "taylor"):
            mine, theirs = (
                jnp.concatenate(
                    [
                        leaf.ravel()
                        for leaf in jax.tree.leaves(build(BOWL, o, gaps, method=method)(5, PLACE))
                    ]
                )
                for o in (sf.from_optax(make), moments)
            )
            np.testing.assert_allclose(mine, theirs, rtol=1e-4)
            assert bool(jnp.any(mine != 0)) == (build is sf.modified_field)


def chained(rate):
    """Clipping, Adam, a decay of matrices alone, and the rate: from 0 up in a warm-up."""
    return optax.chain(
        optax.clip_by_global_norm(0.5),
        optax.scale_by_adam(b1=0.5, b2=0.7),
        optax.add_decayed_weights(0.1, mask=lambda tree: {"w": True, "b": False}),
        optax.scale_by_learning_rate(rate),
    )


@pytest.mark.slow
def test_a_clipped_chain_with_a_warm_up_is_followed_from_its_first_step():
    """Over a fixed number of steps the error of order n falls as h^(n + 1)."""
    optimizer, errors = sf.from_optax(chained), {1: [], 2: []}
    for order, found in errors.items():
        for top in (1e-3, 5e-4):
            schedule = optax.warmup_cosine_decay_schedule(0.0, top, 4, STEPS)
            real = sf.iterate(BOWL, optimizer, PLACE, schedule, STEPS)
            follow = followed(optimizer, schedule, order=order)
            found.append(np.max(sf.compare(real, follow).max_norm))
        assert np.log2(found[0] / found[1]) == pytest.approx(order + 1, abs=0.15)


@pytest.mark.slow
def test_at_a_hundred_thousand_parameters_the_chain_is_followed_in_single_precision():
    random = np.random.default_rng(0)
    draw = lambda *shape: jnp.asarray(random.normal(size=shape) / np.sqrt(shape[0]), jnp.float32)
    params, inputs = {"w": draw(100, 1000), "b": draw(1000)}, draw(16, 100)

    def loss(params):
        return jnp.mean((jnp.tanh(inputs @ params["w"]) + params["b"]) ** 2)

    problem, optimizer = sf.Problem(loss), sf.from_optax(chained)
    schedule = optax.warmup_cosine_decay_schedule(0.0, 1e-4, 4, STEPS)
    real = sf.iterate(problem, optimizer, params, schedule, STEPS)
    first, second = (
        sf.shadow(problem, optimizer, params, schedule, STEPS, order=order, check=False)
        for order in (1, 2)
    )
    assert real.failed_at is first.failed_at is second.failed_at is None
    apart = [sf.compare(real, follow).two_norm[-1] for follow in (first, second)]
    assert apart[1] < apart[0] / 2
