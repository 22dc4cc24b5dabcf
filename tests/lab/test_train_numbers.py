"""Every number of a training record, computed again from the parameters and images it is about."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import SMALL, run_of

from shadowflow.lab.networks import layers
from shadowflow.lab.training import epoch as passes
from shadowflow.running import rate_table

FOUR = dataclasses.replace(
    SMALL, epochs=4, test_every=3, schedule="cosine", warmup=2, learning_rate=3e-2
)


def loss_and_accuracy(network, params, images, labels):
    """Mean cross entropy and share of right answers, of all images at once, in numpy."""
    logits = np.asarray(network.apply(params, {}, jnp.asarray(images), False)[0], float)
    sums = np.log(np.sum(np.exp(logits), axis=1))
    return np.mean(sums - logits[np.arange(len(labels)), labels]), np.mean(
        np.argmax(logits, axis=1) == labels
    )


def test_a_record_is_of_its_own_parameters_images_and_rate(tmp_path):
    """Not of the next parameters, nor of the other images; the last epoch is always tested."""
    run, rates, seen = run_of(FOUR, tmp_path), rate_table(FOUR.rate(), FOUR.epochs), []
    data, place = run.data, run.start()
    for epoch in range(FOUR.epochs + 1):
        record, following, finite = run.at(place, epoch, patient=True)
        numbers = [
            loss_and_accuracy(run.network, where, *images)
            for where in (place.params, following.params)
            for images in ((data.images, data.labels), (data.test_images, data.test_labels))
        ]
        trained, tested, *others = numbers
        assert finite and record["learning_rate"] == rates[min(epoch, FOUR.epochs - 1)]
        assert (record["train_loss"], record["train_accuracy"]) == pytest.approx(trained, rel=1e-5)
        if "test_loss" in record:
            seen.append(epoch)
            told = record["test_loss"], record["test_accuracy"]
            assert told == pytest.approx(tested, rel=1e-5)
            assert all(abs(told[0] - other[0]) > 1e-4 for other in (trained, *others))
        place = following
    assert seen == [0, 3, 4] and len(set(rates)) == FOUR.epochs


MOVING = dataclasses.replace(SMALL, ghost="reshuffled", augment=False)


def drawn(run, epoch):
    """The batches of an epoch, as (images, labels) of numpy."""
    return [tuple(map(np.asarray, batch)) for batch in run.batches(run.start(), epoch)]


def test_every_epoch_sees_all_images_once_in_an_order_of_its_own(tmp_path):
    run = run_of(dataclasses.replace(MOVING, micro_batch=50), tmp_path)
    epochs = [np.concatenate([images for images, _ in drawn(run, n)]) for n in (0, 1, 0)]
    assert [len(labels) for _, labels in drawn(run, 0)] == [50, 50, 20]
    key = lambda images: sorted(map(bytes, images))
    assert all(key(images) == key(run.data.images) for images in epochs)
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], run.data.images)
    pairs = dict(zip(map(bytes, run.data.images), run.data.labels, strict=True))
    for images, labels in drawn(run, 1):
        assert all(
            pairs[bytes(image)] == label for image, label in zip(images, labels, strict=True)
        )


def test_every_batch_of_every_epoch_is_augmented_anew(tmp_path):
    """On images that are all the same, so that only the draws differ."""
    settings = dataclasses.replace(SMALL, images=100, augment=True, ghost="fixed", micro_batch=50)
    run = run_of(settings, tmp_path)
    run.data = dataclasses.replace(run.data, images=np.repeat(run.data.images[:1], 100, axis=0))
    batches = [images for epoch in (0, 1) for images, _ in drawn(run, epoch)]
    assert len(batches) == 4
    for i, one in enumerate(batches):
        assert not any(np.array_equal(one, other) for other in batches[:i])
    np.testing.assert_array_equal(batches[0], drawn(run, 0)[0][0])


def test_a_test_pass_normalizes_by_what_training_has_kept():
    """BatchNorm: training takes the statistics of the batch and moves the kept ones; a test takes
    the kept ones and leaves them, whatever the other images of its batch are."""
    params, kept = layers.batch_norm_init(3, np.dtype("float64"))
    kept = jax.tree.map(lambda leaf: leaf + 0.5, kept)
    images = jnp.asarray(np.random.default_rng(0).normal(2.0, 3.0, (8, 1, 1, 3)))
    labels = jnp.asarray([0, 1, 2, 0, 1, 2, 0, 1])

    def apply(params, state, images, train):
        values, state = layers.batch_norm(params, state, images, train)
        return values[:, 0, 0], state

    ways, found = passes.Ways(apply, "mse", "float32"), {}
    for train in (True, False):
        for size in (8, 4):
            batches = passes.split(images, labels, size)
            sums, after = passes.one_pass(ways, params, kept, batches, train=train)
            found[train, size] = float(sums.means()[0])
            moved = [
                not np.array_equal(a, b)
                for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(kept), strict=True)
            ]
            assert all(moved) if train else not any(moved)
    wanted = np.eye(3)[np.asarray(labels)]
    mean, variance = (np.asarray(kept[name]) for name in ("mean", "variance"))
    normal = (np.asarray(images)[:, 0, 0] - mean) / np.sqrt(variance + 1e-5)
    assert found[False, 8] == pytest.approx(np.mean((normal - wanted) ** 2), rel=1e-4)
    assert found[False, 4] == pytest.approx(found[False, 8], rel=1e-12)
    assert abs(found[True, 4] - found[True, 8]) > 1e-3
    assert abs(found[True, 8] - found[False, 8]) > 1e-3
