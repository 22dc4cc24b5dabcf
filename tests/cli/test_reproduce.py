"""`shadowflow reproduce`: what it writes, draws anew, refuses, and returns."""

import contextlib
import io
import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from shadowflow import cli
from shadowflow.cli.jobs import reproduce
from shadowflow.cli.reproduce import Reproduce
from shadowflow.files import LOCK, read_arrays, write_arrays
from shadowflow.paper.evidence import below, near
from shadowflow.paper.figures import figure1, figure2, figure3

QUICK = figure1.Potentials(points=12, b2s=(0.95, 0.98, 0.99), eps_roots=(1e-2,))


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setitem(figure1.SCALES, "smoke", QUICK)


def run(*words):
    return cli.main(["reproduce", *map(str, words)])


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """One run: its folder, its exit code, what it printed."""
    out, shown = tmp_path_factory.mktemp("made"), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown):
        patch.setitem(figure1.SCALES, "smoke", QUICK)
        code = run("fig1", "--scale", "smoke", "--out", out, "--quiet")
    return out / "fig1-smoke", code, shown.getvalue()


@pytest.fixture
def folder(made, quick, tmp_path):
    """The folder of that run, to be changed."""
    return shutil.copytree(made[0], tmp_path / "fig1-smoke")


def test_it_writes_arrays_pictures_and_evidence(made):
    folder, code, shown = made
    assert code == 1  # too few points
    names = {path.name for path in folder.iterdir()}
    assert names == {"arrays.npz", "evidence.json", "figure.pdf", "figure.png", LOCK}
    content = json.loads(folder.joinpath("evidence.json").read_text("utf-8"))
    assert content["configuration"]["points"] == QUICK.points
    assert content["caption"] == figure1.caption({}, QUICK)
    assert content["holds"] is False
    for row in content["rows"]:
        assert {"claim", "expected", "measured", "tolerance", "holds", "run"} == set(row)
    assert shown.count("DOES NOT HOLD") == sum(not row["holds"] for row in content["rows"]) > 0
    assert content["caption"] in shown


def test_redrawing_computes_nothing(folder, tmp_path, monkeypatch):
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for name in ("figure.png", "figure.pdf", "evidence.json"):
        folder.joinpath(name).unlink()
    monkeypatch.setattr(figure1, "compute", None)
    run("fig1", "--scale", "smoke", "--out", tmp_path, "--redraw")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    look = tmp_path / "look.mplstyle"
    look.write_text("axes.facecolor: yellow\n")
    run("fig1", "--scale", "smoke", "--out", tmp_path, "--redraw", "--style", look)
    assert folder.joinpath("figure.png").read_bytes() != before["figure.png"]
    assert folder.joinpath("evidence.json").read_bytes() == before["evidence.json"]


def test_redrawing_refuses_other_arrays(folder, tmp_path, monkeypatch, capsys):
    assert run("fig1", "--scale", "smoke", "--out", tmp_path / "empty", "--redraw") == 2
    assert "--redraw: expected arrays in" in capsys.readouterr().err
    monkeypatch.setitem(figure1.SCALES, "smoke", figure1.Potentials(points=13))
    assert run("fig1", "--scale", "smoke", "--out", tmp_path, "--redraw") == 2
    assert "arrays of the present configuration" in capsys.readouterr().err


def test_missing_data_are_said_before_anything_is_computed(tmp_path, monkeypatch, capsys):
    for module in (figure1, figure2, figure3):
        monkeypatch.setattr(module, "compute", None)
    empty = tmp_path / "empty"
    empty.mkdir()
    assert run("all", "--out", tmp_path / "out", "--data-dir", empty) == 2
    message = capsys.readouterr().err
    assert "mnist" in message
    assert str(empty) in message


def test_what_does_not_hold_is_told_first():
    rows = [below("small", 0.5, 1.0), below("large", 2.0, 1.0), near("right", 3.0, 3.0, 0.1)]
    lines = reproduce.tell("fig9", "A title", "A caption.", rows).splitlines()
    assert lines[2:] == [
        "2 of 3 rows of evidence hold.",
        "  DOES NOT HOLD  large: 2 (expected < 1)",
        "  holds  small: 0.5 (expected < 1)",
        "  holds  right: 3 (expected 3 ± 0.1)",
    ]


def test_bad_words_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit) as caught:
        run("fig13")
    assert caught.value.code == 2
    assert run("fig1", "--style", tmp_path / "none.mplstyle") == 2
    assert "--style: expected a file" in capsys.readouterr().err
    taken = tmp_path / "file"
    taken.touch()
    assert run("fig1", "--out", taken) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


def test_all_figures_are_the_default():
    command = cli.parse(["reproduce"])
    assert (command.figures, command.scale) == (("all",), None)


def test_progress_adds_up(quick):
    done = []
    bar = SimpleNamespace(update=done.append)
    figure1.compute(QUICK, {}, bar)
    assert sum(done) == bar.total == len(figure1.curves(QUICK))


def test_arrays_come_back(tmp_path):
    arrays = {"a/b": np.arange(3.0), "words": np.asarray("holds")}
    again = read_arrays(write_arrays(tmp_path / "x.npz", arrays))
    assert set(again) == set(arrays)
    assert again["a/b"].tolist() == [0, 1, 2]
    assert str(again["words"]) == "holds"


@pytest.mark.slow
def test_the_smoke_scale_holds(tmp_path, capsys):
    """The figure of the real MNIST, as the command makes it."""
    try:
        command = Reproduce(figures=("fig3",), scale="smoke", out=tmp_path, quiet=True)
        good = reproduce.reproduce_job(command, lambda wanted: [])
    except ValueError as error:
        pytest.skip(f"shadowflow data get mnist: {error}")
    assert good, capsys.readouterr().out
