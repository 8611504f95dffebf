"""What tests written for pytest use of it, in a sandbox without pytest: `raises`, `approx`, parameters, fixtures.

The tests' side runs the text of this module; it needs the standard library alone and is never imported here. Tests
that need more (the program's output, files, patches) cannot be judged and never come here.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any


class Raises:
    """The context manager of `raises`; also what it returns, as pytest's `ExceptionInfo`."""

    def __init__(self, expected: Any, pattern: str | None):
        self.kinds = expected if isinstance(expected, tuple) else (expected,)
        self.pattern, self.value, self.type = pattern, None, None
        for kind in self.kinds:
            if not isinstance(kind, type):
                # A class of the program's own stays with the program, so nobody can judge what it raises. An object
                # of the tests that is passed to the program ends the check for that reason.
                kind(self)

    def __enter__(self) -> Raises:
        return self

    def __exit__(self, kind: Any, error: Any, _: Any) -> bool:
        if kind is None:
            raise AssertionError(f"nothing was raised, but {self.kinds} expected")
        if not issubclass(kind, self.kinds):
            return False
        self.type, self.value = kind, error
        return self.pattern is None or self.match(self.pattern)

    def match(self, pattern: str) -> bool:
        """As that of pytest's `ExceptionInfo`."""
        if not re.search(pattern, str(self.value)):
            raise AssertionError(f"{str(self.value)!r} does not match {pattern!r}")
        return True


def raises(expected_exception: Any, *call: Any, match: str | None = None, **keywords: Any) -> Raises:
    """As pytest's, with a block or with a function and its arguments."""
    context = Raises(expected_exception, match)
    if call:
        with context:
            call[0](*call[1:], **keywords)
    return context


class Approx:
    """The right side of `found == approx(expected)`; compares numbers, and sequences and mappings of them."""

    def __init__(self, expected: Any, rel: float | None, least: float | None, nan_ok: bool):
        self.expected, self.rel, self.abs, self.nan_ok = expected, rel, least, nan_ok

    def __eq__(self, found: object) -> bool:
        return self._same(found, self.expected)

    def __ne__(self, found: object) -> bool:
        return not self._same(found, self.expected)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"approx({self.expected!r})"

    def _same(self, found: Any, expected: Any) -> bool:
        if isinstance(expected, Mapping):
            matches = isinstance(found, Mapping) and found.keys() == expected.keys()
            return matches and all(self._same(found[key], value) for key, value in expected.items())
        if isinstance(expected, Sequence) and not isinstance(expected, str | bytes):
            matches = isinstance(found, Sequence) and not isinstance(found, str | bytes)
            return matches and len(found) == len(expected) and all(map(self._same, found, expected))
        return bool(found == expected) or self._near(found, expected)

    def _near(self, found: Any, expected: Any) -> bool:
        if isinstance(expected, bool) or isinstance(found, bool):
            return False
        try:
            if found != found or expected != expected:
                return self.nan_ok and found != found and expected != expected
            size, difference = abs(complex(expected)), abs(complex(found) - complex(expected))
        except (TypeError, ValueError, OverflowError):
            return False
        if size == float("inf"):
            return False  # only infinity itself is near it
        relative = (
            0.0 if self.rel is None and self.abs is not None else (1e-6 if self.rel is None else self.rel) * size
        )
        return bool(difference <= max(relative, 1e-12 if self.abs is None else self.abs))


def approx(expected: Any, rel: float | None = None, abs: float | None = None, nan_ok: bool = False) -> Approx:
    """As pytest's: within 1e-6 relative or 1e-12 absolute, unless one of them is given."""
    return Approx(expected, rel, abs, nan_ok)


class Parameters(tuple[Any, ...]):
    """One set of arguments, as `param` makes it."""


def param(*values: Any, **_: Any) -> Parameters:
    """As pytest's; its name and marks are ignored."""
    return Parameters(values)


class Marks:
    """`mark.parametrize` and `mark.skip` do as pytest's; other marks do nothing."""

    def parametrize(self, argnames: Any, argvalues: Any, **_: Any) -> Callable[[Any], Any]:
        """Every set of arguments is kept with the test."""
        split = [name.strip() for name in argnames.split(",")] if isinstance(argnames, str) else argnames
        names = [name for name in split if name]
        alone = isinstance(argnames, str) and len(names) == 1
        sets = [value if isinstance(value, Parameters) or not alone else (value,) for value in argvalues]
        return _keeping("layers", lambda test: [*getattr(test, "layers", ()), [(names, values) for values in sets]])

    def skip(self, *test: Any, **_: Any) -> Any:
        """Leaves the test out."""
        mark = _keeping("skipped", lambda _: True)
        return mark(test[0]) if test and callable(test[0]) else mark

    def __getattr__(self, name: str) -> Any:
        return lambda *given, **_: given[0] if len(given) == 1 and callable(given[0]) else lambda test: test


def _keeping(name: str, value: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(test: Any) -> Any:
        setattr(test, name, value(test))
        return test

    return decorate


mark = Marks()


def fixture(function: Any = None, *, autouse: bool = False, name: str | None = None, **_: Any) -> Any:
    """As pytest's, whatever the scope: it is made anew for every test, and may `yield`."""

    def decorate(function: Any) -> Any:
        function.fixture, function.autouse = name or function.__name__, autouse
        return function

    return decorate if function is None else decorate(function)


class SkippedError(Exception):
    """Raised by `skip`."""


def skip(reason: str = "", **_: Any) -> None:
    """End the test; it counts as passed."""
    raise SkippedError(reason)


def fail(reason: str = "", **_: Any) -> None:
    """Fail the test."""
    raise AssertionError(reason)


def run(space: dict[str, Any], name: str, method: str | None = None) -> None:
    """Run a function or a class's method as a test, with every set of its arguments."""
    owner = space[name] if method else None
    if owner is not None and hasattr(owner, "debug"):  # a `unittest.TestCase`
        owner.setUpClass()
        owner(method).debug()
        return
    test = getattr(owner, method) if method else space[name]
    if getattr(owner, "skipped", False) or getattr(test, "skipped", False):
        return
    layers = [*getattr(owner, "layers", ()), *getattr(test, "layers", ())]
    for chosen in itertools.product(*layers):
        arguments: dict[str, Any] = {}
        for names, values in chosen:
            arguments |= zip(names, values, strict=True)
        this = owner() if owner else None
        with contextlib.suppress(SkippedError):
            _run_once(getattr(this, method) if method else test, arguments, space, this)


def _run_once(test: Any, arguments: dict[str, Any], space: dict[str, Any], this: Any) -> None:
    places = [*space.values(), *(getattr(this, key) for key in vars(type(this)) if this and not key.startswith("__"))]
    fixtures: dict[str, Any] = {
        item.fixture: item for item in places if inspect.isroutine(item) and hasattr(item, "fixture")
    }
    made, ends = dict(arguments), []

    def value(name: str) -> Any:
        if name not in made:
            result = fixtures[name](**{key: value(key) for key in inspect.signature(fixtures[name]).parameters})
            if inspect.isgenerator(result):
                ends.append(result)
                result = next(result)
            made[name] = result
        return made[name]

    for hook in ("setup_method", "setup"):
        if this and hasattr(this, hook):
            setup = getattr(this, hook)
            setup(*[test][: len(inspect.signature(setup).parameters)])
            break
    for name, item in fixtures.items():
        if item.autouse:
            value(name)
    test(**{key: value(key) for key in inspect.signature(test).parameters})
    for end in reversed(ends):
        next(end, None)
