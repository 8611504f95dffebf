"""What a child and all its descendants use, read from procfs by the warm parent; and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from dataclasses import dataclass


@dataclass(frozen=True)
class Process:
    """One process: its parent, and its bytes of anonymous and shared memory."""

    parent: int
    memory: int


def processes(proc: int) -> dict[int, Process]:
    """Every process that the procfs behind this descriptor shows."""
    found = {}
    for name in os.listdir(proc):
        if name.isdigit():
            text = _read(proc, f"{name}/status")
            if text:
                found[int(name)] = Process(_field(text, b"PPid:"), 1024 * sum(_field(text, key) for key in KEYS))
    return found


CROWD = 24  # processes
KEYS = (b"RssAnon:", b"RssShmem:")


def descendants(found: dict[int, Process], root: int) -> list[int]:
    """Of these processes, those below `root`."""
    children: dict[int, list[int]] = {}
    for number, process in found.items():
        children.setdefault(process.parent, []).append(number)
    below: list[int] = []
    waiting = [root]
    while waiting:
        inner = children.get(waiting.pop(), [])
        below += inner
        waiting += inner
    return below


def threads_of(proc: int, user: int) -> int:
    """Processes and threads of a user."""
    texts = [_read(proc, f"{name}/status") for name in os.listdir(proc) if name.isdigit()]
    return sum(_field(text, b"Threads:") for text in texts if text and _field(text, b"Uid:") == user)


def used_below(proc: int, root: int) -> tuple[int, int]:
    """Bytes the descendants of `root` use together, and how many they are.

    A fork shares its parent's pages until it writes to them, which procfs counts in full for both; exact figures
    (`smaps_rollup`) wait for locks that a fork bomb holds. So the pages that `root` itself has are taken off, for as
    many processes as an honest program has; a crowd is counted in full.
    """
    found = processes(proc)
    below = descendants(found, root)
    memory = sum(found[number].memory for number in below) - min(len(below), CROWD) * found[root].memory
    return memory, len(below)


def kill_below(proc: int, root: int, *, spare: int = 0, seconds: float = 2.0) -> bool:
    """Kill every descendant of `root`, again and again until none is left; whether that was so in time."""
    deadline = time.monotonic() + seconds
    while True:
        below = [number for number in descendants(processes(proc), root) if number != spare]
        for number in below:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(number, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(number, os.WNOHANG)
        if not below:
            return True
        if time.monotonic() > deadline:
            return False


def _read(proc: int, path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 4096)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _field(text: bytes, key: bytes) -> int:
    place = text.find(b"\n" + key)
    if place < 0:
        return 0
    return int(text[place + 1 + len(key) :].split(maxsplit=1)[0])
