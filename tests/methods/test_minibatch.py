"""Mini-batches: fields and steps against direct sums with dense Hessians, orders, truncation."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.batch_problem import DATA, ORDER, PROBLEM, SURFACES, batch_loss
from support.rows import fast
from table import BILINEAR_START, EPS, PLACE, PLACES, REPRESENTATIVE, ROWS, compiled

from shadowflow import ema_weights as mem
from shadowflow.batching import shuffled, with_replacement
from shadowflow.fields import memoryless_step, modified_field
from shadowflow.iterate import iterate
from shadowflow.methods import METHODS, minibatch
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem
from shadowflow.shadow import shadow

RATE = 0.02
STEPS = (0, 1, 4, 11)
BATCHED = [
    name
    for name, method in METHODS.items()
    if method.is_field and not (method.full_batch or method.needs_settled)
]
VISITS = [SURFACES[b] for b in ORDER]


def schedule(step):
    """A learning rate that every step changes, for ints and for traced steps."""
    return RATE / (1.0 + 0.3 * jnp.asarray(step, float))


RATES = {"constant": (RATE, lambda n: RATE), "schedule": (schedule, lambda n: float(schedule(n)))}


def agree(actual, expected, rtol=1e-11):
    """Equal to rounding."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol, atol=rtol * np.abs(expected).max())


def everywhere(row, method, rate, expected, rtol=1e-11):
    """Field and move agree with ``expected(place, step)`` at all steps and places.

    Not bit for bit in both, or a path would be compared with itself.
    """
    pairs = np.asarray([[expected(x, n) for x in PLACES[:2]] for n in STEPS])
    found = np.asarray([ours(row, method, n, rate) for n in STEPS])
    for i in (0, 1):
        agree(found[:, i], pairs[:, :, i], rtol)
    assert not np.array_equal(found, np.swapaxes(pairs, 1, 2))


def ours(row, method, step, rate="constant", problem=PROBLEM):
    """(field, move) at two places, with the step as an array, so that all steps share one jit."""
    answers = _answers(
        problem, jax.tree.map(jnp.asarray, ROWS[row]()), jnp.asarray(step), method, rate
    )
    return [np.asarray(answer) for answer in answers]


@eqx.filter_jit
def _answers(problem, optimizer, step, method, rate):
    rate = RATES[rate][0]
    kept = len(ORDER)

    def at(build, phase, x):
        memory = mem.at(optimizer, rate, step, x, kept)
        made = METHODS[method].direction(problem, optimizer, phase)
        pair = made(memory, x)
        return -pair[1] * (memory.rate if build is memoryless_step else 1.0)

    return [
        jax.vmap(functools.partial(at, build, phase))(PLACES[:2])
        for build, phase in ((modified_field, 0.5), (memoryless_step, 0.0))
    ]


THEOREMS = {
    "B.4": ("rmsprop-outside", {"b1": 0.0, "b2": 0.7, "correct_square": False}, "outside"),
    "C.4": ("rmsprop-inside", {"b1": 0.0, "b2": 0.7, "correct_square": False}, "inside"),
    "D.4": ("adam-outside", {"b1": 0.5, "b2": 0.7}, "outside"),
    "E.4": ("adam-inside", {"b1": 0.5, "b2": 0.7}, "inside"),
}


@pytest.mark.parametrize("name", THEOREMS)
def test_the_paper_s_four_theorems_with_mini_batches(name):
    row, decays, place = THEOREMS[name]
    everywhere(
        row,
        "taylor",
        "constant",
        lambda x, n: oracles.theorem(VISITS, x, RATE, n, **decays, **EPS[place]),
    )


def test_the_theorems_see_which_batch_came_when():
    """Negative control: another order of the same batches is another field."""
    row, decays, place = THEOREMS["E.4"]
    field, _ = ours(row, "taylor", 11)
    other = oracles.theorem(VISITS[::-1], PLACE, RATE, 11, **decays, **EPS[place])[0]
    assert np.abs(field[0] - other).max() > 1e-2
    full = oracles.theorem([SURFACES[2]] * 12, PLACE, RATE, 11, **decays, **EPS[place])[0]
    assert np.abs(field[0] - full).max() > 1e-2


SUMMED = [(row, rate) for row in ROWS if row != "sgd" for rate in RATES]
SCHEDULED = {"adam-both", "adam-uncorrected", "rmsprop-outside", "nadam", "momentum"}
SUMS = fast(
    [
        case
        for case in SUMMED
        if case[0] in (REPRESENTATIVE if case[1] == "constant" else SCHEDULED)
    ],
    SUMMED,
)


@pytest.mark.parametrize(("row", "rate"), SUMS)
def test_taylor_is_the_direct_sum_over_past_steps(row, rate):
    formula = oracles.formula(row, ROWS[row].options)
    everywhere(
        row, "taylor", rate, lambda x, n: oracles.batch_sums(formula, VISITS, x, RATES[rate][1], n)
    )


@pytest.mark.parametrize(("row", "rate"), SUMS)
def test_displaced_is_every_batch_at_its_mean_place(row, rate):
    formula = oracles.formula(row, ROWS[row].options)
    rule = RATES[rate][1]

    def both(x, n):
        flow, iteration = (
            oracles.batch_places(formula, VISITS, x, rule, n, phase) for phase in (0.5, 0.0)
        )
        return -flow, -rule(n) * iteration

    everywhere(row, "displaced", rate, both, 1e-10)


def test_gradient_descent_sees_the_present_batch_only():
    for n in (0, 3, 11):
        for method in BATCHED:
            field, move = ours("sgd", method, n)
            g, H = VISITS[n].gradient(PLACE), VISITS[n].hessian(PLACE)
            np.testing.assert_allclose(move[0], -RATE * g, rtol=1e-13)
            if method == "taylor":
                np.testing.assert_allclose(field[0], -g - RATE / 2 * H @ g, rtol=1e-12)


# Copies of one batch are the full batch


@pytest.mark.parametrize(
    "row",
    fast(["adam-both", "momentum"], ["adam-both", "rmsprop-inside", "nadam", "momentum", "lion"]),
)
def test_copies_of_one_batch_are_the_full_batch(row):
    """To rounding for the iterates and Taylor, to O(h²) for displaced."""
    copies = Problem(batch_loss, batches=jnp.stack([DATA[0]] * 3))
    full = Problem(lambda x: batch_loss(x, DATA[0]))
    optimizer = ROWS[row]()
    runs = [iterate(p, optimizer, PLACE, RATE, 9).params for p in (copies, full)]
    np.testing.assert_allclose(*runs, rtol=1e-12)
    for build in (modified_field, memoryless_step):
        fields = [
            compiled(build(p, optimizer, RATE, method="taylor"), 7, PLACE) for p in (copies, full)
        ]
        np.testing.assert_allclose(*fields, rtol=1e-11)
    gaps = []
    for rate in (RATE / 8, RATE / 32):
        fields = [
            compiled(modified_field(p, optimizer, rate, method="displaced"), 7, PLACE)
            for p in (copies, full)
        ]
        gaps.append(float(np.abs(fields[0] - fields[1]).max()))
    assert gaps[1] < 1e-13 or gaps[0] / gaps[1] > 11, gaps


# Orders


HORIZON, COUNTS = 0.5, (256, 512, 1024, 2048)
CENTRES = jnp.asarray([[1.5, 2.0], [1.2, 1.8], [1.9, 2.3]])


def centred_loss(x, c):
    """Figure 2's loss with other numbers in every batch, over 100."""
    return 0.5 * (c[0] - c[1] * x[0] * x[1]) ** 2 / 100 + 0.01 * c[1] * x[0] ** 2


SCHEDULES = {
    "cyclic": None,
    "given": np.resize(ORDER, 2048),
    "shuffled": shuffled(jax.random.key(1), 3),
    "replaced": with_replacement(jax.random.key(2), 3),
}


@functools.cache
def problem_with(name):
    return Problem(centred_loss, batches=CENTRES, schedule=SCHEDULES[name])


@functools.cache
def run(name, row, count):
    return iterate(problem_with(name), ROWS[row](), BILINEAR_START, HORIZON / count, count)


def errors_of(name, row, method, kind, order=2, followed=None):
    problem = problem_with(followed or name)
    return [
        float(
            np.abs(
                run(name, row, count).params
                - shadow(
                    problem,
                    ROWS[row](),
                    BILINEAR_START,
                    HORIZON / count,
                    count,
                    method=method,
                    kind=kind,
                    order=order,
                    check=False,
                ).params
            ).max()
        )
        for count in COUNTS
    ]


def slope(errors):
    return float(np.log2(errors[0] / errors[-1]) / 3)


BOUNDED = [
    (row, tolerance)
    for row in ("adam-inside", "adam-uncorrected", "rmsprop-outside")
    for tolerance in (1e-1, 1e-2, 1e-4)
]
CASES = [
    pytest.param(
        name,
        row,
        method,
        kind,
        marks=[] if (name, row) == ("cyclic", "adam-inside") else [pytest.mark.slow],
    )
    for name, row in [
        ("cyclic", "adam-inside"),
        ("cyclic", "adam-outside"),
        ("cyclic", "rmsprop-inside"),
        ("cyclic", "rmsprop-outside"),
        ("given", "nadam"),
        ("shuffled", "adamw"),
        ("replaced", "momentum"),
        ("shuffled", "lion"),
    ]
    for method in BATCHED
    for kind in METHODS[method].kinds
]


@pytest.mark.parametrize(("name", "row", "method", "kind"), CASES)
def test_mini_batch_shadows_are_of_second_order(name, row, method, kind):
    errors = errors_of(name, row, method, kind)
    assert abs(slope(errors) - 2) < 0.15, (slope(errors), errors)


def test_first_order_is_of_first_order():
    errors = errors_of("cyclic", "adam-inside", "taylor", "flow", order=1)
    assert abs(slope(errors) - 1) < 0.15, (slope(errors), errors)


def test_another_order_of_the_batches_is_another_run():
    """Negative control: with the wrong schedule the error is of first order at best."""
    errors = errors_of("given", "adam-inside", "taylor", "flow", followed="cyclic")
    assert slope(errors) < 1.3, errors


# What of the past is dropped


def test_what_is_late_is_the_sum_of_what_is_missing():
    """The weight beyond the ages kept times their ages, and what the past directions lack of it."""
    decays, kept = (0.5, 0.9), 60
    ages, lacks = np.arange(kept, 5000.0), np.arange(1.0, kept + 1)
    wanted = [
        np.sum((1 - b) * b**ages * ages) + np.sum(0.9 ** (kept - lacks) * b**lacks) for b in decays
    ]
    assert mem.Truncation(kept, 1e-3, decays).late == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("row", "tolerance"),
    fast([("adam-inside", 1e-2), ("adam-uncorrected", 1e-1), ("rmsprop-outside", 1e-4)], BOUNDED),
)
def test_the_truncation_s_bounds_hold_and_are_not_idle(row, tolerance):
    optimizer = ROWS[row](**({"b1": 0.8, "b2": 0.9} if "adam" in row else {"decay": 0.9}))
    n = 200
    cut = mem.truncation_of(optimizer, jnp.ones(1), tolerance, n + 1)
    assert cut.steps < n and 0 < max(cut.dropped) <= tolerance
    problem = Problem(batch_loss, batches=DATA, schedule=shuffled(jax.random.key(0), 3))
    problem = problem.tabulated(n + 1)
    found = []
    for kept in (cut.steps, n + 1):
        memory = mem.at(optimizer, RATE, n, jnp.ones(1), kept)
        fold = mem.fold(problem, optimizer, memory)
        gradients = problem.gradients(PLACE, fold.batches)
        bound = minibatch.BatchedTaylor(problem, optimizer, 0.5)
        now, ways = bound.gathered(memory, fold, PLACE, gradients)
        found.append((now.moments, ways))
    speed = jax.jit(
        modified_field(problem, optimizer, RATE, order=1, memory_tolerance=1e-12, method="taylor")
    )
    fastest = max(float(np.abs(speed(jnp.asarray(k), PLACE)).max()) for k in range(0, n, 7))
    for i, moment in enumerate(optimizer.moments):
        if not moment.has_memory:
            continue
        values = np.asarray(jax.vmap(moment.transform)(gradients))
        error = np.abs(found[0][0][i] - found[1][0][i])
        bound = cut.dropped[i] * np.ptp(values, axis=0)
        assert np.all(error <= bound * (1 + 1e-9) + 1e-15)
        if moment.decay == 0.9:
            assert np.all(error > 1e-3 * bound)
        way_error = np.abs(np.sum(np.asarray(found[0][1][i]) - np.asarray(found[1][1][i]), axis=0))
        assert np.all(way_error <= 2 * cut.late[i] * RATE * 2 * fastest + 1e-15)


def test_a_tolerance_of_rounding_changes_nothing_and_one_of_a_tenth_does():
    optimizer = ROWS["adam-inside"]()
    problem = Problem(batch_loss, batches=DATA)
    field = {
        tolerance: compiled(
            modified_field(problem, optimizer, RATE, memory_tolerance=tolerance, method="taylor"),
            400,
            PLACE,
        )
        for tolerance in (None, 0.0, 1e-6, 1e-1)
    }
    np.testing.assert_allclose(field[None], field[0.0], rtol=1e-12)
    gaps = [np.abs(field[t] - field[0.0]).max() for t in (1e-6, 1e-1)]
    assert gaps[0] < 1e-5 < 1e-3 < gaps[1]


def test_the_shadow_returns_its_truncation():
    problem = problem_with("cyclic")
    follow = shadow(problem, ROWS["adam-inside"](), BILINEAR_START, 1e-3, 60, memory_tolerance=1e-3)
    assert follow.truncation.steps == 20 and follow.truncation.dropped[1] == pytest.approx(0.7**20)
    assert "Only the last 20 steps" in follow.verdict
    whole = shadow(problem, ROWS["adam-inside"](), BILINEAR_START, 1e-3, 60)
    assert whole.truncation.steps == 61 - 1 and "Only the last" not in whole.verdict
    assert 0 < np.abs(follow.params - whole.params).max() < 1e-4


def test_more_batches_than_remembered_steps_are_folded_by_step():
    """With 40 batches and 25 steps told apart only 25 gradients are taken."""
    numbers = np.random.default_rng(0).integers(0, 40, 80)
    data = jnp.asarray(np.random.default_rng(1).uniform(0.5, 1.5, (40, 3)))
    many = Problem(batch_loss, batches=data, schedule=numbers)
    optimizer = ROWS["adam-both"]()
    memory = mem.at(optimizer, RATE, 60, jnp.ones(1), 25)
    fold = mem.fold(many, optimizer, memory)
    assert fold.batches.shape == (25,) and np.array_equal(fold.batches, numbers[60:35:-1])
    few = np.unique(numbers[:61], return_inverse=True)[1]
    for method in BATCHED:
        short, whole = (
            compiled(
                modified_field(many, optimizer, RATE, method=method, memory_tolerance=tolerance),
                60,
                PLACE,
            )
            for tolerance in (1e-4, 0.0)
        )
        np.testing.assert_allclose(short, whole, rtol=1e-3)
    assert len(set(few)) > 25


# The work does not depend on how long the run is


BATCH_GRADIENT = jax.jit(jax.grad(batch_loss))
BATCH_PRODUCT = jax.jit(lambda x, v, c: jax.jvp(lambda p: BATCH_GRADIENT(p, c), (x,), (v,))[1])


class Counted:
    """A host problem that counts its gradients and Hessian-vector products."""

    def __init__(self):
        self.gradients = self.products = 0

    def grad(self, x, c):
        self.gradients += 1
        return BATCH_GRADIENT(x, jnp.asarray(c))

    def hvp(self, x, v, c):
        self.products += 1
        return BATCH_PRODUCT(x, v, jnp.asarray(c))


@pytest.mark.parametrize(
    ("method", "gradients", "products"), [("taylor", 3, 6), ("displaced", 9, 0)]
)
def test_the_number_of_gradients_does_not_depend_on_n(method, gradients, products):
    counts = []
    for n in (5, 40):
        host = Counted()
        problem = Problem(grad=host.grad, hvp=host.hvp, traceable=False, batches=DATA)
        found = memoryless_step(problem, ROWS["adam-inside"](), RATE, method=method)(n, PLACE)
        problem = Problem(batch_loss, batches=DATA)
        same = compiled(
            memoryless_step(problem, ROWS["adam-inside"](), RATE, method=method), n, PLACE
        )
        np.testing.assert_allclose(found, same, rtol=1e-12)
        counts.append((host.gradients, host.products))
    assert counts == [(gradients, products)] * 2


def test_the_host_loop_follows_mini_batches_too():
    host = Counted()
    problem = Problem(grad=host.grad, hvp=host.hvp, traceable=False, batches=DATA, schedule=ORDER)
    real = iterate(problem, ROWS["adam-inside"](), PLACE, RATE, 6)
    np.testing.assert_allclose(
        real.params, iterate(PROBLEM, ROWS["adam-inside"](), PLACE, RATE, 6).params, rtol=1e-12
    )
    for kind in ("iteration", "flow"):
        one, other = (
            shadow(p, ROWS["adam-inside"](), PLACE, RATE, 3, kind=kind, check=False)
            for p in (problem, PROBLEM)
        )
        np.testing.assert_allclose(one.params, other.params, rtol=1e-9)


def test_the_bounded_form_stays_nearer_than_taylor_where_eps_is_small():
    """§4.2's reason: with a small eps Taylor's correction explodes near a zero of the gradient."""
    optimizer = zoo.adam(b1=0.9, b2=0.99, eps=0.0, eps_root=1e-10)
    problem, worst = problem_with("cyclic"), {}
    real = iterate(problem, optimizer, BILINEAR_START, 1e-2, 400)
    for method in BATCHED:
        follow = shadow(
            problem, optimizer, BILINEAR_START, 1e-2, 400, method=method, kind="iteration"
        )
        seen = len(follow.params)
        worst[method] = float(np.abs(follow.params - real.params[:seen]).max())
    assert worst["displaced"] < worst["taylor"], worst
    assert "not bounded" in shadow(problem, optimizer, BILINEAR_START, 1e-2, 2).verdict
