"""Any optax transformation as an optimizer: a state map, taken as it is."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import PyTree

from .. import checks, trees
from .moments import Optimizer, State, as_pytree


class Transformation(Optimizer):
    """An ``Optimizer`` whose only parts are ``init`` and ``update``: made by ``from_optax``.

    make: learning rate → optax transformation. It has no moments: what follows it feeds it the
    gradients of its past, and it is read as it is.
    """

    make: Callable
    reads_loss: bool = eqx.field(static=True)
    holds_rate: bool = eqx.field(static=True)

    def __init__(self, make: Callable, name: str, reads_loss: bool, holds_rate: bool):
        self.moments, self.combine, self.name = (), as_pytree(_no_combine), name
        self.make, self.reads_loss, self.holds_rate = as_pytree(make), reads_loss, holds_rate

    @property
    def uniform(self) -> bool:
        """Unknown, and taken to be so."""
        return True

    @property
    def reads_params(self) -> bool:
        """It gets the parameters at every step."""
        return True

    @property
    def reads_value(self) -> bool:
        """Whether its update asks for ``value``, as Polyak's step does."""
        return self.reads_loss

    @property
    def keeps_rate(self) -> bool:
        """Whether its state is made with the learning rate in it, as Rprop's first step size."""
        return self.holds_rate

    def init(self, params: PyTree, learning_rate=1.0) -> State:
        """The state before step 0; the transformation's own is its one moment."""
        zero = jnp.zeros((), trees.real_dtype())
        inner = self.make(learning_rate if self.holds_rate else 1.0).init(params)
        return State((inner,), zero)

    def update(self, state: State, grad: PyTree, params: PyTree, learning_rate, value=None):
        """(state after the step, step taken)."""
        more = {"value": value} if self.reads_loss else {}
        updates, inner = self.make(learning_rate).update(grad, state.moments[0], params, **more)
        like = lambda new, old: jnp.asarray(new, jnp.result_type(old))
        inner = jax.tree.map(like, inner, state.moments[0])
        return State((inner,), state.step + 1), jax.tree.map(like, updates, params)

    def adopted(self, opt_state, params: PyTree) -> tuple:
        """The state of a run of this transformation, as optax has it, as the one moment."""
        inner, like = _without_rates(opt_state), self.init(params).moments[0]
        if jax.tree.structure(inner) != jax.tree.structure(like):
            raise ValueError(
                f"opt_state: expected the state of {self.name} as make(learning_rate) has it, "
                f"{jax.tree.structure(like)}, got {jax.tree.structure(inner)}; pass the state of "
                "the same transformation."
            )
        return (jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, like),)


def _without_rates(opt_state):
    """An optax state less what holds the learning rate: ``make`` gets a number at every step."""
    injected = lambda node: hasattr(node, "hyperparams") and hasattr(node, "inner_state")
    held = lambda node: injected(node) or isinstance(node, optax.ScaleByScheduleState)

    def less(node):
        if injected(node):
            return _without_rates(node.inner_state)
        return optax.EmptyState() if isinstance(node, optax.ScaleByScheduleState) else node

    return jax.tree.map(less, opt_state, is_leaf=held)


def _no_combine(moments: Any, params: Any, step: Any) -> Any:
    raise TypeError(
        "optimizer: expected one with moments and a combine function, got an optax transformation, "
        "which has only its update; use a row of the zoo, or Optimizer(moments, combine)."
    )


def from_optax(make: Callable, name: str | None = None) -> Transformation:
    """An optax transformation as an optimizer, its update unchanged.

    make: ``make(learning_rate)`` returns the transformation: an optax constructor, a
        ``functools.partial`` of one, or a function that builds a chain. It gets the learning
        rate of each step, also from a schedule, and may be traced.
    name: for tables and messages (None: that of ``make``).

    Returns an optimizer for ``iterate``, ``shadow``, ``modified_field``, ``memoryless_step``,
    ``convergence`` and ``implicit_bias``, on the full batch: the transformation is fed the
    gradients of the way that it came. No derivative of it is taken (but by method "taylor"), and
    it need not be pointwise. Methods: "displaced" (second order, at any step, with schedules),
    "collocation" (any order, settled), "taylor" (as a check of the others), "inertial" (where
    all that the state keeps are exponential averages). Accumulators such as
    Adagrad's, whose steps depend on their whole past, have no settled flow: refused with how long
    was looked, and followed from step 0, or from a state of their run, by "displaced".

    Raises TypeError for what is not a function, where it makes no transformation, or one that
    asks for more than gradients, parameters and the value of the loss.

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
    name = name or getattr(inner, "__name__", "transformation")
    return Transformation(make, name, _reads_loss(made, name), _holds_rate(make))


PROBE = {"matrix": np.ones((2, 2), np.float32), "vector": np.ones(2, np.float32)}


def _holds_rate(make: Callable) -> bool:
    """Whether a fresh state depends on the learning rate."""
    try:
        states = [jax.tree.leaves(make(rate).init(PROBE)) for rate in (1.0, 0.5)]
    except Exception:  # a transformation for other trees than this one: it has its say later
        return False
    pairs = [pair for pair in zip(*states, strict=True) if eqx.is_inexact_array(pair[0])]
    return any(not np.array_equal(*pair) for pair in pairs)


def _reads_loss(made: Any, name: str) -> bool:
    """Whether ``update`` asks for the loss; TypeError where it asks for more by keyword."""
    tree = jax.tree.map(jnp.asarray, PROBE)

    def missing(**given) -> str:
        try:
            jax.eval_shape(lambda: made.update(tree, made.init(tree), tree, **given))
        except TypeError as error:
            return str(error) if "missing" in str(error) and "keyword" in str(error) else ""
        except Exception:  # a transformation for other trees than this one: it has its say later
            return ""
        return ""

    if not missing():
        return False
    if still := missing(value=jnp.ones(())):
        raise TypeError(
            f"make: expected a transformation that asks for gradients, parameters and at most the "
            f"value of the loss, got {name}: {still}; a line search and the like has no modified "
            "equation of this form."
        )
    return True
