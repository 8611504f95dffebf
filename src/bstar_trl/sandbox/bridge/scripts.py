"""The tests' side for programs that read standard input and write standard output."""

from __future__ import annotations

import contextlib
import socket
import threading

from ..outputs import same_output

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
    threading.Thread(target=_feed, args=(end, given), daemon=True).start()
    output, size = bytearray(), 0
    with contextlib.suppress(OSError):  # it ended before it had read everything
        while piece := end.recv(1 << 16):
            size += len(piece)
            output += piece[: max(0, JUDGED_OUTPUT - len(output))]
    return bytes(output), size <= JUDGED_OUTPUT


def _feed(end: socket.socket, given: bytes) -> None:
    with contextlib.suppress(OSError):  # it does not read
        end.sendall(given)
        end.shutdown(socket.SHUT_WR)
