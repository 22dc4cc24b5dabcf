"""What is done to images before a model is trained on them: standardizing, and augmenting."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float32, Float64, Int32, PRNGKeyArray, Shaped

from ... import checks

Per = Literal["pixel", "channel", "all"]
AXES: dict[str, slice] = {"pixel": slice(0, 1), "channel": slice(0, 3), "all": slice(None)}
"""The axes of the images that each kind of statistics runs over."""
CHUNK = 1024
"""Images held as float64 at a time."""


class Statistics(NamedTuple):
    """Of the images to train on, in float64, with as many axes as the images have.

    The first axis has length 1; so have those that the statistics run over.
    """

    mean: Float64[np.ndarray, "1 ..."]
    std: Float64[np.ndarray, "1 ..."]
    """0 where all values are the same to the precision of float32."""

    def apply(self, images: ArrayLike) -> Float32[np.ndarray, "n ..."]:
        """Images less the mean, over the standard deviation; 0 where that is 0.

        Args:
            images: of shape (n, …), where … fits ``mean``; of any real dtype.
        """
        images = np.asarray(images)
        scale = np.divide(1.0, self.std, out=np.zeros_like(self.std), where=self.std > 0)
        result = np.empty(images.shape, np.float32)
        for start, chunk in _chunks(images):
            result[start : start + len(chunk)] = (chunk - self.mean) * scale
        return result


def standardize(
    train: ArrayLike, *others: ArrayLike, per: Per = "pixel"
) -> tuple[tuple[Float32[np.ndarray, "n ..."], ...], Statistics]:
    """Images of mean 0 and standard deviation 1 over those to train on.

    What is subtracted and divided by comes from ``train`` alone. A pixel (or channel) that is the
    same in all of ``train`` says nothing about them: it is 0 in every array that is returned,
    also where another array has another value there. The arithmetic is in float64, on the host,
    whatever JAX is set to.

    Args:
        train: images to train on, of shape (n, height, width, channels) or (n, height, width),
            of any real dtype.
        others: images of the same shape but for their number, such as those to test on.
        per: "pixel": one mean and one standard deviation for every pixel and channel, over the
            images, as in the paper; "channel": one for every channel, over images and pixels;
            "all": one, over everything.

    Returns:
        ``train`` and ``others``, float32, in order; and the statistics.

    Raises:
        ValueError: no images, an array of another shape, an unknown ``per``, channels asked for
            where there is no such axis, numbers that are not finite.
        TypeError: numbers that are not real.

    Example:
        >>> train = np.array([[[0, 7]], [[2, 7]]], np.uint8)  # two images of 1 × 2 pixels
        >>> (standard, test), statistics = standardize(train, train[:1] + 1)
        >>> standard.tolist(), test.tolist(), statistics.std.tolist()
        ([[[-1.0, 0.0]], [[1.0, 0.0]]], [[[0.0, 0.0]]], [[[1.0, 0.0]]])
    """
    checks.choice("per", per, AXES)
    arrays = [np.asarray(images) for images in (train, *others)]
    for name, images in zip(_names(others), arrays, strict=True):
        if images.dtype.kind not in "iuf":
            raise TypeError(
                f"{name}: expected real numbers, got dtype {images.dtype}; convert with .astype"
            )
        if images.ndim not in (3, 4) or images.shape[1:] != arrays[0].shape[1:]:
            raise ValueError(
                f"{name}: expected shape (n, height, width, channels) or (n, height, width), alike "
                f"but for n, got {images.shape}; reshape it, or leave it out"
            )
    if arrays[0].size == 0:
        raise ValueError(
            f"train: expected one image or more, got shape {arrays[0].shape}; "
            "pass the images to train on first"
        )
    if per == "channel" and arrays[0].ndim != 4:
        raise ValueError(
            f"per: expected 'pixel' or 'all' for images of shape {arrays[0].shape}, got 'channel'; "
            "add an axis of channels with images[..., None]"
        )
    found = _statistics(arrays[0], AXES[per])
    return tuple(found.apply(images) for images in arrays), found


def _names(others: tuple[ArrayLike, ...]) -> Iterator[str]:
    yield "train"
    yield from (f"others[{number}]" for number in range(len(others)))


def _chunks(images: np.ndarray) -> Iterator[tuple[int, Float64[np.ndarray, "chunk ..."]]]:
    for start in range(0, len(images), CHUNK):
        yield start, images[start : start + CHUNK].astype(np.float64)


def _statistics(images: np.ndarray, which: slice) -> Statistics:
    """Mean and standard deviation in two passes: one pass of squares would cancel."""
    axes = tuple(range(images.ndim))[which]
    number = np.prod([images.shape[axis] for axis in axes])
    total = sum(chunk.sum(axes, keepdims=True) for _, chunk in _chunks(images))
    mean = np.asarray(total / number)
    if not np.isfinite(mean).all():
        raise ValueError("train: expected finite numbers, got NaN or infinity; mend or drop them")
    squares = sum(((chunk - mean) ** 2).sum(axes, keepdims=True) for _, chunk in _chunks(images))
    std = np.asarray(np.sqrt(squares / number))
    constant = std <= np.finfo(np.float32).eps * np.abs(mean)
    return Statistics(mean, np.where(constant, 0.0, std))


class Draws(NamedTuple):
    """Where each image is cut out of its padded self, and whether it is mirrored."""

    offsets: Int32[Array, "n 2"]
    """Rows from the top, columns from the left: each from 0 to twice the padding."""
    flips: Bool[Array, " n"]


def draws(key: PRNGKeyArray, count: int, pad: int = 4) -> Draws:
    """What ``augment`` draws with the same key for so many images.

    Args:
        key: one key.
        count: number of images.
        pad: pixels added on each side.

    Returns:
        Offsets, uniform on 0, …, 2 ``pad`` in both directions, int32 of shape (count, 2), and
        flips, true with probability ½, of shape (count,). Those of image i depend on the key and i
        only, and not on whether JAX computes in 64 bits.

    Raises:
        ValueError: a count or padding that is no whole number of at least 0.
        TypeError: no key, or several.
    """
    count = checks.count("count", count)
    pad = checks.count("pad", pad)
    _one_key(key)

    places = jnp.uint32(2 * pad + 1)

    def draw(number: Int32[Array, ""]) -> Draws:
        # Of 32 bits, whatever JAX is set to; their remainders are uniform to 2e-9 (pad 4).
        bits = jax.random.bits(jax.random.fold_in(key, number), (3,), jnp.uint32)
        return Draws((bits[:2] % places).astype(jnp.int32), bits[2] % 2 == 1)

    return jax.vmap(draw)(jnp.arange(count, dtype=jnp.int32))


def augment(
    key: PRNGKeyArray, images: Shaped[ArrayLike, "n height width channels"], pad: int = 4
) -> Shaped[Array, "n height width channels"]:
    """Images cut at random out of their padded selves, half of them mirrored left to right.

    Each image gets ``pad`` zeros on every side, is cut back to its size at a uniformly random
    place, and is mirrored with probability ½. After standardizing, 0 is the mean image. The same
    key gives the same result; what happens to image i depends on the key and i only (`draws`).

    Args:
        key: one key; a new one for every call, or every call does the same.
        images: of shape (n, height, width, channels), of any dtype.
        pad: zeros on each side; under ``jax.jit`` a static argument.

    Returns:
        Of the shape and dtype of ``images``.

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
    drawn = draws(key, len(images), pad)
    padded = jnp.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))

    def cut(image: Array, offset: Int32[Array, "2"], flip: Bool[Array, ""]) -> Array:
        start = (offset[0], offset[1], jnp.zeros_like(offset[0]))
        crop = lax.dynamic_slice(image, start, images.shape[1:])
        return jnp.where(flip, crop[:, ::-1], crop)

    return jax.vmap(cut)(padded, *drawn)


def _one_key(key: object) -> None:
    typed = isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)
    if not typed or key.shape != ():
        got = f"keys of shape {key.shape}" if typed else f"{key!r}"
        raise TypeError(
            f"key: expected one key, got {got}; make one with jax.random.key(seed), "
            "one for each call with jax.random.split or fold_in"
        )
