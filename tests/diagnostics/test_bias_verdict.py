"""Whether a predicted bias can be believed: the exact effect of memory, and what doubts it."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from table import BILINEAR, PLACE, ROWS, SMOOTH

import shadowflow as sf
from shadowflow.diagnostics.bias_checks import TOGETHER, errors, estimated
from shadowflow.diagnostics.memory_effect import effect_of_memory, labels

H = 1e-2


def state_of(row, steps=12, rate=H, problem=SMOOTH, place=PLACE):
    """(optimizer, parameters, state) after some steps."""
    optimizer = ROWS[row]() if isinstance(row, str) else row
    run = sf.iterate(problem, optimizer, place, rate, steps)
    return optimizer, jnp.asarray(run.last), run.state


@pytest.mark.parametrize("row", ["adam-inside", "rmsprop-both", "nesterov", "nadam", "lion"])
def test_the_parts_add_up_to_the_step_less_the_memoryless_one(row):
    optimizer, place, state = state_of(row)
    gradient = SMOOTH.gradient(place)
    parts = effect_of_memory(optimizer, state, place, gradient, H)
    assert list(parts) == list(labels(optimizer).values())
    _, move = optimizer.update(state, gradient, place, H)
    effect = -move / H - optimizer.memoryless_direction(place, gradient, state.step)
    np.testing.assert_allclose(sum(parts.values()), -effect, rtol=1e-9)
    assert np.linalg.norm(effect) > 1e-3


def test_adam_s_momentum_part_has_its_closed_form():
    """2 (m̂ − g) / (sqrt(ν̂ + ε) + sqrt(g² + ε)), by the moments of the run themselves."""
    adam, place, state = state_of("adam-inside")
    g = np.asarray(SMOOTH.gradient(place))
    n, (m, v) = float(state.step), (np.asarray(moment) for moment in state.moments)
    m = (0.5 * m + 0.5 * g) / (1 - 0.5 ** (n + 1))
    v = (0.7 * v + 0.3 * g**2) / (1 - 0.7 ** (n + 1))
    expected = 2 * (m - g) / (np.sqrt(v + 0.1) + np.sqrt(g**2 + 0.1))
    found = effect_of_memory(adam, state, place, jnp.asarray(g), H)
    np.testing.assert_allclose(-found["momentum"], expected, rtol=1e-10)


def test_a_gradient_that_is_zero_has_finite_parts():
    adam = sf.adam(b1=0.9, b2=0.99, eps=0.0, eps_root=1e-16)
    state = sf.State((jnp.array([0.3, 0.0]), jnp.array([0.2, 0.0])), jnp.asarray(5.0))
    found = effect_of_memory(adam, state, jnp.ones(2), jnp.zeros(2), H)
    assert all(np.all(np.isfinite(part)) for part in found.values())
    assert all(part[1] == 0 for part in found.values())


def test_a_gradient_of_zero_says_nothing_of_those_before_it():
    """Momentum coasts on where the loss is flat; at its first step it has nothing to coast by."""
    flat = sf.Problem(lambda x: jnp.sum(jnp.maximum(x, 0.0)))
    run = flat, sf.momentum(decay=0.9), -jnp.ones(2), H
    blind, first = (sf.implicit_bias(*run, start=start).validity for start in (40, 0))
    assert blind.level == "does not hold" and "the gradient is 0 here" in blind.verdict
    assert first.level == "holds"


def test_the_next_term_is_twice_as_large_beside_the_one_before():
    """Of momentum .5 on a parabola, where the bias is 3 h of the step: 9 % of it is not safe."""
    quadratic = sf.Problem(lambda x: jnp.sum(x**2) / 2)
    levels = [
        sf.implicit_bias(quadratic, sf.momentum(decay=0.5), jnp.ones(1), x, start="settled")
        for x in (0.01, 0.03)
    ]
    assert [found.validity.level for found in levels] == ["holds", "partly"]


def test_the_prediction_nears_the_exact_effect_at_first_order():
    """Halving the step halves the relative error of either part: .0485 … .0018, .0104 … .0002."""
    adam = sf.adam(b1=0.6, b2=0.8, eps=0.0, eps_root=1e-2)
    errors = []
    powers = np.array([6, 9, 10, 11])
    for rate in 2.0**-powers:
        steps = round(0.3 / rate)
        _, place, state = state_of(adam, steps, rate, BILINEAR, jnp.array([2.8, 3.5]))
        found = sf.implicit_bias(BILINEAR, adam, place, rate, start=state)
        exact = found.effect_of_memory
        gaps = [np.linalg.norm(found.parts[name] - part) for name, part in exact.items()]
        errors.append(
            [gap / np.linalg.norm(exact[name]) for gap, name in zip(gaps, exact, strict=True)]
        )
        assert found.validity.basis == "measured"
        assert found.validity.share[0] > 0.999 * max(errors[-1])
    slopes = -np.diff(np.log2(errors), axis=0) / np.diff(powers)[:, None]
    np.testing.assert_allclose(slopes[-1], 1, atol=0.15)
    assert errors[0][0] == pytest.approx(0.0485, rel=0.1)
    assert errors[0][1] == pytest.approx(0.0104, rel=0.3)


def test_with_a_state_the_verdict_is_measured_and_words_are_those_of_the_memory():
    adam, place, state = state_of("adam-inside", 30, 1e-3)
    found = sf.implicit_bias(SMOOTH, adam, place, 1e-3, start=state, eps_root=0.1)
    assert found.validity.level == "holds" and "measured against the memory" in found.verdict
    exact = found.one_norm.exact
    gradient = lambda x: np.asarray(SMOOTH.gradient(jnp.asarray(x)))
    norm = lambda x: np.sum(np.sqrt(gradient(x) ** 2 + 0.1))
    for name, way in found.effect_of_memory.items():
        ends = (norm(np.asarray(place) + side * 1e-5 * np.asarray(way)) for side in (1, -1))
        assert exact[name] == pytest.approx(-np.subtract(*reversed([*ends])) / 2e-5, rel=1e-5)
    text = found.describe()
    assert text.index("The prediction holds") < text.index("Memory ")
    assert "predicted" in text


def test_parts_that_all_but_cancel_are_held_together_against_what_is_left_of_them():
    parts, exact = ({"a": jnp.ones(1), "b": jnp.full(1, b)} for b in (-0.9, -0.95))
    rates = {"exact": {"a": 1.0, "b": -0.95}, "rates": {"a": 1.0, "b": -0.9}}
    measures = [types.SimpleNamespace(**rates, rounding=rounding) for rounding in (1e-9, 0.06)]
    apart = {"a": 0.0, "b": pytest.approx(0.05 / 0.95), TOGETHER: pytest.approx(1.0)}
    assert errors(parts, exact, measures[1:]) == apart
    assert errors(parts, exact, measures) == {**apart, "their rate": pytest.approx(1.0)}


def test_an_effect_that_is_rounding_is_not_held_against_the_prediction():
    """Of a fresh state there is no memory: what is left of it is rounding, here in float32."""
    place, problem = PLACE.astype("float32"), sf.Problem(lambda x: jnp.sum(jnp.cosh(x)))
    for row in ("adam-inside", "lion"):
        optimizer, here, state = state_of(row, 0, H, problem, place)
        found = sf.implicit_bias(problem, optimizer, here, H, start=state)
        assert found.validity.level == "holds" and found.validity.share[0] == 0
    parts, exact = {"a": jnp.ones(1)}, {"a": jnp.full(1, 1.1)}
    assert errors(parts, exact, (), noise=0.11) == {"a": 0.0}
    assert errors(parts, exact, (), noise=0.09) == {"a": pytest.approx(0.1 / 1.1)}


@pytest.mark.usefixtures("promotion_as_optax_needs_it")
def test_at_a_learning_rate_of_zero_the_memory_is_that_per_unit_of_time():
    """The state is the same, and so is what it does to a step of whatever length."""
    adam, place, state = state_of(sf.from_optax(optax.adam), 3)
    gradient = SMOOTH.gradient(place)
    moving, still = (effect_of_memory(adam, state, place, gradient, rate) for rate in (H, 0.0))
    np.testing.assert_allclose(still["memory"], moving["memory"], rtol=1e-9)
    assert np.linalg.norm(still["memory"]) > 1e-3


def test_where_it_does_not_hold_no_prediction_is_told():
    """At everyday settings: no statement without a state, what was measured with one."""
    adam = sf.adam(eps=0.0, eps_root=1e-8)
    _, place, state = state_of(adam, 60, 0.05)
    blind = sf.implicit_bias(SMOOTH, adam, place, 0.05, start=60)
    assert blind.validity.level == "does not hold" and blind.validity.basis == "estimated"
    text = blind.describe()
    assert "No statement about the penalized potential" in text and "pass start=state" in text
    assert "per unit of time" not in text and "penalizes" not in text
    seen = sf.implicit_bias(SMOOTH, adam, place, 0.05, start=state)
    text = seen.describe()
    assert seen.validity.level == "does not hold" and "measured: " in text
    assert "predicted +" not in text and "predicted -" not in text


def relu_network(activation):
    """A wide network of one hidden layer, by its loss and a start."""
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = jax.random.normal(keys[0], (40, 6))
    targets = 10 * jax.random.normal(keys[1], (40, 2))
    params = {
        "a": jax.random.normal(keys[2], (6, 64)) / 2,
        "b": jax.random.normal(keys[3], (64, 2)) / 4,
    }
    predict = lambda p: activation(inputs @ p["a"]) @ p["b"]
    return sf.Problem(lambda p: jnp.mean((predict(p) - targets) ** 2)), params


@pytest.mark.parametrize(("activation", "kinks"), [(jax.nn.relu, True), (jax.nn.gelu, False)])
def test_kinks_are_seen_by_gradient_differences(activation, kinks):
    problem, params = relu_network(activation)
    adam = sf.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=1e-2)
    found = sf.implicit_bias(problem, adam, params, 3e-4, start="settled")
    assert ("kinks of a ReLU" in found.verdict) is kinks
    assert (found.validity.level == "holds") is not kinks


def test_kinks_are_named_as_the_cause_where_they_can_be_it():
    """What they do is in every other reading too."""
    told = lambda kinks: estimated(7, {"its size": 0.01, "kinks": kinks, "momentum": 0.3}, [])
    assert told(0.2).level == told(0.05).level == "partly"
    assert "disagree by 20 %, as at the kinks of a ReLU" in told(0.2).verdict
    assert "what is due to momentum differs by 30 %" in told(0.05).verdict


def test_gradient_differences_that_are_rounding_are_no_kinks():
    bowl, place = sf.Problem(lambda x: jnp.sum(jnp.cosh(x))), PLACE.astype(jnp.float32)
    found = sf.implicit_bias(bowl, ROWS["adam-inside"](), place, 1e-7, start="settled")
    assert found.validity.level == "holds", found.verdict


@pytest.mark.usefixtures("promotion_as_optax_needs_it")
@pytest.mark.parametrize("steps", [0, 12])
def test_of_a_transformation_the_memory_is_one_part_and_is_measured_too(steps):
    own = sf.from_optax(functools.partial(optax.adam, b1=0.5, b2=0.7, eps=0.0, eps_root=0.1))
    run = sf.iterate(SMOOTH, own, PLACE, H, steps)
    found = sf.implicit_bias(SMOOTH, own, run.last, H, start=run.state)
    (effect,) = found.effect_of_memory.values()
    adam, place, state = state_of("adam-inside", steps)
    parts = effect_of_memory(adam, state, place, SMOOTH.gradient(place), H)
    np.testing.assert_allclose(effect, sum(parts.values()), rtol=1e-7, atol=1e-12)
    assert found.validity.basis == "measured"
