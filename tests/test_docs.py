"""The pages: their Python runs and prints what they say, their tables and links are up to date."""

import doctest
import itertools
import os
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import make_table
import pytest
import tables

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
LONGEST_README = 180
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")
NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?(?:e[-+]\d+)?")
CUT = "--- next block ---"
NOISE = 1e-7  # a printed number below it may be rounding alone


def programs(page):
    """Pairs (source, what it prints): the Python blocks of a page, the text block after each."""
    blocks = BLOCK.findall(page.read_text(encoding="utf-8"))
    for (kind, source), (following, text) in itertools.pairwise([*blocks, ("", "")]):
        if kind == "python":
            yield source, text if following == "text" else None


def run(source, folder):
    """What a script prints, run by itself in an empty folder."""
    script = folder / "script.py"
    script.write_text(source, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, script],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
        encoding="utf-8",
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def assert_same(printed, shown):
    """The same words, and numbers that agree to two digits or are both rounding."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    found, expected = (list(map(float, NUMBER.findall(text))) for text in (printed, shown))
    assert found == pytest.approx(expected, rel=0.02, abs=NOISE)


def check_page(page, folder):
    blocks = list(programs(page))
    source = f"print({CUT!r})\n".join(code for code, _ in blocks)
    printed = run(source, folder).split(CUT)
    for (_, shown), said in zip(blocks, printed, strict=True):
        if shown is not None:
            assert_same(said, shown)


def test_the_ten_lines_of_the_readme_print_what_it_says(tmp_path):
    ((source, shown),) = programs(README)
    assert shown is not None
    assert len([line for line in source.splitlines() if line.strip()]) <= 10
    check_page(README, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES[1:] if any(programs(p))], ids=lambda p: p.stem)
def test_a_page_runs_and_prints_what_it_says(page, tmp_path):
    check_page(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_runs(example, tmp_path):
    source = example.read_text(encoding="utf-8")
    if "import torch" in source and find_spec("torch") is None:
        pytest.skip("PyTorch is not installed; make torch")
    assert run(source, tmp_path)


def test_another_number_or_another_word_would_be_noticed():
    assert_same("order 1: 2.85e-03 away, -3e-11", "order 1: 2.84e-03 away, -2e-12")
    for other in ("order 1: 2.95e-03 away, 0", "order 1: 2.84e-03 off, 0", "order 1: 2.84e-03"):
        with pytest.raises(AssertionError):
            assert_same("order 1: 2.84e-03 away, 0", other)


def test_the_readme_is_short_and_has_what_a_stranger_needs():
    text = README.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= LONGEST_README
    for needed in (
        "pip install",
        "\nmake ",
        "\nmake test ",
        "arxiv.org/abs/2309.00079",
        "@inproceedings",
    ):
        assert needed in text
    assert text.count("![") == 1


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_link_to_a_file_leads_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


def test_the_citation_names_this_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"\nversion: {project['version']}\n" in (ROOT / "CITATION.cff").read_text("utf-8")


def test_every_page_is_on_the_index():
    index = (ROOT / "docs" / "index.md").read_text(encoding="utf-8")
    assert {page.name for page in PAGES[1:]} - {"index.md"} <= set(LINK.findall(index))


def test_every_table_shows_what_was_measured_last():
    for page, contents in make_table.pages().items():
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert make_table.filled(page, contents) == text, f"{page}: run docs/make_table.py"


def test_a_page_without_the_marks_of_a_table_is_refused():
    with pytest.raises(ValueError, match="costs: expected one pair of marks in the page, got 0"):
        make_table.put("<!-- orders: start (make table) --> <!-- orders: end -->", "costs", "")


def test_the_examples_in_the_generator():
    for module in (make_table, tables):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
