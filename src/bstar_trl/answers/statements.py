r"""The answers that a text states, in order: `\boxed{...}`, `#### ...`, "the answer is ...".

Every function takes time linear in the length of the text, for any text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

PHRASE_LENGTH = 1000  # largest number of characters read after "the answer is"
STATEMENTS = 64  # only the last ones of a longer list are kept

_BRACES = re.compile(r"(?P<box>(?<!\\)\\+(?:boxed|fbox)\s{0,9}\{)|\\\\|\\[{}]|(?P<open>\{)|(?P<close>\})")
_BARE_BOX = re.compile(r"\\boxed\s{0,9}(?P<content>-?[0-9](?:[0-9.,]*[0-9])?)")
_TAGS = re.compile(r"<answer>(?P<content>.{1,1000}?)</answer>", re.DOTALL)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<content>[^\n#]*)")
_PHRASE = re.compile(
    r"""\banswers?\b [\s*_`]{0,9}
        (?: (?: (?: \( | (?:to|for|of|in|choice|option)\b ) [^.:=\n]{0,80}? )?
            (?: \b(?:is|are|was|equals|(?:would|will|must|should)\s+be|comes\s+(?:out\s+)?to)\b | : )
          | = )
        [\s:*_`]{0,20}
      | ^[ \t]* (?:\#{1,6}|\*\*) [ \t*]* (?:the[ ])? (?:final[ ])? answer [ \t*]* \n \s{0,20}""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_SENTENCE_END = re.compile(r"[.?](?=\s|\*|$)|!(?=\s+[A-Z]|\s*$|\*\*)|\n")  # `5! * 5` does not end at the "!"
# "The answer is correct." comments on an answer given elsewhere.
_COMMENT = re.compile(
    r"(?:in)?correct\b|right\b|wrong\b|not\b|n't\b|unknown\b|clear|obvious|simpl[ey]|reasonable|consistent|verified"
    r"|confirmed|given\b|found\b|below\b|as follows",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Statement:
    """One place where a text states an answer.

    Attributes:
        kind (`str`): `"box"` (`<answer>` tags too), `"hashes"` or `"phrase"`.
        start (`int`): its position in the text.
        content (`str`): the stated answer; never empty.
        last_line (`bool`): for hashes: only blanks follow their line.
        line (`str`): for phrases: the whole line, whose first sentence is `content`.
    """

    kind: Literal["box", "hashes", "phrase"]
    start: int
    content: str
    last_line: bool = False
    line: str = ""


def statements(text: str) -> list[Statement]:
    """The last 64 statements of an answer in `text`, in order; an inner box comes after the box around it."""
    found = [*_boxes(text), *_tags(text), *_hashes(text), *_phrases(text)]
    return sorted(found, key=lambda item: item.start)[-STATEMENTS:]


def _boxes(text: str) -> list[Statement]:
    """The closed boxes; an unclosed box states nothing."""
    found = []
    opened: list[tuple[int, int] | None] = []  # start of a box and of its content; None for other braces
    for match in _BRACES.finditer(text):
        if match["box"]:
            opened.append((match.start(), match.end()))
        elif match["open"]:
            opened.append(None)
        elif match["close"] and opened and (box := opened.pop()) is not None:
            content = text[box[1] : match.start()].strip()
            if content and "\\boxed" not in content and "\\fbox" not in content:
                found.append(Statement("box", box[0], content))
    found += [Statement("box", match.start(), match["content"]) for match in _BARE_BOX.finditer(text)]
    return found


def _tags(text: str) -> list[Statement]:
    return [
        Statement("box", match.start(), match["content"].strip())
        for match in _TAGS.finditer(text)
        if match["content"].strip() and "<answer>" not in match["content"]
    ]


def _hashes(text: str) -> list[Statement]:
    end = len(text.rstrip())
    return [
        Statement("hashes", match.start(), match["content"].strip(), last_line=match.end() >= end)
        for match in _HASHES.finditer(text)
        if match["content"].strip()
    ]


def _phrases(text: str) -> list[Statement]:
    found = []
    for match in _PHRASE.finditer(text):
        after = text[match.end() : match.end() + PHRASE_LENGTH]
        content = _sentence(after)
        if content and not _COMMENT.match(content):
            found.append(Statement("phrase", match.start(), content, line=after.split("\n", 1)[0].strip()))
    return found


def _sentence(text: str) -> str:
    """The display formula at the start of `text`, or else its first sentence or line."""
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if text.startswith(opening) and (closed := text.find(closing, len(opening))) > 0:
            return text[len(opening) : closed].strip()
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip(" \t\r*_`")
