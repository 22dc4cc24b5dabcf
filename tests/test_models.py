"""Models with leaves that are no parameters: their float arrays are followed, the rest is kept."""

from collections.abc import Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.refusals import refused

from shadowflow.curvature import curvature
from shadowflow.diagnostics.bias import implicit_bias
from shadowflow.diagnostics.error_bar import error_bar
from shadowflow.fields import memoryless_step
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem
from shadowflow.shadow import settled_state, shadow

X, Y = jnp.asarray([[0.3, -1.0], [1.2, 0.4], [-0.7, 0.8]]), jnp.asarray([0.5, -0.2, 0.9])
RATE, STEPS = 0.05, 6
HEAVY = zoo.momentum(decay=0.5)


class Gated(eqx.Module):
    """Beside its weights a function, a word, a flag, a Python float and whole numbers."""

    weight: jax.Array
    nested: dict
    act: object
    order: jax.Array
    word: str = "tanh"
    training: bool = True
    share: float = 0.5

    def __call__(self, x):
        return self.nested["scale"] * self.act(self.weight @ x[self.order])


MODEL = Gated(jnp.asarray([0.4, -0.6]), {"scale": jnp.asarray(1.3)}, jnp.tanh, jnp.asarray([1, 0]))
LOSS = lambda model: jnp.mean((jax.vmap(model)(X) - Y) ** 2)
WHOLE = Problem(LOSS)
ARRAYS = {"weight": MODEL.weight, "scale": MODEL.nested["scale"]}


def by_hand(params):
    """The same loss of a dict of arrays."""
    return jnp.mean((params["scale"] * jnp.tanh(X[:, ::-1] @ params["weight"]) - Y) ** 2)


PLAIN = Problem(by_hand)


def same(model, arrays, rtol=1e-12):
    np.testing.assert_allclose(model.weight, arrays["weight"], rtol=rtol)
    np.testing.assert_allclose(model.nested["scale"], arrays["scale"], rtol=rtol)
    assert model.act is None and model.order is None and model.word is None


@pytest.mark.parametrize("stated", [WHOLE, Problem(LOSS, grad=eqx.filter_grad(LOSS))])
def test_a_model_is_run_and_followed_as_its_arrays_are(stated):
    real = iterate(stated, HEAVY, MODEL, RATE, STEPS)
    same(real.params, iterate(PLAIN, HEAVY, ARRAYS, RATE, STEPS).params)
    follow = shadow(stated, HEAVY, MODEL, RATE, STEPS, check=real)
    same(follow.params, shadow(PLAIN, HEAVY, ARRAYS, RATE, STEPS, check=False).params)
    assert follow.validity.basis == "measured"
    bar, plain = (
        error_bar(*args, HEAVY, params, RATE, STEPS)
        for args, params in (((stated,), MODEL), ((PLAIN,), ARRAYS))
    )
    np.testing.assert_allclose(bar.two_norm, plain.two_norm, rtol=1e-6)


def test_what_comes_back_makes_the_trained_model():
    run = iterate(WHOLE, HEAVY, MODEL, RATE, STEPS)
    trained = eqx.combine(run.last, MODEL)
    assert trained.act is MODEL.act and trained.word == "tanh" and trained.training is True
    plain = iterate(PLAIN, HEAVY, ARRAYS, RATE, STEPS)
    np.testing.assert_allclose(LOSS(trained), by_hand(plain.last), rtol=1e-12)
    again = iterate(WHOLE, HEAVY, trained, RATE, 2, start=run.state)
    same(again.params, iterate(PLAIN, HEAVY, plain.last, RATE, 2, start=plain.state).params)


def test_the_state_of_an_optax_run_of_a_model_is_a_start():
    tx = optax.adam(RATE)
    state = tx.init(eqx.filter(MODEL, eqx.is_inexact_array))
    found = iterate(WHOLE, zoo.adam(), MODEL, RATE, 2, start=state)
    same(found.params, iterate(PLAIN, zoo.adam(), ARRAYS, RATE, 2).params)


def test_fields_bias_curvature_and_settled_state_take_models():
    move = memoryless_step(WHOLE, HEAVY, RATE)(3, MODEL)
    same(move, memoryless_step(PLAIN, HEAVY, RATE)(3, ARRAYS))
    assert eqx.apply_updates(MODEL, move).act is MODEL.act
    found = implicit_bias(WHOLE, HEAVY, MODEL, RATE, start=0)
    wanted = implicit_bias(PLAIN, HEAVY, ARRAYS, RATE, start=0)
    same(found.whole, wanted.whole)
    top, plain = curvature(WHOLE, HEAVY, MODEL), curvature(PLAIN, HEAVY, ARRAYS)
    np.testing.assert_allclose(top, plain, rtol=1e-6)
    state = settled_state(WHOLE, HEAVY, MODEL, RATE)
    same(state.moments[0], settled_state(PLAIN, HEAVY, ARRAYS, RATE).moments[0])


def test_a_model_on_mini_batches_and_under_grad():
    of_batch = lambda model, x: jnp.mean((jax.vmap(model)(x) - Y) ** 2)
    problem = Problem(of_batch, batches=jnp.stack([X, 2 * X]))
    run = iterate(problem, HEAVY, MODEL, RATE, STEPS)
    last = lambda rate: LOSS(eqx.combine(iterate(problem, HEAVY, MODEL, rate, STEPS).last, MODEL))
    np.testing.assert_allclose(jax.jit(last)(RATE), LOSS(eqx.combine(run.last, MODEL)), rtol=1e-12)


def test_another_model_of_the_same_kind_is_not_compiled_again():
    traces = []
    problem = Problem(lambda model: traces.append(1) or LOSS(model))
    iterate(problem, HEAVY, MODEL, RATE, STEPS)
    first = len(traces)
    moved = eqx.tree_at(lambda m: m.weight, MODEL, 2 * MODEL.weight)
    iterate(problem, HEAVY, moved, RATE, STEPS)
    assert len(traces) - first < first


class Frozen(Mapping):
    """A mapping that JAX does not know, as one that an older flax freezes."""

    def __init__(self, inner):
        self.inner = inner

    def __getitem__(self, name):
        return self.inner[name]

    def __iter__(self):
        return iter(self.inner)

    def __len__(self):
        return len(self.inner)


class Stateful:
    """An object that holds its arrays as attributes, as a module of flax nnx."""

    def __init__(self):
        self.kernel = jnp.ones(2)


def test_what_jax_does_not_know_is_sent_to_what_it_does():
    for params in (Frozen(ARRAYS), Stateful()):
        call = lambda p=params: iterate(PLAIN, HEAVY, p, RATE, 2)
        refused(call, "params:", "dict(params)", "nnx.state(model, nnx.Param)", error=TypeError)
    found = iterate(PLAIN, HEAVY, dict(Frozen(ARRAYS)), RATE, 2).params
    np.testing.assert_array_equal(
        found["weight"], iterate(PLAIN, HEAVY, ARRAYS, RATE, 2).params["weight"]
    )


def test_nested_dicts_as_linen_and_haiku_have_them_are_parameters():
    params = {"params": {"Dense_0": {"kernel": jnp.ones((2, 3)), "bias": jnp.zeros(3)}}}
    problem = Problem(lambda p: jnp.sum(p["params"]["Dense_0"]["kernel"] ** 2))
    found = iterate(problem, zoo.sgd(), params, 0.25, 1).last
    np.testing.assert_allclose(found["params"]["Dense_0"]["kernel"], 0.5)


def test_whole_numbers_among_plain_arrays_are_still_refused():
    """Negative control: only a model says that its other leaves are no parameters."""
    bad = {"weight": ARRAYS["weight"], "scale": jnp.asarray(1)}
    refused(lambda: iterate(PLAIN, HEAVY, bad, RATE, 2), "params['scale']:", error=TypeError)


def test_complex_parameters_are_followed_as_pairs_by_the_line_of_the_refusal():
    loss = lambda z: jnp.sum(jnp.abs(z**2 - 1j) ** 2).real
    z = jnp.asarray([0.5 + 0.3j, -0.2 + 1.0j])
    refused(
        lambda: iterate(Problem(loss), zoo.sgd(), z, 0.01, 3),
        "p['re'] + 1j * p['im']",
        "{'re': z.real, 'im': z.imag}",
        error=TypeError,
    )
    pair = {"re": z.real, "im": z.imag}
    with jax.numpy_dtype_promotion("standard"):
        run = iterate(Problem(lambda p: loss(p["re"] + 1j * p["im"])), zoo.sgd(), pair, 0.01, 3)
        for _ in range(3):  # descent of a real loss in z: JAX gives the conjugate of 2 dE/dz̄
            z = z - 0.01 * jnp.conj(jax.grad(loss)(z))
    np.testing.assert_allclose(run.last["re"] + 1j * run.last["im"], z, rtol=1e-12)
