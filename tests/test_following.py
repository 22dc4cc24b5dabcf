"""Rows of another run are found whatever the lengths of its chunks and of those it is beside."""

from types import SimpleNamespace

import numpy as np
import pytest

from shadowflow.following import Rows, distances
from shadowflow.running import Chunk, Trajectory

FIRST, GOOD = 5, 9


def chunks(lengths):
    """Steps of which the one of number FIRST + GOOD is not finite; rows say their own number."""
    begin = 0
    for length in lengths:
        rows = {"x": np.arange(begin, begin + length)}
        yield Chunk((), rows, (), length, min(length, GOOD - begin))
        begin += length


@pytest.mark.parametrize("lengths", [(12,), (3, 4, 5), (9, 3), (1, 1, 8, 2)])
@pytest.mark.parametrize("portions", [(12,), (3, 4, 5), (2, 7, 3), (1,) * 12])
def test_every_step_is_given_out_once_and_the_failed_one_named(lengths, portions):
    rows, begin = Rows(chunks(lengths), FIRST), 0
    for count in portions:
        index, found = rows.take(count)
        known = np.arange(begin, min(begin + count, GOOD))
        np.testing.assert_array_equal(index, known - begin)
        assert found is None or found["x"].tolist() == known.tolist()
        begin += count
    assert rows.failed == FIRST + GOOD


def test_of_a_trajectory_there_are_the_steps_that_it_saved():
    saved = np.array([0, 3, 4, 8])
    rows = Rows(Trajectory(FIRST + saved, saved * 0.1, {"x": saved}, None, None), FIRST)
    expected = [([2], [3]), ([0], [4]), ([], []), ([0], [8])]  # after step 2, 3 and 7 of the run
    for count, (index, values) in zip((3, 3, 1, 2), expected, strict=True):
        found, params = rows.take(count)
        assert (found.tolist(), params["x"].tolist()) == (index, values)
    assert rows.failed is None


def test_the_way_gone_is_no_shorter_where_a_run_turns_back():
    places = {"x": np.array([[0.0], [1.0], [3.0], [2.0], [-1.0]])}
    run = SimpleNamespace(first=0, params={"x": np.zeros(1)})
    beside = Chunk((), {"x": places["x"][1:] + 0.5}, (), 4, 4)
    real = Trajectory(np.arange(5), np.arange(5.0), places, None, None)
    apart, _ = distances(run, iter([beside]), real)
    assert apart.two_norm.tolist() == [0.5] * 4
    assert apart.way.tolist() == [1.0, 3.0, 3.0, 3.0]
