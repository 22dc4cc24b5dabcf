"""The order of the package: imports run downwards only, files and functions stay short."""

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "shadowflow"
LAYERS = (
    {"__main__"},
    {"cli"},
    {"paper"},
    {"lab"},
    {"monitor"},
    {"diagnostics", "symbolic"},
    {"shadow", "fields"},
    {"estimate"},
    {"following", "trust"},
    {"iterate"},
    {"methods", "curvature"},
    {"running"},
    {"ema_weights"},
    {"problem"},
    {"batching"},
    {"optimizers"},
    {"plots"},
    {"trees", "checks", "files", "extras"},
)
DEPTH = {part: depth for depth, layer in enumerate(LAYERS) for part in layer}
MAY_IMPORT_ALL = {"cli", "paper"}  # `import shadowflow`: names from lab downwards
LONGEST_FILE, LONGEST_FUNCTION = 400, 60
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module):
    """`shadowflow.methods.taylor` → "methods"; `shadowflow` → ""."""
    return module.split(".")[1] if "." in module else ""


def for_types_only(tree):
    """The statements under ``if TYPE_CHECKING``, which never run."""
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
    guards = [node for node in guards if ast.unparse(node.test).endswith("TYPE_CHECKING")]
    return {inside for node in guards for line in node.body for inside in ast.walk(line)}


def imported(path, types=True):
    """Every module that a file imports, at its top or inside a function, by its full name.

    types: whether imports that only type checkers read are among them.
    """
    package = name_of(path) if path.name == "__init__.py" else name_of(path).rpartition(".")[0]
    tree = ast.parse(path.read_text())
    left_out = set() if types else for_types_only(tree)
    for node in ast.walk(tree):
        if node in left_out:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            dots = "." * node.level
            base = importlib.util.resolve_name(dots + (node.module or ""), package)
            for alias in node.names:
                below = Path(*base.split("."), alias.name)
                is_module = any(
                    (ROOT.parent / below).with_suffix(end).exists() for end in ("", ".py")
                )
                yield f"{base}.{alias.name}" if is_module else base


def may_import(part, other):
    if other == "":
        return part in MAY_IMPORT_ALL
    return part == other or DEPTH[part] < DEPTH[other]


@pytest.mark.parametrize(
    ("part", "other", "allowed"),
    [
        ("methods", "optimizers", True),
        ("iterate", "shadow", False),
        ("optimizers", "problem", False),
        ("problem", "iterate", False),
        ("diagnostics", "lab", False),
        ("lab", "", False),
    ],
)
def test_the_rule_itself(part, other, allowed):
    assert may_import(part, other) == allowed


def test_the_reader_sees_imports_in_functions_and_relative_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path / "shadowflow")
    file = tmp_path / "shadowflow" / "methods" / "taylor.py"
    file.parent.mkdir(parents=True)
    (tmp_path / "shadowflow" / "trees.py").touch()
    file.write_text(
        "from .. import trees, adam\ndef f():\n    from ..zoo import sgd\n"
        "if TYPE_CHECKING:\n    from ..problem import Problem\n"
    )
    run = {"shadowflow.trees", "shadowflow", "shadowflow.zoo"}
    assert set(imported(file)) == run | {"shadowflow.problem"}
    assert set(imported(file, types=False)) == run


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_run_downwards(path):
    part = part_of(name_of(path))
    assert part in DEPTH, f"{part} has no place in LAYERS"
    for module in imported(path):
        if module.partition(".")[0] == "shadowflow":
            assert may_import(part, part_of(module)), f"{name_of(path)} imports {module}"


def circles(graph):
    """The sets of modules that reach one another."""

    def reached(start):
        seen, new = set(), set(graph[start])
        while new:
            seen |= new
            new = {after for module in new for after in graph.get(module, ())} - seen
        return seen

    beyond = {module: reached(module) for module in graph}
    return {
        frozenset(other for other in beyond[module] if module in beyond.get(other, ()))
        for module in graph
        if module in beyond[module]
    }


def test_circles_are_found():
    graph = {"a": {"b", "d"}, "b": {"c"}, "c": {"a"}, "d": {"e"}, "e": {"d"}, "f": {"a"}}
    assert circles(graph) == {frozenset("abc"), frozenset("de")}
    assert not circles({"a": {"b"}, "b": {"c"}, "c": ()})


def test_imports_make_no_circles():
    """Counted are imports inside functions too, but not those that only type checkers read."""
    graph = {name_of(path): set(imported(path, types=False)) for path in FILES}
    assert not circles(graph)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_pickle(path):
    roots = {module.partition(".")[0] for module in imported(path)}
    assert not roots & {"pickle", "cloudpickle", "dill", "shelve", "joblib"}


def test_no_test_file_imports_another():
    """What several need lies in a module of its own (``oracles``, ``runs``, ...)."""
    for path in Path(__file__).parent.rglob("*.py"):
        roots = {module.split(".")[-1] for module in imported(path)}
        assert not {root for root in roots if root.startswith("test_")}, path.name


def code_lines(node, lines):
    """Lines of a function that are neither blank, nor a comment, nor its docstring."""
    numbers = set(range(node.lineno, node.end_lineno + 1))
    if ast.get_docstring(node) is not None:
        numbers -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
    texts = (lines[number - 1].strip() for number in numbers)
    return sum(bool(text) and not text.startswith("#") for text in texts)


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_files_and_functions_are_short(path):
    text = path.read_text()
    lines = text.splitlines()
    assert len(lines) <= LONGEST_FILE
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert code_lines(node, lines) <= LONGEST_FUNCTION, node.name


@pytest.mark.parametrize(
    "code",
    [
        "import shadowflow",
        "import shadowflow.cli.jobs.settings",
        *(
            f"from shadowflow.cli import main\ntry: main({words})\nexcept SystemExit: pass"
            for words in (
                ["--help"],
                ["shadow", "--help"],
                ["reproduce", "--help"],
                ["claims", "--help"],
                ["data", "get", "--help"],
                ["derive", "--help"],
            )
        ),
    ],
)
def test_jax_is_not_loaded_before_it_is_needed(code):
    heavy = "{'jax', 'numpy', 'matplotlib', 'sklearn', 'sympy'}"
    check = f"\nimport sys\nassert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code + check], check=True, cwd=ROOT.parent)
