"""The dataset columns a reward asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import DatasetError


def column_of(columns: Mapping[str, Any], name: str, reward: str) -> Sequence[Any]:
    """The column called `name`.

    Raises:
        DatasetError: it is not there; the message names the reward and the columns that are.
    """
    if name not in columns:
        raise DatasetError(
            f"reward '{reward}' needs the dataset column '{name}', but got {', '.join(columns) or 'no columns'}"
        )
    found: Sequence[Any] = columns[name]
    return found
