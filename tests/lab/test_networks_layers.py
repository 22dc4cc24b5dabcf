"""The layers of the lab's networks by hand: sums in numpy, the laws of the norms, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.lab.networks import layers
from shadowflow.lab.networks.vit import patches, positions

SCALED = {"scale": np.array([2.0, 3.0]), "shift": np.array([-1.0, 4.0])}
MOVED = {"mean": np.array([1.0, -1.0]), "variance": np.array([2.0, 0.5])}


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def test_batch_norm_in_training_by_hand():
    values = random(5, 3, 4, 2) * 3 + 7
    out, new = layers.batch_norm(
        layers.batch_norm_init(2, jnp.float64)[0], MOVED, jnp.asarray(values), train=True
    )
    np.testing.assert_allclose(out.mean((0, 1, 2)), 0, atol=1e-14)
    spread = np.var(values, (0, 1, 2))
    np.testing.assert_allclose(np.var(out, (0, 1, 2)), spread / (spread + 1e-5), rtol=1e-13)
    mean, unbiased = np.mean(values, (0, 1, 2)), np.var(values, (0, 1, 2), ddof=1)
    np.testing.assert_allclose(new["mean"], 0.9 * MOVED["mean"] + 0.1 * mean, rtol=1e-14)
    np.testing.assert_allclose(new["variance"], 0.9 * MOVED["variance"] + 0.1 * unbiased)
    scaled, _ = layers.batch_norm(SCALED, MOVED, jnp.asarray(values), train=True)
    np.testing.assert_allclose(scaled, np.asarray(out) * [2.0, 3.0] + [-1.0, 4.0], rtol=1e-12)


def test_batch_norm_in_evaluation_by_hand():
    values = random(5, 2)
    out, new = layers.batch_norm(SCALED, MOVED, jnp.asarray(values), train=False)
    expected = (values - [1.0, -1.0]) / np.sqrt([2.00001, 0.50001])
    np.testing.assert_allclose(out, expected * [2.0, 3.0] + [-1.0, 4.0], rtol=1e-14)
    assert new is MOVED


def test_no_gradient_passes_through_the_running_statistics():
    params, state = layers.batch_norm_init(2, jnp.float64)
    moved = lambda x: layers.batch_norm(params, state, x, True)[1]["variance"].sum()
    assert not jax.grad(moved)(jnp.asarray(random(5, 2))).any()


def test_statistics_of_half_precision_are_those_of_single():
    values = jnp.asarray(random(64, 64) + 100.0, jnp.bfloat16)
    params, state = layers.batch_norm_init(64, jnp.bfloat16)
    out, new = layers.batch_norm(params, state, values, train=True)
    assert (out.dtype, new["variance"].dtype) == (jnp.bfloat16, jnp.float32)
    exact = np.asarray(values, np.float64)
    np.testing.assert_allclose(new["mean"], 0.1 * exact.mean(0), rtol=1e-5)
    rows = np.var(layers.layer_norm(params, values).astype(jnp.float32), 1)
    np.testing.assert_allclose(rows, 1, atol=0.02)


def test_layer_norm_by_hand():
    values = random(3, 5) * 2 + 1
    params = {"scale": random(5, seed=1), "shift": random(5, seed=2)}
    centred = values - np.mean(values, 1, keepdims=True)
    expected = centred / np.sqrt(np.var(values, 1, keepdims=True) + 1e-5)
    expected = expected * params["scale"] + params["shift"]
    found = layers.layer_norm(params, jnp.asarray(values))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_conv_is_a_sum_over_the_window(size, stride):
    values, weight, bias = random(2, 5, 6, 3), random(size, size, 3, 4, seed=1), random(4, seed=2)
    pad = size // 2
    padded = np.pad(values, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    window = lambda i, j: padded[:, i : i + 5 : stride, j : j + 6 : stride]
    expected = sum(window(i, j) @ weight[i, j] for i in range(size) for j in range(size))
    found = layers.conv({"weight": weight, "bias": bias}, values, stride)
    np.testing.assert_allclose(found, expected + bias, rtol=1e-11)
    np.testing.assert_allclose(
        layers.conv({"weight": weight}, values, stride), expected, rtol=1e-11
    )


def test_attention_by_hand():
    x, qkv, out = random(2, 4, 5), random(5, 3, 2, 3, seed=1), random(2, 3, 5, seed=2)
    expected = np.zeros(x.shape)
    for batch in range(2):
        for head in range(2):
            query, key, value = (x[batch] @ qkv[:, part, head] for part in range(3))
            weights = np.exp(query @ key.T / np.sqrt(3))
            weights /= weights.sum(axis=1, keepdims=True)
            expected[batch] += weights @ value @ out[head]
    found = layers.attention({"qkv": qkv, "out": out}, jnp.asarray(x))
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_max_pool_by_hand_and_the_first_of_equal_ones_takes_the_gradient():
    values = random(2, 5, 6, 3)
    expected = np.max(values[:, :4].reshape(2, 2, 2, 3, 2, 3), axis=(2, 4))
    assert np.array_equal(layers.max_pool(jnp.asarray(values)), expected)
    share = jax.grad(lambda x: layers.max_pool(x).sum())(jnp.ones((1, 2, 2, 1)))
    assert share.ravel().tolist() == [1, 0, 0, 0]
    for place in range(4):
        broken = jnp.zeros(4).at[place].set(jnp.nan).reshape(1, 2, 2, 1)
        assert jnp.isnan(layers.max_pool(broken)).all()


def test_patches_are_cut_row_after_row():
    images = random(2, 8, 12, 3)
    found = patches(images)
    assert found.shape == (2, 6, 48)
    assert np.array_equal(found[1, 4], images[1, 4:8, 4:8].ravel())


def test_positions_by_hand():
    found = positions(3, 2, 12)
    for row in range(3):
        for column in range(2):
            angles = np.outer([column, row], [1, 1e-2, 1e-4])
            expected = np.stack([np.sin(angles), np.cos(angles)], axis=1).ravel()
            np.testing.assert_allclose(found[2 * row + column], expected, atol=1e-15)


def test_initial_weights_have_the_stated_spread():
    key = jax.random.key(0)
    for weight, variance in (
        (layers.conv_init(key, 3, 20, 50, jnp.float32, bias=True)["weight"], 2 / 180),
        (layers.dense_init(key, 90, 100, jnp.float32)["weight"], 1 / 90),
        (layers.dense_init(key, 90, 100, jnp.float32, before_relu=True)["weight"], 2 / 90),
        (layers.attention_init(key, 32, 5, 20, jnp.float32)["qkv"], 1 / 32),
        (layers.attention_init(key, 90, 5, 20, jnp.float32)["out"], 1 / 100),
    ):
        assert float(jnp.var(weight)) == pytest.approx(variance, rel=0.05)


def test_batch_norm_refuses_one_value_per_channel():
    params, state = layers.batch_norm_init(3, jnp.float64)
    with pytest.raises(ValueError, match=r"at least 2 values per channel .*, got 1; take larger"):
        layers.batch_norm(params, state, jnp.ones((1, 1, 1, 3)), train=True)
    assert layers.batch_norm(params, state, jnp.ones((1, 1, 1, 3)), train=False)[0].shape[0] == 1
