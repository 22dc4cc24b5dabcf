"""How far a step may reach: where the memoryless flow ends, and where the optimizer is unstable.

Near a minimum, with the preconditioner P held fixed, an optimizer is linear. In an eigendirection
θ_{n+1} = θ_n − x Σ_i a_i m_i, m_i ← β_i m_i + (1 − β_i) θ_n, with x = hλ and λ an eigenvalue of
P⁻¹H, so its modes z^n obey z − 1 + x Σ_i a_i (1 − β_i) z / (z − β_i) = 0. Both thresholds are
read off this equation (THEORY §9).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.polynomial import Polynomial

from .. import checks, trees
from .base import AbstractOptimizer
from .from_optax import as_optimizer

HESSIAN, PRECONDITIONED = "Hessian", "preconditioned Hessian"
TINY = 1e-15  # a gradient far below any eps, whose square is still a number in float32
REAL = 1e-7  # below this share of its size an imaginary part is rounding


class Threshold(float):
    """A value of learning rate × curvature, and the matrix whose eigenvalue the curvature is.

    A float, with ``matrix``: "Hessian" for optimizers that are linear in the gradient (gradient
    descent, momentum, Nesterov), "preconditioned Hessian" for all others. ``shadowflow.curvature``
    gives the eigenvalue of that matrix.

    >>> Threshold(3.8, "Hessian")
    3.8 (learning rate × an eigenvalue of the Hessian)
    """

    matrix: str

    def __new__(cls, value: float, matrix: str = HESSIAN):
        self = super().__new__(cls, value)
        self.matrix = matrix
        return self

    def __repr__(self) -> str:
        return f"{float(self):.6g} (learning rate × an eigenvalue of the {self.matrix})"


class Response(NamedTuple):
    """How the direction answers to small gradients, F = gain · Σ_i shares_i m_i.

    decays, shares: tuples of floats, one per decay that has a share; the shares sum to 1.
    gain: P⁻¹, the derivative of the memoryless direction in the gradient, the preconditioning
    moments being 1. linear: whether F is this for all gradients, so that P is a number.
    """

    decays: tuple[float, ...]
    shares: tuple[float, ...]
    gain: float
    linear: bool

    @property
    def matrix(self) -> str:
        """The matrix whose eigenvalues the thresholds are stated in."""
        return HESSIAN if self.linear else PRECONDITIONED

    def threshold(self, reach: float) -> Threshold:
        """A threshold, from the h × eigenvalue of P⁻¹H at which it lies."""
        return Threshold(reach / self.gain if self.linear else reach, self.matrix)


def linear_response(optimizer: AbstractOptimizer) -> Response:
    """The linear answer of the settled direction to the moments, at gradient 0.

    Moment i answers with r_i = ∂_iΦ · ψ_i'(0), read by automatic differentiation on one
    coordinate at θ = 0, step ∞; shares a_i = r_i / Σ r, gain Σ r. Moments with ψ'(0) = 0 (as
    g²) precondition: they are held at 1, which for the optimizers of the zoo leaves the shares
    as they are. Not in it: what ``combine`` adds without the gradient (weight decay).

    Raises ValueError for a decay that is traced or not a scalar, and for an optimizer without
    such an answer (a sign without eps_root), TypeError for an optax transformation.

    >>> import shadowflow as sf
    >>> decays, shares, gain, linear = linear_response(sf.nesterov(decay=0.9))
    >>> decays, [round(share, 6) for share in shares], round(gain, 5), linear
    ((0.9, 0.0), [0.9, 0.1], 10.0, True)
    """
    optimizer = as_optimizer(optimizer)
    if not optimizer.closed_form:
        raise TypeError(
            f"optimizer: expected one with moments, from whose decays the thresholds follow, got "
            f"the optax transformation {optimizer.name}; pass the same optimizer as a row of the "
            "zoo, or give shadow no curvature=."
        )
    at_zero, *elsewhere = _answers(optimizer)
    total = math.fsum(at_zero)
    rounding = 16 * float(jnp.finfo(trees.real_dtype()).eps)
    if not total > rounding * math.fsum(map(abs, at_zero)):
        raise ValueError(
            f"optimizer: expected a direction that grows linearly with a small gradient, got "
            f"{optimizer.name}, whose moments answer with {at_zero}, in sum {total:g}; smooth "
            "its sign with eps_root > 0, or give Φ a positive derivative at gradient 0."
        )
    shares: dict[float, float] = {}
    for moment, answer in zip(optimizer.moments, at_zero, strict=True):
        decay = float(moment.decay)
        shares[decay] = shares.get(decay, 0.0) + answer / total
    kept = {decay: share for decay, share in shares.items() if abs(share) > rounding}
    linear = np.allclose(elsewhere, at_zero, rtol=0, atol=rounding * total)
    return Response(tuple(kept), tuple(kept.values()), total, linear)


def _answers(optimizer: Any) -> list[list[float]]:
    """r_i per moment at gradient 0, and ∂_iΦ · ψ_i' at two places far from it.

    Refuses what is traced and what has a corner or a jump at gradient 0.
    """
    decays = [moment.decay for moment in optimizer.moments]
    if not all(checks.is_concrete(decay) and np.ndim(decay) == 0 for decay in decays):
        raise ValueError(
            f"optimizer: expected decays that are single numbers, got {decays}; compute the "
            "threshold outside jit and vmap, for one optimizer at a time."
        )
    with jax.ensure_compile_time_eval():
        dtype = trees.real_dtype()
        near, far = jnp.asarray([0, -TINY, TINY], dtype), jnp.asarray([1.5, -1e3], dtype)
        places = jnp.concatenate([0 * near, far])
        slopes = [jax.vmap(jax.grad(moment.transform))(places) for moment in optimizer.moments]
        linear, held = jnp.concatenate([near, far]), jnp.concatenate([1 + 0 * near, abs(far)])
        read = [jnp.where(slope[0] == 0, held, linear) for slope in slopes]
        whole = lambda moments: jnp.sum(optimizer.direction(moments, places, jnp.inf))
        rises = jax.grad(whole)(tuple(read))
        found = [rise * slope for rise, slope in zip(rises, slopes, strict=True)]
    if not all(checks.is_concrete(answer) for answer in found):
        raise ValueError(
            "optimizer: expected numbers in its combine function, got traced values; compute "
            "the threshold outside jit and vmap."
        )
    at_zero, below, above, *elsewhere = np.asarray(found, float).T
    scale = np.max(np.abs(at_zero), initial=0.0)
    beside = np.asarray([below, above])
    smooth = np.all(np.isfinite(beside)) and np.all(np.isfinite(at_zero))
    if not smooth or not np.all(np.abs(beside - at_zero) <= 1e-3 * scale):
        raise ValueError(
            f"optimizer: expected a direction with one finite derivative at gradient 0, got "
            f"{optimizer.name} with {at_zero.tolist()} at 0 and {above.tolist()} beside it; "
            "smooth its sign with eps_root > 0."
        )
    return [answer.tolist() for answer in (at_zero, *elsewhere)]


def flow_threshold(optimizer: AbstractOptimizer) -> Threshold:
    """The flow edge: the hλ past which a mode of the optimizer follows no memoryless flow.

    λ is an eigenvalue of the matrix that the result names: of the Hessian H where the optimizer is
    linear in the gradient, else of P⁻¹H, P⁻¹ the derivative of the direction in the gradient. The
    principal root z of the linear map, 1 at hλ = 0, falls on the real axis as hλ grows; the edge is
    where it meets another root and turns complex, or reaches 0:

    - (1−√β)/(1+√β) for Adam and for momentum in EMA form, (1−√β)² for momentum in trace form;
    - (1−β)/(1+β)² for NAdam, (1−β)²/(1+β)² for Nesterov in trace form; 1 for gradient descent.

    Past it the mode oscillates and the modified equation's series diverges. Infinite if the root
    does neither (a memory with a negative share).

    Holds for small gradients at a fixed preconditioner and for settled weights; the change of
    the preconditioner has an edge of its own, |Δ log |g_j|| per step < −½ ln ρ. Raises what
    ``linear_response`` raises: ValueError for a sign without eps_root and for decays that are
    traced or not single numbers, TypeError for an optax transformation.

    >>> import shadowflow as sf
    >>> sf.flow_threshold(sf.adam(b1=0.9))
    0.026334 (learning rate × an eigenvalue of the preconditioned Hessian)
    """
    response = linear_response(optimizer)
    above, below = _polynomials(response)
    turns, poles = above.deriv() * below - above * below.deriv(), _real_roots(below)
    first = min([s for s in (*_real_roots(turns), *poles) if 0 < s < 1], default=1.0)
    if any(abs(first - pole) <= REAL * first for pole in poles):
        return response.threshold(math.inf)
    return response.threshold(float(above(first) / below(first)))


def stability_threshold(optimizer: AbstractOptimizer) -> Threshold:
    """The stability edge: the least hλ > 0 at which a mode of the optimizer ceases to decay.

    λ as in ``flow_threshold``. There a root of the linear map is on the unit circle, at −1 or as
    a complex pair:

    - 2(1+β)/(1−β) for Adam and for momentum in EMA form, the classical 2(1+β) for momentum in
      trace form;
    - 2(1+β)/((1−β)(1+2β)) for NAdam, 2(1+β)/(1+2β) for Nesterov in trace form; 2 for gradient
      descent.

    It says nothing about the flow's validity, which ends at ``flow_threshold``. Holds for small
    gradients at a fixed preconditioner. Raises what ``flow_threshold`` raises.

    >>> import shadowflow as sf
    >>> sf.stability_threshold(sf.momentum(decay=0.9))
    3.8 (learning rate × an eigenvalue of the Hessian)
    >>> sf.stability_threshold(sf.adam(b1=0.9))
    38 (learning rate × an eigenvalue of the preconditioned Hessian)
    """
    response = linear_response(optimizer)
    heights = [math.sqrt(-square) for square in _real_roots(_crossings(response)) if square < 0]
    places = [-1.0 + 0j, *((1 - 1j * height) / (1 + 1j * height) for height in heights)]
    pulls = [
        sum(a * (1 - b) * z / (z - b) for b, a in zip(*response[:2], strict=True)) for z in places
    ]
    sizes = [((1 - z) / pull).real for z, pull in zip(places, pulls, strict=True) if pull != 0]
    return response.threshold(min((size for size in sizes if size > 0), default=math.inf))


def check_curvature(optimizer: AbstractOptimizer, value) -> None:
    """Refuse a curvature that is negative or of another matrix than the optimizer's thresholds."""
    checks.number("curvature", value, least=0)
    expected = linear_response(optimizer).matrix
    if (got := getattr(value, "matrix", expected)) != expected:
        raise ValueError(
            f"curvature: expected an eigenvalue of the {expected} for {optimizer.name}, got one of "
            f"the {got}; compute it by shadowflow.curvature with this optimizer."
        )


def _polynomials(response: Response) -> tuple[Polynomial, Polynomial]:
    """(A, B) with x = A/B on the roots, by rising powers of s = (1 − z)/(1 + z).

    A = 2s Π f_i, B = (1+s) Σ a_i (1−β_i)(1−s) Π_{j≠i} f_j, f = (1−β) − (1+β)s. In s the unit
    circle is the imaginary axis, (0, 1) stays (0, 1), and the roots that crowd near z = 1 lie far
    apart in ratio, which polynomials resolve. A decay 0 has no factor: z/z cancels.
    """
    decays, shares, *_ = response
    factors = {b: Polynomial([1 - b, -1 - b]) for b in decays if b != 0}
    product = lambda without: math.prod(factors[b] for b in factors if b != without)
    below = sum(
        Polynomial([a * (1 - b), -a * (1 - b)] if b else [a]) * product(b)
        for b, a in zip(decays, shares, strict=True)
    )
    return Polynomial([0, 2]) * product(None), Polynomial([1, 1]) * below


def _crossings(response: Response) -> Polynomial:
    """The polynomial in s² whose negative roots are where A/B is real on the imaginary axis.

    With A = A_e(s²) + s A_o(s²), and B so too, Im(A B*) at s = iω is ω (A_o B_e − A_e B_o).
    """
    above, below = (one.coef for one in _polynomials(response))
    parts = lambda one: (Polynomial(one[::2]), Polynomial(one[1::2]))
    (even, odd), (even_below, odd_below) = parts(above), parts(below)
    return odd * even_below - even * odd_below


def _real_roots(found: Polynomial) -> list[float]:
    roots = found.trim(1e-15 * np.max(np.abs(found.coef))).roots()
    return [float(r.real) for r in roots if abs(r.imag) <= REAL * abs(r)]
