"""Collocation on any parameters, decays and functions: dtypes, dead units, hosts, compilation."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend.core import jaxprs_in_params
from support.collocated import directions, distance, followed, settled
from table import BILINEAR, BILINEAR_START, PLACE, ROWS, SMOOTH, smooth_loss, with_leaves

from shadowflow import trees
from shadowflow.fields import modified_field
from shadowflow.methods import collocation, nodes
from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Moment, Optimizer
from shadowflow.problem import Problem
from shadowflow.shadow import shadow

# Parameters of any kind


def tree_loss(params):
    w, b = params["w"], params["b"].astype(params["w"].dtype)
    return jnp.sum(jnp.sin(w) * w) + 0.5 * jnp.sum(w) ** 2 * b + b**4


TREE = {"w": jnp.asarray([[0.3, -0.7, 1.1], [0.2, 0.9, -0.4]]), "b": jnp.asarray(0.8)}


@pytest.mark.parametrize("dtypes", [("float32", "float32"), ("float64", "float32")])
def test_every_leaf_keeps_its_dtype(dtypes):
    params = {name: TREE[name].astype(d) for name, d in zip("wb", dtypes, strict=True)}
    optimizer, problem = with_leaves(ROWS["adamw"]()), Problem(tree_loss)
    wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(float), tree)
    reference = directions(problem, optimizer, 0.01, wide(params), 3)
    found = directions(problem, optimizer, 0.01, params, 3)
    moments = collocation.past_state(problem, optimizer, params, 0.01, 3).moments
    run = shadow(
        problem,
        optimizer,
        params,
        0.01,
        5,
        method="collocation",
        order=3,
        kind="iteration",
        start="settled",
        check=False,
    )
    kinds = lambda tree: jax.tree.map(lambda leaf: str(leaf.dtype), tree)
    assert kinds(params) == kinds(found[1]) == kinds(moments[0]) == kinds(run.last)
    assert 0 < distance(wide(found), reference) < 1e-4


@pytest.mark.parametrize("row", ["adam-outside", "rmsprop-outside", "lion", "signum"])
def test_a_dead_coordinate_rests(row):
    optimizer = ROWS[row](**({} if "outside" in row else {"eps_root": 0.0}))
    dead, params = Problem(lambda p: smooth_loss(p[:3])), jnp.append(PLACE, 2.0)
    for order, phase in ((2, 0.0), (4, 0.0), (4, 0.5)):
        pair = directions(dead, optimizer, 0.01, params, order, phase)
        assert bool(trees.all_finite(pair)) and all(float(way[3]) == 0.0 for way in pair)


# Host functions


@pytest.mark.parametrize("row", ["adam-both", "sgd"])
def test_a_host_function_gives_the_same_from_the_fewest_gradients(row):
    calls = []

    def host(params):
        x, y = np.asarray(params)  # a traced value would raise here
        calls.append((float(x), float(y)))
        inner = (1.5 - 2 * x * y) / 100
        return np.asarray([-2 * y * inner, -2 * x * inner])

    optimizer, rate, problem = ROWS[row](), 0.01, Problem(grad=host, traceable=False)
    for order in (1, 2, 4):
        calls.clear()
        own = directions(problem, optimizer, rate, BILINEAR_START, order)
        assert len(calls) == len(set(calls)) == 1 + (order - 1) ** 2
        assert distance(own, directions(BILINEAR, optimizer, rate, BILINEAR_START, order)) < 1e-13
    calls.clear()
    follow = shadow(
        problem,
        optimizer,
        BILINEAR_START,
        rate,
        6,
        method="collocation",
        order=4,
        kind="iteration",
        start="settled",
        check=False,
    )
    assert len(calls) == 10 + 4 * 6
    assert np.abs(follow.params - followed(optimizer, 4, rate, 6)).max() < 1e-13


# Compilation


def equations(jaxpr) -> int:
    """The number of equations, those of inner jaxprs counted wherever they stand."""
    inner = [jaxpr for eqn in jaxpr.eqns for jaxpr in jaxprs_in_params(eqn.params)]
    return len(jaxpr.eqns) + sum(map(equations, inner))


def test_compilation_does_not_grow_with_the_order():
    optimizer, counts = with_leaves(ROWS["adam-both"]()), []
    for order in (3, 4, 8):
        traces = []

        def loss(params, traces=traces):
            traces.append(1)
            return smooth_loss(params)

        problem = Problem(loss)
        rule = nodes.rule(optimizer, order)
        way = collocation.CollocationDirection(problem, optimizer, 0.5, rule)
        call = functools.partial(way, settled(optimizer, 0.01))
        counts.append(equations(jax.make_jaxpr(call)(PLACE).jaxpr))
        assert len(traces) == 1
    assert counts[0] == counts[1] == counts[2]


def test_another_decay_is_not_another_compilation():
    traces, answers = [], set()

    @eqx.filter_jit
    def compiled(way, memory):
        traces.append(1)
        return way(memory, PLACE)[1]

    for decay in (0.5, 0.6, 0.9):
        optimizer = with_leaves(zoo.adam(b1=decay, b2=0.95, eps_root=0.1))
        rule = nodes.rule(optimizer, 3)
        way = collocation.CollocationDirection(SMOOTH, optimizer, 0.5, rule)
        answers.add(float(compiled(way, settled(optimizer, 1e-3))[0]))
    assert len(answers) == 3 and len(traces) == 1


# Refusals


MANY = Optimizer([Moment(jnp.asarray([0.5, 0.9]))], lambda moments, params, step: moments[0])
KNOWN = r'decay: expected a decay known as a number, got .*; methods "collocation"'
TRACED = jax.jit(lambda b: nodes.rule(zoo.momentum(decay=b), 2))


@pytest.mark.parametrize(
    ("function", "given", "message"),
    [
        (nodes.rule, (zoo.sgd(), 0), r"order: expected a whole number of at least 1, got 0"),
        (nodes.rule, (zoo.sgd(), 2.0), r"order: expected a whole number .*, got 2.0"),
        (nodes.rule, (zoo.sgd(), 2, 0), r"spacing: expected a finite number above 0, got 0"),
        (nodes.rule, (MANY, 2), KNOWN),
        (TRACED, (0.5,), KNOWN),
        (nodes.default_spacing, (MANY,), KNOWN),
    ],
)
def test_bad_input_is_refused_in_a_sentence(function, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        function(*given)


# The order chosen by itself


def test_the_order_may_be_chosen_and_the_verdict_says_which():
    optimizer = ROWS["adam-inside"]()
    follow = shadow(
        SMOOTH, optimizer, PLACE, 1e-3, 5, method="collocation", order="auto", start="settled"
    )
    assert follow.order > 2 and f"Order {follow.order} was chosen" in follow.verdict
    named = shadow(
        SMOOTH, optimizer, PLACE, 1e-3, 5, method="collocation", order=follow.order, start="settled"
    )
    assert np.array_equal(follow.params, named.params) and "was chosen" not in named.verdict
    field = {
        order: modified_field(SMOOTH, optimizer, 1e-3, method="collocation", order=order)
        for order in ("auto", follow.order, 1)
    }
    found = {order: np.asarray(field[order]("settled", PLACE)) for order in field}
    np.testing.assert_allclose(found["auto"], found[follow.order], rtol=1e-14)
    assert np.abs(found["auto"] - found[1]).max() > 1e-4


def test_far_past_the_edge_not_even_order_two_improves_and_that_is_said():
    steep = Problem(lambda x: 50.0 * jnp.sum(x**2))
    follow = shadow(
        steep,
        zoo.momentum(decay=0.9, form="ema"),
        jnp.ones(2),
        5e-3,
        3,
        method="collocation",
        order="auto",
        start="settled",
    )
    assert follow.order == 1 and "Not even order 2 improves on order 1" in follow.verdict
