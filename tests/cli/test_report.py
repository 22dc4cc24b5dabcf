"""What a run prints and writes."""

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

import shadowflow as sf
from shadowflow import cli, files
from shadowflow.cli.jobs import (
    formatting,
    settings,
    shadow,
    shadow_figure,
    shadow_run,
    shadow_text,
    verify,
)
from shadowflow.diagnostics.bias import ImplicitBias, Measure
from shadowflow.diagnostics.convergence import OrderRow
from shadowflow.lab.choices import OPTIMIZERS
from shadowflow.optimizers import zoo
from shadowflow.paper.ways import Way
from shadowflow.trust import Validity

ROOT = Path(__file__).parents[2]
PROBLEMS = """
import jax.numpy as jnp
import numpy as np
import shadowflow as sf

quadratic = sf.Problem(lambda p: 0.5 * jnp.sum(p["x"] ** 2)), {"x": jnp.ones(3)}
cliff = sf.Problem(lambda x: jnp.sum(jnp.where(x > 0.95, x, jnp.nan))), jnp.ones(2)
batches = sf.Problem(lambda x, c: 0.5 * jnp.sum((x - c) ** 2), batches=jnp.arange(3.0)), jnp.ones(2)
host = sf.Problem(grad=lambda x: np.asarray(x), traceable=False), jnp.ones(2)
"""


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text(PROBLEMS)
    monkeypatch.chdir(tmp_path)

    def run(name, *flags):
        code = cli.main(["shadow", *flags, "--problem", f"mine.py:{name}", "--out", "out"])
        folders = sorted(Path("out").iterdir()) if Path("out").exists() else []
        return code, capsys.readouterr().out, folders

    return run


def test_a_run_says_and_writes_what_it_did(run):
    code, said, (folder,) = run(
        "quadratic",
        "opt:adam",
        "--opt.b2",
        "0.95",
        "--opt.eps",
        "0",
        "--opt.eps-root",
        "1e-6",
        "--steps",
        "20",
    )
    assert code == 0
    for text in (
        "m ← 0.9 m + 0.1 g",
        "v ← 0.95 v + 0.05 g²",
        "taylor",
        "displaced",
        "inertial",
        "anti-penalizes",
        "perturbed one-norm",
        "with the memory that the optimizer has there",
        "verdict",
        str(folder),
    ):
        assert text in said
    numbers = json.loads((folder / "numbers.json").read_text())
    assert numbers["setting"]["arguments"]["b2"] == 0.95
    assert {row["method"] for row in numbers["rows"]} == set(settings.METHODS)
    assert all(row["verdict"] for row in numbers["rows"])
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")
    with np.load(folder / "arrays.npz", allow_pickle=False) as arrays:
        assert arrays["params['x']"].shape == (21, 3)
        np.testing.assert_allclose(arrays["inertial | order 2 | flow|two_norm"][0], 0)


def test_from_a_settled_start_collocation_chooses_its_order(run):
    flags = (
        "opt:adam",
        "--opt.b2",
        "0.95",
        "--opt.eps",
        "0",
        "--opt.eps-root",
        "1e-2",
        "--steps",
        "12",
        "--settled",
        "--methods",
        "taylor",
        "collocation",
    )
    code, said, (folder,) = run("quadratic", *flags)
    rows = json.loads((folder / "numbers.json").read_text())["rows"]
    chosen = [row for row in rows if row["method"] == "collocation"]
    assert code == 0 and {row["kind"] for row in chosen} == {"flow", "iteration"}
    assert "It assumes a settled memory" in said
    assert all(row["order"] > 2 for row in chosen) and "was chosen" in said
    assert all(row["two_norm"] < 0.02 * rows[0]["two_norm"] for row in chosen), rows


def test_with_mini_batches_the_methods_that_take_them_are_shown(run, monkeypatch):
    monkeypatch.setattr(shadow_run, "SAVED", 3)  # of six steps every other one
    code, said, (folder,) = run("batches", "opt:adam", "--steps", "6")
    rows = json.loads((folder / "numbers.json").read_text())["rows"]
    assert code == 0 and {row["method"] for row in rows} == {"taylor", "displaced"}
    with np.load(folder / "arrays.npz") as arrays:
        assert arrays["steps"].tolist() == [0, 2, 4, 6]
    assert "What is penalized? Not told: with mini-batches the bias is no function" in said


def test_another_configuration_gets_another_folder(run):
    flags = ("opt:sgd", "--steps", "3", "--methods", "inertial")
    assert len(run("quadratic", *flags)[2]) == 1
    assert len(run("quadratic", *flags)[2]) == 1
    assert len(run("quadratic", *flags, "--learning-rate", "0.5")[2]) == 2


def test_a_run_that_meets_nan_says_where_and_writes_what_came_before(run):
    flags = "opt:sgd --learning-rate 0.02 --steps 9 --methods taylor inertial"
    code, said, (folder,) = run("cliff", *flags.split())
    assert code == 0
    assert "a non-finite loss, gradient or parameter began at step 3 of 9" in said
    assert "What is penalized? Not told: the run ended in a number that is not finite" in said
    text = (folder / "numbers.json").read_text()
    assert "NaN" not in text
    assert json.loads(text)["real"]["failed_at"] == 3
    with np.load(folder / "arrays.npz") as arrays:
        assert arrays["params"].shape == (4, 2)
        assert np.all(np.isfinite(arrays["params"]))


def test_a_folder_that_cannot_be_written_is_refused_before_any_work(run, capsys):
    Path("out").write_text("a file")
    assert cli.main(["shadow", "opt:sgd", "--out", "out/below"]) == 2
    assert "--out: expected a folder that can be written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_host_problem_without_hvp_gets_the_methods_that_need_gradients_only(run):
    code, said, (folder,) = run("host", "opt:adam", "--steps", "5")
    assert code == 0
    rows = json.loads((folder / "numbers.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"displaced", "differences", "inertial"}
    assert "1  iteration" in said


def told(*ends):
    """The outcome of two steps along (0, 0), (0, 8), (6, 8), with shadows that end at ``ends``."""
    way = [[0.0, 0.0], [0.0, 8.0]]
    path = lambda end: sf.Trajectory(
        np.arange(3), 0.1 * np.arange(3), np.array([*way, end]), None, None
    )
    validity = SimpleNamespace(
        steps=np.arange(2),
        share=np.array([0.2, 0.1]),
        running_max=np.array([0.2, 0.2]),
        basis="measured",
        level="holds",
        reason="it holds",
        remarks=(),
    )
    real, lines = path([6.0, 8.0]), []
    for order, end in enumerate(ends, start=1):
        follow = SimpleNamespace(
            **vars(path(end)), last=np.array(end), order=order, validity=validity, verdict="holds"
        )
        lines.append(
            shadow_run.Followed(Way("taylor", order, "flow"), follow, sf.compare(real, follow))
        )
    problem = sf.Problem(lambda x: jnp.sum(x))
    return shadow_run.ShadowOutcome(settings.Setting("sgd"), problem, sf.sgd(), real, lines, None)


def test_the_distances_that_are_told_are_those_of_the_paths():
    """(3, 4) away in the end: 4 in the max-norm, 5 in the two-norm, half of first order's."""
    found = told([0.0, 0.0], [3.0, 4.0])
    first, second = shadow.numbers(found)["rows"]
    assert (second["max_norm"], second["two_norm"], second["largest_two_norm"]) == (4, 5, 5)
    assert (first["two_norm_of_first_order"], second["two_norm_of_first_order"]) == (1, 0.5)
    assert shadow.numbers(found)["real"]["moved"] == 10
    assert shadow.numbers(found)["real"]["loss"] == [0, 14]
    lines = [line.split() for line in shadow_text.tell(found).splitlines()]
    assert ["taylor", "2", "flow", "4", "5", "0.5", "holds"] in lines
    arrays = shadow.arrays(found)
    assert arrays["taylor / order 2 / flow/max_norm"][-1] == 4
    assert arrays["taylor / order 2 / flow/two_norm"][-1] == 5
    assert arrays["taylor / order 2 / flow/share"].tolist() == [0.2, 0.1]
    assert arrays["taylor / order 2 / flow/running_max"].tolist() == [0.2, 0.2]
    assert (second["share_running_max"], second["basis"]) == (0.2, "measured")


def test_the_verdict_stands_before_the_numbers():
    said = shadow_text.tell(told([0.0, 0.0], [3.0, 4.0]))
    assert said.index("- taylor, order 2: it holds") < said.index("How far each is")


@pytest.mark.parametrize(("trusted", "cell"), [(True, "0.6"), (False, "0.6?")])
def test_an_estimate_is_told_in_the_two_norm_and_marked_where_it_is_not_trusted(trusted, cell):
    found = told([0.0, 0.0], [3.0, 4.0])
    bar = SimpleNamespace(
        two_norm=np.array([0.0, 0.0, 0.6]),
        max_norm=np.array([0.0, 0.0, 0.4]),
        trusted=np.array([True, True, trusted]),
        verdict="about .6",
    )
    found.lines[:] = [dataclasses.replace(line, bar=bar) for line in found.lines]
    lines = [line.split() for line in shadow_text.tell(found).splitlines()]
    assert ["taylor", "2", "flow", "4", "5", cell, "0.5", "holds"] in lines
    row = shadow.numbers(found)["rows"][1]
    assert (row["estimated_two_norm"], row["error_bar"]) == (0.6, "about .6")


def bias(level, coefficient, **options):
    """A bias of two parts, −2 and 3.5, held against a memory of −1 and .5 if ``exact`` is given."""
    rates = {"memoryless": -9.0, "momentum": -2.0, "second moment": 3.5}
    norm = Measure(2.5, None, rates, {}, {}, 1e-9, **options)
    valid = Validity("measured", np.zeros(1), np.zeros(1), None, level, f"{level}: because")
    return ImplicitBias({}, None, None, norm, coefficient, None, valid)


def test_what_is_penalized_is_told_with_its_parts_and_coefficients():
    """Twenty-one coefficients from −4 to 16: their quantiles and the negative ones, counted."""
    coefficient = {"a": np.arange(-4.0, 7.0), "b": np.arange(7.0, 17.0)}
    lines = shadow_text.bias_lines(bias("holds", coefficient))
    said = " ".join(lines)
    assert lines[0] == "The prediction holds: because."
    assert "The bias anti-penalizes the perturbed one-norm (now 2.5):" in said
    assert "median 6, 90 % of them between -3 and 15; negative (anti-penalizing) in 19%" in said
    rows = [line.split() for line in lines]
    assert ["momentum", "-2.000e+00", "per", "unit", "of", "time", "(penalizes)"] in rows
    assert ["together", "+1.500e+00", "per", "unit", "of", "time", "(anti-penalizes)"] in rows


def test_a_prediction_that_does_not_hold_is_not_told():
    coefficient = {"a": np.ones(3)}
    said = " ".join(shadow_text.bias_lines(bias("does not hold", coefficient)))
    assert "No statement about the perturbed one-norm" in said
    assert "penalizes" not in said and "Coefficient" not in said and "-2.000" not in said
    exact = {"momentum": -1.0, "second moment": 0.5}
    said = " ".join(shadow_text.bias_lines(bias("does not hold", coefficient, exact=exact)))
    assert "Memory penalizes the perturbed one-norm (now 2.5) in this step:" in said
    assert "-5.000e-01 per unit of time  (measured: penalizes)" in said and "-2.000" not in said


def test_the_heading_counts_parameters():
    setting = settings.Setting("sgd", learning_rate=0.5, steps=7, problem="mine.py:f:0123")
    text = shadow_text.heading(setting, {"a": np.zeros((40, 30), np.float32), "b": np.float32(0)})
    assert text == (
        "sgd, learning rate 0.5, 7 steps\nProblem: mine.py:f; 1,201 parameters, float32\n"
    )


def test_the_picture_shows_two_norms_and_running_maxima():
    """A line per shadow: drawn through for flows, dashed for iterations."""
    names = ["taylor / order 2 / flow", "taylor / order 2 / iteration", "taylor / order 1 / flow"]
    arrays = {"steps": np.arange(4), "moved": np.arange(4.0)}
    for k, name in enumerate(names, start=1):
        arrays |= {
            f"{name}/saved": np.arange(4),
            f"{name}/two_norm": k * np.arange(4.0),
            f"{name}/max_norm": np.full(4, 9.0),
            f"{name}/steps": np.arange(3),
            f"{name}/share": np.array([0.3, 0.1, 0.2]),
            f"{name}/running_max": np.full(3, 0.3 * k),
        }
    left, right = Figure().subplots(1, 2)
    shadow_figure._distances(left, arrays, names)
    shadow_figure._validity(right, arrays, names)
    moved, *lines = left.get_lines()
    assert moved.get_label() == "distance moved by the optimizer"
    assert [line.get_label() for line in lines] == [
        "taylor, order 2, flow",
        "taylor, order 2, iteration",
        "first order, flow",
    ]
    for k, (line, ratio) in enumerate(zip(lines, right.get_lines(), strict=True), start=1):
        np.testing.assert_array_equal(line.get_ydata()[1:], k * np.arange(1.0, 4.0))
        np.testing.assert_array_equal(ratio.get_ydata(), 0.3 * k)
        assert (line.get_linestyle() == "-") == (k != 2)
    assert {text.get_text() for text in right.texts} == {"holds", "in part", "does not hold"}


def test_the_bias_is_that_of_the_memory_that_the_run_ended_with():
    problem, adam = sf.Problem(lambda x: jnp.sum(x**4) / 4), sf.adam(b1=0.9, b2=0.99, eps=1e-3)
    run = sf.iterate(problem, adam, jnp.ones(1), 0.01, 3)
    setting = settings.Setting("adam", methods=("taylor",))
    bias, _ = shadow_run.bias_of(setting, (problem, adam, jnp.ones(1), 0.01), run)
    wanted = sf.implicit_bias(problem, adam, run.last, 0.01, start=3).potential
    assert bias.potential.rates == pytest.approx(wanted.rates)
    assert set(bias.potential.exact) == {"momentum", "second moment"} and wanted.exact is None


@pytest.mark.parametrize(
    ("optimizer", "last"),
    [
        (zoo.sgd(), "θ ← θ - 0.1 · [g]"),
        (zoo.momentum(decay=0.5), "θ ← θ - 0.1 · [2 m]"),
        (zoo.nesterov(decay=0.5, form="ema"), "θ ← θ - 0.1 · [(0.5 m + 0.5 g)]"),
        (zoo.rmsprop(), "θ ← θ - 0.1 · [g / (sqrt(v) + 1e-08)]"),
        (zoo.adamw(), "θ ← θ - 0.1 · [m̂ / (sqrt(v̂) + 1e-08) + 0.0001 θ]"),
        (zoo.signum(decay=0.5, eps_root=0.1), "θ ← θ - 0.1 · [m / sqrt(m² + 0.1)]"),
        (
            zoo.nadam(b1=0.5, b2=0.6, eps=0.0, eps_root=0.1),
            "θ ← θ - 0.1 · [(0.5 m / (1 - 0.5^(n+2)) + 0.5 g / (1 - 0.5^(n+1))) / sqrt(v̂ + 0.1)]",
        ),
        (sf.Optimizer([sf.Moment(0.5)], lambda m, p, n: m[0]), "θ ← θ - 0.1 · [combine(m)]"),
    ],
)
def test_the_equation_is_written_with_its_numbers(optimizer, last):
    assert shadow_text.equation(optimizer, 0.1)[-1] == last


def test_a_package_that_is_no_distribution_costs_no_results(monkeypatch):
    monkeypatch.setattr(formatting, "PACKAGES", ("jax", "no-such-package"))
    assert formatting.versions() == {"jax": jax.__version__, "no-such-package": "not installed"}


def test_a_file_is_whole_or_not_there(tmp_path):
    target = tmp_path / "a" / "file.json"

    def torn(draft):
        draft.write_text("half")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        files.write(target, torn)
    assert not list(target.parent.iterdir())
    files.write_json(target, {"x": np.asarray([1.0, np.inf]), "y": np.float64("nan")})
    assert json.loads(target.read_text()) == {"x": [1.0, None], "y": None}


def test_verify_measures_prints_and_writes(tmp_path, capsys):
    target = tmp_path / "orders.json"
    warm = "rmsprop, eps inside / inertial / flow / order 2"  # no memory that rises from 0
    assert verify.verify_job(json=target, rows=("sgd / taylor", warm), full=False)
    said = capsys.readouterr().out
    assert "5 of 5 rows hold" in said
    rows = json.loads(target.read_text())["rows"]
    assert [row["expected"] for row in rows] == [1, 1, 2, 2, 2]
    assert [row["exact"] for row in rows] == [True, False, True, False, False]
    assert [row["start"] for row in rows] == ["cold"] * 4 + ["settled"]
    assert rows[3]["measured"] == pytest.approx(2, abs=0.15)


@pytest.mark.parametrize(("full", "count"), [(False, 4), (True, 5)])
def test_verify_says_which_row_fails_and_takes_a_fifth_step_size_where_asked(
    monkeypatch, capsys, full, count
):
    """All rows but one hold, and that is enough to fail."""

    def measure(case, way, exponents):
        rates = tuple(2.0**-k for k in exponents)
        errors, holds = tuple(rate**2 for rate in rates), way.kind == "flow"
        return OrderRow(
            "taylor", way.kind, 2, "cold", rates, errors, (), 2.0, 1e-12, holds, "holds"
        )

    monkeypatch.setattr(verify, "measure", measure)
    assert not verify.verify_job(json=None, rows=("sgd / taylor",), full=full)
    said = capsys.readouterr().out
    assert "2 of 4 rows hold" in said
    rows = [line.split() for line in said.splitlines() if line.startswith("sgd")]
    assert [row[-1] for row in rows] == ["NO", "yes", "NO", "yes"]
    assert all(len(row) == 7 + count for row in rows)


def test_verify_names_what_there_is_when_nothing_is_asked():
    with pytest.raises(
        ValueError, match=r"--rows: expected a part of a row's name, got xyz"
    ) as told:
        verify.verify_job(json=None, rows=("xyz",), full=True)
    assert "sgd; momentum, trace; momentum, EMA;" in str(told.value)


def test_every_optimizer_of_the_zoo_is_verified():
    assert {case.optimizer for case in verify.CASES} == set(OPTIMIZERS)


def test_every_row_that_is_verified_was_measured():
    evidence = json.loads((ROOT / "docs" / "verify.json").read_text())
    assert {row["optimizer"] for row in evidence["rows"]} == {case.label for case in verify.CASES}
    assert len(evidence["rows"]) == sum(len(case.ways()) for case in verify.CASES)


def test_every_public_name_is_there():
    stub = (Path(sf.__file__).parent / "__init__.pyi").read_text()
    names = re.findall(r" as (\w+)", stub)
    assert set(names) == set(sf.__all__)
    assert len(names) <= 60
    assert all(getattr(sf, name) is not None for name in names)


def test_a_function_named_like_its_module_stays_a_function():
    code = (
        "from shadowflow.diagnostics.convergence import OrderRow; "
        "from shadowflow.shadow import Shadow; "
        "import shadowflow as sf; sf.compare; "
        "assert all(map(callable, (sf.iterate, sf.shadow, sf.convergence)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
