"""Checks of arguments: an error says what was expected, what was given, and what to do."""

import operator
from collections.abc import Callable, Iterable

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree


def is_concrete(value) -> bool:
    """Whether the number is known; False for a value that JAX is tracing."""
    return not isinstance(value, jax.core.Tracer)


def number(name: str, value, *, least=None, below=None, above=None) -> None:
    """Refuse a value that is not finite or outside the stated range; a traced value passes."""
    if not is_concrete(value):
        return
    limits = {"at least": least, "above": above, "below": below}
    limits = {word: limit for word, limit in limits.items() if limit is not None}
    stated = " and ".join(f"{word} {limit}" for word, limit in limits.items())
    allowed = f"a finite number {stated}".rstrip()
    try:
        if np.asarray(value).dtype.kind in "USO":
            raise TypeError
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected {allowed}, got {value!r}.") from None
    kept = {"at least": np.greater_equal, "above": np.greater, "below": np.less}
    inside = [kept[word](numbers, limit) for word, limit in limits.items()]
    if isinstance(value, bool) or not np.all([np.isfinite(numbers), *inside]):
        raise ValueError(f"{name}: expected {allowed}, got {value!r}.")


def decay(name: str, value) -> None:
    """Refuse a decay outside [0, 1)."""
    number(name, value, least=0, below=1)


def count(name: str, value, least: int = 0) -> int:
    """``value`` as an int; refuse what is not a whole number of at least ``least``.

    A scalar array of whole numbers is one too, as the count in an optax state.
    """
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or whole < least:
        raise ValueError(f"{name}: expected a whole number of at least {least}, got {value!r}.")
    return whole


def choice(name: str, value, allowed: Iterable) -> None:
    """Refuse a value that is not among ``allowed``, naming those that are."""
    allowed = list(allowed)
    if not any(type(value) is type(item) and value == item for item in allowed):
        listed = ", ".join(repr(item) for item in allowed)
        raise ValueError(f"{name}: expected one of {listed}, got {value!r}.")


def learning_rate(value) -> None:
    """Refuse a learning rate that is neither a positive finite number nor a schedule."""
    if callable(value):
        return
    number("learning_rate", value, above=0)
    if np.ndim(value) > 0:
        raise ValueError(f"learning_rate: expected one number or a schedule, got {value!r}.")


def instance(name: str, value, kind: type) -> None:
    """Refuse what is not an instance of ``kind``, one of the library's own classes."""
    if not isinstance(value, kind):
        raise TypeError(
            f"{name}: expected a shadowflow.{kind.__name__}, got {type(value).__name__}; "
            f"build one with shadowflow.{kind.__name__}(…)."
        )


def function(name: str, value) -> None:
    """Refuse what cannot be called."""
    if not callable(value):
        raise TypeError(f"{name}: expected a function, got {value!r}.")


def params(tree: PyTree) -> PyTree:
    """``tree`` with its leaves as JAX arrays; refuse an empty tree or leaves not float."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves or all(np.size(leaf) == 0 for _, leaf in leaves):
        raise ValueError(
            f"params: expected a pytree with at least one float parameter, got {tree!r}; "
            "pass the parameters themselves, for example a dict of arrays."
        )
    for path, leaf in leaves:
        place = "params" + jax.tree_util.keystr(path)
        try:
            dtype = jnp.result_type(leaf)
        except TypeError:
            raise TypeError(f"{place}: expected a float array, got {leaf!r}.") from None
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{place}: expected a float array, got dtype {dtype}; convert it with "
                ".astype(float), or leave it out and close over it in the loss."
            )
        if is_concrete(leaf) and not np.all(np.isfinite(np.asarray(leaf, dtype=float))):
            raise ValueError(f"{place}: expected finite numbers, got NaN or infinity.")
    return jax.tree.map(jnp.asarray, tree)


def pointwise(name: str, call: Callable, arguments: str) -> None:
    """Refuse ``call`` unless it returns one array of the shape and dtype of its argument.

    arguments: what the function of this name is called with, in words.
    """
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    try:
        out = jax.eval_shape(lambda probe: call(probe), leaf)
    except TypeError as error:
        raise TypeError(
            f"{name}: expected a function {name}({arguments}) of JAX operations, got "
            f"{type(error).__name__} from it: {error}"
        ) from error
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape != leaf.shape or dtype != leaf.dtype:
        got = f"shape {shape} and dtype {dtype}" if shape is not None else repr(out)
        raise ValueError(
            f"{name}: expected a pointwise function, which keeps shape {leaf.shape} and dtype "
            f"{leaf.dtype}, got {got}; write it with per-coordinate operations."
        )
