"""The tests' side for programs that read standard input and write standard output: is the output the expected one?"""

from __future__ import annotations

import os
import re
import select
import socket

JUDGED_OUTPUT = 16 << 20  # bytes; what a program writes beyond them is read and dropped


def judge_output(channel: int, given: str, expected: str) -> tuple[str, str]:
    """Feed the program, read what it writes until it ends, and compare; reason and detail."""
    output, complete = _converse(channel, given.encode("utf-8", "surrogateescape"))
    if not complete:
        return "wrong answer", f"more than {JUDGED_OUTPUT} bytes of output"
    found = output.decode("utf-8", "replace")
    if same_output(found, expected):
        return "passed", ""
    return "wrong answer", f"input {given[:100]!r}: expected {expected[:100]!r}, got {found[:100]!r}"


def _converse(channel: int, given: bytes) -> tuple[bytes, bool]:
    """What the program wrote, and whether that is all of it."""
    end = socket.socket(fileno=channel)
    end.setblocking(False)
    pieces: list[bytes] = []
    size = 0
    unsent = memoryview(given)
    if not unsent:
        end.shutdown(socket.SHUT_WR)
    while True:
        readable, writable, _ = select.select([end], [end] if unsent else [], [])
        if writable:
            try:
                unsent = unsent[end.send(unsent) :]
                if not unsent:
                    end.shutdown(socket.SHUT_WR)
            except OSError:  # it does not read
                unsent = unsent[:0]
        if readable:
            try:
                piece = os.read(end.fileno(), 1 << 16)
            except OSError:
                piece = b""
            if not piece:
                return b"".join(pieces), size <= JUDGED_OUTPUT
            size += len(piece)
            if size <= JUDGED_OUTPUT:
                pieces.append(piece)


def same_output(found: str, expected: str) -> bool:
    """Equal but for blanks at line ends and empty lines at the end; numbers within 1e-6 where they are decimals."""
    left, right = ([line.rstrip() for line in text.rstrip().splitlines()] for text in (found, expected))
    return len(left) == len(right) and all(map(_same_line, left, right))


def _same_line(found: str, expected: str) -> bool:
    """The same words with the same blanks before them."""
    left, right = (re.split(r"(\s+)", line) for line in (found, expected))
    return len(left) == len(right) and all(map(_same_word, left, right))


def _same_word(found: str, expected: str) -> bool:
    if found == expected:
        return True
    if "." not in expected or len(found) > 40 or len(expected) > 40:
        return False
    try:
        return abs(float(found) - float(expected)) <= 1e-6 * max(1.0, abs(float(expected)))
    except ValueError:
        return False
