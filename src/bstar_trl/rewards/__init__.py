"""Rewards: callables for TRL that know whether they are the verifier, and why they scored as they did."""

from .answer import AnswerMatch
from .base import RewardFn, Score
from .choice import MultipleChoice

__all__ = ["AnswerMatch", "MultipleChoice", "RewardFn", "Score"]
