"""Tables of which a part is fast: a representative of each law, method and module."""

import pytest


def fast(chosen, rows):
    """``rows`` as parameters of a test; those that are not among ``chosen`` are slow."""
    rows, chosen = list(rows), list(chosen)
    assert all(row in rows for row in chosen), [row for row in chosen if row not in rows]
    return [
        pytest.param(
            *(row if isinstance(row, tuple) else (row,)),
            marks=[] if row in chosen else [pytest.mark.slow],
        )
        for row in rows
    ]
