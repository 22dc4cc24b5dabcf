"""A plain PyTorch loop: full-batch Adam, the gradient summed over ghost batches.

`torch_training.py MODEL WIDTH` answers every line on its standard input with the seconds of an
epoch and its peak of memory. The networks are those of the tests.
"""

import json
import sys
import time
from pathlib import Path

import torch
from training import GHOST, IMAGES, peak

sys.path.append(str(Path(__file__).parent.parent / "tests"))


def network(model: str, width: float) -> torch.nn.Module:
    """The same network as ours, with as many parameters."""
    from torch_networks import Cnn, Mlp, ResNet50, SimpleViT

    if model == "cnn":
        return Cnn(classes=10, width=width, pixels=16)
    return {"mlp": Mlp, "resnet50": ResNet50, "simple_vit": SimpleViT}[model](10, width)


def main(model: str, width: float) -> None:
    """Train, an epoch a line."""
    torch.manual_seed(0)
    net = network(model, width)
    images, labels = torch.randn(IMAGES, 3, 32, 32), torch.randint(10, (IMAGES,))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4, betas=(0.9, 0.999), eps=1e-8)
    for _ in sys.stdin:
        start = time.perf_counter()
        optimizer.zero_grad()
        for first in range(0, IMAGES, GHOST):
            part = slice(first, first + GHOST)
            loss = torch.nn.functional.cross_entropy(net(images[part]), labels[part])
            (loss * (GHOST / IMAGES)).backward()
        optimizer.step()
        answer = {"epoch": time.perf_counter() - start, "peak": peak()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
