r"""The spelling of answers: LaTeX and Unicode forms, numbers, words.

Exact numbers are read from integers, decimals, numbers with thousands commas, `a/b`, `\frac{a}{b}`, mixed numbers,
`1.5e3` and `1.5 \times 10^{3}`; `x = ` and a currency may stand before them, a percent sign or a unit after them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

DIGITS = 400  # longer numerals are ignored: no answer has so many digits, and their conversion takes quadratic time
TOLERANCE = Fraction(1, 2_000_000)  # half a unit of the sixth decimal
RELATIVE_TOLERANCE = Fraction(1, 10_000)  # keeps 0.0000001 and 0.0000002 apart
SHOWN_LENGTH = 60  # characters

_SPELLINGS = str.maketrans(
    {
        "\u2212": "-", "\u2013": "-", "\uff0d": "-", "\u00a0": " ", "\u202f": "", "\u2009": "", "\u0000": " ",
        "\u03c0": "\\pi ", "\u00d7": "\\times ", "\u00b7": "\\cdot ", "\u22c5": "\\cdot ", "\u00f7": "/",
        "\u221e": "\\infty ", "\u222a": "\\cup ", "\u2229": "\\cap ", "\u2264": "\\le ", "\u2265": "\\ge ",
        "\u2260": "\\ne ", "\u00b0": "^\\circ ", "\u00b2": "^2", "\u00b3": "^3", "\u00bd": "\\frac{1}{2}",
        "\u00bc": "\\frac{1}{4}", "\u00be": "\\frac{3}{4}",
    }
)  # fmt: skip
_REWRITES = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"(?<!\\)\\!|\{,\}(?:\\!)?|(?<!\\)\\,(?=[0-9]{3}(?![0-9]))|\\displaystyle(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[,;: ]|\\q?quad(?![a-zA-Z])|~", " "),
        (r"\\(?:left|right)(?![a-zA-Z])\.?", ""),
        (r"\\[dtc]frac(?![a-zA-Z])", r"\\frac"),
        (r"\\frac\s?([0-9])\s?([0-9])(?![0-9])", r"\\frac{\1}{\2}"),
        (r"\\frac\s?([0-9])\s?\{", r"\\frac{\1}{"),
        (r"\\frac\s?(\{[^{}]{0,200}\})\s?([0-9])(?![0-9])", r"\\frac\1{\2}"),
        (r"\\sqrt\s?([0-9a-zA-Z])(?![0-9])", r"\\sqrt{\1}"),
        (r"\u221a\s?\(([^()]{0,200})\)", r"\\sqrt{\1}"),
        (r"\u221a\s?([0-9]{1,200}|[a-zA-Z])", r"\\sqrt{\1}"),
        (r"(?<![\\a-zA-Z])pi(?![a-zA-Z])", r"\\pi "),
        (r"\\?[$\u20ac\u00a3\u00a5]|(?<!\\)\\[()\[\]]", ""),
        (r"(?<!\\)\\%", "%"),
        (r"\s+", " "),
    )
]
_WRAPPER = re.compile(r"\\(?:text|mbox|mathrm|textrm|textbf|textit|mathbf)\s?\{([^{}]{0,500})\}")

_PLAIN = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])(?:\.[0-9]+)?|[0-9]+(?:\.[0-9]+)?|\.[0-9]+)"
_FRACTION = rf"\\frac ?\{{ ?-?{_PLAIN} ?\}} ?\{{ ?{_PLAIN} ?\}}"
_NUMERAL = re.compile(
    rf"""(?:[a-zA-Z]\ ?=\ ?)? (?P<sign>[-+]?)\ ?
        (?: (?P<whole>[0-9]+)\ ?(?P<mixed>{_FRACTION}) | (?P<whole2>[0-9]+)\ (?P<mixed2>[0-9]+/[0-9]+)
          | (?P<fraction>{_FRACTION}|{_PLAIN}\ ?/\ ?{_PLAIN})
          | (?P<plain>{_PLAIN})
            (?: [eE](?P<power>[-+]?[0-9]{{1,3}})
              | \ ?(?:\\times|\\cdot|[x*])\ ?10\ ?\^\ ?
                (?:\{{\ ?(?P<power2>-?[0-9]{{1,3}})\ ?\}}|(?P<power3>-?[0-9]{{1,3}}))
            )?
        ) (?![0-9]) (?P<percent>\ ?%)?""".replace("\\ ", "[ ]"),
    re.VERBOSE,
)  # fmt: skip
_ANYWHERE = re.compile(
    rf"""(?:(?<![\w)}}\]%.])-)? (?<![\w.^_\\])(?<!\^\{{)(?<!_\{{)
        (?: [0-9]+[ ]?{_FRACTION} | [0-9]+[ ][0-9]+/[0-9]+ | {_FRACTION} | {_PLAIN}(?:/{_PLAIN})? )
        (?! (?:st|nd|rd|th)\b | [abijknpqrtuvwxyz](?![a-zA-Z]) ) (?:[ ]?%)?""".replace(" ?", "[ ]?"),
    re.VERBOSE,
)
_DEGREES = re.compile(r"(?:\^ ?(?:\\circ|\{ ?\\circ ?\})|\\degrees?(?![a-zA-Z])) ?[CF]?")
_UNIT = re.compile(r"[a-zA-Z][a-zA-Z'.\- /]{0,60}(?:\^ ?(?:[23]|\{[23]\}))?")
_SCALES = {"hundred": 10**2, "thousand": 10**3, "million": 10**6, "billion": 10**9, "trillion": 10**12}
# Words after a number that are not units: with one of them the text is not a quantity.
_NO_UNITS = re.compile(
    r"\b(?:pi|sqrt|sin|cos|tan|sec|csc|cot|log|ln|exp|mod|plus|minus|times|over|divided|squared|cubed|and|or|to|half|"
    r"quarter|third|am|pm|not|infinity)\b"
)
_TIME_OF_DAY = re.compile(r"[0-9]\s{0,3}[ap]\.?\s?m\b", re.IGNORECASE)


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


def clean(text: str) -> str:
    """The text with one spelling for everything that LaTeX, Unicode and Markdown can spell in several ways."""
    text = text.translate(_SPELLINGS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    return text.strip(" *_`").rstrip(".").rstrip()


def normal_form(text: str) -> str:
    """A form that two answers share only if they differ in nothing but spelling and blanks."""
    text = clean(text)
    text = _WRAPPER.sub(r"\1", text).strip() if _WRAPPER.fullmatch(text) else text
    text = re.sub(r" ?([^A-Za-z0-9\s]) ?", r"\1", text)
    return text[1] if len(text) == 3 and text[0] == "(" and text[2] == ")" else text


def read_numeral(text: str) -> Numeral | None:
    """The number that makes up `text`, apart from a currency and a unit; `None` if `text` is anything else."""
    text = clean(text)
    match = _NUMERAL.match(text)
    if match is None or match.end() > DIGITS:
        return None
    scale = _scale(text[match.end() :].strip(), after_percent=bool(match["percent"]))
    if scale is None:
        return None
    part = match["mixed"] or match["mixed2"] or match["fraction"]
    try:
        value = _ratio(part) if part else _exact(match["plain"])
    except ZeroDivisionError:
        return None
    value += Fraction(match["whole"] or match["whole2"] or 0)
    value *= Fraction(10) ** int(match["power"] or match["power2"] or match["power3"] or 0)
    value *= -1 if match["sign"] == "-" else 1
    percent = bool(match["percent"]) or scale == 0
    return Numeral(value * (scale or 1), decimal="." in (match["plain"] or part or ""), percent=percent)


def last_numeral(text: str) -> str | None:
    """The last number in running text, verbatim; exponents, indices, ordinals and coefficients do not count."""
    numerals = numerals_in(text)
    return numerals[-1] if numerals else None


def numerals_in(text: str) -> list[str]:
    """The numbers in running text, verbatim."""
    return _ANYWHERE.findall(clean(text))


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


def wording(text: str) -> str | None:
    r"""The letters of an answer in words, such as `\text{Monday}`, "not enough" or "8:34 p.m."; else `None`."""
    text = clean(text)
    outside = _WRAPPER.sub("", text)
    wrapped = outside != text and not re.search(r"[\w\\]", outside)
    # Two or three bare letters may be a product of variables.
    words = re.fullmatch(r"(?:[^\W\d_]|[' ,.\-])+", text) and re.search(r"[a-zA-Z]{4}|[^\W\d_a-zA-Z]", text)
    if (wrapped or words or _TIME_OF_DAY.search(_WRAPPER.sub(r"\1", text))) and text != "infinity":
        return letters(text) or None
    return None


def letters(text: str) -> str:
    """Only letters, digits and colons, in lower case; two wordings with equal letters are equal."""
    return re.sub(r"[^\w:]|_", "", _WRAPPER.sub(r"\1", clean(text)).lower())


def shown(text: str) -> str:
    """The text for a reason: at most 60 characters, one line, valid UTF-8, since reasons go to logs and files."""
    text = " ".join(text.encode("utf-8", "replace").decode().replace("\0", " ").split())
    return text if len(text) <= SHOWN_LENGTH else text[: SHOWN_LENGTH - 3] + "..."


def _scale(unit: str, *, after_percent: bool) -> int | None:
    """The factor of a unit: 1, a million, ...; 0 for a percentage, `None` if `unit` is not a unit."""
    unit = _WRAPPER.sub(r" \1 ", _DEGREES.sub("", unit)).strip().rstrip(".")
    unit = re.sub(r" +", " ", unit)
    if not unit:
        return 1
    plain = re.sub(r"[.'\-/]", "", unit.split("^")[0].lower())
    words = plain.split()
    # A single letter may be a variable, as in 5 x.
    if not _UNIT.fullmatch(unit) or _NO_UNITS.search(plain) or any(len(word) < 2 and word != "a" for word in words):
        return None
    if words and words[0] in ("percent", "pct") and not after_percent:
        return 0
    return _SCALES.get(words[0], 1) if words else None


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
