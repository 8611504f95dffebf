"""What becomes of each of TRL's own options: honoured, without effect (and said once), or refused."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import os
import re
import warnings
from pathlib import Path

import pandas as pd
import pytest
import torch
from conftest import (
    has_digit,
    make_chat_dataset,
    make_config,
    make_dataset,
    make_model,
    make_tokenizer,
    make_trainer,
)
from datasets import Dataset
from peft import LoraConfig
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Cache,
    DynamicCache,
    MixtralConfig,
    MixtralForCausalLM,
    StaticCache,
    TrainerCallback,
    TrainingArguments,
)
from trl import GRPOConfig

from bstar_trl import BalanceCallback, BSTaRTrainer, Request
from bstar_trl.config import WITHOUT_EFFECT
from bstar_trl.errors import DatasetError, UnsupportedOptionError

FIELDS = {item.name for item in dataclasses.fields(GRPOConfig)}

# Options that work as in TRL. Those that a training here can show have a test below, in `test_drop_in.py` or in
# `training/`.
HONOURED = {
    # the run
    "output_dir",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "seed",
    "remove_unused_columns",
    "shuffle_dataset",
    "disable_tqdm",
    "do_train",
    "do_eval",
    "do_predict",
    "resume_from_checkpoint",
    "accelerator_config",
    "debug",
    "skip_memory_metrics",
    "dataloader_num_workers",
    "dataloader_pin_memory",
    # the optimizer and its schedule
    "learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "optim",
    "optim_args",
    "optim_target_modules",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "neftune_noise_alpha",
    # the model
    "model_init_kwargs",
    "trust_remote_code",
    "router_aux_loss_coef",
    "disable_dropout",
    "cast_lm_head_to_fp32",
    "bf16",
    "use_cpu",
    "use_cache",
    "activation_checkpointing",
    "activation_checkpointing_kwargs",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "torch_compile_backend",
    "torch_compile",
    "torch_compile_mode",
    "torch_empty_cache_steps",
    "pad_to_multiple_of",
    # generation
    "num_generations",
    "num_generations_eval",
    "max_completion_length",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repetition_penalty",
    "generation_kwargs",
    "chat_template_kwargs",
    "cache_implementation",
    "ds3_gather_for_generation",
    "vllm_mode",
    "vllm_model_impl",
    "vllm_enable_sleep_mode",
    "vllm_structured_outputs_regex",
    "vllm_server_base_url",
    "vllm_server_host",
    "vllm_server_port",
    "vllm_server_timeout",
    "vllm_group_port",
    "vllm_gpu_memory_utilization",
    "vllm_max_model_length",
    "vllm_tensor_parallel_size",
    # rewards
    "reward_weights",
    "per_device_eval_batch_size",
    # logs
    "logging_strategy",
    "logging_steps",
    "logging_first_step",
    "logging_nan_inf_filter",
    "include_num_input_tokens_seen",
    "log_completions",
    "num_completions_to_print",
    "log_unique_prompts",
    "log_level",
    "log_level_replica",
    "log_on_each_node",
    "report_to",
    "run_name",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
    # evaluation
    "eval_strategy",
    "eval_steps",
    "eval_delay",
    "eval_on_start",
    "metric_for_best_model",
    "greater_is_better",
    # checkpoints and the hub
    "save_strategy",
    "save_steps",
    "save_total_limit",
    "save_only_model",
    "save_on_each_node",
    "enable_jit_checkpoint",
    "restore_callback_states_from_checkpoint",
    "push_to_hub",
    "hub_model_id",
    "hub_token",
    "hub_private_repo",
    "hub_strategy",
    "hub_always_push",
    "hub_revision",
}
# Honoured by the parents alone, and only where the machine, a launcher or a service is there.
ELSEWHERE = {
    "use_vllm",
    "use_liger_kernel",
    "liger_kernel_config",
    "log_completions_hub_repo",
    "load_best_model_at_end",
    "generation_batch_size",
    "steps_per_generation",
    "fp16",
    "tf32",
    "full_determinism",
    "local_rank",
    "deepspeed",
    "fsdp",
    "fsdp_config",
    "ddp_backend",
    "ddp_broadcast_buffers",
    "ddp_bucket_cap_mb",
    "ddp_find_unused_parameters",
    "ddp_static_graph",
    "ddp_timeout",
}
REFUSED = {"auto_find_batch_size", "parallelism_config"}

# A value for each option without effect.
IDLE = {
    "beta": 0.1,
    "loss_type": "grpo",
    "epsilon": 0.1,
    "epsilon_high": 0.3,
    "delta": 2.0,
    "num_iterations": 2,
    "scale_rewards": "batch",
    "multi_objective_aggregation": "normalize_then_sum",
    "importance_sampling_level": "sequence",
    "sapo_temperature_neg": 0.5,
    "sapo_temperature_pos": 0.5,
    "vespo_k_pos": 1.0,
    "vespo_lambda_pos": 1.0,
    "vespo_k_neg": 1.0,
    "vespo_lambda_neg": 1.0,
    "mask_truncated_completions": True,
    "sync_ref_model": True,
    "ref_model_mixup_alpha": 0.5,
    "ref_model_sync_steps": 2,
    "top_entropy_quantile": 0.2,
    "entropy_coef": 0.1,
    "use_adaptive_entropy": True,
    "entropy_coef_min": 0.01,
    "entropy_coef_max": 0.5,
    "entropy_coef_delta": 0.1,
    "entropy_target": 0.5,
    "off_policy_mask_threshold": 0.5,
    "use_bias_correction_kl": False,
    "vllm_importance_sampling_correction": False,
    "vllm_importance_sampling_mode": "token_mask",
    "vllm_importance_sampling_clip_max": 2.0,
    "vllm_importance_sampling_clip_min": 0.1,
    "vllm_importance_sampling_cap": 2.0,
    "use_transformers_continuous_batching": True,
    "use_transformers_paged": True,
    "transformers_continuous_batching_config": {"max_memory_percent": 0.3},
    "max_tool_calling_iterations": 3,
    "log_multimodal": False,
    "dataloader_drop_last": True,
    "dataloader_in_order": False,
    "dataloader_multiprocessing_context": "spawn",
    "dataloader_persistent_workers": True,
    "dataloader_prefetch_factor": 3,
    "data_seed": 5,
    "train_sampling_strategy": "sequential",
    "length_column_name": "answer",
    "ignore_data_skip": True,
    "average_tokens_across_devices": False,
    "label_names": ["answer"],
    "label_smoothing_factor": 0.1,
    "prediction_loss_only": True,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "batch_eval_metrics": True,
    "eval_accumulation_steps": 1,
    "eval_do_concat_batches": False,
    "eval_use_gather_object": True,
    "include_for_metrics": ["loss"],
}
# TRL refuses the two together.
EXCLUSIVE = ("bf16_full_eval", "fp16_full_eval")
CLOCKS = ("_seconds", "_runtime", "_per_second", "step_time")


class Recorder(BSTaRTrainer):
    """Keeps the shapes of the micro-batches."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.widths = []

    def compute_loss(self, model, inputs, *args, **kwargs):
        self.widths.append((inputs["input_ids"].shape[1], inputs["completion_mask"].shape[1]))
        return super().compute_loss(model, inputs, *args, **kwargs)


def weights_of(trainer):
    return {name: item.detach().clone() for name, item in trainer.model.named_parameters()}


def same(one, other):
    return all(torch.equal(item, other[name]) for name, item in one.items())


def sample(trainer, temperature=1.0, n=6, queries=range(5)):
    """Responses of the first few queries."""
    return list(trainer.generate_responses([Request(tuple(queries), temperature, n, 0)]))


def tokens_of(completions):
    return [list(item.token_ids) for item in completions]


def said_without_effect(record):
    """The one warning about options without effect."""
    (said,) = [str(item.message) for item in record if "have no effect on BSTaRTrainer" in str(item.message)]
    return said.rsplit(": ", 1)[1].split(", ")


# ---------------------------------------------------------------------- the table


def test_every_option_has_its_row():
    rows = [set(HONOURED), ELSEWHERE, set(WITHOUT_EFFECT), REFUSED]
    assert set.union(*rows) >= FIELDS, f"new options of TRL: {sorted(FIELDS - set.union(*rows))}"
    assert sum(map(len, rows)) == len(set.union(*rows))
    assert set(IDLE) == set(WITHOUT_EFFECT)


def test_the_documentation_has_the_same_table():
    """Of GRPO's own options; those of `TrainingArguments` work as everywhere, but for what the page says in words."""
    page = (Path(__file__).parents[1] / "docs" / "options.md").read_text()
    sections = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    named = {
        title: {name for row in text.splitlines() if row.startswith("|") for name in re.findall(r"`(\w+)`", row)}
        for title, text in sections.items()
    }
    own = FIELDS - {item.name for item in dataclasses.fields(TrainingArguments)}
    honoured, without_effect, refused = named.values()
    assert own - set(WITHOUT_EFFECT) <= honoured
    assert own & set(WITHOUT_EFFECT) <= without_effect
    assert {"tools", "environment_factory", "rollout_func"} <= refused


def test_nothing_is_said_of_the_defaults(tmp_path, model_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="these options")
        make_trainer(tmp_path, model_path)


# ---------------------------------------------------------------------- without effect


def learn(output_dir, model_path, names=()):
    """What comes of a training with these options without effect: all weights, bit by bit, and all figures.

    Two iterations with accumulated gradients and evaluations, and the last step once more from a checkpoint.
    """
    settings = {
        "queries_per_iteration": 8,
        "iteration_steps": 2,
        "max_steps": 4,
        "gradient_accumulation_steps": 2,
        "logging_steps": 1,
        "eval_dataset": make_dataset(3),
        "eval_strategy": "steps",
        "eval_steps": 2,
        "save_strategy": "steps",
        "save_steps": 3,
        "use_cpu": True,
        "dataloader_num_workers": 2,  # the loader's options need workers; there is nothing to load
        **{name: IDLE[name] for name in names},
    }
    outcome = []
    for checkpoint in (None, str(output_dir / "checkpoint-3")):
        # With `ignore_data_skip`, transformers counts a resumed epoch from its start in what it logs.
        left_out = CLOCKS if checkpoint is None else (*CLOCKS, "epoch")
        trainer = make_trainer(output_dir, model_path, callbacks=[BalanceCallback([0.7, 1.2])], **settings)
        trainer.train(resume_from_checkpoint=checkpoint)
        figures = [
            {name: value for name, value in line.items() if not name.endswith(left_out)}
            for line in trainer.state.log_history
        ]
        outcome.append(({name: item.numpy().tobytes() for name, item in weights_of(trainer).items()}, figures))
    return outcome


def find_culprits(names, has_effect):
    """The smallest sets of options that have an effect, by halving; a set stays whole if neither half has one."""
    if len(names) == 1:
        return [names]
    halves = names[: len(names) // 2], names[len(names) // 2 :]
    found = [culprits for half in halves if has_effect(half) for culprits in find_culprits(half, has_effect)]
    return found or [names]


@pytest.fixture(scope="module")
def plain(tmp_path_factory, model_path):
    return learn(tmp_path_factory.mktemp("plain"), model_path)


@pytest.mark.timeout(1800)  # a failure costs a dozen more trainings to find out which option it is
@pytest.mark.filterwarnings("ignore:these options have no effect")
@pytest.mark.parametrize("left_out", EXCLUSIVE)
def test_options_without_effect_change_nothing(tmp_path, model_path, plain, left_out):
    names = sorted(set(IDLE) & FIELDS - {left_out})
    if learn(tmp_path / "all", model_path, names) != plain:
        assert learn(tmp_path / "again", model_path) == plain, "even two plain trainings differ"
        culprits = find_culprits(names, lambda some: learn(tmp_path / "some", model_path, some) != plain)
        pytest.fail(f"options that have an effect: {culprits}")


@pytest.mark.parametrize("left_out", EXCLUSIVE)
def test_options_without_effect_are_named_and_kept(tmp_path, model_path, left_out):
    given = {name: IDLE[name] for name in set(IDLE) & FIELDS - {left_out}}
    with pytest.warns(UserWarning, match="have no effect on BSTaRTrainer") as record:
        trainer = make_trainer(tmp_path, model_path, use_cpu=True, dataloader_num_workers=2, **given)
    assert sorted(said_without_effect(record)) == sorted(given)
    assert {name: getattr(trainer.args, name) for name in given} == given  # shown as the user set them
    assert trainer.ref_model is None


@pytest.mark.parametrize(
    ("guilty", "found"),
    [
        ([{"c"}], [["c"]]),
        ([{"a"}, {"g"}], [["a"], ["g"]]),
        ([{"a", "b"}], [["a", "b", "c"]]),  # only together: no half of these three has an effect
        ([{"b", "f"}], [["a", "b", "c", "d", "e", "f", "g"]]),
    ],
)
def test_culprits_are_found_by_halving(guilty, found):
    assert find_culprits([*"abcdefg"], lambda some: any(names <= set(some) for names in guilty)) == found


def test_options_without_effect_share_one_warning(tmp_path, model_path):
    given = {"beta": 0.1, "loss_type": "grpo", "generation_kwargs": {"temperature": 0.5, "do_sample": False}}
    with pytest.warns(UserWarning, match="have no effect on BSTaRTrainer") as record:
        make_trainer(tmp_path, model_path, **given)
    said = said_without_effect(record)
    assert said == ["beta", "loss_type", "generation_kwargs['temperature']", "generation_kwargs['do_sample']"]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"auto_find_batch_size": True}, ValueError, "auto_find_batch_size is not supported"),
        ({"tools": [has_digit]}, UnsupportedOptionError, "tools is not supported"),
        ({"rollout_func": has_digit}, UnsupportedOptionError, "rollout_func is not supported"),
        ({"environment_factory": object}, UnsupportedOptionError, "environment_factory is not supported"),
        (
            {"train_dataset": Dataset.from_dict({"prompt": ["1+1="], "image": ["a.png"]})},
            UnsupportedOptionError,
            "remove the column 'image'",
        ),
        (
            {"train_dataset": Dataset.from_dict({"prompt": ["1+1="], "images": [["a.png"]]})},
            UnsupportedOptionError,
            "remove the column 'images'",
        ),
    ],
    ids=["auto_find_batch_size", "tools", "rollout_func", "environment_factory", "image", "images"],
)
def test_refused(tmp_path, model_path, changes, error, message):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, model_path, **changes)


def test_sequence_parallelism_is_refused(tmp_path, model_path):
    from accelerate.parallelism_config import ParallelismConfig

    with pytest.raises(ValueError, match="sequence-dim parallelism"):
        make_trainer(tmp_path, model_path, parallelism_config=ParallelismConfig(cp_size=2))


@pytest.mark.parametrize(
    ("module", "changes"),
    [("vllm", {"use_vllm": True}), ("liger_kernel", {"use_liger_kernel": True})],
    ids=["use_vllm", "use_liger_kernel"],
)
def test_an_optional_package_that_is_missing_is_named(tmp_path, model_path, module, changes):
    if importlib.util.find_spec(module):
        pytest.skip(f"{module} is installed: it has tests of its own")
    with pytest.raises(ImportError, match=r"(?i)" + module.replace("_", ".")):
        make_trainer(tmp_path, model_path, max_steps=1, **changes).train()


def test_quantization(tmp_path, model_path):
    pytest.importorskip("bitsandbytes", reason="quantised weights need bitsandbytes")
    from transformers import BitsAndBytesConfig

    trainer = make_trainer(
        tmp_path,
        model_path,
        quantization_config=BitsAndBytesConfig(load_in_8bit=True),
        peft_config=LoraConfig(task_type="CAUSAL_LM"),
        max_steps=3,
    )
    assert trainer.model.is_loaded_in_8bit
    trainer.train()


# ---------------------------------------------------------------------- generation


@pytest.fixture(scope="module")
def free(tmp_path_factory, model_path):
    """Responses of a trainer with every option at its default."""
    return sample(make_trainer(tmp_path_factory.mktemp("free"), model_path))


@pytest.mark.parametrize(
    "changes", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}, {"generation_kwargs": {"top_k": 1}}]
)
def test_one_token_to_choose_from_is_greedy(tmp_path, model_path, free, changes):
    trainer = make_trainer(tmp_path, model_path, **changes)
    greedy = {item.query_id: list(item.token_ids) for item in sample(trainer, temperature=0.0, n=1)}
    assert all(list(item.token_ids) == greedy[item.query_id] for item in sample(trainer))
    assert any(list(item.token_ids) != greedy[item.query_id] for item in free)


def test_repetition_penalty(tmp_path, model_path, free):
    def repeats(completions):
        return sum(len(tokens) - len(set(tokens)) for tokens in tokens_of(completions))

    trainer = make_trainer(tmp_path, model_path, repetition_penalty=100.0)
    assert repeats(sample(trainer)) < repeats(free) / 2


@pytest.mark.parametrize("changes", [{"max_completion_length": 3}, {"generation_kwargs": {"max_new_tokens": 3}}])
def test_completion_length(tmp_path, model_path, changes):
    completions = sample(make_trainer(tmp_path, model_path, **changes))
    assert max(len(item.token_ids) for item in completions) == 3
    assert {item.finish_reason for item in completions if item.token_ids[-1] != 1} == {"length"}
    assert {item.finish_reason for item in completions if item.token_ids[-1] == 1} == {"stop"}


@pytest.mark.parametrize("stop", ["1", ["1", "+"]])
def test_stop_strings_end_a_response(tmp_path, model_path, stop):
    completions = sample(make_trainer(tmp_path, model_path, generation_kwargs={"stop_strings": stop}), n=20)
    stopped = [item for item in completions if item.text and item.text[-1] in stop]
    assert stopped
    assert all(item.finish_reason == "stop" and item.token_ids[-1] == 1 for item in stopped)
    assert not any(letter in item.text[:-1] for item in completions for letter in stop)


def test_another_end_token(tmp_path, model_path):
    one = make_tokenizer().convert_tokens_to_ids("1")
    trainer = make_trainer(tmp_path, model_path, generation_kwargs={"eos_token_id": [1, one]})
    completions = sample(trainer, n=20)
    ended = [item for item in completions if item.token_ids[-1] == one]
    assert ended
    assert {item.finish_reason for item in ended} == {"stop"}
    assert not any(one in item.token_ids[:-1] for item in completions)


def test_suppressed_tokens_never_come(tmp_path, model_path, free):
    banned = make_tokenizer().convert_tokens_to_ids(list("01234"))
    assert any(set(tokens) & set(banned) for tokens in tokens_of(free))
    trainer = make_trainer(tmp_path, model_path, generation_kwargs={"suppress_tokens": banned})
    assert not any(set(tokens) & set(banned) for tokens in tokens_of(sample(trainer)))


def test_beam_sampling(tmp_path, model_path):
    """Each row's beams share its temperature: near 0, two beams find what one greedy search does or better."""
    trainer = make_trainer(tmp_path, model_path, generation_kwargs={"num_beams": 2, "length_penalty": -0.1})
    requests = [Request((0, 1), 1.3, 3, 0), Request((2,), 1e-3, 3, 0)]
    completions = list(trainer.generate_responses(requests))
    assert len(completions) == 9
    assert len({tuple(item.token_ids) for item in completions if item.query_id == 2}) == 1
    assert len({tuple(item.token_ids) for item in completions if item.query_id < 2}) > 2
    trainer.train()
    assert trainer.state.log_history[-1]["train_loss"] > 0


@pytest.mark.parametrize("implementation", ["static", "dynamic"])
def test_cache_implementation(tmp_path, model_path, implementation):
    trainer = make_trainer(tmp_path, model_path, cache_implementation=implementation)
    caches = set()
    hook = trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: caches.update(type(item) for item in kwargs.values() if isinstance(item, Cache)),
        with_kwargs=True,
    )
    sample(trainer, n=1, queries=[0])
    hook.remove()
    assert caches == {StaticCache if implementation == "static" else DynamicCache}


def test_chat_template_kwargs_reach_policy_and_reward_model(tmp_path, model_path, reward_model_path):
    tokenizer, reader = make_tokenizer(), make_tokenizer()
    for item in (tokenizer, reader):
        item.chat_template = "{{ mark }}" + item.chat_template
    read = []
    reward = AutoModelForSequenceClassification.from_pretrained(reward_model_path, num_labels=1)
    reward.register_forward_pre_hook(
        lambda module, args, kwargs: read.extend(reader.batch_decode(kwargs["input_ids"])), with_kwargs=True
    )
    trainer = make_trainer(
        tmp_path,
        model_path,
        processing_class=tokenizer,
        reward_funcs=reward,
        reward_processing_classes=reader,
        train_dataset=make_chat_dataset(),
        chat_template_kwargs={"mark": "abc"},
        max_steps=1,
    )
    completions = sample(trainer)
    assert all(tokenizer.decode(item.prompt_ids).startswith("abc") for item in completions)
    trainer.train()
    assert len(read) >= 51
    assert all(text.startswith("abc") for text in read)


@pytest.mark.parametrize(
    ("changes", "most"),
    [
        ({"generation_chunk_size": 6}, 6),
        ({"steps_per_generation": 3}, 9),
        ({"generation_batch_size": 12}, 12),
        ({}, 51),  # all of the exploration: 128 fit
    ],
)
def test_completions_in_flight(tmp_path, model_path, changes, most):
    trainer = make_trainer(tmp_path, model_path, callbacks=[BalanceCallback(1.0)], max_steps=1, **changes)
    rows = set()
    generate = trainer.model.generate

    def counted(input_ids, **kwargs):
        rows.add(len(input_ids))
        return generate(input_ids=input_ids, **kwargs)

    trainer.model.generate = counted
    trainer.train()
    assert max(rows) == most


def test_temperature_is_that_of_evaluation_and_of_a_static_run(tmp_path, model_path):
    settings = {"temperature": 1e-4, "eval_dataset": make_dataset(6), "max_steps": 1}
    trainer = make_trainer(tmp_path, model_path, callbacks=[BalanceCallback(None)], **settings)
    cold = trainer.evaluate()
    assert cold["eval_pass@1"] == cold["eval_greedy_pass@1"] == cold["eval_pass@3"]
    hot = make_trainer(tmp_path, model_path, **settings | {"temperature": 1.2}).evaluate()
    assert hot["eval_pass@1"] != hot["eval_greedy_pass@1"]
    trainer.train()
    assert trainer.state.log_history[-1]["explore/temperature"] == 1e-4
    assert trainer.args.temperature == 1e-4


# ---------------------------------------------------------------------- optimization


class GradientKeeper(TrainerCallback):
    """Keeps the gradients of every step, after clipping."""

    def __init__(self):
        self.steps = []

    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.steps.append({name: item.grad.clone() for name, item in model.named_parameters()})


@pytest.mark.parametrize(
    ("changes", "make_optimizer"),
    [
        (
            {"weight_decay": 0.2, "adam_beta1": 0.7, "adam_beta2": 0.9, "adam_epsilon": 1e-3},
            lambda groups: torch.optim.AdamW(groups, lr=0.02, betas=(0.7, 0.9), eps=1e-3),
        ),
        ({"optim": "sgd", "weight_decay": 0.2}, lambda groups: torch.optim.SGD(groups, lr=0.02)),
        ({"optim": "adagrad"}, lambda groups: torch.optim.Adagrad(groups, lr=0.02)),
    ],
    ids=["adamw", "sgd", "adagrad"],
)
def test_optimizer_options(tmp_path, model_path, changes, make_optimizer):
    """PyTorch's own optimizer, given the same gradients, takes the same steps; norms are not decayed."""
    keeper = GradientKeeper()
    trainer = make_trainer(tmp_path, model_path, callbacks=[keeper], learning_rate=0.02, max_steps=3, **changes)
    expected = weights_of(trainer)
    trainer.train()
    norms = [item for name, item in expected.items() if "norm" in name]
    others = [item for name, item in expected.items() if "norm" not in name]
    decay = changes.get("weight_decay", 0.0)
    optimizer = make_optimizer([{"params": others, "weight_decay": decay}, {"params": norms, "weight_decay": 0.0}])
    assert len(keeper.steps) == 3
    for gradients in keeper.steps:
        for name, item in expected.items():
            item.grad = gradients[name]
        optimizer.step()
    for name, item in weights_of(trainer).items():
        torch.testing.assert_close(item, expected[name])


@pytest.mark.parametrize(
    ("changes", "shares"),
    [
        ({"lr_scheduler_type": "linear"}, [1, 0.75, 0.5, 0.25]),
        ({"lr_scheduler_type": "constant_with_warmup"}, [1, 1, 1, 1]),
        ({"lr_scheduler_type": "cosine"}, [1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2]),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 1}}, [1, 0.5, 0, 0.5]),
    ],
)
def test_schedule_options(tmp_path, model_path, changes, shares):
    """Two steps of warmup, then four of the schedule."""
    trainer = make_trainer(
        tmp_path, model_path, learning_rate=0.01, warmup_steps=2, max_steps=6, logging_steps=1, **changes
    )
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]
    assert rates == pytest.approx([0, 0.005, *(0.01 * share for share in shares)])


def test_reduce_on_plateau_follows_pass_at_1(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path,
        model_path,
        reward_funcs=lambda completions, **kwargs: [1.0] * len(completions),  # never better than at first
        lr_scheduler_type="reduce_lr_on_plateau",
        lr_scheduler_kwargs={"patience": 0, "factor": 0.5, "mode": "max"},
        eval_dataset=make_dataset(2),
        eval_strategy="steps",
        eval_steps=1,
        max_steps=4,
        logging_steps=1,
    )
    trainer.train()
    rates = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]
    assert rates[0] == 0.01
    assert rates[-1] < 0.01


def test_gradients_are_clipped(tmp_path, model_path):
    """Plain gradient descent with rate 1 moves the weights by the gradient, which is no longer than the limit."""
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_steps": 1, "max_grad_norm": 1e-3}
    trainer = make_trainer(tmp_path, model_path, **settings)
    before = weights_of(trainer)
    trainer.train()
    moved = torch.cat([(item - before[name]).flatten() for name, item in weights_of(trainer).items()]).norm()
    assert moved.item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_weights(tmp_path, model_path, reentrant):
    trained = []
    for enabled in (False, True):
        trainer = make_trainer(
            tmp_path,
            model_path,
            gradient_checkpointing=enabled,
            gradient_checkpointing_kwargs={"use_reentrant": reentrant},
            gradient_accumulation_steps=2,
            optim="sgd",
            max_steps=3,
        )
        calls = []
        trainer.model.model.layers[0].mlp.register_forward_pre_hook(
            lambda module, args, calls=calls: calls.append(1) if module.training else None
        )
        trainer.train()
        trained.append((weights_of(trainer), len(calls)))
    (plain, once), (checkpointed, twice) = trained
    assert (once, twice) == (6, 12)  # six micro-batches, each layer computed once more in the backward pass
    for name, item in plain.items():
        torch.testing.assert_close(checkpointed[name], item, rtol=1e-4, atol=1e-6)


def test_noise_on_the_embeddings(tmp_path, model_path):
    """NEFTune adds uniform noise of at most alpha / sqrt(length x width), in training alone."""
    trainer = make_trainer(tmp_path, model_path, neftune_noise_alpha=5.0, max_steps=2)
    decoder = trainer.model.model
    tokens, noises = [], {True: [], False: []}  # by whether the model is in training

    def keep_tokens(module, args, kwargs):
        tokens[:] = [kwargs["input_ids"]]

    def keep_noise(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        table = decoder.embed_tokens.weight[tokens[0]]
        bound = 5.0 / math.sqrt(hidden.shape[1] * hidden.shape[2])
        noises[module.training].append(((hidden - table).abs().max() / bound).item())

    decoder.register_forward_pre_hook(keep_tokens, with_kwargs=True)
    decoder.layers[0].register_forward_pre_hook(keep_noise, with_kwargs=True)
    trainer.train()
    assert len(set(noises[True])) == 2  # a step's forward may be computed again for its gradients
    assert all(0.9 < noise <= 1.0001 for noise in noises[True])  # the largest of a few thousand draws
    assert set(noises[False]) == {0.0}


# ---------------------------------------------------------------------- the model


def test_mixed_precision(tmp_path, model_path):
    """Training computes in bfloat16 and keeps its weights in float32."""
    trainer = make_trainer(tmp_path, model_path, max_steps=2, bf16=True, use_cpu=True)
    computed = set()
    trainer.model.model.layers[0].mlp.up_proj.register_forward_hook(
        lambda module, args, output: computed.add(output.dtype) if module.training else None
    )
    before = weights_of(trainer)
    trainer.train()
    assert computed == {torch.bfloat16}
    assert {item.dtype for item in trainer.model.parameters()} == {torch.float32}
    assert not same(weights_of(trainer), before)


def test_model_init_kwargs(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, max_steps=3, model_init_kwargs={"dtype": "bfloat16"})
    before = weights_of(trainer)
    trainer.train()
    assert {item.dtype for item in trainer.model.parameters()} == {torch.bfloat16}
    assert not any(torch.equal(item, before[name]) for name, item in weights_of(trainer).items() if "proj" in name)


@pytest.mark.parametrize("tied", [False, True])
def test_head_in_full_precision(tmp_path, tied):
    make_model(tie_word_embeddings=tied).save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    trainer = make_trainer(
        tmp_path / "out",
        str(tmp_path / "tiny"),
        model_init_kwargs={"dtype": "bfloat16"},
        cast_lm_head_to_fp32=True,
        max_steps=3,
    )
    before = weights_of(trainer)
    trainer.train()
    assert trainer.model.lm_head.weight.dtype == torch.float32
    assert trainer.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
    name = "model.embed_tokens.weight" if tied else "lm_head.weight"
    assert not torch.equal(weights_of(trainer)[name], before[name])


def test_dropout_can_be_disabled(tmp_path, model_path):
    lora = LoraConfig(task_type="CAUSAL_LM", lora_dropout=0.5, init_lora_weights=False)
    for disabled, expected in ((False, {0.5}), (True, {0.0})):
        trainer = make_trainer(
            tmp_path,
            AutoModelForCausalLM.from_pretrained(model_path),
            peft_config=lora,
            disable_dropout=disabled,
            max_steps=1,
        )
        trainer.train()
        assert {module.p for module in trainer.model.modules() if isinstance(module, torch.nn.Dropout)} == expected


def test_router_loss_of_a_mixture_of_experts(tmp_path, model_path):
    settings = make_config().to_dict()
    sizes = {name: settings[name] for name in ("vocab_size", "hidden_size", "intermediate_size", "initializer_range")}
    config = MixtralConfig(
        **sizes,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=4,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    MixtralForCausalLM(config).float().save_pretrained(tmp_path / "tiny")
    make_tokenizer().save_pretrained(tmp_path / "tiny")
    losses = []
    for coefficient in (0.0, 1.0):
        trainer = make_trainer(
            tmp_path / "out",
            str(tmp_path / "tiny"),
            router_aux_loss_coef=coefficient,
            gradient_accumulation_steps=2,
            max_steps=1,
            logging_steps=1,
        )
        trainer.train()
        first, last = trainer.state.log_history[0], trainer.state.log_history[-1]
        losses.append(first["loss"])
        assert ("aux_loss" in first) == ("aux_loss" in last) == (coefficient > 0)
    assert first["aux_loss"] == last["aux_loss"] == pytest.approx(losses[1] - losses[0], rel=1e-4)
    # The load-balancing loss of two experts out of four is 2 where all are used alike, and not far from it here.
    assert 1.5 < losses[1] - losses[0] < 4
    with pytest.raises(ValueError, match="not a Mixture-of-Experts model"):
        make_trainer(tmp_path, model_path, router_aux_loss_coef=0.1)


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="an interpreted kernel cannot be traced")
@pytest.mark.parametrize("adapter", [None, LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear")])
def test_compiled_model(tmp_path, model_path, adapter):
    options = {"torch_compile": True, "torch_compile_backend": "eager", "peft_config": adapter}
    trainer = make_trainer(tmp_path, model_path, max_steps=2, **options)
    before = weights_of(trainer)
    trainer.train()
    assert not same(weights_of(trainer), before)


@pytest.mark.skipif("pad_to_multiple_of" not in FIELDS, reason="this TRL pads to the longest")
def test_pad_to_multiple_of(tmp_path, model_path):
    # Padding changes the rounding; Adam would make a step of a gradient that is nothing but rounding.
    padded, plain = (
        make_trainer(tmp_path, model_path, trainer=Recorder, max_steps=3, optim="sgd", learning_rate=0.1, **changes)
        for changes in ({"pad_to_multiple_of": 8}, {})
    )
    before = weights_of(plain)
    padded.train()
    plain.train()
    assert {width % 8 for width, _ in padded.widths} == {0}
    assert {width % 8 for width, _ in plain.widths} != {0}
    expected = weights_of(plain)
    for name, item in weights_of(padded).items():
        torch.testing.assert_close(item, expected[name], rtol=1e-4, atol=1e-6)
        assert not torch.allclose(item, before[name], rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------------- rewards and datasets


def test_reward_models_read_batches_of_the_evaluation_size(tmp_path, model_path, reward_model_path):
    reward = AutoModelForSequenceClassification.from_pretrained(reward_model_path, num_labels=1)
    rows = []
    reward.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    trainer = make_trainer(tmp_path, model_path, reward_funcs=reward, per_device_eval_batch_size=5, max_steps=1)
    trainer.train()
    assert max(rows) == 5


def test_unused_columns_can_be_removed(tmp_path, model_path):
    seen = []

    def curious(completions, **kwargs):
        seen.append("answer" in kwargs)
        return has_digit(completions)

    def needy(completions, answer, **kwargs):
        return has_digit(completions)

    for remove in (False, True):
        trainer = make_trainer(tmp_path, model_path, reward_funcs=curious, remove_unused_columns=remove, max_steps=1)
        trainer.train()
        assert seen.pop() is not remove
    with pytest.raises(DatasetError, match=r"'needy' needs .* answer, which remove_unused_columns=True takes away"):
        make_trainer(tmp_path, model_path, reward_funcs=needy, remove_unused_columns=True)


# ---------------------------------------------------------------------- logs, evaluation, checkpoints


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"logging_steps": 3}, [3, 4, 6, 8]),  # the last step of each iteration is always there
        ({"logging_steps": 3, "logging_first_step": True}, [1, 3, 4, 6, 8]),
        ({"logging_steps": 0.5}, [4, 8]),
        ({"logging_strategy": "epoch"}, [4, 8]),
        ({"logging_strategy": "no"}, []),
    ],
)
def test_logging_strategy(tmp_path, model_path, changes, steps):
    # 8 queries and n* = 1.5 give 12 samples: four steps of 3 an epoch.
    trainer = make_trainer(tmp_path, model_path, train_dataset=make_dataset(8), num_train_epochs=2, **changes)
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "loss" in line] == steps


def test_completions_are_printed_and_saved(tmp_path, model_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")  # so that no cell of the printed table is broken
    prompts = [f"abcdefgh{index}=" for index in range(6)]  # longer than a response, so only a prompt's cell holds one
    make_trainer(
        tmp_path,
        model_path,
        train_dataset=Dataset.from_dict({"prompt": prompts}),
        iteration_steps=2,
        max_steps=4,
        log_completions=True,
        num_completions_to_print=2,
        logging_steps=2,
    ).train()
    files = sorted((tmp_path / "completions").iterdir())
    assert [file.name for file in files] == ["completions_00002.parquet", "completions_00004.parquet"]
    table = pd.read_parquet(files[0])
    assert {"step", "prompt", "completion", "reward", "has_digit", "selected"} <= set(table.columns)
    assert list(table["has_digit"]) == has_digit(list(table["completion"]))
    assert len(table) == 12  # two steps of 3 need four queries at n* = 1.5, K = 3
    printed = capsys.readouterr().out
    assert printed.count("Step 2") == printed.count("Step 4") == 1
    assert sum(printed.count(prompt) for prompt in prompts) == 4  # two rows each time


def test_input_tokens_are_logged(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, include_num_input_tokens_seen="all", max_steps=1)
    trainer.train()
    last = trainer.state.log_history[-1]
    assert last["num_tokens"] > 0
    assert trainer.state.num_input_tokens_seen == last["num_tokens"]


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"eval_strategy": "steps", "eval_steps": 4}, [4, 8]),
        ({"eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True}, [0, 4, 8]),
        ({"eval_strategy": "steps", "eval_steps": 4, "eval_delay": 5}, [8]),
        ({"eval_strategy": "epoch"}, [8]),
        ({}, []),
    ],
)
def test_evaluation_strategy(tmp_path, model_path, changes, steps):
    trainer = make_trainer(tmp_path, model_path, max_steps=8, eval_dataset=make_dataset(2), **changes)
    trainer.train()
    assert [line["step"] for line in trainer.state.log_history if "eval_pass@1" in line] == steps


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, {"eval_pass@3"}),
        ({"num_generations_eval": 1}, set()),
        ({"num_generations_eval": 6}, {"eval_pass@6", "eval_pass@6-4"}),
    ],
)
def test_samples_of_an_evaluation(tmp_path, model_path, changes, names):
    figures = make_trainer(tmp_path, model_path, eval_dataset=make_dataset(2), **changes).evaluate()
    assert {name for name in figures if name.startswith("eval_pass@")} == names | {"eval_pass@1"}


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"save_strategy": "steps", "save_steps": 3}, {"checkpoint-3", "checkpoint-6", "checkpoint-9"}),
        ({"save_strategy": "steps", "save_steps": 3, "save_total_limit": 1}, {"checkpoint-9"}),
        ({"save_strategy": "epoch"}, {"checkpoint-9"}),
        ({"save_strategy": "no"}, set()),
    ],
)
def test_save_strategy(tmp_path, model_path, changes, kept):
    make_trainer(tmp_path, model_path, num_train_epochs=1, **changes).train()
    assert {item.name for item in tmp_path.glob("checkpoint-*")} == kept


def test_only_the_best_is_saved(tmp_path, model_path):
    """`save_strategy="best"` compares pass@1, which nothing but a better one replaces."""
    trainer = make_trainer(
        tmp_path,
        model_path,
        save_strategy="best",
        eval_strategy="steps",
        eval_steps=3,
        eval_dataset=make_dataset(4),
        num_train_epochs=2,
    )
    trainer.train()
    scores, best = {}, []
    for line in trainer.state.log_history:
        if "eval_pass@1" in line:
            if line["eval_pass@1"] > max(scores.values(), default=-1):
                best.append(f"checkpoint-{line['step']}")
            scores[line["step"]] = line["eval_pass@1"]
    assert {item.name for item in tmp_path.glob("checkpoint-*")} == set(best)


def test_only_the_model_is_saved(tmp_path, model_path):
    make_trainer(tmp_path, model_path, max_steps=3, save_strategy="steps", save_steps=3, save_only_model=True).train()
    names = {item.name for item in (tmp_path / "checkpoint-3").iterdir()}
    assert "model.safetensors" in names
    assert "optimizer.pt" not in names


def test_the_hub_is_asked_for_a_place_for_completions(tmp_path, model_path):
    """No network here: what shows is that it was asked."""
    with pytest.raises(Exception, match=r"(?i)offline"):
        make_trainer(tmp_path, model_path, log_completions=True, log_completions_hub_repo="me/completions")
    with pytest.raises(ValueError, match="log_completions is False"):
        make_trainer(tmp_path, model_path, log_completions_hub_repo="me/completions")
