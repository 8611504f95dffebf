"""The shipped process reward model: made without the truth, measured against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import mannwhitneyu
from transformers import AutoModelForCausalLM, AutoTokenizer

from bstar_trl.rewards import ProcessReward
from bstar_trl.testbed import policy_path, prm_path
from bstar_trl.testbed.measure import sample
from bstar_trl.testbed.task import answer_of, answer_to, draw_prompts, is_valid, terms_of

RESPONSES = 16


@pytest.fixture(scope="module")
def judged():
    """Rewards and truths of the starting policy's chains for held-out sums, a row for each sum."""
    policy = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)
    drawn = draw_prompts(120, (5, 5, 6), seed=77, held_out=True)
    prompts = [prompt for prompt in drawn for _ in range(RESPONSES)]
    tokenizer = AutoTokenizer.from_pretrained(policy_path())
    texts = [text or "" for text in sample(policy, tokenizer, prompts, temperature=1.0, seed=5)]
    pairs = list(zip(prompts, texts, strict=True))
    rewards = np.array(ProcessReward(prm_path(), dtype=torch.float32)(prompts, texts))
    valid = np.array([is_valid(*pair) for pair in pairs])
    right = np.array([answer_of(text) == answer_to(terms_of(prompt)) for prompt, text in pairs])
    five = np.array([len(terms_of(prompt)) == 5 for prompt in drawn])
    return tuple(item.reshape(-1, RESPONSES) for item in (rewards, valid, right)), five


def test_it_is_small():
    assert sum(path.stat().st_size for path in Path(prm_path()).iterdir()) < 1_300_000


def test_it_tells_valid_chains_from_others(judged):
    (rewards, valid, _), _ = judged
    wins = mannwhitneyu(rewards[valid], rewards[~valid]).statistic  # the area under the curve, counted in pairs
    assert wins / (valid.sum() * (~valid).sum()) >= 0.9


def test_it_tells_valid_chains_from_lucky_ones(judged):
    (rewards, valid, right), _ = judged
    lucky = right & ~valid
    wins = mannwhitneyu(rewards[valid], rewards[lucky]).statistic
    assert wins / (valid.sum() * lucky.sum()) >= 0.85


def test_the_best_of_sixteen_is_far_better_than_one(judged):
    (rewards, valid, right), five = judged
    best = rewards.argmax(axis=1)
    rows = np.arange(len(rewards))
    for truth in (valid, right):
        assert truth[rows, best][five].mean() >= truth[five].mean() + 0.25
