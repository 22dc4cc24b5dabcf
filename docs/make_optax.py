"""Every constructor of optax and optax.contrib that takes a learning rate: can it be followed?

Writes docs/optax.json, from which docs/make_table.py makes the table of the page on your own
optimizer. `make optax` runs both; with names as arguments only those rows are measured anew.
"""

import functools
import inspect
import json
import sys
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib

import shadowflow as sf
from shadowflow.optimizers import memory_probe
from shadowflow.optimizers.memory_probe import NotDifferentiable, check_derivative

SMALL = {
    "b1": 0.5,
    "b2": 0.7,
    "b3": 0.7,
    "beta": 0.5,
    "beta1": 0.5,
    "beta2": 0.7,
    "decay": 0.7,
    "momentum": 0.5,
    "adam_b1": 0.5,
    "adam_b2": 0.7,
    "rho": 0.7,
    "alpha": 1.0,
    "b3_warmup": None,
}
OPTIONS = {  # where defaults leave steps, or room for a modified equation, too small to measure
    "adabelief": {"eps": 1.0, "eps_root": 1e-2},
    "adadelta": {"eps": 4.0},
    "lars": {"trust_coefficient": 1.0},
    "radam": {"b2": 0.8},
    "contrib.acprop": {"eps": 1.0},
    "contrib.dadapt_adamw": {"betas": (0.5, 0.7), "estim_lr0": 1.0},
    "contrib.dog": {"init_step": ("distance", 1.0)},
    "contrib.dowg": {"init_estim_sq_dist": 1.0},
    "contrib.galore": {"rank": 2, "base_optimizer": optax.scale_by_adam(b1=0.5, b2=0.7)},
    "contrib.prodigy": {"betas": (0.5, 0.7), "estim_lr0": 1.0},
}
BELIEF = "with eps = 1; at its default its denominator vanishes with the step"
REMARKS = {
    "adabelief": BELIEF,
    "contrib.acprop": BELIEF,
    "adadelta": "with eps = 4",
    "contrib.dadapt_adamw": "with estim_lr0 = 1",
    "contrib.prodigy": "with estim_lr0 = 1",
    "contrib.dog": "with a first distance of 1",
    "contrib.dowg": "with a first distance of 1",
    "contrib.madgrad": "its steps, and so its orders here, go by h^(2/3)",
    "contrib.galore": "with rank 2; its projection jumps every 200 steps",
    "noisy_sgd": "with the noise that its key gives",
    "rprop": "its steps grow until a gradient changes sign",
}
POWERS = {"contrib.madgrad": 2 / 3}  # of the learning rate that a step is proportional to
RATES = [0.1 * 2.0**-k for k in (6, 7, 8, 9)]
HORIZON, STEPS, ROUNDING = 0.1, 16, 1e-13
CASES = {
    "settled": ("displaced", "settled"),
    "collocation": ("collocation", "settled"),
    "cold": ("displaced", 0),
}
ONLY = {"contrib.galore": ("cold",)}


def problem():
    """A bowl with ripples on two leaves, and a place from which no gradient soon passes 0."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(16, 16))
    matrix = jnp.asarray(matrix @ matrix.T / 16 + 0.3 * np.eye(16))

    def loss(params):
        flat = jnp.concatenate([params["w"].ravel(), params["b"]])
        return 2.0 + 0.5 * flat @ matrix @ flat + 0.1 * jnp.sum(jnp.sin(flat))

    flat = jnp.linalg.solve(matrix, jnp.asarray(rng.choice([-2.0, 2.0], size=16)))
    return sf.Problem(loss), {"w": flat[:12].reshape(4, 3), "b": flat[12:]}


def constructors():
    """Name → (constructor, whether a learning rate makes it)."""
    found = {}
    for module, prefix in ((optax, ""), (optax.contrib, "contrib.")):
        for name, value in sorted(vars(module).items()):
            if inspect.isfunction(value) and not name.startswith(("_", "scale_by_")):
                names = inspect.signature(value).parameters
                if {"learning_rate", "max_learning_rate"} & set(names):
                    found[prefix + name] = value
    return found


def built(name, make, small):
    """The optimizer, with decays at which orders can be measured, or with its defaults."""
    names = inspect.signature(make).parameters
    options = {key: value for key, value in SMALL.items() if small and key in names}
    options |= {key: value for key, value in OPTIONS.get(name, {}).items() if small}
    if name == "contrib.schedule_free":
        return sf.from_optax(lambda rate: make(optax.sgd(rate), rate), name)
    if "learning_rate" not in names:
        return sf.from_optax(lambda rate: make(max_learning_rate=rate, **options), name)
    return sf.from_optax(functools.partial(make, **options), name)


def slope(errors, rates):
    """The order between the two smallest rates."""
    (a, b), (h, k) = errors[-2:], rates[-2:]
    return float(np.log(a / b) / np.log(h / k)) if a > 0 and b > 0 else float("nan")


def first_steps(task, optimizer, params, order):
    """Errors after ``STEPS`` steps from a fresh state, one per rate."""
    errors = []
    for rate in RATES:
        real = sf.iterate(task, optimizer, params, rate, STEPS)
        follow = sf.shadow(
            task, optimizer, params, rate, STEPS, order=order, kind="flow", check=False
        )
        errors.append(float(sf.compare(real, follow).max_norm[-1]))
    return errors


def settled(task, optimizer, params, method, order, start):
    """The row of ``convergence``: observed order over a horizon."""
    (row,) = sf.convergence(
        task,
        optimizer,
        params,
        HORIZON,
        RATES,
        start=start,
        methods=[method],
        orders=[order],
        kinds=["flow"],
    )
    return row.errors


def measure(name, make):
    """One row of the table."""
    row = {"name": name, "followed": False, "settling": None, "remark": REMARKS.get(name, "")}
    task, params = problem()
    try:
        small = built(name, make, True)
        row["settling"] = memory_probe.remembered(built(name, make, False), params)
        length = memory_probe.remembered(small, params)
        try:
            check_derivative(small, params)
            row["taylor"] = True
        except NotDifferentiable as error:
            row["taylor"] = str(error).partition("derivative ")[2].partition(";")[0]
        errors = None
        if length is not None:
            for key in ONLY.get(name, CASES):
                method, start = CASES[key]
                errors = [settled(task, small, params, method, order, start) for order in (1, 2)]
                row[key] = [slope(error, RATES) for error in errors]
        if errors is None or not np.isfinite(errors[1][-1]):
            row = {key: value for key, value in row.items() if key not in CASES}
            errors = [first_steps(task, small, params, order) for order in (1, 2)]
            power = POWERS.get(name, 1.0)
            row["first steps"] = [slope(error, RATES) / power - 1 for error in errors]
        row["errors"] = [errors[0][-1], errors[1][-1]]
        order = row.get("first steps", row.get("cold"))[1]
        row["followed"] = errors[1][-1] < ROUNDING or order > 1.5
        if not row["followed"]:
            row["remark"] = row["remark"] or "its error does not fall with the learning rate"
    except Exception as error:  # every refusal is a row
        row["remark"] = str(error).partition("got ")[2] or str(error)
    return row


def main(names):
    """Measure all, or those named, and write each into the file when it is done."""
    warnings.simplefilter("ignore")
    path = Path(__file__).parent / "optax.json"
    known = constructors()
    old = json.loads(path.read_text("utf-8"))["rows"] if names and path.exists() else []
    rows = {row["name"]: row for row in old}
    for name in names or known:
        rows[name] = measure(name, known[name])
        print(json.dumps(rows[name]), flush=True)
        content = {"optax": optax.__version__, "rows": [rows[n] for n in known if n in rows]}
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        jax.clear_caches()


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    main(sys.argv[1:])
