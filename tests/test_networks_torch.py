"""The networks against PyTorch modules written from the papers; skipped where it is missing."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.lab.models import cross_entropy
from shadowflow.lab.networks import build

torch = pytest.importorskip("torch")
nn = torch.nn

CLASSES, BATCH, RATE = 3, 4, 0.05
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


class Cnn(nn.Module):
    """`average` is not the paper's: its pooling is the maximum."""

    def __init__(self, average=False):
        super().__init__()
        pool = nn.AvgPool2d(2) if average else nn.MaxPool2d(2)
        blocks, inputs = [], 3
        for outputs in (2, 4, 8):
            blocks += [
                nn.Conv2d(inputs, outputs, 3, padding="same"), nn.ReLU(),
                nn.Conv2d(outputs, outputs, 3, padding="same"), nn.ReLU(), pool,
            ]  # fmt: skip
            inputs = outputs
        self.features = nn.Sequential(*blocks)
        self.dense, self.logits = nn.Linear(8 * 2 * 1, 32), nn.Linear(32, CLASSES)

    def forward(self, images):
        values = self.features(images).permute(0, 2, 3, 1).flatten(1)
        return self.logits(torch.relu(self.dense(values)))

    def params(self, read):
        convs = [part for part in self.features if isinstance(part, nn.Conv2d)]
        names = [f"block{block}_conv{conv}" for block in (1, 2, 3) for conv in (1, 2)]
        named = dict(zip(names, convs, strict=True))
        named |= {"dense": self.dense, "logits": self.logits}
        return {name: of_layer(module, read) for name, module in named.items()}


class Bottleneck(nn.Module):
    def __init__(self, inputs, channels, stride, stride_first):
        super().__init__()
        outputs = 4 * channels
        first, second = (stride, 1) if stride_first else (1, stride)
        self.reduce = conv_norm(inputs, channels, 1, first)
        self.spatial = conv_norm(channels, channels, 3, second)
        self.expand = conv_norm(channels, outputs, 1, 1)
        if inputs != outputs or stride != 1:
            self.shortcut = conv_norm(inputs, outputs, 1, stride)

    def forward(self, values):
        inner = torch.relu(self.spatial(torch.relu(self.reduce(values))))
        around = self.shortcut(values) if hasattr(self, "shortcut") else values
        return torch.relu(self.expand(inner) + around)


class ResNet50(nn.Module):
    """`stride_first` is version 1: the stride in the first 1×1 convolution of a block."""

    def __init__(self, stride_first=False):
        super().__init__()
        self.stem, self.blocks, inputs = conv_norm(3, 4, 3, 1), nn.ModuleDict(), 4
        for stage, (count, channels) in enumerate(zip((3, 4, 6, 3), (4, 8, 16, 32), strict=True)):
            for block in range(count):
                stride = 2 if stage > 0 and block == 0 else 1
                name = f"stage{stage + 1}_block{block + 1}"
                self.blocks[name] = Bottleneck(inputs, channels, stride, stride_first)
                inputs = 4 * channels
        self.logits = nn.Linear(inputs, CLASSES)

    def forward(self, images):
        values = torch.relu(self.stem(images))
        for block in self.blocks.values():
            values = block(values)
        return self.logits(values.mean((2, 3)))

    def _tree(self, of):
        blocks = {
            name: {part: of(module) for part, module in block.named_children()}
            for name, block in self.blocks.items()
        }
        return {"stem": of(self.stem)} | blocks

    def params(self, read):
        pair = lambda m: {"conv": of_layer(m[0], read), "norm": of_layer(m[1], read)}  # noqa: E731
        return self._tree(pair) | {"logits": of_layer(self.logits, read)}

    def state(self):
        return self._tree(lambda m: {"mean": m[1].running_mean, "variance": m[1].running_var})


class Block(nn.Module):
    def __init__(self, width, heads, size, hidden):
        super().__init__()
        self.heads, self.size = heads, size
        self.attention_norm, self.mlp_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * heads * size, bias=False)
        self.out = nn.Linear(heads * size, width, bias=False)
        self.dense1, self.dense2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, values):
        split = [
            part.unflatten(-1, (self.heads, self.size)).transpose(1, 2)
            for part in self.qkv(self.attention_norm(values)).chunk(3, dim=-1)
        ]
        scores = split[0] @ split[1].transpose(-1, -2) * self.size**-0.5
        mixed = torch.softmax(scores, dim=-1) @ split[2]
        values = values + self.out(mixed.transpose(1, 2).flatten(2))
        hidden = nn.functional.gelu(self.dense1(self.mlp_norm(values)))
        return values + self.dense2(hidden)

    def params(self, read):
        norms_and_dense = ("attention_norm", "mlp_norm", "dense1", "dense2")
        qkv, out = (read(part.weight).T for part in (self.qkv, self.out))
        return {name: of_layer(getattr(self, name), read) for name in norms_and_dense} | {
            "attention": {
                "qkv": qkv.unflatten(1, (3, self.heads, self.size)),
                "out": out.unflatten(0, (self.heads, self.size)),
            }
        }


class SimpleViT(nn.Module):
    """Without `norm_after` a layer norm behind the patches' projection is missing."""

    def __init__(self, width=32, norm_after=True):
        super().__init__()
        self.norm_before, self.dense = nn.LayerNorm(48), nn.Linear(48, width)
        self.norm_after, self.with_norm_after = nn.LayerNorm(width), norm_after
        self.blocks = nn.ModuleList(Block(width, 1, 64, 64) for _ in range(6))
        self.norm, self.logits = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def forward(self, images):
        pixels = images.permute(0, 2, 3, 1).unfold(1, 4, 4).unfold(2, 4, 4)
        pixels = pixels.permute(0, 1, 2, 4, 5, 3).flatten(3)  # batch, row, column, pixel
        values = self.dense(self.norm_before(pixels))
        values = self.norm_after(values) if self.with_norm_after else values
        values = (values + self.places(*values.shape[1:])).flatten(1, 2)
        for block in self.blocks:
            values = block(values)
        return self.logits(self.norm(values).mean(1))

    @staticmethod
    def places(rows, columns, width):
        result = torch.empty(rows, columns, width, dtype=torch.float64)
        quarter = width // 4
        for row in range(rows):
            for column in range(columns):
                for i in range(quarter):
                    wave = 10_000 ** (i / (quarter - 1))
                    for k, place in enumerate((column, row)):
                        angle = place / wave
                        result[row, column, 2 * k * quarter + i] = math.sin(angle)
                        result[row, column, (2 * k + 1) * quarter + i] = math.cos(angle)
        return result

    def params(self, read):
        first = {n: of_layer(getattr(self, n), read) for n in ("norm_before", "dense")}
        first["norm_after"] = of_layer(self.norm_after, read)
        blocks = {f"block{i + 1}": block.params(read) for i, block in enumerate(self.blocks)}
        last = {"norm": of_layer(self.norm, read), "logits": of_layer(self.logits, read)}
        return {"patches": first} | blocks | last


def conv_norm(inputs, outputs, size, stride):
    conv = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


def of_layer(module, read):
    """The arrays of a layer of PyTorch as we lay them out."""
    if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
        return {"scale": read(module.weight), "shift": read(module.bias)}
    order = (2, 3, 1, 0) if isinstance(module, nn.Conv2d) else (1, 0)
    weight = {"weight": read(module.weight).permute(order)}
    return weight | ({} if module.bias is None else {"bias": read(module.bias)})


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
    return build(name, classes=CLASSES, shape=shape, width=1 / 16, dtype=jnp.float64)


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
