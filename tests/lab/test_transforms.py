"""Standardizing and augmenting images, against plain numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from shadowflow.lab.data import transforms
from shadowflow.lab.data.transforms import augment, draws, standardize

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (23, 6, 5, 3), np.uint8)
TEST = RNG.integers(100, 256, (7, 6, 5, 3), np.uint8)
AXES = {"pixel": (0,), "channel": (0, 1, 2), "all": (0, 1, 2, 3)}
KEY = jax.random.key(5)


# Standardizing


@pytest.mark.parametrize("per", AXES)
@pytest.mark.parametrize("chunk", [4, 1024])
def test_standardize_against_numpy(monkeypatch, per, chunk):
    monkeypatch.setattr(transforms, "CHUNK", chunk)
    before = TRAIN.copy()
    train, test = standardize(TRAIN, TEST, per=per)
    mean, std = transforms._statistics(TRAIN, AXES[per])
    wide = TRAIN.astype(float)
    expected = wide.mean(AXES[per], keepdims=True), wide.std(AXES[per], keepdims=True)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-13)
    np.testing.assert_allclose(std, expected[1], rtol=1e-13)
    assert mean.shape == std.shape == expected[0].shape
    for got, images in ((train, TRAIN), (test, TEST)):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, (images - expected[0]) / expected[1], atol=1e-6)
    np.testing.assert_array_equal(TRAIN, before)


def test_the_kinds_differ():
    """Negative control: one kind does not do what another one does, nor are test images centred."""
    pixel, test = standardize(TRAIN, TEST, per="pixel")
    (channel,) = standardize(TRAIN, per="channel")
    (whole,) = standardize(TRAIN, per="all")
    assert np.abs(channel.mean(0)).max() > 0.1
    assert np.abs(whole.mean((0, 1, 2))).max() > 0.01
    assert not np.array_equal(pixel, channel)
    assert abs(test.mean(dtype=float)) > 0.3


@pytest.mark.parametrize("value", [0, 7, 255, 0.1, 1e30, -3.3])
def test_a_constant_pixel_is_zero_everywhere(value):
    """In the training images by any measure; in others too, where it has another value."""
    train = TRAIN.astype(float)
    train[:, 2, 3, 1] = value
    test = TEST.astype(float)
    test[0, 2, 3, 1] = 200
    _, std = transforms._statistics(train, (0,))
    train, test = standardize(train, test, per="pixel")
    assert std[0, 2, 3, 1] == 0
    assert not train[:, 2, 3, 1].any()
    assert not test[:, 2, 3, 1].any()
    assert np.isfinite(train).all()
    assert np.count_nonzero(std == 0) == 1


def test_a_pixel_that_hardly_varies_is_not_taken_for_constant():
    train = TRAIN.copy()
    train[:, 0, 0, 0] = 255
    train[4, 0, 0, 0] = 254
    (standard,) = standardize(train, per="pixel")
    assert standard[:, 0, 0, 0].std() == pytest.approx(1, abs=1e-5)


def test_large_means_do_not_cancel():
    """In float32, or by the mean of the squares, nothing would be left."""
    train = 1e6 + RNG.normal(size=(50, 2, 2, 1))
    (standard,) = standardize(train, per="pixel")
    np.testing.assert_allclose(standard, (train - train.mean(0)) / train.std(0), atol=1e-6)


# Augmenting


def by_hand(images, offsets, flips, pad):
    """Pixel by pixel: where each one comes from, 0 from outside."""
    n, height, width, _ = images.shape
    result = np.zeros_like(images)
    for i in range(n):
        for row in range(height):
            for column in range(width):
                source = width - 1 - column if flips[i] else column
                y, x = row + offsets[i, 0] - pad, source + offsets[i, 1] - pad
                if 0 <= y < height and 0 <= x < width:
                    result[i, row, column] = images[i, y, x]
    return result


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64", "bfloat16"])
def test_augment_against_a_loop(dtype):
    images = np.asarray(jnp.asarray(TRAIN).astype(dtype))
    offsets, flips = map(np.asarray, draws(KEY, len(images)))
    got = augment(KEY, images)
    assert (got.shape, got.dtype) == (images.shape, images.dtype)
    np.testing.assert_array_equal(got, by_hand(images, offsets, flips, 4))
    # the loop would see a mistake: axes exchanged, no flip, the other, less padding
    for wrong in (
        by_hand(images, offsets[:, ::-1], flips, 4),
        by_hand(images, offsets, np.zeros_like(flips), 4),
        by_hand(images, offsets, ~flips, 4),
        by_hand(images[:, ::-1], offsets, flips, 4)[:, ::-1],
        by_hand(images, offsets, flips, 3),
    ):
        assert not np.array_equal(got, wrong)


def test_every_offset_and_both_flips_occur_equally_often():
    """81 places and 2 sides, within five standard deviations of their expected number."""
    count = 16_200
    offsets, flips = map(np.asarray, draws(KEY, count))
    cells = np.bincount((offsets[:, 0] * 9 + offsets[:, 1]) * 2 + flips, minlength=162)
    assert len(cells) == 162
    assert np.abs(cells - 100).max() < 5 * np.sqrt(100)
    assert np.abs(flips.mean() - 0.5) < 5 * 0.5 / np.sqrt(count)
    assert (offsets.dtype, offsets.min(), offsets.max()) == (np.int32, 0, 8)


def test_the_key_decides():
    first = augment(KEY, TRAIN)
    np.testing.assert_array_equal(first, augment(jax.random.key(5), TRAIN))
    assert not np.array_equal(first, augment(jax.random.key(6), TRAIN))
    assert len(np.unique(np.asarray(draws(KEY, 23)[0]), axis=0)) > 10


def test_an_image_is_augmented_whatever_stands_beside_it():
    """By its number alone: in a shorter batch, or among other images, the same happens to it."""
    whole = np.asarray(augment(KEY, TRAIN))
    np.testing.assert_array_equal(augment(KEY, TRAIN[:5]), whole[:5])
    mixed = np.concatenate([TEST[:3], TRAIN[3:]])
    np.testing.assert_array_equal(augment(KEY, mixed)[3:], whole[3:])
    assert not np.array_equal(augment(KEY, TRAIN[5:10])[0], whole[5])


def test_draws_are_the_same_without_x64():
    wide = draws(KEY, 23)
    with jax.enable_x64(False):
        narrow = draws(jax.random.key(5), 23)
    for one, other in zip(wide, narrow, strict=True):
        np.testing.assert_array_equal(one, other)


def test_augment_in_a_jitted_scan_is_compiled_once():
    """As training runs it; other keys and other images are no reason to compile again."""
    traced = []

    @jax.jit
    def epoch(keys, images):
        traced.append(1)
        return jax.lax.scan(lambda carry, key: (carry, augment(key, images)), 0, keys)[1]

    for seed in range(2):
        keys = jax.random.split(jax.random.key(seed), 3)
        images = np.roll(TRAIN, seed, axis=0)
        got = epoch(keys, images)
        for key, batch in zip(keys, got, strict=True):
            np.testing.assert_array_equal(batch, augment(key, images))
    assert len(traced) == 1
