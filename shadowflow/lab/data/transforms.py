"""Preparing images for training: standardizing and augmenting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float32, Float64, Int32, PRNGKeyArray, Shaped

from ... import checks

AXES = {"pixel": (0,), "channel": (0, 1, 2), "all": (0, 1, 2, 3)}
"""The axes of the images that each kind of statistics is taken over."""
CHUNK = 1024
"""The number of images that are held as float64 at a time."""


class Statistics(NamedTuple):
    """Of the images to train on; broadcasts against them."""

    mean: Float64[np.ndarray, "1 ..."]
    std: Float64[np.ndarray, "1 ..."]
    """0 where all values are equal to the precision of float32."""


def standardize(
    train: ArrayLike, *others: ArrayLike, per: str = "pixel"
) -> tuple[tuple[Float32[np.ndarray, "n ..."], ...], Statistics]:
    """Images less the mean, over the standard deviation, of the images to train on.

    A pixel (or channel) that is the same in all of ``train`` becomes 0 in every array, also where
    another array has another value there. The arithmetic is in float64, on the host.

    Args:
        train: images to train on, of shape (n, height, width, channels) or (n, height, width),
            of any real dtype.
        others: images of the same shape but for n, such as those to test on.
        per: "pixel": one mean and one deviation for each pixel and channel, over the images, as in
            the paper; "channel": one for each channel; "all": one over everything.

    Returns:
        ``train`` and ``others`` in order, float32; and the statistics.

    Raises:
        ValueError: no images, an array of another shape, an unknown ``per``, "channel" where
            there is no such axis, numbers that are not finite.
        TypeError: numbers that are not real.

    Example:
        >>> train = np.array([[[0, 7]], [[2, 7]]], np.uint8)  # two images of 1 × 2 pixels
        >>> (standard, test), statistics = standardize(train, train[:1] + 1)
        >>> standard.tolist(), test.tolist(), statistics.std.tolist()
        ([[[-1.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 0.0]]], [[[1.0, 0.0]]])
    """
    checks.choice("per", per, AXES)
    first, *rest = arrays = [np.asarray(images) for images in (train, *others)]
    for name, images in [("train", first), *((f"others[{i}]", x) for i, x in enumerate(rest))]:
        if images.dtype.kind not in "iuf":
            raise TypeError(
                f"{name}: expected real numbers, got dtype {images.dtype}; convert with .astype"
            )
        if images.ndim not in (3, 4) or images.shape[1:] != first.shape[1:]:
            raise ValueError(
                f"{name}: expected shape (n, height, width, channels) or (n, height, width), alike "
                f"but for n, got {images.shape}; reshape it, or leave it out"
            )
    if first.size == 0:
        raise ValueError(
            f"train: expected one image or more, got shape {first.shape}; "
            "pass the images to train on first"
        )
    if per == "channel" and first.ndim != 4:
        raise ValueError(
            f"per: expected 'pixel' or 'all' for images of shape {first.shape}, got 'channel'; "
            "add an axis of channels with images[..., None]"
        )
    mean, std = statistics = _statistics(first, AXES[per][: first.ndim])
    scale = np.divide(1.0, std, out=np.zeros_like(std), where=std > 0)
    standard = [np.empty(images.shape, np.float32) for images in arrays]
    for images, result in zip(arrays, standard, strict=True):
        for start, chunk in _chunks(images):
            result[start : start + CHUNK] = (chunk - mean) * scale
    return tuple(standard), statistics


def _chunks(images: np.ndarray) -> Iterator[tuple[int, Float64[np.ndarray, "chunk ..."]]]:
    for start in range(0, len(images), CHUNK):
        yield start, images[start : start + CHUNK].astype(np.float64)


def _statistics(images: np.ndarray, axes: tuple[int, ...]) -> Statistics:
    """Mean and deviation in two passes: from the mean of the squares, digits would cancel."""
    number = np.prod([images.shape[axis] for axis in axes])
    mean = sum(chunk.sum(axes, keepdims=True) for _, chunk in _chunks(images)) / number
    if not np.isfinite(mean).all():
        raise ValueError("train: expected finite numbers, got NaN or infinity; mend or drop them")
    squares = sum(((chunk - mean) ** 2).sum(axes, keepdims=True) for _, chunk in _chunks(images))
    std = np.sqrt(squares / number)
    return Statistics(mean, np.where(std <= np.finfo(np.float32).eps * np.abs(mean), 0.0, std))


def draws(
    key: PRNGKeyArray, count: int, pad: int = 4
) -> tuple[Int32[Array, "count 2"], Bool[Array, " count"]]:
    """The random numbers of `augment`: where each image is cut out, and whether it is mirrored.

    Returns:
        Offsets (rows from the top, columns from the left), uniform on 0, …, 2 ``pad``, and flips,
        true with probability ½. Those of image i depend on the key and on i only, and not on
        whether JAX computes in 64 bits.

    Raises:
        ValueError: a padding that is no whole number of at least 0.
        TypeError: no key, or several.
    """
    pad = checks.count("pad", pad)
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != ():
        got = f"keys of shape {key.shape}" if typed else f"{key!r}"
        raise TypeError(
            f"key: expected one key, got {got}; make one with jax.random.key(seed), "
            "one for each call with jax.random.split or fold_in"
        )
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count, dtype=jnp.int32))
    # Remainders of 32 bits are uniform to 2e-9 (pad 4).
    bits = jax.vmap(lambda key: jax.random.bits(key, (3,), jnp.uint32))(keys)
    return (bits[:, :2] % jnp.uint32(2 * pad + 1)).astype(jnp.int32), bits[:, 2] % 2 == 1


def augment(
    key: PRNGKeyArray, images: Shaped[ArrayLike, "n height width channels"], pad: int = 4
) -> Shaped[Array, "n height width channels"]:
    """Images cut at random out of their padded selves, half of them mirrored left to right.

    Each image gets ``pad`` zeros on every side (after standardizing, 0 is the mean image), is cut
    back to its size at a uniformly random place, and is mirrored with probability ½ (see `draws`).

    Args:
        key: a new one for each call; the same key gives the same result.
        images: of any dtype.
        pad: zeros on each side; under ``jax.jit`` a static argument.

    Returns:
        Images of the same shape and dtype.

    Raises:
        ValueError: images of another number of axes, a padding that is no whole number of at
            least 0.
        TypeError: no key, or several.

    Example:
        >>> augment(jax.random.key(0), np.ones((5, 32, 32, 3), np.uint8)).shape
        (5, 32, 32, 3)
    """
    images = jnp.asarray(images)
    if images.ndim != 4:
        raise ValueError(
            f"images: expected shape (n, height, width, channels), got {images.shape}; "
            "grey images get an axis of channels with images[..., None]"
        )
    offsets, flips = draws(key, len(images), pad)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def cut(image: Array, offset: Int32[Array, "2"], flip: Bool[Array, ""]) -> Array:
        crop = lax.dynamic_slice(image, (*offset, jnp.zeros_like(offset[0])), images.shape[1:])
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(cut)(padded, offsets, flips)
