"""shadowflow: the flow that shadows your optimizer."""

import lazy_loader as lazy

_attribute, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
__version__ = "0.1.0"
_ELSEWHERE = {
    "Adam": "adam",
    "AdamW": "adamw",
    "SGD": "sgd",
    "RMSprop": "rmsprop",
    "heavy_ball": "momentum",
    "run": "iterate",
    "train": "iterate",
    "flow": "modified_field",
    "modified_equation": "modified_field",
    "bias": "implicit_bias",
    "sharpness": "curvature",
}


def __getattr__(name: str):
    try:
        return _attribute(name)
    except AttributeError:
        from difflib import get_close_matches

        if name.startswith("_"):
            raise
        meant = _ELSEWHERE.get(name) or "".join(get_close_matches(name.lower(), __all__, 1))
        remedy = f"perhaps shadowflow.{meant} is meant" if meant else "dir(shadowflow) lists them"
        raise AttributeError(
            f"shadowflow: expected one of its public names, got {name!r}; {remedy}."
        ) from None
