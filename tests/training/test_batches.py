"""How the selected responses reach the optimizer."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
import torch

from bstar_trl.errors import ConfigurationError
from bstar_trl.records import Completion
from bstar_trl.training.batches import BatchShape, TrainingBatches

PAD = 0


def make_samples(number: int) -> list[Completion]:
    """The i-th prompt is i + 10, (i mod 3) + 1 times; its completion is i + 100, (i mod 4) times, and EOS."""
    prompts = [[index + 10] * (index % 3 + 1) for index in range(number)]
    responses = [[index + 100] * (index % 4) + [1] for index in range(number)]
    return [
        Completion(index, 0.7, prompt, response, f"text {index}", "stop")
        for index, (prompt, response) in enumerate(zip(prompts, responses, strict=True))
    ]


def make_batches(number: int = 7, num_steps: int = 5, shape: BatchShape | None = None) -> TrainingBatches:
    shape = shape or BatchShape(accumulation=2, processes=1, size=3)
    return TrainingBatches(make_samples(number), num_steps, shape, np.random.default_rng(0))


def samples_of(batch) -> list[int]:
    """Which samples the rows are, by their prompts."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    return [int(row[there.bool()][0]) - 10 for row, there in zip(ids, mask, strict=True)]


def serve(batches: TrainingBatches, process: int = 0) -> list[list[int]]:
    served = []
    while not batches.is_done:
        served.append(samples_of(batches.next(process, pad_token_id=PAD)))
    return served


def test_a_batch_by_hand():
    samples = [
        Completion(0, 1.0, [5, 6, 7], [8, 1], "a", "stop"),
        Completion(1, 1.0, [9], [2, 3, 4, 6, 1], "b", "stop"),
    ]
    batches = TrainingBatches(samples, 1, BatchShape(accumulation=1, processes=1, size=2), np.random.default_rng(0))
    batch = batches.next(0, pad_token_id=PAD)
    by_prompt = batch["input_ids"][:, 0].argsort()  # 5 or 9, whatever the order
    assert batch["input_ids"][by_prompt].tolist() == [[5, 6, 7, 8, 1, 0], [9, 2, 3, 4, 6, 1]]
    assert batch["attention_mask"][by_prompt].tolist() == [[1, 1, 1, 1, 1, 0], [1, 1, 1, 1, 1, 1]]
    assert batch["completion_mask"][by_prompt].tolist() == [[0, 0, 1, 1, 0], [1, 1, 1, 1, 1]]
    assert batch["num_tokens"] == 7
    assert batch["num_tokens"].dtype == torch.float32
    assert batches.is_done


def test_padding_to_a_multiple():
    samples = [Completion(0, 1.0, [5, 6, 7], [8, 1], "a", "stop")]
    batches = TrainingBatches(samples, 1, BatchShape(1, 1, 1), np.random.default_rng(0))
    batch = batches.next(0, pad_token_id=99, pad_to_multiple_of=4)
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 1, 99, 99, 99]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert batch["completion_mask"].tolist() == [[1, 1, 0, 0, 0]]


def test_a_token_that_looks_like_padding_is_one():
    samples = [Completion(0, 1.0, [PAD, 5], [PAD, PAD], "a", "stop")]
    batch = TrainingBatches(samples, 1, BatchShape(1, 1, 1), np.random.default_rng(0)).next(0, pad_token_id=PAD)
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1]]
    assert batch["num_tokens"] == 2


def test_exactly_the_steps_and_every_sample_once_a_round():
    served = serve(make_batches(number=7, num_steps=5))
    assert len(served) == 5 * 2
    assert {len(rows) for rows in served} == {3}
    flat = [index for rows in served for index in rows]
    rounds = [flat[start : start + 7] for start in range(0, 28, 7)]  # 30 places: four rounds of 7, and 2 more
    for one in rounds:
        assert sorted(one) == list(range(7))
    assert len(set(map(tuple, rounds))) > 1  # reshuffled
    assert max(Counter(flat).values()) == 5


def test_fewer_steps_than_samples():
    served = serve(make_batches(number=50, num_steps=2))
    flat = [index for rows in served for index in rows]
    assert len(set(flat)) == 12
    assert flat != sorted(flat)


def test_one_sample_is_enough():
    assert serve(make_batches(number=1, num_steps=2)) == [[0, 0, 0]] * 4


def test_is_done_at_the_end_only():
    batches = make_batches(num_steps=2)
    for _ in range(4):
        assert not batches.is_done
        batches.next(0, pad_token_id=PAD)
    assert batches.is_done


def test_num_tokens_are_those_of_the_whole_step():
    samples, shape = make_samples(9), BatchShape(accumulation=2, processes=3, size=2)
    processes = [TrainingBatches(samples, 4, shape, np.random.default_rng(1)) for _ in range(3)]
    for _ in range(4):
        batches = [
            processes[process].next(process, pad_token_id=PAD)
            for _ in range(shape.accumulation)
            for process in range(shape.processes)
        ]
        wanted = sum(int(batch["completion_mask"].sum()) for batch in batches)
        assert [int(batch["num_tokens"]) for batch in batches] == [wanted] * 6


def test_processes_share_a_step_without_overlap():
    samples = make_samples(24)
    alone = TrainingBatches(samples, 2, BatchShape(3, 1, 4), np.random.default_rng(2))
    pair = [TrainingBatches(samples, 2, BatchShape(3, 2, 2), np.random.default_rng(2)) for _ in range(2)]
    whole, halves = serve(alone), [serve(batches, process) for process, batches in enumerate(pair)]
    for micro_batch, one, other in zip(whole, *halves, strict=True):
        assert micro_batch == one + other
    assert sorted(index for rows in whole for index in rows) == list(range(24))


def test_step_size():
    assert BatchShape(accumulation=2, processes=3, size=5).step_size == 30


@pytest.mark.parametrize("steps_served", [0, 1, 4, 5])
def test_a_resumed_iteration_goes_on_exactly(steps_served):
    whole = make_batches()
    for _ in range(2 * steps_served):
        whole.next(0, pad_token_id=PAD)
    state = json.loads(json.dumps(whole.state_dict()))
    resumed = TrainingBatches.from_state_dict(state, whole.shape)
    assert resumed.is_done == whole.is_done == (steps_served == 5)
    while not whole.is_done:
        ours, theirs = resumed.next(0, pad_token_id=PAD), whole.next(0, pad_token_id=PAD)
        for name, tensor in theirs.items():
            assert torch.equal(ours[name], tensor), name
    assert resumed.is_done
    assert [item.text for item in resumed.samples] == [item.text for item in whole.samples]
    assert {item.finish_reason for item in resumed.samples} == {"stop"}


def test_resumed_on_other_processes_every_step_is_the_same():
    whole = make_batches(number=20, num_steps=4, shape=BatchShape(2, 1, 3))
    for _ in range(2):
        whole.next(0, pad_token_id=PAD)
    state = whole.state_dict()
    rest = serve(whole)
    pair = [TrainingBatches.from_state_dict(state, BatchShape(1, 2, 3)) for _ in range(2)]
    one, other = (serve(batches, process) for process, batches in enumerate(pair))
    assert [a + b for a, b in zip(one, other, strict=True)] == [
        rest[index] + rest[index + 1] for index in range(0, len(rest), 2)
    ]


def test_another_step_size_cannot_go_on():
    state = make_batches().state_dict()
    with pytest.raises(ConfigurationError, match="written with 6 responses per optimizer step, got 8"):
        TrainingBatches.from_state_dict(state, BatchShape(2, 2, 2))
