"""Epochs of training, ours against a plain PyTorch loop, side by side: `rows(rounds)`.

Each side is a process of its own, so that they do not share threads and each has its own peak of
memory; both wait for each other, epoch by epoch. Run by itself with `own MODEL` it is ours.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

IMAGES, GHOST = 2000, 500
CASES = {"cnn": 1.0, "mlp": 1.0, "simple_vit": 0.25, "resnet50": 0.125}
ASKED = {"cnn": 1.0, "mlp": 1.5}
HERE = Path(__file__).parent


def peak() -> float:
    """MiB of this process so far (getrusage would count what its parent had when it forked)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def own(model: str, every: int) -> None:
    """Our loop: every epoch with its record; parts of it timed beside."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from shadowflow.lab.data.load import Images
    from shadowflow.lab.training import epoch as passes
    from shadowflow.lab.training.config import Training
    from shadowflow.lab.training.loop import TrainingRun, advanced
    from shadowflow.lab.training.start import network_of

    rng = np.random.default_rng(0)
    images = rng.standard_normal((IMAGES, 32, 32, 3), dtype=np.float32)
    labels = rng.integers(0, 10, IMAGES).astype(np.int32)
    settings = Training(
        model=model,
        width=CASES[model],
        dataset="cifar10",
        epochs=10**6,
        test_every=10**6,
        measure_every=every,
        ghost_batch=GHOST,
        learning_rate=1e-4,
    )
    folder = Path(tempfile.mkdtemp())
    data = Images(images, labels, images[:GHOST], labels[:GHOST])
    run = TrainingRun(settings, network_of(settings), data, folder)
    place, count = run.devices.copy(run.start()), 0

    def epoch() -> dict:
        nonlocal place, count
        start = time.perf_counter()
        record, place, _ = run.at(place, count, patient=True)
        run.tell(count, record, 0.0)
        count += 1
        return {"epoch": time.perf_counter() - start}

    def parts() -> dict:
        """Seconds of the step alone, of the step with its measures, of a checkpoint."""
        grad, rate, one = place.last_grad, np.asarray(1e-4), jnp.ones((), jnp.float32)
        step = optimizer_step(run.optimizer)

        def measured() -> None:
            sums = passes.Sums(one, one, one, grad)
            after, found = advanced(run.optimizer, 2, place, sums, {}, rate, rate)
            jax.device_get(found)
            jax.block_until_ready(after.params)

        return {
            "step": timed(lambda: jax.block_until_ready(step(place, grad))),
            "measured": timed(measured),
            "checkpoint": timed(lambda: run.save(count, place)),
        }

    for line in sys.stdin:
        answer = parts() if line.startswith("parts") else epoch()
        print(json.dumps(answer | {"peak": peak()}), flush=True)


def optimizer_step(optimizer):
    """(position, gradient) → moments and parameters after a step, and nothing else."""
    import equinox as eqx

    from shadowflow import trees

    @eqx.filter_jit
    def step(place, grad):
        state, move = optimizer.update(place.optimizer, grad, place.params, place.memory.rate)
        return state.moments, trees.add(place.params, 1.0, move)

    return step


def timed(call, rounds: int = 7) -> float:
    """The median of seconds, after one call that is not counted."""
    call()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


class Side:
    """One of the two processes."""

    def __init__(self, *words: str) -> None:
        command = [sys.executable, *words]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, word: str = "epoch") -> dict:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(word, file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args}: ended with {self.process.wait()}")
        return json.loads(line)

    def close(self) -> None:
        self.process.communicate()


def row(model: str, rounds: int) -> dict:
    """Epochs a second of ours over torch's, and what the parts cost."""
    script = str(HERE / "training.py")
    sides = {
        "ours": Side(script, "own", model, "1"),
        "bare": Side(script, "own", model, str(10**6)),
        "torch": Side(str(HERE / "torch_training.py"), model, str(CASES[model])),
    }
    for side in sides.values():
        side.ask()
        side.ask()
    repeats = 10 if model == "mlp" else 1
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            answers = [side.ask() for _ in range(repeats)]
            times[name].append(sum(answer["epoch"] for answer in answers) / repeats)
    peaks = {name: side.ask()["peak"] for name, side in sides.items()}
    parts, epoch = sides["ours"].ask("parts"), statistics.median(times["ours"])
    for side in sides.values():
        side.close()
    ratio = {
        name: [theirs / ours for theirs, ours in zip(times["torch"], times[name], strict=True)]
        for name in ("ours", "bare")
    }
    middle = statistics.median(ratio["bare"])
    return {
        "name": model,
        "width": CASES[model],
        "ratio": middle,
        "low": min(ratio["bare"]),
        "high": max(ratio["bare"]),
        "with_measures": statistics.median(ratio["ours"]),
        "asked": ASKED.get(model),
        "holds": None if model not in ASKED else middle >= ASKED[model],
        "measures": (parts["measured"] - parts["step"]) / epoch,
        "checkpoint": parts["checkpoint"] / epoch,
        "memory_mib": {"ours": peaks["ours"], "torch": peaks["torch"]},
    }


def rows(rounds: int) -> list[dict]:
    """A row per network."""
    return [row(model, rounds) for model in CASES]


if __name__ == "__main__":
    if sys.argv[1] == "own":
        own(sys.argv[2], int(sys.argv[3]))
    else:
        for model in sys.argv[2:]:
            print(json.dumps(row(model, int(sys.argv[1]))), flush=True)
