"""Fabricated data sets in every format of CIFAR-10 and CIFAR-100, written from its description."""

import dataclasses
import hashlib
import io
import json
import tarfile

import numpy as np
import pytest
from small_data import png

from shadowflow.lab.data.table import ARRAYS, CIFAR10, CIFAR100, TABLE

RANDOM = np.random.default_rng(2)
KINDS = ("images", "labels")
BATCHES = [f"data_batch_{number}" for number in range(1, 6)]


def fabricated(train_labels, test_labels):
    """Images that rise smoothly from the top down, as no noise does, and differ in channels."""
    labels = [np.asarray(each, np.uint8) for each in (train_labels, test_labels)]
    images = []
    for each in labels:
        starts = RANDOM.integers(0, 120, (len(each), 1, 32, 3))
        images.append((starts + 4 * np.arange(32)[None, :, None, None]).astype(np.uint8))
    return dict(zip(ARRAYS, (images[0], labels[0], images[1], labels[1]), strict=True))


TEN = fabricated(RANDOM.integers(0, 10, 15), RANDOM.integers(0, 10, 4))
"""Not CIFAR-10: five batches of three images, and four images."""
HUNDRED = fabricated(RANDOM.permutation(np.repeat(np.arange(100), 2)), RANDOM.permutation(100))
"""Not CIFAR-100: two images of each class, and one."""
SMALL = {"cifar10": TEN, "cifar100": HUNDRED}


@pytest.fixture
def small(machine, monkeypatch):
    """On that machine the rows of the table are the fabricated data sets."""
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in TEN.items()}
    rows = (
        dataclasses.replace(CIFAR10, counts=(15, 4), sha256=digests),
        dataclasses.replace(CIFAR100, counts=(200, 100)),
    )
    for row in rows:
        monkeypatch.setitem(TABLE, row.name, row)
    return machine


def same(found, name="cifar10"):
    arrays = found if isinstance(found, dict) else vars(found)
    return all(np.array_equal(arrays[key], SMALL[name][key]) for key in ARRAYS)


def altered(name="cifar10"):
    arrays = {key: array.copy() for key, array in SMALL[name].items()}
    arrays["train_images"][3, 14, 15, 2] ^= 1
    return arrays


def binary(images, labels, coarse=()):
    """Label bytes, then the red, the green, the blue pixels of each image."""
    content = bytearray()
    for number, image in enumerate(images):
        content += bytes([*coarse[number : number + 1], labels[number]])
        for channel in range(3):
            content += image[:, :, channel].tobytes()
    return bytes(content)


def binary_files(name, arrays):
    if name == "cifar10":
        parts = zip(*(np.split(arrays[f"train_{kind}"], 5) for kind in KINDS), strict=True)
        files = {f"{BATCHES[number]}.bin": binary(*part) for number, part in enumerate(parts)}
        return files | {"test_batch.bin": binary(arrays["test_images"], arrays["test_labels"])}
    return {
        f"{part}.bin": binary(
            arrays[f"{part}_images"], arrays[f"{part}_labels"], arrays[f"{part}_labels"] // 5
        )
        for part in ("train", "test")
    }


def png_files(arrays):
    """One image a row, pixel after pixel; labels in JSON."""
    files = {
        f"{BATCHES[number]}.png": png(part.reshape(len(part), 1024, 3))
        for number, part in enumerate(np.split(arrays["train_images"], 5))
    }
    files["test_batch.png"] = png(arrays["test_images"].reshape(-1, 1024, 3))
    for part in ("train", "test"):
        files[f"{part}_lables.json"] = json.dumps(arrays[f"{part}_labels"].tolist()).encode()
    return files


def write_files(folder, files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def write_tar(path, inside, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{inside}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_pickled(folder, name="cifar10"):
    """What torchvision keeps; the content is no pickle, for nobody is to look at it."""
    batches, marker = (BATCHES, "batches.meta") if name == "cifar10" else (["train"], "meta")
    write_files(folder, dict.fromkeys([*batches, marker], b"not looked at"))


def write_hub(machine, name, columns, order=(0,)):
    """A repository of the hub, its images to train on in blocks of another order."""
    import polars

    kept = machine / f"home/.cache/huggingface/hub/datasets--uoft-cs--{name}/snapshots/abc/x"
    kept.mkdir(parents=True)
    for part in ("train", "test"):
        blocks = order if part == "train" else (0,)
        arrays = {}
        for kind in KINDS:
            parts = np.split(SMALL[name][f"{part}_{kind}"], len(blocks))
            arrays[kind] = np.concatenate([parts[block] for block in blocks])
        arrays["coarse"] = arrays["labels"] // 5
        polars.DataFrame(
            {
                "img": [{"bytes": png(image), "path": None} for image in arrays["images"]],
                **{column: arrays[kind].astype(int).tolist() for column, kind in columns.items()},
            }
        ).write_parquet(kept / f"{part}-00000-of-00001.parquet")


def openml(arrays, planar=True):
    images = np.concatenate([arrays["train_images"], arrays["test_images"]])
    labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    images = images.transpose(0, 3, 1, 2) if planar else images
    return images.reshape(len(images), -1).astype(float), labels.astype(str).astype(object)
