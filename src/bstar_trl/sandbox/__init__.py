"""Run programs that nobody trusts against tests that they cannot fool."""

from .host import LocalSandbox, close, run_tests
from .verdicts import REASONS, Check, Executor, Limits, Verdict

__all__ = ["REASONS", "Check", "Executor", "Limits", "LocalSandbox", "Verdict", "close", "run_tests"]
