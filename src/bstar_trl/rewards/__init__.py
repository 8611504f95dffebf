"""Rewards: callables for TRL that declare whether they are the verifier and give a reason with every score."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .answer import AnswerMatch
from .base import RewardFn, Score
from .choice import MultipleChoice
from .unit_tests import UnitTests

if TYPE_CHECKING:
    from .process import ProcessReward

__all__ = ["AnswerMatch", "MultipleChoice", "ProcessReward", "RewardFn", "Score", "UnitTests"]


def __getattr__(name: str) -> Any:
    """Import `ProcessReward`, the only reward that needs torch, at its first use."""
    if name != "ProcessReward":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .process import ProcessReward

    return ProcessReward
