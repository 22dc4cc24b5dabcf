"""Laws that hold for every optimizer, on random pytrees, hyper-parameters and symmetries."""

import os

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Moment, Optimizer
from shadowflow.problem import Problem

LAW = settings(max_examples=20, deadline=None, derandomize="CI" in os.environ)

decays = st.floats(0.0, 0.99)
memories = st.floats(0.01, 0.99)  # never 0, which is another program to compile
positive = st.floats(1e-4, 1.0)
numbers = st.floats(-3.0, 3.0).filter(lambda x: abs(x) > 1e-3)
flags = st.booleans()
forms, root = st.sampled_from(["trace", "ema"]), {"eps": positive, "eps_root": positive}
two = {"b1": decays, "b2": decays, **root, "bias_correction": flags}
OPTIMIZERS = {
    "momentum": st.builds(zoo.momentum, decay=decays, form=forms, bias_correction=flags),
    "nesterov": st.builds(zoo.nesterov, decay=decays, form=forms, bias_correction=flags),
    "rmsprop": st.builds(zoo.rmsprop, decay=decays, **root, bias_correction=flags),
    "adam": st.builds(zoo.adam, **two),
    "adamw": st.builds(zoo.adamw, weight_decay=positive, **two),
    "nadam": st.builds(zoo.nadam, **two),
    "signum": st.builds(zoo.signum, decay=decays, eps_root=positive, bias_correction=flags),
    "lion": st.builds(
        zoo.lion, b1=decays, b2=st.floats(0.1, 0.99), eps_root=positive, bias_correction=flags
    ),
}
any_optimizer = st.one_of(*OPTIMIZERS.values(), st.builds(zoo.sgd))

shapes = st.sampled_from([(), (3,), (2, 3), (0,), (1, 1, 2)])
dtypes = st.sampled_from(["float32", "float64", "bfloat16"])
leaves = st.tuples(shapes, dtypes)
structures = st.recursive(
    leaves.map(lambda leaf: {"leaf": leaf}),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=3),
        st.dictionaries(st.sampled_from("abc"), inner, min_size=1, max_size=3),
    ),
    max_leaves=5,
)


def filled(structure, value):
    """The pytree of arrays that a drawn structure of (shape, dtype) describes."""
    if isinstance(structure, list):
        return [filled(part, value) for part in structure]
    if set(structure) == {"leaf"}:
        shape, dtype = structure["leaf"]
        return jnp.full(shape, value, dtype)
    return {name: filled(part, value) for name, part in structure.items()}


@LAW
@given(any_optimizer, structures, st.floats(1e-4, 1.0))
def test_an_update_keeps_structure_shapes_and_dtypes(optimizer, structure, rate):
    params, grads = filled(structure, 0.5), filled(structure, -0.25)
    kinds = lambda tree: jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)
    state = optimizer.init(params)
    for _ in range(2):
        after, move = optimizer.update(state, grads, params, rate)
        assert kinds(after) == kinds(state) and kinds(move) == kinds(params)
        state = after
    assert float(state.step) == 2.0
    for leaf in jax.tree.leaves((move, state.moments)):
        assert np.all(np.isfinite(np.asarray(leaf, float)))


@LAW
@given(any_optimizer, st.lists(numbers, min_size=3, max_size=3))
def test_leaves_do_not_see_each_other(optimizer, values):
    """One vector, or its coordinates as leaves of a tree: the same step."""
    whole = jnp.asarray(values)
    parts = {"a": whole[0], "b": [whole[1:]]}
    moves = []
    for place in (whole, parts):
        state = optimizer.init(place)
        for factor in (1.0, -0.5):
            grad = jax.tree.map(lambda leaf, f=factor: f * leaf**3, place)
            state, move = optimizer.update(state, grad, place, 0.1)
        moves.append(move)
    joined = np.concatenate([np.ravel(moves[1]["a"]), moves[1]["b"][0]])
    np.testing.assert_allclose(joined, moves[0], rtol=1e-12)


# --- symmetries of the loss

START = jnp.asarray([0.9, -1.4, 0.7, 1.2, -0.6])


class Landscape(eqx.Module):
    """size · E(signs · θ[order]) for a loss E that treats no two coordinates alike."""

    size: jax.Array
    signs: jax.Array
    order: jax.Array

    def __call__(self, params):
        x = self.signs * params[self.order]
        scales = jnp.asarray([1.0, 0.5, 2.0, 1.5, 0.7])
        coupled = jnp.sum(jnp.sin(x[1:] * x[:-1]))
        return self.size * (0.3 * jnp.sum(scales * x**4) + 0.2 * coupled + 0.4 * x[0] * x[3])


def landscape(size=1.0, signs=(1, 1, 1, 1, 1), order=(0, 1, 2, 3, 4)):
    return Problem(
        Landscape(jnp.asarray(size), jnp.asarray(signs, float), jnp.asarray(order, jnp.int32))
    )


def path(problem, optimizer, start=START):
    return iterate(problem, optimizer, start, 0.01, 25).params


scales = st.floats(1e-3, 1e3)


@LAW
@given(memories, memories, st.floats(1e-3, 1.0), flags, scales)
def test_scaling_the_loss_and_eps_root_leaves_adam_unchanged(b1, b2, eps_root, corrected, size):
    adam = lambda root: zoo.adam(b1=b1, b2=b2, eps=0.0, eps_root=root, bias_correction=corrected)
    here = path(landscape(), adam(eps_root))
    there = path(landscape(size), adam(size**2 * eps_root))
    np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-11)


@LAW
@given(memories, st.floats(1e-3, 1.0), flags, scales)
def test_scaling_the_loss_and_eps_root_leaves_rmsprop_unchanged(decay, eps_root, corrected, size):
    rmsprop = lambda root: zoo.rmsprop(
        decay=decay, eps=0.0, eps_root=root, bias_correction=corrected
    )
    here = path(landscape(), rmsprop(eps_root))
    there = path(landscape(size), rmsprop(size**2 * eps_root))
    np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("wrong", [1.0, 3.0, 27.0])
def test_no_other_power_of_the_scale_leaves_adam_unchanged(wrong):
    """Negative control: eps_root must be scaled by the square, 9, of the scale 3."""
    here = path(landscape(), zoo.adam(b1=0.8, b2=0.95, eps=0.0, eps_root=0.1))
    there = path(landscape(3.0), zoo.adam(b1=0.8, b2=0.95, eps=0.0, eps_root=wrong * 0.1))
    assert np.max(np.abs(there - here)) > 1e-3


@LAW
@given(memories, memories, positive, scales)
def test_scaling_the_loss_and_eps_leaves_adam_unchanged(b1, b2, eps, size):
    """Outside the root eps is scaled like the gradient itself."""
    here = path(landscape(), zoo.adam(b1=b1, b2=b2, eps=eps))
    there = path(landscape(size), zoo.adam(b1=b1, b2=b2, eps=size * eps))
    np.testing.assert_allclose(there, here, rtol=1e-9, atol=1e-11)


signs = st.lists(st.sampled_from([-1, 1]), min_size=5, max_size=5)


pair = {"b1": memories, "b2": memories, **root}
SYMMETRIC = {  # each of the others is one of these with a number at 0 or 1
    "nesterov": st.builds(zoo.nesterov, decay=memories),
    "adamw": st.builds(zoo.adamw, weight_decay=positive, **pair),
    "nadam": st.builds(zoo.nadam, **pair),
    "lion": st.builds(zoo.lion, b1=memories, b2=st.floats(0.1, 0.99), eps_root=positive),
}


@pytest.mark.parametrize("name", SYMMETRIC)
@LAW
@given(st.data())
def test_renaming_and_flipping_coordinates_does_the_same_to_the_iterates(name, data):
    optimizer = data.draw(SYMMETRIC[name])
    order = np.array(data.draw(st.permutations(range(5))))
    flips = np.array(data.draw(signs))
    here = path(landscape(), optimizer)
    start = np.empty(5)
    start[order] = flips * np.asarray(START)  # so that signs · start[order] = START
    there = path(landscape(1.0, flips, order), optimizer, jnp.asarray(start))
    np.testing.assert_allclose(flips * there[:, order], here, rtol=1e-10, atol=1e-12)


def test_an_optimizer_that_is_not_odd_sees_a_flip():
    """Negative control: the law above is one of the optimizers, not of the test."""
    lame = Optimizer([Moment(0.8)], lambda m, params, step: m[0] + 0.1 * m[0] ** 2)
    flips = np.array([-1, 1, 1, 1, 1])
    here = path(landscape(), lame)
    there = path(landscape(1.0, flips), lame, jnp.asarray(flips * np.asarray(START)))
    assert np.max(np.abs(flips * there - here)) > 1e-4


@LAW
@given(memories, st.floats(1e6, 1e9))
def test_a_large_eps_root_leaves_heavy_ball(b1, eps_root):
    """eps_root → ∞: Adam with the rate sqrt(eps_root) · h is corrected momentum with the rate h."""
    rate = 0.01 * np.sqrt(eps_root)
    adam = iterate(
        landscape(), zoo.adam(b1=b1, b2=0.9, eps=0.0, eps_root=eps_root), START, rate, 10
    ).params
    ball = zoo.momentum(decay=b1, form="ema", bias_correction=True)
    momentum = iterate(landscape(), ball, START, 0.01, 10).params
    np.testing.assert_allclose(adam, momentum, rtol=2e3 / eps_root)
    assert not np.array_equal(adam, momentum)
