"""Worker processes that compare answers; the pool kills a worker whose comparison takes too long.

The pool keeps the time limit itself, because math-verify's own limit uses signals, which work only on the main thread
and cannot interrupt a long C call. Workers are plain subprocesses (`worker.py`), so nothing is forked and the user's
script is not imported again.
"""

from __future__ import annotations

import json
import math
import os
import select
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ..concurrency.pool import ProcessPool
from ..errors import ConfigurationError, RewardError

IMPORT_LIMIT = 120.0  # seconds to import math-verify, on a slow file system
ORPHAN_MARGIN = 5  # seconds past the time limit after which a worker ends itself
MIN_MEMORY = 256 << 20  # bytes: math-verify itself needs them

Outcome = Literal["equal", "different", "timed out", "crashed"]


class WorkerPool:
    """Starts workers when they are needed. Several threads may use the pool at once, also after a fork.

    Arguments as in `bstar_trl.rewards.AnswerMatch`.

    Raises:
        ConfigurationError: a limit is out of its range.
    """

    def __init__(self, time_limit: float, memory_limit: int, workers: int | None = None):
        if not 0 < time_limit < math.inf:
            raise ConfigurationError(f"time_limit must be a positive number of seconds, got {time_limit}")
        if memory_limit < MIN_MEMORY:
            raise ConfigurationError(f"memory_limit must be at least {MIN_MEMORY} bytes (256 MiB), got {memory_limit}")
        if workers is not None and workers < 1:
            raise ConfigurationError(f"workers must be at least 1, got {workers}")
        self.time_limit = time_limit
        self.memory_limit = memory_limit
        self.workers = workers or max(1, min(4, len(os.sched_getaffinity(0)) // 2))
        self._pool = ProcessPool(partial(_start, time_limit, memory_limit), self.workers)

    def compare(self, pairs: Sequence[tuple[str, str]]) -> list[Outcome]:
        """The outcome for each pair of gold and answer, in order; the workers share the pairs.

        Raises:
            RewardError: a worker cannot be started.
        """
        self._pool.claim()  # before several threads do
        outcomes: list[Outcome] = ["different"] * len(pairs)
        waiting = deque(range(len(pairs)))

        def work() -> None:
            while True:
                try:
                    index = waiting.popleft()
                except IndexError:
                    return
                outcomes[index] = self._compare(pairs[index])

        threads = min(self.workers, len(pairs))
        if threads <= 1:
            work()
            return outcomes
        with ThreadPoolExecutor(threads, thread_name_prefix="bstar-answers") as executor:
            try:
                for future in [executor.submit(work) for _ in range(threads)]:
                    future.result()
            finally:
                waiting.clear()  # after an error, or a Ctrl-C, no thread takes another pair
        return outcomes

    def close(self) -> None:
        """End the idle workers; a worker in use by another thread ends after its comparison."""
        self._pool.close()

    def _compare(self, pair: tuple[str, str]) -> Outcome:
        # After a crash, try once more with a fresh worker: another process may have killed the first one and the idle
        # ones with it.
        for fresh in (False, True):
            with self._pool.lend(fresh=fresh) as worker:
                worker.wait_until_ready()
                outcome = worker.compare(pair, self.time_limit)
            if outcome != "crashed":
                break
        return outcome

    def __reduce__(self) -> tuple[Any, ...]:
        return WorkerPool, (self.time_limit, self.memory_limit, self.workers)


class _Worker:
    """One process, a `Member` of the pool."""

    def __init__(self, time_limit: float, memory_limit: int):
        self.retired = False
        self._ready = False
        self._unread = b""
        script = Path(__file__).with_name("worker.py")
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(script)],  # -P: do not import from the script's folder
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # Ctrl-C reaches the trainer only
            )
        except (OSError, TypeError) as error:
            raise RewardError(f"cannot start a process to compare answers: {error}") from error
        limits = {"memory": memory_limit, "alarm": math.ceil(time_limit) + ORPHAN_MARGIN, "path": sys.path}
        self._send(limits)

    def wait_until_ready(self) -> None:
        """Wait until a new process has imported math-verify."""
        if self._ready:
            return
        reply = self._receive(IMPORT_LIMIT)
        if reply is None or "failure" in reply:
            why = f"no reply within {IMPORT_LIMIT:.0f} s" if reply is None else reply["failure"]
            raise RewardError(f"the process that compares answers did not start: {why}")
        self._ready = True

    def usable(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def compare(self, pair: tuple[str, str], time_limit: float) -> Outcome:
        """Compare one pair within `time_limit` seconds; a worker that fails is retired."""
        self.retired = True
        if not self._send(pair):
            return "crashed"
        reply = self._receive(time_limit)
        if reply is None:
            return "timed out"
        if "failure" in reply:
            return "crashed"
        self.retired = reply["retire"]
        return "equal" if reply["equal"] else "different"

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._process.kill()
        self._process.wait()
        self._close()

    def forget(self) -> None:
        """In a forked child: close the pipes to the parent's process, and leave the process alone."""
        self._process.returncode = 0
        self._close()

    def _close(self) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _send(self, message: Any) -> bool:
        """Send one line; False if the process has ended. The process waits for a line, so the pipe is empty."""
        assert self._process.stdin is not None
        line = json.dumps(message).encode() + b"\n"
        try:
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]
        except BrokenPipeError:
            return False
        return True

    def _receive(self, limit: float) -> dict[str, Any] | None:
        """The next reply; `None` if it takes longer than `limit` seconds; a failure if the process has ended."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + limit
        poll = select.poll()
        poll.register(self._process.stdout, select.POLLIN)
        while b"\n" not in self._unread:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not poll.poll(math.ceil(remaining * 1000)):
                return None
            data = os.read(self._process.stdout.fileno(), 65536)
            if not data:
                return {"failure": f"it ended with status {self._process.wait()}"}
            self._unread += data
        line, self._unread = self._unread.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply


def _start(time_limit: float, memory_limit: int, alive: set[_Worker]) -> _Worker:
    worker = _Worker(time_limit, memory_limit)
    alive.add(worker)
    return worker
