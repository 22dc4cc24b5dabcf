"""The measures of a run against numpy, against the bias with real Hessians, and their limits."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from scipy.integrate import quad
from support.refusals import refused
from table import ROWS, with_leaves

from shadowflow import ema_weights as mem
from shadowflow.diagnostics.bias import implicit_bias
from shadowflow.iterate import iterate
from shadowflow.monitor.measures import _median, run_measures
from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Moment, Optimizer, square
from shadowflow.problem import Problem

RATE, STEPS = 0.01, 12
START = {"a": jnp.asarray([[0.9, 1.4], [-0.7, 0.3]]), "b": jnp.asarray(0.8)}
EFFECTS = {"memoryless", "momentum", "second moment", "discretization", "bias"}
OF_TWO = {
    "predicted_deviation",
    "cosine",
    "slope",
    "beyond_nu_edge",
    *(f"effect/{name}" for name in EFFECTS),
}


def loss(p):
    x, b = p["a"].ravel(), p["b"]
    return (
        0.5 * (1.5 - 2 * x[0] * x[1]) ** 2
        + 0.3 * x[2] ** 4
        + 0.5 * x[1] * x[2]
        + jnp.sin(x[0] * x[2])
        + b**2 * x[3] ** 2
        + 0.3 * (b - x[3])
    )


PROBLEM = Problem(loss)
gradient = jax.jit(jax.grad(loss))


@functools.cache
def run(row, rate=RATE, steps=STEPS, params=None):
    """(places, state before step ``steps``) of a real run."""
    found = iterate(PROBLEM, ROWS[row](), START, rate, steps)
    return found.params, found.state


def place(path, n):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[n]), path)


def inputs(row, rate=RATE, steps=STEPS):
    """The arguments of ``run_measures`` at the last step of a run."""
    path, before = run(row, rate, steps)
    optimizer, params = ROWS[row](), place(path, steps)
    grad, last = gradient(params), gradient(place(path, steps - 1))
    state, _ = optimizer.update(before, grad, params, rate)
    memory = mem.ready(optimizer, rate, steps, jnp.ones(1))
    return with_leaves(optimizer), memory, params, grad, state, last


measured = jax.jit(
    lambda optimizer, memory, params, grad, state, last: run_measures(
        optimizer, memory, params, grad, state, last_grad=last
    )
)


@functools.cache
def found(row, rate=RATE, steps=STEPS):
    return measured(*inputs(row, rate, steps))


def by_numpy(row, name_of_leaf=None) -> dict:
    """The measures written out, on all coordinates or on one leaf."""
    path, _ = run(row)
    formula, options = oracles.formula(row, ROWS[row].options), ROWS[row].options
    pick = (
        (lambda p: np.ravel(p[name_of_leaf]))
        if name_of_leaf
        else (lambda p: np.concatenate([np.ravel(p["a"]), np.ravel(p["b"])]))
    )
    grads = [pick(gradient(place(path, k))) for k in range(STEPS + 1)]
    g, last, theta, n = grads[-1], grads[-2], pick(place(path, STEPS)), STEPS
    moments, line, change, forward = [], [], [], []
    for decay, psi, slope, corrected in formula.moments:
        share = oracles.weights(decay, n, corrected)
        change.append(sum(w * (n - k) * slope(g) * (last - g) for k, w in enumerate(share)))
        forward.append(0.5 * share.sum() * slope(g) * (last - g))
        moments.append(sum(w * psi(gk) for w, gk in zip(share, grads, strict=True)))
        line.append(sum(w * psi(g + (n - k) * (last - g)) for k, w in enumerate(share)))
    now = oracles.averages(formula, g, n)
    first, partials = formula.combine(now, theta, n), formula.partials(now, theta, n)
    step = formula.combine(moments, theta, n)
    actual, predicted = step - first, formula.combine(line, theta, n) - first
    eps, eps_root = options.get("eps", 0.0), options.get("eps_root", 0.0)
    if row.startswith(("sgd", "momentum", "nesterov")):
        eps = eps_root = 0.0
    measures = {
        "one_norm": np.sum(np.abs(g)),
        "two_norm": np.linalg.norm(g),
        "mean_abs": np.mean(np.abs(g)),
        "std_abs": np.std(np.abs(g)),
        "perturbed_one_norm": np.sum(np.sqrt(g**2 + eps_root + eps**2)),
        "linf_sharpness": RATE * np.sum(np.abs(g)),
        "deviation": np.linalg.norm(actual),
        "predicted_deviation": np.linalg.norm(predicted),
        "cosine": actual @ predicted / (np.linalg.norm(actual) * np.linalg.norm(predicted)),
        "slope": actual @ predicted / (predicted @ predicted),
        "saturated": np.mean(np.abs(g) < max(eps, np.sqrt(eps_root))),
        "update_rms": RATE * np.sqrt(np.mean(step**2)),
        "update_ratio": RATE * np.linalg.norm(step) / np.linalg.norm(theta),
    }
    squares = [i for i, m in enumerate(formula.moments) if m[0] and m[1](2.0) == 4.0]
    if squares:
        i = squares[0]
        decay, *_, corrected = formula.moments[i]
        measures["lag"] = np.median(g**2 / moments[i] * (1 if corrected else 1 - decay ** (n + 1)))
        speed = np.abs(np.log(np.abs(g)) - np.log(np.abs(last)))
        measures["beyond_nu_edge"] = np.mean(speed >= -np.log(formula.moments[i][0]) / 2)
    grid = sum(part * move for part, move in zip(partials, forward, strict=True))
    parts = {
        "memoryless": -first,
        "discretization": -grid - RATE / 2 * formula.weight_decay * first,
    }
    for i, (decay, psi, *_) in enumerate(formula.moments):
        if decay:
            parts["second moment" if psi(2.0) == 4 else "momentum"] = -partials[i] * change[i]
    rates = {name: np.sum((last - g) / RATE * part) for name, part in parts.items()}
    rates["bias"] = sum(rate for name, rate in rates.items() if name != "memoryless")
    measures["potential"] = sum(map(functools.partial(integral, formula, n), g))
    return measures | {f"effect/{name}": rate for name, rate in rates.items()}


def integral(formula, n, g) -> float:
    """∫_0^g Φ for one coordinate, what weight decay adds left out."""
    driven = lambda y: formula.combine(oracles.averages(formula, y, n), 0.0, n)
    return quad(driven, 0, g, epsabs=1e-13, epsrel=1e-12)[0]


@pytest.mark.parametrize("leaf", [None, "a", "b"])
@pytest.mark.parametrize("row", [row for row in ROWS if row != "sgd"])
def test_every_measure_is_what_numpy_computes(row, leaf):
    expected = by_numpy(row, leaf)
    for name, value in expected.items():
        answer = found(row).total[name] if leaf is None else found(row).leaves[name][leaf]
        np.testing.assert_allclose(answer, value, rtol=1e-8, atol=1e-12, err_msg=name)
    assert set(found(row).total) == set(found(row).leaves) == set(expected)


def test_the_first_norms_are_not_trivial():
    """What the comparison above rests on: the measures differ from one another and from 0."""
    values = by_numpy("adam-both")
    assert len({round(float(v), 6) for v in values.values()}) >= len(values) - 2
    assert 0 < values["saturated"] < 1


def test_gradient_descent_has_no_deviation():
    total = found("sgd").total
    assert float(total["deviation"]) == float(total["predicted_deviation"]) == 0
    assert float(total["cosine"]) == float(total["slope"]) == 0, "of nothing, not NaN"
    assert float(total["potential"]) == pytest.approx(float(total["two_norm"]) ** 2 / 2)
    assert "lag" not in total and "beyond_nu_edge" not in total


@pytest.mark.parametrize(
    "row", ["adam-inside", "adam-outside", "rmsprop-corrected", "lion", "momentum-corrected"]
)
def test_the_effects_are_those_of_the_bias_up_to_one_step(row):
    """Hessian-vector products replaced by a difference along the run: an error of O(h).

    From step 200 on, where uncorrected weights have settled too."""
    gaps, steps = [], 200
    for rate in (4e-4, 1e-4):
        path, _ = run(row, rate, steps)
        bias = implicit_bias(PROBLEM, ROWS[row](), place(path, steps), rate, start=steps)
        total = found(row, rate, steps).total
        assert float(total["potential"]) == pytest.approx(bias.potential.value, rel=1e-9)
        rates = {**bias.potential.rates, "bias": bias.potential.bias_rate}
        assert {f"effect/{name}" for name in rates} == {n for n in total if "effect/" in n}
        gaps.append([abs(float(total[f"effect/{n}"]) / v - 1) for n, v in rates.items()])
        leaves = found(row, rate, steps).leaves
        for name, tree in bias.potential.leaf_rates.items():
            got, size = leaves[f"effect/{name}"], abs(rates[name])
            assert all(abs(float(got[leaf]) - tree[leaf]) < 0.05 * size for leaf in tree)
    assert np.all(np.array(gaps[1]) < 0.05)
    assert np.all(np.array(gaps[1]) < 0.5 * np.array(gaps[0]))


def test_prediction_and_deviation_agree_as_the_step_shrinks():
    misses = []
    for rate in (8e-4, 2e-4, 5e-5):
        total = found("adam-inside", rate, 60).total
        misses.append([1 - float(total["cosine"]), abs(1 - float(total["slope"]))])
    misses = np.array(misses)
    assert np.all(misses[-1] < [1e-4, 1e-2]), misses
    assert np.all(misses[1:] < misses[:-1] / 2)


def test_a_gradient_of_other_data_predicts_nothing():
    """Negative control: with another batch's gradient the difference is noise."""
    optimizer, memory, params, grad, state, last = inputs("adam-inside", 2e-4, 60)
    other = jax.tree.map(
        lambda g, k: g * jnp.cos(k),
        last,
        {"a": jnp.arange(4.0).reshape(2, 2), "b": jnp.asarray(2.0)},
    )
    noisy = measured(optimizer, memory, params, grad, state, other).total
    assert float(found("adam-inside", 2e-4, 60).total["cosine"]) > 0.9999
    assert abs(float(noisy["cosine"])) < 0.5
    assert abs(float(noisy["slope"])) < 0.01


def test_along_a_schedule_the_line_is_one_in_time():
    """The memory advanced step by step with each step's rate, against a sum over the past."""
    adam, rates = zoo.adam(b1=0.5, b2=0.7, eps=0.1), [0.01, 0.03, 0.02, 0.05, 0.01, 0.02]
    params, state = START, adam.init(START)
    memory, last, n = mem.ready(adam, rates[0], 0, jnp.ones(1)), None, len(rates) - 1
    for rate in rates:
        grad = gradient(params)
        memory = memory.with_rate(rate)
        before, (state, move) = params, adam.update(state, grad, params, rate)
        if rate is not rates[-1] or memory.step < n:
            params = jax.tree.map(jnp.add, params, move)
            last, memory = grad, memory.advanced()
    total = run_measures(
        adam, memory, before, grad, state, last_grad=last, last_rate=rates[-2], potential=False
    ).total
    g, old = (np.concatenate([np.ravel(x["a"]), np.ravel(x["b"])]) for x in (grad, last))
    back = np.array([sum(rates[k:n]) for k in range(n + 1)])
    line = [g + time * (old - g) / rates[-2] for time in back]
    m, v = (
        sum(w * x**p for w, x in zip(oracles.weights(b, n, True), line, strict=True))
        for b, p in ((0.5, 1), (0.7, 2))
    )
    predicted = m / (np.sqrt(v) + 0.1) - g / (np.abs(g) + 0.1)
    assert float(total["predicted_deviation"]) == pytest.approx(np.linalg.norm(predicted), rel=1e-9)


def test_a_rate_of_the_last_step_is_taken():
    *given, last = inputs("adam-inside")
    halved = run_measures(*given, last_grad=last, last_rate=RATE / 2)
    assert float(halved.total["effect/memoryless"]) == pytest.approx(
        2 * float(found("adam-inside").total["effect/memoryless"]), rel=1e-9
    )
    still = run_measures(*given, last_grad=given[3], last_rate=0.0).total
    assert float(still["predicted_deviation"]) < 1e-15 and float(still["effect/bias"]) == 0


def test_weight_decay_costs_the_effects_its_share_of_the_step():
    """The difference along the run is H·F, the gradient of the potential H·(F − decay·θ)."""
    gaps, rate, steps = [], 1e-4, 50
    for decay in (0.1, 0.01):
        adamw = zoo.adamw(b1=0.5, b2=0.7, eps=1e-8, eps_root=0.1, weight_decay=decay)
        path = iterate(PROBLEM, adamw, START, rate, steps)
        params, last = place(path.params, steps), gradient(place(path.params, steps - 1))
        state, _ = adamw.update(path.state, gradient(params), params, rate)
        memory = mem.ready(adamw, rate, steps, jnp.ones(1))
        total = run_measures(adamw, memory, params, gradient(params), state, last_grad=last).total
        bias = implicit_bias(PROBLEM, adamw, params, rate, start=steps)
        gaps.append(float(total["effect/bias"]) / bias.potential.bias_rate - 1)
        assert float(total["potential"]) == pytest.approx(bias.potential.value, rel=1e-9)
    assert 0.005 < abs(gaps[1]) < 0.02 < abs(gaps[0]) < 0.2


def test_the_eps_of_the_norm_may_be_chosen():
    *given, _ = inputs("adam-outside")
    g = np.concatenate([np.ravel(given[3]["a"]), np.ravel(given[3]["b"])])
    chosen = run_measures(*given, one_norm_eps=0.3).total
    assert float(chosen["perturbed_one_norm"]) == pytest.approx(np.sum(np.sqrt(g**2 + 0.3)))
    assert chosen["saturated"] == found("adam-outside").total["saturated"], "its own eps rules"
    *given, _ = inputs("momentum")
    g = np.concatenate([np.ravel(x) for x in jax.tree.leaves(given[3])])
    plain = run_measures(*given, one_norm_eps=np.median(np.abs(g)) ** 2).total
    assert float(plain["saturated"]) == 0.4, "two of five are below the median"
    assert float(found("momentum").total["saturated"]) == 0


def test_the_sharpness_of_a_box_is_what_its_best_corner_gives():
    """max g·e over all corners |e_j| = r: by counting them; a ball of the two-norm gives less."""
    *given, _ = inputs("adam-inside")
    g, radius = np.concatenate([np.ravel(x) for x in jax.tree.leaves(given[3])]), 0.3
    found = run_measures(*given, radius=radius)
    corners = radius * np.array(list(itertools.product((-1, 1), repeat=len(g))))
    assert float(found.total["linf_sharpness"]) == pytest.approx(np.max(corners @ g), rel=1e-12)
    assert float(found.total["linf_sharpness"]) > 1.2 * radius * np.linalg.norm(g)
    parts = jax.tree.leaves(found.leaves["linf_sharpness"])
    assert sum(map(float, parts)) == pytest.approx(np.max(corners @ g), rel=1e-12)
    hand = sgd_measures(jnp.asarray([3.0, -4.0]), radius=0.5)
    assert float(hand["linf_sharpness"]) == 3.5 and float(hand["two_norm"]) == 5
    assert float(sgd_measures(jnp.asarray([3.0, -4.0]))["linf_sharpness"]) == pytest.approx(0.7)


def sgd_measures(x, **options):
    """Of gradient descent at h = 0.1 on ½x², whose gradient is x."""
    descent = zoo.sgd()
    state, _ = descent.update(descent.init(x), x, x, 0.1)
    return run_measures(descent, mem.ready(descent, 0.1, 0, x), x, x, state, **options).total


def test_jit_changes_nothing_and_the_next_step_is_not_compiled_again():
    traces = []

    def combine(m, p, n):
        traces.append(1)
        return m[0] / (m[1] + 0.1)

    own = Optimizer([Moment(0.5), Moment(0.7, square)], combine)
    state, memory = own.init(START), mem.at(own, lambda n: 0.1, 0, jnp.ones(1))
    state, _ = own.update(state, START, START, 0.1)
    here = run_measures(own, memory, START, START, state, last_grad=START)
    state, _ = own.update(state, START, START, 0.1)
    memory, before = memory.advanced(), len(traces)
    there = run_measures(own, memory, START, START, state, last_grad=START, last_rate=0.2)
    assert len(traces) == before
    assert float(here.total["deviation"]) != float(there.total["deviation"])
    *given, last = inputs("momentum-corrected")
    with jax.disable_jit():
        eager = run_measures(*given, last_grad=last, potential=False).total
    for name, value in eager.items():
        expected = found("momentum-corrected").total[name]
        np.testing.assert_allclose(value, expected, rtol=1e-12)


def test_without_a_last_gradient_what_needs_it_is_absent():
    alone = run_measures(*inputs("adam-inside")[:5], potential=False)
    missing = set(found("adam-inside").total) - set(alone.total)
    assert missing == OF_TWO | {"potential"}
    for name, value in alone.total.items():
        np.testing.assert_allclose(value, found("adam-inside").total[name], rtol=1e-12)
    assert set(alone.leaves) == set(alone.total)
    short = run_measures(*inputs("adam-inside")[:5], potential=False, per_leaf=False)
    assert (
        short.leaves == {} and short.total == alone.total and set(short.flat()) == set(alone.total)
    )


def test_flat_is_what_a_logger_takes():
    flat = found("adam-inside").flat()
    assert flat["two_norm"] == float(found("adam-inside").total["two_norm"])
    assert flat["lag['a']"] == float(found("adam-inside").leaves["lag"]["a"])
    assert all(isinstance(value, float) for value in flat.values())
    scalar = jnp.asarray(3.0)
    sgd = zoo.sgd()
    state, _ = sgd.update(sgd.init(scalar), scalar, scalar, RATE)
    one = run_measures(sgd, mem.ready(sgd, RATE, 0, scalar), scalar, scalar, state)
    assert set(one.flat()) == set(one.total)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_dead_units_are_counted_and_no_nan(dtype):
    adam = zoo.adam(b1=0.5, b2=0.7, eps=1e-8)
    x = {"dead": jnp.zeros(3, dtype), "w": jnp.asarray([1.0, 2.0, 3.0, 4.0, 5.0], dtype)}
    last = {**x, "w": jnp.asarray([0.0, 0.0, 1.0, 1.0, 2.0], dtype)}
    g = {**x, "w": jnp.asarray([0.0, 1.0, 0.9, 0.1, 0.0], dtype)}
    state, _ = adam.update(adam.init(x), last, x, 0.1)
    state, _ = adam.update(state, g, x, 0.1)
    found = run_measures(adam, mem.ready(adam, 0.1, 1, x), x, g, state, last_grad=last)
    assert all(np.isfinite(value) for value in found.flat().values()), found
    assert all(value.dtype == jnp.float64 for value in found.total.values())
    assert float(found.leaves["saturated"]["w"]) == 0.4 and float(found.total["saturated"]) == 0.625
    past = float(found.leaves["beyond_nu_edge"]["w"])
    assert past == pytest.approx(0.6), "one wakes up, one falls by ten, one dies"
    assert float(found.leaves["lag"]["dead"]) == 1
    nu = 0.3 * (0.7 * np.asarray(last["w"]) ** 2 + np.asarray(g["w"]) ** 2)[1:] / (1 - 0.7**2)
    assert float(found.total["lag"]) == pytest.approx(np.median(np.asarray(g["w"][1:]) ** 2 / nu))
    moving = {**x, "dead": jnp.ones(3, dtype)}
    state, _ = adam.update(adam.init(x), moving, x, 0.1)
    assert np.isinf(
        run_measures(adam, mem.ready(adam, 0.1, 0, x), x, moving, state).leaves["update_ratio"][
            "dead"
        ]
    )


@pytest.mark.parametrize(
    ("eps", "eps_root", "share"), [(0.0, 1e-2, 0.5), (1e-2, 0.0, 0.25), (1.0, 1e-2, 1.0)]
)
def test_saturated_is_below_eps_or_below_the_root_of_eps_root(eps, eps_root, share):
    """sqrt(.01) = .1 within the root, .01 outside; of both the larger."""
    adam = zoo.adam(b1=0.5, b2=0.7, eps=eps, eps_root=eps_root)
    g = jnp.asarray([1e-3, 5e-2, 0.5, 0.9])
    state, _ = adam.update(adam.init(g), g, g, RATE)
    found = run_measures(adam, mem.ready(adam, RATE, 0, g), g, g, state, potential=False)
    assert float(found.total["saturated"]) == share


@pytest.mark.parametrize("size", [1, 2, 7, 100])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_the_median_by_bits_is_the_median(size, dtype):
    values = 10 ** np.random.default_rng(size).uniform(-30, 30, size)
    values[size // 2 :] = np.round(values[size // 2 :], 1)
    values = jnp.asarray(values, dtype)
    spread = jnp.concatenate(
        [values[: size // 3], jnp.full(3, jnp.inf, dtype), values[size // 3 :]]
    )
    np.testing.assert_allclose(_median(spread), np.median(values), rtol=2e-7)
    assert np.isnan(_median(spread.at[size // 2].set(jnp.nan)))
    assert _median(jnp.full(3, jnp.inf, dtype)) == 1


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_what_is_not_finite_stays_so(bad):
    optimizer, memory, params, grad, state, last = inputs("adam-inside")
    broken = {**grad, "b": jnp.asarray(bad, float)}
    every = measured(optimizer, memory, params, broken, state, last)
    of_moments = {"update_rms", "update_ratio"}
    assert {n for n, value in every.total.items() if np.isfinite(value)} == of_moments
    assert all(np.isfinite(tree["a"]) for tree in every.leaves.values()), "the other leaf is fine"
    past = measured(optimizer, memory, params, grad, state, broken).total
    hurt = {n for n, value in past.items() if not np.isfinite(value)}
    assert hurt == OF_TWO
    lost = eqx.tree_at(lambda s: s.moments[1]["b"], state, jnp.asarray(bad, float))
    assert np.isnan(measured(optimizer, memory, params, grad, lost, last).total["lag"])
    nowhere = {**params, "b": jnp.asarray(jnp.nan, float)}
    assert np.isnan(measured(optimizer, memory, nowhere, grad, state, last).total["update_ratio"])


def test_what_does_not_fit_is_refused():
    optimizer, memory, params, grad, state, _ = inputs("adam-inside")
    call = lambda **k: run_measures(
        **{
            "optimizer": optimizer,
            "memory": memory,
            "params": params,
            "grad": grad,
            "state": state,
            **k,
        }
    )
    refused(lambda: call(grad=grad["a"]), "grad:", "like params")
    refused(lambda: call(last_grad={"a": grad["b"], "b": grad["b"]}), "last_grad:", "shapes")
    refused(lambda: call(state=optimizer.init(params)), "state:", "came out of the update")
    refused(
        lambda: call(memory=mem.ready(optimizer, 0.1, "settled", jnp.ones(1))), "state:", "step inf"
    )
    refused(lambda: call(memory=mem.ready(zoo.sgd(), 0.1, STEPS, jnp.ones(1))), "memory:", "adam")
    refused(lambda: call(memory=0.1), "memory:", "ema_weights.ready", error=TypeError)
    refused(lambda: call(optimizer=zoo.sgd()), "state:", "sgd")
    refused(lambda: call(state="state"), "state:", error=TypeError)
    refused(lambda: call(last_rate=-1.0), "last_rate:", "at least 0")
    refused(lambda: call(one_norm_eps=-1.0), "one_norm_eps:", "at least 0")
    refused(lambda: call(radius=-1.0), "radius:", "at least 0")
