"""Runs every program of `adversaries.py` and reports as one JSON object: any Python, any user, any number of callers.

    python run_suite.py CALLERS ROUNDS [NAME ...]

It needs nothing but the package itself. It is its orphans' parent (a subreaper), so whatever a program left behind
would show up below it.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import secrets
import socket
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from adversaries import EVERYTHING, Case

from bstar_trl.sandbox import close, run_tests
from bstar_trl.sandbox.walls.seccomp import MACHINES, REFUSED

SLACK = 2.0  # seconds beyond a program's time limit; a second, but for machines that are busy with other tests
QUIET = {"unshare", "mount", "umount2", "chroot", "socket", "personality", "vhangup"}  # tried by name, or harmless


class Listeners:
    """What a program must not reach: a TCP and a UDP port, a Unix socket with a path, an abstract one."""

    def __init__(self, folder: Path):
        self.reached: list[str] = []
        self.unix, self.abstract = str(folder / "socket"), f"bstar-{secrets.token_hex(4)}"
        self._sockets = {}
        self._listen("tcp", socket.AF_INET, ("127.0.0.1", 0))
        self.port = self._sockets["tcp"].getsockname()[1]
        self._listen("path", socket.AF_UNIX, self.unix)
        self._listen("abstract", socket.AF_UNIX, "\0" + self.abstract)
        self._sockets["udp"] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets["udp"].bind(("127.0.0.1", self.port))

    def _listen(self, name: str, family: int, address) -> None:
        item = self._sockets[name] = socket.socket(family, socket.SOCK_STREAM)
        item.bind(address)
        item.listen()

    def close(self) -> list[str]:
        """Whoever called."""
        for name, item in self._sockets.items():
            item.setblocking(False)
            try:
                item.recvfrom(10) if name == "udp" else item.accept()
                self.reached.append(name)
            except BlockingIOError:
                pass
            item.close()
        return self.reached


def fill(text: str, words: dict[str, str]) -> str:
    for word, value in words.items():
        text = text.replace(f"@{word}@", value)
    return text


def run(case: Case, words: dict[str, str]) -> str | None:
    """What is wrong with the outcome, if anything."""
    started = time.monotonic()
    tests = [fill(item, words) for item in case.tests]
    program, limits = fill(case.program, words), {"timeout": case.timeout, "memory_mb": case.memory_mb}
    verdict = run_tests(program, tests, in_place=case.in_place, **limits)
    seconds = time.monotonic() - started
    if seconds > case.timeout + SLACK:
        return f"took {seconds:.1f} s of {case.timeout}"
    if verdict.passed != case.passes or (verdict.reason == "passed") != verdict.passed:
        return f"{verdict.reason}: {verdict.detail} {verdict.output[:300]}"
    if case.reasons and verdict.reason not in case.reasons:
        return f"{verdict.reason} is none of {case.reasons}: {verdict.detail}"
    return None


def children() -> list[str]:
    """Everything below this process: adopted orphans too."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        found += (task / "children").read_text().split()
    return found


def main() -> None:
    callers, rounds, chosen = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
    secret = os.environ["BSTAR_TEST_SECRET"] = secrets.token_hex(8)
    column = MACHINES[platform.machine()][0]
    calls = [numbers[column] for name, numbers in REFUSED.items() if name not in QUIET and numbers[column] is not None]
    wrong: dict[str, list[str]] = {}
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / f"canary-{secrets.token_hex(4)}"
        canary.write_text("alive")
        listeners = Listeners(Path(folder))
        words = {
            "CANARY": str(canary),
            "CANARY_NAME": canary.name,
            "HERE": folder,
            "PREFIX": sys.base_prefix,
            "SECRET": secret,
            "SECRET_NAME": "BSTAR_TEST_SECRET",
            "PID": str(os.getpid()),
            "PARENT": str(os.getppid()),
            "PORT": str(listeners.port),
            "UNIX": listeners.unix,
            "ABSTRACT": listeners.abstract,
            "CLONE": {"x86_64": "56", "aarch64": "220"}[platform.machine()],
            "CALLS": repr(calls),
            "HOSTNAME": socket.gethostname(),
        }
        cases = [case for case in EVERYTHING if not chosen or case.name in chosen] * rounds

        def judged(case: Case) -> None:
            problem = run(case, words)
            if problem:
                wrong.setdefault(case.name, []).append(problem)

        with ThreadPoolExecutor(callers) as threads:
            list(threads.map(judged, cases))
        for what, holds in {
            "canary": canary.read_text() == "alive",
            "files": sorted(os.listdir(folder)) == sorted([canary.name, "socket"]),
            "listeners": not listeners.close(),
        }.items():
            if not holds:
                wrong[f"the host's {what}"] = ["changed"]
    close()
    deadline = time.monotonic() + 5
    while children() and time.monotonic() < deadline:
        time.sleep(0.05)
    if children():
        wrong["processes left"] = children()
    if threading.active_count() > 1:
        wrong["threads left"] = [str(item) for item in threading.enumerate()]
    print(json.dumps({"programs": len(cases), "wrong": wrong, "user": os.getuid()}))


if __name__ == "__main__":
    main()
