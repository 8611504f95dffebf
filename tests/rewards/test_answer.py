"""`AnswerMatch` as TRL and the trainer call it."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import threading

import pytest
from conftest import DATA, read_rows

from bstar_trl.errors import DatasetError, RewardError
from bstar_trl.rewards import AnswerMatch, RewardFn, Score


@pytest.fixture(scope="module")
def reward():
    reward = AnswerMatch(time_limit=30, workers=1)
    yield reward
    reward.close()


def test_it_says_what_it_is(reward):
    assert isinstance(reward, RewardFn)
    assert (reward.name, reward.__name__) == ("AnswerMatch", "AnswerMatch")
    assert (reward.is_verifier, reward.correct_at, reward.columns) == (True, 1.0, ("answer",))
    other = AnswerMatch("solution", name="maths")
    assert (other.__name__, other.columns) == ("maths", ("solution",))


def test_trl_gets_a_list_of_numbers(reward):
    completions = ["#### 72", "The answer is 71.", "what?"]
    values = reward(
        prompts=["a", "b", "c"],
        completions=completions,
        completion_ids=[[1], [2], [3]],
        answer=["72", "72", ""],
        trainer_state=None,
    )
    assert values == [1.0, 0.0, None]


def test_conversations_are_read_by_their_text(reward):
    completion = [{"role": "assistant", "content": r"So \boxed{\frac{1}{2}}."}]
    assert reward([[{"role": "user", "content": "?"}]], [completion], answer=[0.5]) == [1.0]


def test_every_response_has_a_reason(reward):
    scores = reward.score([""] * 4, ["#### 72", "#### 71", "none", "#### 1"], answer=[72, 72.0, "72", None])
    assert scores == [
        Score(1.0, "correct"),
        Score(0.0, "wrong answer 71"),
        Score(0.0, "no answer"),
        Score(None, "gold answer of type NoneType is neither a text nor a number"),
    ]
    assert reward.score([""], ["#### 72"], answer=[math.nan])[0].value is None


def test_another_column_of_whole_solutions():
    rows = read_rows(DATA / "answers.jsonl")
    reward = AnswerMatch("solution")
    answers = [rf"I get \boxed{{{row['answer']}}}." for row in rows]
    assert reward([row["prompt"] for row in rows], answers, solution=[row["solution"] for row in rows]) == [1.0] * 18
    reward.close()


def test_a_missing_column_is_an_error_that_names_it(reward):
    with pytest.raises(DatasetError, match=r"AnswerMatch.*'answer'.*question, solution"):
        reward([""], ["#### 72"], question=["?"], solution=["#### 72"])


def test_a_scorer_that_cannot_score_is_an_error(monkeypatch):
    reward = AnswerMatch(workers=1)
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    assert reward([""], ["#### 72"], answer=["72"]) == [1.0]  # needs no worker
    with pytest.raises(RewardError):
        reward([""], [r"\boxed{1 + x}"], answer=["x + 1"])


def test_a_hang_scores_zero_with_a_reason_from_another_thread():
    reward = AnswerMatch(time_limit=1.0, workers=1)
    scores: list[Score] = []
    texts = [r"\boxed{100000000!}", r"\boxed{1 + x}"]
    thread = threading.Thread(target=lambda: scores.extend(reward.score(["", ""], texts, answer=["5", "x + 1"])))
    thread.start()
    thread.join(60)
    assert scores == [Score(0.0, "comparison timed out"), Score(1.0, "correct")]
    reward.close()


def test_it_can_be_copied(reward):
    assert copy.deepcopy(reward)([""], ["#### 72"], answer=[72]) == [1.0]


def test_rewards_are_imported_without_torch():
    code = "import sys, bstar_trl.rewards; print([name for name in ('torch', 'trl', 'sympy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
