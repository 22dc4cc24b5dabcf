"""Checkpoints: what comes back, what is refused, and what a kill leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import CONFIGURATION, state

from shadowflow.lab.training.checkpoint import KEPT, restore, save

ROOT = Path(__file__).parents[2]


def equal(one, other):
    """Bit by bit, with dtypes, keys and all."""
    raw = lambda leaf: (
        np.asarray(jax.random.key_data(leaf))
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        else np.asarray(leaf)
    )
    pairs = list(zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))
    assert jax.tree.structure(one) == jax.tree.structure(other)
    return all(
        raw(a).dtype == raw(b).dtype and raw(a).tobytes() == raw(b).tobytes() for a, b in pairs
    )


def test_what_comes_back_is_bit_for_bit_the_same(tmp_path):
    assert restore(tmp_path, state(), CONFIGURATION) is None
    save(tmp_path, 7, state(7), CONFIGURATION)
    found = restore(tmp_path, state(), CONFIGURATION)
    assert (found.epoch, found.passed_over) == (7, ())
    assert equal(found.state, state(7))
    assert not equal(found.state, state(8))
    draw = lambda tree: jax.random.normal(tree["key"])
    assert draw(found.state) == draw(state(7)) != draw(state(8))


def test_two_are_kept(tmp_path):
    for epoch in (1, 2, 3, 10):
        save(tmp_path, epoch, state(epoch), CONFIGURATION)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "00000003.json",
        "00000003.npz",
        "00000010.json",
        "00000010.npz",
    ]
    assert KEPT == 2
    assert restore(tmp_path, state(), CONFIGURATION).epoch == 10


def test_what_is_saved_is_what_comes_back_although_a_later_one_was_there(tmp_path):
    for epoch in (1, 2, 3, 2):
        save(tmp_path, epoch, state(epoch), CONFIGURATION)
    assert restore(tmp_path, state(), CONFIGURATION).epoch == 2
    assert [path.stem for path in tmp_path.glob("*.npz")] == ["00000002"]


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("harm", [flip, truncate, Path.unlink])
@pytest.mark.parametrize("end", ["npz", "json"])
def test_a_damaged_one_falls_back_to_the_one_before_and_says_so(tmp_path, harm, end):
    for epoch in (1, 2):
        save(tmp_path, epoch, state(epoch), CONFIGURATION)
    harm(tmp_path / f"00000002.{end}")
    found = restore(tmp_path, state(), CONFIGURATION)
    assert found.epoch == 1
    assert equal(found.state, state(1))
    assert bool(found.passed_over) == (not (harm is Path.unlink and end == "json"))
    assert all("00000002" in line for line in found.passed_over)
    harm(tmp_path / f"00000001.{end}")
    if (harm, end) == (Path.unlink, "json"):
        assert restore(tmp_path, state(), CONFIGURATION) is None
    else:
        with pytest.raises(ValueError, match="expected a sound one"):
            restore(tmp_path, state(), CONFIGURATION)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({**CONFIGURATION, "seed": 4}, "seed: expected 3.*got 4"),
        (
            {**CONFIGURATION, "optimizer": {"name": "adam", "b2": 0.99}},
            "optimizer.b2: expected 0.999",
        ),
        ({**CONFIGURATION, "epochs": 4}, "epochs: expected None"),
        ({"seed": 3, "optimizer": CONFIGURATION["optimizer"]}, "model: expected 'cnn'.*got None"),
    ],
)
def test_another_configuration_is_refused_by_its_field(tmp_path, other, words):
    save(tmp_path, 1, state(), CONFIGURATION)
    with pytest.raises(ValueError, match=words):
        restore(tmp_path, state(), other)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda s: s["params"].update(a=jnp.ones((3, 2))), r"\['params'\]\['a'\] as \(\(3, 2\)"),
        (lambda s: s["params"].update(b=[jnp.ones(())]), r"\['b'\]\[0\] as .*float64.*float32"),
        (lambda s: s["params"].update(c=s["params"].pop("a")), r"\['a'\]|\['c'\]"),
        (lambda s: s.pop("key"), r"state\['key'\] as None"),
    ],
)
def test_another_structure_is_refused_by_its_leaf(tmp_path, change, words):
    """A renamed leaf too, although the shapes fit."""
    save(tmp_path, 1, state(), CONFIGURATION)
    other = state()
    change(other)
    with pytest.raises(ValueError, match=words):
        restore(tmp_path, other, CONFIGURATION)


def test_a_manifest_under_another_name_is_passed_over(tmp_path):
    for epoch in (1, 2):
        save(tmp_path, epoch, state(epoch), CONFIGURATION)
    for end in ("npz", "json"):
        (tmp_path / f"00000002.{end}").rename(tmp_path / f"00000005.{end}")
    found = restore(tmp_path, state(), CONFIGURATION)
    assert found.epoch == 1
    assert "00000005.npz: damaged: its sha256 and epoch" in found.passed_over[0]


def test_arrays_whose_manifest_was_never_written_are_removed(tmp_path):
    for epoch in (1, 2):
        save(tmp_path, epoch, state(epoch), CONFIGURATION)
    (tmp_path / "00000002.json").unlink()
    assert restore(tmp_path, state(), CONFIGURATION).epoch == 1
    assert [path.stem for path in tmp_path.glob("*.npz")] == ["00000001"]


def test_a_full_disk_leaves_the_old_ones(tmp_path, monkeypatch):
    save(tmp_path, 1, state(1), CONFIGURATION)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    for name in ("savez", "lib"):
        with monkeypatch.context() as patch:
            if name == "savez":
                patch.setattr(np, "savez", full)
            else:
                patch.setattr(os, "replace", full)
            with pytest.raises(ValueError, match=r"expected a file that can .* disk is full"):
                save(tmp_path, 2, state(2), CONFIGURATION)
        assert [path.name for path in sorted(tmp_path.iterdir())] == [
            "00000001.json",
            "00000001.npz",
        ]
    assert restore(tmp_path, state(), CONFIGURATION).epoch == 1


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{tests!r}]
import jax
jax.config.update("jax_enable_x64", True)
from runs import CONFIGURATION, state
from shadowflow.lab.training.checkpoint import save
replace, calls = os.replace, 0
def mortal(*arguments):
    global calls
    calls += 1
    if calls == {when} and {before}:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*arguments)
    if calls == {when}:
        os.kill(os.getpid(), signal.SIGKILL)
os.replace = mortal
for epoch in (1, 2, 3, 4):
    save(Path({folder!r}), epoch, state(epoch), CONFIGURATION)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("when", "before", "left"),
    [(1, True, 0), (2, True, 0), (2, False, 1), (5, True, 2), (6, True, 2), (6, False, 3)],
)
def test_a_kill_within_a_write_leaves_a_sound_one(tmp_path, when, before, left):
    """Before or after each of the two files of a checkpoint is put in place."""
    script = KILLED.format(
        tests=str(ROOT / "tests"), when=when, before=before, folder=str(tmp_path)
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    found = restore(tmp_path, state(), CONFIGURATION)
    assert (0 if found is None else found.epoch) == left
    assert found is None or equal(found.state, state(left))
    assert not list(tmp_path.glob(".*"))
