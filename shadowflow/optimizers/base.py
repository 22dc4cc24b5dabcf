"""What every optimizer is here: a state map with a memory, behind one interface."""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import checks, trees

if TYPE_CHECKING:
    from .moments import AbstractMoments, Moment

SETTLED = "settled"
OPTAX_STATES = (
    "ScaleByAdamState ScaleByRmsState ScaleByRmsWithCountState ScaleByLionState "
    "ScaleByScheduleState TraceState EmaState"
).split()


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


@dataclass(frozen=True)
class Start:
    """Where a run begins. step: the number of its first step, or "settled", where a long run has
    come through its parameters; state: the optimizer's there, where one was given."""

    step: int | str
    state: State | None

    @property
    def settled(self) -> bool:
        """Whether no step number matters."""
        return self.step == SETTLED

    @property
    def first(self) -> int:
        """The number of the first step: 0 from a settled state."""
        return self.step if isinstance(self.step, int) else 0


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
    def memory_length(self, params: PyTree, within: int | None = None) -> int | None:
        """Steps after which the past is below the rounding of ``params``; None: not known.

        within: more steps than these need not be told from None.
        """

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
    if not isinstance(optimizer, AbstractOptimizer):
        raise TypeError(
            f"optimizer: expected a shadowflow optimizer, got {type(optimizer).__name__}; for "
            "example sf.adam(), or sf.from_optax(make)."
        )
    moments = optimizer.adopted(opt_state, params)
    if step is None and not (counts := _counts(opt_state)):
        raise ValueError(
            "step: expected the number of updates made, which this optax state does not count, "
            "got None; pass shadowflow.state_from_optax(optimizer, opt_state, params, step=n)."
        )
    step = checks.count("step", counts[0] if step is None else step)
    return State(moments, jnp.asarray(step, trees.real_dtype()))


def _counts(opt_state) -> list[int]:
    """The numbers of updates that an optax state knows."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(opt_state)
    named = lambda path: isinstance(path[-1], jax.tree_util.GetAttrKey)
    return [int(leaf) for path, leaf in leaves if path and named(path) and path[-1].name == "count"]


def averages_of(optimizer: AbstractOptimizer, opt_state, params: PyTree) -> tuple:
    """The moments of an optimizer among the averages that an optax state holds."""
    known = lambda node: type(node).__name__ in OPTAX_STATES
    nodes = [node for node in jax.tree.leaves(opt_state, is_leaf=known) if known(node)]
    found = lambda *names: [
        getattr(node, name) for node in nodes for name in names if name in node._fields
    ]
    memories = [moment for moment in optimizer.moments if moment.has_memory]
    scaled = [trees.scale(1 - memories[0].beta, trace) for trace in found("trace") if memories]
    averages = {"identity": [*found("mu", "ema"), *scaled], "square": found("nu")}
    transform = lambda moment: getattr(getattr(moment.transform, "func", None), "__name__", "")
    return tuple(
        _counterpart(optimizer, averages.get(transform(m), []), params) if m.has_memory else None
        for m in optimizer.moments
    )


def _counterpart(optimizer: AbstractOptimizer, values: list, params: PyTree) -> PyTree:
    """The one optax average that a moment has, in the parameters' dtypes."""
    shapes = lambda tree: jax.tree.map(jnp.shape, tree)
    alike = [value for value in values if jax.tree.structure(value) == jax.tree.structure(params)]
    if len(values) != 1 or not alike or shapes(alike[0]) != shapes(params):
        raise ValueError(
            f"opt_state: expected averages for the moments of {optimizer.name}, one each, like "
            f"params, got {len(values)} with shapes {[shapes(value) for value in values]}; known "
            f"states are {', '.join(OPTAX_STATES)}; else build a State(moments, step)."
        )
    return jax.tree.map(lambda v, p: jnp.asarray(v, jnp.result_type(p)), alike[0], params)


def started(optimizer: AbstractOptimizer, params: PyTree, start, batched: bool) -> Start:
    """The ``Start`` that an argument means; TypeError or ValueError for what means none.

    start: the step number of ``params`` in their run (0: a cold start), "settled" (a long run came
    through them), or the optimizer's state there, a ``State`` or that of a running optax optimizer.
    batched: whether the run sees mini-batches.
    """
    if start is None or isinstance(start, str | bool | int | float | np.generic):
        return Start(step_number("start", start, batched, ", 'settled' or a State"), None)
    if getattr(start, "ndim", 1) == 0:
        return Start(checks.count("start", start), None)
    own = isinstance(start, State)
    if trees.is_traced(start):
        raise ValueError(
            "start: expected a state that is known, got one that JAX is tracing (jit, vmap, grad); "
            "carry it through jax.lax.scan, with optimizer.update(state, grad, params, rate)."
        )
    given = jax.tree.map(jnp.asarray, start if own else _taken_up(optimizer, start, params))
    like = jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), (optimizer.init(params).moments, given.moments)
    )
    pairs = list(zip(*like, strict=False))
    if len(like[0]) != len(like[1]) or any(got not in (None, want) for want, got in pairs):
        raise ValueError(
            "start: expected a state with one pytree like params per moment with memory, of "
            f"{optimizer.name}: {like[0]}, got {like[1]}; pass the state of a run of the same "
            "optimizer from params of these shapes."
        )
    step = float(given.step)
    if not (step >= 0 and (math.isinf(step) or step.is_integer())):
        raise ValueError(
            "start: expected a state whose step is a whole number of at least 0, or infinity for a "
            f"settled one, got step {step}; for example State(moments, jnp.asarray(10.0))."
        )
    refuse_not_finite("start", given, optimizer)
    number = step_number("start", SETTLED if math.isinf(step) else int(step), batched)
    return Start(number, State(given.moments, given.step.astype(trees.real_dtype())))


def _taken_up(optimizer: AbstractOptimizer, start, params: PyTree) -> State:
    """``state_from_optax`` of a start, its refusals by the name that this argument has."""
    try:
        return state_from_optax(optimizer, start, params)
    except ValueError as error:
        raise ValueError(f"start:{str(error).partition(':')[2]}") from error


def refuse_not_finite(name: str, state: State, optimizer: AbstractOptimizer) -> None:
    """ValueError where moments are not finite; where they are an optax state, only for NaN."""
    wrong = np.isnan if not optimizer.closed_form else lambda leaf: ~np.isfinite(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.moments):
        values = np.asarray(leaf, float) if jnp.issubdtype(leaf.dtype, jnp.floating) else 0.0
        if count := int(np.sum(wrong(values))):
            raise ValueError(
                f"{name}: expected finite moments, got NaN or infinity at {count} of {leaf.size} "
                f"in moments{jax.tree_util.keystr(path)}; look at the loss and its gradient at "
                "these params, and at the step before."
            )


def step_number(name: str, step, batched: bool, others: str = " or 'settled'") -> Any:
    """A step as an int or "settled"; an array, traced or not, as it is. ValueError for no step.

    With mini-batches "settled" is refused: which of them would be next?
    """
    if step is None or (isinstance(step, str) and step != SETTLED):
        raise ValueError(
            f"{name}: expected the number of a step{others}, got {step!r}; 0 is a cold start."
        )
    if isinstance(step, str) and batched:
        raise ValueError(
            f"{name}: expected the number of a step with mini-batches, got 'settled': what "
            "comes next depends on which batches came last; pass a number, or "
            "problem.full_batch(), the full-batch problem."
        )
    if isinstance(step, bool | int | float | np.generic):
        return checks.count(name, step)
    if not isinstance(step, str) and (np.ndim(step) > 0 or not hasattr(step, "dtype")):
        raise ValueError(
            f"{name}: expected the number of a step{others}, got {step!r}; the step comes first: "
            "field(step, params)."
        )
    return step


def complete(state: State, optimizer: AbstractOptimizer, params: PyTree, kept: Any) -> State:
    """``state``, or ValueError where a moment that is ``kept`` (None: any) is missing in it."""
    expected = optimizer.init(params).moments
    for i, (want, got) in enumerate(zip(expected, state.moments, strict=True)):
        if want is not None and got is None and (kept is None or kept[i]):
            raise ValueError(
                f"start: expected a state with all moments of {optimizer.name}, got None for "
                f"moment {i}; pass the whole state, or leave that moment out of keep=."
            )
    return state
