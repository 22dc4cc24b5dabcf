"""The Python of the README and of every page, one script each, and every example: all run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def scripts():
    """Name and source of everything that the documentation asks a reader to run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        blocks = re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
        if blocks:
            yield page.name, "\n".join(blocks)
    for path in sorted((ROOT / "examples").glob("*.py")):
        yield path.name, path.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("source", [pytest.param(text, id=name) for name, text in scripts()])
def test_runs(source, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(source)
    done = subprocess.run(
        [sys.executable, script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
