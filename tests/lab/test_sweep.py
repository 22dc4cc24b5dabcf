"""Sweeps: which cells, one worker each, and what is said of them."""

import concurrent.futures
import json
import re

import numpy as np
import polars
import pytest

from shadowflow import cli
from shadowflow.cli.jobs.sweep import status
from shadowflow.cli.sweep import parse
from shadowflow.lab import locks
from shadowflow.lab.sweep import launch, plan, table, work
from shadowflow.lab.sweep.grid import Block, axis, cells, read
from shadowflow.lab.training import history
from shadowflow.lab.training.config import Training
from shadowflow.lab.training.start import train

SMALL = Training(width=0.25, images=60, test_images=20, epochs=4, ghost_batch=30)


def sweep(folder, epochs=4, **axes):
    base = Training(**{**SMALL.plain(), "epochs": epochs})
    return plan.sweep_of(base, [Block(axes or {"seed": (0, 1)})], folder)


# The cells


def test_a_grid_is_the_product_of_its_axes_the_last_one_fastest():
    axes = dict(map(axis, ["opt.b2=0.9,0.99", "--learning-rate=1e-3,1e-4", "augment=true"]))
    found = cells(SMALL, [Block(axes)])
    assert [(c.settings.arguments["b2"], c.settings.learning_rate) for c in found] == [
        (0.9, 1e-3),
        (0.9, 1e-4),
        (0.99, 1e-3),
        (0.99, 1e-4),
    ]
    assert all(cell.settings.augment for cell in found)
    assert [cell.index for cell in found] == [0, 1, 2, 3]
    assert {cell.settings.width for cell in found} == {0.25}


def test_blocks_are_united_and_what_they_share_is_one_cell(tmp_path):
    """As where the paper sweeps ρ at one β, and β at one ρ."""
    file = tmp_path / "grid.toml"
    file.write_text("""
        [train]
        model = "cnn"
        data-dir = "somewhere"
        opt.eps = 0.0
        [[grid]]
        opt.b1 = 0.9
        opt.b2 = [0.9, 0.999]
        [[grid]]
        opt.b1 = [0.5, 0.9]
        opt.b2 = 0.999
    """)
    base, options, blocks, _ = read(file)
    found = [
        (cell.settings.arguments["b1"], cell.settings.arguments["b2"])
        for cell in cells(base, blocks)
    ]
    assert found == [(0.9, 0.9), (0.9, 0.999), (0.5, 0.999)]
    assert (base.model, str(options["data_dir"])) == ("cnn", "somewhere")
    assert base.arguments["eps"] == 0.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--grid seed=0 --grid seed=1 train", "--grid: expected each name once, got seed=0, seed"),
        ("--grid sed=0 train", r"--grid: expected flags of the training \(model.*got 'sed'"),
        ("--grid seed train", "--grid: expected NAME=VALUE,VALUE, got 'seed'"),
        ("--grid seed=a train", "seed: expected a whole number, got 'a'"),
        ("--grid seed=1,1 train", r"cell 1 \(seed=1\): expected each cell once, got the same as"),
        ("--grid width=1,-1 train", r"cell 1 \(width=-1.0\): --width: expected a positive"),
        ("--grid opt.decay=0.9 train", r"cell 0 .*: opt:adam: expected arguments among"),
        ("train", "--grid: expected one or more, got none"),
        ("--grid seed=0", "sweep: expected a TOML file or --grid … train …, got neither"),
        ("nowhere.toml", "FILE: expected a TOML file, got 'nowhere.toml'"),
        ("--grid seed=0 --workers 0 train", "--workers: expected a whole number from 1"),
        ("--grid seed=0 --threads 0 train", "--threads: expected a whole number from 1"),
        ("--grid seed=0 --patience 0 train", "--patience: expected seconds above 0, got 0.0"),
        ("--grid seed=0 --name a/b train", "--name: expected a name that a folder can have"),
        ("--grid seed=0 train --wall-time 9", "--wall-time: expected none behind train, got 9.0"),
        ("--grid seed=0 train --run-dir x", "--run-dir: expected none behind train, got x"),
        ("--grid seed=0 train --log wandb", r"--log: expected none behind train, got \('wandb',\)"),
        ("--grid seed=0 train --describe", "--describe: expected none behind train, got True"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_runs(words, message):
    with pytest.raises(ValueError, match=message):
        parse(words.split()).planned()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--grid opt.b2=0.9,1.5 train", r"cell 1 \(opt.b2=1.5\): b2: expected a finite number"),
        ("--grid images=60,5000 train", r"cell 1 .*--images: expected at most the 1,500 that digi"),
        ("--grid model=mlp,resnet50 train --micro-batch 9", r"cell 1 .*--micro-batch: expected no"),
        ("--grid seed=0 train --dataset cifar10 --data-dir nowhere", r"cell 0 .*cifar10"),
        ("--grid seed=0 --launcher slurm train", "--launcher: expected a machine of Slurm"),
        ("--grid seed=0 --launcher slurm --slurm x train", "--slurm: expected NAME=VALUE, got 'x'"),
    ],
)
def test_what_a_cell_would_refuse_is_refused_before_anything_runs(
    tmp_path, capsys, monkeypatch, words, message
):
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    folder = tmp_path / "runs"
    assert cli.main(["sweep", "--run-dir", str(folder), *words.split()]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not list(folder.glob("*-*/history.jsonl"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nmodl = 'cnn'", "expected flags of the training"),
        ("[grid]\nseed = []", "expected values of seed, got none"),
        ("[grid]\nsed = [1]", r"\[grid\]: expected flags of the training .*got 'sed'"),
        ("[train]\ntest-every = 2\ntest_every = 2", "expected test_every once, got it twice"),
        ("[grid]\ntest-every = [2]\ntest_every = 2", "expected test_every once, got it twice"),
        ("[train]\nimages = 1979-05-27", "images: expected a number, a word, true or false"),
        ("[train]\nseed = 1", r"expected \[grid\] with lists of values, got none"),
        ("[sweep]\n", r"expected \[train\] and \[grid\]"),
        ("seed = ", "FILE: expected a TOML file"),
    ],
)
def test_a_file_that_says_nothing_is_refused(tmp_path, text, message):
    file = tmp_path / "grid.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=message):
        read(file)


def test_a_plan_is_read_as_it_was_written(tmp_path):
    made = sweep(tmp_path)
    made.write()
    found = plan.find(tmp_path)
    assert [cell.settings.key() for cell in found.cells] == [c.settings.key() for c in made.cells]
    assert found.plain() == made.plain()
    other = plan.sweep_of(SMALL, [Block({"seed": (5,)})], tmp_path, made.name)
    with pytest.raises(ValueError, match="--name: expected one that no other sweep"):
        other.write()
    with pytest.raises(ValueError, match=r"DIR: expected one sweep in .*, got none"):
        plan.find(tmp_path / "empty")


# The locks


def test_cores_are_shared_out(monkeypatch):
    cores = lambda process: set(range(10))
    monkeypatch.setattr(plan.os, "sched_getaffinity", cores, raising=False)
    assert [plan.threads_of(workers) for workers in (1, 3, 20)] == [10, 3, 1]


def test_of_many_at_once_one_gets_a_lock(tmp_path):
    workers = [locks.Worker(tmp_path) for _ in range(8)]
    keys = [f"run-{n}" for n in range(40)]
    with concurrent.futures.ThreadPoolExecutor(len(workers)) as pool:
        for key in keys:
            got = list(pool.map(lambda worker, key=key: worker.acquire(key), workers))
            assert sum(lock is not None for lock in got) == 1


def test_a_lock_is_kept_given_up_and_got_again(tmp_path):
    first, second = (locks.Worker(tmp_path, patience=60) for _ in range(2))
    lock = first.acquire("run")
    assert second.acquire("run") is None
    lock.check()
    lock.release()
    again = second.acquire("run")
    assert again.number == lock.number + 1
    assert first.acquire("run") is None


def test_the_lock_of_a_dead_worker_is_taken_over_and_it_notices(tmp_path):
    """Dead is whose heartbeat stands still for as long as that takes, or who has said so."""
    silent, other = (locks.Worker(tmp_path, patience=0.2) for _ in range(2))
    lock = silent.acquire("run")
    assert other.acquire("run") is None  # seen for the first time
    waited = 0
    while (taken := other.acquire("run")) is None:
        waited += 1
        assert waited < 10**6
    with pytest.raises(locks.Lost, match="run: another worker has taken it over"):
        lock.check()
    taken.check()
    lock.release()  # of what it no longer has: nothing
    assert locks.newest(tmp_path, "run") == (taken.number, other.token)
    locks.bury(tmp_path, other.token)
    assert locks.Worker(tmp_path, patience=60).acquire("run") is not None


def test_a_heartbeat_keeps_a_lock(tmp_path):
    with locks.Worker(tmp_path, patience=1.5).alive() as alive:
        alive.acquire("run")
        other = locks.Worker(tmp_path, patience=1.5)
        beats = set()
        while len(beats) < 9:  # longer than patience, in which there are six
            assert other.acquire("run") is None
            if alive.file(alive.token).exists():
                beats.add(alive.file(alive.token).read_text())
    assert other.acquire("run") is not None


def test_the_system_says_who_lives_here_and_the_heartbeat_who_lives_elsewhere(tmp_path):
    look = lambda: locks.Worker(tmp_path, patience=60).lives
    with locks.Worker(tmp_path, patience=60).alive() as near:
        beat = near.file(near.token)
        while locks.machine() not in (beat.read_text() if beat.exists() else ""):
            pass
        assert look()(near.token) is True
    far, again = near.file(locks.fresh()), look()
    far.with_name(f"{far.name}.lock").touch()  # whether it is locked is not seen from here
    for count, known in ((0, None), (0, None), (1, True)):
        far.write_text(f"7 elsewhere {count}")
        assert again(far.name) is known
    far.write_text(f"7 {locks.machine()} 1")
    assert again(far.name) is False


def test_a_run_that_lost_its_lock_writes_no_more(tmp_path):
    calls = 0

    def guard():
        nonlocal calls
        calls += 1
        if calls == 4:  # the first one is before the history is cut
            raise locks.Lost("run")

    with pytest.raises(locks.Lost):
        train(SMALL, tmp_path, guard=guard)
    folder = tmp_path / SMALL.key()
    assert [record["epoch"] for record in history.read(folder / "history.jsonl")] == [0, 1]
    assert not (folder / "checkpoints").exists()


def test_nothing_is_written_where_the_lock_is_lost(tmp_path):
    """Neither the end of a run nor a failure: the cell is another worker's by then."""
    made = sweep(tmp_path, seed=(0,))
    (cell,) = made.cells
    worker, other = (locks.Worker(tmp_path, patience=60) for _ in range(2))
    key = cell.settings.key()

    def taken_over():
        locks.bury(tmp_path, worker.token)
        assert other.acquire(key) is not None

    def fail(*arguments, **options):
        taken_over()
        raise RuntimeError("of a run that is another's")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shadowflow.lab.training.start.train", fail)
        assert work._try(made, cell, worker, None)
    assert not made.ended(cell)
    locks.bury(tmp_path, other.token)  # it is waited for otherwise
    train(cell.settings, tmp_path)
    (made.folder_of(cell) / "done.json").unlink()
    ends = iter([None, None, locks.Lost("run")])  # before the cut, the record, the end

    def guard():
        if (end := next(ends)) is not None:
            raise end

    with pytest.raises(locks.Lost):
        train(cell.settings, tmp_path, guard=guard)
    assert not made.ended(cell)


def test_an_empty_lock_is_free(tmp_path):
    worker = locks.Worker(tmp_path, patience=0.05)
    worker.acquire("run").release()
    (tmp_path / locks.LOCKS / "run.1").touch()
    assert locks.newest(tmp_path, "run") == (1, None)
    lock = worker.acquire("run")
    assert (lock.number, lock.deaths()) == (2, 0)


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"../../x 3"])
def test_a_damaged_lock_neither_stops_a_sweep_nor_its_status(tmp_path, content):
    made = sweep(tmp_path, seed=(0,))
    (cell,) = made.cells
    (tmp_path / locks.LOCKS).mkdir()
    (tmp_path / locks.LOCKS / f"{cell.settings.key()}.0").write_bytes(content)
    assert [row.state for row in table.standings(made)] == ["waiting"]
    work.work(made)
    assert [row.state for row in table.standings(made)] == ["done"]


def test_deaths_in_a_row_at_one_place_are_counted(tmp_path):
    worker = locks.Worker(tmp_path, patience=60)

    def next_one(progress, free=False):
        nonlocal worker
        lock = worker.acquire("run", progress)
        deaths = lock.deaths()
        if free:
            lock.release()
        locks.bury(tmp_path, worker.token)
        worker = locks.Worker(tmp_path, patience=60)
        return deaths

    assert [next_one(n) for n in (0, 0, 0, 7, 7, 7)] == [0, 1, 2, 0, 1, 2]
    assert next_one(7, free=True) == 3
    assert next_one(7) == 0


def test_a_run_that_came_to_its_end_is_no_death(tmp_path):
    for _ in range(2):
        with locks.kept(tmp_path, "run", patience=60) as lock:
            assert lock.deaths() == 0
    assert lock.number == 1


# The work


def test_a_cell_that_kills_its_workers_is_marked(tmp_path, capsys):
    made = sweep(tmp_path, seed=(0,))
    (cell,) = made.cells
    for _ in range(work.DEATHS):
        worker = locks.Worker(tmp_path)
        assert worker.acquire(cell.settings.key()) is not None
        locks.bury(tmp_path, worker.token)
    work.work(made)
    (row,) = table.standings(made)
    assert row.state == "failed"
    assert "3 workers in a row died at the same epoch of it" in row.error
    made.forget_failures()
    work.work(made)
    assert [row.state for row in table.standings(made)] == ["done"]


def test_deaths_are_counted_until_a_cell_gets_on(tmp_path, monkeypatch):
    monkeypatch.setattr(launch, "PATIENCE", 0.0)
    made, sent = sweep(tmp_path), []
    folder = made.folder_of(made.cells[0])
    folder.mkdir()

    def send():
        sent.append("a worker")
        if len(sent) == work.DEATHS + 1:
            history.append(folder / "history.jsonl", {"epoch": 0})

    with pytest.raises(ValueError, match=r"got 5 deaths in a row, the last one: of a cold"):
        launch._keep(made, 1, lambda: None, send, lambda _: "of a cold", lambda _: None)
    assert len(sent) == 2 * (work.DEATHS + 1)


def test_one_cell_fails_one_diverges_and_the_rest_finish(tmp_path, capsys, monkeypatch):
    """What fails is tried again by the next sweep."""
    made = sweep(tmp_path, optimizer=("sgd",), learning_rate=(1e-2, 1e30, 1e-3))
    broken = made.cells[2].settings.key()

    def train_or_fail(settings, run_dir, **options):
        if settings.key() == broken:
            raise RuntimeError("no such luck")
        return train(settings, run_dir, **options)

    made.write()
    with monkeypatch.context() as patch:
        patch.setattr("shadowflow.lab.training.start.train", train_or_fail)
        work.work(made)
    assert [row.state for row in table.standings(made)] == ["done", "non-finite", "failed"]
    text = status(made)
    assert "RuntimeError: no such luck" in text
    assert "1 done, 1 non-finite, 1 failed" in text
    assert "left" not in text
    assert "no such luck" in capsys.readouterr().err
    made.forget_failures()
    work.work(made)
    assert [row.state for row in table.standings(made)] == ["done", "non-finite", "done"]


def test_workers_that_die_again_and_again_are_given_up(tmp_path, monkeypatch):
    """As where they cannot even be imported: a sentence, and not a loop without end."""
    made = sweep(tmp_path)
    made.write()
    monkeypatch.setattr(launch.sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match=r"sweep: expected workers that make progress, got 9"):
        launch.local(made, 2, lambda: None)


def test_the_export_has_all_histories(tmp_path):
    made = sweep(tmp_path, **{"opt.b2": (0.9, 0.99)})
    made.write()
    work.work(made)
    assert cli.main(["sweep", "export", str(tmp_path)]) == 0
    frame = polars.read_parquet(made.folder / "histories.parquet")
    assert len(frame) == 2 * 5
    assert frame["opt.b2"].to_list() == [0.9] * 5 + [0.99] * 5
    for cell in made.cells:
        told = [row["train_loss"] for row in history.read(made.folder_of(cell) / "history.jsonl")]
        assert frame.filter(polars.col("cell") == cell.index)["train_loss"].to_list() == told
    assert frame["cosine"].null_count() == 2  # of the first epoch of each
    assert set(frame["model"]) == {"mlp"}


def test_the_time_that_is_left_is_that_of_the_epochs_that_are_left(tmp_path):
    made = sweep(tmp_path, epochs=10)
    assert table.remaining(table.standings(made)) is None
    folder = made.folder_of(made.cells[0])
    folder.mkdir(parents=True)
    for epoch in range(5):
        history.append(folder / "history.jsonl", {"epoch": epoch})
        history.append(folder / "timing.jsonl", {"epoch": epoch, "seconds": 2.0 + epoch % 2})
    rows = table.standings(made)
    assert [(row.state, row.epoch) for row in rows] == [("waiting", 4), ("waiting", 0)]
    assert table.remaining(rows) == pytest.approx(2.0 * (6 + 10))
    for seconds in (9.0, 0.5):  # the machine is free again, and it is the last ones that count
        for epoch in range(table.LAST):
            history.append(folder / "timing.jsonl", {"epoch": epoch, "seconds": seconds})
    assert table.standings(made)[0].seconds == 0.5


def test_a_single_cell_by_its_number(tmp_path, capsys):
    words = ["sweep", "--grid", "seed=0,1", "--run-dir", str(tmp_path), "--quiet", "--index"]
    own = "train --width 0.25 --images 60 --test-images 20 --epochs 2".split()
    assert cli.main([*words, "1", *own]) == 0
    made = plan.find(tmp_path)
    assert [row.state for row in table.standings(made)] == ["waiting", "done"]
    assert "cell 1 (seed=1): done" in capsys.readouterr().out
    assert cli.main([*words, "2", *own]) == 2
    assert "--index: expected a cell from 0 to 1, got 2" in capsys.readouterr().err
    assert cli.main(["sweep", "status", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cell", "seed", "state", "epoch", "seconds", "an", "epoch"]
    assert set(lines[1]) <= {"-", " "}  # a rule below the head
    assert lines[3].split()[:6] == ["1", "1", "done", "2", "of", "2"]


def test_a_cell_is_the_run_of_the_train_command(tmp_path):
    own = "train --width 0.25 --images 60 --test-images 20 --epochs 2 --quiet".split()
    made = parse(["--grid", "opt.b2=0.9", "--run-dir", str(tmp_path), *own]).planned()
    assert cli.main([*own, "--run-dir", str(tmp_path), "opt:adam", "--opt.b2", "0.9"]) == 0
    assert [row.state for row in table.standings(made)] == ["done"]
    content = json.loads((made.folder_of(made.cells[0]) / "config.json").read_text())
    assert np.isclose(content["arguments"]["b2"], 0.9)
