"""Flows are solved far more accurately than they model, on pieces, on hosts, in every dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from support.records import ratios
from support.rows import fast
from table import BILINEAR, BILINEAR_START, ROWS, bilinear_loss

import shadowflow as sf
from shadowflow.methods import base
from shadowflow.optimizers import zoo

RATE, STEPS = 5e-3, 40
GRAD = jax.jit(jax.grad(bilinear_loss))


def solved(field, y, start, stop):
    """y at ``stop`` by an independent solver of high order."""
    done = solve_ivp(field, (start, stop), np.asarray(y), method="DOP853", rtol=1e-12, atol=1e-13)
    return done.y[:, -1]


def by_pieces(optimizer, method, order, steps, settled=False):
    """The flow with the step number fixed on each piece, at its right end too."""
    function = sf.modified_field(BILINEAR, optimizer, RATE, method=method, order=order)
    field = jax.jit(function) if not settled else jax.jit(lambda step, x: function("settled", x))
    path = [np.asarray(BILINEAR_START)]
    for n in range(steps):
        piece = lambda t, x, n=n: np.asarray(field(jnp.asarray(n), x))
        path.append(solved(piece, path[-1], n * RATE, (n + 1) * RATE))
    return np.stack(path)


def gap(a, b):
    return np.max(np.abs(np.asarray(a) - np.asarray(b)))


SOLVED = [
    (row, method, order)
    for row in ("adam-inside", "rmsprop-outside", "nesterov")
    for method in ("taylor", "displaced")
    for order in (1, 2)
]


@pytest.mark.parametrize(
    ("row", "method", "order"),
    fast([case for case in SOLVED if case[2] == 2 or case[:2] == ("nesterov", "taylor")], SOLVED),
)
def test_the_solver_errs_ten_times_less_than_the_model(row, method, order):
    options = {"method": method, "order": order}
    real = sf.iterate(BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS)
    follow = sf.shadow(BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS, **options, check=False)
    solver = gap(follow.params, by_pieces(ROWS[row](), method, order, STEPS))
    assert 0 < solver < gap(real.params, follow.params) / 10


@pytest.mark.parametrize(
    ("row", "order"),
    fast(
        [("adam-inside", 2)],
        [("adam-inside", 1), ("adam-inside", 2), ("momentum", 1), ("momentum", 2)],
    ),
)
def test_a_settled_flow_in_strides_is_solved_as_well(row, order):
    state = sf.settled_state(BILINEAR, ROWS[row](), BILINEAR_START, RATE)
    real = sf.iterate(BILINEAR, ROWS[row](), BILINEAR_START, RATE, STEPS, start=state)
    follow = sf.shadow(
        BILINEAR,
        ROWS[row](),
        BILINEAR_START,
        RATE,
        STEPS,
        start="settled",
        method="taylor",
        order=order,
        check=False,
    )
    solver = gap(follow.params, by_pieces(ROWS[row](), "taylor", order, STEPS, settled=True))
    assert solver < gap(real.params, follow.params) / 10


def test_pieces_are_dropped_only_where_they_no_longer_matter():
    adam = zoo.adam(b1=0.2, b2=0.3, eps=0.0, eps_root=0.1)
    faded = adam.memory_length(BILINEAR_START)
    steps = faded + 20
    assert 30 < faded < 60
    follow = sf.shadow(BILINEAR, adam, BILINEAR_START, RATE, steps, method="taylor", check=False)
    np.testing.assert_allclose(follow.params, by_pieces(adam, "taylor", 2, steps), atol=1e-9)
    sizes = ratios(BILINEAR, adam, BILINEAR_START, RATE, steps, method="taylor")
    assert len(sizes) == steps and np.all(sizes > 0)


HOST = sf.Problem(
    grad=lambda x: np.asarray(GRAD(x)),
    hvp=lambda x, v: np.asarray(jax.hessian(bilinear_loss)(x) @ v),
    traceable=False,
)


FOLLOWED = [
    (method, kind, start)
    for method, kind in (
        ("taylor", "flow"),
        ("displaced", "iteration"),
        ("displaced", "flow"),
        ("inertial", "flow"),
    )
    for start in (0, "settled")
]


@pytest.mark.parametrize(
    ("method", "kind", "start"),
    fast([("displaced", "flow", 0), ("displaced", "iteration", "settled")], FOLLOWED),
)
def test_a_host_function_is_followed_like_a_traced_one(method, kind, start):
    args = (ROWS["rmsprop-inside"](), BILINEAR_START, RATE, 4)
    options = {"method": method, "kind": kind, "start": start}
    host, traced = (sf.shadow(problem, *args, **options) for problem in (HOST, BILINEAR))
    np.testing.assert_allclose(host.params, traced.params, rtol=1e-12)
    np.testing.assert_allclose(host.validity.share, traced.validity.share, rtol=1e-5)
    sizes = [ratios(problem, *args, **options) for problem in (HOST, BILINEAR)]
    np.testing.assert_allclose(*sizes, rtol=1e-5)


def test_a_host_function_gets_arrays_not_tracers():
    seen = []

    def gradient(x):
        seen.append(isinstance(x, jax.core.Tracer))
        return np.asarray(x)

    problem = sf.Problem(grad=gradient, traceable=False)
    sf.shadow(problem, zoo.adam(), jnp.ones(2), 1e-3, 2, method="inertial", check=False)
    assert seen
    assert not any(seen)


def test_a_host_function_without_hvp_is_refused_where_one_is_needed():
    problem = sf.Problem(grad=lambda x: x, traceable=False)
    with pytest.raises(ValueError, match="hvp: expected a Hessian-vector product for"):
        sf.shadow(problem, zoo.adam(), jnp.ones(2), 1e-3, 2, method="taylor", check=False)


CLIFF = sf.Problem(lambda x: jnp.sum(x + 0 * jnp.sqrt(x - 0.9)))  # no number below 0.9


FAILING = [
    (method, kind, start)
    for method, kind in (
        ("taylor", "flow"),
        ("taylor", "iteration"),
        ("displaced", "flow"),
        ("inertial", "flow"),
    )
    for start in (0, "settled")
]


@pytest.mark.parametrize(
    ("method", "kind", "start"),
    fast([case for case in FAILING if case[:2] != ("taylor", "flow")], FAILING),
)
def test_a_flow_stops_where_nan_begins_and_keeps_what_came_before(method, kind, start):
    follow = sf.shadow(
        CLIFF, zoo.sgd(), jnp.ones(2), 0.03, 100, method=method, kind=kind, start=start
    )
    assert follow.failed_at == (3 if kind == "flow" else 4)  # a flow looks ahead within its step
    assert follow.steps[-1] == follow.failed_at
    assert np.all(np.isfinite(follow.params))
    assert len(follow.params) == follow.failed_at + 1
    assert follow.verdict.startswith(
        f"does not follow: a non-finite number began at step {follow.failed_at}"
    )
    assert len(follow.validity.share) == follow.failed_at


def test_a_failure_late_in_a_run_is_placed_exactly():
    follow = sf.shadow(
        CLIFF, zoo.sgd(), jnp.ones(2), 0.1 / 150.5, 400, kind="iteration", check=False
    )
    assert follow.failed_at == 151
    assert follow.steps[-1] == 151


@pytest.mark.parametrize(
    "options", [{"kind": "iteration"}, {}, {"start": "settled"}, {"method": "inertial"}]
)
def test_a_loss_that_is_no_number_stops_a_run_even_where_its_gradient_is_one(options):
    loss = lambda x: jnp.where(x[0] > 0.9, 1.0, jnp.nan) + jnp.sum(x)
    problem = sf.Problem(loss, grad=lambda x: jnp.ones_like(x))
    follow = sf.shadow(problem, zoo.sgd(), jnp.ones(1), 0.03, 100, **options, check=False)
    assert follow.failed_at == 4
    np.testing.assert_allclose(follow.params[-1], 0.88, rtol=1e-9)


KEPT = [
    (method, start)
    for method in ("taylor", "displaced", "linearized", "inertial")
    for start in (0, "settled")
]


@pytest.mark.parametrize(
    ("method", "start"),
    fast([*(case for case in KEPT if case[1] == 0), ("displaced", "settled")], KEPT),
)
def test_every_leaf_keeps_its_dtype(method, start):
    params = {"a": jnp.ones(2, jnp.float32), "b": jnp.full((1, 2), 2.0, jnp.float64)}

    def loss(p):
        return jnp.sum((p["a"].astype(jnp.float64) * p["b"][0]) ** 2) / 2

    follow = sf.shadow(
        sf.Problem(loss),
        ROWS["rmsprop-both"](),
        params,
        1e-3,
        3,
        method=method,
        start=start,
        check=False,
    )
    assert follow.params["a"].dtype == np.float32
    assert follow.params["b"].dtype == np.float64
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), params)
    fine = sf.shadow(
        sf.Problem(loss),
        ROWS["rmsprop-both"](),
        wide,
        1e-3,
        3,
        method=method,
        start=start,
        check=False,
    )
    np.testing.assert_allclose(follow.params["b"], fine.params["b"], rtol=1e-6)


@pytest.mark.parametrize("start", [0, "settled"])
def test_saving_less_saves_the_same(start):
    args = (BILINEAR, ROWS["adam-inside"](), BILINEAR_START, RATE, 11)
    every, some = (sf.shadow(*args, start=start, save_every=k) for k in (1, 4))
    np.testing.assert_array_equal(some.steps, [0, 4, 8, 11])
    np.testing.assert_allclose(some.times, RATE * some.steps)
    np.testing.assert_array_equal(some.params, every.params[some.steps])
    np.testing.assert_array_equal(some.validity.share, every.validity.share)
    assert len(some.validity.share) == 11


def test_progress_counts_every_step_once():
    for options in ({}, {"start": "settled"}, {"method": "inertial"}):
        told = []
        sf.shadow(
            BILINEAR,
            ROWS["adam-inside"](),
            BILINEAR_START,
            RATE,
            300,
            progress=told.append,
            **options,
            check=False,
        )
        assert sum(told) == 300


def test_no_step_is_no_motion():
    for method in ("taylor", "inertial"):
        follow = sf.shadow(BILINEAR, zoo.adam(), BILINEAR_START, RATE, 0, method=method)
        np.testing.assert_array_equal(follow.params, [BILINEAR_START])
        assert follow.verdict


def test_inertial_asks_for_the_state_of_a_run_that_has_begun():
    with pytest.raises(ValueError, match="start: expected the optimizer's state at step 5"):
        sf.shadow(
            BILINEAR, zoo.adam(), BILINEAR_START, RATE, 3, method="inertial", start=5, check=False
        )


def perceptron(width, act, seed=0):
    """Twenty samples on one hidden layer, 3-width-1: its loss and a start."""
    keys = jax.random.split(jax.random.key(seed), 4)
    inputs, targets = jax.random.normal(keys[0], (20, 3)), jax.random.normal(keys[1], (20,))
    start = {
        "in": jax.random.normal(keys[2], (3, width)) / np.sqrt(3),
        "out": jax.random.normal(keys[3], (width,)) / np.sqrt(width),
    }
    loss = lambda p: jnp.mean((act(inputs @ p["in"]) @ p["out"] - targets) ** 2)
    return sf.Problem(loss), start


@pytest.mark.slow
@pytest.mark.parametrize("order", [1, 2])
def test_a_flow_crosses_the_kinks_of_relu(order):
    """Where its solver's steps are too many it takes fixed ones, and says from which step on; on a
    smooth loss it takes none."""
    adam = zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6)
    for act in (jax.nn.relu, jnp.tanh):
        problem, start = perceptron(3, act)
        follow = sf.shadow(problem, adam, start, 1e-3, 40, order=order, start="settled")
        assert follow.failed_at is None and follow.steps[-1] == 40
        assert ("one step per step of the optimizer at" in follow.verdict) == (act is jax.nn.relu)
        assert "non-finite" not in follow.verdict


def test_the_fixed_steps_are_those_of_the_adaptive_solver_on_a_smooth_loss(monkeypatch):
    """To a thousandth of the flow's own error, begun in the middle of a stride."""
    args = (BILINEAR, ROWS["adam-inside"](), BILINEAR_START, RATE, STEPS)
    state = sf.settled_state(*args[:-1])
    real = sf.iterate(*args, start=state)
    whole = sf.shadow(*args, start="settled")
    stride = base._stride

    def given_up(flow, memory, params, steps):
        path, values, records = stride(flow, memory, params, steps)
        return path.at[8:].set(jnp.inf), values, records

    monkeypatch.setattr(base, "_stride", given_up)
    fixed = sf.shadow(*args, start="settled")
    assert fixed.failed_at is None and f"at {STEPS - 7} of {STEPS} steps" in fixed.verdict
    assert 0 < gap(fixed.params, whole.params) < gap(real.params, whole.params) / 1000
