"""What the tests of a row need: which names are the program's, and how tests written for pytest are run.

A row's tests are its own text, so they may be parsed here.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

BUILTINS = set(dir(builtins))
STANDARD = sys.stdlib_module_names
PROGRAM = ("solution", "main")  # as what the tests import the program
PYTEST = Path(__file__).with_name("pytest_stand_in.py")
# What needs the program's own process, or more of pytest than there is.
BEYOND = {
    *("capsys", "capfd", "caplog", "tmp_path", "tmpdir", "monkeypatch", "mocker", "request", "benchmark"),
    *("redirect_stdout", "redirect_stderr", "patch", "warns", "importorskip"),
}
_LOADS_PYTEST = """
import sys as _sys, types as _types


class _Program(_types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return eval(name, _space)


_space = globals()
_sys.modules.update({{name: _Program(name) for name in {program!r}}})
_pytest = _sys.modules["pytest"] = _types.ModuleType("pytest")
exec({source!r}, vars(_pytest))
"""


@dataclass(frozen=True)
class PytestTests:
    """Tests written for pytest or unittest, as a check takes them.

    Attributes:
        tests (`tuple[str, ...]`): the text, then a statement for every test in it.
        names (`tuple[str, ...]`): the program's.
        in_place (`bool`): they can only mean functions that work in place.
    """

    tests: tuple[str, ...]
    names: tuple[str, ...]
    in_place: bool

    @property
    def trusted(self) -> str:
        """Provides `pytest` and the program as a module."""
        return _LOADS_PYTEST.format(program=PROGRAM, source=PYTEST.read_text("utf-8"))


@lru_cache(maxsize=1024)
def names_of(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The names that tests take from the program; none where the tests are no Python."""
    nodes = [node for tree in _trees(texts) for node in ast.walk(tree)]
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    own |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    free = used - own - BUILTINS - (STANDARD - called)
    parts = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module in PROGRAM]
    free |= {item.name for node in parts for item in node.names if item.name != "*"}
    modules = {item.asname or item.name for node in nodes if isinstance(node, ast.Import) for item in node.names}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
            free |= {node.attr} if _imported(nodes, node.value.id) in PROGRAM else set()
    return tuple(sorted(free or (used - own) & called))


def _imported(nodes: Sequence[ast.AST], name: str) -> str:
    """The module that goes by this name."""
    items = [item for node in nodes if isinstance(node, ast.Import) for item in node.names]
    return next(item.name for item in items if name == (item.asname or item.name))


@lru_cache(maxsize=1024)
def works_in_place(tests: tuple[str, ...]) -> bool:
    """Whether the tests of a row without the column `in_place` can only mean a function that works in place.

    So it is where the tests call the program by statements alone, `sort_it(xs)`, and never see what it returns. Other
    tests get no argument back, since `assert f(xs) == sorted(xs)` would pass if `f` emptied `xs`.
    """
    nodes = [node for tree in _trees(tests) for node in ast.walk(tree)]
    if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda) for node in nodes):
        return False  # a function of the tests may call the program
    calls = [node for node in nodes if isinstance(node, ast.Call)]
    return _are_statements(nodes, [call for call in calls if _called(call) not in BUILTINS])


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else ""


def _are_statements(nodes: Sequence[ast.AST], calls: Sequence[ast.Call]) -> bool:
    statements = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    passes_name = any(isinstance(item, ast.Name) for call in calls for item in call.args)
    return passes_name and all(id(call) in statements for call in calls)


@lru_cache(maxsize=1024)
def as_pytest(text: str) -> PytestTests | None:
    """The tests in a text that defines `test_*` functions or test classes, or imports the program."""
    trees = _trees((text,))
    if not trees:
        return None
    nodes = list(ast.walk(trees[0]))
    calls = [item for node in trees[0].body for item in _tests_in(node)]
    imports = {module.split(".")[0] for node in nodes for module in _modules(node)}
    if not calls and not imports & {*PROGRAM, "pytest", "unittest"}:
        return None
    names = names_of((text,))
    asked = [node for node in nodes if isinstance(node, ast.Call) and _called(node) in names]
    return PytestTests((text, *calls), names, _are_statements(nodes, asked))


@lru_cache(maxsize=1024)
def beyond(texts: tuple[str, ...]) -> str:
    """What tests need and the sandbox does not have: modules, and what tells of the program's own process."""
    nodes = [node for tree in _trees(texts) for node in ast.walk(tree)]
    imports = {module.split(".")[0] for node in nodes for module in _modules(node)} - {""}
    missing = imports - STANDARD - {*PROGRAM, "pytest"}
    if imports & {"pytest", "unittest", *PROGRAM}:
        words = {getattr(node, "id", "") or getattr(node, "attr", "") or getattr(node, "arg", "") for node in nodes}
        words |= {item.name for node in nodes if isinstance(node, ast.ImportFrom) for item in node.names}
        missing |= words & BEYOND
    return ", ".join(sorted(missing))


def _tests_in(node: ast.stmt) -> Iterable[str]:
    if isinstance(node, ast.FunctionDef) and node.name.startswith("test"):
        yield f"_pytest.run(globals(), {node.name!r})"
    if isinstance(node, ast.ClassDef) and (
        node.name.startswith("Test") or any(ast.unparse(base).endswith("TestCase") for base in node.bases)
    ):
        for item in node.body:
            if isinstance(item, ast.FunctionDef) and item.name.startswith("test"):
                yield f"_pytest.run(globals(), {node.name!r}, {item.name!r})"


def _modules(node: ast.AST) -> list[str]:
    if isinstance(node, ast.ImportFrom):
        return [node.module or ""] if not node.level else []
    return [item.name for item in node.names] if isinstance(node, ast.Import) else []


@lru_cache(maxsize=1024)
def tests_itself(text: str) -> bool:
    """Whether a text does anything when it is run, other than to define and import."""
    quiet = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Import | ast.ImportFrom | ast.Assign
    return any(not isinstance(node, quiet) for tree in _trees((text,)) for node in tree.body)


@lru_cache(maxsize=1024)
def defines(text: str, name: str) -> bool:
    """Whether the text defines a function of this name, or is no Python: then the verdict says so."""
    trees = _trees((text,))
    return not trees or any(isinstance(node, ast.FunctionDef) and node.name == name for node in trees[0].body)


def _trees(texts: Sequence[str]) -> list[ast.Module]:
    """The texts parsed; none of them where one is no Python."""
    try:
        return [ast.parse(text) for text in texts]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
