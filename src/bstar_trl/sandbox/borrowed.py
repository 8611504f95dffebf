"""The program's objects, as the tests see them: handles that are only ever looked at from afar.

A hostile object that hears the expected value can say what the test wants to hear. So an object of the program never
takes part in a comparison with a value of the tests'; an operator between the two must give another of the program's
objects, which then is no number; and whether it contains a value is looked up by walking it. Between two objects of
the program all operators are its own. What derives from `list`, `dict` and the like is compared by what it holds.
"""

from __future__ import annotations

import builtins
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

from .codec import EXACT
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
from .raised import of_program

PLAIN = {bool, int, float, str, type(None), *EXACT}
QUESTIONS = {"count", "index", "issubset", "issuperset", "isdisjoint"}  # that a plain container answers itself


class Borrowed(Handle):
    """An object of the program's."""

    __slots__ = ()

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return class_of(self)

    def __contains__(self, item: Any) -> bool:
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

    def __round__(self, digits: int | None = None) -> Any:
        _check_hidden(self)
        return ask(self, "round", digits)

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        """The program's context manager may swallow what the program raised, never what the tests did."""
        return Handle.__exit__(self, kind, error, trace) and error is not None and of_program(error) is not None

    async def __aenter__(self) -> Any:
        return await ask(self, "get", "__aenter__")()

    async def __aexit__(self, kind: Any, error: Any, trace: Any) -> bool:
        answer = await ask(self, "get", "__aexit__")(kind, error, None)
        return bool(answer) and error is not None and of_program(error) is not None

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


class BorrowedClass(Borrowed):
    """A class of the program's."""

    __slots__ = ()


class BorrowedContainer(Borrowed):
    """An object whose class derives from a mutable container. Its methods are its own, but those that compare."""

    __slots__ = ()
    __plain__: type

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        return type(self).__plain__

    def __getattr__(self, name: str) -> Any:
        if name in QUESTIONS:
            return getattr(_content(self), name)
        return ask(self, "get", name)

    def __contains__(self, item: Any) -> bool:
        return item in _content(self)

    def __eq__(self, other: Any) -> bool:
        return bool(_content(self) == _plain(other))

    __hash__ = None  # type: ignore[assignment]


def _container(plain: type) -> type[BorrowedContainer]:
    return type("BorrowedContainer", (BorrowedContainer,), {"__slots__": (), "__plain__": plain})


CONTAINERS = {plain.__name__: _container(plain) for plain in (list, dict, set, deque)}


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
for _class in (Borrowed, BorrowedIterator, BorrowedClass, BorrowedContainer):
    _class.__doc__ = vars(Handle)["__doc__"]  # the object's own


def class_of(handle: Handle) -> Any:
    """The class of an object of the program's, which is none of the plain types."""
    found = ask(handle, "class")
    if found in PLAIN:
        owner_of(handle).malformed(f"an object that is no {found.__name__} and claims to be one")
    return found


def coroutine(handle: Handle) -> Coroutine[Any, Any, Any]:
    """A coroutine of the program's, as one of the tests': it runs there when it is awaited here."""

    async def run() -> Any:
        return ask(handle, "await")

    return run()


def _content(handle: BorrowedContainer) -> Any:
    return exactly(handle, type(handle).__plain__, ask(handle, "content"))


def _plain(value: Any) -> Any:
    return _content(value) if issubclass(type(value), BorrowedContainer) else value


def _check_hidden(handle: Handle) -> None:
    if number_of(handle) in owner_of(handle).revealed:
        raise TypeError("an object of the program that has met a value of the tests in an operator is no number")


def _operation(name: str, swapped: bool) -> Callable[[Any, Any], Any]:
    def operate(self: Any, other: Any) -> Any:
        there = behind(other)
        result = ask(self, "operate", name, other if there is None else there, swapped)
        if there is None:
            if type(result) is not Borrowed:
                raise TypeError(
                    "an operator between an object of the program and a value must give an object of the program, got "
                    f"{builtins.type(result).__name__}"
                )
            owner_of(self).revealed.add(number_of(result))
        return result

    return operate


def _comparison(name: str) -> Callable[[Any, Any], Any]:
    def compare(self: Any, other: Any) -> Any:
        there = behind(other)
        if there is None:
            return NotImplemented
        return exactly(self, bool, ask(self, "operate", name, there, False))

    return compare


def _number(self: Any) -> Any:
    raise TypeError("an object of the program is no number, even where its class says so")


def _conversion(name: str) -> Callable[[Any], Any]:
    def convert(self: Any) -> Any:
        _check_hidden(self)
        return ask(self, "convert", name)

    return convert


def _content_operation(name: str, function: Callable[[Any, Any], Any], swapped: bool) -> Callable[[Any, Any], Any]:
    """Between two objects of the program its own operator; with a value of the tests, that of what is held."""

    def operate(self: Any, other: Any) -> Any:
        there = behind(other)
        alike = there is None or issubclass(type(there), BorrowedContainer)
        if not alike or (there is not None and name not in COMPARISONS):
            return ask(self, "operate", name, there, swapped)
        mine, theirs = _content(self), _plain(other)
        return function(theirs, mine) if swapped else function(mine, theirs)

    return operate


for _name, _function in OPERATORS.items():
    for _prefix, _swapped in (("", False), ("r", True)):
        setattr(Borrowed, f"__{_prefix}{_name}__", _operation(_name, _swapped))
        setattr(BorrowedContainer, f"__{_prefix}{_name}__", _content_operation(_name, _function, _swapped))
for _name in IN_PLACE:
    setattr(Borrowed, f"__{_name}__", _operation(_name, False))
    setattr(
        BorrowedContainer, f"__{_name}__", lambda self, other, name=_name: ask(self, "operate", name, other, False)
    )
for _name, _function in COMPARISONS.items():
    setattr(Borrowed, f"__{_name}__", _comparison(_name))
    setattr(BorrowedContainer, f"__{_name}__", _content_operation(_name, _function, False))
for _name in CONVERSIONS:
    setattr(Borrowed, f"__{_name}__", _number if _name in ("int", "float", "complex", "index") else _conversion(_name))
