"""The loss that is followed, as gradients and Hessian-vector products at any place."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from . import checks, trees
from .optimizer import as_pytree


class Problem(eqx.Module):
    """A full-batch loss E(θ) on a pytree of float parameters.

    loss: ``loss(params)`` → scalar; or None with ``grad`` alone.
    grad: ``grad(params)`` → pytree like ``params``; default ``jax.grad(loss)``.
    hvp: ``hvp(params, vector)`` → H·vector; default a forward derivative of ``grad``.
    traceable: False for host functions (numpy, a loop over micro-batches, another framework):
        they get concrete arrays and are called from a Python loop. They need ``grad``, and
        ``hvp`` for the methods that use it ("taylor", "linearized").

    Raises TypeError for what is not a function, ValueError if neither loss nor grad is given.
    One ``Problem`` (or one loss function) used again is not compiled again.

    >>> quadratic = Problem(lambda x: 0.5 * jnp.sum(x**2))
    >>> float(quadratic.gradient(jnp.array([3.0]))[0])
    3.0
    """

    loss: Callable | None
    grad: Callable | None
    hvp: Callable | None
    traceable: bool = eqx.field(static=True)

    def __init__(self, loss=None, *, grad=None, hvp=None, traceable: bool = True):
        if loss is None and grad is None:
            raise ValueError("loss: expected loss or grad to be given, got neither.")
        if not traceable and grad is None:
            raise ValueError(
                "grad: expected a gradient function with traceable=False, got None; a host "
                "function cannot be differentiated by JAX, so pass grad=."
            )
        given = {"loss": loss, "grad": grad, "hvp": hvp}
        for name, function in given.items():
            if function is not None:
                checks.function(name, function)
        self.loss, self.grad, self.hvp = (
            None if function is None else as_pytree(function) for function in given.values()
        )
        self.traceable = bool(traceable)

    def gradient(self, params: PyTree) -> PyTree:
        """∇E(θ), a pytree like ``params``."""
        if self.grad is None:
            return self.value_and_gradient(params)[1]
        return self._like(self.grad(params), params, "grad")

    def value(self, params: PyTree) -> Array:
        """E(θ); 0 where only a gradient is known."""
        value = jnp.zeros(()) if self.loss is None else scalar(self.loss(params))
        return jnp.asarray(value, trees.real_dtype())

    def value_and_gradient(self, params: PyTree) -> tuple[Array, PyTree]:
        """(E(θ), ∇E(θ)); the value is 0 where only a gradient is known."""
        loss = self.loss
        if self.grad is None and loss is not None:
            value, gradient = jax.value_and_grad(lambda p: scalar(loss(p)))(params)
            return value.astype(trees.real_dtype()), gradient
        return self.value(params), self.gradient(params)

    def linearize(self, params: PyTree) -> tuple[PyTree, Callable]:
        """(∇E(θ), v ↦ H·v): the gradient and the Hessian-vector products that share its work."""
        if (hvp := self.hvp) is not None:
            return self.gradient(params), lambda v: self._like(hvp(params, v), params, "hvp")
        if not self.traceable:
            raise ValueError(
                "hvp: expected a Hessian-vector product, got None; this method needs one, and "
                "a host function cannot be differentiated: pass hvp=, or choose "
                "method='displaced' or 'inertial', which need gradients only."
            )
        return jax.linearize(self.gradient, params)

    def check(self, params: PyTree) -> PyTree:
        """``params`` as arrays; refuse bad parameters and a loss or gradient that does not fit."""
        params = checks.params(params)
        if not self.traceable:
            return params
        try:
            jax.eval_shape(self.value_and_gradient, params)
        except Exception as error:
            if str(error).startswith(("loss:", "grad:")):
                raise
            raise ValueError(
                f"loss: expected a function that takes these params, got {type(error).__name__} "
                f"from it: {str(error).splitlines()[0]}; call loss(params) by itself to see where."
            ) from error
        return params

    def _like(self, tree: PyTree, params: PyTree, name: str) -> PyTree:
        expected, got = jax.tree.structure(params), jax.tree.structure(tree)
        if expected != got:
            raise ValueError(f"{name}: expected a pytree like params, {expected}, got {got}.")
        return jax.tree.map(lambda out, leaf: self._leaf(out, leaf, name), tree, params)

    def _leaf(self, out, leaf: Array, name: str) -> Array:
        if np.shape(out) != leaf.shape:
            raise ValueError(
                f"{name}: expected an array of shape {leaf.shape}, as the parameters', "
                f"got shape {np.shape(out)}."
            )
        return jnp.asarray(out, leaf.dtype)


def scalar(value) -> Array:
    """A loss as a float scalar array; refuse any other shape or dtype."""
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss: expected a float scalar, got shape {value.shape} and dtype "
            f"{value.dtype}; reduce it with .mean() or .sum()."
        )
    return value
