"""What an iteration takes over, seen on weights, optimizer state and learning rate."""

from __future__ import annotations

import copy

import pytest
import torch
from conftest import make_trainer
from peft import LoraConfig

from bstar_trl import BalanceCallback, BSTaRTrainer

STEPS = 4
LORA = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)


class Recorder(BSTaRTrainer):
    """Keeps weights, learning rate and the optimizer's step count at the first micro-batch of every step."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[dict[str, torch.Tensor], float, int]] = []
        self.sampled_from: list[dict[str, torch.Tensor]] = []

    def trainable(self) -> dict[str, torch.Tensor]:
        return {name: item.detach().clone() for name, item in self.model.named_parameters() if item.requires_grad}

    def generate_responses(self, requests):
        self.sampled_from.append(self.trainable())
        yield from super().generate_responses(requests)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        states = self.optimizer.state_dict()["state"]
        count = max((int(state["step"]) for state in states.values()), default=0)
        self.seen.append((self.trainable(), self.optimizer.param_groups[0]["lr"], count))
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)


def same(left, right) -> bool:
    return all(torch.equal(left[name], right[name]) for name in left)


def make_run(tmp_path, model_path, inheritance, lora):
    trainer = make_trainer(
        tmp_path,
        model_path,
        trainer=Recorder,
        callbacks=[BalanceCallback(1.0)],
        peft_config=copy.deepcopy(LORA) if lora else None,
        inheritance=inheritance,
        iteration_steps=STEPS,
        max_steps=2 * STEPS,
        lr_scheduler_type="linear",
        warmup_steps=2,
        learning_rate=1e-2,
    )
    initial = trainer.trainable()
    trainer.train()
    return trainer, initial


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_online_takes_over_everything(tmp_path, model_path, lora):
    trainer, initial = make_run(tmp_path, model_path, "online", lora)
    weights, rates, counts = zip(*trainer.seen, strict=True)
    assert same(weights[0], initial)
    assert counts == tuple(range(2 * STEPS))
    # Two steps of warmup, then a straight fall over the rest of the whole run.
    expected = [0.0, 0.5, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert rates == pytest.approx([1e-2 * share for share in expected])
    assert same(weights[STEPS], trainer.sampled_from[1])
    assert not same(weights[STEPS], initial)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_iterative_takes_over_the_weights(tmp_path, model_path, lora):
    trainer, initial = make_run(tmp_path, model_path, "iterative", lora)
    weights, rates, counts = zip(*trainer.seen, strict=True)
    assert counts == (*range(STEPS), *range(STEPS))
    assert rates == pytest.approx([1e-2 * share for share in [0.0, 0.5, 1.0, 0.5] * 2])
    assert same(weights[STEPS], trainer.sampled_from[1])
    assert not same(weights[STEPS], initial)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_restart_takes_over_nothing(tmp_path, model_path, lora):
    trainer, initial = make_run(tmp_path, model_path, "restart", lora)
    weights, rates, counts = zip(*trainer.seen, strict=True)
    assert counts == (*range(STEPS), *range(STEPS))
    assert rates == pytest.approx([1e-2 * share for share in [0.0, 0.5, 1.0, 0.5] * 2])
    assert same(weights[STEPS], initial)
    assert not same(trainer.sampled_from[1], initial)  # the latest policy explores, the initial one is trained again
    assert not same(trainer.trainable(), initial)
    assert (tmp_path / "initial_weights.safetensors").exists()
