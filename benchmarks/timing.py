"""Ratios of times measured side by side: every round times every candidate once, in turn."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax

MEBI = 2**20


@dataclass(frozen=True)
class Candidate:
    """A compiled function with its arguments; memory: peak bytes that XLA plans, None: unknown."""

    name: str
    call: Callable[[], Any]
    memory: float | None

    def seconds(self, repeats: int) -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            jax.block_until_ready(self.call())
        return (time.perf_counter() - start) / repeats


def compiled(name: str, function: Callable, *arguments) -> Candidate:
    """``function`` of pytrees, compiled once; arrays are arguments, not constants."""
    program = jax.jit(function).lower(*arguments).compile()
    plan = program.memory_analysis()
    memory = (
        None
        if plan is None
        else (plan.temp_size_in_bytes + plan.argument_size_in_bytes + plan.output_size_in_bytes)
        / MEBI
    )
    return Candidate(name, lambda: program(*arguments), memory)


def ratios(base: str, candidates: list[Candidate], rounds: int, repeats: int) -> dict[str, dict]:
    """name → median over rounds of time / time of ``base`` in the same round, spread, memory."""
    for candidate in candidates:
        candidate.seconds(1)
    table: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    for turn in range(rounds):
        order = candidates[turn % len(candidates) :] + candidates[: turn % len(candidates)]
        times = {candidate.name: candidate.seconds(repeats) for candidate in order}
        for name, seconds in times.items():
            table[name].append(seconds / times[base])
    return {
        candidate.name: {
            "ratio": statistics.median(table[candidate.name]),
            "low": min(table[candidate.name]),
            "high": max(table[candidate.name]),
            "memory_mib": candidate.memory,
        }
        for candidate in candidates
    }
