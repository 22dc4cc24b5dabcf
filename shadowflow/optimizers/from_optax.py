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
from . import memory_probe
from .base import AbstractOptimizer, State, as_pytree
from .ema_probe import Averages, averages


class Transformation(AbstractOptimizer):
    """An optax transformation, taken as it is: made by ``from_optax``.

    make: learning rate → optax transformation. Its moments have no closed form: what follows it
    feeds it the gradients of its past, and reads what it does.
    """

    make: Callable

    def __repr__(self) -> str:
        return f"Transformation({self.name})"

    @property
    def remembers(self) -> bool:
        """Taken to be so: nothing about its state is known."""
        return True

    memory_length = memory_probe.remembered
    time_invariant = memory_probe.time_invariant

    def init(self, params: PyTree, learning_rate=1.0) -> State:
        """The state before step 0; the transformation's own is its one moment."""
        zero = jnp.zeros((), trees.real_dtype())
        inner = self.make(learning_rate if self.keeps_rate else 1.0).init(params)
        return State((inner,), zero)

    def update(
        self, state: State, grad: PyTree, params: PyTree, learning_rate, value=None
    ) -> tuple[State, PyTree]:
        """(state after the step, step taken)."""
        more = {"value": value} if self.reads_value else {}
        updates, inner = self.make(learning_rate).update(grad, state.moments[0], params, **more)
        like = lambda new, old: jnp.asarray(new, jnp.result_type(old))
        inner = jax.tree.map(like, inner, state.moments[0])
        return State((inner,), state.step + 1), jax.tree.map(like, updates, params)

    def memoryless_direction(
        self, params: PyTree, grad: PyTree, step, learning_rate=1.0, value=None
    ) -> PyTree:
        """F_n(θ), by running it on ``grad`` alone: n + 1 updates, or as many as it remembers.

        One where all its steps are alike.
        """
        rate = jnp.asarray(learning_rate, trees.real_dtype())
        rate = jnp.where(rate > 0, rate, 1.0)
        length = 1 if self.time_invariant(params) else 1 + (self.memory_length(params) or 0)
        settled = jnp.isinf(jnp.asarray(step, trees.real_dtype()))
        known = jnp.where(settled, length, jnp.asarray(jnp.where(settled, 0, step), int) + 1)
        count = jnp.minimum(known, length) if length > 1 else jnp.asarray(1)

        def again(_, carry):
            return self.update(carry[0], grad, params, rate, value)

        begun = self.init(params, rate), trees.zeros_like(params)
        _, move = jax.lax.fori_loop(0, count, again, begun)
        return trees.scale(-1 / rate, move)

    def adopted(self, opt_state, params: PyTree) -> tuple:
        """The state of a run of this transformation, as optax has it, as the one moment."""
        inner = _without_rates(opt_state) if self.varies_rate else opt_state
        like = self.init(params).moments[0]
        if jax.tree.structure(inner) != jax.tree.structure(like):
            raise ValueError(
                f"opt_state: expected the state of {self.name} as make(learning_rate) has it, "
                f"{jax.tree.structure(like)}, got {jax.tree.structure(inner)}; pass the state of "
                "the same transformation."
            )
        return (jax.tree.map(lambda new, old: jnp.asarray(new, old.dtype), inner, like),)

    def as_moments(self, params: PyTree) -> Averages:
        """Its state leaves as exponential averages; ValueError where one is none."""
        return averages(self, params)


def _without_rates(opt_state):
    """An optax state less what holds the learning rate: ``make`` gets a number at every step."""
    injected = lambda node: hasattr(node, "hyperparams") and hasattr(node, "inner_state")
    held = lambda node: injected(node) or isinstance(node, optax.ScaleByScheduleState)

    def less(node):
        if injected(node):
            return _without_rates(node.inner_state)
        return optax.EmptyState() if isinstance(node, optax.ScaleByScheduleState) else node

    return jax.tree.map(less, opt_state, is_leaf=held)


def from_optax(make: Callable, name: str | None = None) -> Transformation:
    """An optax transformation as an optimizer, its update unchanged.

    make: ``make(learning_rate)`` returns the transformation: an optax constructor, a
        ``functools.partial`` of one, or a function that builds a chain. It gets the learning
        rate of each step, also from a schedule, and may be traced.
    name: for tables and messages (None: that of ``make``).

    Returns an optimizer for ``iterate``, ``shadow``, ``modified_field``, ``memoryless_step``,
    ``convergence`` and ``implicit_bias``: the transformation is run over the gradients of its
    past. It need not be pointwise, and only method "taylor" differentiates it. What it is (how long
    it remembers, whether its state is averages) is found by running it on a part of each leaf, a
    few hundred coordinates, more where it treats larger shapes otherwise.
    Methods: "displaced" (second order, at any step, with schedules, and on mini-batches),
    "collocation" (any order, settled), "taylor" (as a check of the others), "inertial" (where its
    state is exponential averages alone). Accumulators such as Adagrad's depend on their whole past
    and have no settled flow: "displaced" follows them from step 0, or from a state of their run.

    Raises TypeError for what is not a function, for a function that makes no transformation, and
    for a transformation that asks for more than gradients, parameters and the loss. What
    cannot be run on the parameters, or takes no notice of the learning rate, is refused by the
    functions that get both.

    >>> import functools, optax
    >>> heavy_ball = from_optax(functools.partial(optax.sgd, momentum=0.9))
    >>> state, move = heavy_ball.update(heavy_ball.init(jnp.ones(1)), jnp.ones(1), jnp.ones(1), 0.5)
    >>> heavy_ball.name, float(move[0])
    ('sgd', -0.5)
    """
    if hasattr(make, "init") and hasattr(make, "update"):
        raise TypeError(
            "make: expected a function of the learning rate that returns an optax transformation, "
            "got a transformation; pass what makes it, as functools.partial(optax.adam, b2=0.95)."
        )
    checks.function("make", make)
    inner = getattr(make, "func", make)
    name = name or getattr(inner, "__name__", "transformation")
    try:
        made = make(0.1)
    except Exception as error:
        raise TypeError(
            f"make: expected a function of the learning rate alone, got {name}, which raises "
            f"{type(error).__name__} at 0.1: {error}; for example functools.partial(optax.adam, "
            "b2=0.95)."
        ) from error
    if not (hasattr(made, "init") and hasattr(made, "update")):
        raise TypeError(
            f"make: expected a function of the learning rate that returns an optax transformation, "
            f"got one that returns {type(made).__name__}; for example functools.partial("
            "optax.adam, b2=0.95)."
        )
    reads, holds = _reads_loss(made, name), _holds_rate(make)
    return Transformation((), name, reads, holds, True, as_pytree(make))


def as_optimizer(
    optimizer: Any, learning_rate=1.0, *, fixed_rate: bool = False
) -> AbstractOptimizer:
    """``optimizer`` if it is one of this library; a plain optax transformation with ``fixed_rate``.

    learning_rate: the one that it is to take, a positive number or a schedule. fixed_rate: for
    what only runs the optimizer, and never varies its learning rate. Raises TypeError for anything
    else, with the line that makes an optimizer of it, and ValueError for a bad learning rate.
    """
    checks.learning_rate(learning_rate)
    own = isinstance(optimizer, AbstractOptimizer)
    if own and callable(learning_rate) and optimizer.keeps_rate:
        raise ValueError(
            f"learning_rate: expected a number for {optimizer.name}, which keeps it in its state "
            "from the start, got a schedule; make the transformation without a rate in its state."
        )
    if own and (optimizer.varies_rate or fixed_rate):
        return optimizer
    plain = hasattr(optimizer, "init") and hasattr(optimizer, "update")
    if plain and fixed_rate:
        name = "optax transformation"
        tx = optax.with_extra_args_support(optimizer)
        make = lambda learning_rate: tx
        reads = _reads_loss(optimizer, name)
        return Transformation((), name, reads, False, False, as_pytree(make))
    if plain:
        raise TypeError(
            "optimizer: expected one whose learning rate can be varied, which a flow needs, got an "
            "optax transformation; pass sf.from_optax(make) with a function of the learning rate, "
            "as sf.from_optax(optax.adam), or sf.adam()."
        )
    raise TypeError(
        f"optimizer: expected a shadowflow optimizer, got {type(optimizer).__name__}; use a row of "
        "the zoo as sf.adam(), sf.from_optax(make), or sf.Optimizer(moments, combine)."
    )


RATES = (0.1, 1e-3, 1e-6)
PROBE = {"matrix": np.ones((2, 2), np.float32), "vector": np.ones(2, np.float32)}


def _holds_rate(make: Callable) -> bool:
    """Whether a fresh state depends on the learning rate."""
    try:
        states = [jax.tree.leaves(make(rate).init(PROBE)) for rate in (1.0, 0.5)]
    except Exception:  # a transformation for other trees than this one: it has its say later
        return False
    pairs = [pair for pair in zip(*states, strict=True) if eqx.is_inexact_array(pair[0])]
    return any(not np.array_equal(*pair) for pair in pairs)


@memory_probe.probed
def _ignores_rate(optimizer: AbstractOptimizer, draw: Callable) -> bool:
    """Whether a first step is no smaller at small learning rates."""
    params = draw(np.random.default_rng(0))

    def moved(rate: float) -> list:
        given = jnp.asarray(rate), jnp.asarray(memory_probe.LOSS)
        state = optimizer.init(params, given[0])
        return jax.tree.leaves(optimizer.update(state, params, params, *given)[1])

    steps = list(map(moved, RATES))
    if trees.is_traced(steps):  # under jit, vmap or grad: not known
        return False
    same = lambda *leaves: all(np.array_equal(leaves[0], leaf) for leaf in leaves)
    return any(np.any(leaf) for leaf in steps[0]) and all(map(same, *steps))


def refuse_misfit(optimizer: AbstractOptimizer, params: PyTree) -> None:
    """ValueError for a transformation that cannot be run on these parameters, or at other rates."""
    if reason := _misfit(optimizer, params):
        raise ValueError(
            "optimizer: expected a transformation that takes gradients and these parameters alone, "
            f"got {optimizer.name}, which raises {reason}; use one that needs no more, as "
            "sf.from_optax(optax.adam)."
        )
    if optimizer.varies_rate and _ignores_rate(optimizer, params):
        raise ValueError(
            "optimizer: expected one whose steps depend on the learning rate that make gets, got "
            f"{optimizer.name}, whose first step is the same at {RATES}; hand the rate on, as in "
            "sf.from_optax(lambda rate: optax.adam(rate))."
        )


@memory_probe.once
def _misfit(optimizer: AbstractOptimizer, shapes: PyTree) -> str:
    """What a transformation raises for parameters of these shapes; "" for nothing."""
    run = lambda params: optimizer.update(
        optimizer.init(params), params, params, jnp.ones(()), jnp.ones(())
    )
    try:
        jax.eval_shape(run, shapes)
    except Exception as error:
        return f"{type(error).__name__}: {(str(error) or 'no reason').splitlines()[0]}"
    return ""


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
