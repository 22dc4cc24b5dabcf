"""The memory of an optimizer against dense sums over every past step, in numpy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow import ema_weights as mem
from shadowflow.optimizers.moments import Moment, Optimizer, identity, square
from shadowflow.optimizers.zoo import adam, sgd

DECAYS = (0.5, 0.9, 0.999)
RATE = 0.125


def total(moments, params, step):
    return sum(moments[1:], moments[0])


def several(decays=DECAYS, corrected=False):
    """An optimizer with one moment per decay, and the present gradient last."""
    moments = [Moment(decay, bias_correction=corrected) for decay in decays]
    return Optimizer([*moments, Moment(0.0)], total)


MANY = several()
SCHEDULES = {
    "constant": RATE,
    "decaying": lambda n: 0.3 * jnp.exp2(-jnp.asarray(n, float) / 7),
    "jumping": mem.Rates(jnp.asarray([0.3 if n % 5 else 0.02 for n in range(40)])),
}


def rates_of(learning_rate, n):
    if not callable(learning_rate):
        return np.full(n, learning_rate)
    return np.array([float(learning_rate(k)) for k in range(n)])


def past(decay, rates, n):
    """(weights (1 − β) β^{n−k}, times back Σ_{l=k}^{n−1} h_l) of k = 0 … n, each sum by itself."""
    weights = np.array([(1 - decay) * decay ** (n - k) for k in range(n + 1)])
    times = np.array([math.fsum(rates[k:n]) for k in range(n + 1)])
    return weights, times


def dense_sums(decay, rates, n):
    weights, times = past(decay, rates, n)
    return np.array([math.fsum(weights * times**power) for power in range(4)])


@jax.jit
def memory_at(n):
    """The memory after n steps at a constant rate, compiled once for all n."""
    return mem.at(MANY, RATE, n, jnp.ones(1))


@pytest.fixture(scope="module")
def sums_at():
    """(schedule, n) → the sums, one compilation per schedule for all n."""
    compiled = {
        name: jax.jit(lambda n, rate=rate: mem.at(MANY, rate, n, jnp.ones(1)).sums)
        for name, rate in SCHEDULES.items()
    }
    return lambda name, n: compiled[name](n)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 30])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_sums_equal_dense_sums(sums_at, schedule, n):
    found = sums_at(schedule, n)
    assert found[-1] is None, "the present gradient has no past"
    for decay, sums in zip(DECAYS, found, strict=False):
        expected = dense_sums(decay, rates_of(SCHEDULES[schedule], n), n)
        np.testing.assert_allclose(sums, expected, rtol=1e-13, atol=0)
        if n == 30 and decay == 0.999:
            assert not np.array_equal(sums, expected), "a recursion and sums round differently"


@pytest.mark.parametrize("decay", [0.5, 0.9])
def test_the_limit_of_many_steps_is_not_the_sum_after_five(decay):
    """Negative control: the comparison above sees a memory that has not filled up yet."""
    limit = mem.settled_sums(jnp.asarray(decay), jnp.asarray(RATE))
    at_five = dense_sums(decay, rates_of(RATE, 5), 5)
    assert np.all(np.abs(limit / at_five - 1) > 0.01)


@pytest.mark.parametrize("decay", DECAYS)
def test_the_limit_of_many_steps_is_a_long_direct_sum(decay):
    ages = np.arange(60_000)
    weights = (1 - decay) * decay**ages
    expected = [math.fsum(weights * (RATE * ages) ** power) for power in range(4)]
    settled = mem.at(several((decay,)), RATE, "settled", jnp.ones(1))
    assert settled.settled and math.isinf(settled.count)
    np.testing.assert_allclose(settled.sums[0], expected, rtol=1e-12)


def test_a_settled_memory_takes_the_first_rate_of_a_schedule():
    schedule = SCHEDULES["decaying"]
    settled = mem.at(MANY, schedule, "settled", jnp.ones(1))
    constant = mem.at(MANY, 0.3, "settled", jnp.ones(1))
    np.testing.assert_allclose(settled.sums[1], constant.sums[1], rtol=1e-15)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_advancing_step_by_step_is_starting_there(sums_at, schedule):
    rate = SCHEDULES[schedule]
    memory = mem.at(MANY, rate, 0, jnp.ones(1))
    for n in range(12):
        memory = memory.with_rate(rates_of(rate, n + 1)[n]).advanced()
    assert memory.step == 12
    for ours, there in zip(memory.sums[:-1], sums_at(schedule, 12), strict=False):
        np.testing.assert_allclose(ours, there, rtol=1e-14)


@pytest.mark.parametrize("step", [7, np.int64(7), jnp.asarray(7)])
def test_a_step_may_be_any_kind_of_whole_number(sums_at, step):
    memory = mem.at(MANY, RATE, step, jnp.ones(1))
    assert float(memory.count) == 7.0
    for ours, there in zip(memory.sums[:-1], sums_at("constant", 7), strict=False):
        np.testing.assert_allclose(ours, there, rtol=1e-15)


def test_a_traced_decay_gives_the_same_sums():
    """With a decay that is not known beforehand nothing can be cut; the sums are the same."""
    sums = lambda b2, n: mem.at(adam(b1=0.9, b2=b2), RATE, n, jnp.ones(1)).sums[1]
    found = jax.jit(jax.vmap(sums, (0, None)))(jnp.asarray(DECAYS), 30)
    expected = [dense_sums(decay, rates_of(RATE, 30), 30) for decay in DECAYS]
    np.testing.assert_allclose(found, expected, rtol=1e-13)


def test_the_sums_are_differentiable_in_the_decay_and_the_rate():
    def second(decay, rate):
        return mem.at(several((decay,)), rate, jnp.asarray(9), jnp.ones(1)).sums[0][2]

    exact = lambda decay, rate: dense_sums(decay, np.full(9, rate), 9)[2]
    slopes = jax.jit(jax.jacfwd(second, argnums=(0, 1)))(0.8, RATE)
    step = 1e-5
    differences = (
        (exact(0.8 + step, RATE) - exact(0.8 - step, RATE)) / (2 * step),
        (exact(0.8, RATE + step) - exact(0.8, RATE - step)) / (2 * step),
    )
    np.testing.assert_allclose(slopes, differences, rtol=1e-7)


# --- weights, mean times and Gauss rules


@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("n", [0, 1, 5, 30])
def test_the_weights_add_up_as_the_moment_that_reads_them(n, corrected):
    """A constant gradient of 1: the corrected moment reads 1, the uncorrected one 1 − β^{n+1}."""
    optimizer = several(corrected=corrected)
    state, read = optimizer.init(jnp.ones(1)), None
    for _ in range(n + 1):
        corrections = [m.correction(state.step) for m in optimizer.moments[:-1]]
        state, _ = optimizer.update(state, jnp.ones(1), jnp.ones(1), 0.1)
        read = [float(m[0] / c) for m, c in zip(state.moments[:-1], corrections, strict=True)]
    found = [moment.total_weight(jnp.asarray(float(n))) for moment in optimizer.moments]
    np.testing.assert_allclose(found, [*read, 1.0], rtol=1e-12)
    if not corrected:
        np.testing.assert_allclose(read, 1 - np.array(DECAYS) ** (n + 1), rtol=1e-12)


def test_all_weights_of_a_settled_memory_add_up_to_one():
    for corrected in (False, True):
        optimizer = several(corrected=corrected)
        count = mem.at(optimizer, RATE, "settled", jnp.ones(1)).count
        assert [float(m.total_weight(count)) for m in optimizer.moments] == [1.0] * 4


@pytest.mark.parametrize("n", [0, 1, 5, 30])
def test_the_weight_in_closed_form_is_the_sum_of_the_memory(n):
    sums = memory_at(n).sums[:-1]
    weights = [moment.total_weight(jnp.asarray(float(n))) for moment in MANY.moments[:-1]]
    np.testing.assert_allclose(weights, [z[0] for z in sums], rtol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
@pytest.mark.parametrize("index", range(len(DECAYS)))
def test_the_mean_time_is_that_of_the_normalized_weights(n, index):
    decay = DECAYS[index]
    memory = memory_at(n)
    weights, times = past(decay, rates_of(RATE, n), n)
    mean = np.sum(weights * times) / np.sum(weights)
    np.testing.assert_allclose(memory.mean_time(index), mean, rtol=1e-13)
    paper = decay / (1 - decay) - (n + 1) * decay ** (n + 1) / (1 - decay ** (n + 1))
    np.testing.assert_allclose(memory.mean_time(index), RATE * paper, rtol=1e-8)
    assert float(memory.mean_time(len(DECAYS))) == 0.0


compiled_rule = jax.jit(mem.Memory.gauss_rule, static_argnums=1)


def rule(memory, index):
    nodes, mass = compiled_rule(memory, index)
    return np.asarray(nodes), np.asarray(mass)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 30, None])
@pytest.mark.parametrize("index", range(len(DECAYS)))
def test_the_gauss_rule_is_exact_to_cubic_and_lies_in_the_past(n, index):
    memory = mem.at(MANY, RATE, "settled", jnp.ones(1)) if n is None else memory_at(n)
    nodes, mass = rule(memory, index)
    moments = memory.sums[index] / memory.sums[index][0]
    for power in range(4):
        np.testing.assert_allclose(np.sum(mass * nodes**power), moments[power], rtol=1e-10)
    longest = np.inf if n is None else RATE * n
    assert np.all(nodes >= -1e-12) and np.all(nodes <= longest * (1 + 1e-12))
    assert np.all(mass > 0)


@pytest.mark.parametrize("index", range(len(DECAYS)))
def test_two_nodes_are_not_exact_for_quartics(index):
    """Negative control: the test above cannot pass by accident of the moments."""
    memory = memory_at(5)
    nodes, mass = rule(memory, index)
    weights, times = past(DECAYS[index], rates_of(RATE, 5), 5)
    fourth = np.sum(weights * times**4) / np.sum(weights)
    assert abs(np.sum(mass * nodes**4) / fourth - 1) > 0.01


@pytest.mark.parametrize("index", range(len(DECAYS)))
def test_with_one_past_step_the_rule_is_the_past_itself(index):
    nodes, mass = rule(memory_at(1), index)
    decay = DECAYS[index]
    np.testing.assert_allclose(np.sort(nodes), [0, RATE], atol=1e-9)
    np.testing.assert_allclose(mass[np.argsort(nodes)], np.array([1, decay]) / (1 + decay))


def test_without_a_past_all_nodes_are_now():
    for memory, index in (
        (mem.at(MANY, RATE, 0, jnp.ones(1)), 0),
        (mem.at(sgd(), 1.0, 9, jnp.ones(1)), 0),
    ):
        nodes, mass = rule(memory, index)
        assert np.all(nodes == 0) and math.isclose(np.sum(mass), 1)


@pytest.mark.parametrize("transform", [identity, square])
def test_the_mean_along_a_line_is_the_dense_mean_of_the_past(transform):
    """ψ(g + τ d) for the gradient and its square, over all past times τ."""
    g, d, n = np.array([0.3, -1.2, 0.0]), np.array([-0.8, 2.0, 0.5]), 12
    nodes, mass = rule(memory_at(n), 1)
    leafwise = functools.partial(jax.tree.map, transform)
    found = mem.line_mean(leafwise, {"x": jnp.asarray(g)}, {"x": jnp.asarray(d)}, nodes, mass)
    weights, times = past(0.9, rates_of(RATE, n), n)
    terms = [w * np.asarray(transform(g + t * d)) for w, t in zip(weights, times, strict=True)]
    np.testing.assert_allclose(found["x"], np.sum(terms, axis=0) / np.sum(weights), rtol=1e-12)


# --- the mean way back


def wandering(optimizer):
    """A memoryless direction that changes with the step and with how full the moments are."""
    return lambda step: wander([moment.total_weight(step) for moment in optimizer.moments], step)


def wander(weights, step):
    size = weights[0] + 2 * weights[1] ** 2 + jnp.cos(step)
    return {"a": size * jnp.asarray([1.0, -2.0]), "b": weights[2] - size**2}


def dense_ways(decays, corrected, rates, n):
    """Σ_k w_{n,k} Σ_{l=k}^{n−1} h_l F_l / W, one double sum per moment."""
    full = [[1.0 if corrected else 1 - decay ** (l + 1) for decay in decays] for l in range(n)]
    moved = [wander([*full[l], 1.0], float(l)) for l in range(n)]
    for decay in decays:
        weights, _ = past(decay, rates, n)
        yield {
            name: sum(
                weights[k] * rates[l] * np.asarray(moved[l][name])
                for k in range(n)
                for l in range(k, n)
            )
            / np.sum(weights)
            for name in ("a", "b")
        }


@pytest.mark.parametrize("n", [1, 2, 5, 12])
@pytest.mark.parametrize("corrected", [False, True])
@pytest.mark.parametrize("schedule", ["constant", "jumping"])
def test_mean_displacements_equal_double_sums(schedule, corrected, n):
    rate, optimizer = SCHEDULES[schedule], several(corrected=corrected)
    memory = mem.at(optimizer, rate, n, jnp.ones(1))
    ways = mem.mean_displacements(optimizer, memory, wandering(optimizer))
    assert ways[-1] is None
    expected = dense_ways(DECAYS, corrected, rates_of(rate, n), n)
    for way, dense in zip(ways, expected, strict=False):
        np.testing.assert_allclose(way["a"], dense["a"], rtol=1e-12)
        np.testing.assert_allclose(way["b"], dense["b"], rtol=1e-12)


def test_mean_displacements_see_whether_the_moments_are_corrected():
    """Negative control, and the remark that the shortcut is far off in the first steps."""
    ways = [list(dense_ways(DECAYS, corrected, rates_of(RATE, 5), 5)) for corrected in (0, 1)]
    assert np.all(np.abs(ways[0][1]["a"] / ways[1][1]["a"] - 1) > 0.3)


def test_there_is_no_way_back_from_the_first_step():
    memory = mem.at(MANY, RATE, 0, jnp.ones(1))
    ways = mem.mean_displacements(MANY, memory, wandering(MANY))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(ways))


def test_a_constant_direction_is_walked_back_for_the_mean_time():
    optimizer = several(corrected=True)
    memory = mem.at(optimizer, SCHEDULES["decaying"], 20, jnp.ones(1))
    ways = mem.mean_displacements(optimizer, memory, lambda step: jnp.asarray([2.0]))
    for index in range(len(DECAYS)):
        time = float(memory.mean_time(index))
        np.testing.assert_allclose(ways[index], [2 * time], rtol=1e-13)


# --- the length of the memory


def test_the_length_covers_the_longest_memory_and_no_more():
    assert several((0.9,)).memory_length(jnp.ones(1)) == 428
    assert several((0.5, 0.9)).memory_length(jnp.ones(1)) == 428
    assert several((0.9,)).memory_length(jnp.ones(1, jnp.float32)) < 428
    assert sgd().memory_length(jnp.ones(1)) == 1
    assert several((jnp.asarray([0.9, 0.5]),)).memory_length(jnp.ones(1)) is None


@pytest.mark.parametrize("decay", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("schedule", ["constant", "cosine"])
def test_the_length_cuts_nothing_above_rounding(schedule, decay):
    n, optimizer = 8000, several((decay,))
    assert optimizer.memory_length(jnp.ones(1)) < n / 1.5
    constant = schedule == "constant"
    rates = np.full(n, RATE) if constant else 0.15 + 0.15 * np.cos(np.pi * np.arange(n) / 8200)
    learning_rate = RATE if constant else mem.Rates(jnp.asarray(rates))
    ages = np.arange(n, -1, -1)
    weights = (1 - decay) * decay**ages
    times = np.concatenate([np.cumsum(rates[::-1])[::-1], [0.0]])
    sums = jax.jit(lambda n: mem.at(optimizer, learning_rate, n, jnp.ones(1)).sums[0])(n)
    expected = [math.fsum(weights * times**power) for power in range(4)]
    rtol = 1e-12 if constant else 1e-10  # where rates have fallen, old times are longer
    np.testing.assert_allclose(sums, expected, rtol=rtol)


def test_half_the_length_would_cut_something():
    """Negative control: the sums that begin half a length ago are visibly short."""
    half = several((0.9,)).memory_length(jnp.ones(1)) // 2
    short = dense_sums(0.9, np.full(half, RATE), half)
    whole = dense_sums(0.9, np.full(6 * half, RATE), 6 * half)
    assert np.all(np.abs(short / whole - 1) > 1e-10)


@pytest.mark.parametrize("n", [500, 700])
def test_mean_displacements_cut_nothing_above_rounding(n):
    optimizer = several((0.5, 0.9))
    assert optimizer.memory_length(jnp.ones(1)) < 500

    def turning(step):
        return jnp.stack([jnp.cos(step / 9), optimizer.moments[1].total_weight(step)])

    memory = mem.at(optimizer, RATE, n, jnp.ones(1))
    ways = mem.mean_displacements(optimizer, memory, turning)
    steps = np.arange(n)
    for decay, way in zip((0.5, 0.9), ways, strict=False):
        moved = np.stack([np.cos(steps / 9), 1 - 0.9 ** (steps + 1)], axis=1)
        back = RATE * np.concatenate([np.cumsum(moved[::-1], axis=0)[::-1], np.zeros((1, 2))])
        weights = (1 - decay) * decay ** (n - np.arange(n + 1.0)).reshape(-1, 1)
        expected = np.sum(weights * back, axis=0) / np.sum(weights)
        np.testing.assert_allclose(way, expected, rtol=1e-11)


def test_float32_sums_are_exact_to_rounding():
    """Roundings add up over the length of the memory, 1/(1 − β) steps, and no further.

    The dense sums take the decay that float32 can hold.
    """
    with jax.enable_x64(False):
        rounded = jnp.float32(0.999)
        sums = jax.jit(
            lambda n: mem.at(several((0.999,)), RATE, n, jnp.ones(1, jnp.float32)).sums[0]
        )
        found = {n: np.asarray(sums(n)) for n in (1, 30, 1000, 20_000)}
    decay = float(rounded)
    for n, z in found.items():
        assert z.dtype == np.float32
        ages = np.arange(n, -1, -1.0)
        weights = (1 - decay) * decay**ages
        expected = [np.sum(weights * (RATE * ages) ** power) for power in range(4)]
        np.testing.assert_allclose(z, expected, rtol=np.finfo(np.float32).eps / (1 - decay))
        assert not np.array_equal(z, expected), "it must not have run in float64"
