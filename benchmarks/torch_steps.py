"""The second-order (Taylor) step of Adam by torch's double backward, against torch's Adam step.

Prints {"ratio": …, "memory_mib": …} as JSON. Run by bench.py in a process of its own, so that two
libraries do not share threads and the peak of the memory is this one's.
"""

import json
import resource
import statistics
import sys
import time

import torch
from torch import nn

B1, B2, EPS_ROOT, RATE = 0.9, 0.95, 1e-6, 1e-4


def peak() -> float:
    """MiB of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rounds: int) -> None:
    """Time both in turn."""
    torch.manual_seed(0)
    images, labels = torch.randn(10_000, 784), torch.randint(10, (10_000,))
    model = nn.Sequential(
        nn.Linear(784, 32),
        nn.GELU(approximate="tanh"),
        nn.Linear(32, 32),
        nn.GELU(approximate="tanh"),
        nn.Linear(32, 10),
    )
    params = list(model.parameters())
    optimizer = torch.optim.Adam(params, lr=RATE, betas=(B1, B2))
    ages = [b / (1 - b) for b in (B1, B2)]

    def loss():
        return nn.functional.cross_entropy(model(images), labels)

    def adam():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    def taylor():
        grads = torch.autograd.grad(loss(), params, create_graph=True)
        roots = [torch.sqrt(g.detach() ** 2 + EPS_ROOT) for g in grads]
        ways = [g.detach() / r for g, r in zip(grads, roots, strict=True)]
        products = torch.autograd.grad(grads, params, grad_outputs=ways)
        with torch.no_grad():
            for p, g, r, d in zip(params, grads, roots, products, strict=True):
                first = g / r
                second = ages[0] * d / r - ages[1] * g * g * d / r**3
                p -= RATE * first + RATE**2 * second

    for step in (adam, taylor):
        step()
    found = []
    for _ in range(rounds):
        times = []
        for step in (adam, taylor):
            start = time.perf_counter()
            step()
            step()
            times.append(time.perf_counter() - start)
        found.append(times[1] / times[0])
    print(
        json.dumps(
            {
                "ratio": statistics.median(found),
                "low": min(found),
                "high": max(found),
                "memory_mib": peak(),
                "version": torch.__version__,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]))
