"""The state of a run: what a checkpoint holds beside the parent's files, and what a second `train()` starts anew."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from ..callback import BalanceCallback
from ..errors import BStarError, ConfigurationError
from ..rollouts.queries import Queries
from .batches import BatchShape, TrainingBatches

STATE_FILE = "bstar_state.pt"
WRITTEN_LAST = "trainer_state.json"


@dataclass
class RunState:
    """Everything that changes from one iteration to the next, but the weights and what the parent saves.

    Args:
        queries (`Queries`): the stream of queries.
        balance (`BalanceCallback`): setting, history and generator.
        rng (`np.random.Generator`): ties in the selection, and the order of batches.
        shape (`BatchShape`): how an optimizer step divides; it belongs to the machine, so it is not saved.
        iteration (`int`): iterations begun.
        figures (`dict[str, float]`): the current iteration's, under the names of the logs.
        batches (`TrainingBatches`, *optional*): the current iteration's.
    """

    queries: Queries
    balance: BalanceCallback
    rng: np.random.Generator
    shape: BatchShape
    iteration: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    batches: TrainingBatches | None = None

    def __post_init__(self) -> None:
        self._beginning = self.state_dict()

    def reset(self) -> None:
        """Go back to the beginning of a run."""
        self.load_state_dict(self._beginning)

    def state_dict(self) -> dict[str, Any]:
        """A snapshot that later iterations do not change."""
        return {
            "queries": self.queries.state_dict(),
            "balance": self.balance.state_dict(),
            "rng": self.rng.bit_generator.state,
            "iteration": self.iteration,
            "figures": dict(self.figures),
            "batches": None if self.batches is None else self.batches.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises:
            ConfigurationError: an optimizer step takes another number of responses than it did.
            DatasetError: the training dataset is smaller than it was.
        """
        self.queries.load_state_dict(state["queries"])
        self.balance.load_state_dict(state["balance"])
        self.rng.bit_generator.state = state["rng"]
        self.iteration = state["iteration"]
        self.figures = dict(state["figures"])
        batches = state["batches"]
        self.batches = None if batches is None else TrainingBatches.from_state_dict(batches, self.shape)

    def save(self, folder: str) -> None:
        """Write the state into a checkpoint's folder, before `trainer_state.json`: its absence marks a torn one."""
        os.makedirs(folder, exist_ok=True)
        torch.save(self.state_dict(), os.path.join(folder, STATE_FILE))

    def load(self, folder: str) -> None:
        """Continue the iteration of a checkpoint. `BStarError`: a BSTaRTrainer did not write the checkpoint."""
        path = os.path.join(folder, STATE_FILE)
        if not os.path.exists(path):
            raise BStarError(
                f"{folder} holds no {STATE_FILE}: it was not written by BSTaRTrainer, so it cannot be resumed"
            )
        self.load_state_dict(torch.load(path, weights_only=True))


def last_whole_checkpoint(output_dir: str) -> str:
    """The checkpoint with the highest step that was written to its end.

    Raises:
        ConfigurationError: there is none.
    """
    names = os.listdir(output_dir) if os.path.isdir(output_dir) else []
    found = [
        (int(match[1]), name) for name in names if (match := re.fullmatch(PREFIX_CHECKPOINT_DIR + r"-(\d+)", name))
    ]
    whole = [item for item in found if os.path.exists(os.path.join(output_dir, item[1], WRITTEN_LAST))]
    if not whole:
        torn = f"; {', '.join(name for _, name in sorted(found))} was not written to its end" if found else ""
        raise ConfigurationError(
            f"there is no checkpoint to resume in {output_dir!r}{torn}: start with resume_from_checkpoint=False"
        )
    return os.path.join(output_dir, max(whole)[1])


def steps_of(checkpoint: str) -> int:
    """Optimizer steps that were made before this checkpoint; 0 where it does not say."""
    path = os.path.join(checkpoint, WRITTEN_LAST)
    return int(TrainerState.load_from_json(path).global_step) if os.path.isfile(path) else 0
