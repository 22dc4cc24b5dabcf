"""The modified equation taken apart: its parts add up, its potentials and rates are true."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.rows import fast
from table import PLACE, REPRESENTATIVE, ROWS, SMOOTH, smooth_loss

import shadowflow as sf
from shadowflow.diagnostics import bias
from shadowflow.optimizers import zoo

H = 1e-2
GRAD = jax.grad(smooth_loss)
HESSIAN = jax.hessian(smooth_loss)


def analysed(name, step="settled", place=PLACE, **options):
    return sf.implicit_bias(SMOOTH, ROWS[name](), place, H, start=step, **options)


@pytest.mark.parametrize("step", ["settled", 4])
@pytest.mark.parametrize("name", fast(REPRESENTATIVE, ROWS))
def test_the_parts_add_up_to_the_modified_equation(name, step):
    parts = analysed(name, step)
    field = sf.modified_field(SMOOTH, ROWS[name](), H, method="taylor")(step, PLACE)
    np.testing.assert_allclose(parts.whole, field, rtol=1e-12)
    np.testing.assert_allclose(sum(parts.parts.values()), parts.whole, rtol=1e-14)
    first = sf.modified_field(SMOOTH, ROWS[name](), H, order=1, method="taylor")(step, PLACE)
    np.testing.assert_allclose(parts.parts["memoryless"], first, rtol=1e-14)
    assert not np.allclose(parts.whole, first, rtol=1e-4)


def closed_potential(name, g):
    """Σ ∫_0^g Φ of settled weights, by hand."""
    if name.startswith(("momentum", "nesterov", "sgd")):
        return np.sum(g**2) / 2 / (0.4 if name in ("momentum", "nesterov") else 1)
    if "outside" in name:
        return np.sum(np.abs(g) - 0.2 * np.log1p(np.abs(g) / 0.2))
    eps = 1.0 if name in ("signum", "lion") else 0.1
    return np.sum(np.sqrt(g**2 + eps) - np.sqrt(eps))


@pytest.mark.parametrize(
    "name", [name for name in ROWS if "both" not in name and name not in ("adamw", "nadam")]
)
def test_the_penalized_potential_is_the_closed_form(name):
    got = analysed(name).potential.value
    np.testing.assert_allclose(got, closed_potential(name, GRAD(PLACE)), rtol=1e-10)


@pytest.mark.parametrize("eps_root", [1e-16, 1e-8, 1e4])
def test_the_potential_is_exact_at_every_scale_of_eps(eps_root):
    adam = zoo.adam(b1=0.9, b2=0.999, eps=0.0, eps_root=eps_root)
    got = sf.implicit_bias(SMOOTH, adam, PLACE, H, start="settled").potential.value
    g = np.asarray(GRAD(PLACE))
    expected = np.sum(g**2 / (np.sqrt(g**2 + eps_root) + np.sqrt(eps_root)))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_weight_decay_is_left_out_of_the_potential_but_not_of_the_parts():
    plain = sf.implicit_bias(SMOOTH, ROWS["adamw"](weight_decay=0.0), PLACE, H, start="settled")
    decayed = analysed("adamw")
    np.testing.assert_allclose(decayed.potential.value, plain.potential.value, rtol=1e-12)
    assert not np.allclose(decayed.parts["memoryless"], plain.parts["memoryless"], rtol=1e-3)


@pytest.mark.parametrize("name", ["adam-inside", "rmsprop-outside", "momentum", "signum"])
def test_the_rates_are_derivatives_along_the_parts(name):
    parts, shift = analysed(name), 1e-5
    value = lambda x: closed_potential(name, np.asarray(GRAD(x)))
    for part, way in parts.parts.items():
        slope = (value(PLACE + shift * way) - value(PLACE - shift * way)) / (2 * shift)
        np.testing.assert_allclose(parts.potential.rates[part], slope, rtol=1e-6, atol=1e-9)


def test_the_rates_of_a_leaf_are_those_of_its_own_coordinates():
    """The potential's change along a part of which only this leaf moves."""
    split = lambda x: {"a": x[:1], "b": x[1:]}
    joined = lambda tree: jnp.concatenate([tree["a"], tree["b"]])
    problem = sf.Problem(lambda tree: smooth_loss(joined(tree)))
    found = sf.implicit_bias(problem, ROWS["adam-inside"](), split(PLACE), H, start="settled")
    value, shift = lambda x: closed_potential("adam-inside", np.asarray(GRAD(x))), 1e-5
    for part, way in found.parts.items():
        rates = found.potential.leaf_rates[part]
        for leaf in "ab":
            alone = joined({**jax.tree.map(jnp.zeros_like, way), leaf: way[leaf]})
            slope = (value(PLACE + shift * alone) - value(PLACE - shift * alone)) / (2 * shift)
            np.testing.assert_allclose(rates[leaf], slope, rtol=1e-6, atol=1e-9)
        assert rates["a"] + rates["b"] == pytest.approx(found.potential.rates[part])
        assert abs(rates["a"] - rates["b"]) > 1e-3


def test_the_perturbed_one_norm_and_its_rates():
    eps, shift = 0.03, 1e-5
    parts = analysed("nadam", eps_root=eps)
    norm = lambda x: float(jnp.sum(jnp.sqrt(GRAD(x) ** 2 + eps)))
    np.testing.assert_allclose(parts.one_norm.value, norm(PLACE), rtol=1e-14)
    for part, way in parts.parts.items():
        slope = (norm(PLACE + shift * way) - norm(PLACE - shift * way)) / (2 * shift)
        np.testing.assert_allclose(parts.one_norm.rates[part], slope, rtol=1e-6, atol=1e-9)
    assert analysed("nadam").one_norm is None


@pytest.mark.parametrize("place", ["inside", "outside"])
def test_the_strength_is_the_brace_of_equation_3(place):
    b1, b2 = 0.5, 0.7
    g = np.asarray(GRAD(PLACE))
    first, second = (1 + b1) / (1 - b1), (1 + b2) / (1 - b2)
    brace = {
        "inside": first - second + second * 0.1 / (g**2 + 0.1),
        "outside": first - second * np.abs(g) / (np.abs(g) + 0.2),
    }[place]
    np.testing.assert_allclose(analysed(f"adam-{place}").bias_coefficient, brace, rtol=1e-12)


def test_the_strength_at_a_step_has_the_mean_ages_of_that_step():
    step, g = 3, np.asarray(GRAD(PLACE))
    age = lambda b: b / (1 - b) - (step + 1) * b ** (step + 1) / (1 - b ** (step + 1))
    first, second = 2 * age(0.5) + 1, 2 * age(0.7) + 1
    brace = first - second * g**2 / (g**2 + 0.1)
    np.testing.assert_allclose(analysed("adam-inside", step).bias_coefficient, brace, rtol=1e-12)
    assert not np.allclose(analysed("adam-inside").bias_coefficient, brace, rtol=1e-2)


@pytest.mark.parametrize("name", ["adam-inside", "adam-both", "nadam", "lion", "momentum", "sgd"])
def test_the_strength_times_the_potential_is_the_bias(name):
    parts = analysed(name)
    optimizer, g = ROWS[name](), GRAD(PLACE)
    ones = tuple(jnp.ones_like(PLACE) for _ in optimizer.moments)
    moments = tuple(one * new for one, new in zip(ones, optimizer.transformed(g), strict=True))
    phi = optimizer.direction(moments, PLACE, jnp.inf)
    expected = -(phi / g) * (H / 2) * parts.bias_coefficient * (HESSIAN(PLACE) @ phi)
    np.testing.assert_allclose(parts.whole - parts.parts["memoryless"], expected, rtol=1e-9)


def test_no_strength_is_claimed_while_uncorrected_weights_rise():
    assert analysed("rmsprop-inside", 3).bias_coefficient is None
    assert analysed("rmsprop-inside").bias_coefficient is not None


def quadratic(scale):
    return sf.Problem(lambda x: 0.5 * jnp.sum(x**2)), scale * jnp.ones(2)


@pytest.mark.parametrize(
    ("b1", "b2", "scale", "word"),
    [
        (0.5, 0.9, 1.0, "anti-penalizes"),
        (0.9, 0.5, 1.0, "penalizes"),
        (0.5, 0.9, 1e-6, "penalizes"),
    ],
)
def test_table_1_in_words(b1, b2, scale, word):
    problem, params = quadratic(scale)
    adam = zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=1e-6)
    parts = sf.implicit_bias(problem, adam, params, 1e-4 * scale, start="settled")
    assert parts.potential.effect == word
    assert f"The bias {word} the penalized potential" in parts.describe()
    assert parts.potential.rates["momentum"] < 0 < parts.potential.rates["second moment"]


def test_gradient_descent_penalizes_the_two_norm():
    problem, params = quadratic(1.0)
    parts = sf.implicit_bias(problem, zoo.sgd(), params, 0.1, start="settled")
    assert parts.potential.effect == "penalizes"
    assert set(parts.parts) == {"memoryless", "discretization"}
    np.testing.assert_allclose(parts.potential.value, 1.0, rtol=1e-12)


def test_leaves_and_coordinates_add_up_to_the_totals():
    loss = lambda p: smooth_loss(jnp.stack([*p["a"], p["b"]]))
    params = {"a": PLACE[:2], "b": PLACE[2]}
    parts = sf.implicit_bias(sf.Problem(loss), ROWS["adam-inside"](), params, H, start="settled")
    flat = analysed("adam-inside")
    for name, rate in parts.potential.rates.items():
        np.testing.assert_allclose(rate, flat.potential.rates[name], rtol=1e-12)
        leaves = jax.tree.leaves(parts.potential.leaf_rates[name])
        assert len(leaves) == 2
        np.testing.assert_allclose(sum(leaves), rate, rtol=1e-12)
        by_coordinate = parts.potential.coordinate_rates[name]
        assert by_coordinate["a"].shape == (2,)
        np.testing.assert_allclose(sum(jnp.sum(x) for x in by_coordinate.values()), rate)
    np.testing.assert_allclose(sum(parts.potential.per_leaf.values()), parts.potential.value)


def test_the_verdict_comes_with_the_numbers():
    small, large = (
        analysed("adam-inside"),
        sf.implicit_bias(
            SMOOTH, zoo.adam(b1=0.9, b2=0.99, eps=0.0, eps_root=1e-6), PLACE, 1.0, start="settled"
        ),
    )
    assert small.verdict.startswith("should hold")
    assert large.verdict.startswith("does not hold")
    assert large.verdict in large.describe()
    assert "settled memory" in small.verdict


def test_moments_of_ones_own_get_names_of_their_own():
    fourth = sf.Moment(0.5, lambda g: g**4)
    own = sf.Optimizer([sf.Moment(0.5), sf.Moment(0.6), fourth], lambda m, p, n: m[0] + m[1])
    assert list(bias.labels(own).values()) == ["momentum", "momentum 2", "moment 3"]


def test_a_dead_coordinate_is_no_nan():
    problem = sf.Problem(lambda x: 0.5 * x[0] ** 2 + 0.5 * (x[1] - x[2]) ** 2)
    params = jnp.asarray([1.0, 2.0, 2.0])
    for optimizer in (zoo.adam(eps=1e-8), zoo.adam(eps=0.0, eps_root=1e-8), zoo.signum()):
        parts = sf.implicit_bias(problem, optimizer, params, 1e-5, eps_root=0.0, start="settled")
        numbers = jax.tree.leaves((parts.parts, parts.bias_coefficient, parts.one_norm.rates))
        assert all(np.all(np.isfinite(leaf)) for leaf in numbers)


def test_a_host_problem_gives_the_same_parts():
    host = sf.Problem(
        grad=lambda x: np.asarray(GRAD(x)),
        hvp=lambda x, v: np.asarray(HESSIAN(x) @ v),
        traceable=False,
    )
    got = sf.implicit_bias(host, ROWS["adam-inside"](), PLACE, H, start="settled")
    np.testing.assert_allclose(got.whole, analysed("adam-inside").whole, rtol=1e-12)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"start": -1}, "start: expected a whole number"),
        ({"start": None}, "start: expected the number of a step, 'settled' or a State"),
        ({}, "start=0 .* or start='settled' .* answer different questions"),
        ({"start": 0, "eps_root": -1.0}, "eps_root: expected"),
    ],
)
def test_bad_input_is_refused(options, said):
    with pytest.raises(ValueError, match=said):
        sf.implicit_bias(SMOOTH, zoo.adam(), PLACE, H, **options)
