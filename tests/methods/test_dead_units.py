"""A gradient component that is exactly 0 makes no NaN, in any method, and gives the limit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.rows import fast
from table import every_answer

import shadowflow as sf
from shadowflow.optimizers import zoo

EPS = {
    "outside": {"eps": 1e-8, "eps_root": 0.0},
    "inside": {"eps": 0.0, "eps_root": 1e-8},
    "both": {"eps": 1e-4, "eps_root": 1e-4},
}
ROWS = {
    **{f"adam-{place}": zoo.adam(b1=0.5, b2=0.7, **eps) for place, eps in EPS.items()},
    **{f"rmsprop-{place}": zoo.rmsprop(decay=0.7, **eps) for place, eps in EPS.items()},
    "nadam-outside": zoo.nadam(b1=0.5, b2=0.7, **EPS["outside"]),
    "adamw-outside": zoo.adamw(b1=0.5, b2=0.7, **EPS["outside"]),
    "signum-exact": zoo.signum(decay=0.5, eps_root=0.0),
    "lion-exact": zoo.lion(b1=0.5, b2=0.7, eps_root=0.0),
    "momentum": zoo.momentum(decay=0.5),
}
OUTSIDE = [name for name in ROWS if "-inside" not in name and "-both" not in name]
STILL = sf.Problem(lambda x: 0.5 * x[0] ** 2), jnp.asarray([1.0, 2.0])  # x[1] is in no loss
PULLED = sf.Problem(lambda x: 0.5 * x[0] ** 2 + 3.0 * x[0] * x[1]), jnp.asarray([0.0, 2.0])
RATE = 1e-10


STEPS = [(name, step) for name in ROWS for step in (0, 3, "settled")]


@pytest.mark.parametrize(
    ("name", "step"),
    fast([(n, 0) for n in OUTSIDE] + [(n, "settled") for n in OUTSIDE if "-" in n], STEPS),
)
def test_fields_and_steps_are_finite(name, step):
    for problem, place in (STILL, PULLED):
        assert 0 in np.asarray(problem.gradient(place))
        answers = every_answer(problem, ROWS[name], RATE, step, place[None])
        assert len(answers) > 4
        for case, value in answers.items():
            assert np.all(np.isfinite(value)), (case, value)


RUNS = [(name, start) for name in OUTSIDE for start in (0, "settled")]


@pytest.mark.parametrize(
    ("name", "start"),
    fast(
        [("adam-outside", "settled"), ("lion-exact", 0), ("nadam-outside", 0), ("momentum", 0)],
        RUNS,
    ),
)
def test_runs_are_finite_and_leave_the_dead_unit_where_it_is(name, start):
    problem, place = STILL
    for method in ("taylor", "displaced", "inertial"):
        follow = sf.shadow(
            problem, ROWS[name], place, 1e-4, 3, method=method, start=start, check=False
        )
        assert follow.failed_at is None
        if name != "adamw-outside":
            np.testing.assert_array_equal(follow.params[:, 1], 2.0)
        assert np.all(follow.params[1:, 0] < 1.0)


def test_the_correction_at_zero_is_the_limit():
    """Φ(g) = g/(|g| + eps) has the slope 1/eps at 0: the bias there is (h/2)(1+β)/(1−β) Hv/eps."""
    eps, b1 = 1e-3, 0.5
    adam = zoo.adam(b1=b1, b2=0.7, eps=eps)
    problem, place = PULLED
    direction = np.asarray([6.0 / (6.0 + eps), 0.0])  # g = (6, 0) at (0, 2)
    hessian = np.asarray(jax.hessian(problem.loss)(place))
    field = sf.modified_field(problem, adam, 1e-6, method="taylor")("settled", place)
    expected = -(1e-6 / 2) * (1 + b1) / (1 - b1) * (hessian @ direction)[1] / eps
    np.testing.assert_allclose(field[1], expected, rtol=1e-12)
    assert expected != 0


def test_derivatives_of_the_field_are_finite_too():
    problem, place = PULLED
    for eps in EPS.values():
        slope = jax.jacfwd(
            lambda b2, eps=eps: sf.modified_field(
                problem, zoo.adam(b1=0.5, b2=b2, **eps), RATE, method="taylor"
            )(3, place)
        )(0.7)
        assert np.all(np.isfinite(slope))


def test_where_the_optimizer_itself_is_undefined_the_run_says_so():
    problem, place = STILL
    run = sf.iterate(problem, zoo.adam(eps=0.0, eps_root=0.0), place, 1e-3, 5)
    assert run.failed_at == 0
    np.testing.assert_array_equal(run.params, [place])


BETAS = {"b1": 0.5, "b2": 0.7}
OPTAX = pytest.mark.usefixtures("promotion_as_optax_needs_it")
OUTSIDE_ROOT = {
    "adam": (functools.partial(optax.adam, **BETAS), ROWS["adam-outside"]),
    "nadam": (functools.partial(optax.nadam, **BETAS), ROWS["nadam-outside"]),
    "adamw": (functools.partial(optax.adamw, **BETAS, weight_decay=1e-4), ROWS["adamw-outside"]),
    "rmsprop": (
        functools.partial(optax.rmsprop, decay=0.7, eps=1e-8, eps_in_sqrt=False),
        ROWS["rmsprop-outside"],
    ),
}


@OPTAX
@pytest.mark.parametrize("step", [3, pytest.param("settled", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", fast(["adam"], OUTSIDE_ROOT))
def test_a_transformation_that_takes_a_root_of_0_has_the_limit_as_its_field(name, step):
    make, own = OUTSIDE_ROOT[name]
    problem, place = PULLED
    for method in ("taylor", "displaced"):
        mine, expected = (
            sf.modified_field(problem, optimizer, RATE, method=method)(step, place)
            for optimizer in (sf.from_optax(make), own)
        )
        assert abs(expected[1]) > 1e-4 if method == "taylor" else np.isfinite(expected[1])
        np.testing.assert_allclose(mine, expected, rtol=1e-6)


@OPTAX
@pytest.mark.parametrize("order", [2, 3, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", fast(["adam"], OUTSIDE_ROOT))
def test_its_moments_are_followed_past_a_dead_unit_at_every_order(name, order):
    """As the library's own are, and not at a lower order where a derivative is no number."""
    make, own = OUTSIDE_ROOT[name]
    problem, place = STILL
    options = {"method": "inertial", "order": order}
    mine, expected = (
        sf.shadow(problem, optimizer, place, 1e-3, 3, **options)
        for optimizer in (sf.from_optax(make), own)
    )
    assert mine.failed_at is None and "Order 2 was taken" not in mine.verdict
    np.testing.assert_allclose(mine.params, expected.params, rtol=1e-6 if order == 2 else 1e-9)
    if name != "adamw":
        np.testing.assert_array_equal(mine.params[:, 1], 2.0)
