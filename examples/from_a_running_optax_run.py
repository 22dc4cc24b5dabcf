"""Follow a training run of your own from step 50 on, from the state of its optax optimizer."""

import jax
import jax.numpy as jnp
import optax

import shadowflow as sf
from shadowflow.lab.models import digits_problem

problem, params = digits_problem()
tx = optax.adam(3e-4, b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6)


@jax.jit
def train_step(params, opt_state):
    grads = jax.grad(problem.loss)(params)
    updates, opt_state = tx.update(grads, opt_state, params)
    return optax.apply_updates(params, updates), opt_state


opt_state = tx.init(params)
for _ in range(50):
    params, opt_state = train_step(params, opt_state)

adam = sf.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6)
follow = sf.shadow(problem, adam, params, 3e-4, 50, method="inertial", start=opt_state)

for _ in range(50):
    params, opt_state = train_step(params, opt_state)

gaps = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), params, follow.last)
print(
    f"50 steps on, the flow is within {max(jax.tree.leaves(gaps)):.1e} of the run, per coordinate."
)
print(f"It {follow.verdict}")
