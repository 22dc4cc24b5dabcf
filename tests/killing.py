"""Kill a real training process again and again, and hold it against one that was left alone.

`python tests/killing.py 100` (make soak) kills a hundred times; a test does a sample.
"""

import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from runs import contents

ROOT = Path(__file__).parent.parent
WORDS = "train --width 0.25 --images 120 --test-images 40 --ghost-batch 50 --checkpoint-every 7"


def start(folder, epochs):
    """The command, as a user types it."""
    command = [sys.executable, "-m", "shadowflow", *WORDS.split(), "--epochs", str(epochs)]
    return subprocess.Popen(
        [*command, "--quiet", "--run-dir", str(folder)], cwd=ROOT, stdout=subprocess.DEVNULL
    )


def epochs_in(folder):
    """Lines in the history, from the outside."""
    return sum(len(path.read_bytes().splitlines()) for path in folder.glob("*/history.jsonl"))


def kill_one(folder, epochs, rng, spread):
    """Start it, wait until it trains, kill it after a random while; whether it was killed."""
    process, before = start(folder, epochs), epochs_in(folder)
    while process.poll() is None and epochs_in(folder) in (before, 0):
        time.sleep(0.005)
    time.sleep(rng.uniform(0, spread))
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL


def soak(folder, kills, epochs, spread, seed=0):
    """(contents of the run that was killed, of the one left alone, number of kills)."""
    assert start(folder / "alone", epochs).wait() == 0
    rng = np.random.default_rng(seed)
    done = sum(kill_one(folder / "killed", epochs, rng, spread) for _ in range(kills))
    assert start(folder / "killed", epochs).wait() == 0
    (alone,), (killed,) = folder.glob("alone/mlp-*"), folder.glob("killed/mlp-*")
    return contents(killed), contents(alone), done


def main():
    """As many kills as asked for, in one run long enough for them."""
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    with tempfile.TemporaryDirectory() as name:
        killed, alone, done = soak(Path(name), kills, epochs=60 * kills, spread=0.4)
    same = killed == alone
    print(
        f"{done} kills of {kills}: history and state are {'the same' if same else 'NOT the same'}"
    )
    return 0 if same and done == kills else 1


if __name__ == "__main__":
    sys.exit(main())
