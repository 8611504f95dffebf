"""Rewards: callables for TRL that know whether they are the verifier, and why they scored as they did."""

from .answer import AnswerMatch
from .base import RewardFn, Score
from .choice import MultipleChoice
from .unit_tests import UnitTests

__all__ = ["AnswerMatch", "MultipleChoice", "RewardFn", "Score", "UnitTests"]
