"""Laws that every row of the table obeys, whatever its formula: symmetries, limits, derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.rows import fast
from table import (
    CASES,
    MEMORYLESS,
    PLACE,
    PLACES,
    REPRESENTATIVE,
    ROWS,
    SMOOTH,
    every_answer,
    smooth,
)

from shadowflow.fields import memoryless_step, modified_field
from shadowflow.optimizers import zoo
from shadowflow.shadow import shadow

RATE, SCALE = 0.02, 7.0
FLIP = np.array([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])  # a signed permutation


def close(actual: dict, expected: dict, rtol=1e-11):
    """Equal to rounding in every method, kind and order."""
    assert actual.keys() == expected.keys() and len(actual) >= 2 * len(MEMORYLESS)
    for case, value in expected.items():
        size = rtol * float(np.abs(value).max())
        np.testing.assert_allclose(actual[case], value, rtol=rtol, atol=size, err_msg=str(case))


def same_bits(one: dict, other: dict) -> bool:
    return all(np.array_equal(one[case], other[case]) for case in one)


BOTH_STEPS = [(row, step) for row in ROWS for step in (3, "settled")]
LAWFUL = [(row, 3) for row in REPRESENTATIVE] + [("adam-both", "settled"), ("lion", "settled")]


def scaled_options(row: str) -> dict:
    """eps grows as the gradient, eps_root as its square."""
    powers = {"eps": SCALE, "eps_root": SCALE**2}
    return {k: v * powers[k] for k, v in ROWS[row].options.items() if k in powers}


@pytest.mark.parametrize(("row", "step"), fast(LAWFUL, BOTH_STEPS))
def test_scaling_the_loss_with_eps(row, step):
    """(E, eps, eps_root) → (cE, c eps, c² eps_root) changes nothing where Φ divides by its size;
    for the linear optimizers it is a change of the learning rate."""
    here = every_answer(SMOOTH, ROWS[row](), RATE, step, PLACES)
    linear = row == "sgd" or row.startswith(("momentum", "nesterov"))
    rate = RATE / SCALE if linear else RATE
    there = every_answer(smooth(SCALE), ROWS[row](**scaled_options(row)), rate, step, PLACES)
    speed = SCALE if linear else 1.0
    close(there, {case: v * (speed if case[1] == "flow" else 1.0) for case, v in here.items()})
    if not linear:
        unscaled = every_answer(smooth(SCALE), ROWS[row](), RATE, step, PLACES)
        gap = unscaled["taylor", "flow", 2] - here["taylor", "flow", 2]
        assert np.abs(gap).max() > 1e-3


def in_turned_coordinates(row, step, turn) -> dict:
    """The answers on the turned problem, turned back."""
    found = every_answer(smooth(turn=turn), ROWS[row](), RATE, step, PLACES @ turn.T)
    return {case: value @ turn for case, value in found.items()}


@pytest.mark.parametrize(("row", "step"), fast(LAWFUL, BOTH_STEPS))
def test_permuting_and_flipping_coordinates(row, step):
    here = every_answer(SMOOTH, ROWS[row](), RATE, step, PLACES)
    close(in_turned_coordinates(row, step, FLIP), here)


def test_another_rotation_is_a_symmetry_of_gradient_descent_and_not_of_adam():
    """The control of the law above: Adam is pointwise, so only signed permutations leave it."""
    c, s = np.cos(0.3), np.sin(0.3)
    turn = np.array([[c, -s, 0.0], [s, c, 0.0], [0.0, 0.0, 1.0]])
    close(in_turned_coordinates("sgd", 3, turn), every_answer(SMOOTH, zoo.sgd(), RATE, 3, PLACES))
    here = every_answer(SMOOTH, ROWS["adam-both"](), RATE, 3, PLACES)
    there = in_turned_coordinates("adam-both", 3, turn)
    assert all(np.abs(there[case] - here[case]).max() > 1e-3 for case in here)


@pytest.mark.parametrize("step", [0, 3, "settled"])
def test_adam_with_a_huge_eps_is_momentum(step):
    """eps_root → ∞ at the rescaled step h / sqrt(eps_root): bias-corrected momentum, EMA form.

    (b2 < b1: the secant's place is that of the longest memory.)"""
    eps_root = 1e16
    adam = zoo.adam(b1=0.6, b2=0.5, eps=0.0, eps_root=eps_root)
    ball = zoo.momentum(decay=0.6, form="ema", bias_correction=True)
    there = every_answer(SMOOTH, adam, RATE * np.sqrt(eps_root), step, PLACES)
    here = every_answer(SMOOTH, ball, RATE, step, PLACES)
    size = np.sqrt(eps_root)
    close({case: v * (size if case[1] == "flow" else 1) for case, v in there.items()}, here, 1e-8)
    assert not same_bits(there, here)


def test_adam_without_weight_decay_is_adam():
    options = {k: v for k, v in ROWS["adamw"].options.items() if k != "weight_decay"}
    for step in (3, "settled"):
        adam = every_answer(SMOOTH, zoo.adam(**options), RATE, step, PLACES)
        close(every_answer(SMOOTH, ROWS["adamw"](weight_decay=0.0), RATE, step, PLACES), adam)
        other = every_answer(SMOOTH, ROWS["adamw"](), RATE, step, PLACES)
        gaps = [np.abs(other[case] - adam[case]).max() for case in adam]
        assert min(gaps) > 1e-4


SPECIAL = [
    ("adam-both", {"b1": 0.0}, "rmsprop-corrected", {"eps": 0.2}),
    ("momentum", {"decay": 0.0}, "sgd", {}),
    ("nesterov", {"decay": 0.0}, "sgd", {}),
    ("nadam", {"b1": 0.0}, "rmsprop-corrected", {"eps": 0.2}),
    ("lion", {"b1": 0.7}, "signum", {"decay": 0.7}),
]


@pytest.mark.parametrize(("row", "options", "other", "others"), SPECIAL)
def test_special_cases_are_the_simpler_optimizer(row, options, other, others):
    """In every method, but for NAdam's secants: it reads the step, so each moment has its own."""
    for step in (3, "settled"):
        one = every_answer(SMOOTH, ROWS[row](**options), RATE, step, PLACES)
        two = every_answer(SMOOTH, ROWS[other](**others), RATE, step, PLACES)
        if row == "nadam" and step == 3:
            one, two = ({c: v for c, v in d.items() if c[0] != "displaced"} for d in (one, two))
            assert len(one) == 6
            for case in one:
                np.testing.assert_allclose(one[case], two[case], rtol=1e-11)
        else:
            close(one, two)


def test_first_order_ignores_how_far_the_past_is():
    """The direction of first order depends on the learning rate not at all, the second does."""
    slow, fast = (
        every_answer(SMOOTH, ROWS["nadam"](), rate, 3, PLACES) for rate in (RATE, 2 * RATE)
    )
    np.testing.assert_array_equal(slow["taylor", "flow", 1], fast["taylor", "flow", 1])
    for method in MEMORYLESS:
        assert np.abs(slow[method, "flow", 2] - fast[method, "flow", 2]).max() > 1e-3


# Derivatives, vectorized evaluation, compilation

TRACED = {"b1": 0.5, "b2": 0.7, "eps": 0.2, "eps_root": 0.1}


def field_of(method, step, counter=None):
    def field(options):
        if counter is not None:
            counter.append(1)
        adam = zoo.adam(**options)
        return modified_field(SMOOTH, adam, RATE, method=method)(step, PLACE)

    return field


@pytest.mark.parametrize(
    ("method", "step"),
    [("taylor", "settled"), ("taylor", 5), ("displaced", 5), ("linearized", "settled")],
)
def test_derivatives_by_decays_and_eps(method, step):
    """Against central differences, in forward and in reverse mode."""
    field = field_of(method, step)
    options = {name: jnp.asarray(value) for name, value in TRACED.items()}
    value, forward, reverse = jax.jit(
        lambda o: (field(o), jax.jacfwd(field)(o), jax.jacrev(field)(o))
    )(options)
    jitted = jax.jit(field)
    np.testing.assert_allclose(value, jitted(options), rtol=1e-12)
    for name, at in options.items():
        ends = [jitted({**options, name: at + d}) for d in (1e-5, -1e-5)]
        expected = (ends[0] - ends[1]) / 2e-5
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(forward[name], expected, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(reverse[name], forward[name], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("method", ["taylor", "displaced"])
def test_many_decays_at_once_without_compiling_again(method):
    traces = []
    many = jax.jit(jax.vmap(field_of(method, "settled", traces)))
    grid = {
        "b1": jnp.linspace(0.1, 0.9, 4),
        "b2": jnp.linspace(0.2, 0.99, 4),
        "eps": jnp.linspace(0.0, 0.3, 4),
        "eps_root": jnp.linspace(0.1, 1e-3, 4),
    }
    fields = many(grid)
    again = many(jax.tree.map(lambda leaf: leaf * 0.9, grid))
    assert len(traces) == 1
    assert np.all(np.abs(again - fields).max(axis=1) > 1e-4)
    for i in range(4):
        alone = field_of(method, "settled")({name: float(leaf[i]) for name, leaf in grid.items()})
        np.testing.assert_allclose(fields[i], alone, rtol=1e-11)


@pytest.mark.parametrize("build", [modified_field, memoryless_step])
def test_one_compilation_serves_every_step_and_place(build):
    traces = []

    @jax.jit
    def function(step, params):
        traces.append(1)
        return build(SMOOTH, ROWS["rmsprop-both"](), RATE)(step, params)

    values = [function(jnp.asarray(n), PLACE + 0.01 * n) for n in range(4)]
    assert len(traces) == 1
    assert len({float(value[0]) for value in values}) == 4


def test_steps_in_one_vectorized_call():
    field = modified_field(SMOOTH, ROWS["adam-both"](), RATE, method="taylor")
    many = jax.vmap(lambda n: field(n, PLACE))(jnp.arange(5))
    for n in range(5):
        np.testing.assert_allclose(many[n], field(n, PLACE), rtol=1e-12)
    assert np.all(np.abs(np.diff(many, axis=0)).max(axis=1) > 1e-4)


def test_every_number_of_an_optimizer_changes_its_field():
    """No option is accepted and then forgotten, in any method."""
    changes = {
        "decay": 0.05,
        "b1": 0.05,
        "b2": 0.05,
        "eps": 0.1,
        "eps_root": 0.1,
        "weight_decay": 0.1,
    }
    seen = set()
    for row, (_, options) in ROWS.items():
        before = every_answer(SMOOTH, ROWS[row](), RATE, 3, PLACES)
        for name in changes.keys() & options.keys():
            changed = ROWS[row](**{name: options[name] + changes[name]})
            after = every_answer(SMOOTH, changed, RATE, 3, PLACES)
            for case in before:
                small = case[1] == "iteration"
                gap = np.abs(after[case] - before[case]).max()
                assert gap > (1e-6 if small else 1e-4) or forgets(row, name, case), (row, name)
            seen.add(name)
    assert seen == changes.keys()


def forgets(row, name, case) -> bool:
    """At first order the decay of a bias-corrected average cancels."""
    corrected = row in ("momentum-corrected", "rmsprop-corrected", "adamw") or (
        row.startswith("adam-") and row != "adam-uncorrected"
    )
    return case[2] == 1 and (
        (corrected and name in ("b1", "b2", "decay")) or (row, name) == ("nadam", "b2")
    )


@pytest.mark.parametrize(("method", "kind", "order"), CASES)
def test_every_choice_of_method_kind_and_order_is_another_run(method, kind, order):
    """No choice is accepted and then ignored: all end at different places."""
    ends = {
        case: shadow(
            SMOOTH,
            ROWS["adam-both"](),
            PLACE,
            RATE,
            8,
            method=case[0],
            kind=case[1],
            order=case[2],
            check=False,
        ).last
        for case in {(method, kind, order), ("taylor", "flow", 2), ("displaced", "iteration", 2)}
    }
    mine = ends.pop((method, kind, order))
    for other in ends.values():
        assert np.abs(mine - other).max() > 1e-5
