"""What the theorems assume along a run: by hand on polynomials, and where a run leaves them."""

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.refusals import refused

import shadowflow as sf
from shadowflow.optimizers import zoo
from shadowflow.paper.assumptions import JUMP, assumptions

ADAM = zoo.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=1e-2)
C = np.array([1.0, 3.0])


def quartic(x):
    return jnp.sum(jnp.asarray(C) * x**4) / 24


def followed(problem, start, steps=12, rate=0.05, optimizer=ADAM):
    run = sf.iterate(problem, optimizer, jnp.asarray(start), rate, steps)
    return run, lambda **options: assumptions(problem, optimizer, run, **options)


def test_derivatives_are_those_along_the_run():
    """∂_j (v·∇)^k E of Σ c x⁴/24, v the step over its largest coordinate, at every third step."""
    run, found = followed(sf.Problem(quartic), [2.0, 1.5])
    x, move = run.params[:-1], np.diff(run.params, axis=0)
    v = move / np.abs(move).max(axis=1, keepdims=True)
    expected = [C * x**3 / 6, C * x**2 / 2 * v, C * x * v**2, C * v**3]
    sizes = np.stack([np.abs(each).max(axis=1) for each in expected], axis=1)
    np.testing.assert_allclose(found().derivatives, sizes, rtol=1e-10)
    np.testing.assert_allclose(found(every=3).derivatives, sizes[::3], rtol=1e-10)
    assert np.all(np.diff(sizes, axis=1) != 0) and found().inside is None


def test_a_run_leaves_where_a_derivative_passes_its_bound():
    """x grows from 1: of the derivatives of x⁴/24 the third, x, is the first above 1.5."""
    run, found = followed(sf.Problem(lambda x: -jnp.sum(x**4) / 24), [1.0, 0.1], 20)
    first = int(np.argmax(run.params[:, 0] > 1.5))
    left = found(bound=1.5).inside
    assert (left.step, left.coordinate) == (first, 0) and 0 < first < 20
    assert left.why.startswith("a derivative of order 3 is 1.5")
    assert found(bound=50.0).inside is None


@pytest.mark.parametrize("kink", [True, False])
def test_a_kink_is_where_the_gradient_jumps(kink):
    bend = jax.nn.relu if kink else lambda x: jax.nn.softplus(4 * x) / 4
    problem = sf.Problem(lambda x: jnp.sum(bend(x - 0.6)) + 0.05 * jnp.sum(x**2))
    run, found = followed(problem, [2.0, 1.0], 80, 0.01)
    left = found().inside
    if not kink:
        assert left is None and found().jumps.max() < JUMP / 20
        return
    step = int(np.argmax(run.params[:, 1] <= 0.6)) - 1
    assert (left.step, left.coordinate, left.why) == (step, 1, "the gradient jumps")
    assert found().outside == left and np.sum(found().jumps > JUMP) == 1


def test_a_component_that_changes_its_sign_leaves_the_theorem_outside_only():
    """x₁ passes its minimum 1; x₂ does not; x₃ has no gradient and does not count."""
    loss = lambda x: (x[0] - 1) ** 2 / 2 + (x[1] + 5) ** 2 / 2 + 0.0 * x[2]
    run, found = followed(sf.Problem(loss), [1.5, 0.0, 1.0], 24)
    g = run.params[:, :2] - [1.0, -5.0]
    turned = np.argmax(g[:-1, 0] * g[1:, 0] <= 0)
    place = found().outside
    assert (place.step, place.coordinate) == (turned, 0) and turned > 0
    assert found().inside is None and (found().still, found().lost) == (1, 1)
    np.testing.assert_allclose(found().roots, np.abs(g[:-1]).min(axis=1), rtol=1e-12)
    early = np.argmax(np.abs(g[:-1, 0]) <= 0.4)
    assert found(least=0.4).outside.step == early < turned


@pytest.mark.parametrize("adam", [True, False])
def test_with_mini_batches_the_root_is_that_of_all_the_memory_has_seen(adam):
    """R_j² = Σ_k r_{n,k} (∂_jE_k(θ_n))² by sums; a batch whose gradient turns is not enough."""
    centres, order = np.array([[0.0, 0.8], [2.0, 1.0], [-1.0, -1.0]]), [0, 2, 2, 1, 0, 1, 2, 0]
    problem = sf.Problem(
        lambda x, c: jnp.sum((x - c) ** 2) / 2, batches=jnp.asarray(centres), schedule=order
    )
    optimizer = ADAM if adam else zoo.rmsprop(decay=0.7, eps=0.1)
    run, found = followed(problem, [0.3, 0.9], 8, 0.1, optimizer)
    roots = []
    for n in range(8):
        g = run.params[n] - centres[order[: n + 1]]
        roots.append(np.sqrt(oracles.weights(0.7, n, adam) @ g**2).min())
    np.testing.assert_allclose(found().roots, roots, rtol=1e-12)
    assert found().outside is None
    assert found(least=np.median(roots)).outside.step == np.argmax(roots <= np.median(roots))


def test_a_run_with_steps_left_out_is_refused():
    problem, start = sf.Problem(quartic), jnp.asarray([2.0, 1.5])
    thin = sf.iterate(problem, ADAM, start, 0.05, 12, save_every=3)
    refused(lambda: assumptions(problem, ADAM, thin), "run:", "[0, 3, 6]", "save_every=1")
    whole = sf.iterate(problem, ADAM, start, 0.05, 12, save_every=1)
    assert assumptions(problem, ADAM, whole).inside is None


def test_a_batch_that_no_step_has_seen_yet_has_no_weight():
    centres = jnp.asarray([[0.0, 0.8], [2.0, 1.0], [-1.0, -1.0]])
    problem = sf.Problem(lambda x, c: jnp.sum((x - c) ** 2) / 2, batches=centres)
    run, found = followed(problem, [0.3, 0.9], 1, 0.1)
    np.testing.assert_allclose(found().roots, [np.abs(run.params[0] - [0.0, 0.8]).min()], rtol=1e-9)
