"""Plain values over a pipe, rebuilt by exact type: what the program and the tests tell each other.

A message is four bytes of length and a JSON text. A value whose class derives from a plain type is written as that
type: an `int` that equals everything arrives as the number it holds. Python's own iterators arrive as iterators over
what they yield. Nothing is pickled, imported or called. A mutable container is written once in a message, so aliases
and cycles survive.
"""

from __future__ import annotations

import contextlib
import json
import os
import struct
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import islice
from typing import Any

MAX_MESSAGE = 64 << 20  # bytes
MAX_ITEMS = 1_000_000  # of an iterator
SMALL = 1 << 53  # larger integers travel in hexadecimal: decimal digits are slow, and limited by the interpreter
MUTABLE: dict[type, str] = {list: "l", dict: "d", set: "s", deque: "q", bytearray: "B"}
FROZEN: dict[type, str] = {tuple: "t", frozenset: "f"}
VIEWS: dict[type, str] = {type({}.keys()): "K", type({}.values()): "V", type({}.items()): "I"}
# Type: its tag, the plain parts that it is written as, and how these are joined again.
JOINED: dict[type, tuple[str, Callable[[Any], tuple[Any, ...]], Callable[..., Any]]] = {
    complex: ("c", lambda value: (value.real, value.imag), complex),
    bytes: ("b", lambda value: (bytes.hex(value),), bytes.fromhex),
    range: ("R", lambda value: (value.start, value.stop, value.step), range),
    slice: ("W", lambda value: (value.start, value.stop, value.step), slice),
    Decimal: ("N", lambda value: (Decimal.__str__(value),), Decimal),
    Fraction: ("F", lambda value: (value.numerator, value.denominator), Fraction),
    timedelta: ("L", lambda value: (value.days, value.seconds, value.microseconds), timedelta),
    datetime: ("S", lambda value: (datetime.isoformat(value),), datetime.fromisoformat),
    date: ("Y", lambda value: (date.isoformat(value),), date.fromisoformat),
    time: ("T", lambda value: (time.isoformat(value),), time.fromisoformat),
    type(...): ("e", lambda value: (), lambda: ...),
}
PLAIN = (str, int, float, *MUTABLE, *FROZEN, *JOINED)  # a datetime is a date, too: it comes first
NEW: dict[str, Any] = {tag: kind for kind, tag in MUTABLE.items()}
BUILD: dict[str, Callable[[Iterable[Any]], Any]] = {
    "t": tuple,
    "f": frozenset,
    "n": lambda items: iter(list(items)),
    "K": lambda items: dict.fromkeys(items).keys(),
    "V": lambda items: dict(enumerate(items)).values(),
    "I": lambda items: dict(items).items(),
}
JOIN = {tag: join for tag, _, join in JOINED.values()}
FRAMEWORKS = ("unittest", "doctest", "bdb")  # their exceptions steer whoever runs tests: `SkipTest` for one


class ProtocolError(Exception):
    """The other side sent something that is no message."""


class TooLargeError(ProtocolError):
    """A message larger than `MAX_MESSAGE`."""


# What reading a malformed message, value or exception raises.
MALFORMED = (ProtocolError, ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError)


def send(descriptor: int, message: Any) -> None:
    """Write one message; nothing at all of one that is too large (`TooLargeError`)."""
    data = json.dumps(message, check_circular=False).encode()
    if len(data) > MAX_MESSAGE:
        raise TooLargeError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE} are taken")
    view = memoryview(struct.pack(">I", len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int) -> Any:
    """Read one message: `EOFError` where the other side has closed its end, `ProtocolError` for anything else."""
    (length,) = struct.unpack(">I", _read(descriptor, 4))
    if length > MAX_MESSAGE:
        raise TooLargeError(f"a message of {length} bytes, at most {MAX_MESSAGE} are taken")
    try:
        return json.loads(_read(descriptor, length).decode())
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"no JSON: {type(error).__name__}") from None


def _read(descriptor: int, length: int) -> bytes:
    pieces = []
    while length:
        piece = os.read(descriptor, min(length, 1 << 20))
        if not piece:
            raise EOFError
        pieces.append(piece)
        length -= len(piece)
    return b"".join(pieces)


def bounded(items: Iterable[Any]) -> Iterator[Any]:
    """What an iterable yields; `ValueError` where that is more than `MAX_ITEMS`."""
    found = list(islice(items, MAX_ITEMS + 1))
    if len(found) > MAX_ITEMS:
        raise ValueError(f"an iterator of more than {MAX_ITEMS} items does not pass between program and tests")
    return iter(found)


class Encoder:
    """Writes values; one for each message.

    `other` gives the JSON for what is no plain value, and for objects of classes of the module `apart`, whatever these
    derive from. The other side has the `known` containers too, in this order.
    """

    def __init__(self, other: Callable[[Any], list[Any]], known: Sequence[Any] = (), apart: str = ""):
        self._other, self._apart = other, apart
        self._places = {id(item): place for place, item in enumerate(known)}
        self.containers = list(known)  # in the order of their numbers; keeps them alive, so an id stays theirs

    def encode(self, value: Any) -> Any:
        """The value as JSON."""
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -SMALL < value < SMALL else ["i", hex(value)]
        if id(value) in self._places:
            return ["r", self._places[id(value)]]
        if kind.__module__ == self._apart:
            return self._other(value)
        base = kind if kind in PLAIN else next((base for base in PLAIN if issubclass(kind, base)), None)
        if base in MUTABLE:
            self._places[id(value)] = len(self.containers)
            self.containers.append(value)
        if base is not None:
            return self.content(base, value)
        if kind in VIEWS:
            return [VIEWS[kind], *map(self.encode, value)]
        if hasattr(kind, "__next__") and kind.__module__ in ("builtins", "itertools"):
            return ["n", *map(self.encode, bounded(value))]
        return self._other(value)

    def content(self, base: Any, value: Any) -> Any:
        """What the value holds as a `base`, whatever its own class claims: `base.__iter__` and the like say that."""
        if base is str:
            return str.__str__(value)
        if base is float:
            return float.__float__(value)
        if base is int:
            return ["i", hex(int.__index__(value))]
        if base is dict:
            return ["d", *[self.encode(part) for pair in dict.items(value) for part in pair]]
        if base in JOINED:
            tag, parts, _ = JOINED[base]
            return [tag, *map(self.encode, parts(value))]
        return [MUTABLE.get(base) or FROZEN[base], *map(self.encode, base.__iter__(value))]


class Decoder:
    """Reads values; one for each message. What is malformed raises one of `MALFORMED`.

    `other(tag, parts)` gives the value for a tag of no plain value. The message may refer to the `containers`.
    """

    def __init__(self, other: Callable[[str, list[Any]], Any], containers: Sequence[Any] = ()):
        self._other = other
        self.containers = list(containers)

    def decode(self, item: Any) -> Any:
        """The value."""
        if type(item) is not list:
            if type(item) is dict:
                raise ProtocolError("an object of JSON is no value")
            return item
        tag, *parts = item
        if tag in NEW:
            self.containers.append(NEW[tag]())
            return self._fill(self.containers[-1], parts)
        if tag in BUILD:
            return BUILD[tag](map(self.decode, parts))
        if tag in JOIN:
            return JOIN[tag](*map(self.decode, parts))
        if tag == "i":
            return int(parts[0], 16)
        if tag == "r":
            return self.containers[parts[0]]
        return self._other(tag, parts)

    def update(self, container: Any, item: Any) -> None:
        """Give a container of this side the content that came for it."""
        _, *parts = item
        container.clear()
        self._fill(container, parts)

    def _fill(self, container: Any, parts: list[Any]) -> Any:
        items = map(self.decode, parts)
        if isinstance(container, dict):
            container.update(zip(items, items, strict=True))
        else:
            (container.update if isinstance(container, set) else container.extend)(items)
        return container


def write_error(error: BaseException, encode: Callable[[Any], Any]) -> list[Any]:
    """The standard classes of an exception, nearest first, with its arguments and public attributes."""
    kinds = [kind for kind in type(error).__mro__ if kind.__module__.split(".")[0] in sys.stdlib_module_names]
    fields = {name: encode(value) for name, value in vars(error).items() if not name.startswith("_")}
    return [[[kind.__module__, kind.__qualname__] for kind in kinds], encode(list(error.args)), fields]


def read_error(item: Any, decode: Callable[[Any], Any]) -> BaseException:
    """The exception, of the nearest class that this side has loaded. What is malformed raises one of `MALFORMED`."""
    kinds, arguments, fields = item
    arguments = tuple(decode(arguments))
    fields = {name: decode(value) for name, value in fields.items()}
    for module, name in kinds:
        standard = module.split(".")[0] in sys.stdlib_module_names and not module.startswith(FRAMEWORKS)
        kind: Any = getattr(sys.modules.get(module), name, None) if standard else None
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            continue
        if issubclass(kind, StopIteration | StopAsyncIteration):  # these would end a loop of this side
            return RuntimeError(f"{name}: {arguments}")
        with contextlib.suppress(Exception):  # some classes take other arguments than these: the next one
            error: BaseException = kind.__new__(kind, *arguments)
            if module == "builtins":
                kind.__init__(error, *arguments)
            error.args = arguments
            vars(error).update(fields)
            return error
    raise ProtocolError("no exception")


def shown(error: BaseException) -> str:
    """An error on one line, for people."""
    try:
        return f"{type(error).__name__}: {error}"
    except BaseException:  # its class is hostile, or it holds what cannot be shown
        return type(error).__name__
