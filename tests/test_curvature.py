"""The largest curvature: against dense eigenvalues, and against runs on both sides of an edge."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.refusals import refused
from table import PLACE, SMOOTH, smooth_loss

import shadowflow as sf

SIZE = 40


def matrix(seed=3, size=SIZE):
    """Symmetric, its eigenvalues 1 … 9 and one at −20, the largest in size."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    values = np.append(np.linspace(1, 9, size - 1), -20)
    return (turn * values) @ turn.T


def quadratic(hessian):
    """½ xᵀHx with a parameter tree of two leaves."""
    hessian = jnp.asarray(hessian)

    def loss(params):
        x = jnp.concatenate([params["a"].ravel(), params["b"]])
        return 0.5 * x @ hessian @ x

    return sf.Problem(loss)


def place(size=SIZE, seed=0):
    x = np.random.default_rng(seed).normal(size=size)
    return {"a": jnp.asarray(x[:6].reshape(2, 3)), "b": jnp.asarray(x[6:])}


def flat(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("optimizer", [sf.sgd(), sf.momentum(), sf.nesterov(form="ema")])
def test_of_what_is_linear_it_is_the_hessian_s_own_eigenvalue(optimizer):
    """By Lanczos (40 coordinates) and from the matrix (3), whatever the decay and the state."""
    found = sf.curvature(quadratic(matrix()), optimizer, place())
    assert float(found) == pytest.approx(9, rel=1e-6) and found.matrix == "Hessian"
    assert abs(found - 9) <= found.residual < 9e-4
    run = sf.iterate(SMOOTH, optimizer, PLACE, 1e-2, 3)
    dense = np.linalg.eigvalsh(jax.hessian(smooth_loss)(jnp.asarray(run.last)))[-1]
    small = sf.curvature(SMOOTH, optimizer, run.last, state=run.state)
    assert float(small) == pytest.approx(dense, rel=1e-12) and small.residual < 1e-12
    assert repr(found) == f"9 (largest eigenvalue of the Hessian, within {found.residual:.1g})"


def test_the_residual_is_that_of_the_vector_found(monkeypatch):
    """Of the first unit vector, were it said to have the eigenvalue 8."""
    found = np.array([8.0]), np.eye(SIZE)[:, :1]
    monkeypatch.setattr("scipy.sparse.linalg.eigsh", lambda *args, **options: found)
    told = sf.curvature(quadratic(matrix()), sf.sgd(), place())
    assert float(told) == 8
    assert told.residual == pytest.approx(np.linalg.norm(matrix()[:, 0] - 8 * found[1][:, 0]))


@pytest.mark.parametrize("name", ["adam", "adamw", "rmsprop", "nadam", "signum", "lion"])
def test_of_the_others_it_is_that_of_the_preconditioned_hessian(name):
    """P written down: from the moments that the run's last step read, and of one gradient."""
    options = {"eps_root": 0.3} if name in ("signum", "lion") else {"eps": 0.1, "eps_root": 0.3}
    optimizer = getattr(sf, name)(**options)
    problem, start, hessian = quadratic(matrix()), place(), matrix()
    run = sf.iterate(problem, optimizer, start, 1e-2, 6)
    grad = hessian @ flat(jax.tree.map(lambda leaf: leaf[-1], run.params))

    def sharpness(inverse):
        root = np.sqrt(inverse)
        return np.linalg.eigvalsh(root[:, None] * hessian * root)[-1]

    m = 0 if name == "rmsprop" else flat(run.state.moments[0])
    smoothed = lambda x: 0.3 / (x**2 + 0.3) ** 1.5
    inside = lambda nu: 1 / (np.sqrt(nu + 0.3) + 0.1)
    if name == "signum":
        expected, alone = smoothed(m), smoothed(hessian @ flat(start))
    elif name == "lion":
        share = 0.9 / 0.99
        expected = smoothed(share * m + (1 - share) * grad)
        alone = smoothed(hessian @ flat(start))
    else:
        nu = flat(run.state.moments[-1]) / (1 if name == "rmsprop" else 1 - 0.999**6)
        ahead = 0.9 / (1 - 0.9**7) + 0.1 / (1 - 0.9**6) if name == "nadam" else 1
        expected, alone = ahead * inside(nu), inside((hessian @ flat(start)) ** 2)
    found = sf.curvature(problem, optimizer, run.last, state=run.state)
    assert float(found) == pytest.approx(sharpness(expected), rel=1e-6)
    assert found.matrix == "preconditioned Hessian"
    cold = sf.curvature(problem, optimizer, start)
    assert float(cold) == pytest.approx(sharpness(alone), rel=1e-6)
    assert sf.curvature(problem, optimizer, start, state=optimizer.init(start)) == cold
    assert abs(float(found) - float(cold)) > 0.02 * cold
    assert abs(float(found) - 9) > 0.2


def late(params):
    return flat(jax.tree.map(lambda leaf: leaf[len(leaf) // 2 :], params))


STILL = {  # a preconditioner that stands still, and the step sizes that go with it
    "sgd": (sf.sgd(), 1.0),
    "momentum": (sf.momentum(), 1.0),
    "nesterov": (sf.nesterov(), 1.0),
    "adam": (sf.adam(eps=1e6, bias_correction=False), 1e6),
    "adam, inside": (sf.adam(eps=0.0, eps_root=1e12, bias_correction=False), 1e6),
    "rmsprop": (sf.rmsprop(eps=1e6), 1e6),
}


@pytest.mark.parametrize("name", STILL)
def test_a_run_grows_just_past_the_threshold_over_the_curvature_and_not_just_before(name):
    optimizer, size = STILL[name]
    hessian = matrix()
    problem = quadratic(hessian @ hessian)  # eigenvalues 1 … 81 and 400
    start = jax.tree.map(lambda leaf: 1e-9 * leaf, place())
    found = sf.curvature(problem, optimizer, start)
    assert float(found) == pytest.approx(400 / size, rel=1e-4)
    edge = sf.stability_threshold(optimizer) / found
    before, past = (
        np.abs(late(sf.iterate(problem, optimizer, start, share * edge, 800).params)).max()
        for share in (0.98, 1.02)
    )
    assert before < 1e-9 and past > 1e-6, (before, past)


def test_with_batches_it_is_that_of_the_mean_loss_by_their_sizes():
    targets = jnp.asarray([[1.0, 2.0], [3.0, 0.0]])
    loss = lambda x, batch: batch * jnp.sum(jnp.array([1.0, 3.0]) * x**2) / 2
    problem = sf.Problem(loss, batches=targets, weights=jnp.asarray([[1.0, 1.0], [1.0, 0.0]]))
    found = sf.curvature(problem, sf.sgd(), jnp.ones(2))
    assert float(found) == pytest.approx(3 * (1 + 2 + 3) / 3)


def test_a_host_function_needs_its_products_and_is_called_with_numbers():
    hessian = matrix()
    grad = lambda x: hessian @ np.asarray(x)
    host = sf.Problem(None, grad=grad, hvp=lambda x, v: grad(v), traceable=False)
    x = jnp.asarray(flat(place()))
    assert float(sf.curvature(host, sf.sgd(), x)) == pytest.approx(9, rel=1e-6)
    without = sf.Problem(None, grad=grad, traceable=False)
    refused(lambda: sf.curvature(without, sf.sgd(), x), "hvp:", "pass hvp=")


def test_float32_is_as_good_as_it_says():
    problem = quadratic(matrix().astype(np.float32))
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), place())
    found = sf.curvature(problem, sf.sgd(), start)
    assert abs(found - 9) <= found.residual < 1e-2


def test_refusals():
    problem, adam = quadratic(matrix()), sf.adam(eps=0.1)

    def bad(*words, error=ValueError, **changes):
        given = {"problem": problem, "optimizer": adam, "params": place(), **changes}
        refused(lambda: sf.curvature(**given), *words, error=error)

    bad("problem:", problem="loss", error=TypeError)
    bad("optimizer:", optimizer="adam", error=TypeError)
    bad("optimizer:", "eps_root > 0", optimizer=sf.signum(eps_root=0.0))
    bad("params['a']:", "finite", params=jax.tree.map(lambda leaf: leaf * jnp.nan, place()))
    bad("state:", "State", state=3, error=TypeError)
    other = sf.iterate(SMOOTH, adam, PLACE, 1e-2, 3)
    bad("state:", "moments like those of adam", "(3,)", state=other.state)
    dead = sf.Problem(lambda x: 0.5 * x[0] ** 2)
    bad(
        "positive preconditioner",
        "1 of 2 coordinates",
        "eps_root above 0",
        problem=dead,
        optimizer=sf.adam(eps=0.0),
        params=jnp.ones(2),
    )
    broken = sf.Problem(None, grad=lambda x: x, hvp=lambda x, v: jnp.nan * v)
    bad("finite Hessian-vector products", problem=broken, optimizer=sf.sgd(), params=jnp.ones(40))
    traced = jax.jit(lambda x: jnp.asarray(sf.curvature(problem, adam, x)))
    refused(lambda: traced(place()), "params:", "outside jit")
