"""From a completion to a program, and from a dataset row to its tests, in the public shapes."""

from __future__ import annotations

import ast
import builtins
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from ..errors import DatasetError
from ..sandbox import Check

_OPENING = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n`]*\n", re.MULTILINE)
_FEATURES = re.compile(r"^from[ \t]+__future__[ \t]+import[^\n]*$", re.MULTILINE)
_DEFINITION = re.compile(r"^[ \t]*(?:async[ \t]+def|def|class)\b", re.MULTILINE)
COLUMNS = (  # what a row may say about its tests
    *("tests", "setup", "test_list", "test_setup_code", "test", "entry_point"),
    *("input_output", "inputs", "outputs", "fn_name", "in_place"),
)
PYTHON = ("", "python", "py", "python3", "py3")

# Runs beside the tests of a row that names a function and lists its arguments, as APPS and LiveCodeBench do.
_CALLS = """
def _plain(value):
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def _case(space, name, arguments, expected):
    try:
        target = eval(name, space)
    except NameError:
        target = getattr(eval("Solution", space)(), name)
    found, expected = _plain(target(*arguments)), _plain(expected)
    wrapped = type(expected) is list and len(expected) == 1 and expected[0] == found
    assert found == expected or wrapped, f"expected {expected!r:.100}, got {found!r:.100}"
"""


def extract_code(text: str, name: str | None = None) -> str:
    """The program in a completion.

    Of fenced blocks the last one that defines `name`, else the last that defines anything, else the last; those of
    other languages only where there is no Python. A block that is indented as a whole, in a list say, loses that. A
    fence that is never closed goes to the end; without any fence the whole text is the program. What a reasoning model
    thinks aloud (up to `</think>`) does not count.

    Args:
        text (`str`): the completion.
        name (`str`, *optional*): of the function that is wanted.

    Returns:
        `str`: the source; empty where there is none.
    """
    text = text.rpartition("</think>")[2].replace("\r\n", "\n")
    blocks: list[tuple[str, str]] = []
    place = 0
    while opening := _OPENING.search(text, place):
        closing = re.compile(rf"^[ \t]*{re.escape(opening[2])}[ \t]*$", re.MULTILINE).search(text, opening.end())
        end = closing.start() if closing else len(text)
        blocks.append((opening[3].lower(), _unindented(text[opening.end() : end], opening[1])))
        place = closing.end() if closing else len(text)
    if not blocks:
        return text.strip("\n")
    candidates = [block for language, block in blocks if language in PYTHON] or [block for _, block in blocks]
    defining = [block for block in candidates if _DEFINITION.search(block)]
    wanted = [block for block in candidates if name and _definition_of(name).search(block)]
    return (wanted or defining or candidates)[-1].strip("\n")


def _unindented(block: str, indent: str) -> str:
    lines = block.split("\n")
    if not indent or not all(line.startswith(indent) or not line.strip() for line in lines):
        return block
    return "\n".join(line.removeprefix(indent) for line in lines)


def _definition_of(name: str) -> re.Pattern[str]:
    """A function of this name, or the name bound to one, at the top level."""
    return re.compile(rf"^(?:(?:async[ \t]+)?def[ \t]+{re.escape(name)}\b|{re.escape(name)}[ \t]*[:=])", re.MULTILINE)


def check_of_row(prompt: Any, code: str, row: Mapping[str, Any], reward: str) -> Check:
    """The check of one completion's code against its row.

    Args:
        prompt: the row's prompt: text or messages.
        code (`str`): the program, or for HumanEval possibly only a function's body.
        row (`Mapping`): its values of `COLUMNS`.
        reward (`str`): what errors call the reward.

    Raises:
        DatasetError: the row has none of the public shapes.
    """
    _of_type(row, str, ("setup", "test_setup_code"), reward)
    _of_type(row, bool, ("in_place",), reward)
    in_place = row.get("in_place")
    setup = row.get("setup") or row.get("test_setup_code") or ""
    tests = row.get("tests") or row.get("test_list")
    if tests:
        texts = tuple(_texts(tests, "tests", reward))
        return Check(code, texts, setup, in_place=_works_in_place(texts) if in_place is None else in_place)
    _of_type(row, str, ("test", "entry_point"), reward)
    if row.get("test") and row.get("entry_point"):
        check = _human_eval(_prompt_code(prompt), code, row["test"], row["entry_point"])
        return replace(check, in_place=bool(in_place))
    cases = row
    if row.get("input_output"):
        cases = row["input_output"]
        cases = _json(cases, "input_output", reward) if isinstance(cases, str) else cases
        if not isinstance(cases, Mapping):
            raise DatasetError(f"reward '{reward}': column 'input_output' must hold an object, got {cases!r:.80}")
    _of_type(cases, list | tuple, ("inputs", "outputs"), reward)
    _of_type(cases, str, ("fn_name",), reward)
    if cases.get("inputs") and cases.get("outputs"):
        return _apps(code, cases, reward)
    shapes = "'tests' (MBPP), 'test' and 'entry_point' (HumanEval), or 'inputs' and 'outputs' (APPS)"
    filled = ", ".join(name for name, value in row.items() if value) or "none of them"
    raise DatasetError(f"reward '{reward}' needs filled columns {shapes}; this row has {filled}")


@lru_cache(maxsize=1024)
def _works_in_place(tests: tuple[str, ...]) -> bool:
    """Whether the tests of a row without the column `in_place` can only mean a function that works in place.

    So it is where the tests call the program by statements alone, `sort_it(xs)`, and never see what it returns. Other
    tests get no argument back, since `assert f(xs) == sorted(xs)` would pass if `f` emptied `xs`.
    """
    try:
        trees = [ast.parse(test) for test in tests]
    except (SyntaxError, ValueError):
        return False  # the verdict will say so
    nodes = [node for tree in trees for node in ast.walk(tree)]
    if any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda) for node in nodes):
        return False  # a function of the tests may call the program
    statements = [node.value for tree in trees for node in tree.body if isinstance(node, ast.Expr)]
    calls = [node for node in nodes if isinstance(node, ast.Call) and not _is_builtin(node.func)]
    return any(isinstance(item, ast.Name) for call in calls for item in call.args) and all(
        any(call is statement for statement in statements) for call in calls
    )


def _is_builtin(function: ast.expr) -> bool:
    return isinstance(function, ast.Name) and hasattr(builtins, function.id)


def _texts(value: Any, column: str, reward: str) -> Sequence[str]:
    if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(item, str) for item in value):
        raise DatasetError(f"reward '{reward}': column '{column}' must hold a list of texts, got {value!r:.80}")
    texts: Sequence[str] = value
    return texts


def _of_type(row: Mapping[str, Any], kind: Any, columns: Sequence[str], reward: str) -> None:
    for column in columns:
        value = row.get(column)
        if value is not None and not isinstance(value, kind):
            wanted = {str: "a text", bool: "true or false"}.get(kind, "a list")
            raise DatasetError(f"reward '{reward}': column '{column}' must hold {wanted}, got {value!r:.80}")


def _json(text: str, column: str, reward: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"reward '{reward}': column '{column}' must hold JSON ({error}), got {text!r:.80}"
        ) from None


def _human_eval(prompt: str, code: str, test: str, entry_point: str) -> Check:
    """The prompt ends in the head of the function; the code is its body, or the whole function again."""
    start = _definition_of(entry_point).search(prompt)
    if _definition_of(entry_point).search(code):
        features = "\n".join(_FEATURES.findall(code))  # these stand first in a program
        program = features + "\n" + (prompt[: start.start()] if start else "") + "\n" + _FEATURES.sub("", code)
    else:
        program = prompt + ("" if prompt.endswith("\n") else "\n") + _as_body(code)
    # What else the prompt defines (`poly` in HumanEval/32) is the tests' own: a program cannot redefine it for them.
    trusted = prompt if start and _compiles(prompt) else ""
    return Check(program, (f"{test}\ncheck({entry_point})",), trusted=trusted, names=(entry_point,))


def _as_body(code: str) -> str:
    """Indented as the body of a function, though the first line or all of them may have lost that."""
    lines = code.split("\n")
    filled = [line for line in lines if line.strip()]
    if not filled or filled[0][0] in " \t":
        return code
    second = len(filled[1]) - len(filled[1].lstrip()) if len(filled) > 1 else 0
    if second >= (8 if filled[0].rstrip().endswith(":") else 4):
        return "    " + code
    return "\n".join("    " + line for line in lines)


def _prompt_code(prompt: Any) -> str:
    if isinstance(prompt, str):
        return prompt
    users = [message["content"] for message in prompt if message["role"] == "user"]
    return extract_code(users[-1]) if users else ""


@lru_cache(maxsize=1024)
def _compiles(source: str) -> bool:
    """Whether a row's own text is Python; never asked of a completion."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(source, "prompt", "exec")
    except (SyntaxError, ValueError):
        return False
    return True


def _apps(code: str, cases: Mapping[str, Any], reward: str) -> Check:
    inputs, outputs, name = cases["inputs"], cases["outputs"], cases.get("fn_name")
    if len(inputs) != len(outputs):
        raise DatasetError(f"reward '{reward}': {len(inputs)} inputs, but {len(outputs)} outputs")
    if not name:
        return Check(code, cases=tuple(zip(map(_lines, inputs), map(_lines, outputs), strict=True)))
    tests = []
    for given, expected in zip(inputs, outputs, strict=True):
        if isinstance(given, str):  # LiveCodeBench: an argument a line, as JSON
            given = [_json(line, "inputs", reward) for line in given.splitlines() if line.strip()]
        if isinstance(expected, str) and isinstance(cases["inputs"][0], str):
            expected = _json(expected, "outputs", reward)
        tests.append(f"_case(globals(), {name!r}, {given!r}, {expected!r})")
    return Check(code, tuple(tests), trusted=_CALLS, names=(name, "Solution"))


def _lines(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(str(item) for item in value)
