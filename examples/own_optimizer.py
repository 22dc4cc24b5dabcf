"""An optimizer that is not in the zoo: moments of the gradient and a function that joins them.

Adam with the fourth root of an average of g⁴ below: derived and followed without a formula of
its own. Prints the distance of its shadows from the iterates and what its bias does.
"""

import jax
import jax.numpy as jnp

import shadowflow as sf

jax.config.update("jax_enable_x64", True)


def quartic(grad):
    return grad**4


def combine(moments, params, step):
    average, fourth = moments
    return average / (fourth + 1e-4) ** 0.25


def loss(x):
    return 0.5 * (1.5 - 2 * x[0] * x[1]) ** 2


optimizer = sf.Optimizer(
    [sf.Moment(0.6, bias_correction=True), sf.Moment(0.8, quartic, bias_correction=True)], combine
)
problem, start, learning_rate = sf.Problem(loss), jnp.array([2.8, 3.5]), 1e-3

real = sf.iterate(problem, optimizer, start, learning_rate, 500)
for method, order in [("taylor", 1), ("taylor", 2), ("displaced", 2), ("inertial", 2)]:
    follow = sf.shadow(problem, optimizer, start, learning_rate, 500, method=method, order=order)
    distance = sf.compare(real, follow).two_norm[-1]
    print(f"{method:>10}, order {order}: {distance:.1e} away. It {follow.verdict}")

print(sf.implicit_bias(problem, optimizer, real.last, learning_rate, start=500).describe())
