"""Small training runs, and what lies in their folders."""

import jax
import jax.numpy as jnp
import numpy as np

from shadowflow.lab.training import history
from shadowflow.lab.training.config import Training
from shadowflow.lab.training.loop import TrainingRun
from shadowflow.lab.training.start import images_of, network_of
from shadowflow.optimizers import zoo

SMALL = Training(
    width=0.25,
    images=120,
    test_images=40,
    epochs=6,
    ghost_batch=50,
    arguments={"b2": 0.95, "eps_root": 1e-6},
    learning_rate=3e-3,
)


CONFIGURATION = {"model": "cnn", "seed": 3, "optimizer": {"name": "adam", "b2": 0.999}}


def state(seed=0):
    """Parameters of two dtypes with odd numbers in them, an optimizer's state, a random key."""
    params = {"a": jnp.arange(6.0).reshape(2, 3) + seed, "b": [jnp.ones((), jnp.float32)]}
    params["odd"] = jnp.asarray([jnp.nan, -0.0, jnp.inf, 5e-324])
    return {
        "params": params,
        "moments": zoo.adam().init(params),
        "key": jax.random.key_data(jax.random.key(seed)),
        "position": np.int64(seed),
    }


def run_of(settings, folder, **options):
    return TrainingRun(settings, network_of(settings), images_of(settings), folder, **options)


def split(images, labels, size):
    """Batches, the last one with what is left."""
    places = [slice(start, start + size) for start in range(0, len(labels), size)]
    return [(images[place], labels[place]) for place in places]


def records(folder):
    return history.read(folder / "history.jsonl")


def contents(folder):
    """History and last state, as bytes."""
    (last,) = sorted((folder / "checkpoints").glob("*.npz"))[-1:]
    with np.load(last) as stored:
        state = {name: stored[name].tobytes() for name in stored.files}
    return (folder / "history.jsonl").read_bytes(), state
