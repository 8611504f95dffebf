"""`UnitTests` on real rows of MBPP and HumanEval, and on rows in the shape of APPS; what counts as code."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED

from bstar_trl.errors import ConfigurationError, DatasetError
from bstar_trl.rewards import RewardFn, UnitTests
from bstar_trl.rewards.programs import check_of_row, extract_code
from bstar_trl.sandbox import RemoteSandbox

pytestmark = pytest.mark.filterwarnings("ignore:invalid escape sequence")  # in the rows' solutions
DATA = Path(__file__).parents[1] / "data"
FULL = SHARED / "data"
KINDS = ("mbpp", "humaneval")


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def columns_of(rows: list[dict]) -> dict[str, list]:
    return {name: [row[name] for row in rows] for name in rows[0] if name not in ("prompt", "solution")}


def scores(reward: UnitTests, rows: list[dict], completions: list[str]) -> list:
    return reward.score([row["prompt"] for row in rows], completions, **columns_of(rows))


def fenced(code: str) -> str:
    return f"Here it is:\n\n```python\n{code}\n```\n\nIt works."


def stub_of(kind: str, row: dict) -> str:
    """Every function of the solution, with nothing in it."""
    if kind == "humaneval":
        return "    pass\n"
    names = [node.name for node in ast.walk(ast.parse(row["solution"])) if isinstance(node, ast.FunctionDef)]
    classes = [node.name for node in ast.parse(row["solution"]).body if isinstance(node, ast.ClassDef)]
    methods = "\n".join(f"class {name}:\n    def __init__(self, *a): pass" for name in classes)
    return methods + "\n" + "\n".join(f"def {name}(*a, **k): pass" for name in names if not name.startswith("__"))


@pytest.fixture(scope="module")
def reward():
    made = UnitTests(progress=False, timeout=10.0)
    yield made
    made.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", [str, fenced])
def test_solutions_pass_and_stubs_do_not(reward, kind, form):
    rows = rows_of(DATA / f"{kind}.jsonl")
    right = scores(reward, rows, [form(row["solution"]) for row in rows])
    assert [(row["id"], item.reason) for row, item in zip(rows, right, strict=True) if item.value != 1.0] == []
    stubs = scores(reward, rows, [form(stub_of(kind, row)) for row in rows])
    assert [row["id"] for row, item in zip(rows, stubs, strict=True) if item.value != 0.0] == []


@pytest.mark.slow
@pytest.mark.skipif(not FULL.exists(), reason="the whole data sets lie beside the repository, not in it")
@pytest.mark.parametrize(("kind", "count"), [("mbpp", 872), ("humaneval", 124)])
@pytest.mark.parametrize("form", [str, fenced])
def test_all_solutions_pass_and_no_stub_does(reward, kind, count, form):
    rows = rows_of(FULL / f"{kind}.jsonl")
    assert len(rows) == count
    right = scores(reward, rows, [form(row["solution"]) for row in rows])
    assert [(row["id"], item.reason) for row, item in zip(rows, right, strict=True) if item.value != 1.0] == []
    stubs = scores(reward, rows, [form(stub_of(kind, row)) for row in rows])
    assert [row["id"] for row, item in zip(rows, stubs, strict=True) if item.value != 0.0] == []


def test_a_whole_function_and_a_conversation_are_read_too(reward):
    rows = rows_of(DATA / "humaneval.jsonl")
    whole = [fenced(row["prompt"] + row["solution"]) for row in rows]
    assert [item.value for item in scores(reward, rows, whole)] == [1.0] * len(rows)
    talks = [[{"role": "user", "content": f"Complete this:\n```python\n{row['prompt']}```"}] for row in rows]
    assert [item.value for item in reward.score(talks, whole, **columns_of(rows))] == [1.0] * len(rows)
    answers = [[{"role": "assistant", "content": text}] for text in whole]
    extra = {"trainer_state": object(), "completion_ids": [[1]] * len(rows)}
    assert reward(talks, answers, **columns_of(rows), **extra) == [1.0] * len(rows)  # as TRL calls it


@pytest.mark.parametrize("lost", ["first", "all", "none"])
def test_a_body_may_have_lost_its_indentation(reward, lost):
    (row,) = [row for row in rows_of(DATA / "humaneval.jsonl") if row["id"] == "humaneval-0"]
    body = row["solution"]
    if lost == "first":
        body = body.lstrip()
    elif lost == "all":
        body = "\n".join(line.removeprefix("    ") for line in body.split("\n"))
    assert scores(reward, [row], [body])[0].value == 1.0


def test_a_helper_of_the_prompt_cannot_be_redefined_for_the_tests(reward):
    (row,) = [row for row in rows_of(DATA / "humaneval.jsonl") if row["id"] == "humaneval-32"]
    hack = "    return 99\n\n\ndef poly(xs, x):\n    return 0\n"
    assert scores(reward, [row], [hack])[0].value == 0.0


APPS = {"prompt": "Double.", "inputs": ["2\n", "5\n"], "outputs": ["4\n", "10\n"], "fn_name": ""}
CALLS = {"prompt": "Add.", "inputs": [[1, 2], [[1], [2]]], "outputs": [3, [[1, 2]]], "fn_name": "add"}


@pytest.mark.parametrize(
    ("row", "code", "value"),
    [
        (APPS, "print(int(input()) * 2)", 1.0),
        (APPS, "if __name__ == '__main__':\n    print(int(input()) * 2)", 1.0),
        (APPS, "print(4)", 0.0),
        (APPS, "import sys\nsys.exit(0)", 0.0),
        (APPS | {"outputs": [["4"], ["10"]]}, "print(int(input()) * 2, end='')", 1.0),
        (CALLS, "def add(a, b):\n    return a + b", 1.0),
        (CALLS, "class Solution:\n    def add(self, a, b):\n        return a + b", 1.0),
        (CALLS, "def add(a, b):\n    return (a + b) if a == 1 else tuple(a + b)", 1.0),  # JSON has no tuples
        (CALLS, "def add(a, b):\n    return 3", 0.0),
        (CALLS, "def sub(a, b):\n    return 3", 0.0),
        (CALLS, "class A:\n    def __eq__(self, o): return True\ndef add(a, b):\n    return A()", 0.0),
        (
            {"prompt": "", "inputs": ["1\n[2]"], "outputs": ["[1, 2]"], "fn_name": "f"},
            "def f(a, b):\n    return [a] + b",
            1.0,
        ),
        ({"prompt": "", "input_output": json.dumps({"inputs": ["3"], "outputs": ["3"]})}, "print(input())", 1.0),
        (
            {"prompt": "", "input_output": {"inputs": [[3]], "outputs": [4], "fn_name": "f"}},
            "def f(x): return x + 1",
            1.0,
        ),
    ],
)
def test_rows_in_the_shape_of_apps(reward, row, code, value):
    for form in (str, fenced):
        assert scores(reward, [row], [form(code)])[0].value == value


def test_the_reason_says_why(reward):
    rows = rows_of(DATA / "mbpp.jsonl")[:1] * 4
    texts = [rows[0]["solution"], fenced("def f(: pass"), "", "```python\n```"]
    reasons = [item.reason for item in scores(reward, rows, texts)]
    assert reasons[0] == "passed"
    assert reasons[1].startswith("syntax: while loading: SyntaxError")
    assert reasons[2:] == ["no code", "no code"]


def test_tests_that_do_not_compile_cannot_judge(reward):
    (item,) = scores(reward, [{"prompt": "", "tests": ["assert f() =="]}], ["def f(): return 1"])
    assert item.value is None
    assert item.reason.startswith("bad tests")


IN_PLACE = {"prompt": "", "tests": ["xs = [3, 1]\nys = sort_it(xs)\nassert xs == [1, 3]"]}
STATEMENT = {"prompt": "", "tests": ["xs = [3, 1]\nsort_it(xs)\nassert xs == [1, 3]"]}


@pytest.mark.parametrize(
    ("row", "code", "value"),
    [
        (IN_PLACE | {"in_place": True}, "def sort_it(xs): xs.sort()", 1.0),
        (IN_PLACE | {"in_place": True}, "def sort_it(xs): return sorted(xs)", 0.0),
        (IN_PLACE | {"in_place": False}, "def sort_it(xs): xs.sort()", 0.0),
        (IN_PLACE | {"in_place": None}, "def sort_it(xs): xs.sort()", 0.0),
        (STATEMENT, "def sort_it(xs): xs.sort()", 1.0),
        (STATEMENT, "def sort_it(xs):\n    xs.sort()\n    return xs", 1.0),
        (STATEMENT, "def sort_it(xs): return sorted(xs)", 0.0),
        (STATEMENT | {"in_place": False}, "def sort_it(xs): xs.sort()", 0.0),
        (
            {
                "prompt": "def first(xs):\n",
                "test": "def check(c):\n    xs = [2]\n    c(xs)\n    assert xs == []",
                "entry_point": "first",
                "in_place": True,
            },
            "    xs.clear()",
            1.0,
        ),
    ],
)
def test_functions_that_work_in_place(reward, row, code, value):
    assert scores(reward, [row], [code])[0].value == value


def test_tests_that_pass_objects_of_their_own_cannot_judge(reward):
    row = {"prompt": "", "setup": "class Node:\n    value = 3", "tests": ["assert value_of(Node()) == 3"]}
    (item,) = scores(reward, [row], ["def value_of(node): return node.value"])
    assert item.value is None
    assert item.reason == "bad tests: the tests pass an object of class Node, which does not cross"


def test_mixed_rows_and_equal_programs(reward):
    rows = [APPS | {"tests": None}, {**dict.fromkeys(APPS), "prompt": "", "tests": ["assert f() == 1"]}]
    texts = ["print(int(input()) * 2)", "def f(): return 1"]
    assert [item.value for item in scores(reward, rows, texts)] == [1.0, 1.0]
    assert [item.value for item in scores(reward, rows[1:] * 5, texts[1:] * 5)] == [1.0] * 5


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "", "answer": "4"}, "needs .*columns.*'tests'"),
        ({"prompt": "", "tests": "assert True"}, "'tests' must hold a list of texts"),
        ({"prompt": "", "tests": 5}, "'tests' must hold a list of texts, got 5"),
        ({"prompt": "", "tests": ["assert 1"], "in_place": "yes"}, "'in_place' must hold true or false, got 'yes'"),
        ({"prompt": "", "tests": ["assert 1"], "setup": 5}, "'setup' must hold a text, got 5"),
        ({"prompt": "", "test": 5, "entry_point": "f"}, "'test' must hold a text, got 5"),
        ({"prompt": "", "inputs": ["1"], "outputs": ["1", "2"]}, "1 inputs, but 2 outputs"),
        ({"prompt": "", "inputs": "1", "outputs": ["1"]}, "'inputs' must hold a list, got '1'"),
        ({"prompt": "", "input_output": "{'inputs'"}, "'input_output' must hold JSON .* got "),
        ({"prompt": "", "input_output": "[1]"}, r"'input_output' must hold an object .*, got \[1\]"),
        ({"prompt": "", "inputs": ["["], "outputs": ["1"], "fn_name": "f"}, "'inputs' must hold JSON"),
    ],
)
def test_rows_of_no_known_shape_are_errors(reward, row, message):
    with pytest.raises(DatasetError, match=message):
        scores(reward, [row], ["x = 1"])
    with pytest.raises(DatasetError, match=message):
        reward.check_row(row)


@pytest.mark.parametrize("tests", [None, [], ""])
def test_a_row_without_tests_cannot_be_judged(reward, tests):
    row = {"prompt": "", "answer": "4", "tests": tests, "test": None}
    reward.check_row(row)
    (score,) = scores(reward, [row], ["x = 1"])
    assert (score.value, score.reason) == (None, "bad tests: the row has none")


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("x = 1\n", "x = 1"),
        ("    return 1\n", "    return 1"),
        ("```python\nx = 1\n```", "x = 1"),
        ("```py\nx = 1\n```", "x = 1"),
        ("~~~\nx = 1\n~~~", "x = 1"),
        ("````python\ns = '''```'''\n````", "s = '''```'''"),
        ("```python\nx = 1", "x = 1"),
        ("First\n```python\ndef f(): pass\n```\nUse it:\n```python\nprint(f())\n```", "def f(): pass"),
        ("Draft\n```python\ndef f(): return 0\n```\nBetter\n```python\ndef f(): return 1\n```", "def f(): return 1"),
        ("```bash\npip install x\n```\n```python\nx = 1\n```", "x = 1"),
        ("```json\n{}\n```", "{}"),
        ("<think>```python\nwrong\n```</think>\n```python\nright = 1\n```", "right = 1"),
        ("```python\r\nx = 1\r\n```", "x = 1"),
        ("1. Do:\n   ```python\n   x = 1\n   ```", "x = 1"),
        ("", ""),
        ("```python\n```", ""),
    ],
)
def test_the_code_in_a_completion(text, code):
    assert extract_code(text) == code


def test_the_verifier_introduces_itself():
    made = UnitTests(name="tests")
    assert isinstance(made, RewardFn)
    assert (made.name, made.is_verifier, made.correct_at) == ("tests", True, 1.0)


def test_strict_is_about_this_machine():
    with pytest.raises(ConfigurationError, match="strict=True"):
        UnitTests(strict=True, executor=RemoteSandbox("http://127.0.0.1:1"))


def test_human_eval_keeps_what_the_prompt_defines_on_the_tests_side():
    (row,) = [row for row in rows_of(DATA / "humaneval.jsonl") if row["id"] == "humaneval-38"]
    check = check_of_row(row["prompt"], row["solution"], row, "UnitTests")
    assert check.names == ("decode_cyclic",)
    assert "def encode_cyclic" in check.trusted


def test_the_reward_needs_no_torch():
    code = "import sys, bstar_trl.rewards; bstar_trl.rewards.UnitTests(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "False\n"


EMPTIES = "def f(xs):\n    xs.clear()\n    return []"


@pytest.mark.parametrize(
    "tests",
    [
        ["xs = [3, 1]", "assert f(xs) == sorted(xs)"],
        ["def check(c):\n    xs = [3, 1]\n    assert c(xs) == sorted(xs)\ncheck(f)"],
        ["xs = [3, 1]", "f(xs)", "ys = [2, 1]", "assert f(ys) == sorted(ys)"],
    ],
)
def test_an_emptied_argument_comes_back_only_where_the_tests_see_no_value(tests):
    reward = UnitTests(progress=False)
    (score,) = reward.score([""], [EMPTIES], tests=[tests])
    assert score.value < 1
    (score,) = reward.score([""], ["def f(xs): xs.sort()"], tests=[["xs = [3, 1]", "f(xs)", "assert xs == [1, 3]"]])
    assert score.value == 1
    reward.close()
