"""Runs a command on a machine that lacks something: a system call filter takes it away.

python without.py users|namespaces|landlock COMMAND ...
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys

from bstar_trl.sandbox.walls import landlock, seccomp

UNSHARE = {"x86_64": 272, "aarch64": 97}
NEW_USER = 0x10000000


def main() -> None:
    what, command = sys.argv[1], sys.argv[2:]
    unshare = UNSHARE[platform.machine()]
    number, test, value = {
        "users": (unshare, seccomp.JUMP_ANY_BIT, NEW_USER),
        "namespaces": (unshare, seccomp.JUMP_AT_LEAST, 0),
        "landlock": (landlock.CREATE_RULESET, seccomp.JUMP_AT_LEAST, 0),
    }[what]
    lines = [seccomp._line(seccomp.LOAD, seccomp.NUMBER_AT)]
    lines += seccomp._never(number, test, value)
    lines += [seccomp._line(seccomp.RETURN, seccomp.ALLOW)]
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(38, 1, 0, 0, 0)  # no_new_privs
    seccomp.program = lambda *_: b"".join(lines)  # the same way to install it
    seccomp.install(libc)
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
