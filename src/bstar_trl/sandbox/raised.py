"""The program's exceptions, as exceptions of the tests' side."""

from __future__ import annotations

import builtins
import contextlib
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from .codec import ProtocolError

# What a program may call these is no way to catch the tests' own failures: of the program's errors alone.
CATCH_ALL: dict[Any, Any] = {
    kind: type(kind.__name__, (kind,), {}) for kind in (BaseException, Exception, AssertionError)
}
CATCH_ALL[object] = type("object", (), {})
LEAVING = {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt}  # what tests may expect besides
FRAMEWORKS = ("unittest", "doctest", "bdb")  # their exceptions mean something to whoever runs tests, `SkipTest` say
OF_PROGRAM = "of_program"  # the attribute of an exception that the program raised: the reason it stands for
REASONS = ("exception", "memory", "forbidden", "no answer")


class StandIns:
    """Builds the program's exception classes and exceptions here, from what the program says of them.

    A class of Python's own is itself, one of the program's a stand-in that derives from those of its bases.

    Args:
        decode: reads a value.
        there: the handle of an object of the program's, by its number.
        lent: a class of the tests', by its number.
        stop: decides the check.

    Attributes:
        expected (`tuple[type, ...]`): what the tests can catch; anything else is an end of the program's.
    """

    expected: tuple[type[BaseException], ...] = (Exception,)

    def __init__(
        self,
        decode: Callable[[Any], Any],
        there: Callable[[int], Any],
        lent: Callable[[int], Any],
        stop: Callable[[str, str], NoReturn],
    ):
        self._lent = lent
        self._decode = decode
        self._there = there
        self._stop = stop
        self._kinds: dict[int, type[BaseException]] = {}
        self._errors: dict[int, BaseException] = {}

    def number_of(self, value: Any) -> int | None:
        """The program's number of an exception or exception class of its own; `None` where it is none."""
        own = value.__dict__.get("__number__") if isinstance(value, BaseException) else None
        return next((number for number, kind in self._kinds.items() if kind is value), own)

    def kind(self, item: Any) -> Any:
        """An exception class.

        Raises:
            ProtocolError: this is none.
        """
        if item[0] == "g":
            found = getattr(builtins, item[1])
            if not (isinstance(found, type) and issubclass(found, BaseException)):
                raise ProtocolError("no exception class")
            return CATCH_ALL.get(found, found)
        if item[0] == "m":
            known = self._standard(*item[1:3])
            return known or self._derived(item[2], item[3])
        if item[0] == "k":
            found = self._lent(item[1])
            if not (isinstance(found, type) and issubclass(found, Exception)):
                raise ProtocolError("no exception class")
            return found
        tag, number, kind, name, bases = item
        if (tag, kind) != ("h", "exception") or type(number) is not int:
            raise ProtocolError("no exception class")
        if number not in self._kinds:
            self._kinds[number] = self._derived(name, bases, number)
        return self._kinds[number]

    def error(self, item: Any) -> BaseException:
        """An exception.

        Raises:
            ProtocolError: this is none.
        """
        _, number, kind_item, arguments, fields, text, cause = item
        if type(number) is not int or type(text) is not str:
            raise ProtocolError("no exception")
        if number not in self._errors:
            kind = self.kind(kind_item)
            if not issubclass(kind, self.expected):
                self._stop("no answer", f"{kind.__name__}: the program tried to leave")
            error = _built(kind, tuple(self._decode(arguments)))
            error.__dict__ |= {name: self._decode(value) for name, value in fields.items() if name != OF_PROGRAM}
            error.__dict__ |= {"__number__": number, "__text__": text}
            if cause is not None:
                error.__cause__ = self.error(cause)
            self._errors[number] = error
        return self._errors[number]

    def _standard(self, module: Any, name: Any) -> Any:
        """An exception class of the standard library, if the tests have loaded its module."""
        if type(module) is not str or type(name) is not str:
            raise ProtocolError("no exception class")
        usable = module.split(".")[0] in sys.stdlib_module_names and module in sys.modules
        found = getattr(sys.modules[module], name, None) if usable and not module.startswith(FRAMEWORKS) else None
        return CATCH_ALL.get(found, found) if isinstance(found, type) and issubclass(found, Exception) else None

    def _derived(self, name: Any, bases: Sequence[Any], number: int | None = None) -> Any:
        parents = tuple(self.kind(base) for base in bases)
        if type(name) is not str or not parents:
            raise ProtocolError("no exception class")

        def construct(cls: Any, *arguments: Any, **keywords: Any) -> Any:
            if cls is made and number is not None:
                return self._there(number)(*arguments, **keywords)
            return _solid(cls).__new__(cls, *arguments)

        def read(error: Any, name: str) -> Any:  # what the program's own class gives it
            if "__number__" not in error.__dict__:
                raise AttributeError(name)
            return getattr(self._there(error.__dict__["__number__"]), name)

        made: Any = type(
            name,
            parents,
            {
                "__new__": construct,
                "__init__": lambda error, *arguments, **keywords: None,
                "__getattr__": read,
                "__str__": _text,
            },
        )
        return made


def _text(error: Any) -> str:
    known = error.__dict__.get("__text__")
    return _solid(type(error)).__str__(error) if known is None else known


def ending(error: BaseException, *, stops: bool) -> BaseException:
    """The exception; one that ends an iteration, where none can end, as another: it would end the tests' loops."""
    if isinstance(error, StopIteration | StopAsyncIteration) and not stops:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def of_program(error: BaseException) -> str | None:
    """Why the program raised this; `None` where the tests did."""
    return error.__dict__.get(OF_PROGRAM)


def _solid(kind: Any) -> Any:
    """The class of Python's own that an exception class derives from."""
    return next(item for item in kind.__mro__ if getattr(builtins, item.__name__, None) is item)


def _built(kind: Any, arguments: tuple[Any, ...]) -> Any:
    solid = _solid(kind)
    error = solid.__new__(kind, *arguments)
    with contextlib.suppress(TypeError):  # some take a fixed number of arguments, which a program can change
        solid.__init__(error, *arguments)
    error.args = arguments
    return error


def shown(error: BaseException) -> str:
    """An error on one line, for people."""
    try:
        return f"{type(error).__name__}: {error}"
    except Exception:  # an error of the tests may hold anything, and printing it may fail
        return type(error).__name__
