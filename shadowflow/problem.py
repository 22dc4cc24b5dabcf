"""The loss that is followed, as gradients and Hessian-vector products at any place."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from . import batching as bt, checks, trees
from .optimizers.base import as_pytree


class Problem(eqx.Module):
    """A loss E(θ) on a pytree of float parameters, or one loss E_b(θ) per mini-batch b.

    A model with other leaves (an equinox module with its activation functions) is passed as it is:
    its float arrays are the parameters, and the functions get the whole model.

    loss: ``loss(params)`` → scalar, or ``loss(params, batch)`` with batches; or None with
        ``grad`` alone.
    grad: ``grad(params[, batch])`` → pytree like ``params``; default ``jax.grad`` of the loss.
    hvp: ``hvp(params, vector[, batch])`` → H·vector; default a forward derivative of ``grad``.
    traceable: False for host functions (numpy, a loop over micro-batches, another framework):
        they get concrete arrays and are called from a Python loop. They need ``grad``, and
        ``hvp`` for the methods that use it ("taylor", "linearized").
    batches: a pytree whose leaves have a leading axis [B]; None: full batch.
    schedule: which batch step n = 0, 1, … sees: None, n mod B (cyclic); an int array, one entry
        per step; or a function step → batch (``shuffled``, ``with_replacement``, your own).
    weights: [B, size], for batches of unequal size: ``loss`` then returns one value per example,
        and E_b = Σ_i w_{b,i} ℓ_i / Σ_i w_{b,i}; ``shadowflow.batching.pad`` makes
        both from unequal ones.
    key: given to the functions as their last argument; with batches folded with the number of
        the batch, so that E_b stays one function. For fresh noise at every step let the keys be
        the batches.
    has_aux: the loss returns (value, anything); the theory needs the value only.

    Raises TypeError for what is not a function, ValueError if neither loss nor grad is given,
    for batches without a common leading axis, and for a schedule that leaves them. One
    ``Problem`` (or one loss function) used again is not compiled again.

    >>> quadratic = Problem(lambda x: 0.5 * jnp.sum(x**2))
    >>> float(quadratic.gradient(jnp.array([3.0]))[0])
    3.0
    >>> centres = Problem(lambda x, c: 0.5 * jnp.sum((x - c) ** 2), batches=jnp.arange(4.0))
    >>> float(centres.gradient(jnp.array([3.0]), centres.batch_index(6))[0])  # batch 6 mod 4
    1.0
    """

    loss: Callable | None
    grad: Callable | None
    hvp: Callable | None
    batches: PyTree | None
    schedule: Callable | Array | None
    weights: Array | None
    key: Array | None
    rest: PyTree | None
    traceable: bool = eqx.field(static=True)
    has_aux: bool = eqx.field(static=True)

    def __init__(
        self,
        loss=None,
        *,
        grad=None,
        hvp=None,
        traceable: bool = True,
        batches=None,
        schedule=None,
        weights=None,
        key=None,
        has_aux: bool = False,
    ):
        if loss is None and grad is None:
            raise ValueError(
                "loss: expected loss or grad to be given, got neither; for example "
                "Problem(loss), with loss(params) a scalar."
            )
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
        self.batches = None if batches is None else bt.checked(batches, traceable)
        self.schedule = bt.checked_schedule(schedule, self.batches)
        self.weights = bt.checked_weights(weights, self.batches, grad)
        if key is not None:
            checks.key("key", key)
        self.key, self.has_aux = key, checks.flag("has_aux", has_aux)
        self.rest, self.traceable = None, checks.flag("traceable", traceable)

    def __repr__(self) -> str:
        given = [name for name in ("loss", "grad", "hvp") if getattr(self, name) is not None]
        seen = f"{self.count} mini-batches" if self.batched else "full batch"
        return f"Problem({', '.join(given)}; {seen}{'' if self.traceable else ', host functions'})"

    @property
    def batched(self) -> bool:
        """Whether the steps see mini-batches."""
        return self.batches is not None

    @property
    def count(self) -> int:
        """B, the number of batches; 1 for the full batch."""
        return bt.count(self.batches) if self.batched else 1

    def batch_index(self, step) -> Int[Array, "*shape"]:
        """The batch that ``step`` sees (any shape of whole numbers, traced or not)."""
        return bt.batch_index(self.schedule, self.count, step)

    def gradient(self, params: PyTree, batch=None) -> PyTree:
        """∇E(θ), or ∇E_b(θ) for ``batch`` = b, a pytree like ``params``."""
        if self.grad is None:
            return self.value_and_gradient(params, batch)[1]
        return self._like(self.grad(*self._inputs(params, batch)), params, "grad")

    def value(self, params: PyTree, batch=None) -> Array:
        """E(θ), or E_b(θ); 0 where only a gradient is known."""
        value = jnp.zeros(()) if self.loss is None else self._loss(params, batch)
        return jnp.asarray(value, trees.real_dtype())

    def value_and_gradient(self, params: PyTree, batch=None) -> tuple[Array, PyTree]:
        """(E(θ), ∇E(θ)), or of one batch; the value is 0 where only a gradient is known."""
        if self.grad is None and self.loss is not None:
            value, gradient = jax.value_and_grad(lambda p: self._loss(p, batch))(params)
            return value.astype(trees.real_dtype()), gradient
        return self.value(params, batch), self.gradient(params, batch)

    def linearize(self, params: PyTree, batch=None) -> tuple[PyTree, Callable]:
        """(∇E(θ), v ↦ H·v): the gradient and the Hessian-vector products that share its work."""
        if self.hvp is not None:
            return self.gradient(params, batch), lambda v: self._product(params, v, batch)
        self._needs_hvp()
        return jax.linearize(lambda p: self.gradient(p, batch), params)

    def changes(self, params: PyTree, linearized: bool) -> tuple[PyTree, Callable]:
        """(∇E(θ), way ↦ the change of the gradient along it): by one more gradient, or by H·way."""
        if linearized:
            return self.linearize(params)
        gradient = self.gradient(params)
        moved = lambda way: self.gradient(trees.add(params, 1, way))
        return gradient, lambda way: trees.subtract(moved(way), gradient)

    def hessian_vector(self, params: PyTree, vector: PyTree, batch=None) -> PyTree:
        """H·v, or H_b·v."""
        return self.linearize(params, batch)[1](vector)

    def gradients(self, params: PyTree, which: Int[Array, " n"]) -> PyTree:
        """∇E_b(θ) of several batches at one place, stacked."""
        return self._each(lambda b: self.gradient(params, b), which)

    def gradients_at(self, places: PyTree, which: Int[Array, " n"]) -> PyTree:
        """∇E_b of several batches, each at its own place, stacked."""
        return self._each(lambda b, place: self.gradient(place, b), which, places)

    def linearize_each(self, params: PyTree, which: Int[Array, " n"]) -> tuple[PyTree, Callable]:
        """(∇E_b(θ) stacked, stacked v ↦ H_b·v_b stacked) of several batches at one place."""
        if self.hvp is not None:
            product = lambda b, v: self._product(params, v, b)
            return self.gradients(params, which), lambda vs: self._each(product, which, vs)
        self._needs_hvp()
        copies = trees.repeated(params, len(which))
        return jax.linearize(lambda places: self.gradients_at(places, which), copies)

    def full_batch(self) -> "Problem":
        """The full-batch problem: the mean of all batches, by their size where weights say it."""
        if not self.batched:
            return self
        mean = lambda name, function: (
            None if function is None else jax.tree_util.Partial(_mean, self, name)
        )
        grad, hvp = mean("gradient", self.grad), mean("hessian_vector", self.hvp)
        return Problem(mean("value", self.loss), grad=grad, hvp=hvp, traceable=self.traceable)

    def tabulated(self, end: int, first: int = 0) -> "Problem":
        """The same, its schedule looked up and checked for steps first … end − 1."""
        if not self.batched:
            return self
        return self.scheduled(bt.table(self.schedule, self.count, end, first))

    def scheduled(self, schedule) -> "Problem":
        """The same with another schedule, taken as it is."""
        is_none = lambda leaf: leaf is None
        return eqx.tree_at(lambda problem: problem.schedule, self, schedule, is_leaf=is_none)

    def around(self, rest: PyTree) -> "Problem":
        """The same for the float arrays of a model alone, whose other leaves are ``rest``."""
        return eqx.tree_at(lambda problem: problem.rest, self, rest, is_leaf=lambda x: x is None)

    def _inputs(self, params: PyTree, batch) -> tuple:
        """What the functions are called with: the whole model, its batch and its key."""
        if self.batched and batch is None:
            raise ValueError(
                "batch: expected the number of a batch for a problem with batches, got None; "
                "problem.full_batch() is the full-batch problem."
            )
        given = (params if self.rest is None else eqx.combine(params, self.rest),)
        if self.batched:
            given = (*given, jax.tree.map(lambda leaf: leaf[batch], self.batches))
        if self.key is None:
            return given
        return (*given, jax.random.fold_in(self.key, batch) if self.batched else self.key)

    def _loss(self, params: PyTree, batch) -> Array:
        value = self.loss(*self._inputs(params, batch))  # ty: ignore[not-callable]
        if self.has_aux:
            if not isinstance(value, tuple) or len(value) != 2:
                raise ValueError(
                    f"loss: expected (value, aux) with has_aux=True, got {value!r}; return a pair, "
                    "or leave has_aux out."
                )
            value = value[0]
        return scalar(value) if self.weights is None else weighted(value, self.weights[batch])

    def _each(self, function: Callable, which: Int[Array, " n"], *stacked: PyTree) -> PyTree:
        """``function(batch, …)`` for each batch, the results stacked."""
        numbers = which if self.traceable else np.asarray(which)
        return trees.mapped(lambda row: function(*row), (numbers, *stacked), self.traceable)

    def _product(self, params: PyTree, vector: PyTree, batch) -> PyTree:
        """H·v by the function that was given for it."""
        whole, *more = self._inputs(params, batch)
        found = self.hvp(whole, vector, *more)  # ty: ignore[not-callable]
        return self._like(found, params, "hvp")

    def _needs_hvp(self) -> None:
        if not self.traceable:
            raise ValueError(
                "hvp: expected a Hessian-vector product, got None, and a host function cannot be "
                "differentiated; pass hvp= to Problem, a function (params, vector) → H·vector."
            )

    def _like(self, tree: PyTree, params: PyTree, name: str) -> PyTree:
        expected, got = jax.tree.structure(params), jax.tree.structure(tree)
        if expected != got:
            raise ValueError(
                f"{name}: expected a pytree like params, {expected}, got {got}; return one "
                "derivative for each parameter, in the same containers."
            )
        return jax.tree.map(lambda out, leaf: self._leaf(out, leaf, name), tree, params)

    def _leaf(self, out, leaf: Array, name: str) -> Array:
        if np.shape(out) != leaf.shape:
            raise ValueError(
                f"{name}: expected an array of shape {leaf.shape}, as the parameters', "
                f"got shape {np.shape(out)}; return one derivative for each parameter."
            )
        if jnp.issubdtype(jnp.result_type(out), jnp.complexfloating):
            raise ValueError(
                f"{name}: expected real numbers, got dtype {jnp.result_type(out)}; return the real "
                "part, .real, where that is what is meant."
            )
        return jnp.asarray(out, leaf.dtype)


def compiled(function: Callable) -> Callable:
    """``function(owner, …)``, compiled where the problem that is or belongs to ``owner`` allows."""
    quick = eqx.filter_jit(function)

    @functools.wraps(function)
    def call(owner, *rest):
        traceable = getattr(owner, "problem", owner).traceable
        return (quick if traceable else function)(owner, *rest)

    return call


class Posed(NamedTuple):
    """A problem on the float arrays of its parameters, and whether JAX is tracing either."""

    problem: Problem
    params: PyTree
    traced: bool


def posed(problem: Problem, params: PyTree) -> Posed:
    """A problem with its parameters as arrays; refuse what is no problem, bad parameters, and a
    loss or gradient that does not fit them."""
    checks.instance("problem", problem, Problem)
    params, rest = checks.parameters(params)
    problem = problem if rest is None else problem.around(rest)
    if not problem.traceable:
        return Posed(problem, params, trees.is_traced(problem, params))
    batch = 0 if problem.batched else None
    try:
        closed = jax.make_jaxpr(lambda p: problem.value_and_gradient(p, batch))(params)
    except Exception as error:
        if str(error).startswith(("loss:", "grad:", "hvp:")):
            raise
        name = "grad" if problem.loss is None else "loss"
        call = f"{name}(params, batch)" if problem.batched else f"{name}(params)"
        remedy = f"call {call} by itself to see where"
        if isinstance(error, jax.errors.JAXTypeError):
            remedy = "a function that JAX cannot trace needs grad= and traceable=False"
        raise ValueError(
            f"{name}: expected a function that takes these params, got {type(error).__name__} "
            f"from it: {str(error).partition(chr(10))[0]}; {remedy}."
        ) from error
    return Posed(problem, params, trees.is_traced(problem, params, closed.consts))


def scalar(value) -> Array:
    """A loss as a float scalar array; refuse any other shape or dtype."""
    if isinstance(value, tuple):
        raise ValueError(
            f"loss: expected a float scalar, got a tuple of {len(value)}; pass has_aux=True where "
            "it returns (value, anything)."
        )
    value = jnp.asarray(value)
    if value.shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"loss: expected a float scalar, got shape {value.shape} and dtype "
            f"{value.dtype}; reduce it with .mean() or .sum()."
        )
    return value


def weighted(values, weights: Array) -> Array:
    """Σ w ℓ / Σ w of one value per example; what weighs nothing may be anything, even NaN."""
    values = jnp.asarray(values)
    if values.shape != weights.shape or not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(
            f"loss: expected one float per example, of shape {weights.shape} as the weights', got "
            f"shape {values.shape} and dtype {values.dtype}; with weights do not reduce it."
        )
    weights = weights.astype(values.dtype)
    return jnp.sum(weights * jnp.where(weights > 0, values, 0)) / jnp.sum(weights)


def _mean(problem: Problem, name: str, params: PyTree, *vector: PyTree):
    """The mean over all batches of one of the problem's functions."""
    call = lambda b: getattr(problem, name)(params, *vector, b)
    shares = jnp.asarray(bt.shares(problem.weights, problem.count), trees.real_dtype())
    values = problem._each(call, jnp.arange(problem.count))
    mean = lambda leaf: jnp.tensordot(shares.astype(leaf.dtype), leaf, 1)
    return jax.tree.map(mean, values)
