"""Optax transformations at any step: their past replayed, against moments, runs and differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.optax_problem import ADAM, BILINEAR, BOWL, OPTIONS, PLACE, X, clipped
from support.rows import fast

import shadowflow as sf
from shadowflow import trees
from shadowflow.optimizers.memory_probe import (
    NeverSettles,
    NotDifferentiable,
    pointwise,
    positional,
    remembered,
    time_invariant,
)

RMS = functools.partial(optax.rmsprop, decay=0.7, eps=0.1, eps_in_sqrt=True)
SLOW_RMS = functools.partial(optax.rmsprop, decay=0.95, eps=0.1, eps_in_sqrt=True)
PAIRS = {
    "adam": (functools.partial(optax.adam, **OPTIONS), sf.adam(**OPTIONS)),
    "rmsprop": (RMS, sf.rmsprop(decay=0.7, eps=0.0, eps_root=0.1)),
    "slow rmsprop": (SLOW_RMS, sf.rmsprop(decay=0.95, eps=0.0, eps_root=0.1)),
    "momentum": (functools.partial(optax.sgd, momentum=0.6), sf.momentum(decay=0.6)),
    "nadam": (functools.partial(optax.nadam, **OPTIONS), sf.nadam(**OPTIONS)),
    "adamw": (
        functools.partial(optax.adamw, weight_decay=0.2, **OPTIONS),
        sf.adamw(weight_decay=0.2, **OPTIONS),
    ),
}


pytestmark = pytest.mark.usefixtures("promotion_as_optax_needs_it")


def distance(one, other):
    return float(trees.norm(trees.subtract(one, other)))


def field_of(build, rate, optimizer, method, order=2):
    return build(BOWL, optimizer, rate, method=method, order=order)


@pytest.mark.parametrize("name", fast(["slow rmsprop", "adamw"], PAIRS))
def test_at_every_step_it_agrees_with_the_moments(name):
    """Taylor's form to rounding (uncorrected weights: to what three places tell of the ways), the
    displaced one to the next order; the transient is in it, as the settled field shows."""
    make, moments = PAIRS[name]
    optimizer, rate = sf.from_optax(make), 1e-3
    slack = 2e-3 if "rmsprop" in name else 1e-9
    for build in (sf.modified_field, sf.memoryless_step):
        field = functools.partial(field_of, build, rate)
        settled = field(moments, "taylor")("settled", PLACE)
        for step in ("settled", 0, 4):
            exact = field(moments, "taylor")(step, PLACE)
            first = field(moments, "taylor", 1)(step, PLACE)
            size = distance(exact, first) + 1e-12
            assert distance(field(optimizer, "taylor", 1)(step, PLACE), first) < 1e-11
            assert distance(field(optimizer, "taylor")(step, PLACE), exact) < slack * size + 1e-16
            assert distance(field(optimizer, "displaced")(step, PLACE), exact) < 0.06 * size + 1e-16
            if step == 4:
                assert distance(settled, exact) > 0.1 * size


def test_at_a_step_with_a_schedule_it_agrees_with_the_moments():
    schedule = lambda step: 2e-3 / (1.0 + 0.3 * step)
    make, moments = PAIRS["adamw"]
    for step in (2, 9):
        walked, exact, first = (
            sf.modified_field(BOWL, opt, schedule, method="taylor", order=order)(step, PLACE)
            for opt, order in ((sf.from_optax(make), 2), (moments, 2), (moments, 1))
        )
        assert distance(walked, exact) < 1e-9 * distance(exact, first)


@pytest.mark.parametrize("kind", ["flow", "iteration"])
@pytest.mark.parametrize(
    "make",
    [
        pytest.param(clipped, id="clip + adam"),
        pytest.param(functools.partial(optax.adamw, b1=0.5, b2=0.7, weight_decay=0.1), id="adamw"),
        pytest.param(
            lambda rate: optax.multi_transform(
                {
                    "adam": optax.adam(rate, b1=0.5, b2=0.7),
                    "sgd": optax.sgd(2 * rate, momentum=0.6),
                },
                {"w": "adam", "b": "sgd"},
            ),
            id="two groups",
        ),
    ],
)
@pytest.mark.slow
def test_from_a_cold_start_the_order_is_two(make, kind):
    """And what is declared of first order has order one."""
    rates = [0.1 * 2.0**-k for k in (6, 7, 8, 9)]
    rows = sf.convergence(
        BOWL, sf.from_optax(make), PLACE, 0.1, rates, methods=["displaced"], kinds=[kind]
    )
    for row in rows:
        assert row.slopes[-1] == pytest.approx(row.order, abs=0.15)


@pytest.mark.slow
def test_with_a_schedule_the_order_is_two():
    """Time is the sum of the learning rates; a fall of them by a factor of four within the run."""
    make = functools.partial(optax.adam, **OPTIONS)
    errors = {1: [], 2: []}
    for steps in (160, 320):
        schedule = lambda n, s=steps: 0.4 / s / (1.0 + 3.0 * n / s)
        real = sf.iterate(BOWL, sf.from_optax(make), PLACE, schedule, steps)
        for order, found in errors.items():
            follow = sf.shadow(
                BOWL,
                sf.from_optax(make),
                PLACE,
                schedule,
                steps,
                order=order,
                kind="iteration",
                check=False,
            )
            found.append(sf.compare(real, follow).max_norm[-1])
            assert follow.times[-1] == pytest.approx(real.times[-1])
    for order, found in errors.items():
        assert np.log2(found[-2] / found[-1]) == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("injected", [False, True])
def test_it_goes_on_from_the_state_of_a_run(injected):
    """The user's own loop with a schedule; then the shadow, from its step and its optax state."""
    schedule = optax.exponential_decay(2e-3, 10, 0.7)
    make = optax.inject_hyperparams(optax.adam) if injected else optax.adam
    tx, params, grad = make(schedule, b1=0.5, b2=0.7), PLACE, jax.grad(BOWL.loss)
    opt_state = tx.init(params)
    for _ in range(7):
        updates, opt_state = tx.update(grad(params), opt_state, params)
        params = optax.apply_updates(params, updates)
    optimizer = sf.from_optax(functools.partial(optax.adam, b1=0.5, b2=0.7))
    state = sf.state_from_optax(optimizer, opt_state, params)
    assert float(state.step) == 7
    real = sf.iterate(BOWL, optimizer, params, schedule, 6, start=state)
    own = params
    for _ in range(6):
        updates, opt_state = tx.update(grad(own), opt_state, own)
        own = optax.apply_updates(own, updates)
    assert distance(jax.tree.map(jnp.asarray, real.last), own) < 1e-8  # its rates are float32's
    errors = [
        sf.compare(
            real,
            sf.shadow(
                BOWL,
                optimizer,
                params,
                schedule,
                6,
                start=state,
                order=order,
                kind="iteration",
                check=False,
            ),
        ).max_norm[-1]
        for order in (1, 2)
    ]
    assert errors[1] < errors[0] / 30


@pytest.mark.parametrize("make", [optax.adagrad, optax.amsgrad, optax.contrib.schedule_free_sgd])
def test_what_never_settles_is_followed_by_its_steps(make):
    """Over a fixed number of steps the error falls by one order more than over a fixed time."""
    optimizer = sf.from_optax(make)
    with pytest.raises(NeverSettles, match=f"got {make.__name__}.*give the number of a step"):
        sf.modified_field(BOWL, optimizer, 1e-3, method="displaced")("settled", PLACE)
    for order in (1, 2):
        errors = []
        for rate in (2e-4, 1e-4):
            real = sf.iterate(BOWL, optimizer, PLACE, rate, 8)
            follow = sf.shadow(BOWL, optimizer, PLACE, rate, 8, order=order, kind="iteration")
            errors.append(sf.compare(real, follow).max_norm[-1])
        assert np.log2(errors[0] / errors[1]) == pytest.approx(order + 1, abs=0.15)
        assert "Its memory has not settled by step 8" in follow.verdict


def test_a_state_that_holds_parameters_is_told():
    free = sf.from_optax(lambda rate: optax.contrib.schedule_free(optax.sgd(rate), rate), "free")
    assert positional(free, PLACE)
    assert not positional(ADAM, PLACE)
    state = sf.iterate(BOWL, free, PLACE, 1e-3, 3).state
    with pytest.raises(
        ValueError, match="start: expected a step number for free, whose state holds param"
    ):
        sf.shadow(BOWL, free, PLACE, 1e-3, 3, start=state, check=False)


def test_what_is_corrected_steps_alike():
    assert time_invariant(ADAM, PLACE)
    assert not time_invariant(sf.from_optax(RMS), PLACE)


def test_a_memory_that_grows_never_settles():
    """Adafactor's decay 1 − n^−0.8 forgets more slowly the longer it runs."""
    growing = sf.from_optax(functools.partial(optax.adafactor, decay_rate=0.8))
    assert remembered(growing, PLACE) is None


def test_the_value_of_the_loss_is_read_along_the_way():
    """Polyak's step, gradient × value / ‖gradient‖², as a state map that asks for the value."""

    def polyak(rate):
        def update(grads, state, params=None, *, value, **extra):
            del params, extra
            step = rate * value / optax.tree.norm(grads, squared=True)
            return jax.tree.map(lambda g: -step * g, grads), state

        return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)

    def formula(place):
        value, grads = jax.value_and_grad(BOWL.loss)(place)
        return jax.tree.map(lambda g: value * g / optax.tree.norm(grads, squared=True), grads)

    optimizer, rate = sf.from_optax(polyak), 1e-3
    _, change = jax.jvp(formula, (PLACE,), (formula(PLACE),))
    expected = trees.scale(-1, trees.add(formula(PLACE), rate / 2, change))
    size = rate / 2 * float(trees.norm(change))
    for method, slack in (("taylor", 1e-9), ("displaced", 0.02), ("collocation", 0.02)):
        field = sf.modified_field(BOWL, optimizer, rate, method=method)("settled", PLACE)
        assert distance(field, expected) < slack * size, method
    run = sf.iterate(BOWL, optimizer, PLACE, rate, 1)
    one = trees.add(PLACE, -rate, formula(PLACE))
    assert distance(jax.tree.map(jnp.asarray, run.last), one) < 1e-14


@pytest.mark.parametrize("make", [optax.lion, optax.sign_sgd, optax.rprop, optax.signum])
def test_a_derivative_that_sees_no_gradient_is_refused(make):
    with pytest.raises(NotDifferentiable, match=f"{make.__name__}, whose forward derivative does"):
        sf.modified_field(BOWL, sf.from_optax(make), 1e-3, method="taylor")("settled", PLACE)
    displaced = sf.modified_field(BOWL, sf.from_optax(make), 1e-3, method="displaced")(3, PLACE)
    assert bool(trees.all_finite(displaced))


def test_a_derivative_that_is_wrong_is_refused():
    """A custom rule that is off by 6 %, and one that is NaN."""

    def off(factor):
        @jax.custom_jvp
        def cube(x):
            return x**3

        cube.defjvp(lambda x, t: (x[0] ** 3, factor * 3 * x[0] ** 2 * t[0]))
        return lambda rate: optax.chain(
            optax.stateless(lambda updates, params: jax.tree.map(cube, updates)), optax.sgd(rate)
        )

    for factor, words in ((1.06, "5.7 % off"), (jnp.nan, "is NaN")):
        with pytest.raises(NotDifferentiable, match=words):
            sf.memoryless_step(BOWL, sf.from_optax(off(factor)), 1e-3, method="taylor")(
                "settled", PLACE
            )
    sf.memoryless_step(BOWL, sf.from_optax(off(1.0)), 1e-3, method="taylor")("settled", PLACE)


def test_a_dead_unit_gives_no_nan():
    """Adam's root has no derivative at 0; a coordinate that never moves needs none."""
    problem = sf.Problem(lambda x: 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2 + 0.0 * x[2])
    place = jnp.asarray([2.8, 3.5, 1.0])
    optimizer = sf.from_optax(functools.partial(optax.adam, b1=0.5, b2=0.7))
    for method in ("taylor", "displaced", "collocation"):
        field = sf.modified_field(problem, optimizer, 1e-3, method=method)("settled", place)
        alone = sf.modified_field(BILINEAR, optimizer, 1e-3, method=method)("settled", X)
        np.testing.assert_allclose(field, [*alone, 0.0], rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("step", ["settled", 3])
def test_its_bias_is_that_of_the_moments(step):
    """Their parts sum to its memory, and for what is pointwise the potential is the same."""
    for make, moments in (PAIRS["adam"], PAIRS["rmsprop"]):
        walked, known = (
            sf.implicit_bias(BOWL, opt, PLACE, 1e-4, start=step, eps_root=1e-2)
            for opt in (sf.from_optax(make), moments)
        )
        assert walked.potential.value == pytest.approx(known.potential.value, rel=1e-9)
        for measure in ("potential", "one_norm"):
            rates, parts = (getattr(bias, measure).rates for bias in (walked, known))
            memory = sum(
                rate for name, rate in parts.items() if name not in ("memoryless", "discretization")
            )
            assert rates["memoryless"] == pytest.approx(parts["memoryless"], rel=1e-9)
            assert rates["memory"] == pytest.approx(memory, rel=0.01)
            assert rates["discretization"] == pytest.approx(parts["discretization"], rel=0.06)
        assert distance(walked.whole, known.whole) < 0.01 * distance(
            known.whole, known.parts["memoryless"]
        )


def test_what_is_not_pointwise_has_no_potential_and_says_so():
    bias = sf.implicit_bias(
        BOWL, sf.from_optax(clipped), PLACE, 1e-4, eps_root=1e-2, start="settled"
    )
    assert bias.potential is None and "clipped is not pointwise" in bias.verdict
    assert set(bias.parts) == {"memoryless", "memory", "discretization"}
    assert "perturbed one-norm" in bias.describe() and bias.one_norm.value > 0


def test_two_numbers_are_enough_to_see_what_is_pointwise():
    two = {"a": jnp.asarray(2.8), "b": jnp.asarray(3.5)}
    assert pointwise(sf.from_optax(optax.adam), two)
    assert not pointwise(sf.from_optax(clipped), two)


def test_a_host_function_is_followed_alike():
    def grad(x):
        x = np.asarray(x)
        return -2 * x[::-1] * (1.5 - 2 * x[0] * x[1])

    host = sf.Problem(grad=grad, traceable=False)
    for kind in ("flow", "iteration"):
        here, there = (
            sf.shadow(problem, ADAM, X, 1e-3, 3, kind=kind, check=False)
            for problem in (host, BILINEAR)
        )
        assert sf.compare(here, there).max_norm[-1] < 1e-14


def test_what_is_not_finite_is_reported_with_its_step():
    problem = sf.Problem(lambda x: jnp.sum(jnp.sqrt(x)))
    follow = sf.shadow(problem, ADAM, jnp.asarray([0.05, 1.0]), 1e-2, 20)
    assert follow.failed_at is not None and 0 < follow.failed_at < 20
    assert f"began at step {follow.failed_at}" in follow.verdict
    assert np.all(np.isfinite(follow.params))


def test_a_rate_that_is_kept_in_the_state_is_put_there():
    """Rprop's first step size; and no schedule is accepted that would not be seen."""
    for make in (optax.rprop, optax.inject_hyperparams(optax.adam)):
        optimizer = sf.from_optax(make)
        run = sf.iterate(BOWL, optimizer, PLACE, 1e-3, 4)
        tx, params = make(1e-3), PLACE
        state = tx.init(params)
        for _ in range(4):
            updates, state = tx.update(jax.grad(BOWL.loss)(params), state, params)
            params = optax.apply_updates(params, updates)
        assert distance(jax.tree.map(jnp.asarray, run.last), params) < 1e-9
        for call in (sf.iterate, sf.shadow):
            with pytest.raises(ValueError, match="learning_rate: expected a number for"):
                call(BOWL, optimizer, PLACE, lambda step: 1e-3, 3)
    assert not sf.from_optax(optax.adam).keeps_rate
    follow = sf.shadow(
        BOWL, sf.from_optax(optax.rprop), PLACE, 1e-3, 4, kind="iteration", check=False
    )
    real = sf.iterate(BOWL, sf.from_optax(optax.rprop), PLACE, 1e-3, 4)
    assert sf.compare(real, follow).max_norm[-1] < 1e-14  # no sign changes: exact
