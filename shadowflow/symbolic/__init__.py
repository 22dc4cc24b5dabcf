"""The equation on paper: the modified equation of an optimizer as formulas, by SymPy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..extras import need

if TYPE_CHECKING:
    from ..optimizers.moments import Optimizer
    from .derivation import Derivation


def derive(optimizer: Optimizer) -> Derivation:
    """The second-order modified equation of ``optimizer``, derived from its moments and combine.

    Returns a ``Derivation``: settled and at step n, full batch and mini-batches, the penalized
    potential, the bias coefficient, the modified loss where there is one, its limits, both
    edges. It prints itself (``text``, ``latex``, ``python``, ``html``) and, called as
    ``derivation(g, hd, learning_rate)`` with hd = H·Φ(g), gives θ' on arrays.

    Decays and the numbers that ``combine`` holds as leaves (an ``equinox.Module``'s fields)
    become symbols; 0 and 1 and numbers written in the code stay numbers. ``combine`` is read
    operation by operation at a generic point (no gradient component exactly 0).

    Raises ImportError without SymPy and TypeError for anything but an Optimizer with moments.
    Raises ValueError for an operation that SymPy cannot take the derivative of (it is named), for
    arrays of numbers, and for a direction that is not finite or reads no moment.

    >>> from shadowflow.optimizers import zoo
    >>> print(derive(zoo.adam(eps=0.0, eps_root=1e-8)).bias_coefficient)
    ε*(ρ + 1)/((1 - ρ)*(g**2 + ε)) - (ρ + 1)/(1 - ρ) + (β + 1)/(1 - β)
    """
    need("derive", "sympy", "'shadowflow[symbolic]'")
    from .. import checks
    from ..optimizers.moments import Optimizer
    from .derivation import Derivation
    from .model import model_of

    checks.instance("optimizer", optimizer, Optimizer)
    return Derivation(optimizer, model_of(optimizer))
