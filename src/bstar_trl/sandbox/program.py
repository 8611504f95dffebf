"""The program's side: runs it, and lends its functions and objects to the tests over a pipe.

Everything here runs beside hostile code and can be changed by it. Nothing is lost by that: whatever it sends is data
to the tests, judged there.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import os
import sys
import threading
import types
from collections.abc import Callable
from typing import Any, NoReturn

from .codec import MUTABLE, Decoder, Encoder, receive, send

STATUSES = {"syntax": 3, "memory": 4, "forbidden": 5, "exception": 6}  # of a script; they only word a failure


def run_script(source: str) -> NoReturn:
    """Run the program as a script, on its standard input and output. Its exit status only words a failure."""
    sys.argv = ["program.py"]
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    reason, status = _run(source, module.__dict__), 0
    if reason:
        status = STATUSES.get(reason[0], 0)
        sys.stderr.write(reason[1] + "\n")
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
    if failure:
        send(channel, {"failed": failure[0], "detail": failure[1]})
        os._exit(1)
    send(channel, {"loaded": True})
    with contextlib.suppress(EOFError):
        Lender(module.__dict__, channel).serve()
    os._exit(0)


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
        return kind_of(error), _describe(error)
    return None


def kind_of(error: BaseException) -> str:
    """The reason an uncaught error stands for."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
        return "no answer"
    return "exception"


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:400]
    except BaseException:  # the text comes from the program's own code, which may raise whatever it likes
        return "an exception that cannot be shown"


def _flush() -> None:
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()


class Lender:
    """Answers requests on the program's names and objects; keeps what it has lent.

    Args:
        names (`dict`): the program's global names.
        channel (`int`): the descriptor the tests speak on.
    """

    def __init__(self, names: dict[str, Any], channel: int):
        self._names = names
        self._channel = channel
        self._lent: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._turn = threading.RLock()  # the program's threads may call the tests' functions: one after the other

    def serve(self, until_answer: bool = False) -> Any:
        """Answer requests; with `until_answer`, until the answer to a call of the tests' own function comes."""
        while True:
            message = receive(self._channel)
            if until_answer and "answer" in message:
                return message
            send(self._channel, self._answer(message))
            _flush()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        decoder = Decoder(self._borrowed)
        encoder = Encoder(self._handle)
        reply: dict[str, Any] = {"nonce": message["nonce"]}
        try:
            arguments = [decoder.decode(item) for item in message["arguments"]]
            keywords = {name: decoder.decode(item) for name, item in message["keywords"].items()}
            result = OPERATIONS[message["do"]](self, *arguments, **keywords)
            if result is None and message["do"] == "call":
                # A function that returns nothing may have worked on its arguments in place: they go back.
                encoder.known(decoder.containers)
                reply["arguments"] = [
                    [place, encoder.content(item)]
                    for place, item in enumerate(decoder.containers)
                    if type(item) in MUTABLE
                ]
            else:
                reply["value"] = encoder.encode(result)
        except BaseException as error:
            reply.pop("arguments", None)
            reply["error"] = self._error(error)
        return reply

    def _error(self, error: BaseException) -> list[Any]:
        """Kind, the builtin exception it is, its own name, its arguments, and its class if it is the program's own."""
        kind = type(error)
        base = next(item for item in kind.__mro__ if getattr(builtins, item.__name__, None) is item)
        own = None if base is kind else self._handle(kind)
        encoder = Encoder(self._handle)
        return [kind_of(error), base.__name__, kind.__name__, encoder.encode(error.args), own]

    def _handle(self, value: Any) -> list[Any]:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._lent)
            self._lent.append(value)
        kind, base = "object", None
        if isinstance(value, type):
            kind = "class"
            if issubclass(value, Exception):
                kind = "exception"
                base = next(item.__name__ for item in value.__mro__ if getattr(builtins, item.__name__, None) is item)
        elif isinstance(value, types.CoroutineType):
            kind = "coroutine"
        elif hasattr(type(value), "__next__"):
            kind = "iterator"
        return ["h", number, kind, getattr(value, "__name__", type(value).__name__), base]

    def _borrowed(self, item: list[Any]) -> Any:
        if item[0] == "h":
            return self._lent[item[1]]
        if item[0] == "m":  # a function of the standard library, by name
            found = __import__(item[1], fromlist=["_"])
            for part in item[2].split("."):
                found = getattr(found, part)
            return found
        if item[0] == "x":  # an exception of the tests' making
            decoder = Decoder(self._borrowed)
            return decoder.decode(item[1])(*decoder.decode(item[2]))
        return self._callback(item[1])

    def _callback(self, number: int) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            with self._turn:
                encoder = Encoder(self._handle)
                send(self._channel, {"callback": number, "arguments": [encoder.encode(item) for item in arguments]})
                answer = self.serve(until_answer=True)
            if "error" in answer:
                raise getattr(builtins, answer["error"][0])(answer["error"][1])
            return Decoder(self._borrowed).decode(answer["answer"])

        return call


def _state(value: Any) -> Any:
    """What an object holds, for a comparison that does not ask the object itself."""
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return [type(value).__qualname__, found]


def _lookup(lender: Lender, *names: str) -> dict[str, Any]:
    return {name: lender._names[name] for name in names if name in lender._names}


def _await(lender: Lender, target: Any) -> Any:
    import asyncio

    async def awaited() -> Any:
        return await target

    return asyncio.run(awaited())


OPERATIONS: dict[str, Callable[..., Any]] = {
    "names": _lookup,
    "call": lambda lender, target, *arguments, **keywords: target(*arguments, **keywords),
    "get": lambda lender, target, name: getattr(target, name),
    "set": lambda lender, target, name, value: setattr(target, name, value),
    "item": lambda lender, target, key: target[key],
    "set item": lambda lender, target, key, value: target.__setitem__(key, value),
    "delete item": lambda lender, target, key: target.__delitem__(key),
    "length": lambda lender, target: len(target),
    "iterate": lambda lender, target: iter(target),
    "next": lambda lender, target: [next(target)],
    "text": lambda lender, target: str(target),
    "shown": lambda lender, target: repr(target),
    "truth": lambda lender, target: bool(target),
    "state": lambda lender, target: _state(target),
    "is a": lambda lender, target, kind: isinstance(target, kind),
    "await": _await,
    "end": lambda lender: None,
}
