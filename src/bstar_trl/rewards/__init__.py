"""Rewards: callables for TRL that know whether they are the verifier, and why they scored as they did."""

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
    """Import the one reward that needs torch when it is first asked for."""
    if name != "ProcessReward":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .process import ProcessReward

    return ProcessReward
