"""Stand-ins for objects of the other side: whatever is done to a handle is asked of the object itself.

`Handle` serves both sides. The tests' side narrows it to what a hostile object cannot answer to its own advantage
(`borrowed.py`). A *face* stands for an object whose class derives from an immutable plain type: it is that plain
value, and asks the object only for what the plain type does not have.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from typing import Any, NoReturn, Protocol

OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "sub": operator.sub,
    "mul": operator.mul,
    "matmul": operator.matmul,
    "truediv": operator.truediv,
    "floordiv": operator.floordiv,
    "mod": operator.mod,
    "divmod": divmod,
    "pow": operator.pow,
    "lshift": operator.lshift,
    "rshift": operator.rshift,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
}
IN_PLACE = {f"i{name}": getattr(operator, f"i{name}") for name in OPERATORS if name != "divmod"}
COMPARISONS = {name: getattr(operator, name) for name in ("lt", "le", "gt", "ge")}
CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "int": int,
    "float": float,
    "complex": complex,
    "index": operator.index,
    "abs": abs,
    "neg": operator.neg,
    "pos": operator.pos,
    "invert": operator.invert,
}


class Owner(Protocol):
    """Who speaks with the other side.

    Attributes:
        faces (`dict[int, Any]`): faces by their objects' numbers, so that one object has one face.
    """

    faces: dict[int, Any]

    def ask(self, do: str, /, *arguments: Any, **keywords: Any) -> Any:
        """Ask the other side to do something with one of its objects, the first of the arguments."""

    def malformed(self, what: str) -> NoReturn:
        """The other side answered with something that cannot be the answer."""


class Handle:
    """An object of the other side, by its number. All names are that object's but the two slots'."""

    __slots__ = ("__number__", "__owner__", "__weakref__")

    def __init__(self, owner: Owner, number: int):
        object.__setattr__(self, "__owner__", owner)
        object.__setattr__(self, "__number__", number)

    def __getattr__(self, name: str) -> Any:
        return ask(self, "get", name)

    def __setattr__(self, name: str, value: Any) -> None:
        ask(self, "set", name, value)

    def __delattr__(self, name: str) -> None:
        ask(self, "delete", name)

    def __call__(self, /, *arguments: Any, **keywords: Any) -> Any:
        return ask(self, "call", *arguments, **keywords)

    def __getitem__(self, key: Any) -> Any:
        return ask(self, "item", key)

    def __setitem__(self, key: Any, value: Any) -> None:
        ask(self, "set item", key, value)

    def __delitem__(self, key: Any) -> None:
        ask(self, "delete item", key)

    def __contains__(self, item: Any) -> bool:
        return bool(ask(self, "contains", item))

    def __len__(self) -> int:
        return exactly(self, int, ask(self, "length"))

    def __bool__(self) -> bool:
        return exactly(self, bool, ask(self, "truth"))

    def __iter__(self) -> Iterator[Any]:
        return _walk(ask(self, "iterate"))

    def __reversed__(self) -> Iterator[Any]:
        return _walk(ask(self, "reversed"))

    def __str__(self) -> str:
        return exactly(self, str, ask(self, "text"))

    def __repr__(self) -> str:
        return exactly(self, str, ask(self, "shown"))

    def __format__(self, form: str) -> str:
        return exactly(self, str, ask(self, "formatted", form))

    def __dir__(self) -> Any:
        return ask(self, "names")

    def __hash__(self) -> int:
        return exactly(self, int, ask(self, "hash"))

    def __eq__(self, other: Any) -> bool:
        return bool(ask(self, "equal", other))

    def __round__(self, digits: int | None = None) -> Any:
        return ask(self, "round", digits)

    def __copy__(self) -> Any:
        return ask(self, "copy")

    def __deepcopy__(self, memo: Any) -> Any:
        return ask(self, "copy", deep=True)

    def __enter__(self) -> Any:
        return ask(self, "get", "__enter__")()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> bool:
        return bool(ask(self, "get", "__exit__")(kind, error, None))

    def __instancecheck__(self, value: Any) -> bool:
        return exactly(self, bool, ask(self, "has instance", value))

    def __subclasscheck__(self, kind: Any) -> bool:
        return exactly(self, bool, ask(self, "has subclass", kind))


class IteratorHandle(Handle):
    """An iterator of the other side."""

    __slots__ = ()

    def __next__(self) -> Any:
        return ask(self, "next")[0]


def ask(handle: Handle, do: str, /, *arguments: Any, **keywords: Any) -> Any:
    """Ask the object behind a handle."""
    owner: Owner = owner_of(handle)
    return owner.ask(do, handle, *arguments, **keywords)


def number_of(handle: Handle) -> int:
    """What the side that made the object calls it."""
    number: int = object.__getattribute__(handle, "__number__")
    return number


def owner_of(handle: Handle) -> Any:
    """Who speaks with the side that made the object."""
    return object.__getattribute__(handle, "__owner__")


def exactly(handle: Handle, kind: type, value: Any) -> Any:
    """The value, which the other side must have sent as this very type."""
    if type(value) is not kind:
        owner_of(handle).malformed(f"{type(value).__name__} in place of {kind.__name__}")
    return value


def _walk(walk: Any) -> Iterator[Any]:
    if issubclass(type(walk), IteratorHandle):
        return walk
    return _steps(walk) if issubclass(type(walk), Handle) else iter(walk)


def _steps(iterator: Handle) -> Iterator[Any]:
    while True:
        try:
            item = ask(iterator, "next")
        except StopIteration:
            return
        yield item[0]


def operation(name: str, *, swapped: bool = False) -> Callable[[Any, Any], Any]:
    """A method that asks for a binary operator: the other side has at least one of the two operands."""

    def operate(self: Any, other: Any) -> Any:
        return ask(self, "operate", name, other, swapped)

    return operate


def _conversion(name: str) -> Callable[[Any], Any]:
    return lambda self: ask(self, "convert", name)


Handle.__doc__ = property(lambda self: ask(self, "get", "__doc__"))  # type: ignore[assignment]
for _name in OPERATORS:
    setattr(Handle, f"__{_name}__", operation(_name))
    setattr(Handle, f"__r{_name}__", operation(_name, swapped=True))
for _name in [*IN_PLACE, *COMPARISONS]:
    setattr(Handle, f"__{_name}__", operation(_name))
for _name in CONVERSIONS:
    setattr(Handle, f"__{_name}__", _conversion(_name))


def behind(value: Any) -> Handle | None:
    """The handle that is, or stands behind, a value; `None` for a value of this side."""
    kind = type(value)
    if issubclass(kind, Handle):
        return value
    return value.__behind__ if kind in FACE_TYPES else None


def _face(base: type) -> Any:
    members: dict[str, Any] = {
        "__getattr__": lambda self, name: getattr(self.__behind__, name),  # what `base` itself does not have
        "__setattr__": lambda self, name, value: setattr(self.__behind__, name, value),
        "__str__": lambda self: str(self.__behind__),
        "__repr__": lambda self: repr(self.__behind__),
        "__hash__": base.__hash__,
    }
    for name in OPERATORS:
        own = getattr(base, f"__{name}__", None)
        if own is not None:
            members[f"__{name}__"] = _face_operator(name, own)
    if base is tuple:  # fields of named tuples
        members |= {name: _field(name) for name in ("count", "index")}
    return type(base.__name__, (base,), members)


def _face_operator(name: str, own: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Between two objects of the other side its operator counts; with a value of this side, the plain type's."""

    def operate(self: Any, other: Any) -> Any:
        there = behind(other)
        return own(self, other) if there is None else ask(self.__behind__, "operate", name, there, False)

    return operate


def _field(name: str) -> property:
    def read(self: Any) -> Any:
        found = getattr(self.__behind__, name)
        return getattr(tuple, name).__get__(self) if isinstance(found, Handle) else found

    return property(read)


def show_face(content: Any, handle: Handle) -> Any:
    """The plain value `content`, with the object it is the content of behind it."""
    if not issubclass(type(handle), Handle):
        raise TypeError(f"a face needs a handle behind it, got {type(handle).__name__}")
    known = owner_of(handle).faces
    if number_of(handle) not in known or type(content) in (tuple, frozenset):  # these may hold what has changed
        face = FACES[type(content)](content)
        face.__dict__["__behind__"] = handle
        known[number_of(handle)] = face
    return known[number_of(handle)]


FACES: dict[type, Any] = {base: _face(base) for base in (str, int, float, tuple, frozenset)}
FACE_TYPES = frozenset(FACES.values())


def _copy(target: Any, deep: bool = False) -> Any:
    import copy

    return copy.deepcopy(target) if deep else copy.copy(target)


def _operate(target: Any, name: str, other: Any, swapped: bool) -> Any:
    function = (OPERATORS | IN_PLACE | COMPARISONS)[name]
    return function(other, target) if swapped else function(target, other)


# What a handle asks, as its object answers it.
ANSWERS: dict[str, Callable[..., Any]] = {
    "call": lambda target, /, *arguments, **keywords: target(*arguments, **keywords),
    "get": getattr,
    "set": setattr,
    "delete": delattr,
    "item": operator.getitem,
    "set item": operator.setitem,
    "delete item": operator.delitem,
    "contains": operator.contains,
    "length": len,
    "truth": bool,
    "iterate": iter,
    "reversed": reversed,
    "next": lambda target: [next(target)],
    "text": str,
    "shown": repr,
    "formatted": format,
    "hash": hash,
    "names": dir,
    "equal": operator.eq,
    "round": lambda target, digits: round(target) if digits is None else round(target, digits),
    "copy": _copy,
    "operate": _operate,
    "convert": lambda target, name: CONVERSIONS[name](target),
    "has instance": lambda kind, value: isinstance(value, kind),
    "has subclass": lambda kind, value: issubclass(value, kind),
}
