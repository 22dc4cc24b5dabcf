"""The derived equation of one optimizer: as expressions, as a function, as a page."""

import functools
from dataclasses import dataclass

import numpy as np
import sympy as sp
from jaxtyping import Array

from .. import checks
from ..optimizers.moments import Optimizer
from . import consequences, equations, printers
from .algebra import slope
from .model import GRADIENT, PUSHED, RATE, THETA, Model
from .sections import Section, tell


@dataclass(frozen=True, repr=False)
class Derivation:
    """The second-order modified equation of an optimizer, by ``shadowflow.derive``.

    model: its symbols; settled, at_step, batched, edges: the parts of the derivation, SymPy
    expressions (``settled`` and ``at_step`` per coordinate in y = |g|, where Φ is odd).
    field: θ' in g, HΦ, h (θ) and the hyper-parameters; bias_coefficient: s, in g.

    ``derivation(g, hd, learning_rate, params=None)`` evaluates ``field`` on arrays at the
    optimizer's own hyper-parameters. ``text()``, ``latex()``, ``python()``, ``html()`` print it.
    """

    optimizer: Optimizer
    model: Model

    @functools.cached_property
    def settled(self) -> equations.Settled:
        return equations.Settled(self.model)

    @functools.cached_property
    def at_step(self) -> equations.AtStep:
        return equations.at_step(self.model, self.settled)

    @functools.cached_property
    def batched(self) -> equations.Batched:
        return equations.batched(self.model)

    @functools.cached_property
    def edges(self) -> consequences.Edges:
        return consequences.edges_of(self.model, self.optimizer)

    @functools.cached_property
    def potential(self) -> consequences.Potential:
        return consequences.potential_of(self.model, self.settled)

    @property
    def symbols(self) -> dict[str, sp.Symbol]:
        """The symbols of the hyper-parameters by the name that code knows them by."""
        return {hyper.name: hyper.symbol for hyper in self.model.hypers}

    @property
    def bias_coefficient(self) -> sp.Expr:
        """The bias coefficient s in θ' = −κ (g + (h/2) s HΦ), in g."""
        return self.model.restore(self.settled.bias_coefficient)

    @property
    def direction(self) -> sp.Expr:
        """Φ, settled, in g."""
        return self.model.signed(self.settled.direction)

    @property
    def field(self) -> sp.Expr:
        """θ' = −Φ − (h/2) (K HΦ + ∂_θΦ Φ), in g."""
        phi, bias = self.direction, self.model.restore(self.settled.bias)
        return -phi - RATE / 2 * (bias * PUSHED + slope(phi, THETA) * phi)

    @functools.cached_property
    def _evaluate(self):
        values = self.field.subs(self.model.numbers())
        return sp.lambdify([GRADIENT, PUSHED, RATE, THETA], values, modules="jax", cse=True)

    def __call__(self, g, hd, learning_rate, params=None) -> Array:
        """θ' for a settled memory, full batch, at the gradient g with hd = H·Φ.

        g, hd, params: arrays of one shape; params only where Φ reads them (weight decay).
        Raises ValueError for a learning rate that is not positive, and where params are missing.

        >>> from shadowflow.optimizers import zoo
        >>> from shadowflow.symbolic import derive
        >>> field = derive(zoo.momentum(decay=0.5))
        >>> round(float(field(np.asarray(1.0), np.asarray(2.0), 0.1)), 6)  # H = 1
        -2.6
        """
        checks.number("learning_rate", learning_rate, above=0)
        if params is None and self.model.reads_params:
            raise ValueError(
                f"params: expected the parameters, which the direction of {self.model.name} reads, "
                "got None; pass params=."
            )
        shapes = {np.shape(a) for a in (g, hd, params) if a is not None}
        if len(shapes) > 1:
            raise ValueError(
                f"g, hd, params: expected one shape, got {sorted(shapes)}; give them all "
                "that of params."
            )
        return self._evaluate(g, hd, learning_rate, g if params is None else params)

    def sections(self) -> list[Section]:
        """What there is to say, in order: titles, sentences and formulas."""
        return tell(self)

    def text(self) -> str:
        """Unicode text for a terminal."""
        return printers.text(self.sections())

    def latex(self) -> str:
        """LaTeX within KaTeX's subset: an ``aligned`` block per section, words as % comments."""
        return printers.latex(self.sections())

    def html(self) -> str:
        """One page that needs nothing else: MathML, with the LaTeX of every formula."""
        return printers.html(self.model.name, self.sections())

    def python(self) -> str:
        """The source of a function of numpy arrays: θ' when settled, with the numbers as defaults.

        Its arguments are g, hd = HΦ, learning_rate, params where Φ reads them, and the
        hyper-parameters.
        """
        return printers.python(self.model, self.field)

    def __str__(self) -> str:
        return self.text()

    def __repr__(self) -> str:
        return f"Derivation({self.optimizer!r})"
