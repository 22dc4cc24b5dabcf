"""What an optax transformation is, found on a part of its parameters and in as few steps as do."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.optax_problem import BOWL, PLACE, clipped

import shadowflow as sf
from shadowflow.optimizers import memory_probe
from shadowflow.optimizers.memory_probe import part_of, remembered

pytestmark = pytest.mark.usefixtures("promotion_as_optax_needs_it")


def parts(make, *shapes):
    whole = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    found = part_of(sf.from_optax(make), whole)
    assert [leaf.dtype for leaf in found] == [leaf.dtype for leaf in whole]
    return [leaf.shape for leaf in found]


@pytest.mark.parametrize("make", [optax.adam, optax.contrib.muon, optax.lamb, clipped])
def test_a_few_hundred_coordinates_of_a_leaf_are_probed(make):
    """Its rank stays, and which side is the longer one; what is small stays whole."""
    assert parts(make, (900, 500), (500, 900), (7, 3), (5000,), ()) == [
        (17, 16),
        (16, 17),
        (7, 3),
        (256,),
        (),
    ]


def test_what_a_transformation_makes_of_a_shape_is_kept():
    """Adafactor factors matrices of 128 rows and more, and here a mask takes long sides alone."""
    ((rows, columns),) = parts(optax.adafactor, (1000, 700))
    assert 128 <= columns < rows <= 260
    assert parts(optax.adafactor, (100, 120)) == [(16, 17)]
    long = lambda tree: jax.tree.map(lambda leaf: max(leaf.shape) > 300, tree)
    masked = lambda rate: optax.masked(optax.adam(rate), long)
    assert parts(masked, (900, 700)) == [(513, 512)]
    assert parts(masked, (900,), (200,)) == [(900,), (200,)]


def test_what_fits_one_shape_alone_is_probed_whole():
    scales = jnp.ones((300, 200))
    own = lambda rate: optax.chain(
        optax.stateless(lambda updates, params: jax.tree.map(lambda u: scales * u, updates)),
        optax.adam(rate),
    )
    assert parts(own, (300, 200)) == [(300, 200)]


def test_a_run_shorter_than_the_memory_does_not_look_for_its_end(monkeypatch):
    """The probe stops when it is longer than the run; a memory that ends within it is known."""
    asked = []
    chunk = memory_probe._gaps
    monkeypatch.setattr(memory_probe, "_gaps", lambda *given: asked.append(1) or chunk(*given))
    long, short = (
        sf.from_optax(functools.partial(optax.adabelief, b1=0.5, b2=b2)) for b2 in (0.9999, 0.6)
    )
    assert remembered(long, PLACE, 20) is None and len(asked) == 1
    length = remembered(short, PLACE)
    assert length == remembered(short, PLACE, 10 * length) > 20
    assert (remembered(short, PLACE, length // 2) or length) > length // 2


def test_averages_need_no_probe_of_their_memory(monkeypatch):
    """And follow their moments to rounding, at decays whose memory outlasts the run."""

    def refuse(*given):
        raise AssertionError("its decays say how long it remembers")

    monkeypatch.setattr(memory_probe, "_settling", refuse)
    mine, theirs, first = (
        sf.shadow(BOWL, optimizer, PLACE, 1e-3, 6, order=order, check=False)
        for optimizer, order in (
            (sf.from_optax(functools.partial(optax.adam, b2=0.99)), 2),
            (sf.adam(b2=0.99), 2),
            (sf.adam(b2=0.99), 1),
        )
    )
    apart = np.max(sf.compare(mine, theirs).max_norm)
    assert apart < 1e-11 < 1e-3 * sf.compare(first, theirs).max_norm[-1]


def test_a_sum_is_no_average_however_coarse_the_numbers_are():
    """The first gradients' share of it falls as 1/n, below the digits of float32 that are shown."""
    params = jnp.ones(4, jnp.float32)
    assert remembered(sf.from_optax(optax.adagrad), params) is None
    slow = sf.from_optax(functools.partial(optax.adam, b2=0.9999))
    assert remembered(slow, params) > 1000


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: sf.from_optax(lambda first, second: optax.sgd(first)), "make: .* which raises"),
        (
            lambda: sf.shadow(BOWL, sf.from_optax(lambda rate: optax.adam(1e-3)), PLACE, 1e-3, 2),
            "optimizer: .* first step is the same",
        ),
        (
            lambda: sf.iterate(BOWL, sf.from_optax(optax.contrib.sophia), PLACE, 1e-3, 2),
            "optimizer: expected a transformation that takes .* got sophia, .*obj_fn",
        ),
        (
            lambda: sf.iterate(BOWL, optax.lookahead(optax.sgd(0.1), 5, 0.5), PLACE, 1e-3, 2),
            "optimizer: expected a transformation that takes .*fast",
        ),
        (
            lambda: sf.shadow(BOWL, sf.from_optax(optax.adam), PLACE, 1e-3, 2, start=()),
            "start: expected the state of adam",
        ),
        (
            lambda: sf.shadow(BOWL, optax.adam(1e-3), PLACE, 1e-3, 2),
            r"optimizer: .* pass sf.from_optax\(make\)",
        ),
    ],
)
def test_what_cannot_be_run_is_said_at_once_by_name(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_a_plain_transformation_is_run():
    run = sf.iterate(BOWL, optax.adam(1e-3), PLACE, 1e-3, 2)
    same = sf.iterate(BOWL, sf.from_optax(optax.adam), PLACE, 1e-3, 2)
    assert np.max(sf.compare(run, same).max_norm) < 1e-12
