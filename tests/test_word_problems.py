"""The word problems of the example: what is drawn, and the check of a response's reasoning."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SHARED, read_rows, skip_without

FILE = Path(__file__).parents[1] / "examples" / "word_problems" / "problems.py"


def load():
    spec = importlib.util.spec_from_file_location("problems", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["problems"] = module
    spec.loader.exec_module(module)
    return module


problems = load()


def test_there_are_enough_templates():
    training = [template for template in problems.TEMPLATES if not template.held_out]
    assert len(training) >= 40
    assert len(problems.TEMPLATES) - len(training) >= 8
    assert len({template.text for template in problems.TEMPLATES}) == len(problems.TEMPLATES)
    assert {len(template.steps) for template in training} == {1, 2}


@pytest.mark.parametrize("place", range(len(problems.TEMPLATES)))
def test_every_draw_has_a_valid_solution(place):
    rng = random.Random(place)
    for _ in range(300):
        row = problems.make_row(problems.TEMPLATES[place], rng)
        assert "{" not in row["prompt"]
        *lines, last = row["solution"].splitlines()
        known = set(re.findall(r"\d+", row["prompt"]))
        for line in lines:
            left, right = line.split(" = ")
            assert eval(left) == int(right) > 0  # our own text: numbers and signs
            assert set(re.findall(r"\d+", left)) <= known, row
            known.add(right)
        assert last == f"#### {row['answer']}" == f"#### {right}"
        assert problems.is_valid(row["prompt"], row["solution"])


QUESTION = "Tom has 1,200 beads and buys 3 bags of 50. How many beads does he have now?"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("3 * 50 = 150\n1200 + 150 = 1350\n#### 1350", True),
        ("3 * 50 = 150\n1,200 + 150 = 1,350\n\n#### 1,350\n", True),
        ("1200 / 50 = 24\n#### 24", True),  # valid, and not what was asked: its answer tells
        ("3 * 50 = 140\n1200 + 140 = 1340\n#### 1340", False),  # does not hold
        ("1200 + 160 = 1360\n#### 1360", False),  # 160 comes from nowhere
        ("3 * 50 = 150\n1200 + 150 = 1350\n#### 150", False),  # another answer than the last result
        ("3 * 50 = 150\n1200 + 150 = 1350", False),  # no answer
        ("#### 1350", False),  # no reasoning
        ("1350 = 1350\n#### 1350", False),
        ("3 * 50 = 150, so\n#### 150", False),
        ("3 / 0 = 0\n#### 0", False),
        ("", False),
    ],
)
def test_reasoning_is_checked(response, expected):
    assert problems.is_valid(QUESTION, response) is expected


def test_rows_follow_their_seed_and_keep_apart():
    rows = problems.make_rows(500, seed=1)
    assert problems.make_rows(500, seed=1) == rows != problems.make_rows(500, seed=2)
    held = problems.make_rows(200, seed=1, held_out=True)
    assert len({row["prompt"] for row in [*rows, *held]}) == 700


def test_rows_on_the_command_line():
    run = subprocess.run(
        [sys.executable, str(FILE), "--number", "3", "--held_out"], capture_output=True, text=True, check=True
    )
    rows = [json.loads(line) for line in run.stdout.splitlines()]
    assert rows == problems.make_rows(3, seed=0, held_out=True)


def test_solutions_of_real_rows_are_valid():
    """Public one- and two-step problems, whose numbers now and then stand in the question as words."""
    rows = read_rows(skip_without(SHARED / "data" / "words_train.jsonl"))
    valid = [problems.is_valid(row["prompt"], row["solution"]) for row in rows]
    assert sum(valid) > 0.9 * len(rows)
