"""The tests' side: runs the tests, asks the program over a pipe, and alone says whether they passed.

What the program returns as plain values is rebuilt here by exact type (`codec.py`), its functions and objects are
handles (`borrowed.py`): nothing of the program's runs here.
"""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterable
from typing import Any

from .borrowed import Kind
from .borrower import Borrower, Stopped
from .raised import of_program, shown

PLAIN_BUILTINS = set(dir(builtins))


def judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    """Reason and detail for the tests of `check` against the program at the other end of `channel`."""
    sys.setrecursionlimit(5000)
    try:
        return _judge(channel, check)
    except Stopped as stopped:
        return stopped.reason, stopped.detail
    except MemoryError:
        return "memory", "the tests ran out of memory"
    except BaseException as error:
        return "exception", f"in the tests: {shown(error)}"


def _judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    pieces = [piece for piece in (check["setup"], *check["tests"]) if piece.strip()]
    try:
        trusted = compile(check["trusted"], "trusted", "exec")
        codes = [compile(piece, f"test {place}", "exec") for place, piece in enumerate(pieces)]
    except (SyntaxError, ValueError) as error:
        return "bad tests", shown(error)
    source = "\n".join(pieces)
    names = _names(source)
    space: dict[str, Any] = {"__name__": "tests"}
    exec(trusted, space)
    program = Borrower(channel, names)
    program.start()
    for name in _modules(source):
        space.setdefault(name, __import__(name))
    wanted = check["names"]
    if wanted is None:
        wanted = sorted(names - PLAIN_BUILTINS - space.keys())
        if not wanted:  # the program is to define something that Python has, too: `sum`
            wanted = sorted(PLAIN_BUILTINS)
    found = program.ask("names", *wanted) if wanted else {}
    if check["names"] and not found:
        return "exception", f"NameError: the program does not define {' or '.join(wanted)}"
    if _asks_for_type(source):
        space["type"] = Kind
    for name in wanted:
        if name in found:
            space[name] = found[name]
    for piece, code in zip(pieces, codes, strict=True):
        try:
            exec(code, space)
        except BaseException as error:
            program.go_on()
            reason = of_program(error)
            if isinstance(error, AssertionError) and reason is None:
                return "wrong answer", f"{piece.strip()} {error}".strip()
            return reason or "exception", f"{piece.strip()}: {shown(error)}"
        program.go_on()
    program.ask("end")
    return "passed", ""


def _names(source: str) -> set[str]:
    return {node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)}


def _modules(source: str) -> list[str]:
    """Standard modules that the tests use but do not import: `math` in `math.isclose(...)`.

    Such a name stays the standard module, whatever the program calls so; unless the module lacks what the tests read.
    """
    nodes = list(ast.walk(ast.parse(source)))
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    assigned |= {node.arg for node in nodes if isinstance(node, ast.arg)} | _imported(nodes)
    read: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            read.setdefault(node.value.id, set()).add(node.attr)
    names = (read.keys() & sys.stdlib_module_names) - assigned
    return [name for name in names if all(hasattr(__import__(name), attribute) for attribute in read[name])]


def _imported(nodes: Iterable[ast.AST]) -> set[str]:
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return {(alias.asname or alias.name).split(".")[0] for alias in aliases}


def _asks_for_type(source: str) -> bool:
    """Whether the tests ask what type something is of."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return any(isinstance(call.func, ast.Name) and call.func.id == "type" and len(call.args) == 1 for call in calls)
