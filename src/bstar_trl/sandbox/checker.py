"""The tests' side: runs the tests, asks the program over a pipe, and alone says whether they passed.

The program's functions and objects are *handles* here. A handle can be called, read, changed and walked; it never
takes part in a comparison, an operator or a conversion, so an object that equals everything equals nothing here. What
the program returns as plain values is rebuilt by exact type (`codec.py`), so nothing of the program's runs here.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, NoReturn

from .codec import BUILTIN_TYPES, Decoder, Encoder, ProtocolError, TooLargeError, receive, send

PLAIN_BUILTINS = set(dir(builtins))
# What a program may call these is no way to catch the tests' own failures: of the program's errors alone.
CATCH_ALL: dict[Any, Any] = {
    kind: type(kind.__name__, (kind,), {}) for kind in (BaseException, Exception, AssertionError)
}


class Stopped(BaseException):
    """The check is decided: the reason, and a detail for people. Tests that catch everything only put it off."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail


def judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    """Reason and detail for the tests of `check` against the program at the other end of `channel`."""
    sys.setrecursionlimit(5000)
    try:
        return _judge(Borrower(channel), check)
    except Stopped as stopped:
        return stopped.reason, stopped.detail
    except MemoryError:
        return "memory", "the tests ran out of memory"
    except BaseException as error:
        return "exception", f"in the tests: {_shown(error)}"


def _judge(program: Borrower, check: dict[str, Any]) -> tuple[str, str]:
    pieces = [piece for piece in (check["setup"], *check["tests"]) if piece.strip()]
    try:
        trusted = compile(check["trusted"], "trusted", "exec")
        codes = [compile(piece, f"test {place}", "exec") for place, piece in enumerate(pieces)]
    except (SyntaxError, ValueError) as error:
        return "bad tests", _shown(error)
    space: dict[str, Any] = {"__name__": "tests"}
    exec(trusted, space)
    program.start()
    wanted = check["names"]
    if wanted is None:
        wanted = sorted(_free_names("\n".join(pieces)) - space.keys())
        if not wanted:  # the program is to define something that Python has, too: `sum`
            wanted = sorted(PLAIN_BUILTINS)
    found = program.ask("names", *wanted) if wanted else {}
    if check["names"] and not found:
        return "exception", f"NameError: the program does not define {' or '.join(wanted)}"
    for name in wanted:
        if name in found:
            space[name] = found[name]
    for name in _modules("\n".join(pieces)):
        space.setdefault(name, __import__(name))
    for piece, code in zip(pieces, codes, strict=True):
        try:
            exec(code, space)
        except BaseException as error:
            program.go_on()
            if isinstance(error, AssertionError) and not hasattr(error, "of_program"):
                return "wrong answer", f"{piece.strip()} {error}".strip()
            return getattr(error, "of_program", "exception"), f"{piece.strip()}: {_shown(error)}"
        program.go_on()
    program.ask("end")
    return "passed", ""


def _free_names(source: str) -> set[str]:
    """Names the tests use that Python does not define: the program's. A standard module stays the standard one."""
    tree = ast.parse(source)
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    return names - PLAIN_BUILTINS - _modules(source)


def _modules(source: str) -> set[str]:
    """Standard modules that the tests read attributes of, `math` in `math.isclose(...)`, but do not define."""
    nodes = list(ast.walk(ast.parse(source)))
    bases = {node.value.id for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)}
    assigned = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    assigned |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return (bases & set(sys.stdlib_module_names)) - assigned


def _shown(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error of the tests may hold anything, and printing it may fail
        return type(error).__name__


class Borrower:
    """Asks the program; every question carries a number nobody can guess, and takes exactly one answer."""

    def __init__(self, channel: int):
        self._channel = channel
        self._handles: dict[int, Any] = {}
        self._exceptions: dict[int, type[Exception]] = {}
        self._functions: list[Any] = []
        self._stopped: Stopped | None = None

    def stop(self, reason: str, detail: str) -> NoReturn:
        """Decide the check, for good."""
        self._stopped = self._stopped or Stopped(reason, detail)
        raise self._stopped

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
        if reason not in ("syntax", "memory", "forbidden", "exception", "no answer") or type(detail) is not str:
            self.stop("no answer", "the program did not load")
        self.stop(reason, f"while loading: {detail}")

    def ask(self, do: str, *arguments: Any, **keywords: Any) -> Any:
        """One question, one answer: a value, or the exception that the program raised."""
        self.go_on()
        nonce = os.urandom(8).hex()
        encoder = Encoder(self._lend)
        message = {
            "do": do,
            "nonce": nonce,
            "arguments": [encoder.encode(item) for item in arguments],
            "keywords": {name: encoder.encode(item) for name, item in keywords.items()},
        }
        try:
            send(self._channel, message)
        except OSError:
            self.stop("no answer", "the program ended before the tests did")
        reply = self._receive()
        while "callback" in reply:
            self._call_back(reply)
            reply = self._receive()
        if reply.get("nonce") != nonce:
            self.stop("forbidden", "the program spoke out of turn")
        try:
            if "error" in reply:
                raise self._error(reply["error"], do)
            if "arguments" not in reply:
                return self._decoder().decode(reply["value"])
            decoder = self._decoder(encoder.containers)
            for place, content in reply["arguments"]:
                decoder.update(encoder.containers[place], content)
            return None
        except (ProtocolError, KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            if hasattr(error, "of_program"):
                raise
            self.stop("forbidden", f"the program sent something malformed: {_shown(error)}")

    def _decoder(self, containers: list[Any] | None = None) -> Decoder:
        return Decoder(self._borrow, containers, CATCH_ALL)

    def _receive(self) -> dict[str, Any]:
        try:
            message = receive(self._channel)
        except (EOFError, OSError):
            self.stop("no answer", "the program ended before the tests did")
        except TooLargeError as error:
            self.stop("memory", str(error))
        except ProtocolError as error:
            self.stop("forbidden", f"the program sent something malformed: {error}")
        if type(message) is not dict:
            self.stop("forbidden", "the program sent something malformed")
        return message

    def _error(self, item: Any, do: str) -> Exception:
        """The program's exception as one of this side: the builtin class it derives from, or a stand-in of it."""
        reason, base, _, arguments, own = item
        if reason not in ("exception", "memory", "forbidden", "no answer"):
            raise ProtocolError("no such reason")
        kind = getattr(builtins, base) if type(base) is str else None
        if not (isinstance(kind, type) and issubclass(kind, Exception)):
            self.stop(reason, f"{base}: the program tried to leave")
        kind = CATCH_ALL.get(kind, kind)
        if own is not None:
            stand_in = self._borrow(own)
            if isinstance(stand_in, type) and issubclass(stand_in, Exception):
                kind = stand_in
        if issubclass(kind, StopIteration | StopAsyncIteration) and do != "next":  # it would end the tests' own loops
            kind = RuntimeError
        error = kind.__new__(kind)
        error.args = tuple(self._decoder().decode(arguments))
        error.of_program = reason
        return error

    def _borrow(self, item: list[Any]) -> Any:
        tag, number, kind, name, base = item
        if tag != "h" or type(number) is not int or type(name) is not str:
            raise ProtocolError("no handle")
        if kind == "exception":
            if number not in self._exceptions:
                parent = getattr(builtins, base)
                if not (isinstance(parent, type) and issubclass(parent, Exception)):
                    raise ProtocolError("no exception class")
                parent = CATCH_ALL.get(parent, parent)
                made = type(name, (parent,), {"__new__": lambda cls, *rest: parent.__new__(cls)})
                self._exceptions[number] = made
            return self._exceptions[number]
        if number not in self._handles:
            face = {"class": BorrowedClass, "iterator": BorrowedIterator}.get(kind, Borrowed)
            self._handles[number] = face(self, number, name)
        handle = self._handles[number]
        return _coroutine(self, handle) if kind == "coroutine" else handle

    def _lend(self, value: Any) -> list[Any]:
        if isinstance(value, Borrowed):
            return ["h", object.__getattribute__(value, "_number")]
        for number, kind in self._exceptions.items():
            if kind is value:
                return ["h", number]
        for plain, kind in CATCH_ALL.items():
            if kind is value:
                return ["g", plain.__name__]
        name, module = getattr(value, "__qualname__", None), getattr(value, "__module__", None)
        if module in sys.stdlib_module_names and name and "<" not in name:
            return ["m", module, name]
        if callable(value):
            self._functions.append(value)
            return ["k", len(self._functions) - 1]
        known = BUILTIN_TYPES.union(self._exceptions.values(), CATCH_ALL.values())
        if isinstance(value, Exception) and type(value) in known:  # built again there, of the same class
            encoder = Encoder(self._lend)
            return ["x", encoder.encode(type(value)), encoder.encode(value.args)]
        self.stop("exception", f"the tests pass an object that cannot cross: {type(value).__name__}")

    def _call_back(self, message: dict[str, Any]) -> None:
        """The program calls a function that the tests have passed to it."""
        decoder = self._decoder()
        try:
            function = self._functions[message["callback"]]
            arguments = [decoder.decode(item) for item in message["arguments"]]
        except (ProtocolError, LookupError, TypeError):
            self.stop("forbidden", "the program sent something malformed")
        try:
            answer: dict[str, Any] = {"answer": Encoder(self._lend).encode(function(*arguments))}
        except Exception as error:
            base = next(item for item in type(error).__mro__ if getattr(builtins, item.__name__, None) is item)
            answer = {"answer": None, "error": [base.__name__, str(error)]}
        send(self._channel, answer)


class Borrowed:
    """An object of the program's, by its number. It is only ever looked at from afar."""

    __slots__ = ("_name", "_number", "_program")

    def __init__(self, program: Borrower, number: int, name: str):
        for slot, value in (("_program", program), ("_number", number), ("_name", name)):
            object.__setattr__(self, slot, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return _ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        _ask(self, "set", name, value)

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return _ask(self, "call", *arguments, **keywords)

    def __getitem__(self, key: Any) -> Any:
        return _ask(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        _ask(self, "set item", key, value)

    def __delitem__(self, key: Any) -> None:
        _ask(self, "delete item", key)

    def __len__(self) -> int:
        return _exactly(self, int, _ask(self, "length"))

    def __bool__(self) -> bool:
        return _exactly(self, bool, _ask(self, "truth"))

    def __iter__(self) -> Iterator[Any]:
        walk = _ask(self, "iterate")
        return iter(walk) if not isinstance(walk, Borrowed) else _walk(walk)

    def __str__(self) -> str:
        return _exactly(self, str, _ask(self, "text"))

    def __repr__(self) -> str:
        return _exactly(self, str, _ask(self, "shown"))

    def __hash__(self) -> int:
        return hash(object.__getattribute__(self, "_number"))

    def __eq__(self, other: Any) -> bool:
        """Two of the program's objects are equal if they hold the same; its own `__eq__` is never asked."""
        if self is other:
            return True
        if not isinstance(other, Borrowed):
            return False
        return bool(_ask(self, "state") == _ask(other, "state"))


class BorrowedIterator(Borrowed):
    """An iterator of the program's."""

    __slots__ = ()

    def __next__(self) -> Any:
        return _ask(self, "next")[0]


class BorrowedClass(Borrowed):
    """A class of the program's."""

    __slots__ = ()

    def __instancecheck__(self, value: Any) -> bool:
        return isinstance(value, Borrowed) and _exactly(self, bool, _ask(self, "is a", reverse=value))


def _ask(handle: Borrowed, do: str, *arguments: Any, reverse: Any = None, **keywords: Any) -> Any:
    program: Borrower = object.__getattribute__(handle, "_program")
    targets = (handle,) if reverse is None else (reverse, handle)
    return program.ask(do, *targets, *arguments, **keywords)


def _exactly(handle: Borrowed, kind: type, value: Any) -> Any:
    if type(value) is not kind:
        program: Borrower = object.__getattribute__(handle, "_program")
        program.stop("forbidden", f"the program sent {type(value).__name__} in place of {kind.__name__}")
    return value


def _walk(iterator: Borrowed) -> Iterator[Any]:
    while True:
        try:
            item = _ask(iterator, "next")
        except StopIteration:
            return
        yield item[0]


async def _await(program: Borrower, handle: Borrowed) -> Any:
    return program.ask("await", handle)


def _coroutine(program: Borrower, handle: Borrowed) -> Coroutine[Any, Any, Any]:
    return _await(program, handle)
