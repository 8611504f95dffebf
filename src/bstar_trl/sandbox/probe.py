"""What this machine gives to the sandbox: each layer is proven by a program that tries to get through it."""

from __future__ import annotations

import os
import platform
import socket
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .host import LocalSandbox
from .verdicts import Check, Limits
from .walls import landlock
from .walls.namespaces import LIBC


@dataclass(frozen=True)
class Proof:
    """One layer: whether it held, and what was tried (or how it failed)."""

    layer: str
    holds: bool
    detail: str


@dataclass(frozen=True)
class Attempt:
    """A program whose `f()` says truthfully whether it got through (then it is true), or that must end by a limit."""

    layer: str
    what: str
    program: str
    ends_by: str = "passed"
    memory_mb: int = 128


def missing_layers() -> list[str]:
    """The layers this machine lacks, and why.

    Raises:
        SandboxError: no sandbox can be started at all.
    """
    with _quiet() as pool:
        return pool.missing()


def proofs() -> Iterator[Proof]:
    """Try every layer, one after the other.

    Raises:
        SandboxError: no sandbox can be started at all.
    """
    yield _landlock()
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as listener, _quiet() as pool:
        canary = Path(folder) / "canary"
        canary.write_text("alive")
        os.chmod(folder, 0o755)
        os.environ["BSTAR_CANARY"] = "alive"
        try:
            for attempt in _attempts(str(canary), listener.getsockname()[1]):
                started = time.monotonic()
                verdict = pool.run(Check(attempt.program, ("assert not f()",)), Limits(2.0, attempt.memory_mb))
                holds = verdict.reason == attempt.ends_by and time.monotonic() - started < 4
                detail = attempt.what if holds else f"{attempt.what}: {verdict.reason} {verdict.detail}"
                yield Proof(attempt.layer, holds, detail)
        finally:
            del os.environ["BSTAR_CANARY"]


@contextmanager
def _quiet() -> Iterator[LocalSandbox]:
    """A pool without its warnings: what is missing is this module's own subject."""
    pool = LocalSandbox(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield pool
    finally:
        pool.close()


def _landlock() -> Proof:
    """Landlock alone, without the other walls: does it keep this process from a file it could read?"""
    if not landlock.version(LIBC):
        return Proof("Landlock", False, "the kernel has none")
    child = os.fork()
    if child == 0:
        try:
            landlock.restrict(LIBC, ["/usr/lib"], [])
            os.close(os.open("/", os.O_RDONLY))
        except PermissionError:
            os._exit(0)
        finally:
            os._exit(1)
    held = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    return Proof("Landlock", held, f"version {landlock.version(LIBC)}: read a directory that is not allowed")


def _attempts(canary: str, port: int) -> list[Attempt]:
    call = "import ctypes\nlibc = ctypes.CDLL(None)\n"
    crowd = (
        "import os, time\ndef f():\n    for _ in range(5):\n        if os.fork() == 0:\n"
        "            x = bytearray(b'x' * (60 << 20))\n            time.sleep(9)\n    time.sleep(9)\n"
    )
    return [
        Attempt("file system", "read a file of this machine", _opened(canary, "r")),
        Attempt("file system", "write a file of this machine", _opened(canary, "a")),
        Attempt(
            "environment", "read a variable of this process", "import os\ndef f(): return os.getenv('BSTAR_CANARY')"
        ),
        Attempt("processes", "see or signal this process", _tried(f"os.kill({os.getpid()}, 0)")),
        Attempt(
            "network", "connect to a port of this machine", _tried(f"socket.create_connection(('127.0.0.1', {port}))")
        ),
        Attempt(
            "host name",
            "see the machine's name",
            f"import os\ndef f(): return os.uname().nodename == {platform.node()!r}",
        ),
        Attempt("privileges", "become root", _tried("os.setuid(0)")),
        Attempt("system calls", "trace a process", f"{call}def f(): return libc.ptrace(0, 0, None, None) == 0"),
        Attempt("system calls", "open an io_uring", f"{call}def f(): return libc.syscall(425, 8, bytes(120)) >= 0"),
        Attempt("system calls", "make a namespace", f"{call}def f(): return libc.unshare(0x10000000) == 0"),
        Attempt("system calls", "make shared memory", f"{call}def f(): return libc.shmget(0, 4096, 0o1600) >= 0"),
        Attempt("disk limit", "write 100 MiB", _tried("open('/tmp/x', 'wb').write(bytes(100 << 20))", "MemoryError")),
        Attempt(
            "process limit",
            "fork without end",
            _tried("[os.fork() or time.sleep(9) for _ in range(999)]"),
            memory_mb=4096,
        ),
        Attempt("memory limit", "take 1 GiB", "def f(): return bytearray(1 << 30)", "memory"),
        Attempt("memory watchdog", "take 300 MiB in 5 processes", crowd, "memory"),
        Attempt("time limit", "run for ever", "def f():\n    while True: pass", "timeout"),
    ]


def _opened(path: str, mode: str) -> str:
    return _tried(f"open({path!r}, {mode!r})")


def _tried(action: str, also: str = "OSError") -> str:
    return (
        f"import os, socket, time\ndef f():\n    try:\n        {action}\n    except (OSError, {also}):\n"
        "        return False\n    return True\n"
    )
