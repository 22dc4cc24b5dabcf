"""An optimizer as moments of the gradient and one pointwise function that combines them."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import cast

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from .. import checks, trees
from .base import AbstractOptimizer, State, as_pytree, averages_of, rate_at


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
        checks.pointwise("transform", transform, "grad")
        self.decay = decay
        self.transform = as_pytree(transform)
        self.bias_correction = checks.flag("bias_correction", bias_correction)
        self.has_memory = not (isinstance(decay, (int, float)) and decay == 0)
        self.name = name if name is None else checks.word("name", name)

    def __repr__(self) -> str:
        return f"Moment({self.described})"

    @property
    def described(self) -> str:
        """What it is, in a few words."""
        if not self.has_memory:
            return "present gradient"
        name = self.name or getattr(self.transform, "__name__", "moment")
        known = checks.is_concrete(self.decay) and np.ndim(self.decay) == 0
        decay = f"{float(self.decay):g}" if known else "traced"
        return f"{name} {decay}" + ("" if self.bias_correction else ", uncorrected")

    @property
    def beta(self) -> Array:
        """The decay as a scalar of the default float dtype."""
        return jnp.asarray(self.decay, trees.real_dtype())

    @property
    def corrected(self) -> bool:
        """Whether the weights of the past sum to one at every step."""
        return self.bias_correction or not self.has_memory

    @property
    def averages_squares(self) -> bool:
        """Whether it is a second moment with memory: an average of g²."""
        return self.has_memory and getattr(self.transform, "func", None) is square

    def correction(self, step) -> Array:
        """c of the weights at ``step``: 1 − decay^{step+1} with bias correction, else 1."""
        if not self.bias_correction or not self.has_memory:
            return jnp.ones((), trees.real_dtype())
        return 1 - decay_power(self.beta, step + 1)

    def total_weight(self, step) -> Array:
        """W = Σ_k w_{n,k} at ``step``: 1 with bias correction, else 1 − decay^{step+1}."""
        if self.corrected:
            return jnp.ones((), trees.real_dtype())
        return 1 - decay_power(self.beta, step + 1)


class AbstractMoments(AbstractOptimizer):
    """An optimizer that is its moments: ψ of a gradient, and a direction Φ of the moments."""

    @abstractmethod
    def transformed(self, grad: PyTree) -> tuple:
        """(ψ_1(g), …, ψ_I(g))."""

    @abstractmethod
    def direction(self, moments: tuple, params: PyTree, step) -> PyTree:
        """Φ(m_1, …, m_I; θ, step), the moments as they are after the update of the step."""

    def transformed_by(self, index: int, grad: PyTree) -> PyTree:
        """ψ_i(g) of one moment."""
        return self.transformed(grad)[index]

    @property
    def pointwise(self) -> bool:
        """Whether ψ and Φ are known to be alike for every coordinate, whatever leaf it is in."""
        return False

    def taken(self, state: State) -> State:
        """The moments in a ``State`` of the optimizer that these are the moments of."""
        return state

    def given(self, state: State) -> State:
        """The ``State`` of that optimizer with these moments."""
        return state

    def as_moments(self, params: PyTree) -> "AbstractMoments":
        del params
        return self

    @property
    def reads_params(self) -> bool:
        """Whether Φ looks at the parameters; taken to be so where it is not known."""
        return True

    @property
    def remembers(self) -> bool:
        """Whether any moment has a memory."""
        return any(moment.has_memory for moment in self.moments)

    def memory_length(self, params: PyTree, within: int | None = None) -> int | None:
        """Steps after which the longest memory is below the rounding of the finest parameter.

        A quarter more than decay^n = eps asks for, so that ages are exact to rounding too. None
        if a decay is traced or not a scalar. For decay 0.9 in float64: 428.
        """
        del within
        return self.faded(float(jnp.finfo(trees.finest_dtype(params)).eps), 1.25)

    def faded(self, share: float, margin: float = 1.0) -> int | None:
        """Steps n with decay^n = share for the longest memory, times ``margin``; None: unknown."""
        decays = [moment.decay for moment in self.moments if moment.has_memory]
        if not all(checks.is_concrete(decay) and np.ndim(decay) == 0 for decay in decays):
            return None
        longest = max((float(decay) for decay in decays), default=0.0)
        if longest == 0:
            return 1
        return math.ceil(margin * math.log(share) / math.log(longest)) if share > 0 else None

    def update(
        self, state: State, grad: PyTree, params: PyTree, learning_rate, value=None
    ) -> tuple[State, PyTree]:
        """(state after the step, step taken): the optimizer itself, one step."""
        del value
        fresh = self.transformed(grad)
        raw = tuple(
            trees.add(trees.scale(m.beta, old), 1 - m.beta, new) if m.has_memory else None
            for m, old, new in zip(self.moments, state.moments, fresh, strict=True)
        )
        read = self.read(raw, fresh, state.step)
        direction = self.direction(read, params, state.step)
        return State(raw, state.step + 1), trees.scale(-jnp.asarray(learning_rate), direction)

    def read(self, raw: tuple, fresh: tuple, step) -> tuple:
        """The moments as Φ gets them: corrected; ``fresh`` where there is no memory."""
        return tuple(
            new if old is None else trees.scale(1 / m.correction(step), old)
            for m, old, new in zip(self.moments, raw, fresh, strict=True)
        )

    def memoryless_moments(self, grad: PyTree, step) -> tuple:
        """(W_1 ψ_1(g), …): the moments had every gradient so far been ``grad``."""
        fresh = zip(self.moments, self.transformed(grad), strict=True)
        return tuple(trees.scale(moment.total_weight(step), psi) for moment, psi in fresh)

    def memoryless_direction(
        self, params: PyTree, grad: PyTree, step, learning_rate=1.0, value=None
    ) -> PyTree:
        """F_n(θ) = Φ(W_1 ψ_1(g), …, W_I ψ_I(g)); the weights W are 1 when settled, step = ∞."""
        del learning_rate, value
        step = jnp.asarray(step, trees.real_dtype())
        return self.direction(self.memoryless_moments(grad, step), params, step)


class Optimizer(AbstractMoments):
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

    combine: Callable

    def __init__(self, moments, combine: Callable, name: str = "optimizer"):
        given, moments = moments, tuple(moments) if isinstance(moments, Iterable) else ()
        if not moments or not all(isinstance(moment, Moment) for moment in moments):
            raise TypeError(
                f"moments: expected a list of one or more shadowflow.Moment, got {given!r}; for "
                "example [Moment(0.9)]."
            )
        checks.function("combine", combine)
        self.moments = moments
        self.combine = as_pytree(combine)
        self.name = checks.word("name", name)
        self.reads_value, self.keeps_rate, self.varies_rate = False, False, True
        call = lambda leaf: self.direction((leaf,) * len(moments), leaf, jnp.zeros(()))
        checks.pointwise("combine", call, "moments, params, step")

    def __repr__(self) -> str:
        return f"Optimizer({self.name}: {', '.join(moment.described for moment in self.moments)})"

    def time_invariant(self, params: PyTree = None) -> bool:
        """True if every moment is bias-corrected and ``combine`` does not read the step."""
        del params
        return all(moment.corrected for moment in self.moments) and not self._reads("step")

    @property
    def reads_params(self) -> bool:
        """Whether ``combine`` looks at the parameters, as weight decay does."""
        return self._reads("params")

    def _reads(self, name: str) -> bool:
        leaf = jnp.ones((2,), jnp.float32)
        moments = tuple(leaf for _ in self.moments)
        call = lambda params, step: self.combine(moments, params, step)
        jaxpr = jax.make_jaxpr(call)(leaf, leaf[0]).jaxpr
        used = [*jaxpr.outvars, *(var for eqn in jaxpr.eqns for var in eqn.invars)]
        argument = dict(zip(("params", "step"), jaxpr.invars, strict=True))[name]
        return any(var is argument for var in used)

    def init(self, params: PyTree, learning_rate=1.0) -> State:
        """The state before step 0: all moments 0."""
        del learning_rate
        moments = tuple(trees.zeros_like(params) if m.has_memory else None for m in self.moments)
        return State(moments, jnp.zeros((), trees.real_dtype()))

    def transformed(self, grad: PyTree) -> tuple:
        """(ψ_1(g), …, ψ_I(g)), leaf by leaf."""
        return tuple(jax.tree.map(moment.transform, grad) for moment in self.moments)

    @property
    def pointwise(self) -> bool:
        return True

    def transformed_by(self, index: int, grad: PyTree) -> PyTree:
        return jax.tree.map(self.moments[index].transform, grad)

    def direction(self, moments: tuple, params: PyTree, step) -> PyTree:
        """Φ(m_1, …, m_I; θ, step), leaf by leaf."""
        return jax.tree.map(
            lambda leaf, *ms: self.combine(ms, leaf, trees.cast(step, leaf)), params, *moments
        )

    adopted = averages_of

    def to_optax(self, learning_rate) -> optax.GradientTransformation:
        """This optimizer as an optax transformation, for a real training run.

        Its state is the ``State`` that ``start=`` takes, so a run can be followed from wherever
        it is. ``learning_rate`` is a float or a schedule.

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

        return optax.GradientTransformation(cast("Callable", self.init), update)
