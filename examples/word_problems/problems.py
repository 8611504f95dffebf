"""Word problems in English without end, and a check that tells valid reasoning from a right answer.

A problem has one or two steps. Its solution writes each step as an equation in a line of its own, and the answer last:

    104 - 41 = 63
    63 / 9 = 7
    #### 7

`make_rows` draws problems from templates; some templates are held out for evaluation. `is_valid` checks a response:
every equation holds and uses numbers of the question or earlier results, and the answer is the last result.
"""

from __future__ import annotations

import argparse
import ast
import json
import random
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

NAMES = (
    "Ada", "Amir", "Bea", "Carlos", "Chloe", "Dara", "Elias", "Emma", "Farid", "Grace", "Hana", "Ivan", "Jada",
    "Jonas", "Kofi", "Lena", "Luca", "Maya", "Milo", "Nadia", "Noor", "Omar", "Pia", "Quinn", "Rosa", "Sam", "Tariq",
    "Uma", "Victor", "Wendy", "Yusuf", "Zoe",
)  # fmt: skip
THINGS = (
    "apples", "balloons", "beads", "books", "buttons", "cards", "coins", "cookies", "crayons", "eggs", "flowers",
    "lemons", "marbles", "muffins", "oranges", "peaches", "pencils", "postcards", "ribbons", "seashells", "shells",
    "stamps", "stickers", "tickets", "tomatoes", "toy cars",
)  # fmt: skip
PLACES = ("bakery", "bookshop", "farm", "garden", "kiosk", "library", "market", "museum", "school", "toy shop")


@dataclass(frozen=True)
class Template:
    """A kind of problem, as a line of templates.jsonl holds it.

    Args:
        text: the question. `{name}`, `{other}`, `{things}` and `{place}` are filled from the lists above, other braces
            with numbers.
        numbers: what they are, from left to right: `x=2..9` draws one, `x=a+b*c` computes one.
        steps: the equations' left sides, of numbers, and of results as `r1`.
        held_out: kept for evaluation, never trained on.
    """

    text: str
    numbers: str
    steps: tuple[str, ...]
    held_out: bool


TEMPLATES = tuple(
    Template(**row | {"steps": tuple(row["steps"])})
    for row in map(json.loads, Path(__file__).with_name("templates.jsonl").read_text().splitlines())
)

_EQUATION = re.compile(r"\s*(\S+?)\s*([-+*/])\s*(\S+?)\s*=\s*(\S+?)\s*")
_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_ANSWER = re.compile(r"####\s*(\S+)\s*$")


def make_row(template: Template, rng: random.Random) -> dict[str, str]:
    """A problem: `prompt`, `solution` (an equation a line, then `#### answer`) and `answer`."""
    numbers = _draw(template.numbers, rng)
    name, other = rng.sample(NAMES, 2)
    words = {"name": name, "other": other, "things": rng.choice(THINGS), "place": rng.choice(PLACES)}
    values, lines = dict(numbers), []
    for place, step in enumerate(template.steps, start=1):
        left, sign, right = step.split()
        result = _computed(Fraction(values[left]), sign, Fraction(values[right]))
        if result is None or result.denominator != 1 or result < 1:
            raise ValueError(f"{template.text!r}: {values[left]} {sign} {values[right]} is not a number of things")
        values[f"r{place}"] = int(result)
        lines.append(f"{values[left]} {sign} {values[right]} = {int(result)}")
    answer = str(values[f"r{len(lines)}"])
    return {
        "prompt": template.text.format(**words, **numbers),
        "solution": "\n".join([*lines, f"#### {answer}"]),
        "answer": answer,
    }


def column(row: Mapping[str, str], *names: str) -> str:
    """The first of these columns that a row has. `SystemExit`: it has none of them."""
    for name in names:
        if name in row:
            return row[name]
    sys.exit(f"the rows need a column {' or '.join(map(repr, names))}; they have {', '.join(map(repr, row))}")


def as_query(row: Mapping[str, str]) -> str:
    """The question of a row (`question` or `prompt`) as the models of this folder are asked it."""
    return f"{column(row, 'question', 'prompt').strip()}\n"


def make_rows(number: int, *, seed: int, held_out: bool = False) -> list[dict[str, str]]:
    """So many problems, no two with the same text."""
    rng = random.Random(f"{seed} {held_out}")
    templates = [template for template in TEMPLATES if template.held_out is held_out]
    rows: dict[str, dict[str, str]] = {}
    while len(rows) < number:
        row = make_row(rng.choice(templates), rng)
        rows.setdefault(row["prompt"], row)
    return list(rows.values())


def is_valid(question: str, response: str) -> bool:
    """Whether every line is an equation that holds, of numbers of the question or results of earlier lines, and the
    answer is the last result.

    Numbers may be used more than once, and some not at all. So a response may still compute something that was not
    asked for: valid reasoning that is wrong has another answer than the gold one.
    """
    *lines, last = [line for line in response.strip().splitlines() if line.strip()] or [""]
    answer = _ANSWER.fullmatch(last.strip())
    known = {_value(text) for text in _NUMBER.findall(question)}
    result = None
    for line in lines:
        equation = _EQUATION.fullmatch(line)
        if equation is None:
            return False
        left, right, result = (_value(equation.group(part)) for part in (1, 3, 4))
        if left is None or right is None or result is None or not known.issuperset((left, right)):
            return False
        if _computed(left, equation.group(2), right) != result:
            return False
        known.add(result)
    return result is not None and answer is not None and _value(answer.group(1)) == result


def _draw(numbers: str, rng: random.Random) -> dict[str, int]:
    found: dict[str, int] = {}
    for part in numbers.split():
        name, _, rule = part.partition("=")
        low, dots, high = rule.partition("..")
        found[name] = rng.randint(int(low), int(high)) if dots else _arithmetic(rule, found)
    return found


def _arithmetic(rule: str, numbers: dict[str, int]) -> int:
    """Sums, differences and products of numbers: `a+b*c`, `2*d`."""
    tree = ast.parse(rule, mode="eval").body

    def value(node: ast.expr) -> int:
        match node:
            case ast.Name():
                return numbers[node.id]
            case ast.Constant(value=int(number)):
                return number
            case ast.BinOp(op=ast.Add()):
                return value(node.left) + value(node.right)
            case ast.BinOp(op=ast.Sub()):
                return value(node.left) - value(node.right)
            case ast.BinOp(op=ast.Mult()):
                return value(node.left) * value(node.right)
        raise ValueError(f"a rule adds, subtracts and multiplies, got {rule!r}")

    return value(tree)


def _value(text: str) -> Fraction | None:
    try:
        return Fraction(text.strip("$.,;").replace(",", ""))
    except (ValueError, ZeroDivisionError):
        return None


def _computed(left: Fraction, sign: str, right: Fraction) -> Fraction | None:
    if sign == "/":
        return left / right if right else None
    return left + right if sign == "+" else left - right if sign == "-" else left * right


def main() -> None:
    """Write problems as JSON lines."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--number", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held_out", action="store_true", help="templates that are kept for evaluation")
    parsed = parser.parse_args()
    for row in make_rows(parsed.number, seed=parsed.seed, held_out=parsed.held_out):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
