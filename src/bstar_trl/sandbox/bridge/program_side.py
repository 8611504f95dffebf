"""The program's side: runs it as a script, or as a module whose functions and objects the tests use over the pipe.

Everything here runs beside hostile code and can be changed by it. Nothing is lost by that: whatever it sends is data
to the tests' side, judged there.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import operator
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn

from .wire import Decoder, Encoder, TooLargeError, bounded, read_error, receive, send, shown, write_error

LOAD_FAILURES = {"syntax": 3, "memory": 4, "forbidden": 5, "exception": 6, "no answer": 0}  # and a script's status
STEADY = (type, types.FunctionType, types.BuiltinFunctionType)  # a name that holds one of these keeps it
ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "get": getattr,
    "set": setattr,
    "item": operator.getitem,
    "set item": operator.setitem,
    "length": len,
    "iterate": bounded,
    "end": lambda: None,
}


def run_script(source: str) -> NoReturn:
    """Run the program as a script, on its standard input and output. The exit status tells why it failed."""
    failure = _run(source, "__main__")
    if failure:
        sys.stderr.write(failure[1] + "\n")
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads, as a script's end does
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    _flush()
    os._exit(LOAD_FAILURES[failure[0]] if failure else 0)


def serve(source: str, channel: int) -> NoReturn:
    """Load the program as a module, say what became of it, and answer the tests' requests until they end."""
    home = os.getpid()
    failure = _run(source, "program")
    if os.getpid() != home:  # the program forked, and the child came back here too
        os._exit(0)
    _flush()
    with contextlib.suppress(EOFError, OSError):  # the tests have ended
        if failure:
            send(channel, {"failed": failure[0], "detail": failure[1]})
            os._exit(1)
        send(channel, {"loaded": True})
        Objects(vars(sys.modules["program"]), channel).serve()
    os._exit(0)


class Objects:
    """The program's objects that the tests know by number, and the tests' functions that it has been given."""

    def __init__(self, names: dict[str, Any], channel: int):
        self._actions = ACTIONS | {"name": names.__getitem__}
        self._channel = channel
        self._given: list[Any] = []
        self._numbers: dict[int, int] = {}  # by id: of objects that were given, which are thereby kept alive
        self._functions: dict[int, Callable[..., Any]] = {}
        # Held by whoever uses the channel, so that the program's threads can call the tests' functions.
        self._turn = threading.RLock()

    def serve(self) -> NoReturn:
        """Answer requests; `EOFError` ends it."""
        reply = None
        while True:
            with self._turn:
                if reply is not None:
                    self._send(reply)
                message = receive(self._channel)
            reply = self._answer(message)

    def _send(self, reply: dict[str, Any]) -> None:
        _flush()
        try:
            send(self._channel, reply)
        except TooLargeError as error:
            send(self._channel, {"nonce": reply["nonce"], "error": self._error(MemoryError(str(error)))})

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        reply: dict[str, Any] = {"nonce": message["nonce"]}
        try:
            decoder = Decoder(self._theirs)
            arguments = [decoder.decode(item) for item in message["arguments"]]
            keywords = {name: decoder.decode(item) for name, item in message["keywords"].items()}
            result = self._actions[message["do"]](*arguments, **keywords)
            encoder = Encoder(self._ours, decoder.containers if message["in place"] else ())
            if message["in place"]:
                reply["arguments"] = [encoder.content(type(item), item) for item in decoder.containers]
            return reply | {"value": encoder.encode(result)}
        except BaseException as error:  # the program's own, whatever it is: the tests hear of it
            try:
                return reply | {"error": self._error(error)}
            except BaseException:  # its class is the program's own code, which may raise whatever it likes
                return reply | {"error": self._error(Exception("an exception that cannot be shown"))}

    def _error(self, error: BaseException) -> list[Any]:
        return write_error(error, Encoder(self._ours).encode)

    def _ours(self, value: Any) -> list[Any]:
        for number, function in self._functions.items():
            if function is value:
                return ["k", number]
        if id(value) not in self._numbers:
            self._numbers[id(value)] = len(self._given)
            self._given.append(value)
        return ["h", self._numbers[id(value)], isinstance(value, STEADY)]

    def _theirs(self, tag: str, parts: list[Any]) -> Any:
        if tag == "h":
            return self._given[parts[0]]
        if tag == "g":
            return getattr(builtins, parts[0])

        def function(*arguments: Any, **keywords: Any) -> Any:
            return self._call_back(parts[0], arguments, keywords)

        return self._functions.setdefault(parts[0], function)

    def _call_back(self, number: int, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
        """Call a function of the tests, and answer what they ask meanwhile."""
        encode, decode = Encoder(self._ours).encode, Decoder(self._theirs).decode
        call: dict[str, Any] = {"callback": number, "arguments": [encode(item) for item in arguments]}
        call["keywords"] = {name: encode(item) for name, item in keywords.items()}
        with self._turn:
            send(self._channel, call)
            while "do" in (message := receive(self._channel)):
                self._send(self._answer(message))
        if "error" in message:
            raise read_error(message["error"], decode)
        return decode(message["value"])


def _flush() -> None:
    with contextlib.suppress(BaseException):  # the program may have closed or replaced them
        sys.stdout.flush()
        sys.stderr.flush()


def _run(source: str, name: str) -> tuple[str, str] | None:
    """Run the program as a module of this name; what went wrong, if anything: the reason and a line about it."""
    sys.argv = ["program.py"]
    module = sys.modules[name] = types.ModuleType(name)
    vars(builtins).update(exit=sys.exit, quit=sys.exit)  # `site`, which is not loaded, would define them
    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except BaseException as error:  # a hostile source exhausts memory or stack, or is no text at all
        return "syntax", shown(error)[:400]
    try:
        exec(code, vars(module))
    except BaseException as error:
        return reason_for(error), shown(error)[:400]
    return None


def reason_for(error: BaseException) -> str:
    """The reason that an error stands for which nothing has caught."""
    kinds = {MemoryError: "memory", PermissionError: "forbidden", Exception: "exception"}
    return next((reason for kind, reason in kinds.items() if isinstance(error, kind)), "no answer")
