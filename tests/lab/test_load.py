"""A file of the user's own: what it may do, and which of its changes make another problem."""

import textwrap

import pytest

from shadowflow.lab.load import load_problem

FILE = """
import functools
import numpy as np
import jax
import jax.numpy as jnp
import shadowflow as sf
from neighbour import weigh

data = np.load("data.npy")
params = jnp.ones(3)
read = sf.Problem(lambda x: jnp.sum((x - data) ** 2)), params

def made():
    inside = np.load("data.npy")
    @jax.jit
    def loss(x):
        return jnp.sum((x - inside) ** 2)
    return sf.Problem(loss), params

closed = made()
bound = sf.Problem(functools.partial(lambda c, x: jnp.sum(c * x), data)), params
host = sf.Problem(grad=lambda x: np.asarray(x) - data, traceable=False), params
batches = sf.Problem(lambda x, c: jnp.sum(c * x), batches=np.stack([data, data])), params
start = sf.Problem(lambda x: jnp.sum(x**2)), jnp.asarray(data)
helped = sf.Problem(lambda x: weigh(x).sum()), params
apart = sf.Problem(lambda x: jnp.sum(x**2)), params
"""
NEIGHBOUR = "weight = {}\ndef weigh(x):\n    return weight * x\n"


@pytest.fixture
def label(tmp_path, monkeypatch):
    """name → label, of the file beside this data, which its neighbour multiplies."""
    import sys

    import numpy as np

    monkeypatch.chdir(tmp_path)

    def label(name, data=1.0, weight=2.0):
        (tmp_path / "mine.py").write_text(FILE)
        (tmp_path / "neighbour.py").write_text(NEIGHBOUR.format(weight))
        np.save("data.npy", np.full(3, data))
        monkeypatch.delitem(sys.modules, "neighbour", raising=False)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        return load_problem(f"mine.py:{name}")[2]

    return label


@pytest.mark.parametrize("name", ["read", "closed", "bound", "host", "batches", "start"])
def test_the_data_that_a_problem_reads_are_a_part_of_it(label, name):
    assert label(name) == label(name) != label(name, data=2.0)
    assert label(name) == label(name, weight=3.0)


def test_so_is_what_its_functions_call(label):
    assert label("helped") == label("helped", data=2.0) != label("helped", weight=3.0)
    assert label("apart") == label("apart", data=2.0, weight=3.0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys; sys.exit(0)", "which raised SystemExit: 0"),
        ("raise BaseException('odd')", "which raised BaseException: odd"),
        ("1 / 0", "which raised ZeroDivisionError"),
        ("def f(:", "which raised SyntaxError"),
        ("mine = P, {}", "params: expected a pytree with at least one"),
        ("mine = P, None", "params: expected a pytree with at least one"),
        ("mine = P, 'abc'", "params: expected a float array, got 'abc'"),
        ("mine = P, jnp.ones(2, int)", "params: expected a float array, got dtype int"),
        ("mine = P, jnp.asarray([jnp.nan])", "params: expected finite numbers"),
        ("mine = P, jnp.ones(2), 3", "expected a .problem, params. tuple, got a tuple of Problem"),
    ],
)
def test_a_file_that_gives_no_problem_is_refused(tmp_path, text, said):
    file = tmp_path / "mine.py"
    head = "import shadowflow as sf, jax.numpy as jnp\nP = sf.Problem(lambda x: jnp.sum(x))\n"
    file.write_text(head + textwrap.dedent(text))
    with pytest.raises((ValueError, TypeError), match=f"--problem.*{said}"):
        load_problem(f"{file}:mine")
