"""The launchers by stand-ins of their packages, and what a command does that is interrupted."""

import dataclasses
import os
import re
import signal
import sys
import types

import jax
import pytest

from shadowflow.cli.claims import Claims
from shadowflow.cli.jobs import cost, sweep as jobs
from shadowflow.files import write_json
from shadowflow.lab import locks
from shadowflow.lab.sweep import launch, plan, table, work
from shadowflow.lab.sweep.grid import Block
from shadowflow.lab.training import history, start
from shadowflow.lab.training.config import Training
from shadowflow.lab.training.start import network_of
from shadowflow.paper.records import Record

SMALL = Training(width=0.25, images=60, test_images=20, epochs=3, ghost_batch=30)


def sweep(folder, seeds=(0, 1, 2)):
    made = plan.sweep_of(SMALL, [Block({"seed": seeds})], folder, "three", threads=3)
    made.write()
    return made


def end_one(made):
    """What a worker does that lives for one cell."""
    for cell in made.left()[:1]:
        folder = made.folder_of(cell)
        folder.mkdir(exist_ok=True)
        history.append(folder / "history.jsonl", {"epoch": 0})
        write_json(folder / "config.json", start.identity(cell.settings))
        sealed = history.seal(folder / "history.jsonl")
        write_json(folder / "done.json", {"reason": "epochs", "epoch": 3, "history": sealed})


class Jobs:
    """Workers that end a cell and then die; how many there were, at once and in all."""

    def __init__(self, made):
        self.made, self.sent, self.working, self.most, self.cancelled = made, [], 0, 0, []

    def send(self, words):
        assert words == [str(self.made.file.resolve())]
        self.sent.append(len(self.sent))
        self.working += 1
        self.most = max(self.most, self.working)
        return self.sent[-1]

    def end(self):
        end_one(self.made)
        self.working -= 1


@pytest.fixture
def submitit(tmp_path, monkeypatch):
    made = sweep(tmp_path)
    found = Jobs(made)
    found.given = {}

    class Job:
        state = "COMPLETED"

        def __init__(self, number):
            self.job_id, self.looks = number, 0

        def done(self):
            self.looks += 1
            if self.looks == 2:
                found.end()
            return self.looks >= 2

        def cancel(self):
            found.cancelled.append(self.job_id)

    class AutoExecutor:
        def __init__(self, folder, cluster):
            found.given |= {"folder": folder, "cluster": cluster}

        def update_parameters(self, **parameters):
            found.given |= parameters

        def submit(self, function, words):
            assert function is work.main
            return Job(found.send(words))

    stand_in = types.SimpleNamespace(AutoExecutor=AutoExecutor)
    monkeypatch.setitem(sys.modules, "submitit", stand_in)
    monkeypatch.setattr(launch, "PATIENCE", 0.0)
    return found


def test_jobs_of_slurm_are_sent_until_every_cell_has_ended(submitit):
    made, looks = submitit.made, []
    options = {"timeout_min": 7, "slurm_partition": "gpu"}
    watch = lambda: looks.append(len(made.left()))
    launch.slurm(made, 2, watch, cluster="local", options=options)
    assert made.left() == []
    assert (submitit.most, len(submitit.sent)) == (2, 4)  # the fourth while the third works
    assert submitit.given == {
        "folder": made.folder / "jobs",
        "cluster": "local",
        "name": "sweep-three",
        "cpus_per_task": 3,
        **options,
    }
    assert looks[0] == 3
    assert submitit.cancelled == []


def test_jobs_of_slurm_are_cancelled_where_the_command_is_stopped(submitit):
    def stop():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        launch.slurm(submitit.made, 5, stop, cluster="local")
    assert submitit.cancelled == [0, 1, 2]  # no more than there are cells
    assert len(submitit.made.left()) == 3


def test_jobs_that_end_without_having_done_anything_are_given_up(submitit, monkeypatch):
    monkeypatch.setattr(submitit, "end", lambda: None)
    with pytest.raises(ValueError, match=r"got 5 deaths in a row, .*job 4 is COMPLETED"):
        launch.slurm(submitit.made, 1, lambda: None, cluster="local")


@pytest.mark.parametrize("started", [False, True])
def test_tasks_of_ray_are_sent_until_every_cell_has_ended(tmp_path, monkeypatch, started):
    """A cluster that was there before is left as it is."""
    found, calls = Jobs(sweep(tmp_path)), []

    class RayError(Exception):
        pass

    def remote(**options):
        calls.append(options)
        return lambda function: types.SimpleNamespace(remote=found.send)

    def wait(tasks, timeout, num_returns=1):
        found.end()
        return tasks, []

    def get(task):
        raise RayError("died\nin two lines")

    stand_in = types.SimpleNamespace(
        is_initialized=lambda: started,
        init=lambda **options: calls.append("init"),
        remote=remote,
        wait=wait,
        get=get,
        shutdown=lambda: calls.append("shutdown"),
        exceptions=types.SimpleNamespace(RayError=RayError),
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    monkeypatch.setattr(launch, "PATIENCE", 0.0)
    launch.ray(found.made, 2, lambda: None)
    assert found.made.left() == []
    assert (found.most, len(found.sent)) == (2, 4)
    (options,) = (call for call in calls if isinstance(call, dict))
    assert options["num_cpus"] == 3
    assert options["runtime_env"] == {"env_vars": dict.fromkeys(work.THREADS, "3")}
    assert [call for call in calls if call in ("init", "shutdown")] == (
        [] if started else ["init", "shutdown"]
    )
    assert launch._reason(stand_in, 0) == "RayError: died"


def test_tasks_of_ray_are_cancelled_where_the_command_is_stopped(tmp_path, monkeypatch):
    found = Jobs(sweep(tmp_path))

    def stop():
        raise KeyboardInterrupt

    def cancel(task, force=False):
        found.cancelled.append((task, force))

    stand_in = types.SimpleNamespace(
        is_initialized=lambda: True,
        remote=lambda **options: lambda function: types.SimpleNamespace(remote=found.send),
        wait=lambda tasks, timeout, num_returns: (tasks[:1], tasks[1:]),
        cancel=cancel,
    )
    monkeypatch.setitem(sys.modules, "ray", stand_in)
    with pytest.raises(KeyboardInterrupt):
        launch.ray(found.made, 2, stop)
    assert found.cancelled == [(0, False), (1, False), (1, True)]


class Process:
    """A worker process that ends its cell before the second look."""

    def __init__(self, found, words, options):
        self.found, self.looks, self.returncode = found, 0, 7
        found.given = words, options
        found.send([words[-2]])

    def poll(self):
        self.looks += 1
        if self.looks == 2:
            self.found.end()
        return None if self.looks < 2 else self.returncode

    def communicate(self):
        pass


def test_processes_are_started_until_every_cell_has_ended(tmp_path, monkeypatch):
    """Each with the sweep's number of threads, and marked as dead when it has ended."""
    made = sweep(tmp_path)
    found = Jobs(made)
    popen = lambda words, **options: Process(found, words, options)
    monkeypatch.setattr(launch.subprocess, "Popen", popen)
    monkeypatch.setattr(launch, "PATIENCE", 0.0)
    launch.local(made, 2, lambda: None)
    assert made.left() == [] and (found.most, len(found.sent)) == (2, 4)
    (*_, module, file, token), options = found.given
    assert (module, file) == ("shadowflow.lab.sweep.work", str(made.file))
    assert {options["env"][name] for name in work.THREADS} == {"3"}
    assert (tmp_path / locks.WORKERS / f"{token}.dead").exists()
    assert len(list((tmp_path / locks.WORKERS).iterdir())) == 4


@pytest.mark.parametrize(("launcher", "package"), [("slurm", "submitit"), ("ray", "ray")])
def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch, launcher, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr(launch.shutil, "which", lambda name: name)
    words = f"--launcher {launcher} needs {package}: pip install 'shadowflow.{launcher}.'"
    with pytest.raises(ImportError, match=words):
        getattr(launch, launcher)(sweep(tmp_path), 1, lambda: None)


# The command


def interrupted(*arguments, **options):
    raise KeyboardInterrupt


@pytest.mark.parametrize("launcher", ["local", "slurm", "ray"])
def test_a_sweep_that_is_stopped_says_so(tmp_path, capsys, monkeypatch, launcher):
    made, before = sweep(tmp_path), signal.getsignal(signal.SIGTERM)
    end_one(made)
    monkeypatch.setattr(launch, launcher, interrupted)
    assert jobs.sweep_job(made, launcher, 2, quiet=True) == 130
    said = capsys.readouterr().out
    assert "Stopped. 1 done, 2 waiting; the same command resumes" in said
    assert signal.getsignal(signal.SIGTERM) is before


def test_sigterm_stops_a_sweep_as_ctrl_c_does(tmp_path, capsys, monkeypatch):
    made = sweep(tmp_path)
    kill = lambda *arguments: os.kill(os.getpid(), signal.SIGTERM)
    monkeypatch.setattr(launch, "local", kill)
    assert jobs.sweep_job(made, "local", 2, quiet=True) == 130
    assert "Stopped. 3 waiting" in capsys.readouterr().out


def test_a_single_cell_that_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "work", interrupted)
    assert jobs.one_job(sweep(tmp_path), 1, quiet=True) == 130


@pytest.mark.parametrize(("error", "code"), [(None, 0), ("of a cold", 1)])
def test_a_single_cell_that_fails(tmp_path, monkeypatch, capsys, error, code):
    made = sweep(tmp_path)

    def end(made, cells, progress):
        (cell,) = cells
        name, content = ("done.json", {"reason": "epochs", "epoch": 3})
        if error:
            name, content = "failed.json", {"error": error}
        write_json(made.folder_of(cell) / name, content)

    monkeypatch.setattr(work, "work", end)
    assert jobs.one_job(made, 1, quiet=True) == code
    state = "failed, of a cold" if error else "done"
    assert capsys.readouterr().out == f"cell 1 (seed=1): {state}\n"


def test_how_a_sweep_ended_is_told_and_a_failure_is_its_exit_code(tmp_path, capsys):
    made = sweep(tmp_path)
    ends = ({"reason": "epochs", "epoch": 3}, {"reason": "non-finite", "epoch": 2})
    for cell, content in zip(made.cells, ends, strict=False):
        write_json(made.folder_of(cell) / "done.json", content)
    write_json(made.failure(made.cells[2]), {"error": "of a cold"})
    assert jobs.ended(made) == 1
    head, *rest = capsys.readouterr().out.splitlines()
    assert head.startswith("1 done, 1 non-finite, 1 failed. Written to")
    assert rest == ["cell 1 (seed=1): non-finite", "cell 2 (seed=2): failed: of a cold"]
    made.forget_failures()
    assert jobs.ended(made) == 0


def test_a_cell_is_running_while_its_worker_lives(tmp_path):
    made = sweep(tmp_path)
    worker = locks.Worker(tmp_path, made.patience)
    beat, key = worker.file(worker.token), made.cells[1].settings.key()
    states = lambda: [row.state for row in table.standings(made)]
    assert worker.acquire(key) and states() == ["waiting"] * 3  # no heartbeat yet
    beat.parent.mkdir()
    beat.touch()
    assert states() == ["waiting", "running", "waiting"]
    late = beat.stat().st_mtime - made.patience - 1
    os.utime(beat, (late, late))
    assert states() == ["waiting"] * 3
    beat.touch()
    locks.bury(tmp_path, worker.token)
    assert states() == ["waiting"] * 3


def test_the_time_that_is_left_is_shared_by_those_at_work(tmp_path):
    """40 + 10 s of two that run, three epochs of the median 10 s of the one that waits: 80 / 2."""
    cell = sweep(tmp_path).cells[0]
    rows = [
        table.Standing(cell, state, epoch, seconds)
        for state, epoch, seconds in (
            ("running", 1, 20.0),
            ("running", 2, 10.0),
            ("waiting", 0, None),
            ("done", 1, 1.0),  # which had reached its accuracy
        )
    ]
    assert jobs._left(rows) == " About 00:40 left with 2 at work."
    assert jobs._left(rows[3:]) == ""
    assert "is not known" in jobs._left(rows[2:3])


def test_runs_of_several_workers_are_a_sweep_in_the_order_asked_for(tmp_path, monkeypatch):
    """A done run is found again; its record is what lies in the folder."""
    wanted = [Training(**{**SMALL.plain(), "seed": seed}) for seed in (4, 1)]

    def finish(made, workers, watch):
        assert (workers, [cell.values["seed"] for cell in made.cells]) == (2, [4, 1])
        assert [cell.values["opt.b2"] for cell in made.cells] == [0.999, 0.999]
        while made.left():
            end_one(made)

    monkeypatch.setattr(launch, "local", finish)
    command = Claims(out=tmp_path, workers=2, quiet=True)
    records = jobs.obtained(command)(wanted)
    assert all(isinstance(record, Record) for record in records)
    assert [record.settings for record in records] == wanted
    assert [record.reason for record in records] == ["epochs"] * 2
    monkeypatch.setattr(launch, "local", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jobs.obtained(command)(wanted)


# The cost


def test_runs_that_cost_alike_have_network_and_data_in_common(monkeypatch, capsys):
    runs = [Training(model=m, dataset=d) for m in ("mlp", "cnn") for d in ("digits", "mnist")]
    runs.append(dataclasses.replace(runs[0], seed=1))
    grid = types.SimpleNamespace(scale="paper", runs=lambda: runs)
    monkeypatch.setattr(cost, "measured", lambda settings, data_dir: cost.Cost(36.0, 2**30))
    cost.ask([grid, grid], None, yes=True)  # what two grids share is there once
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    counts = {name: re.search(r"(\d+) runs of", line)[1] for name, line in said.items()}
    assert counts == {
        "mlp on digits": "2",
        "mlp on mnist": "1",
        "cnn on digits": "1",
        "cnn on mnist": "1",
    }


def test_the_cost_is_on_the_line_through_two_short_runs(monkeypatch):
    asked = []

    def seconds(settings, images, tests, data_dir):
        asked.append((images, tests))
        return 2.0 + 0.5 * images

    monkeypatch.setattr(cost, "_seconds", seconds)
    found = cost.measured(Training(width=0.25, images=600, test_images=150, ghost_batch=60))
    assert asked == [(8, 2), (24, 6)]  # a quarter as many to test on, as in the run
    assert found.seconds == pytest.approx(2.0 + 0.5 * 600)
    network = network_of(SMALL)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(network.init(jax.random.key(0))[0]))
    assert cost.size(network) == 4 * numbers
    assert found.memory == cost.batch_memory(network, 60) + cost.COPIES * 4 * numbers
    assert cost.batch_memory(network, 120) > cost.batch_memory(network, 60) > 60 * 64 * 4


def test_the_seconds_of_a_short_run_are_those_that_it_wrote(monkeypatch):
    """The shortest epoch after the first two, which compile; the run is gone afterwards."""
    folders = []

    def fake(settings, folder, **options):
        assert (settings.images, settings.test_images, settings.ghost_batch) == (8, 2, 8)
        folders.append(folder)
        for epoch, value in enumerate((0.1, 0.2, 0.9, 0.7, 0.8)):
            history.append(folder / "timing.jsonl", {"epoch": epoch, "seconds": value})
        return types.SimpleNamespace(folder=folder)

    monkeypatch.setattr(cost, "train", fake)
    assert cost._seconds(SMALL, 8, 2, None) == 0.7
    assert not folders[0].exists()
