"""The images of a batch on two devices, against one: the same function, to rounding."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shadowflow.lab.networks import build
from shadowflow.lab.training.devices import Devices, at_a_time

ROOT = Path(__file__).parents[2]
TOLERANCE = {"rtol": 2e-5, "atol": 1e-6}
SCRIPT = """
import dataclasses, json, sys
from pathlib import Path
import jax
from shadowflow.lab.networks import layers
from shadowflow.lab.training import history
from shadowflow.lab.training.config import Training
from shadowflow.lab.training.devices import Devices
from shadowflow.lab.training.start import train

run = Training(epochs=4, images=90, test_images=30, ghost_batch=40, learning_rate=3e-4,
               arguments={"eps_root": 1e-4})
found = {}
for name, change in {
    "mlp": {"width": 0.25},
    "cnn": {"model": "cnn", "width": 0.1, "micro_batch": 20},
    "moving": {"width": 0.25, "ghost": "reshuffled", "augment": True},
}.items():
    found[name] = []
    for devices in (1, 2):
        settings = dataclasses.replace(run, **change, devices=devices)
        outcome = train(settings, Path(sys.argv[1]))
        found[name].append(history.read(outcome.folder / "history.jsonl"))
values = jax.random.normal(jax.random.key(0), (6, 2, 2, 3))
params, state = layers.batch_norm_init(3, "float32")

@jax.jit
def normalized(params, state, values):
    squares = lambda p: ((layers.batch_norm(p, state, values, True)[0] - 1) ** 2 * values).sum()
    return jax.grad(squares)(params), layers.batch_norm(params, state, values, True)

def numbers(devices, part):
    found = normalized(devices.copy(params), devices.copy(state), devices.share(values[:part]))
    return [leaf.ravel().tolist() for leaf in jax.tree.leaves(found)]

found["norm"] = [numbers(Devices.of(1), 6), numbers(Devices.of(2), 6), numbers(Devices.of(1), 3)]
shared = Devices.of(2).share(jax.numpy.ones((4, 3)))
alone = Devices.of(2).share(jax.numpy.ones((5, 3)))
found["shards"] = [[list(x.data.shape) for x in a.addressable_shards] for a in (shared, alone)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_two_devices_are_one_to_rounding(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | flags, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    for name in ("mlp", "cnn", "moving"):
        one, two = found[name]
        assert len(one) == len(two) > 2
        for alone, shared in zip(one, two, strict=True):
            for key in ("train_loss", "test_loss", "one_norm", "two_norm", "perturbed_one_norm"):
                np.testing.assert_allclose(alone[key], shared[key], **TOLERANCE, err_msg=name)
        assert one != two  # the sums are taken in another order, so two devices did share
    assert found["shards"] == [[[2, 3], [2, 3]], [[5, 3], [5, 3]]]
    # BatchNorm: values, gradients and running statistics are of the whole batch, not of half of it
    one, two, half = found["norm"]
    for alone, shared in zip(one, two, strict=True):
        np.testing.assert_allclose(alone, shared, **TOLERANCE)
    assert not np.allclose(one[-1], half[-1], rtol=0.01)


def test_more_devices_than_there_are_is_refused():
    with pytest.raises(ValueError, match=r"--devices: expected at most the \d+ of cpu, got 999"):
        Devices.of(999)


def test_few_images_at_a_time_on_a_cpu():
    """So few that twice their activations stay below the 32 MiB that an allocator keeps."""
    for model, width in (("cnn", 1.0), ("cnn", 0.25), ("mlp", 1.0), ("simple_vit", 1.0)):
        network = build(model, width=width)
        numbers = sum(np.prod(row.shape) for row in network.layers())
        found = at_a_time(network, 500)
        assert found == 500 or found * numbers * 4 <= 12 * 2**20 < 4 * found * numbers * 4
    assert at_a_time(build("resnet50", width=0.1), 500) == 500
    assert at_a_time(build("cnn"), 500, devices=3) % 3 == 0
    assert at_a_time(build("cnn"), 499) == 24  # a prime number of images
