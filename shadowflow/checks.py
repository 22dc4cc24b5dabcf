"""Checks of arguments: an error says what was expected, what was given, and what to do."""

import difflib
import functools
import inspect
import operator
import types
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

F = TypeVar("F", bound=Callable)


def is_concrete(value) -> bool:
    """Whether the number is known; False for a value that JAX is tracing."""
    return not isinstance(value, jax.core.Tracer)


def number(
    name: str, value, *, least=None, below=None, above=None, example=None, single=True
) -> None:
    """Refuse a value that is not finite or outside the stated range; a traced value passes.

    example: a value for the message, where the one from the range says little. single: whether an
    array of numbers is refused.
    """
    if not is_concrete(value):
        return
    limits = {"at least": least, "above": above, "below": below}
    limits = {word: limit for word, limit in limits.items() if limit is not None}
    stated = " and ".join(f"{word} {limit}" for word, limit in limits.items())
    allowed = f"a finite number {stated}".rstrip()
    usual = 0.9 if below is not None else 1e-3 if above is not None else 0.0
    refusal = (
        f"{name}: expected {allowed}, got {value!r}; for example "
        f"{usual if example is None else example}."
    )
    try:
        if np.asarray(value).dtype.kind in "USOc":
            raise TypeError
        numbers = np.asarray(value, dtype=float)
        if single and numbers.ndim > 0:
            raise TypeError
    except (TypeError, ValueError):
        raise TypeError(refusal) from None
    kept = {"at least": np.greater_equal, "above": np.greater, "below": np.less}
    inside = [kept[word](numbers, limit) for word, limit in limits.items()]
    if isinstance(value, bool) or not np.all([np.all(np.isfinite(numbers)), *map(np.all, inside)]):
        raise ValueError(refusal)


def decay(name: str, value) -> None:
    """Refuse a decay outside [0, 1)."""
    number(name, value, least=0, below=1, single=False)


def count(name: str, value, least: int = 0) -> int:
    """``value`` as an int; refuse what is not a whole number of at least ``least``, below 2³¹.

    A scalar array of whole numbers is one too, as the count in an optax state.
    """
    if not is_concrete(value):
        raise ValueError(
            f"{name}: expected a whole number of at least {least}, got a traced value; pass an int "
            "that jit, vmap and grad do not see, as with static_argnames of jax.jit."
        )
    try:
        whole = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        whole = None
    if whole is not None and whole > MOST:
        raise ValueError(
            f"{name}: expected a whole number of at most {MOST}, got {value!r}; for example "
            f"{max(least, 1)}."
        )
    if whole is None or whole < least:
        rounded = isinstance(value, float) and value.is_integer() and value >= least
        raise ValueError(
            f"{name}: expected a whole number of at least {least}, got {value!r}; for example "
            f"{int(value) if rounded else max(least, 1)}."
        )
    return whole


def choice(name: str, value, allowed: Iterable) -> None:
    """Refuse a value that is not among ``allowed``, naming those that are."""
    allowed = list(allowed)
    if not any(type(value) is type(item) and value == item for item in allowed):
        listed = ", ".join(repr(item) for item in allowed)
        raise ValueError(
            f"{name}: expected one of {listed}, got {value!r}; for example "
            f"{nearest(value, allowed) or allowed[0]!r}."
        )


def nearest(value, allowed: Iterable) -> str:
    """The word among ``allowed`` that a value was meant for, by its spelling; "" for none.

    >>> nearest("tailor", ["displaced", "taylor"]), nearest(3, [1, 2])
    ('taylor', '')
    """
    words = [item for item in allowed if isinstance(item, str)]
    return "".join(difflib.get_close_matches(str(value).lower(), words, 1))


def is_words(value) -> bool:
    """Whether it is a numpy array of words or objects, which JAX has not."""
    return isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "USO"


def word(name: str, value) -> str:
    """``value``, refused where it is no text."""
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected a name, got {value!r}; write {name}='…'.")
    return value


def flag(name: str, value) -> bool:
    """``value``, refused where it is neither True nor False."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected True or False, got {value!r}; write {name}=True.")
    return bool(value)


def key(name: str, value) -> None:
    """Refuse what is no random key of JAX, or more than one."""
    dtype = getattr(value, "dtype", np.dtype(object))
    typed = jnp.issubdtype(dtype, jax.dtypes.prng_key)
    raw = dtype == np.uint32 and np.ndim(value) == 1
    if not (raw or (typed and np.ndim(value) == 0)):
        raise TypeError(
            f"{name}: expected a random key, got {value!r}; for example jax.random.key(0)."
        )


def several(name: str, values, example: str) -> list:
    """``values`` as a list; refuse a single word or number, which is none."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name}: expected a list, got {values!r}; for example {example}.")
    return list(values)


def learning_rate(value) -> None:
    """Refuse a learning rate that is neither a positive finite number nor a schedule."""
    if callable(value):
        return
    number("learning_rate", value, above=0, single=False)
    if np.ndim(value) > 0:
        raise ValueError(
            f"learning_rate: expected one number or a schedule, got {value!r}; a function of the "
            "step gives each step its own, for one learning rate per run call once for each."
        )


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
        raise TypeError(
            f"{name}: expected a function, got {value!r}; pass the function itself, uncalled."
        )


MOST = 2**31 - 1  # what a step is counted with
NUMBERS = (jax.Array, np.ndarray, np.generic, bool, int, float, complex)


def parameters(tree: PyTree) -> tuple[PyTree, PyTree | None]:
    """(the float arrays of ``tree``, what else a model holds), as ``eqx.partition`` parts them.

    A model is an equinox module, or any pytree with leaves that are no numbers. Of a pytree of
    numbers alone nothing is set aside (None): every leaf has to be a parameter.
    """
    is_module = lambda node: isinstance(node, eqx.Module)
    nodes = jax.tree.leaves(tree, is_leaf=is_module)
    if all(isinstance(node, NUMBERS) for node in nodes):
        return params(tree), None
    found, rest = eqx.partition(tree, eqx.is_inexact_array)
    return params(found if jax.tree.leaves(found) else tree), rest


def params(tree: PyTree) -> PyTree:
    """``tree`` with its leaves as JAX arrays; refuse an empty tree or leaves not float."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves or all(np.size(leaf) == 0 for _, leaf in leaves):
        raise ValueError(
            f"params: expected a pytree with at least one float parameter, got {tree!r}; "
            "pass the parameters themselves, for example a dict of arrays."
        )
    for path, leaf in leaves:
        _parameter("params" + jax.tree_util.keystr(path), leaf)
    return jax.tree.map(jnp.asarray, tree)


def _parameter(place: str, leaf) -> None:
    """Refuse a leaf that is no finite float array."""
    if not isinstance(leaf, NUMBERS) or is_words(leaf):
        raise TypeError(
            f"{place}: expected a float array, got {leaf!r}; pass a pytree of arrays: "
            "eqx.filter(model, eqx.is_inexact_array) of an equinox module, nnx.state(model, "
            "nnx.Param) of flax, dict(params) of a mapping that JAX does not know."
        )
    dtype = jnp.result_type(leaf)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(
            f"{place}: expected a float array, got dtype {dtype}; a complex z is a pair of "
            "coordinates: pass {'re': z.real, 'im': z.imag}, with a loss of "
            "p['re'] + 1j * p['im']."
        )
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{place}: expected a float array, got dtype {dtype}; convert it with "
            ".astype(float), or leave it out and close over it in the loss."
        )
    known = isinstance(leaf, np.ndarray | np.generic | float) or leaf.dtype != np.float64
    if not known and jnp.zeros(()).dtype != np.float64:
        raise TypeError(
            f"{place}: expected a dtype that JAX computes in, got float64 while x64 is off; set "
            'jax.config.update("jax_enable_x64", True), or convert with .astype("float32").'
        )
    if is_concrete(leaf) and (wrong := not_finite(leaf)):
        raise ValueError(
            f"{place}: expected finite numbers, got NaN or infinity at {wrong} of "
            f"{np.size(leaf)}; start from parameters that are finite."
        )


def not_finite(leaf) -> int:
    """How many numbers of an array are NaN or infinite."""
    return int(np.sum(~np.isfinite(np.asarray(leaf, dtype=float))))


def kept_by(params: PyTree, optimizer: PyTree) -> None:
    """Refuse a number of an optimizer that the dtype of a parameter rounds to 0, as eps=1e-8."""
    for dtype in {leaf.dtype for leaf in jax.tree.leaves(params)}:
        least = float(jnp.finfo(dtype).smallest_subnormal)
        for path, leaf in jax.tree_util.tree_leaves_with_path(optimizer):
            if isinstance(leaf, float) and 0 < abs(leaf) <= least / 2:
                name = jax.tree_util.keystr(path[-1:]).strip(".")
                raise ValueError(
                    f"{name}: expected a number that {dtype} can tell from 0, got {leaf!r} with "
                    f"parameters of {dtype}; pass at least {least:.1g}, or parameters of a finer "
                    "dtype, as .astype(float) makes them."
                )


def pointwise(name: str, call: Callable, arguments: str) -> None:
    """Refuse ``call`` unless it returns one array of the shape and dtype of its argument.

    arguments: what the function of this name is called with, in words.
    """
    leaf = jax.ShapeDtypeStruct((2, 3), jnp.float32)
    try:
        out = jax.eval_shape(lambda probe: call(probe), leaf)
    except Exception as error:
        raise TypeError(
            f"{name}: expected a function {name}({arguments}) of JAX operations, got "
            f"{type(error).__name__} from it: {error}; give it these arguments and write it with "
            "jax.numpy."
        ) from error
    shape, dtype = getattr(out, "shape", None), getattr(out, "dtype", None)
    if shape != leaf.shape or dtype != leaf.dtype:
        got = f"shape {shape} and dtype {dtype}" if shape is not None else repr(out)
        raise ValueError(
            f"{name}: expected a pointwise function, which keeps shape {leaf.shape} and dtype "
            f"{leaf.dtype}, got {got}; write it with per-coordinate operations."
        )


MEANT = {
    "learning_rate": "lr rate step_size eta alpha",
    "steps": "n_steps num_steps n iterations epochs",
    "params": "theta x0 initial_params weights",
    "problem": "loss loss_fn objective",
    "optimizer": "opt tx",
    "start": "state opt_state initial_state",
}


def hinted(function: F) -> F:
    """``function``, which answers a name that is none of its arguments by the one that is meant."""
    own: Any = function
    known, meant = list(inspect.signature(own).parameters), _meant

    def call(*given, **named):
        for name in named:
            if name not in known:
                raise TypeError(
                    f"{own.__name__}: expected arguments among {', '.join(known)}, got {name}; "
                    f"{meant(name, known)}."
                )
        return own(*given, **named)

    # with the globals of its module, by which doctest knows whose it is
    made: Any = types.FunctionType(call.__code__, own.__globals__, closure=call.__closure__)
    named: Any = functools.wraps(own)(made)
    return named


def _meant(name: str, known: list[str]) -> str:
    """What to write for a name that is none of the known ones."""
    called = [own for own, others in MEANT.items() if name in others.split() and own in known]
    near = "".join(called) or nearest(name, known)
    return f"write {near}=" if near else f"leave {name}= out"
