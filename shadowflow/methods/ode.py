"""One step of a flow over one step of the optimizer, with diffrax."""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees

MOST_STEPS = 16  # of the adaptive solver per step of the optimizer; without a bound NaN is forever
ROUNDINGS = 8  # tolerance of an adaptive step
SHU_OSHER = diffrax.ButcherTableau(
    a_lower=(np.array([1.0]), np.array([0.25, 0.25])),
    b_sol=np.array([1 / 6, 1 / 6, 2 / 3]),
    b_error=np.array([-1 / 3, -1 / 3, 2 / 3]),
    c=np.array([1.0, 0.5]),
)


class PositiveRK3(diffrax.AbstractERK):
    """The three-stage third-order Runge–Kutta method of Shu and Osher.

    All its coefficients are positive, so an average of squares stays positive from stage to
    stage; one step of it per optimizer step errs far less than a second-order model.
    """

    tableau: ClassVar[diffrax.ButcherTableau | diffrax.MultiButcherTableau] = SHU_OSHER
    interpolation_cls: ClassVar[Callable] = diffrax.LocalLinearInterpolation

    def order(self, terms):
        del terms
        return 3


def one_step(
    field: Callable, y: PyTree, *, traceable: bool, substeps: Any = 1, high_order: bool = False
) -> PyTree:
    """y(1) of y' = field(s, y) from y(0), s ∈ [0, 1] within one step of the optimizer.

    ``substeps``, the number of equal parts in which it is taken, may be traced. high_order: by a
    method of order 8 instead of 3, for fields more accurate than second order.
    A host function is met by concrete arrays: the stages are then looped over in Python.
    """
    kind = diffrax.Dopri8 if high_order else PositiveRK3
    wide, narrow = _one_dtype(y)
    if traceable:
        vector_field = lambda s, y, args: wide(field(s, narrow(y)))
        return narrow(_march(kind(), vector_field, wide(y), substeps))
    return narrow(_march_on_host(kind(), lambda s, y: wide(field(s, narrow(y))), wide(y), substeps))


def _march_on_host(
    solver: diffrax.AbstractERK, field: Callable, y: PyTree, substeps: Any
) -> PyTree:
    """The same steps by the solver's tableau: traced, a host function would be shown no array."""
    tableau: Any = solver.tableau
    parts = int(substeps)
    for part in range(parts):
        rates = [field(jnp.asarray(part / parts), y)]
        for time, row in zip(tableau.c, tableau.a_lower, strict=True):
            there = _moved(y, jnp.asarray(row / parts), rates)
            rates.append(field(jnp.asarray((part + time) / parts), there))
        y = _moved(y, jnp.asarray(tableau.b_sol / parts), rates)
    return y


@jax.jit
def _moved(y: PyTree, weights: Array, rates: list) -> PyTree:
    """y + Σ weights · rates."""
    for weight, rate in zip(weights, rates, strict=True):
        y = trees.add(y, weight, rate)
    return y


def _march(solver: diffrax.AbstractERK, vector_field: Callable, y: PyTree, substeps) -> PyTree:
    """``substeps`` steps; the solver's own ``init`` would trace a host function for its shape."""
    term, dtype = diffrax.ODETerm(vector_field), jax.tree.leaves(y)[0].dtype
    nothing = (jnp.asarray(True), jax.tree.map(jnp.zeros_like, y))
    start = nothing if isinstance(solver, diffrax.Dopri8) else None

    def substep(index, y):
        ends = [jnp.asarray(i, dtype) / jnp.asarray(substeps, dtype) for i in (index, index + 1)]
        return solver.step(term, *ends, y, None, start, made_jump=False)[0]

    return jax.lax.fori_loop(0, substeps, substep, y)


def over_many(field: Callable, y: PyTree, times, *, landing: bool = False) -> PyTree:
    """y at all ``times`` (leading axis) of the autonomous y' = field(y), with adaptive steps.

    landing: a step ends at each of the times. Else they are interpolated within longer steps, by a
    polynomial of order 7 whose error no tolerance bounds: 1e-13 in float64, what high orders see.
    Where the solver gives up, the rest is not finite.
    """
    wide, narrow = _one_dtype(y)
    start = wide(y)
    dtype = jax.tree.leaves(start)[0].dtype
    tolerance, times = ROUNDINGS * trees.coarsest_eps(y), times.astype(dtype)
    controller = diffrax.PIDController(rtol=tolerance, atol=tolerance)
    if landing:
        controller = diffrax.ClipStepSizeController(controller, step_ts=times)
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: wide(field(narrow(y)))),
        diffrax.Dopri8(),
        t0=times[0],
        t1=times[-1],
        dt0=jnp.ones((), dtype),
        y0=start,
        saveat=diffrax.SaveAt(ts=times),
        stepsize_controller=controller,
        max_steps=MOST_STEPS * len(times),
        throw=False,
    )
    return narrow(solution.ys)


def _one_dtype(y: PyTree) -> tuple[Callable, Callable]:
    """To the widest dtype among the leaves, which diffrax wants everywhere, and back."""
    dtypes = jax.tree.map(lambda leaf: leaf.dtype, y)
    common = max((leaf.dtype for leaf in jax.tree.leaves(y)), key=lambda d: jnp.finfo(d).bits)
    wide = lambda tree: jax.tree.map(lambda leaf: leaf.astype(common), tree)
    narrow = lambda tree: jax.tree.map(lambda leaf, d: leaf.astype(d), tree, dtypes)
    return wide, narrow
