"""Plain values over a pipe, by exact type: what the program and the tests tell each other.

A message is four bytes of length and a JSON text. Values of the plain types are written out, and everything else
crosses as a *handle*: a number that means something only to the side that made it. What derives from a plain type
crosses as both: its content, which is all that comparisons and operators see (an `int` that equals everything is the
number it holds), and a handle for whatever else it has. Nothing is pickled, imported or called here.

Containers that occur twice in one message are written once, so aliases and cycles survive.
"""

from __future__ import annotations

import builtins
import json
import os
import struct
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

from .handles import FACE_TYPES, FACES, show_face

MAX_MESSAGE = 64 << 20  # bytes
SMALL = 1 << 53  # larger integers travel in hexadecimal: decimal digits are slow, and limited by the interpreter
TAGS: dict[type, str] = {
    list: "l",
    tuple: "t",
    dict: "d",
    set: "s",
    frozenset: "f",
    deque: "q",
    Counter: "C",
    OrderedDict: "O",
    defaultdict: "D",
}
MAPPINGS: dict[str, Callable[[], Any]] = {"d": dict, "C": Counter, "O": OrderedDict, "D": defaultdict}
SEQUENCES: dict[str, Callable[[], Any]] = {"l": list, "s": set, "q": deque}
VIEWS: dict[type, str] = {type({}.keys()): "K", type({}.values()): "V", type({}.items()): "I"}
MUTABLE = (list, dict, set, deque, bytearray, Counter, OrderedDict, defaultdict)


class ProtocolError(Exception):
    """The other side sent something that is no message."""


class TooLargeError(ProtocolError):
    """A message larger than `MAX_MESSAGE`."""


def send(descriptor: int, message: Any) -> None:
    """Write one message."""
    data = json.dumps(message, check_circular=False).encode()
    if len(data) > MAX_MESSAGE:
        raise TooLargeError(f"a message of {len(data)} bytes, at most {MAX_MESSAGE} are taken")
    view = memoryview(struct.pack(">I", len(data)) + data)
    while view:
        view = view[os.write(descriptor, view) :]


def receive(descriptor: int) -> Any:
    """Read one message; `EOFError` where the other side has gone.

    Raises:
        EOFError: the other side has closed its end.
        ProtocolError: what came is no message.
    """
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


class Encoder:
    """Writes values; one for each message.

    Args:
        handle: called for what is no plain value; returns the JSON that stands for it.
        keeps_containers (`bool`): write subclasses of the mutable containers as handles; else as what they hold.
    """

    def __init__(self, handle: Callable[[Any], list[Any]], *, keeps_containers: bool = False):
        self._handle = handle
        self._keeps_containers = keeps_containers
        self._places: dict[int, int] = {}
        self.containers: list[Any] = []  # in the order of their numbers; keeps them alive, so ids stay theirs

    def known(self, containers: list[Any]) -> None:
        """Containers the other side has too, under these numbers."""
        for item in containers:
            self._note(item)

    def encode(self, value: Any) -> Any:
        """The value as JSON."""
        before = len(self.containers)
        try:
            return self._encode(value)
        except RecursionError:  # nested too deeply: an object like any other
            for item in self.containers[before:]:
                del self._places[id(item)]
            del self.containers[before:]
            return self._handle(value)

    def content(self, value: Any) -> Any:
        """A container's content, though the container itself is known to the other side."""
        return self._content(plain_type(value), value)

    def _note(self, value: Any) -> None:
        self._places[id(value)] = len(self.containers)
        self.containers.append(value)

    def _encode(self, value: Any) -> Any:
        kind = type(value)
        if value is None or kind is bool or kind is str or kind is float:
            return value
        if kind is int:
            return value if -SMALL < value < SMALL else ["i", hex(value)]
        place = self._places.get(id(value))
        if place is not None:
            return ["r", place]
        if kind in FACE_TYPES:
            return self._handle(value.__behind__)
        plain = plain_type(value)
        if plain is None or (self._keeps_containers and plain is not kind and plain in MUTABLE):
            return self._handle(value)
        if plain is not kind and plain in FACES:
            return ["u", self._handle(value), self._content(plain, value)]
        if plain in TAGS or plain is bytearray:
            self._note(value)
        return self._content(plain, value)

    def _content(self, plain: type | None, value: Any) -> Any:
        # `plain.__iter__(value)` and the like read what the value really holds, whatever its own class claims.
        encode = self._encode
        if plain in (list, tuple, set, frozenset, deque):
            return [TAGS[plain], *[encode(item) for item in plain.__iter__(value)]]
        if plain in TAGS:  # the mappings
            factory = [encode(value.default_factory)] if plain is defaultdict else []
            pairs = dict.items(value)
            return [TAGS[plain], *factory, *[part for pair in pairs for part in (encode(pair[0]), encode(pair[1]))]]
        if plain in VIEWS:
            return [VIEWS[plain], [encode(item) for item in value]]
        return _scalar(plain, value)


def _scalar(plain: Any, value: Any) -> Any:
    if plain is str:
        return str.__str__(value)
    if plain is int:
        return ["i", hex(int.__index__(value))]
    if plain is float:
        return float.__float__(value)
    if plain is bytes:
        return ["b", bytes.hex(value)]
    if plain is bytearray:
        return ["B", bytearray.hex(value)]
    if plain is complex:
        return ["c", value.real, value.imag]
    if plain is range:
        return ["R", *[hex(part) for part in (value.start, value.stop, value.step)]]
    if plain is Decimal:
        return ["N", str(value)]
    if plain is Fraction:
        return ["F", hex(value.numerator), hex(value.denominator)]
    if plain is timedelta:
        return ["L", value.days, value.seconds, value.microseconds]
    if plain in (date, time, datetime):
        return [{date: "Y", time: "T", datetime: "S"}[plain], value.isoformat()]
    if plain is type(Ellipsis):
        return ["e"]
    return ["g", value.__name__]  # one of Python's own types


EXACT = {bytes, bytearray, complex, range, Decimal, Fraction, timedelta, date, time, datetime, type(Ellipsis)}
EXACT |= {*TAGS, *VIEWS}
TYPES = {
    kind.__name__: kind for kind in [*vars(builtins).values(), *TAGS, Decimal, Fraction] if isinstance(kind, type)
}
TYPES |= {kind.__name__: kind for kind in (date, time, datetime, timedelta)}
BASES = (str, int, float, list, tuple, dict, set, frozenset, deque)


def plain_type(value: Any) -> type | None:
    """The plain type a value is written as; `None` where it is no plain value."""
    kind = type(value)
    if kind in EXACT:
        return kind
    if kind is type:
        return type if TYPES.get(value.__name__) is value else None
    for base in BASES:
        if issubclass(kind, base):
            return base
    return None


class Decoder:
    """Reads values; one for each message.

    Args:
        handle: called with the JSON of a handle; returns the object that stands for it here.
        containers: those the message may refer to already.
        types: what stands for some of Python's own types here.
    """

    def __init__(
        self,
        handle: Callable[[list[Any]], Any],
        containers: list[Any] | None = None,
        types: Mapping[type, type] | None = None,
    ):
        self._handle = handle
        self._types = types or {}
        self.containers: list[Any] = list(containers or ())

    def decode(self, item: Any) -> Any:
        """The value.

        Raises:
            ProtocolError: this is no value.
        """
        try:
            return self._decode(item)
        except ProtocolError:
            raise
        except (ValueError, TypeError, LookupError, ArithmeticError, RecursionError, AttributeError) as error:
            raise ProtocolError(f"no value: {type(error).__name__}") from None

    def update(self, container: Any, item: Any) -> None:
        """Give a container of this side the content that came for it."""
        fresh = self._fill(item)
        if type(container) is bytearray:
            container[:] = fresh
            return
        container.clear()
        container.extend(fresh) if isinstance(container, list | deque) else container.update(fresh)

    def _fill(self, item: Any) -> Any:
        if item[0] == "B":
            return bytearray.fromhex(item[1])
        if item[0] in MAPPINGS:
            return dict(self._pairs(item[1:] if item[0] == "D" else item))
        if item[0] not in SEQUENCES:
            raise ProtocolError("no container's content")
        return [self._decode(part) for part in item[1:]]

    def _pairs(self, item: list[Any]) -> Iterator[tuple[Any, Any]]:
        parts = iter(item[1:])
        for key, value in zip(parts, parts, strict=True):
            yield self._decode(key), self._decode(value)

    def _decode(self, item: Any) -> Any:
        if not isinstance(item, list):
            if isinstance(item, dict):
                raise ProtocolError("no value: an object")
            return item
        tag = item[0]
        if tag in SEQUENCES or tag in MAPPINGS:
            return self._container(tag, item)
        if tag in ("t", "f"):
            place = len(self.containers)
            self.containers.append(None)
            inner = [self._decode(part) for part in item[1:]]
            self.containers[place] = tuple(inner) if tag == "t" else frozenset(inner)
            return self.containers[place]
        if tag == "r":
            known = self.containers[item[1]]
            if known is None or item[1] < 0:
                raise ProtocolError("no value: a tuple that holds itself")
            return known
        if tag in SCALARS:
            return SCALARS[tag](*item[1:])
        if tag == "B":
            self.containers.append(bytearray.fromhex(item[1]))
            return self.containers[-1]
        if tag == "u":
            return self._faced(*item[1:])
        if tag in VIEWS.values():
            return self._view(tag, [self._decode(part) for part in item[1]])
        if tag == "g":
            return self._types.get(TYPES[item[1]], TYPES[item[1]])
        return self._handle(item)

    def _faced(self, behind: list[Any], content: Any) -> Any:
        if isinstance(content, list) and content[0] in ("t", "f"):
            held: Any = {"t": tuple, "f": frozenset}[content[0]](self._decode(part) for part in content[1:])
        else:
            held = self._decode(content)
        return show_face(held, self._handle(behind))

    def _view(self, tag: str, items: list[Any]) -> Any:
        if tag == "K":
            return dict.fromkeys(items).keys()
        return dict(items).items() if tag == "I" else dict(enumerate(items)).values()

    def _container(self, tag: str, item: list[Any]) -> Any:
        fresh: Any = (MAPPINGS.get(tag) or SEQUENCES[tag])()
        self.containers.append(fresh)
        if tag == "D":
            fresh.default_factory = self._decode(item[1])
            item = item[1:]
        if tag in MAPPINGS:
            for key, value in self._pairs(item):
                fresh[key] = value
        elif tag == "s":
            fresh.update([self._decode(part) for part in item[1:]])
        else:
            fresh.extend([self._decode(part) for part in item[1:]])
        return fresh


def _integer(text: Any) -> int:
    return int(text, 16)


SCALARS: dict[str, Callable[..., Any]] = {
    "i": _integer,
    "b": bytes.fromhex,
    "c": complex,
    "R": lambda *parts: range(*map(_integer, parts)),
    "N": Decimal,
    "F": lambda top, bottom: Fraction(_integer(top), _integer(bottom)),
    "L": timedelta,
    "Y": date.fromisoformat,
    "T": time.fromisoformat,
    "S": datetime.fromisoformat,
    "e": lambda: Ellipsis,
}
