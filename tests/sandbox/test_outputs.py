"""When a program's output counts as the expected one."""

from __future__ import annotations

import pytest

from bstar_trl.sandbox.outputs import same_output


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [
        ("*\n* *\n  *", "  *\n*   *\n*", False),
        ("  * \n*\n\n", "  *\n*", True),
        ("a  b", "a b", False),
        (" 1.0000001 2", " 1.0 2", True),
        ("1.0 2", " 1.0 2", False),
        ("1\n\n2", "1\n2", False),
        ("1 2 \r\n3\r\n", "1 2\n3", True),
        ("", "\n", True),
        ("YES", "Yes", False),
    ],
)
def test_output_is_compared_by_line(found, expected, equal):
    assert same_output(found, expected) is equal


@pytest.mark.parametrize(
    ("found", "expected", "equal"),
    [
        *(("6.0", "6", True), ("6", "6.0", True), ("6.", "6", True), ("6e0", "6", True), ("-0", "0", True)),
        *(("1e-07", "1e-7", True), ("0.0000001", "1e-7", True), ("1E-7", "1e-07", True), ("100000.0", "1e5", True)),
        *(("2e-7", "1e-7", False), ("0", "1e-7", False), ("0.0000002", "0.0000001", False), ("-1e-7", "1e-7", False)),
        *(("0.3333333333333333", "0.333333", True), ("0.33334", "0.333333", False), (".5", "0.5", True)),
        *(("0.33", "0.333333", False), ("0.6666666666", "0.666666", True), ("1e-9", "0.000000", True)),
        *(("1234567.8", "1234567.9", True), ("123456.8", "123457.9", False)),  # 1e-6, relative
        *(("6.0000001", "6", False), ("5.9999999", "6", False), ("7", "6", False), ("6.1", "6", False)),
        *(("9007199254740993", "9007199254740992", False), ("9007199254740993.0", "9007199254740993", True)),
        *(("1" * 60 + "0", "1" * 60 + "1", False), ("1" * 60 + ".0", "1" * 60, True), ("1" * 500, "1" * 500, True)),
        *(("1" * 500 + ".0", "1" * 500, False), ("0." + "3" * 60, "0.333333", True)),
        *(("1e18", "1000000000000000000", True), ("1e18", "1000000000000000001", False)),
        *(("101", "00101", False), ("7", "007", False), ("07", "7", False), ("00.5", "0.5", False)),
        *(("nan", "nan", True), ("nan", "0.5", False), ("0.5", "nan", False), ("inf", "1e999", False)),
        *(("Infinity", "inf", False), ("inf", "0.5", False), ("1_0", "10", False), ("1,000", "1000", False)),
        *(("0x10", "16", False), ("1e5000", "1e4999", False), ("1e99999", "1.5", False), ("1e-99999", "0.0", False)),
        *(
            ("\u0661", "1", False),
            ("1/2", "0.5", False),
            ("True", "1", False),
            ("1+0", "1", False),
            ("x1.0", "x1", False),
        ),
        *(("1 2.0 3", "1 2 3", True), ("1 2.0 4", "1 2 3", False), ("v1.10", "v1.1", False)),
    ],
)
def test_numbers_are_compared_as_numbers(found, expected, equal):
    assert same_output(found, expected) is equal


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    "text", ["9" * 1_000_000, "9 " * 500_000, "1e9999 " * 100_000, " " * 1_000_000 + "x", "0.0" * 300_000]
)
def test_hostile_output_takes_linear_time(text):
    assert not same_output(text, "1.5")
    assert not same_output(text, text + "1")
    assert same_output(text, text)
