"""Run programs that nobody trusts against tests that they cannot fool."""

from typing import TYPE_CHECKING, Any

from .verdicts import REASONS, Check, Executor, Limits, Verdict

if TYPE_CHECKING:
    from .host import LocalSandbox, close, run_tests
    from .remote import RemoteSandbox

__all__ = [
    "REASONS",
    "Check",
    "Executor",
    "Limits",
    "LocalSandbox",
    "RemoteSandbox",
    "Verdict",
    "close",
    "run_tests",
]


def __getattr__(name: str) -> Any:
    """The host's rooms, when they are asked for: the sandbox's own processes do without them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import host, remote

    return getattr(remote if name == "RemoteSandbox" else host, name)
