"""The launchers by stand-ins of their packages, and what a command does that is interrupted."""

import os
import signal
import sys
import types

import jax
import pytest

from shadowflow.cli.jobs import cost, sweep as jobs
from shadowflow.files import write_json
from shadowflow.lab.sweep import launch, plan, work
from shadowflow.lab.sweep.grid import Block
from shadowflow.lab.training import history
from shadowflow.lab.training.config import Training
from shadowflow.lab.training.start import network_of
from shadowflow.paper.records import Record

SMALL = Training(width=0.25, images=60, test_images=20, epochs=3, ghost_batch=30)


def sweep(folder, seeds=(0, 1, 2)):
    made = plan.sweep_of(SMALL, [Block({"seed": seeds})], folder, "three")
    made.write()
    return made


def end_one(made):
    """What a worker does that lives for one cell."""
    for cell in made.left()[:1]:
        folder = made.folder_of(cell)
        folder.mkdir(exist_ok=True)
        history.append(folder / "history.jsonl", {"epoch": 0})
        write_json(folder / "done.json", {"reason": "epochs", "epoch": 3})


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
        "cpus_per_task": made.threads,
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
    assert options["num_cpus"] == found.made.threads
    assert options["runtime_env"] == {"env_vars": work.environment(found.made.threads)}
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


@pytest.mark.parametrize("package", ["submitit", "ray"])
def test_a_package_that_is_missing_is_named(monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"needs {package}: pip install 'shadowflow"):
        launch.extra(package, package)


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


def test_runs_of_several_workers_are_a_sweep_in_the_order_asked_for(tmp_path, monkeypatch):
    """A done run is found again; its record is what lies in the folder."""
    wanted = [Training(**{**SMALL.plain(), "seed": seed}) for seed in (4, 1)]

    def finish(made, workers, watch):
        assert (workers, [cell.values["seed"] for cell in made.cells]) == (2, [4, 1])
        assert [cell.values["opt.b2"] for cell in made.cells] == [0.999, 0.999]
        while made.left():
            end_one(made)

    monkeypatch.setattr(launch, "local", finish)
    records = jobs.obtained(tmp_path, "local", 2, quiet=True)(wanted)
    assert all(isinstance(record, Record) for record in records)
    assert [record.settings for record in records] == wanted
    assert [record.reason for record in records] == ["epochs"] * 2
    monkeypatch.setattr(launch, "local", interrupted)
    with pytest.raises(KeyboardInterrupt):
        jobs.obtained(tmp_path, "local", 2, quiet=True)(wanted)


# The cost


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
