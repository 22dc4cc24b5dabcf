"""Training killed by SIGKILL, wherever it happens to be, and at every point between two writes."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from killing import soak
from runs import contents

from shadowflow.lab.training import history


@pytest.mark.slow
def test_killed_it_goes_on_to_the_bit(tmp_path):
    """SIGKILL at random points of a real process, then to the end, against a run left alone."""
    killed, alone, kills = soak(tmp_path, kills=2, epochs=150, spread=0.3)
    assert kills > 0
    assert killed == alone


MORTAL = """
import dataclasses, os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
from runs import SMALL
from shadowflow.lab.training import checkpoint, history
from shadowflow.lab.training.start import train

def die():
    os.kill(os.getpid(), signal.SIGKILL)

append, replace, save = history.append, os.replace, checkpoint.save

def mortal_append(path, record):
    if (path.name, record["epoch"]) == ("history.jsonl", {epoch}):
        if {point!r} == "before the line":
            die()
        if {point!r} == "within the line":
            path.open("a").write('{{"epoch": {epoch}, "train_l')
            die()
    append(path, record)
    if (path.name, record["epoch"]) == ("history.jsonl", {epoch}) and {point!r} == "after it":
        die()

def mortal_replace(draft, path):
    if {point!r} == "before the manifest" and Path(path).name == "{epoch:08d}.json":
        die()
    replace(draft, path)

def mortal_save(folder, epoch, *rest):
    if (epoch, {point!r}) == ({epoch}, "before the checkpoint"):
        die()
    save(folder, epoch, *rest)
    if (epoch, {point!r}) == ({epoch}, "after the checkpoint"):
        die()

history.append, os.replace, checkpoint.save = mortal_append, mortal_replace, mortal_save
train(dataclasses.replace(SMALL, epochs=16), Path({folder!r}), checkpoint_every=3)
"""
POINTS = (
    ("within the line", 1),
    ("before the checkpoint", 3),
    ("before the manifest", 6),
    ("after the checkpoint", 6),
    ("after it", 8),
    ("before the line", 9),
    ("within the line", 11),
)


@pytest.mark.slow
def test_killed_between_any_two_writes_it_goes_on_to_the_bit(tmp_path):
    """One real run, killed at each of the points in turn; five epochs are left after the last."""
    alone = run_to(tmp_path / "alone", "nowhere", -1)
    lost = []
    for point, epoch in POINTS:
        folder = run_to(tmp_path / "killed", point, epoch)
        saved = max((int(path.stem) for path in folder.glob("checkpoints/0*.json")), default=0)
        lost.append(len(history.read(folder / "history.jsonl")) - saved)
    assert set(lost) >= {0, 1, 2, 3}  # a checkpoint newer than any line, and lines newer than it
    assert contents(run_to(tmp_path / "killed", "nowhere", -1)) == contents(alone)


def run_to(runs, point, epoch):
    """The folder of the run, gone on with in a process of its own until it dies there."""
    script = MORTAL.format(
        tests=str(Path(__file__).parents[1]), point=point, epoch=epoch, folder=str(runs)
    )
    done = subprocess.run([sys.executable, "-c", script], check=False)
    assert done.returncode == (0 if point == "nowhere" else -signal.SIGKILL), (point, epoch)
    (folder,) = runs.glob("mlp-*")
    return folder
