r"""The answers that a text states, in order: `\boxed{...}`, `#### ...`, "the answer is ...".

Every function takes time linear in the length of the text, for any text.
"""

from __future__ import annotations

import re
from collections import deque
from dataclasses import dataclass
from typing import Literal

from .notation import plain
from .words import restricted

PHRASE_LENGTH = 1000  # largest number of characters read after "the answer is"
STATEMENTS = 64  # only the last ones of a longer list are kept

_BRACES = re.compile(r"(?P<box>(?<!\\)\\+(?:boxed|fbox)\s{0,9}\{)|\\\\|\\[{}]|(?P<open>\{)|(?P<close>\})")
_BOX = re.compile(r"\\(?:boxed|fbox)(?![a-zA-Z])")
_BARE_BOX = re.compile(r"\\boxed\s{0,9}(?P<content>-?[0-9](?:[0-9.,]*[0-9])?|(?<=\s)[a-zA-Z](?![a-zA-Z]))")
_TAGS = re.compile(r"<answer>(?P<content>.{1,1000}?)</answer>", re.DOTALL | re.IGNORECASE)
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(?P<content>[^\n#]*)")
_PHRASE = re.compile(
    r"""(?<![a-zA-Z]) (?: answers? | ans\.? | \u7b54\u6848 ) (?![a-zA-Z]) [\s*_`"']{0,9}
        (?: (?: (?: \( | (?:to|for|of|in|choice|option)\b ) [^.:=\n]{0,80}? )?
            (?: \b(?:is|are|was|equals|(?:would|will|must|should)\s+be|comes\s+(?:out\s+)?to)\b | : )
          | = | \u662f | \u4e3a )
        [\s:*_`]{0,20}
      | ^[ \t]* (?:\#{1,6}|\*\*) [ \t*]* (?:the[ ])? (?:final[ ])? answer [ \t*]* \n \s{0,20}""",
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
_NOT_BUT = re.compile(r"^(?:[a-z]+ly\s)?not\s[^\n.,]{1,40}?,?\sbut\s(?:rather\s)?", re.IGNORECASE)
# What a sentence says before "the answer is 7" to deny it.
_DOUBTED = re.compile(
    r"(?:(?:(?<!\bno )(?<!\bany )(?<!\bout )\bdoubt(?:s|ed|ful)?|\b(?:unlikely|impossible|untrue|false|wrong)"
    r"|(?:\bnot|n't)\s(?:\w{1,12}\s)?(?:sure|certain|convinced|possible|true|likely|clear|the\scase))"
    r"\s(?:that|if|whether|to\s(?:say|think|claim|believe)(?:\sthat)?)"
    r"|(?:\bnot|n't|\bnever)\s(?:\w{1,12}\s)?(?:think|believe|say|saying|claim|mean)(?:\sthat)?)"
    r"\s(?:(?:the|my|your|our|this|final|correct|right)\s){0,3}$",
    re.IGNORECASE,
)
_BEFORE_PHRASE = 80  # characters in which it says so
_BULLET = re.compile(r"^[-\u2022]\s+")
_JSON_KEY = re.compile(r"""["']\s{0,9}:\s{0,9}$""")
_JSON_END = re.compile(r"[,}\]\n]")
_QUOTED = re.compile(r"""(["'])((?:(?!\1)[^\n]){1,500})\1(?!\w)""")
_THOUGHT_START = re.compile(r"<(?:think|thinking|thought)>", re.IGNORECASE)
_THOUGHT_END = re.compile(r"</(?:think|thinking|thought)>", re.IGNORECASE)
_SPECIAL_TOKEN = re.compile(r"<\|[^<>|\s]{1,40}\|>|</s>|<(?:eos|pad|end_of_turn)>")
_SENTENCE_END = re.compile(r"(?<!\.\.)[.?](?=\s|\*|$)|!(?=\s+[A-Z]|\s*$|\*\*)|\n")  # `5! * 5` does not end at the "!"
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


def spoken(text: str) -> str:
    """A response without thoughts, of which nothing is an answer, and without special tokens.

    Thoughts reach to the last `</think>`, and from a `<think>` that is never closed to the end.
    """
    text = _SPECIAL_TOKEN.sub("\n", plain(text))
    text = _THOUGHT_END.split(text)[-1]
    return _THOUGHT_START.split(text, maxsplit=1)[0]


def ends_in_open_box(text: str) -> bool:
    """Whether the last box of a text is never closed: the text breaks off within its answer."""
    start = max(text.rfind("\\boxed"), text.rfind("\\fbox"))
    depth = 0
    for match in _BRACES.finditer(text, start) if start >= 0 else ():
        depth += 1 if match["box"] or match["open"] else -1 if match["close"] else 0
        if depth == 0 and match["close"]:
            return False
    return depth > 0


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
        if match["content"].strip() and "<answer>" not in match["content"] and not _BOX.search(match["content"])
    ]


def _hashes(text: str) -> list[Statement]:
    end = len(text.rstrip())
    return [
        Statement("hashes", match.start(), match["content"].strip(), last_line=match.end() >= end)
        for match in _HASHES.finditer(text)
        if match["content"].strip() and not _BOX.search(match["content"])
    ]


def _phrases(text: str) -> list[Statement]:
    found = []
    for match in deque(_PHRASE.finditer(text), maxlen=4 * STATEMENTS):  # some of them are comments
        after = text[match.end() : match.end() + PHRASE_LENGTH]
        if "\n" in match[0]:
            after = _BULLET.sub("", after, count=1)
        number = _JSON_KEY.search(match[0]) and not after.startswith(('"', "'"))
        content = _JSON_END.split(after, maxsplit=1)[0].strip() if number else _sentence(after)
        content = _NOT_BUT.sub("", content, count=1)
        if content and _DOUBTED.search(text, max(0, match.start() - _BEFORE_PHRASE), match.start()):
            content = f"not {content}"
        # A box in the sentence makes the statement, if it is closed.
        if content and not _BOX.search(content) and (not _COMMENT.match(content) or restricted(content)):
            found.append(Statement("phrase", match.start(), content, line=after.split("\n", 1)[0].strip()))
    return found


def _sentence(text: str) -> str:
    """The display formula at the start of `text`, or else its first sentence or line."""
    for opening, closing in (("$$", "$$"), (r"\[", r"\]")):
        if text.startswith(opening) and (closed := text.find(closing, len(opening))) > 0:
            return text[len(opening) : closed].strip()
    if quoted := _QUOTED.match(text):
        return quoted[2].strip()
    end = _SENTENCE_END.search(text)
    return (text[: end.start()] if end else text).strip(" \t\r*_`")
