"""`shadowflow orders`: how far the order can be driven, and where each method leaves."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

from tyro.conf import arg

from ..lab.choices import named, whole
from .flags import Flag, built
from .jobs.settings import Method, Setting
from .shadow import EMBEDDED, Opt

if TYPE_CHECKING:
    from ..problem import Problem

MNIST = "mnist"
RATES = (1e-6, 3e-6, 1e-5, 3e-5, 1e-4, 3e-4, 1e-3, 3e-3)


@dataclass(frozen=True)
class Orders:
    """Measure the error of every method against its order and against the step size.

    The tables say on which side of the optimizer's edges each learning rate lies, and where each
    method leaves the optimizer. --far adds one long run from a cold start.
    """

    opt: Opt = None
    learning_rates: Annotated[tuple[float, ...], arg(metavar="FLOAT…")] = RATES
    """Step sizes of the sweep, rising; none: no sweep."""
    orders: tuple[int, ...] = (1, 2, 3, 4)
    """The orders, where a method has them."""
    methods: tuple[Method, ...] = get_args(Method)
    """The ways in which the optimizer is followed."""
    warm: int = 150
    """Steps of the optimizer before the stretch that is followed in the sweep."""
    steps: int = 100
    """The length of that stretch."""
    at: float = 1e-3
    """The step size of the long run."""
    far: int = 0
    """Its steps, from a cold start; 0: no long run."""
    problem: Annotated[str | None, arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    """A (problem, params) tuple in a file, or mnist: the perceptron of Figure 3 (default: a
    perceptron on the digits)."""
    single: Flag = False
    """In float32 (default: float64, in which orders can be told from rounding)."""
    seed: int = 0
    """Seed of the start, for the default problem and for mnist."""
    out: Path = Path("results/orders")
    """A folder for figure.png and numbers.json."""
    quiet: Flag = False
    """Print no progress."""

    def run(self) -> int:
        """0; ValueError for what cannot be measured."""
        optimizer = built(self.setting())
        import jax

        from .jobs.orders import Plan, orders_job

        with jax.enable_x64(not self.single):
            problem, params = self._problem()
            orders_job(Plan(self, problem, optimizer, params))
        return 0

    def setting(self) -> Setting:
        """The optimizer as a setting; ValueError for flags that do not fit each other."""
        rates = self.learning_rates
        if list(rates) != sorted(set(rates)) or not all(0 < rate < math.inf for rate in rates):
            raise ValueError(f"--learning-rates: expected rising positive numbers, got {rates}")
        if not self.orders or min(self.orders) < 1:
            raise ValueError(f"--orders: expected whole numbers from 1, got {self.orders}")
        for name, least in (("warm", 1), ("steps", 1), ("far", 0), ("seed", 0)):
            whole(f"--{name}", getattr(self, name), least)
        if not rates and not self.far:
            raise ValueError("--learning-rates, --far: expected a sweep or a long run, got neither")
        given = ("adam", EMBEDDED[0][0]) if self.opt is None else named(self.opt)
        return Setting(*given, self.at)

    def _problem(self) -> tuple[Problem, Any]:
        if self.problem not in (None, MNIST):
            from ..lab.load import load_problem

            return load_problem(self.problem)[:2]
        import jax
        import jax.numpy as jnp

        from ..lab.models import digits_problem, mnist_problem

        problem, params = (mnist_problem if self.problem else digits_problem)(self.seed)
        dtype = jnp.float32 if self.single else jnp.float64
        return problem, jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)
