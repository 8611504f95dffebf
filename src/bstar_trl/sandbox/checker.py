"""The tests' side: runs the tests, asks the program over a pipe, and alone says whether they passed.

What the program returns as plain values is rebuilt here by exact type (`codec.py`), its functions and objects are
handles (`borrowed.py`): nothing of the program's runs here.
"""

from __future__ import annotations

import builtins
import random
import sys
import types
from collections.abc import Callable
from typing import Any

from .borrowed import BorrowedClass, BorrowedFunction, Kind
from .borrower import Borrower, Stopped
from .handles import number_of
from .raised import of_program, shown
from .source import BUILTINS, CLASS_OF, MESSAGE, Names, Source


def judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    """Reason and detail for the tests of `check` against the program at the other end of `channel`."""
    sys.setrecursionlimit(5000)
    try:
        return _judge(channel, check)
    except Stopped as stopped:
        return stopped.reason, stopped.detail
    except MemoryError:
        return "memory", "the tests ran out of memory"
    except BaseException as error:  # whatever tests raise is a verdict, never a crash of the sandbox
        return "exception", f"in the tests: {shown(error)}"


def _judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    pieces = [piece for piece in (check["setup"], *check["tests"]) if piece.strip()]
    try:
        source = Source(check["trusted"], pieces, check["names"])
    except (SyntaxError, ValueError) as error:
        return "bad tests", shown(error)
    program = Borrower(channel, source)
    allowed = None if check["names"] is None else set(check["names"])

    def look_up(name: str) -> tuple[Any, bool]:
        missing = allowed is not None and name not in allowed
        if missing or name.startswith("__") or (name in BUILTINS and name not in source.as_program):
            raise KeyError(name)
        try:
            found = program.ask("name", name)
        except NameError:
            raise KeyError(name) from None
        if type(found) is BorrowedClass:
            (program.classes if name[0].isupper() else program.returned).add(number_of(found))
        return found, type(found) in (BorrowedClass, BorrowedFunction) or isinstance(found, type)

    names = Names(look_up, source.as_program)
    names |= {"type": Kind, CLASS_OF: Kind, MESSAGE: _message}
    module = sys.modules["tests"] = types.ModuleType("tests")
    space = module.__dict__
    space |= {"__builtins__": names}
    exec(source.trusted, space)
    for name in allowed or ():
        space.pop(name, None)  # a prompt that is given as trusted holds its head, too
    program.start()
    needed = allowed or source.as_program
    if needed and not any(_defines(names, name) for name in needed):
        return "exception", f"NameError: the program does not define {' or '.join(sorted(needed))}"
    if allowed is None:
        names |= {name: getattr(builtins, name) for name in source.as_program if not _defines(names, name)}
    random.seed = _shared_seed(program)
    for name in source.modules:
        space.setdefault(name, __import__(name))
    for piece, code in zip(pieces, source.tests, strict=True):
        try:
            exec(code, space)
        except BaseException as error:  # the verdict
            program.go_on()
            reason = of_program(error)
            if isinstance(error, AssertionError) and reason is None:
                return "wrong answer", f"{piece.strip()} {error}".strip()
            return reason or "exception", f"{piece.strip()}: {shown(error)}"
        program.go_on()
    program.ask("end")
    for failure in program.failures.values():
        return "wrong answer", f"in a function of the tests: {shown(failure)}"
    return "passed", ""


def _message(make: Callable[[], Any]) -> Any:
    """The message of an assertion that has failed, whatever goes wrong in making it."""
    try:
        return make()
    except Exception as error:  # an error here would stand in place of the failure
        return f"(no message: {type(error).__name__})"


def _shared_seed(program: Borrower) -> Callable[..., None]:
    """`random.seed` for both sides: tests that seed mean the program, too."""
    own = random.seed

    def seed(a: Any = None, version: int = 2) -> None:
        own(a, version)
        program.ask("seed", a)

    return seed


def _defines(names: Names, name: str) -> bool:
    try:
        names[name]
    except KeyError:
        return False
    return True
