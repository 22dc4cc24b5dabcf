"""Measure orders 3 to 8 of collocation, into docs/far.json.

docs/make_table.py writes them into docs/how_far.md. ``make far`` runs both, after the two sweeps
whose pictures and numbers that page shows too.
"""

from pathlib import Path

import jax
import jax.numpy as jnp

import shadowflow as sf
from shadowflow.diagnostics.convergence import convergence
from shadowflow.files import write_json
from shadowflow.lab.models import bilinear_problem

HERE = Path(__file__).parent
NUMBERS = HERE / "far.json"
INSIDE = {"eps": 0.0, "eps_root": 1e3}
OPTIMIZERS = {  # with the horizon: gradients are about 100
    "sgd": (sf.sgd(), 0.01),
    "momentum .3": (sf.momentum(decay=0.3), 0.005),
    "nesterov .3": (sf.nesterov(decay=0.3), 0.005),
    "rmsprop .5": (sf.rmsprop(decay=0.5, **INSIDE), 2.0),
    "adam .4 .5, eps inside": (sf.adam(b1=0.4, b2=0.5, **INSIDE), 2.0),
    "adam .4 .5, eps outside": (sf.adam(b1=0.4, b2=0.5, eps=1e3**0.5), 2.0),
    "adamw .4 .5": (sf.adamw(b1=0.4, b2=0.5, **INSIDE, weight_decay=0.2), 2.0),
    "nadam .4 .5": (sf.nadam(b1=0.4, b2=0.5, **INSIDE), 2.0),
    "signum .4": (sf.signum(decay=0.4, eps_root=1e3), 2.0),
    "lion .4 .5": (sf.lion(b1=0.4, b2=0.5, eps_root=1e3), 2.0),
}
ORDERS = range(3, 9)


def orders() -> list[dict]:
    """Slope of every order, as ``convergence`` judges it, from settled starts."""
    rows = []
    with jax.enable_x64(True):
        start = jnp.array([2.8, 3.5])
        for name, (optimizer, horizon) in OPTIMIZERS.items():
            for kind in ("iteration", "flow"):
                for order in ORDERS:
                    exponents = range(5, 10) if order < 6 else range(4, 9 if order == 6 else 8)
                    rates = [horizon * 2.0**-k for k in exponents]
                    (row,) = convergence(
                        bilinear_problem()[0],
                        optimizer,
                        start,
                        horizon,
                        rates,
                        methods=["collocation"],
                        kinds=[kind],
                        orders=[order],
                        start="settled",
                    )
                    rows.append(
                        {
                            "optimizer": name,
                            "kind": kind,
                            "order": order,
                            "slope": row.slope,
                            "exact": row.exact,
                            "holds": row.holds,
                            "errors": row.errors,
                        }
                    )
            print(name, flush=True)
    return rows


if __name__ == "__main__":
    write_json(NUMBERS, {"orders": orders()})
