"""What a checkpoint holds beside the parent's: the state of the iteration under way."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import torch
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..errors import BStarError
from .batches import TrainingBatches

if TYPE_CHECKING:
    from .trainer import BSTaRTrainer

STATE_FILE = "bstar_state.pt"
WRITTEN_LAST = "trainer_state.json"


def save_state(trainer: BSTaRTrainer, folder: str) -> None:
    """Write what the iteration under way needs: selected responses and how far they were served, random states,
    history.

    Call it before the parent writes `trainer_state.json`, whose absence marks a torn checkpoint.
    """
    if not trainer.args.should_save:
        return
    os.makedirs(folder, exist_ok=True)
    state = {
        "iteration": trainer.iteration,
        "figures": trainer.figures,
        "queries": trainer.queries.state_dict(),
        "balance": trainer.balance.state_dict(),
        "rng": trainer.rng.bit_generator.state,
        "batches": None if trainer.batches is None else trainer.batches.state_dict(),
    }
    torch.save(state, os.path.join(folder, STATE_FILE))


def load_state(trainer: BSTaRTrainer, folder: str) -> None:
    """Continue the iteration that a checkpoint was written in.

    Raises:
        BStarError: the checkpoint is not one of a BSTaRTrainer, or the initial weights of a `"restart"` are gone.
        DatasetError: the training dataset is smaller than it was.
    """
    path = os.path.join(folder, STATE_FILE)
    if not os.path.exists(path):
        raise BStarError(
            f"{folder} holds no {STATE_FILE}: it was not written by BSTaRTrainer, so it cannot be resumed"
        )
    trainer.inheritance.resume(folder)
    state = torch.load(path, weights_only=True)
    trainer.iteration = state["iteration"]
    trainer.figures = state["figures"]
    trainer.queries.load_state_dict(state["queries"])
    trainer.balance.load_state_dict(state["balance"])
    trainer.rng.bit_generator.state = state["rng"]
    if state["batches"] is not None:
        trainer.batches = TrainingBatches.from_state_dict(state["batches"], trainer.shape)


def last_whole_checkpoint(output_dir: str) -> str | None:
    """The checkpoint with the highest step that was written to its end."""
    if not os.path.isdir(output_dir):
        return None
    steps = [
        int(match[1])
        for name in os.listdir(output_dir)
        if (match := re.fullmatch(PREFIX_CHECKPOINT_DIR + r"-(\d+)", name))
        and os.path.exists(os.path.join(output_dir, name, WRITTEN_LAST))
    ]
    return os.path.join(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{max(steps)}") if steps else None
