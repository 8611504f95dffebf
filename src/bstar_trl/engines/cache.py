"""The key-value cache of rows that come and go: which caches can drop rows, and one that grows in blocks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

BLOCK = 32  # tokens of room that a layer takes at a time


def can_drop_rows(cache: Any) -> bool:
    """Whether rows can leave this cache: one that keeps keys and values per row, without a fixed size.

    Subclasses of these layers keep other states beside, which stay where they are when rows are selected.
    """
    kinds = (DynamicLayer, DynamicSlidingWindowLayer)
    return isinstance(cache, DynamicCache) and all(type(layer) in kinds for layer in cache.layers)


def keep_rows(cache: Any, rows: torch.Tensor) -> None:
    """Keep these rows of a cache, in this order; a row may be kept several times."""
    for layer in cache.layers:  # one layer after the other, so that no more than one is held twice
        layer.batch_select_indices(rows)


def make_roomy(cache: DynamicCache) -> None:
    """Let the layers that grow with every token grow in blocks.

    Layers of a sliding window, which have a largest size, stay as they are.
    """
    for place, layer in enumerate(cache.layers):
        if type(layer) is DynamicLayer and layer.is_initialized:
            cache.layers[place] = RoomyLayer(layer)


class RoomyLayer(DynamicLayer):
    """A layer with room behind its last token: a new token is written there, and nothing else is copied.

    `keys` and `values` are views of what is filled, (B, heads, T, head size).
    """

    keys: torch.Tensor
    values: torch.Tensor

    def __init__(self, layer: DynamicLayer):
        super().__init__()
        vars(self).update(vars(layer))
        self._room: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Write the new tokens' keys and values behind the others; all of them are returned."""
        start = self.keys.shape[-2]
        end = start + key_states.shape[-2]
        if self._room is None or self._room[0].shape[-2] < end:
            self._take_room(end)
        for room, states in zip(self._room or (), (key_states, value_states), strict=True):
            room[..., start:end, :] = states
        self._look_at(end)
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows only, in this order; a row may be kept several times."""
        length = self.keys.shape[-2]
        self._take_room(length + 1, indices)
        self._look_at(length)

    def _take_room(self, length: int, rows: torch.Tensor | None = None) -> None:
        """Move to new room for at least `length` tokens, of these rows alone."""
        self._room = _with_room(self.keys, length, rows), _with_room(self.values, length, rows)

    def _look_at(self, length: int) -> None:
        if self._room is not None:
            self.keys, self.values = (room[..., :length, :] for room in self._room)


def _with_room(filled: torch.Tensor, length: int, rows: torch.Tensor | None) -> torch.Tensor:
    """A copy of keys or values, of all rows or of `rows`, with room for at least `length` tokens."""
    num_rows, num_heads, old_length, size = filled.shape
    num_rows = num_rows if rows is None else len(rows)
    copy = filled.new_empty(num_rows, num_heads, -(-length // BLOCK) * BLOCK, size)
    if rows is None:
        copy[..., :old_length, :] = filled
    else:
        torch.index_select(filled, 0, rows, out=copy[..., :old_length, :])
    return copy
