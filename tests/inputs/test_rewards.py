"""Reward functions by path: modules, files, classes, functions that make one."""

from __future__ import annotations

import pytest

from bstar_trl.errors import ConfigurationError
from bstar_trl.inputs.rewards import load_rewards

SOURCE = """
from bstar_trl.rewards import RewardFn
from bstar_trl.rewards.base import Score

class Long(RewardFn):
    def __init__(self, least=3):
        super().__init__()
        self.least = least
    def score(self, prompts, completions, **columns):
        return [Score(float(len(text) >= self.least)) for text in completions]

def of_words(most):
    def short(completions, **columns):
        return [float(len(text.split()) <= most) for text in completions]
    return short

def plain(completions, **columns):
    return [0.5 for _ in completions]

number = 3
"""


@pytest.fixture(autouse=True)
def source(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rewards.py").write_text(SOURCE)


def test_rewards_come_from_a_file():
    specs = [
        {"path": "own_rewards.py:Long"},
        {"path": "own_rewards.py:Long", "least": 5, "weight": 2},
        {"path": "own_rewards.py:of_words", "most": 1},
        {"path": "own_rewards.py:plain"},
        {"model": "some/reward-model"},
    ]
    found = load_rewards(specs)
    texts = ["a bc", "abcdef"]
    values = [list(item(prompts=["", ""], completions=texts)) for item in found.functions[:4]]
    assert values == [[1.0, 1.0], [0.0, 1.0], [0.0, 1.0], [0.5, 0.5]]
    assert type(found.functions[0]) is type(found.functions[1])  # the file is read once
    assert found.functions[4] == "some/reward-model"
    assert found.weights == [1.0, 2.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"path": "own_rewards.py:number"}, "must be callable, 'own_rewards.py:number' is int"),
        ({"path": "own_rewards.py:nothing"}, "has no attribute 'nothing'"),
        (
            {"path": "own_rewards.py:Long", "leest": 2},
            r"no argument 'leest' \(did you mean 'least'\?\); it takes least",
        ),
        ({"path": "own_rewards.py:Long", "weight": True}, "weight must be a number, got True"),
        ({"model": 3}, "model must be a Hub id or a folder, got 3"),
    ],
)
def test_what_is_no_reward_is_told(spec, message):
    with pytest.raises(ConfigurationError, match=f"entry 2.*{message}"):
        load_rewards([{"name": "answer_match"}, spec])
