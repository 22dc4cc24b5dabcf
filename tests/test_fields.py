"""Fields on the parameters say how far they can be trusted at a place."""

import jax.numpy as jnp
import numpy as np
import pytest
from table import BILINEAR, PLACE, ROWS, SMOOTH

import shadowflow as sf

H = 1e-2


def field(order=2, rate=H, row="adam-inside", make=sf.modified_field, **options):
    optimizer = ROWS[row]() if isinstance(row, str) else row
    return make(SMOOTH, optimizer, rate, order=order, **options)


def test_first_order_is_off_by_its_correction():
    first, second = (field(order)("settled", PLACE) for order in (1, 2))
    found = field(1).validity("settled", PLACE)
    expected = np.linalg.norm(second - first) / np.linalg.norm(first)
    np.testing.assert_allclose(found.share, expected, rtol=1e-12)
    assert found.basis == "estimated" and "estimated from order 2" in found.verdict
    assert found.level == "holds" and expected > 1e-3


@pytest.mark.parametrize("make", [sf.modified_field, sf.memoryless_step])
def test_the_next_term_of_the_series_is_the_error_of_second_order(make):
    """Never a third below what collocation of order 3 is away, at most ten times above it."""
    for rate in (4e-3, 1e-2):
        near = field(rate=rate, make=make)
        far = field(3, rate, make=make, method="collocation")
        gap = np.linalg.norm(near("settled", PLACE) - far("settled", PLACE))
        size = np.linalg.norm(field(1, rate, make=make)("settled", PLACE))
        assert 2 / 3 < near.validity("settled", PLACE).share[0] / (gap / size) < 10


def test_at_everyday_settings_it_does_not_hold():
    found = field(rate=0.05, row=sf.adam(eps=0.0, eps_root=1e-8)).validity("settled", PLACE)
    assert found.level == "does not hold"


def test_a_correction_that_kinks_make_wrong_holds_in_part_at_best():
    """Where the gradient jumps within the memory's reach its derivative says nothing of it."""
    kink = sf.Problem(lambda x: jnp.sum(jnp.where(x > 0, 2 * x, x) + 0.01 * x**2))
    momentum, place = sf.momentum(decay=0.9), jnp.array([-1e-3])
    taylor = sf.modified_field(kink, momentum, H, method="taylor").validity("settled", place)
    assert taylor.level != "holds" and "its correction, which says nothing" in taylor.verdict
    smooth = sf.Problem(lambda x: jnp.sum(2 * x + 0.01 * x**2))
    found = sf.modified_field(smooth, momentum, H, method="taylor").validity("settled", place)
    assert found.level == "holds"


def test_on_mini_batches_and_at_a_step_it_is_estimated_too():
    problem = sf.Problem(
        lambda x, c: jnp.sum(c * x**2) / 2, batches=jnp.array([[1.0, 2.0], [2.0, 1.0]])
    )
    found = sf.modified_field(problem, ROWS["adam-both"](), H).validity(5, PLACE[:2])
    assert found.steps.tolist() == [5] and found.level == "holds"
    host = sf.Problem(grad=lambda x: np.asarray(x) ** 3, traceable=False)
    found = sf.modified_field(host, ROWS["adam-both"](), H).validity(5, PLACE)
    assert "estimated from the size of its correction" in found.verdict


def test_a_field_at_rest_is_exact():
    found = sf.modified_field(BILINEAR, sf.sgd(), H).validity("settled", jnp.array([1.5, 0.5]))
    assert found.share[0] == 0
