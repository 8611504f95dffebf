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
TINY = 1e-6  # math-verify takes any two smaller decimals for equal ...
CLOSENESS = 1e-4  # ... here they must also agree to this share of the larger one
DIGITS = 120  # exact numbers are evaluated to so many digits, ...
AGREEMENT = 100  # ... and must agree in so many; math-verify compares 15 digits, and takes small terms for 0


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
        if not golds or not answers:
            return False
        if verify(golds, answers, timeout_seconds=None):
            return _really_equal(golds[0], answers[0])
        return _same_equation(golds[0], answers[0])

    compare("1", "2")
    return compare


def _really_equal(gold: Any, answer: Any) -> bool:
    """False for values that math-verify calls equal only because it rounds; it may round only decimals.

    Formulas with variables are compared at one point. What is no value, such as an inequality, passes.
    """
    from sympy import Eq, Expr, Float, Interval, MatrixBase, Rational, Symbol, Tuple, Union
    from sympy import FiniteSet as Members

    gold, answer = (item.rhs if isinstance(item, Eq) and item.lhs.is_Symbol else item for item in (gold, answer))
    for kind in (Tuple, Interval, Union, Members, MatrixBase):
        if isinstance(gold, kind) and isinstance(answer, kind):
            parts = [list(item.flat()) if kind is MatrixBase else list(item.args) for item in (gold, answer)]
            if kind in (Union, Members):
                parts = [sorted(items, key=_position) for items in parts]
            return len(parts[0]) != len(parts[1]) or all(map(_really_equal, *parts))
    if not (isinstance(gold, Expr) and isinstance(answer, Expr)):
        return True
    symbols = sorted(gold.free_symbols | answer.free_symbols, key=str)
    point = {symbol: Rational(2 * index + 7, 5) for index, symbol in enumerate(symbols) if isinstance(symbol, Symbol)}
    rounded = gold.has(Float) or answer.has(Float)
    try:
        values = [item.subs(point).evalf(DIGITS) if point else item.evalf(DIGITS) for item in (gold, answer)]
        size = max(map(abs, values))
        distance = abs(values[0] - values[1])
        if rounded:
            return bool(size >= TINY or distance <= CLOSENESS * size)
        if not bool(distance <= Rational(1, 10**AGREEMENT) * size):
            return _is_percentage(gold, answer, values)
        return bool(point) or not (gold.is_rational and answer.is_rational) or (gold - answer).doit() == 0
    except (TypeError, ValueError, AttributeError, OverflowError):
        return True  # no plain numbers


def _is_percentage(gold: Any, answer: Any, values: list[Any]) -> bool:
    """Whether exactly one of two numbers is written with a percent sign, which math-verify also reads as a unit."""
    from sympy import UnevaluatedExpr

    percent = [item.has(UnevaluatedExpr) for item in (gold, answer)]
    return percent[0] != percent[1] and bool(abs(values[percent[0]] - 100 * values[percent[1]]) <= TINY)


def _position(item: Any) -> tuple[float, float]:
    """Where a member of a set, or the start of an interval, lies among the others."""
    try:
        value = complex(getattr(item, "start", item).evalf())
    except (TypeError, ValueError, AttributeError, OverflowError):
        return 0.0, 0.0
    return value.real, value.imag


def _same_equation(gold: Any, answer: Any) -> bool:
    """Whether two equations differ by a constant factor. math-verify solves them, for a variable chosen by chance."""
    from sympy import Eq, simplify

    if not (isinstance(gold, Eq) and isinstance(answer, Eq)) or gold.free_symbols != answer.free_symbols:
        return False
    factor = simplify((gold.lhs - gold.rhs) / (answer.lhs - answer.rhs))
    return bool(factor.is_number and factor.is_finite and factor.is_nonzero)


def _peak_memory() -> int:
    """Peak memory in bytes; `ru_maxrss` would start at the parent's peak."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def _reply(replies: Any, **reply: Any) -> None:
    replies.write(json.dumps(reply) + "\n")
    replies.flush()


if __name__ == "__main__":
    main()
