"""From a response to the program in it.

Responses are untrusted: they are read by regular expressions, in linear time, and neither compiled nor run here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property

from .source import Statement, masked, runs_of_code, statements, without_unfinished_end

_THOUGHT = re.compile(r"<(/?)(?:think|thinking|thought|reasoning)>", re.IGNORECASE)
_FIRST_MARKS = re.compile(
    r"(?:\s*+(?:<s>|<\|(?:im_start|start_header_id|begin_of_text|assistant|start)\|>)(?:assistant\b)?"
    r"(?:<\|(?:end_header_id|message)\|>)?)*+"
)
_LAST_MARK = re.compile(
    r"<[|\uff5c][^<>|\uff5c\n]{1,40}[|\uff5c]>"
    r"|(?:</s>|<eos>|<end_of_turn>|<file_sep>|<EOT>)[ \t]*$|^[ \t]*\[(?:DONE|/PYTHON|/INST|END)\]",
    re.MULTILINE,
)
_TAGS = "code|python|answer|solution|program"
_FRAME = re.compile(
    rf"^[ \t]*(?:\[(?:BEGIN|PYTHON|CODE)\]|<(?:{_TAGS})(?:[ ][^<>\n]*)?>)|</(?:{_TAGS})>[ \t]*$",
    re.MULTILINE | re.IGNORECASE,
)
_FENCE = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})(?P<info>[^`]*)")
_FENCE_IN_TEXT = re.compile(r"[^`\n]*(?P<indent>)(?P<fence>`{3,})(?P<info>[ \t]*(?:python|py)\d?[ \t]*)", re.I)
_LANGUAGE = re.compile(r"[\s{.]*([\w+#-]*(?:\.\d+)?)")
_PYTHON = re.compile(r"(?:i?python|py|pypy|cpython)[\d.]*")
_CODE_IN_INFO = re.compile(
    r"(?:python3?|py)?[ \t]*((?:(?:async[ \t]+def|def|class|from|import|for|while|if|print)\b|return\b|@|#).*)"
)
_QUOTES = re.compile(r"""#.*|\\.|("{3}|'{3})|"(?:[^"\\]|\\.)*+"|'(?:[^'\\]|\\.)*+'""")
_CLOSING = {quote: re.compile(rf"\\.|({quote})") for quote in ('"""', "'''")}
_READS = re.compile(r"\binput[ \t]*\(|\bstdin\b(?![ \t]*=[^=])|\bopen[ \t]*\([ \t]*0|\bfileinput\b|\bos\.read\b")
_UNTAGGED = {"", "code", "solution", "program", "answer"}
_TOP = re.compile(r"(?:(?:async[ \t]+)?(?:def|class)|import|from)[ \t]+(\w+)|@")
_SESSION = re.compile(r"\s*>>>[ \t]")
MOST_BLOCKS = 64  # of a response, from its end
TAGGED, BARE, OUTSIDE, FOREIGN = 3, 2, 1, 0  # blocks tagged as Python, fenced, between fences, of other languages


@dataclass(frozen=True)
class Block:
    """A piece of a response that may be its program, and where it stood."""

    text: str
    rank: int

    @cached_property
    def statements(self) -> list[Statement]:
        return statements(self.text)

    def names(self, kind: str) -> set[str]:
        """What its statements define, import, assign, bind or need."""
        return {name for statement in self.statements for name in getattr(statement, kind)}

    @cached_property
    def reads(self) -> int:
        """How often it reads standard input."""
        return len(_READS.findall(masked(self.text)))

    def is_quoted_from(self, other: Block) -> bool:
        """Whether it is a part of another block that reads more input: an explanation, not a program."""
        lines, others = (f"\n{text.strip(chr(10))}\n" for text in (self.text, other.text))
        if len(lines) >= len(others) or lines not in others:
            return False
        return self.reads < other.reads

    @property
    def is_body(self) -> bool:
        """Whether it looks like the body of a function."""
        filled = next((line for line in masked(self.text).split("\n") if line.strip()), "")
        return filled[:1] in (" ", "\t") or any(re.match(r"(?:return|yield)\b", item.head) for item in self.statements)


def extract_code(text: str, names: Collection[str] = (), *, script: bool = False, body: bool = False) -> str:
    """The program in a response; empty if there is none.

    Blocks are what stands in fences, and the runs of code between lines of prose. What a reasoning model thinks aloud
    does not count, nor do tokens and stop strings at the end. The program is the last of those blocks that do best:

    - with `names`: define the most of them; then import them; then look like a body, if `body` is set;
    - for a script: do something and read standard input, or at least do something;
    - then: are fenced; if nothing of that told them apart, define anything and are tagged as Python.

    Other blocks add what the program uses and does not define. Blocks of other languages count only where there is
    nothing else.

    Args:
        text (`str`): the response.
        names (`Collection[str]`): what the tests use.
        script (`bool`): the program reads standard input.
        body (`bool`): the program may be the body of a function whose head is in the prompt.

    Returns:
        `str`: the source.
    """
    blocks = [block for block in _blocks(_answer(text)) if block.text.strip()][-MOST_BLOCKS:]
    blocks = [
        _at_the_margin(block, names, script=script, body=body) for block in blocks if block.rank > FOREIGN
    ] or blocks
    blocks = [block for block in blocks if not (script and any(block.is_quoted_from(other) for other in blocks))]
    if not blocks:
        return ""
    wanted = set(names)

    def merit(place: int) -> tuple[float, ...]:
        block = blocks[place]
        if script:
            acts = any(item.acts for item in block.statements)
            reads = acts and bool(_READS.search(masked(_joined(blocks, place, wanted))))
            fit: tuple[float, ...] = (reads, acts)
        else:
            defined = block.names("completes") | block.names("assigns")
            fit = (len(defined & wanted), len(block.names("imports") & wanted), body and block.is_body)
        looks = (0, 0) if any(fit) else (bool(block.names("defines")), block.rank)
        return (*fit, block.rank > OUTSIDE, *looks, place)

    best = max(range(len(blocks)), key=merit)
    return without_unfinished_end(_joined(blocks, best, wanted)).strip("\n")


def _at_the_margin(block: Block, names: Collection[str], *, script: bool, body: bool) -> Block:
    """The block without the margin that all its lines have; what may be a body keeps it."""
    first = next((line for line in masked(block.text).split("\n") if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip())]
    top = _TOP.match(first, len(margin))
    if not script and not (top and (not body or top[1] in names)):
        return block
    return Block(_unindented(block.text, margin), block.rank)


def _joined(blocks: Sequence[Block], place: int, wanted: set[str]) -> str:
    """A block after those statements of others that define what it needs: of the nearest one before it, or after it.

    A name that is assigned comes with its whole block, whose other statements may have led to it.
    """
    chosen = blocks[place]
    others = [*range(len(blocks) - 1, place, -1), *range(place)]
    if chosen.is_body or not others:
        return chosen.text
    found: dict[str, tuple[int, int]] = {}
    for at in others:
        if min(blocks[at].rank, BARE) >= min(chosen.rank, BARE):
            for number, statement in enumerate(blocks[at].statements):
                found |= dict.fromkeys(statement.binds, (at, number))
    taken: set[tuple[int, int]] = set()
    bound = set(chosen.names("binds"))
    waiting = (wanted | chosen.names("needs")) - bound
    while waiting:
        name = waiting.pop()
        bound.add(name)
        at, number = found.get(name, (place, 0))
        if at == place or (at, number) in taken:
            continue
        whole = blocks[at].statements[number].assigns
        for index in range(len(blocks[at].statements)) if whole else (number,):
            taken.add((at, index))
            waiting |= blocks[at].statements[index].needs - bound
    return "\n".join([*(blocks[at].statements[number].text for at, number in sorted(taken)), chosen.text])


def _answer(text: str) -> str:
    """What is said aloud, without the tokens of a chat template and without what follows a stop string."""
    text = text.replace("\r\n", "\n").lstrip("\ufeff")
    start, end = 0, len(text)
    for tag in _THOUGHT.finditer(text):
        if tag[1]:
            start, end = tag.end(), len(text)
        elif end == len(text):
            end = tag.start()  # a thought that nothing closes holds no answer
    text = text[start:end]
    if marks := _FIRST_MARKS.match(text):
        text = text[marks.end() :]
    last = _LAST_MARK.search(masked(text))
    return text[: last.start()] if last and text[: last.start()].strip() else text


def _blocks(text: str, *, nested: bool = False, strings: bool = True) -> list[Block]:
    """The blocks of a text in their order. With `strings`, a fence inside an unfenced docstring opens none."""
    lines = text.split("\n")
    blocks: list[Block] = []
    outside: list[str] = []
    place, loose = 0, False
    quote: str | None = None
    while place < len(lines):
        line = lines[place]
        place += 1
        opening = None if quote else _FENCE.fullmatch(line) or _FENCE_IN_TEXT.fullmatch(line)
        if not opening:
            outside.append(line)
            quote = _open_quote(line, quote) if strings else None
            continue
        blocks += _outside(outside)
        outside = []
        body, after, torn = _fenced(lines, place, opening["fence"], loose=loose)
        if torn:  # its quotes are no Python's
            loose = True
            body, after, _ = _fenced(lines, place, opening["fence"], loose=True)
        place = after
        in_info = _CODE_IN_INFO.fullmatch(opening["info"].strip())
        body = [in_info[1], *body] if in_info else body
        language = "" if in_info else _LANGUAGE.match(opening["info"])[1].lower()  # type: ignore[index]
        code = _unindented("\n".join(body), opening["indent"])
        rank = TAGGED if _PYTHON.fullmatch(language) else BARE if language in _UNTAGGED else FOREIGN
        if not nested and (rank < TAGGED or _FENCE.match(code.lstrip("\n"))):
            inner = [block for block in _blocks(code, nested=True) if block.rank > OUTSIDE]
            if inner:
                blocks += inner
                continue
        blocks.append(Block(code, FOREIGN if _SESSION.match(code) else rank))
    if quote:  # the quotes of prose
        return _blocks(text, nested=nested, strings=False)
    return blocks + _outside(outside)


def _outside(lines: Sequence[str]) -> list[Block]:
    text = _FRAME.sub("\n<>\n", "\n".join(lines))
    return [Block(run, OUTSIDE) for run in runs_of_code(text) if run.strip()]


def _fenced(lines: Sequence[str], place: int, fence: str, *, loose: bool) -> tuple[list[str], int, bool]:
    """The lines in a fence, the place after it, and whether a string is still open there.

    A fence inside a string, a docstring say, does not close it, unless `loose` is set. A fence that is never closed
    goes to the end; one that opens another closes it.
    """
    body: list[str] = []
    quote: str | None = None
    for at in range(place, len(lines)):
        line = lines[at].rstrip()
        if line.lstrip().startswith(fence) and (loose or not quote):
            info = line.lstrip().lstrip(fence[0])
            if fence[0] not in info:
                return body, at + (not info), False
        elif line.endswith(fence):
            code = line.rstrip(fence[0])
            if loose or not _open_quote(code, quote):
                return [*body, code], at + 1, False
        body.append(lines[at])
        quote = _open_quote(line, quote)
    return body, len(lines), bool(quote) and not loose


def _open_quote(line: str, quote: str | None) -> str | None:
    """The triple quote that is open after a line, if `quote` was open before it."""
    place = 0
    while found := (_CLOSING[quote] if quote else _QUOTES).search(line, place):
        place = found.end()
        if found[1]:
            quote = None if quote else found[1]
    return quote


def _unindented(block: str, indent: str) -> str:
    lines = block.split("\n")
    if not indent or not all(line.startswith(indent) or not line.strip() for line in lines):
        return block
    return "\n".join(line.removeprefix(indent) for line in lines)
