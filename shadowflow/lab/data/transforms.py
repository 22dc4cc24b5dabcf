"""Preparing images for training: standardizing and augmenting."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float32, Float64, Int32, PRNGKeyArray, Shaped

AXES = {"pixel": (0,), "channel": (0, 1, 2), "all": (0, 1, 2, 3)}
"""The axes of the images that each kind of statistics is taken over."""
CHUNK = 1024
"""The number of images that are held as float64 at a time."""
PAD = 4
"""The zeros that `augment` puts on each side."""


def standardize(
    train: Shaped[np.ndarray, "train height width channels"], *others: np.ndarray, per: str
) -> tuple[Float32[np.ndarray, "n ..."], ...]:
    """Images less the mean, over the standard deviation, of the images to train on.

    ``others`` are images of the same shape, such as those to test on. per: "pixel": one mean and
    one deviation for each pixel and channel, over the images, as in the paper; "channel": one for
    each channel; "all": one over everything. A pixel (or channel) that is the same in all of
    ``train`` becomes 0 in every array, also where another array has another value there. The
    arithmetic is in float64, on the host.

    >>> train = np.array([0, 7, 2, 7], np.uint8).reshape(2, 1, 2, 1)  # two images of 1 × 2 pixels
    >>> [images.ravel().tolist() for images in standardize(train, train[:1] + 1, per="pixel")]
    [[-1.0, 0.0, 1.0, 0.0], [0.0, 0.0]]
    """
    mean, std = _statistics(train, AXES[per])
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
    standard = [np.empty(images.shape, np.float32) for images in (train, *others)]
    for images, result in zip((train, *others), standard, strict=True):
        for place, chunk in _chunks(images):
            result[place] = (chunk - mean) * scale
    return tuple(standard)


def _chunks(images: np.ndarray) -> Iterator[tuple[slice, Float64[np.ndarray, "chunk ..."]]]:
    for start in range(0, len(images), CHUNK):
        place = slice(start, start + CHUNK)
        yield place, images[place].astype(np.float64)


def _statistics(images: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation in two passes: from the mean of the squares, digits would cancel.

    The deviation is 0 where all values are equal to the precision of float32.
    """
    number = np.prod([images.shape[axis] for axis in axes])
    mean = sum(chunk.sum(axes, keepdims=True) for _, chunk in _chunks(images)) / number
    squares = sum(((chunk - mean) ** 2).sum(axes, keepdims=True) for _, chunk in _chunks(images))
    std = np.sqrt(squares / number)
    return mean, np.where(std <= np.finfo(np.float32).eps * np.abs(mean), 0.0, std)


def draws(key: PRNGKeyArray, count: int) -> tuple[Int32[Array, "count 2"], Bool[Array, " count"]]:
    """The random numbers of `augment`: where each image is cut out, and whether it is mirrored.

    Offsets (rows from the top, columns from the left), uniform on 0, …, 2 `PAD`, and flips, true
    with probability ½. Those of image i depend on the key and on i only, and not on whether JAX
    computes in 64 bits.
    """
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count, dtype=jnp.int32))
    # Remainders of 32 bits are uniform to 2e-9.
    bits = jax.vmap(lambda key: jax.random.bits(key, (3,), jnp.uint32))(keys)
    return (bits[:, :2] % jnp.uint32(2 * PAD + 1)).astype(jnp.int32), bits[:, 2] % 2 == 1


@jax.jit
def augment(
    key: PRNGKeyArray, images: Shaped[Array, "n height width channels"]
) -> Shaped[Array, "n height width channels"]:
    """Images cut at random out of their padded selves, half of them mirrored left to right.

    Each image gets `PAD` zeros on every side (after standardizing, 0 is the mean image), is cut
    back to its size at a uniformly random place, and is mirrored with probability ½ (see `draws`).
    The key is a new one for each call: the same key gives the same result.

    >>> augment(jax.random.key(0), np.ones((5, 32, 32, 3), np.uint8)).shape
    (5, 32, 32, 3)
    """
    offsets, flips = draws(key, len(images))
    padded = jnp.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))

    def cut(image: Array, offset: Int32[Array, "2"], flip: Bool[Array, ""]) -> Array:
        crop = lax.dynamic_slice(image, (*offset, jnp.zeros_like(offset[0])), images.shape[1:])
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(cut)(padded, offsets, flips)
