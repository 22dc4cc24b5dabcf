"""Measures of a training run, from what every step has anyway; no further gradient is taken.

A training step knows its gradient, the moments and the parameters, and one step later a second
gradient of the same data. Along the run g_{n−1} − g_n = h H F + O(h²): this difference stands for
the second derivative that the theory needs.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from .. import checks, trees
from ..diagnostics.bias import PLAIN, parts_of, potential_of
from ..ema_weights import Memory
from ..methods.present import Present, present
from ..methods.taylor import Expansion
from ..optimizers.base import State, traced
from ..optimizers.moments import AbstractMoments, Optimizer, decay_power

OF_TWO_STEPS = ("predicted_deviation", "cosine", "slope", "beyond_nu_edge")


class RunMeasures(NamedTuple):
    """The measures of one step; ``run_measures`` explains their names.

    total: name → scalar, over all parameters; leaves: name → a pytree like the parameters, with
    one scalar per leaf.
    """

    total: dict[str, Array]
    leaves: dict[str, PyTree]

    def flat(self) -> dict[str, float]:
        """One flat dict of floats, as loggers take it: "one_norm", "one_norm['w']", …"""
        total, leaves = jax.device_get((self.total, self.leaves))  # one transfer for all
        found = {name: float(value) for name, value in total.items()}
        for name, tree in leaves.items():
            for path, value in jax.tree_util.tree_leaves_with_path(tree):
                if path:
                    found[name + jax.tree_util.keystr(path)] = float(value)
        return found


def run_measures(
    optimizer: Optimizer,
    memory: Memory,
    params: PyTree,
    grad: PyTree,
    state: State,
    *,
    last_grad: PyTree | None = None,
    last_rate=None,
    one_norm_eps=None,
    radius=None,
    potential: bool = True,
    per_leaf: bool = True,
) -> RunMeasures:
    """What step n of a run says about its own bias; pure, jittable, O(parameters) work.

    params, grad: θ_n, and the gradient g_n that the step read.
    state: the optimizer's ``State`` after it read g_n; its step is n + 1.
    memory: the ``Memory`` of step n: ``ema_weights.ready(optimizer, learning_rate, n, params)``,
        then ``.advanced()`` once per step.
    last_grad: g_{n−1} at θ_{n−1}, of the same data; with other data the difference of the two
        gradients is noise of order 1/h.
    last_rate: the learning rate of step n − 1; None: that of step n. At 0 the parameters did not
        move, and the difference counts as 0.
    one_norm_eps: ε of the perturbed one-norm; None: the optimizer's eps_root + eps².
    radius: r of ``linf_sharpness``, how far each coordinate may move; None: the learning rate,
        as far as a step of a sign-like optimizer goes.
    potential: False leaves out the optimizer's own potential, which costs about 100 (float32) or
        400 (float64) values of Φ per coordinate.
    per_leaf: False gives the totals only, which compile faster (160 leaves: 8 s against 19 s).

    S is the optimizer's direction Φ(m̂_n), F the memoryless direction Φ(g_n), h the learning rate.
    one_norm, two_norm, mean_abs, std_abs: of g; perturbed_one_norm: Σ sqrt(g² + ε); potential:
        Σ ∫_0^g Φ.
    linf_sharpness: r‖g‖₁, the largest g·e over max|e_j| ≤ r, so to first order in r how much the
        loss rises within that box: the one-norm of the gradient is its sharpness.
    deviation: ‖S − F‖₂, the effect of memory.
    saturated: the share of coordinates whose |g| is below the larger of eps and sqrt(eps_root);
        for an optimizer without either, below sqrt(one_norm_eps).
    lag: the median of g²/ν̂ over the coordinates with ν̂ > 0, ν̂ = ν/(1 − ρ^{n+1}); 1 where ν̂ keeps
        up with g², or is 0 everywhere.
    update_rms, update_ratio: of the update hS, its root mean square and ‖hS‖/‖θ‖ (infinite where
        θ alone is 0).
    Only with last_grad:
    predicted_deviation: ‖P‖₂, P = Φ(moments averaged on the line through both gradients) − F.
    cosine, slope: of the deviation against P; both are 1 where the theory holds, and 0 where there
        is no deviation.
    effect/…: how fast each part of the modified equation changes the potential, per unit of time:
        "memoryless", "momentum", "second moment", "discretization", and "bias", the sum of all but
        the first. A negative number penalizes it. The same as ``implicit_bias`` up to O(h).
    beyond_nu_edge: the share of coordinates with |Δ log|g|| ≥ −½ ln ρ per step, too fast for ν̂. A
        gradient that becomes 0 or leaves 0 counts; one that stays 0 does not.

    lag and beyond_nu_edge need a moment that averages g²; of several, the first is taken. While
    weights without bias correction have not settled, every past direction is taken to be the
    present one. Where ``combine`` reads the parameters (weight decay), the effects use H·F for
    H·(F − Φ(0, θ)), the gradient of the potential; the error is the share that weight decay has of
    the step. Numbers that are not finite in the run are not finite here. Raises ValueError or
    TypeError for a state, gradient or memory that does not fit.

    >>> from shadowflow import ema_weights, sgd
    >>> descent, x = sgd(), jnp.asarray([3.0, -4.0])
    >>> state, _ = descent.update(descent.init(x), x, x, 0.1)
    >>> found = run_measures(descent, ema_weights.ready(descent, 0.1, 0, x), x, x, state)
    >>> round(float(found.total["two_norm"]), 4), round(float(found.total["potential"]), 4)
    (5.0, 12.5)
    """
    params = jax.tree.map(jnp.asarray, params)
    _check(optimizer, memory, params, grad, last_grad, state)
    if last_rate is not None:
        checks.number("last_rate", last_rate, least=0)
    if one_norm_eps is not None:
        checks.number("one_norm_eps", one_norm_eps, least=0)
    if radius is not None:
        checks.number("radius", radius, least=0)
    like = lambda tree: jax.tree.map(lambda g, p: jnp.asarray(g, p.dtype), tree, params)
    # fields that are not read here would only cause another compilation
    memory = dataclasses.replace(
        memory, step=jnp.asarray(memory.step), learning_rate=memory.rate, length=None
    )
    last = None if last_grad is None else like(last_grad)
    rate = memory.rate if last_rate is None else jnp.asarray(last_rate, trees.real_dtype())
    return _measured(
        traced(optimizer),
        memory,
        params,
        like(grad),
        state,
        last,
        rate,
        traced(one_norm_eps),
        memory.rate if radius is None else jnp.asarray(radius, trees.real_dtype()),
        bool(potential),
        bool(per_leaf),
    )


def of_two_steps(name: str) -> bool:
    """Whether a measure needs the gradient of the step before."""
    return name.startswith("effect/") or name in OF_TWO_STEPS


@eqx.filter_jit
def _measured(
    optimizer: Optimizer,
    memory: Memory,
    params: PyTree,
    grad: PyTree,
    state: State,
    last: PyTree | None,
    rate: Array,
    norm_eps,
    radius: Array,
    potential: bool,
    per_leaf: bool,
) -> RunMeasures:
    now = present(optimizer, memory, params, grad)
    moments = optimizer.read(state.moments, optimizer.transformed(grad), memory.count)
    step = optimizer.direction(moments, params, memory.count)
    norm_eps, threshold = _sizes(optimizer, norm_eps)
    values: dict[str, PyTree] = {
        "grad": grad,
        "reach": trees.scale(radius, jax.tree.map(jnp.abs, grad)),
        "perturbed": jax.tree.map(lambda g: jnp.sqrt(g * g + trees.cast(norm_eps, g)), grad),
        "actual": trees.subtract(step, now.direction),
        "saturated": _shares(lambda g: jnp.abs(g) < trees.cast(threshold, g), grad),
        "update": trees.scale(memory.rate, step),
        "params": params,
    }
    if potential:
        values["potential"] = potential_of(now)
    second = _second(optimizer)
    if second is not None:
        decay = optimizer.moments[second].beta
        nu = trees.scale(1 / (1 - decay_power(decay, memory.count + 1)), state.moments[second])
        values["lag"] = jax.tree.map(_ratio, grad, nu)
    if last is not None:
        values |= _of_two(now, last, rate)
    return _summed(values, params, per_leaf)


def _sizes(optimizer: Optimizer, norm_eps) -> tuple:
    """(ε of the perturbed one-norm, the size of g below which eps dominates)."""
    combine = getattr(optimizer.combine, "inner", optimizer.combine)
    eps, eps_root = (getattr(combine, name, None) for name in ("eps", "eps_root"))
    if eps is None and eps_root is None:
        norm_eps = 0.0 if norm_eps is None else norm_eps
        return norm_eps, jnp.sqrt(jnp.asarray(norm_eps, trees.real_dtype()))
    eps, eps_root = (
        jnp.asarray(0.0 if e is None else e, trees.real_dtype()) for e in (eps, eps_root)
    )
    threshold = jnp.maximum(eps, jnp.sqrt(eps_root))
    return eps_root + eps**2 if norm_eps is None else norm_eps, threshold


def _of_two(now: Present, last: PyTree, rate) -> dict[str, PyTree]:
    """The values that need two gradients: predicted deviation, effects, change of |g|."""
    optimizer, memory = now.optimizer, now.memory
    per_time = jnp.where(rate == 0, 0.0, 1 / jnp.where(rate == 0, 1.0, rate))
    slope = trees.scale(per_time, trees.subtract(last, now.gradient))
    predicted = trees.subtract(now.on_line(slope), now.direction)
    ways = tuple(trees.scale(time, slope) for time in memory.mean_times())
    parts = parts_of(Expansion(now, ways, trees.scale(memory.rate, slope), lambda _: slope))
    effects = {
        f"effect/{name}": jax.tree.map(jnp.multiply, slope, part) for name, part in parts.items()
    }
    found = {"predicted": predicted, **effects}
    second = _second(optimizer)
    if second is not None:
        edge = -jnp.log(optimizer.moments[second].beta) / 2
        found["beyond"] = _shares(functools.partial(_beyond, edge=edge), now.gradient, last)
    return found


def _shares(condition: Callable, *gradients: PyTree) -> PyTree:
    """1 where the condition on the gradients holds, else 0; NaN where one is not finite."""

    def share(*gs: Array) -> Array:
        finite = functools.reduce(jnp.logical_and, map(jnp.isfinite, gs))
        return jnp.where(finite, condition(*gs).astype(trees.real_dtype()), jnp.nan)

    return jax.tree.map(share, *gradients)


def _beyond(g: Array, old: Array, edge: Array) -> Array:
    """Whether |Δ log|g|| ≥ edge; a gradient that stays 0 does not change."""
    still = (g == 0) & (old == 0)
    size = lambda x: jnp.log(jnp.where(still, 1, jnp.abs(x)))
    return jnp.abs(size(g) - size(old)) >= trees.cast(edge, g)


def _ratio(g: Array, nu: Array) -> Array:
    """g²/ν̂; ∞ where ν̂ = 0, which the median leaves out; NaN where it is not finite."""
    ratio = g * g / jnp.where(nu == 0, 1, nu)
    finite = jnp.isfinite(ratio) & jnp.isfinite(nu)
    return jnp.where(nu == 0, jnp.inf, jnp.where(finite, ratio, jnp.nan))


def _median(ratios: Array) -> Array:
    """The median of numbers ≥ 0, those that are ∞ left out; 1 where all are; NaN if one is NaN."""
    count = jnp.sum(ratios < jnp.inf)
    low = _ordered(ratios, (count - 1) // 2)
    above = jnp.min(ratios, initial=jnp.inf, where=ratios > low)
    high = jnp.where(jnp.sum(ratios <= low) > count // 2, low, above)
    median = jnp.where(count == 0, 1.0, (low + high) / 2)
    return jnp.where(jnp.any(jnp.isnan(ratios)), jnp.nan, median)


def _ordered(values: Array, rank: Array) -> Array:
    """The value that has ``rank`` smaller ones; on a CPU 10 times faster than sorting.

    It is found bit by bit: floats ≥ 0 have the same order as their bits, read as integers.
    """
    whole = jnp.int64 if values.dtype == jnp.float64 else jnp.int32
    bits = jax.lax.bitcast_convert_type(values, whole)
    top = jnp.finfo(values.dtype).bits - 2

    def set_bit(index, found):
        tried = found | (jnp.ones((), whole) << jnp.asarray(top - index, whole))
        return jnp.where(jnp.sum(bits < tried) <= rank, tried, found)

    found = jax.lax.fori_loop(0, top + 1, set_bit, jnp.zeros((), whole))
    return jax.lax.bitcast_convert_type(found, values.dtype)


def _second(optimizer: AbstractMoments) -> int | None:
    """The number of the first moment that averages g²; None where there is none."""
    found = [i for i, moment in enumerate(optimizer.moments) if moment.averages_squares]
    return found[0] if found else None


def _summed(values: dict[str, PyTree], params: PyTree, per_leaf: bool) -> RunMeasures:
    """Values per coordinate → scalars: over all leaves together, and for each leaf."""
    dtype, structure = trees.real_dtype(), jax.tree.structure(params)
    leaves = {
        name: [leaf.ravel().astype(dtype) for leaf in jax.tree.leaves(tree)]
        for name, tree in values.items()
    }
    # one long vector: far fewer kernels to compile than one sum per leaf
    total = _scalars({name: jnp.concatenate(parts) for name, parts in leaves.items()})
    if not per_leaf:
        return RunMeasures(total, {})
    each = [
        _scalars({name: parts[i] for name, parts in leaves.items()})
        for i in range(structure.num_leaves)
    ]
    by_leaf = {
        name: jax.tree.unflatten(structure, [found[name] for found in each]) for name in total
    }
    return RunMeasures(total, by_leaf)


def _scalars(vectors: dict[str, Array]) -> dict[str, Array]:
    size = max(vectors["grad"].size, 1)
    total = lambda name: jnp.sum(vectors[name])
    inner = lambda name, other: jnp.sum(vectors[name] * vectors[other])
    norm = lambda name: jnp.sqrt(inner(name, name))
    sizes = jnp.abs(vectors["grad"])
    one_norm, moved, length = jnp.sum(sizes), norm("update"), norm("params")
    nothing = (moved == 0) & (length == 0)
    found = {
        "one_norm": one_norm,
        "two_norm": norm("grad"),
        "mean_abs": one_norm / size,
        "std_abs": jnp.sqrt(jnp.sum((sizes - one_norm / size) ** 2) / size),
        "perturbed_one_norm": total("perturbed"),
        "linf_sharpness": total("reach"),
        "deviation": norm("actual"),
        "saturated": total("saturated") / size,
        "update_rms": moved / np.sqrt(size),
        "update_ratio": moved / jnp.where(nothing, 1.0, length),
    }
    if "potential" in vectors:
        found["potential"] = total("potential")
    if "lag" in vectors:
        found["lag"] = _median(vectors["lag"])
    if "predicted" not in vectors:
        return found
    both, square_of = inner("actual", "predicted"), inner("predicted", "predicted")
    product = found["deviation"] * jnp.sqrt(square_of)
    effects = {name: total(name) for name in vectors if name.startswith("effect/")}
    bias = [value for name, value in effects.items() if name != f"effect/{PLAIN}"]
    found |= {
        "predicted_deviation": jnp.sqrt(square_of),
        "cosine": both / jnp.where(product == 0, 1.0, product),
        "slope": both / jnp.where(square_of == 0, 1.0, square_of),
        **effects,
        "effect/bias": jnp.sum(jnp.stack(bias)),
    }
    if "beyond" in vectors:
        found["beyond_nu_edge"] = total("beyond") / size
    return found


def _check(optimizer, memory, params, grad, last_grad, state) -> None:
    checks.instance("optimizer", optimizer, Optimizer)
    checks.instance("state", state, State)
    if not isinstance(memory, Memory):
        raise TypeError(
            f"memory: expected a Memory, got {type(memory).__name__}; begin with "
            "ema_weights.ready(optimizer, learning_rate, step, params)."
        )
    kept = [moment.has_memory for moment in optimizer.moments]
    expected = jax.tree.structure(params)
    shapes = lambda tree: [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    given = {"grad": grad, **({} if last_grad is None else {"last_grad": last_grad})}
    given |= {f"state.moments[{i}]": m for i, m in enumerate(state.moments) if m is not None}
    for name, tree in given.items():
        if jax.tree.structure(tree) != expected or shapes(tree) != shapes(params):
            raise ValueError(
                f"{name}: expected a pytree like params, {expected} with shapes {shapes(params)}, "
                f"got {jax.tree.structure(tree)} with shapes {shapes(tree)}; pass what the "
                "step at these params had."
            )
    if [moment is not None for moment in state.moments] != kept:
        raise ValueError(
            f"state: expected the moments of {optimizer.name}, {sum(kept)} with memory, got "
            f"{sum(moment is not None for moment in state.moments)}; pass the state of its run."
        )
    if [sums is not None for sums in memory.sums] != kept:
        raise ValueError(
            f"memory: expected the sums of {optimizer.name}'s moments, got those of another "
            "optimizer; begin with ema_weights.ready(optimizer, learning_rate, step, params)."
        )
    known = checks.is_concrete(state.step) and checks.is_concrete(memory.step)
    if known and float(state.step) != float(memory.count) + 1:
        raise ValueError(
            f"state: expected the state after step {float(memory.count):g} of the memory, got one "
            f"at step {float(state.step):g}; pass the state that came out of the update."
        )
