"""`shadowflow derive`: the modified equation of an optimizer, as formulas."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from ..files import writable_file, write_text
from ..lab.choices import Adam, Choice, named
from .flags import built
from .jobs.settings import Setting

if TYPE_CHECKING:
    from ..optimizers.moments import Optimizer


@dataclass(frozen=True)
class Derive:
    """Derive the second-order modified equation of an optimizer and print it.

    Settled and at step n, full batch and mini-batches; what is penalized, in which limits, how
    far a step may reach. An argument that is 0 leaves the equation: the paper's Adam is
    `opt:adam --opt.eps 0 --opt.eps-root 1e-8`.
    """

    opt: Choice = field(default_factory=Adam)
    own: Annotated[str | None, arg(metavar="FILE.py:NAME", help_behavior_hint="")] = None
    """A shadowflow.Optimizer in a file, instead of one of the zoo."""
    format: Literal["text", "latex", "python", "html"] = "text"
    """Text for a terminal, LaTeX (of KaTeX's subset), a numpy function, or one HTML page."""
    out: Annotated[Path | None, arg(metavar="FILE", help_behavior_hint="")] = None
    """Write it to this file instead."""

    def run(self) -> int:
        """0; ValueError for no plain file, for what the zoo refuses, for no optimizer."""
        if self.out is not None:
            writable_file(self.out)
        optimizer = self._optimizer()
        from ..symbolic import derive

        page = getattr(derive(optimizer), self.format)()
        if self.out is None:
            print(page, end="")
        else:
            write_text(self.out, page)
        return 0

    def _optimizer(self) -> Optimizer:
        if self.own is None:
            return built(Setting(*named(self.opt)))
        if self.opt != Adam():
            raise ValueError("--own: expected none beside opt:…, got both; leave one of them out")
        from ..lab.load import load_optimizer

        return load_optimizer(self.own)
