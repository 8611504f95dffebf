"""The program's side: runs it as a script, or as a module whose functions and objects the tests use over the pipe.

Everything here runs beside hostile code and can be changed by it. Nothing is lost by that: whatever it sends is data
to the tests' side, judged there.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import operator
import os
import sys
import threading
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from .wire import Decoder, Encoder, TooLargeError, bounded, read_error, receive, send, write_error

STANDARD_FILES: dict[Any, int] = {
    kind(f"/dev/{name}"): number for number, name in enumerate(("stdin", "stdout", "stderr")) for kind in (str, Path)
}
STATUSES = {"syntax": 3, "memory": 4, "forbidden": 5, "exception": 6}  # of a script; they only word a failure
STEADY = (type, types.FunctionType, types.BuiltinFunctionType)  # a name that holds one of these keeps it
ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "set item": operator.setitem,
    "length": len,
    "iterate": lambda target: bounded(iter(target)),
    "end": lambda: None,
}


def run_script(source: str) -> NoReturn:
    """Run the program as a script, on its standard input and output. Its exit status only words a failure."""
    sys.argv = ["program.py"]
    _open_standard_files_by_name()
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    failure, status = _run(source, module.__dict__), 0
    if failure:
        status = STATUSES.get(failure[0], 0)
        sys.stderr.write(failure[1] + "\n")
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads, as a script's end does
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    _flush()
    os._exit(status)


def serve(source: str, channel: int) -> NoReturn:
    """Load the program as a module, say what became of it, and answer the tests' requests until they end."""
    sys.argv = ["program.py"]
    module = sys.modules["program"] = types.ModuleType("program")
    home = os.getpid()
    failure = _run(source, module.__dict__)
    if os.getpid() != home:  # the program forked, and the child came back here too
        os._exit(0)
    _flush()
    with contextlib.suppress(EOFError, OSError):  # the tests have ended
        if failure:
            send(channel, {"failed": failure[0], "detail": failure[1]})
            os._exit(1)
        send(channel, {"loaded": True})
        Objects(module.__dict__, channel).serve()
    os._exit(0)


class Objects:
    """The program's objects that the tests know by number, and the tests' functions that the program has been given.

    Args:
        names (`dict`): the program's global names.
        channel (`int`): the descriptor that the tests speak on.
    """

    def __init__(self, names: dict[str, Any], channel: int):
        self._names = names
        self._channel = channel
        self._given: list[Any] = []
        self._numbers: dict[int, int] = {}  # by id: of objects that were given, which are thereby kept alive
        self._functions: dict[int, Callable[..., Any]] = {}
        self._function_numbers: dict[int, int] = {}
        # Held by whoever uses the channel, so that the program's threads can call the tests' functions.
        self._turn = threading.RLock()

    def serve(self) -> NoReturn:
        """Answer requests; `EOFError` ends it."""
        reply = None
        while True:
            with self._turn:
                if reply is not None:
                    self._reply(reply)
                message = receive(self._channel)
            reply = self._answer(message)

    def _reply(self, reply: dict[str, Any]) -> None:
        _flush()
        try:
            send(self._channel, reply)
        except TooLargeError as error:
            send(self._channel, {"nonce": reply["nonce"], "error": write_error(MemoryError(str(error)), str)})

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"nonce": message["nonce"]}
        try:
            decoder = Decoder(self._theirs)
            arguments = [decoder.decode(item) for item in message["arguments"]]
            keywords = {name: decoder.decode(item) for name, item in message["keywords"].items()}
            action = self._look_up if message["do"] == "name" else ACTIONS[message["do"]]
            result = action(*arguments, **keywords)
            encoder = Encoder(self._ours, decoder.containers if message["in place"] else ())
            if message["in place"]:
                reply["arguments"] = [encoder.content(type(item), item) for item in decoder.containers]
            reply["value"] = encoder.encode(result)
        except BaseException as error:  # the program's own, whatever it is: the tests hear of it
            reply = {"nonce": message["nonce"], "error": self._error(error)}
        return reply

    def _error(self, error: BaseException) -> list[Any]:
        try:
            return write_error(error, Encoder(self._ours).encode)
        except BaseException:  # its class is the program's own code, which may raise whatever it likes
            return write_error(Exception("an exception that cannot be shown"), Encoder(self._ours).encode)

    def _look_up(self, name: str) -> Any:
        if name not in self._names:
            raise NameError(name)
        return self._names[name]

    def _ours(self, value: Any) -> list[Any]:
        if id(value) in self._function_numbers:
            return ["k", self._function_numbers[id(value)]]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._given)
            self._given.append(value)
        return ["h", self._numbers[id(value)], isinstance(value, STEADY)]

    def _theirs(self, tag: str, parts: list[Any]) -> Any:
        if tag == "h":
            return self._given[parts[0]]
        if tag == "g":
            return getattr(builtins, parts[0])
        return self._functions.get(parts[0]) or self._function(parts[0])

    def _function(self, number: int) -> Callable[..., Any]:
        def function(*arguments: Any, **keywords: Any) -> Any:
            return self._call_back(number, arguments, keywords)

        self._functions[number] = function
        self._function_numbers[id(function)] = number
        return function

    def _call_back(self, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call a function of the tests, and answer what they ask meanwhile."""
        encode = Encoder(self._ours).encode
        call = {"arguments": [encode(item) for item in arguments]}
        with self._turn:
            send(
                self._channel,
                {"callback": number, "keywords": {name: encode(item) for name, item in keywords.items()}} | call,
            )
            while "do" in (message := receive(self._channel)):
                self._reply(self._answer(message))
        decode = Decoder(self._theirs).decode
        if "error" in message:
            raise read_error(message["error"], decode)
        return decode(message["value"])


def _flush() -> None:
    """Hand on what the program has printed, for the log."""
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()


def _run(source: str, names: dict[str, Any]) -> tuple[str, str] | None:
    """Compile and run; what went wrong, if anything: the reason and a line about it."""
    for name in ("exit", "quit"):  # `site`, which is not loaded, would define them
        setattr(builtins, name, sys.exit)
    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except BaseException as error:  # a hostile source exhausts memory or stack, or is no text at all
        return "syntax", _describe(error)
    try:
        exec(code, names)
    except BaseException as error:
        return reason_for(error), _describe(error)
    return None


def reason_for(error: BaseException) -> str:
    """The reason that an error stands for which nothing has caught."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, PermissionError):
        return "forbidden"
    return "exception" if isinstance(error, Exception) else "no answer"


def _open_standard_files_by_name() -> None:
    """`open("/dev/stdin")`: the sandbox has no procfs, which such a name leads to."""
    plain_open = open

    def open_named(file: Any, *arguments: Any, **keywords: Any) -> Any:
        number = STANDARD_FILES.get(file) if isinstance(file, str | os.PathLike) else None
        return plain_open(file if number is None else os.dup(number), *arguments, **keywords)

    builtins.open = io.open = open_named


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:400]
    except BaseException:  # the text comes from the program's own code, which may raise whatever it likes
        return "an exception that cannot be shown"
