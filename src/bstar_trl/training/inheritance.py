"""What an iteration takes over from the one before (paper, appendix B.1): everything, the weights, or nothing."""

from __future__ import annotations

import copy
import os
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file

from ..errors import BStarError, UnsupportedOptionError

INITIAL_WEIGHTS = "initial_weights.safetensors"


class Inheritance:
    """Prepares optimizer, schedule and weights for an iteration's improvement.

    Args:
        kind (`str`): `"online"`, `"iterative"` or `"restart"`.
        output_dir (`str`): where `"restart"` keeps the initial weights.
        sharding (`str`, *optional*): what divides the weights among processes.

    Raises:
        UnsupportedOptionError: `"iterative"` or `"restart"` with sharded weights, where they are not tested.
    """

    def __init__(self, kind: str, output_dir: str, sharding: str | None = None):
        if sharding and kind != "online":
            raise UnsupportedOptionError(
                f"inheritance={kind!r} is not supported under {sharding} yet: use inheritance='online'"
            )
        self.kind = kind
        self._output_dir = output_dir
        self._initial_weights = os.path.join(output_dir, INITIAL_WEIGHTS)
        self._fresh_groups: list[dict[str, Any]] = []
        self._fresh_schedule: dict[str, Any] = {}

    def horizon(self, num_training_steps: int, iteration_steps: int) -> int:
        """Steps that the learning rate schedule is made for."""
        return num_training_steps if self.kind == "online" else iteration_steps

    def remember(self, optimizer: Any, schedule: Any) -> None:
        """Keep what a new start needs: called when optimizer and schedule have just been made."""
        if self.kind == "online":
            return
        groups = optimizer.state_dict()["param_groups"]
        self._fresh_groups = [{key: copy.copy(group[key]) for key in group if key != "params"} for group in groups]
        self._fresh_schedule = copy.deepcopy(schedule.state_dict())

    def save_initial_weights(self, model: torch.nn.Module, accelerator: Accelerator) -> None:
        """Write the trainable weights once, before the first iteration, so that later ones can return to them."""
        if self.kind == "restart" and accelerator.is_main_process:
            os.makedirs(self._output_dir, exist_ok=True)
            weights = {name: item.detach().cpu().contiguous().clone() for name, item in _trainable(model).items()}
            save_file(weights, self._initial_weights)
        accelerator.wait_for_everyone()

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
                f"{checkpoint} or in {self._output_dir}: copy it there from the first run's output_dir"
            )

    def begin_improvement(self, model: torch.nn.Module, optimizer: Any, schedule: Any) -> bool:
        """Prepare the first step of a later iteration. True: the weights were replaced."""
        if self.kind == "online":
            return False
        state = optimizer.state_dict()
        fresh = [group | kept for group, kept in zip(state["param_groups"], self._fresh_groups, strict=True)]
        optimizer.load_state_dict({"state": {}, "param_groups": fresh})
        schedule.load_state_dict(copy.deepcopy(self._fresh_schedule))
        if self.kind == "iterative":
            return False
        weights = load_file(self._initial_weights)
        with torch.no_grad():
            for name, parameter in _trainable(model).items():
                parameter.copy_(weights[name])
        return True


def _trainable(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    return {name: item for name, item in model.named_parameters() if item.requires_grad}
