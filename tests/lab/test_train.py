"""The training loop: the same steps as ``iterate``, resumable to the bit, and honest at its end."""

import dataclasses
import hashlib
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from runs import SMALL, contents, records, run_of, split

from shadowflow import cli
from shadowflow.cli.jobs import training
from shadowflow.cli.jobs.training import description, forward_flops
from shadowflow.iterate import iterate
from shadowflow.lab.training import epoch as passes, history, start
from shadowflow.lab.training.checkpoint import restore
from shadowflow.lab.training.config import Training
from shadowflow.lab.training.loop import Ending, TrainingRun, hand_over
from shadowflow.lab.training.start import counts_of, images_of, network_of, train
from shadowflow.problem import Problem
from shadowflow.running import rate_table

ROOT = Path(__file__).parents[2]

# The settings


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "rnn"}, "--model: expected one of mlp, cnn"),
        ({"dataset": "imagenet"}, "--dataset: expected one of digits"),
        ({"optimizer": "sam"}, "--opt: expected one of sgd"),
        ({"learning_rate": 0.0}, "--learning-rate: expected a positive"),
        ({"width": float("nan")}, "--width: expected a positive"),
        ({"epochs": 0}, "--epochs: expected a whole number from 1 to .*, got 0"),
        ({"images": 0}, "--images: expected a whole number"),
        ({"micro_batch": 2.5}, "--micro-batch: expected a whole number"),
        ({"stop_accuracy": 2.0}, r"--stop-accuracy: expected a number in \(0, 1\]"),
        ({"devices": 3}, "--devices: expected a divisor of the 50 images of a batch, got 3"),
        ({"micro_batch": 5, "devices": 2}, "--devices: expected a divisor of the 5 images"),
        ({"pool": 0}, "--pool: expected a whole number from 1 to .*, got 0"),
        ({"warmup": 7}, "--warmup: expected at most the 6 epochs, got 7"),
        ({"arguments": {"b3": 1.0}}, "opt:adam: expected arguments among b1"),
    ],
)
def test_bad_settings_are_refused(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **change)


def test_every_field_is_in_the_name():
    other = {
        "model": "cnn",
        "width": 0.5,
        "dataset": "mnist",
        "images": 100,
        "test_images": 30,
        "optimizer": "lion",
        "arguments": {"b2": 0.9},
        "learning_rate": 1e-4,
        "schedule": "cosine",
        "warmup": 1,
        "loss": "mse",
        "epochs": 7,
        "ghost_batch": 60,
        "ghost": "reshuffled",
        "micro_batch": 10,
        "test_every": 2,
        "stop_accuracy": 0.5,
        "precision": "bfloat16",
        "seed": 1,
        "standardize": "all",
        "augment": True,
        "pool": 2,
        "measure_every": 5,
        "devices": 2,
    }
    assert set(other) == {field.name for field in dataclasses.fields(Training)}
    changed = [
        dataclasses.replace(SMALL, **{"arguments": {}, name: value})
        for name, value in other.items()
    ]
    assert len({SMALL.key(), *(settings.key() for settings in changed)}) == len(other) + 1
    assert dataclasses.replace(SMALL).key() == SMALL.key()


def test_schedules_are_optax():
    rates_of = lambda settings: rate_table(settings.rate(), settings.epochs)
    for name, schedule in (
        ("cosine", optax.cosine_decay_schedule(0.1, 8)),
        ("linear", optax.linear_schedule(0.1, 0.0, 8)),
    ):
        rates = rates_of(Training(learning_rate=0.1, schedule=name, epochs=10, warmup=2))
        np.testing.assert_allclose(rates[2:], [schedule(n) for n in range(8)], rtol=1e-6)
        np.testing.assert_allclose(rates[:2], [0.1 / 3, 0.2 / 3])
    assert rates_of(Training(learning_rate=0.1, epochs=3)).tolist() == [0.1] * 3
    rises = rates_of(Training(learning_rate=0.3, epochs=4, warmup=2))
    np.testing.assert_allclose(rises, [0.1, 0.2, 0.3, 0.3], rtol=1e-12)


# The steps


@pytest.mark.slow
def test_the_loop_takes_the_steps_of_iterate(tmp_path):
    """The mean over ghost batches is the full batch; the optimizer is the library's own."""
    run = run_of(SMALL, tmp_path)
    outcome = run.go()
    assert (outcome.reason, outcome.epoch) == ("epochs", 6)
    place = run.start()
    images, labels, apply = run.data.train_images, run.data.train_labels, run.network.apply

    def loss(params):
        logits, _ = apply(params, {}, images, True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    real = iterate(Problem(loss), SMALL.build(), place.params, 3e-3, 6)
    found = restore(run.checkpoints, place, SMALL.plain()).state
    pairs = zip(jax.tree.leaves(found.params), jax.tree.leaves(real.last), strict=True)
    for one, other in pairs:
        np.testing.assert_allclose(one, other, atol=3e-5)
        assert one.dtype == jnp.float32
    told = [record["train_loss"] for record in records(tmp_path)]
    place_of = lambda n: jax.tree.map(lambda leaf: jnp.asarray(leaf[n]), real.params)
    np.testing.assert_allclose(told, [float(loss(place_of(n))) for n in range(7)], rtol=1e-5)
    assert told[-1] < told[0]


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
def test_a_pass_is_the_gradient_of_the_mean(loss):
    """Whatever the batches, in float64, against one gradient of everything at once."""
    network = network_of(SMALL)
    rng = np.random.default_rng(0)
    images, labels = (
        jnp.asarray(rng.normal(size=(30, 8, 8, 1))),
        jnp.asarray(rng.integers(0, 10, 30)),
    )
    params, state = network.init(jax.random.key(0))
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

    def mean(params):
        logits, _ = network.apply(params, state, images, True)
        if loss == "mse":
            wanted = (labels[:, None] == jnp.arange(10)[None, :]).astype(logits.dtype)
            return jnp.mean(jnp.mean((logits - wanted) ** 2, axis=1))
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)

    value, grad = jax.value_and_grad(mean)(params)
    for size in (30, 7, 1):
        ways = passes.Ways(network.apply, loss, "float32")
        batches = split(images, labels, size)
        sums, _ = passes.one_pass(ways, params, state, batches, train=True)
        found, accuracy, summed = sums.means()
        assert float(found) == pytest.approx(float(value), rel=1e-12)
        right = np.argmax(network.apply(params, state, images, True)[0], 1) == labels
        assert float(accuracy) == pytest.approx(float(np.mean(right)))
        for one, other in zip(jax.tree.leaves(summed), jax.tree.leaves(grad), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-13)


@pytest.mark.slow
def test_bfloat16_is_coarser_and_keeps_its_sums_in_float32():
    network, data = network_of(SMALL), images_of(SMALL)
    params, state = network.init(jax.random.key(0))
    found = {}
    for precision in ("float32", "tf32", "bfloat16"):
        ways = passes.Ways(network.apply, "cross_entropy", precision)
        batches = split(data.train_images, data.train_labels, 50)
        sums, _ = passes.one_pass(ways, params, state, batches, train=True)
        _, _, found[precision] = sums.means()
        assert {leaf.dtype for leaf in jax.tree.leaves(found[precision])} == {jnp.dtype("float32")}
    norm = lambda a, b: float(optax.tree.norm(jax.tree.map(jnp.subtract, a, b)))
    size = float(optax.tree.norm(found["float32"]))
    assert 1e-4 < norm(found["float32"], found["bfloat16"]) / size < 0.1
    assert norm(found["float32"], found["tf32"]) / size < 1e-3


def test_what_needs_two_gradients_of_one_function_is_there_only_for_one(tmp_path):
    fixed, moving = (
        records(run_and_folder(dataclasses.replace(SMALL, **change), tmp_path / str(change)))
        for change in ({}, {"ghost": "reshuffled"})
    )
    augmented = dataclasses.replace(SMALL, augment=True, epochs=2)
    moved = records(run_and_folder(augmented, tmp_path / "augmented"))
    assert "cosine" not in moved[1]
    assert moved[0]["train_loss"] != pytest.approx(fixed[0]["train_loss"], rel=1e-6)
    assert "cosine" not in fixed[0]
    assert all("cosine" in record for record in fixed[1:])
    assert not any("cosine" in record for record in moving)
    assert all("perturbed_one_norm" in record for record in fixed + moving)
    assert fixed[0]["one_norm"] == pytest.approx(moving[0]["one_norm"], rel=1e-4)


def run_and_folder(settings, folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    run_of(settings, folder, **options).go()
    return folder


def test_measures_every_so_often_are_those_of_every_epoch(tmp_path):
    """What two gradients say is of neighbours, however seldom it is measured."""
    every, seldom = (
        records(run_and_folder(dataclasses.replace(SMALL, measure_every=n), tmp_path / str(n)))
        for n in (1, 3)
    )
    assert seldom[0].keys() == every[0].keys()
    assert seldom[3] == pytest.approx(every[3], rel=1e-6)  # two programs, two roundings
    assert seldom[3] != pytest.approx(every[2], rel=1e-2)
    assert "cosine" in seldom[3]
    assert set(seldom[4]) == {
        "epoch",
        "learning_rate",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
    }
    assert seldom[4].items() < every[4].items()


# To the bit


@pytest.mark.parametrize("change", [{}, {"ghost": "reshuffled", "augment": True}])
def test_stopped_at_every_epoch_it_is_the_same_run(tmp_path, change):
    settings = dataclasses.replace(SMALL, schedule="cosine", warmup=2, **change)
    whole = run_and_folder(settings, tmp_path / "whole", checkpoint_every=100)
    parts = tmp_path / "parts"
    parts.mkdir()
    reasons = []
    while not reasons or reasons[-1] == "time":
        outcome = run_of(settings, parts, checkpoint_every=2, wall_time=-1.0).go()
        reasons.append(outcome.reason)
        if outcome.reason == "time":  # one epoch further each time
            run = run_of(settings, parts, checkpoint_every=1, wall_time=0.0)
            steps = iter((0.0, 0.0, 0.0, 9.0, 9.0, 9.0, 9.0))
            reasons.append(stepped(run, steps))
    assert reasons.count("time") > 3
    assert contents(parts) == contents(whole)


def stepped(run, ticks):
    """Run one epoch more than none, by a clock of our own."""
    clock = lambda: next(ticks, 9.0)
    patched = pytest.MonkeyPatch()
    with patched.context() as patch:
        patch.setattr(time, "monotonic", clock)
        return dataclasses.replace(run, began=0.0).go().reason


def test_lines_after_the_checkpoint_are_written_again(tmp_path):
    """As after a kill between a line of the history and the next checkpoint."""
    whole = run_and_folder(SMALL, tmp_path / "whole", checkpoint_every=3)
    before = contents(whole)
    for path in sorted((whole / "checkpoints").glob("00000006.*")):
        path.unlink()
    with (whole / "history.jsonl").open("a") as file:
        file.write('{"epoch": 7, "train_lo')
    outcome = run_of(SMALL, whole, checkpoint_every=3).go()
    assert outcome.reason == "epochs"
    assert contents(whole) == before


def test_a_damaged_checkpoint_falls_back_and_says_so(tmp_path):
    whole = run_and_folder(SMALL, tmp_path / "whole", checkpoint_every=3)
    before = contents(whole)
    path = whole / "checkpoints" / "00000006.npz"
    path.write_bytes(path.read_bytes()[:-50])
    outcome = run_of(SMALL, whole, checkpoint_every=3).go()
    assert any("00000006" in note for note in outcome.notes)
    assert contents(whole) == before


def test_a_history_with_a_hole_is_refused(tmp_path):
    whole = run_and_folder(SMALL, tmp_path / "whole", checkpoint_every=3)
    path = whole / "history.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    with pytest.raises(ValueError, match="history: expected the epochs 0 to 5"):
        run_of(SMALL, whole).go()


# Ends


def test_a_run_that_is_done_is_not_repeated(tmp_path):
    first = train(SMALL, tmp_path)
    stamp = (first.folder / "history.jsonl").stat().st_mtime_ns
    again = train(SMALL, tmp_path)
    assert (again.reason, again.epoch) == ("epochs", 6)
    assert "done already" in again.notes[0]
    assert (first.folder / "history.jsonl").stat().st_mtime_ns == stamp


def test_a_damaged_end_is_said(tmp_path):
    folder = tmp_path / SMALL.key()
    folder.mkdir()
    start.write_json(folder / "config.json", start.identity(SMALL))
    for text in ("{}", "[]", "{"):
        (folder / "done.json").write_text(text)
        with pytest.raises(ValueError, match=r"done.json: expected .* in .*, got"):
            train(SMALL, tmp_path)


def test_a_finished_run_whose_configuration_is_damaged_is_not_done(tmp_path):
    folder = train(SMALL, tmp_path).folder
    path = folder / "config.json"
    for text in ("garbage", "[]", "{}", None):
        path.unlink() if text is None else path.write_text(text)
        with pytest.raises(ValueError, match=r"config.json: expected|expected None.*as the run"):
            train(SMALL, tmp_path)


@pytest.mark.parametrize("ended", [True, False])
def test_a_changed_digit_of_the_history_is_noticed(tmp_path, ended):
    folder = train(SMALL, tmp_path).folder
    history_file, text = folder / "history.jsonl", (folder / "history.jsonl").read_text()
    if not ended:
        (folder / "done.json").unlink()
    assert train(SMALL, tmp_path).epoch == SMALL.epochs
    place = text.index("train_loss") + len('train_loss": 2.')
    history_file.write_text(f"{text[:place]}{(int(text[place]) + 1) % 10}{text[place + 1 :]}")
    with pytest.raises(ValueError, match=r"history: expected .* got (an)?other"):
        if not ended:
            (folder / "done.json").unlink()
        train(SMALL, tmp_path)


def test_a_run_on_other_data_or_in_another_precision_is_not_done(tmp_path, monkeypatch):
    folder = train(SMALL, tmp_path).folder
    for name, other in (("data", "of another file"), ("x64", False)):
        path = folder / "config.json"
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, name: other}))
        with pytest.raises(ValueError, match=f"{name}: expected {other!r}, as the run in"):
            train(SMALL, tmp_path)
        path.write_text(json.dumps(content))
    assert train(SMALL, tmp_path).notes == ("it was done already",)


def test_the_images_are_a_part_of_a_run_where_no_table_says_which_they_are(monkeypatch):
    """Of CIFAR-100; those of MNIST have to be those of the table, and are not read for it."""
    pixels, labels = np.zeros((4, 2), np.uint8), np.zeros(4, np.int32)
    data = start.Images(pixels, labels, pixels, labels)
    other = dataclasses.replace(data, test_images=pixels + 1)
    settings, found = Training(dataset="cifar100"), []
    for images in (data, other, data):
        monkeypatch.setattr(start, "load", lambda *given, images=images: images)
        found.append(start.identity(settings)["data"])
    assert found[0] == found[2] != found[1]
    monkeypatch.setattr(start, "load", None)
    names = [start.identity(Training(dataset=name))["data"] for name in ("mnist", "fashion-mnist")]
    assert len({*names, *found}) == 4


def test_a_second_process_is_told_who_is_at_it(tmp_path):
    """And takes over from one that has died, at once."""
    script = (
        "import sys, pathlib; from shadowflow.lab import locks\n"
        f"with locks.kept(pathlib.Path({str(tmp_path)!r}), {SMALL.key()!r}):\n"
        "    print('inside', flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, cwd=ROOT)
    assert process.stdout.readline() == b"inside\n"
    with pytest.raises(ValueError, match=f"--run-dir: expected .* at which process {process.pid}"):
        train(SMALL, tmp_path)
    assert not list(tmp_path.glob("*/history.jsonl"))
    process.kill()
    process.communicate()
    assert train(SMALL, tmp_path).reason == "epochs"


def test_ctrl_c_saves_the_epoch_that_was_reached(tmp_path):
    def stop(epoch, record):
        if epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="epoch 3 is saved in"):
        train(SMALL, tmp_path / "stopped", progress=stop)
    folder = tmp_path / "stopped" / SMALL.key()
    assert [path.stem for path in folder.glob("checkpoints/*.json")] == ["00000003"]
    assert contents(train(SMALL, tmp_path / "stopped").folder) == contents(
        train(SMALL, tmp_path / "whole").folder
    )


def test_a_folder_of_another_configuration_is_refused(tmp_path):
    first = train(SMALL, tmp_path)
    (first.folder / "done.json").unlink()
    path = first.folder / "config.json"
    content = json.loads(path.read_text())
    content["learning_rate"] = 1.0
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"learning_rate: expected 1.0.*got 0.003"):
        train(SMALL, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint_every", [1, 10])
def test_what_is_not_finite_ends_it_and_the_last_good_state_is_kept(tmp_path, checkpoint_every):
    settings = dataclasses.replace(SMALL, optimizer="sgd", arguments={}, learning_rate=1e25)
    run = run_of(settings, tmp_path, checkpoint_every=checkpoint_every)
    outcome = run.go()
    assert outcome.reason == "non-finite"
    told = records(tmp_path)
    assert len(told) == outcome.epoch + 1
    assert told[-1]["train_loss"] is None or told[-1]["two_norm"] is None
    found = restore(run.checkpoints, run.start(), settings.plain())
    assert found.epoch == outcome.epoch - 1
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found.state.params))
    assert json.loads((tmp_path / "done.json").read_text()) == {
        "reason": "non-finite",
        "epoch": outcome.epoch,
        "history": hashlib.sha256((tmp_path / "history.jsonl").read_bytes()).hexdigest(),
    }


def test_the_command_fails_only_where_numbers_are_not_finite(tmp_path, monkeypatch, capsys):
    command = cli.parse(["train", "--quiet", "--run-dir", str(tmp_path)])
    for reason, code in (("non-finite", 1), ("epochs", 0), ("time", 0), ("accuracy", 0)):
        ending = Ending(tmp_path, reason, 3)
        monkeypatch.setattr(training, "train", lambda *_, ending=ending, **__: ending)
        assert training.train_job(command) == code
        assert f"Epoch 3: {training.REASONS[reason]}." in capsys.readouterr().out


def test_a_full_disk_is_said_and_the_last_checkpoint_stays(tmp_path):
    """The history lies on a device that is full; where there is room again the run goes on."""
    whole = run_and_folder(SMALL, tmp_path / "whole", checkpoint_every=2)
    full = run_and_folder(SMALL, tmp_path / "full", checkpoint_every=2)
    for path in full.glob("checkpoints/00000006.*"):
        path.unlink()
    history.cut(full / "history.jsonl", 4)
    lines = (full / "history.jsonl").read_text()
    with pytest.MonkeyPatch.context() as patch:
        append = lambda path, record: Path("/dev/full").write_text("{}")
        patch.setattr(history, "append", append)
        with pytest.raises(ValueError, match=r"history: expected a folder that can .*full"):
            run_of(SMALL, full, checkpoint_every=2).go()
    assert (full / "history.jsonl").read_text() == lines
    assert sorted(path.name for path in full.glob("checkpoints/*.json"))[-1] == "00000004.json"
    run_of(SMALL, full, checkpoint_every=2).go()
    assert contents(full) == contents(whole)


def test_a_run_dir_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="--run-dir: expected a folder that can be written, got"):
        train(SMALL, tmp_path / "file")


def test_an_accuracy_ends_it(tmp_path):
    settings = dataclasses.replace(SMALL, epochs=300, stop_accuracy=0.9, learning_rate=1e-2)
    outcome = run_of(settings, tmp_path).go()
    assert outcome.reason == "accuracy"
    told = [record["train_accuracy"] for record in records(tmp_path)]
    assert told[-1] >= 0.9 > max(told[:-1])


def test_loggers_get_the_numbers_of_the_history(tmp_path):
    class Log(list):
        def log(self, numbers, step):
            self.append((step, numbers))

    class Board(list):
        def add_scalar(self, tag, value, step):
            self.append((step, tag, value))

    log, board = Log(), Board()
    run_of(SMALL, tmp_path, loggers=(log, board)).go()
    told = records(tmp_path)
    assert [step for step, _ in log] == list(range(7))
    assert all(numbers == record for (_, numbers), record in zip(log, told, strict=True))
    assert (3, "train_loss", told[3]["train_loss"]) in board
    with pytest.raises(AttributeError):
        hand_over(object(), {"a": 1}, 0)


@pytest.mark.parametrize("name", ["wandb", "trackio", "tensorboard"])
def test_trackers_by_name_get_the_records_and_are_closed(tmp_path, monkeypatch, name):
    """By stand-ins of the packages; what a package does with the numbers is its own affair."""
    calls = []

    class Run:
        def log(self, numbers, step):
            calls.append((step, numbers))

        def finish(self):
            calls.append("closed")

    class Writer:
        def __init__(self, folder):
            calls.append(folder)

        def add_scalar(self, tag, value, step):
            calls.append((tag, value, step))

        def close(self):
            calls.append("closed")

    def init(**options):
        calls.append(options)
        return Run()

    package = "tensorboardX" if name == "tensorboard" else name
    stand_in = types.SimpleNamespace(init=init, SummaryWriter=Writer)
    monkeypatch.setitem(sys.modules, package, stand_in)
    words = "train --width 0.25 --images 120 --epochs 2 --quiet --log".split()
    assert cli.main([*words, name, "--run-dir", str(tmp_path)]) == 0
    (folder,) = tmp_path.glob("mlp-*")
    losses = [record["train_loss"] for record in records(folder)]
    assert calls[-1] == "closed"
    if name == "tensorboard":
        assert calls[0] == str(folder / "tensorboard")
        assert [call[1] for call in calls[1:-1] if call[0] == "train_loss"] == losses
    else:
        assert calls[0]["name"] == folder.name
        assert [numbers["train_loss"] for _, numbers in calls[1:-1]] == losses
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"--log {name} needs {package}: pip install"):
        cli.parse([*words, name, "--run-dir", str(tmp_path / "other")]).run()


def test_batch_norm_takes_whole_ghost_batches():
    settings = dataclasses.replace(SMALL, model="resnet50", micro_batch=10)
    with pytest.raises(ValueError, match="--micro-batch: expected none for resnet50, got 10"):
        network_of(settings)


def test_pooled_images_are_means_of_squares():
    fine, coarse = (
        images_of(dataclasses.replace(SMALL, pool=pool, standardize="all")) for pool in (1, 2)
    )
    assert coarse.train_images.shape == (120, 4, 4, 1)
    assert network_of(dataclasses.replace(SMALL, pool=2)).shape == (4, 4, 1)
    corner = lambda images: images[:, :2, :2, 0].mean((1, 2))
    for one, other in (
        (fine.train_images, coarse.train_images),
        (fine.test_images, coarse.test_images),
    ):
        slope, shift = np.polyfit(corner(one), other[:, 0, 0, 0], 1)
        np.testing.assert_allclose(other[:, 0, 0, 0], slope * corner(one) + shift, atol=1e-5)
        assert slope > 1
    with pytest.raises(ValueError, match="--pool: expected a divisor of the 8 by 8 pixels"):
        network_of(dataclasses.replace(SMALL, pool=3))


def test_more_images_than_there_are_is_refused():
    with pytest.raises(ValueError, match="--images: expected at most the 1,500 that digits has"):
        images_of(dataclasses.replace(SMALL, images=2000))


def test_the_estimated_cost_is_that_of_the_products():
    """Two operations for every weight and image, and little more."""
    settings = Training(images=100, test_images=10, epochs=7)
    weights = 64 * 64 + 64 * 64 + 64 * 10
    assert 1 <= forward_flops(network_of(settings)) / (2 * weights) < 1.2
    assert counts_of(settings) == (100, 10)
    text = description(settings)
    assert "for each of 100 images, once for each of 10" in text
    assert text.splitlines()[1:6] == [
        "layer    shape  parameters",
        "-------  -----  ----------",
        "hidden1     64       4,160",
        "hidden2     64       4,160",
        "logits      10         650",
    ]
    seldom = dataclasses.replace(settings, test_every=5)  # two images an epoch
    cost = (3 * 100 + 2) * forward_flops(network_of(settings))
    assert f"{cost / 1e9:.3g} Gflop an epoch, {7 * cost / 1e12:.3g} Tflop" in description(seldom)


def test_a_cost_that_is_not_counted_is_no_number(monkeypatch):
    monkeypatch.setattr(training, "forward_flops", lambda network: None)
    assert "estimated cost: unknown" in description(Training(images=100, test_images=10))


def test_the_command(tmp_path, capsys):
    words = "train --width 0.25 --images 120 --epochs 2 --quiet opt:adam --opt.b2 0.95".split()
    assert cli.main([*words, "--run-dir", str(tmp_path)]) == 0
    assert "Epoch 2: all epochs are done." in capsys.readouterr().out
    (folder,) = tmp_path.glob("mlp-*")
    assert json.loads((folder / "config.json").read_text())["arguments"]["b2"] == 0.95
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "history.jsonl",
        "timing.jsonl",
        "checkpoints",
        "done.json",
    }
    assert "seconds" not in (folder / "history.jsonl").read_text()
    assert cli.main(["train", "--describe", "--model", "mlp"]) == 0
    assert capsys.readouterr().out.endswith("parameters: 8970\n")
    assert cli.main(["train", "--epochs", "0"]) == 2
    assert "--epochs: expected a whole number from 1" in capsys.readouterr().err


def test_the_time_is_looked_at_within_an_epoch_but_one_is_done(tmp_path):
    """A long epoch is given up in the middle, and its record is not there."""
    settings = dataclasses.replace(SMALL, micro_batch=60)
    answers = iter([False, False])  # after the first epoch, at the first batch of the second
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingRun, "late", property(lambda run: next(answers, True)))
        outcome = run_of(settings, tmp_path).go()
    assert (outcome.reason, outcome.epoch) == ("time", 1)
    assert [record["epoch"] for record in records(tmp_path)] == [0]
    whole = run_and_folder(settings, tmp_path / "whole")
    assert run_of(settings, tmp_path).go().reason == "epochs"
    assert contents(tmp_path) == contents(whole)
