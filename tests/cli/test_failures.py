"""How the command line fails: before the work where it can, in a line, and with what it had."""

import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from shadowflow import __main__, cli, files

ROOT = Path(__file__).parents[2]
PROBLEMS = """
import numpy as np
import jax.numpy as jnp
import shadowflow as sf

calls = 0

def until(count, error):
    def grad(x):
        global calls
        calls += 1
        if calls == count:
            raise error
        return np.asarray(x)
    return sf.Problem(grad=grad, traceable=False), jnp.ones(2)

raises, stopped = until(30, OSError("no licence")), until(30, KeyboardInterrupt())
at_once, of_a_shadow = until(1, OSError("no licence")), until(60, OSError("no licence"))
undefined = sf.Problem(lambda x: nothing(x)), jnp.ones(2)
alike = sf.Problem(lambda p: (p["a/b"] ** 2).sum() + (p["a|b"] ** 2).sum()), {
    "a/b": jnp.ones(3), "a|b": jnp.ones(2)}
"""


@pytest.fixture
def shadow(tmp_path, monkeypatch, capsys):
    """Name of a problem → (exit code, what was said of failures, folders of results)."""
    (tmp_path / "mine.py").write_text(PROBLEMS)
    monkeypatch.chdir(tmp_path)
    words = "shadow opt:momentum --steps 40 --methods differences --quiet --out out".split()

    def run(name):
        code = cli.main([*words, "--problem", f"mine.py:{name}"])
        return code, capsys.readouterr().err, sorted(Path("out").iterdir())

    return run


@pytest.mark.parametrize(
    ("name", "code", "said", "step"),
    [
        (
            "raises",
            2,
            "expected functions that run, got OSError: no licence (in mine.py, grad)",
            29,
        ),
        ("stopped", 130, "stopped;", 29),
    ],
)
def test_what_was_computed_before_an_exception_is_written(shadow, name, code, said, step):
    got, printed, (folder,) = shadow(name)
    assert (got, printed.count("\n")) == (code, 1)
    assert said in printed
    assert f"at step {step}; what came before is in {folder}" in printed
    assert len(files.read_arrays(folder / "arrays.npz")["params"]) == step + 1
    assert (folder / "figure.png").exists()
    assert json.loads((folder / "numbers.json").read_text())["stopped"] is not None


def test_so_are_the_run_and_the_shadows_before_one_that_raises(shadow):
    code, printed, (folder,) = shadow("of_a_shadow")
    assert code == 2
    found = files.read_arrays(folder / "arrays.npz")
    assert len(found["params"]) == 41
    assert 0 < len(found["differences / order 2 / iteration/unfinished/saved"]) < 41
    assert "at step " in printed


@pytest.mark.parametrize("name", ["at_once", "undefined"])
def test_where_nothing_was_computed_nothing_is_written(shadow, name):
    code, printed, (folder,) = shadow(name)
    assert (code, printed.count("\n")) == (2, 1)
    assert [path.name for path in folder.iterdir()] == [files.LOCK]


def test_no_parameter_is_lost_in_the_arrays(shadow):
    _, _, (folder,) = shadow("alike")
    found = files.read_arrays(folder / "arrays.npz")
    assert found["params['a/b']"].shape == (41, 3)
    assert found["params['a|b']"].shape == (41, 2)


def test_two_at_once_in_one_folder_are_one(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for words in ("orders --far 0 --out here", "claims --out here --scale smoke"):
        with files.alone(tmp_path / "here"):
            assert cli.main(words.split()) == 2
        assert "--out: expected a folder in which nothing else is" in capsys.readouterr().err
    with files.alone(tmp_path / "here" / "fig1-smoke"):
        assert cli.main("reproduce fig1 --scale smoke --out here".split()) == 2
    assert "in use by process" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "package"),
    [
        ("shadow", "matplotlib"),
        ("orders", "matplotlib"),
        ("reproduce fig1", "matplotlib"),
        ("verify", "tqdm"),
        ("train", "tqdm"),
        ("claims --launcher ray", "ray"),
        ("sweep --launcher slurm --grid seed=0,1 train", "submitit"),
    ],
)
def test_a_missing_package_is_said_before_the_work(words, package, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, package, None)
    assert cli.main(words.split()) == 2
    said = capsys.readouterr().err
    assert f"needs {package}: pip install 'shadowflow[" in said


def test_without_the_parser_the_command_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "tyro", None)
    assert __main__.main() == 2
    said = "shadowflow: the command line needs tyro: pip install 'shadowflow[cli]'\n"
    assert capsys.readouterr().err == said


def test_the_package_can_be_run():
    done = subprocess.run(
        [sys.executable, "-m", "shadowflow", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert "usage: shadowflow" in done.stdout.lower().replace("\x1b[1m", "")


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        ("shadow opt:adam --lr 1e-3", "--learning-rate"),
        ("train --lr=0.1", "--learning-rate"),
        ("shadow opt:adam --beta1 .9", "--opt.b1"),
        ("train --batch-size 10", "--ghost-batch"),
        ("train --batch_size 10", "--ghost-batch"),
    ],
)
def test_a_flag_of_another_library_gets_a_hint(words, flag, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(words.split())
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith(f"perhaps {flag}")


@pytest.mark.parametrize("words", ["shadow opt:adam", "train"])
def test_a_number_with_a_comma_is_refused_by_its_flag(words, capsys):
    with pytest.raises(SystemExit):
        cli.main([*words.split(), "--learning-rate", "1e-3,"])
    said = capsys.readouterr().err
    assert "--learning-rate" in said
    assert "1e-3," in said


def test_a_problem_in_another_precision_is_another(tmp_path, monkeypatch):
    """The same file has a folder in float32 and one in float64."""
    text = "import shadowflow as sf, jax.numpy as jnp\nmine = sf.Problem(jnp.sum), jnp.ones(2{})\n"
    monkeypatch.chdir(tmp_path)
    keys, job = [], lambda command, settings, *rest: keys.append(settings[0].key())
    stand_in = types.SimpleNamespace(shadow_job=job)
    monkeypatch.setitem(sys.modules, "shadowflow.cli.jobs.shadow", stand_in)
    for dtype, wide in (("", True), ("", False), (", jnp.float16", True), (", jnp.float16", False)):
        Path("mine.py").write_text(text.format(dtype))
        with jax.enable_x64(wide):
            assert cli.main("shadow opt:sgd --problem mine.py:mine".split()) == 0
    assert len(set(keys)) == 4
