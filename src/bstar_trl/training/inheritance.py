"""What an iteration takes over from the one before (paper, appendix B.1): everything, the weights, or nothing."""

from __future__ import annotations

import copy
import os
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file

from ..errors import BStarError, UnsupportedOptionError

if TYPE_CHECKING:
    from .trainer import BSTaRTrainer

INITIAL_WEIGHTS = "initial_weights.safetensors"


class Inheritance:
    """Prepares the trainer for an iteration's improvement: `"online"`, `"iterative"` or `"restart"`.

    Raises:
        UnsupportedOptionError: `"iterative"` or `"restart"` under FSDP or DeepSpeed, where they are not tested.
    """

    def __init__(self, trainer: BSTaRTrainer):
        self.trainer = trainer
        self.kind = trainer.args.inheritance
        for name, enabled in (("FSDP", trainer.is_fsdp_enabled), ("DeepSpeed", trainer.is_deepspeed_enabled)):
            if enabled and self.kind != "online":
                raise UnsupportedOptionError(
                    f"inheritance={self.kind!r} is not supported under {name} yet: use inheritance='online'"
                )
        self._initial_weights = os.path.join(str(trainer.args.output_dir), INITIAL_WEIGHTS)
        self._fresh_groups: list[dict[str, Any]] = []
        self._fresh_schedule: dict[str, Any] = {}

    def horizon(self, num_training_steps: int, iteration_steps: int) -> int:
        """Steps that the learning rate schedule is made for."""
        return num_training_steps if self.kind == "online" else iteration_steps

    def remember(self) -> None:
        """Keep what a new start needs: called when optimizer and schedule have just been made."""
        if self.kind == "online":
            return
        groups = self._optimizer.state_dict()["param_groups"]
        self._fresh_groups = [{key: copy.copy(group[key]) for key in group if key != "params"} for group in groups]
        self._fresh_schedule = copy.deepcopy(self._schedule.state_dict())

    def save_initial_weights(self) -> None:
        """Write the trainable weights once, before the first iteration, so that later ones can return to them."""
        if self.kind == "restart" and self.trainer.accelerator.is_main_process:
            os.makedirs(str(self.trainer.args.output_dir), exist_ok=True)
            weights = {name: item.detach().cpu().contiguous().clone() for name, item in self._trainable().items()}
            save_file(weights, self._initial_weights)
        self.trainer.accelerator.wait_for_everyone()

    def resume(self, checkpoint: str) -> None:
        """Find the initial weights again: beside the checkpoint, wherever its run has been moved to.

        Raises:
            BStarError: they are neither there nor in `output_dir`.
        """
        if self.kind != "restart":
            return
        beside = os.path.join(os.path.dirname(os.path.abspath(checkpoint)), INITIAL_WEIGHTS)
        if os.path.exists(beside):
            self._initial_weights = beside
        elif not os.path.exists(self._initial_weights):
            raise BStarError(
                f"inheritance='restart' returns to the initial weights, but there is no {INITIAL_WEIGHTS} beside "
                f"{checkpoint} or in {self.trainer.args.output_dir}: copy it there from the first run's output_dir"
            )

    def begin_improvement(self) -> None:
        """Called after an iteration's responses were selected and before its first step; not for the first one."""
        if self.kind == "online":
            return
        state = self._optimizer.state_dict()
        fresh = [group | kept for group, kept in zip(state["param_groups"], self._fresh_groups, strict=True)]
        self._optimizer.load_state_dict({"state": {}, "param_groups": fresh})
        self._schedule.load_state_dict(copy.deepcopy(self._fresh_schedule))
        if self.kind == "restart":
            weights = load_file(self._initial_weights)
            with torch.no_grad():
                for name, parameter in self._trainable().items():
                    parameter.copy_(weights[name])
            self.trainer.sampler.weights_changed()

    @property
    def _optimizer(self) -> Any:
        return self.trainer.optimizer

    @property
    def _schedule(self) -> Any:
        return self.trainer.lr_scheduler

    def _trainable(self) -> dict[str, torch.nn.Parameter]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return {name: item for name, item in model.named_parameters() if item.requires_grad}
