"""The zoo against PyTorch's own optimizers; skipped where PyTorch is not installed."""

import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.problem import Problem

torch = pytest.importorskip("torch")

STEPS, RATE = 50, 0.02
MATRIX, VECTOR = [[0.4, -0.9, 1.1], [-0.3, 0.7, 0.5]], [0.9, -1.4, 0.8]


def loss(params):
    hidden = jnp.tanh(params["matrix"] @ params["vector"])
    return jnp.sum(hidden**2) + 0.1 * jnp.sum(params["vector"] ** 4)


PROBLEM = Problem(loss)


def torch_path(build, steps=STEPS):
    """All parameters of a training loop in PyTorch, flat and stacked, in float64."""
    matrix = torch.tensor(MATRIX, dtype=torch.float64, requires_grad=True)
    vector = torch.tensor(VECTOR, dtype=torch.float64, requires_grad=True)
    optimizer = build([matrix, vector])
    flat = lambda: torch.cat([matrix.flatten(), vector]).detach().numpy().copy()
    path = [flat()]
    for _ in range(steps):
        optimizer.zero_grad()
        value = (torch.tanh(matrix @ vector) ** 2).sum() + 0.1 * (vector**4).sum()
        value.backward()
        optimizer.step()
        path.append(flat())
    return np.stack(path)


def our_path(optimizer, steps=STEPS):
    params = {"matrix": jnp.asarray(MATRIX), "vector": jnp.asarray(VECTOR)}
    run = iterate(PROBLEM, optimizer, params, RATE, steps).params
    return np.concatenate([run["matrix"].reshape(steps + 1, -1), run["vector"]], axis=1)


def sgd(**options):
    return lambda leaves: torch.optim.SGD(leaves, lr=RATE, **options)


def adam(**options):
    return lambda leaves: torch.optim.Adam(leaves, lr=RATE, **options)


PAIRS = {
    "sgd": (zoo.sgd(), sgd()),
    "momentum": (zoo.momentum(decay=0.8), sgd(momentum=0.8)),
    "nesterov": (zoo.nesterov(decay=0.8), sgd(momentum=0.8, nesterov=True)),
    "rmsprop": (
        zoo.rmsprop(decay=0.9, eps=1e-3),
        lambda leaves: torch.optim.RMSprop(leaves, lr=RATE, alpha=0.9, eps=1e-3),
    ),
    "adam": (zoo.adam(), adam()),
    "adam-large-eps": (zoo.adam(b1=0.8, b2=0.95, eps=0.1), adam(betas=(0.8, 0.95), eps=0.1)),
    "adamw": (
        # torch shrinks θ by 1 − h λ first and then moves it by Adam's step: the same sum
        zoo.adamw(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
        lambda leaves: torch.optim.AdamW(
            leaves, lr=RATE, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3
        ),
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_fifty_steps_equal_pytorch(name):
    optimizer, build = PAIRS[name]
    ours, theirs = our_path(optimizer), torch_path(build)
    np.testing.assert_allclose(ours, theirs, rtol=1e-11, atol=1e-13)
    assert not np.array_equal(ours, theirs), "two libraries round differently"
    assert np.ptp(theirs, axis=0).min() > RATE, "a coordinate that stays where it is tests nothing"


OTHERS = {
    "nadam has a schedule of its decay": (
        zoo.nadam(b1=0.8, b2=0.95, eps=1e-3),
        lambda leaves: torch.optim.NAdam(leaves, lr=RATE, betas=(0.8, 0.95), eps=1e-3),
    ),
    "eps inside": (zoo.rmsprop(decay=0.9, eps=0.0, eps_root=1e-3), PAIRS["rmsprop"][1]),
    "momentum in EMA form": (zoo.momentum(decay=0.8, form="ema"), PAIRS["momentum"][1]),
    "momentum is not nesterov": (zoo.momentum(decay=0.8), PAIRS["nesterov"][1]),
    "weight decay within the gradient": (
        zoo.adamw(b1=0.8, b2=0.95, eps=1e-3, weight_decay=0.3),
        adam(betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_another_optimizer_in_pytorch_differs(name):
    optimizer, build = OTHERS[name]
    assert np.max(np.abs(our_path(optimizer, 5) - torch_path(build, 5))) > 1e-3
