"""The tests' side: runs the tests, asks the program over the pipe, and alone says whether they passed.

Nothing of the program's runs here. What it returns as plain values is rebuilt by exact type (`wire.py`); its other
objects are handles. Every question carries a number that nobody can guess and takes exactly one answer; anything else
decides the check.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from functools import partialmethod
from importlib.util import find_spec
from typing import Any, NoReturn

from . import wire
from .program_side import LOAD_FAILURES, reason_for
from .wire import MALFORMED, Decoder, Encoder, ProtocolError

BUILTINS = set(dir(builtins))
STANDARD = sys.stdlib_module_names
TESTS = "tests"  # the module that the tests run in, and of which their own classes are
OF_PROGRAM = "_of_program"  # the mark of an exception that the program raised, not the tests
OPERATORS = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor"
OTHERS = """lt le gt ge neg pos abs invert round trunc floor ceil int float complex index bytes fspath hash enter exit
reduce_ex mro_entries"""


class Stopped(BaseException):
    """The check is decided: the reason, and a detail for people. Tests that catch everything only put it off."""


class Handle:
    """An object of the program: equal to itself alone, and always true.

    Its call, public attributes, items, length and iteration are asked of the program.
    """

    __slots__ = ("__weakref__", "_number", "_program")

    def __init__(self, program: Program, number: int):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self._program.ask("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"the tests see only public attributes of the program's objects, not {name!r}")
        return self._program.ask("get", self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise AttributeError(f"the tests set only public attributes of the program's objects, not {name!r}")
        self._program.ask("set", self, name, value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("set item", self, key, value)

    def __len__(self) -> int:
        return _exactly(int, self._program, "length", self)

    def __iter__(self) -> Iterator[Any]:
        return _exactly(type(iter([])), self._program, "iterate", self)

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:  # no error: it would take the place of a failed assertion whose message shows this
        return f"<object {self._number} of the program>"


def _exactly(kind: type, program: Program, do: str, handle: Handle) -> Any:
    value = program.ask(do, handle)
    if type(value) is not kind:
        program.stop("forbidden", f"the program sent no {do}")
    return value


def _refuse(self: Handle, name: str, *_: Any) -> NoReturn:
    raise TypeError(f"an object of the program has no {name}: only call, attributes, items, length and iteration")


for _name in [*(prefix + name for name in OPERATORS.split() for prefix in ("", "r", "i")), *OTHERS.split()]:
    setattr(Handle, f"__{_name}__", partialmethod(_refuse, f"__{_name}__"))


class Program:
    """Asks the program, and serves the tests' functions that it calls.

    With `in_place` each reply also carries the arguments as the call has left them. The tests receive exceptions of
    the classes `catch`; any other exception ends the check.
    """

    def __init__(self, channel: int, *, in_place: bool, catch: tuple[type[BaseException], ...]):
        self.steady: set[int] = set()  # the numbers of functions and classes
        self._channel, self._in_place, self._catch = channel, in_place, catch
        self._handles: dict[int, Handle] = {}
        self._functions: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # of the functions, by id
        self._stopped: Stopped | None = None
        self._turn = threading.RLock()  # the tests may have threads

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
        message = self._next()
        reason, detail = message.get("failed"), message.get("detail")
        if type(reason) is str and reason in LOAD_FAILURES and type(detail) is str:
            self.stop(reason, f"while loading: {detail}")
        if message.get("loaded") is not True:
            self.stop("no answer", "the program did not load")

    def ask(self, do: str, /, *arguments: Any, **keywords: Any) -> Any:
        """One question, one answer: a value, or the exception that the program raised."""
        with self._turn:
            self.go_on()
            encoder, nonce = Encoder(self._lend, apart=TESTS), os.urandom(8).hex()
            message = {"do": do, "nonce": nonce, "in place": self._in_place and do == "call"}
            message["arguments"] = [encoder.encode(item) for item in arguments]
            message["keywords"] = {name: encoder.encode(item) for name, item in keywords.items()}
            reply = self._next(message)
            while "callback" in reply:
                reply = self._next(self._serve(reply))
            if reply.get("nonce") != nonce:
                self.stop("forbidden", "the program spoke out of turn")
            try:
                decoder = Decoder(self._theirs, encoder.containers if message["in place"] else ())
                if "error" in reply:
                    value = wire.read_error(reply["error"], decoder.decode)
                    vars(value)[OF_PROGRAM] = True
                else:
                    if message["in place"]:
                        for container, content in zip(encoder.containers, reply["arguments"], strict=True):
                            decoder.update(container, content)
                    value = decoder.decode(reply["value"])
            except MALFORMED as error:
                self._malformed(error)
        if "error" in reply:
            if not isinstance(value, self._catch):
                self.stop("no answer", f"{wire.shown(value)}: the program tried to leave")
            raise value
        return value

    def _next(self, message: Any = None) -> dict[str, Any]:
        """What the program says next, after this message."""
        try:
            if message is not None:
                wire.send(self._channel, message)
            reply = wire.receive(self._channel)
        except (EOFError, OSError):
            self.stop("no answer", "the program ended before the tests did")
        except wire.TooLargeError as error:
            self.stop("memory", str(error))
        except ProtocolError as error:
            self._malformed(error)
        if type(reply) is not dict:
            self._malformed(ProtocolError("no message"))
        return reply

    def _malformed(self, error: BaseException) -> NoReturn:
        self.stop("forbidden", f"the program sent something malformed: {wire.shown(error)}")

    def _serve(self, call: dict[str, Any]) -> dict[str, Any]:
        """What a function of the tests answers that the program calls."""
        decode, encode = Decoder(self._theirs).decode, Encoder(self._lend, apart=TESTS).encode
        try:
            function = self._functions[call["callback"]]
            arguments = [decode(item) for item in call["arguments"]]
            keywords = {name: decode(item) for name, item in call["keywords"].items()}
        except MALFORMED as error:
            self._malformed(error)
        try:
            return {"value": encode(function(*arguments, **keywords))}
        except Exception as error:  # of the tests' function: the program hears of it, as it would in one process
            if isinstance(error, AssertionError) and OF_PROGRAM not in vars(error):
                self.stop("wrong answer", f"in a function of the tests: {wire.shown(error)}")
            return {"error": wire.write_error(error, encode)}

    def _theirs(self, tag: str, parts: list[Any]) -> Any:
        if tag == "k":
            return self._functions[parts[0]]
        number, steady = parts
        if tag != "h" or type(number) is not int:
            raise ProtocolError("no handle")
        if steady is True:
            self.steady.add(number)
        return self._handles.setdefault(number, Handle(self, number))

    def _lend(self, value: Any) -> list[Any]:
        """The JSON for a handle, a function of the tests, a class of Python's own. Nobody can judge anything else."""
        kind = value if isinstance(value, type) else type(value)
        if kind is Handle:
            return ["h", value._number]
        if value is kind and getattr(builtins, kind.__name__, None) is kind:
            return ["g", kind.__name__]
        if value is kind or kind.__module__ == TESTS or not callable(value):
            passed = "the" if value is kind else "an object of"
            self.stop("bad tests", f"the tests pass {passed} class {kind.__name__}, which does not cross")
        number = self._numbers.setdefault(id(value), len(self._numbers))
        self._functions[number] = value
        return ["k", number]


class Names(dict[str, Any]):
    """The builtins of the tests: Python's own, then standard modules, then the program's names.

    Python looks here last, so what the tests define themselves comes first. `theirs` are the program's although Python
    has them; with `alone` the program has no other names.
    """

    def __init__(self, program: Program, theirs: set[str], *, alone: bool):
        super().__init__({name: value for name, value in vars(builtins).items() if name not in theirs})
        self._program, self._theirs, self._alone = program, theirs, alone

    def __missing__(self, name: str) -> Any:
        standard = name in STANDARD and name not in self._theirs and find_spec(name) is not None
        value = Standard(name, self._ask) if standard else self._ask(name)
        if standard or (type(value) is Handle and value._number in self._program.steady):
            self[name] = value
        return value

    def _ask(self, name: str) -> Any:
        if name.startswith("__") or (self._alone and name not in self._theirs):
            raise KeyError(name)
        return self._program.ask("name", name)


class Standard(types.ModuleType):
    """A standard module that the tests use and do not import; what it does not have, a call say, is the program's."""

    def __init__(self, name: str, ask: Callable[[str], Any]):
        super().__init__(name)
        self.__dict__.update(vars(__import__(name)) | {"__name__": name, "__ask__": ask})

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self.__ask__(self.__name__)(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__ask__(self.__name__), name)


def judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    """Reason and detail for the tests of `check` against the program at the other end of `channel`."""
    sys.setrecursionlimit(5000)
    found = inspect.getattr_static  # `isinstance` looks there for a protocol's methods, from Python 3.12 on
    vars(inspect)["getattr_static"] = lambda item, *rest: (getattr if type(item) is Handle else found)(item, *rest)
    try:
        return _judge(channel, check)
    except Stopped as stopped:
        return stopped.args[0], stopped.args[1]
    except MemoryError:
        return "memory", "the tests ran out of memory"
    except BaseException as error:  # whatever tests raise is a verdict, never a crash of the sandbox
        return "exception", f"in the tests: {wire.shown(error)}"


def _judge(channel: int, check: dict[str, Any]) -> tuple[str, str]:
    pieces = [piece for piece in (check["setup"], *check["tests"]) if piece.strip()]
    try:
        codes, used, theirs = _read([check["trusted"], *pieces], check["names"])
    except (SyntaxError, ValueError) as error:
        return "bad tests", wire.shown(error)
    catch = (Exception, SystemExit) if "SystemExit" in used else (Exception,)
    program = Program(channel, in_place=check["in_place"], catch=catch)
    module = sys.modules[TESTS] = types.ModuleType(TESTS)
    space = vars(module)
    space["__builtins__"] = Names(program, theirs, alone=check["names"] is not None)
    exec(codes[0], space)
    for name in check["names"] or ():
        space.pop(name, None)  # a prompt that is given as trusted holds its head, too
    program.start()
    for piece, code in zip(pieces, codes[1:], strict=True):
        try:
            exec(code, space)
        except BaseException as error:  # the verdict
            program.go_on()
            if OF_PROGRAM in vars(error):
                return reason_for(error), f"{piece.strip()}: {wire.shown(error)}"
            if isinstance(error, AssertionError):
                return "wrong answer", f"{piece.strip()} {error}".strip()
            return "exception", f"{piece.strip()}: {wire.shown(error)}"
    program.ask("end")
    return "passed", ""


def _read(texts: Sequence[str], names: Sequence[str] | None) -> tuple[list[types.CodeType], set[str], set[str]]:
    """The texts compiled, the names in them, and which of Python's own names are the program's.

    Those in `names`; or the only name that the tests use and do not define or import, if it is one of Python's.
    `SyntaxError` or `ValueError`: a text does not compile, or such tests cannot judge.
    """
    trees = [ast.parse(text) for text in texts]
    codes = [compile(tree, f"test {place}", "exec", dont_inherit=True) for place, tree in enumerate(trees)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    blocks = [node for node in nodes if isinstance(node, ast.Try | ast.TryStar | ast.With | ast.AsyncWith)]
    messages = [node.msg for block in blocks for node in ast.walk(block) if isinstance(node, ast.Assert) and node.msg]
    parts = [part for message in messages for part in ast.walk(message)]
    safe = ast.Constant | ast.Name | ast.Load | ast.JoinedStr | ast.FormattedValue  # but for a format of its own
    if not all(isinstance(part, safe) and not getattr(part, "format_spec", None) for part in parts):
        raise ValueError("the message of an assertion in a block is computed, and its error could be caught there")
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    theirs = used & BUILTINS - own
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    if names is not None or used - own - BUILTINS - (STANDARD - called) or theirs & {"eval", "exec"}:
        return codes, used, set(names or ())
    if len(theirs) > 1:
        raise ValueError(f"which of {', '.join(sorted(theirs))} is the program's? `names` must say so")
    return codes, used, theirs
