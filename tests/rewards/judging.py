"""Rows of each public shape, and what `UnitTests` makes of a response to one."""

from __future__ import annotations

from bstar_trl.rewards import UnitTests

CODE = 'from typing import List\n\n\ndef twice(xs: List[int]) -> List[int]:\n    """ Double each. """\n'
NO_DOCSTRING = "def twice(xs):\n    # Double each.\n"
TEST = "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n"
BODY = "    return [2 * x for x in xs]\n"
WHOLE = "def twice(xs):\n" + BODY
ROW = {"prompt": "Add two numbers.", "test_list": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
ADD = "def add(a, b):\n    return a + b"
STDIN = {"prompt": "Sum.", "inputs": ["3\n1 2 3\n", "2\n10 20\n"], "outputs": ["6\n", "30\n"], "fn_name": None}
PROGRAM = "n = int(input())\nprint(sum(map(int, input().split())))"
CALL = {"prompt": "", "inputs": [[[3, 1, 2], 2]], "outputs": [2], "fn_name": "kth"}
KODCODE = """import pytest
from solution import div, Stack

@pytest.fixture
def four():
    return 4

@pytest.mark.parametrize("a, b, expected", [(4, 2, 2.0), pytest.param(1, 3, 0.33333333, id="third")])
def test_div(a, b, expected):
    assert div(a, b) == pytest.approx(expected)

@pytest.mark.parametrize("a", [1, 2])
def test_zero(a):
    with pytest.raises(ZeroDivisionError, match="division") as caught:
        div(a, 0)
    assert caught.type is ZeroDivisionError

def test_fixture(four):
    assert div(four, 4) == 1

class TestStack:
    def setup_method(self):
        self.stack = Stack()

    def test_push(self):
        self.stack.push(3)
        assert self.stack.top() == 3
"""


def human_eval(prompt, test: str = TEST) -> dict:
    return {"prompt": prompt, "test": test, "entry_point": "twice"}


def value(reward: UnitTests, row: dict, completion: str) -> float | None:
    columns = {name: [item] for name, item in row.items() if name != "prompt"}
    return reward.score([row.get("prompt", "")], [completion], **columns)[0].value
