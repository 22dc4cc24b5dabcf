"""Flags become settings, settings become names, and bad input becomes a sentence."""

import dataclasses
import hashlib
import inspect
import sys
from types import SimpleNamespace
from typing import get_args

import pytest

from shadowflow import cli, methods
from shadowflow.cli.jobs import settings
from shadowflow.cli.jobs.settings import Setting
from shadowflow.lab.choices import OPTIMIZERS
from shadowflow.optimizers import zoo


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_flags_are_those_of_the_zoo(name):
    zoos = {
        parameter.name: parameter.default
        for parameter in inspect.signature(getattr(zoo, name)).parameters.values()
    }
    assert dataclasses.asdict(OPTIMIZERS[name]()) == zoos
    assert list(zoos) == [field.name for field in dataclasses.fields(OPTIMIZERS[name])]


def test_every_optimizer_of_the_zoo_is_offered():
    public = {
        name
        for name, function in inspect.getmembers(zoo, inspect.isfunction)
        if inspect.signature(function).return_annotation in (zoo.Optimizer, "Optimizer")
        and all(
            parameter.default is not parameter.empty
            for parameter in inspect.signature(function).parameters.values()
        )
    }
    assert public == set(OPTIMIZERS)


def test_collocation_needs_a_settled_start():
    command = cli.parse(["shadow", "opt:adam", "--methods", "collocation"])
    with pytest.raises(ValueError, match=r"--methods: expected .* add --settled"):
        command.settings("digits")
    (setting,) = cli.parse(
        ["shadow", "opt:adam", "--methods", "collocation", "--settled"]
    ).settings("digits")
    assert setting.settled


def test_every_method_is_offered():
    assert set(get_args(settings.Method)) == set(methods.METHODS)
    assert set(settings.METHODS) <= set(methods.METHODS)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_can_be_named_and_built(name):
    (setting,) = cli.parse(["shadow", f"opt:{name}"]).settings("digits")
    assert setting == Setting(name)
    assert setting.build().name == name


def test_outer_flags_may_stand_before_and_after_the_optimizer():
    words = "--opt.b2 0.95 --opt.eps-root 1e-6 --learning-rate 1e-4".split()
    after = cli.parse(["shadow", "opt:adam", *words, "--steps", "20", "--out", "there"])
    before = cli.parse(["shadow", "--steps", "20", "--out", "there", "opt:adam", *words])
    assert after == before
    assert str(after.out) == "there"
    expected = Setting("adam", {"b2": 0.95, "eps_root": 1e-6}, 1e-4, 20)
    assert after.settings("digits") == [expected]


def test_without_an_optimizer_two_settings_of_adam_run():
    first, second = cli.parse(["shadow"]).settings("digits")
    inside = {"b1": 0.9, "eps": 0.0, "bias_correction": True}
    assert first == Setting("adam", {**inside, "b2": 0.95, "eps_root": 1e-6}, 1e-4, 200)
    assert second == Setting("adam", {**inside, "b2": 0.999, "eps_root": 1e-8}, 1e-3, 200)


def test_flags_reach_the_setting():
    words = "shadow opt:momentum --opt.form ema --opt.bias-correction --methods taylor inertial"
    (setting,) = cli.parse([*words.split(), "--seed", "3"]).settings("mine")
    assert setting.arguments == {"decay": 0.9, "form": "ema", "bias_correction": True}
    assert (setting.methods, setting.seed, setting.problem) == (("taylor", "inertial"), 3, "mine")
    assert setting.build().name == "momentum"


def test_a_key_names_the_whole_configuration():
    base = Setting("adam", {"b2": 0.95}, 1e-4)
    others = [
        Setting("adamw", {"b2": 0.95}, 1e-4),
        Setting("adam", {"b2": 0.96}, 1e-4),
        Setting("adam", {"b2": 0.95}, 2e-4),
        Setting("adam", {"b2": 0.95}, 1e-4, steps=201),
        Setting("adam", {"b2": 0.95}, 1e-4, problem="mine"),
        Setting("adam", {"b2": 0.95}, 1e-4, seed=1),
        Setting("adam", {"b2": 0.95}, 1e-4, methods=("taylor",)),
        Setting("adam", {"b2": 0.95}, 1e-4, settled=True),
        Setting("adam", {"b2": 0.95}, 1e-4, x64=True),
        Setting("adam", {"b2": 0.95, "bias_correction": False}, 1e-4),
    ]
    assert {field.name for field in dataclasses.fields(Setting)} == {
        *("optimizer", "arguments", "learning_rate", "steps", "problem", "seed", "methods"),
        *("settled", "x64"),
    }
    keys = {setting.key() for setting in [base, *others]}
    assert len(keys) == 1 + len(others)
    assert base.key().startswith("adam-lr0.0001-")


def test_one_configuration_has_one_key():
    assert Setting("adam", {"b1": 0.9}).key() == Setting("adam").key()
    assert (
        Setting("adam", {"b1": 0, "b2": 0.5}).key() == Setting("adam", {"b2": 0.5, "b1": 0.0}).key()
    )
    assert Setting("sgd", learning_rate=1).key() == Setting("sgd", learning_rate=1.0).key()


def test_a_key_ends_in_the_digest_of_the_canonical_text():
    text = (
        '{"arguments":{},"learning_rate":0.5,"methods":["taylor"],"optimizer":"sgd",'
        '"problem":"digits","seed":0,"settled":false,"steps":7,"x64":false}'
    )
    digest = hashlib.sha256(text.encode()).hexdigest()
    setting = Setting("sgd", learning_rate=0.5, steps=7, methods=("taylor",))
    assert setting.key() == f"sgd-lr0.5-{digest[:8]}"


REFUSED = {
    "shadow --learning-rate 1e-4": ("--learning-rate", "0.0001", "opt:adam"),
    "shadow opt:adam --learning-rate -1": ("--learning-rate", "-1.0", "positive"),
    "shadow opt:adam --learning-rate nan": ("--learning-rate", "nan", "positive"),
    "shadow --steps 0": ("--steps", "0", "from 1"),
    "shadow --seed -1": ("--seed", "-1", "from 0"),
    "shadow opt:adam --opt.b2 1.5": ("--opt.b2", "1.5", "below 1"),
    "shadow opt:lion --opt.eps-root -1": ("--opt.eps-root", "-1.0", "at least 0"),
    "shadow --methods": ("--methods", "none", "taylor"),
    "shadow --problem mine.py": ("--problem", "mine.py", "path/to/file.py:name"),
    "shadow --problem no/such.py:mine": ("--problem", "no/such.py", "does not exist"),
    "shadow --problem mine.py:mine --seed 1": ("--seed", "1", "--problem"),
    "shadow --steps 99999999999999999999": ("--steps", "from 1 to 2,147,483,647"),
    "shadow --seed 99999999999999999999": ("--seed", "from 0 to 2,147,483,647"),
    "train --epochs 99999999999999999999": ("--epochs", "from 1 to 2,147,483,647"),
    "train --width 1e9 --describe": ("--width", "of at most 1000", "1000000000.0"),
    "claims --workers 0": ("--workers", "from 1", "got 0"),
    "reproduce fig1 --workers -1": ("--workers", "from 1", "got -1"),
    "sweep --threads 0 --grid seed=0,1 train": ("--threads", "from 1", "got 0"),
    "sweep --grid devices=99 train --ghost-batch 99": ("cell 0", "--devices", "XLA_FLAGS"),
    "orders --orders 99 --methods taylor": ("--orders", "99", "taylor", "1, 2"),
    "derive --out no/such/folder/page.html": ("--out", "no folder 'no/such/folder'"),
    "derive --out /dev/null": ("--out", "/dev/null", "no plain file"),
    "verify --json /dev/null": ("--json", "/dev/null", "no plain file"),
    "derive --out shadow\0flow": ("--out", "null byte"),
    f"derive --out {'x' * 300}": ("--out", "File name too long"),
    f"shadow --out {'x' * 300}": ("--out", "File name too long"),
    "shadow --out shadow\0flow": ("--out", "null byte"),
    "verify --full --quick": ("--full", "--quick", "both"),
}


@pytest.mark.parametrize("words", REFUSED)
def test_bad_input_is_refused_in_a_sentence(words, capsys):
    assert cli.main(words.split()) == 2
    printed = capsys.readouterr()
    assert all(part in printed.err for part in REFUSED[words]), printed.err
    assert printed.err.startswith("shadowflow: ")
    assert printed.err.count("\n") == 1
    assert printed.out == ""


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("shadow opt:adm", "opt:adam"),
        ("shadow opt:adam --opt.b3 1", "--opt.b1"),
        ("shadow --methods tailor", "taylor"),
        ("shadow --steps many", "--steps"),
        ("shadows", "shadow"),
    ],
)
def test_unknown_words_are_refused_with_what_is_allowed(words, said, capsys):
    with pytest.raises(SystemExit) as exit_:
        cli.main(words.split())
    assert exit_.value.code == 2
    assert said in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_refused(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert cli.main(["shadow", "--out", str(tmp_path / "file")]) == 2
    assert "--out: expected a folder" in capsys.readouterr().err


def test_settings_are_checked_where_they_are_made():
    with pytest.raises(ValueError, match="opt:adam: expected arguments among b1, b2"):
        Setting("adam", {"decay": 0.9})
    with pytest.raises(
        ValueError, match=r"--methods: expected one or more of taylor .* got tailor"
    ):
        Setting(methods=("tailor",))


@pytest.fixture
def jobs(monkeypatch):
    """The two jobs, replaced by a record of how they were called."""
    calls = []
    run = SimpleNamespace(shadow_job=lambda *given, **named: calls.append((given, named)))
    verify = SimpleNamespace(verify_job=lambda **named: calls.append(((), named)) or False)
    monkeypatch.setitem(sys.modules, "shadowflow.cli.jobs.shadow", run)
    monkeypatch.setitem(sys.modules, "shadowflow.cli.jobs.verify", verify)
    return calls


PROBLEM_FILE = """
import jax.numpy as jnp
import shadowflow
mine = (shadowflow.Problem(lambda x: (x * x).sum()), jnp.ones(3))
bare = mine[0]
turned = mine[::-1]
"""


def test_a_problem_of_ones_own_is_run(tmp_path, jobs):
    file = tmp_path / "file.py"
    file.write_text(PROBLEM_FILE)
    words = ["shadow", "opt:sgd", "--problem", f"{file}:mine", "--out", str(tmp_path), "--quiet"]
    assert cli.main(words) == 0
    file.write_text(PROBLEM_FILE.replace("ones(3)", "ones(4)"))
    assert cli.main(words) == 0
    (first, _), (second, _) = jobs
    assert (first[0].out, first[0].quiet, first[0].error_bars) == (tmp_path, True, False)
    assert (first[3].shape, second[3].shape) == ((3,), (4,))
    assert first[1][0].problem.startswith("file.py:mine:")
    assert first[1][0].key() != second[1][0].key()


@pytest.mark.parametrize(
    ("name", "got"),
    [("bare", "got a Problem"), ("turned", "got a tuple of"), ("other", "it defines")],
)
def test_what_is_no_problem_is_refused(name, got, tmp_path, jobs, capsys):
    file = tmp_path / "file.py"
    file.write_text(PROBLEM_FILE)
    assert cli.main(["shadow", "--problem", f"{file}:{name}"]) == 2
    assert got in capsys.readouterr().err
    assert jobs == []


def test_the_digits_are_the_default(jobs):
    assert cli.main(["shadow"]) == 0
    assert cli.main(["shadow", "--seed", "1"]) == 0
    ((first, params), (second, others)) = [(given[1], given[3]) for given, _ in jobs]
    assert [setting.problem for setting in first] == ["digits", "digits"]
    assert [setting.seed for setting in second] == [1, 1]
    assert (params[0]["weight"] != others[0]["weight"]).any()


def test_verify_hands_its_flags_on_and_fails_when_a_row_does(jobs):
    assert cli.main("verify --rows adam lion --quick --json numbers.json".split()) == 1
    assert cli.main(["verify"]) == 1
    (_, first), (_, second) = jobs
    assert (str(first["json"]), first["rows"], first["full"]) == (
        "numbers.json",
        ("adam", "lion"),
        False,
    )
    assert second == {"json": None, "rows": (), "full": True}


def fails(monkeypatch, error):
    """The command line, whose job raises that."""

    def broken(*given, **named):
        raise error

    monkeypatch.setattr(sys.modules["shadowflow.cli.jobs.shadow"], "shadow_job", broken)
    return cli.main(["shadow"])


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (ValueError("a defect"), 70, "ValueError: a defect; this is a fault of shadowflow"),
        (RuntimeError("two\nlines"), 70, "RuntimeError: two lines; this is a fault of shadowflow"),
        (OSError(28, "No space left on device"), 2, "the system refuses (No space left on device)"),
        (MemoryError(), 2, "out of memory"),
        (KeyboardInterrupt("epoch 3 is saved"), 130, "stopped; epoch 3 is saved"),
    ],
)
def test_whatever_is_raised_is_one_line(error, code, said, monkeypatch, jobs, capsys):
    assert fails(monkeypatch, error) == code
    printed = capsys.readouterr().err
    assert printed.startswith(f"shadowflow: {said}")
    assert printed.count("\n") == 1
    assert ("SHADOWFLOW_DEBUG=1" in printed) == (code == 70)


def test_the_traceback_is_there_on_request(monkeypatch, jobs):
    monkeypatch.setenv("SHADOWFLOW_DEBUG", "1")
    with pytest.raises(ValueError, match="a defect"):
        fails(monkeypatch, ValueError("a defect"))


def test_refusals_of_the_library_are_sentences(monkeypatch, jobs, capsys):
    def refusing(*given, **named):
        settings.Setting(steps=-5)

    monkeypatch.setattr(sys.modules["shadowflow.cli.jobs.shadow"], "shadow_job", refusing)
    assert cli.main(["shadow"]) == 2
    assert "--steps: expected a whole number from 1" in capsys.readouterr().err
