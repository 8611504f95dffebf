"""Awkward inputs from public bug reports, with the verdict that a sensible grader gives."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import DATA, read_rows

from bstar_trl.rewards import AnswerMatch, MultipleChoice


def make_cases(name: str) -> list[Any]:
    return [pytest.param(row, id=row["id"]) for row in read_rows(DATA / f"{name}.jsonl")]


@pytest.fixture(scope="module")
def answer_match():
    reward = AnswerMatch(time_limit=30, workers=1)
    yield reward
    reward.close()


@pytest.mark.parametrize("row", make_cases("inputs_answers"))
def test_answers_are_judged_as_a_sensible_grader_judges(answer_match, row):
    score = answer_match.score([""], [row["response"]], answer=[row["gold"]])[0]
    assert score.value == row["expected"], score.reason


@pytest.mark.parametrize("row", make_cases("inputs_choices"))
def test_choices_are_judged_as_a_sensible_grader_judges(row):
    score = MultipleChoice().score([""], [row["response"]], answer=[row["gold"]], choices=[row["choices"]])[0]
    assert score.value == row["expected"], score.reason
