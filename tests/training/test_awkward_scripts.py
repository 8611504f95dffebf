"""What scripts get wrong, and what they are told: golds of other kinds, frozen adapters, prompts that do not fit."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
from conftest import CONFIG_FIELDS, has_digit, make_dataset, make_gpt2, make_model, make_tokenizer, make_trainer
from datasets import Dataset
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import GPT2ForSequenceClassification
from trl import GRPOConfig, GRPOTrainer

from bstar_trl import BalanceCallback, BSTaRConfig, BSTaRTrainer
from bstar_trl.errors import ConfigurationError, DatasetError, RewardError
from bstar_trl.rewards import AnswerMatch, MultipleChoice

# ---------------------------------------------------------------------- gold answers of another kind


@pytest.mark.parametrize(
    ("gold", "message"),
    [
        (
            {"style": "rule", "ground_truth": "4"},
            r"a dict with the keys 'style', 'ground_truth'.*row\['gold'\]\['ground_truth'\]",
        ),
        (["4", "four"], r"a list.*row\['gold'\]\[<the place"),
        (True, r"a bool.*str\(row\['gold'\]\)"),
    ],
)
@pytest.mark.parametrize("as_stream", [False, True])
def test_a_gold_that_nobody_can_judge_is_refused(tmp_path, gold, message, as_stream):
    num_missing = 1 if as_stream else 49  # of a stream only the first rows are looked at
    rows = Dataset.from_dict({"prompt": ["1+1="] * (num_missing + 1), "gold": [None] * num_missing + [gold]})
    rows = rows.to_iterable_dataset() if as_stream else rows
    with pytest.raises(DatasetError, match=rf"'AnswerMatch': column 'gold' must hold gold answers.*{message}"):
        make_trainer(tmp_path, "no/such-model", reward_funcs=AnswerMatch("gold"), train_dataset=rows, max_steps=1)


def test_choices_of_another_kind_are_refused(tmp_path):
    rows = Dataset.from_dict({"prompt": ["1+1="], "answer": ["A"], "choices": ["2 or 3"]})
    with pytest.raises(RewardError, match=r"choices must be .*got .*2 or 3"):
        make_trainer(tmp_path, "no/such-model", reward_funcs=MultipleChoice(), train_dataset=rows)


@pytest.mark.parametrize("gold", [{"label": "A"}, ["A"], True, 1.5])
def test_a_label_of_another_kind_is_refused(tmp_path, gold):
    rows = Dataset.from_dict({"prompt": ["1+1=", "2+2="], "gold": [None, gold]})
    with pytest.raises(DatasetError, match=r"'MultipleChoice': column 'gold' must hold right labels"):
        make_trainer(tmp_path, "no/such-model", reward_funcs=MultipleChoice("gold"), train_dataset=rows)


def test_a_tensor_as_gold_is_refused(tmp_path):
    rows = Dataset.from_dict({"prompt": ["1+1="] * 3, "gold": [1, 2, 3]}).with_format("torch")
    with pytest.raises(
        DatasetError, match=r"column 'gold' must hold gold answers.*a torch\.Tensor.*with_format\(None\)"
    ):
        make_trainer(tmp_path, "no/such-model", reward_funcs=AnswerMatch("gold"), train_dataset=rows)


@pytest.mark.parametrize("golds", [["4", None, "5"], [4, None, 5], [4.5, float("nan"), 1.0]])
def test_single_golds_may_be_missing(tmp_path, model_path, golds):
    rows = Dataset.from_dict({"prompt": ["1+1=", "2+2=", "3+3="], "gold": golds})
    make_trainer(tmp_path, model_path, reward_funcs=AnswerMatch("gold"), train_dataset=rows)


def test_the_rows_that_are_evaluated_on_are_looked_at_too(tmp_path):
    rows = make_dataset(3).map(lambda row: {"answer": [row["answer"]]})
    with pytest.raises(DatasetError, match=r"column 'answer' must hold.*a list"):
        make_trainer(tmp_path, "no/such-model", reward_funcs=AnswerMatch(), eval_dataset=rows)


# ---------------------------------------------------------------------- models that cannot learn, or cannot read


@pytest.fixture(scope="session")
def adapter_path(tmp_path_factory):
    path = str(tmp_path_factory.mktemp("adapter"))
    get_peft_model(make_model(), LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])).save_pretrained(path)
    return path


def test_an_adapter_that_transformers_has_loaded_frozen_is_refused(tmp_path, adapter_path):
    base = make_model()
    base.load_adapter(adapter_path)
    base.requires_grad_(False)
    with pytest.raises(ConfigurationError, match=r"no parameter that requires a gradient.*is_trainable=True"):
        make_trainer(tmp_path, base, processing_class=make_tokenizer())


@pytest.mark.parametrize("is_trainable", [False, True])
def test_a_frozen_adapter_is_refused(tmp_path, adapter_path, is_trainable):
    model = PeftModel.from_pretrained(make_model(), adapter_path, is_trainable=is_trainable)
    if is_trainable:
        make_trainer(tmp_path, model, processing_class=make_tokenizer(), max_steps=1).train()
        return
    with pytest.raises(ConfigurationError, match=r"no parameter that requires a gradient.*is_trainable=True"):
        make_trainer(tmp_path, model, processing_class=make_tokenizer())


def test_a_frozen_model_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match=r"no parameter that requires a gradient.*peft_config"):
        make_trainer(tmp_path, make_model().requires_grad_(False), processing_class=make_tokenizer())


@pytest.mark.parametrize("make", [lambda: make_gpt2(12), lambda: make_model(max_position_embeddings=12)])
def test_a_prompt_that_does_not_fit_is_named(tmp_path, make):
    rows = Dataset.from_dict({"prompt": ["1+1=", "1+1+1+1+1+1=", "2+2="]})
    message = r"prompt of row 1 of the {} dataset{}, '1\+1.*, has 12 tokens, but the model takes 12 for prompt"
    for given, named in (
        ({"train_dataset": rows}, message.format("training", "")),
        ({"eval_dataset": rows}, message.format("evaluation", "")),
        ({"eval_dataset": {"hard": rows}}, message.format("evaluation", " 'hard'")),
    ):
        with pytest.raises(DatasetError, match=named):
            make_trainer(tmp_path, make(), processing_class=make_tokenizer(), **given)
    # The rows of a transform are not known before they are sampled, and neither is what a template adds.
    chats = Dataset.from_dict({"prompt": [[{"role": "user", "content": text}] for text in ("1+1=", "1+1+1+1+1")]})
    for late in (rows.with_transform(lambda batch: batch), chats):
        trainer = make_trainer(tmp_path, make(), processing_class=make_tokenizer(), train_dataset=late)
        with pytest.raises(DatasetError, match=r"prompt of query 1, .*but the model takes 12 for prompt"):
            trainer.train()


def test_a_response_ends_where_the_context_ends(tmp_path):
    """Prompts of 4 to 11 tokens, at most 8 tokens of response, a context of 12."""
    rows = Dataset.from_dict({"prompt": ["1+1=", "1+1+1=", "1+1+1+1=", "1+1+1+1+1=", "1+1+1+1+11"]})

    class Recorder(BSTaRTrainer):
        def select_responses(self, rollouts, setting):
            self.completions = rollouts.reader.read(rollouts.rows_R)
            return super().select_responses(rollouts, setting)

    trainer = make_trainer(
        tmp_path, make_gpt2(12), trainer=Recorder, processing_class=make_tokenizer(), train_dataset=rows, max_steps=1,
        reward_funcs=lambda completions, **kwargs: [1.0] * len(completions), num_generations=12,
    )  # fmt: skip
    trainer.train()
    cut = [item for item in trainer.completions if item.finish_reason == "length"]
    assert {len(item.prompt_ids) + len(item.token_ids) for item in cut} == {12}
    assert max(len(item.token_ids) for item in cut) == 8
    for item in trainer.completions:
        assert len(item.token_ids) <= min(8, 12 - len(item.prompt_ids))


def test_a_token_without_an_embedding_is_named(tmp_path):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["hh"])
    rows = Dataset.from_dict({"prompt": ["1+1=", "hh", "2+2="]})
    message = r"prompt of {}{} holds the token 'hh' with the id 26.*26 tokens.*resize_token_embeddings\(27\)"
    with pytest.raises(DatasetError, match=message.format("row 1", " of the training dataset")):
        make_trainer(tmp_path, make_model(), processing_class=tokenizer, train_dataset=rows)
    trainer = make_trainer(
        tmp_path,
        make_model(),
        processing_class=tokenizer,
        train_dataset=rows.to_iterable_dataset(),
        max_steps=1,
        shuffle_dataset=False,
    )
    with pytest.raises(DatasetError, match=message.format("query [0-9]+", "")):
        trainer.train()


def test_a_larger_tokenizer_is_warned_of(tmp_path, caplog):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["hh"])
    make_trainer(tmp_path, make_model(), processing_class=tokenizer)
    assert "The tokenizer has 27 tokens, but the model has embeddings for 26 tokens" in caplog.text


@pytest.mark.parametrize(
    ("positions", "add", "message"),
    [(8, False, r"for the reward model '.*', which takes 8"), (64, True, "token id 26, but the model has embeddings")],
)
def test_a_reward_model_that_cannot_read_the_responses_is_named(tmp_path, model_path, positions, add, message):
    config = make_gpt2(positions).config
    config.num_labels = 1
    tokenizer = make_tokenizer()
    if add:
        tokenizer.add_special_tokens({"pad_token": "<new>"})
    trainer = make_trainer(
        tmp_path,
        model_path,
        reward_funcs=GPT2ForSequenceClassification(config),
        reward_processing_classes=tokenizer,
        train_dataset=Dataset.from_dict({"prompt": ["1+1=", "1+1+1+1="]}),
    )
    with pytest.raises(RewardError, match=message):
        trainer.train()


@pytest.mark.parametrize("token", ["pad_token", "eos_token"])
def test_a_padding_token_without_an_embedding_is_named(tmp_path, token):
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({token: "<new>"})
    with pytest.raises(ConfigurationError, match=rf"{token} '<new>' has the id 26.*resize_token_embeddings\(27\)"):
        make_trainer(tmp_path, make_model(), processing_class=tokenizer)
    model = make_model()
    model.resize_token_embeddings(len(tokenizer))
    make_trainer(tmp_path, model, processing_class=tokenizer)


# ---------------------------------------------------------------------- GRPO's habits


@pytest.mark.parametrize(("rate", "warns"), [(None, True), (1e-6, True), (2e-6, False)])
def test_gros_learning_rate_is_warned_of(tmp_path, model_path, rate, warns):
    given = {} if rate is None else {"learning_rate": rate}
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, report_to="none", **given)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer = BSTaRTrainer(model=model_path, reward_funcs=has_digit, args=args, train_dataset=make_dataset())
    about = [item for item in caught if "learning_rate" in str(item.message)]
    assert bool(about) == warns
    if warns:
        assert "1e-06" in str(about[0].message)
        assert "2e-05" in str(about[0].message)
        assert about[0].filename == __file__
    assert trainer.args.learning_rate == (1e-6 if rate is None else rate)


def test_a_balance_callback_needs_our_trainer(tmp_path, model_path):
    args = GRPOConfig(output_dir=str(tmp_path), bf16=False, report_to="none", max_completion_length=2)
    trainer = GRPOTrainer(
        model_path, has_digit, args=args, train_dataset=make_dataset(), callbacks=[BalanceCallback()]
    )
    with pytest.raises(ConfigurationError, match="BalanceCallback works with BSTaRTrainer alone"):
        trainer.train()


def test_a_warning_about_the_plan_points_to_the_script(tmp_path, model_path):
    with pytest.warns(UserWarning, match="never seen") as caught:
        BSTaRTrainer(
            model_path,
            has_digit,
            args=BSTaRConfig(
                str(tmp_path), bf16=False, iteration_steps=1, queries_per_iteration=10, samples_per_iteration=50
            ),
            train_dataset=make_dataset(),
        )
    assert [item.filename for item in caught if "never seen" in str(item.message)] == [__file__]


def test_a_reward_may_have_the_name_of_a_column_of_the_table(tmp_path, model_path):
    def correct(completions, **kwargs):
        return has_digit(completions)

    trainer = make_trainer(
        tmp_path, model_path, reward_funcs=correct, max_steps=1, log_completions=True, reward_weights=[3.0]
    )
    trainer.train()
    (file,) = (tmp_path / "completions").iterdir()
    table = pd.read_parquet(file)
    assert table["correct"].dtype == bool
    assert (table["rewards/correct"] * 3 == table["reward"]).all()


def test_the_best_model_can_go_by_a_reward(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path,
        model_path,
        eval_dataset=make_dataset(4),
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        max_steps=4,
        load_best_model_at_end=True,
        metric_for_best_model="rewards/has_digit/mean",
    )
    trainer.train()
    evaluations = [entry for entry in trainer.state.log_history if "eval_reward" in entry]
    best = max(entry["eval_rewards/has_digit/mean"] for entry in evaluations)
    assert trainer.state.best_metric == best
    last = evaluations[-1]
    assert last["eval_rewards/has_digit/mean"] == pytest.approx(last["eval_reward"])
    assert last["eval_rewards/has_digit/std"] == pytest.approx(last["eval_reward_std"])
    assert 0 <= last["eval_frac_reward_zero_std"] <= 1
    assert last["eval_steps_per_second"] > 0
    assert last["eval_completions/min_length"] <= last["eval_completions/mean_length"] <= 8
    assert last["eval_completions/max_terminated_length"] <= last["eval_completions/max_length"]


def test_a_reward_model_alone_has_no_pass_at_1_to_go_by(tmp_path, reward_model_path):
    settings = {"save_strategy": "best", "eval_strategy": "steps", "eval_dataset": make_dataset(3)}
    assert "save_strategy" in CONFIG_FIELDS
    with pytest.raises(ConfigurationError, match=r"no pass@1: set metric_for_best_model.*eval_reward"):
        make_trainer(tmp_path, "no/such-model", reward_funcs=reward_model_path, **settings)


def test_figures_of_lengths_and_rewards_by_hand(tmp_path, model_path):
    class Recorder(BSTaRTrainer):
        def select_responses(self, rollouts, setting):
            self.rollouts = rollouts
            return super().select_responses(rollouts, setting)

    balance = BalanceCallback(0.7, allocation="fixed")
    trainer = make_trainer(tmp_path, model_path, trainer=Recorder, max_steps=1, callbacks=[balance])
    trainer.train()
    rollouts, logged = trainer.rollouts, trainer.state.log_history[-1]
    ended = rollouts.lengths_R[rollouts.ended_R]
    assert logged["completions/mean_terminated_length"] == pytest.approx(ended.mean())
    assert logged["completions/min_terminated_length"] == ended.min()
    assert logged["completions/max_terminated_length"] == ended.max()
    rewards = [rollouts.rewards_R[rollouts.query_ids_R == query] for query in np.unique(rollouts.query_ids_R)]
    assert logged["frac_reward_zero_std"] == pytest.approx(np.mean([len(set(row)) == 1 for row in rewards]))
