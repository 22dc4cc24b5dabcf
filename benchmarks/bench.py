"""What a step costs: ratios measured side by side, to docs/bench.json (`make bench`).

The base is one full-batch Adam step of optax on a 784–32–32–10 GELU perceptron and 10,000 made-up
images: what the methods cost does not depend on what the images show. Times are never compared
between runs; every ratio is the median over rounds in which both were timed in turn.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import sweep
import training
from timing import Candidate, compiled, ratios

import shadowflow as sf
from shadowflow.lab.models import cross_entropy, mlp_apply, mlp_init
from shadowflow.methods import METHODS, planned
from shadowflow.running import followed

SIZES, IMAGES, RATE = (784, 32, 32, 10), 10_000, 1e-4
BATCHES = 20
ROOT = Path(__file__).parent.parent
ADAM = {"b1": 0.9, "b2": 0.95, "eps": 0.0, "eps_root": 1e-6}


def data(seed: int = 0) -> tuple[jax.Array, jax.Array]:
    """Made-up images and labels."""
    random = np.random.default_rng(seed)
    images = random.standard_normal((IMAGES, SIZES[0]), dtype=np.float32)
    return jnp.asarray(images), jnp.asarray(random.integers(0, 10, IMAGES))


class Loss(eqx.Module):
    """The loss with its data as leaves, so that they are arguments of what is compiled."""

    images: jax.Array
    labels: jax.Array

    def __call__(self, params):
        return cross_entropy(mlp_apply(params, self.images), self.labels)


def batch_loss(params, batch):
    """The same of one batch."""
    return cross_entropy(mlp_apply(params, batch[0]), batch[1])


def adam_step(problem: sf.Problem, params) -> Candidate:
    """The base: value, gradient and update, as a training loop has them."""
    tx = optax.adam(RATE, ADAM["b1"], ADAM["b2"], ADAM["eps"], ADAM["eps_root"])

    def step(problem, params, state):
        value, grad = problem.value_and_gradient(params)
        updates, state = tx.update(grad, state, params)
        return value, optax.apply_updates(params, updates), state

    return compiled("optax.adam", step, problem, params, tx.init(params))


def method_step(problem: sf.Problem, params, method: str, kind: str, order: int = 2) -> Candidate:
    """One step of a shadow as ``shadow`` runs it, at step 300, begun a step before."""
    optimizer, found = sf.adam(**ADAM), METHODS[method]
    begun = sf.State(optimizer.init(params).moments, jnp.asarray(299.0))
    start = "settled" if found.needs_settled else begun
    plan = planned(
        followed(problem, optimizer, params, RATE, 1, start), method=method, order=order, kind=kind
    )
    runner = found.bind(plan)
    carry = runner.init(params, plan.run.memory(plan.run.start.step), plan.run.start.state)
    carry = eqx.filter_jit(runner)(carry, jnp.asarray(RATE))[0]
    name = f"{method} {order}" if found.orders is None else method
    dynamic, static = eqx.partition((runner, carry), eqx.is_array)

    def step(dynamic, rate):
        runner, carry = eqx.combine(dynamic, static)
        carry, record, finite = runner(carry, rate)
        return eqx.filter(carry, eqx.is_array), record, finite

    return compiled(name, step, dynamic, jnp.asarray(RATE))


def gradients_of(method: str, kind: str, order: int = 2) -> int:
    """How many gradients a step takes: counted on a host function."""
    counts = []
    for steps in (1, 2):
        taken = []
        problem = sf.Problem(grad=lambda x, t=taken: t.append(x) or x, traceable=False)
        run = followed(problem, sf.adam(**ADAM), jnp.ones(2), RATE, steps, "settled")
        list(planned(run, method=method, kind=kind, order=order).chunks())
        counts.append(len(taken))
    return counts[1] - counts[0]


def row(name: str, found: dict, asked: float | None, per: float = 1, note: str = "") -> dict:
    """A line of the table: the ratio, over ``per`` (gradients taken), and what is asked of it."""
    ratio = found["ratio"] / per
    return {
        "name": name,
        "ratio": ratio,
        "low": found["low"] / per,
        "high": found["high"] / per,
        "asked": asked,
        "holds": None if asked is None else bool(ratio <= asked),
        "memory_mib": found["memory_mib"],
        "note": note,
    }


def steps(rounds: int) -> list[dict]:
    """Full batch: every method's step against an Adam step."""
    problem, params = sf.Problem(Loss(*data())), mlp_init(jax.random.key(0), SIZES)
    orders = (2, 3, 5)
    candidates = [
        adam_step(problem, params),
        compiled("gradient", lambda p, x: p.gradient(x), problem, params),
        *(
            method_step(problem, params, name, "iteration")
            for name in ("differences", "taylor", "linearized", "displaced")
        ),
        method_step(problem, params, "inertial", "flow"),
        *(method_step(problem, params, "collocation", "iteration", order) for order in orders),
    ]
    found = ratios("optax.adam", candidates, rounds, 2)
    inertial = gradients_of("inertial", "flow")
    lines = [
        row("differences", found["differences"], 1.1, note="one gradient"),
        row("taylor", found["taylor"], 2.2, note="a gradient, then a Hessian-vector product"),
        row("linearized", found["linearized"], 2.2, note="the same"),
        row("displaced", found["displaced"], 2.4, note="two gradients"),
        row("inertial, per gradient", found["inertial"], 1.1, inertial, f"{inertial} a step"),
    ]
    gradient = found["gradient"]["ratio"]
    for order in orders:
        count = gradients_of("collocation", "iteration", order)
        lines.append(
            row(
                f"collocation {order}, per gradient",
                found[f"collocation {order}"],
                1.1,
                count * gradient,
                f"{count} a step along a run",
            )
        )
    return lines


def torch_step(rounds: int) -> dict | None:
    """The Taylor step by torch's double backward, against its own Adam step; None without torch."""
    script = ROOT / "benchmarks" / "torch_steps.py"
    run = subprocess.run([sys.executable, script, str(rounds)], capture_output=True, text=True)
    return json.loads(run.stdout) if run.returncode == 0 else None


def compile_seconds(order: int, params, problem) -> dict[str, float]:
    """Seconds to trace and compile the field of an order, and of as many nested derivatives."""
    import time

    optimizer = sf.adam(**ADAM)

    def nested(x):
        first = sf.modified_field(problem, optimizer, RATE, order=1, method="taylor")
        field = lambda y: first(None, y)
        for _ in range(order - 1):
            field = lambda y, f=field: jax.jvp(f, (y,), (first(None, y),))[1]
        return field(x)

    collocation = sf.modified_field(problem, optimizer, RATE, method="collocation", order=order)
    seconds = {}
    for name, function in (
        ("collocation", lambda x: collocation("settled", x)),
        ("nested", nested),
    ):
        start = time.perf_counter()
        jax.jit(function).lower(params).compile()
        seconds[name] = time.perf_counter() - start
    return seconds


def compilation(orders=(1, 2, 3, 4, 5, 6)) -> list[dict]:
    """Compile times by order relative to collocation's order 2: linear growth would be order/2."""
    problem = sf.Problem(Loss(*(leaf[:500] for leaf in data())))
    params = mlp_init(jax.random.key(0), SIZES)
    compile_seconds(2, params, problem)
    found = {order: compile_seconds(order, params, problem) for order in orders}
    base = found[2]["collocation"]
    return [
        {
            "order": order,
            "collocation": found[order]["collocation"] / base,
            "nested": found[order]["nested"] / base,
            "linear": order / 2,
            "holds": found[order]["collocation"] / base <= max(1.0, order / 2) * 1.1,
        }
        for order in orders
    ]


def minibatch(rounds: int, lengths=(100, 1000, 5000)) -> list[dict]:
    """The mini-batch field at step n against the gradients that it takes, and the direct sum."""
    images, labels = data()
    batches = (images.reshape(BATCHES, -1, SIZES[0]), labels.reshape(BATCHES, -1))
    problem = sf.Problem(batch_loss, batches=batches)
    params = mlp_init(jax.random.key(0), SIZES)
    which = jnp.arange(BATCHES, dtype=jnp.int32)
    places = [  # two, or the compiler takes the same gradients once
        jax.tree.map(lambda leaf, s=s: jnp.stack([leaf * s] * BATCHES), params) for s in (0.9, 1.1)
    ]

    def sixty(problem, params, places):
        at = [problem.gradients_at(place, which) for place in places]
        return problem.gradients(params, which), at

    def products(problem, params, places):
        gradients, hvp = problem.linearize_each(params, which)
        return gradients, [hvp(place) for place in places]

    base = [
        compiled("gradients", sixty, problem, params, places),
        compiled("products", products, problem, params, places),
    ]
    lines = []
    for n in lengths:
        fields = [
            compiled(f"{method} {tolerance}", _field_at(n, method, tolerance), problem, params)
            for method in ("displaced", "taylor")
            for tolerance in (0.0, 1e-3)
        ]
        direct = [compiled("direct", _direct(n), problem, params)] if n <= 100 else []
        found = ratios("gradients", base + fields + direct, rounds, 1)
        for method, against in (("displaced", "gradients"), ("taylor", "products")):
            for tolerance, asked in ((0.0, 2.2), (1e-3, 1.5)):
                what = "whole past" if tolerance == 0 else f"tolerance {tolerance:g}"
                limit = asked if n == 1000 else None
                lines.append(
                    row(
                        f"{method}, n = {n}, {what}",
                        found[f"{method} {tolerance}"],
                        limit,
                        found[against]["ratio"],
                    )
                )
        if direct:
            lines.append(
                row(
                    f"direct sum, n = {n}",
                    found["direct"],
                    None,
                    1.0,
                    "one Hessian-vector product per past step",
                )
            )
    return lines


def _field_at(n: int, method: str, tolerance: float):
    def call(problem, params):
        field = sf.modified_field(
            problem, sf.adam(**ADAM), RATE, method=method, memory_tolerance=tolerance
        )
        return field(n, params)

    return call


def _direct(n: int):
    """L and P of the paper's (9) as they stand: H_k (Σ_{l=k}^{n−1} u_l) for every past step k."""

    def call(problem, params):
        b1, b2 = ADAM["b1"], ADAM["b2"]
        gradients = problem.gradients(params, jnp.arange(BATCHES, dtype=jnp.int32))
        add = lambda a, b: jax.tree.map(jnp.add, a, b)
        zero = jax.tree.map(jnp.zeros_like, params)

        def u(carry, k):
            m, v = carry
            g = jax.tree.map(lambda x: x[k % BATCHES], gradients)
            m = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, m, g)
            v = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, v, g)
            step = jax.tree.map(
                lambda m, v: (
                    m
                    / (1 - b1 ** (k + 1.0))
                    / jnp.sqrt(v / (1 - b2 ** (k + 1.0)) + ADAM["eps_root"])
                ),
                m,
                v,
            )
            return (m, v), step

        _, us = jax.lax.scan(u, (zero, zero), jnp.arange(n))

        def back(carry, k):
            way, L, P = carry
            way = add(way, jax.tree.map(lambda x: x[k], us))
            product = problem.hessian_vector(params, way, k % BATCHES)
            age = jnp.asarray(n - k, jnp.float32)
            g = jax.tree.map(lambda x: x[k % BATCHES], gradients)
            L = jax.tree.map(lambda L, x: L + (1 - b1) * b1**age * x, L, product)
            P = jax.tree.map(lambda P, g, x: P + (1 - b2) * b2**age * g * x, P, g, product)
            return (way, L, P), None

        return jax.lax.scan(back, (zero, zero, zero), jnp.arange(n - 1, -1, -1))[0][1:]

    return call


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "bench.json")
    options = parser.parse_args()
    device = jax.devices()[0]
    result: dict[str, Any] = {
        "base": "optax.adam step, 784-32-32-10 GELU, 10,000 images, float32",
        "device": f"{device.platform}, {os.cpu_count()} cores, {platform.machine()}",
        "rounds": options.rounds,
        "steps": steps(options.rounds),
        "torch": torch_step(options.rounds),
        "compilation": compilation(),
        "minibatch": minibatch(max(3, options.rounds // 2)),
        "training": training.rows(options.rounds) if find_spec("torch") else [],
        "sweep": sweep.ratio(),
    }
    for part in ("steps", "minibatch"):
        for line in result[part]:
            asked = "" if line["asked"] is None else f"  (asked ≤ {line['asked']})"
            memory = f"{line['memory_mib']:8.1f} MiB"
            print(f"{line['name']:38} {line['ratio']:6.2f}  {memory}{asked}  {line['note']}")
    print("torch:", result["torch"])
    for line in result["training"]:
        print("training", line)
    print("sweep, two workers over one:", result["sweep"])
    for line in result["compilation"]:
        print("compile", {k: v if isinstance(v, bool) else round(v, 2) for k, v in line.items()})
    options.out.write_text(
        json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
    )
    print(f"Written to {options.out}")


if __name__ == "__main__":
    main()
