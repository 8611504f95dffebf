"""The starting policy that ships: what it is, what it can do, and that anybody can load it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from bstar_trl.testbed import policy_path
from bstar_trl.testbed.measure import measure, sample
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import answer_of, answer_to, draw_prompts, is_valid, terms_of


def load():
    model = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)
    return model, AutoTokenizer.from_pretrained(policy_path())


def test_it_is_small_and_of_the_designs_shape():
    model, _ = load()
    assert sum(path.stat().st_size for path in Path(policy_path()).iterdir()) < 2_000_000
    assert sum(item.numel() for item in model.parameters()) == pytest.approx(360_000, rel=0.02)
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.head_dim) == (
        3,
        96,
        3,
        32,
    )


def test_tokenizer_is_a_token_per_character_and_comes_back():
    _, tokenizer = load()
    text = "7+1+5+9+8=8+5+9+8=0"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.pad_token_id != tokenizer.eos_token_id


def test_five_terms_are_valid_28_to_35_percent_of_the_time():
    model, tokenizer = load()
    prompts = draw_prompts(4000, (5,), seed=11, held_out=True)
    responses = sample(model, tokenizer, prompts, temperature=1.0, seed=11)
    valid = np.mean(
        [
            text is not None and is_valid(*pair)
            for pair, text in zip(zip(prompts, responses, strict=True), responses, strict=True)
        ]
    )
    assert 0.28 <= valid <= 0.35
    assert sum(text is None for text in responses) < 40  # it ends its responses


@pytest.mark.slow
def test_measured_figures_are_those_of_a_count_by_hand():
    model, tokenizer = load()
    figures = measure(model, tokenizer, seed=3)
    prompts = draw_prompts(300, (5,), seed=0, held_out=True)[:100]
    repeated = [prompt for prompt in prompts for _ in range(32)]
    responses = sample(model, tokenizer, repeated, temperature=1.0, seed=3)
    right, valid = {prompt: [] for prompt in prompts}, {prompt: [] for prompt in prompts}
    for prompt, text in zip(repeated, responses, strict=True):
        if text is not None and answer_of(text) == answer_to(terms_of(prompt)):
            right[prompt].append(text)
        if text is not None and is_valid(prompt, text):
            valid[prompt].append(text)
    assert figures["pass@1"] == pytest.approx(np.mean([len(found) / 32 for found in right.values()]))
    assert figures["valid@1"] == pytest.approx(np.mean([len(found) / 32 for found in valid.values()]))
    assert figures["pass@32"] == pytest.approx(np.mean([bool(found) for found in right.values()]))
    assert figures["pass@32-4"] == pytest.approx(np.mean([len(set(found)) >= 4 for found in right.values()]))
    assert figures["valid@32-4"] == pytest.approx(np.mean([len(set(found)) >= 4 for found in valid.values()]))
    assert figures["distinct_valid"] == pytest.approx(np.mean([len(set(found)) for found in valid.values()]))
    assert set(figures) == {f"{name}{suffix}" for suffix in ("", "_6") for name in (
        "pass@1", "valid@1", "greedy_valid", "pass@32", "pass@32-4", "valid@32-4", "distinct_valid")}  # fmt: skip


def test_sum_match_reads_the_last_digit():
    scores = SumMatch().score(["7+1="] * 4, ["8", "7", "", "1=8"], answer=["8", "8", "8", 8])
    assert [item.value for item in scores] == [1.0, 0.0, 0.0, 1.0]
    assert [item.reason for item in scores] == ["correct", "wrong answer 7", "no answer", "correct"]
