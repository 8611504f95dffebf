"""A run that was interrupted goes on as if it had not been."""

from __future__ import annotations

import shutil

import pytest
import torch
from conftest import make_dataset, make_trainer

from bstar_trl import BalanceCallback
from bstar_trl.errors import BStarError, DatasetError
from bstar_trl.training.run_state import last_whole_checkpoint


def make_run(output_dir, model_path):
    return make_trainer(
        output_dir,
        model_path,
        callbacks=[BalanceCallback([0.7, 1.1], num_queries=4)],  # slices with a prior, and rounds
        train_dataset=make_dataset(40),
        queries_per_iteration=32,
        num_generations=6,
        iteration_steps=4,
        max_steps=12,
        save_strategy="steps",
        save_steps=2,
        logging_steps=1,
        lr_scheduler_type="linear",
    )


def lines(trainer):
    """What the logs say, but for clocks."""
    return [
        {name: value for name, value in line.items() if not name.endswith(("_time", "_seconds", "epoch"))}
        for line in trainer.state.log_history
        if "loss" in line
    ]


@pytest.mark.parametrize("step", [2, 4, 6])
def test_resumed_run_equals_the_whole_one(tmp_path, model_path, step):
    whole = make_run(tmp_path / "whole", model_path)
    whole.train()
    shutil.copytree(tmp_path / "whole" / f"checkpoint-{step}", tmp_path / "again" / f"checkpoint-{step}")
    again = make_run(tmp_path / "again", model_path)
    again.train(resume_from_checkpoint=True)
    assert lines(again) == lines(whole)
    assert again.balance.history[-1] | {"balance/probe_seconds": 0} == whole.balance.history[-1] | {
        "balance/probe_seconds": 0
    }
    for name, item in again.model.named_parameters():
        assert torch.equal(item, whole.model.get_parameter(name))


def test_a_torn_checkpoint_is_passed_over(tmp_path, model_path):
    trainer = make_run(tmp_path, model_path)
    trainer.train()
    (tmp_path / "checkpoint-12" / "trainer_state.json").unlink()
    assert last_whole_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-10")
    with pytest.raises(BStarError, match=r"no checkpoint to resume in .*nowhere'"):
        last_whole_checkpoint(str(tmp_path / "nowhere"))
    (tmp_path / "torn" / "checkpoint-3").mkdir(parents=True)
    with pytest.raises(BStarError, match=r"checkpoint-3 was not written to its end"):
        make_trainer(tmp_path / "torn", model_path).train(resume_from_checkpoint=True)


def test_a_grpo_checkpoint_is_refused(tmp_path, model_path):
    trainer = make_run(tmp_path, model_path)
    trainer.train()
    folder = tmp_path / "checkpoint-4"
    (folder / "bstar_state.pt").unlink()
    with pytest.raises(BStarError, match="not written by BSTaRTrainer"):
        make_run(tmp_path, model_path).train(resume_from_checkpoint=str(folder))


def test_restart_finds_its_initial_weights_beside_the_checkpoint(tmp_path, model_path):
    def run(output_dir, **kwargs):
        trainer = make_trainer(
            tmp_path / output_dir,
            model_path,
            callbacks=[BalanceCallback(1.0)],
            inheritance="restart",
            iteration_steps=2,
            max_steps=6,
            save_strategy="steps",
            save_steps=3,
            logging_steps=1,
        )
        trainer.train(**kwargs)
        return trainer

    whole = run("first")
    elsewhere = run("second", resume_from_checkpoint=str(tmp_path / "first" / "checkpoint-3"))
    assert lines(elsewhere) == lines(whole)
    shutil.copytree(tmp_path / "first" / "checkpoint-3", tmp_path / "third" / "checkpoint-3")
    with pytest.raises(BStarError, match=r"no initial_weights.safetensors beside .*copy it there"):
        run("fourth", resume_from_checkpoint=str(tmp_path / "third" / "checkpoint-3"))


def test_a_smaller_dataset_cannot_go_on(tmp_path, model_path):
    make_run(tmp_path, model_path).train()
    smaller = make_trainer(
        tmp_path, model_path, train_dataset=make_dataset(9), queries_per_iteration=8, iteration_steps=4, max_steps=12
    )
    with pytest.raises(DatasetError, match=r"still has row \d+ to explore, got 9 rows"):
        smaller.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
