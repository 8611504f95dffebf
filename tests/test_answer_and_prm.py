"""Answer + PRM in training (paper, section 2.3), and an outcome reward model beside: what selects, what is correct."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from conftest import make_tokenizer, make_trainer
from datasets import Dataset
from policies import teach
from prms import make_token_classifier
from safetensors import safe_open
from transformers import AutoModelForSequenceClassification

from bstar_trl import BalanceCallback, BSTaRTrainer
from bstar_trl.balance import balance_scores
from bstar_trl.rewards import AnswerMatch, ProcessReward

WEIGHTS = [1.0, 0.5, 0.25]
DATASET = Dataset.from_dict({"prompt": [f"{row}+{row}=" for row in range(10)], "answer": [*"0123012301"]})


class Watcher(BSTaRTrainer):
    """Keeps what every iteration explored, its rollouts and its setting."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rounds, self.explored = [], []
        begin = self.balance.begin
        self.balance.begin = lambda *given: self.explored.append(begin(*given)) or self.explored[-1]

    def select_responses(self, rollouts, setting):
        selection = super().select_responses(rollouts, setting)
        self.rounds.append((rollouts, setting, selection))
        return selection


@pytest.fixture(scope="module")
def guesser_path(tmp_path_factory):
    """A policy that writes a letter and a digit of four: different texts, a fourth of them right."""
    path = str(tmp_path_factory.mktemp("guesser"))
    answers = [f"{letter}={digit}" for letter in "abcdefgh" for digit in "0123"]
    teach(path, make_tokenizer(), DATASET["prompt"], answers)
    return path


@pytest.fixture(scope="module")
def prm_path(tmp_path_factory):
    return make_token_classifier(tmp_path_factory.mktemp("prm"))


def train(output_dir, guesser_path, prm_path, reward_model_path, *, resume=False, offload=False, **changes):
    """Two iterations; every character of a response counts as a step."""
    prm = ProcessReward(prm_path, split=list, name="prm", offload=offload)
    before = {name: item.clone() for name, item in prm.model.model.state_dict().items()}
    trainer = make_trainer(
        output_dir,
        guesser_path,
        train_dataset=DATASET,
        trainer=Watcher,
        reward_funcs=[AnswerMatch(), prm, reward_model_path],
        reward_weights=WEIGHTS,
        callbacks=[BalanceCallback((0.8, 1.2))],
        num_generations=8,
        per_device_train_batch_size=8,
        iteration_steps=3,
        max_steps=6,
        save_strategy="steps",
        save_steps=3,
        logging_steps=1,
        **changes,
    )
    trainer.train(resume_from_checkpoint=resume)
    for name, item in prm.model.model.state_dict().items():
        assert torch.equal(item, before[name])
    return trainer


@pytest.fixture(scope="module")
def trained(tmp_path_factory, guesser_path, prm_path, reward_model_path):
    path = tmp_path_factory.mktemp("answer-and-prm")
    return path, train(path, guesser_path, prm_path, reward_model_path)


def lowest_step(prm, tokenizer, prompt, response):
    """The lowest probability of the second class behind any character of the response; -1..1."""
    steps = [letter for letter in response if letter.strip()]
    if not steps:
        return -1.0
    text = prompt + "".join(f"{letter}\n" for letter in steps)
    logits = prm(torch.tensor([tokenizer.convert_tokens_to_ids(list(text))])).logits[0]
    places = [len(prompt) + 2 * number + 1 for number in range(len(steps))]
    return 2 * logits[places].softmax(-1)[:, 1].min().item() - 1


def test_totals_and_correctness(trained, reward_model_path):
    _, trainer = trained
    tokenizer = make_tokenizer()
    orm = AutoModelForSequenceClassification.from_pretrained(reward_model_path)
    prm = trainer.reward_funcs[1].model.model
    assert len(trainer.rounds) == 2
    for rollouts, setting, selection in trainer.rounds:
        completions = rollouts.reader.read(rollouts.rows_R)
        for row, completion in enumerate(completions):
            prompt = trainer.train_dataset[completion.query_id]["prompt"]
            gold = trainer.train_dataset[completion.query_id]["answer"]
            answer, process, outcome = rollouts.values_RF[row]
            assert process == pytest.approx(lowest_step(prm, tokenizer, prompt, completion.text), abs=1e-4)
            ids = torch.tensor([tokenizer.convert_tokens_to_ids(list(prompt + completion.text))])
            assert outcome == pytest.approx(orm(ids).logits[0, 0].item(), abs=1e-3)
            assert rollouts.rewards_R[row] == pytest.approx(answer + 0.5 * process + 0.25 * outcome, abs=1e-6)
            assert rollouts.correct_R[row] == (answer == 1.0)
            if re.fullmatch("[a-h]=[0-9]", completion.text):  # as it was taught; some responses are garbled
                assert answer == float(completion.text[-1] == gold)
        assert (rollouts.values_RF[:, 1] >= -1).all()
        assert (rollouts.values_RF[:, 1] <= 1).all()
        assert 0 < rollouts.correct_R.sum() < len(rollouts)
        assert (selection.rollouts.rewards_R > setting.threshold).all()


def test_the_threshold_is_tuned(trained):
    _, trainer = trained
    thresholds = [entry["balance/threshold"] for entry in trainer.balance.history]
    # The first is the best by brute force. The second may keep it: where the difference is noise, it stays.
    found = trainer.explored[0].evenly_sampled.grids
    scores = [
        balance_scores(
            found.rewards_NK, found.correct_NK, trainer.plan.target, threshold, selectable_NK=found.selectable_NK
        ).mean()
        for threshold in [*np.unique(found.rewards_NK), found.rewards_NK.min() - 1, thresholds[0]]
    ]
    assert scores[-1] == pytest.approx(max(scores))
    assert 0.0 not in thresholds  # where an untuned run would leave it
    for rollouts, setting, _ in trainer.rounds:
        # It cuts among the responses, as no threshold on the answer alone could.
        kept = rollouts.rewards_R > setting.threshold
        assert 0 < kept.sum() < len(rollouts)
        assert kept[rollouts.correct_R].any()
    lines = [line for line in trainer.state.log_history if "loss" in line]
    assert all({"rewards/prm/mean", "rewards/AnswerMatch/mean", "balance/threshold"} <= line.keys() for line in lines)


def test_checkpoints_hold_the_policy_alone(trained):
    path, trainer = trained
    files = list((path / "checkpoint-3").rglob("*.safetensors"))
    assert [item.name for item in files] == ["model.safetensors"]
    with safe_open(files[0], "pt") as saved:
        assert set(saved.keys()) == set(trainer.model.state_dict())
    assert not any("score" in name for name in trainer.model.state_dict())
    prm_bytes = sum(item.numel() * 4 for item in trainer.reward_funcs[1].model.model.parameters())
    others = [item for item in (path / "checkpoint-3").iterdir() if item.suffix in (".json", ".npz", ".parquet")]
    assert all(item.stat().st_size < prm_bytes for item in others)


def test_resuming_goes_on_as_if_nothing_had_happened(trained, guesser_path, prm_path, reward_model_path):
    path, trainer = trained
    resumed = train(path, guesser_path, prm_path, reward_model_path, resume=str(path / "checkpoint-3"))
    assert len(resumed.rounds) == 1
    losses = [
        [line["loss"] for line in item.state.log_history if "loss" in line and line["step"] > 3]
        for item in (trainer, resumed)
    ]
    assert losses[1] == pytest.approx(losses[0], abs=1e-6)
    assert resumed.balance.history[1]["balance/threshold"] == trainer.balance.history[1]["balance/threshold"]


def test_a_model_that_waits_gives_the_same_rewards(tmp_path, trained, guesser_path, prm_path, reward_model_path):
    _, trainer = trained
    waited = train(tmp_path, guesser_path, prm_path, reward_model_path, offload=True)
    assert not waited.reward_funcs[1].beside_generation
    for mine, other in zip(waited.rounds, trainer.rounds, strict=True):
        np.testing.assert_allclose(mine[0].values_RF, other[0].values_RF, atol=1e-5)
        assert mine[1].threshold == pytest.approx(other[1].threshold, abs=1e-5)


def test_agreement_is_logged(trained):
    """Of the two scorers together, by brute force over pairs of a query's responses at the chosen temperature."""
    _, trainer = trained
    logged = {line["iteration"]: line for line in trainer.state.log_history if "loss" in line}
    for number, (rollouts, setting, _) in enumerate(trainer.rounds):
        first = rollouts.at(setting.temperature)  # all of them: K responses to every query, since a scorer picks
        scores, right, queries = first.values_RF[:, 1:] @ WEIGHTS[1:], first.correct_R, first.query_ids_R
        won = [
            (scores[a] > scores[b]) + (scores[a] == scores[b]) / 2
            for a in np.flatnonzero(right)
            for b in np.flatnonzero(~right & (queries == queries[a]))
        ]
        assert logged[number]["explore/agreement"] == pytest.approx(np.mean(won))
        assert sum(logged[number][f"explore/solved_{kind}"] for kind in ("never", "sometimes", "always")) == 1
