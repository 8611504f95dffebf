"""Which program a response holds, and which check a row makes of it: the kinds that real scripts and answers show.

The verdicts are those of a person who reads the response; none of them comes from the code.
"""

from __future__ import annotations

import ast
import base64
import json
import pickle
import zlib
from pathlib import Path

import pytest

from bstar_trl.errors import DatasetError
from bstar_trl.rewards import UnitTests
from bstar_trl.rewards.programs import extract_code
from bstar_trl.rewards.rows import check_of_row
from bstar_trl.sandbox import Verdict

INPUTS = Path(__file__).parents[1] / "data" / "inputs_code.jsonl"
CASES = {case["id"]: case for case in map(json.loads, INPUTS.read_text("utf-8").splitlines())}
LEFT_OUT = {"cases-t5": "rows whose tests pass objects of their own classes are not judged: docs/sandbox.md"}


@pytest.fixture(scope="module")
def reward():
    made = UnitTests(progress=False, timeout=10.0)
    yield made
    made.close()


def value(reward: UnitTests, row: dict, completion: str) -> float | None:
    columns = {name: [item] for name, item in row.items() if name != "prompt"}
    return reward.score([row.get("prompt", "")], [completion], **columns)[0].value


@pytest.mark.parametrize("name", CASES)
def test_inputs_that_others_reported(reward, name):
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    case = CASES[name]
    assert value(reward, case["row"], case["completion"]) == case["expected"]


# HumanEval: the prompt is more than code.

CODE = 'from typing import List\n\n\ndef twice(xs: List[int]) -> List[int]:\n    """ Double each. """\n'
BARE = CODE.rstrip("\n")
NO_DOCSTRING = "def twice(xs):\n    # Double each.\n"
DOCTEST = 'def twice(xs):\n    """Double each.\n\n    >>> twice([1])\n    [2]\n    """\n'
HELPER = "import math\n\nN = 2\n\ndef by(n, x):\n    return n * x\n\ndef twice(xs):\n    '''Double each, by `by`.'''\n"
FENCE = "```python\n"
PROMPTS = {
    "code": CODE,
    "no docstring": NO_DOCSTRING,
    "doctest": DOCTEST,
    "helper": HELPER,
    "instruction": "Complete the following function:\n\n" + CODE,
    "sentences": "You are an expert. Don't explain!\nHere's the task (it's easy): finish it.\n\n" + CODE,
    "instruction after": CODE + "\nWrite only the body of the function.\n",
    "indented": "Complete:\n\n" + "".join(f"    {line}\n" for line in CODE.splitlines()),
    "fence": f"Solve:\n{FENCE}{CODE}```\nReturn the whole function.",
    "glued fence": f"Solve: {FENCE}{BARE}```",
    "fence glued to the code": f"Solve:\n```python{CODE}```",
    "bare fence": f"Solve:\n```\n{CODE}```",
    "tildes": f"Solve:\n~~~python\n{CODE}~~~",
    "open fence": f"Solve:\n{FENCE}{CODE}",
    "two fences": f"{FENCE}print(twice([1]))\n```\nmust print [2]. Complete:\n{FENCE}{CODE}```",
    "frame": f"### Instruction:\nComplete the function.\n\n{CODE}\n### Response:\n",
    "frame with the code in it": f"### Instruction:\nComplete it.\n\n### Response:\nHere's the function:\n\n{FENCE}{CODE}",
    "chat template": f"<|im_start|>user\nComplete:\n{CODE}<|im_end|>\n<|im_start|>assistant\n",
    "windows": CODE.replace("\n", "\r\n"),
    "message": [{"role": "user", "content": CODE}],
    "system and user": [
        {"role": "system", "content": "You write Python."},
        {"role": "user", "content": f"Do:\n{CODE}"},
    ],
    "parts": [
        {
            "role": "user",
            "content": [{"type": "text", "text": "Complete this."}, {"type": "text", "text": "\n" + CODE}],
        }
    ],
    "image and text": [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": CODE}]}],
    "earlier turns": [
        {"role": "user", "content": "def thrice(xs):\n    pass"},
        {"role": "assistant", "content": "def thrice(xs):\n    return [3 * x for x in xs]"},
        {"role": "user", "content": "Good. Now:\n" + CODE},
    ],
    "follow-up": [
        {"role": "user", "content": CODE},
        {"role": "assistant", "content": "def twice(xs: List[int]): return xs"},
        {"role": "user", "content": "That is wrong. Try again."},
    ],
    "prefilled": [{"role": "user", "content": "Double each."}, {"role": "assistant", "content": FENCE + CODE}],
    "stub": "Fill in:\n\nfrom typing import List\n\ndef twice(xs: List[int]) -> List[int]:\n    pass\n",
    "dots": "from typing import List\n\ndef twice(xs: List[int]) -> List[int]: ...\n",
    "to do": "def twice(xs):\n    raise NotImplementedError\n",
    "decorated": "import functools\n\n@functools.wraps(len)\ndef twice(xs):\n    '''Double.'''\n",
}
TEST = "def check(candidate):\n    assert candidate([1, 2]) == [2, 4]\n    assert candidate([]) == []\n"
BODY = "    return [2 * x for x in xs]\n"
WHOLE = "def twice(xs):\n" + BODY


PROMPTS |= {
    "imports above prose": "from typing import List\n\nComplete:\n\n" + CODE.partition("\n\n\n")[2],
    "imports of an example that are not there": "Like this:\n\nimport numpy as np\n\nNow complete:\n\n" + CODE,
    "head alone": "Complete:\n\n```python\nfrom typing import List\ndef twice(xs: List[int]) -> List[int]:\n```",
    "tests below": CODE + "\nassert twice([1]) == [2]\nassert twice([]) == []\n",
    "example above": "def inc(x):\n    return x + 1\n\nassert inc(1) == 2\n\n" + CODE,
    "comment at the head": "def twice(xs):  # doubles (each\n    'Double.'\n",
    "head in lines": "def twice(\n    xs,\n):\n    'Double.'\n",
    "docstring in one line": "def twice(xs): 'Double.'\n",
}


def human_eval(prompt, test: str = TEST) -> dict:
    return {"prompt": prompt, "test": test, "entry_point": "twice"}


@pytest.mark.parametrize("kind", PROMPTS)
def test_the_code_in_a_prompt(reward, kind):
    row = human_eval(PROMPTS[kind])
    assert value(reward, row, BODY) == 1.0
    assert value(reward, row, WHOLE) == 1.0
    assert value(reward, row, f"Here you are:\n\n```python\n{WHOLE}```\n\nIt doubles each.") == 1.0
    assert value(reward, row, "    return xs\n") == 0.0
    assert value(reward, row, WHOLE.replace("2", "3")) == 0.0
    assert value(reward, row, "I cannot do that.") == 0.0


@pytest.mark.parametrize("kind", ["code", "instruction", "fence", "frame", "parts", "open fence", "chat template"])
def test_a_whole_function_may_leave_the_imports_of_the_prompt_out(reward, kind):
    typed = "def twice(xs: List[int]) -> List[int]:\n" + BODY
    assert value(reward, human_eval(PROMPTS[kind]), typed) == 1.0


@pytest.mark.parametrize(
    "prompt",
    [
        "Write a function `twice` that doubles each number of a list.",
        "Write twice(xs).\n\n>>> twice([1])\n[2]\n",
        "Add\n",
        "",
        [],
        [{"role": "user", "content": "Double\n"}],
        [{"role": "user", "content": None}],
        "Signature: `def twice(xs: List[int]) -> List[int]`",
        "```python\nassert twice([1]) == [2]\n```",
        "The function (see below",
        'He said """hello',
    ],
)
def test_a_response_to_prose_stands_alone(reward, prompt):
    row = human_eval(prompt)
    assert value(reward, row, WHOLE) == 1.0
    assert value(reward, row, f"```python\n{WHOLE}```") == 1.0
    assert value(reward, row, WHOLE.replace("2", "3")) == 0.0
    assert value(reward, row, BODY) == 0.0  # of what function?


def test_a_prompt_of_imports_and_an_entry_that_is_a_method(reward):
    row = {
        "prompt": "from typing import *\nfrom collections import *\n\ninf = float('inf')\n",
        "test": "def check(candidate):\n    assert candidate([3, 1], 4) == 2\n",
        "entry_point": "Solution().count",
    }
    right = "class Solution:\n    def count(self, xs: List[int], m: int) -> int:\n        return len([x for x in xs if x < m < inf])"
    assert value(reward, row, f"```python\n{right}\n```") == 1.0
    assert value(reward, row, right.replace("<", ">")) == 0.0


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ("  return [2 * x for x in xs]", 1.0),
        ("   return [2 * x for x in xs]", 1.0),
        ("\treturn [2 * x for x in xs]", 1.0),
        ("\tout = []\n\tfor x in xs:\n\t\tout.append(2 * x)\n\treturn out", 1.0),
        ("        return [2 * x for x in xs]", 1.0),
        ("   out = []\n    for x in xs:\n        out.append(2 * x)\n    return out", 1.0),
        (" for x in []:\n        pass\n    return [2 * x for x in xs]", 1.0),
        ("for x in []:\n        pass\n    return [2 * x for x in xs]", 1.0),
        ("for x in []:\n    pass\nreturn [2 * x for x in xs]", 1.0),
        ("out = []\n\tfor x in xs:\n\t\tout.append(2 * x)\n\treturn out", 1.0),
        ("out = []\nfor x in xs:\n    out.append(2 * x)\nreturn out\n\ndef unrelated():\n    return 1", 1.0),
        ("return helper(xs)\n\ndef helper(xs):\n    return [2 * x for x in xs]", 1.0),
        ("    return helper(xs)\n\n\ndef helper(xs):\n    return [2 * x for x in xs]\n", 1.0),
        ("return [\n    2 * x\n    for x in xs\n]", 1.0),
        ("text = '''\nno code\n'''\nreturn [2 * x for x in xs]", 1.0),
        ("    return [2 * x for x in xs]\n```\n\nThis doubles each.", 1.0),
        ("    return [2 * x for x in xs]\n```\n\nTry it:\n\n```python\nprint(twice([1]))\n```", 1.0),
        ("return [2 * x for x in xs]\n```", 1.0),
        ("from typing import List\n\ndef twice(xs):\n    return [2 * x for x in xs]\n```\n", 1.0),
        ("```python\n    return [2 * x for x in xs]\n```\nTest:\n```python\nassert twice([1]) == [2]\n```", 1.0),
        ("The body is:\n\n    return [2 * x for x in xs]\n\nIt doubles each.", 1.0),
        ("    def twice(xs):\n        return [2 * x for x in xs]", 1.0),
        ("    return [2 * x for x in xs]\n\n# Example\nprint(twice([1]))\n", 1.0),
        ("    return [2 * x for x in xs]\n\nExplanation: it's a comprehension, isn't it?\n", 1.0),
        ("    return [x for x in xs]\n```", 0.0),
        ("    returns [2 * x for x in xs]", 0.0),
        ("    # TODO", 0.0),
    ],
)
def test_a_body(reward, body, right):
    assert value(reward, human_eval(CODE), body) == right


@pytest.mark.parametrize(
    "body", ["    for x in xs:\n        out.append(2 * x)\n    return out", "return [2 * x for x in xs]"]
)
def test_a_body_that_the_prompt_has_begun(reward, body):
    assert value(reward, human_eval("def twice(xs):\n    out = []\n"), body) == 1.0


# Tails and frames.

ROW = {"prompt": "Add two numbers.", "test_list": ["assert add(1, 2) == 3", "assert add(-1, 1) == 0"]}
ADD = "def add(a, b):\n    return a + b"


@pytest.mark.parametrize(
    "tail",
    [
        *("<|im_end|>", "\n</s>", "<|endoftext|>", "<|eot_id|>", "\n<|end|>", "<eos>", "\n<end_of_turn>"),
        *(
            "<\uff5cend\u2581of\u2581sentence\uff5c>",
            "\n<|im_end|>\n<|im_start|>user\nThanks!",
            "\n[DONE]",
            "\n[/PYTHON]",
        ),
        *(
            "\n\ndef",
            "\n\nclass",
            "\n\nif",
            "\n\nif __name__ ==",
            "\n\nprint",
            "\n\n#",
            "\n\n@",
            "\n\nassert",
            '\n\n"""',
        ),
        *(
            "\n\ndef test_add(",
            "\n\ndef other(a, b):",
            "\n\nfor",
            "\n\nimport",
            "\n\nfrom",
            "\n\nwhile True:",
            "\n\n@decorated\n",
        ),
        *(
            "\n```",
            "\n```\n",
            "\n```<|im_end|>",
            "\n[DONE]\n\nYou are an expert.\n[BEGIN]\ndef sub(a, b):\n    return a - b",
        ),
        *(
            "\n\nThis function adds two numbers.",
            "\n\n### Explanation\nIt adds.",
            "\n\nQuestion: what is it?",
            "\n\nDone!",
        ),
        *(
            "\n\n1. It adds.\n2. It returns.",
            "\n\n- It adds",
            "\n\n**Note**: fine",
            "\n\nThis is it.",
            "\n\n这是函数。",
        ),
    ],
)
def test_what_follows_a_program_does_not_count(reward, tail):
    assert value(reward, ROW, ADD + tail) == 1.0
    assert value(reward, ROW, ADD.replace("+", "-") + tail) == 0.0


@pytest.mark.parametrize(
    "form",
    [
        *("[BEGIN]\n{}\n[DONE]", "[BEGIN]\n{}", "[PYTHON]\n{}\n[/PYTHON]\n[TESTS]\nassert add(0, 0) == 1\n[/TESTS]"),
        *(
            "<code>\n{}\n</code>",
            "<code>{}</code>",
            "<answer>\n{}\n</answer>",
            "Sure!\n<solution>\n{}\n</solution>\nBye.",
        ),
        *("<answer>\n```python\n{}\n```\n</answer>", '<code lang="python">\n{}\n</code>'),
        *("~~~\n{}\n~~~", "~~~python\n{}\n~~~", "````\n{}\n````", "````python\n{}\n````"),
        *(
            "````markdown\n```python\n{}\n```\n````",
            "````\n```python\n{}\n```\n````",
            "```markdown\n```python\n{}\n```\n```",
        ),
        *(
            "```PYTHON\n{}\n```",
            "```python3.11\n{}\n```",
            "``` python\n{}\n```",
            "```{{python}}\n{}\n```",
            "```python:add.py\n{}\n```",
        ),
        *(
            "```py\n{}```",
            "Here it is: ```python\n{}\n```",
            "1. ```python\n{}\n```",
            "```python {}\n```",
            "```{}\n```",
        ),
        *("```python{}\n```", "```python\n{}\n``` ", "```python\n{}", "{}\n```", "```python\r\n{}\r\n```"),
        *("\ufeff{}", "<s>{}</s>", "<|im_start|>assistant\n{}<|im_end|>", "<think>\nadd? sub?\n</think>\n\n{}"),
        *("Here's the function:\n\n{}\n\nIt's simple.", "Sure, I can help.\n\n{}", "The answer is:\n```\n{}\n```"),
        *("```python\n>>> add(1, 2)\n3\n```\n```python\n{}\n```", "```bash\npip install x\n```\n```\n{}\n```"),
        *("{}\n\nExample:\n```python\nprint(add(1, 2))\n```", "{}\n\n```\n3\n```"),
    ],
)
def test_frames_around_a_program(reward, form):
    assert value(reward, ROW, form.format(ADD)) == 1.0
    assert value(reward, ROW, form.format(ADD.replace("+", "-"))) == 0.0


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("<think>I would write ```python\n" + ADD, 0.0),
        ("<think>\n```python\n" + ADD + "\n```", 0.0),
        ("<thinking>\n" + ADD, 0.0),
        ("<think>\n" + ADD + "\n</think>\nIt is hard.", 0.0),
        ("I would define add(a, b) so that it returns a + b.", 0.0),
        ("```python\n# nothing\n```", 0.0),
        ("```js\nfunction add(a, b) { return a + b }\n```", 0.0),
        ("```python\ndef add(a, b)\n    return a + b\n```", 0.0),
        ("def add(a, b):\n    return a + b)", 0.0),
    ],
)
def test_what_is_no_program(reward, text, right):
    assert value(reward, ROW, text) == right


def test_a_fence_in_a_docstring_does_not_end_the_program(reward):
    code = 'def add(a, b):\n    """Adds.\n\n    ```python\n    add(1, 2)\n    ```\n{}```\n    """\n    return a + b'
    for form in ("```python\n{}\n```", "```\n{}\n```\nIt adds.", "{}", "Here:\n```python\n{}\n```\nand\n```\n3\n```"):
        for margin in ("    ", "", "  "):
            assert value(reward, ROW, form.format(code.format(margin))) == 1.0


# Which block is the program.

BLOCKS = {
    "draft, then better": ["def add(a, b):\n    return a - b", ADD],
    "unittest": [
        ADD,
        "import unittest\nclass T(unittest.TestCase):\n    def test(self):\n        pass\nunittest.main()",
    ],
    "pytest": [ADD, "from solution import add\n\ndef test_add():\n    assert add(1, 2) == 4"],
    "asserts": [ADD, "assert add(1, 2) == 4"],
    "main": [ADD, "def main():\n    print(add(int(input()), 1))\n\nif True:\n    main()"],
    "another function": [ADD, "def sub(a, b):\n    return a - b"],
    "a class": [ADD, "class Adder:\n    pass"],
    "imported": [ADD, "from operator import sub as add"],
    "output": [ADD, "3\n0"],
    "helper first": ["def plus(a, b):\n    return a + b", "def add(a, b):\n    return plus(a, b)"],
    "helper last": ["def add(a, b):\n    return plus(a, b)", "def plus(a, b):\n    return a + b"],
    "helper with a demonstration": [
        "def plus(a, b):\n    return a + b\nprint(input())",
        "def add(a, b):\n    return plus(a, b)",
    ],
    "imports first": ["from operator import add as plus", "def add(a, b):\n    return plus(a, b)"],
    "module first": ["import operator", "def add(a, b):\n    return operator.add(a, b)"],
    "constant first": ["ZERO = 0", "def add(a, b):\n    return a + b + ZERO"],
    "chain": [
        "def one(a):\n    return a",
        "def plus(a, b):\n    return one(a) + b",
        "def add(a, b):\n    return plus(a, b)",
    ],
    "decorator first": ["def same(f):\n    return f", "@same\ndef add(a, b):\n    return a + b"],
    "in an f-string": ["def plus(a, b):\n    return a + b", "def add(a, b):\n    return int(f'{plus(a, b)}')"],
    "a name of a parameter": ["a = input()", ADD],
    "names": ["add = lambda a, b: a + b", "print(add(1, 2))"],
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_block_that_defines_what_the_tests_use(reward, kind):
    text = "\n\nThen:\n\n".join(f"```python\n{block}\n```" for block in BLOCKS[kind])
    assert value(reward, ROW, text) == 1.0


def test_what_the_tests_use_may_be_spread_over_blocks(reward):
    row = {"prompt": "", "tests": ["s = Stack()", "s.push(3)", "assert top(s) == 3"]}
    blocks = [
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x):\n        self.items.append(x)"
    ]
    blocks.append("def top(stack):\n    return stack.items[-1]")
    for order in (blocks, blocks[::-1]):
        assert value(reward, row, "\n".join(f"```python\n{block}\n```" for block in order)) == 1.0


def test_a_later_block_that_defines_the_function_wrongly_counts(reward):
    assert value(reward, ROW, f"```python\n{ADD}\n```\nBetter:\n```python\ndef add(a, b):\n    return a\n```") == 0.0


STDIN = {"prompt": "Sum.", "inputs": ["3\n1 2 3\n", "2\n10 20\n"], "outputs": ["6\n", "30\n"], "fn_name": None}
PROGRAM = "n = int(input())\nprint(sum(map(int, input().split())))"
SCRIPTS = {
    "sample": [PROGRAM, "3\n1 2 3"],
    "sample output": [PROGRAM, "6"],
    "demonstration": [PROGRAM, "def main():\n    print(sum([1, 2]))\n\nmain()"],
    "test": [
        "import sys\n" + PROGRAM.replace("input()", "sys.stdin.readline()"),
        "assert sum([1, 2]) == 3\nprint('ok')",
    ],
    "helper, then program": ["def s(xs):\n    return sum(xs)", "input()\nprint(s(map(int, input().split())))"],
    "helper that reads": ["def read():\n    return input()", "read()\nprint(sum(map(int, read().split())))"],
    "helper with a demonstration": [
        "def s(xs):\n    return sum(xs)\n\nprint(s([1, 2]))",
        "input()\nprint(s(map(int, input().split())))",
    ],
    "unused helper": ["def s(xs):\n    return sum(xs)", PROGRAM],
    "program, then its parts": [PROGRAM, "def s(xs):\n    return sum(xs)"],
    "in two steps": ["n = int(input())\nxs = list(map(int, input().split()))", "print(sum(xs))"],
    "solve and call": ["def solve():\n    input()\n    print(sum(map(int, input().split())))", "solve()"],
    "guarded": [
        "def main():\n    input()\n    print(sum(map(int, input().split())))\n\nif __name__ == '__main__':\n    main()"
    ],
    "fileinput": ["import fileinput\nlines = list(fileinput.input())\nprint(sum(map(int, lines[1].split())))"],
    "draft that reads": [PROGRAM.replace("sum", "max"), PROGRAM],
    "simulated input": [PROGRAM, "import io, sys\nsys.stdin = io.StringIO('3')\nprint('6')"],
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_the_block_that_reads_standard_input(reward, kind):
    for last in ("python", ""):
        tags = ["python"] * (len(SCRIPTS[kind]) - 1) + [last]
        text = "\n\nThen:\n\n".join(f"```{tag}\n{block}\n```" for tag, block in zip(tags, SCRIPTS[kind], strict=True))
        assert value(reward, STDIN, text) == 1.0


@pytest.mark.parametrize(
    "prompt",
    [
        "Repair this:\n\ndef twice(xs):\n    return [2 * x for x in xs]\n",
        "def twice(xs):\n    return [2 * x for x in xs]",
    ],
)
def test_a_complete_function_in_the_prompt_is_no_answer(reward, prompt):
    for row in (human_eval(prompt), {"prompt": prompt, "tests": ["assert twice([1]) == [2]"]}):
        assert value(reward, row, "    return xs") == 0.0
        assert value(reward, row, "x = 1") == 0.0
        assert value(reward, row, WHOLE) == 1.0


# Starter imports.

STARTED = [
    "print(sum(Counter(input().split()).values()) and 0 or reduce(lambda a, b: a + b, map(int, input().split())))",
    "n = int(sys.stdin.readline())\nprint(functools.reduce(operator.add, map(int, stdin.readline().split())))",
    "input()\nd: List[int] = list(accumulate(map(int, input().split())))\nprint(max(d))",
    "from __future__ import annotations\ninput()\nprint(sum(deque(map(int, input().split()))))",
    '"""Adds."""\nfrom __future__ import (\n    annotations,\n)\ninput()\nprint(int(math.fsum(map(int, input().split()))))',
    "input()\nprint(pow(3, 2, 4) - 1 + sum(map(int, input().split())))",  # the builtin `pow`, not that of `math`
]


@pytest.mark.parametrize("code", STARTED)
def test_scripts_know_what_their_harnesses_import(reward, code):
    assert value(reward, STDIN, code) == 1.0


CALL = {"prompt": "", "inputs": [[[3, 1, 2], 2]], "outputs": [2], "fn_name": "kth"}


@pytest.mark.parametrize(
    ("code", "right"),
    [
        (
            "class Solution:\n    def kth(self, xs: List[int], k: int) -> Optional[int]:\n        return nsmallest(k, xs)[-1]",
            1.0,
        ),
        ("def kth(xs, k):\n    heapq.heapify(xs)\n    return [heappop(xs) for _ in range(k)][-1]", 1.0),
        (
            "@lru_cache(None)\ndef f(k):\n    return k\n\n@cache\ndef g(k): return f(k)\ndef kth(xs, k): return g(sorted(xs)[k - 1])",
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
    row = {"prompt": "Write div and Stack.", column: KODCODE}
    code = DIV.replace(old, new) if old else DIV
    assert value(reward, row, f"```python\n{code}\n```\nTests:\n```python\n{KODCODE}\n```") == right


@pytest.mark.parametrize(
    ("test", "wrong"),
    [
        ("from solution import add\n\ndef test_add():\n    assert add(1, 2) == 3", "+"),
        ("from solution import add as plus\n\ndef test_add():\n    assert plus(1, 2) == 3", "+"),
        ("from solution import *\n\ndef test_add():\n    assert add(1, 2) == 3", "+"),
        ("import solution\n\ndef test_add():\n    assert solution.add(1, 2) == 3", "+"),
        ("import solution as s\nimport pytest\n\ndef test_add():\n    assert s.add(1, 2) == pytest.approx(3)", "+"),
        ("def test_add():\n    assert add(1, 2) == 3", "+"),
        ("from solution import add\nassert add(1, 2) == 3", "+"),
        ("from pytest import approx, raises, mark\nfrom solution import add\n\n@mark.slow\n@mark.parametrize('a', [1])\n"
         "@mark.parametrize(['b', 'c'], [(2, 3)])\ndef test_add(a, b, c):\n    assert add(a, b) == approx(c)\n    raises(TypeError, add, None, 1)", "+"),
        ("import unittest\nfrom solution import add\n\nclass Sums(unittest.TestCase):\n    def setUp(self):\n        self.one = 1\n"
         "    def test_add(self):\n        self.assertEqual(add(self.one, 2), 3)\n        with self.assertRaises(TypeError):\n            add(None, 1)\n\n"
         "if __name__ == '__main__':\n    unittest.main()", "+"),
        ("from solution import add\nCASES = [(1, 2, 3)]\n\ndef check(a, b, c):\n    assert add(a, b) == c\n\n"
         "def test_all():\n    for case in CASES:\n        check(*case)", "+"),
        ("import pytest\nfrom solution import add\n\n@pytest.fixture(autouse=True)\ndef ready():\n    yield 1\n\n"
         "@pytest.mark.skip(reason='no')\ndef test_no():\n    assert add(1, 2) == 4\n\ndef test_add(ready):\n    assert add(ready, 2) == 3", "+"),
        ("from solution import add\n\ndef test_add():\n    assert {'a': [add(0.1, 0.2)]}['a'][0] == __import__('pytest').approx(0.3)", "+"),
    ],
)  # fmt: skip
def test_forms_of_tests_written_for_pytest(reward, test, wrong):
    row = {"prompt": "Add.", "test": test}
    assert value(reward, row, ADD) == 1.0
    assert value(reward, row, ADD.replace(wrong, "*")) == 0.0
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
        ("from solution import add\n\ndef test_add(capsys):\n    add(1, 2)\n    assert capsys.readouterr().out == '3'", "capsys"),
        ("import numpy as np\nfrom solution import add\n\ndef test_add():\n    assert np.isclose(add(1, 2), 3)", "numpy"),
        ("from unittest.mock import patch\nfrom solution import add\n\ndef test_add():\n    assert add(1, 2) == 3", "patch"),
        ("import pytest\nfrom solution import add, Odd\n\ndef test_add():\n    with pytest.raises(Odd):\n        add(1, 2)", "class Raises"),
    ],
)  # fmt: skip
def test_tests_for_pytest_that_cannot_judge(reward, test, reason):
    code = "class Odd(Exception): pass\ndef add(a, b):\n    if b: raise Odd('no')\n    return a + b"
    (score,) = reward.score([""], [code], test=[test])
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
    ]
    + [(2, "2.0000001", 0.0), (2.0, "2", 1.0), ("0.3", "0.3", 0.0), (float("inf"), "10.0 ** 300", 0.0)],
)
def test_decimals_that_a_call_returns(reward, expected, found, right):
    row = {"prompt": "", "inputs": [[1]], "outputs": [expected], "fn_name": "f"}
    assert value(reward, row, f"def f(x): return {found}") == right


# Responses are untrusted.

HOSTILE = {  # cut to 100,000 characters: quadratic time would be minutes
    "brackets": "(" * 1_000_000,
    "braces": "f'" + "{" * 1_000_000,
    "numbers": "9 9 9 " * 200_000,
    "blanks": " " * 1_000_000 + "x",
    "tabs and blanks": ("\t" * 100 + " " * 100 + "\n") * 5_000,
    "backticks": "`" * 1_000_000,
    "fences": "```\n" * 250_000,
    "tagged fences": "```python\nx = 1\n```\n" * 50_000,
    "fences in strings": '```\n\\"""\n```\n' * 80_000,
    "fences that never close": "```python\n'''\n" * 70_000,
    "glued fences": "x```\n" * 200_000,
    "tildes": "~~~~\n" * 200_000,
    "growing fences": "\n".join("`" * n for n in range(3, 1_400)),
    "escaped quotes": '\\"' * 500_000,
    "quotes": "\"'" * 500_000,
    "triple quotes": "\"\"\"'''\\" * 140_000,
    "apostrophes": "it's " * 200_000,
    "backslashes": "\\" * 1_000_000,
    "thoughts": "<think>" * 140_000,
    "marks": "<|im_start|>" * 80_000,
    "halves of marks": "<|" * 500_000,
    "frames": "[BEGIN]\n</code>\n" * 60_000,
    "decorators": "@f(\n" * 250_000,
    "definitions": "def f(" * 160_000,
    "definitions in lines": "def f(x): return f(x)\n" * 45_000,
    "loops": "for x " * 160_000,
    "assignments": "a, b, " * 160_000 + "= 1",
    "lambdas": "lambda x, " * 100_000,
    "classes": "class Solution:\n def f(s): g(h\n" * 30_000,
    "words": "one two\n x = 1\n" * 70_000,
    "inputs": "```python\ninput()\nx = y\n```\n```python\ny = x\ninput()\n```\n" * 15_000,
    "features": "from __future__ import (" * 40_000,
}  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_responses_take_linear_time(kind):
    text = HOSTILE[kind][:100_000]
    for row in (human_eval(CODE), ROW, STDIN):
        check_of_row(row["prompt"], text, row, "UnitTests")


def test_no_response_is_ever_compiled(monkeypatch):
    seen = []
    parse = ast.parse
    monkeypatch.setattr(
        ast, "parse", lambda text, *rest, **options: seen.append(text) or parse(text, *rest, **options)
    )
    marker = "unmistakable = 1"
    for number, row in enumerate((human_eval(CODE + "#"), ROW, STDIN, CALL, {"prompt": "#", "test": KODCODE + "#"})):
        for text in (marker, f"```python\n{marker}\n```", WHOLE + marker, f"    {marker}"):
            check_of_row(row["prompt"], text + f" + {number}", row, "UnitTests")
    assert seen
    assert not any("unmistakable" in text for text in seen)


def test_what_tests_cannot_have_is_said_without_running_anything():
    row = {"prompt": "", "test": "import numpy\nfrom solution import f\n\ndef test_f(): assert f()"}
    assert check_of_row("", "def f(): return 1", row, "UnitTests") == Verdict(
        False, "bad tests", "the tests need what the sandbox does not have: numpy"
    )


@pytest.mark.parametrize(
    ("text", "options", "code"),
    [
        ("```python\nx = 1\n```\n```python\ny = 2\n```", {}, "y = 2"),
        ("```python\nx = 1\n```\n```python\ny = 2\n```", {"names": ["x"]}, "x = 1"),
        ("```\nprint(1)\n```\n```python\nx = 1\n```", {"script": True}, "print(1)"),
        ("def f():\n    return 1\n\nIt returns 1.", {}, "def f():\n    return 1"),
        ("It is:\n    return 1", {"body": True}, "    return 1"),
        ("x = '</s>'\ny = \"<|im_end|>\"", {}, "x = '</s>'\ny = \"<|im_end|>\""),
        ("It is hard to say.", {}, ""),
    ],
)
def test_the_code_that_is_extracted(text, options, code):
    assert extract_code(text, **options) == code
