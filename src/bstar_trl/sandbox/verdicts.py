"""What a check says (`Verdict`), what it may use (`Limits`), and who may do it (`Executor`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from ..errors import ConfigurationError

Reason = Literal[
    "passed", "wrong answer", "exception", "timeout", "memory", "syntax", "no answer", "forbidden", "bad tests"
]
REASONS: tuple[str, ...] = get_args(Reason)
KEPT_OUTPUT = 16 << 10  # bytes of the program's output that are kept for logs
DAY = 24 * 3600  # seconds
DETAIL_LIMIT = 500  # characters
_ESCAPED = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}


@dataclass(frozen=True)
class Verdict:
    """What came of one check.

    Attributes:
        passed (`bool`): the program passed every test.
        reason (`str`): one of `REASONS`. `"no answer"`: it ended before every test had its answer.
            `"forbidden"`: it failed at something the sandbox refuses, or broke the protocol. `"bad tests"`: the tests
            cannot judge any program: they do not compile, or pass what cannot cross to it.
        detail (`str`): which test, and what happened; for people. It may quote the program.
        output (`str`): the beginning of what the program printed.
        seconds (`float`): how long the check took.
    """

    passed: bool
    reason: Reason
    detail: str = ""
    output: str = ""
    seconds: float = 0.0


def whole_number(name: str, value: Any, least: int, most: int) -> None:
    """Refuse an argument that is no int in this range.

    Raises:
        ConfigurationError: what came, and what is expected.
    """
    if type(value) is not int or not least <= value <= most:
        raise ConfigurationError(f"{name} must be an int of at least {least} and at most {most}, got {value!r}")


def printable(text: str) -> str:
    """A program's text as any log takes it: lone surrogates and control characters escaped."""
    return text.encode("utf-8", "backslashreplace").decode().translate(_ESCAPED)


@dataclass(frozen=True)
class Limits:
    """What one check may use.

    Attributes:
        timeout (`float`): seconds for everything: start, setup and all tests.
        memory_mb (`int`): MiB for the program with all its processes, and again for the tests.
        processes (`int`): processes and threads at once.
        disk_mb (`int`): MiB of files.

    Raises:
        ConfigurationError: a limit out of its range.
    """

    timeout: float = 5.0
    memory_mb: int = 512
    processes: int = 128
    disk_mb: int = 64

    def __post_init__(self) -> None:
        number = isinstance(self.timeout, int | float) and not isinstance(self.timeout, bool)
        if not (number and 0 < self.timeout <= DAY):
            raise ConfigurationError(
                f"timeout must be a positive number of seconds, {DAY} at most, got {self.timeout!r}"
            )
        whole_number("memory_mb", self.memory_mb, 64, 1 << 20)
        whole_number("processes", self.processes, 8, 1 << 15)
        whole_number("disk_mb", self.disk_mb, 1, 1 << 20)


@dataclass(frozen=True)
class Check:
    """One program and its tests.

    Attributes:
        program (`str`): the source; nothing on this side ever reads it.
        tests (`tuple[str, ...]`): statements, run one after the other in one namespace.
        setup (`str`): run before the tests, after the program, on the tests' side.
        trusted (`str`): run before everything on the tests' side: definitions the program must not replace.
        names (`tuple[str, ...]`, *optional*): the only names the tests may take from the program; None: all that they
            use and do not define themselves, builtins apart.
        cases (`tuple[tuple[str, str], ...]`): in place of tests: texts for standard input, and the output expected.
        in_place (`bool`): the program's functions may change their arguments: after each call, every list, dict, set,
            deque and bytearray that the tests passed holds what the program left in it.

    Raises:
        ConfigurationError: an argument of the wrong type; neither tests nor cases, or both.
    """

    program: str
    tests: tuple[str, ...] = ()
    setup: str = ""
    trusted: str = ""
    names: tuple[str, ...] | None = None
    cases: tuple[tuple[str, str], ...] = ()
    in_place: bool = False

    def __post_init__(self) -> None:
        texts: list[tuple[str, Any]] = [("program", self.program), ("setup", self.setup), ("trusted", self.trusted)]
        texts += [(f"tests[{place}]", item) for place, item in enumerate(self.tests)]
        texts += [(f"cases[{place}]", part) for place, item in enumerate(self.cases) for part in item]
        for name, text in texts:
            if not isinstance(text, str):
                raise ConfigurationError(f"{name} must be a str, got {type(text).__name__}")
        if type(self.in_place) is not bool:
            raise ConfigurationError(f"in_place must be a bool, got {self.in_place!r:.80}")
        if bool(self.tests) == bool(self.cases):
            raise ConfigurationError("a check needs tests: got none" if not self.tests else "tests or cases, not both")


class Executor(Protocol):
    """Where checks run: the local sandbox, or a service elsewhere. Called from several threads at once."""

    def run(self, check: Check, limits: Limits) -> Verdict:
        """Run one check. Whatever the program does is data; an error means that checking itself failed.

        Raises:
            SandboxError: the executor cannot do its work.
        """

    def close(self) -> None:
        """Let go of everything; the next `run` starts anew."""


def as_check(program: Any, tests: Any, *, names: Any = None, **options: Any) -> Check:
    """A check from what a caller passed.

    Raises:
        ConfigurationError: the tests, or the names, are no sequence of texts.
    """
    if isinstance(tests, str) or not isinstance(tests, Sequence):
        raise ConfigurationError(f"tests must be a list of str, got {type(tests).__name__}")
    if names is not None:
        if (
            isinstance(names, str)
            or not isinstance(names, Sequence)
            or not all(isinstance(name, str) for name in names)
        ):
            raise ConfigurationError(f"names must be a list of str, or None, got {names!r:.80}")
        names = tuple(names)
    return Check(program, tuple(tests), names=names, **options)
