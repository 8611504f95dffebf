"""The rooms of the house: imports go down only, and what is private to TRL is touched in one room."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import bstar_trl

ROOT = Path(bstar_trl.__file__).parent
PACKAGE = "bstar_trl"

# From the bottom to the top. A room is a module or a folder of `bstar_trl`; it imports from itself and from rooms
# that stand before it, for the type checker too. A new room takes its place here.
ORDER = [
    "errors",
    "arguments",
    "luck",
    "balance",
    "selection",
    "metrics",
    "records",
    "search",
    "allocation",
    "appraisal",
    "shares",
    "probe",
    "evaluate_metrics",
    "concurrency",
    "answers",
    "sandbox",
    "engines",
    "prm",
    "rewards",
    "inputs",
    "rollouts",
    "options",
    "config",
    "callback",
    "reports",
    "trackers",
    "training",
    "prm_training",
    "launch",
    "testbed",
    "cli",
]
LIGHT = {
    "errors", "arguments", "luck", "balance", "selection", "metrics", "records", "search", "allocation", "appraisal",
    "shares", "probe", "concurrency", "answers", "sandbox", "options",
}  # fmt: skip
HEAVY = {"torch", "trl", "transformers", "accelerate", "peft", "datasets", "vllm"}
NUMPY_ONLY = {"luck", "balance", "selection"}
# TRL's generation hooks and training internals that have changed between its releases.
PRIVATE_HOOKS = [
    "_get_per_token_logps_and_entropies",
    "_last_loaded_step",
    "vllm_generation",
    "_generate_single_turn",
    "_generate_and_score_completions",
    "_calculate_rewards",
]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join([PACKAGE, *(part for part in parts if part != "__init__")])


SOURCES = {module_of(path): path for path in sorted(ROOT.rglob("*.py"))}
ROOMS = {name: path for name, path in SOURCES.items() if name != PACKAGE}  # the package itself only points at rooms


def room_of(module: str) -> str:
    return module.split(".")[1]


def place_of(module: str) -> int:
    assert room_of(module) in ORDER, f"{module} has no place yet: give its room {room_of(module)!r} one in ORDER"
    return ORDER.index(room_of(module))


class Imports(ast.NodeVisitor):
    """Every module that a source imports: inside functions too, and for the type checker."""

    def __init__(self, module: str, path: Path):
        self.package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        self.found: set[str] = set()
        self.visit(ast.parse(path.read_text()))

    def visit_Import(self, node: ast.Import) -> None:
        self.found |= {alias.name for alias in node.names}

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = importlib.util.resolve_name("." * node.level + (node.module or ""), self.package)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            self.found.add(inner if inner in SOURCES else base)


IMPORTS = {name: Imports(name, path).found for name, path in ROOMS.items()}


def own_imports(module: str) -> list[str]:
    return sorted(name for name in IMPORTS[module] if name in ROOMS)


@pytest.mark.parametrize("module", ROOMS)
def test_imports_go_down_only(module):
    for target in own_imports(module):
        assert place_of(target) <= place_of(module), f"{module} imports {target}, whose room stands above"


def test_no_import_circles():
    list(TopologicalSorter({module: own_imports(module) for module in ROOMS}).static_order())


@pytest.mark.parametrize("module", [name for name in ROOMS if room_of(name) in LIGHT])
def test_records_and_mathematics_are_light(module):
    outside = {name.split(".")[0] for name in IMPORTS[module]} - {PACKAGE} - sys.stdlib_module_names
    assert not outside & HEAVY
    if room_of(module) in NUMPY_ONLY:
        assert outside <= {"numpy"}


@pytest.mark.parametrize("hook", PRIVATE_HOOKS)
def test_private_hooks_are_touched_in_one_room(hook):
    touching = {name for name, path in SOURCES.items() if re.search(rf"\b{hook}\b", path.read_text())}
    assert touching <= {f"{PACKAGE}.training.policy", f"{PACKAGE}.training.seams"}
    nodes = ast.walk(ast.parse(SOURCES[f"{PACKAGE}.training.seams"].read_text()))
    read = {node.attr for node in nodes if isinstance(node, ast.Attribute)} - {"vllm_generation"}
    assert hook not in read  # it looks for their names; of `vllm_generation` also for what that has


@pytest.mark.parametrize("module", ROOMS)
def test_only_the_command_line_prints(module):
    calls = [node for node in ast.walk(ast.parse(ROOMS[module].read_text())) if isinstance(node, ast.Call)]
    prints = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert not prints or room_of(module) == "cli"


def test_the_reader_of_imports_sees_them_all(tmp_path):
    # The instrument itself: relative, absolute, inside functions, for the type checker.
    path = tmp_path / "tool.py"
    path.write_text(
        "from typing import TYPE_CHECKING\nimport os.path\nfrom . import task, name\nfrom ..errors import E\n"
        "if TYPE_CHECKING:\n    import torch\nif True:\n    import numpy\n"
        "def f():\n    from ..training.trainer import T\n"
    )
    assert Imports("bstar_trl.testbed.tool", path).found == {
        "typing",
        "os.path",
        "bstar_trl.testbed.task",
        "bstar_trl.testbed",
        "bstar_trl.errors",
        "torch",
        "numpy",
        "bstar_trl.training.trainer",
    }
