"""Optimizers of one's own for the tests of the derived equations, and the rows' equations."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
from table import ROWS

import shadowflow as sf


@functools.cache
def derived(row: str):
    """The equation of a row of the table."""
    return sf.derive(ROWS[row]())


class Own(eqx.Module):
    power: float
    mixture: float

    def __call__(self, moments, params, step):
        x = self.mixture * moments[0] + (1 - self.mixture) * moments[1]
        return jnp.tanh(x) / (moments[2] + 0.25) ** self.power


def own():
    moments = [sf.Moment(0.5), sf.Moment(0.8), sf.Moment(0.6, lambda g: g**4)]
    return sf.Optimizer(moments, Own(0.25, 0.7), "own")


CORRECTED = [sf.Moment(0.6, bias_correction=True), sf.Moment(0.8, sf.square, bias_correction=True)]
FUNCTIONS = {
    "a lambda": lambda m, p, n: m[0] / (m[1] + 1e-3) ** 0.25,
    "jnp and safe_sqrt": lambda m, p, n: jnp.arctan(m[0]) / (sf.safe_sqrt(m[1]) + 0.1),
    "a branch": lambda m, p, n: jnp.where(m[1] > 0.01, m[0] / jnp.sqrt(m[1] + 0.1), m[0]),
    "max, as in Adam's kin": lambda m, p, n: m[0] / jnp.maximum(jnp.sqrt(m[1]), 0.01),
    "not odd": lambda m, p, n: jnp.exp(m[0]) - 1 + m[1],
    "mixed with θ": lambda m, p, n: m[0] * (1 + p**2) / jnp.sqrt(m[1] + 0.1),
    "another decay of θ": lambda m, p, n: m[0] / jnp.sqrt(m[1] + 0.1) + 0.1 * p**3,
    "softsign": lambda m, p, n: jax.nn.soft_sign(m[0]) * jax.nn.sigmoid(m[1]),
}
