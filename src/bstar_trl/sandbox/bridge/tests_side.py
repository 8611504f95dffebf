"""The tests' side: runs the tests, asks the program over the pipe, and alone says whether they passed.

Nothing of the program's runs here. What it returns as plain values is rebuilt by exact type (`wire.py`); its other
objects are handles. Every question carries a number that nobody can guess and takes exactly one answer; anything else
decides the check.
"""

from __future__ import annotations

import ast
import builtins
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator, Sequence
from types import CodeType
from typing import Any, NoReturn

from .program_side import reason_for
from .wire import EXPECTED, Decoder, Encoder, ProtocolError, TooLargeError, read_error, receive, send, write_error

BUILTINS = set(dir(builtins))
TESTS = "tests"  # the module that the tests run in, and of which their own classes are
LOAD_FAILURES = ("syntax", "exception", "memory", "forbidden", "no answer")
OPERATORS = "add sub mul matmul truediv floordiv mod divmod pow lshift rshift and or xor".split()
NO_METHODS = [f"__{prefix}{name}__" for name in OPERATORS for prefix in ("", "r", "i")]
NO_METHODS += [f"__{name}__" for name in "lt le gt ge neg pos abs invert round trunc floor ceil".split()]
NO_METHODS += [f"__{name}__" for name in "int float complex index bytes fspath enter exit".split()]


class Stopped(BaseException):
    """The check is decided: the reason, and a detail for people. Tests that catch everything only put it off."""

    def __init__(self, reason: str, detail: str):
        self.reason, self.detail = reason, detail


class Handle:
    """An object of the program: equal to itself alone, true, and asked for nothing that could meet a value of a test.

    Its call, public attributes, items, length and iteration are asked of the program.
    """

    __slots__ = ("__weakref__", "_number", "_program")

    def __init__(self, program: Program, number: int):
        object.__setattr__(self, "_program", program)
        object.__setattr__(self, "_number", number)

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        return self._program.ask("call", self, *arguments, **keywords)

    def __getattr__(self, name: str) -> Any:
        return self._program.ask("get", self, _public(name))

    def __setattr__(self, name: str, value: Any) -> None:
        self._program.ask("set", self, _public(name), value)

    def __getitem__(self, key: Any) -> Any:
        return self._program.ask("item", self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._program.ask("set item", self, key, value)

    def __len__(self) -> int:
        length = self._program.ask("length", self)
        if type(length) is not int or length < 0:
            self._program.stop("forbidden", "the program gave a length that is no number")
        return length

    def __iter__(self) -> Iterator[Any]:
        items = self._program.ask("iterate", self)
        if type(items) is not type(iter([])):
            self._program.stop("forbidden", "the program gave an iteration that is none")
        return items

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:  # no error: it would take the place of a failed assertion whose message shows this
        return f"<object {self._number} of the program>"


def _refuse(name: str) -> Callable[..., NoReturn]:
    def refuse(self: Handle, *_: Any) -> NoReturn:
        raise TypeError(f"an object of the program has no {name} for the tests: they can call it and use its public "
                        "attributes, items, length and iteration")  # fmt: skip

    return refuse


for _name in NO_METHODS:
    setattr(Handle, _name, _refuse(_name))


def _public(name: str) -> str:
    if name.startswith("_"):
        raise AttributeError(f"{name!r}: the tests see only public attributes of the program's objects")
    return name


class Program:
    """Asks the program, and serves the tests' functions that it calls.

    Args:
        channel (`int`): the descriptor of the pipe.
        in_place (`bool`): every call gives its arguments back.
        catches_exit (`bool`): the tests name `SystemExit`; no other end of the program's reaches them.

    Attributes:
        steady (`set[int]`): the numbers of functions and classes.
    """

    def __init__(self, channel: int, *, in_place: bool, catches_exit: bool):
        self.steady: set[int] = set()
        self._channel = channel
        self._in_place = in_place
        self._catches = (Exception, SystemExit) if catches_exit else (Exception,)
        self._handles: dict[int, Handle] = {}
        self._functions: dict[int, Any] = {}
        self._numbers: dict[int, int] = {}  # by id, of the functions
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
        message = self._receive()
        if message.get("loaded") is True:
            return
        reason, detail = message.get("failed"), message.get("detail")
        if reason not in LOAD_FAILURES or type(detail) is not str:
            self.stop("no answer", "the program did not load")
        self.stop(reason, f"while loading: {detail}")

    def ask(self, do: str, /, *arguments: Any, **keywords: Any) -> Any:
        """One question, one answer: a value, or the exception that the program raised."""
        with self._turn:
            self.go_on()
            encoder, nonce = _Checked(self), os.urandom(8).hex()
            message = {
                "do": do,
                "nonce": nonce,
                "arguments": [encoder.encode(item) for item in arguments],
                "keywords": {name: encoder.encode(item) for name, item in keywords.items()},
                "in place": self._in_place and do == "call",
            }
            self._send(message)
            while "callback" in (reply := self._receive()):
                self._serve(reply)
            if reply.get("nonce") != nonce:
                self.stop("forbidden", "the program spoke out of turn")
            try:
                if "error" in reply:
                    value: Any = read_error(reply["error"], Decoder(self._theirs).decode)
                elif message["in place"]:
                    decoder = Decoder(self._theirs, encoder.containers)
                    for container, content in zip(encoder.containers, reply["arguments"], strict=True):
                        decoder.update(container, content)
                    value = decoder.decode(reply["value"])
                else:
                    value = Decoder(self._theirs).decode(reply["value"])
            except (ProtocolError, *EXPECTED) as error:
                self._malformed(error)
        if "error" in reply:
            if not isinstance(value, self._catches):
                self.stop("no answer", f"{shown(value)}: the program tried to leave")
            value._of_program = True
            raise value
        return value

    def _send(self, message: Any) -> None:
        try:
            send(self._channel, message)
        except OSError:
            self.stop("no answer", "the program ended before the tests did")
        except TooLargeError as error:
            self.stop("bad tests", str(error))

    def _receive(self) -> dict[str, Any]:
        try:
            message = receive(self._channel)
        except (EOFError, OSError):
            self.stop("no answer", "the program ended before the tests did")
        except TooLargeError as error:
            self.stop("memory", str(error))
        except ProtocolError as error:
            self._malformed(error)
        if type(message) is not dict:
            self._malformed(ProtocolError("no message"))
        return message

    def _malformed(self, error: BaseException) -> NoReturn:
        self.stop("forbidden", f"the program sent something malformed: {shown(error)}")

    def _serve(self, call: dict[str, Any]) -> None:
        """The program calls a function of the tests."""
        try:
            function, decode = self._functions[call["callback"]], Decoder(self._theirs).decode
            arguments = [decode(item) for item in call["arguments"]]
            keywords = {name: decode(item) for name, item in call["keywords"].items()}
        except (ProtocolError, *EXPECTED) as error:
            self._malformed(error)
        encode = _Checked(self).encode
        try:
            answer = {"value": encode(function(*arguments, **keywords))}
        except Exception as error:  # of the tests' function: the program hears of it, as it would in one process
            if isinstance(error, AssertionError) and not of_program(error):
                self.stop("wrong answer", f"in a function of the tests: {shown(error)}")
            answer = {"error": write_error(error, encode)}
        self._send(answer)

    def _theirs(self, tag: str, parts: list[Any]) -> Any:
        if tag == "k":
            return self._functions[parts[0]]
        number, steady = parts
        if tag != "h" or type(number) is not int:
            raise ProtocolError("no handle")
        if steady is True:
            self.steady.add(number)
        return self._handles.setdefault(number, Handle(self, number))

    def lend(self, value: Any) -> list[Any]:
        """The JSON for what is no plain value: a handle, a function of the tests, a class of Python's own."""
        if type(value) is Handle:
            return ["h", value._number]
        if isinstance(value, type):
            if getattr(builtins, value.__name__, None) is value:
                return ["g", value.__name__]
        elif callable(value):
            number = self._numbers.setdefault(id(value), len(self._numbers))
            self._functions[number] = value
            return ["k", number]
        self.refuse(value)

    def refuse(self, value: Any) -> NoReturn:
        """Decide the check: nobody can judge it."""
        kind = value if isinstance(value, type) else type(value)
        self.stop("bad tests", f"the tests pass an object of class {kind.__name__}: such objects cannot cross")


class _Checked(Encoder):
    """Writes what the tests pass, and refuses objects of their own classes."""

    def __init__(self, program: Program):
        super().__init__(program.lend)
        self._program = program

    def encode(self, value: Any) -> Any:
        if type(value).__module__ == TESTS:
            self._program.refuse(value)
        return super().encode(value)


class Names(dict[str, Any]):
    """The builtins of the tests: Python's own, then standard modules, then the program's names.

    Python looks here last, so what the tests define themselves comes first.

    Args:
        program (`Program`): asked for the names that neither the tests nor Python have.
        allowed (`set[str]`, *optional*): the program's names, though Python has them too, and no other; None: all.
    """

    def __init__(self, program: Program, allowed: set[str] | None, lacking: set[str]):
        super().__init__({name: value for name, value in vars(builtins).items() if name not in lacking})
        self._program, self._allowed = program, allowed

    def __missing__(self, name: str) -> Any:
        if name in sys.stdlib_module_names and name not in (self._allowed or ()):
            self[name] = Standard(name, self._ask)
            return self[name]
        return self._ask(name)

    def _ask(self, name: str) -> Any:
        if name.startswith("__") or (self._allowed is not None and name not in self._allowed):
            raise KeyError(name)
        try:
            value = self._program.ask("name", name)
        except NameError:
            raise KeyError(name) from None
        if type(value) is Handle and value._number in self._program.steady:
            self[name] = value
        return value


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
        codes, used, theirs = _read([check["trusted"], *pieces], check["names"])
    except (SyntaxError, ValueError) as error:
        return "bad tests", shown(error)
    allowed = None if check["names"] is None else set(check["names"])
    program = Program(channel, in_place=check["in_place"], catches_exit="SystemExit" in used)
    module = sys.modules[TESTS] = types.ModuleType(TESTS)
    space = module.__dict__
    space["__builtins__"] = Names(program, allowed, theirs)
    exec(codes[0], space)
    for name in allowed or ():
        space.pop(name, None)  # a prompt that is given as trusted holds its head, too
    program.start()
    for piece, code in zip(pieces, codes[1:], strict=True):
        try:
            exec(code, space)
        except BaseException as error:  # the verdict
            program.go_on()
            if isinstance(error, AssertionError) and not of_program(error):
                return "wrong answer", f"{piece.strip()} {error}".strip()
            return reason_for(error) if of_program(error) else "exception", f"{piece.strip()}: {shown(error)}"
        program.go_on()
    program.ask("end")
    return "passed", ""


def _read(texts: Sequence[str], names: Sequence[str] | None) -> tuple[list[CodeType], set[str], set[str]]:
    """The texts compiled, the names in them, and Python's own names among these that are the program's.

    A name of Python's is the program's if the tests use no other name than this that could be.

    Raises:
        SyntaxError: a text does not compile.
        ValueError: the same; or it cannot be judged.
    """
    trees = [ast.parse(text) for text in texts]
    codes = [compile(tree, f"test {place}", "exec", dont_inherit=True) for place, tree in enumerate(trees)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    for block in nodes:
        if isinstance(block, ast.Try | ast.With) and any(_asks_in_message(node) for node in ast.walk(block)):
            raise ValueError("an assertion calls something for its message where an error of that could be caught")
    used = {node.id for node in nodes if isinstance(node, ast.Name)}
    own = {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    own |= {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}
    own |= {(node.asname or node.name).split(".")[0] for node in nodes if isinstance(node, ast.alias)}
    if names is not None or used - own - BUILTINS - sys.stdlib_module_names:
        return codes, used, set(names or ())
    theirs = used & BUILTINS - own
    if len(theirs) > 1:
        raise ValueError(f"which of {', '.join(sorted(theirs))} is the program's? `names` says so")
    return codes, used, theirs


def _asks_in_message(node: ast.AST) -> bool:
    return isinstance(node, ast.Assert) and node.msg is not None and any(
        isinstance(inner, ast.Call) for inner in ast.walk(node.msg))  # fmt: skip


def of_program(error: BaseException) -> bool:
    """Whether the program raised this, and not the tests."""
    return "_of_program" in vars(error)


def shown(error: BaseException) -> str:
    """An error on one line, for people."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error of the tests may hold anything, and printing it may fail
        return type(error).__name__
