"""Programs that a policy paid for passing tests might write: honest ones, and those that would rather not solve it.

`programs.txt` holds them in groups. HONEST must pass, WRONG and HACKS must not. Those of ATTACKS try something on the
machine and *report truthfully* whether it worked; their tests assert that it did not, so they pass in a sandbox that
holds. BOMBS must not pass, and must cost no more than their limits. Words like `@CANARY@` are filled in by the runner
(`run_suite.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ADD = ("assert add(2, 3) == 5", "assert add(-1, 1) == 0", "assert add(20, 22) == 42")
RIGHT = "def add(a, b):\n    return a + b\n"


@dataclass(frozen=True)
class Case:
    """One program: its tests, and what must come of it."""

    group: str
    name: str
    program: str
    tests: tuple[str, ...] = ADD
    passes: bool = False
    reasons: tuple[str, ...] = ()
    timeout: float = 10.0
    memory_mb: int = 512
    in_place: bool = False


def read(path: Path) -> list[Case]:
    """`#### GROUP: name`, `## passes` or `## fails: reasons; limits`, the program, and `## test` before each test."""
    cases = []
    for block in re.split(r"^#### ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        head, wanted, body = block.split("\n", 2)
        group, _, name = head.partition(": ")
        outcome, _, limits = wanted.removeprefix("## ").partition("; ")
        verb, _, reasons = outcome.partition(": ")
        program, *tests = re.split(r"^## test\n", body.rstrip("\n") + "\n", flags=re.MULTILINE)
        options = {key: float(value) for key, _, value in (item.partition("=") for item in limits.split())}
        cases.append(
            Case(
                group,
                name,
                program,
                tuple(test.rstrip("\n") for test in tests) or ADD,
                passes=verb == "passes",
                reasons=("passed",) if verb == "passes" else tuple(reasons.split(", ")) if reasons else (),
                timeout=options.get("timeout", 10.0),
                memory_mb=int(options.get("memory_mb", 512)),
                in_place=bool(options.get("in_place")),
            )
        )
    return cases


# Sources that no text file holds.
COMPUTED = [
    ("brackets", "(" * 100_000 + ")" * 100_000),
    ("unary", "x = " + "-" * 1_000_000 + "1\n" + RIGHT),
    ("sum", "x = " + "1+" * 300_000 + "1\ndef add(a, b): return 0\n"),
    ("strings", "x = " + "f'{" * 500 + "1" + "}'" * 500 + "\n" + RIGHT),
    ("long line", "x = [" + "1," * 2_000_000 + "]\ndef add(a, b): return 0\n"),
    ("zero byte", RIGHT + "\0"),
    ("lone surrogate", "x = '\ud800'\n" + RIGHT),
]
BY_PARSER = ("syntax", "no answer", "memory", "wrong answer", "timeout")
EVERYTHING = read(Path(__file__).with_name("programs.txt"))
EVERYTHING += [Case("BOMBS", f"parser bomb, {name}", text, reasons=BY_PARSER, timeout=5) for name, text in COMPUTED]
