"""The program's objects, as the tests see them: handles that are only ever looked at from afar.

A hostile object that hears the expected value can say what the test wants to hear. So what a *function* of the program
returns takes no part in a comparison or an operator with a value of the tests'; it is no number; and whether it
contains a value is looked up by walking it. What derives from `list`, `dict` and the like is compared by what it
holds, and what it shares with its base is answered by that.

An object that the tests have *made*, by calling a class that they name as classes are named, is what they test: it
does and says what it likes, but for `==`. Once the program returns it, or its class, it is like any other for good.
"""

from __future__ import annotations

import builtins
import contextlib
import types
from collections.abc import Callable, Coroutine, Generator, Iterator
from typing import Any

from .codec import EXACT, MUTABLE
from .handles import (
    COMPARISONS,
    CONVERSIONS,
    IN_PLACE,
    OPERATORS,
    Handle,
    IteratorHandle,
    ask,
    behind,
    exactly,
    number_of,
    owner_of,
)

PLAIN = {bool, int, float, str, type(None), *EXACT}
NUMBERS = {"int", "float", "complex", "index"}
# Methods that change a container: the object's own is changed, not what the tests see of it.
CHANGES = {"append", "extend", "insert", "remove", "clear", "sort", "reverse", "add", "discard", "update", "pop"}
CHANGES |= {"popitem", "popleft", "appendleft", "extendleft", "rotate", "move_to_end", "subtract"}


class Borrowed(Handle):
    """An object of the program's."""

    __slots__ = ()

    def __contains__(self, item: Any) -> bool:
        if is_made(self) or behind(item) is not None:
            return exactly(self, bool, ask(self, "contains", item))
        return any(held is item or held == item for held in self)

    def __eq__(self, other: Any) -> bool:
        """Two objects whose class defines equality are equal if they hold the same; their `__eq__` is never asked."""
        if self is other:
            return True
        if not isinstance(behind(other), Borrowed):
            return False
        mine, theirs = ask(self, "state"), ask(behind(other), "state")  # type: ignore[arg-type]
        return mine is not None and bool(mine == theirs)

    def __hash__(self) -> int:
        return Handle.__hash__(self)

    def __instancecheck__(self, value: Any) -> bool:
        there = behind(value)
        return there is not None and exactly(self, bool, ask(self, "has instance", there))

    def __subclasscheck__(self, kind: Any) -> bool:
        there = behind(kind)
        return there is not None and exactly(self, bool, ask(self, "has subclass", there))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        """The program's context manager never swallows a test that fails, nor puts another error in its place."""
        if not _fails(self, error, trace):
            return Handle.__exit__(self, kind, error, trace)
        with contextlib.suppress(Exception):
            Handle.__exit__(self, kind, error, trace)
        return False

    async def __aenter__(self) -> Any:
        return await ask(self, "get", "__aenter__")()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> bool:
        if not _fails(self, error, trace):
            return bool(await ask(self, "get", "__aexit__")(kind, error, None))
        with contextlib.suppress(Exception):
            await ask(self, "get", "__aexit__")(kind, error, None)
        return False

    def __aiter__(self) -> Any:
        return ask(self, "get", "__aiter__")()

    async def __anext__(self) -> Any:
        return ask(self, "anext")[0]

    def __await__(self) -> Generator[Any, Any, Any]:
        return ask(self, "await")
        yield


class BorrowedIterator(IteratorHandle, Borrowed):
    """An iterator of the program's."""

    __slots__ = ()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return _python_class(self)


class BorrowedGenerator(BorrowedIterator):
    """A generator of the program's."""

    __slots__ = ()

    def send(self, value: Any) -> Any:
        """Go on with this value."""
        return ask(self, "send", value)

    def throw(self, *error: Any) -> Any:
        """Go on with this exception."""
        return ask(self, "throw", *error)


class BorrowedFunction(Borrowed):
    """A function of the program's; in a class of the tests' it is a method."""

    __slots__ = ()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return _python_class(self)

    def __get__(self, target: Any, owner: Any = None) -> Any:
        return self if target is None else types.MethodType(self, target)


class BorrowedClass(Borrowed):
    """A class of the program's."""

    __slots__ = ()

    def __mro_entries__(self, bases: Any) -> Any:
        raise TypeError("the tests cannot derive a class from one of the program's")


class BorrowedContainer(Borrowed):
    """An object whose class derives from a mutable container. Its methods are its own, but those that compare."""

    __slots__ = ()
    __plain__: type

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self).__plain__

    def __getattr__(self, name: str) -> Any:
        if name not in CHANGES and hasattr(type(self).__plain__, name) and not is_made(self):
            return getattr(_content(self), name)
        return ask(self, "get", name)

    def __contains__(self, item: Any) -> bool:
        return exactly(self, bool, ask(self, "contains", item)) if is_made(self) else item in _content(self)

    def __iter__(self) -> Iterator[Any]:
        return Borrowed.__iter__(self) if is_made(self) else iter(_content(self))

    def __eq__(self, other: Any) -> bool:
        return bool(_content(self) == _plain(other))

    __hash__ = None  # type: ignore[assignment]


def _container(plain: type) -> type[BorrowedContainer]:
    return type("BorrowedContainer", (BorrowedContainer,), {"__slots__": (), "__plain__": plain})


CONTAINERS = {plain.__name__: _container(plain) for plain in MUTABLE if plain is not bytearray}


class Kinds(type):
    """Makes a stand-in for `type` that tells the program's classes, too: `type(thing).__name__`."""

    def __call__(cls, *arguments: Any, **keywords: Any) -> Any:
        if len(arguments) == 1 and not keywords:
            there = behind(arguments[0])
            return type(arguments[0]) if there is None else class_of(there)
        return type(*arguments, **keywords)

    def __instancecheck__(cls, value: Any) -> bool:
        return isinstance(value, type) or type(value) is BorrowedClass

    def __eq__(cls, other: Any) -> bool:
        return other is cls or other is type

    __hash__ = type.__hash__


Kind = Kinds("type", (), {})
for _class in (Borrowed, BorrowedIterator, BorrowedGenerator, BorrowedFunction, BorrowedClass, BorrowedContainer):
    _class.__doc__ = vars(Handle)["__doc__"]  # the object's own


def class_of(handle: Handle) -> Any:
    """The class of an object of the program's, which is none of the plain types."""
    found = ask(handle, "class")
    if found in PLAIN and found is not getattr(type(handle), "__plain__", None):
        owner_of(handle).malformed(f"an object that is no {found.__name__} and claims to be one")
    return found


def is_made(handle: Handle) -> bool:
    """Whether the tests have made this object, and the program has not returned it since."""
    return number_of(handle) in owner_of(handle).made


def coroutine(handle: Handle) -> Coroutine[Any, Any, Any]:
    """A coroutine of the program's, as one of the tests': it runs there when it is awaited here."""

    async def run() -> Any:
        return ask(handle, "await")

    return run()


def _python_class(handle: Handle) -> Any:
    found = class_of(handle)
    return found if isinstance(found, type) else type(handle)


def _fails(handle: Handle, error: BaseException | None, trace: Any) -> bool:
    return isinstance(error, AssertionError) or owner_of(handle).fails_in_assertion(trace)


def _content(handle: BorrowedContainer) -> Any:
    content = ask(handle, "content")
    if issubclass(type(content), Handle):
        raise RecursionError("a container of the program is nested too deeply to be looked at")
    return exactly(handle, type(handle).__plain__, content)


def _plain(value: Any) -> Any:
    return _content(value) if issubclass(type(value), BorrowedContainer) else value


def _operation(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def operate(self: Any, other: Any) -> Any:
        there = behind(other)
        if there is None and not is_made(self):
            raise TypeError(
                f"what the program returned ({type(self).__name__}) takes no part in an operator with a value of the "
                f"tests ({builtins.type(other).__name__})"
            )
        return ask(self, "operate", name, other if there is None else there, swapped)

    return operate


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        there = behind(other)
        if there is None and not is_made(self):
            return NotImplemented
        return exactly(self, bool, ask(self, "operate", name, other if there is None else there, False))

    return compare


def _conversion(name: str) -> Callable[[Any], Any]:
    def convert(self: Any) -> Any:
        if name in NUMBERS and not is_made(self):
            raise TypeError("what the program returned is no number, even where its class says so")
        return ask(self, "convert", name)

    return convert


def _content_operation(name: str, function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Any, Any], Any]:
    """Between two objects of the program its own operator; with a value of the tests, that of what is held."""

    def operate(self: Any, other: Any) -> Any:
        there = behind(other)
        alike = there is None or issubclass(type(there), BorrowedContainer)
        if is_made(self) or not alike or (there is not None and name not in COMPARISONS):
            return ask(self, "operate", name, other if there is None else there, swapped)
        mine, theirs = _content(self), _plain(other)
        return function(theirs, mine) if swapped else function(mine, theirs)

    return operate


for _name, _function in OPERATORS.items():
    for _prefix, _swapped in (("", False), ("r", True)):
        setattr(Borrowed, f"__{_prefix}{_name}__", _operation(_name, _swapped))
        setattr(BorrowedContainer, f"__{_prefix}{_name}__", _content_operation(_name, _function, _swapped))
for _name, _function in IN_PLACE.items():
    setattr(Borrowed, f"__{_name}__", _operation(_name, False))
    setattr(BorrowedContainer, f"__{_name}__", _content_operation(_name, _function, False))
for _name, _function in COMPARISONS.items():
    setattr(Borrowed, f"__{_name}__", _comparison(_name))
    setattr(BorrowedContainer, f"__{_name}__", _content_operation(_name, _function, False))
for _name in CONVERSIONS:
    setattr(Borrowed, f"__{_name}__", _conversion(_name))
