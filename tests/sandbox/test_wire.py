"""Values over the pipe: every plain type survives exactly, nothing else does, and nothing malformed gets through."""

from __future__ import annotations

import datetime
import json
import os
from collections import Counter, OrderedDict, defaultdict, deque
from decimal import Decimal
from fractions import Fraction

import pytest

from bstar_trl.sandbox.codec import Decoder, Encoder, ProtocolError, receive, send
from bstar_trl.sandbox.handles import Handle, behind, number_of


class Nobody:
    """Owns handles that nobody asks."""

    def __init__(self):
        self.faces = {}


def no_handle(value):
    raise AssertionError(f"{value!r} is no plain value")


def there_and_back(value):
    return Decoder(no_handle).decode(json.loads(json.dumps(Encoder(no_handle).encode(value))))


def same(left, right) -> bool:
    """Equal, and of exactly the same types all the way down."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict):
        return len(left) == len(right) and all(
            same(a, b) and same(left[a], right[b]) for a, b in zip(left, right, strict=True)
        )
    if isinstance(left, (list, tuple, deque)):
        return len(left) == len(right) and all(map(same, left, right))
    return left == right


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 1 << 53, -(1 << 53) - 1, 7**5000, 0.1, -0.0, float("inf"), 1e-320),
        *("", "abc", "\u00e9\U0001f600\0", "\ud800", b"", b"\x00\xff", bytearray(b"ab"), 1 + 2j, range(2, 9, 3), ...),
        *([], [1, [2, [3]]], (), (1,), ((), []), {}, {"a": [1]}, {(1, 2): {3: 4}}, set(), {1, "a"}, frozenset({(1,)})),
        *(deque([1, 2]), Counter("aab"), OrderedDict([("b", 1), ("a", 2)]), Decimal("1.10"), Fraction(-1, 3)),
        *(datetime.date(2020, 2, 29), datetime.datetime(2020, 1, 1, 1, 2, 3, 4), datetime.time(1, 2)),
        *(datetime.timedelta(days=-1, microseconds=1), int, str, dict, ValueError, [int, [str]]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_plain_values_survive_exactly(value):
    assert same(there_and_back(value), value)


def test_not_a_number_survives():
    value = there_and_back(float("nan"))
    assert value != value


def test_a_defaultdict_keeps_its_function():
    value = there_and_back(defaultdict(list, {"a": [1]}))
    assert type(value) is defaultdict
    assert value == {"a": [1]}
    assert value["b"] == []


def test_aliases_and_cycles_survive():
    inner = [1]
    value = there_and_back([inner, inner, {"x": inner}])
    assert value[0] is value[1] is value[2]["x"]
    cycle = [1]
    cycle.append(cycle)
    value = there_and_back(cycle)
    assert value[1] is value


class Liar:
    """Claims to equal everything, to be empty, and to hold something else."""

    __hash__ = object.__hash__

    def __eq__(self, other):
        return True

    def __len__(self):
        return 0

    def __iter__(self):
        return iter(["lie"])

    def __str__(self):
        return "lie"

    def __index__(self):
        return 99

    def items(self):
        return [("lie", 1)]


@pytest.mark.parametrize("value", [7, 1 << 80, 2.5, "abc", (1, 2), frozenset({1})], ids=repr)
def test_a_subclass_of_an_immutable_type_is_what_it_really_holds_and_a_handle(value):
    lying = type("Lying", (Liar, type(value)), {})(value)
    item = json.loads(json.dumps(Encoder(lambda lent: ["h", 5]).encode(lying)))
    face = Decoder(lambda item: Handle(Nobody(), item[1])).decode(item)
    assert isinstance(face, type(value))
    assert face == value
    assert value == face
    assert face != type(value)()
    assert hash(face) == hash(value)
    assert number_of(behind(face)) == 5
    assert Encoder(lambda lent: ["h", number_of(lent)]).encode([face]) == ["l", ["h", 5]]  # goes back as what it was


@pytest.mark.parametrize("value", [[1, 2], {"a": 1}, {1}, deque([1])], ids=repr)
def test_a_subclass_of_a_container_is_a_handle_or_what_it_really_holds(value):
    lying = type("Lying", (Liar, type(value)), {})(value)
    assert Encoder(lambda lent: ["h", 5], keeps_containers=True).encode(lying) == ["h", 5]
    assert same(there_and_back(lying), value)


def test_everything_else_is_a_handle():
    seen = []

    def handle(value):
        seen.append(value)
        return ["h", len(seen) - 1]

    liar = Liar()
    assert Encoder(handle).encode([liar, len, liar.items]) == ["l", ["h", 0], ["h", 1], ["h", 2]]
    assert seen[0] is liar


def test_what_nests_too_deeply_is_a_handle_as_a_whole():
    value = []
    for _ in range(100_000):
        value = [value]
    encoder = Encoder(lambda item: ["h", 0])
    assert encoder.encode(value) == ["h", 0]
    assert encoder.encode([1]) == ["l", 1]
    assert encoder.containers == [[1]]


@pytest.mark.parametrize(
    "item",
    [
        {"passed": True},
        [],
        ["?"],
        [["l"]],
        ["i", "xyz"],
        ["i", 5],
        ["b", 5],
        ["r", 0],
        ["r", -1],
        ["r", "a"],
        ["d", 1],
        ["d", ["l"], 1],
        ["s", ["l"]],
        ["g", "eval"],
        ["g", "__import__"],
        ["g", "nothing"],
        ["t", ["r", 0]],
        ["N", "x"],
        ["F", "0x1", "0x0"],
        ["S", "yesterday"],
        ["R", "0x0", "0x1", "0x0"],
        ["c", "x"],
    ],
    ids=str,
)
def test_what_is_no_value_is_refused(item):
    def handle(found):
        raise ProtocolError("no handle")

    with pytest.raises(ProtocolError):
        Decoder(handle).decode(item)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EOFError),
        (b"\0\0", EOFError),
        (b"\0\0\0\5ab", EOFError),
        (b"\xff\xff\xff\xff", ProtocolError),
        (b"\0\0\0\1x", ProtocolError),
        (b"\0\0\0\2\xff\xfe", ProtocolError),
    ],
)
def test_what_is_no_message_is_refused(data, error):
    reader, writer = os.pipe()
    os.write(writer, data)
    os.close(writer)
    with pytest.raises(error):
        receive(reader)
    os.close(reader)


def test_messages_follow_one_another():
    reader, writer = os.pipe()
    send(writer, {"a": "\u00e9"})
    send(writer, [1])
    assert (receive(reader), receive(reader)) == ({"a": "\u00e9"}, [1])
    os.close(reader)
    os.close(writer)
