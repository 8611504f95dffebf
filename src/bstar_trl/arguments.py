"""Checks of arguments that several options share."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Sequence
from typing import Any

from .errors import ConfigurationError


def one_of(name: str, value: Any, known: tuple[Any, ...]) -> Any:
    """The value, if it is known; else a `ConfigurationError`."""
    if value not in known:
        raise ConfigurationError(f"{name} must be {' or '.join(map(repr, known))}, got {value!r}")
    return value


def grid_of(name: str, values: float | Sequence[float]) -> tuple[float, ...]:
    """Distinct finite numbers in ascending order, a single number too; else a `ConfigurationError`."""
    try:
        grid = tuple(map(float, [values] if isinstance(values, int | float) else values))
    except (TypeError, ValueError):
        raise ConfigurationError(f"{name} must be a number or a sequence of numbers, got {values!r}") from None
    if not grid:
        raise ConfigurationError(f"{name} must hold at least one value, got an empty grid")
    for value in grid:
        if not math.isfinite(value):
            raise ConfigurationError(f"{name} must be finite numbers, got {value}")
    return tuple(dict.fromkeys(sorted(grid)))


def meant(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'x'?)` for the known name that is most like this one; nothing where none is."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
