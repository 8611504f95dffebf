"""`evaluate()`: figures per query that a hand count gives too, and no trace in the training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import has_digit, make_chat_dataset, make_dataset, make_trainer

from bstar_trl import BSTaRTrainer
from bstar_trl.errors import DatasetError
from bstar_trl.rewards import AnswerMatch


class Watcher(BSTaRTrainer):
    """Keeps what evaluations sampled."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.responses = []

    def generate_responses(self, requests):
        for completion in super().generate_responses(requests):
            self.responses.append(completion)
            yield completion


def test_figures_are_those_of_a_hand_count(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path, model_path, trainer=Watcher, eval_dataset=make_dataset(7), num_generations_eval=5, temperature=1.3
    )
    figures = trainer.evaluate()
    greedy = [item for item in trainer.responses if item.temperature == 0]
    sampled = [item for item in trainer.responses if item.temperature == 1.3]
    assert len(greedy) == 7
    assert len(sampled) == 35
    right = {query: [] for query in range(7)}
    texts = {query: set() for query in range(7)}
    for item in sampled:
        good = has_digit([item.text])[0]
        right[item.query_id].append(good)
        if good:
            texts[item.query_id].add(item.text.rstrip())
    assert figures["eval_greedy_pass@1"] == pytest.approx(np.mean(has_digit([item.text for item in greedy])))
    assert figures["eval_pass@1"] == pytest.approx(np.mean(list(right.values())))
    assert figures["eval_pass@5"] == pytest.approx(np.mean([max(values) for values in right.values()]))
    assert figures["eval_pass@5-4"] == pytest.approx(np.mean([len(found) >= 4 for found in texts.values()]))
    assert figures["eval_reward"] == pytest.approx(np.mean(list(right.values())))
    assert figures["eval_runtime"] > 0
    assert "eval_loss" not in figures


def test_greedy_responses_are_the_argmax(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, trainer=Watcher, eval_dataset=make_dataset(3))
    trainer.evaluate()
    for item in trainer.responses:
        if item.temperature == 0:
            tokens = list(item.prompt_ids)
            for token in item.token_ids:
                logits = trainer.model(torch.tensor([tokens], device=trainer.model.device)).logits[0, -1]
                assert token == logits.argmax().item()
                tokens.append(token)


def test_a_dict_of_datasets_gives_names(tmp_path, model_path):
    datasets = {"easy": make_dataset(3), "hard": make_dataset(5)}
    trainer = make_trainer(tmp_path, model_path, eval_dataset=datasets)
    figures = trainer.evaluate()
    for name in datasets:
        assert {f"eval_{name}_greedy_pass@1", f"eval_{name}_pass@1", f"eval_{name}_pass@3"} <= figures.keys()
        assert f"eval_{name}_pass@3-4" not in figures  # K = 3
    assert trainer.evaluate("hard").keys() >= {"eval_pass@1"}


@pytest.mark.parametrize("kind", ["chat", "stream"])
def test_other_datasets(tmp_path, model_path, kind):
    dataset = make_chat_dataset(4) if kind == "chat" else make_dataset(4).to_iterable_dataset()
    trainer = make_trainer(
        tmp_path, model_path, train_dataset=make_chat_dataset() if kind == "chat" else make_dataset()
    )
    assert 0 <= trainer.evaluate(dataset)["eval_pass@1"] <= 1


def test_what_cannot_be_evaluated_is_told(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, eval_dataset=make_dataset(2), reward_funcs=AnswerMatch())
    for dataset, message in (
        (make_dataset(2).remove_columns("prompt"), "needs the column 'prompt'"),
        (make_dataset(2).remove_columns("answer"), r"needs the dataset column\(s\) answer"),
        (make_dataset(2).select([]), "holds no rows"),
        ("a", r"must name one of \[\], got 'a'"),
    ):
        with pytest.raises(DatasetError, match=message):
            trainer.evaluate(dataset)
    with pytest.raises(DatasetError, match="eval_dataset"):
        make_trainer(tmp_path, model_path).evaluate()


def test_training_is_the_same_with_and_without(tmp_path, model_path):
    losses = []
    for settings in ({}, {"eval_strategy": "steps", "eval_steps": 2, "eval_on_start": True}):
        trainer = make_trainer(
            tmp_path / str(len(losses)),
            model_path,
            eval_dataset=make_dataset(3),
            max_steps=12,
            logging_steps=1,
            **settings,
        )
        trainer.train()
        losses.append([line["loss"] for line in trainer.state.log_history if "loss" in line])
    assert losses[0] == losses[1]


def test_same_weights_same_figures(tmp_path, model_path):
    trainer = make_trainer(tmp_path, model_path, eval_dataset=make_dataset(5))
    first, second = trainer.evaluate(), trainer.evaluate()
    assert first["eval_pass@1"] == second["eval_pass@1"]
    assert first["eval_reward"] == second["eval_reward"]


def test_best_model_is_loaded_at_the_end(tmp_path, model_path):
    trainer = make_trainer(
        tmp_path,
        model_path,
        eval_dataset=make_dataset(6),
        max_steps=12,
        eval_strategy="steps",
        save_strategy="steps",
        eval_steps=4,
        save_steps=4,
        load_best_model_at_end=True,
        learning_rate=3e-2,
    )
    trainer.train()
    values = {line["step"]: line["eval_pass@1"] for line in trainer.state.log_history if "eval_pass@1" in line}
    assert set(values) == {4, 8, 12}
    assert trainer.state.best_metric == max(values.values())
    assert trainer.evaluate()["eval_pass@1"] == max(values.values())
