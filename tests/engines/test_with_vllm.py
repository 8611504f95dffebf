"""Sampling and annotating with real vLLM, without a trainer (`make test-vllm`; skipped where it is not installed)."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from bstar_trl.engines import Job, TransformersEngine, VLLMEngine
from bstar_trl.prm_training.annotate import Annotator, Recipe
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import make_dataset

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
PROMPT = "7+1+5+9+8="


@pytest.fixture(scope="module")
def engine():
    """One engine for all tests: it takes most of a minute to start."""
    pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` makes an environment that has it")
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    # So many tokens that no prefill is split: vLLM's CPU generators cannot take back the token that follows.
    options = {"max_model_len": 128, "gpu_memory_utilization": 0.3, "max_num_batched_tokens": 32768}
    return VLLMEngine(policy_path(), stop=("=0", "=1"), **options)


def sample(engine, *, n=400, temperature=1.0, seed=0, max_new_tokens=40, text=PROMPT):
    tokens = engine.tokenizer(text)["input_ids"]
    jobs = [Job(tokens, temperature, 10_000 * seed + copy, max_new_tokens) for copy in range(n)]
    return [item for _, sampled in engine.run(jobs) for item in sampled]


def test_tokens_follow_the_models_distribution_at_each_temperature(engine):
    model = AutoModelForCausalLM.from_pretrained(policy_path(), dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([engine.tokenizer(PROMPT)["input_ids"]])).logits[0, -1].double()
    for temperature in (0.5, 1.0, 2.0):
        first = [item.token_ids[0] for item in sample(engine, temperature=temperature, max_new_tokens=1)]
        share = np.bincount(first, minlength=len(logits)) / len(first)
        assert np.abs(share - torch.softmax(logits / temperature, 0).numpy()).sum() / 2 < 0.12


def test_responses_end_with_eos_or_a_stop_string_or_are_cut(engine):
    sampled = sample(engine)
    for item in sampled:
        text = engine.tokenizer.decode(item.token_ids, skip_special_tokens=True)
        assert item.ended == (item.token_ids[-1] == engine.tokenizer.eos_token_id)
        assert "=0" not in text[:-1]
        assert not text.endswith(("=0", "=1")) or item.ended
    assert all(len(item.token_ids) == 3 and not item.ended for item in sample(engine, max_new_tokens=3, n=20))


def test_seeds_alone_decide(engine):
    assert sample(engine, n=50) == sample(engine, n=50)
    assert sample(engine, n=50) != sample(engine, n=50, seed=1)


def test_annotates_as_transformers_does(engine):
    engine.stop = ()
    recipe = Recipe(separator="=", max_new_tokens=40, solutions=8, labels="soft")
    rows = list(make_dataset(30, (5,), seed=5))
    found = Annotator(engine, SumMatch(), recipe).annotate(rows)
    again = Annotator(engine, SumMatch(), recipe).annotate(rows)
    assert found == again
    other = Annotator(TransformersEngine(policy_path()), SumMatch(), recipe).annotate(rows)
    for figure in ("correct", "ended"):
        means = [np.mean([row[figure] for row in item.rows]) for item in (found, other)]
        assert abs(means[0] - means[1]) < 0.15
    shares = [np.mean([label for row in item.rows for label in row["labels"]]) for item in (found, other)]
    assert abs(shares[0] - shares[1]) < 0.1
    assert found.counts.queries == 30
