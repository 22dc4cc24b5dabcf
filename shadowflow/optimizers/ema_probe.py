"""An optax transformation seen as moments: its state leaves that are exponential averages.

Found by probing the update, without names: a float leaf is an average where
leaf⁺ = β · leaf + (1 − β) ψ(g) with one β < 1, whatever the other leaves, the count, the parameters
and the learning rate are. Then ψ(g) is an update from leaves of 0 over 1 − β, and the direction for
leaves m after an update is that of an update from (m − (1 − β) ψ(g)) / β. So all that follows
moments follows the transformation too. Counts become real numbers, as the flow has them between
two steps; bias correction then is a part of the direction that reads the step.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import trees
from .base import State
from .memory_probe import probed
from .moments import AbstractMoments, Moment

if TYPE_CHECKING:
    from .from_optax import Transformation

FOREVER = 1e9  # the count of a settled state
SLACK = 32.0  # roundings within which a probe must agree


class Averages(AbstractMoments):
    """A transformation seen as moments; made by ``averages``.

    Its last moment is the gradient; each of the others is a list of state leaves with one decay.
    ``leaves``: of the state before step 0; ``places``: which of them each moment has; ``counts``:
    which count the steps.
    """

    source: "Transformation"
    leaves: tuple
    places: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    counts: tuple[int, ...] = eqx.field(static=True)
    structure: jax.tree_util.PyTreeDef = eqx.field(static=True)

    def __init__(self, source: "Transformation", leaves, found: dict, counts, structure):
        self.moments = (*(Moment(decay) for decay in found), Moment(0.0))
        self.name, self.source, self.leaves = source.name, source, tuple(leaves)
        self.reads_value, self.keeps_rate, self.varies_rate = False, False, True
        self.places, self.counts = tuple(map(tuple, found.values())), tuple(counts)
        self.structure = structure

    def time_invariant(self, params: PyTree) -> bool:
        return self.source.time_invariant(params)

    def init(self, params: PyTree, learning_rate=1.0) -> State:
        return self.taken(self.source.init(params, learning_rate))

    def adopted(self, opt_state, params: PyTree) -> tuple:
        """The moments in an optax state."""
        state = State(self.source.adopted(opt_state, params), jnp.zeros(()))
        return self.taken(state).moments

    def taken(self, state: State) -> State:
        """The moments in a state of the transformation."""
        leaves = jax.tree.leaves(state.moments[0])
        return State((*([leaves[i] for i in where] for where in self.places), None), state.step)

    def given(self, state: State) -> State:
        """The state of the transformation with these moments."""
        inner = self._inner(state.moments[:-1], state.step)
        whole = lambda leaf, old: jnp.asarray(leaf).astype(old.dtype)
        leaves = map(whole, jax.tree.leaves(inner), self.leaves)
        return State((jax.tree.unflatten(self.structure, leaves),), state.step)

    def transformed(self, grad: PyTree) -> tuple:
        """(ψ_1(g), …, g): an update from leaves of 0."""
        zeros = [[jnp.zeros_like(self.leaves[i]) for i in where] for where in self.places]
        inner = self._inner(zeros, jnp.zeros((), trees.real_dtype()))
        _, after = self.source.make(1.0).update(grad, inner, trees.zeros_like(grad))
        leaves = jax.tree.leaves(after)
        fresh = [
            trees.scale(1 / (1 - moment.beta), [leaves[i] for i in where])
            for moment, where in zip(self.moments, self.places, strict=False)
        ]
        return (*fresh, grad)

    def direction(self, moments: tuple, params: PyTree, step) -> PyTree:
        """Φ for leaves as they are after the update with the gradient, the last of ``moments``.

        Its derivative where some are 0 is that beside it: an update may take their roots.
        """
        return _beside_zero(lambda *given: self._direction(*given), moments, params, step)

    def _direction(self, moments: tuple, params: PyTree, step) -> PyTree:
        *after, grad = moments
        before = [
            jax.tree.map(lambda m, q, b=moment.beta: _undone(m, q, trees.cast(b, m)), one, psi)
            for moment, one, psi in zip(self.moments, after, self.transformed(grad), strict=False)
        ]
        updates, _ = self.source.make(1.0).update(grad, self._inner(before, step), params)
        return trees.scale(-1.0, updates)

    def _inner(self, groups, step) -> PyTree:
        leaves = list(self.leaves)
        for where, group in zip(self.places, groups, strict=True):
            for i, leaf in zip(where, group, strict=True):
                leaves[i] = leaf
        for i in self.counts:
            leaves[i] = jnp.where(jnp.isinf(step), FOREVER, step)
        return jax.tree.unflatten(self.structure, leaves)


def _beside_zero(function: Callable, moments: tuple, *rest) -> PyTree:
    """``function(moments, *rest)``, differentiated with a tiny number in place of each 0."""

    @jax.custom_jvp
    def called(moments, *rest):
        return function(moments, *rest)

    @called.defjvp
    def slope(values, tangents):
        tiny = lambda leaf: jnp.where(leaf == 0, trees.almost_zero(leaf), leaf)
        beside = jax.tree.map(tiny, values[0])
        return called(*values), jax.jvp(function, (beside, *values[1:]), tangents)[1]

    return called(moments, *rest)


def _undone(after: Array, psi: Array, decay: Array) -> Array:
    return (after - (1 - decay) * psi) / decay


def averages(optimizer: "Transformation", params: PyTree) -> Averages:
    """The moments of an optax transformation, for parameters of these shapes.

    Raises ValueError where a state leaf is no average of the gradient's past, naming the leaf,
    where steps are not proportional to the learning rate, or where a count of steps cannot be a
    real number.
    """
    found = _found(optimizer, params)
    if isinstance(found, str):
        raise ValueError(found)
    leaves, structure = jax.tree.flatten(optimizer.init(params).moments[0])
    return Averages(optimizer, leaves, *found, structure)


@probed
def _found(optimizer: "Transformation", draw: Callable) -> tuple[dict, list] | str:
    """(the leaves of each decay, the counts of steps), or why there are none."""
    try:
        return _Probe(optimizer, draw).found()
    except (TypeError, ValueError) as reason:
        return str(reason)


class _Probe:
    """Updates from made-up states, laid side by side."""

    def __init__(self, optimizer: "Transformation", draw: Callable):
        self.optimizer, self.random = optimizer, np.random.default_rng(0)
        self.like = draw(self.random)
        state = optimizer.init(self.like).moments[0]
        paths, self.structure = jax.tree_util.tree_flatten_with_path(state)
        self.names = [jax.tree_util.keystr(path) for path, _ in paths]
        self.leaves = [jnp.asarray(leaf) for _, leaf in paths]

    def drawn(self, leaf: Array) -> Array:
        return jnp.asarray(self.random.uniform(0.5, 1.5, leaf.shape), leaf.dtype)

    def updated(self, leaves, grad, params, rate) -> tuple[PyTree, list]:
        inner = jax.tree.unflatten(self.structure, leaves)
        updates, after = self.optimizer.make(rate).update(grad, inner, params)
        return updates, jax.tree.leaves(after)

    def found(self) -> tuple[dict[float, list[int]], list[int]]:
        if self.optimizer.reads_value:
            raise self.refusal("a transformation that does not read the loss")
        grads = [jax.tree.map(self.drawn, self.like) for _ in range(2)]
        one = self.updated(self.leaves, grads[0], self.like, 1.0)[1]
        two = self.updated(one, grads[1], self.like, 1.0)[1]
        alike = lambda i: np.array_equal(self.leaves[i], one[i]) and np.array_equal(one[i], two[i])
        changed = [i for i in range(len(self.leaves)) if not alike(i)]
        moving = [i for i in changed if jnp.issubdtype(self.leaves[i].dtype, jnp.floating)]
        counts = [i for i in changed if i not in moving]
        for i in counts:
            whole = jnp.issubdtype(self.leaves[i].dtype, jnp.integer) and not self.leaves[i].ndim
            if not whole or one[i] != self.leaves[i] + 1 or two[i] != one[i] + 1:
                raise self.no_average(i, "is neither an average nor a count of steps")
        decays = self.decays(moving, counts, grads)
        self.proportional(grads[0])
        groups: dict[float, list[int]] = {}
        for i, decay in decays.items():
            groups.setdefault(decay, []).append(i)
        made = Averages(self.optimizer, self.leaves, groups, counts, self.structure)
        self.real_counts(made, one, grads[1])
        return groups, counts

    def decays(self, moving: list, counts: list, grads: list) -> dict[int, float]:
        """β of each leaf that moves: from 0 and 1 at no gradient; then all else is changed."""
        still = jax.tree.map(jnp.zeros_like, grads[0])
        changed = lambda by: [
            by(leaf) if i in moving else leaf for i, leaf in enumerate(self.leaves)
        ]
        ends = [
            self.updated(changed(by), still, self.like, 1.0)[1]
            for by in (jnp.zeros_like, jnp.ones_like)
        ]
        starts, after = [], []
        for later, rate in ((0, 1.0), (5, 0.1)):
            leaves = changed(self.drawn)
            starts.append([leaf + later if i in counts else leaf for i, leaf in enumerate(leaves)])
            params = jax.tree.map(self.drawn, self.like)
            after.append(self.updated(starts[-1], grads[0], params, rate)[1])
        found = {}
        for i in moving:
            kept = np.asarray(ends[1][i] - ends[0][i], float)
            decay = float(kept.flat[0])
            expected = decay * (np.asarray(starts[1][i], float) - np.asarray(starts[0][i], float))
            got = np.asarray(after[1][i], float) - np.asarray(after[0][i], float)
            close = SLACK * float(jnp.finfo(self.leaves[i].dtype).eps)
            far = np.maximum(
                np.max(np.abs(kept - decay)),
                np.max(np.abs(got - expected)) / (1 + np.max(np.abs(after[0][i]))),
            )
            if not far <= close:
                raise self.no_average(i, "is no average of the gradient's past alone")
            if not 0 <= decay < 1:
                raise self.no_average(i, f"keeps {decay:.3g} of itself at a step and never fades")
            found[i] = decay
        return {i: decay for i, decay in found.items() if decay > 0}

    def proportional(self, grad: PyTree) -> None:
        moves = [self.updated(self.leaves, grad, self.like, rate)[0] for rate in (1.0, 0.25)]
        scaled = trees.scale(0.25, moves[0])
        if not _alike(scaled, moves[1]):
            raise self.refusal("steps proportional to the learning rate", ", whose steps are not")

    def real_counts(self, made: Averages, leaves: list, grad: PyTree) -> None:
        """One step by both ways, from a real number as the count too."""
        state = State(
            (jax.tree.unflatten(self.structure, leaves),), jnp.ones((), trees.real_dtype())
        )
        try:
            _, mine = made.update(made.taken(state), grad, self.like, 1.0)
            fits = _alike(mine, self.optimizer.update(state, grad, self.like, 1.0)[1])
        except (TypeError, ValueError):
            fits = False
        if not fits:
            raise self.refusal("a transformation whose count of steps may be a real number")

    def no_average(self, leaf: int, reason: str) -> ValueError:
        wanted = "a transformation whose state is exponential averages"
        return self.refusal(wanted, f", whose state leaf {self.names[leaf]} {reason}")

    def refusal(self, wanted: str, reason: str = "") -> ValueError:
        return ValueError(
            f"optimizer: expected {wanted} for method='inertial', got {self.optimizer.name}"
            f"{reason}; use method='displaced'."
        )


def _alike(one: PyTree, other: PyTree) -> bool:
    """To the square root of rounding, of the largest coordinate."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return all(
        bool(jnp.max(jnp.abs(a - b)) <= jnp.sqrt(jnp.finfo(a.dtype).eps) * jnp.max(jnp.abs(b)))
        for a, b in pairs
        if a.size
    )
