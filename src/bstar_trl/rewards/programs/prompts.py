"""The code in a row's prompt, and a program that goes on from it.

A prompt is the row's own text, so it may be parsed here; a response is never parsed.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..base import text_of_content
from .extraction import Block
from .source import masked, statements

# Fences and the tokens of chat templates, which may be glued to code.
_MARKS = re.compile(r"(?:`{3,}|~{3,})(?:(?:python|py)\d?)?|<\|[^<>|\n]{1,40}\|>|\[/?INST\]|</?s>")
_FEATURES = re.compile(r"^from[ \t]+__future__[ \t]+import[ \t]*(?:\([^()]*\)|[^\n(]*)$", re.MULTILINE)
_IMPORT = re.compile(r"(?:from|import)[ \t]+(\w+)")
_STUB = ast.Pass | ast.Raise
_QUIET = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Assign, ast.If, ast.Try)


@dataclass(frozen=True)
class Beginning:
    """The code in a prompt.

    Attributes:
        before (`str`): what precedes the function that is asked for: imports, helpers.
        head (`str`): the function's first lines, up to the colon; empty if the prompt does not hold the function.
        inside (`str`): the beginning of its body, but for a docstring or a stub.
    """

    before: str = ""
    head: str = ""
    inside: str = ""


def beginning_of(prompt: Any, name: str) -> Beginning:
    """The code of a prompt that is asked to define `name`.

    It is looked for in the last message, if that begins the answer; then in the user's messages, the last one first;
    then in the others. A prompt without the function counts only if all of it is code.

    Args:
        prompt: text, or messages.
        name (`str`): of a function or class.
    """
    found = [_read(text, name) for text in _texts(prompt)]
    begun = [item for item in found if item.head] or [item for item in found if item.before]
    return begun[0] if begun else Beginning()


def _texts(prompt: Any) -> Iterator[str]:
    if isinstance(prompt, str):
        yield prompt
        return
    messages = [(message.get("role"), text_of_content(message.get("content"))) for message in prompt or ()]
    if messages and messages[-1][0] == "assistant":
        yield messages.pop()[1]
    yield from (text for role, text in reversed(messages) if role == "user")
    yield from (text for role, text in reversed(messages) if role != "user")


@lru_cache(maxsize=1024)
def _read(text: str, name: str) -> Beginning:
    lines = _MARKS.sub("\n", text.replace("\r\n", "\n")).split("\n")
    definition = re.compile(rf"([ \t]*)(?:(?:async[ \t]+)?def|class)[ \t]+{re.escape(name)}\b")
    for place in range(len(lines) - 1, -1, -1):
        if not (found := definition.match(lines[place])):
            continue
        indent, start = found[1], place
        unindented = [line.removeprefix(indent) for line in lines]
        while start and unindented[start - 1].startswith("@"):
            start -= 1
        if (head := _head(unindented[start:])) is not None:
            return Beginning(_code_before(unindented[:start]), *head)
    tree = _parsed("\n".join(lines))
    return Beginning("\n".join(lines)) if tree and tree.body and all(map(_is_quiet, tree.body)) else Beginning()


def _head(lines: list[str]) -> tuple[str, str] | None:
    """The head of the function that these lines begin with, and the beginning of its body; None if they do not."""
    end = len(lines)
    while end > 0:
        text = "\n".join(lines[:end])
        last = next((line for line in reversed(lines[:end]) if line.strip()), "")
        deeper = last[: len(last) - len(last.lstrip())] + "    pass"
        wrong = end
        for ending in ("", "\n" + deeper):
            try:
                node = _parse(text + ending).body[0]
            except SyntaxError as error:
                wrong = min(wrong, max((error.lineno or end) - 1, 0))
                continue
            except (ValueError, RecursionError, MemoryError, IndexError):
                return None
            return _split(text.split("\n"), node)
        end = min(wrong, end - 1)
    return None


def _split(lines: list[str], node: ast.stmt) -> tuple[str, str] | None:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return None
    stop = min(node.end_lineno or len(lines), len(lines))
    if isinstance(node, ast.ClassDef):  # its last method goes on
        return lines[0], "\n".join(lines[1:stop])
    first = node.body[0]
    head = "\n".join(lines[: first.lineno - 1])
    if first.lineno <= len(lines) and not head.rstrip().endswith(":"):
        line = lines[first.lineno - 1].encode()[: first.col_offset].decode()
        head = (head + "\n" + line if head else line).rstrip()
    if isinstance(node.body[-1], ast.Return):
        return "", ""  # it is complete: nothing goes on from it
    real = [item for item in node.body if not isinstance(item, _STUB) and not _is_constant(item)]
    return head, "\n".join(lines[first.lineno - 1 : stop]) if real else ""


def _code_before(lines: list[str]) -> str:
    """The longest end of these lines that does nothing but import, define and assign, and imports further above."""
    start = _start_of_code(lines)
    imports = [
        line for line in lines[:start] if (found := _IMPORT.match(line)) and found[1] in sys.stdlib_module_names
    ]
    return "\n".join([*(line for line in imports if _parsed(line)), *lines[start:]])


def _start_of_code(lines: list[str]) -> int:
    start = 0
    while start < len(lines):
        try:
            tree = _parse("\n".join(lines[start:]))
        except SyntaxError as error:
            start += max(error.lineno or 1, 1)
            continue
        except (ValueError, RecursionError, MemoryError):
            return len(lines)
        loud = [item.end_lineno or 1 for item in tree.body if not _is_quiet(item)]
        if not loud:
            return start
        start += loud[-1]
    return start


def _is_constant(item: ast.stmt) -> bool:
    return isinstance(item, ast.Expr) and isinstance(item.value, ast.Constant)


def _is_quiet(item: ast.stmt) -> bool:
    if isinstance(item, ast.Expr):
        return isinstance(item.value, ast.Constant) and isinstance(item.value.value, str)
    return isinstance(item, _QUIET) or (isinstance(item, ast.AnnAssign) and item.value is not None)


def _parsed(text: str) -> ast.Module | None:
    try:
        return _parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None


def _parse(text: str) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(text)


def continued(beginning: Beginning, code: str, names: Sequence[str]) -> str:
    """The program that the prompt begins and the response ends.

    The response is a body, unless it binds one of the names: then it is the whole function again. A docstring of the
    prompt is left out: a body need not be indented like it.
    """
    if not beginning.head or Block(code, 0).names("binds") & set(names):
        return after_features(beginning.before, code)
    last = (beginning.inside or beginning.head).rstrip().rpartition("\n")[2]
    indent = last[: len(last) - len(last.lstrip())] + ("    " if last.endswith(":") or not beginning.inside else "")
    return "\n".join([beginning.before, beginning.head, beginning.inside, as_body(code, indent)])


def after_features(first: str, code: str) -> str:
    """`first`, then `code`; what both import from `__future__` comes before."""
    features = [item for text in (first, code) for item in _FEATURES.findall(text)]
    if not first.strip():
        return code
    return "\n".join([*dict.fromkeys(features), _FEATURES.sub("", first), _FEATURES.sub("", code)])


def as_body(code: str, indent: str) -> str:
    """Indented as the body of a function, though the first line or all of them may have lost that."""
    filled = [line for line in masked(code).split("\n") if line.strip()]
    if not filled:
        return indent + "pass"
    widths = [_width(line) for line in filled]
    first, following = widths[0], []
    for width in widths[1:]:
        if width == 0:
            break
        following.append(width)
    least = min(following, default=0)
    opens = filled[0].rstrip().endswith((":", "(", "[", "{", ",", "\\"))
    lost = following and first < least and (not opens or least < following[0] or (first == 0 and least >= 8))
    if lost:
        line = next(line for line in filled[1:] if _width(line) == least)
        margin = line[: len(line) - len(line.lstrip())]
        if opens and least == following[0]:
            margin = margin[: len(margin) // 2]
        return margin + code.lstrip(" \t\n")
    return code if first else _all_indented(code, indent)


def _all_indented(code: str, indent: str) -> str:
    """All statements up to the last `return`, and all of them if there is none."""
    pieces = statements(code)
    ends = [place for place, piece in enumerate(pieces) if re.match(r"(?:return|yield|raise)\b", piece.head)]
    last = ends[-1] if ends else len(pieces) - 1
    result = []
    for place, piece in enumerate(pieces):
        breaks = [at for at, letter in enumerate(piece.masked) if letter == "\n"]  # none inside strings
        starts = [0, *(at + 1 for at in breaks)]
        lines = [piece.text[start:end] for start, end in zip(starts, [*breaks, len(piece.text)], strict=True)]
        result += [indent + line if line.strip() and place <= last else line for line in lines]
    return "\n".join(result)


def _width(line: str) -> int:
    return len(line.expandtabs()) - len(line.expandtabs().lstrip())
