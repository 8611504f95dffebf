"""The numbers of an iteration, and what is refused before any weight is loaded."""

from __future__ import annotations

import dataclasses
import json
import warnings

import pytest
from conftest import has_digit, make_dataset
from datasets import Dataset
from transformers import HfArgumentParser
from trl import GRPOConfig

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.config import as_bstar_config
from bstar_trl.errors import BStarError, ConfigurationError, DatasetError, UnsupportedOptionError
from bstar_trl.rewards import AnswerMatch
from bstar_trl.training.checks import check_rewards

NOT_A_MODEL = "no/such-model"  # an error that comes before loading never finds out


def make_plan(rows: int | None, **settings):
    return BSTaRConfig(output_dir="unused", bf16=False, **settings).plan(rows)


@pytest.mark.parametrize(
    ("rows", "settings", "expected"),
    [
        # The design's own examples: n*, N, M, steps.
        (7473, {"per_device_train_batch_size": 8}, (5, 160, 800, 100)),
        (17, {"per_device_train_batch_size": 3, "num_generations": 3}, (1.5, 17, 26, 9)),
        # n* = 4 of K = 8, 100 steps of 4 x 2: N = 200.
        (
            1000,
            {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "num_generations": 8},
            (4, 200, 800, 100),
        ),
        # 10 steps of 8 want 16 queries at n* = 5.
        (1000, {"per_device_train_batch_size": 8, "iteration_steps": 10}, (5, 16, 80, 10)),
        (1000, {"per_device_train_batch_size": 8, "queries_per_iteration": 50}, (5, 50, 250, 32)),
        (1000, {"queries_per_iteration": 100, "samples_per_iteration": 250}, (2.5, 100, 250, 32)),
        (1000, {"balance_target": 2, "queries_per_iteration": 100}, (2, 100, 200, 25)),
        (None, {"per_device_train_batch_size": 8}, (5, 160, 800, 100)),
        (3, {"num_generations": 2}, (1, 3, 3, 1)),
    ],
)
def test_plan_follows_the_designs_arithmetic(rows, settings, expected):
    plan = make_plan(rows, **settings)
    assert (plan.target, plan.num_queries, plan.num_samples, plan.num_steps) == pytest.approx(expected)


@pytest.mark.parametrize("settings", [{}, {"iteration_steps": 2}, {"use_cpu": True, "iteration_steps": 7}])
def test_defaults_warn_of_nothing(settings):
    """Not even where rounding makes M exceed the steps: 7 steps of 8 need 12 queries, so M = 60."""
    args = BSTaRConfig(output_dir="unused", bf16=False, **settings)
    assert args.ineffective_options() == []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        args.plan(1000)


def test_the_papers_numbers_warn_of_samples_never_seen():
    settings = {"num_generations": 64, "queries_per_iteration": 11_500, "samples_per_iteration": 67_500}
    with pytest.warns(UserWarning, match=r"67500.*500 steps x 128 = 64000.*never seen"):
        plan = make_plan(11_500, iteration_steps=500, per_device_train_batch_size=128, **settings)
    assert plan.target == pytest.approx(5.8696, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_generations": 1}, r"num_generations \(K\) must be at least 2, got 1"),
        ({"iteration_steps": 2.0}, "iteration_steps must be a whole number of at least 1, got 2.0"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"iteration_steps": 0}, "iteration_steps must be a whole number of at least 1, got 0"),
        ({"queries_per_iteration": -3}, "queries_per_iteration must be a whole number of at least 1, got -3"),
        ({"samples_per_iteration": 1.5}, "samples_per_iteration must be a whole number of at least 1, got 1.5"),
        ({"generation_chunk_size": 0}, "generation_chunk_size must be a whole number of at least 1, got 0"),
        ({"temperature": 0.0}, "temperature must be greater than 0, got 0.0"),
        ({"temperature": float("nan")}, "temperature must be greater than 0, got nan"),
        ({"inheritance": "nothing"}, "inheritance must be one of 'online', 'iterative', 'restart', got 'nothing'"),
    ],
)
def test_bad_numbers_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        BSTaRConfig(output_dir="unused", bf16=False, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries_per_iteration": 18}, r"queries_per_iteration must be in 1..17 .*got 18"),
        ({"queries_per_iteration": 4, "samples_per_iteration": 65, "balance_target": 5}, r"in 1..64 .*got 65"),
        ({"balance_target": 0.5}, r"balance_target \(n\*\) must be in 1..16 .*got 0.5"),
        ({"balance_target": 17}, r"must be in 1..16 .*got 17"),
        ({"queries_per_iteration": 17, "samples_per_iteration": 8}, r"= 8 / 17 = 0.470588"),
    ],
)
def test_plans_that_cannot_work_are_refused(settings, message):
    with pytest.raises(ConfigurationError, match=message):
        make_plan(17, **settings)


def second(completions, **kwargs):
    return [0.0] * len(completions)


def judge_of_nan(completions, **kwargs):
    return [0.0] * len(completions)


judge_of_nan.correct_at = float("nan")


def needs_column(completions, solution, **kwargs):
    return [0.0] * len(completions)


def make_stream():
    return Dataset.from_dict({"prompt": ["1+1="], "answer": ["2"]}).to_iterable_dataset()


def with_image():
    return Dataset.from_dict({"prompt": ["1+1="], "answer": ["2"], "image": [None]})


@pytest.mark.parametrize(
    ("arguments", "settings", "error", "message"),
    [
        (
            {"reward_funcs": [has_digit, second]},
            {},
            ConfigurationError,
            r"none of these .*'has_digit', 1 'second'.*verifier=",
        ),
        ({"reward_funcs": [AnswerMatch(), AnswerMatch(name="b")]}, {}, ConfigurationError, r"2 of these"),
        ({"reward_funcs": [has_digit, second]}, {"verifier": "third"}, ConfigurationError, "got 'third'"),
        ({"reward_funcs": [has_digit, second]}, {"verifier": "2"}, ConfigurationError, "got '2'"),
        ({"reward_funcs": None}, {}, ConfigurationError, "needs reward_funcs"),
        ({"reward_funcs": []}, {}, ConfigurationError, "needs reward_funcs"),
        ({"reward_funcs": AnswerMatch(column="gold")}, {}, DatasetError, r"column\(s\) gold, but .*prompt, answer"),
        ({"reward_funcs": needs_column}, {}, DatasetError, r"'needs_column' needs .*solution"),
        (
            {"eval_dataset": make_dataset(2).remove_columns("answer"), "reward_funcs": AnswerMatch()},
            {},
            DatasetError,
            "answer",
        ),
        ({}, {"num_generations": 3, "balance_target": 4}, ConfigurationError, r"in 1..3 .*got 4"),
        ({}, {"queries_per_iteration": 400}, ConfigurationError, r"in 1..17"),
        ({}, {"reward_weights": [1.0, 2.0]}, ConfigurationError, r"got 2, expected 1 \(has_digit\)"),
        ({"callbacks": [BalanceCallback(), BalanceCallback()]}, {}, ConfigurationError, "one BalanceCallback, got 2"),
        ({"callbacks": [BalanceCallback(num_queries=18)]}, {}, ConfigurationError, r"num_queries .*1..17 .*got 18"),
        ({}, {"reward_weights": [float("nan")]}, ConfigurationError, r"reward_weights must be finite numbers"),
        (
            {"reward_funcs": judge_of_nan},
            {},
            ConfigurationError,
            r"correct_at of reward 'judge_of_nan' must be a finite",
        ),
        (
            {"eval_dataset": make_dataset(2).remove_columns("prompt")},
            {},
            DatasetError,
            "evaluation dataset needs .*'prompt'",
        ),
        ({"eval_dataset": make_dataset(2).select([])}, {}, DatasetError, "evaluation dataset holds no rows"),
        (
            {"eval_dataset": {"a": make_dataset(2), "b": make_dataset(3)}},
            {"save_strategy": "best", "eval_strategy": "epoch"},
            ConfigurationError,
            r"must name one of: eval_a_pass@1, eval_b_pass@1",
        ),
        ({"tools": [second]}, {}, UnsupportedOptionError, "tools is not supported"),
        ({"rollout_func": second}, {}, UnsupportedOptionError, "rollout_func is not supported"),
        ({"environment_factory": object}, {}, UnsupportedOptionError, "environment_factory is not supported"),
        (
            {"train_dataset": with_image()},
            {},
            UnsupportedOptionError,
            "remove the column 'image' of the training dataset",
        ),
        ({"train_dataset": None}, {}, DatasetError, "`train_dataset` is required"),
        (
            {"train_dataset": make_dataset(2).rename_column("prompt", "question")},
            {},
            DatasetError,
            "'prompt', but it has question",
        ),
        ({"train_dataset": make_dataset(2).select([])}, {}, DatasetError, "no rows"),
        ({"train_dataset": make_stream()}, {}, ConfigurationError, "max_steps must be set"),
    ],
)
def test_refused_before_any_weight_is_loaded(arguments, settings, error, message):
    arguments = {"reward_funcs": has_digit, "train_dataset": make_dataset(), **arguments}
    args = BSTaRConfig(output_dir="unused", bf16=False, **settings)
    with pytest.raises(error, match=message) as raised:
        BSTaRTrainer(model=NOT_A_MODEL, args=args, **arguments)
    assert isinstance(raised.value, BStarError)


@pytest.mark.parametrize(
    "functions",
    [
        [AnswerMatch(), AnswerMatch()],
        [has_digit, AnswerMatch(name="has_digit")],
        [AnswerMatch(name="correct"), has_digit, AnswerMatch(name="correct")],
    ],
)
def test_rewards_of_equal_names_are_refused(functions):
    args = BSTaRConfig(output_dir="unused", bf16=False)
    with pytest.raises(ConfigurationError, match=r"2 rewards are called .*this AnswerMatch a name of its own \(name="):
        BSTaRTrainer(model=NOT_A_MODEL, args=args, reward_funcs=functions, train_dataset=make_dataset())


def test_functions_of_equal_names_are_trls_matter():
    args = BSTaRConfig(output_dir="unused", bf16=False, verifier=0)
    assert check_rewards([has_digit, has_digit, AnswerMatch()], args).indices == (0,)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperatures": []}, "temperatures must hold at least one value"),
        ({"temperatures": [0.5, 0.0]}, "temperatures must be greater than 0, got 0"),
        ({"temperatures": -1.0}, "temperatures must be greater than 0, got -1"),
        ({"temperatures": [0.5, float("nan")]}, "temperatures must be finite"),
        ({"temperatures": float("inf")}, "temperatures must be finite"),
        ({"temperatures": "hot"}, "temperatures must be a number or a sequence of numbers, got 'hot'"),
        ({"temperatures": [[0.5]]}, "temperatures must be a number or a sequence"),
        ({"num_queries": 2.5}, "num_queries must be a whole number of at least 1, got 2.5"),
        ({"thresholds": []}, "thresholds must hold at least one value"),
        ({"thresholds": [0.0, float("nan")]}, "thresholds must be finite"),
        ({"num_queries": 0}, "num_queries must be a whole number of at least 1, got 0"),
        ({"threshold_on": "some"}, "threshold_on must be 'all' or 'probe', got 'some'"),
    ],
)
def test_grids_that_cannot_work_are_refused(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        BalanceCallback(**arguments)


def test_every_field_of_ours_has_a_help_text():
    parents = {item.name for item in dataclasses.fields(GRPOConfig)}
    ours = [item for item in dataclasses.fields(BSTaRConfig) if item.name not in parents]
    assert {item.name for item in ours} == {
        "iteration_steps",
        "queries_per_iteration",
        "samples_per_iteration",
        "balance_target",
        "verifier",
        "correct_at",
        "inheritance",
        "generation_chunk_size",
        "merge_for_sampling",
    }
    assert all(item.metadata["help"] for item in ours)


def test_command_line_parser_reads_every_field():
    words = "--output_dir x --bf16 false --inheritance restart --iteration_steps 7 --balance_target 2.5 --verifier 1"
    words += " --merge_for_sampling false"
    (args,) = HfArgumentParser(BSTaRConfig).parse_args_into_dataclasses(words.split())
    assert (args.inheritance, args.iteration_steps, args.balance_target, args.verifier) == ("restart", 7, 2.5, "1")
    assert args.merge_for_sampling == "never"


@pytest.mark.parametrize(
    ("given", "merge"),
    [("auto", "auto"), (True, "always"), ("always", "always"), (False, "never"), ("Never", "never")],
)
def test_merging_is_said_in_several_ways(given, merge):
    assert BSTaRConfig(output_dir="unused", bf16=False, merge_for_sampling=given).merge_for_sampling == merge


def test_another_way_of_merging_is_refused():
    with pytest.raises(ConfigurationError, match=r"merge_for_sampling must be 'auto', 'always' .* got 'often'"):
        BSTaRConfig(output_dir="unused", merge_for_sampling="often")


@pytest.mark.parametrize(
    ("settings", "chunk"),
    [
        ({}, 128),
        ({"use_vllm": True}, 512),
        ({"generation_chunk_size": 100}, 112),  # whole groups of 16
        ({"steps_per_generation": 4}, 32),
        ({"generation_batch_size": 64}, 64),
        ({"per_device_train_batch_size": 3, "num_generations": 3, "generation_chunk_size": 4}, 6),
    ],
)
def test_batch_geometry_is_derived_from_the_chunk(settings, chunk):
    args = BSTaRConfig(output_dir="unused", bf16=False, **settings)
    assert args.chunk_size == chunk
    assert args.generation_batch_size == chunk
    assert args.generation_batch_size % args.num_generations == 0


def test_config_survives_replace_and_serialisation():
    args = BSTaRConfig(output_dir="unused", bf16=False, generation_chunk_size=64, queries_per_iteration=40)
    again = dataclasses.replace(args, seed=1)
    assert again.chunk_size == args.chunk_size == 64
    assert json.loads(args.to_json_string())["queries_per_iteration"] == 40


def test_grpo_configs_become_ours_with_the_same_fields():
    """All but the generation batch, which is B-STaR's own to derive, and the metric of the best model."""
    grpo = GRPOConfig(
        output_dir="out",
        bf16=False,
        learning_rate=3e-6,
        num_generations=4,
        temperature=0.7,
        beta=0.1,
        generation_kwargs={"stop_strings": ["."]},
        lr_scheduler_kwargs={"num_cycles": 2},
        report_to=["wandb"],
        load_best_model_at_end=True,
        eval_strategy="steps",
        save_strategy="steps",
    )
    args = as_bstar_config(grpo, "tiny")
    assert isinstance(args, BSTaRConfig)
    fields = {item.name for item in dataclasses.fields(GRPOConfig)}
    changed = {name for name in fields if getattr(args, name) != getattr(grpo, name)}
    assert changed == {"steps_per_generation", "generation_batch_size", "metric_for_best_model", "greater_is_better"}
    assert args.chunk_size == 128
    assert as_bstar_config(None, "tiny").output_dir == "tiny-BSTaR"
    assert as_bstar_config(args, "tiny") is args


@pytest.mark.parametrize(
    "settings",
    [
        {"load_best_model_at_end": True, "eval_strategy": "steps", "save_strategy": "steps"},
        {"save_strategy": "best", "eval_strategy": "epoch"},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
    ],
)
def test_best_model_goes_by_pass_at_1(settings):
    args = BSTaRConfig(output_dir="unused", bf16=False, **settings)
    assert args.metric_for_best_model == "eval_pass@1"
    assert args.greater_is_better is True
