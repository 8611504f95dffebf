"""Padding: which side, which width, which mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bstar_trl.engines import pad_rows

ROWS = [[5, 6, 7], [8], []]


@pytest.mark.parametrize(
    ("side", "token_ids", "mask"),
    [
        ("left", [[5, 6, 7], [9, 9, 8], [9, 9, 9]], [[1, 1, 1], [0, 0, 1], [0, 0, 0]]),
        ("right", [[5, 6, 7], [8, 9, 9], [9, 9, 9]], [[1, 1, 1], [1, 0, 0], [0, 0, 0]]),
    ],
)
def test_short_rows_are_filled_on_one_side(side, token_ids, mask):
    token_ids_BT, mask_BT = pad_rows(ROWS, 9, side)
    assert token_ids_BT.tolist() == token_ids
    assert mask_BT.tolist() == mask
    assert token_ids_BT.dtype == mask_BT.dtype == torch.int64


def test_a_token_equal_to_the_padding_stays_in_the_mask():
    assert pad_rows([[9, 9], [9]], 9, "left")[1].tolist() == [[1, 1], [0, 1]]


@pytest.mark.parametrize(("multiple", "width"), [(1, 3), (2, 4), (3, 3), (8, 8)])
def test_the_width_is_rounded_up_to_a_multiple(multiple, width):
    token_ids_BT, mask_BT = pad_rows(ROWS, 0, "left", pad_to_multiple_of=multiple)
    assert token_ids_BT.shape == mask_BT.shape == (3, width)
    assert token_ids_BT[0].tolist() == [0] * (width - 3) + [5, 6, 7]
    assert mask_BT.sum(dim=1).tolist() == [3, 1, 0]


def test_rows_may_be_tuples_and_arrays():
    token_ids_BT, _ = pad_rows([(1, 2), np.array([3]), range(4, 6)], 0, "right")
    assert token_ids_BT.tolist() == [[1, 2], [3, 0], [4, 5]]
