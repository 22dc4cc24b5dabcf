"""Files appear whole or not at all; what is no plain file is left alone; one writes at a time."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shadowflow import files

ROOT = Path(__file__).parent.parent


def fifo(path):
    os.mkfifo(path)


def listener(path):
    with socket.socket(socket.AF_UNIX) as end:
        end.bind(str(path))


@pytest.mark.parametrize("make", [Path.mkdir, fifo, listener], ids=["folder", "fifo", "socket"])
def test_what_is_no_plain_file_is_left_alone(tmp_path, monkeypatch, make):
    monkeypatch.chdir(tmp_path)  # the name of a socket is short
    path = Path("there")
    make(path)
    kind = stat.S_IFMT(path.stat().st_mode)
    for call in (lambda: files.write_text(path, "x"), lambda: files.writable_file(path)):
        with pytest.raises(files.NotWritten, match=r"expected a file that can .*no plain|a folder"):
            call()
    assert stat.S_IFMT(path.stat().st_mode) == kind
    assert os.listdir() == ["there"]


def test_a_device_keeps_its_node():
    with pytest.raises(files.NotWritten, match="no plain file"):
        files.write_text(Path("/dev/full"), "x")
    assert stat.S_ISCHR(Path("/dev/full").stat().st_mode)


def test_a_link_stays_one_and_what_it_names_is_written(tmp_path):
    (tmp_path / "far").mkdir()
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "far" / "file")
    files.write_text(files.writable_file(link), "x")
    assert link.is_symlink()
    assert (tmp_path / "far" / "file").read_text() == "x"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a\0b", "null byte"),
        ("a" * 300, "too long"),
        ("no/such/file", "no folder"),
        (".", "folder"),
    ],
)
def test_a_name_that_cannot_be_is_refused_before_work(tmp_path, name, said):
    with pytest.raises(files.NotWritten, match=rf"--json: expected a file that can .*{said}"):
        files.writable_file(tmp_path / name, "--json")
    assert not list(tmp_path.iterdir())


def test_the_longest_name_can_be_written(tmp_path):
    assert files.write_text(tmp_path / ("a" * 255), "x").read_text() == "x"


@pytest.mark.parametrize("number", files.NO_SPACE)
def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path, number):
    path = files.write_text(tmp_path / "file", "old")

    def full(draft):
        draft.write_text("half")
        raise OSError(number, os.strerror(number))

    with pytest.raises(ValueError, match=r"file: expected a file that .*the disk is full.*is kept"):
        files.write(path, full)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_what_must_last_is_on_the_disk_before_it_is_at_its_place(tmp_path, monkeypatch):
    path, flushed = tmp_path / "file", []
    monkeypatch.setattr(files, "to_disk", lambda what: flushed.append((what, path.exists())))
    files.write_text(path, "x").unlink()
    assert flushed == []
    files.write_text(path, "x", durable=True)
    (draft, before), folder = flushed
    assert draft.suffix == files.DRAFT and not before
    assert folder == (tmp_path, True)


def test_no_two_arrays_become_one(tmp_path):
    names = ["a/b", "a|b", "a%7Cb", "a%2Fb", "a\0b", "a\0c", "a%00b", "a%b", "a%25b"]
    arrays = {name: np.asarray([number]) for number, name in enumerate(names)}
    found = files.read_arrays(files.write_arrays(tmp_path / "x.npz", arrays))
    assert {name: array.tolist() for name, array in found.items()} == {
        name: [number] for number, name in enumerate(names)
    }


def test_a_digest_is_that_of_the_values_under_their_names():
    one = files.digest({"a": 1, "b": {"c": [2], "d": None}})
    assert files.digest({"b": {"d": None, "c": [2]}, "a": 1}) == one
    assert files.digest({"a": 1, "b": {"c": [2], "d": 0}}) != one


def test_a_folder_is_one_process_at_a_time_and_free_when_that_dies(tmp_path):
    script = (
        "import sys, pathlib; from shadowflow.files import alone\n"
        f"with alone(pathlib.Path({str(tmp_path)!r})):\n"
        "    print('inside', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, cwd=ROOT)
    assert process.stdout.readline() == b"inside\n"
    said = rf"--out: expected .* \(in use by process {process.pid} on"
    with pytest.raises(ValueError, match=said), files.alone(tmp_path):
        raise AssertionError
    process.kill()
    process.communicate()
    mine = rf"in use by process {os.getpid()} on"
    with files.alone(tmp_path), pytest.raises(files.NotWritten, match=mine), files.alone(tmp_path):
        raise AssertionError
