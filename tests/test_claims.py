"""The paper's claims: the registry, what is needed, what is computed, what is written."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import made_up
import numpy as np
import pytest

from shadowflow import cli
from shadowflow.cli.jobs.claims import claims_job
from shadowflow.lab.models import digits_problem
from shadowflow.optimizers import zoo
from shadowflow.paper import claims, theorems, trials
from shadowflow.paper.analysis import OUTCOMES, Swept, arranged
from shadowflow.paper.claims import CLAIMS
from shadowflow.paper.figures import figure2
from shadowflow.paper.trials import FAILS, HOLDS, WEAK

TRAINED = [name for name, claim in CLAIMS.items() if claim.needs]
COMPUTED = [name for name, claim in CLAIMS.items() if not claim.needs]


def trained(effect=1.0, scale="laptop"):
    found = {}
    for name in claims.NETWORKS:
        grid = made_up.grid(name, scale)
        arrays = arranged(grid, tuple(grid.sweeps), made_up.runs(effect)(grid.runs()))
        found[name] = {sweep: Swept(grid, sweep, arrays) for sweep in grid.sweeps}
    return found


def test_every_claim_on_runs_is_tried_on_every_network():
    runs, seen = trained(), set()
    for name in TRAINED:
        found = CLAIMS[name].tried("smoke", runs)
        assert len({trial.where for trial in found}) == len(claims.NETWORKS)
        seen |= {trial.claim for trial in found}
    assert len(seen) == 2 * len(OUTCOMES)  # each outcome, for ρ and for β
    alike = CLAIMS["hills"].tried("smoke", trained(scale="smoke"))
    assert {trial.where for trial in alike} == {"Perceptron in place of ResNet-50, digits, smoke"}
    assert claims.needed(tuple(COMPUTED)) == []
    assert claims.needed(tuple(CLAIMS)) == list(claims.NETWORKS)


def test_the_sides_of_the_claims_are_the_paper_s():
    """Larger ρ: larger norms and hills, lower accuracy; larger β: the other way round."""
    words = {trial.claim for name in TRAINED for trial in CLAIMS[name].tried("smoke", trained())}
    for start, side in (("larger ρ: larger", "smaller"), ("larger β: smaller", "larger")):
        for rest in (
            "maximal perturbed one-norm after the initial fall",
            "perturbed one-norm at equal training loss (0.5)",
            "hill of the perturbed",
            "maximal Σ|g|",
            "Σ|g| at equal",
        ):
            assert any(word.startswith(f"{start} {rest}") for word in words)
        assert f"{start.split(':')[0]}: {side} maximal test accuracy" in words


def job(tmp_path, *names, effect=1.0):
    return claims_job("smoke", out=tmp_path, only=names, runs=made_up.runs(effect), quiet=True)


def test_what_is_written_is_what_is_printed(tmp_path, capsys):
    content = job(tmp_path, *TRAINED)
    assert json.loads((tmp_path / "claims-smoke.json").read_text("utf-8")) == json.loads(
        json.dumps(content, default=list)
    )
    shown = capsys.readouterr().out
    for claim in content["claims"]:
        assert claim["claim"] in shown
        for trial in claim["trials"]:
            assert trial["verdict"] in (HOLDS, FAILS, WEAK)
            assert f"{trial['verdict']}: {trial['claim']}; {trial['where']}" in shown
    assert "none corrected for" in shown
    count = sum(len(claim["trials"]) for claim in content["claims"])
    assert f"{count} trials: " in shown


def test_a_failing_claim_is_a_finding_and_no_error(tmp_path, monkeypatch, capsys):
    fails = trials.of_signs("closer", "here", "ratio", [2.0] * 5)
    monkeypatch.setitem(
        CLAIMS, "second-order", claims.computed("Closer", "", lambda scale: [fails])
    )
    assert (
        cli.main(["claims", "--scale", "smoke", "--only", "second-order", "--out", str(tmp_path)])
        == 0
    )
    shown = capsys.readouterr().out
    assert f"{FAILS}: closer; here" in shown
    assert "1 trials: 0 holds, 1 does not hold here, 0 not enough power." in shown


def test_claims_that_are_not_there_are_refused(tmp_path, capsys):
    assert cli.main(["claims", "--only", "gravity", "--out", str(tmp_path)]) == 2
    assert "--only: expected among rho-norm, " in capsys.readouterr().err


def test_the_paper_s_scale_is_priced_first(tmp_path, monkeypatch, capsys):
    from shadowflow.cli.jobs import cost

    monkeypatch.setattr(cost, "measured", lambda settings, data_dir: cost.Cost(3600.0, 2**30))
    none = lambda wanted: pytest.fail("a run was started")
    with pytest.raises(ValueError, match="--yes: expected it before runs"):
        claims_job("paper", out=tmp_path, only=["hills"], runs=none)
    assert capsys.readouterr().out.count("hours") == len(claims.NETWORKS)


@pytest.mark.slow
def test_table_1_holds_and_a_wrong_sign_would_not(monkeypatch):
    found = claims.regimes("smoke")
    assert [trial.verdict for trial in found] == [HOLDS, HOLDS]
    assert [len(trial.run["rows"]) for trial in found] == [7, 8]
    strengths = [row["expected"] for row in found[0].run["rows"] if row["tolerance"]]
    assert strengths == pytest.approx([19 - 3, 0, 19 - 1999, 1 - 1999], abs=1e-9)
    swapped = lambda decay: (1 - decay) / (1 + decay)
    monkeypatch.setattr(claims, "age", swapped)
    assert [trial.verdict for trial in claims.regimes("smoke")] == [FAILS, FAILS]


@pytest.mark.slow
def test_first_order_s_distance_is_that_of_the_sign_flow(monkeypatch):
    """The denominator of the ratios, by a loop of its own: θ ← θ − h g/√(g² + ε) against Adam."""
    found = []
    monkeypatch.setattr(claims, "_end", lambda distances: found.append(distances[-1]) or 1.0)
    claims.closer(1, 1e-5, 0.95, 1e-6)
    with jax.enable_x64(True):
        problem, start = digits_problem(1)
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), start)
        adam = zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=1e-6)
        state, params, plain = adam.init(start), start, start
        for _ in range(claims.STEPS):
            state, move = adam.update(state, problem.gradient(params), params, 1e-5)
            params = jax.tree.map(jnp.add, params, move)
            plain = jax.tree.map(
                lambda p, g: p - 1e-5 * g / jnp.sqrt(g**2 + 1e-6), plain, problem.gradient(plain)
            )
        gaps = jax.tree.leaves(jax.tree.map(jnp.subtract, params, plain))
        distance = float(np.sqrt(sum(np.sum(np.square(gap)) for gap in gaps)))
    assert found[0] == pytest.approx(distance, rel=1e-9)
    assert found[1] < 0.5 * distance


@pytest.mark.slow
def test_second_order_is_closer_only_in_its_range():
    found = claims.second_order("smoke")
    assert [trial.verdict for trial in found] == [HOLDS, HOLDS, FAILS]
    assert all(len(trial.measured) == claims.STARTS for trial in found)


@pytest.mark.slow
def test_the_theorems_and_figure_2_hold():
    found = claims.orders("smoke")
    assert [trial.verdict for trial in found] == [HOLDS] * len(theorems.THEOREMS)
    assert all(len(trial.run["rows"]) == 4 for trial in found)
    assert {trial.verdict for trial in claims.orderings("smoke")} == {HOLDS}


def test_a_first_order_method_would_not_pass_the_theorems(monkeypatch):
    """The negative control: slopes of order 1 are not within the tolerance of 2."""
    row = SimpleNamespace(kind="flow", slope=1.0, learning_rates=(), errors=())
    monkeypatch.setattr(theorems, "orders", lambda *rest: [row])
    assert {trial.verdict for trial in claims.orders("smoke")} == {FAILS}


def test_figure_2_s_orderings_can_fail(monkeypatch):
    from shadowflow.paper.evidence import ordered

    wrong = [ordered("larger β: Adam ends at a point of smaller one-norm", [1, 2], False)]
    monkeypatch.setattr(figure2, "compute", lambda *rest: {})
    monkeypatch.setattr(figure2, "evidence", lambda *rest: wrong)
    assert {trial.verdict for trial in claims.orderings("smoke")} == {FAILS}
