"""Checks per second of the sandbox, starts and refills included, compared with an unsafe fresh interpreter.

    python benchmarks/sandbox.py [CHECKS]

Many checkers work in the unsafe way: program and tests in one file, one new interpreter per check, and exit status 0
counts as a pass. Both ways use one worker per core.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from bstar_trl.sandbox import Check, Limits, LocalSandbox

CORES = len(os.sched_getaffinity(0))
PROGRAM = "def add(a, b):\n    return a + b\n"
TESTS = ("assert add(1, 2) == 3", "assert add(-1, 1) == 0", "assert add(0, 0) == 0")


def sandboxed(checks: int) -> float:
    """Checks per second, with starting and closing the pool."""
    started = time.perf_counter()
    pool = LocalSandbox()
    # Every program differs, so that no cache could help.
    items = [Check(f"{PROGRAM}# {number}\n", TESTS) for number in range(checks)]
    with ThreadPoolExecutor(CORES) as threads:
        verdicts = list(threads.map(lambda item: pool.run(item, Limits()), items))
    pool.close()
    assert all(verdict.passed for verdict in verdicts)
    return checks / (time.perf_counter() - started)


def unsafe(checks: int) -> float:
    """Checks per second with a fresh interpreter for each check."""
    started = time.perf_counter()
    source = PROGRAM + "\n".join(TESTS)
    with ThreadPoolExecutor(CORES) as threads:
        done = list(threads.map(lambda _: subprocess.run([sys.executable, "-c", source]).returncode, range(checks)))
    assert not any(done)
    return checks / (time.perf_counter() - started)


def main() -> None:
    """Print both rates and their ratio."""
    checks = int(sys.argv[1]) if len(sys.argv) > 1 else 3000
    fast, slow = sandboxed(checks), unsafe(max(20, checks // 10))
    print(f"{checks} checks, {CORES} cores, load {os.getloadavg()[0]:.1f}")
    print(f"sandbox            {fast:6.0f} checks/s")
    print(f"fresh interpreter  {slow:6.0f} checks/s (unsafe)")
    print(f"ratio              {fast / slow:6.2f}")


if __name__ == "__main__":
    main()
