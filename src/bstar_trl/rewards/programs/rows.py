"""From a dataset row and a response to a check, in the public shapes of rows."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...errors import DatasetError
from ...sandbox import Check, Verdict
from .cases import cases_of, parsed, with_starter
from .extraction import extract_code
from .prompts import beginning_of, continued
from .row_tests import as_pytest, beyond, defines, names_of, tests_itself, works_in_place

COLUMNS = (  # what a row may say about its tests
    *("tests", "test_list", "test_cases", "setup", "test_setup_code", "test_imports", "in_place"),
    *("test", "test_code", "entry_point"),
    *("inputs", "outputs", "fn_name", "input_output"),
    *("public_test_cases", "private_test_cases", "metadata", "starter_code"),
)
TEXTS = ("setup", "test_setup_code", "test", "test_code", "entry_point", "fn_name", "starter_code")


def check_of_row(prompt: Any, completion: str, row: Mapping[str, Any], reward: str) -> Check | Verdict | None:
    """The check of one response against its row; None if the response holds no program.

    Args:
        prompt: the row's prompt: text or messages.
        completion (`str`): the response.
        row (`Mapping`): its values of `COLUMNS`.
        reward (`str`): what errors call the reward.

    Returns:
        `Check`, or the `Verdict` "bad tests" where the tests need what the sandbox does not have.

    Raises:
        DatasetError: the row has none of the public shapes.
    """
    _of_type(row, str, TEXTS, reward)
    _of_type(row, bool, ("in_place",), reward)
    tests = _texts(row, reward)
    if tests:
        return _asserts(prompt, completion, tests, row)
    test, entry = row.get("test") or row.get("test_code"), row.get("entry_point")
    if test and entry and defines(test, "check"):
        return _human_eval(prompt, completion, test, entry, in_place=bool(row.get("in_place")))
    if test and (as_pytest(test) or tests_itself(test)):
        return _asserts(prompt, completion, (test,), row)
    cases = cases_of(row, reward)
    if cases:
        names = (cases.name,) if cases.name else ()
        starter = row.get("starter_code") if cases.name else None
        begun = beginning_of(starter or "", "Solution" if "class Solution" in (starter or "") else cases.name or "")
        code = extract_code(completion, names, script=not cases.name, body=bool(begun.head))
        if not code.strip():
            return None
        return cases.check(continued(begun, code, ("Solution", *names)), reward)
    shapes = "'tests' (MBPP), 'test' and 'entry_point' (HumanEval), 'inputs' and 'outputs' (APPS)"
    filled = ", ".join(name for name, value in row.items() if value) or "none of them"
    raise DatasetError(f"reward '{reward}' needs filled columns {shapes}, or others; this row has {filled}")


def _texts(row: Mapping[str, Any], reward: str) -> tuple[str, ...]:
    """A row's list of statements; empty if it has none, or has cases in that column."""
    for column in ("tests", "test_list", "test_cases"):
        value = row.get(column)
        if not value:
            continue
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            value = parsed(value, column, reward)
        if isinstance(value, Mapping) or (isinstance(value, Sequence) and any(isinstance(i, Mapping) for i in value)):
            continue
        if isinstance(value, str) or not isinstance(value, Sequence) or not all(isinstance(i, str) for i in value):
            raise DatasetError(f"reward '{reward}': column '{column}' must hold a list of texts, got {value!r:.80}")
        return tuple(value)
    return ()


def _of_type(row: Mapping[str, Any], kind: type, columns: Sequence[str], reward: str) -> None:
    for column in columns:
        value = row.get(column)
        if value is not None and not isinstance(value, kind):
            wanted = "a text" if kind is str else "true or false"
            raise DatasetError(f"reward '{reward}': column '{column}' must hold {wanted}, got {value!r:.80}")


def _asserts(prompt: Any, completion: str, tests: tuple[str, ...], row: Mapping[str, Any]) -> Check | Verdict | None:
    """Statements, or tests written for pytest. The prompt may begin the program."""
    setup = row.get("setup") or row.get("test_setup_code") or "\n".join(row.get("test_imports") or ())
    if missing := beyond((setup, *tests)):
        return _bad_tests(missing)
    names = names_of((setup, *tests))
    begun = {name: item for name in names if (item := beginning_of(prompt, name)).head}
    code = extract_code(completion, names, body=bool(begun))
    if not code.strip():
        return None
    for name, beginning in [*begun.items()][:1]:
        code = continued(beginning, code, (name,))
    code = _of_leetcode(code, names)
    in_place = row.get("in_place")
    if pytest := as_pytest("\n".join(tests)):
        in_place = pytest.in_place if in_place is None else in_place
        return Check(code, pytest.tests, setup, pytest.trusted, pytest.names or None, in_place=in_place)
    return Check(code, tests, setup, in_place=works_in_place(tests) if in_place is None else in_place)


def _human_eval(prompt: Any, completion: str, test: str, entry: str, *, in_place: bool) -> Check | Verdict | None:
    """The prompt ends in the head of the function; the response is its body, or the whole function again."""
    if missing := beyond((test,)):
        return _bad_tests(missing)
    name = re.split(r"\W", entry, maxsplit=1)[0]  # of a class, if the entry is one of its methods
    begun = beginning_of(prompt, name)
    code = extract_code(completion, (name,), body=bool(begun.head))
    if not code.strip():
        return None
    program = _of_leetcode(continued(begun, code, (name,)), (name,))
    # What else the prompt defines (`poly` in HumanEval/32) is the tests' own: a program cannot redefine it for them.
    tests = (f"{test}\ncheck({entry})",)
    return Check(program, tests, trusted=begun.before, names=(name,), in_place=in_place)


def _bad_tests(missing: str) -> Verdict:
    return Verdict(False, "bad tests", f"the tests need what the sandbox does not have: {missing}")


def _of_leetcode(code: str, names: Sequence[str]) -> str:
    """With the starter's imports, if the tests use LeetCode's class."""
    return with_starter(code, names) if "Solution" in names else code
