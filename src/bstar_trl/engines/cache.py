"""The key-value cache of rows that come and go: which caches can drop rows, and one that grows in blocks."""

from __future__ import annotations

from typing import Any

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

BLOCK = 32  # tokens of room that a layer takes at a time


def can_drop_rows(cache: Any) -> bool:
    """Whether rows can leave this cache: one that keeps keys and values per row, without a fixed size."""
    return isinstance(cache, DynamicCache) and all(isinstance(layer, DynamicLayer) for layer in cache.layers)


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
            self._room = _with_room(self.keys, end), _with_room(self.values, end)
        room_for_keys, room_for_values = self._room
        room_for_keys[..., start:end, :] = key_states
        room_for_values[..., start:end, :] = value_states
        self.keys, self.values = room_for_keys[..., :end, :], room_for_values[..., :end, :]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows only; the room is taken anew with the next token."""
        self._room = None
        super().batch_select_indices(indices)


def _with_room(filled: torch.Tensor, length: int) -> torch.Tensor:
    """A copy of keys or values with room for at least `length` tokens."""
    *others, old_length, size = filled.shape
    copy = filled.new_empty(*others, -(-length // BLOCK) * BLOCK, size)
    copy[..., :old_length, :] = filled
    return copy
