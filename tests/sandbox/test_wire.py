"""Values over the pipe: every plain type survives exactly, nothing else does, and nothing malformed gets through."""

from __future__ import annotations

import datetime
import enum
import itertools
import json
import math
import os
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple
from decimal import Decimal
from fractions import Fraction

import pytest

from bstar_trl.sandbox.bridge import wire
from bstar_trl.sandbox.bridge.wire import MALFORMED, Decoder, Encoder, ProtocolError


def nothing_else(*arguments):
    raise ProtocolError(f"{arguments!r} is no plain value")


def written(value):
    """The JSON text itself: what the other side reads."""
    return json.dumps(Encoder(nothing_else).encode(value))


def there_and_back(value):
    return Decoder(nothing_else).decode(json.loads(written(value)))


def same(left, right) -> bool:
    """Equal, and of exactly the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return all(map(same, left.keys(), right.keys())) and all(map(same, left.values(), right.values()))
    if isinstance(left, (list, tuple, deque)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "null"),
        (True, "true"),
        (7, "7"),
        (2**53, '["i", "0x20000000000000"]'),
        (-0.0, "-0.0"),
        ("\ud800", '"\\ud800"'),
        (b"\x00\xff", '["b", "00ff"]'),
        ([1, (2,)], '["l", 1, ["t", 2]]'),
        ({"a": 1}, '["d", "a", 1]'),
        (bytearray(b"a"), '["B", 97]'),
        (range(2, 9, 3), '["R", 2, 9, 3]'),
        (Decimal("1.10"), '["N", "1.10"]'),
        (Fraction(-1, 3), '["F", -1, 3]'),
        (datetime.timedelta(days=-1, microseconds=1), '["L", -1, 0, 1]'),
        (datetime.date(2020, 2, 29), '["Y", "2020-02-29"]'),
        (iter([1]), '["n", 1]'),
        ({1: 2}.items(), '["I", ["t", 1, 2]]'),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_written(value, text):
    assert written(value) == text


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 1 << 53, -(1 << 53) - 1, 7**5000, 0.1, float("inf"), 1e-320),
        *("", "abc", "\u00e9\U0001f600\0", "\ud800", b"", b"\x00\xff", bytearray(b"ab"), 1 + 2j, range(2, 9, 3), ...),
        *([], [1, [2, [3]]], (), (1,), ((), []), {}, {"a": [1]}, {(1, 2): {3: 4}}, set(), {1, "a"}, frozenset({(1,)})),
        *(deque([1, 2]), Decimal("1.10"), Decimal("-0"), Fraction(-1, 3), slice(1, None), range(10**30)),
        *(datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 1, 1, 2, 3, 4), datetime.time(1, 2)),
        *(datetime.timedelta(days=-1, microseconds=1), {1: True, 2: 1, 3: 1.0}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_survive_exactly(value):
    assert same(there_and_back(value), value)


def test_signs_and_numbers_that_are_none():
    assert math.copysign(1, there_and_back(-0.0)) == -1
    assert math.isnan(there_and_back(float("nan")))


class Liar(int):
    """Says that it is 1, and equal to everything."""

    def __eq__(self, other):
        return True

    def __index__(self):
        return 1

    __int__ = __index__
    __hash__ = int.__hash__


class LyingText(str):
    __slots__ = ()

    def __str__(self):
        return "other"


class LyingList(list):
    def __iter__(self):
        return iter([1])


class LyingDict(dict):
    def items(self):
        return {1: 1}.items()


class Colour(enum.IntEnum):
    RED = 3


Point = namedtuple("Point", "x y")


@pytest.mark.parametrize(
    ("value", "held"),
    [
        (Liar(5), 5),
        (LyingText("text"), "text"),
        (LyingList([2]), [2]),
        (LyingDict({2: 2}), {2: 2}),
        (Colour.RED, 3),
        (Point(1, [Liar(2)]), (1, [2])),
        (Counter("aab"), {"a": 2, "b": 1}),
        (OrderedDict([("b", 1), ("a", 2)]), {"b": 1, "a": 2}),
        (defaultdict(list, {1: [2]}), {1: [2]}),
        (deque([1], maxlen=2), deque([1])),
        ({LyingText("k"): 1}, {"k": 1}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_derives_from_a_plain_type_is_what_it_holds(value, held):
    assert same(there_and_back(value), held)


@pytest.mark.parametrize("make", [lambda: map(str, [1, 2]), lambda: iter(["1", "2"]), lambda: itertools.chain("12")])
def test_iterators_are_what_they_yield(make):
    found = there_and_back(make())
    assert next(found) == "1"
    assert list(found) == ["2"]
    assert there_and_back(make()) != ["1", "2"]


def test_views_are_views():
    mapping = {1: "a", 2: "b"}
    assert there_and_back(mapping.keys()) == {1, 2}
    assert list(there_and_back(mapping.values())) == ["a", "b"]
    assert there_and_back(mapping.items()) == {(1, "a"), (2, "b")}


def test_iterators_are_bounded(monkeypatch):
    monkeypatch.setattr(wire, "MAX_ITEMS", 3)
    assert list(there_and_back(iter(range(3)))) == [0, 1, 2]
    with pytest.raises(ValueError, match="more than 3 items"):
        written(itertools.count())


def test_aliases_and_cycles_survive():
    inner: list = []
    value = [inner, inner, {"k": inner}]
    inner.append(value)
    found = there_and_back(value)
    assert found[0] is found[1] is found[2]["k"]
    assert found[0][0] is found


def test_equal_containers_stay_apart():
    first, second = there_and_back([[1], [1]])
    assert first == second
    assert first is not second


def test_known_containers_are_referred_to_and_updated():
    rows, more = [1], {"a": 1}
    encoder = Encoder(nothing_else, [rows, more])
    assert encoder.encode([more, rows]) == ["l", ["r", 1], ["r", 0]]
    decoder = Decoder(nothing_else, [rows, more])
    decoder.update(rows, ["l", 5, ["r", 1]])
    decoder.update(more, ["d", "b", 2])
    assert rows == [5, {"b": 2}]
    assert rows[1] is more


def test_everything_else_is_left_to_the_caller():
    seen = []

    def other(value):
        seen.append(value)
        return ["h", len(seen) - 1]

    class Apart(str):
        __slots__ = ()

    assert Encoder(other).encode([len, int, Apart("x")]) == ["l", ["h", 0], ["h", 1], "x"]
    assert seen == [len, int]
    assert Encoder(other, apart=__name__).encode(Apart("x")) == ["h", 2]


@pytest.mark.parametrize(
    "item",
    [
        *({"passed": True}, [], ["?"], [["l"]], ["i", "xyz"], ["i", 5], ["i"], ["b", 5], ["r", 0], ["r", "a"], ["r"]),
        *(["d", 1], ["d", ["l"], 1], ["s", ["l"]], ["g", "eval"], ["N", "x"], ["F", 1, 0], ["S", "yesterday"]),
        *(["R", 0, 1, 0], ["R", 0.5], ["c", "x"], ["B", 256], ["K", ["l"]], ["I", 1], ["L", 1e300], ["t", ["r", 0]]),
    ],
    ids=str,
)
def test_what_is_no_value_is_refused(item):
    with pytest.raises(MALFORMED):
        Decoder(nothing_else).decode(item)


def test_what_nests_too_deeply_is_refused():
    item: list = []
    for _ in range(10_000):
        item = ["l", item]
    with pytest.raises(RecursionError):
        Decoder(nothing_else).decode(item)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EOFError),
        (b"\0\0", EOFError),
        (b"\0\0\0\5ab", EOFError),
        (b"\xff\xff\xff\xff", wire.TooLargeError),
        (b"\0\0\0\1x", ProtocolError),
        (b"\0\0\0\2\xff\xfe", ProtocolError),
    ],
)
def test_what_is_no_message_is_refused(data, error):
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with pytest.raises(error):
        wire.receive(reader)
    os.close(reader)


def test_messages_follow_one_another():
    reader, writer = os.pipe()
    wire.send(writer, {"a": "\u00e9"})
    wire.send(writer, [1])
    assert (wire.receive(reader), wire.receive(reader)) == ({"a": "\u00e9"}, [1])
    with pytest.raises(wire.TooLargeError):
        wire.send(writer, "x" * (wire.MAX_MESSAGE + 1))
    os.close(reader)
    os.close(writer)


class OwnError(KeyError):
    def __init__(self, key, code):
        super().__init__(key)
        self.code, self._hidden = code, 1


def crossed(error: BaseException) -> BaseException:
    text = json.dumps(wire.write_error(error, Encoder(nothing_else).encode))
    return wire.read_error(json.loads(text), Decoder(nothing_else).decode)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("x", 1), ValueError),
        (OwnError("k", 404), KeyError),
        (FileNotFoundError(2, "no", "x"), FileNotFoundError),
        (json.JSONDecodeError("bad", "doc", 1), json.JSONDecodeError),
        (StopIteration(3), RuntimeError),
        (StopAsyncIteration(), RuntimeError),
        (SystemExit(3), SystemExit),
        (type("E", (AssertionError, ValueError), {})("both"), AssertionError),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_exceptions_arrive_as_the_nearest_standard_class(error, kind):
    found = crossed(error)
    assert type(found) is kind
    if kind is not RuntimeError:
        assert found.args == error.args


def test_exceptions_keep_their_public_attributes():
    found = crossed(OwnError("k", 404))
    assert vars(found) == {"code": 404}
    assert crossed(SystemExit(3)).code == 3
    assert crossed(FileNotFoundError(2, "no")).errno == 2
    assert crossed(json.JSONDecodeError("bad", "doc", 1)).pos == 1


def test_the_exceptions_of_test_frameworks_are_plain_ones():
    import unittest

    assert type(crossed(unittest.SkipTest("not today"))) is Exception


@pytest.mark.parametrize(
    "item",
    [
        *(None, [], 5, [[], ["l"], {}], [[["builtins", "eval"]], ["l"], {}], [[["builtins", "int"]], ["l"], {}]),
        *([[["os", "system"]], ["l"], {}], [[["builtins", "ValueError"]], 5, {}], [[["builtins"]], ["l"], {}]),
        *([[["builtins", "ValueError"]], ["l"], []], [[["bstar_trl.errors", "BStarError"]], ["l"], {}]),
        [[[5, "ValueError"]], ["l"], {}],
    ],
    ids=str,
)
def test_what_is_no_exception_is_refused(item):
    with pytest.raises(MALFORMED):
        wire.read_error(item, Decoder(nothing_else).decode)
