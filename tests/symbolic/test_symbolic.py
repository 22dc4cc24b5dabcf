"""The derived equations against the paper's, and against the numerical fields."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sympy as sp
from support.batch_problem import ORDER, PROBLEM, SURFACES
from support.derivations import CORRECTED, FUNCTIONS, derived, own
from support.rows import fast
from table import PLACE, PLACES, REPRESENTATIVE, ROWS, SMOOTH, smooth_loss

import shadowflow as sf
from shadowflow.fields import modified_field
from shadowflow.lab.choices import OPTIMIZERS
from shadowflow.symbolic import consequences, equations
from shadowflow.symbolic.equations import FACTOR, RATIO_NOW, RATIO_PAST, direction_at, factor_at
from shadowflow.symbolic.model import GRADIENT as G, PAST, PUSHED, RATE as H, SIZE, STEP, THETA
from shadowflow.symbolic.sections import Section

B, R, E0 = sp.symbols("β ρ ε", positive=True)
N = sp.Symbol("n", integer=True, nonnegative=True)
C = lambda decay: (1 + decay) / (1 - decay)
LEARNING_RATE = 0.02


def same(found, expected):
    assert sp.simplify(found - expected) == 0, found


# --- the paper's equations


def test_adam_is_the_paper_s_2_and_3():
    adam = sf.derive(sf.adam(eps=0.0, eps_root=1e-8))
    bias = H / 2 * (C(B) - C(R) + C(R) * E0 / (G**2 + E0)) * PUSHED
    same(adam.field, -(G + bias) / sp.sqrt(G**2 + E0))
    same(adam.bias_coefficient, C(B) - C(R) + C(R) * E0 / (G**2 + E0))
    same(adam.settled.potential, sp.sqrt(SIZE**2 + E0))
    assert adam.potential.symbol.name == "‖∇E‖₁,ε"


def test_adam_outside_has_the_brace_of_theorem_d_4():
    adam = sf.derive(sf.adam())
    brace = C(B) - C(R) * sp.Abs(G) / (sp.Abs(G) + E0)
    same(adam.field, -(G + H / 2 * brace * PUSHED) / (sp.Abs(G) + E0))
    same(adam.settled.potential, SIZE - E0 * sp.log(1 + SIZE / E0))


def test_the_limits_are_the_paper_s_5_and_7():
    part = sf.derive(sf.adam(eps=0.0, eps_root=1e-8)).settled
    same(part.large.bias_coefficient, C(B) - C(R))
    factor, loss = consequences.small_loss(part.small, part.offset)
    same(factor, 1 / sp.sqrt(E0))
    same(loss, consequences.LOSS + H / (4 * sp.sqrt(E0)) * C(B) * consequences.SQUARE)


def test_rmsprop_is_adam_with_beta_0_and_uncorrected_weights():
    rmsprop = sf.derive(sf.rmsprop(eps=0.0, eps_root=1e-8))
    same(rmsprop.bias_coefficient, 1 - C(R) + C(R) * E0 / (G**2 + E0))
    weights = dict(rmsprop.batched.definitions)[sp.Symbol("r_k")]
    same(weights, (1 - R) * R ** (STEP - sp.Symbol("k", integer=True)))


@pytest.mark.parametrize(
    ("optimizer", "loss"),
    [
        (sf.sgd(), H / 4),
        (sf.momentum(form="ema"), H / 4 * C(B)),
        (sf.momentum(), H * (1 + B) / (4 * (1 - B) ** 2)),
    ],
    ids=["Barrett and Dherin", "EMA", "Ghosh and others"],
)
def test_linear_optimizers_follow_the_gradient_flow_of_a_modified_loss(optimizer, loss):
    found = sf.derive(optimizer)
    part, potential = found.settled, found.potential
    assert part.linear and part.constant and potential.symbol == consequences.SQUARE
    same(
        consequences.modified_loss(potential, part.bias_coefficient),
        consequences.LOSS + loss * consequences.SQUARE,
    )
    assert "The correction is a gradient" in found.text()


def test_the_mini_batch_form_is_the_paper_s_9():
    found = sf.derive(sf.adam(eps=0.0, eps_root=1e-8)).batched
    M, V = sp.symbols("M V", real=True)
    L, L_, P, P_ = (sp.Symbol(name) for name in ("L", "L̄", "P", "P̄"))
    root = sp.Symbol("R", positive=True)
    same(found.direction, M / root)
    same(found.correction, M * (2 * P + P_) / (2 * root**3) - (2 * L + L_) / (2 * root))
    same(dict(found.definitions)[root], sp.sqrt(V + E0))


def test_factors_at_step_n_are_twice_the_mean_age_and_one():
    n, decay = 7, sp.Rational(3, 5)
    weights = [decay ** (n - k) for k in range(n + 1)]
    mean = sum(w * (n - k) for k, w in enumerate(weights)) / sum(weights)
    assert factor_at(decay).subs(STEP, n) == 1 + 2 * mean
    assert sp.limit(factor_at(decay), STEP, sp.oo) == C(decay)


def test_momentum_at_step_n_in_closed_form():
    found = sf.derive(sf.momentum()).at_step
    same(found.ratio, 1 - B ** (N + 1))
    same(found.bias_coefficient, C(B) * (1 - B ** (2 * N + 2)) - 4 * (N + 1) * B ** (N + 1))


def test_thirty_digits_at_random_rational_points():
    adam = sf.derive(sf.adam(eps=0.0, eps_root=1e-8))
    bias = H / 2 * (C(B) - C(R) + C(R) * E0 / (G**2 + E0)) * PUSHED
    oracle = -(G + bias) / sp.sqrt(G**2 + E0)
    rng = np.random.default_rng(0)
    for _ in range(5):
        numbers = [sp.Rational(int(i), 97) for i in rng.integers(1, 96, 6)]
        point = dict(zip((G, PUSHED, H, B, R, E0), numbers, strict=True))
        found, expected = (sp.N(e.subs(point), 40) for e in (adam.field, oracle))
        assert abs(found - expected) < sp.Float(10) ** -30 * abs(expected)
        assert abs(found - sp.N(oracle.subs({**point, B: 1 - B}).subs(point), 40)) > 1e-6


# --- against the numerical fields


def pushed(optimizer, problem, place):
    """(g, H·Φ) at a place."""
    loss = problem.loss
    g = jax.grad(loss)(place)
    moments = optimizer.transformed(g)
    direction = optimizer.direction(moments, place, jnp.inf)
    return g, jax.jvp(jax.grad(loss), (place,), (direction,))[1]


ALL = {**ROWS, **{f"{name}, as it comes": getattr(sf, name) for name in OPTIMIZERS}}


@pytest.mark.parametrize("row", fast([*REPRESENTATIVE, "adam, as it comes"], ALL))
def test_the_call_is_the_settled_field(row):
    optimizer = ALL[row]()
    field = derived(row) if row in ROWS else sf.derive(optimizer)
    numeric = modified_field(SMOOTH, optimizer, LEARNING_RATE, method="taylor")
    for place in PLACES:
        g, hd = pushed(optimizer, SMOOTH, place)
        found = field(g, hd, LEARNING_RATE, place)
        np.testing.assert_allclose(found, numeric("settled", place), rtol=1e-11)
        first = -optimizer.direction(optimizer.transformed(g), place, jnp.inf)
        if np.max(np.abs(numeric("settled", place) - first)) > 1e-6:
            assert np.max(np.abs(found - first)) > 1e-6


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_the_source_is_the_call(row):
    field, names = derived(row), {}
    exec(field.python(), names)
    g, hd = (np.asarray(a) for a in pushed(ROWS[row](), SMOOTH, PLACE))
    place = [np.asarray(PLACE)] if field.model.reads_params else []
    source = names["modified_field"](g, hd, LEARNING_RATE, *place)
    np.testing.assert_allclose(source, field(g, hd, LEARNING_RATE, np.asarray(PLACE)), rtol=1e-13)


@functools.cache
def landscape(place):
    place = jnp.asarray(place)
    return np.asarray(jax.grad(smooth_loss)(place)), np.asarray(jax.hessian(smooth_loss)(place))


def in_g(model, expression, g, theta, extra=None):
    """An expression in y per coordinate, as numbers; odd ones are to be given the sign."""
    values = {**model.numbers(), **(extra or {})}
    return np.array(
        [
            float(sp.sympify(expression).subs(values).subs(model.y, abs(x)).subs(THETA, t))
            for x, t in zip(g, theta, strict=True)
        ]
    )


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
@pytest.mark.parametrize("n", [0, 3])
def test_the_sums_at_step_n_are_the_numerical_field(row, n):
    """θ' from ``at_step``'s directions, slopes and shares with explicit loops."""
    found = derived(row)
    model, part = found.model, found.at_step
    g, hessian = landscape(tuple(PLACE.tolist()))
    theta = np.asarray(PLACE)
    signed = lambda e, at: _signed(model, e, g, theta, at)
    directions = [signed(direction_at(model, STEP), l) for l in range(n + 1)]
    total = np.zeros(3)
    for average, rise, older in zip(model.averages, part.slopes, part.shares, strict=True):
        way = float(sp.sympify(average.weight(n)).subs(model.numbers())) / 2 * directions[n]
        for l in range(n) if older is not None else ():
            share = older.subs({PAST: l, STEP: n}).subs(model.numbers())
            way = way + float(share) * directions[l]
        total += in_g(model, rise, g, theta, {STEP: n}) * (hessian @ way)
    drift = in_g(model, sp.diff(direction_at(model, STEP), THETA), g, theta, {STEP: n})
    expected = modified_field(SMOOTH, ROWS[row](), LEARNING_RATE, method="taylor")(n, PLACE)
    ours = -directions[n] - LEARNING_RATE * (total + drift * directions[n] / 2)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def _signed(model, expression, g, theta, step):
    """Φ at a step: the odd part with the sign of g, and what θ adds."""
    at = {STEP: step}
    whole = in_g(model, expression, g, theta, at)
    added = in_g(model, sp.sympify(expression).subs(model.y, sp.Float("1e-40")), g, theta, at)
    added = added if model.reads_params else np.zeros(3)
    return np.sign(g) * (whole - added) + added


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_the_short_form_at_step_n_is_the_numerical_field(row):
    found = derived(row)
    model, part, late = found.model, found.at_step, found.settled
    if part.bias_coefficient is None:
        assert "A_" in found.text() and row in UNCORRECTED
        return
    n = 3
    g, hessian = landscape(tuple(PLACE.tolist()))
    theta = np.asarray(PLACE)
    values = {RATIO_NOW: part.ratio, **part.named}
    strength = part.bias_coefficient.replace(FACTOR, factor_at)
    strength = strength.subs(values).subs(RATIO_NOW, part.ratio)
    strength = strength.subs(RATIO_PAST, part.ratio.subs(STEP, PAST))
    strength = strength.subs(STEP, n).doit()
    ratio = part.ratio.subs(STEP, n)
    kappa = in_g(model, late.preconditioner, g, theta)
    offset = in_g(model, late.offset, g, theta)
    direction = kappa * g + offset
    drift = in_g(model, sp.diff(late.offset, THETA), g, theta)
    push = in_g(model, strength, g, theta) * (hessian @ direction)
    ratio = float(sp.sympify(ratio).subs(model.numbers()))
    ours = -kappa * (ratio * g + LEARNING_RATE / 2 * push) - offset
    ours -= LEARNING_RATE / 2 * drift * direction
    expected = modified_field(SMOOTH, ROWS[row](), LEARNING_RATE, method="taylor")(n, PLACE)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)
    settled = modified_field(SMOOTH, ROWS[row](), LEARNING_RATE, method="taylor")("settled", PLACE)
    assert row == "sgd" or np.max(np.abs(settled - expected)) > 1e-6


UNCORRECTED = {
    "rmsprop-inside",
    "rmsprop-outside",
    "rmsprop-both",
    "adam-uncorrected",
    "signum",
    "lion",
}


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_the_mini_batch_form_is_the_numerical_field(row):
    """Its sums with explicit loops over dense Hessians, at step 3."""
    n, optimizer, found = 3, ROWS[row](), derived(row)
    model, part, theta = found.model, found.batched, np.asarray(PLACE)
    gradients = [np.asarray(SURFACES[b].gradient(theta)) for b in ORDER[: n + 1]]
    hessians = [np.asarray(SURFACES[b].hessian(theta)) for b in ORDER[: n + 1]]
    weights = lambda a, step: [float(w.subs(model.numbers())) for w in _weights(a, step)]

    def moments(step):
        return [
            sum(
                w * np.asarray(psi(g))
                for w, g in zip(weights(a, step), gradients[: step + 1], strict=True)
            )
            for a, psi in zip(model.averages, [m.transform for m in optimizer.moments], strict=True)
        ]

    forces = [
        np.asarray(optimizer.combine(tuple(moments(l)), PLACE, jnp.asarray(float(l))))
        for l in range(n + 1)
    ]
    values = {
        equations.FORCE: forces[n],
        equations.PUSHED_NOW: hessians[n] @ forces[n],
        equations.NOW: gradients[n],
        THETA: theta,
    }
    values |= {past.moment: m for past, m in zip(part.pasts, moments(n), strict=True)}
    for a, m, past in zip(model.averages, optimizer.moments, part.pasts, strict=True):
        if past.moving == 0:
            continue
        scale = float(past.scale)
        slopes = [jax.vmap(jax.grad(m.transform))(jnp.asarray(g)) / scale for g in gradients]
        ws = weights(a, n)
        values[past.moving] = sum(
            ws[k] * slopes[k] * (hessians[k] @ sum(forces[k:n], np.zeros(3))) for k in range(n + 1)
        )
        values[past.still] = sum(
            ws[k] * slopes[k] * (hessians[k] @ forces[n]) for k in range(n + 1)
        )
    whole = -part.direction + LEARNING_RATE * part.correction
    for symbol, meaning in reversed(part.definitions):
        if not meaning.has(sp.Sum) and symbol not in values:
            whole = whole.subs(symbol, meaning)
    for symbol, meaning in part.definitions:
        if not meaning.has(sp.Sum):
            whole = whole.subs(symbol, meaning)
    ours = [
        float(
            whole.subs({STEP: n, **model.numbers()}).subs(
                {s: float(np.asarray(v)[j]) for s, v in values.items()}
            )
        )
        for j in range(3)
    ]
    expected = modified_field(PROBLEM, optimizer, LEARNING_RATE, method="taylor")(n, PLACE)
    np.testing.assert_allclose(ours, expected, rtol=1e-10)


def _weights(average, step):
    if average.decay == 0:
        return [sp.Integer(int(k == step)) for k in range(step + 1)]
    raw = [(1 - average.decay) * average.decay ** (step - k) for k in range(step + 1)]
    return [w / (1 - average.decay ** (step + 1)) for w in raw] if average.corrected else raw


# --- losses and potentials


@pytest.mark.parametrize("row", fast(REPRESENTATIVE, ROWS))
def test_potential_and_one_dimensional_loss_have_the_right_slopes(row):
    part, potential = derived(row).settled, derived(row).potential
    y, numbers = part.y, derived(row).model.numbers()
    place = {**numbers, y: sp.Rational(3, 7)}
    assert abs(sp.N((sp.diff(part.potential, y) - part.driven).subs(place))) < 1e-12
    line = consequences.line_loss(part, potential)
    line = line.subs(potential.symbol, part.potential / (potential.scale if part.linear else 1))
    slope = sp.N((sp.diff(line, y) - part.bias_coefficient * part.driven).subs(place))
    assert abs(slope) < 1e-12


@pytest.mark.parametrize("row", ["signum", "lion"])
def test_sign_like_optimizers_follow_their_direction_on_another_loss(row):
    """−Φ(g + (h/2) c HΦ) has the field's slope in h."""
    part = derived(row).settled
    moved = part.driven.subs(part.y, part.y + H / 2 * part.alike * PUSHED)
    same(sp.diff(moved, H).subs(H, 0), part.bias * PUSHED / 2)


def test_one_decay_makes_adam_its_direction_on_another_loss():
    part = derived("adam-both").settled
    equal = part.bias.subs(R, B)
    same(equal, C(B) * sp.diff(part.driven, part.y))
    assert part.alike is None


def test_the_limit_with_weight_decay_is_a_gradient():
    """κ and s constant: −κ (g + (h/2) s HΦ) − λ (θ + (h/2) Φ) = −∇Ẽ on a polynomial in two."""
    part = derived("adamw").settled
    _, loss = consequences.small_loss(part.small, part.offset)
    x = sp.Matrix(sp.symbols("x y", real=True))
    energy = x[0] ** 3 * x[1] + x[0] * x[1] ** 2 + x[0] ** 2
    grad = sp.Matrix([sp.diff(energy, v) for v in x])
    hessian = sp.hessian(energy, list(x))
    pull = sp.diff(part.offset, THETA)
    kappa, strength = part.small.preconditioner, part.small.bias_coefficient
    direction = kappa * grad + pull * x
    flow = -kappa * (grad + H / 2 * strength * hessian * direction) - pull * (x + H / 2 * direction)
    there = loss.subs(
        {
            consequences.LOSS: energy,
            consequences.SQUARE: grad.dot(grad),
            consequences.PARAMETERS: x.dot(x),
            consequences.TURNED: x.dot(grad),
        }
    )
    for v, component in zip(x, flow, strict=True):
        same(-sp.diff(there, v), component)


def test_the_sign_of_the_coefficient_turns_where_it_is_said():
    part = sf.derive(sf.adam(eps=0.0, eps_root=1e-8)).settled
    place, where = consequences.crossing(part, {B: sp.Rational(9, 10), R: sp.Rational(99, 100)})
    assert place == SIZE**2
    same(where, E0 * (1 + B) * (1 - R) / (2 * (R - B)))
    same(part.bias_coefficient.subs(SIZE, sp.sqrt(where)), 0)


# --- edges


@pytest.mark.parametrize("row", ["sgd", "momentum", "nesterov", "adam-both", "nadam", "lion"])
def test_edges_in_closed_form_are_the_numerical_ones(row):
    build = ROWS[row].build
    for low, high in ((0.3, 0.8), (0.85, 0.95), (0.9, 0.99)):
        options = {"sgd": {}, "momentum": {"decay": low}, "nesterov": {"decay": low}}.get(
            row, {"b1": low, "b2": high}
        )
        optimizer = build(**options)
        own = {h.symbol: h.value for h in derived(row).model.hypers}
        by_name = {"β": low, "ρ": high, "β₁": low, "β₂": high}
        own = {symbol: by_name.get(symbol.name, value) for symbol, value in own.items()}
        edges = derived(row).edges
        flow, stability = (float(e.subs(own)) for e in (edges.flow, edges.stability))
        np.testing.assert_allclose(flow, sf.flow_threshold(optimizer), rtol=1e-6)
        np.testing.assert_allclose(stability, sf.stability_threshold(optimizer), rtol=1e-6)


def test_momentum_s_edges_are_the_hessian_s():
    edges = derived("momentum").edges
    assert edges.matrix == "Hessian"
    same(edges.flow, (1 - sp.sqrt(B)) ** 2)
    same(edges.stability, 2 * (1 + B))


def test_adam_s_edges_are_those_of_the_theory():
    edges = derived("adam-both").edges
    assert edges.matrix == "preconditioned Hessian"
    same(edges.flow, (1 - sp.sqrt(B)) / (1 + sp.sqrt(B)))
    same(edges.stability, 2 * C(B))


# --- a user's own combine function


def check_own(optimizer, places=PLACES, rtol=1e-10):
    found = sf.derive(optimizer)
    numeric = modified_field(SMOOTH, optimizer, LEARNING_RATE, method="taylor")
    for place in places:
        g, hd = pushed(optimizer, SMOOTH, place)
        ours = found(g, hd, LEARNING_RATE, place)
        np.testing.assert_allclose(ours, numeric("settled", place), rtol=rtol)
    return found


def test_numbers_of_a_module_become_symbols():
    found = check_own(own())
    assert {h.symbol.name: h.value for h in found.model.hypers} == {
        "β": 0.5,
        "β₂": 0.8,
        "γ": 0.6,
        "power": 0.25,
        "mixture": 0.7,
    }
    assert "tanh" in found.text() and r"\mathrm{power}" in found.latex()


@pytest.mark.parametrize(
    "name", fast([name for name in FUNCTIONS if name != "a lambda"], FUNCTIONS)
)
def test_functions_of_ordinary_operators(name):
    found = check_own(sf.Optimizer(CORRECTED, FUNCTIONS[name], "own"))
    assert found.text() and found.latex() and found.html()
    assert (found.model.y is SIZE) == (name != "not odd")
    assert "sign(x)" not in found.text()


def test_what_sympy_cannot_do_is_named():
    optimizer = sf.Optimizer([sf.Moment(0.5)], lambda m, p, n: jax.lax.lgamma(m[0]))
    with pytest.raises(ValueError, match="got the primitive 'lgamma'; known are"):
        sf.derive(optimizer)


def test_arrays_of_numbers_are_refused():
    class Scaled(eqx.Module):
        scale: jax.Array

        def __call__(self, moments, params, step):
            return moments[0] * jnp.sum(self.scale).astype(moments[0].dtype)

    with pytest.raises(ValueError, match="same for every coordinate, got an array of shape"):
        sf.derive(sf.Optimizer([sf.Moment(0.5)], Scaled(jnp.ones(3))))


@pytest.mark.parametrize(
    ("combine", "found"),
    [
        (lambda m, p, n: m[0] * 0, "got 0 once"),
        (lambda m, p, n: m[0] * jnp.nan, "got nan once"),
        (lambda m, p, n: m[0] / 0, "got zoo"),
        (lambda m, p, n: p, "got θ once"),
        (lambda m, p, n: m[0] * jnp.log(-1.0), r"got I\*pi\*m once"),
    ],
)
def test_a_direction_without_moments_or_value_is_refused(combine, found):
    with pytest.raises(ValueError, match=f"combine: expected a finite real direction .*{found}"):
        sf.derive(sf.Optimizer([sf.Moment(0.5)], combine))


class ByHand(eqx.Module):
    decay: float
    shift: float

    def __call__(self, moments, params, step):
        return moments[0] / (1 - self.decay ** (step + 1)) + jnp.abs(self.shift) * moments[0]


def test_a_correction_by_hand_fades_and_a_negative_number_keeps_its_sign():
    found = check_own(sf.Optimizer([sf.Moment(0.5)], ByHand(0.5, -0.3)))
    shift = found.symbols["shift"]
    same(found.direction, G * (1 + sp.Abs(shift)))
    assert not shift.is_positive


def test_leaves_without_a_usable_name_are_constants():
    combine = jax.tree_util.Partial(lambda c, m, p, n: c["a b"] * m[0], {"a b": 0.3})
    found = check_own(sf.Optimizer([sf.Moment(0.5)], combine))
    assert found.symbols["number"].name == "c"


class Deciding(eqx.Module):
    gain: float

    def __call__(self, moments, params, step):
        return moments[0] * 2 if self.gain > 1 else moments[0]


def test_a_combine_that_decides_by_its_numbers_keeps_them():
    found = check_own(sf.Optimizer([sf.Moment(0.5)], Deciding(3.0)))
    assert [h.name for h in found.model.hypers] == ["decay"]
    assert "stay numbers" in found.text()


@pytest.mark.parametrize("build", [sf.signum, sf.lion])
def test_a_sharp_sign_has_no_correction_and_says_why(build):
    found = sf.derive(build(eps_root=0.0))
    assert found.settled.bias == 0 and found.edges.refused
    text = found.text()
    assert "derivative 0, which holds away from 0 only" in text
    assert "The correction vanishes" in text and "There are no edges" in text
    assert "derivative 0" not in sf.derive(build()).text()


# --- inputs


def test_bad_input_is_refused():
    with pytest.raises(TypeError, match=r"optimizer: expected a shadowflow.Optimizer"):
        sf.derive("adam")
    field = derived("adamw")
    with pytest.raises(ValueError, match="params: expected the parameters"):
        field(PLACE, PLACE, 0.1)
    with pytest.raises(ValueError, match="expected one shape"):
        derived("sgd")(PLACE, PLACE[:2], 0.1)
    with pytest.raises(ValueError, match="learning_rate: expected"):
        derived("sgd")(PLACE, PLACE, 0.0)


def test_without_sympy_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "sympy", None)
    with pytest.raises(ImportError, match=r"pip install 'shadowflow\[symbolic\]'"):
        sf.derive(sf.adam())


def test_the_call_keeps_float32_and_may_be_differentiated():
    field = derived("adam-both")
    single = field(PLACE.astype(jnp.float32), PLACE.astype(jnp.float32), 0.1)
    assert single.dtype == jnp.float32
    slope = jax.grad(lambda g: jnp.sum(field(g, PLACE, 0.1)))(PLACE)
    assert np.all(np.isfinite(slope))


def test_two_moments_may_have_the_same_decay():
    adam = sf.derive(sf.adam(b1=0.9, b2=0.9))
    assert {h.symbol.name for h in adam.model.hypers} == {"β", "ρ", "ε"}
    same(adam.bias_coefficient, C(B) - C(R) * sp.Abs(G) / (sp.Abs(G) + E0))


def test_sections_say_one_thing_each():
    titles = [section.title for section in derived("adam-both").sections()]
    assert len(titles) == len(set(titles)) == 8
    assert all(isinstance(s, Section) for s in derived("sgd").sections())
