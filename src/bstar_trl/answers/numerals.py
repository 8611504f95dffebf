r"""Numbers in answers and in running text, with what they run into.

Exact numbers are read from integers, decimals, numbers with thousands separators, `a/b`, `\frac{a}{b}`, mixed numbers,
`1.5e3` and `1.5 \times 10^{3}`. A number that runs into letters is one word with them, and is never cut:

- `12th` is 12; in running text an ordinal counts only if there is no other number;
- `1.5k`, `3M`, `2bn`, "4 million", "3 lakh" are multiplied;
- `5km`, `6m`, "40 m^2", "18 dollars per day" are numbers with a unit, which is dropped;
- `\Omega` and `\frac{km}{h}` are units, too; `twenty-five` and `two thirds` are numbers;
- `2.75x faster` is 2.75; `25x`, `5y`, `65i`, `2ab` are products, so no numbers.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import NamedTuple

from .notation import clean, outside_of_text, unwrapped
from .words import asked, number_in_words, taken_back

DIGITS = 400  # longer numerals are ignored: no answer has so many digits, and their conversion takes quadratic time
TOLERANCE = Fraction(1, 2_000_000)  # half a unit of the sixth decimal
RELATIVE_TOLERANCE = Fraction(1, 10_000)  # keeps 0.0000001 and 0.0000002 apart

ANSWER_LENGTH = 1000  # characters: a longer answer equals no gold answer, and parsing it would only cost time
UNIT_LENGTH = 80  # characters
LINE_LENGTH = 10_000  # characters at the end of a line of running text in which numbers are looked for
TRIED = 100  # numbers of running text that are denied, before the text counts as stating none
_DIGIT = re.compile("[0-9]")

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})++(?![0-9])(?:\.[0-9]++)?+|[0-9]++(?:\.[0-9]++)?+|\.[0-9]++)"
_FRACTION = rf"\\frac\s?\{{\s?-?{_PLAIN}\s?\}}\s?\{{\s?{_PLAIN}\s?\}}"
_POWER = (
    r"(?:[eE](?P<power>[-+]?[0-9]{1,3})(?![0-9])"
    r"|\s?(?:\\times|\\cdot|[x*])\s?10\s?\^\s?(?:\{\s?(?P<power2>-?[0-9]{1,3})\s?\}|(?P<power3>-?[0-9]{1,3})))"
)
_NUMBER = (
    rf"(?:(?P<whole>[0-9]++)\s?(?P<mixed>{_FRACTION})|(?P<whole2>[0-9]++)\s(?P<mixed2>[0-9]++/[0-9]++)"
    rf"|(?P<fraction>{_FRACTION}|{_PLAIN}\s?/\s?{_PLAIN})|(?P<plain>{_PLAIN}){_POWER}?+)"
)
_LEAD = (
    r"(?:(?:[a-zA-Z][a-zA-Z .'\-]{0,40}[=:]|USD?\b|EUR\b|GBP\b|INR\b|Rs\.?|=|\\approx\b"
    r"|(?:about|approx(?:\.|imately)?|roughly|around|exactly|only|just|[tT]otal)\b)\s?){0,3}"
)
_ANSWER = re.compile(rf"{_LEAD}(?P<sign>[-+]|(?:minus|negative)\b)?\s?{_NUMBER}(?P<percent>\s?%)?")
_GROUPED = re.compile(  # blanks, apostrophes and underscores between thousands, and lakhs (12,34,567)
    r"(?<![\w.,])(?:[0-9]{1,3}(?:(?: [0-9]{3})++|(?:'[0-9]{3})++|(?:_[0-9]{3})++)"
    r"|[0-9]{1,2}(?:,[0-9]{2}){1,9},[0-9]{3})(?![\w,'])"
)
_RUNNING = re.compile(
    rf"(?P<sign>(?<![\w)}}\]%.])-|\bnegative )?(?<![\w.^_\\])(?<!\^\{{)(?<!_\{{)(?P<text>{_NUMBER})"
    r"(?P<run>-?[a-zA-Z]++)?+(?P<scale> (?:hundred|thousand|million|billion|trillion|lakh|crore)\b)?(?P<percent> ?%)?"
    r"(?P<product> ?(?:\^(?! ?\{? ?\\circ)|_)| (?![aAIKmgshLltdpcWNJVCF])[a-zA-Z](?![\w'])(?!\.[a-z]))?"
)

_DEGREES = re.compile(r"(?:\^ ?(?:\\circ|\{ ?\\circ ?\})|\\degrees?(?![a-zA-Z])) ?[CF]?")
_ORDINAL = re.compile(r" ?(?:\^ ?)?\{? ?(?:st|nd|rd|th)s?\b ?\}?")
_GLUED_SCALES = {"k": 10**3, "K": 10**3, "M": 10**6, "mn": 10**6, "mln": 10**6, "B": 10**9, "bn": 10**9, "bln": 10**9}
_SCALES = {
    "hundred": 10**2, "thousand": 10**3, "lakh": 10**5, "million": 10**6, "crore": 10**7, "billion": 10**9,
    "trillion": 10**12,
}  # fmt: skip
_OHMS = re.compile(r"(?<=[0-9]) ?[kM]? ?\\Omega(?![a-zA-Z]) ?$")
_RATIO_OF_UNITS = re.compile(  # \frac{km}{h}
    r"(?<=[0-9 ])\\frac ?\{ ?([a-zA-Z]{1,12}(?:\^[1-9])?) ?\} ?\{ ?([a-zA-Z]{1,12}(?:\^[1-9])?) ?\}"
)
_FORMULA_UNITS = "mgshL"  # single letters that are units in a formula, too: other letters are variables there
_PROSE_UNITS = "mgshLltdpcWNJVCFA"
_SHORT_UNITS = re.compile(
    "mm|cm|dm|km|mi|ft|yd|in|mg|kg|lbs?|oz|[mdck][lL]|gal|qt|pt|hrs?|min|sec|ms|ns|am|pm|yrs?|mo|wks?|mph|kmh|kph|rpm"
    "|[kMG]?Hz|k?Pa|[kM]W|k?Wh|[kM]J|kN|eV|mol|amu|cal|dB|[KMGT]B|kb|cc|sq|cu|deg|rad|usd|eur|USD|EUR|GBP|INR|Rs|gms?"
    "|fl|ha|cts|mA|kV"
)
_LAST_LETTERS = re.compile(r"(?<=[0-9}\s])(?:[othclsgmd]|ab|bc)$")  # math-verify would drop them as units
_UNIT = re.compile(r"(?:[a-zA-Z][a-zA-Z'.]*+(?: ?\^ ?(?:[1-9]|\{-?[1-9]\}))?(?: ?\\cdot)?[ /\-*]{0,3}){1,12}")
# Words after a number that are not units: with one of them the text is not a quantity.
_NO_UNITS = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|sec|csc|cot|log|ln|exp|mod|plus|minus|times|over|divided|squared|cubed|and|or|to|half|"
    r"quarter|third|am|pm|not|infinity)\b"
)
_FUNCTIONS = re.compile(r"sin|cos|tan|log|ln|exp|sqrt|pi(?!e)")
_COMPARED = re.compile(r"x (?:as|more|less|the|\w{2,12}er)\b|y old\b")  # 3x as many, 2.75x faster; 20y old


@dataclass(frozen=True)
class Numeral:
    """A number and how it was written.

    Attributes:
        value (`Fraction`): the number; `50%` has the value 50.
        decimal (`bool`): written with a decimal point, so possibly rounded.
        percent (`bool`): written with a percent sign.
    """

    value: Fraction
    decimal: bool = False
    percent: bool = False


def read_numeral(text: str) -> Numeral | None:
    """The number that makes up `text`, apart from a currency and a unit; `None` if `text` is anything else."""
    if len(text) > ANSWER_LENGTH:
        return None
    text = _OHMS.sub(" ohms", _RATIO_OF_UNITS.sub(r" \1/\2", unwrapped(clean(text))))
    text = re.sub(r"\{ ?([a-zA-Z ]*)\}", r"\1", text)
    text = _GROUPED.sub(lambda found: re.sub("[ ',_]", "", found[0]), " ".join(text.split()))
    if text[:1].isalpha():
        text = number_in_words(text) or text
    match = _ANSWER.match(text)
    if match is None or match.end() > DIGITS:
        return None
    scale = _scale(text[match.end() :], after_percent=bool(match["percent"]))
    if scale is None:
        return None
    part = match["mixed"] or match["mixed2"] or match["fraction"]
    try:
        value = _ratio(part) if part else _exact(match["plain"])
    except ZeroDivisionError:
        return None
    value += Fraction(match["whole"] or match["whole2"] or 0)
    value *= Fraction(10) ** int(match["power"] or match["power2"] or match["power3"] or 0)
    value *= -1 if match["sign"] in ("-", "minus", "negative") else 1
    percent = bool(match["percent"]) or scale == 0
    return Numeral(value * (scale or 1), decimal="." in (match["plain"] or part or ""), percent=percent)


def numerals_in(text: str) -> list[str]:
    """The numbers in a line of running text, each with a sign and a scale but without its unit.

    Exponents, indices, coefficients and labels (`CO2`) do not count, and ordinals only if there is nothing else.
    """
    found = list(_tokens(clean(text)))
    return [item.text for item in found if not item.ordinal] or [item.text for item in found]


def last_numeral(text: str, denied: Collection[Fraction] = ()) -> str | None:
    """The last number that running text states.

    Numbers that the text denies, bounds or asks for ("not 7", "more than 7", "is it 7?") do not count, nor do numbers
    that it denies later, or whose value is among `denied`.
    """
    refused = set(denied)
    last_ordinal = None
    tried = 0
    for line in reversed(text.split("\n")):
        if line.isascii() and not _DIGIT.search(line):
            continue
        line = clean(line[-LINE_LENGTH:])
        for token in reversed(list(_tokens(line))):
            tried += 1
            if tried > TRIED:
                return last_ordinal
            value = numeral.value if (numeral := read_numeral(token.text)) else None
            if taken_back(line, token.start, token.end):
                refused.update(() if value is None else (value,))
            elif value not in refused and not asked(line, token.end):
                if not token.ordinal:
                    return token.text
                last_ordinal = last_ordinal or token.text
    return last_ordinal


def equal_numerals(one: Numeral, other: Numeral) -> bool:
    """Whether two numbers are equal.

    They must be equal exactly or, if one is written with a decimal point, to six decimals: 0.333333 equals 1/3,
    0.3333 does not. A percent sign counts as a unit or as 1/100: 50% equals 50 and 0.5.
    """
    rounded = one.decimal or other.decimal
    if _close(one.value, other.value, rounded):
        return True
    return one.percent != other.percent and _close(
        one.value / (100 if one.percent else 1), other.value / (100 if other.percent else 1), rounded
    )


class _Token(NamedTuple):
    start: int
    end: int
    text: str
    ordinal: bool


def _tokens(line: str) -> Iterator[_Token]:
    for match in _RUNNING.finditer(line):
        run = match["run"] or ""
        ordinal = bool(run and _ORDINAL.fullmatch(run))
        if match["product"] or not (ordinal or _ends_a_number(run, line[match.start("run") :][:20])):
            continue
        sign = "-" if match["sign"] else ""
        suffix = (run if ordinal or run in _GLUED_SCALES else "") + (match["scale"] or "") + (match["percent"] or "")
        yield _Token(match.start(), match.end(), sign + match["text"] + suffix, ordinal)


def _ends_a_number(run: str, after: str) -> bool:
    """Whether the letters right after a number in running text are its scale or its unit, not a variable."""
    if not run or run.startswith("-") or run in _GLUED_SCALES or _SHORT_UNITS.fullmatch(run):
        return True
    if len(run) == 1:
        return run in _PROSE_UNITS or bool(_COMPARED.match(after))
    return len(run) > 3 and not _FUNCTIONS.match(run)


def _scale(rest: str, *, after_percent: bool) -> int | None:
    """The factor of what follows a number: 1 for a unit, a million, ...; 0 for a percentage, `None` for the rest."""
    glued = rest[:1].isalpha()
    unit = (
        _DEGREES.sub("", _ORDINAL.sub("", rest, count=1) if _ORDINAL.match(rest) else rest).lstrip(" -").rstrip(" .")
    )
    if not unit:
        return 1
    words = re.findall(r"[a-zA-Z]+", unit)
    if len(unit) > UNIT_LENGTH or not _UNIT.fullmatch(unit) or _NO_UNITS.search(re.sub("[.']", "", unit.lower())):
        return None
    first, *others = words
    if first.lower() in ("percent", "pct", "percentage") and not after_percent:
        return 0
    if first.lower().rstrip("s") in _SCALES:
        return _SCALES[first.lower().rstrip("s")]
    if glued and first in _GLUED_SCALES:
        return _GLUED_SCALES[first]
    # A single letter may be a variable, as in 5 x, and a few letters may be a product, as in 2ab.
    if any(len(word) == 1 and word not in _PROSE_UNITS + "aK" for word in others):
        return None
    if len(first) == 1:
        known = first in _FORMULA_UNITS or (first == "a" and bool(others)) or bool(_COMPARED.match(unit))
    elif len(first) <= 3:
        word = not glued and len(first) == 3 and re.search("[aeiou]", first)
        known = bool(_SHORT_UNITS.fullmatch(first) or word or (first == "of" and others))  # 18 of them
    else:
        known = not (glued and _FUNCTIONS.match(first))
    return 1 if known else None


def with_explicit_product(text: str) -> str:
    r"""A formula that says that its last letter is a variable: math-verify drops the t of `5t`, the h of `\pi r^2 h`.

    After nothing but numbers and constants the letters of units are units: `10\sqrt{3} m`.
    """
    last = _LAST_LETTERS.search(text)
    if last is None:
        return text
    others = re.search("[a-zA-Z]", re.sub(r"\\[a-zA-Z]+", "", outside_of_text(text[: last.start()])))
    return text + r" \cdot 1" if others or last[0] not in _FORMULA_UNITS else text


def _exact(plain: str) -> Fraction:
    return Fraction(plain.replace(",", ""))


def _ratio(text: str) -> Fraction:
    upper, lower = re.findall(rf"-?{_PLAIN}", text)
    sign = -1 if upper.startswith("-") else 1
    return sign * _exact(upper.lstrip("-")) / _exact(lower.lstrip("-"))


def _close(one: Fraction, other: Fraction, rounded: bool) -> bool:
    if one == other:
        return True
    distance = abs(one - other)
    return rounded and distance < TOLERANCE and distance <= RELATIVE_TOLERANCE * max(abs(one), abs(other))
