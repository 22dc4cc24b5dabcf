"""Every optimizer of the zoo against optax, or written out as direct sums over the past."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.zoo import Decayed, LookaheadRatio, Mixture, Ratio, SmoothedSign
from shadowflow.problem import Problem

STEPS, RATE = 50, 0.02


def loss(params):
    """Coupled, not quadratic, on a matrix, a vector and a scalar."""
    hidden = jnp.tanh(params["matrix"] @ params["vector"])
    valley = (1.5 - 2 * params["scalar"] * params["vector"][0]) ** 2
    return jnp.sum(hidden**2) + 0.5 * valley + 0.1 * jnp.sum(params["vector"] ** 4)


gradient, apply_updates = jax.jit(jax.grad(loss)), jax.jit(optax.apply_updates)
PROBLEM = Problem(loss)


def start(dtype=jnp.float64):
    return {
        "matrix": jnp.asarray([[0.4, -0.9, 1.1], [-0.3, 0.7, 0.5]], dtype),
        "vector": jnp.asarray([0.9, -1.4, 0.8], dtype),
        "scalar": jnp.asarray(1.6, dtype),
    }


def optax_path(transformation, params, steps=STEPS):
    """All parameters of an ordinary optax training loop, stacked."""
    state, path = transformation.init(params), [params]
    with jax.numpy_dtype_promotion("standard"):  # optax takes powers with integer exponents
        update = jax.jit(transformation.update)
        for _ in range(steps):
            updates, state = update(gradient(params), state, params)
            params = apply_updates(params, updates)
            path.append(params)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *path)


def flat(path):
    leaves = [np.asarray(leaf, float) for leaf in jax.tree.leaves(path)]
    return np.concatenate([leaf.reshape(len(leaf), -1) for leaf in leaves], axis=1)


def averaged(decay, debias):
    return optax.chain(optax.ema(decay, debias=debias), optax.scale(-RATE))


def rms(**options):
    return optax.rmsprop(RATE, **options)


PAIRS = {
    "sgd": (zoo.sgd(), optax.sgd(RATE)),
    "momentum": (zoo.momentum(decay=0.8), optax.sgd(RATE, momentum=0.8)),
    "nesterov": (zoo.nesterov(decay=0.8), optax.sgd(RATE, momentum=0.8, nesterov=True)),
    "momentum-ema": (zoo.momentum(decay=0.8, form="ema"), averaged(0.8, False)),
    "momentum-ema-corrected": (
        zoo.momentum(decay=0.8, form="ema", bias_correction=True),
        averaged(0.8, True),
    ),
    "rmsprop-inside": (zoo.rmsprop(decay=0.9, eps=0.0, eps_root=1e-3), rms(decay=0.9, eps=1e-3)),
    "rmsprop-outside": (
        zoo.rmsprop(decay=0.9, eps=1e-3),
        rms(decay=0.9, eps=1e-3, eps_in_sqrt=False),
    ),
    "rmsprop-inside-corrected": (
        zoo.rmsprop(decay=0.9, eps=0.0, eps_root=1e-3, bias_correction=True),
        rms(decay=0.9, eps=1e-3, bias_correction=True),
    ),
    "rmsprop-outside-corrected": (
        zoo.rmsprop(decay=0.9, eps=1e-3, bias_correction=True),
        rms(decay=0.9, eps=1e-3, eps_in_sqrt=False, bias_correction=True),
    ),
    "adam": (zoo.adam(), optax.adam(RATE)),
    "adam-inside": (
        zoo.adam(b1=0.8, b2=0.95, eps=0.0, eps_root=1e-3),
        optax.adam(RATE, 0.8, 0.95, 0.0, 1e-3),
    ),
    "adam-both": (
        zoo.adam(b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3),
        optax.adam(RATE, 0.8, 0.95, 1e-2, 1e-3),
    ),
    "adamw": (
        zoo.adamw(b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3, weight_decay=0.3),
        optax.adamw(RATE, 0.8, 0.95, 1e-2, 1e-3, weight_decay=0.3),
    ),
    "nadam": (
        zoo.nadam(b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3),
        optax.nadam(RATE, 0.8, 0.95, 1e-2, 1e-3),
    ),
    "signum": (
        zoo.signum(decay=0.8, eps_root=0.0),
        optax.chain(optax.ema(0.8, debias=False), optax.scale_by_sign(), optax.scale(-RATE)),
    ),
    "lion": (
        zoo.lion(b1=0.8, b2=0.95, eps_root=0.0),
        optax.lion(RATE, 0.8, 0.95, weight_decay=0.0),
    ),
}
# h · g, h · sign and one average have one way to be rounded, unless the compiler fuses them
SAME_ARITHMETIC = {"sgd", "momentum-ema", "signum", "lion"}


@pytest.mark.parametrize(
    ("own", "other"),
    [
        (zoo.adam, optax.adam),
        (zoo.adamw, optax.adamw),
        (zoo.nadam, optax.nadam),
        (zoo.lion, optax.lion),
        (zoo.rmsprop, optax.rmsprop),
    ],
)
def test_defaults_are_those_of_optax(own, other):
    """But for lion's weight decay and eps_root, which optax has not as here."""
    mine, theirs = (
        {name: p.default for name, p in inspect.signature(make).parameters.items()}
        for make in (own, other)
    )
    shared = mine.keys() & theirs.keys() - {"bias_correction"}
    assert len(shared) > 1 and {n: mine[n] for n in shared} == {n: theirs[n] for n in shared}


@pytest.mark.parametrize("name", PAIRS)
def test_fifty_steps_equal_optax(name):
    optimizer, transformation = PAIRS[name]
    ours = flat(iterate(PROBLEM, optimizer, start(), RATE, STEPS).params)
    theirs = flat(optax_path(transformation, start()))
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)
    assert np.ptp(theirs, axis=0).min() > RATE, "a coordinate that stays where it is tests nothing"
    if name not in SAME_ARITHMETIC:
        assert not np.array_equal(ours, theirs), "two ways to compute it round differently"


@pytest.mark.parametrize(
    "name", ["momentum", "rmsprop-outside-corrected", "adamw", "nadam", "lion"]
)
def test_fifty_steps_equal_optax_in_float32(name):
    """The decays themselves are rounded differently: 1 − b is taken before or after rounding."""
    optimizer, transformation = PAIRS[name]
    run = iterate(PROBLEM, optimizer, start(jnp.float32), RATE, STEPS)
    theirs = optax_path(transformation, start(jnp.float32))
    assert {leaf.dtype for leaf in jax.tree.leaves((run.params, theirs))} == {np.dtype("float32")}
    rounding = float(jnp.finfo(jnp.float32).eps)
    ours, theirs = flat(run.params), flat(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1000 * rounding, atol=1000 * rounding)
    exact = flat(iterate(PROBLEM, optimizer, start(), RATE, STEPS).params)
    assert np.max(np.abs(ours - exact)) > rounding / 4, "it must not have run in float64"


@pytest.mark.parametrize(
    "other",
    ["momentum-ema", "nesterov", "rmsprop-inside", "adam-inside", "adam-both", "adamw", "nadam"],
)
def test_the_comparison_with_optax_tells_optimizers_apart(other):
    """Negative control: the neighbour in the table is far outside the tolerance."""
    neighbour = {
        "momentum-ema": "momentum-ema-corrected",
        "nesterov": "momentum",
        "rmsprop-inside": "rmsprop-inside-corrected",
        "adam-inside": "adam-both",
        "adam-both": "nadam",
        "adamw": "adam-both",
        "nadam": "adam-both",
    }[other]
    ours = flat(iterate(PROBLEM, PAIRS[other][0], start(), RATE, 5).params)
    theirs = flat(optax_path(PAIRS[neighbour][1], start(), 5))
    assert np.max(np.abs(ours - theirs)) > 1e-3


@pytest.mark.parametrize("name", PAIRS)
def test_to_optax_in_an_ordinary_training_loop_equals_iterate(name):
    optimizer, _ = PAIRS[name]
    run = iterate(PROBLEM, optimizer, start(), RATE, 20)
    loop = optax_path(optimizer.to_optax(RATE), start(), 20)
    np.testing.assert_allclose(flat(loop), flat(run.params), rtol=1e-12, atol=1e-14)


def test_to_optax_reads_a_schedule_at_its_own_steps():
    schedule = optax.exponential_decay(0.05, 5, 0.5)
    optimizer = zoo.adam(b1=0.8, b2=0.95)
    theirs = flat(optax_path(optax.adam(schedule, 0.8, 0.95), start(), 20))
    ours = flat(optax_path(optimizer.to_optax(schedule), start(), 20))
    constant = flat(optax_path(optimizer.to_optax(0.05), start(), 20))
    np.testing.assert_allclose(ours, theirs, rtol=1e-11)
    assert np.max(np.abs(constant - theirs)) > 1e-3


def test_to_optax_composes_with_other_transformations():
    clip = optax.clip_by_global_norm(0.5)
    theirs = optax_path(optax.chain(clip, optax.adam(RATE, 0.8, 0.95)), start(), 20)
    ours = optax_path(optax.chain(clip, zoo.adam(b1=0.8, b2=0.95).to_optax(RATE)), start(), 20)
    plain = optax_path(zoo.adam(b1=0.8, b2=0.95, eps=1.0).to_optax(RATE), start(), 20)
    clipped = optax_path(
        optax.chain(clip, zoo.adam(b1=0.8, b2=0.95, eps=1.0).to_optax(RATE)), start(), 20
    )
    np.testing.assert_allclose(flat(ours), flat(theirs), rtol=1e-11)
    assert np.max(np.abs(flat(plain) - flat(clipped))) > 1e-3


def test_to_optax_asks_for_the_parameters():
    transformation = zoo.adam().to_optax(0.1)
    with pytest.raises(ValueError, match=r"params: expected the parameters, got None"):
        transformation.update(jnp.ones(2), transformation.init(jnp.ones(2)))


# --- what optax does not have: sums over the past as they are written in the theory


def average(values, decay, corrected):
    """Σ_k (1 − β) β^{n−k} v_k, divided by 1 − β^{n+1} if corrected."""
    ages = np.arange(len(values))[::-1].reshape(-1, 1)
    total = np.sum((1 - decay) * decay**ages * np.asarray(values), axis=0)
    return total / (1 - decay ** len(values)) if corrected else total


def ratio(grads, place, b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3, corrected=False):
    nu = average([g**2 for g in grads], b2, corrected)
    return average(grads, b1, corrected) / (np.sqrt(nu + eps_root) + eps)


def lookahead(grads, place):
    nu = average([g**2 for g in grads], 0.95, False)
    mixed = 0.8 * average(grads, 0.8, False) + 0.2 * grads[-1]
    return mixed / (np.sqrt(nu + 1e-3) + 1e-2)


def softened(x, eps_root=0.3):
    return x / np.sqrt(x**2 + eps_root)


WRITTEN_OUT = {
    "momentum-corrected": (
        zoo.momentum(decay=0.8, bias_correction=True),
        lambda grads, place: average(grads, 0.8, True) / 0.2,
    ),
    "nesterov-ema": (
        zoo.nesterov(decay=0.8, form="ema"),
        lambda grads, place: 0.8 * average(grads, 0.8, False) + 0.2 * grads[-1],
    ),
    "nesterov-corrected": (
        zoo.nesterov(decay=0.8, bias_correction=True),
        lambda grads, place: 4 * average(grads, 0.8, True) + grads[-1],
    ),
    "adam-uncorrected": (
        zoo.adam(b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3, bias_correction=False),
        ratio,
    ),
    "adamw-uncorrected": (
        zoo.adamw(
            b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3, weight_decay=0.3, bias_correction=False
        ),
        lambda grads, place: ratio(grads, place) + 0.3 * place,
    ),
    "nadam-uncorrected": (
        zoo.nadam(b1=0.8, b2=0.95, eps=1e-2, eps_root=1e-3, bias_correction=False),
        lookahead,
    ),
    "signum": (
        zoo.signum(decay=0.8, eps_root=0.3),
        lambda grads, place: softened(average(grads, 0.8, False)),
    ),
    "signum-corrected": (
        zoo.signum(decay=0.8, eps_root=0.3, bias_correction=True),
        lambda grads, place: softened(average(grads, 0.8, True)),
    ),
    "lion": (
        zoo.lion(b1=0.8, b2=0.95, eps_root=0.3),
        lambda grads, place: softened(
            0.8 * average([*grads[:-1], 0 * grads[-1]], 0.95, False) / 0.95 + 0.2 * grads[-1]
        ),
    ),
    "lion-corrected": (
        zoo.lion(b1=0.8, b2=0.95, eps_root=0.3, bias_correction=True),
        lambda grads, place: softened(
            0.8 / 0.95 * average(grads, 0.95, True) + (1 - 0.8 / 0.95) * grads[-1]
        ),
    ),
}


@jax.jit
@jax.grad
def flat_slope(x):
    return 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2 + 0.3 * x[2] ** 4 + 0.5 * x[1] * x[2]


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_twenty_steps_equal_direct_sums_over_the_past(name):
    optimizer, direction = WRITTEN_OUT[name]
    place, grads = np.array([0.9, 1.4, -0.7]), []
    state = optimizer.init(jnp.asarray(place))
    for _ in range(20):
        grads.append(np.asarray(flat_slope(place)))
        state, move = optimizer.update(state, jnp.asarray(grads[-1]), jnp.asarray(place), RATE)
        expected = -RATE * direction(grads, place)
        np.testing.assert_allclose(move, expected, rtol=1e-11)
        place = place + expected


# --- options


def directions(optimizer, steps=3):
    """The steps that an optimizer takes under given gradients, starting with one of exactly 0."""
    params = jnp.asarray([0.5, -1.0, 2.0])
    state, moves = optimizer.init(params), []
    for grad in ([0.0, -0.2, 0.03], [1.5, 0.4, -0.01], [-0.7, 0.1, 0.02])[:steps]:
        state, move = optimizer.update(state, jnp.asarray(grad), params, 0.1)
        moves.append(move)
    return np.stack(moves)


COMMON = {"b1": 0.5, "b2": 0.7, "eps": 0.01, "eps_root": 0.02, "bias_correction": False}
ADAMS = [zoo.adam, zoo.adamw, zoo.nadam]
OPTIONS = [
    *[
        (zoo.momentum, {name: value})
        for name, value in {"decay": 0.5, "form": "ema", "bias_correction": True}.items()
    ],
    *[
        (zoo.nesterov, {name: value})
        for name, value in {"decay": 0.5, "form": "ema", "bias_correction": True}.items()
    ],
    *[
        (zoo.rmsprop, {name: value})
        for name, value in {
            "decay": 0.5,
            "eps": 0.01,
            "eps_root": 0.02,
            "bias_correction": True,
        }.items()
    ],
    *[(build, {name: value}) for build in ADAMS for name, value in COMMON.items()],
    (zoo.adamw, {"weight_decay": 0.3}),
    *[
        (zoo.signum, {name: value})
        for name, value in {"decay": 0.5, "eps_root": 0.02, "bias_correction": True}.items()
    ],
    *[
        (zoo.lion, {name: value})
        for name, value in {"b1": 0.5, "b2": 0.7, "eps_root": 0.02, "bias_correction": True}.items()
    ],
]


def label(value):
    return value.__name__ if callable(value) else "=".join(map(str, *value.items()))


@pytest.mark.parametrize(("build", "change"), OPTIONS, ids=label)
def test_each_option_changes_the_step(build, change):
    before, after = directions(build()), directions(build(**change))
    assert np.all(np.isfinite(before)) and np.all(np.isfinite(after))
    assert np.max(np.abs(before - after)) > 1e-5


def test_eps_inside_and_outside_are_different_optimizers():
    assert np.max(np.abs(directions(zoo.adam(eps=0.1)) - directions(zoo.adam(eps_root=0.1)))) > 1e-3


@pytest.mark.parametrize(
    ("general", "special"),
    [
        (zoo.adamw(weight_decay=0.0), zoo.adam()),
        (
            zoo.adam(b1=0.0, b2=0.9, eps=1e-3),
            zoo.rmsprop(decay=0.9, eps=1e-3, bias_correction=True),
        ),
        (zoo.momentum(decay=0.0), zoo.sgd()),
        (zoo.nesterov(decay=0.0), zoo.sgd()),
        (zoo.lion(b1=0.9, b2=0.9), zoo.signum(decay=0.9)),
        (
            zoo.nadam(b1=0.0, b2=0.9, eps=1e-3),
            zoo.rmsprop(decay=0.9, eps=1e-3, bias_correction=True),
        ),
    ],
    ids=lambda optimizer: optimizer.name,
)
def test_a_limit_of_one_optimizer_is_another(general, special):
    np.testing.assert_allclose(directions(general), directions(special), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("name", PAIRS)
def test_a_dead_unit_stays_where_it_is(name):
    """A gradient that is exactly 0, at every step, moves nothing and gives no NaN."""
    optimizer = PAIRS[name][0]
    params, grad = jnp.asarray([0.0, 1.0]), jnp.asarray([0.0, 0.3])
    state = optimizer.init(params)
    for _ in range(3):
        state, move = optimizer.update(state, grad, params, 0.1)
        assert float(move[0]) == 0.0 and float(move[1]) < 0.0


# --- the formula that a reader sees is the function that is computed

COMBINES = {
    "momentum": (Mixture(1.0, 0.9), ["m"], 0),
    "plain": (Mixture(), ["m"], 0),
    "nesterov": (Mixture(0.8, 0.8), ["m", "g"], 0),
    "nesterov-ema": (Mixture(0.8), ["m", "g"], 0),
    "inside": (Ratio(0.0, 0.01), ["m", "nu"], 0),
    "outside": (Ratio(0.01, 0.0), ["m", "nu"], 0),
    "both": (Ratio(0.03, 0.01), ["m", "nu"], 0),
    "none": (Ratio(0.0, 0.0), ["m", "nu"], 0),
    "adamw": (Decayed(Ratio(0.03, 0.01), 0.25), ["m", "nu"], 0),
    "nadam": (LookaheadRatio(0.8, 0.03, 0.01, True), ["m", "g", "nu"], 3),
    "nadam-uncorrected": (LookaheadRatio(0.8, 0.03, 0.01, False), ["m", "g", "nu"], 3),
    "signum": (SmoothedSign(0.04), ["m"], 0),
    "lion": (SmoothedSign(0.04, 0.6, 0.8), ["m", "g"], 0),
}


def evaluated(formula, names):
    """The text of a formula, as a reader would take it, on numbers."""
    text, _, x = formula.partition(" with x = ")
    spelled = [
        re.sub(r"(\d) (?=[a-zA-Zθ(])", r"\1 * ", part.replace("²", "**2").replace("^", "**"))
        for part in (x or "0", text)
    ]
    known = {**names, "sqrt": np.sqrt}
    return eval(spelled[1], known | {"x": eval(spelled[0], dict(known))})


@pytest.mark.parametrize("name", COMBINES)
def test_the_formula_for_a_reader_is_what_is_computed(name):
    combine, names, n = COMBINES[name]
    values = {"m": np.array([0.3, -2.0]), "g": np.array([-0.6, 0.7]), "nu": np.array([0.5, 4.0])}
    place = np.array([0.9, -1.1])
    computed = combine(
        tuple(jnp.asarray(values[key]) for key in names), jnp.asarray(place), jnp.asarray(float(n))
    )
    shown = evaluated(combine.formula(*names), {**values, "θ": place, "n": n})
    np.testing.assert_allclose(shown, computed, rtol=1e-6)
