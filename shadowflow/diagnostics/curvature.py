"""The curvature that the edges are stated in, of any optimizer with moments, along a run."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from .. import trees
from ..optimizers.moments import Optimizer, State, decay_power
from ..problem import Problem

LANCZOS = 24


def preconditioned_curvature(
    problem: Problem, optimizer: Optimizer, params: PyTree, state: State
) -> float:
    """The largest eigenvalue of P⁻¹H at ``params``, P⁻¹ = ∂F/∂g at the run's own moments.

    For Adam P = sqrt(ν̂ + eps_root) + eps. The moments that precondition, with ψ'(0) = 0, are those
    of ``state``, one of a run that has begun; full batch. By ``LANCZOS`` steps of Lanczos on
    P^{-1/2} H P^{-1/2}, each a Hessian-vector product: a lower bound, tight within a few percent.

    >>> from shadowflow import zoo
    >>> problem, x = Problem(lambda x: jnp.sum(jnp.array([1.0, 5.0]) * x**2) / 2), jnp.ones(2)
    >>> state, _ = zoo.sgd().update(zoo.sgd().init(x), problem.gradient(x), x, 0.1)
    >>> round(preconditioned_curvature(problem, zoo.sgd(), x, state), 4)
    5.0
    """
    scale = jnp.sqrt(jnp.maximum(ravel_pytree(_answer(problem, optimizer, params, state))[0], 0))
    _, unravel = ravel_pytree(params)
    product = jax.jit(
        lambda v: scale * ravel_pytree(problem.hessian_vector(params, unravel(scale * v)))[0]
    )
    start = np.random.default_rng(0).normal(size=scale.size).astype(scale.dtype)
    return lanczos(lambda v: np.asarray(product(jnp.asarray(v, scale.dtype)), float), start)


def _answer(problem: Problem, optimizer: Optimizer, params: PyTree, state: State) -> PyTree:
    """∂F/∂g per coordinate: the derivative of the direction in the moments that are linear."""
    gradient = problem.gradient(params)
    read, tangents = [], []
    for moment, kept, fresh in zip(
        optimizer.moments, state.moments, optimizer.transformed(gradient), strict=True
    ):
        value = fresh if kept is None else kept
        if kept is not None and moment.bias_correction:
            value = trees.scale(1 / (1 - decay_power(moment.beta, state.step)), kept)
        slope = jax.grad(moment.transform)(jnp.zeros((), trees.real_dtype()))
        read.append(value)
        tangents.append(jax.tree.map(lambda g, s=slope: jnp.full_like(g, s), gradient))
    call = lambda moments: optimizer.direction(moments, params, state.step)
    return jax.jvp(call, (tuple(read),), (tuple(tangents),))[1]


def lanczos(product, start: np.ndarray, steps: int = LANCZOS) -> float:
    """The largest eigenvalue of a symmetric product, all vectors kept orthogonal.

    >>> matrix = np.diag([3.0, -7.0, 2.0])
    >>> round(lanczos(lambda v: matrix @ v, np.ones(3)), 6)
    3.0
    """
    vectors, diagonal, beside = [start / np.linalg.norm(start)], [], []
    for _ in range(min(steps, start.size)):
        new = product(vectors[-1])
        diagonal.append(float(vectors[-1] @ new))
        for _ in range(2):
            for vector in vectors:
                new = new - (vector @ new) * vector
        size = float(np.linalg.norm(new))
        if not size > 1e-6 * max(map(abs, diagonal)):
            break
        beside.append(size)
        vectors.append(new / size)
    side = np.diag(beside[: len(diagonal) - 1], 1)
    return float(np.linalg.eigvalsh(np.diag(diagonal) + side + side.T)[-1])
