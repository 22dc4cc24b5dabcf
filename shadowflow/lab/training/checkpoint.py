"""Checkpoints: a whole state on disk, checked when it is read, two of them kept.

A checkpoint is `<epoch>.npz`, the leaves of the state by their paths, and `<epoch>.json`, its
manifest: sha256 of the file and of itself, shape and dtype of every leaf, and the configuration of
the run. The manifest is written last: arrays without one do not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from ...files import DRAFT, digest, plain, read_arrays, write_arrays, write_json

KEPT = 2


@dataclass(frozen=True)
class Restored:
    """A state that was read, its epoch, and in words every checkpoint passed over.

    history: the digest that ``save`` was given.
    """

    epoch: int
    state: PyTree
    passed_over: tuple[str, ...]
    history: str = ""


def save(
    folder: Path, epoch: int, state: PyTree, configuration: Mapping[str, Any], history: str = ""
) -> Path:
    """Write a checkpoint, keep it and those before it, ``KEPT`` in all; the path of its manifest.

    The folder is that of one run, and epochs are those behind the state, a pytree of arrays.
    history: a digest of what was written of those epochs. ValueError where the folder cannot be
    written, for example as the disk is full; the checkpoints that were there are there still.
    """
    leaves = _arrays(state)
    data, manifest = _paths(folder, epoch)
    write_arrays(data, leaves, compress=False, durable=True)
    content = {
        "epoch": epoch,
        "sha256": _digest(data),
        "history": history,
        "configuration": plain(dict(configuration)),
        "leaves": {path: [list(leaf.shape), str(leaf.dtype)] for path, leaf in leaves.items()},
    }
    write_json(manifest, {**content, "check": digest(content)}, durable=True)
    later = [other for other in _epochs(folder) if other > epoch]  # of a course given up
    for old in later + _epochs(folder)[len(later) + KEPT :]:
        for path in _paths(folder, old)[::-1]:  # the manifest first: arrays alone do not count
            path.unlink(missing_ok=True)
    return manifest


def restore(folder: Path, like: PyTree, configuration: Mapping[str, Any]) -> Restored | None:
    """The newest sound checkpoint of a folder; None where there is none at all.

    One that is truncated or changed is passed over in favour of the one before it, and the result
    says so. ``like`` is a state of the same structure, shapes and dtypes. ValueError where the
    checkpoint is of another configuration (the message names the field) or of another structure (it
    names the leaf), or none of those there is sound.
    """
    sweep(folder)
    passed = []
    for epoch in _epochs(folder):
        data, path = _paths(folder, epoch)
        try:
            manifest = _manifest(path)
            if (_digest(data), epoch) != (manifest["sha256"], manifest["epoch"]):
                raise ValueError("damaged: its sha256 and epoch are not those of its manifest")
        except (OSError, ValueError) as error:
            passed.append(f"{data.name}: {error}")
            continue
        refuse_other(manifest["configuration"], plain(dict(configuration)), path)
        state = _fitted(read_arrays(data), like, data)
        return Restored(epoch, state, tuple(passed), manifest.get("history", ""))
    if passed:
        raise ValueError(
            f"checkpoint: expected a sound one in {str(folder)!r}, got {'; '.join(passed)}; "
            "remove the folder to begin again"
        )
    return None


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written: drafts, and arrays without a manifest."""
    alone = [path for path in folder.glob("[0-9]*.npz") if not path.with_suffix(".json").exists()]
    for path in [*folder.glob(f".*{DRAFT}"), *alone]:
        path.unlink(missing_ok=True)


def refuse_other(stored: Any, wanted: Any, path: Path, field: str = "") -> None:
    """ValueError naming the first field in which two configurations differ."""
    if stored == wanted:
        return
    if isinstance(stored, dict) and isinstance(wanted, dict):
        for name in wanted | stored:
            inner = f"{field}.{name}" if field else name
            refuse_other(stored.get(name), wanted.get(name), path, inner)
        return
    raise ValueError(
        f"{field}: expected {stored!r}, as the run in {str(path.parent)!r} has it, got {wanted!r}; "
        "resume with the same configuration, or begin in another folder"
    )


def _arrays(state: PyTree) -> dict[str, np.ndarray]:
    """Path → leaf, in the order of the leaves."""
    pairs = jax.tree_util.tree_leaves_with_path(state)
    return {"state" + jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in pairs}


def _fitted(arrays: Mapping[str, np.ndarray], like: PyTree, path: Path) -> PyTree:
    """The arrays in the structure of ``like``, leaf by leaf of the same name, shape and dtype."""
    form = lambda array: None if array is None else (array.shape, str(array.dtype))
    wanted = _arrays(like)
    for name in wanted | dict(arrays):
        ours, theirs = form(wanted.get(name)), form(arrays.get(name))
        if ours != theirs:
            raise ValueError(
                f"{path.name}: expected the leaf {name} as {ours}, got {theirs}; "
                "it was written for another model or optimizer"
            )
    leaves, structure = jax.tree.flatten(like)
    own = lambda leaf, array: jax.numpy.asarray(array) if isinstance(leaf, jax.Array) else array
    fitted = [own(leaf, arrays[name]) for leaf, name in zip(leaves, wanted, strict=True)]
    return jax.tree.unflatten(structure, fitted)


def _paths(folder: Path, epoch: int) -> tuple[Path, Path]:
    """(arrays, manifest)."""
    return folder / f"{epoch:08d}.npz", folder / f"{epoch:08d}.json"


def _epochs(folder: Path) -> list[int]:
    """Of the checkpoints that have a manifest, the newest first."""
    return sorted((int(path.stem) for path in folder.glob("[0-9]*.json")), reverse=True)


def _manifest(path: Path) -> dict[str, Any]:
    """A manifest that says of itself what it should; ValueError for any other."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("check") == digest(content):
            return content
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise ValueError("damaged: its manifest is not what was written")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
