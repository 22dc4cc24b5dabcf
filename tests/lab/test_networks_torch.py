"""The networks against PyTorch modules written from the papers; skipped where it is missing."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.lab.models import cross_entropy
from shadowflow.lab.networks import build

torch = pytest.importorskip("torch")
nn = torch.nn
from torch_networks import CLASSES, WIDTH, Cnn, ResNet50, SimpleViT  # noqa: E402

BATCH, RATE = 4, 0.05
TOLERANCE = {"rtol": 1e-9, "atol": 1e-9}
# compiling is most of the time here, and half of that is optimizing what runs for milliseconds
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Threads that wait for each other on a busy machine take four times as long here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def arrays(tree):
    return jax.tree.map(lambda tensor: tensor.detach().numpy().copy(), tree)


def randomized(make, **options):
    """A module in float64, training, with no parameter at a value that hides it."""
    torch.manual_seed(0)
    module = make(**options).double()
    with torch.no_grad():
        for tensor in module.parameters():
            if tensor.ndim == 1:
                tensor.copy_(0.5 + 0.2 * torch.randn(tensor.shape, dtype=torch.float64))
    return module.train()


def images_and_labels(shape, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(BATCH, *shape)), rng.integers(0, CLASSES, BATCH)


def theirs(module, images):
    return module(torch.as_tensor(images).permute(0, 3, 1, 2))


def their_gradient(module, images, labels):
    """(logits, gradient) of the mean cross entropy, as we lay them out."""
    module.zero_grad()
    logits = theirs(module, images)
    nn.functional.cross_entropy(logits, torch.as_tensor(labels)).backward()
    return logits.detach().numpy(), arrays(module.params(lambda tensor: tensor.grad))


def our_gradient(network):
    """(params, state, images, labels) → (logits, new state, gradient), compiled."""

    def loss(params, state, images, labels):
        logits, state = network.apply(params, state, images, train=True)
        return cross_entropy(logits, labels), (logits, state)

    def run(*inputs):
        gradient, (logits, state) = jax.grad(loss, has_aux=True)(*inputs)
        return logits, state, gradient

    return quick_jit(run)


def assert_close(ours, expected):
    assert jax.tree.structure(ours) == jax.tree.structure(expected)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **TOLERANCE), ours, expected)


def copied(network, module):
    """The module's parameters as the network's, which must have the same names and shapes."""
    params = arrays(module.params(lambda tensor: tensor))
    expected, _ = jax.eval_shape(network.init, jax.random.key(0))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, expected)
    return params


def assert_the_other_differs(logits, network, other, images):
    """A module of another architecture whose parameters have the same names, shapes and values."""
    copied(network, other)
    with pytest.raises(AssertionError):
        assert_close(logits, theirs(other, images).detach().numpy())


def network_of(name, shape):
    return build(name, classes=CLASSES, shape=shape, width=WIDTH, dtype=jnp.float64)


CASES = {
    "cnn": (Cnn, (16, 8, 3), {"average": True}),
    "simple_vit": (SimpleViT, (12, 8, 3), {"norm_after": False}),
}


@pytest.mark.parametrize("name", ["cnn", pytest.param("simple_vit", marks=pytest.mark.slow)])
def test_logits_and_gradients_equal_pytorch(name):
    make, shape, another = CASES[name]
    module, network = randomized(make), network_of(name, shape)
    images, labels = images_and_labels(shape)
    logits, state, gradient = our_gradient(network)(copied(network, module), {}, images, labels)
    expected, slope = their_gradient(module, images, labels)
    assert state == {}
    assert_close(logits, expected)
    assert_close(gradient, slope)
    assert min(np.abs(leaf).max() for leaf in jax.tree.leaves(gradient)) > 1e-6
    assert not np.array_equal(logits, expected), "two libraries round differently"
    assert_the_other_differs(logits, network, randomized(make, **another), images)


@pytest.mark.slow
def test_resnet50_equals_pytorch_in_training_and_then_in_evaluation():
    shape = (9, 8, 3)
    module, network = randomized(ResNet50), network_of("resnet50", shape)
    params, state = copied(network, module), arrays(module.state())
    run = our_gradient(network)
    for step in range(2):
        images, labels = images_and_labels(shape, step)
        logits, state, gradient = run(params, state, images, labels)
        expected, slope = their_gradient(module, images, labels)
        assert_close(logits, expected)
        assert_close(gradient, slope)
        assert_close(state, arrays(module.state()))
        if step == 0:
            other = randomized(ResNet50, stride_first=True)
            assert_the_other_differs(logits, network, other, images)
        params = jax.tree.map(lambda x, g: x - RATE * np.asarray(g), params, gradient)
        with torch.no_grad():
            for tensor in module.parameters():
                tensor -= RATE * tensor.grad
    evaluate = quick_jit(functools.partial(network.apply, train=False))
    assert_close(evaluate(params, state, images)[0], theirs(module.eval(), images).detach().numpy())
    assert np.abs(evaluate(params, state, images)[0] - logits).max() > 1e-2
