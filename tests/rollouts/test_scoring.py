"""Reward functions of every kind, called as TRL would call them, and what becomes of bad ones."""

from __future__ import annotations

import asyncio
import functools
import math
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch
from conftest import TESTS, has_digit, make_config, make_tokenizer, make_trainer
from transformers import LlamaForSequenceClassification

from bstar_trl import BSTaRTrainer, Completion
from bstar_trl.errors import ConfigurationError, RewardError
from bstar_trl.rewards import RewardFn, Score
from bstar_trl.rollouts.judging import Verifiers
from bstar_trl.rollouts.scoring import Scorer, is_async, reward_name
from bstar_trl.training.checks import find_verifiers


def make_completions(texts):
    return [Completion(index, 1.0, [3, 4], [5, 6, 1], text, "stop") for index, text in enumerate(texts)]


def make_rows(count, conversational=False):
    prompts = [f"{index}+1=" for index in range(count)]
    if conversational:
        prompts = [[{"role": "user", "content": prompt}] for prompt in prompts]
    return [{"prompt": prompt, "answer": str(index + 1)} for index, prompt in enumerate(prompts)]


def make_scorer(*functions, weights=None, verifiers=(0,), correct_at=None, tokenizers=None, **kwargs):
    names = [reward_name(item) for item in functions]
    return Scorer(
        functions,
        names,
        weights=weights or [1.0] * len(functions),
        verifiers=Verifiers.of(functions, names, verifiers, correct_at),
        tokenizers=tokenizers or [None] * len(functions),
        **kwargs,
    )


def score(scorer, texts, conversational=False, state=None):
    scorer.add(make_completions(texts), make_rows(len(texts), conversational), state)
    return scorer.finish()


def matches(prompts, completions, answer, **kwargs):
    return [float(completion == right) for completion, right in zip(completions, answer, strict=True)]


def test_keywords_are_trls():
    seen = {}

    def spy(**keywords):
        seen.update(keywords)
        return [0.0] * len(keywords["completions"])

    state = object()
    score(make_scorer(spy), ["1", "7"], state=state)
    assert seen["prompts"] == ["0+1=", "1+1="]
    assert seen["completions"] == ["1", "7"]
    assert seen["completion_ids"] == [[5, 6, 1], [5, 6, 1]]
    assert seen["answer"] == ["1", "2"]
    assert seen["trainer_state"] is state
    assert callable(seen["log_extra"])
    assert callable(seen["log_metric"])
    assert "prompt" not in seen


def test_conversations_come_as_messages():
    seen = {}

    def spy(prompts, completions, **keywords):
        seen.update(prompts=prompts, completions=completions)
        return [1.0]

    score(make_scorer(spy), ["yes"], conversational=True)
    assert seen["prompts"] == [[{"role": "user", "content": "0+1="}]]
    assert seen["completions"] == [[{"role": "assistant", "content": "yes"}]]


async def slow_matches(prompts, completions, answer, **kwargs):
    await asyncio.sleep(0.01)
    return matches(prompts, completions, answer)


class AsyncObject:
    __name__ = "async_object"

    async def __call__(self, completions, **kwargs):
        await asyncio.sleep(0)
        return [0.5] * len(completions)


@pytest.mark.parametrize("function", [slow_matches, functools.partial(slow_matches)], ids=["plain", "partial"])
def test_async_functions_are_awaited(function):
    scorer = make_scorer(function, AsyncObject())
    scores = score(scorer, ["1", "x"])
    assert scores.values_RF.tolist() == [[1.0, 0.5], [0.0, 0.5]]
    scorer.close()
    assert score(scorer, ["1"]).values_RF[0, 0] == 1.0  # started again when needed


def test_async_works_inside_a_running_loop():
    async def notebook():
        return score(make_scorer(slow_matches), ["1"]).values_RF.tolist()

    assert asyncio.run(notebook()) == [[1.0]]


@pytest.mark.parametrize("kind", [False, True], ids=["plain", "conversational"])
def test_reward_model_scores_are_its_logits(kind):
    torch.manual_seed(0)
    tokenizer = make_tokenizer()
    model = LlamaForSequenceClassification(make_config(num_labels=1)).eval()
    texts = ["a", "bb+c", "", "ddd 0123456789", "e"]
    got = score(make_scorer(model, tokenizers=[tokenizer], batch_size=2), texts, kind).values_RF[:, 0]
    for index, text in enumerate(texts):
        whole = f"u={index}+1=\na={text}\n" if kind else f"{index}+1={text}"
        ids = tokenizer(whole, add_special_tokens=False)["input_ids"]
        with torch.no_grad():
            assert got[index] == pytest.approx(model(torch.tensor([ids])).logits.item(), abs=1e-5)


def test_total_is_the_weighted_sum_and_none_adds_nothing():
    def half(completions, **kwargs):
        return [None if item == "skip" else 0.5 for item in completions]

    scorer = make_scorer(matches, half, weights=[2.0, -1.0])
    values = score(scorer, ["1", "skip", "3"]).values_RF
    assert scorer.total(values) == pytest.approx([2.0 - 0.5, 0.0, 2.0 - 0.5])


@pytest.mark.parametrize(
    ("values", "correct_at", "expected"),
    [
        ([0.0, 1.0, None], 1.0, [False, True, False]),
        ([-1.0, 1.0, 2.0], 1.0, [False, True, True]),
        ([0.4, 0.5, 0.6], 0.5, [False, True, True]),
    ],
)
def test_correct_is_the_verifiers_own_value(values, correct_at, expected):
    class Verifier(RewardFn):
        is_verifier = True

        def score(self, prompts, completions, **columns):
            return [Score(value, f"because {value}") for value in values]

    verifier = Verifier("judge")
    verifier.correct_at = correct_at
    scorer = make_scorer(verifier, weights=[10.0])
    scores = score(scorer, ["a", "b", "c"])
    assert scorer.verifiers.correct(scores.values_RF, np.arange(3)).tolist() == expected
    assert scorer.verifiers.judges(scores.values_RF, np.arange(3)).tolist() == [
        -1 if value is None else 0 for value in values
    ]
    assert scores.reasons_R.tolist() == [f"because {value}" for value in values]


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ([1.0, math.nan], r"'bad' returned nan for row 1 \(query 1, response 'b'\)"),
        ([math.inf, 1.0], r"'bad' returned inf for row 0"),
        (["1.0 points", 1.0], r"'bad' returned '1.0 points' for row 0"),
        ([1.0], r"'bad' must return one reward per completion: got 1, expected 2"),
        ([1.0, 2.0, 3.0], "got 3, expected 2"),
        (1.0, r"'bad' must return a list of rewards.*got float"),
        (None, r"got NoneType"),
    ],
)
@pytest.mark.parametrize("asynchronous", [False, True])
def test_bad_rewards_name_function_and_row(output, message, asynchronous):
    if asynchronous:

        async def bad(completions, **kwargs):
            return output
    else:

        def bad(completions, **kwargs):
            return output

    with pytest.raises(RewardError, match=message):
        score(make_scorer(bad), ["a", "b"])


@pytest.mark.parametrize("output", [torch.tensor([1.0, 0.0]), np.array([1, 0]), (True, False)])
def test_any_sequence_of_numbers_will_do(output):
    def fine(completions, **kwargs):
        return output

    assert score(make_scorer(fine), ["a", "b"]).values_RF.tolist() == [[1.0], [0.0]]


def test_a_scorer_that_fails_is_an_error_and_comes_early(tmp_path, model_path):
    class Broken(RewardFn):
        is_verifier = True

        def score(self, prompts, completions, **columns):
            raise ConnectionError("the grader is down")

    trainer = make_trainer(tmp_path, model_path, reward_funcs=Broken())
    with pytest.raises(ConnectionError, match="grader is down"):
        trainer.train()


def test_nan_reward_stops_training_at_the_first_batch(tmp_path, model_path):
    def broken(completions, **kwargs):
        return [float("nan")] * len(completions)

    trainer = make_trainer(tmp_path, model_path, reward_funcs=broken)
    with pytest.raises(RewardError, match=r"'broken' returned nan for row 0"):
        trainer.train()
    assert trainer.state.global_step == 0


def test_own_rewards_run_beside_generation_and_others_on_the_main_thread():
    threads = {}

    class Own(RewardFn):
        def score(self, prompts, completions, **columns):
            threads["own"] = threading.current_thread()
            return [Score(1.0)] * len(completions)

    def users(completions, **kwargs):
        threads["users"] = threading.current_thread()
        return [1.0] * len(completions)

    score(make_scorer(Own(), users), ["a"])
    assert threads["own"] is not threading.main_thread()
    assert threads["users"] is threading.main_thread()


def test_logged_columns_and_metrics_are_kept():
    def logs(completions, log_extra, log_metric, **kwargs):
        log_extra("length", [len(item) for item in completions])
        log_metric("longest", max(map(len, completions)))
        return [0.0] * len(completions)

    scorer = make_scorer(logs)
    scorer.add(make_completions(["a", "bb"]), make_rows(2), None)
    scorer.add(make_completions(["ccc"]), make_rows(1), None)
    scores = scorer.finish()
    assert scores.extras == {"length": [1, 2, 3]}
    assert scores.metrics == {"longest": [2.0, 3.0]}
    assert scorer.finish().values_RF.shape == (0, 1)


def test_logged_column_of_the_wrong_length_is_an_error():
    def logs(completions, log_extra, **kwargs):
        log_extra("one", [1])
        return [0.0] * len(completions)

    with pytest.raises(RewardError, match=r"log_extra\('one', ...\) got 1 values for 2 responses"):
        score(make_scorer(logs), ["a", "b"])


class First(RewardFn):
    is_verifier = True

    def score(self, prompts, completions, **columns):
        return [Score(0.0)] * len(completions)


class Side(First):
    is_verifier = False


@pytest.mark.parametrize(
    ("functions", "wanted", "expected"),
    [
        ([matches], None, [0]),
        ([Side()], None, [0]),
        ([Side(), First()], None, [1]),
        ([matches, First()], None, [1]),
        ([matches, slow_matches], "slow_matches", [1]),
        ([matches, slow_matches], 1, [1]),
        ([matches, slow_matches], "0", [0]),
        ([First("a"), First("b")], "b", [1]),
        ([First("a"), First("b")], ["b"], [1]),
        ([First("a"), Side(), First("b")], ["b", "a"], [2, 0]),
        ([First("a"), Side(), First("b")], [0, "2"], [0, 2]),
    ],
)
def test_the_verifiers_are_found(functions, wanted, expected):
    assert find_verifiers(functions, wanted) == expected


@pytest.mark.parametrize(
    ("functions", "wanted"),
    [
        ([matches, slow_matches], None),
        ([First(), First()], None),
        ([First(), First()], "First"),
        ([matches], "-1"),
        ([matches, slow_matches], []),
        ([matches, slow_matches], ["matches", "other"]),
        ([matches, slow_matches], ["matches", "matches"]),
        ([matches, slow_matches], ["matches", 0]),
    ],
)
def test_no_single_verifier_is_an_error(functions, wanted):
    with pytest.raises(ConfigurationError, match="verifier"):
        find_verifiers(functions, wanted)


@pytest.mark.parametrize(
    ("function", "name", "awaitable"),
    [
        ("org/some-model", "some-model", None),
        (functools.partial(matches), "matches", False),
        (AsyncObject(), "async_object", True),
        (First("mine"), "mine", False),
    ],
)
def test_names_and_kinds(function, name, awaitable):
    assert reward_name(function) == name
    if awaitable is not None:
        assert is_async(function) is awaitable


def test_what_an_interrupted_round_left_is_not_scored_with_the_next(tmp_path, model_path):
    rounds = iter([True, False])

    class Interrupted(BSTaRTrainer):
        def generate_responses(self, requests):
            stop = next(rounds, False)
            for number, completion in enumerate(super().generate_responses(requests)):
                if stop and number == 10:
                    raise KeyboardInterrupt
                yield completion

        def select_responses(self, rollouts, setting):
            for item, reward in zip(rollouts.reader.read(rollouts.rows_R), rollouts.rewards_R, strict=True):
                assert reward == has_digit([item.text])[0], item
            return super().select_responses(rollouts, setting)

    # Six completions a chunk: one chunk was scored before the interruption.
    trainer = make_trainer(tmp_path, model_path, trainer=Interrupted, generation_chunk_size=6, max_steps=3)
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    trainer.train()
    assert trainer.state.global_step == 3


def test_an_outage_that_is_over_is_forgotten(tmp_path, model_path):
    class Grader(RewardFn):
        down = True

        def score(self, prompts, completions, **columns):
            if self.down:
                raise ConnectionError("the grader is down")
            return [Score(value) for value in has_digit(completions)]

    grader = Grader()
    trainer = make_trainer(tmp_path, model_path, reward_funcs=grader, generation_chunk_size=6, max_steps=2)
    with pytest.raises(ConnectionError):
        trainer.train()
    grader.down = False
    trainer.train()
    assert trainer.state.global_step == 2


HANGING = """
import asyncio, os, signal, sys, threading, time
sys.path.insert(0, {tests!r})
from conftest import make_trainer
from bstar_trl.rewards import RewardFn, Score

class Hangs(RewardFn):
    def score(self, prompts, completions, **columns):
        time.sleep(10_000)

async def hangs(completions, **kwargs):
    await asyncio.sleep(10_000)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
threading.Timer({after}, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
trainer = make_trainer({output_dir!r}, {model_path!r}, reward_funcs={reward})
try:
    trainer.train()
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.slow
@pytest.mark.parametrize("reward", ["Hangs()", "hangs"])
def test_an_interrupt_ends_a_run_whose_reward_hangs(tmp_path, model_path, reward):
    script = HANGING.format(tests=str(TESTS), after=4, output_dir=str(tmp_path), model_path=model_path, reward=reward)
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr[-2000:]
    assert "interrupted" in run.stdout


class Waiting(RewardFn):
    """Scores a round at once; keeps the texts and columns of each call."""

    beside_generation = False

    def __init__(self, error: Exception | None = None):
        super().__init__()
        self.calls: list[tuple[list[str], list[str], list[list[int]]]] = []
        self.error = error

    def score(self, prompts, completions, *, answer, completion_ids, log_extra, log_metric, **columns):
        if self.error:
            raise self.error
        self.calls.append((list(prompts), list(completions), completion_ids))
        log_extra("said", [f"{text} for {item}" for text, item in zip(completions, answer, strict=True)])
        log_metric("calls", 1.0)
        return [Score(len(text), text) for text in completions]


def test_a_reward_that_waits_is_called_once_with_a_whole_round():
    waiting = Waiting()
    scorer = make_scorer(matches, waiting, weights=[1.0, 0.5], verifiers=[1])
    for texts in (["1", "22"], ["333"]):
        scorer.add(make_completions(texts), make_rows(len(texts)), None)
        assert waiting.calls == []
    scores = scorer.finish()
    assert waiting.calls == [(["0+1=", "1+1=", "0+1="], ["1", "22", "333"], [[5, 6, 1]] * 3)]
    np.testing.assert_array_equal(scores.values_RF, [[1, 1], [0, 2], [0, 3]])
    assert scores.reasons_R.tolist() == ["1", "22", "333"]
    assert scores.extras == {"said": ["1 for 1", "22 for 2", "333 for 1"]}
    assert scores.metrics == {"calls": [1.0]}
    assert len(scorer.finish().values_RF) == 0  # nothing was sampled: it is not called
    scorer.add(make_completions(["4444"]), make_rows(1), None)
    assert scorer.finish().values_RF.tolist() == [[0, 4]]
    assert len(waiting.calls) == 2
    scorer.close()


def test_the_error_of_a_reward_that_waits_is_raised():
    scorer = make_scorer(matches, Waiting(ZeroDivisionError("boom")))
    scorer.add(make_completions(["1"]), make_rows(1), None)
    with pytest.raises(ZeroDivisionError, match="boom"):
        scorer.finish()
    scorer.discard()
    scorer.close()


def test_two_rewards_that_log_one_column_are_an_error():
    def one(completions, log_extra, **kwargs):
        log_extra("said", completions)
        return [1.0] * len(completions)

    def other(completions, log_extra, **kwargs):
        log_extra("said", completions)
        return [0.0] * len(completions)

    scorer = make_scorer(one, other)
    scorer.add(make_completions(["1", "2"]), make_rows(2), None)
    with pytest.raises(RewardError, match=r"log_extra\('said', ...\) was called by two reward functions"):
        scorer.finish()
