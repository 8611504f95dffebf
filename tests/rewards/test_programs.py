"""Which program a response holds: tails, frames, several blocks, hostile texts.

The verdicts are those of a person who reads the response; none of them comes from the code.
"""

from __future__ import annotations

import ast

import pytest
from judging import ADD, CALL, CODE, KODCODE, PROGRAM, ROW, STDIN, WHOLE, human_eval, value

from bstar_trl.rewards import UnitTests
from bstar_trl.rewards.programs import check_of_row, extract_code


@pytest.fixture(scope="module")
def reward():
    made = UnitTests(progress=False, timeout=10.0)
    yield made
    made.close()


# Tails and frames.


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
            "\n\nHope this helps",
            "\n\nAdds numbers\nas asked",
            "\n```\nHope this helps",
            "\n\nUsage: add(1, 2) -> 3",
            "\n\nOutput: three",
            "\n\nTime complexity: O(1)",
            "\n\n---\nThat is all",
            "\n\n| a | b |\n|---|---|\n| 1 | 2 |",
            "\n\nThat\u2019s \u201cit\u201d \U0001f60a",
            "\n\n>>> add(1, 2)\n3",
            "\n\nprint add(1, 2)",
            "\n\nAlternative (wrong):\n\ndef sub(a, b):\n    return a - b",
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
        *(
            "<pre><code>\n{}\n</code></pre>",
            "\\begin{{lstlisting}}\n{}\n\\end{{lstlisting}}",
            "<answer>```python\n{}\n```",
        ),
        *("* Add.\n* Return.\n\n{}", "Python 3 code:\n{}", "```python\n```python\n{}\n```\n```"),
        *(
            "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>```\n{}\n```<|return|>",
        ),
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


def test_a_margin_of_all_lines_is_dropped(reward):
    for margin in ("    ", "\t", "   "):
        add = "\n".join(margin + line for line in f"# Adds.\n{ADD}".split("\n"))
        total = "\n".join(margin + line for line in PROGRAM.split("\n"))
        for form in ("{}", "```python\n{}\n```", "Here it is:\n\n{}\n"):
            assert value(reward, ROW, form.format(add)) == 1.0
            assert value(reward, STDIN, form.format(total)) == 1.0


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
    "stub last": [ADD, "def add(a: int, b: int) -> int: ..."],
    "signature last": [ADD, "def add(a: Dict[str, int], b: int) -> int"],
    "outline last": [ADD, 'def add(a, b):\n    """Adds."""\n    pass'],
    "stub first": ["def add(a: int, b: int) -> int: ...", ADD],
    "in a string": [ADD, "code = '''\ndef add(a, b):\n    return 0\n'''"],
    "in a comment": [ADD, "# def add(a, b):\n#     return 0\nprint(1)"],
    "nested": [ADD, "def test():\n    def add(a, b): return 0\n    assert add(1, 2) == 0"],
    "session": [ADD, ">>> add = 3\n>>> add\n3"],
    "names": ["add = lambda a, b: a + b", "print(add(1, 2))"],
}


@pytest.mark.parametrize("kind", BLOCKS)
def test_the_block_that_defines_what_the_tests_use(reward, kind):
    text = "\n\nThen:\n\n".join(f"```python\n{block}\n```" for block in BLOCKS[kind])
    assert value(reward, ROW, text) == 1.0


def test_what_the_tests_use_may_be_spread_over_blocks(reward):
    row = {"prompt": "", "tests": ["s = Stack()", "s.push(3)", "assert top(s) == 3"]}
    blocks = [
        "class Stack:\n    def __init__(self):\n        self.items = []\n    def push(self, x): self.items += [x]"
    ]
    blocks.append("def top(stack):\n    return stack.items[-1]")
    for order in (blocks, blocks[::-1]):
        assert value(reward, row, "\n".join(f"```python\n{block}\n```" for block in order)) == 1.0


def test_a_later_block_that_defines_the_function_wrongly_counts(reward):
    assert value(reward, ROW, f"```python\n{ADD}\n```\nBetter:\n```python\ndef add(a, b):\n    return a\n```") == 0.0


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
    "explained line by line": [PROGRAM, "n = int(input())", "print(sum(map(int, input().split())))"],
    "class, then run": [
        "class A:\n    def run(self):\n        input()\n        print(sum(map(int, input().split())))",
        "A().run()",
    ],
    "tests generated": [PROGRAM, "import random\nprint(5)\nprint(random.randint(1, 9))"],
    "session": ["def main():\n    input()\n    print(sum(map(int, input().split())))\n\nmain()", ">>> main()\n6"],
    "simulated input": [PROGRAM, "import io, sys\nsys.stdin = io.StringIO('3')\nprint('6')"],
}


@pytest.mark.parametrize("kind", SCRIPTS)
def test_the_block_that_reads_standard_input(reward, kind):
    for last in ("python", ""):
        tags = ["python"] * (len(SCRIPTS[kind]) - 1) + [last]
        text = "\n\nThen:\n\n".join(f"```{tag}\n{block}\n```" for tag, block in zip(tags, SCRIPTS[kind], strict=True))
        assert value(reward, STDIN, text) == 1.0


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
    "a word": "a" * 1_000_000,
    "a string": "x = '" + "a" * 99_000 + "'\ndef f(): return x\n",
    "words and blanks": "a  \t" * 200_000,
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
    "assignments in blocks": "```python\n" + "".join(f"a{n} = 1\n" for n in range(8_000)) + "```\n```python\nf("
    + ", ".join(f"a{n}" for n in range(8_000)) + ")\n```",
    "blocks in blocks": "".join("```python\n" + "print(input())\n" * n + "```\n" for n in range(100)),
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
