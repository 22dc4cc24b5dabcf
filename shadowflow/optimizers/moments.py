"""An optimizer as moments of the gradient and one pointwise function that combines them."""

from collections.abc import Callable
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, PyTree

from .. import checks, trees


def identity(grad: Array) -> Array:
    """The gradient itself, ψ(g) = g."""
    return grad


def square(grad: Array) -> Array:
    """The squared gradient, ψ(g) = g²."""
    return grad * grad


def safe_sqrt(x: Array) -> Array:
    """sqrt(x) whose derivative at x = 0 is 0 instead of infinite.

    An optimizer that divides by sqrt(ν) meets ν = 0 with every dead unit; the derivative
    of sqrt is infinite there and 0 · ∞ = NaN. NaN and negative input still give NaN.

    >>> float(jax.grad(safe_sqrt)(0.0))
    0.0
    """
    zero = x == 0
    return jnp.where(zero, jnp.zeros_like(x), jnp.sqrt(jnp.where(zero, jnp.ones_like(x), x)))


def decay_power(decay, count) -> Array:
    """decay**count, with the limit 0 (and derivative 0) at count = ∞."""
    forever = jnp.isinf(count)
    return jnp.where(forever, 0.0, jnp.power(decay, jnp.where(forever, 1.0, count)))


def as_pytree(function: Callable) -> Callable:
    """A function as a pytree without leaves, so that what holds it may be traced."""
    return jax.tree_util.Partial(function) if jax.tree_util.all_leaves([function]) else function


class Moment(eqx.Module):
    """An exponential moving average of a pointwise transform ψ of the gradient.

    m ← decay · m + (1 − decay) · ψ(g), from m = 0; with ``bias_correction`` the optimizer
    reads m / (1 − decay^{n+1}) at step n = 0, 1, …

    ``decay`` (the paper's β and ρ) is a leaf: vmap, grad and jit see it. A decay given as the
    number 0 is the present gradient and keeps no state. ``transform`` keeps the shape of what
    it gets. ``name``: what ``shadow(keep=…)`` calls it, as optax's states do: "mu", "nu". Raises
    ValueError for a decay outside [0, 1) or a transform that changes the shape.

    >>> Moment(0.9).decay
    0.9
    """

    decay: float | Array
    transform: Callable
    bias_correction: bool = eqx.field(static=True)
    has_memory: bool = eqx.field(static=True)
    name: str | None = eqx.field(static=True)

    def __init__(
        self,
        decay,
        transform: Callable = identity,
        bias_correction: bool = False,
        name: str | None = None,
    ):
        checks.decay("decay", decay)
        checks.function("transform", transform)
        leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
        checks.pointwise("transform", lambda: transform(jnp.zeros(leaf.shape, leaf.dtype)), leaf)
        self.decay = decay
        self.transform = as_pytree(transform)
        self.bias_correction = bool(bias_correction)
        self.has_memory = not (isinstance(decay, (int, float)) and decay == 0)
        self.name = name

    @property
    def rate(self) -> Array:
        """The decay as a scalar of the default float dtype."""
        return jnp.asarray(self.decay, trees.real_dtype())

    @property
    def corrected(self) -> bool:
        """Whether the weights of the past sum to one at every step."""
        return self.bias_correction or not self.has_memory


class State(eqx.Module):
    """What an optimizer remembers before step ``step``: uncorrected moments, step count.

    ``moments`` has one pytree like the parameters per moment (None for a moment without
    memory); ``step`` is a float scalar, ∞ on the slow manifold (``settled_state``).
    """

    moments: tuple
    step: Array


class Optimizer(eqx.Module):
    """Moments m_1, …, m_I of the gradient and a pointwise direction Φ that combines them.

    θ_{n+1} = θ_n − learning_rate · combine((m_1, …, m_I), θ_n, n)   (THEORY: general form;
    the paper's Adam, Definition 1.1, and RMSProp are two of its members). ``combine`` is
    called leaf by leaf with arrays of one leaf's shape, and with ``step`` = n as a scalar of
    the leaf's dtype, ∞ when settled. It may carry arrays of its own (an ``equinox.Module``).

    Raises ValueError if ``combine`` does not keep shape and dtype, TypeError if ``moments``
    are not ``Moment``.

    >>> adam = Optimizer([Moment(0.9, bias_correction=True),
    ...                   Moment(0.99, square, bias_correction=True)],
    ...                  lambda moments, params, step: moments[0] / safe_sqrt(moments[1] + 1e-8))
    >>> state, move = adam.update(adam.init(jnp.ones(1)), jnp.full(1, 2.0), jnp.ones(1), 0.1)
    >>> round(float(move[0]), 6)
    -0.1
    """

    moments: tuple[Moment, ...]
    combine: Callable
    name: str = eqx.field(static=True)

    def __init__(self, moments, combine: Callable, name: str = "optimizer"):
        moments = tuple(moments)
        if not moments or not all(isinstance(moment, Moment) for moment in moments):
            raise TypeError(f"moments: expected one or more shadowflow.Moment, got {moments!r}.")
        checks.function("combine", combine)
        self.moments = moments
        self.combine = as_pytree(combine)
        self.name = name
        leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
        probe = [jnp.ones(leaf.shape, leaf.dtype)] * (len(moments) + 1)
        call = lambda: self.direction(tuple(probe[:-1]), probe[-1], jnp.zeros(()))
        checks.pointwise("combine", call, leaf)

    @property
    def uniform(self) -> bool:
        """Whether the memoryless direction is the same function of θ at every past step.

        True if every moment is bias-corrected and ``combine`` does not read the step.
        """
        return all(moment.corrected for moment in self.moments) and not self._reads()["step"]

    @property
    def reads_params(self) -> bool:
        """Whether ``combine`` looks at the parameters, as weight decay does."""
        return self._reads()["params"]

    @property
    def reads_value(self) -> bool:
        """Whether ``update`` needs the loss beside its gradient: never so for moments."""
        return False

    @property
    def keeps_rate(self) -> bool:
        """Whether the state holds the learning rate: never so for moments."""
        return False

    def _reads(self) -> dict[str, bool]:
        leaf = jnp.ones((2,), jnp.float32)
        moments = tuple(leaf for _ in self.moments)
        call = lambda params, step: self.combine(moments, params, step)
        jaxpr = jax.make_jaxpr(call)(leaf, leaf[0]).jaxpr
        used = [*jaxpr.outvars, *(var for eqn in jaxpr.eqns for var in eqn.invars)]
        names = ("params", "step")
        return {
            name: any(var is argument for var in used)
            for name, argument in zip(names, jaxpr.invars, strict=True)
        }

    def init(self, params: PyTree, learning_rate=1.0) -> State:
        """The state before step 0: all moments 0.

        learning_rate: for a state map that ``keeps_rate``.
        """
        del learning_rate
        moments = tuple(trees.zeros_like(params) if m.has_memory else None for m in self.moments)
        return State(moments, jnp.zeros((), trees.real_dtype()))

    def update(self, state: State, grad: PyTree, params: PyTree, learning_rate, value=None):
        """(state after the step, step taken): the optimizer itself, one step.

        value: the loss, for a state map that ``reads_value``.
        """
        del value
        fresh = self.transformed(grad)
        raw = tuple(
            trees.add(trees.scale(m.rate, old), 1 - m.rate, new) if m.has_memory else None
            for m, old, new in zip(self.moments, state.moments, fresh, strict=True)
        )
        read = self.read(raw, fresh, state.step)
        direction = self.direction(read, params, state.step)
        return State(raw, state.step + 1), trees.scale(-jnp.asarray(learning_rate), direction)

    def adopted(self, opt_state, params: PyTree) -> tuple:
        """The moments of a ``State`` from the state of a running optax optimizer."""
        return _averages(self, opt_state, params)

    def read(self, raw: tuple, fresh: tuple, step) -> tuple:
        """The moments as ``combine`` gets them: corrected; ``fresh`` where there is no memory."""
        return tuple(
            new if old is None else trees.scale(1 / self.correction(m, step), old)
            for m, old, new in zip(self.moments, raw, fresh, strict=True)
        )

    def transformed(self, grad: PyTree) -> tuple:
        """(ψ_1(g), …, ψ_I(g))."""
        return tuple(jax.tree.map(moment.transform, grad) for moment in self.moments)

    def correction(self, moment: Moment, step) -> Array:
        """c of the weights at ``step``: 1 − decay^{step+1} with bias correction, else 1."""
        if not moment.bias_correction or not moment.has_memory:
            return jnp.ones((), trees.real_dtype())
        return 1 - decay_power(moment.rate, step + 1)

    def direction(self, moments: tuple, params: PyTree, step) -> PyTree:
        """Φ(m_1, …, m_I; θ, step), leaf by leaf."""
        return jax.tree.map(
            lambda leaf, *ms: self.combine(ms, leaf, trees.cast(step, leaf)), params, *moments
        )

    def to_optax(self, learning_rate) -> optax.GradientTransformation:
        """This optimizer as an optax transformation, for a real training run.

        Its state is the ``State`` that ``iterate(state=…)`` and ``shadow(state=…)`` take, so a
        run can be followed from wherever it is. ``learning_rate`` is a float or a schedule.

        >>> tx = Optimizer([Moment(0.0)], lambda moments, params, step: moments[0]).to_optax(0.5)
        >>> updates, _ = tx.update(jnp.ones(1), tx.init(jnp.zeros(1)), jnp.zeros(1))
        >>> float(updates[0])
        -0.5
        """
        checks.learning_rate(learning_rate)

        def update(updates, state, params=None):
            if params is None:
                raise ValueError(
                    "params: expected the parameters, got None; call "
                    "update(grads, state, params), as for optax.adamw."
                )
            rate = rate_at(learning_rate, jnp.where(jnp.isinf(state.step), 0, state.step))
            state, move = self.update(state, updates, params, rate)
            return move, state

        return optax.GradientTransformation(cast("Any", self.init), update)


def state_from_optax(optimizer: Optimizer, opt_state, params: PyTree, step=None) -> State:
    """The ``State`` inside the state of a running optax optimizer, to go on from step n of it.

    Known are the states of optax's adam, adamw, nadam, rmsprop, sgd with momentum, lion and ema
    (``OPTAX_STATES``), alone or in a chain; ``trace`` is 1/(1 − decay) times an average. An
    optimizer made by ``from_optax`` takes the state of the same transformation, whatever it is,
    made with a number, a schedule or ``optax.inject_hyperparams`` for the learning rate. step:
    the number of updates made, where the optax state does not count them (momentum, RMSProp).
    Raises ValueError where a moment with memory has no counterpart of the parameters' structure
    and shapes, or more than one, where no count is known, or for a step that is not a whole
    number. (adamax keeps another average in a state of adam's class: not told apart.)

    >>> from shadowflow import zoo
    >>> state = optax.adam(0.1).init(jnp.ones(2))
    >>> float(state_from_optax(zoo.adam(), state, jnp.ones(2)).step)
    0.0
    """
    moments = optimizer.adopted(opt_state, params)
    if step is None and not (counts := _counts(opt_state)):
        raise ValueError(
            "step: expected the number of updates made, which this optax state does not count, "
            "got None; pass step=."
        )
    step = checks.count("step", counts[0] if step is None else step)
    return State(moments, jnp.asarray(step, trees.real_dtype()))


def _counts(opt_state) -> list[int]:
    """The numbers of updates that an optax state knows."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(opt_state)
    named = lambda path: isinstance(path[-1], jax.tree_util.GetAttrKey)
    return [int(leaf) for path, leaf in leaves if path and named(path) and path[-1].name == "count"]


def _averages(optimizer: Optimizer, opt_state, params: PyTree) -> tuple:
    """The moments of an optimizer among the averages that an optax state holds."""
    known = lambda node: type(node).__name__ in OPTAX_STATES
    nodes = [node for node in jax.tree.leaves(opt_state, is_leaf=known) if known(node)]
    found = lambda *names: [
        getattr(node, name) for node in nodes for name in names if name in node._fields
    ]
    memories = [moment for moment in optimizer.moments if moment.has_memory]
    scaled = [trees.scale(1 - memories[0].rate, trace) for trace in found("trace") if memories]
    values = {identity: [*found("mu", "ema"), *scaled], square: found("nu")}
    return tuple(
        _counterpart(optimizer, values.get(getattr(m.transform, "func", None), []), params)
        if m.has_memory
        else None
        for m in optimizer.moments
    )


OPTAX_STATES = (
    "ScaleByAdamState",
    "ScaleByRmsState",
    "ScaleByRmsWithCountState",
    "ScaleByLionState",
    "ScaleByScheduleState",
    "TraceState",
    "EmaState",
)


def _counterpart(optimizer: Optimizer, values: list, params: PyTree) -> PyTree:
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


def rate_at(learning_rate, step):
    """The learning rate at ``step``: a schedule is called with the step as an integer."""
    if not callable(learning_rate):
        return jnp.asarray(learning_rate, trees.real_dtype())
    return jnp.asarray(learning_rate(jnp.asarray(step, jnp.int32)), trees.real_dtype())


def traced(tree: PyTree) -> PyTree:
    """``tree`` with its Python floats as arrays, so that jit does not recompile for each value."""
    to_array = lambda leaf: jnp.asarray(leaf) if isinstance(leaf, float) else leaf
    return jax.tree.map(to_array, tree)
