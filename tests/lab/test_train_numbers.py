"""Every number of a training record, computed again from the parameters and images it is about."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import SMALL, run_of, split

from shadowflow.lab.data.load import load_digits
from shadowflow.lab.networks import layers
from shadowflow.lab.networks.interface import Layer, checked, sequential, stateless
from shadowflow.lab.training import epoch as passes
from shadowflow.lab.training.loop import TrainingRun
from shadowflow.lab.training.start import images_of
from shadowflow.running import rate_table

FOUR = dataclasses.replace(
    SMALL, epochs=4, test_every=3, schedule="cosine", warmup=2, learning_rate=3e-2
)


def loss_and_accuracy(network, params, images, labels):
    """Mean cross entropy and share of right answers, of all images at once, in numpy."""
    with jax.default_matmul_precision("highest"):
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
            for images in (
                (data.train_images, data.train_labels),
                (data.test_images, data.test_labels),
            )
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
    assert all(key(images) == key(run.data.train_images) for images in epochs)
    np.testing.assert_array_equal(epochs[0], epochs[2])
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], run.data.train_images)
    pairs = dict(zip(map(bytes, run.data.train_images), run.data.train_labels, strict=True))
    for images, labels in drawn(run, 1):
        assert all(
            pairs[bytes(image)] == label for image, label in zip(images, labels, strict=True)
        )


def test_every_batch_of_every_epoch_is_augmented_anew(tmp_path):
    """On images that are all the same, so that only the draws differ."""
    settings = dataclasses.replace(SMALL, images=100, augment=True, ghost="fixed", micro_batch=50)
    run = run_of(settings, tmp_path)
    run.data = dataclasses.replace(
        run.data, train_images=np.repeat(run.data.train_images[:1], 100, axis=0)
    )
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
            batches = split(images, labels, size)
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


def linear_layer(offset):
    """Logits Wx + b, and something of the parameters added to all."""

    def apply(params, values):
        return layers.dense(params, values.reshape(len(values), -1)) + offset(params)

    return stateless("logits", lambda key: layers.dense_init(key, 64, 10, jnp.float32), apply)


def linear(offset=lambda params: 0.0):
    """The smallest network."""
    shape = checked(shape=(8, 8, 1))
    return sequential([linear_layer(offset)], shape, has_batch_norm=False)


def test_test_images_are_normalized_by_what_the_epoch_s_own_pass_has_kept(tmp_path):
    """BatchNorm in the loop: trained on by ghost batch, tested with the running statistics."""

    def flat_norm(params, state, values, train):
        return layers.batch_norm(params, state, values.reshape(len(values), -1), train)

    settings = dataclasses.replace(SMALL, measure_every=7)
    norm = Layer("norm", lambda key: layers.batch_norm_init(64, jnp.float32), flat_norm)
    dense = linear_layer(lambda params: 0.0)
    network = sequential([norm, dense], checked(shape=(8, 8, 1)), has_batch_norm=True)
    run = TrainingRun(settings, network, images_of(settings), tmp_path)
    place, data = run.start(), run.data
    place.network["norm"]["mean"] += 0.5  # far from that of the images
    record, following, _ = run.at(place, 1, patient=True)

    def by_numpy(images, labels, mean, variance):
        """The sum of the losses, and the number of right answers."""
        values = (images.reshape(len(images), -1) - mean) / np.sqrt(variance + 1e-5)
        layer = place.params["logits"]
        logits = values @ np.asarray(layer["weight"], float) + np.asarray(layer["bias"])
        sums = np.log(np.sum(np.exp(logits), axis=1))
        right = np.sum(np.argmax(logits, axis=1) == labels)
        return np.array([np.sum(sums - logits[np.arange(len(labels)), labels]), right])

    kept = [np.asarray(following.network["norm"][name]) for name in ("mean", "variance")]
    tested = by_numpy(data.test_images, data.test_labels, *kept) / 40
    told = record["test_loss"], record["test_accuracy"]
    assert told == pytest.approx(tuple(tested), rel=1e-4)
    before = [np.asarray(place.network["norm"][name]) for name in ("mean", "variance")]
    own = data.test_images.reshape(40, -1)
    for other in (before, (own.mean(0), own.var(0))):  # far enough to be told apart
        assert (
            abs(by_numpy(data.test_images, data.test_labels, *other)[0] / 40 / told[0] - 1) > 5e-3
        )
    parts = [(data.train_images[k : k + 50], data.train_labels[k : k + 50]) for k in (0, 50, 100)]
    flat = [images.reshape(len(images), -1) for images, _ in parts]
    each = [by_numpy(*p, x.mean(0), x.var(0)) for p, x in zip(parts, flat, strict=True)]
    told = record["train_loss"], record["train_accuracy"]
    assert told == pytest.approx(tuple(sum(each) / 120), rel=1e-4)


def slope(weight, bias, images, labels):
    """The gradient of the mean cross entropy of Wx + b, by its formula: bias, then weight."""
    x = np.asarray(images, float).reshape(len(images), -1)
    chances = np.exp(x @ weight + bias)
    miss = (chances / chances.sum(1, keepdims=True) - np.eye(10)[labels]) / len(labels)
    return np.concatenate([miss.sum(0), (x.T @ miss).ravel()])


def direction(m, v):
    return m / (np.sqrt(v + 1e-6) + 1e-8)


def test_a_run_is_adam_along_its_schedule_and_measures_its_own_steps(tmp_path):
    """Softmax regression and Adam written out; predicted is the line through two gradients."""
    run = TrainingRun(FOUR, linear(), images_of(FOUR), tmp_path)
    place, rates = run.start(), [1e-2, 2e-2, 3e-2, 1.5e-2]  # two of warm-up, half a cosine
    first = place.params["logits"]
    theta = np.concatenate([first["bias"], np.ravel(first["weight"])]).astype(float)
    m, v, old = np.zeros(650), np.zeros(650), None
    for n, rate in enumerate(rates):
        record, place, _ = run.at(place, n, patient=True)
        g = slope(
            theta[10:].reshape(64, 10), theta[:10], run.data.train_images, run.data.train_labels
        )
        m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
        step, plain = (
            direction(m / (1 - 0.9 ** (n + 1)), v / (1 - 0.95 ** (n + 1))),
            direction(g, g**2),
        )
        norm = np.linalg.norm
        wanted = {
            "learning_rate": rate,
            "one_norm": np.sum(np.abs(g)),
            "perturbed_one_norm": np.sum(np.sqrt(g**2 + 1e-6)),
            "update_rms": rate * norm(step) / np.sqrt(650),
            "update_ratio": rate * norm(step) / norm(theta),
            "deviation": norm(step - plain),
        }
        if old is not None:
            back = np.array([sum(rates[k:n]) for k in range(n + 1)])
            line = g + back[:, None] * (old - g) / rates[n - 1]
            shares = [b ** np.arange(n, -1, -1.0) for b in (0.9, 0.95)]
            mean, square = (w @ x / w.sum() for w, x in zip(shares, (line, line**2), strict=True))
            wanted["predicted_deviation"] = norm(direction(mean, square) - plain)
        found = {name: record[name] for name in wanted}
        assert found == pytest.approx(wanted, rel=2e-3, abs=1e-4)
        theta, old = theta - rate * step, g
        leaves = [np.ravel(leaf) for leaf in jax.tree.leaves(place.params)]
        np.testing.assert_allclose(np.concatenate(leaves), theta, atol=1e-5)


def test_a_gradient_that_is_not_finite_is_seen_although_the_loss_is(tmp_path):
    """The square root has no derivative at 0."""
    cusp = linear(lambda params: jnp.sqrt(0 * params["weight"][0, 0]))
    settings = dataclasses.replace(SMALL, measure_every=7)
    run = TrainingRun(settings, cusp, images_of(settings), tmp_path)
    record, _, finite = run.at(run.start(), 1, patient=True)
    assert np.isfinite(record["train_loss"]) and not finite
    assert run.reason(1, record, finite) == "non-finite"


def test_images_are_the_first_of_either_part_standardised_by_those_trained_on():
    pixels, labels = load_digits()
    pixels = pixels.astype(float)
    train, test = (pixels[part].reshape(-1, 8, 8, 1) for part in (slice(120), slice(1500, 1540)))
    for per, axis in (("pixel", 0), ("all", None)):
        data = images_of(dataclasses.replace(SMALL, standardize=per))
        mean, std = train.mean(axis), train.std(axis)
        scale = np.where(std > 0, 1 / np.where(std > 0, std, 1), 0)
        np.testing.assert_allclose(data.train_images, (train - mean) * scale, atol=1e-5)
        np.testing.assert_allclose(data.test_images, (test - mean) * scale, atol=1e-5)
    np.testing.assert_array_equal(data.train_labels, labels[:120])
    np.testing.assert_array_equal(data.test_labels, labels[1500:1540])


def test_the_start_is_drawn_from_the_seed(tmp_path):
    weights = []
    for seed in (0, 1):
        settings = dataclasses.replace(SMALL, seed=seed)
        run = TrainingRun(settings, linear(), images_of(settings), tmp_path)
        weights.append(np.asarray(run.start().params["logits"]["weight"]))
        assert weights[-1].std() == pytest.approx(1 / 8, rel=0.1)
    assert abs(np.corrcoef(*map(np.ravel, weights))[0, 1]) < 0.2


def test_products_are_as_exact_as_asked_for():
    """Of bfloat16 three digits, the sums over batches in float32; tf32 is left to the device."""
    rng = np.random.default_rng(0)
    images, weight = (
        jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((40, 30), (30, 5))
    )
    labels, found = jnp.asarray(rng.integers(0, 5, 40)), {}
    seen = []

    def apply(params, state, images, train):
        seen.append((str(images.dtype), jax.config.jax_default_matmul_precision))
        return images @ params, state

    for precision in ("float32", "tf32", "bfloat16"):
        ways = passes.Ways(apply, "mse", precision)
        sums, _ = passes.one_pass(ways, weight, {}, split(images, labels, 20), train=True)
        found[precision] = np.asarray(sums.means()[2])
        assert found[precision].dtype == np.float32
    assert set(seen) == {
        ("float32", "highest"),
        ("float32", "tensorfloat32"),
        ("bfloat16", "highest"),
    }
    x, w = np.asarray(images, float), np.asarray(weight, float)
    wanted = 2 / 5 / 40 * x.T @ (x @ w - np.eye(5)[np.asarray(labels)])
    gap = lambda precision: np.linalg.norm(found[precision] - wanted) / np.linalg.norm(wanted)
    assert gap("float32") < 1e-6 and 1e-4 < gap("bfloat16") < 0.02


@pytest.mark.parametrize(
    ("epoch", "accuracy", "finite", "reason"),
    [
        (3, 0.89, True, None),
        (3, 0.9, True, "accuracy"),
        (5, 0.1, True, None),
        (6, 0.1, True, "epochs"),
        (6, 0.9, True, "accuracy"),
        (6, 0.9, False, "non-finite"),
    ],
)
def test_why_a_run_ends(tmp_path, epoch, accuracy, finite, reason):
    settings = dataclasses.replace(SMALL, stop_accuracy=0.9)
    run = TrainingRun(settings, linear(), None, tmp_path)
    assert run.reason(epoch, {"train_accuracy": accuracy}, finite) == reason


def test_the_time_is_up_after_so_many_seconds(tmp_path, monkeypatch):
    run = TrainingRun(SMALL, linear(), images_of(SMALL), tmp_path, wall_time=5.0, began=100.0)
    for now, late in ((104.9, False), (105.1, True)):
        monkeypatch.setattr("time.monotonic", lambda now=now: now)
        assert run.late is late
