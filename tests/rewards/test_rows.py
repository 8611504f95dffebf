"""The public shapes of rows, and inputs that others reported.

The verdicts are those of a person who reads the response; none of them comes from the code.
"""

from __future__ import annotations

import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest
from judging import ADD, BODY, CALL, CODE, KODCODE, NO_DOCSTRING, PROGRAM, ROW, STDIN, human_eval, value

from bstar_trl.errors import DatasetError
from bstar_trl.rewards import UnitTests
from bstar_trl.rewards.programs import check_of_row
from bstar_trl.sandbox import Verdict

INPUTS = Path(__file__).parents[1] / "data" / "inputs_code.jsonl"
CASES = {case["id"]: case for case in map(json.loads, INPUTS.read_text("utf-8").splitlines())}
# Their tests pass objects of their own classes to the program, so nobody judges them (docs/sandbox.md).
UNJUDGED = {"cases-t5"}


@pytest.fixture(scope="module")
def reward():
    made = UnitTests(progress=False, timeout=10.0)
    yield made
    made.close()


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_others_reported(reward, name):
    case = CASES[name]
    expected = None if name in UNJUDGED else case["expected"]
    assert value(reward, case["row"], case["completion"]) == expected


# Starter imports.

STARTED = [
    "print(sum(Counter(input().split()).values()) and 0 or reduce(lambda a, b: a + b, map(int, input().split())))",
    "n = int(sys.stdin.readline())\nprint(functools.reduce(operator.add, map(int, stdin.readline().split())))",
    "input()\nd: List[int] = list(accumulate(map(int, input().split())))\nprint(max(d))",
    "from __future__ import annotations\ninput()\nprint(sum(deque(map(int, input().split()))))",
    '"""Adds."""\nfrom __future__ import (\n    annotations,\n)\ninput()\nprint(int(fsum(map(int, input().split()))))',
    "input()\nprint(pow(3, 2, 4) - 1 + sum(map(int, input().split())))",  # the builtin `pow`, not that of `math`
]


@pytest.mark.parametrize("code", STARTED)
def test_scripts_know_what_their_harnesses_import(reward, code):
    assert value(reward, STDIN, code) == 1.0


@pytest.mark.parametrize(
    ("code", "right"),
    [
        (
            "class Solution:\n    def kth(self, xs: List[int], k) -> Optional[int]: return nsmallest(k, xs)[-1]",
            1.0,
        ),
        ("def kth(xs, k):\n    heapq.heapify(xs)\n    return [heappop(xs) for _ in range(k)][-1]", 1.0),
        (
            "@cache\n@lru_cache(None)\ndef f(k): return k\n\ndef kth(xs, k): return f(sorted(xs)[k - 1])",
            1.0,
        ),
        (
            "def kth(xs, k):\n    d = defaultdict(int)\n    return sorted(xs)[bisect_left([0, 1, 2], k) - 1 + d[0]]",
            1.0,
        ),
        ("from __future__ import annotations\ndef kth(xs: List[int], k: int): return sorted(xs)[k - 1]", 1.0),
        ("def kth(xs: Lists[int], k): return sorted(xs)[k - 1]", 0.0),
    ],
)
def test_called_functions_know_what_their_harnesses_import(reward, code, right):
    assert value(reward, CALL, code) == right


@pytest.mark.parametrize("name", ["gcd", "reduce", "add", "heapq", "math"])
def test_what_is_imported_for_a_program_is_no_answer(reward, name):
    row = {"prompt": "", "inputs": [[4, 6]], "outputs": [{"add": 10}.get(name, 2)], "fn_name": name}
    assert value(reward, row, "def other(a, b): return 2") == 0.0


def test_asserts_about_a_class_solution_are_leet_code(reward):
    code = "class Solution:\n    def top(self, xs: List[int]) -> int:\n        return nlargest(1, xs)[0]"
    asserts = {"prompt": "Find it.", "test_list": ["assert Solution().top([1, 3, 2]) == 3"]}
    check = {
        "prompt": "Find it.",
        "test": "def check(f):\n    assert f([1, 3, 2]) == 3",
        "entry_point": "Solution().top",
    }
    for row in (asserts, check):
        assert value(reward, row, f"```python\n{code}\n```") == 1.0
        assert value(reward, row, code.replace("nlargest", "nsmallest")) == 0.0


@pytest.mark.parametrize("row", [human_eval(NO_DOCSTRING), ROW])
def test_human_eval_and_mbpp_import_nothing_for_a_program(reward, row):
    assert (
        value(reward, row, "def twice(xs: List[int]): return [2 * x for x in xs]\ndef add(a: Any, b): return a + b")
        == 0.0
    )


# Rows of KodCode, AceCode and LiveCodeBench.

DIV = """class Stack:
    def __init__(self):
        self.items = []
    def push(self, x):
        self.items.append(x)
    def top(self):
        return self.items[-1]

def div(a, b):
    return a / b"""


@pytest.mark.parametrize("column", ["test", "test_code"])
@pytest.mark.parametrize(
    ("old", "new", "right"),
    [
        ("", "", 1.0),
        ("a / b", "a // b", 0.0),
        ("a / b", "a / b if b else 0", 0.0),
        ("return a / b", "raise ValueError('division')", 0.0),
        ("return a / b", "if not b: raise ZeroDivisionError('no')\n    return a / b", 0.0),
        ("self.items[-1]", "self.items", 0.0),
        ("class Stack", "class Stacks", 0.0),
        ("def div", "def divide", 0.0),
    ],
)
def test_tests_written_for_pytest(reward, column, old, new, right):
    row = {"prompt": "Write div and Stack.", column: KODCODE, "entry_point": "div"}
    code = DIV.replace(old, new) if old else DIV
    assert value(reward, row, f"```python\n{code}\n```\nTests:\n```python\n{KODCODE}\n```") == right


FORMS = """
from solution import add

def test_add():
    assert add(1, 2) == 3
---
from solution import add as plus

def test_add():
    assert plus(1, 2) == 3
---
from solution import *

def test_add():
    assert add(1, 2) == 3
---
import solution

def test_add():
    assert solution.add(1, 2) == 3
---
import solution as s
import pytest

def test_add():
    assert s.add(1, 2) == pytest.approx(3)
---
def test_add():
    assert add(1, 2) == 3
---
from solution import add
assert add(1, 2) == 3
---
from pytest import approx, mark, raises
from solution import add

@mark.slow
@mark.parametrize("a", [1])
@mark.parametrize(["b", "c"], [(2, 3)])
def test_add(a, b, c):
    assert add(a, b) == approx(c)
    raises(TypeError, add, None, 1)
---
import unittest
from solution import add

class Sums(unittest.TestCase):
    def setUp(self):
        self.one = 1

    def test_add(self):
        self.assertEqual(add(self.one, 2), 3)
        with self.assertRaises(TypeError):
            add(None, 1)

if __name__ == "__main__":
    unittest.main()
---
from solution import add

CASES = [(1, 2, 3)]

def check(a, b, c):
    assert add(a, b) == c

def test_all():
    for case in CASES:
        check(*case)
---
import pytest
from solution import add

@pytest.fixture(autouse=True)
def ready():
    yield 1

@pytest.mark.skip(reason="no")
def test_no():
    assert add(1, 2) == 4

@pytest.mark.parametrize("expected", [3], ids=["three"])
class TestAdd:
    @pytest.fixture
    def two(self, ready):
        return ready + 1

    def test_add(self, ready, two, expected):
        assert add(ready, two) == expected
---
import pytest
from solution import add

def test_add():
    assert {"sum": add(0.1, 0.2), "all": [add(1, 2)]} == pytest.approx({"sum": 0.3, "all": [3.0]})
    assert add(1, 2) != pytest.approx(3.1) and add(1, 2) == pytest.approx(3.1, abs=0.2)
    with pytest.raises((TypeError, ValueError)) as caught:
        add(None, 1)
    assert caught.match("unsupported") and "unsupported" in str(caught.value)
"""


@pytest.mark.parametrize("test", FORMS.split("---\n"))
def test_forms_of_tests_written_for_pytest(reward, test):
    row = {"prompt": "Add.", "test": test}
    assert value(reward, row, ADD) == 1.0
    assert value(reward, row, ADD.replace("+", "*")) == 0.0
    assert value(reward, row, "def other(): pass") == 0.0


def test_a_prompt_may_begin_the_program_of_such_tests(reward):
    test = "from solution import twice\n\ndef test_twice():\n    assert twice([1]) == [2]"
    assert value(reward, {"prompt": f"Complete:\n\n{CODE}", "test": test}, BODY) == 1.0
    in_place = (
        "from solution import order\n\ndef test_order():\n    xs = [2, 1]\n    order(xs)\n    assert xs == [1, 2]"
    )
    assert value(reward, {"prompt": "", "test": in_place}, "def order(xs): xs.sort()") == 1.0
    assert value(reward, {"prompt": "", "test": in_place}, "def order(xs): return sorted(xs)") == 0.0


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        ("def test_add(capsys):\n    add(1, 2)\n    assert capsys.readouterr().out == '3'", "capsys"),
        ("import numpy as np\n\ndef test_add():\n    assert np.isclose(add(1, 2), 3)", "numpy"),
        ("from unittest.mock import patch\n\ndef test_add():\n    assert add(1, 2) == 3", "patch"),
        ("def test_add():\n    with pytest.raises(Odd):\n        add(1, 2)", "an object of class Raises"),
    ],
)
def test_tests_for_pytest_that_cannot_judge(reward, test, reason):
    code = "class Odd(Exception): pass\ndef add(a, b):\n    if b: raise Odd('no')\n    return a + b"
    (score,) = reward.score([""], [code], test=["import pytest\nfrom solution import Odd, add\n" + test])
    assert score.value is None
    assert score.reason.startswith("bad tests")
    assert reason in score.reason


@pytest.mark.parametrize("test", ["def check(candidate):\n    assert candidate(1) == 2", "x = 1", "import math"])
def test_a_test_that_tests_nothing_is_an_error(reward, test):
    with pytest.raises(DatasetError, match="needs filled columns"):
        value(reward, {"prompt": "", "test": test}, ADD)


@pytest.mark.parametrize("column", ["test_cases", "tests", "test_list"])
def test_lists_of_asserts(reward, column):
    for cases in (ROW["test_list"], json.dumps(ROW["test_list"])):
        assert value(reward, {"prompt": "Add.", column: cases}, f"```python\n{ADD}\n```") == 1.0
        assert value(reward, {"prompt": "Add.", column: cases}, ADD.replace("+", "-")) == 0.0


def live(kind: str, *cases: tuple[str, str]) -> list[dict]:
    return [{"input": given, "output": expected, "testtype": kind} for given, expected in cases]


def packed(cases: list[dict]) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(json.dumps(cases)))).decode()


class Reduced:
    """A pickle that calls a function, here a harmless one."""

    def __reduce__(self):
        return str, ("[1]",)


STARTER_CODE = "class Solution:\n    def add(self, a: int, xs: List[int]) -> List[int]:\n        "
CALLS = live("functional", ("1\n[2, 3]", "[3, 4]"), ("0\n[]", "[]"))
METHOD = STARTER_CODE + "return [a + x for x in xs]"
LIVE = {
    "metadata": {
        "public_test_cases": json.dumps(CALLS),
        "private_test_cases": "[]",
        "metadata": '{"func_name": "add"}',
    },
    "starter code": {"public_test_cases": json.dumps(CALLS), "metadata": "{}", "starter_code": STARTER_CODE},
    "packed": {"private_test_cases": packed(CALLS), "metadata": {"func_name": "add"}, "starter_code": STARTER_CODE},
    "input_output": {"input_output": json.dumps(CALLS), "metadata": '{"func_name": "add"}', "test": None},
    "in the case": {"test_cases": [{**case, "metadata": {"func_name": "add"}} for case in CALLS]},
}


@pytest.mark.parametrize("kind", LIVE)
def test_rows_of_live_code_bench_with_calls(reward, kind):
    row = {"prompt": "Add a.", **LIVE[kind]}
    assert value(reward, row, f"```python\n{METHOD}\n```") == 1.0
    assert value(reward, row, "def add(a, xs): return [a + x for x in xs]") == 1.0
    assert value(reward, row, METHOD.replace("+", "-")) == 0.0
    assert value(reward, row, METHOD.replace("add", "plus")) == 0.0


def test_a_response_may_go_on_from_starter_code(reward):
    row = {"prompt": "Add a.", **LIVE["starter code"]}
    assert value(reward, row, "        return [a + x for x in xs]") == 1.0
    assert value(reward, row, "```python\nreturn [a + x for x in xs]\n```") == 1.0
    assert value(reward, row, "        return xs") == 0.0


def test_rows_of_live_code_bench_with_standard_input(reward):
    cases = live("stdin", ("3\n1 2 3", "6"), ("2\n10 20\n", "30\n"))
    for row in (
        {
            "public_test_cases": json.dumps(cases[:1]),
            "private_test_cases": packed(cases[1:]),
            "starter_code": "",
            "metadata": "{}",
        },
        {"public_test_cases": cases, "metadata": '{"func_name": null}'},
        {"input_output": {"input": ["3\n1 2 3"], "output": ["6"]}},
    ):
        assert value(reward, row, f"```python\n{PROGRAM}\n```\nSample:\n```\n3\n1 2 3\n```") == 1.0
        assert value(reward, row, PROGRAM.replace("sum", "max")) == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"public_test_cases": CALLS}, "calls need the function's name"),
        ({"public_test_cases": CALLS + live("stdin", ("1", "1"))}, "mixes cases"),
        ({"public_test_cases": CALLS, "private_test_cases": live("stdin", ("1", "1"))}, "all be of standard input"),
        ({"public_test_cases": "[1]"}, "'public_test_cases' must hold an object"),
        ({"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Path("/")))).decode()}, "must hold JSON"),
        ({"private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(Reduced()))).decode()}, "must hold JSON"),
        ({"private_test_cases": "no JSON"}, "'private_test_cases' must hold JSON"),
        ({"test_cases": [{"input": "1"}]}, "'test_cases' must hold"),
        ({"test_cases": "assert add(1, 2) == 3"}, "'test_cases' must hold a list of texts"),
        ({"public_test_cases": CALLS, "starter_code": 3}, "'starter_code' must hold a text"),
    ],
)
def test_rows_of_live_code_bench_that_are_wrong(reward, row, message):
    with pytest.raises(DatasetError, match=message):
        value(reward, {"prompt": "", **row}, METHOD)


@pytest.mark.parametrize(
    ("expected", "found", "right"),
    [
        (0.5, "0.5", 1.0),
        (0.3, "0.1 + 0.2", 1.0),
        (0.3, "0.30001", 0.0),
        ([0.3, 1], "(0.1 + 0.2, 1)", 1.0),
        (2, "2.0", 1.0),
        (2, "2.0000001", 0.0),
        (2.0, "2", 1.0),
        ("0.3", "0.3", 0.0),
        (float("inf"), "10.0 ** 300", 0.0),
        (float("inf"), "10.0 ** 300 * 10.0 ** 300", 1.0),
    ],
)
def test_decimals_that_a_call_returns(reward, expected, found, right):
    row = {"prompt": "", "inputs": [[1]], "outputs": [expected], "fn_name": "f"}
    assert value(reward, row, f"def f(x): return {found}") == right


def test_what_tests_cannot_have_is_said_without_running_anything():
    row = {"prompt": "", "test": "import numpy\nfrom solution import f\n\ndef test_f(): assert f()"}
    assert check_of_row("", "def f(): return 1", row, "UnitTests") == Verdict(
        False, "bad tests", "the tests need what the sandbox does not have: numpy"
    )
