"""The program's end of the pipe: answers the tests' questions, and asks them when the program uses what they lent.

Everything here runs beside hostile code and can be changed by it. Nothing is lost by that: whatever it sends is data
to the tests, judged there.
"""

from __future__ import annotations

import builtins
import contextlib
import io
import random
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from .codec import MUTABLE, Decoder, Encoder, plain_type, receive, send
from .handles import ANSWERS, Handle, IteratorHandle, number_of


class Lender:
    """Answers requests on the program's names and objects; keeps what it has lent. An `Owner` of handles.

    Args:
        names (`dict`): the program's global names.
        channel (`int`): the descriptor the tests speak on.
    """

    def __init__(self, names: dict[str, Any], channel: int):
        self.names = names
        self._channel = channel
        self._lent: list[Any] = []
        self._numbers: dict[int, int] = {}
        self._handles: dict[int, Any] = {}  # what the tests have lent
        self.faces: dict[int, Any] = {}
        self._runner: Any = None
        # Held by whoever reads the channel: given away while the program works, so that its threads can ask the tests.
        self._turn = threading.RLock()

    def serve(self) -> NoReturn:
        """Answer requests until the tests end (`EOFError`)."""
        with self._turn:
            self._serve(until_answer=False)
        raise EOFError

    def ask(self, do: str, /, *arguments: Any, **keywords: Any) -> Any:
        """Have something done with one of the tests' objects; from any thread."""
        with self._turn:
            encoder = self._encoder()
            send(
                self._channel,
                {
                    "callback": do,
                    "arguments": [encoder.encode(item) for item in arguments],
                    "keywords": {name: encoder.encode(item) for name, item in keywords.items()},
                },
            )
            reply = self._serve(until_answer=True)
        if "error" not in reply:
            decoder = self._decoder(encoder.containers)
            for place, content in reply.get("arguments", ()):
                decoder.update(encoder.containers[place], content)
            return decoder.decode(reply["answer"])
        kind, values, place = reply["error"]
        error = self._decoder().decode(kind)(*self._decoder().decode(values))
        error.__raised__ = place
        raise error

    def malformed(self, what: str) -> NoReturn:
        """The tests' object has no such answer."""
        raise TypeError(what)

    def run(self, target: Any) -> Any:
        """Await something; all of it in one event loop."""
        import asyncio  # large: every page of the warm parent makes each fork dearer

        self._runner = self._runner or asyncio.Runner()

        async def awaited() -> Any:
            return await target

        return self._runner.run(awaited())

    def _serve(self, *, until_answer: bool) -> Any:
        while True:
            message = receive(self._channel)
            if until_answer and "answer" in message:
                return message
            reply = self._answer(message)
            send(self._channel, reply)
            flush()

    @contextlib.contextmanager
    def _open_to_threads(self) -> Iterator[None]:
        self._turn.release()
        try:
            yield
        finally:
            self._turn.acquire()

    def _answer(self, message: dict[str, Any]) -> dict[str, Any]:
        decoder, encoder = self._decoder(), self._encoder()
        reply: dict[str, Any] = {"nonce": message["nonce"]}
        try:
            arguments = [decoder.decode(item) for item in message["arguments"]]
            keywords = {name: decoder.decode(item) for name, item in message["keywords"].items()}
            do = message["do"]
            with self._open_to_threads(), _redirected(message, reply):
                result = ANSWERS[do](*arguments, **keywords) if do in ANSWERS else OWN[do](self, *arguments)
            if do == "call" and (result is None or message["always"]):
                # A function that returns nothing may have worked on its arguments in place: they go back.
                reply["arguments"] = encoder.changed(decoder.containers)
            elif do in LIVE and type(result) in MUTABLE and type(result) is not bytearray:
                reply["value"] = self._handle(result)  # the object's own, not a copy
            else:
                reply["value"] = encoder.encode(result)
        except BaseException as error:  # the program's own, whatever it is: the tests hear of it
            reply.pop("arguments", None)
            reply["error"] = [reason_for(error), self._error(error)]
        return reply

    def _encoder(self) -> Encoder:
        return Encoder(self._handle, keeps_containers=True)

    def _decoder(self, containers: list[Any] | None = None) -> Decoder:
        return Decoder(self._borrowed, containers)

    # What the program lends

    def _number(self, value: Any) -> int:
        number = self._numbers.get(id(value))
        if number is None:
            number = self._numbers[id(value)] = len(self._lent)
            self._lent.append(value)
        return number

    def _handle(self, value: Any) -> list[Any]:
        if issubclass(type(value), Handle):
            return ["k", number_of(value)]
        if isinstance(value, BaseException):
            return self._error(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return self._exception_class(value)
        kind = "object"
        base: Any = plain_type(value)
        if isinstance(value, type):
            kind = "class"
        elif isinstance(value, types.CoroutineType):
            kind = "coroutine"
        elif isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
            kind = "function"
        elif isinstance(value, types.GeneratorType):
            kind = "generator"
        elif hasattr(type(value), "__next__"):
            kind = "iterator"
        return ["h", self._number(value), kind, base.__name__ if base in MUTABLE else None]

    def _error(self, error: BaseException) -> list[Any]:
        """Its number, class, arguments, attributes, text and cause; or which of the tests' own exceptions it is."""
        raised = getattr(error, "__raised__", None)
        if raised is not None:
            return ["z", raised]
        encode = self._encoder().encode
        fields = {name: encode(value) for name, value in vars(error).items() if name not in ("__number__", "__text__")}
        kind = self._exception_class(type(error))
        cause = None if error.__cause__ is None else self._error(error.__cause__)
        return ["E", self._number(error), kind, encode(list(error.args)), fields, _text(error), cause]

    def _exception_class(self, kind: type[Any]) -> list[Any]:
        if vars(builtins).get(kind.__name__) is kind:
            return ["g", kind.__name__]
        lent = kind.__dict__.get("__number__")
        if lent is not None:
            return ["k", lent]
        bases = [self._exception_class(base) for base in kind.__bases__ if issubclass(base, BaseException)]
        if kind.__module__.split(".")[0] in sys.stdlib_module_names:
            return ["m", kind.__module__, kind.__qualname__, bases]
        return ["h", self._number(kind), "exception", kind.__name__, bases]

    # What the tests lend

    def _borrowed(self, item: list[Any]) -> Any:
        tag = item[0]
        if tag == "h":
            return self._lent[item[1]]
        if tag == "m":  # a function or class of the standard library, by name
            found = __import__(item[1], fromlist=["_"])
            for part in item[2].split("."):
                found = getattr(found, part)
            return found
        if tag == "x":  # an exception of the tests' making
            return self._decoder().decode(item[1])(*self._decoder().decode(item[2]))
        number = item[1]
        if number not in self._handles:
            if tag == "X":  # an exception class of the tests'
                bases = tuple(self._decoder().decode(base) for base in item[3])
                self._handles[number] = type(item[2], bases, {"__number__": number})
            else:
                self._handles[number] = (IteratorHandle if item[2] == "iterator" else Handle)(self, number)
        return self._handles[number]


def reason_for(error: BaseException) -> str:
    """The reason an uncaught error stands for."""
    if isinstance(error, MemoryError):
        return "memory"
    if isinstance(error, PermissionError):
        return "forbidden"
    if isinstance(error, SystemExit | KeyboardInterrupt | GeneratorExit):
        return "no answer"
    return "exception"


LIVE = {"name", "get", "item"}  # what gives an object's own containers


def flush() -> None:
    """Hand on what the program has printed, for the log."""
    with contextlib.suppress(BaseException):
        sys.stdout.flush()
        sys.stderr.flush()


def _text(error: BaseException) -> str:
    try:
        return f"{error}"
    except BaseException:  # the program's own code, which may raise whatever it likes
        return "an exception that cannot be shown"


@contextlib.contextmanager
def _redirected(message: dict[str, Any], reply: dict[str, Any]) -> Iterator[None]:
    """Standard input and output as the tests have set theirs; what is printed goes into the reply."""
    if message["reads"] is None and not message["prints"]:
        yield
        return
    stdin, stdout, printed = sys.stdin, sys.stdout, io.StringIO()
    if message["reads"] is not None:
        sys.stdin = io.StringIO(message["reads"])
    if message["prints"]:
        sys.stdout = printed
    try:
        yield
    finally:
        sys.stdin, sys.stdout = stdin, stdout
        reply["printed"] = printed.getvalue()


def _state(lender: Lender, value: Any) -> Any:
    """What an object holds, for a comparison that does not ask the object; `None` where it equals itself alone."""
    if type(value).__eq__ is object.__eq__:
        return None
    fields = getattr(value, "__dataclass_fields__", {}).values()
    if fields:
        return [type(value).__qualname__, {item.name: getattr(value, item.name) for item in fields if item.compare}]
    found = dict(getattr(value, "__dict__", {}))
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name.startswith("__") and not name.endswith("__"):
                name = f"_{kind.__name__.lstrip('_')}{name}"
            if hasattr(value, name):
                found[name] = getattr(value, name)
    return [type(value).__qualname__, found] if found else None


def _content(lender: Lender, value: Any) -> Any:
    """What an object holds that derives from a container, as the plain container."""
    plain: Any = plain_type(value)
    if plain is type(value):
        return value
    return dict(dict.items(value)) if plain is dict else plain(plain.__iter__(value))


def _look_up(lender: Lender, name: str) -> Any:
    if name not in lender.names:
        raise NameError(name)
    return lender.names[name]


OWN: dict[str, Callable[..., Any]] = {
    "name": _look_up,
    "class": lambda lender, target: type(target),
    "state": _state,
    "content": _content,
    "await": Lender.run,
    "anext": lambda lender, target: [lender.run(target.__anext__())],
    "send": lambda lender, target, value: target.send(value),
    "throw": lambda lender, target, *error: target.throw(*error),
    "seed": lambda lender, value: random.seed(value),
    "end": lambda lender: None,
}
