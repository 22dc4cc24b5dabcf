"""Where a run computes: on one device, or the images of every batch shared out over several."""

from __future__ import annotations

import math
from dataclasses import dataclass

import equinox as eqx
import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import PyTree

from ..networks.interface import Network

CPU_BYTES = 12 * 2**20
"""Of activations at a time on a CPU. The temporary arrays are about twice that: small enough for
the allocator to keep; larger ones cost more to get from the system than to fill."""


@dataclass(frozen=True)
class Devices:
    """Some devices of the default backend.

    Each computes on its share of a batch and sums what all need, BatchNorm's statistics among
    them, so that the function is the same on any number of devices. The sums are taken in another
    order, so that its numbers are the same to rounding only.
    """

    mesh: Mesh

    @classmethod
    def of(cls, count: int) -> Devices:
        """The first ``count`` devices; ValueError where there are not so many.

        >>> Devices.of(1).count
        1
        """
        there = jax.devices()
        if count > len(there):
            raise ValueError(
                f"--devices: expected at most the {len(there)} of {jax.default_backend()}, got "
                f"{count}; a CPU is made into more by the environment variable "
                f"XLA_FLAGS=--xla_force_host_platform_device_count={count}"
            )
        return cls(jax.make_mesh((count,), ("images",), (AxisType.Auto,), devices=there[:count]))

    @property
    def count(self) -> int:
        """How many."""
        return self.mesh.size

    def share(self, batch: PyTree) -> PyTree:
        """A batch, its images shared out; each device has all where they do not divide evenly."""
        even = all(len(leaf) % self.count == 0 for leaf in jax.tree.leaves(batch))
        return jax.device_put(batch, self._by("images") if even else self._by())

    def copy(self, tree: PyTree) -> PyTree:
        """A tree whose arrays every device has."""
        arrays, rest = eqx.partition(tree, eqx.is_array)
        return eqx.combine(jax.device_put(arrays, self._by()), rest)

    def _by(self, *axes: str) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))


def at_a_time(network: Network, images: int, devices: int = 1) -> int:
    """How many of some images are computed on together, a multiple of the devices.

    All of them, on a CPU what fits `CPU_BYTES` on each device; with BatchNorm all in any case.

    >>> from shadowflow.lab.networks import build
    >>> at_a_time(build("cnn"), 500)  # on a CPU
    20
    """
    if network.has_batch_norm or jax.default_backend() != "cpu":
        return images
    numbers = sum(math.prod(row.shape) for row in network.layers())
    most = devices * max(1, int(CPU_BYTES // (numbers * np.dtype(network.dtype).itemsize)))
    if most >= images:
        return images
    even = [size for size in range(devices, most + 1, devices) if images % size == 0]
    return even[-1] if even and 2 * even[-1] > most else most  # one size is one compilation
