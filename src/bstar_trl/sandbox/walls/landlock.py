"""Landlock: the kernel's own list of files a process may touch; no privilege needed.

Inside the namespaces it is a second wall; where they are missing it is the one that hides the host's files.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from functools import lru_cache

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
VERSION, PATH_BENEATH = 1, 1
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
TRUNCATE = 1 << 14
FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE
READ_ONLY = EXECUTE | READ_FILE | READ_DIR
# Everything that version n of the interface knows: 13 rights in the first; refer, truncate and device ioctl later.
ALL_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1}
NEWEST_RIGHTS = (1 << 16) - 1
BIND_AND_CONNECT = 3
ABSTRACT_SOCKETS_AND_SIGNALS = 3


@lru_cache(maxsize=1)
def version(libc: ctypes.CDLL) -> int:
    """The kernel's Landlock version; 0 where there is none."""
    return max(0, libc.syscall(CREATE_RULESET, None, 0, VERSION))


def restrict(libc: ctypes.CDLL, readable: Sequence[str], writable: Sequence[str]) -> None:
    """Let this process and its descendants read below some paths, write below others, and nothing else.

    From version 4 on TCP is refused too, from version 6 on signals and abstract sockets to processes outside.

    Raises:
        OSError: the kernel has no Landlock, or refuses.
    """
    known = version(libc)
    rights = ALL_RIGHTS.get(known, NEWEST_RIGHTS)
    network = BIND_AND_CONNECT if known >= 4 else 0
    scopes = ABSTRACT_SOCKETS_AND_SIGNALS if known >= 6 else 0
    size = 24 if known >= 6 else 16 if known >= 4 else 8
    attributes = struct.pack("QQQ", rights, network, scopes)
    ruleset = _checked(libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(size), 0))
    try:
        for path in readable:
            _allow(libc, ruleset, path, READ_ONLY, rights)
        for path in writable:
            _allow(libc, ruleset, path, rights, rights)
        _checked(libc.syscall(RESTRICT_SELF, ruleset, 0))
    finally:
        os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int, known: int) -> None:
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        allowed = rights if os.path.isdir(path) else rights & FILE_RIGHTS & known
        rule = struct.pack("=Qi", allowed, descriptor)
        _checked(libc.syscall(ADD_RULE, ruleset, PATH_BENEATH, rule, 0))
    finally:
        os.close(descriptor)


def _checked(result: int) -> int:
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock: {os.strerror(error)}")
    return result
