"""A logits processor with one temperature per row."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import LogitsProcessor


class RowTemperature(LogitsProcessor):
    """Divides each row's logits by the row's temperature, before top-k, top-p and min-p filter them.

    In beam sampling the beams of a row are neighbours.
    """

    def __init__(self, temperatures_B: Sequence[float], num_beams: int, device: torch.device):
        self.temperatures_R1 = torch.tensor(temperatures_B, device=device).repeat_interleave(num_beams)[:, None]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores / self.temperatures_R1.to(scores.dtype)

    def keep(self, rows: torch.Tensor) -> None:
        """Keep the temperatures of these rows only."""
        self.temperatures_R1 = self.temperatures_R1[rows]
