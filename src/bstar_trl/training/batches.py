"""The selected responses of an iteration, served to the optimizer micro-batch by micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ..engines import pad_rows
from ..errors import ConfigurationError
from ..records import Completion


@dataclass(frozen=True)
class BatchShape:
    """How an optimizer step divides: `accumulation` micro-batches of `size` responses on each of `processes`."""

    accumulation: int
    processes: int
    size: int

    @property
    def step_size(self) -> int:
        """B, responses per optimizer step."""
        return self.accumulation * self.processes * self.size


class TrainingBatches:
    """Serves exactly `num_steps` optimizer steps from the selected samples, reshuffled each time they run out.

    Every process holds all selected samples and draws the same order, so that each process counts the tokens of a
    global batch by itself.

    Args:
        samples (`Sequence[Completion]`): the selected responses, at least one.
        num_steps (`int`): optimizer steps to serve.
        shape (`BatchShape`): how a step divides.
        rng (`np.random.Generator`): the order; in the same state on every process.
    """

    def __init__(self, samples: Sequence[Completion], num_steps: int, shape: BatchShape, rng: np.random.Generator):
        self.samples = list(samples)
        self.shape = shape
        rounds = -(-num_steps * shape.step_size // len(self.samples))
        order = np.concatenate([rng.permutation(len(self.samples)) for _ in range(rounds)])
        self._order_SAPB = order[: num_steps * shape.step_size].reshape(
            num_steps, shape.accumulation, shape.processes, shape.size
        )
        self.served = 0  # micro-batches

    @property
    def is_done(self) -> bool:
        """Whether every step has been served."""
        return self.served == self._order_SAPB.shape[0] * self.shape.accumulation

    def next(
        self, process_index: int, *, pad_token_id: int, pad_to_multiple_of: int | None = None
    ) -> dict[str, torch.Tensor]:
        """The next micro-batch of this process: B rows of at most T tokens, C of them after the shortest prompt.

        All padding stands on the right, so that every token has the position that it was sampled at: models with
        position embeddings would read another sequence otherwise, or one that exceeds their context.

        Returns:
            `dict` of `input_ids` and `attention_mask` (B, T); `completion_mask` (B, C), about the last C columns;
            `num_tokens`, the completion tokens of the whole optimizer step.
        """
        step, micro_batch = divmod(self.served, self.shape.accumulation)
        self.served += 1
        chosen = [self.samples[index] for index in self._order_SAPB[step, micro_batch, process_index]]
        input_ids_BT, attention_mask_BT = pad_rows(
            [[*item.prompt_ids, *item.token_ids] for item in chosen],
            pad_token_id,
            "right",
            pad_to_multiple_of=pad_to_multiple_of,
        )
        starts_B1 = torch.tensor([[len(item.prompt_ids)] for item in chosen])
        completion_mask_BT = attention_mask_BT * (torch.arange(input_ids_BT.shape[1]) >= starts_B1)
        num_tokens = sum(len(self.samples[index].token_ids) for index in self._order_SAPB[step].ravel())
        return {
            "input_ids": input_ids_BT,
            "attention_mask": attention_mask_BT,
            "completion_mask": completion_mask_BT[:, int(starts_B1.min()) :],
            "num_tokens": torch.tensor(num_tokens, dtype=torch.float32),
        }

    def state_dict(self) -> dict[str, Any]:
        """What continues the iteration elsewhere: samples, order, and how far it was served."""
        return {
            "samples": [
                [item.query_id, item.temperature, list(item.prompt_ids), list(item.token_ids), item.text]
                for item in self.samples
            ],
            "order": self._order_SAPB.tolist(),
            "served": self.served,
        }

    @classmethod
    def from_state_dict(cls, state: dict[str, Any], shape: BatchShape) -> TrainingBatches:
        """Continue where `state` was taken. The shape may differ, as long as its step size is the same.

        Raises:
            ConfigurationError: another step size.
        """
        batches = cls.__new__(cls)
        batches.samples = [
            Completion(query_id, temperature, prompt_ids, token_ids, text, "stop")
            for query_id, temperature, prompt_ids, token_ids, text in state["samples"]
        ]
        batches.shape = shape
        order = np.array(state["order"], dtype=np.int64)
        if order[0].size != shape.step_size:
            raise ConfigurationError(
                f"the checkpoint was written with {order[0].size} responses per optimizer step, got {shape.step_size} "
                "(micro-batch x processes x gradient accumulation): resume with the same product"
            )
        steps_served = state["served"] // order.shape[1]
        batches._order_SAPB = order.reshape(len(order), shape.accumulation, shape.processes, shape.size)
        batches.served = steps_served * shape.accumulation
        return batches


class Ticks(DataLoader):
    """Yields a placeholder for each micro-batch; `_prepare_inputs` fills it.

    Args:
        size (`int`): micro-batches.
        responses (`int`): responses in a micro-batch over all processes, from which the parent counts its samples.
        num_workers (`int`): TRL's `dataloader_num_workers`; no worker starts, since there is nothing to load.
    """

    def __init__(self, size: int, responses: int, num_workers: int):
        places: Any = range(size * responses)
        super().__init__(places, batch_size=responses, collate_fn=_empty, num_workers=num_workers)

    def __iter__(self) -> Any:
        return map(_empty, range(len(self)))


def _empty(_: Any) -> dict[str, Any]:
    return {}
