"""Rows of token ids of different lengths as one rectangle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch


def pad_rows(
    rows: Sequence[Sequence[int]],
    pad_token_id: int,
    side: Literal["left", "right"],
    *,
    pad_to_multiple_of: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and attention mask of a batch.

    Args:
        rows (`Sequence[Sequence[int]]`): at least one row of token ids.
        pad_token_id (`int`): fills short rows.
        side (`str`): `"left"` or `"right"`: where the padding stands.
        pad_to_multiple_of (`int`, *optional*): the width is rounded up to a multiple of this number.

    Returns:
        Two `int64` tensors of shape (rows, longest row); the mask is 1 for a row's own tokens and 0 for padding.
    """
    width = max(map(len, rows))
    if pad_to_multiple_of is not None:
        width = -(-width // pad_to_multiple_of) * pad_to_multiple_of
    token_ids_BT = torch.full((len(rows), width), pad_token_id)
    mask_BT = torch.zeros_like(token_ids_BT)
    for index, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        token_ids_BT[index, place] = torch.tensor(list(row), dtype=torch.int64)
        mask_BT[index, place] = 1
    return token_ids_BT, mask_BT
