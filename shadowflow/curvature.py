"""The largest curvature along a run, in the matrix that an optimizer's thresholds are stated in."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, PyTree

from . import checks, trees
from .optimizers.base import State
from .optimizers.moments import Optimizer
from .optimizers.thresholds import HESSIAN, linear_response
from .problem import Problem, compiled, posed

DENSE = 32  # up to so many parameters the matrix is written out
TOLERANCE, RESTARTS = 1e-4, 100  # of the eigenvalue: where Lanczos stops, converged or not


class Curvature(float):
    """The largest eigenvalue of a matrix at one place.

    A float, with ``matrix``: "Hessian" or "preconditioned Hessian"; and ``residual``:
    |Av − λv| of the unit vector v found. An eigenvalue of A lies within it.

    >>> Curvature(5.0, "Hessian", 1e-6)
    5 (largest eigenvalue of the Hessian, within 1e-06)
    """

    matrix: str
    residual: float

    def __new__(cls, value: float, matrix: str = HESSIAN, residual: float = 0.0):
        self = super().__new__(cls, value)
        self.matrix, self.residual = matrix, residual
        return self

    def __repr__(self) -> str:
        return (
            f"{float(self):.6g} (largest eigenvalue of the {self.matrix}, "
            f"within {self.residual:.1g})"
        )


@checks.hinted
def curvature(
    problem: Problem, optimizer: Optimizer, params: PyTree, *, state: State | None = None
) -> Curvature:
    """The largest curvature at ``params``, as ``flow_threshold`` and ``shadow`` take it.

    For optimizers that are linear in the gradient (gradient descent, momentum, Nesterov) the
    largest eigenvalue of the Hessian H. For all others that of the preconditioned Hessian
    P^{-1/2} H P^{-1/2}, P⁻¹ the derivative of the direction in the gradient, with the averages
    that precondition held: P = sqrt(ν̂ + eps_root) + eps for the Adam family, 1/s'(m) for a sign
    smoothed as s. In the literature: the (preconditioned) sharpness.

    problem: with batches, the mean loss of all of them. optimizer: one made of moments, as all
        of the zoo. state: the run's state at ``params``, of which the averages are taken; None,
        or a state before step 0: as if all past gradients had been the one at ``params``.

    Lanczos from scipy, to 1e-4 of the eigenvalue; each of its steps is a Hessian-vector product,
    some tens of them, and about 20 vectors of the size of the parameters are kept in memory.

    Raises TypeError for an optax transformation; ValueError for a state of another optimizer, for
    a host function without ``hvp``, for a preconditioner that is 0 somewhere (eps = 0 at a
    gradient component of 0), for products that are not finite, under jit, vmap and grad.

    >>> import shadowflow as sf
    >>> problem = sf.Problem(lambda x: jnp.sum(jnp.array([1.0, 5.0]) * x**2) / 2)
    >>> found = sf.curvature(problem, sf.momentum(decay=0.9), jnp.ones(2))
    >>> float(found), found.matrix
    (5.0, 'Hessian')
    >>> adam = sf.adam(eps=0.0, eps_root=1e-6)  # at gradient (1, 5): P = (1, 5)
    >>> found = sf.curvature(problem, adam, jnp.ones(2))
    >>> round(found, 4), found.matrix
    (1.0, 'preconditioned Hessian')
    """
    problem, params, traced = posed(problem, params)
    if traced or trees.is_traced(optimizer, state):
        raise ValueError(
            "params: expected numbers, got values that JAX is tracing; compute the curvature "
            "outside jit, vmap and grad, or there jnp.linalg.eigvalsh(jax.hessian(loss)(x))[-1] "
            "of the Hessian of a flat vector."
        )
    response, problem = linear_response(optimizer), problem.full_batch()
    flat, _ = ravel_pytree(params)
    root = jnp.ones_like(flat)
    if not response.linear:
        root = jnp.sqrt(_inverse_preconditioner(problem, optimizer, params, state))
    value, residual = _largest(lambda v: _product(problem, params, root, v), root)
    return Curvature(value, response.matrix, residual)


def _inverse_preconditioner(
    problem: Problem, optimizer: Optimizer, params: PyTree, state: State | None
) -> Array:
    """∂F/∂g per coordinate: the derivative of the direction in the moments that are linear."""
    fresh = optimizer.transformed(problem.gradient(params))
    read, step = fresh, jnp.inf
    if state is not None:
        checks.instance("state", state, State)
    if state is not None and state.step > 0:
        expected, got = (
            jax.tree.map(jnp.shape, one.moments) for one in (optimizer.init(params), state)
        )
        if expected != got:
            raise ValueError(
                f"state: expected moments like those of {optimizer.name} at these params, of "
                f"shapes {expected}, got {got}; pass the state of the run that came to params."
            )
        step = state.step - 1  # the last one taken
        read = optimizer.read(state.moments, fresh, step)
    slopes = [jax.grad(m.transform)(jnp.zeros((), trees.real_dtype())) for m in optimizer.moments]
    tangents = tuple(
        jax.tree.map(lambda leaf, slope=slope: jnp.full_like(leaf, slope), moment)
        for moment, slope in zip(read, slopes, strict=True)
    )
    call = lambda moments: optimizer.direction(moments, params, step)
    found, _ = ravel_pytree(jax.jvp(call, (read,), (tangents,))[1])
    wrong = int(jnp.sum(~(jnp.isfinite(found) & (found >= 0))))
    if wrong:
        raise ValueError(
            f"optimizer: expected a positive preconditioner, got one that is 0, negative or NaN "
            f"at {wrong} of {found.size} coordinates, where past gradients are 0 perhaps; give "
            f"{optimizer.name} an eps or eps_root above 0."
        )
    return found


@compiled
def _product(problem: Problem, params: PyTree, root: Array, vector: Array) -> Array:
    """P^{-1/2} H P^{-1/2} v, root = P^{-1/2}."""
    _, unravel = ravel_pytree(params)
    return root * ravel_pytree(problem.hessian_vector(params, unravel(root * vector)))[0]


def _largest(product, like: Array) -> tuple[float, float]:
    """The largest eigenvalue of a symmetric product, and its residual."""
    from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh

    def finite(vector: np.ndarray) -> np.ndarray:
        found = np.asarray(product(jnp.asarray(vector, like.dtype)), float)
        if not np.all(np.isfinite(found)):
            raise ValueError(
                "problem: expected finite Hessian-vector products, got NaN or infinity; look at "
                "the loss and its derivatives at these params."
            )
        return found

    if like.size <= DENSE:
        rows = np.stack([finite(unit) for unit in np.eye(like.size)])
        values, vectors = np.linalg.eigh((rows + rows.T) / 2)
    else:
        matrix = LinearOperator((like.size,) * 2, finite, dtype=float)  # ty: ignore[parameter-already-assigned]
        start = np.random.default_rng(0).normal(size=like.size)
        tolerance = max(TOLERANCE, float(jnp.finfo(like.dtype).eps) ** 0.5)
        try:
            values, vectors = eigsh(
                matrix, 1, which="LA", tol=tolerance, v0=start, maxiter=RESTARTS
            )
        except ArpackNoConvergence as error:
            raise RuntimeError(
                f"curvature: expected Lanczos to find the largest eigenvalue to {tolerance:.0e} "
                f"within {RESTARTS} restarts, got none; use float64, and see that the products are "
                "those of a symmetric Hessian."
            ) from error
    value, vector = float(values[-1]), vectors[:, -1]
    return value, float(np.linalg.norm(finite(vector) - value * vector))
