"""The problems and settings of the table of honesty: what the estimates are held against.

Compilation is what costs. So the losses of two parameters are sums of the same terms, and the
perceptrons mixtures of the same activations, with weights that are arguments of one program.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

import shadowflow as sf

SIZE = 30  # parameters of a network, of which each loss reads as many as it has
SMOOTH, NETWORK, KINK, EDGE, BATCHES = "smooth", "networks", "kinks", "edges", "mini-batches"
PLANE: dict[str, dict[str, float]] = {  # the weights of the terms of ``_plane``
    "bilinear": {"bilinear": 1},
    "Rosenbrock": {"Rosenbrock": 1},
    "quadratic": {"quadratic": 1},
    "rising curvature": {"rising": 1},
    "saddle": {"quadratic": 1, "quartic": 1},
    "ripples": {"quadratic": 1, "ripples": 0.3},
    "logistic": {"softplus": 1, "quadratic": 0.01},
    "jump": {"linear": 1, "corner": 9, "quadratic": 0.02},
    "ReLU and parabola": {"corner": 1, "quadratic": 0.1},
    "ReLU": {"corner": 1},
    "|x|": {"corner": 2, "linear": -1},
}
CORNERS = {"jump": 0.5}  # where the slope jumps, if not at 0
MIXTURES = {  # the activation of a perceptron 3 – 6 – 2
    "GELU network": (1, 0, 0, 0),
    "ReLU network": (0, 1, 0, 0),
    "tanh network": (0, 0, 1, 0),
    "deep linear": (0, 0, 0, 1),
    "matrix factorization": (0, 0, 0, 1),
}
BEFORE = 40
TARGETS = jnp.array([[1.0, 1.0], [5.0, -3.0], [-4.0, 3.0]])


def _rows(seed: int, *shape: int) -> Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def _plane(x, given):
    """A sum of terms in two parameters; c: the scales of the two coordinates."""
    c, u, v = given["scales"], x[0], x[1]
    above = x - given["corner"]
    terms = {
        "bilinear": (1.5 - 2 * u * v) ** 2 / 2,
        "Rosenbrock": (1 - u) ** 2 + 100 * (v - u**2) ** 2,
        "quadratic": jnp.sum(c * x**2) / 2,
        "rising": -u + (90 + 20 * u) * v**2 / 2,
        "quartic": v**4 / 4,
        "ripples": jnp.sum(jnp.sin(3 * c * x)),
        "softplus": jnp.sum(jnp.logaddexp(0.0, -c * x)),
        "linear": jnp.sum(c * x),
        "corner": jnp.sum(c * jnp.where(above > 0, above, 0.0)),
    }
    return sum(given["weights"][i] * terms[name] for i, name in enumerate(TERMS))


TERMS = tuple(dict.fromkeys(name for weights in PLANE.values() for name in weights))


def _perceptron(x, given):
    inner = given["in"] @ x[:18].reshape(3, 6)
    seen = [f(inner) for f in (jax.nn.gelu, jax.nn.relu, jnp.tanh, lambda z: z)]
    hidden = sum(given["mixture"][i] * part for i, part in enumerate(seen))
    return jnp.mean((hidden @ x[18:30].reshape(6, 2) - given["out"]) ** 2)


def _pooled(x, given):
    """Two filters of width 3 at four places, ReLU, the larger of each pair, a dense layer."""
    seen = jax.nn.relu(given["in"].reshape(3, 4, 3) @ x[:6].reshape(3, 2))
    pooled = jnp.maximum(seen[:, ::2], seen[:, 1::2]).reshape(3, 4)
    return jnp.mean((pooled @ x[6:14].reshape(4, 2) - given["out"][:3]) ** 2)


def _attention(x, given):
    """One head over twelve tokens of three numbers."""
    query, key, value = (x[i : i + 9].reshape(3, 3) for i in (0, 9, 18))
    tokens = given["in"]
    weights = jax.nn.softmax(tokens @ query @ (tokens @ key).T / 3**0.5, axis=1)
    return jnp.mean((weights @ tokens @ value @ x[24:30].reshape(3, 2) - given["out"]) ** 2)


def _physics(x, given):
    """u'' + u = 0, u(0) = 1, u'(0) = 0, of a tanh network with ten units, at eight places."""
    del given
    out, inner, shift = x[:10], x[10:20], x[20:]
    value = jnp.tanh(jnp.linspace(0.0, 2.0, 8)[:, None] * inner + shift)
    slope = 1 - value**2
    residual = (-2 * value * slope * inner**2 + value) @ out
    return jnp.mean(residual**2) + (value[0] @ out - 1) ** 2 + (slope[0] @ (inner * out)) ** 2


ALONE: dict[str, Callable] = {
    "max-pool network": _pooled,
    "attention": _attention,
    "physics-informed": _physics,
}
NETWORKS = (*MIXTURES, *ALONE)
KINDS = {
    **dict.fromkeys(PLANE, SMOOTH),
    **dict.fromkeys(NETWORKS, NETWORK),
    **dict.fromkeys(("quadratic", "rising curvature"), EDGE),
    **dict.fromkeys(("jump", "ReLU and parabola", "ReLU", "|x|"), KINK),
    **dict.fromkeys(("ReLU network", "max-pool network"), KINK),
    "three batches": BATCHES,
}


class Loss(eqx.Module):
    """A loss of the parameters and of arrays, which are arguments of what is compiled."""

    given: Any
    loss: Callable = eqx.field(static=True)

    def __call__(self, x):
        return self.loss(x, jax.tree.map(lambda leaf: leaf.astype(x.dtype), self.given))


def _batch_loss(x, c):
    return jnp.sum(c.astype(x.dtype) * x**2) / 2 - jnp.sum(x)


def problem_of(name: str, scales: tuple[float, float] = (1.0, 1.0)) -> sf.Problem:
    """The problem of that name; scales: of the two coordinates of a loss of two parameters."""
    if name == "three batches":
        return sf.Problem(_batch_loss, batches=TARGETS)
    if name in PLANE:
        weights = [float(PLANE[name].get(term, 0.0)) for term in TERMS]
        corner = CORNERS.get(name, 0.0)
        given = {"weights": weights, "scales": scales, "corner": corner}
        arrays = {key: jnp.asarray(value, float) for key, value in given.items()}
        return sf.Problem(Loss(arrays, _plane))
    seen = {"in": _rows(1, 12, 3), "out": _rows(3, 12, 2)}
    if name in ALONE:
        return sf.Problem(Loss(seen, ALONE[name]))
    if name == "matrix factorization":
        seen["in"] = jnp.tile(jnp.eye(3), (4, 1))
    return sf.Problem(Loss(seen | {"mixture": jnp.asarray(MIXTURES[name], float)}, _perceptron))


def _quarter(moments, params, step):
    del params, step
    return moments[0] / (moments[1] + 1e-4) ** 0.25


def inside(b1: float, b2: float, eps: float) -> Any:
    """Adam with its epsilon inside the root."""
    return sf.adam(b1=b1, b2=b2, eps=0.0, eps_root=eps)


OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "sgd": sf.sgd,
    "momentum .5": lambda: sf.momentum(decay=0.5),
    "momentum .9": lambda: sf.momentum(decay=0.9),
    "momentum .99": lambda: sf.momentum(decay=0.99),
    "nesterov .9": lambda: sf.nesterov(decay=0.9),
    "rmsprop .9": lambda: sf.rmsprop(decay=0.9, eps=1e-3),
    "adam .5 .7": lambda: inside(0.5, 0.7, 1e-2),
    "adam .9 .95": lambda: inside(0.9, 0.95, 1e-6),
    "adam .9 .99": lambda: sf.adam(b2=0.99),
    "adam .9 .999": sf.adam,
    "adam .99 .9": lambda: inside(0.99, 0.9, 1e-8),
    "adamw .9 .95": lambda: sf.adamw(b2=0.95, eps=0.0, eps_root=1e-6, weight_decay=0.1),
    "nadam .9 .95": lambda: sf.nadam(b2=0.95, eps=1e-3),
    "lion .9 .99": lambda: sf.lion(b1=0.9, b2=0.99, eps_root=1e-4),
    "lion, sharp": lambda: sf.lion(b1=0.9, b2=0.99, eps_root=0.0),
    "signum .9": lambda: sf.signum(decay=0.9, eps_root=1e-2),
    "own": lambda: sf.Optimizer((sf.Moment(0.9), sf.Moment(0.95, transform=sf.square)), _quarter),
    "optax adam": lambda: sf.from_optax(lambda rate: optax.adam(rate, b1=0.5, b2=0.7)),
    "clip, adam": lambda: sf.from_optax(
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adam(rate, b2=0.95))
    ),
}
WHERE = {  # the start of a run, where its row names none
    "bilinear": (2.8, 3.5),
    "Rosenbrock": (-1.2, 1.0),
    "saddle": (0.9, 1e-3),
    "three batches": (1.0, 0.5),
}


class Setting(NamedTuple):
    """A run that is followed.

    start: "cold", "settled", or "step": after ``BEFORE`` steps, their state unknown; place: its
    parameters, of a network the seed of them.
    """

    problem: str
    optimizer: str
    rate: float
    steps: int = 64
    dtype: str = "float64"
    start: str = "cold"
    place: tuple[float, ...] = ()
    scales: tuple[float, float] = (1.0, 1.0)

    @property
    def kind(self) -> str:
        """What sort of problem it is."""
        return KINDS[self.problem]

    def params(self) -> Array:
        """Where it begins."""
        place = self.place or WHERE.get(self.problem, (1.0, 0.7))
        if self.problem in NETWORKS:
            place = _rows(int(self.place[0]) if self.place else 0, SIZE) * 0.5
        return jnp.asarray(place, self.dtype)


_TINY, _GROWING = (1.0, 1e-8), (0.0, 1e-3)
FIRST = [  # once reassured or alarmed about falsely
    Setting("quadratic", "sgd", 2.05e-3, 600, place=_TINY, scales=(1.0, 1000.0)),
    Setting("rising curvature", "sgd", 2e-2, 100, place=_GROWING),
    Setting("three batches", "sgd", 1e-2, 300),
    Setting("three batches", "momentum .9", 1e-3, 300),
    Setting("three batches", "adam .9 .99", 1e-3, 300),
    Setting("jump", "adam .9 .99", 1e-2, 128),
    Setting("ReLU and parabola", "momentum .9", 1e-2, 128),
    Setting("ReLU", "momentum .9", 1e-2, 128),
    Setting("ReLU", "lion, sharp", 1e-2, 128),
    Setting("|x|", "adam .9 .99", 1e-2, 128),
    Setting("|x|", "adam .9 .999", 1e-2, 192),
    Setting("bilinear", "own", 1e-3, 300),
    Setting("quadratic", "momentum .9", 1e-2, 256, place=(1.0, 0.0)),
    Setting("quadratic", "adam .9 .99", 1e-2, 300),
    Setting("quadratic", "adam .9 .999", 1e-2, 128, scales=(1.0, 30.0)),
    Setting("Rosenbrock", "adam .9 .99", 1e-2, 192),
    Setting("Rosenbrock", "adam .9 .95", 1e-3, 128),
    Setting("deep linear", "adam .9 .99", 1e-3, 640),
    Setting("deep linear", "momentum .99", 1e-3, 1024),
    Setting("matrix factorization", "adam .9 .95", 3e-2, 128),
    Setting("max-pool network", "adam .9 .999", 1e-3, 64),
    Setting("saddle", "adam .9 .95", 1e-2, 128, scales=(1.0, -1.0)),
]
SMOOTH_RUNS = [
    Setting("bilinear", "sgd", 1e-3),
    Setting("bilinear", "momentum .5", 1e-3, dtype="float32"),
    Setting("bilinear", "momentum .9", 1e-4),
    Setting("bilinear", "adam .5 .7", 1e-2, dtype="float32"),
    Setting("bilinear", "adam .9 .999", 1e-3, 128),
    Setting("bilinear", "rmsprop .9", 1e-3),
    Setting("bilinear", "lion .9 .99", 1e-3),
    Setting("bilinear", "nesterov .9", 3e-4),
    Setting("bilinear", "nadam .9 .95", 1e-2),
    Setting("bilinear", "signum .9", 1e-2, 128),
    Setting("Rosenbrock", "momentum .9", 1e-4),
    Setting("Rosenbrock", "adam .5 .7", 1e-2),
    Setting("Rosenbrock", "adamw .9 .95", 1e-2),
    Setting("saddle", "momentum .9", 1e-2, 128, scales=(1.0, -1.0)),
    Setting("saddle", "lion .9 .99", 1e-2, scales=(1.0, -1.0)),
    Setting("ripples", "adam .9 .95", 3e-2, 128),
    Setting("ripples", "adam .5 .7", 1e-2, dtype="float32", start="settled"),
    Setting("ripples", "momentum .9", 1e-3, dtype="float32", start="settled"),
    Setting("ripples", "nesterov .9", 1e-2, 128),
    Setting("ripples", "own", 1e-2),
    Setting("bilinear", "adam .5 .7", 1e-2, start="settled"),
    Setting("saddle", "adam .9 .95", 1e-3, 64, start="settled", scales=(1.0, -1.0)),
    Setting("ripples", "momentum .9", 1e-3, start="settled"),
    Setting("bilinear", "optax adam", 1e-2),
    Setting("ripples", "clip, adam", 1e-2),
    Setting("bilinear", "clip, adam", 1e-3, 128),
]
NETWORK_RUNS = [
    Setting("GELU network", "adam .9 .95", 1e-3, 128),
    Setting("GELU network", "adam .9 .999", 1e-3, 128, "float32"),
    Setting("GELU network", "momentum .9", 1e-2, 128),
    Setting("tanh network", "adam .5 .7", 1e-2, start="settled"),
    Setting("tanh network", "adam .9 .95", 1e-2, 128, "float32"),
    Setting("attention", "adam .9 .99", 1e-3),
    Setting("attention", "adam .9 .95", 1e-2, 128),
    Setting("matrix factorization", "momentum .9", 1e-2, 128),
    Setting("matrix factorization", "adam .9 .999", 1e-2, 128, "float32"),
    Setting("physics-informed", "adam .9 .999", 1e-3, 128),
    Setting("physics-informed", "adam .9 .95", 1e-3, 64),
    Setting("logistic", "adam .9 .95", 1e-2, 128),
    Setting("logistic", "momentum .9", 1e-1, 256),
    Setting("deep linear", "adam .99 .9", 1e-3),
    Setting("ReLU network", "adam .5 .7", 1e-3),
    Setting("ReLU network", "adam .9 .95", 1e-3, 128, "float32"),
    Setting("ReLU network", "momentum .9", 3e-2, 128),
    Setting("max-pool network", "adam .9 .95", 1e-2, 128),
    Setting("max-pool network", "adam .5 .7", 1e-3),
]
EDGE_RUNS = [  # below, at and past an edge; runs that have converged
    Setting("quadratic", "sgd", 1.9e-1, 64, scales=(1.0, 10.0)),
    Setting("quadratic", "sgd", 2.1e-1, 64, scales=(1.0, 10.0)),
    Setting("quadratic", "sgd", 1.1e-1, 64, scales=(1.0, 10.0)),
    Setting("quadratic", "momentum .9", 2e-4, 128, scales=(1.0, 10.0)),
    Setting("quadratic", "momentum .9", 2e-3, 128, scales=(1.0, 10.0)),
    Setting("quadratic", "momentum .9", 3.9e-1, 64, scales=(1.0, 10.0)),
    Setting("quadratic", "momentum .9", 1e-1, 320, scales=(1.0, 3.0)),
    Setting("quadratic", "momentum .5", 1e-1, 320, "float32", scales=(1.0, 1.0)),
    Setting("quadratic", "adam .9 .95", 1e-1, 320),
    Setting("quadratic", "nesterov .9", 1e-1, 192, scales=(1.0, 3.0)),
    Setting("quadratic", "rmsprop .9", 1e-2, 320),
    Setting("quadratic", "lion .9 .99", 1e-2, 320),
    Setting("rising curvature", "momentum .5", 2e-2, 128, place=_GROWING),
    Setting("rising curvature", "adam .9 .95", 1e-2, 192, place=_GROWING),
]
KINK_RUNS = [
    Setting("ReLU and parabola", "adam .5 .7", 1e-2, 128),
    Setting("|x|", "momentum .9", 1e-2, 128),
    Setting("|x|", "sgd", 1e-2, 128),
    Setting("|x|", "adam .5 .7", 1e-2, 128, "float32"),
    Setting("jump", "momentum .9", 1e-3, 128),
    Setting("jump", "sgd", 1e-2, 64),
]
UNKNOWN = [  # from within a run, its state unknown
    Setting("bilinear", "adam .9 .95", 1e-3, start="step"),
    Setting("bilinear", "adam .9 .999", 1e-3, start="step"),
    Setting("bilinear", "momentum .9", 1e-4, start="step"),
    Setting("Rosenbrock", "adam .5 .7", 1e-2, 128, start="step"),
    Setting("ripples", "momentum .9", 1e-2, 128, start="step"),
    Setting("ripples", "adam .9 .99", 1e-2, 128, start="step"),
    Setting("ReLU and parabola", "momentum .9", 1e-2, 128, start="step"),
    Setting("jump", "adam .9 .99", 1e-2, 128, start="step"),
    Setting("quadratic", "momentum .9", 2e-1, start="step", scales=(1.0, 10.0)),
    Setting("GELU network", "adam .9 .95", 1e-3, start="step"),
    Setting("ReLU network", "adam .9 .95", 1e-3, start="step"),
    Setting("bilinear", "adam .5 .7", 1e-2, start="step"),
    Setting("Rosenbrock", "adam .9 .95", 1e-3, 128, start="step"),
    Setting("Rosenbrock", "momentum .9", 1e-5, start="step"),
    Setting("saddle", "momentum .9", 1e-3, start="step", scales=(1.0, -1.0)),
    Setting("saddle", "adam .9 .999", 1e-3, 128, start="step", scales=(1.0, -1.0)),
    Setting("logistic", "adam .9 .95", 1e-2, 128, start="step"),
    Setting("logistic", "momentum .5", 1e-2, start="step"),
    Setting("quadratic", "momentum .9", 1e-3, 128, start="step"),
    Setting("quadratic", "adam .9 .99", 1e-3, 256, start="step"),
    Setting("|x|", "adam .5 .7", 1e-2, 128, start="step"),
    Setting("|x|", "momentum .5", 1e-3, 128, start="step"),
    Setting("tanh network", "adam .5 .7", 1e-3, start="step"),
    Setting("deep linear", "momentum .9", 1e-3, start="step"),
    Setting("GELU network", "adam .9 .999", 1e-3, start="step"),
]
ROWS = [*FIRST, *SMOOTH_RUNS, *NETWORK_RUNS, *EDGE_RUNS, *KINK_RUNS, *UNKNOWN]
SMOKE = [FIRST[6], UNKNOWN[4]]  # of momentum, known and unknown: they share programs


def drawn(count: int, seed: int) -> Iterator[Setting]:
    """Settings drawn at random near the rows, so that they share their programs.

    Of a row stay the sort of optimizer, the dtype, the start and the number of steps; the loss of
    its family, the decays, the rate up to a factor of 5, the place and the scales are new.
    """
    rng = np.random.default_rng(seed)
    number = lambda low, high: float(f"{10 ** rng.uniform(low, high):.2g}")
    for index in rng.permutation(len(ROWS))[:count]:
        row = ROWS[index]
        families = [family for family in (PLANE, MIXTURES) if row.problem in family]
        alike = [name for name in OPTIMIZERS if name.split()[0] == row.optimizer.split()[0]]
        name = str(rng.choice([*families[0]])) if families else row.problem
        near = [float(f"{value:.3g}") for value in rng.uniform(-1.5, 1.5, 2)]
        yield row._replace(
            problem=name,
            optimizer=str(rng.choice(alike)),
            rate=float(f"{row.rate * number(-0.7, 0.7):.2g}"),
            place=(float(rng.integers(100)),) if name in NETWORKS else tuple(near),
            scales=(number(0, 1.5), number(0, 1.5)),
        )
