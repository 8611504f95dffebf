"""B-STaR for TRL: self-improvement that watches exploration and exploitation and retunes itself every iteration."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .callback import BalanceCallback
    from .config import BSTaRConfig
    from .records import Completion, Exploration, Request, Rollouts, Selection, Setting
    from .reports import LiveTable
    from .training.trainer import BSTaRTrainer

__version__ = "0.1.0"

_ROOMS = {
    "BalanceCallback": "callback",
    "BSTaRConfig": "config",
    "BSTaRTrainer": "training.trainer",
    "Completion": "records",
    "Exploration": "records",
    "LiveTable": "reports",
    "Request": "records",
    "Rollouts": "records",
    "Selection": "records",
    "Setting": "records",
}
__all__ = [
    "BSTaRConfig",
    "BSTaRTrainer",
    "BalanceCallback",
    "Completion",
    "Exploration",
    "LiveTable",
    "Request",
    "Rollouts",
    "Selection",
    "Setting",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that `import bstar_trl` does not wait for torch."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_ROOMS])
