"""Is what a program wrote to standard output the expected output?"""

from __future__ import annotations

import re
from decimal import Decimal

LONGEST_NUMBER = 400  # characters; longer words are compared as texts
TOLERANCE = Decimal("1e-6")
# No leading zeros: `007` and `00101` are texts. Neither `nan` nor `inf` is a number.
_NUMBER = re.compile(r"[+-]?(?:(?:0|[1-9][0-9]*)(?:\.([0-9]*))?|\.([0-9]+))(?:[eE]([+-]?[0-9]{1,4}))?")


def same_output(found: str, expected: str) -> bool:
    """Equal word by word and blank by blank, but for blanks at line ends and empty lines at the end.

    Words are equal as texts or as numbers. As a number, an expected integer is met exactly (by `6`, `6.0` or `6e0`).
    An expected decimal is met within 1e-6, absolute or relative; if it has more than six places, its last place takes
    the place of the absolute tolerance: `2e-7` is not `1e-7`.
    """
    # Words, and the blanks between them.
    left, right = (
        re.split(r"(\s+)", "\n".join(line.rstrip() for line in text.rstrip().splitlines()))
        for text in (found, expected)
    )
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(found: str, expected: str) -> bool:
    if found == expected or max(len(found), len(expected)) > LONGEST_NUMBER:
        return found == expected
    number = _NUMBER.fullmatch(expected)
    if not number or not _NUMBER.fullmatch(found):
        return False
    left, right = Decimal(found), Decimal(expected)
    places = len(number[1] or number[2] or "") - int(number[3] or 0)
    if left == right or places <= 0:
        return left == right
    last_place = Decimal(10) ** -places
    return abs(left - right) < max(min(TOLERANCE, last_place), TOLERANCE * abs(right))
