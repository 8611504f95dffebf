"""The tests' end of the pipe: asks the program, and answers it when it uses what the tests have lent.

Every question carries a number nobody can guess and takes exactly one answer; anything else decides the check. What
the tests lend is used by a hostile program: a function can be called, of an iterator the next item taken, and of other
objects nothing is reached whose name begins with an underscore.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import re
import sys
import threading
import types
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

from .borrowed import (
    CONTAINERS,
    Borrowed,
    BorrowedClass,
    BorrowedFunction,
    BorrowedGenerator,
    BorrowedIterator,
    coroutine,
)
from .codec import Decoder, Encoder, ProtocolError, TooLargeError, plain_type, receive, send
from .handles import ANSWERS, FACES, Handle, behind, number_of
from .raised import CATCH_ALL, LEAVING, REASONS, StandIns, ending, shown
from .source import Source

ALWAYS = {"truth", "hash", "equal", "text", "shown", "formatted"}
MAY_ASK = {
    "function": ALWAYS | {"call", "get"},
    "class": ALWAYS | {"call", "get", "has instance", "has subclass"},
    "iterator": ALWAYS | {"iterate", "next"},
    "object": ANSWERS.keys(),
}
FACES_OF = {
    "class": BorrowedClass,
    "iterator": BorrowedIterator,
    "generator": BorrowedGenerator,
    "function": BorrowedFunction,
}
ENDING = {"next", "anext", "send", "throw"}  # what may end an iteration
READABLE = {"__name__", "__qualname__", "__doc__", "__enter__", "__exit__"}
OBJECTS = (types.SimpleNamespace, io.StringIO, io.BytesIO, re.Pattern, re.Match, random.Random)


class Stopped(BaseException):
    """The check is decided: the reason, and a detail for people. Tests that catch everything only put it off."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail


class Borrower:
    """Asks the program; an `Owner` of handles.

    Args:
        channel (`int`): the descriptor of the pipe.
        source (`Source`): the tests. They hear of `SystemExit` only if they name it.

    Attributes:
        classes (`set[int]`): the program's classes, by number, that the tests name as classes are named.
        made (`set[int]`): objects that the tests have made from these; see `borrowed.py`.
        returned (`set[int]`): objects and classes that the program has given in any other way: never trusted again.
        failures (`dict[int, AssertionError]`): of the tests' functions, which the program has not handed back yet.
    """

    def __init__(self, channel: int, source: Source):
        self._source = source
        self._turn = threading.RLock()
        self._stdin, self._stdout = sys.stdin, sys.stdout
        self._channel = channel
        self._handles: dict[int, Handle] = {}
        self._exceptions = StandIns(self._decode, self._handle, self._lent_class, self.stop)
        self._exceptions.expected = (Exception, *[kind for name, kind in LEAVING.items() if name in source.names])
        self._lent: list[tuple[str, Any]] = []
        self._numbers: dict[int, int] = {}
        self._raised: list[Exception] = []
        self._stopped: Stopped | None = None
        self.faces: dict[int, Any] = {}
        self.classes: set[int] = set()
        self.made: set[int] = set()
        self.returned: set[int] = set()
        self.failures: dict[int, AssertionError] = {}

    def stop(self, reason: str, detail: str) -> NoReturn:
        """Decide the check, for good."""
        self._stopped = self._stopped or Stopped(reason, detail)
        raise self._stopped

    def malformed(self, what: str) -> NoReturn:
        """Decide the check: what the program sent is no answer."""
        self.stop("forbidden", f"the program sent something malformed: {what}")

    def go_on(self) -> None:
        """Raise what has decided the check, if anything has: the tests may have caught it."""
        if self._stopped is not None:
            raise self._stopped

    def start(self) -> None:
        """Wait until the program is loaded."""
        message = self._receive()
        if message.get("loaded") is True:
            return
        reason, detail = message.get("failed"), message.get("detail")
        if reason not in (*REASONS, "syntax") or type(detail) is not str:
            self.stop("no answer", "the program did not load")
        self.stop(reason, f"while loading: {detail}")

    def ask(self, do: str, /, *arguments: Any, **keywords: Any) -> Any:
        """One question, one answer: a value, or the exception that the program raised."""
        with self._turn:
            return self._ask(do, arguments, keywords)

    def _ask(self, do: str, arguments: Sequence[Any], keywords: Mapping[str, Any]) -> Any:
        self.go_on()
        nonce = os.urandom(8).hex()
        encoder = Encoder(self._lend)
        message = {
            "do": do,
            "nonce": nonce,
            "arguments": [encoder.encode(item) for item in arguments],
            "keywords": {name: encoder.encode(item) for name, item in keywords.items()},
            "prints": sys.stdout is not self._stdout,  # the tests look at what is printed,
            "reads": sys.stdin.read()
            if do == "call" and sys.stdin is not self._stdin
            else None,  # and say what is read
        }
        takes_back, message["always"] = self._takes_back() if do == "call" else (False, False)
        try:
            send(self._channel, message)
        except OSError:
            self.stop("no answer", "the program ended before the tests did")
        reply = self._receive()
        while "callback" in reply:
            self._answer(reply)
            reply = self._receive()
        if reply.get("nonce") != nonce:
            self.stop("forbidden", "the program spoke out of turn")
        error = value = None
        makes = self._is_making(do, arguments)
        try:
            if message["prints"]:
                sys.stdout.write(reply["printed"])
            if "error" in reply:
                error = self._error(*reply["error"], stops=do in ENDING)
            elif "arguments" not in reply:
                value = self._decoder(given=not makes and do not in ("name", "class")).decode(reply["value"])
            elif do != "call":
                raise ProtocolError("arguments of no call")
            elif takes_back:
                decoder = self._decoder(encoder.containers)
                for place, content in reply["arguments"]:
                    decoder.update(encoder.containers[place], content)
        except (ProtocolError, KeyError, ValueError, TypeError, IndexError, AttributeError, OverflowError) as broken:
            self.malformed(shown(broken))
        if error is not None:
            raise error
        if makes and isinstance(value, Borrowed) and number_of(value) not in self.returned:
            self.made.add(number_of(value))
        return value

    def fails_in_assertion(self, trace: types.TracebackType | None) -> bool:
        """Whether an exception left an `assert` of the tests."""
        return self._source.fails_in_assertion(trace)

    def _takes_back(self) -> tuple[bool, bool]:
        frame: types.FrameType | None = sys._getframe()
        while frame is not None and frame.f_globals.get("__package__") == __package__:
            frame = frame.f_back
        if frame is None or not self._source.is_of_tests(frame.f_code.co_filename):
            return False, False
        return self._source.takes_back(frame.f_code, frame.f_lasti)

    def _is_making(self, do: str, arguments: Sequence[Any]) -> bool:
        """Whether the tests make an object: by calling a class, or of another object that they have made."""
        if do not in ("call", "operate", "copy"):
            return False
        number = number_of(arguments[0])
        return number in self.classes - self.returned if do == "call" else number in self.made

    def _decoder(self, containers: list[Any] | None = None, *, given: bool = True) -> Decoder:
        """`given`: what comes is what the program chose to give; not what the tests make, or look up by its name."""
        return Decoder(partial(self._borrow, given=given), containers, CATCH_ALL)

    def _decode(self, item: Any) -> Any:
        return self._decoder().decode(item)

    def _receive(self) -> dict[str, Any]:
        try:
            message = receive(self._channel)
        except (EOFError, OSError):
            self.stop("no answer", "the program ended before the tests did")
        except TooLargeError as error:
            self.stop("memory", str(error))
        except ProtocolError as error:
            self.malformed(str(error))
        if type(message) is not dict:
            self.malformed("no message")
        return message

    def _error(self, reason: Any, item: Any, *, stops: bool) -> BaseException:
        if reason not in REASONS:
            raise ProtocolError("no such reason")
        if item[0] == "z":  # the tests' own, raised by a function of theirs
            self.failures.pop(item[1], None)
            return ending(self._raised[item[1]], stops=stops)
        error = ending(self._exceptions.error(item), stops=stops)
        error.of_program = reason  # type: ignore[attr-defined]
        return error

    # What the program lends

    def _borrow(self, item: list[Any], *, given: bool) -> Any:
        tag = item[0]
        if tag == "k":
            return self._lent[item[1]][1]
        if tag == "z":
            return self._raised[item[1]]
        if tag == "E":
            return self._exceptions.error(item)
        if tag == "m" or (tag == "h" and item[2] == "exception"):
            return self._exceptions.kind(item)
        tag, number, kind, plain = item
        if tag != "h" or type(number) is not int:
            raise ProtocolError("no handle")
        if given:  # whoever has made it
            self.returned.add(number)
            self.made.discard(number)
        handle = self._handle(number, kind, plain)
        return coroutine(handle) if kind == "coroutine" else handle

    def _handle(self, number: int, kind: str = "object", plain: str | None = None) -> Handle:
        if number not in self._handles:
            face = FACES_OF.get(kind, Borrowed)
            self._handles[number] = (CONTAINERS[plain] if plain else face)(self, number)
        return self._handles[number]

    # What the tests lend

    def _lent_class(self, number: int) -> Any:
        return self._lent[number][1]

    def _lend(self, value: Any) -> list[Any]:
        there = behind(value)
        if there is not None:
            return ["h", number_of(there)]
        number = self._exceptions.number_of(value)
        if number is not None:
            return ["h", number]
        if any(value is kind for kind in CATCH_ALL.values()):
            return ["g", value.__name__]
        if _is_standard(value):
            return ["m", value.__module__, value.__qualname__]
        if isinstance(value, BaseException):  # built again there, of the nearest class that is known there
            encoder = Encoder(self._lend)
            return ["x", encoder.encode(_known(type(value))), encoder.encode(value.args)]
        if isinstance(value, type) and issubclass(value, BaseException):
            bases = [Encoder(self._lend).encode(base) for base in value.__bases__ if issubclass(base, BaseException)]
            return ["X", self._number("class", value), value.__name__, bases]
        kind = _lent_as(value)
        if kind is None:
            self.stop("exception", f"the tests pass an object that cannot cross: {type(value).__name__}")
        return ["k", self._number(kind, value), kind]

    def _number(self, kind: str, value: Any) -> int:
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._lent)
            self._lent.append((kind, value))
        return self._numbers[id(value)]

    def _answer(self, message: dict[str, Any]) -> None:
        """The program asks for something that the tests have lent."""
        try:
            do, first = message["callback"], message["arguments"][0]
            if first[0] != "k":
                raise ProtocolError("nothing of the tests'")
            kind, target = self._lent[first[1]]
            decoder = self._decoder()
            arguments = [decoder.decode(item) for item in message["arguments"][1:]]
            keywords = {name: decoder.decode(item) for name, item in message["keywords"].items()}
            operation = ANSWERS[do]
        except (ProtocolError, LookupError, TypeError, AttributeError) as error:
            self.malformed(shown(error))
        try:
            if do not in MAY_ASK[kind] or (do in ("get", "set", "delete") and _is_private(arguments, kind)):
                raise AttributeError(f"the tests do not lend this of their {kind}")
            result, encoder = operation(target, *arguments, **keywords), Encoder(self._lend)
            answer: dict[str, Any] = {"answer": encoder.encode(result)}
            if result is None:
                answer["arguments"] = encoder.changed(decoder.containers)
        except Exception as error:  # of the tests' function: the program hears of it, as it would in one process
            if isinstance(error, AssertionError) and self.fails_in_assertion(error.__traceback__):
                self.failures[len(self._raised)] = error
            self._raised.append(error)
            encoder = Encoder(self._lend)
            kind_item, arguments_item = encoder.encode(type(error)), encoder.encode(list(error.args))
            answer = {"answer": None, "error": [kind_item, arguments_item, len(self._raised) - 1]}
        send(self._channel, answer)


def _is_private(arguments: list[Any], kind: str) -> bool:
    name = arguments[0] if arguments else None
    if type(name) is not str:
        return True
    return name not in READABLE if name.startswith("_") or kind == "function" else False


def _lent_as(value: Any) -> str | None:
    """As what an object of the tests' can be lent; `None`: not at all."""
    kind = type(value)
    if issubclass(kind, type):
        return "class"
    if issubclass(kind, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return "function"
    if kind.__module__ == "tests" or isinstance(value, OBJECTS) or plain_type(value) in FACES:
        return "object"
    if hasattr(kind, "__next__"):
        return "iterator"
    return "function" if callable(value) else None


def _is_standard(value: Any) -> bool:
    """Whether the standard library has this function or class under its name."""
    name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
    if type(name) is not str or type(module) is not str or module.split(".")[0] not in sys.stdlib_module_names:
        return False
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is value


def _known(kind: type) -> type:
    return next(item for item in kind.__mro__ if getattr(builtins, item.__name__, None) is item)
