"""Pictures and words of results: what is drawn is what was found, and nothing is left open."""

import base64
import subprocess
import sys
from types import SimpleNamespace as Found

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from shadowflow import plots
from shadowflow.plots import Result

matplotlib.use("Agg")
STEPS = np.arange(6)
RATIO = np.array([0.0, 0.02, 0.3, np.inf, 0.05, 0.01])


@pytest.fixture(autouse=True)
def closed():
    """Every figure of a test closed after it."""
    yield
    pyplot.close("all")


def lines(axes):
    """Label → the numbers drawn."""
    return {line.get_label(): np.asarray(line.get_ydata(), float) for line in axes.get_lines()}


def texts(axes):
    return [text.get_text() for text in axes.texts]


def test_a_trajectory_is_its_distance_from_the_start_over_all_leaves():
    params = {"a": np.array([[1.0], [4.0], [1.0]]), "b": np.array([[[2.0]], [[6.0]], [[2.0]]])}
    axes = plots.trajectory(Found(steps=np.arange(3), params=params, failed_at=None))
    np.testing.assert_allclose(axes.get_lines()[0].get_ydata(), [0, 5, 0])
    assert axes.get_xlabel() == "step" and not texts(axes)
    stopped = plots.trajectory(Found(steps=np.arange(3), params=params, failed_at=2))
    assert texts(stopped) == ["not finite from step 2"]


def test_a_comparison_shows_both_norms_and_the_way_gone():
    found = Found(steps=STEPS, two_norm=STEPS / 10, max_norm=STEPS / 20, moved=STEPS * 1.0)
    axes = plots.comparison(found)
    drawn = lines(axes)
    np.testing.assert_allclose(drawn["two-norm"], found.two_norm)
    np.testing.assert_allclose(drawn["max-norm"], found.max_norm)
    np.testing.assert_allclose(drawn["way gone (two-norm)"], found.moved)
    assert axes.get_yscale() == "log" and axes.get_legend() is not None


def test_runs_that_are_equal_are_drawn_without_a_logarithm():
    zero = 0.0 * STEPS
    axes = plots.comparison(Found(steps=STEPS, two_norm=zero, max_norm=zero, moved=zero))
    assert axes.get_yscale() == "linear"
    axes.figure.canvas.draw()


def test_a_validity_has_its_levels_and_keeps_zero_and_infinity_in_the_picture():
    running = np.maximum.accumulate(RATIO)
    axes = plots.validity(
        Found(steps=STEPS, share=RATIO, running_max=running, first_order=None, basis="measured")
    )
    drawn, (low, high) = lines(axes), axes.get_ylim()
    for values, label in ((RATIO, "at the step"), (running, "largest so far")):
        inside = (values > low) & (values < high)
        np.testing.assert_allclose(drawn[label][inside], values[inside])
        assert np.all((drawn[label] > low) & (drawn[label] < high))
    assert texts(axes) == ["holds", "holds in part", "does not hold"]
    places = [text.xy[1] for text in axes.texts]
    assert places[0] < 0.1 < places[1] < 0.4 < places[2] < high


def test_an_error_bar_tells_what_is_trusted():
    two, trusted = 1e-3 * (1 + STEPS), STEPS < 4
    found = Found(steps=STEPS, two_norm=two, rounding=two / 1e6, trusted=trusted, source="taylor")
    drawn = lines(plots.error_bar(found))
    np.testing.assert_array_equal(np.isfinite(drawn["trusted"]), trusted)
    np.testing.assert_allclose(drawn["not trusted"], two)
    np.testing.assert_allclose(drawn["rounding"], two / 1e6)
    found.trusted = STEPS >= 0
    assert "not trusted" not in lines(plots.error_bar(found))


def row(order=2, method="taylor", errors=(4e-2, 1e-2, 2.5e-3), slope=2.0, floor=1e-14):
    return Found(
        method=method,
        kind="flow",
        order=order,
        learning_rates=(0.04, 0.02, 0.01),
        errors=errors,
        slope=slope,
        floor=floor,
    )


def test_convergence_is_a_line_per_row_with_its_slope_beside_one_of_its_order():
    rows = [row(), row(1, "displaced", (0.2, 0.1, 0.05), 1.0)]
    axes = plots.convergence(rows)
    drawn = lines(axes)
    np.testing.assert_allclose(drawn["taylor 2, flow: slope 2.00"], rows[0].errors)
    assert axes.get_xscale() == axes.get_yscale() == "log"
    assert texts(axes) == ["order 1", "order 2"] and "rounding" not in drawn
    rates = np.log(rows[0].learning_rates)
    for order, line in zip((1, 2), axes.get_lines()[2:4], strict=True):
        slopes = np.diff(np.log(line.get_ydata())) / np.diff(rates)
        np.testing.assert_allclose(slopes, order)


def test_convergence_shows_rounding_where_errors_come_near_it_and_survives_what_is_not_finite():
    axes = plots.convergence([row(errors=(np.inf, 1e-12, 0.0), slope=None, floor=1e-13)])
    drawn = lines(axes)
    np.testing.assert_array_equal(drawn["taylor 2, flow: exact"], [np.nan, 1e-12, np.nan])
    np.testing.assert_allclose(drawn["rounding"], 1e-13)
    assert not texts(axes)
    axes.figure.canvas.draw()


RATES = {"memoryless": -32.0, "momentum": -1.5, "second moment": 4.0, "discretization": np.nan}


def test_rates_are_bars_of_the_bias_and_their_sum():
    measure = Found(rates={**RATES, "discretization": 0.5})
    axes = plots.rates(measure, name="one-norm")
    assert [bar.get_width() for bar in axes.patches] == [-1.5, 4.0, 0.5, 3.0]
    assert [label.get_text() for label in axes.get_yticklabels()][-1] == "together"
    assert texts(axes) == ["−1.5", "+4", "+0.5", "+3"]
    assert axes.get_title() == "one-norm; the flow without bias: −32"
    assert "penalizes" in axes.get_xlabel()


def test_rates_that_do_not_hold_are_hollow_and_make_no_statement():
    axes = plots.rates(Found(rates=RATES), level="does not hold")
    assert all(bar.get_facecolor()[-1] == 0 for bar in axes.patches)
    assert axes.get_title() == "does not hold here: no statement" and not texts(axes)
    assert "penalizes" not in axes.get_xlabel()
    axes.figure.canvas.draw()


def test_a_shuffle_mean_shows_the_largest_coordinates_where_there_are_many():
    mean = np.random.default_rng(0).normal(size=100)
    error = 0.1 * np.abs(mean)
    tree = lambda values: {"a": values[:40].reshape(4, 10), "b": values[40:]}
    found = Found(mean=tree(mean), standard_error=tree(error), orders=128, exact=False)
    axes = plots.shuffle_mean(found)
    places, shown = axes.get_lines()[0].get_data()
    np.testing.assert_allclose(shown, mean[places])
    assert len(places) == 60 and min(np.abs(shown)) >= np.sort(np.abs(mean))[40]
    assert "the 60 largest of 100" in axes.get_xlabel() and "128 orders" in axes.get_title()
    found.exact = True
    assert plots.shuffle_mean(found).get_title() == "every order"


def test_given_axes_are_drawn_on_and_no_figure_is_made():
    figure, axes = pyplot.subplots()
    params = {"a": np.zeros((3, 1))}
    assert plots.trajectory(Found(steps=np.arange(3), params=params, failed_at=None), axes) is axes
    assert pyplot.get_fignums() == [figure.number]


def test_the_backend_and_the_user_s_style_stay():
    matplotlib.use("svg")
    size = matplotlib.rcParams["font.size"]
    plots.comparison(Found(steps=STEPS, two_norm=STEPS, max_norm=STEPS, moved=STEPS))
    assert matplotlib.get_backend() == "svg" and matplotlib.rcParams["font.size"] == size
    matplotlib.use("Agg")


class Words(Result):
    summary = "1 < 2"


class Drawn(Result):
    summary = "six steps"

    def describe(self):
        return "holds.\nSix steps."

    def plot(self, axes=None):
        found = {"share": RATIO, "running_max": RATIO, "first_order": RATIO, "basis": "measured"}
        return plots.validity(Found(steps=STEPS, **found), axes)


def test_a_result_is_one_line_and_words():
    assert repr(Words()) == "Words(1 < 2)" and Words().describe() == "1 < 2"
    assert Words()._repr_html_() == "<pre>1 &lt; 2</pre>"
    assert repr(Drawn()) == "Drawn(six steps)"


def test_in_a_notebook_the_words_stand_above_the_picture_and_no_figure_is_left():
    page = Drawn()._repr_html_()
    assert page.startswith("<pre>holds.\nSix steps.</pre><img ")
    picture = base64.b64decode(page.partition("base64,")[2].partition('"')[0])
    assert picture.startswith(b"\x89PNG") and len(picture) > 5000
    assert not pyplot.get_fignums()
    assert Drawn()._repr_html_() == page


def test_without_matplotlib_there_are_words_and_a_picture_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert Drawn()._repr_html_() == "<pre>holds.\nSix steps.</pre>"
    with pytest.raises(
        ImportError, match=r"a picture needs matplotlib: pip install 'shadowflow\[cli\]'"
    ):
        Drawn().plot()


def test_matplotlib_is_not_loaded_before_a_picture_is_asked_for():
    code = "import sys, shadowflow.plots"
    check = "assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-c", f"{code}\n{check}"], check=True)
