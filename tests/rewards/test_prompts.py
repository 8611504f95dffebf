"""The code in the prompts of rows, and responses that go on from it.

The verdicts are those of a person who reads the response; none of them comes from the code.
"""

from __future__ import annotations

import pytest
from judging import BODY, CODE, NO_DOCSTRING, WHOLE, human_eval, value

from bstar_trl.rewards import UnitTests


@pytest.fixture(scope="module")
def reward():
    made = UnitTests(progress=False, timeout=10.0)
    yield made
    made.close()


BARE = CODE.rstrip("\n")
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
    "frame with the code in it": f"### Instruction:\nComplete it.\n\n### Response:\nHere's the code:\n\n{FENCE}{CODE}",
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

BARE = CODE.rstrip("\n")


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
    right = (
        "class Solution:\n    def count(self, xs: List[int], m) -> int:\n        return sum(x < m < inf for x in xs)"
    )
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
        ("The body:\n```python\nreturn [2 * x for x in xs]\n```", 1.0),
        ("```python\nout = []\nfor x in xs:\n    out.append(2 * x)\nreturn out\n```", 1.0),
        ("    def d(x):\n        return 2 * x\n    return [d(x) for x in xs]", 1.0),
        ("def d(x):\n    return 2 * x\nreturn [d(x) for x in xs]", 1.0),
        ("def d(x):\n        return 2 * x\n    return [d(x) for x in xs]", 1.0),
        ("    if xs:\n        return [2 * x for x in xs]\n    return [] and ''<|im_end|>", 1.0),
        ("\timport math\n\n\tdef d(x):\n\t\treturn 2 * x\n\tfor _ in '1':\n\t\treturn [d(x) for x in xs]", 1.0),
        (
            "    def d(x):\n        return 2 * x\n    while 1: return [d(x) for x in xs]\n```\n\nBecause it's simple.",
            1.0,
        ),
        ("# double\n    return [2 * x for x in xs]", 1.0),
        ("if not xs:\n        return []\n    return [2 * x for x in xs]", 1.0),
        ("if not xs:\n    return []\nelse:\n    return [2 * x for x in xs]", 1.0),
        (CODE + "    return [2 * x for x in xs]", 1.0),
        ("twice = lambda xs: [2 * x for x in xs]", 1.0),
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
def test_a_body_that_an_answer_has_begun(reward, body):
    begun = {"role": "assistant", "content": "def twice(xs):\n    out = []\n"}
    assert value(reward, human_eval([{"role": "user", "content": f"Complete:\n{CODE}"}, begun]), body) == 1.0


@pytest.mark.parametrize(
    "body", ["    for x in xs:\n        out.append(2 * x)\n    return out", "return [2 * x for x in xs]"]
)
def test_a_body_that_the_prompt_has_begun(reward, body):
    assert value(reward, human_eval("def twice(xs):\n    out = []\n"), body) == 1.0


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
