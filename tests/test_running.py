"""What a run looks up of its learning rates and batches, and for which steps."""

import jax.numpy as jnp
import numpy as np
import pytest

import shadowflow as sf

FAR, NEAR, STEPS = 10**9, 1000, 5  # both starts see batch 1 of 3
HEAVY, START = sf.momentum(decay=0.5), jnp.ones(2)


@pytest.mark.parametrize("kind", ["number", "rates", "batches"])
def test_a_run_far_on_reads_its_own_steps_and_what_they_remember(kind):
    """Not those from step 0 on; and it is the run from an earlier step as long settled."""
    asked = []

    def seen(step, value):
        asked.append(int(step))
        return value

    rate = (lambda step: seen(step, 0.01)) if kind == "rates" else 0.01
    problem = sf.Problem(lambda x: jnp.sum(x**2) / 2)
    if kind == "batches":
        loss = lambda x, centre: jnp.sum((x - centre) ** 2) / 2
        order = lambda step: seen(step, int(step) % 3)
        problem = sf.Problem(loss, batches=jnp.arange(3.0), schedule=order)
    runs = {
        first: sf.shadow(
            problem, HEAVY, START, rate, STEPS, start=first, kind="iteration", check=False
        )
        for first in (FAR, NEAR)
    }
    assert runs[FAR].steps[-1] == FAR + STEPS and runs[FAR].failed_at is None
    np.testing.assert_allclose(runs[FAR].times, 0.01 * np.arange(STEPS + 1))
    np.testing.assert_allclose(runs[FAR].last, runs[NEAR].last, rtol=1e-12)
    assert bool(asked) == (kind != "number")
    memory = HEAVY.memory_length(START)
    late = [step for step in asked if step > NEAR + STEPS]
    assert not asked or FAR - memory <= min(late) < max(late) == FAR + STEPS - 1
