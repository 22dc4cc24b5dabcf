"""Any optax transformation as an optimizer: a state map, taken as it is."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import PyTree

from . import checks, trees
from .optimizer import Optimizer, State, as_pytree


class Transformation(Optimizer):
    """An ``Optimizer`` whose only parts are ``init`` and ``update``: made by ``from_optax``.

    make: learning rate → optax transformation. It has no moments, so that only what walks along
    its path can follow it: method "collocation", from a settled start.
    """

    make: Callable

    def __init__(self, make: Callable, name: str):
        self.moments, self.combine, self.name = (), as_pytree(_no_combine), name
        self.make = as_pytree(make)

    @property
    def uniform(self) -> bool:
        """Unknown, and taken to be so."""
        return True

    @property
    def reads_params(self) -> bool:
        """It gets the parameters at every step."""
        return True

    def init(self, params: PyTree) -> State:
        """The state before step 0; the transformation's own is its one moment."""
        zero = jnp.zeros((), trees.real_dtype())
        return State((self.make(1.0).init(params),), zero)

    def update(self, state: State, grad: PyTree, params: PyTree, learning_rate):
        """(state after the step, step taken)."""
        updates, inner = self.make(learning_rate).update(grad, state.moments[0], params)
        return State((inner,), state.step + 1), updates


def _no_combine(moments: Any, params: Any, step: Any) -> Any:
    raise TypeError(
        "optimizer: expected one with moments and a combine function, got an optax transformation, "
        "which has only its update; use method='collocation', or a row of the zoo."
    )


def from_optax(make: Callable, name: str | None = None) -> Transformation:
    """An optax transformation as an optimizer, its update unchanged.

    make: ``make(learning_rate)`` returns the transformation: an optax constructor, a
        ``functools.partial`` of one, or a function that builds a chain. It gets the learning
        rate of each step, also from a schedule, and may be traced.
    name: for tables and messages (None: that of ``make``).

    Returns an optimizer for ``iterate``, and, from a settled start (``start=None``) on the full
    batch, for ``shadow``, ``modified_field``, ``memoryless_step`` and ``settled_state`` with
    ``method="collocation"``: the transformation is fed the gradients of a path walked backwards
    until it has forgotten how it began. No derivative of it is taken, and it need not be
    pointwise. Holds for what forgets: not for accumulators such as Adagrad's, whose steps depend
    on their whole past (refused, with how long was looked).

    Raises TypeError for what is not a function, or where it makes no transformation.

    >>> import functools, optax
    >>> heavy_ball = from_optax(functools.partial(optax.sgd, momentum=0.9))
    >>> state, move = heavy_ball.update(heavy_ball.init(jnp.ones(1)), jnp.ones(1), jnp.ones(1), 0.5)
    >>> heavy_ball.name, float(move[0])
    ('sgd', -0.5)
    """
    checks.function("make", make)
    made = make(0.1)
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise TypeError(
            f"make: expected a function of the learning rate that returns an optax transformation, "
            f"got one that returns {type(made).__name__}; for example functools.partial("
            "optax.adam, b2=0.95)."
        )
    inner = getattr(make, "func", make)
    return Transformation(make, name or getattr(inner, "__name__", "transformation"))
