"""Means over shuffles: against brute force, the modified loss of gradient descent, and chance."""

import functools
import itertools

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.batch_problem import batch_loss
from support.records import ratios
from table import PLACE, ROWS

import shadowflow as sf
from shadowflow.diagnostics import shuffle_mean as shuffles
from shadowflow.diagnostics.shuffle_mean import over_shuffles, shuffle_mean

DATA = jnp.asarray(
    [
        [1.0, 0.3, -0.4],
        [0.8, -0.5, 0.6],
        [1.2, 0.2, 0.1],
        [0.9, -0.1, 0.5],
        [1.1, 0.4, 0.3],
        [0.7, 0.1, -0.2],
        [1.3, -0.3, -0.1],
    ]
)
RATE = 0.02
SHADOWS = ("flow", "iteration")
SLOW = pytest.mark.slow


@functools.cache
def problem(count, copies=False):
    return sf.Problem(batch_loss, batches=DATA[jnp.zeros(count, int)] if copies else DATA[:count])


def with_order(count, order):
    return sf.Problem(batch_loss, batches=DATA[:count], schedule=np.asarray(order))


def orders(count, epochs=1):
    every = itertools.product(itertools.permutations(range(count)), repeat=epochs)
    return [list(itertools.chain(*order)) for order in every]


def agree(actual, expected, rtol=1e-12):
    """Equal to rounding, and not bit for bit, or a path would be compared with itself."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    np.testing.assert_allclose(actual, expected, rtol=rtol)
    assert not np.array_equal(actual, expected)


def slope(errors):
    """The observed order, each error being at half the learning rate of the one before."""
    return float(np.log2(errors[0] / errors[-1]) / (len(errors) - 1))


# Brute force


@pytest.mark.parametrize("row", ["sgd", "nadam", "adamw"])
def test_the_mean_of_the_iterates_is_that_of_every_run(row):
    optimizer, past = ROWS[row](), [2, 0, 0, 1]
    runs = [sf.iterate(with_order(3, order), optimizer, PLACE, RATE, 6) for order in orders(3, 2)]
    found = shuffle_mean(problem(3), optimizer, PLACE, RATE, epochs=2)
    assert (found.orders, found.exact, found.failed_at) == (36, True, None)
    assert not np.any(found.standard_error)
    np.testing.assert_allclose(found.mean, np.mean([r.last for r in runs], axis=0), rtol=1e-13)
    before = sf.iterate(with_order(3, past), optimizer, PLACE, RATE, 4)
    state, place = before.state, jnp.asarray(before.last)
    ends = [
        sf.iterate(with_order(3, past + order), optimizer, place, RATE, 3, start=state).last
        for order in orders(3)
    ]
    found = shuffle_mean(with_order(3, past), optimizer, place, RATE, start=state)
    np.testing.assert_allclose(found.mean, np.mean(ends, axis=0), rtol=1e-13)


@pytest.mark.parametrize(("kind", "method"), [("iteration", "taylor"), ("flow", "displaced")])
def test_the_mean_of_the_shadows_is_that_of_every_shadow(kind, method):
    """From within a run, whose past the memory sees, with a schedule of the learning rate."""
    optimizer, past = ROWS["adam-inside"](), [2, 0, 0, 1]
    rate = optax.exponential_decay(RATE, 1, 0.9)
    state = sf.iterate(with_order(3, past), optimizer, PLACE, rate, 4).state
    each = [(with_order(3, past + order), optimizer, PLACE, rate, 3) for order in orders(3)]
    how = {"method": method, "kind": kind, "start": 4}
    runs = [sf.shadow(*run, **how, check=False) for run in each]
    found = shuffle_mean(
        with_order(3, past), optimizer, PLACE, rate, kind=kind, method=method, start=state
    )
    np.testing.assert_allclose(found.mean, np.mean([r.last for r in runs], axis=0), rtol=1e-13)
    worst = np.max([ratios(*run, **how) for run in each], axis=0)
    np.testing.assert_allclose(found.validity.share, worst, rtol=1e-10)
    np.testing.assert_array_equal(found.validity.steps, [4, 5, 6])
    assert found.verdict.startswith("should hold") and "all 6 orders of 3 batches" in found.verdict
    other = shuffle_mean(problem(3), optimizer, PLACE, rate, kind=kind, method=method, start=state)
    assert np.abs(other.mean - found.mean).max() > 1e-5  # another past


@pytest.mark.parametrize("order", [1, 2])
def test_the_mean_field_is_that_of_every_order_and_step(order):
    optimizer = ROWS["rmsprop-inside"]()
    field = field_of("rmsprop-inside", order)
    fields = [field(shuffle, RATE, n, PLACE) for shuffle in orders(3, 2) for n in (3, 4, 5)]
    found = shuffle_mean(problem(3), optimizer, PLACE, RATE, kind="field", order=order, epochs=2)
    agree(found.mean, np.mean(fields, axis=0), 1e-11)
    np.testing.assert_array_equal(found.validity.steps, [3, 4, 5])


@functools.cache
def field_of(row, order=2):
    """(schedule, rate, step, place) → the library's field, compiled once for all of them."""
    optimizer = ROWS[row]()

    def field(schedule, rate, step, place):
        shuffled = sf.Problem(batch_loss, batches=DATA[:3], schedule=schedule)
        return sf.modified_field(shuffled, optimizer, rate, order=order, method="taylor")(
            step, place
        )

    compiled = jax.jit(field)
    return lambda *given: compiled(*map(jnp.asarray, given))


def test_optax_and_the_zoo_have_the_same_mean():
    options = {"b1": 0.5, "b2": 0.7, "eps": 0.0, "eps_root": 0.1}
    theirs = sf.from_optax(functools.partial(optax.adam, **options))
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = shuffle_mean(problem(4), theirs, PLACE, RATE)
    ours = shuffle_mean(problem(4), sf.adam(**options), PLACE, RATE)
    np.testing.assert_allclose(found.mean, ours.mean, rtol=1e-13)


@pytest.mark.parametrize("kind", ["iterates", "field", pytest.param("flow", marks=SLOW)])
def test_host_functions_go_the_same_way(kind):
    grad = jax.grad(batch_loss)
    slow = sf.Problem(
        grad=lambda x, c: np.asarray(grad(x, jnp.asarray(c))), traceable=False, batches=DATA[:2]
    )
    means = [
        shuffle_mean(p, ROWS["adam-inside"](), PLACE, RATE, kind=kind, method="displaced").mean
        for p in (slow, problem(2))
    ]
    np.testing.assert_allclose(*means, rtol=1e-12)
    pair = [shuffle_mean(p, sf.sgd(), PLACE, RATE, samples=4) for p in (slow, problem(2))]
    np.testing.assert_allclose(pair[0].standard_error, pair[1].standard_error, rtol=1e-9)


def test_it_is_the_same_in_pieces(monkeypatch):
    whole = shuffle_mean(problem(4), sf.sgd(), PLACE, RATE, samples=25)
    monkeypatch.setattr(shuffles, "CHUNK", 7)
    parts = shuffle_mean(problem(4), sf.sgd(), PLACE, RATE, samples=25)
    for name in ("mean", "standard_error"):
        np.testing.assert_allclose(getattr(whole, name), getattr(parts, name), rtol=1e-9)


# Gradient descent: the flow of E + (h/4)‖∇E‖² + (h/(4m)) Σ_k ‖∇E_k − ∇E‖²

HALVED = [2.0**-k for k in range(8, 12)]
TINY = [2.0**-k for k in range(15, 18)]  # below where two signs cancel


@functools.partial(jax.jit, static_argnames="count")
def modified_gradient(x, count, rate, noise):
    """∇ of the modified loss of Smith et al. at x; without its last term for noise = 0."""

    def loss(x):
        values, grads = jax.vmap(jax.value_and_grad(batch_loss), (None, 0))(x, DATA[:count])
        mean = jnp.mean(grads, axis=0)
        spread = jnp.sum((grads - mean[None]) ** 2) / count
        return jnp.mean(values) + rate / 4 * (jnp.sum(mean**2) + noise * spread)

    return jax.grad(loss)(x)


@functools.partial(jax.jit, static_argnames="count")
def modified_end(count, rate, noise):
    """Its flow, over the time of one epoch."""
    time = count * rate
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, x, args: -modified_gradient(x, count, rate, noise)),
        diffrax.Dopri8(),
        0.0,
        time,
        time / 4,
        PLACE,
        stepsize_controller=diffrax.PIDController(rtol=1e-12, atol=1e-13),
    )
    return solution.ys[0]


@pytest.mark.parametrize("count", [3, 4])
def test_gradient_descent_follows_the_modified_loss_to_order_3(count):
    ends = [shuffle_mean(problem(count), sf.sgd(), PLACE, rate).mean for rate in HALVED]
    errors = {}
    for noise in (1, 0):
        flows = [modified_end(count, rate, float(noise)) for rate in HALVED]
        errors[noise] = [float(np.abs(a - b).max()) for a, b in zip(ends, flows, strict=True)]
    assert abs(slope(errors[1]) - 3) < 0.15, errors
    assert slope(errors[0][-2:]) < 2.3, errors  # the full-batch term alone
    assert errors[0][-1] > 5 * errors[1][-1], errors


def test_the_mean_field_of_gradient_descent_is_the_modified_loss_s():
    for count in (3, 4):
        field = shuffle_mean(problem(count), sf.sgd(), PLACE, RATE, kind="field").mean
        agree(field, -modified_gradient(PLACE, count, RATE, 1.0), 1e-11)
        gap = np.abs(field + modified_gradient(PLACE, count, RATE, 0.0)).max()
        assert gap > 1e-3, gap


@pytest.mark.parametrize(
    ("row", "order"), [("sgd", 3), ("momentum-corrected", 2), ("adam-inside", 2)]
)
def test_where_the_flow_of_the_mean_field_is_the_mean(row, order):
    """For gradient descent it is; with a memory an epoch's sum of moves depends on the order."""
    field, errors = field_of(row), []
    for rate in TINY:
        end = PLACE
        for n in range(3):
            every = lambda x, n=n, rate=rate: [field(o, rate, n, x) for o in orders(3)]
            end = runge_kutta(lambda x, every=every: np.mean(every(x), axis=0), end, rate)
        real = shuffle_mean(problem(3), ROWS[row](), PLACE, rate).mean
        errors.append(float(np.abs(end - real).max()))
    assert abs(slope(errors) - order) < 0.15, (slope(errors), errors)


def runge_kutta(field, x, step):
    a = field(x)
    b = field(x + step / 2 * a)
    c = field(x + step / 2 * b)
    return x + step / 6 * (a + 2 * b + 2 * c + field(x + step * c))


# Orders with a memory

SMALL = [2.0**-k for k in range(8, 11)]


@pytest.mark.parametrize("kind", SHADOWS)
@pytest.mark.parametrize(
    "row",
    [
        "adam-inside",
        *(
            pytest.param(row, marks=SLOW)
            for row in ("adam-outside", "rmsprop-inside", "momentum-ema")
        ),
    ],
)
def test_the_mean_of_the_shadows_is_the_mean_to_order_3(row, kind):
    optimizer, errors = ROWS[row](), {}
    ends = [shuffle_mean(problem(3), optimizer, PLACE, rate).mean for rate in SMALL]
    for order in (1, 2):
        follow = [
            shuffle_mean(problem(3), optimizer, PLACE, rate, kind=kind, order=order).mean
            for rate in SMALL
        ]
        errors[order] = [float(np.abs(a - b).max()) for a, b in zip(ends, follow, strict=True)]
    assert abs(slope(errors[2]) - 3) < 0.15, errors
    assert abs(slope(errors[1]) - 2) < 0.15, errors


# Sampling


@functools.cache
def drawn(row, samples, seed, count=5):
    return shuffle_mean(problem(count), ROWS[row](), PLACE, RATE, samples=samples, seed=seed)


@SLOW
@pytest.mark.parametrize("row", ["sgd", "adam-inside"])
def test_standard_errors_cover_the_exact_mean_as_often_as_they_should(row):
    """Of 160 intervals of 95 % between 89 and 99 % hold; half as wide, three of ten would not."""
    exact = shuffle_mean(problem(5), ROWS[row](), PLACE, RATE)
    assert exact.exact and exact.orders == 120
    found = [drawn(row, 24, seed) for seed in range(160)]
    assert not found[0].exact and found[0].orders == 48
    errors = np.array([f.standard_error for f in found])
    gaps = np.array([f.mean - exact.mean for f in found])
    quantile = 2.069  # Student's t with 23 degrees of freedom
    for j in range(3):
        scores = gaps[:, j] / errors[:, j]
        assert 0.89 < np.mean(np.abs(scores) < quantile) < 0.99
        assert np.mean(np.abs(scores) < quantile / 2) < 0.8
        assert abs(np.mean(gaps[:, j])) < 4 * np.std(gaps[:, j]) / 160**0.5
    np.testing.assert_allclose(np.mean(errors**2, axis=0), np.mean(gaps**2, axis=0), rtol=0.35)


def test_standard_errors_shrink_as_one_over_the_root_of_the_draws():
    sizes = [
        np.mean([drawn("adam-inside", n, seed).standard_error for seed in range(8)])
        for n in (32, 512)
    ]
    np.testing.assert_allclose(sizes[0] / sizes[1], 4, rtol=0.1)


def test_a_reversed_order_takes_what_differs_at_order_2_away():
    """Of gradient descent; of independent orders the standard error is of order 2."""
    paired, alone = [], []
    for rate in HALVED:
        paired.append(
            np.max(shuffle_mean(problem(4), sf.sgd(), PLACE, rate, samples=64).standard_error)
        )
        ends = [
            sf.iterate(with_order(4, order), sf.sgd(), PLACE, rate, 4).last for order in orders(4)
        ]
        alone.append(np.max(np.std(ends, axis=0)))
    assert abs(slope(paired) - 3) < 0.15, paired
    assert abs(slope(alone) - 2) < 0.15, alone


def test_draws_are_shuffles_with_their_reverses():
    found, draws, exact = shuffles._orders(7, 2, None, 3)
    assert (len(found), draws, exact) == (2 * shuffles.SAMPLES, shuffles.SAMPLES, False)
    epochs = found.reshape(draws, 2, 2, 7)
    assert np.all(np.sort(epochs, axis=-1) == np.arange(7))
    np.testing.assert_array_equal(epochs[:, 0], epochs[:, 1, :, ::-1])
    assert np.any(epochs[:, :, 0] != epochs[:, :, 1])
    assert np.any(found != shuffles._orders(7, 2, None, 4)[0])
    first = np.bincount(shuffles._orders(3, 1, 3000, 0)[0][:, 0], minlength=3)
    np.testing.assert_allclose(first / 6000, 1 / 3, atol=0.03)


@pytest.mark.parametrize("kind", ["iterates", "iteration", "field"])
def test_copies_of_one_batch_have_no_spread(kind):
    """To rounding; and the mean is what the full batch does."""
    optimizer, full = ROWS["adam-inside"](), sf.Problem(lambda x: batch_loss(x, DATA[0]))
    found = shuffle_mean(problem(8, True), optimizer, PLACE, RATE, kind=kind, samples=3)
    assert np.all(found.standard_error < 1e-16) and not found.exact
    expected = {
        "iterates": lambda: sf.iterate(full, optimizer, PLACE, RATE, 8).last,
        "field": lambda: np.mean(
            [sf.modified_field(full, optimizer, RATE, method="taylor")(n, PLACE) for n in range(8)],
            axis=0,
        ),
    }.get(
        kind,
        lambda: (
            sf.shadow(full, optimizer, PLACE, RATE, 8, method="taylor", kind=kind, check=False).last
        ),
    )()
    np.testing.assert_allclose(found.mean, expected, rtol=1e-10)


# What one may ask for


def test_any_function_of_the_problem_has_a_mean():
    """Its own schedule before ``first``, every batch as often as any other from there on."""
    numbers = sf.Problem(lambda x, c: c * x, batches=jnp.arange(4.0), schedule=[3, 3, 0, 1, 2, 3])
    found = over_shuffles(
        lambda p: {"seen": p.batch_index(jnp.arange(6)).astype(float)}, numbers, first=2
    )
    np.testing.assert_allclose(found.mean["seen"], [3, 3, 1.5, 1.5, 1.5, 1.5], rtol=1e-14)
    assert found.orders == 24 and "exact" in found.verdict
    many = sf.Problem(lambda x, c: c * x, batches=jnp.arange(30.0))
    found = over_shuffles(lambda p: p.batch_index(2).astype(float), many, samples=50)
    assert 0 < found.standard_error < 2 and "50 of the orders of 30 batches" in found.verdict
    assert abs(found.mean - 14.5) < 5 * found.standard_error
    seen = shuffles._orders(30, 1, 50, 0)[0][:, 2].reshape(50, 2).mean(axis=1)  # pair by pair
    assert found.mean == pytest.approx(np.mean(seen))
    assert found.standard_error == pytest.approx(np.std(seen, ddof=1) / 50**0.5)


def test_the_dtype_is_the_parameters():
    params = {"x": PLACE.astype(jnp.float32)}
    loss = lambda p, c: batch_loss(p["x"], c.astype(jnp.float32))
    found = shuffle_mean(sf.Problem(loss, batches=DATA[:3]), sf.sgd(), params, 0.01, samples=4)
    assert found.mean["x"].dtype == found.standard_error["x"].dtype == jnp.float32


def test_what_is_not_finite_is_said_with_its_step():
    """Where batch 2 comes last its logarithm is taken of a negative number."""
    logs = sf.Problem(
        lambda x, c: jnp.sum(-c[0] * jnp.log(x) + c[1] * x),
        batches=jnp.asarray([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]]),
    )
    found = shuffle_mean(logs, sf.sgd(), jnp.ones(1), 0.6)
    assert found.failed_at == 2
    assert found.verdict.startswith("Does not hold: a non-finite number began at step 2")
    found = shuffle_mean(logs, sf.sgd(), jnp.ones(1), 0.6, kind="iteration")
    assert found.failed_at == 2 and found.validity.level == "does not hold"


REFUSALS = [
    (
        lambda: shuffle_mean(sf.Problem(batch_loss), sf.sgd(), PLACE, RATE),
        ValueError,
        "problem: expected mini-batches",
    ),
    (
        lambda: over_shuffles(lambda p: PLACE, sf.Problem(batch_loss)),
        ValueError,
        "problem: expected mini-batches",
    ),
    (lambda: over_shuffles(3, problem(3)), TypeError, "function: expected a function"),
    (lambda: shuffle_mean(batch_loss, sf.sgd(), PLACE, RATE), TypeError, "problem: expected a"),
    (
        lambda: shuffle_mean(problem(3), optax.sgd(0.1), PLACE, RATE),
        TypeError,
        "optimizer: expected one whose learning rate can be varied",
    ),
    (lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, -1.0), ValueError, "learning_rate: "),
    (
        lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, RATE, kind="iterate"),
        ValueError,
        "kind: expected one of 'iterates', 'flow', 'iteration', 'field'",
    ),
    (
        lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, RATE, kind="flow", method="inertial"),
        ValueError,
        "expected one that takes mini-batches",
    ),
    (
        lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, RATE, kind="flow", order=3),
        ValueError,
        "order",
    ),
    (
        lambda: shuffle_mean(
            problem(3), sf.from_optax(optax.sgd), PLACE, RATE, kind="field", method="taylor"
        ),
        ValueError,
        r"method: expected one of \['displaced'\] for the optax transformation sgd on mini-batches",
    ),
    (
        lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, RATE, samples=1),
        ValueError,
        "samples: expected a whole number of at least 2",
    ),
    (lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, RATE, epochs=0), ValueError, "epochs: "),
    (lambda: shuffle_mean(problem(3), sf.sgd(), PLACE, RATE, seed=-1), ValueError, "seed: "),
    (
        lambda: shuffle_mean(
            problem(3),
            sf.momentum(decay=0.5),
            PLACE,
            RATE,
            start=sf.State((PLACE,), jnp.asarray(jnp.inf)),
        ),
        ValueError,
        "start: expected the number of a step",
    ),
    (lambda: shuffle_mean(problem(3), sf.sgd(), jnp.arange(3), RATE), TypeError, "params"),
]


@pytest.mark.parametrize(("call", "kind", "message"), REFUSALS)
def test_refusals(call, kind, message):
    with pytest.raises(kind, match=message):
        call()
