"""Where flows and optimizers end: closed forms, brute-force roots, and runs on both sides."""

import copy
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import oracles
import pytest
from support.refusals import refused
from table import BILINEAR, BILINEAR_START, ROWS

import shadowflow as sf
from shadowflow.iterate import iterate
from shadowflow.optimizers import zoo
from shadowflow.optimizers.moments import Moment, Optimizer, safe_sqrt, square
from shadowflow.optimizers.thresholds import flow_threshold, linear_response, stability_threshold
from shadowflow.problem import Problem
from shadowflow.shadow import shadow

QUADRATIC = Problem(lambda x: x**2 / 2)
LATE = np.arange(1501) > 1400
BETAS = [0.0, 0.3, 0.9, 0.99]


@pytest.mark.parametrize("b", BETAS)
@pytest.mark.parametrize(
    "build",
    [
        lambda b: zoo.adam(b1=b, b2=0.999),
        lambda b: zoo.adam(b1=b, b2=0.5, eps=0.0, eps_root=1e-3, bias_correction=False),
        lambda b: zoo.adamw(b1=b),
        lambda b: zoo.momentum(decay=b, form="ema"),
        lambda b: zoo.signum(decay=b),
    ],
)
def test_a_single_average_has_the_classical_edges(build, b):
    optimizer = build(b)
    root = np.sqrt(b)
    assert flow_threshold(optimizer) == pytest.approx((1 - root) / (1 + root), rel=1e-9)
    assert stability_threshold(optimizer) == pytest.approx(2 * (1 + b) / (1 - b), rel=1e-9)


def test_the_numbers_of_everyday_adam():
    assert flow_threshold(zoo.adam(b1=0.9)) == pytest.approx(0.0263, abs=1e-4)
    assert stability_threshold(zoo.adam(b1=0.9)) == pytest.approx(38)
    for optimizer in (
        zoo.sgd(),
        zoo.rmsprop(decay=0.9),
        zoo.rmsprop(decay=0.999, eps=0.0, eps_root=1e-4),
    ):
        assert flow_threshold(optimizer) == pytest.approx(1)
        assert stability_threshold(optimizer) == pytest.approx(2)


@pytest.mark.parametrize("b", BETAS)
def test_in_trace_form_momentum_has_the_classical_edges_of_heavy_ball(b):
    assert flow_threshold(zoo.momentum(decay=b)) == pytest.approx((1 - np.sqrt(b)) ** 2, rel=1e-9)
    assert stability_threshold(zoo.momentum(decay=b)) == pytest.approx(2 * (1 + b), rel=1e-9)
    nesterov = zoo.nesterov(decay=b)
    assert flow_threshold(nesterov) == pytest.approx(((1 - b) / (1 + b)) ** 2, rel=1e-9)
    assert stability_threshold(nesterov) == pytest.approx(2 * (1 + b) / (1 + 2 * b), rel=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "shown"),
    [
        (zoo.sgd(), "2 (learning rate × an eigenvalue of the Hessian)"),
        (zoo.momentum(decay=0.9), "3.8 (learning rate × an eigenvalue of the Hessian)"),
        (zoo.momentum(decay=0.9, form="ema"), "38 (learning rate × an eigenvalue of the Hessian)"),
        (zoo.nesterov(decay=0.9), "1.35714 (learning rate × an eigenvalue of the Hessian)"),
        (zoo.adam(b1=0.9), "38 (learning rate × an eigenvalue of the preconditioned Hessian)"),
    ],
)
def test_a_threshold_says_which_matrix_it_is_meant_for(optimizer, shown):
    found = sf.stability_threshold(optimizer)
    assert isinstance(found, sf.Threshold) and repr(found) == shown
    assert sf.flow_threshold(optimizer).matrix == found.matrix
    assert copy.deepcopy(found).matrix == found.matrix
    assert json.loads(json.dumps(found)) == found


PLAIN = {"sgd", "momentum", "momentum-ema", "momentum-corrected", "nesterov"}


@pytest.mark.parametrize("row", ROWS)
def test_the_matrix_is_the_hessian_for_what_is_linear_in_the_gradient_and_for_nothing_else(row):
    assert linear_response(ROWS[row]()).linear == (row in PLAIN)


def test_what_is_linear_only_near_zero_is_not_called_linear():
    """Clipping far out, a slightly bent ψ, a direction that θ scales, one that ν scales."""
    bent = {
        "clipped": Optimizer([Moment(0.9)], lambda m, p, n: jnp.clip(m[0], -100, 100)),
        "ψ": Optimizer([Moment(0.9, lambda g: g + 1e-3 * g**2)], lambda m, p, n: m[0]),
        "θ": Optimizer([Moment(0.9)], lambda m, p, n: m[0] * (1 + p**2)),
        "ν": Optimizer([Moment(0.9), Moment(0.9, square)], lambda m, p, n: m[0] * m[1]),
    }
    for name, optimizer in bent.items():
        assert linear_response(optimizer)[2:] == (pytest.approx(1), False), name
    decayed = Optimizer([Moment(0.9)], lambda m, p, n: 2 * m[0] + 0.1 * p)
    assert linear_response(decayed)[2:] == (pytest.approx(2), True)


@pytest.mark.parametrize("b", [0.3, 0.9])
@pytest.mark.parametrize(
    "build", [lambda b: zoo.nesterov(decay=b, form="ema"), lambda b: zoo.nadam(b1=b)]
)
def test_nesterov_s_edges(build, b):
    optimizer = build(b)
    edge = 2 * (1 + b) / ((1 - b) * (1 + 2 * b))
    assert stability_threshold(optimizer) == pytest.approx(edge, rel=1e-9)
    assert flow_threshold(optimizer) == pytest.approx((1 - b) / (1 + b) ** 2, rel=1e-9)


def roots(decays, shares, x):
    """The modes of the linear map as a matrix on (θ, m_1, …), by its eigenvalues."""
    present = sum(a for b, a in zip(decays, shares, strict=True) if b == 0)
    averages = [(b, a) for b, a in zip(decays, shares, strict=True) if b != 0 and a != 0]
    matrix = np.zeros((1 + len(averages),) * 2)
    matrix[0, 0] = 1 - x * present
    for i, (b, a) in enumerate(averages, start=1):
        matrix[i, i], matrix[i, 0] = b, 1 - b
        matrix[0, i], matrix[0, 0] = -x * a * b, matrix[0, 0] - x * a * (1 - b)
    return np.linalg.eigvals(matrix)


def written_down(row):
    """(decays, shares) of the moments that the direction is linear in, by the oracles' partials."""
    formula = oracles.formula(row, ROWS[row].options)
    slopes = [slope(np.zeros(1))[0] for _, _, slope, _ in formula.moments]
    moments = [np.zeros(1) if slope else np.ones(1) for slope in slopes]
    answers = [
        float(np.squeeze(rise)) * slope
        for rise, slope in zip(formula.partials(moments, np.zeros(1), np.inf), slopes, strict=True)
    ]
    return [decay for decay, *_ in formula.moments], np.array(answers) / sum(answers)


@pytest.mark.parametrize("row", ROWS)
def test_the_linear_response_is_the_one_written_down(row):
    decays, shares = written_down(row)
    found = linear_response(ROWS[row]())
    expected = {decay: share for decay, share in zip(decays, shares, strict=True) if share != 0}
    assert dict(zip(found.decays, found.shares, strict=True)) == pytest.approx(expected, rel=1e-12)


MORE = {
    "lion .9 .99": zoo.lion(b1=0.9, b2=0.99, eps_root=1.0),
    "lion .99 .5": zoo.lion(b1=0.99, b2=0.5, eps_root=1.0),
    "nadam .9": zoo.nadam(b1=0.9, b2=0.99),
    "three averages": Optimizer(
        [Moment(0.9), Moment(0.5), Moment(0.0, bias_correction=True), Moment(0.9, square)],
        lambda m, p, n: (0.5 * m[0] + 0.3 * m[1] + 0.2 * m[2]) / safe_sqrt(m[3] + 1e-8),
    ),
}
ALL = {**{name: row() for name, row in ROWS.items()}, **MORE}


def mixture(decays, shares):
    """Φ = Σ shares_i m_i."""
    shares = tuple(map(float, shares))
    return Optimizer(
        [Moment(float(decay)) for decay in decays],
        lambda m, p, n: sum(a * part for a, part in zip(shares, m, strict=True)),
    )


def check_edges(optimizer, decays, shares, gain=1.0):
    """Just before and just past both edges, by eigenvalues.

    gain: of a direction linear in the gradient, whose thresholds are in the Hessian's eigenvalue.
    """
    stable, flow = gain * stability_threshold(optimizer), gain * flow_threshold(optimizer)
    for x in [*np.geomspace(1e-3 * stable, stable, 41)[:-1], (1 - 1e-6) * stable]:
        assert np.abs(roots(decays, shares, x)).max() < 1, x / stable
    assert np.abs(roots(decays, shares, (1 + 1e-6) * stable)).max() > 1
    last = flow if np.isfinite(flow) else stable
    principal = 1.0
    for x in [*np.linspace(0, last, 1001)[1:-1], (1 - 1e-5) * last]:
        modes = roots(decays, shares, x)
        principal = modes[np.argmin(np.abs(modes - principal))]
        assert abs(principal.imag) < 1e-9 and principal.real > 0, x / flow
    if np.isfinite(flow):
        beyond = roots(decays, shares, (1 + 1e-4) * flow)
        nearest = beyond[np.argmin(np.abs(beyond - principal))]
        assert abs(nearest.imag) > 1e-7 or nearest.real < 0


@pytest.mark.parametrize("name", ALL)
def test_both_edges_are_where_the_roots_of_the_map_say(name):
    response = written_down(name) if name in ROWS else linear_response(ALL[name])[:2]
    decay = ROWS[name].options.get("decay") if name in ("momentum", "nesterov") else 0
    check_edges(ALL[name], *response, 1 / (1 - decay))


@pytest.mark.parametrize("seed", range(6))
def test_mixtures_of_averages_have_their_edges_where_the_roots_say(seed):
    """Decays up to .9997, which crowd near z = 1, and shares of either sign."""
    draw = np.random.default_rng(seed)
    decays = 1 - 10 ** draw.uniform(-3.5, 0, 4)
    shares = np.abs(draw.normal(size=4)) if seed % 2 else draw.normal(size=4)
    shares = shares / shares.sum()
    check_edges(mixture(decays, shares), decays, shares)


def test_a_memory_with_a_negative_share_has_no_flow_edge():
    """The principal root stops at (1−a)β/(1−aβ), where B = 0, however large the step."""
    optimizer = mixture([0.5, 0.0], [-0.5, 1.5])
    assert flow_threshold(optimizer) == np.inf
    assert roots([0.5, 0.0], [-0.5, 1.5], 1e6).real.max() == pytest.approx(0.6, rel=1e-4)


def test_adam_s_formula_is_wrong_for_the_others():
    """Negative control of the closed forms: the edges are not those of the first average alone."""
    for optimizer in (
        zoo.nesterov(decay=0.9, form="ema"),
        zoo.nadam(b1=0.9),
        zoo.lion(b1=0.9, b2=0.99),
    ):
        decay = float(optimizer.moments[0].decay)
        assert stability_threshold(optimizer) < 0.6 * 2 * (1 + decay) / (1 - decay)
        assert flow_threshold(optimizer) > 1.02 * (1 - decay**0.5) / (1 + decay**0.5)


LINEAR = [
    "sgd",
    "momentum",
    "momentum-corrected",
    "nesterov",
    "adam-outside",
    "adam-inside",
    "adam-uncorrected",
    "adamw",
    "nadam",
    "lion",
    "signum",
    "rmsprop-inside",
]


def real_run(row, share, edge, steps, **changes):
    """θ of a run on θ²/2 whose preconditioner stands still, at ``share`` of an edge."""
    options = {**ROWS[row].options, **changes}
    still = {"eps": 0.0, "eps_root": 1e12, "weight_decay": 0.0}
    if options.get("eps") and not options.get("eps_root"):
        still = {"eps": 1e6, "eps_root": 0.0}
    optimizer = ROWS[row](**{name: v for name, v in still.items() if name in options}, **changes)
    gain = 1e-6 if "eps_root" in options else 1.0
    start = jnp.asarray(1e-3)
    return iterate(QUADRATIC, optimizer, start, share * edge(optimizer) / gain, steps).params


@pytest.mark.parametrize("row", LINEAR)
def test_real_optimizers_grow_past_the_stability_edge_and_not_before(row):
    before, past = (
        np.abs(real_run(row, share, stability_threshold, 1500)).max(initial=0, where=LATE) / 1e-3
        for share in (0.98, 1.02)
    )
    assert before < 1e-3 and past > 1e3, (before, past)


@pytest.mark.parametrize("row", LINEAR)
def test_a_mode_oscillates_past_the_flow_edge_and_not_before(row):
    before, past = (
        np.sum(np.diff(np.sign(real_run(row, share, flow_threshold, 400))) != 0)
        for share in (0.95, 1.3)
    )
    assert before <= 1 and past >= 5, (before, past)


def test_the_preconditioning_moment_s_decay_is_of_no_account_and_the_averages_is():
    edges = [
        flow_threshold(zoo.adam(b1=b1, b2=b2)) for b1, b2 in ((0.9, 0.5), (0.9, 0.999), (0.8, 0.5))
    ]
    assert edges[0] == pytest.approx(edges[1], rel=1e-12)
    assert edges[2] > 2 * edges[0]


def test_the_verdict_knows_the_edges_where_it_knows_the_curvature():
    adam = zoo.adam(b1=0.9, b2=0.95, eps=0.0, eps_root=0.1)
    run = lambda **k: shadow(BILINEAR, adam, BILINEAR_START, 1e-4, 20, **k)
    plain = run()
    assert plain.validity.level == "holds" and "edge" not in plain.verdict
    assert run(curvature=10.0).validity.level == "holds"
    past = run(curvature=1e3)
    assert past.validity.level == "holds"  # it was measured; the edge is what else to mind
    assert "past the flow edge 0.026" in past.validity.remark and "inertial" in past.verdict
    later = run(curvature=1e3, check=False).validity  # measured when it is asked for
    assert (later.level, later.remarks) == ("holds", past.validity.remarks)
    blind = functools.partial(run, start=7, check=False)  # its state is not known
    alone = blind(curvature=1e3)
    assert alone.validity.level == "partly" and "past the flow edge 0.026" in alone.verdict
    assert "edge" not in run(curvature=1e3, method="inertial", check=False).verdict
    unstable = blind(curvature=1e6)
    assert "past the stability edge 38" in unstable.verdict
    assert unstable.validity.level == "does not hold"
    np.testing.assert_array_equal(past.params, plain.params)
    refused(lambda: run(curvature=-1.0), "curvature:", "at least 0")
    hessian = sf.curvature(BILINEAR, zoo.sgd(), BILINEAR_START)
    refused(lambda: run(curvature=hessian), "curvature:", "preconditioned Hessian for adam")


def test_heavy_ball_at_five_is_past_its_stability_edge_and_the_verdict_says_so():
    """½x² at h = 5 by momentum .9, which is at 6e26 after 60 steps: λ = 1 as sf.curvature gives."""
    heavy, start = zoo.momentum(decay=0.9), jnp.asarray(1.0)
    assert abs(float(iterate(QUADRATIC, heavy, start, 5.0, 60).last)) > 1e26
    found = shadow(
        QUADRATIC, heavy, start, 5.0, 60, curvature=sf.curvature(QUADRATIC, heavy, start)
    )
    assert found.validity.level == "does not hold"
    assert "Hessian is 5, past the stability edge 3.8" in found.verdict
    assert abs(float(iterate(QUADRATIC, heavy, start, 3.7, 400).last)) < 1e-3
    below = shadow(QUADRATIC, heavy, start, 3.7, 5, curvature=1.0).verdict
    assert "stability edge" not in below and "past the flow edge 0.0026" in below


def test_what_has_no_linear_response_is_refused():
    for edge in (sf.flow_threshold, sf.stability_threshold):
        refused(lambda e=edge: e(zoo.signum(decay=0.9, eps_root=0.0)), "optimizer:", "eps_root > 0")
        cubic = Optimizer([Moment(0.9, lambda g: g**3)], lambda m, p, n: m[0])
        refused(lambda e=edge, o=cubic: e(o), "optimizer:", "linearly")
        refused(lambda e=edge: jax.jit(lambda b: e(zoo.adam(b1=b)))(0.9), "single numbers")
        refused(
            lambda e=edge: jax.jit(lambda c: e(zoo.signum(decay=0.9, eps_root=c)))(1.0),
            "traced values",
        )
        refused(lambda e=edge: e(zoo.adam(b1=jnp.asarray([0.5, 0.9]))), "single numbers")
        corner = Optimizer([Moment(0.9)], lambda m, p, n: jax.nn.relu(m[0]) + 0.1 * m[0])
        refused(lambda e=edge, o=corner: e(o), "one finite derivative at gradient 0")
        refused(lambda e=edge: e(mixture([0.9, 0.5], [1, -1])), "linearly", "in sum 0")
        refused(lambda e=edge: e(mixture([0.9], [-1])), "grows linearly", "in sum -1")
        refused(lambda e=edge: e("adam"), "optimizer:", error=TypeError)


def test_an_optimizer_known_as_numbers_has_its_edges_under_jit_too():
    adam = zoo.adam(b1=0.9)
    assert float(jax.jit(lambda: jnp.asarray(stability_threshold(adam)))()) == pytest.approx(38)
