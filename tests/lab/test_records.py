"""What a record of training says is of the right images, parameters, epoch and mode."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from runs import SMALL, run_of

from shadowflow.lab.networks.interface import Layer, checked, sequential, stateless
from shadowflow.lab.networks.layers import batch_norm, batch_norm_init, dense, dense_init
from shadowflow.lab.training.loop import TrainingRun
from shadowflow.lab.training.start import images_of

FAST = dataclasses.replace(SMALL, learning_rate=3e-2)


def numbers(logits, labels):
    """(mean cross entropy, accuracy), by numpy in float64."""
    logits = np.asarray(logits, np.float64)
    chosen = logits[np.arange(len(labels)), labels]
    highest = logits.max(1)
    sums = np.log(np.exp(logits - highest[:, None]).sum(1)) + highest
    return np.mean(sums - chosen), np.mean(logits.argmax(1) == labels)


def perceptron(params, images):
    """The network of `FAST`, by numpy in float64."""
    values = np.asarray(images, np.float64).reshape(len(images), -1)
    for index, layer in enumerate(params):
        values = values @ np.asarray(layer["weight"], np.float64) + np.asarray(layer["bias"])
        if index < len(params) - 1:
            inner = np.sqrt(2 / np.pi) * (values + 0.044715 * values**3)
            values = values / 2 * (1 + np.tanh(inner))
    return values


def test_a_record_is_of_its_own_parameters_on_its_own_images(tmp_path):
    """Loss and accuracy of θ_n, before the n-th step, on either set of images."""
    run = run_of(FAST, tmp_path)
    data = run.data
    sets = {"train": (data.images, data.labels), "test": (data.test_images, data.test_labels)}
    place = run.start()
    for epoch in range(4):
        record, following, _ = run.at(place, epoch, patient=True)
        for name, (images, labels) in sets.items():
            loss, accuracy = numbers(perceptron(place.params, images), labels)
            assert record[f"{name}_loss"] == pytest.approx(loss, rel=1e-5)
            assert record[f"{name}_accuracy"] == pytest.approx(accuracy, abs=1e-6)
            later, _ = numbers(perceptron(following.params, images), labels)
            assert abs(later - loss) > 1e-2 * loss  # far enough to be told apart
        assert abs(record["train_loss"] - record["test_loss"]) > 1e-3
        assert record["train_accuracy"] != record["test_accuracy"]
        place = following


@pytest.mark.parametrize("change", [{"ghost": "reshuffled"}, {"augment": True}])
def test_every_epoch_is_drawn_anew_from_the_same_key(tmp_path, change):
    settings = dataclasses.replace(FAST, **change)
    run = run_of(settings, tmp_path)
    place = run.start()

    def epoch(number):
        batches = list(run.batches(place, number))
        assert [len(labels) for _, labels in batches] == [50, 50, 20]
        return tuple(np.concatenate(part) for part in zip(*batches, strict=True))

    drawn = [epoch(number) for number in (0, 1, 2)]
    again, _ = epoch(1)
    assert np.array_equal(again, drawn[1][0])
    for one, other in ((0, 1), (1, 2), (0, 2)):
        assert not np.array_equal(drawn[one][0], drawn[other][0])
        shuffled = not np.array_equal(drawn[one][1], drawn[other][1])
        assert shuffled == (settings.ghost == "reshuffled")
    for images, labels in drawn:  # every image once, with its own label
        assert np.array_equal(np.sort(labels), np.sort(run.data.labels))
        if not settings.augment:
            place_of = np.lexsort(images.reshape(120, -1).T)
            own = np.lexsort(run.data.images.reshape(120, -1).T)
            assert np.array_equal(images[place_of], run.data.images[own])
            assert np.array_equal(labels[place_of], run.data.labels[own])


def normalized():
    """The smallest network with BatchNorm: the pixels' values normalised, then a dense layer."""
    settings = checked(shape=(8, 8, 1))

    def flat_norm(params, state, values, train):
        return batch_norm(params, state, values.reshape(len(values), -1), train)

    layers = [
        Layer("norm", lambda key: batch_norm_init(64, jnp.float32), flat_norm),
        stateless("logits", lambda key: dense_init(key, 64, 10, jnp.float32), dense),
    ]
    return sequential(layers, settings, has_batch_norm=True)


def test_the_running_statistics_are_used_on_test_images(tmp_path):
    """Those behind the epoch's own pass; in training mode each ghost batch has its own."""
    run = TrainingRun(FAST, normalized(), images_of(FAST), tmp_path)
    place, data = run.start(), run.data
    record, following, _ = run.at(place, 0, patient=True)
    assert not np.array_equal(following.network["norm"]["mean"], place.network["norm"]["mean"])

    def by_numpy(images, mean, variance):
        values = (images.reshape(len(images), -1) - mean) / np.sqrt(variance + 1e-5)
        layer = place.params["logits"]
        return values @ np.asarray(layer["weight"]) + np.asarray(layer["bias"])

    state = {name: np.asarray(value) for name, value in following.network["norm"].items()}
    logits = by_numpy(data.test_images, state["mean"], state["variance"])
    loss, accuracy = numbers(logits, data.test_labels)
    assert record["test_loss"] == pytest.approx(loss, rel=1e-4)
    assert record["test_accuracy"] == pytest.approx(accuracy, abs=1e-6)
    own = data.test_images.reshape(40, -1)
    in_training, _ = numbers(by_numpy(own, own.mean(0), own.var(0)), data.test_labels)
    assert abs(in_training - loss) > 5e-3 * loss  # far enough to be told apart
    parts = [slice(0, 50), slice(50, 100), slice(100, 120)]
    flat = data.images.reshape(120, -1)
    logits = [by_numpy(flat[p], flat[p].mean(0), flat[p].var(0)) for p in parts]
    loss, accuracy = numbers(np.concatenate(logits), data.labels)
    assert record["train_loss"] == pytest.approx(loss, rel=1e-4)
    assert record["train_accuracy"] == pytest.approx(accuracy, abs=1e-6)
