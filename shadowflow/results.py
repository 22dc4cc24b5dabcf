"""What all results share: one line, words, and in a notebook the words above the picture."""

from __future__ import annotations

import html


class Result:
    """A result that says what it is in one line, in words and, where it has ``plot``, in a picture.

    A subclass has ``summary``, one line; it may have ``describe()``, several lines of words, and
    ``plot(axes=None)``, which draws on matplotlib axes and returns them. A dataclass needs
    ``repr=False``, so that its repr is this one.

    >>> class Distance(Result):
    ...     summary = "0.5 after 10 steps"
    >>> Distance()
    Distance(0.5 after 10 steps)
    """

    @property
    def summary(self) -> str:
        """What it is, in one line."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.summary})"

    def describe(self) -> str:
        """The result in words."""
        return self.summary

    def _repr_html_(self) -> str:
        words = f"<pre>{html.escape(self.describe())}</pre>"
        draw = getattr(self, "plot", None)
        if draw is None:
            return words
        from .plots import inline

        try:
            picture = inline(draw)
        except ImportError:  # without matplotlib the words alone
            return words
        name = html.escape(type(self).__name__, quote=True)
        return f'{words}<img alt="{name}" src="data:image/png;base64,{picture}">'
