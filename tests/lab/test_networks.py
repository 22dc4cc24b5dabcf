"""The lab's networks: counts, tables, starts, dtypes, derivatives, refusals."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.lab.models import cross_entropy, mlp_apply, mlp_init
from shadowflow.lab.networks import NETWORKS, build
from shadowflow.lab.networks.resnet import resnet
from shadowflow.lab.networks.vit import simple_vit

COUNTS = {
    "mlp": 201_482,
    "cnn": 1_341_226,
    "resnet50": 23_520_842,
    "resnet101": 42_512_970,
    "simple_vit": 18_928_234,
}
FLOATS = [jnp.bfloat16, jnp.float32, jnp.float64]
# most of the time here is compiling, and half of that is optimizing what runs for milliseconds
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": "0"})


def shapes(network):
    return jax.eval_shape(network.init, jax.random.key(0))


def outputs(network, params, state, images, train):
    return jax.eval_shape(functools.partial(network.apply, train=train), params, state, images)


def drawn(network, seed=0):
    """Parameters and state with no number at its initial value, without compiling `init`."""
    rng = np.random.default_rng(seed)
    params, state = shapes(network)
    draw = lambda leaf: rng.normal(size=leaf.shape)
    fan = lambda leaf: np.sqrt(np.prod(leaf.shape[:-1]))
    params = jax.tree.map(
        lambda a: draw(a) / fan(a) if len(a.shape) > 1 else 0.5 + 0.2 * draw(a), params
    )
    state = jax.tree.map(lambda a: 0.5 + rng.random(a.shape), state)
    return jax.tree.map(jnp.asarray, (params, state))


def images_of(network, batch=4, seed=1):
    return np.random.default_rng(seed).normal(size=(batch, *network.shape))


def small(dtype):
    """Every kind of network, in few and narrow layers."""
    options = {"classes": 3, "dtype": dtype}
    return {
        "mlp": build("mlp", shape=(4, 4, 1), **options),
        "cnn": build("cnn", shape=(8, 9, 3), width=1 / 16, **options),
        "resnet": resnet((1, 1), shape=(4, 4, 3), width=1 / 16, **options),
        "simple_vit": simple_vit(shape=(8, 4, 3), width=1 / 16, blocks=2, **options),
    }


SMALL = small(jnp.float64)


# --- the table ---


def test_the_table_has_every_network():
    assert list(NETWORKS) == list(COUNTS)


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_are_counted_exactly(name):
    network = build(name)
    params, state = shapes(network)
    rows = network.layers()
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]
    assert sum(row.parameters for row in rows) == COUNTS[name]
    assert len({row.name for row in rows}) == len(rows)
    assert rows[-1][:2] == ("logits", (10,))
    assert network.has_batch_norm == bool(state) == name.startswith("resnet")


def test_shapes_along_the_cnn():
    assert [row.shape for row in build("cnn", shape=(28, 28, 1)).layers()] == [
        *[(28, 28, 32)] * 2,
        (14, 14, 32),
        *[(14, 14, 64)] * 2,
        (7, 7, 64),
        *[(7, 7, 128)] * 2,
        (3, 3, 128),
        (512,),
        (10,),
    ]


@pytest.mark.parametrize(("name", "blocks"), [("resnet50", 6), ("resnet101", 23)])
def test_shapes_along_a_resnet(name, blocks):
    found = {row.name: row.shape for row in build(name).layers()}
    stages = {1: (3, 32, 256), 2: (4, 16, 512), 3: (blocks, 8, 1024), 4: (3, 4, 2048)}
    expected = {
        f"stage{stage}_block{block + 1}": (side, side, channels)
        for stage, (count, side, channels) in stages.items()
        for block in range(count)
    }
    assert found == {"stem": (32, 32, 64)} | expected | {"pool": (2048,), "logits": (10,)}


def test_width_multiplies_the_channels():
    half = {row.name: row.shape for row in build("cnn", width=0.5).layers()}
    assert half["block1_conv1"] == (32, 32, 16)
    assert half["block3_pool"] == (4, 4, 64)
    assert half["dense"] == (256,)
    assert half["logits"] == (10,)
    assert build("resnet50", width=2).layers()[0].shape == (32, 32, 128)
    assert build("mlp", width=0.26).layers()[0].shape == (17,)
    wide, narrow = (shapes(build("simple_vit", width=w))[0]["block6"] for w in (1.0, 0.25))
    assert wide["attention"]["qkv"].shape == (512, 3, 16, 64)
    assert narrow["attention"]["qkv"].shape == (128, 3, 4, 64)
    assert narrow["dense1"]["weight"].shape == (128, 256)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_narrowest_network_still_has_a_channel(name):
    network = build(name, width=1e-6, shape=(8, 8, 1), classes=1)
    params, state = shapes(network)
    assert min(min(leaf.shape) for leaf in jax.tree.leaves(params)) == 1
    images = jax.ShapeDtypeStruct((2, 8, 8, 1), jnp.float32)
    assert jax.eval_shape(functools.partial(network.apply, train=True), params, state, images)[
        0
    ].shape == (2, 1)


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_dtype_is_that_of_the_parameters(name, dtype, train):
    network = build(name, dtype=dtype, classes=7, shape=(12, 8, 2))
    params, state = shapes(network)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(dtype)}
    images = jax.ShapeDtypeStruct((3, 12, 8, 2), jnp.float32)
    logits, new = jax.eval_shape(
        functools.partial(network.apply, train=train), params, state, images
    )
    assert (logits.shape, logits.dtype) == ((3, 7), dtype)
    assert new == state
    fine = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert {leaf.dtype for leaf in jax.tree.leaves(state)} <= {jnp.dtype(fine)}


# --- the networks ---


@pytest.mark.parametrize("name", SMALL)
def test_a_start_depends_on_the_key_alone_and_begins_near_chance(name):
    network = small(jnp.float32)[name]  # normal numbers in float64 take long to compile
    params, state = network.init(jax.random.key(0))
    again, _ = network.init(jax.random.key(0))
    other, _ = network.init(jax.random.key(1))
    assert jax.tree.map(jnp.shape, (params, state)) == jax.tree.map(jnp.shape, shapes(network))
    for a, b, c in zip(*map(jax.tree.leaves, (params, again, other)), strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c) == (a.ndim == 1), "vectors begin at 0 or 1"
        assert a.ndim > 1 or set(np.unique(a)) <= {0, 1}
    weights = [np.ravel(leaf)[0] for leaf in jax.tree.leaves(params) if leaf.ndim > 1]
    assert len(set(weights)) == len(weights), "no two layers are drawn from one key"
    evaluate = quick_jit(functools.partial(network.apply, train=False))
    logits, _ = evaluate(params, state, images_of(network, 8))
    assert 0.01 < np.std(logits) < 5


def test_the_perceptron_is_that_of_the_lab():
    network = small(jnp.float32)["mlp"]
    params, state = network.init(jax.random.key(3))
    expected = mlp_init(jax.random.key(3), (16, 64, 64, 3))
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    images = images_of(network)
    logits, _ = network.apply(params, state, images, train=True)
    assert np.array_equal(logits, mlp_apply(params, images.reshape(4, 16)))


def test_weights_before_a_relu_have_twice_the_variance():
    params, _ = build("cnn", shape=(8, 8, 1), width=0.25).init(jax.random.key(0))
    for name, inputs, gain in (("block3_conv2", 288, 2), ("dense", 32, 2), ("logits", 128, 1)):
        assert np.var(params[name]["weight"]) * inputs == pytest.approx(gain, rel=0.15)


@pytest.mark.parametrize("name", SMALL)
def test_which_images_are_together_matters_to_batch_norm_in_training_only(name):
    network = SMALL[name]
    params, state = drawn(network)
    images = images_of(network)
    run = quick_jit(network.apply, static_argnames="train")
    whole, kept = run(params, state, images, train=False)
    part, _ = run(params, state, images[:2], train=False)
    np.testing.assert_allclose(whole[:2], part, rtol=1e-11, atol=1e-13)
    jax.tree.map(np.testing.assert_array_equal, kept, state)
    trained, new = run(params, state, images, train=True)
    differs = np.abs(trained - run(params, new, images, train=False)[0]).max()
    assert (differs > 1e-3) == network.has_batch_norm
    moved = jax.tree.map(lambda a, b: bool(np.all(np.asarray(a) != np.asarray(b))), state, new)
    assert all(jax.tree.leaves(moved))


def symmetric_hessian(name):
    """u·Hv and v·Hu of the cross entropy in training; H v is a jvp of the gradient."""
    network = SMALL[name]
    (params, state), images = drawn(network), images_of(network)

    def loss(params):
        logits, new = network.apply(params, state, images, train=True)
        return cross_entropy(logits, jnp.arange(4) % 3), new

    @quick_jit
    def product(vector):
        gradient = lambda params: jax.grad(loss, has_aux=True)(params)[0]
        return jax.jvp(gradient, (params,), (vector,))[1]

    u, v = drawn(network, 5)[0], drawn(network, 6)[0]
    inner = lambda a, b: sum(map(np.vdot, jax.tree.leaves(a), jax.tree.leaves(b)))
    return float(inner(u, product(v))), float(inner(v, product(u)))


@pytest.mark.parametrize("name", SMALL)
def test_the_hessian_is_finite_and_symmetric(name):
    one, other = symmetric_hessian(name)
    assert np.isfinite(one)
    assert abs(one) > 1e-4
    assert one == pytest.approx(other, rel=1e-8)


# --- refusals ---


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vgg", {}, r"network: expected one of 'mlp', .*, got 'vgg'"),
        ("cnn", {"classes": 0}, "classes: expected a whole number of at least 1, got 0"),
        ("cnn", {"classes": True}, "classes: expected .*, got True"),
        ("mlp", {"shape": (32, 32)}, r"shape: expected .height, width, chan.*, got \(32, 32\); "),
        ("mlp", {"shape": 32}, "shape: expected .height, width, channels. .*, got 32; "),
        ("cnn", {"shape": (32, 0, 3)}, "shape: expected a whole number of at least 1, got 0"),
        ("cnn", {"shape": (32, 7, 3)}, "shape: expected .* at least 8 by 8 pixels, got 32 by 7; "),
        ("simple_vit", {"shape": (32, 30, 3)}, "multiples of 4, got 32 by 30; pad"),
        ("resnet50", {"width": 0}, "width: expected a finite number above 0, got 0"),
        ("resnet50", {"width": float("inf")}, "width: expected .*, got inf"),
        ("simple_vit", {"dtype": jnp.int32}, "dtype: expected a float dtype, got .*int32"),
        ("simple_vit", {"blocks": 0}, "blocks: expected a whole number of at least 1, got 0"),
        ("mlp", {"hidden": (64, 0)}, "hidden: expected .*, got 0"),
    ],
)
def test_bad_settings_are_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


@pytest.mark.parametrize("name", SMALL)
def test_bad_calls_are_refused(name):
    network = SMALL[name]
    params, state = drawn(network)
    images = images_of(network)
    with pytest.raises(ValueError, match=r"images: expected shape \(batch, .*; reshape them"):
        network.apply(params, state, images.transpose(0, 3, 1, 2), train=True)
    with pytest.raises(ValueError, match=r"train: expected True or False, .*; under jit"):
        jax.jit(network.apply)(params, state, images, True)
