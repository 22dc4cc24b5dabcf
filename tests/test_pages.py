"""The Python of every page in docs/, read as one script from top to bottom, runs as it is."""

import re
from pathlib import Path

import jax
import pytest

PAGES = sorted((Path(__file__).parent.parent / "docs").glob("*.md"))


def blocks(text):
    """The source of every block of Python."""
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def test_there_are_pages_with_python():
    assert any(blocks(page.read_text("utf-8")) for page in PAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_runs(page):
    """With JAX's usual promotion of dtypes and ranks, as a reader's Python has it."""
    names = {"__name__": page.stem}
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        for source in blocks(page.read_text("utf-8")):
            exec(compile(source, page.name, "exec"), names)
