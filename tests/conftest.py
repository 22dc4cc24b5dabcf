"""Strict numerics in every test, one thread for each of several workers, fast tests first."""

import os
from pathlib import Path

if "PYTEST_XDIST_WORKER" in os.environ:  # read when the backends start, so before the imports
    for name in ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")
# what is compiled is kept for the other worker, for commands that tests run, and for the next time
os.environ.setdefault(
    "JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache" / "compiled")
)
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
# most of the time is taken by the compiler of XLA: without its optimizations, less than half of it.
# XLA_FLAGS="" runs them on what a user's programs are compiled to
os.environ.setdefault(
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_backend_optimization_level=0"
)

import jax
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

MAPS = Path("/proc/self/maps")
MOST_MAPS = 10_000  # and 2 GB; the kernel gives a process 65,530, and one that needs more crashes


@pytest.fixture(autouse=True, scope="module")
def forget_compiled():
    """Compiled code holds memory maps: let go of it where they become many."""
    yield
    if not MAPS.exists() or len(MAPS.read_bytes().splitlines()) > MOST_MAPS:
        jax.clear_caches()


@pytest.fixture
def promotion_as_optax_needs_it():
    """Optax adds numbers of several dtypes and ranks."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.get_closest_marker("slow") is not None)
