"""Strict numerics in every test, one thread for each of several workers, fast tests first."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # read when the backends start, so before the imports
    for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Compiled code holds memory maps; a process that has the kernel's 65,530 of them crashes."""
    yield
    jax.clear_caches()


@pytest.fixture
def promotion_as_optax_needs_it():
    """Optax adds numbers of several dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
