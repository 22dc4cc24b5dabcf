"""Workers killed in the middle of a sweep, by each launcher: every cell ends, bit for bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from runs import contents

from shadowflow.lab import locks
from shadowflow.lab.sweep import launch, plan, table
from shadowflow.lab.sweep.grid import Block
from shadowflow.lab.training.config import Training

ROOT = Path(__file__).parents[2]
WORDS = "--width 0.25 --images 60 --test-images 20 --epochs 400 --ghost-batch 30".split()
BASE = Training(width=0.25, images=60, test_images=20, epochs=400, ghost_batch=30)


def sweep(folder):
    made = plan.sweep_of(BASE, [Block({"seed": (0, 1, 2)})], folder, patience=2.0)
    made.write()
    return made


class Killer:
    """Sends a signal, once, to whoever works on a cell that has got so far."""

    def __init__(self, made, number=signal.SIGKILL, cells=(0, 1, 2), lines=30):
        self.made, self.number, self.lines, self.killed = made, number, lines, None
        self.cells = [made.cells[index] for index in cells]

    def __call__(self):
        for cell in self.cells:
            path = self.made.folder_of(cell) / "history.jsonl"
            far = path.exists() and path.read_bytes().count(b"\n") >= self.lines
            _, owner = locks.newest(self.made.run_dir, cell.settings.key())
            if self.killed is None and far and owner is not None:
                beat = self.made.run_dir / locks.WORKERS / owner
                os.kill(int(beat.read_text().split()[0]), self.number)
                self.killed = cell.index


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What the command makes of every cell by itself, with as many threads."""
    folder = tmp_path_factory.mktemp("alone")
    found = []
    for seed in (0, 1, 2):
        command = [sys.executable, "-m", "shadowflow", "train", *WORDS, "--seed", str(seed)]
        subprocess.run(
            [*command, "--quiet", "--run-dir", str(folder)],
            cwd=ROOT,
            check=True,
            env=os.environ | {"NPROC": "1"},
            stdout=subprocess.DEVNULL,
        )
        found.append(contents(sweep(folder).folder_of(sweep(folder).cells[seed])))
    return found


def check(made, killer, alone):
    assert killer.killed is not None
    assert [row.state for row in table.standings(made)] == ["done"] * 3
    assert [contents(made.folder_of(cell)) for cell in made.cells] == alone
    number, _ = locks.newest(made.run_dir, made.cells[killer.killed].settings.key())
    assert number > 0, "another worker had to take it over"


@pytest.mark.slow
def test_processes_of_this_machine(tmp_path, alone):
    made = sweep(tmp_path)
    killer = Killer(made)
    launch.local(made, 2, killer)
    check(made, killer, alone)


@pytest.mark.slow
def test_submitit(tmp_path, alone):
    pytest.importorskip("submitit")
    made = sweep(tmp_path)
    killer = Killer(made)
    launch.slurm(made, 2, killer, cluster="local", options={"timeout_min": 10})
    check(made, killer, alone)


@pytest.mark.slow
def test_jobs_that_are_told_to_end_are_sent_anew(tmp_path, alone):
    """The time of one is up, the machine of the other is needed: neither is a failed cell."""
    pytest.importorskip("submitit")
    made = sweep(tmp_path)
    killers = [Killer(made, signal.SIGUSR2, (0,)), Killer(made, signal.SIGTERM, (1,))]
    launch.slurm(made, 2, lambda: [killer() for killer in killers], cluster="local")
    for killer in killers:
        check(made, killer, alone)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray(tmp_path, alone, monkeypatch):
    pytest.importorskip("ray")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    made = sweep(tmp_path)
    killer = Killer(made)
    launch.ray(made, 2, killer)
    check(made, killer, alone)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_it_leaves_nobody_behind_and_goes_on(tmp_path, alone, number):
    command = [
        sys.executable,
        "-m",
        "shadowflow",
        "sweep",
        "--grid",
        "seed=0,1,2",
        "--quiet",
        "--workers",
        "2",
        "--threads",
        "1",
        "--patience",
        "2",
        "--run-dir",
        str(tmp_path),
        "train",
        *WORDS,
    ]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    made = sweep(tmp_path)
    while not any(row.epoch > 20 for row in table.standings(made)):
        time.sleep(0.1)
        assert process.poll() is None
    process.send_signal(number)
    assert "the same command resumes" in process.communicate()[0]
    assert process.returncode == 130
    assert all(row.state != "running" for row in table.standings(made))
    if number == signal.SIGINT:
        assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL).returncode == 0
        assert [contents(made.folder_of(cell)) for cell in made.cells] == alone


@pytest.mark.slow
def test_workers_end_with_the_command_that_was_killed(tmp_path):
    words = ["sweep", "--grid", "seed=0,1", "--quiet", "--workers", "2", "--run-dir", str(tmp_path)]
    command = [sys.executable, "-m", "shadowflow", *words, "train", *WORDS]
    process = subprocess.Popen([*command, "--epochs", "100000"], cwd=ROOT)
    while len(list(tmp_path.glob("*/history.jsonl"))) < 2:
        time.sleep(0.1)
        assert process.poll() is None
    process.kill()
    process.wait()
    workers = tmp_path / locks.WORKERS
    until = time.monotonic() + 30
    while len(list(workers.glob("*.dead"))) < 2:
        time.sleep(0.1)
        assert time.monotonic() < until
    made = plan.find(tmp_path)
    assert [row.state for row in table.standings(made)] == ["waiting"] * 2
