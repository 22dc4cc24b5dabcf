"""Orders to 8 of an optimizer with moments, to 4 of an optax transformation, from settled starts.

As far as float64 shows them: three clean halvings to order 5, two at 6, one at 7 and 8, as
``convergence`` judges them. Decays are small and eps is large, so that the errors are of the
declared order while they lie above rounding.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.optax_problem import BOWL, PLACE as CORNER
from table import PLACE, SMOOTH

import shadowflow as sf
from shadowflow.diagnostics.convergence import HALVINGS, SHORTFALL, STEEP
from shadowflow.lab.models import bilinear_problem
from shadowflow.methods import ode as solver

BILINEAR = bilinear_problem()[0]
BEGIN = jnp.asarray([2.8, 3.5])
ORDERS = (5, 6, 7, 8)


def zoo(eps: float) -> dict:
    """The optimizers, eps that under the root."""
    adam = {"b1": 0.4, "b2": 0.5}
    inside = {"eps": 0.0, "eps_root": eps}
    return {
        "sgd": sf.sgd(),
        "momentum": sf.momentum(decay=0.3),
        "nesterov": sf.nesterov(decay=0.3),
        "rmsprop": sf.rmsprop(decay=0.5, **inside),
        "adam, inside": sf.adam(**adam, **inside),
        "adam, outside": sf.adam(**adam, eps=eps**0.5),
        "adamw": sf.adamw(**adam, **inside, weight_decay=0.2),
        "nadam": sf.nadam(**adam, **inside),
        "signum": sf.signum(decay=0.4, eps_root=eps),
        "lion": sf.lion(**adam, eps_root=eps),
    }


def horizon(row: str, problem: sf.Problem) -> float:
    """On the bilinear loss, where gradients are about 100, what steps by the gradient goes far."""
    if problem is SMOOTH:
        return 0.1 if row in ("sgd", "momentum", "nesterov") else 0.5
    return {"sgd": 0.01, "momentum": 0.005, "nesterov": 0.005}.get(row, 2.0)


def measured(problem, optimizer, start, time, kind, order, exponents) -> sf.convergence:
    """The row of an order, at the learning rates time / 2^k."""
    rates = [time * 2.0**-k for k in exponents]
    return sf.convergence(
        problem,
        optimizer,
        start,
        time,
        rates,
        methods=["collocation"],
        kinds=[kind],
        orders=[order],
        start="settled",
    )[0]


def of_moments(row: str, problem: sf.Problem, kind: str, order: int):
    optimizer = zoo(1.0 if problem is SMOOTH else 1e3)[row]
    first = 5 if order == 5 or (problem is SMOOTH and order > 6) else 4
    first -= row == "nesterov" and order > 6  # whose errors are the smallest
    exponents = range(first, first + (5 if order < 7 else 4))
    start = PLACE if problem is SMOOTH else BEGIN
    return measured(problem, optimizer, start, horizon(row, problem), kind, order, exponents)


def falls_short(found, order: int) -> bool:
    """Whether a row of another order would fail as one of this."""
    halvings, shortfall = STEEP.get(min(order, max(STEEP)), (HALVINGS, SHORTFALL))
    seen = [error for error in found.errors if error > found.floor][-halvings - 1 :]
    return np.log2(seen[0] / seen[-1]) / (len(seen) - 1) < order - shortfall


def test_order_eight_holds_and_order_seven_is_none():
    found = {order: of_moments("adam, inside", BILINEAR, "iteration", order) for order in (7, 8)}
    assert all(row.holds and not row.exact for row in found.values())
    assert falls_short(found[7], 8) and not falls_short(found[8], 8)


FLOWS = ("sgd", "momentum", "adam, inside", "adam, outside", "lion")
CASES = [
    *((row, BILINEAR, "iteration") for row in zoo(1.0)),
    *((row, BILINEAR, "flow") for row in FLOWS),
    *(
        (row, SMOOTH, kind)
        for row, kind in (("nesterov", "flow"), ("adam, inside", "iteration"), ("lion", "flow"))
    ),
]
CLEAN = {"rmsprop", "adam, inside", "adam, outside", "adamw", "nadam", "lion"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "problem", "kind"),
    [
        pytest.param(
            *case, id=f"{case[0]}-{'smooth' if case[1] is SMOOTH else 'bilinear'}-{case[2]}"
        )
        for case in CASES
    ],
)
def test_orders_five_to_eight(row, problem, kind):
    """And where the errors are clean, no order passes for the next one."""
    found = {order: of_moments(row, problem, kind, order) for order in ORDERS}
    assert all(result.holds for result in found.values()), found
    exact = (row, kind) == ("sgd", "iteration")
    assert all(result.exact == exact for result in found.values())
    if row in CLEAN and problem is BILINEAR:
        assert all(falls_short(found[order - 1], order) for order in ORDERS[1:])


def test_only_steps_that_land_on_the_times_are_exact_there():
    """A rotation: between longer steps the solution is interpolated, which a high order sees."""
    times = np.arange(33.0)
    wave = lambda y: 0.2 * jnp.stack([-y[1], y[0]])
    exact = np.stack([np.cos(0.2 * times), np.sin(0.2 * times)], axis=1)
    gap = [
        np.abs(
            solver.over_many(wave, jnp.asarray([1.0, 0.0]), jnp.asarray(times), landing=landing)
            - exact
        ).max()
        for landing in (True, False)
    ]
    assert gap[0] < 2e-14 and gap[1] > 5 * gap[0], gap


# Optax transformations, which are walked backwards along the path


ADAM = {"b1": 0.5, "b2": 0.7, "eps": 0.0, "eps_root": 0.1}
MAKES = {  # the transformation, the horizon
    "momentum": (functools.partial(optax.sgd, momentum=0.5), 0.4),
    "adam": (functools.partial(optax.adam, **ADAM), 0.4),
    "adamw": (functools.partial(optax.adamw, **ADAM, weight_decay=0.1), 0.4),
    "clip + adam": (
        lambda rate: optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, **ADAM)),
        0.4,
    ),
    "muon": (functools.partial(optax.contrib.muon, beta=0.5, adam_b1=0.5, adam_b2=0.7), 0.4),
    "lamb": (functools.partial(optax.lamb, b1=0.5, b2=0.7, weight_decay=1e-2), 0.1),
}
WALKS = [
    *((name, "iteration") for name in MAKES),
    ("adam", "flow"),
    ("clip + adam", "flow"),
    ("muon", "flow"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), WALKS)
def test_orders_three_and_four_of_optax_transformations(name, kind):
    make, time = MAKES[name]
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        found = {
            order: measured(BOWL, sf.from_optax(make), CORNER, time, kind, order, range(6, 10))
            for order in (2, 3, 4)
        }
    assert all(found[order].holds and not found[order].exact for order in (3, 4)), found
    assert all(falls_short(found[order - 1], order) for order in (3, 4))
