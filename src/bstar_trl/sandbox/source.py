"""What the source of the tests says: its code, whose names it uses, and where a call may give its arguments back."""

from __future__ import annotations

import ast
import builtins
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from types import CodeType, TracebackType
from typing import Any

Span = tuple[int | None, int | None, int | None, int | None]  # first and last line, first and last column

BUILTINS = set(dir(builtins))
# Python's own functions that tests use to look at results, even where the program is to define one of them.
GLUE = {
    "abs",
    "all",
    "any",
    "bool",
    "dict",
    "enumerate",
    "filter",
    "float",
    "frozenset",
    "hasattr",
    "int",
    "isinstance",
}
GLUE |= {
    "iter",
    "len",
    "list",
    "map",
    "next",
    "print",
    "range",
    "repr",
    "round",
    "set",
    "sorted",
    "str",
    "tuple",
    "zip",
}
CLASS_OF = "__class_of__"  # what `x.__class__` becomes
MESSAGE = "__message__"  # around the message of an assertion


class Source:
    """The tests' source, read once.

    Args:
        trusted (`str`): definitions for the tests.
        pieces (`Sequence[str]`): setup and tests, in the order in which they run.
        wanted (`Sequence[str]`, *optional*): the only names that are the program's.

    Attributes:
        trusted (`CodeType`): the definitions, compiled.
        tests (`list[CodeType]`): the pieces, compiled.
        names (`set[str]`): every name in the pieces.
        modules (`list[str]`): standard modules that the pieces use but do not import: `math` in `math.isclose(...)`.
            Such a name stays the standard module, whatever the program calls so; unless the module lacks what is read.
        as_program (`set[str]`): Python's own names that the program is to define: all the pieces use nothing else.

    Raises:
        SyntaxError: a piece does not compile.
        ValueError: the same.
    """

    def __init__(self, trusted: str, pieces: Sequence[str], wanted: Sequence[str] | None = None):
        trees = {"trusted": _parsed(trusted)} | {f"test {place}": _parsed(text) for place, text in enumerate(pieces)}
        codes = [compile(tree, file, "exec", dont_inherit=True) for file, tree in trees.items()]
        self.trusted: CodeType = codes[0]
        self.tests: list[CodeType] = codes[1:]
        self._nodes = {file: list(ast.walk(tree)) for file, tree in trees.items()}
        self._statements = {file: set(_statements(nodes)) for file, nodes in self._nodes.items()}
        self._in_place = {file: set(_in_place_calls(nodes)) for file, nodes in self._nodes.items()}
        nodes = [node for file, nodes in self._nodes.items() if file != "trusted" for node in nodes]
        self.names = {node.id for node in nodes if isinstance(node, ast.Name)}
        own = _defined(nodes)
        self.modules = sorted(_modules(nodes, own))
        self.as_program = BUILTINS & set(wanted or ())
        if wanted is None and not self.names - BUILTINS - own - {*self.modules}:
            self.as_program = _called_builtins(nodes)

    def is_of_tests(self, file: str) -> bool:
        """Whether a code object's file is the tests'."""
        return file in self._in_place

    def takes_back(self, code: CodeType, instruction: int) -> tuple[bool, bool]:
        """Whether the arguments of the call that this code makes now come back if it returns `None`; and if anything.

        Always from a statement of its own, whose value nobody sees. For `None` from an assignment and a comparison
        with `None`. Never to a larger expression, where what comes back could meet what it is compared with.
        """
        span = _spans(code)[instruction // 2]
        always = span in self._statements.get(code.co_filename, ())
        return always or span in self._in_place.get(code.co_filename, ()), always

    def fails_in_assertion(self, trace: TracebackType | None) -> bool:
        """Whether an exception left an `assert` of the tests."""
        while trace is not None:
            for node in self._nodes.get(trace.tb_frame.f_code.co_filename, ()):
                if isinstance(node, ast.Assert) and node.lineno <= trace.tb_lineno <= (node.end_lineno or 0):
                    return True
            trace = trace.tb_next
        return False


class Names(dict[str, Any]):
    """The builtins of the tests: Python's own, then what the program defines, asked for when it is first used.

    Python looks here last, so what the tests define themselves comes first.

    Args:
        ask: gives the program's object of a name, and whether it may be kept; `KeyError` where there is none.
        lacking (`set[str]`): Python's own names that are the program's.
    """

    def __init__(self, ask: Any, lacking: set[str]):
        super().__init__({name: value for name, value in vars(builtins).items() if name not in lacking})
        self._ask = ask

    def __missing__(self, name: str) -> Any:
        value, keeps = self._ask(name)
        if keeps:
            self[name] = value
        return value


class _Rewritten(ast.NodeTransformer):
    """`x.__class__` asks as `type(x)` does, for an object of the program is no instance of its class here; and the
    message of an assertion cannot raise another error in its place."""

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        self.generic_visit(node)
        unsafe = (ast.Await, ast.Yield, ast.YieldFrom, ast.NamedExpr)  # these mean something else in a function
        if node.msg is None or any(isinstance(inner, unsafe) for inner in ast.walk(node.msg)):
            return node
        nothing = ast.arguments(posonlyargs=[], args=[], kwonlyargs=[], kw_defaults=[], defaults=[])
        node.msg = ast.Call(ast.Name(MESSAGE, ast.Load()), [ast.Lambda(nothing, node.msg)], [])
        return ast.fix_missing_locations(node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        self.generic_visit(node)
        if node.attr != "__class__" or not isinstance(node.ctx, ast.Load):
            return node
        name = ast.copy_location(ast.Name(CLASS_OF, ast.Load()), node)
        return ast.copy_location(ast.Call(name, [node.value], []), node)


@lru_cache
def _spans(code: CodeType) -> list[Span]:
    return list(code.co_positions())


def _parsed(text: str) -> ast.Module:
    tree = ast.parse(text)
    if "__class__" in text or "assert" in text:
        _Rewritten().visit(tree)
    return tree


def _statements(nodes: Sequence[ast.AST]) -> Iterator[Span]:
    yield from (_span(node.value) for node in nodes if isinstance(node, ast.Expr))


def _in_place_calls(nodes: Sequence[ast.AST]) -> Iterator[Span]:
    for node in nodes:
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Return) and node.value is not None:
            yield _span(node.value)
        elif isinstance(node, ast.Compare):
            against = node.comparators[0]
            if isinstance(against, ast.Constant) and against.value is None:
                yield _span(node.left)


def _span(node: ast.expr) -> Span:
    return node.lineno, node.end_lineno, node.col_offset, node.end_col_offset


def _defined(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that the tests themselves give a meaning."""
    found = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    found |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    found |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    aliases = [alias for node in nodes if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names]
    return found | {(alias.asname or alias.name).split(".")[0] for alias in aliases} | {CLASS_OF, MESSAGE}


def _modules(nodes: Sequence[ast.AST], own: set[str]) -> Iterator[str]:
    read: dict[str, set[str]] = {}
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            read.setdefault(node.value.id, set()).add(node.attr)
    for name in (read.keys() & sys.stdlib_module_names) - own:
        if all(hasattr(__import__(name), attribute) for attribute in read[name]):
            yield name


def _called_builtins(nodes: Sequence[ast.AST]) -> set[str]:
    calls = [node.func for node in nodes if isinstance(node, ast.Call)]
    called = {call.id for call in calls if isinstance(call, ast.Name)} & BUILTINS - {"eval", "exec", "globals"}
    return called if len(called) == 1 else called - GLUE
