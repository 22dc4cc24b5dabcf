"""What kinks do: a ReLU network beside its smooth twins. Writes docs/kinks.json: ``make kinks``.

Orders: the distance from Adam at a fixed time against the learning rate. Memory: what is predicted
of the effect of memory after 100 steps of Adam, with a state and without, against what it is.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import shadowflow as sf
from shadowflow import trees
from shadowflow.files import write_json
from shadowflow.lab.data.load import load_digits
from shadowflow.lab.models import mlp_init

NUMBERS = Path(__file__).parent / "kinks.json"
IMAGES, SIZES = 200, (64, 24, 24, 10)
ACTIVATIONS = {"ReLU": jax.nn.relu, "GELU": jax.nn.gelu, "tanh": jnp.tanh}
WAYS = (("taylor", "iteration"), ("displaced", "iteration"), ("inertial", "flow"))
HORIZON, HALVINGS = 2.0**-6, range(10, 14)
SEEDS, STEPS, RATE = (0, 1, 2), 100, 1e-4


def problem_of(activation, dtype) -> sf.Problem:
    """The first digits, standardized, cross-entropy, a perceptron with that activation."""
    images, labels = load_digits()
    images = jnp.asarray(np.asarray(images).reshape(len(images), -1)[:IMAGES], dtype)
    images, labels = (images - images.mean()) / images.std(), jnp.asarray(labels)[:IMAGES]

    def loss(layers):
        hidden = images
        for layer in layers[:-1]:
            hidden = activation(hidden @ layer["weight"] + layer["bias"])
        found = jax.nn.log_softmax(hidden @ layers[-1]["weight"] + layers[-1]["bias"])
        return -jnp.mean(jnp.take_along_axis(found, labels[:, None], axis=1))

    return sf.Problem(loss)


def orders(name: str) -> list[dict]:
    """Per method the largest distances from Adam and their slopes, halving after halving."""
    adam = sf.adam(b1=0.5, b2=0.7, eps=0.0, eps_root=1e-6)
    problem = problem_of(ACTIVATIONS[name], jnp.float64)
    params = mlp_init(jax.random.key(0), SIZES, jnp.float64)
    errors: dict[str, list[float]] = {method: [] for method, _ in WAYS}
    for power in HALVINGS:
        run = problem, adam, params, 2.0**-power, round(HORIZON * 2**power)
        real = sf.iterate(*run)
        for method, kind in WAYS:
            follow = sf.shadow(*run, method=method, kind=kind, check=False)
            errors[method].append(float(sf.compare(real, follow).two_norm.max()))
    slopes = {method: list(-np.diff(np.log2(row))) for method, row in errors.items()}
    return [
        {"network": name, "method": method, "errors": errors[method], "slopes": slopes[method]}
        for method, _ in WAYS
    ]


def memory(name: str, seed: int) -> dict:
    """Predicted against measured: sizes over the memoryless step, cosine, both verdicts."""
    adam = sf.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6)
    problem = problem_of(ACTIVATIONS[name], jnp.float32)
    params = mlp_init(jax.random.key(seed), SIZES)
    real = sf.iterate(problem, adam, params, RATE, STEPS)
    at = problem, adam, real.last, RATE
    seen, blind = (sf.implicit_bias(*at, start=start) for start in (real.state, STEPS))
    names = list(seen.effect_of_memory)
    both = [
        functools.reduce(lambda a, b: trees.add(a, 1, b), [parts[name] for name in names])
        for parts in (seen.parts, seen.effect_of_memory)
    ]
    step = float(trees.norm(seen.parts["memoryless"]))
    predicted, exact = (float(trees.norm(part)) for part in both)
    return {
        "network": name,
        "seed": seed,
        "predicted": predicted / step,
        "measured": exact / step,
        "cosine": float(trees.inner(*both)) / (predicted * exact),
        "estimated": blind.validity.level,
        "verdict": seen.validity.level,
        "reason": blind.validity.reason,
    }


def main() -> None:
    """Measure both, and keep them as they come."""
    found: dict[str, list] = {"memory": [], "orders": []}
    for name in ("ReLU", "tanh"):
        found["memory"] += [memory(name, seed) for seed in SEEDS]
        write_json(NUMBERS, found)
    with jax.enable_x64(True):
        for name in ("ReLU", "GELU"):
            found["orders"] += orders(name)
            write_json(NUMBERS, found)


if __name__ == "__main__":
    main()
