"""What every optimizer is here: a state map with a memory, behind one interface."""

from abc import abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from .. import checks, trees

if TYPE_CHECKING:
    from .moments import AbstractMoments, Moment


class State(eqx.Module):
    """What an optimizer remembers before step ``step``: uncorrected moments, step count.

    ``moments`` has one pytree like the parameters per moment (None for a moment without
    memory), or the whole state of an optax transformation as its one element; ``step`` is a
    float scalar, ∞ on the slow manifold (``settled_state``).
    """

    moments: tuple
    step: Array

    def __repr__(self) -> str:
        size = sum(getattr(leaf, "size", 1) for leaf in jax.tree.leaves(self.moments))
        step = self.step if not checks.is_concrete(self.step) else f"{float(self.step):g}"
        return f"State(before step {step}, {size:,} numbers kept)"

    @property
    def settled(self) -> bool:
        """Whether it has no step number, since all the past is the slow manifold's."""
        return bool(jnp.isinf(self.step))


class AbstractOptimizer(eqx.Module):
    """(state, gradient) ↦ (state, step taken), and what the theory asks of it.

    moments: the moments whose weights have a closed form; () where only the update is known.
    reads_value: whether ``update`` needs the loss beside its gradient, as Polyak's step does.
    keeps_rate: whether the state is made with the learning rate in it, as Rprop's.
    varies_rate: whether its learning rate can be varied, which every flow needs.
    """

    moments: tuple["Moment", ...]
    name: str = eqx.field(static=True)
    reads_value: bool = eqx.field(static=True)
    keeps_rate: bool = eqx.field(static=True)
    varies_rate: bool = eqx.field(static=True)

    @property
    def closed_form(self) -> bool:
        """Whether the weights of its memory are known, as those of moments are."""
        return bool(self.moments)

    @property
    @abstractmethod
    def remembers(self) -> bool:
        """Whether a step depends on more than its own gradient."""

    @abstractmethod
    def memory_length(self, params: PyTree) -> int | None:
        """Steps after which the past is below the rounding of ``params``; None: not known."""

    @abstractmethod
    def time_invariant(self, params: PyTree) -> bool:
        """Whether the memoryless direction is the same function of θ at every step."""

    @abstractmethod
    def init(self, params: PyTree, learning_rate=1.0) -> State:
        """The state before step 0; learning_rate: for a state map that ``keeps_rate``."""

    @abstractmethod
    def update(
        self, state: State, grad: PyTree, params: PyTree, learning_rate, value=None
    ) -> tuple[State, PyTree]:
        """(state after the step, step taken); value: the loss, where it ``reads_value``."""

    @abstractmethod
    def memoryless_direction(
        self, params: PyTree, grad: PyTree, step, learning_rate=1.0, value=None
    ) -> PyTree:
        """F_n(θ): the direction of step n had every gradient so far been ``grad``; ∞: settled."""

    @abstractmethod
    def adopted(self, opt_state, params: PyTree) -> tuple:
        """The moments of a ``State`` from the state of a running optax optimizer."""

    @abstractmethod
    def as_moments(self, params: PyTree) -> "AbstractMoments":
        """The same optimizer as moments that can be kept as states of a flow, or ValueError."""


def as_pytree(function: Callable) -> Callable:
    """A function as a pytree without leaves, so that what holds it may be traced."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


def traced(tree: PyTree) -> PyTree:
    """``tree`` with its Python floats as arrays, so that jit does not recompile for each value."""
    to_array = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf
    return jax.tree.map(to_array, tree)


def rate_at(learning_rate, step) -> Array:
    """The learning rate at ``step``: a schedule is called with the step as an integer."""
    if not callable(learning_rate):
        return jnp.asarray(learning_rate, trees.real_dtype())
    return jnp.asarray(learning_rate(jnp.asarray(step, jnp.int32)), trees.real_dtype())


def state_from_optax(optimizer: AbstractOptimizer, opt_state, params: PyTree, step=None) -> State:
    """The ``State`` inside the state of a running optax optimizer, to go on from step n of it.

    For shadowflow's own optimizers, the states of optax's adam, adamw, nadam, rmsprop, sgd with
    momentum, lion and ema are known, alone or in a chain (``trace`` is 1/(1 − decay) times an
    average). An optimizer made by ``from_optax`` takes the state of the same transformation,
    whatever it is, made with a number, a schedule or ``optax.inject_hyperparams`` for the learning
    rate. step: the number of updates made, where the optax state does not count them (momentum,
    RMSProp). Raises ValueError where a moment with memory has no counterpart of the parameters'
    structure and shapes, or more than one, where no count is known, or for a step that is not a
    whole number. (adamax keeps another average in a state of adam's class: not told apart.)

    >>> import optax
    >>> from shadowflow import adam
    >>> state = optax.adam(0.1).init(jnp.ones(2))
    >>> float(state_from_optax(adam(), state, jnp.ones(2)).step)
    0.0
    """
    moments = optimizer.adopted(opt_state, params)
    if step is None and not (counts := _counts(opt_state)):
        raise ValueError(
            "step: expected the number of updates made, which this optax state does not count, "
            "got None; pass state_from_optax(optimizer, opt_state, params, step=n)."
        )
    step = checks.count("step", counts[0] if step is None else step)
    return State(moments, jnp.asarray(step, trees.real_dtype()))


def _counts(opt_state) -> list[int]:
    """The numbers of updates that an optax state knows."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(opt_state)
    named = lambda path: isinstance(path[-1], jax.tree_util.GetAttrKey)
    return [int(leaf) for path, leaf in leaves if path and named(path) and path[-1].name == "count"]
