"""A GRPO script with its class names swapped: everything its author could pass to `GRPOTrainer` works here too."""

from __future__ import annotations

import functools
import math
import multiprocessing
import os

import numpy as np
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
    text_of,
)
from datasets import DatasetDict, IterableDataset, IterableDatasetDict
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    EarlyStoppingCallback,
    Gemma2Config,
    Gemma2ForCausalLM,
    LlamaForSequenceClassification,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    TrainerCallback,
)
from trl import GRPOConfig, TrlParser

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.errors import EmptySelectionError, RewardError, UnsupportedOptionError
from bstar_trl.rewards import RewardFn, Score

ARCHITECTURES = {
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
    "gemma2, tied head": (Gemma2Config, Gemma2ForCausalLM, {"head_dim": 16}),
    "mistral": (MistralConfig, MistralForCausalLM, {}),
    "qwen3 mixture of experts": (
        Qwen3MoeConfig,
        Qwen3MoeForCausalLM,
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    ),
}

SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "initializer_range",
)


class Recorder(BSTaRTrainer):
    """Keeps what each iteration explored and selected."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.explored, self.selected = [], []

    def select_responses(self, rollouts, setting):
        selection = super().select_responses(rollouts, setting)
        self.explored.append(rollouts)
        self.selected.append(selection.rollouts)
        return selection


class Digits(RewardFn):
    """A reward of the package's kind."""

    is_verifier = True

    def score(self, prompts, completions, **columns):
        return [Score(value) for value in has_digit(completions)]


class DigitCounter:
    """A callable object, as a user writes one."""

    def __call__(self, completions, **kwargs):
        return has_digit(completions)


class AsyncDigitCounter:
    """The same, to be awaited."""

    async def __call__(self, completions, **kwargs):
        return has_digit(completions)


async def has_digit_async(completions, **kwargs):
    return has_digit(completions)


def length(completions, **kwargs):
    return [float(len(text_of(item))) for item in completions]


async def letters(completions, **kwargs):
    return [float(len(set(text_of(item)))) for item in completions]


def never(completions, **kwargs):
    return [None] * len(completions)


def make_reward_model(path, change=None):
    """The reward model of `path`; `change` is applied to its logits."""
    model = AutoModelForSequenceClassification.from_pretrained(path, num_labels=1)
    if change is not None:

        def changed(module, args, output):
            output.logits = change(output.logits)
            return output

        model.register_forward_hook(changed)
    return model


def make_policy(folder, kind):
    """Another architecture's policy on disk."""
    config_class, model_class, changes = ARCHITECTURES[kind]
    config = make_config()
    settings = {name: getattr(config, name) for name in SIZES} | changes
    torch.manual_seed(0)
    model_class(config_class(**settings)).float().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return str(folder)


def weights_of(trainer):
    return {name: item.detach().clone() for name, item in trainer.model.named_parameters()}


def train(trainer):
    """Train, and return what each weight was before; the run ended with a loss."""
    before = weights_of(trainer)
    trainer.train()
    assert math.isfinite(trainer.state.log_history[-1]["train_loss"])
    return before


def assert_every_weight_changed(before, trainer):
    unchanged = [name for name, item in weights_of(trainer).items() if torch.equal(item, before[name])]
    assert not unchanged


# ---------------------------------------------------------------------- building


def test_model_reward_and_dataset_are_enough(tmp_path, monkeypatch, model_path, reward_model_path):
    monkeypatch.chdir(tmp_path)
    trainer = BSTaRTrainer(model=model_path, reward_funcs=reward_model_path, train_dataset=make_dataset())
    assert trainer.args.output_dir == "tiny-policy-BSTaR"
    assert sum(isinstance(item, BalanceCallback) for item in trainer.callback_handler.callbacks) == 1
    assert trainer.plan.num_queries == 17


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_dataset": None}, ValueError, "`train_dataset` is required"),
        ({"train_dataset": [{"prompt": "1+1="}]}, TypeError, "must be a `Dataset` or `IterableDataset`, got `list`"),
        ({"train_dataset": DatasetDict(train=make_dataset())}, TypeError, "got `DatasetDict`"),
        ({"train_dataset": make_dataset().to_iterable_dataset()}, ValueError, "max_steps must be set"),
        (
            {"train_dataset": make_dataset().to_iterable_dataset(), "accelerator_config": {"dispatch_batches": True}},
            ValueError,
            "Iterable datasets require `dispatch_batches=False`",
        ),
        ({"reward_funcs": None}, ValueError, "No reward source provided"),
        ({"reward_funcs": [has_digit, length]}, ValueError, "exactly one must be the verifier"),
    ],
)
def test_what_trl_refuses_is_refused_in_its_words(tmp_path, model_path, changes, error, message):
    with pytest.raises(error, match=message):
        make_trainer(tmp_path, model_path, **changes)


def test_a_plain_grpo_config_keeps_its_values(tmp_path, model_path):
    args = GRPOConfig(
        output_dir=str(tmp_path),
        learning_rate=3e-3,
        per_device_train_batch_size=3,
        num_generations=3,
        max_completion_length=8,
        top_p=0.9,
        seed=7,
        bf16=False,
        report_to="none",
        max_steps=3,
        save_strategy="no",
    )
    trainer = BSTaRTrainer(model=model_path, reward_funcs=has_digit, args=args, train_dataset=make_dataset())
    kept = ("learning_rate", "num_generations", "max_completion_length", "top_p", "seed", "max_steps", "report_to")
    assert [getattr(trainer.args, name) for name in kept] == [getattr(args, name) for name in kept]
    assert_every_weight_changed(train(trainer), trainer)


def test_command_line_arguments(tmp_path):
    given = {
        "output_dir": str(tmp_path),
        "generation_kwargs": '{"top_k": 5}',
        "inheritance": "iterative",
        "num_generations": "4",
        "balance_target": "1.5",
        "verifier": "0",
    }
    words = [word for name, value in given.items() for word in (f"--{name}", value)]
    (args,) = TrlParser(BSTaRConfig).parse_args_and_config(words)
    assert args.generation_kwargs == {"top_k": 5}
    assert (args.inheritance, args.num_generations, args.balance_target) == ("iterative", 4, 1.5)
    assert args.verifier == "0"


@pytest.mark.parametrize("given", ["path", "model", "model and tokenizer"])
def test_model_by_path_or_instance(tmp_path, model_path, given):
    model = model_path if given == "path" else AutoModelForCausalLM.from_pretrained(model_path)
    own = {} if given != "model and tokenizer" else {"processing_class": make_tokenizer()}
    if own:
        own["processing_class"].padding_side = "right"  # ours to pad, whatever it says
    trainer = make_trainer(tmp_path, model, max_steps=3, **own)
    assert_every_weight_changed(train(trainer), trainer)


# ---------------------------------------------------------------------- training


@pytest.mark.parametrize(
    "callback", [None, BalanceCallback(), BalanceCallback(0.9, 0.0)], ids=["none", "probe", "one"]
)
@pytest.mark.parametrize("make", [make_dataset, make_chat_dataset], ids=["plain", "chat"])
def test_full_training_changes_every_weight(tmp_path, model_path, make, callback):
    callbacks = None if callback is None else [callback]
    trainer = make_trainer(tmp_path, model_path, train_dataset=make(), callbacks=callbacks, num_train_epochs=2)
    assert_every_weight_changed(train(trainer), trainer)
    assert trainer.state.global_step == 18
    last = trainer.state.log_history[-1]
    assert last["train_samples_per_second"] == pytest.approx(3 * last["train_steps_per_second"], rel=0.01)


@pytest.mark.parametrize("kind", ARCHITECTURES)
def test_other_architectures(tmp_path, kind):
    trainer = make_trainer(tmp_path / "out", make_policy(tmp_path / "tiny", kind), num_train_epochs=1)
    assert_every_weight_changed(train(trainer), trainer)


def test_a_tokenizer_without_padding_token(tmp_path):
    """TRL pads with EOS then: every response must still be read up to its own EOS, no further."""
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    make_model().save_pretrained(tmp_path / "tiny")
    tokenizer.save_pretrained(tmp_path / "tiny")
    trainer = make_trainer(tmp_path / "out", str(tmp_path / "tiny"), trainer=Recorder, num_train_epochs=1)
    assert_every_weight_changed(train(trainer), trainer)
    chosen = trainer.selected[0]
    samples = chosen.reader.read(chosen.rows_R)
    assert trainer.processing_class.pad_token_id == trainer.processing_class.eos_token_id
    assert all(list(item.token_ids).index(1) == len(item.token_ids) - 1 for item in samples)


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"num_train_epochs": 2}, 18),  # 17 queries, 26 samples, batches of 3: 9 steps an iteration
        ({"num_train_epochs": 0.5}, 5),
        ({"max_steps": 5}, 5),
        ({"max_steps": 20, "num_train_epochs": 1}, 20),
        ({"gradient_accumulation_steps": 2, "num_train_epochs": 1}, 5),
        ({"num_generations": 6, "gradient_accumulation_steps": 2, "num_train_epochs": 1}, 9),
        ({"queries_per_iteration": 6, "num_train_epochs": 1}, 9),
    ],
)
def test_steps_of_a_run(tmp_path, model_path, changes, steps):
    trainer = make_trainer(tmp_path, model_path, **changes)
    assert_every_weight_changed(train(trainer), trainer)
    assert trainer.state.global_step == steps


@pytest.mark.parametrize("given", ["config", "model", "config, checkpointing"])
def test_lora_trains_the_adapter_alone(tmp_path, model_path, given):
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj", "v_proj"])
    model, own = AutoModelForCausalLM.from_pretrained(model_path), {"peft_config": lora}
    if given == "model":
        model, own = get_peft_model(model, lora), {}
    trainer = make_trainer(
        tmp_path, model, num_train_epochs=2, gradient_checkpointing=given != "config", learning_rate=0.05, **own
    )
    before = train(trainer)
    after = weights_of(trainer)
    adapter = [name for name in before if "lora_" in name]
    assert len(adapter) == 8  # A and B of two projections in two layers
    assert all(torch.equal(after[name], before[name]) != (name in adapter) for name in before)
    trainer.save_model()
    assert {"adapter_model.safetensors", "adapter_config.json"} <= set(os.listdir(tmp_path))
    assert "model.safetensors" not in os.listdir(tmp_path)


def test_an_adapter_on_the_head_is_refused(tmp_path, model_path):
    lora = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "lm_head"])
    with pytest.raises(ValueError, match="lm_head"):
        make_trainer(tmp_path, model_path, peft_config=lora)


def test_own_optimizer_and_schedule_are_used(tmp_path, model_path):
    model = AutoModelForCausalLM.from_pretrained(model_path)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    trainer = make_trainer(tmp_path, model, optimizers=(optimizer, schedule), max_steps=3, logging_steps=1)
    assert_every_weight_changed(train(trainer), trainer)
    assert trainer.optimizer.optimizer is optimizer
    rates = [line["learning_rate"] for line in trainer.state.log_history if "loss" in line]
    assert rates == [0.5, 0.25, 0.125]


def test_callbacks_see_the_run_and_can_stop_it(tmp_path, model_path):
    class Watch(TrainerCallback):
        seen: list[str] = []  # noqa: RUF012

        def on_step_end(self, args, state, control, **kwargs):
            self.seen.append("step")
            control.should_training_stop = state.global_step == 4

        def on_log(self, args, state, control, logs=None, **kwargs):
            self.seen.append("loss" if "loss" in logs else "end")

        def on_train_begin(self, args, state, control, model=None, processing_class=None, **kwargs):
            assert model is not None
            assert processing_class is not None
            self.seen.append("begin")

    trainer = make_trainer(tmp_path, model_path, callbacks=[Watch(), BalanceCallback()], logging_steps=2)
    trainer.train()
    assert Watch.seen == ["begin", "step", "step", "loss", "step", "step", "loss", "end"]


# ---------------------------------------------------------------------- rewards


REWARDS = {
    "function": (lambda path: has_digit, "has_digit"),
    "list": (lambda path: [has_digit], "has_digit"),
    "partial": (lambda path: functools.partial(has_digit, unused=1), "has_digit"),
    "object": (lambda path: DigitCounter(), "DigitCounter"),
    "async function": (lambda path: has_digit_async, "has_digit_async"),
    "async partial": (lambda path: functools.partial(has_digit_async, unused=1), "has_digit_async"),
    "async object": (lambda path: AsyncDigitCounter(), "AsyncDigitCounter"),
    "package": (lambda path: Digits(), "Digits"),
    "model id": (lambda path: path, "tiny-reward"),
    "model": (make_reward_model, "tiny-reward"),
}


@pytest.mark.parametrize("kind", REWARDS)
@pytest.mark.parametrize("make_rows", [make_dataset, make_chat_dataset], ids=["plain", "chat"])
def test_any_reward_trains(tmp_path, model_path, reward_model_path, kind, make_rows):
    make, name = REWARDS[kind]
    trainer = make_trainer(
        tmp_path, model_path, reward_funcs=make(reward_model_path), train_dataset=make_rows(), num_train_epochs=1
    )
    assert_every_weight_changed(train(trainer), trainer)
    assert trainer.state.log_history[-1][f"rewards/{name}/mean"] != 0


def test_the_total_is_the_weighted_sum_and_none_adds_nothing(tmp_path, model_path, reward_model_path):
    trainer = make_trainer(
        tmp_path,
        model_path,
        reward_funcs=[has_digit, letters, never, reward_model_path],
        reward_weights=[0.5, 0.25, 100.0, -2.0],
        verifier="has_digit",
        num_train_epochs=1,
    )
    assert_every_weight_changed(train(trainer), trainer)
    last = trainer.state.log_history[-1]
    parts = [last[f"rewards/{name}/mean"] for name in ("has_digit", "letters", "tiny-reward")]
    assert last["reward"] == pytest.approx(0.5 * parts[0] + 0.25 * parts[1] - 2 * parts[2], abs=1e-6)
    assert all(f"rewards/{name}/std" in last for name in ("has_digit", "letters", "tiny-reward"))


@pytest.mark.parametrize("verifier", ["letters", "1", "tiny-reward"])
def test_any_of_several_rewards_can_be_the_verifier(tmp_path, model_path, reward_model_path, verifier):
    rewards = [length, letters, make_reward_model(reward_model_path, torch.exp)]
    column, limit = {"letters": (1, 5), "1": (1, 5), "tiny-reward": (2, 1)}[verifier]
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=rewards,
        verifier=verifier,
        correct_at=float(limit),
        num_train_epochs=1,
    )
    assert_every_weight_changed(train(trainer), trainer)
    explored = trainer.explored[0]
    assert 0 < explored.correct_R.mean() < 1
    assert (explored.correct_R == (explored.values_RF[:, column] >= limit)).all()


def test_none_from_the_verifier_is_never_selected(tmp_path, model_path):
    def some(completions, **kwargs):
        return [None if "1" in text_of(item) else float(len(text_of(item))) for item in completions]

    balance = BalanceCallback(0.7, allocation="fixed")
    trainer = make_trainer(
        tmp_path, model_path, trainer=Recorder, reward_funcs=some, num_train_epochs=1, callbacks=[balance]
    )
    assert_every_weight_changed(train(trainer), trainer)
    assert 0 < trainer.explored[0].judged_R.mean() < 1
    assert trainer.selected[0].judged_R.all()
    assert trainer.state.log_history[-1]["explore/unjudged"] == pytest.approx(1 - trainer.explored[0].judged_R.mean())


def test_nothing_but_none_says_so(tmp_path, model_path):
    with pytest.raises(EmptySelectionError, match="could judge no response"):
        make_trainer(tmp_path, model_path, reward_funcs=never).train()


@pytest.mark.parametrize("make_rows", [make_dataset, make_chat_dataset], ids=["plain", "chat"])
def test_rewards_get_what_trl_passes(tmp_path, model_path, make_rows):
    rows = make_rows().add_column("number", list(range(17)))
    prompts_of = {str(prompt): (answer, number) for prompt, answer, number in zip(*rows[:].values(), strict=True)}
    tokenizer = make_tokenizer()
    steps = set()

    def reward(prompts, completions, completion_ids, answer, number, trainer_state, **kwargs):
        assert [prompts_of[str(prompt)] for prompt in prompts] == list(zip(answer, number, strict=True))
        decoded = [tokenizer.decode(tokens, skip_special_tokens=True) for tokens in completion_ids]
        assert decoded == [text_of(item) for item in completions]
        steps.add(trainer_state.global_step)
        return has_digit(completions)

    make_trainer(tmp_path, model_path, reward_funcs=reward, train_dataset=rows, num_train_epochs=2).train()
    assert steps == {0, 9}


def test_rewards_can_log(tmp_path, model_path):
    def reward(completions, log_extra, log_metric, **kwargs):
        texts = [text_of(item) for item in completions]
        log_extra("length", [len(text) for text in texts])
        log_metric("longest", max(len(text) for text in texts))
        return has_digit(completions)

    trainer = make_trainer(tmp_path, model_path, reward_funcs=reward, num_train_epochs=1, log_completions=True)
    trainer.train()
    (table,) = (tmp_path / "completions").iterdir()
    completions = pd.read_parquet(table)
    assert (completions["length"] == completions["completion"].str.len()).all()
    assert len(completions) == 51


def test_logged_metrics_are_means_over_the_calls(tmp_path, model_path):
    values = []

    def reward(completions, log_metric, **kwargs):
        values.append(float(len(values)))
        log_metric("calls", values[-1])
        return has_digit(completions)

    trainer = make_trainer(tmp_path, model_path, reward_funcs=reward, max_steps=1, logging_steps=1)
    trainer.train()
    assert trainer.state.log_history[0]["calls"] == pytest.approx(np.mean(values))


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (lambda completions: [1.0], "'broken' must return one reward per completion: got 1, expected"),
        (lambda completions: [1.0] * (len(completions) - 1) + [math.nan], "'broken' returned nan for row"),
        (lambda completions: ["good"] * len(completions), "'broken' returned 'good' for row 0"),
        (lambda completions: 1.0, "'broken' must return a list of rewards"),
    ],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_what_is_no_reward_is_named(tmp_path, model_path, output, message, is_async):
    def broken(completions, **kwargs):
        return output(completions)

    async def awaited(completions, **kwargs):
        return output(completions)

    awaited.__name__ = "broken"
    trainer = make_trainer(tmp_path, model_path, reward_funcs=awaited if is_async else broken)
    with pytest.raises(RewardError, match=message):
        trainer.train()


# ---------------------------------------------------------------------- reward models


@pytest.mark.parametrize("make_rows", [make_dataset, make_chat_dataset], ids=["plain", "chat"])
def test_a_reward_model_reads_text_with_its_own_tokenizer(tmp_path, model_path, make_rows):
    """Its vocabulary and its chat template are not the policy's."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["="])
    tokenizer.chat_template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    torch.manual_seed(2)
    model = LlamaForSequenceClassification(make_config(num_labels=1, vocab_size=len(tokenizer))).float().eval()
    model.config._name_or_path = "some/other-reward"
    model.register_forward_hook(lambda module, args, output: setattr(output, "logits", output.logits.exp()))
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=model,
        reward_processing_classes=tokenizer,
        train_dataset=make_rows(),
        max_steps=1,
    )
    trainer.train()
    explored = trainer.explored[0]
    rows = make_rows()
    for value, item in list(zip(explored.values_RF[:, 0], explored.reader.read(explored.rows_R), strict=True))[:10]:
        prompt = rows[item.query_id]["prompt"]
        text = prompt + item.text if isinstance(prompt, str) else f"[{prompt[0]['content']}][{item.text}]"
        with torch.inference_mode():
            expected = model(**tokenizer(text, return_tensors="pt")).logits[0, 0]
        assert value == pytest.approx(expected.item(), rel=1e-4)
    assert "rewards/other-reward/mean" in trainer.state.log_history[-1]


@pytest.mark.parametrize("given", ["one for one", "one for two", "two for two"])
def test_reward_processing_classes(tmp_path, model_path, reward_model_path, given):
    tokenizers = [AutoTokenizer.from_pretrained(reward_model_path) for _ in range(2)]
    rewards = (
        reward_model_path if given == "one for one" else [reward_model_path, make_reward_model(reward_model_path)]
    )
    classes = tokenizers if given == "two for two" else tokenizers[0]
    settings = {"reward_funcs": rewards, "reward_processing_classes": classes, "verifier": "0"}
    if given == "one for two":
        with pytest.raises(ValueError, match="must match"):
            make_trainer(tmp_path, model_path, **settings)
        return
    trainer = make_trainer(tmp_path, model_path, **settings)
    expected = tokenizers if given == "two for two" else tokenizers[:1]
    assert all(got is wanted for got, wanted in zip(trainer.reward_processing_classes, expected, strict=True))


def means_of_queries(rollouts):
    return np.array([rollouts.values_RF[rollouts.query_ids_R == query, 0].mean() for query in rollouts.query_ids_R])


@pytest.mark.parametrize("place", ["attribute", "config"])
def test_a_reward_model_with_a_limit_of_its_own(tmp_path, model_path, reward_model_path, place):
    """Its logits say *correct* from `correct_at` on; the threshold is found on the logits."""
    model = make_reward_model(reward_model_path, lambda logits: 3 * logits.sin())
    if place == "attribute":
        model.correct_at = 0.5
    settings = {"correct_at": 0.5} if place == "config" else {}
    settings["callbacks"] = [BalanceCallback(0.7, allocation="fixed")]
    trainer = make_trainer(tmp_path, model_path, trainer=Recorder, reward_funcs=model, num_train_epochs=1, **settings)
    assert_every_weight_changed(train(trainer), trainer)
    explored = trainer.explored[0]
    assert (explored.correct_R == (explored.values_RF[:, 0] >= 0.5)).all()
    assert 0 < explored.correct_R.mean() < 1
    assert trainer.selected[0].correct_R.mean() > explored.correct_R.mean()
    assert trainer.state.log_history[-1]["explore/pass@1"] == pytest.approx(explored.correct_R.mean())


@pytest.mark.parametrize("scale", [lambda logits: 3 * logits.sin(), lambda logits: -logits.abs() - 100])
def test_a_reward_model_alone_compares_the_responses_of_a_query(tmp_path, model_path, reward_model_path, scale):
    """Its values say nothing by themselves, so no share of correct responses is logged."""
    model = make_reward_model(reward_model_path, scale)
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        reward_funcs=model,
        num_train_epochs=1,
        eval_dataset=make_dataset(3),
        callbacks=[BalanceCallback(temperatures=1.0)],
    )
    assert_every_weight_changed(train(trainer), trainer)
    explored = trainer.explored[0]
    assert (explored.correct_R == (explored.values_RF[:, 0] > means_of_queries(explored) + 1e-9)).all()
    assert 0 < explored.correct_R.mean() < 1
    assert trainer.selected[0].correct_R.any()
    logged = trainer.state.log_history[-1] | trainer.evaluate()
    assert not [name for name in logged if "pass@" in name or "best_of" in name or name == "select/correct"]
    assert {"explore/distinct", "eval_reward", "eval_rewards/tiny-reward/mean"} <= logged.keys()


def test_a_limit_that_no_value_reaches_says_so(tmp_path, model_path, reward_model_path):
    model = make_reward_model(reward_model_path, lambda logits: -logits.abs() - 0.1)
    message = r"no response of 51 was correct.*values of 'tiny-reward' lie between -.* and -.*at least 1 .*correct_at"
    with pytest.raises(EmptySelectionError, match=message):
        make_trainer(tmp_path, model_path, reward_funcs=model, correct_at=1.0).train()


# ---------------------------------------------------------------------- streams


def make_stream(kind):
    if kind == "of a dataset":
        return make_dataset(7).to_iterable_dataset()
    return IterableDataset.from_generator(lambda: iter(make_dataset(7)))  # it does not know its columns


@pytest.mark.parametrize("kind", ["of a dataset", "of a generator"])
@pytest.mark.parametrize("shuffle", [False, True])
def test_a_stream_is_taken_as_it_comes_and_starts_again(tmp_path, model_path, kind, shuffle):
    seen = []

    def reward(prompts, completions, answer, **kwargs):
        seen.extend(dict.fromkeys(zip(prompts, answer, strict=True)))
        return has_digit(completions)

    trainer = make_trainer(
        tmp_path,
        model_path,
        reward_funcs=reward,
        train_dataset=make_stream(kind),
        max_steps=15,
        queries_per_iteration=5,
        shuffle_dataset=shuffle,
        callbacks=[BalanceCallback(1.0)],
    )
    assert_every_weight_changed(train(trainer), trainer)
    assert len(trainer.balance.history) == 5  # three steps each
    rows = [(row["prompt"], row["answer"]) for row in make_dataset(7)]
    assert sorted(seen[:5] + seen[5:7]) == sorted(rows) or shuffle
    if not shuffle:  # prompts of like length stay in the stream's order
        assert seen[:15] == [*rows, *rows, rows[0]]
    assert set(seen) == set(rows)


class Children(TrainerCallback):
    """Counts the processes that this one has started."""

    def __init__(self, seen):
        self.seen = seen

    def on_step_end(self, args, state, control, **kwargs):
        self.seen.append(len(multiprocessing.active_children()))


def test_loader_workers_are_kept_as_trl_keeps_them_and_none_is_started(tmp_path, model_path):
    """A stream is read by one process in TRL, so its workers are put to 0; a stream to evaluate on has no say."""
    workers = {"dataloader_num_workers": 4, "max_steps": 3}
    trainer = make_trainer(tmp_path, model_path, train_dataset=make_stream("of a dataset"), **workers)
    assert trainer.args.dataloader_num_workers == 0
    assert trainer.args.accelerator_config.dispatch_batches is False
    trainer = make_trainer(tmp_path, model_path, eval_dataset=make_stream("of a dataset"), **workers)
    assert trainer.args.dataloader_num_workers == trainer.get_train_dataloader().num_workers == 4
    assert trainer.get_eval_dataloader().num_workers == 0
    children = []
    trainer.add_callback(Children(children))
    assert_every_weight_changed(train(trainer), trainer)
    assert children == [0, 0, 0]


@pytest.mark.parametrize("kind", ["of a dataset", "of a generator"])
def test_evaluation_on_a_stream(tmp_path, model_path, kind):
    trainer = make_trainer(tmp_path, model_path, eval_dataset=make_stream(kind))
    again = make_trainer(tmp_path, model_path, eval_dataset=make_dataset(7))
    timings = ("eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    on_stream, on_rows = trainer.evaluate(), again.evaluate()
    assert {name: on_stream[name] for name in on_stream if name not in timings} == {
        name: on_rows[name] for name in on_rows if name not in timings
    }


# ---------------------------------------------------------------------- evaluation


@pytest.mark.parametrize(
    ("given", "prefixes"),
    [
        (make_dataset(2), ["eval"]),
        ({"easy": make_dataset(2), "stream": make_stream("of a dataset")}, ["eval_easy", "eval_stream"]),
        (DatasetDict(test=make_dataset(2), chat=make_chat_dataset(2)), ["eval_test", "eval_chat"]),
        (IterableDatasetDict(test=make_stream("of a generator")), ["eval_test"]),
    ],
    ids=["dataset", "dict", "DatasetDict", "IterableDatasetDict"],
)
def test_evaluation_while_training(tmp_path, model_path, given, prefixes):
    trainer = make_trainer(
        tmp_path,
        model_path,
        eval_dataset=given,
        eval_strategy="steps",
        eval_steps=2,
        eval_on_start=True,
        per_device_eval_batch_size=2,  # TRL would want whole groups of K in it
        max_steps=4,
    )
    assert_every_weight_changed(train(trainer), trainer)
    for prefix in prefixes:
        lines = [line for line in trainer.state.log_history if f"{prefix}_pass@1" in line]
        assert [line["step"] for line in lines] == [0, 2, 4]
        for name in ("greedy_pass@1", "pass@1", "pass@3"):
            assert all(0 <= line[f"{prefix}_{name}"] <= 1 for line in lines)


def test_evaluation_on_demand(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, eval_dataset={"a": make_dataset(2), "b": make_dataset(3)})
    assert {"eval_a_pass@1", "eval_b_pass@1"} <= set(trainer.evaluate())
    by_name = trainer.evaluate("b")
    assert by_name["eval_pass@1"] == trainer.evaluate()["eval_b_pass@1"]
    assert "test_pass@1" in trainer.evaluate(make_dataset(2), metric_key_prefix="test")
    with pytest.raises(ValueError, match="needs an eval_dataset"):
        make_trainer(tmp_path, model_path).evaluate()
    with pytest.raises(UnsupportedOptionError, match="evaluate"):
        trainer.predict(make_dataset(2))
    assert trainer.iteration == 0


def test_evaluation_leaves_the_training_alone(tmp_path, model_path):
    plain = make_trainer(tmp_path, model_path, num_train_epochs=2)
    plain.train()
    evaluated = make_trainer(
        tmp_path, model_path, num_train_epochs=2, eval_dataset=make_dataset(2), eval_strategy="steps", eval_steps=1
    )
    evaluated.train()
    expected = weights_of(plain)
    assert all(torch.equal(item, expected[name]) for name, item in weights_of(evaluated).items())


@pytest.mark.parametrize("config", [GRPOConfig, BSTaRConfig])
def test_the_best_model_is_the_one_with_the_best_pass_at_1(tmp_path, model_path, config):
    """TRL's own default, the evaluation loss, does not exist here: it is replaced in a plain `GRPOConfig` too."""
    args = config(
        output_dir=str(tmp_path),
        per_device_train_batch_size=3,
        per_device_eval_batch_size=3,
        num_generations=3,
        max_completion_length=8,
        learning_rate=0.02,
        bf16=False,
        report_to="none",
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="steps",
        save_steps=3,
        load_best_model_at_end=True,
        max_steps=12,
    )
    trainer = BSTaRTrainer(
        model=model_path,
        reward_funcs=has_digit,
        args=args,
        train_dataset=make_dataset(),
        eval_dataset=make_dataset(4),
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2)],
    )
    trainer.train()
    scores = {line["step"]: line["eval_pass@1"] for line in trainer.state.log_history if "eval_pass@1" in line}
    assert trainer.state.best_metric == max(scores.values())
    best = AutoModelForCausalLM.from_pretrained(trainer.state.best_model_checkpoint)
    assert all(torch.equal(item, weights_of(trainer)[name]) for name, item in best.named_parameters())


# ---------------------------------------------------------------------- saving


def test_saved_model_is_a_plain_model(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, max_steps=3, save_strategy="steps", save_steps=3)
    trainer.train()
    trainer.save_model(str(tmp_path / "final"))
    for folder in ("final", "checkpoint-3"):
        again = AutoModelForCausalLM.from_pretrained(tmp_path / folder)
        assert all(torch.equal(item, weights_of(trainer)[name]) for name, item in again.named_parameters())
        assert (
            AutoTokenizer.from_pretrained(tmp_path / folder)("1+1=")["input_ids"]
            == make_tokenizer()("1+1=")["input_ids"]
        )
    card = (tmp_path / "README.md").read_text()
    assert "- bstar" in card
    assert "zeng2025bstar" in card
    assert "2412.17256" in card
    trainer.create_model_card(model_name="my-model", dataset_name="my-data", tags=["arithmetic"])
    assert all(word in (tmp_path / "README.md").read_text() for word in ("my-model", "my-data", "- arithmetic"))


@pytest.mark.parametrize("given", [True, "path"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tmp_path, model_path, given):
    settings = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": 5}
    whole = make_trainer(tmp_path / "whole", model_path, **settings)
    whole.train()

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    make_trainer(tmp_path / "cut", model_path, callbacks=[Stop()], **settings).train()
    resumed = make_trainer(tmp_path / "cut", model_path, **settings)
    resumed.train(resume_from_checkpoint=True if given is True else str(tmp_path / "cut" / "checkpoint-5"))
    assert resumed.state.global_step == 18
    assert all(torch.equal(item, weights_of(whole)[name]) for name, item in weights_of(resumed).items())
