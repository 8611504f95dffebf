"""Reads the surface of Python source that nobody trusts: by regular expressions, in linear time, never by compiling.

What it says of text that is no Python is a guess; nothing depends on it but the choice of the text that is run.
"""

from __future__ import annotations

import builtins
import keyword
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

WORDS_OF_PYTHON = {*keyword.kwlist, "match", "case", "type", "_"}
ALONE = {"pass", "return", "break", "continue", "raise", "yield"}  # statements of one word
CUT_SHORT = {"import", "from", "return", "assert", "async", "async def"}  # a word that needs more
BUILTINS = set(dir(builtins))
# A comment, or a string. `Here's` opens none. A quote that nothing closes is left alone; a triple one goes to the end.
_LITERAL = re.compile(
    r"""\\.|(?P<comment>\#[^\n]*)|(?P<string>(?<!\w)(?P<prefix>[rRbBuUfF]{0,2})(?:
    \"{3}(?:[^"\\]|\\.|"(?!""))*+(?:\"{3}|\\?\Z)|'{3}(?:[^'\\]|\\.|'(?!''))*+(?:'{3}|\\?\Z)
    |"(?:[^"\\\n]|\\.)*+"|'(?:[^'\\\n]|\\.)*+'))""",
    re.DOTALL | re.VERBOSE,
)
_NAME = re.compile(r"(?<![\w.])[^\W\d]\w*")
_TOKEN = re.compile(r"[^\W\d]\w*|\d[\w.]*|\S")
_FIELD = re.compile(r"\{([^{}\n]*)")
_DEFINED = re.compile(r"(?:async[ \t]+)?(?:def|class)[ \t]+(\w+)")
_METHOD = re.compile(r"^[ \t]+(?:async[ \t]+)?def[ \t]+(\w+)", re.MULTILINE)
_ASSIGNED = re.compile(r"^([\w \t,()*]+)=(?!=)|^[ \t]*(\w+)[ \t]*:[^=\n]*=(?!=)", re.MULTILINE)
_PARAMETERS = re.compile(r"\bdef[ \t]+\w+[ \t]*\(([^()]*+(?:\([^()]*+\)[^()]*+)*+)")
_PARAMETER = re.compile(r"(?:^|,)\s*\*{0,2}(\w+)")
_BOUND = re.compile(
    r"\b(?:def|class|as|global|nonlocal)[ \t]+(\w+)|\b(\w++)[ \t]*:=|\b(?:lambda|import)\b([^:;\n]*)"
    r"|\bfor[ \t]+((?:(?!\bin\b)[\w,()* \t])*+)"
)
_BRACKETS = re.compile(r"\([^()]*+\)|\[[^\[\]]*+\]")
_STUB = re.compile(r"(?:@[^\n]*\n)*+(?:async[ \t]+)?def\b[^:]*+:?\s*+(?:0++\s*+)?(?:\.\.\.|pass|raise[^\n]*)?\s*")
_CALL = re.compile(r"\w[ \t]*\(")
_CONTINUED = re.compile(r"[)\]}]|(?:elif|else|except|finally)\b")  # never the beginning of a statement
_BEGINNING = re.compile(r"(?:async[ \t]+def|def|class|import|from)\b|@")  # always one
_MARKUP = re.compile(r"[+>|$\\!?<]|-[ \t-]|\*(?!\w+[ \t]*,)|\d+[.)][ \t]")
_COMPOUND = re.compile(r"(?:async|def|class|if|elif|else|for|while|with|try|except|finally|match)\b|@")


def masked(text: str) -> str:
    """The text, of equal length, with comments blank and strings as zeros, line breaks included."""

    def mask(found: re.Match[str]) -> str:
        if found["comment"] is not None:
            return " " * len(found[0])
        return found[0] if found["string"] is None else "0" * len(found[0])

    return _LITERAL.sub(mask, text)


@dataclass(frozen=True)
class Statement:
    """A statement at the left margin, with all that belongs to it."""

    text: str
    masked: str

    @cached_property
    def head(self) -> str:
        """The first line at the left margin after the decorators, without its strings and comments."""
        return next((line for line in self.masked.split("\n") if line[:1] not in ("", *" \t@)]}")), "")

    @cached_property
    def defines(self) -> set[str]:
        """The function or class that it defines; of a class `Solution` also the methods."""
        defined = _DEFINED.match(self.head)
        if defined is None:
            return set()
        return {defined[1], *(_METHOD.findall(self.masked) if defined[1] == "Solution" else ())}

    @property
    def completes(self) -> set[str]:
        """What it defines, unless that is a signature without a body."""
        bare = self.masked
        for _ in range(3):  # annotations hold colons
            bare = _BRACKETS.sub("", bare)
        return set() if _STUB.fullmatch(bare) else self.defines

    @cached_property
    def imports(self) -> set[str]:
        """The names that it imports; `import a.b` binds `a`."""
        if not re.match(r"(?:import|from)\b", self.head):
            return set()
        names = self.masked.replace("\n", " ").partition("import")[2].strip("() \t").split(",")
        return {parts[-1] if "as" in parts else parts[0].split(".")[0] for name in names if (parts := name.split())}

    @cached_property
    def assigns(self) -> set[str]:
        """The names that it assigns at the left margin."""
        if self.defines or self.imports or _COMPOUND.match(self.head):
            return set()
        return _targets(self.head)

    @cached_property
    def binds(self) -> set[str]:
        """All of these."""
        return self.defines | self.imports | self.assigns

    @property
    def acts(self) -> bool:
        """Whether it does something when the program is run, other than to bind a name."""
        return not self.binds and bool(_CALL.search(self.masked))

    @cached_property
    def needs(self) -> set[str]:
        """The names that it uses and that are neither bound in it nor Python's own; too few rather than too many."""
        used = set(_NAME.findall(self.masked))
        for literal in _LITERAL.finditer(self.text):
            if literal["prefix"] and "f" in literal["prefix"].lower():
                used.update(name for field in _FIELD.findall(literal[0]) for name in _NAME.findall(field))
        bound = {name for parts in _BOUND.findall(self.masked) for part in parts for name in _NAME.findall(part)}
        bound.update(name for heads in _PARAMETERS.findall(self.masked) for name in _PARAMETER.findall(heads))
        return used - bound - _targets(self.masked) - self.imports - BUILTINS - WORDS_OF_PYTHON


def _targets(code: str) -> set[str]:
    """The names that masked lines assign; `print(x, end=y)` assigns none."""
    found = [names or annotated for names, annotated in _ASSIGNED.findall(code)]
    return {name for names in found if not _CALL.search(names) for name in _NAME.findall(names)}


def statements(text: str) -> list[Statement]:
    """The statements of a text; indented lines that no statement precedes are one, too."""
    hidden = masked(text)
    starts, depth, place, after_decorator = [0], 0, 0, False
    for line in hidden.split("\n"):
        begins = bool(line) and line[0] not in " \t"
        if begins and (_BEGINNING.match(line) or (depth <= 0 and not _CONTINUED.match(line))):
            if place and not after_decorator:
                starts.append(place)
            depth = 0
        if line.strip():
            after_decorator = line[0] == "@" or (after_decorator and depth > 0)
        depth += sum(map(line.count, "([{")) - sum(map(line.count, ")]}"))
        place += len(line) + 1
    ends = [*starts[1:], len(text) + 1]
    pieces = ((text[start : end - 1], hidden[start : end - 1]) for start, end in zip(starts, ends, strict=True))
    return [Statement(*piece) for piece in pieces if piece[0].strip()]


def is_prose(line: str) -> bool:
    """Whether a masked line at the left margin is a sentence, a heading or a mark, and no Python.

    Two words side by side, neither of them a word of Python's, are never Python; nor is a lone name any use.
    """
    tokens = _TOKEN.findall(line)
    if not tokens or (len(tokens) == 1 and tokens[0] in ALONE):
        return False
    if _MARKUP.match(line) or any(not token.isascii() and not token.isidentifier() for token in tokens):
        return True
    words = [token.isidentifier() and token not in WORDS_OF_PYTHON for token in tokens]
    if any(left and right for left, right in pairwise(words)) or words == [True]:
        return True
    if ":" in (tokens[-1], *tokens[1:2]) and words[0] and "=" not in tokens:
        return all(tokens.count(left) == tokens.count(right) for left, right in ("()", "[]", "{}"))
    if "->" in line and tokens[0] not in ("def", "async"):
        return True
    return tokens[-1] in "!?" or (tokens[-1] == "." and tokens[-2:-1] != ["."])


def runs_of_code(text: str) -> Iterator[str]:
    """The parts of a text between its lines of prose."""
    run: list[str] = []
    for statement in statements(text):
        first = statement.masked.partition("\n")[0]
        if not is_prose(first):
            run.append(statement.text)
            continue
        yield "\n".join(run)
        # What is indented below a sentence may be code, or the sentence may go on there.
        rest = statement.text[len(first) + 1 :]
        lines = [line.strip() for line in masked(rest).split("\n") if line.strip()]
        run = [rest] if lines and not is_prose(lines[0]) else []
    yield "\n".join(run)


def without_unfinished_end(code: str) -> str:
    """Without the beginning of a next statement, which a stop string cut off."""
    pieces = statements(code)
    if len(pieces) > 1 and _is_unfinished(pieces[-1]):
        return "\n".join(piece.text for piece in pieces[:-1]).rstrip()
    return code


def _is_unfinished(statement: Statement) -> bool:
    """A decorator, the head of a block without a block, or a lone word of Python's that needs more."""
    line = statement.masked.strip()
    if statement.text.strip() in ('"""', "'''"):
        return True
    if "\n" in line:
        return False
    if line[:1] == "@" or line in CUT_SHORT:
        return True
    if not _COMPOUND.match(line):
        return False
    bare, depth = [], 0
    for letter in line:
        depth += (letter in "([{") - (letter in ")]}")
        bare.append(letter if depth <= 0 else " ")
    return depth > 0 or not re.search(r":[ \t]*\S", "".join(bare))
