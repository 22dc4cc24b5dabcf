"""Each format is read back as written; damaged and hostile files are refused in a sentence."""

import gzip
import io
import sys
import tarfile
import zipfile

import numpy as np
import pytest
import small_data
from small_data import FORMS, IDX_FILES, SMALL, idx, mnist_tgz, npz_files, png, png_files, write

from shadowflow.lab.data import formats, sources
from shadowflow.lab.data.table import dataset

machine = small_data.machine
pytestmark = pytest.mark.usefixtures("machine")

MNIST, CIFAR10 = SMALL["mnist"], SMALL["cifar10"]
LABELS = idx(MNIST["train_labels"])


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "starts with 00 00 08"),
        (b"\0\0\x08", "index out of range"),
        (b"PK\x03\x04" + LABELS, "starts with 00 00 08, not 50 4b 03 04"),
        (b"\0\0\x0d\x01" + LABELS[4:], "of unsigned bytes it starts with .* not 00 00 0d"),
        (LABELS[:6], "buffer is smaller"),
        (LABELS[:-1], "cannot reshape array of size 11"),
        (LABELS + b"\0", "cannot reshape array of size 13"),
        (b"\0\0\x08\x03" + b"\xff" * 12, "ValueError"),
        (gzip.compress(LABELS, mtime=0)[:-9], "ended before the end-of-stream"),
        (gzip.compress(LABELS, mtime=0)[:-8] + bytes(8), "CRC"),
        (gzip.compress(LABELS[:-1], mtime=0), "cannot reshape array of size 11"),
    ],
)
def test_a_wrong_idx_file_is_refused(content, words, tmp_path):
    write(tmp_path, small_data.idx_files(MNIST) | {"train-labels-idx1-ubyte": content})
    with pytest.raises(
        ValueError, match=f"expected a whole train-labels-idx1-ubyte, got .*{words}"
    ):
        formats.read_folder(dataset("mnist"), tmp_path)


def with_member(name, content):
    """The npz of the small CIFAR-10 with one array replaced."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(npz_files(CIFAR10)["mnist.npz"])) as old,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as new,
    ):
        for member in old.namelist():
            new.writestr(member, content if member == name else old.read(member))
    return stream.getvalue()


ROW = CIFAR10["test_images"].reshape(-1, 1024, 3)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("test_batch.png", png(ROW[:, :-1]), "cannot reshape"),
        ("test_batch.png", png(ROW)[:-200], "truncated"),
        ("test_batch.png", b"no picture", "cannot identify"),
        ("test_lables.json", b"", "Expecting value"),
        ("test_lables.json", b"[1, [2]]", "inhomogeneous"),
        ("test_lables.json", b"[" * 200_000, "recursion"),
        ("test_lables.json", b"\xff", "invalid start byte"),
    ],
)
def test_a_damaged_file_of_the_package_is_refused(file, content, words, tmp_path):
    write(tmp_path, png_files(CIFAR10) | {file: content})
    with pytest.raises(ValueError, match=f"expected a whole {file}, got .*{words}"):
        formats.read_folder(dataset("cifar10"), tmp_path)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("test_batch.png", png(ROW[..., 0].repeat(3, axis=0))),
        ("test_lables.json", b"{}"),
        ("test_lables.json", b"[1.5, 1, 2, 3]"),
        ("test_lables.json", b"[256, 1, 2, 3]"),
        ("test_lables.json", b"[true, true, true, true]"),
        ("test_batch.bin", bytes(3072)),
        ("test_batch.bin", bytes(4 * 3073)),
        ("cifar10.npz", with_member("y_test.npy", b"nonsense")),
    ],
)
def test_files_of_something_else_are_refused(file, content, tmp_path):
    files = small_data.binary_files(CIFAR10) if file.endswith("bin") else png_files(CIFAR10)
    write(tmp_path, {file: content} if file.endswith("npz") else files | {file: content})
    with pytest.raises(sources.NotFound, match=r"test_(batch|images|labels)|zero-dimensional"):
        sources.find(dataset("cifar10"), tmp_path)


def test_without_pillow_the_package_says_so(tmp_path, monkeypatch):
    write(tmp_path, png_files(CIFAR10))
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ImportError, match="a picture needs PIL: pip install pillow"):
        formats.read_folder(dataset("cifar10"), tmp_path)


def test_raw_files_come_before_gzipped_ones(tmp_path):
    write(tmp_path, small_data.idx_files(small_data.altered(), ".gz"))
    write(tmp_path, small_data.idx_files(MNIST))
    assert small_data.same(formats.read_folder(dataset("mnist"), tmp_path))


SPRUNG = []


def spring():
    SPRUNG.append("sprung")


class Trap:
    """An object whose pickle calls a function when it is read."""

    def __reduce__(self):
        return spring, ()


def test_no_object_is_unpickled(tmp_path):
    path = tmp_path / "mnist.npz"
    trap = np.array([Trap()], dtype=object)
    np.savez(path, x_train=trap, y_train=trap, x_test=trap, y_test=trap)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        formats.read_npz(dataset("mnist"), path)
    assert SPRUNG == []
    with np.load(path, allow_pickle=True) as stored:
        assert stored["x_train"].shape == (1,)
    assert SPRUNG == ["sprung"]


HEADER = b"\x93NUMPY\x01\x00\x76\x00"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a zip file"),
        (b"PK\x03\x04 and so on", "not a zip file"),
        (HEADER, "not a zip file"),
        (with_member("y_test.npy", HEADER + b"__import__('os').abort()".ljust(118)), "ValueError"),
        (with_member("y_test.npy", bytes(10**7)), "10,000,000 bytes for an array of shape"),
    ],
)
def test_what_is_no_npz_is_refused(content, words, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    with pytest.raises(ValueError, match=f"expected a whole npz file with the keys .*{words}"):
        formats.read_npz(dataset("cifar10"), tmp_path / "x.npz")


def test_a_missing_key_is_named(tmp_path):
    np.savez(tmp_path / "mnist.npz", x_train=[1], y_train=[1], x_test=[1])
    with pytest.raises(ValueError, match=r"x_train, y_train, x_test, y_test, got KeyError.*y_test"):
        formats.read_npz(dataset("mnist"), tmp_path / "mnist.npz")


@pytest.mark.parametrize("kept", [0, 50, 0.5])
def test_a_truncated_archive_is_refused(kept, tmp_path):
    ((name, whole),) = mnist_tgz(MNIST).items()
    (tmp_path / name).write_bytes(whole[: int(kept * len(whole)) if kept < 1 else kept])
    with pytest.raises(ValueError, match="expected a whole tar archive, got "):
        formats.read_archive(dataset("mnist"), tmp_path / name)


@pytest.mark.parametrize("kind", ["link", "hard link"])
def test_no_link_in_an_archive_is_followed(kind, tmp_path):
    file = IDX_FILES["test_labels"]
    write(tmp_path / "outside", {file: idx(MNIST["test_labels"])})
    path = tmp_path / "x.tgz"
    with tarfile.open(path, "w") as archive:
        for name, content in small_data.idx_files(MNIST).items():
            member = tarfile.TarInfo(f"package/data/{name}")
            if name == file:
                content = b""
                member.type = tarfile.SYMTYPE if kind == "link" else tarfile.LNKTYPE
                member.linkname = str(tmp_path / "outside" / file)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(ValueError, match=f"incomplete: it lacks {file}"):
        formats.read_archive(dataset("mnist"), path)


def test_a_small_file_that_unpacks_to_a_large_one_is_not_unpacked_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "LARGEST", 2**15)
    files = small_data.idx_files(MNIST, ".gz")
    write(
        tmp_path,
        files | {"train-labels-idx1-ubyte.gz": gzip.compress(LABELS + bytes(2**20), mtime=0)},
    )
    with pytest.raises(ValueError, match="cannot reshape array of size 32760"):
        formats.read_folder(dataset("mnist"), tmp_path)


@pytest.mark.parametrize(
    ("name", "inside", "files"), [form for form in FORMS if form[0] != "cifar100"]
)
def test_damage_never_passes(name, inside, files, tmp_path):
    """Flipped bits and truncations in the largest file: refused, or (a date, say) of no effect."""
    row = dataset(name)
    whole = files(SMALL[name])
    write(tmp_path / inside, whole)
    largest = max(whole, key=lambda file: len(whole[file]))
    content, refused = whole[largest], 0
    places = [*range(0, 40), *range(40, len(content), len(content) // 40)]
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        (tmp_path / inside / largest).write_bytes(damaged if place % 3 else content[:place])
        try:
            assert small_data.same(sources.find(row, tmp_path).arrays, name), place
        except sources.NotFound:
            refused += 1
    assert refused > 0.7 * len(places)
