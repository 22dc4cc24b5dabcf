"""Problems and transformations for the tests of optax transformations as they are."""

import functools

import jax.numpy as jnp
import numpy as np
import optax

import shadowflow as sf

BILINEAR = sf.Problem(lambda x: 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2)
X = jnp.asarray([2.8, 3.5])
OPTIONS = {"b1": 0.5, "b2": 0.7, "eps": 0.0, "eps_root": 1e-2}
ADAM = sf.from_optax(functools.partial(optax.adam, **OPTIONS))
MATRIX = np.random.default_rng(0).normal(size=(6, 6))
MATRIX = jnp.asarray(MATRIX @ MATRIX.T / 6 + 0.3 * np.eye(6))


def bowl(params):
    flat = jnp.concatenate([params["w"].ravel(), params["b"]])
    return 0.5 * flat @ MATRIX @ flat + 0.1 * jnp.sum(jnp.sin(flat))


BOWL = sf.Problem(bowl)
FLAT = jnp.linalg.solve(MATRIX, jnp.asarray([2.0, -2, 2, 2, -2, 2]))  # no gradient passes 0
PLACE = {"w": FLAT[:4].reshape(2, 2), "b": FLAT[4:]}


def clipped(rate):
    return optax.chain(optax.clip_by_global_norm(0.5), optax.adam(rate, b1=0.5, b2=0.7))
