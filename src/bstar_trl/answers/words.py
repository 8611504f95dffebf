r"""Answers in words, and words that take an answer back: "not 7", "at least 7"."""

from __future__ import annotations

import re

from .notation import clean, outside_of_text, unwrapped

_TIME_OF_DAY = re.compile(r"[0-9]\s{0,3}[ap]\.?\s?m\b", re.IGNORECASE)
_FILLER = (
    r"(?:\s{1,3}(?:be|been|equals?|to|exactly|really|actually|necessarily|simply|just|even|quite|the|an?|value|number"
    r"|answer|have|has|any|of|in|or|than)\b){0,6}"
)
# Words that deny or bound what follows them. "Not only" does neither.
_DENIAL = r"\bnot\b(?! only)|n't\b|\bcannot\b|\bnever\b|\bneither\b|\bnor\b|\b(?:instead|short) of\b|\banything but\b"
_BOUND = (
    r"\b(?:less|fewer|greater|more|larger|smaller|bigger|higher|lower|other|rather)\s{1,3}than\b"
    r"|\bat\s{1,3}(?:least|most)\b|\bup\s{1,3}to\b|\b(?:under|over|above|below|beyond|exceed(?:s|ing)?|within)\b|\bbetween\b(?:\s{1,3}\S{1,20}\s{1,3}and\b)?"
    r"|\ba\s(?:maximum|minimum)\sof\b|\bone\sof\b"
)
_BEFORE = rf"(?:{_DENIAL}|{_BOUND}){_FILLER}[\s$(*\\:]{{0,6}}"
_AFTER = (
    r"\s{0,3}(?:or|and)\s(?:more|less|fewer|greater|larger|smaller|higher|lower|above|below|over|up|under)\b"
    r"|\s{0,3}(?:\w{1,20}\s)?at\s(?:least|most)\b|(?<=[0-9])\+(?=\s{0,3}(?:$|[.,;]))"
)
_RESTRICTED = re.compile(
    rf"{_BEFORE}(?:\\[a-zA-Z]{{1,20}}|-?[0-9.]|[a-zA-Z]?\s?=|[a-zA-Z]\b(?!'))|[0-9}})](?:{_AFTER})", re.IGNORECASE
)
_ENDS_RESTRICTED = re.compile(
    rf"(?:{_BEFORE}|(?:^[a-zA-Z]|[ $(][a-zA-Z]?)\s?(?:[<>]=?|\\[lgn]e)\s?[$(\\]{{0,3}})$", re.IGNORECASE
)
_REFUSED = re.compile(
    r"[\s$)*]{0,4}(?:(?:is|was|are|were)(?:n't|\snot)|(?:can(?:no|')t|can not|could(?:n't| not)) be"
    rf"|is\s(?:wrong|incorrect|false|impossible|too\s))\b|{_AFTER}",
    re.IGNORECASE,
)
_QUESTION = re.compile(r"(?:[^.?!\n]|\.(?=[0-9])){0,200}\?")
_SMALL = [
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"),
    *("thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
]
_TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_VALUES = {word: value for value, word in enumerate(_SMALL)} | {
    word: 10 * place for place, word in enumerate(_TENS, 2)
}
_PARTS = {"half": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "eighth": 8, "tenth": 10}
_BEFORE_LENGTH = 80  # characters before a number in which a denial may stand


def wording(text: str) -> str | None:
    r"""The letters of an answer in words, such as `\text{Monday}`, "not enough" or "8:34 p.m."; else `None`.

    Two or three bare letters may be a product of variables, so they are no wording (see `short_words`).
    """
    text = clean(text)
    outside = outside_of_text(text)
    wrapped = outside != text and not re.search(r"[\w\\]", outside)
    words = re.fullmatch(r"(?:[^\W\d_]|[' ,.!?\-])+", text) and re.search(r"[a-zA-Z]{4}|[^\W\d_a-zA-Z]", text)
    if (wrapped or words or _TIME_OF_DAY.search(unwrapped(text, ""))) and text != "infinity":
        return letters(text) or None
    return None


def short_words(text: str) -> str | None:
    """The letters of bare words of two or three letters ("yes", "no", "Tom", "act"); `None` for other texts.

    `ab`, `xy`, `abc` and `mgh` stay products: a word has a vowel and is no run of the alphabet, and of two letters
    only those with an "o" (no, on, so), "up" and "in" are words.
    """
    text = clean(text).strip("!?")
    if not re.fullmatch(r"[a-zA-Z]{2,3}(?: [a-zA-Z]{2,3}){0,9}", text):
        return None
    return letters(text) if any(_looks_like_a_word(word) for word in text.lower().split()) else None


def letters(text: str) -> str:
    """Only letters, digits and colons, in lower case; two wordings with equal letters are equal."""
    return re.sub(r"[^\w:]|_", "", unwrapped(clean(text), "").lower())


def number_in_words(text: str) -> str | None:
    """`"25"` for "twenty-five", `"2/3"` for "two thirds"; `None` for texts that hold anything else."""
    *words, last = text.lower().replace("-", " ").split() or [""]
    part = _PARTS.get("half" if last == "halves" else last.removesuffix("s"))
    if part is not None:
        upper = 1 if words in ([], ["a"], ["one"]) else _counted(words)
        return None if upper is None or (not words and part != 2) else f"{upper}/{part}"  # "third" alone: an ordinal
    number = _counted([*words, last])
    return None if number is None else str(number)


def _counted(words: list[str]) -> int | None:
    """The whole number that these words spell; `None` if they spell none."""
    total = group = 0  # below a thousand: what "thousand" and "million" multiply
    after = ""
    for word in words:
        if word in _VALUES and (after in ("", "hundred", "thousand", "million", "and") or after in _TENS):
            if after in _TENS and not 0 < _VALUES[word] < 10:
                return None
            group += _VALUES[word]
        elif word == "hundred" and after in _SMALL[1:]:
            group *= 100
        elif word in ("thousand", "million") and group:
            total, group = total + group * (1000 if word == "thousand" else 10**6), 0
        elif not (word == "and" and after in ("hundred", "thousand", "million")):
            return None
        after = word
    return total + group if after not in ("", "and") else None


def restricted(text: str) -> bool:
    """Whether a text denies or bounds a value instead of stating one: "not 7", "more than 7", "7 or less"."""
    return bool(_RESTRICTED.search(unwrapped(text)))


def taken_back(text: str, start: int, end: int) -> bool:
    """Whether the number at `text[start:end]` is denied, bounded or asked for rather than stated."""
    before = _ENDS_RESTRICTED.search(text, max(0, start - _BEFORE_LENGTH), start)
    return bool(before or _REFUSED.match(text, end))


def asked(text: str, end: int) -> bool:
    """Whether the sentence around position `end` is a question."""
    return bool(_QUESTION.match(text, end))


def _looks_like_a_word(word: str) -> bool:
    if len(word) == 2:
        return "o" in word or word in ("up", "in")
    in_order = sorted(map(ord, word))
    run = in_order[2] - in_order[0] == 2 and in_order[1] - in_order[0] == 1
    return bool(re.search("[aeiou]", word)) and not run
