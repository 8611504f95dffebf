"""The worker process: compares two answers with math-verify, one pair after the other.

It runs as a script, so it imports neither torch, nor the rest of this package, nor the user's `__main__`. It reads one
JSON object per line from stdin, first its limits, then pairs, and answers each with one line. It ends with stdin; if
its parent dies while a comparison hangs, an alarm ends it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
from collections.abc import Callable
from typing import Any

MAX_COMPARISONS = 5000  # a worker retires after so many, since the parser's caches never shrink
TINY = 1e-6  # math-verify takes any two smaller numbers for equal ...
CLOSENESS = 1e-4  # ... here they must also agree to this share of the larger one


def main() -> None:
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # printed text must not get between the replies
    limits = json.loads(sys.stdin.readline())
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = limits["memory"] if hard == resource.RLIM_INFINITY else min(limits["memory"], hard)
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The default action of an alarm ends the process even inside a long C call, where no Python handler would run.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    sys.path.extend(item for item in limits["path"] if item not in sys.path)
    try:
        compare = load()
    except Exception as error:
        _reply(replies, failure=f"{type(error).__name__}: {error}")
        return
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)
    os.dup2(silence, 2)
    _reply(replies)
    for count, line in enumerate(sys.stdin, start=1):
        gold, answer = json.loads(line)
        signal.alarm(limits["alarm"])
        equal = compare(gold, answer)
        signal.alarm(0)
        _reply(replies, equal=equal, retire=count >= MAX_COMPARISONS or _peak_memory() > limits["memory"] / 2)


def load() -> Callable[[str, str], bool]:
    """Import math-verify and warm up its parser. Its own time limits, which use signals, are turned off."""
    import logging

    logging.disable(logging.CRITICAL)
    from math_verify import LatexExtractionConfig, parse, verify

    # The caller has found the answer already, so math-verify reads one box and searches no further.
    config = (LatexExtractionConfig(boxed_match_priority=0),)

    def compare(gold: str, answer: str) -> bool:
        golds, answers = (parse(f"\\boxed{{{text}}}", config, parsing_timeout=None) for text in (gold, answer))
        equal = verify(golds, answers, timeout_seconds=None)
        return bool(equal) and _really_close(golds, answers)

    compare("1", "2")
    return compare


def _really_close(golds: list[Any], answers: list[Any]) -> bool:
    """False for two numbers that math-verify calls equal only because both are tiny."""
    try:
        gold, answer = complex(golds[0].evalf()), complex(answers[0].evalf())
    except (TypeError, ValueError, AttributeError, OverflowError):
        return True  # no plain numbers
    size = max(abs(gold), abs(answer))
    return size >= TINY or abs(gold - answer) <= CLOSENESS * size


def _peak_memory() -> int:
    """Peak memory in bytes; `ru_maxrss` would start at the parent's peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def _reply(replies: Any, **reply: Any) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
