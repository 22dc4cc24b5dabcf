"""What a command says where it fails: one line, and which exit code."""

from __future__ import annotations

import os
import traceback
from types import FrameType

from ..lab.load import OWN

DEBUG = "SHADOWFLOW_DEBUG"
REFUSED, FAULT, STOPPED = 2, 70, 130
"""Exit codes: of bad input or what the machine refuses, of a fault of the package, of Ctrl-C."""
HINTS = {
    "--lr": "--learning-rate",
    "--rate": "--learning-rate",
    "--beta1": "--opt.b1",
    "--beta2": "--opt.b2",
    "--b1": "--opt.b1",
    "--b2": "--opt.b2",
    "--eps": "--opt.eps",
    "--eps-root": "--opt.eps-root",
    "--momentum": "--opt.decay of opt:momentum",
    "--weight-decay": "--opt.weight-decay of opt:adamw",
    "--optimizer": "opt:NAME, for example opt:adam",
    "--batch-size": "--ghost-batch",
    "--network": "--model",
    "--data": "--dataset, or --data-dir for where it lies",
    "--output": "--out",
    "--order": "--orders",
    "--method": "--methods",
}


def hints(words: list[str]) -> list[str]:
    """What may have been meant by words that no command knows.

    >>> hints(["shadow", "--lr=0.1"])
    ['--lr: expected a flag of the command, got one it does not have; perhaps --learning-rate']
    """
    said = "expected a flag of the command, got one it does not have; perhaps"
    flags = dict.fromkeys(word.partition("=")[0].replace("_", "-") for word in words)
    return [f"{flag}: {said} {HINTS[flag]}" for flag in flags if flag in HINTS]


def told(error: BaseException) -> tuple[str, int]:
    """The line that an exception becomes, and the exit code.

    >>> told(KeyboardInterrupt("epoch 3 is saved"))
    ('stopped; epoch 3 is saved', 130)
    """
    text, notes = " ".join(str(error).split()), getattr(error, "__notes__", [])
    if isinstance(error, KeyboardInterrupt):
        return "; ".join(["stopped", *filter(None, [text]), *notes]), STOPPED
    kind = f"{type(error).__name__}: {text[:300]}"
    notes = "".join(f" {note}" for note in notes)
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if _module(frame).startswith(OWN)]
    if own:
        place = f"{own[-1].f_code.co_filename}, {own[-1].f_code.co_name}"
        return f"FILE.py: expected functions that run, got {kind} (in {place}){notes}", REFUSED
    ours = bool(frames) and _module(frames[-1]).partition(".")[0] == "shadowflow"
    if ours and isinstance(error, ImportError | TypeError | ValueError):
        return str(error), REFUSED
    if isinstance(error, OSError):
        name = "" if error.filename is None else f": {error.filename}"
        return f"the system refuses{name} ({error.strerror or text}){notes}", REFUSED
    if isinstance(error, MemoryError):
        return "out of memory; make the network, the problem or the batch smaller", REFUSED
    said = f"this is a fault of shadowflow, please report it; {DEBUG}=1 shows where it happened"
    return f"{kind}{notes}; {said}", FAULT


def debugging() -> bool:
    """Whether tracebacks are wanted, by the environment."""
    return bool(os.environ.get(DEBUG))


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))
