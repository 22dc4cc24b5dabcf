"""One entry over all methods: the shadow of an optimizer, its field and its memoryless step."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from . import checks, memory as mem, trees, validity
from .iterate import (
    Chunk,
    Trajectory,
    check_state,
    chunked,
    drive,
    first_step,
    rate_table,
    trajectory,
)
from .memory import Memory
from .methods import METHODS, Method, displaced
from .methods.inertial import Inertial, substeps
from .methods.memoryless import Flow, Iteration, Runner, strides
from .optimizer import Optimizer, State, rate_at, traced
from .problem import Problem
from .validity import Validity


@dataclass(frozen=True)
class Shadow(Trajectory):
    """A Trajectory and its validity; ``verdict`` says in words whether it can be trusted."""

    validity: Validity

    @property
    def verdict(self) -> str:
        """Whether the shadow holds, with the reason."""
        return self.validity.verdict


def chosen(method: str, kind: str, order) -> Method:
    """The method of that name; refuse unknown names, kinds and orders, naming those there are."""
    checks.choice("method", method, METHODS)
    found = METHODS[method]
    checks.choice(f"kind (method {method!r})", kind, found.kinds)
    checks.choice(f"order (method {method!r})", order, found.orders)
    return found


def memoryless(method: str, kind: str, order) -> Callable:
    """The direction function of a memoryless method, or a refusal that says what to use."""
    found = chosen(method, kind, order)
    if found.direction is None:
        raise ValueError(
            f"method: expected a memoryless method for a field on the parameters, got "
            f"{method!r}, which carries a state from step to step; use "
            f"shadow(…, method={method!r})."
        )
    return found.direction


def memoryless_step(problem: Problem, optimizer: Optimizer, learning_rate, *, order: int = 2,
                    method: str = "taylor") -> Callable:  # fmt: skip
    """The memoryless iteration: ``move(step, params)`` → params_{n+1} − params_n.

    θ ← θ − h F_n(θ) − h² F_n^{(1)}(θ) for order 2 (the paper's (11), (63)), the first term
    alone for order 1. step: n = 0, 1, …, an int or traced; None: settled. Differentiable and
    vmappable in params, decays and eps (reverse mode needs an int step). Not jitted: jit what
    you build of it. Raises ValueError for an unknown method or order.

    >>> from shadowflow import zoo
    >>> move = memoryless_step(Problem(lambda x: x**2 / 2), zoo.momentum(0.5), 0.1)
    >>> round(float(move(None, jnp.asarray(1.0))), 6)  # -h (2 g + h 2 β/(1−β) H 2 g)
    -0.24
    """
    direction = _of_step(problem, optimizer, learning_rate, order, method, "iteration")
    return lambda step, params: trees.scale(
        -rate_at(learning_rate, 0 if step is None else step), direction(step, params)
    )


def modified_field(problem: Problem, optimizer: Optimizer, learning_rate, *, order: int = 2,
                   method: str = "taylor") -> Callable:  # fmt: skip
    """The modified equation: ``field(step, params)`` → d params / d time on [step, step + 1).

    θ' = −F_n(θ) − h [F_n^{(1)}(θ) + ½ DF_n(θ) F_n(θ)] for order 2 (the paper's (2)–(3), (9)),
    the first term alone for order 1. Time is steps × learning rate. Otherwise as
    ``memoryless_step``.

    >>> from shadowflow import zoo
    >>> field = modified_field(Problem(lambda x: x**2 / 2), zoo.sgd(), 0.1)
    >>> round(float(field(None, jnp.asarray(1.0))), 6)  # −(g + (h/2) H g)
    -1.05
    """
    direction = _of_step(problem, optimizer, learning_rate, order, method, "flow")
    return lambda step, params: trees.scale(-1, direction(step, params))


def _of_step(problem, optimizer, learning_rate, order, method, kind) -> Callable:
    function = memoryless(method, kind, order)
    checks.learning_rate(learning_rate)
    phase = 0.0 if kind == "iteration" else 0.5

    def direction(step, params):
        if isinstance(step, (int, float, np.number)):
            step = checks.count("step", step)
        params = jax.tree.map(jnp.asarray, params)
        memory = mem.at(optimizer, learning_rate, step, trees.finest_dtype(params))
        return function(problem, optimizer, memory, params, phase)[order - 1]

    return direction


def settled_state(problem: Problem, optimizer: Optimizer, params: PyTree, learning_rate, *,
                  order: int = 2) -> State:  # fmt: skip
    """The state that a long run through ``params`` would have: moments on the slow manifold.

    order 1: every past gradient equals ∇E(θ); 2: they lie on a line through two real gradients.
    The moments are those before the gradient at ``params`` is read; step = ∞, so weights sum
    to 1. Full batch. Raises ValueError for another order.

    >>> from shadowflow import zoo
    >>> quadratic, momentum = Problem(lambda x: x**2 / 2), zoo.momentum(0.5)
    >>> state = settled_state(quadratic, momentum, jnp.asarray(1.0), 0.1)
    >>> round(float(state.moments[0]), 6)  # g + (mean age 2) · h · 2 g
    1.4
    """
    checks.choice("order", order, (1, 2))
    checks.learning_rate(learning_rate)
    params = problem.check(params)
    optimizer = traced(optimizer)
    memory = mem.at(optimizer, learning_rate, None, trees.finest_dtype(params))
    moments = displaced.past_moments(problem, optimizer, memory, params, order)
    return State(moments, jnp.asarray(jnp.inf, trees.real_dtype()))


def shadow(problem: Problem, optimizer: Optimizer, params: PyTree, learning_rate, steps: int, *,
           order: int = 2, method: str = "displaced", kind: str = "flow", start: int | None = 0,
           state: State | None = None, save_every: int = 1,
           progress: Callable[[int], Any] | None = None) -> Shadow:  # fmt: skip
    """What the optimizer follows: ``steps`` steps of its modified flow or memoryless iteration.

    method: "taylor", "displaced", "linearized" (orders 1, 2; kinds "flow", "iteration") or
        "inertial" (order 2, "flow"; keeps the moments and is the accurate one at real decays).
    start: the step number of ``params`` in its run, where the memory's weights begin; None:
        settled. state: the run's moments there; sets ``start`` by itself. "inertial" needs it
        for any start but 0 and None.
    save_every, progress: as in ``iterate``.

    Returns a ``Shadow``: times and steps as ``iterate``'s, so ``compare`` lays one beside the
    other, and per step the validity with its verdict. A non-finite number stops it with
    ``failed_at``. Global error on a fixed horizon: C · learning_rate^order. Raises ValueError
    for unknown names, naming those there are, and TypeError or ValueError for bad input.

    >>> from shadowflow import zoo
    >>> from shadowflow.iterate import iterate
    >>> quadratic, x = Problem(lambda x: x**2 / 2), jnp.asarray(1.0)
    >>> real = iterate(quadratic, zoo.sgd(), x, 0.1, 10)
    >>> round(float(real.last), 4)  # 0.9^10; the gradient flow would give 0.3679
    0.3487
    >>> round(float(shadow(quadratic, zoo.sgd(), x, 0.1, 10, method="taylor").last), 4)
    0.3499
    """
    found = chosen(method, kind, order)
    checks.instance("problem", problem, Problem)
    checks.instance("optimizer", optimizer, Optimizer)
    checks.learning_rate(learning_rate)
    params, steps = problem.check(params), checks.count("steps", steps)
    save_every = checks.count("save_every", save_every, 1)
    start, state = _begin(problem, optimizer, params, learning_rate, start, state, found)
    first = start or 0
    table = rate_table(learning_rate, first + steps)
    course = _Course(problem, optimizer, found, kind, order, learning_rate, table, start)
    run = drive(course.chunks(params, state), params, steps, save_every, progress)
    end = None if found.memoryless else state if run.carry is None else run.carry[1]
    path = trajectory(run, first, table, end)
    correction, plain = ((), ()) if run.records is None else run.records
    remarks = [validity.memory_remark(optimizer, start, int(path.steps[-1]))]
    remarks += [] if found.memoryless else [validity.cold_remark(optimizer, start)]
    judged = validity.judge(
        first + np.arange(len(correction)), correction, plain, params=path.params,
        rates=table[first:], remarks=remarks,
        failed_at=path.failed_at, memoryless=found.memoryless,
    )  # fmt: skip
    return Shadow(path.steps, path.times, path.params, path.state, path.failed_at, judged)


def _begin(problem, optimizer, params, learning_rate, start, state, method: Method) -> tuple:
    """(start, state) made consistent: where the run is, and its moments if the method has them."""
    if start is not None:
        start = checks.count("start", start)
    if state is not None:
        state = check_state(optimizer, state, params)
        reached = None if np.isinf(float(state.step)) else first_step(state)
        if start not in (0, reached):
            raise ValueError(
                f"start: expected {reached}, the step of the given state, got {start}; leave "
                "start out, the state has it."
            )
        return reached, state
    if method.memoryless:
        return start, None
    if start is None:
        return None, settled_state(problem, optimizer, params, learning_rate)
    if start > 0:
        raise ValueError(
            f"state: expected the optimizer's state at start={start} for method="
            f"{method.name!r}, which keeps the moments, got None; pass state=, or start=None "
            "for a settled start."
        )
    return 0, optimizer.init(params)


@dataclass(frozen=True)
class _Course:
    """How a shadow runs: piece by piece while the weights change, then in the solver's strides."""

    problem: Problem
    optimizer: Optimizer
    method: Method
    kind: str
    order: int
    learning_rate: Any
    table: np.ndarray
    start: int | None

    def chunks(self, params: PyTree, state: State | None) -> Iterator[Chunk]:
        """The run, chunk by chunk, for ``drive``."""
        rates = self.table[self.start or 0 :]
        pieces = self._pieces(len(rates), trees.finest_dtype(params))
        runner, traceable = self._runner(), self.problem.traceable
        carry = runner.init(params, self._memory(params, self.start), state)
        for chunk in chunked(runner, carry, rates[:pieces], traceable):
            carry = chunk.carry
            yield chunk
        carry, rest = (carry[0], self._memory(carry[0], None)), rates[pieces:]
        if isinstance(runner, Flow) and traceable:
            yield from strides(runner, carry, rest)
        else:
            yield from chunked(runner, carry, rest, traceable)

    def _pieces(self, steps: int, dtype) -> int:
        """Steps for which the step number matters; a schedule or a kept memory: all of them."""
        if callable(self.learning_rate) or not self.method.memoryless:
            return steps
        if self.start is None:
            return 0
        faded = mem.window(self.optimizer, dtype)
        return steps if faded is None else min(steps, max(0, faded - self.start))

    def _memory(self, params: PyTree, step: int | None) -> Memory:
        rate = self.learning_rate
        rate = mem.Rates(jnp.asarray(self.table)) if callable(rate) else rate
        return mem.ready(self.optimizer, rate, step, trees.finest_dtype(params))

    def _runner(self) -> Runner | Inertial:
        if self.method.direction is None:
            return Inertial(self.problem, traced(self.optimizer),
                            jnp.asarray(substeps(self.optimizer)))  # fmt: skip
        kind = Iteration if self.kind == "iteration" else Flow
        return kind(self.problem, traced(self.optimizer), self.method.direction, self.order)
