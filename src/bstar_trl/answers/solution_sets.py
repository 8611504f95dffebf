r"""Solution sets in words and inequalities, as LaTeX sets: math-verify knows no "or" between sets."""

from __future__ import annotations

import re

_EITHER = re.compile(r"\s?,?\s?(?:\\(?:cup|lor|vee)(?![a-zA-Z])|\\(?:text|mathrm|mbox)\s?\{\s?or\s?\}|\bor\b)\s?")
_RELATION = re.compile(r"\s?(<|>|\\le(?![a-zA-Z])|\\ge(?![a-zA-Z]))\s?")
_MEMBER = re.compile(r"[a-zA-Z]\s?\\in(?![a-zA-Z])\s?")
_EXCEPT = re.compile(r"[a-zA-Z]\s?\\ne(?![a-zA-Z])\s?([^<>=,\\]{1,40}|\\frac\{[^{}]{1,20}\}\{[^{}]{1,20}\})")
_VARIABLE = re.compile(r"[a-zA-Z]|\\(?:alpha|beta|gamma|theta|lambda|mu)\s?")
_SET = re.compile(r"[(\[][^()\[\]]{1,200},[^()\[\]]{1,200}[)\]]|\\\{[^{}]{1,200}\\\}")
_MEMBERS = re.compile(r"\\\{[^{}]{1,200}\\\}")
_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def as_set(text: str) -> str:
    r"""`(-\infty, 2) \cup (3, \infty)` for "x < 2 or x > 3", for `x \ne 2` likewise; `\{1, 2\}` for
    `\{1\} \cup \{2\}`; other texts as they are.
    """
    if hole := _EXCEPT.fullmatch(text):
        return rf"(-\infty, {hole[1]}) \cup ({hole[1]}, \infty)"
    parts = _EITHER.split(text)
    if len(parts) == 1:
        return text
    if all(_MEMBERS.fullmatch(part) for part in parts):
        return rf"\{{{', '.join(part[2:-2] for part in parts)}\}}"
    sets = [_set(_MEMBER.sub("", part).strip()) for part in parts]
    return text if None in sets else r" \cup ".join(map(str, sets))


def _set(text: str) -> str | None:
    """The set that a part of a union describes: an interval, a list of members, an inequality; else `None`."""
    if _SET.fullmatch(text):
        return text
    terms = _RELATION.split(text)  # terms and relations in turn
    place = next((index for index in range(0, len(terms), 2) if _VARIABLE.fullmatch(terms[index])), None)
    if len(terms) not in (3, 5) or place is None or (len(terms) == 5 and place != 2):
        return None
    bounds = [(_FLIPPED[terms[place - 1]], terms[place - 2])] if place else []
    bounds += [(terms[place + 1], terms[place + 2])] if place + 1 < len(terms) else []
    low, high = r"(-\infty", r"\infty)"
    for relation, bound in bounds:
        if relation in ("<", "\\le"):
            high = bound + (")" if relation == "<" else "]")
        else:
            low = ("(" if relation == ">" else "[") + bound
    return f"{low}, {high}"
