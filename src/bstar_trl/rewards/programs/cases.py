"""Rows whose tests are inputs and expected outputs: of standard input, or of a function's calls."""

from __future__ import annotations

import base64
import io
import json
import pickle
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import DatasetError
from ...sandbox import Check
from .prompts import after_features

LISTS = ("input_output", "public_test_cases", "private_test_cases", "test_cases", "tests")
CALLED = ("functional", "function_call", "call_based")  # test types
_METHOD = re.compile(r"\bdef[ \t]+(\w+)")

# What the harnesses of LeetCode, LiveCodeBench and APPS import for every program; one line, so that the line numbers
# in messages stay close. `builtins` come last, since `math.pow` must not hide `pow`.
_OPEN = (
    *("typing", "string", "collections", "itertools", "functools", "heapq", "bisect"),
    *("math", "copy", "random", "statistics", "operator", "builtins"),
)
STARTER = "; ".join(
    [
        *(f"from {module} import *" for module in _OPEN),
        "from sys import maxsize, setrecursionlimit, stdin, stdout",
        "import bisect, collections, copy, datetime, decimal, fractions, functools, heapq, io, itertools, json, math",
        "import operator, os, random, re, statistics, string, sys, time, typing",
    ]
)

# Runs beside the tests of a row that names a function and lists its arguments.
_CALLS = """
from math import inf, nan


def _plain(value):
    if type(value) in (list, tuple):
        return [_plain(item) for item in value]
    if type(value) is dict:
        return {key: _plain(item) for key, item in value.items()}
    return value


def _same(found, expected):
    if type(expected) is list and type(found) is list:
        return len(found) == len(expected) and all(map(_same, found, expected))
    if type(expected) is float and type(found) in (int, float):
        return found == expected or abs(found - expected) <= 1e-6 * max(1.0, abs(expected)) < inf
    return found == expected


def _case(space, name, arguments, expected):
    try:
        target = eval(name, space)
    except NameError:
        target = getattr(eval("Solution", space)(), name)
    found, expected = _plain(target(*arguments)), _plain(expected)
    wrapped = type(expected) is list and len(expected) == 1 and _same(found, expected[0])
    assert _same(found, expected) or wrapped, f"expected {expected!r:.100}, got {found!r:.100}"
"""


@dataclass(frozen=True)
class Cases:
    """Inputs and expected outputs.

    Attributes:
        pairs (`list[tuple]`): of texts, or of arguments and values.
        name (`str`, *optional*): the function that is called; None: the program reads standard input.
    """

    pairs: list[tuple[Any, Any]]
    name: str | None = None

    def check(self, code: str, reward: str) -> Check:
        """The check of a program."""
        if not self.name:
            cases = tuple((_lines(given), _lines(expected)) for given, expected in self.pairs)
            return Check(with_starter(code), cases=cases)
        tests, as_text = [], isinstance(self.pairs[0][0], str)
        for given, expected in self.pairs:
            if isinstance(given, str):  # LiveCodeBench: an argument a line, as JSON
                given = [parsed(line, "inputs", reward) for line in given.splitlines() if line.strip()]
            if isinstance(expected, str) and as_text:
                expected = parsed(expected, "outputs", reward)
            tests.append(f"_case(globals(), {self.name!r}, {given!r}, {expected!r})")
        names = (self.name, "Solution")
        return Check(with_starter(code, names), tuple(tests), trusted=_CALLS, names=names)


def with_starter(code: str, names: Sequence[str] = ()) -> str:
    """The program after the starter's imports. What they import is no answer: these names are taken out of them."""
    without = "".join(f"; globals().pop({name!r}, None)" for name in names)
    return after_features(STARTER + without, code)


def cases_of(row: Mapping[str, Any], reward: str) -> Cases | None:
    """The cases of a row; None if it has none.

    Raises:
        DatasetError: a column does not hold what it must.
    """
    named = row.get("fn_name") or _named_in(row.get("metadata"), reward)
    found = [_read(row[column], column, reward) for column in LISTS if row.get(column)]
    if row.get("inputs") and row.get("outputs"):
        found.append(_columns(row, "inputs", "outputs", reward))
    pairs = [pair for cases, _, _ in found for pair in cases]
    if not pairs:
        return None
    called = {kind for _, _, kind in found if kind is not None}
    if len(called) > 1:
        raise DatasetError(f"reward '{reward}': a row's cases must all be of standard input, or all of calls")
    name = next((item for _, item, _ in found if item), None) or named
    if called == {True} and not name:
        methods = _METHOD.findall(row.get("starter_code") or "")
        if not methods:
            raise DatasetError(
                f"reward '{reward}': cases of calls need the function's name in 'fn_name' or 'metadata'"
            )
        name = methods[-1]
    return Cases(pairs, None if called == {False} else name or None)


def _named_in(metadata: Any, reward: str) -> str | None:
    metadata = parsed(metadata, "metadata", reward) if isinstance(metadata, str) and metadata.strip() else metadata
    if not isinstance(metadata, Mapping):
        return None
    return metadata.get("func_name") or metadata.get("fn_name")


_Read = tuple[list[tuple[Any, Any]], str | None, bool | None]  # pairs, the function's name, whether it is called


def _read(value: Any, column: str, reward: str) -> _Read:
    """The cases in a column: an object of lists, or a list of objects; either of them perhaps as JSON."""
    if isinstance(value, str):
        value = parsed(_unpacked(value) if column == "private_test_cases" else value, column, reward)
    if isinstance(value, Mapping):
        plural = ("inputs", "outputs") if "inputs" in value else ("input", "output")
        return _columns(value, *plural, reward)
    is_list = isinstance(value, Sequence) and all(isinstance(item, Mapping) and "input" in item for item in value)
    if not is_list or not all("output" in item for item in value):
        raise DatasetError(
            f"reward '{reward}': column '{column}' must hold an object with 'inputs' and 'outputs', or a list of "
            f"objects with 'input' and 'output', got {value!r:.80}"
        )
    kinds = {kind in CALLED for item in value if (kind := item.get("testtype") or item.get("type"))}
    if len(kinds) > 1:
        raise DatasetError(f"reward '{reward}': column '{column}' mixes cases of standard input and of calls")
    names = [item.get("fn_name") or _named_in(item.get("metadata"), reward) for item in value]
    name = next((name for name in names if name), None)
    return [(item["input"], item["output"]) for item in value], name, next(iter(kinds), None)


def _columns(value: Mapping[str, Any], given: str, expected: str, reward: str) -> _Read:
    for column in (given, expected):
        if not isinstance(value.get(column) or [], list | tuple):
            raise DatasetError(f"reward '{reward}': column '{column}' must hold a list, got {value[column]!r:.80}")
    inputs, outputs, name = value.get(given) or [], value.get(expected) or [], value.get("fn_name")
    if name is not None and not isinstance(name, str):
        raise DatasetError(f"reward '{reward}': column 'fn_name' must hold a text, got {name!r:.80}")
    if len(inputs) != len(outputs):
        raise DatasetError(f"reward '{reward}': {len(inputs)} inputs, but {len(outputs)} outputs")
    return list(zip(inputs, outputs, strict=True)), name, None


def parsed(text: str, column: str, reward: str) -> Any:
    """A column's JSON.

    Raises:
        DatasetError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DatasetError(
            f"reward '{reward}': column '{column}' must hold JSON ({error}), got {text!r:.80}"
        ) from None


class _TextOnly(pickle.Unpickler):
    """LiveCodeBench pickles a text; nothing else is loaded."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"a text was expected, got {module}.{name}")


def _unpacked(text: str) -> str:
    """LiveCodeBench's private cases: JSON, or JSON that was pickled, compressed and written in base 64."""
    if text.lstrip().startswith(("[", "{")):
        return text
    try:
        packed = zlib.decompress(base64.b64decode(text, validate=True))
        value = _TextOnly(io.BytesIO(packed)).load()
    except (ValueError, zlib.error, pickle.UnpicklingError, EOFError, IndexError, KeyError, AttributeError):
        return text
    return value if isinstance(value, str) else text


def _lines(value: Any) -> str:
    return value if isinstance(value, str) else "\n".join(str(item) for item in value)
