"""Figures 4 to 12: grids, records, what is read off, drawn and judged; from made-up runs."""

import dataclasses
import json
from types import SimpleNamespace

import made_up
import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from shadowflow import cli
from shadowflow.cli.jobs import cost
from shadowflow.cli.jobs.reproduce import reproduce_job
from shadowflow.cli.reproduce import Reproduce
from shadowflow.cli.sweep import parse
from shadowflow.files import write_json
from shadowflow.lab.sweep import grid as dialect
from shadowflow.lab.training import history
from shadowflow.lab.training.config import Training
from shadowflow.paper import analysis, curves, grid as grids, records
from shadowflow.paper.analysis import OUTCOMES, PERTURBED, Swept
from shadowflow.paper.claims import OUTSIDE
from shadowflow.paper.figures import captions, panels, style
from shadowflow.paper.figures.of_runs import FIGURES
from shadowflow.paper.records import MEASURES, Record
from shadowflow.paper.trials import FAILS, HOLDS, WEAK

PAPER = [f"fig{number}" for number in range(4, 13)]
SEEDS = (0, 1, 2)
VALUES = {"rho": (0.9, 0.95, 0.99, 0.999), "beta": (0.9, 0.95, 0.97, 0.99)}


def wide(**changes):
    """A grid with power: three seeds, four values."""
    found = made_up.grid()
    swept = {
        name: dataclasses.replace(
            sweep,
            values=VALUES[name],
            base=dataclasses.replace(sweep.base, epochs=300, **changes),
        )
        for name, sweep in found.sweeps.items()
    }
    return dataclasses.replace(found, seeds=SEEDS, sweeps=swept)


def arrays_of(grid, records=None):
    wanted = grid.runs()
    return analysis.arranged(grid, tuple(grid.sweeps), records or made_up.runs()(wanted))


# Grids


def test_every_grid_that_ships_can_be_read():
    names = {path.name for path in grids.FOLDER.iterdir()}
    assert names == {figure.grid for figure in FIGURES.values()} | {OUTSIDE}
    for figure in FIGURES.values():
        assert set(figure.sweeps) <= set(figure.SCALES["paper"].sweeps)


def test_every_grid_that_ships_is_one_of_a_figure():
    """Adam; a name a sweep; one of β and ρ rises; the same different seeds; 0 < level ≤ cut."""
    for path in grids.FOLDER.glob("*/*.toml"):
        base, _, blocks, losses = dialect.read(path)
        assert base.optimizer == "adam" and set(losses) <= set(grids.LOSSES)
        assert all(block.name for block in blocks)
        assert len({block.name for block in blocks}) == len(blocks)
        found = grids.read_file(path)
        assert 0 < found.level <= found.cut
        assert len(set(found.seeds)) == len(found.seeds) > 0
        assert {block.axes["seed"] for block in blocks} == {found.seeds}
        for sweep in found.sweeps.values():
            assert sweep.vary in grids.SYMBOLS
            assert list(sweep.values) == sorted(set(sweep.values))


@pytest.mark.parametrize("name", ["resnet50", "cnn", "simple_vit"])
def test_the_scales_are_what_they_are_said_to_be(name):
    scales = grids.read(name)
    assert list(scales) == ["smoke", "laptop", "paper"]
    for scale in ("laptop", "paper"):
        grid = scales[scale]
        assert len(grid.seeds) >= 3
        for run in grid.runs():
            assert (run.model, run.dataset) == (name, "cifar10")
            assert run.arguments["eps"] == 0 and run.arguments["eps_root"] == 1e-8
        assert all(len(sweep.values) >= 4 for sweep in grid.sweeps.values())
    paper = scales["paper"].runs()
    assert all(
        (run.images, run.ghost_batch, run.augment, run.width) == (None, 500, True, 1)
        for run in paper
    )
    assert {run.learning_rate for run in paper} == {7.5e-5, 1e-4}


def test_figures_of_one_network_share_their_runs():
    keys = {
        name: {run.key() for run in FIGURES[name].runs(FIGURES[name].SCALES["laptop"])}
        for name in PAPER
    }
    assert keys["fig4"] | keys["fig5"] == keys["fig6"]
    assert keys["fig4"] & keys["fig5"]  # the cell where the two sweeps meet
    assert (keys["fig4"], keys["fig5"]) == (keys["fig11"], keys["fig12"])
    assert keys["fig7"] == keys["fig8"]
    assert keys["fig9"] == keys["fig10"]
    assert not keys["fig6"] & keys["fig7"]
    assert not keys["fig7"] & keys["fig9"]


def test_what_is_held_is_the_other_decay():
    sweeps = wide(arguments={"b1": 0.8, "b2": 0.95}).sweeps
    assert sweeps["rho"].other == ("β", 0.8) and sweeps["beta"].other == ("ρ", 0.95)


def test_runs_come_once_and_seed_by_seed():
    grid = wide()
    found = grid.runs()
    assert len(found) == len({run.key() for run in found}) == 3 * (4 + 4 - 1)
    assert [run.seed for run in found] == sorted(run.seed for run in found)


HEAD = "[train]\nepochs = 5\n"
GOOD = '[[grid]]\nname = "rho"\nopt.b1 = 0.9\nopt.b2 = [0.9, 0.99]\nseed = [0]\n'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + GOOD.replace("[0]", "[]"), "expected values of seed, got none"),
        (HEAD, r"smoke.toml: expected \[grid\] with lists of values, got none"),
        (HEAD + "epoch = 3\n" + GOOD, r"\[train\]: expected flags of the training .*got 'epoch'"),
        (
            HEAD + "test-every = 3\ntest_every = 3\n" + GOOD,
            "expected test_every once, got it twice",
        ),
        (HEAD + "seed = [3, 4]\n" + GOOD, r"\[train\]: expected one value of seed, got 2"),
        (HEAD.replace("5", "0") + GOOD, "--epochs: expected a whole number from 1"),
        ("[smoke", "FILE: expected a TOML file"),
        ("smoke = 3", r"expected \[train\] and \[grid\]"),
    ],
)
def test_bad_grids_are_refused(tmp_path, text, words):
    path = tmp_path / "x" / "smoke.toml"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        grids.read_file(path)
    path.write_text(HEAD + GOOD)
    assert len(grids.read_file(path).runs()) == 2


def test_a_grid_of_a_figure_is_a_sweep():
    """The same runs, cell for cell, by the command on the same file."""
    for path in grids.FOLDER.glob("*/*.toml"):
        planned = {cell.settings.key() for cell in parse([str(path)]).planned().cells}
        assert planned == {run.key() for run in grids.read_file(path).runs()}


# Records


def test_a_record_is_what_lies_in_the_folder(tmp_path):
    settings = Training(epochs=2)
    assert records.read(settings, tmp_path).reason == "unfinished"
    for epoch, loss in enumerate((2.0, float("nan"))):
        history.append(tmp_path / "history.jsonl", {"epoch": epoch, "train_loss": loss})
    write_json(tmp_path / "done.json", {"reason": "non-finite", "epoch": 1})
    found = records.read(settings, tmp_path)
    assert found.reason == "non-finite"
    assert found.curves["train_loss"][0] == 2 and np.isnan(found.curves["train_loss"][1])
    assert np.all(np.isnan(found.curves["test_accuracy"]))


def test_one_by_one_trains_in_the_order_asked_for_and_reads_each_run(tmp_path, monkeypatch):
    from shadowflow.lab.training import start

    trained = []

    def train(settings, run_dir, *, data_dir, checkpoint_every, progress):
        trained.append((settings.seed, run_dir, data_dir))
        folder = run_dir / settings.key()
        folder.mkdir(parents=True)
        for epoch in range(settings.epochs):
            progress(epoch, {})
            history.append(folder / "history.jsonl", {"epoch": epoch, "train_loss": settings.seed})
        write_json(folder / "done.json", {"reason": "epochs"})
        return SimpleNamespace(folder=folder)

    monkeypatch.setattr(start, "train", train)
    wanted = [Training(epochs=2, seed=seed) for seed in (3, 1)]
    found = records.one_by_one(tmp_path / "runs", data_dir=tmp_path, quiet=True)(wanted)
    assert trained == [(seed, tmp_path / "runs", tmp_path) for seed in (3, 1)]
    assert [record.settings for record in found] == wanted
    assert [record.reason for record in found] == ["epochs", "epochs"]
    assert [record.curves["train_loss"].tolist() for record in found] == [[3, 3], [1, 1]]


def test_arrays_hold_every_run_in_its_place():
    grid = wide()
    wanted = grid.runs()
    arrays = arrays_of(grid, made_up.runs()(wanted)[::-1])
    for name, sweep in grid.sweeps.items():
        assert arrays[f"{name}/train_loss"].shape == (4, 3, 301)
        for i, value in enumerate(sweep.values):
            for j, seed in enumerate(SEEDS):
                curve = made_up.record(sweep.training(value, seed)).curves[PERTURBED]
                np.testing.assert_array_equal(
                    arrays[f"{name}/{PERTURBED}"][i, j], curve.astype(np.float32)
                )


def test_runs_of_other_lengths_end_in_nan():
    grid = made_up.grid()
    found = made_up.runs()(grid.runs())
    short = {name: curve[:40] for name, curve in found[0].curves.items()}
    found[0] = dataclasses.replace(found[0], curves=short, reason="non-finite")
    arrays = arrays_of(grid, found)
    assert np.all(np.isnan(arrays["rho/train_loss"][0, 0, 40:]))
    assert np.all(np.isfinite(arrays["rho/train_loss"][0, 1]))
    empty = [
        dataclasses.replace(record, curves=dict.fromkeys(MEASURES, np.empty(0))) for record in found
    ]
    assert arrays_of(grid, empty)["rho/train_loss"].shape == (3, 2, 0)


def test_each_number_of_a_run_is_read_off_its_own_curve():
    """The fall ends at ``cut``, norms are compared at ``level``; a table has a row a seed."""
    grid = wide()
    swept = Swept(grid, "beta", arrays_of(grid))
    for i, j in ((0, 2), (3, 1)):
        settings = grid.sweeps["beta"].training(VALUES["beta"][i], SEEDS[j])
        known = made_up.record(settings).curves
        known = {name: curve.astype(np.float32).astype(float) for name, curve in known.items()}
        fall = curves.initial_fall(known["train_loss"], 1.0)
        wanted = {"fall": fall, "accuracy": curves.highest(known["test_accuracy"])}
        for end, norm in (("", known[PERTURBED]), ("_plain", known["one_norm"])):
            wanted[f"peak{end}"] = curves.peak(norm, fall)
            wanted[f"level{end}"] = curves.at_loss(norm, known["train_loss"], 0.5)
        wanted["hill"] = curves.hill(known[PERTURBED], fall)
        assert repr(swept.runs[i, j]) == repr({name: wanted[name] for name in swept.runs[i, j]})
        assert swept.table("peak")[j, i] == wanted["peak"].value
        assert wanted["peak"].value != wanted["peak_plain"].value


def test_the_number_of_parameters_is_that_of_the_network():
    assert arrays_of(made_up.grid())["rho/parameters"] == made_up.PARAMETERS


# What is claimed


def verdicts(effect, **changes):
    grid = wide(**changes)
    arrays = arrays_of(grid, made_up.runs(effect)(grid.runs()))
    return {
        (sweep, name): analysis.tried(Swept(grid, sweep, arrays), name)
        for sweep in grid.sweeps
        for name in OUTCOMES
    }


def test_what_is_put_in_is_found():
    found = verdicts(1.0)
    assert {trial.verdict for trial in found.values()} == {HOLDS}
    assert all(0 < trial.p <= 0.05 for trial in found.values())


def test_the_opposite_does_not_hold():
    found = verdicts(-1.0)
    for (_, name), trial in found.items():
        if name in ("level", "level_plain", "accuracy"):
            assert trial.verdict == FAILS and trial.p > 0.9
    assert found["rho", "hill"].verdict == WEAK
    assert found["rho", "hill"].statistic.startswith("no run has a hill; τ")
    assert set(found["rho", "hill"].run["outcomes"][0]) == {0.0}


def test_where_nothing_is_there_nothing_holds():
    found = verdicts(0.0)
    assert sum(trial.verdict == HOLDS for trial in found.values()) <= 1


def test_an_accuracy_at_chance_tells_nothing(monkeypatch):
    monkeypatch.setattr(analysis, "AT_CHANCE", 6.0)  # 0.5 is then below 6 × 1/10
    trial = verdicts(1.0)["rho", "accuracy"]
    assert trial.verdict == WEAK
    assert trial.statistic.startswith("the test accuracy is at chance, 0.1")
    assert trial.p <= 0.05
    assert verdicts(1.0, dataset="cifar100")["rho", "accuracy"].verdict == HOLDS  # of 100 classes


def test_a_run_that_fails_is_left_out_and_named():
    grid = wide()
    found = made_up.runs()(grid.runs())
    gone = found[0].settings
    short = {name: curve[:8] for name, curve in found[0].curves.items()}
    found[0] = dataclasses.replace(found[0], curves=short, reason="non-finite")
    arrays = arrays_of(grid, found)
    trial = analysis.tried(Swept(grid, "rho", arrays), "peak")
    table = np.array(trial.run["outcomes"])  # a mean a value, over the seeds that have one
    np.testing.assert_allclose(trial.measured, np.nanmean(table, axis=0), rtol=1e-12)
    assert list(trial.run["missing"]) == [f"ρ = {gone.arguments['b2']:g}, seed {gone.seed}"]
    assert trial.run["test"]["pairs"] == 3 * 6 - 3
    rows = analysis.fitness(Swept(grid, "rho", arrays))
    assert [row.holds for row in rows] == [False, False, False]
    assert rows[0].run["without"] == {"ρ = 0.9, seed 0": "non-finite"}
    regimes = rows[0].run["regimes"]
    assert regimes.pop("ρ = 0.9, seed 0") == "divergence" and set(regimes.values()) == {"smooth"}
    told = captions.regimes(Swept(grid, "rho", arrays))
    assert told.startswith("ρ varied: 11 of 12 runs are in the regime that the paper assumes")
    assert told.endswith("(smooth: 11); not: ρ = 0.9, seed 0 (divergence).")
    assert told in captions.caption("maxima", [Swept(grid, "rho", arrays)])
    found[0] = dataclasses.replace(found[0], reason="accuracy")
    early = Swept(grid, "rho", arrays_of(grid, found))
    assert set(early.regimes.values()) == {"smooth"}  # what follows its end is no part of it
    assert all(row.holds for row in analysis.fitness(Swept(grid, "rho", arrays_of(grid))))


# Captions and pictures


@pytest.mark.parametrize("name", PAPER)
def test_every_value_is_in_the_caption_and_on_the_picture(name):
    figure, grid = FIGURES[name], wide()
    arrays = arrays_of(grid)
    words = figure.caption(arrays, grid)
    with style.styled():
        picture = figure.draw(arrays, grid)
        picture.draw_without_rendering()
        shown = " ".join(
            text.get_text()
            for text in picture.findobj(match=lambda artist: hasattr(artist, "get_text"))
        )
    for sweep in figure.sweeps:
        row = grid.sweeps[sweep]
        assert f"{row.symbol} = {', '.join(f'{value:g}' for value in row.values)} at" in words
        for value in row.values:
            assert f"{value:g}" in shown
        assert f"{row.other[0]} = {row.other[1]:g}" in shown
    assert "running medians over 11 epochs" in words
    assert "first below 1;" in words and "1.2 times" in words
    assert "p√ε = 0.148;" in words


def lines(axis, marker="None"):
    return [np.array(line.get_data()).T for line in axis.get_lines() if line.get_marker() == marker]


def test_points_are_the_numbers_of_the_runs_and_filled_where_a_maximum_is_a_hill():
    """At ρ = β there is no hill; the norm at equal loss needs none."""
    swept = Swept(wide(), "rho", arrays_of(wide()))
    for outcome, hollow in (("peak", 3), ("level", 0)):
        axis = Figure().subplots()
        panels._points(axis, swept, outcome, "red", "o", None)
        mean, *seeds = lines(axis)
        np.testing.assert_allclose(mean[:, 1], swept.table(outcome).mean(axis=0))
        np.testing.assert_array_equal([seed[:, 1] for seed in seeds], swept.table(outcome))
        marks = [line for line in axis.get_lines() if line.get_marker() == "o"]
        white = [line.get_xdata()[0] for line in marks if line.get_mfc() == "white"]
        assert len(marks) == 12 and len(white) == hollow and all(x < 0.5 for x in white)


def test_curves_are_those_of_their_measure():
    """Norms as running medians with a triangle on every hill, the rest as it was measured."""
    swept = Swept(wide(), "rho", arrays_of(wide()))
    axis = Figure().subplots()
    panels._epochs(axis, swept, PERTURBED)
    panels._marks(axis, swept, PERTURBED)
    smooth = curves.running_median(swept[PERTURBED][0, 0].astype(float))
    np.testing.assert_allclose(lines(axis)[0][:, 1], smooth[np.isfinite(smooth)])
    falls, tops = lines(axis, "o"), lines(axis, "^")
    assert len(falls) == 12 and len(tops) == 9
    top = swept.runs[1, 0]["hill"]
    np.testing.assert_allclose(tops[0][0], (top.at, top.value))
    axis = Figure().subplots()
    panels._against_loss(axis, swept, "one_norm")
    loss, norm = (swept[name][0, 0].astype(float) for name in ("train_loss", "one_norm"))
    drawn = lines(axis)[0]
    smooth = np.stack([curves.running_median(x) for x in (loss, norm)], axis=1)
    np.testing.assert_array_equal(drawn, smooth)
    with style.styled():
        picture = panels.curves([swept])
    titles = {"training loss": "train_loss", "training accuracy": "train_accuracy"}
    titles |= {"test loss": "test_loss", "test accuracy": "test_accuracy"}
    for title, measure in titles.items():
        (axis,) = (axis for axis in picture.axes if axis.get_title().endswith(title))
        values = swept[measure][0, 0]
        np.testing.assert_allclose(lines(axis)[0][:, 1], values[np.isfinite(values)])
    plt.close(picture)


def test_the_stability_edge_is_named_where_it_rules():
    for rate, there in ((3e-4, False), (1e-3, True)):
        grid = wide(learning_rate=rate)
        arrays = arrays_of(grid)
        words = FIGURES["fig7"].caption(arrays, grid)
        assert ("2(1+β)/(1−β) = 38, 78, 131, 398" in words) == there
    assert captions.edges(Swept(wide(learning_rate=1e-3), "rho", {})) is None


def test_what_was_trained_is_in_the_caption():
    changes = {"width": 0.5, "images": 1200, "pool": 2, "augment": True, "ghost_batch": 300}
    assert captions.runs(Swept(wide(**changes), "rho", {})) == (
        "Full-batch Adam, Perceptron of width × 0.5 in place of CNN, the first 1,200 images of "
        "digits, pooled over 2 × 2 pixels, ghost batches of 300, augmented, 300 epochs, ε = 1e-08 "
        "inside the root, 3 seeds"
    )
    plain = {"width": 1.0, "images": None, "pool": 1, "augment": False, "dataset": "cifar10"}
    told = captions.runs(Swept(dataclasses.replace(wide(**plain), seeds=(0,)), "rho", {}))
    assert "Perceptron in place of CNN, all images of CIFAR-10, ghost" in told
    assert "augmented" not in told and told.endswith("1 seed")


def test_hills_are_counted_value_by_value():
    """At ρ = β there is none, in the runs as they are made up."""
    swept = Swept(wide(), "rho", arrays_of(wide()))
    assert captions.hills(swept) == "ρ varied: 0, 3, 3, 3 of 3 runs have a hill."


def test_the_lowest_perturbed_norm_has_the_square_of_eps():
    grid = wide(arguments={"b1": 0.9, "b2": 0.9, "eps": 3e-4, "eps_root": 1e-8})
    swept = Swept(grid, "rho", arrays_of(grid))
    assert captions.lowest(swept) == pytest.approx(made_up.PARAMETERS * (1e-8 + 9e-8) ** 0.5)


def test_short_runs_are_said_to_be_short():
    words = FIGURES["fig4"].caption(arrays_of(wide()), wide())
    assert "last only 0.3 times the longest memory, 1/(1 − 0.999) epochs" in words
    row = dataclasses.replace(wide().sweeps["rho"], values=(0.5, 0.6, 0.7, 0.9))
    long = dataclasses.replace(wide(), sweeps={"rho": row})
    assert captions.memory(Swept(long, "rho", {})) == ""


def test_a_grid_without_a_single_number_is_still_drawn():
    grid = made_up.grid()
    empty = [
        Record(run, "non-finite", dict.fromkeys(MEASURES, np.full(3, np.nan)))
        for run in grid.runs()
    ]
    arrays = arrays_of(grid, empty)
    for kind in ("fig7", "fig8", "fig11"):
        figure = FIGURES[kind]
        assert not any(row.holds for row in figure.evidence(arrays, grid))
        assert {trial.verdict for trial in figure.findings(arrays, grid)} == {WEAK}
        assert figure.caption(arrays, grid)
        with style.styled():
            figure.draw(arrays, grid).draw_without_rendering()


# The command


def smoke(tmp_path, *names, scale="smoke"):
    return Reproduce(figures=names, scale=scale, out=tmp_path, quiet=True)


def reproduced(tmp_path, *names):
    good = reproduce_job(smoke(tmp_path, *names), made_up.runs())
    return good, json.loads((tmp_path / f"{names[0]}-smoke" / "evidence.json").read_text("utf-8"))


def test_reproduce_writes_and_redraws_figures_of_runs(tmp_path, capsys):
    good, content = reproduced(tmp_path, "fig7")
    assert good and content["holds"]
    assert {row["verdict"] for row in content["findings"]} <= {HOLDS, FAILS, WEAK}
    assert content["configuration"]["sweeps"]["rho"]["values"] == [0.9, 0.99, 0.999]
    assert "in place of CNN" in content["caption"]
    folder = tmp_path / "fig7-smoke"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert set(before) - {".lock"} == {"arrays.npz", "evidence.json", "figure.pdf", "figure.png"}
    assert (
        cli.main(["reproduce", "fig7", "--scale", "smoke", "--out", str(tmp_path), "--redraw"]) == 0
    )
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert f"claim {HOLDS}: larger ρ" in capsys.readouterr().out


def test_a_run_that_fails_makes_the_figure_fail_and_a_claim_does_not(tmp_path):
    assert reproduced(tmp_path, "fig7")[0]
    broken = lambda wanted: [
        dataclasses.replace(made_up.record(run), reason="non-finite") for run in wanted
    ]
    assert not reproduce_job(smoke(tmp_path, "fig7"), broken)
    opposite = made_up.runs(-1.0)
    assert reproduce_job(smoke(tmp_path, "fig7"), opposite)


def test_scales_that_a_figure_does_not_have_are_refused(tmp_path, capsys):
    for name, scale in (("fig4", "full"), ("fig1", "laptop"), ("cifar100", "smoke")):
        assert cli.main(["reproduce", name, "--scale", scale, "--out", str(tmp_path)]) == 2
        assert f"for {name}, got '{scale}'" in capsys.readouterr().err


def test_the_paper_s_sizes_start_only_when_asked_to(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost, "measured", lambda settings, data_dir: cost.Cost(36.0, 2**30))
    none = lambda wanted: pytest.fail("a run was started")
    with pytest.raises(ValueError, match=r"--yes: expected it before runs of about 900 hours"):
        reproduce_job(smoke(tmp_path, "fig4", scale="paper"), none)
    shown = capsys.readouterr().out
    assert "resnet50 on cifar10: 36 s an epoch" in shown
    assert "30 runs of 3,000 epochs: 900 hours; 1.0 GiB" in shown
    cost.ask([], None, yes=False)
    assert not capsys.readouterr().out


@pytest.mark.slow
def test_the_cost_of_a_run_is_measured_on_a_few_images():
    settings = Training(width=0.25, images=200, test_images=50, ghost_batch=100, epochs=1000)
    found = cost.measured(settings)
    assert 1e-4 < found.seconds < 10
    params = sum(row.parameters for row in cost.network_of(settings).layers())
    assert found.memory > cost.COPIES * 4 * params
    deeper = cost.measured(dataclasses.replace(settings, images=1500, ghost_batch=1500))
    assert deeper.memory > found.memory


@pytest.mark.slow
def test_the_smoke_scale_trains_and_is_found_again(tmp_path, capsys):
    assert (
        cli.main(["reproduce", "fig4", "--scale", "smoke", "--out", str(tmp_path), "--quiet"]) == 0
    )
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/history.jsonl")}
    assert len(before) == 6
    assert (
        cli.main(
            ["reproduce", "fig11", "fig8", "--scale", "smoke", "--out", str(tmp_path), "--quiet"]
        )
        == 0
    )
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").glob("*/history.jsonl")}
    assert before.items() <= after.items()
    assert len(after) == 10
