"""Every refusal ends with what to do, and what it says to do is done here."""

import ast
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.refusals import ADAM, PARAMS, PROBLEM, refusal_of

import shadowflow as sf
from shadowflow.batching import pad

ROOT = Path(sf.__file__).parent
WITHOUT = {
    "cli": "a flag is answered by the list of what it may be, and by --help",
    "lab": "the same, and files by what they should be",
    "files.py": "what is raised there is given a remedy where it is caught",
}
FILES = [
    path for path in sorted(ROOT.rglob("*.py")) if path.relative_to(ROOT).parts[0] not in WITHOUT
]
REFUSALS = ("ValueError", "TypeError")


def text_of(node) -> str | None:
    """The text of a message as written, what is filled in as {…}; None for a name."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        parts = [v.value if isinstance(v, ast.Constant) else "{ … }" for v in node.values]
        return "".join(map(str, parts))
    return None


def refusals(source: str):
    """(line, message) of every refusal that has its text in the raise statement."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            text = text_of(node.exc.args[0]) if node.exc.args else None
            if ast.unparse(node.exc.func) in REFUSALS and text is not None and "expected" in text:
                yield node.lineno, text


def lacking(text: str) -> list[str]:
    """What a message has not of: the argument, what was expected, what was given, a remedy."""
    head, mark, remedy = text.rpartition(";")
    head, remedy = (head, remedy) if mark else (text, "")
    return [
        *["got"][: "got" not in head],
        *["name:"][: ": " not in head],
        *["remedy"][: len(remedy.split()) < 2],
    ]


def test_what_a_message_lacks_is_seen():
    """Negative control."""
    assert lacking("b1: expected a number, got x; pass 0.9.") == []
    assert lacking("b1: expected a number, got x.") == ["remedy"]
    assert lacking("expected a number; ok") == ["got", "name:", "remedy"]
    source = 'def f():\n    raise ValueError(f"x: expected {1}" "; y")\n    raise Found(text)\n'
    assert list(refusals(source)) == [(2, "x: expected { … }; y")]


def test_a_refusal_says_what_was_expected_unless_it_passes_on_another():
    silent = {}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                text = text_of(node.exc.args[0]) if node.exc.args else None
                named = ast.unparse(node.exc.func) in REFUSALS and text is not None
                if named and "expected" not in text and " " in text.replace("{ … }", ""):
                    silent[f"{path.name}:{node.lineno}"] = text
    assert not silent


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_refusal_ends_with_a_remedy(path):
    found = {line: lacking(text) for line, text in refusals(path.read_text())}
    assert not {line: missing for line, missing in found.items() if missing}


# --- what the messages say to do, done: (the refused call, words of its remedy, the remedy)

TWO = jnp.asarray([0.0, 1.0])
BATCHED = sf.Problem(lambda x, c: jnp.sum((x - c) ** 2), batches=TWO)
HOST = sf.Problem(grad=lambda x: np.asarray(x), traceable=False)
WITH_HVP = sf.Problem(grad=np.asarray, hvp=lambda x, v: np.asarray(v), traceable=False)
run = functools.partial(sf.iterate, PROBLEM, ADAM, PARAMS, 1e-3, 2)
follow = functools.partial(sf.shadow, PROBLEM, ADAM, PARAMS, 1e-3, 2, check=False)
bias = functools.partial(sf.implicit_bias, PROBLEM, ADAM, PARAMS, 1e-3)
KEY = jax.random.key(0)

REMEDIES = {
    "by name": (lambda: sf.adam(1e-3), "params, 1e-3, steps", run),
    "lr": (lambda: sf.adam(lr=1e-3), "argument of iterate", run),
    "beta1": (lambda: sf.adam(beta1=0.8), "write b1=", lambda: sf.adam(b1=0.8)),
    "betas": (lambda: sf.adam(betas=(0.8, 0.9)), "b1= and b2=", lambda: sf.adam(b1=0.8, b2=0.9)),
    "epsilon": (lambda: sf.adam(epsilon=1e-6), "write eps=", lambda: sf.adam(eps=1e-6)),
    "momentum": (lambda: sf.momentum(momentum=0.8), "decay=", lambda: sf.momentum(decay=0.8)),
    "decayed": (lambda: sf.adam(weight_decay=0.1), "sf.adamw", lambda: sf.adamw(weight_decay=0.1)),
    "nesterov": (lambda: sf.momentum(nesterov=True), "sf.nesterov()", lambda: sf.nesterov()),
    "amsgrad": (
        lambda: sf.adam(amsgrad=True),
        "sf.from_optax(optax.amsgrad)",
        lambda: sf.from_optax(optax.amsgrad),
    ),
    "misspelt": (lambda: sf.adam(bias_corection=True), "bias_correction=", lambda: sf.adam()),
    "no flag": (
        lambda: sf.adam(bias_correction="no"),
        "bias_correction=True",
        lambda: sf.adam(bias_correction=True),
    ),
    "a decay": (lambda: sf.adam(b1=1.5), "for example 0.9", lambda: sf.adam(b1=0.9)),
    "an eps": (lambda: sf.adam(eps=-1.0), "for example 0.0", lambda: sf.adam(eps=0.0)),
    "moments": (
        lambda: sf.Optimizer(sf.Moment(0.9), lambda m, p, s: m[0]),
        "[Moment(0.9)]",
        lambda: sf.Optimizer([sf.Moment(0.9)], lambda m, p, s: m[0]),
    ),
    "a rate": (
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS, -1.0, 2),
        "for example 0.001",
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS, 0.001, 2),
    ),
    "a schedule": (
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS, lambda n: None, 2),
        "lambda step: 1e-3 / (1 + step)",
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS, lambda step: 1e-3 / (1 + step), 2),
    ),
    "whole steps": (
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS, 1e-3, 2.0),
        "for example 2.",
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS, 1e-3, 2),
    ),
    "a method": (lambda: follow(method="tailor"), "'taylor'", lambda: follow(method="taylor")),
    "a kind": (lambda: follow(kind="flows"), "'flow'", lambda: follow(kind="flow")),
    "an order": (lambda: follow(order=7), "for example 1", lambda: follow(order=1)),
    "a check": (lambda: follow(check="no"), "False leaves", lambda: follow(check=False)),
    "progress": (lambda: run(progress=3), "the function itself", lambda: run(progress=print)),
    "a start": (lambda: run(start=None), "0 is a cold start", lambda: run(start=0)),
    "no start": (lambda: bias(), "start=0", lambda: bias(start=0)),
    "no batch": (
        lambda: BATCHED.gradient(PARAMS),
        "problem.full_batch()",
        lambda: BATCHED.full_batch().gradient(PARAMS),
    ),
    "the bias of batches": (
        lambda: sf.implicit_bias(BATCHED, ADAM, PARAMS, 1e-3, start=0),
        "problem.full_batch()",
        lambda: sf.implicit_bias(BATCHED.full_batch(), ADAM, PARAMS, 1e-3, start=0),
    ),
    "inertial batches": (
        lambda: sf.shadow(BATCHED, ADAM, PARAMS, 1e-3, 2, method="inertial"),
        "'displaced'",
        lambda: sf.shadow(BATCHED, ADAM, PARAMS, 1e-3, 2, method="displaced", check=False),
    ),
    "a host's products": (
        lambda: sf.shadow(HOST, ADAM, PARAMS, 1e-3, 1, method="taylor"),
        "'displaced'",
        lambda: sf.shadow(HOST, ADAM, PARAMS, 1e-3, 1, kind="iteration", check=False),
    ),
    "a host's bias": (
        lambda: sf.implicit_bias(HOST, ADAM, PARAMS, 1e-3, start=0),
        "hvp= to Problem",
        lambda: sf.implicit_bias(WITH_HVP, ADAM, PARAMS, 1e-3, start=0),
    ),
    "a host function": (
        lambda: sf.iterate(sf.Problem(grad=np.asarray), ADAM, PARAMS, 1e-3, 1),
        "traceable=False",
        lambda: sf.iterate(HOST, ADAM, PARAMS, 1e-3, 1),
    ),
    "an aux": (
        lambda: sf.iterate(sf.Problem(lambda x: (x[0], 1)), ADAM, PARAMS, 1e-3, 1),
        "has_aux=True",
        lambda: sf.iterate(sf.Problem(lambda x: (x[0], 1), has_aux=True), ADAM, PARAMS, 1e-3, 1),
    ),
    "a key": (lambda: sf.shuffled("a", 3), "jax.random.key(0)", lambda: sf.shuffled(KEY, 3)),
    "a raw key": (
        lambda: sf.with_replacement(0, 3),
        "jax.random.key(0)",
        lambda: sf.with_replacement(jax.random.PRNGKey(0), 3),
    ),
    "a schedule of batches": (
        lambda: sf.Problem(jnp.sum, batches=TWO, schedule=[0.5]),
        "[0, 2, 1]",
        lambda: sf.Problem(jnp.sum, batches=jnp.arange(3.0), schedule=[0, 2, 1]),
    ),
    "unequal batches": (
        lambda: sf.Problem(jnp.sum, batches=(jnp.ones(2), jnp.ones(3))),
        "shadowflow.batching.pad",
        lambda: pad([np.ones(2), np.ones(3)]),
    ),
    "integers": (
        lambda: sf.iterate(PROBLEM, ADAM, jnp.asarray([1, 2]), 1e-3, 1),
        ".astype(float)",
        lambda: sf.iterate(PROBLEM, ADAM, jnp.asarray([1, 2]).astype(float), 1e-3, 1),
    ),
    "float16": (
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS.astype("float16"), 1e-3, 1),
        ".astype(float)",
        lambda: sf.iterate(PROBLEM, ADAM, PARAMS.astype("float16").astype(float), 1e-3, 1),
    ),
    "swapped": (
        lambda: sf.modified_field(PROBLEM, ADAM, 1e-3)(PARAMS, 3),
        "field(step, params)",
        lambda: sf.modified_field(PROBLEM, ADAM, 1e-3)(3, PARAMS),
    ),
    "a field with a state": (
        lambda: sf.modified_field(PROBLEM, ADAM, 1e-3, method="inertial"),
        "shadow(…, method='inertial')",
        lambda: follow(method="inertial"),
    ),
    "a high order": (
        lambda: follow(method="collocation", start="settled", order=50),
        "order='auto'",
        None,
    ),
    "nodes of a method without": (
        lambda: sf.error_bar(PROBLEM, ADAM, PARAMS, 1e-3, 2, spacing=2.0),
        "method='collocation'",
        None,
    ),
    "one word for a list": (
        lambda: sf.convergence(PROBLEM, ADAM, PARAMS, 0.1, [0.1, 0.05], orders="ab"),
        "[1, 2]",
        None,
    ),
    "collocation cold": (
        lambda: follow(method="collocation"),
        "start='settled'",
        lambda: follow(method="collocation", start="settled"),
    ),
    "a plain transformation": (
        lambda: sf.shadow(PROBLEM, optax.adam(1e-3), PARAMS, 1e-3, 1),
        "sf.from_optax(optax.adam)",
        lambda: sf.from_optax(optax.adam),
    ),
    "kept moments": (
        lambda: follow(method="inertial", keep="nu"),
        "('nu',)",
        lambda: follow(method="inertial", keep=("nu",)),
    ),
    "a run of another start": (
        lambda: follow(check=sf.iterate(PROBLEM, ADAM, 2 * PARAMS, 1e-3, 2)),
        "iterate(problem, optimizer, params, learning_rate, steps, start=start)",
        lambda: follow(check=run()),
    ),
}


@pytest.mark.parametrize("name", REMEDIES)
def test_a_remedy_is_accepted(name):
    refused, words, remedy = REMEDIES[name]
    assert words in refusal_of(refused).rpartition(";")[2]
    if remedy is not None:
        remedy()


@pytest.mark.parametrize(
    ("name", "meant"),
    [("Adam", "adam"), ("SGD", "sgd"), ("Itterate", "iterate"), ("sharpness", "curvature")],
)
def test_a_name_that_is_not_there_is_answered_with_one_that_is(name, meant):
    with pytest.raises(AttributeError, match=f"perhaps shadowflow.{meant} is meant"):
        getattr(sf, name)
    assert hasattr(sf, meant) and not hasattr(sf, "_nothing")


def test_past_the_flows_edge_no_method_is_named_that_refuses_the_run():
    """Momentum at rate × curvature between its edges; on batches nothing here follows it."""
    stiff = lambda x, c=0.0: jnp.sum((x - c) ** 2) * 5
    heavy, told = sf.momentum(decay=0.9), "method='inertial' does"
    for problem, named in (
        (sf.Problem(stiff), True),
        (sf.Problem(stiff, batches=TWO), False),
    ):
        follow = sf.shadow(problem, heavy, PARAMS, 1e-2, 2, curvature=10.0)
        assert "flow edge" in follow.verdict
        assert (told in follow.verdict) == named
        if not named:
            refusal_of(lambda p=problem: sf.shadow(p, heavy, PARAMS, 1e-2, 2, method="inertial"))
    inertial = functools.partial(sf.shadow, sf.Problem(stiff), heavy, PARAMS, 1e-2, 2)
    verdict = inertial(method="inertial", curvature=10.0, keep=()).verdict
    assert "keep=None does" in verdict and told not in verdict
    assert "flow edge" not in inertial(method="inertial", curvature=10.0, keep=None).verdict
