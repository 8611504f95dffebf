"""The host's side: warm sandboxes, lent to one check at a time.

Nothing here parses, imports or compares what a program made. A verdict is a short message of the tests' own process,
on a pipe that no other process has; output is bytes, cut and decoded for logs.
"""

from __future__ import annotations

import atexit
import itertools
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..concurrency.pool import ProcessPool
from ..errors import SandboxError
from .verdicts import DETAIL_LIMIT, KEPT_OUTPUT, REASONS, Check, Limits, Verdict, as_check, printable, whole_number
from .walls import workdir
from .walls.namespaces import LEVELS
from .walls.talk import Talk

START_LIMIT = 60.0  # seconds
GRACE = 0.8  # seconds after which a sandbox that does not keep the time limit itself is killed
CHECKS = 2000  # then a fresh sandbox
DIRECT_CALLERS = 64  # sandboxes at most for `run_tests`; each caller has its own, up to here
MOST_WORKERS = 4096
KEPT_WARM = 8  # of a pool's sandboxes, while nobody needs more

_warned: set[str] = set()
_turns = itertools.count()  # of the cores


class LocalSandbox:
    """Checks programs on this machine; an `Executor`. Safe to use from any thread, several at once, and after a fork.

    Sandboxes start when they are needed and stay warm until `close`; the next check starts new ones.

    Args:
        workers (`int`, *optional*): checks at once; None: one for each core.
        strict (`bool`): refuse to run where this machine lacks a layer of the isolation. Otherwise a warning says,
            once, what is missing.

    Raises:
        ConfigurationError: `workers` is no int, or out of range.
    """

    def __init__(self, workers: int | None = None, *, strict: bool = False):
        if workers is not None:
            whole_number("workers", workers, 1, MOST_WORKERS)
        self.workers = workers or len(os.sched_getaffinity(0))
        self.strict = strict
        kept = max(KEPT_WARM, len(os.sched_getaffinity(0)))
        self._pool = ProcessPool(partial(_start, strict), self.workers, kept)

    def run(self, check: Check, limits: Limits | None = None) -> Verdict:
        """Run one check.

        Raises:
            SandboxError: no sandbox can be started, or (with `strict`) a layer of the isolation is missing.
        """
        limits = limits or Limits()
        started = time.monotonic()
        if not check.cases:
            return self._run(check, None, limits)
        verdict = Verdict(True, "passed")
        for case in check.cases:
            left = limits.timeout - (time.monotonic() - started)
            if left <= 0:
                return Verdict(False, "timeout", f"more than {limits.timeout} s for all cases")
            shorter = Limits(left, limits.memory_mb, limits.processes, limits.disk_mb)
            verdict = self._run(check, case, shorter)
            if not verdict.passed:
                break
        return Verdict(verdict.passed, verdict.reason, verdict.detail, verdict.output, time.monotonic() - started)

    def missing(self) -> list[str]:
        """The layers of the isolation that this machine does not give, and why.

        Raises:
            SandboxError: no sandbox can be started.
        """
        with self._pool.lend() as sandbox:
            return sandbox.missing

    def close(self) -> None:
        """End the idle sandboxes; a sandbox that another thread uses ends after its check."""
        self._pool.close()

    def _run(self, check: Check, case: tuple[str, str] | None, limits: Limits) -> Verdict:
        # A sandbox that breaks is tried again with a fresh one: something else may have killed it. Should the second
        # break too, a check of our own tells a program that can do that from a machine that does not work.
        for _ in range(2):
            with self._pool.lend() as sandbox:
                verdict = sandbox.check(check, case, limits)
            if verdict is not None:
                return verdict
        with self._pool.lend() as sandbox:
            if sandbox.check(Check("", ("assert True",)), None, Limits()) is not None:
                return Verdict(False, "no answer", "the sandbox ended with the program, twice")
        raise SandboxError("sandboxes end during every check, even one that does nothing; is memory short?")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuilt, (self.workers, self.strict)


def _rebuilt(workers: int, strict: bool) -> LocalSandbox:
    return LocalSandbox(workers, strict=strict)


class _Sandbox:
    """One guard with its warm parent. It belongs to one thread at a time."""

    def __init__(self, level: int, core: int):
        self.retired = False
        self.missing: list[str] = []
        self._checks = 0
        self._work = workdir.make() if LEVELS[level] == "none" else None
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        settings = {"level": level, "work": self._work, "host": os.getpid(), "core": core}
        root = str(Path(__file__).parents[2])
        code = f"import sys; sys.path.insert(0, {root!r}); from bstar_trl.sandbox.walls.zygote import main; "
        code += "del sys.path[0]; main()"
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-s", "-S", "-B", "-X", "utf8", "-c", code, json.dumps(settings)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                cwd="/",
                env={"HOME": "/tmp", "TMPDIR": "/tmp", "LANG": "C.UTF-8", "USER": "sandbox", "PYTHONHASHSEED": "0"},
                start_new_session=True,  # Ctrl-C is for the trainer
            )
        except (OSError, TypeError) as error:
            self._control.close()
            raise SandboxError(f"cannot start a process to run programs in: {error}") from error
        finally:
            theirs.close()
        self._control.settimeout(START_LIMIT)

    def ready(self) -> str | None:
        """Wait for it; why it failed, if it did."""
        try:
            message = self._control.recv(65536)
        except (TimeoutError, OSError) as error:
            return f"no word within {START_LIMIT:.0f} s: {error}"
        if not message:
            return "it ended without a word"
        words = json.loads(message)
        self.missing = words.get("missing", [])
        failure: str | None = words.get("failure")
        return failure

    def check(self, check: Check, case: tuple[str, str] | None, limits: Limits) -> Verdict | None:
        """One check; `None` where the sandbox itself broke. After that, or when it is worn out, it is retired."""
        self._checks += 1
        self.retired = True
        started = time.monotonic()
        pipes = [os.pipe() for _ in range(4)]
        (source_r, source_w), (tests_r, tests_w), (verdict_r, verdict_w), (output_r, output_w) = pipes
        request = {
            "script": case is not None,
            "timeout": limits.timeout,
            "memory": limits.memory_mb,
            "processes": limits.processes,
            "disk": limits.disk_mb,
        }
        payload: dict[str, Any] = {
            "setup": check.setup,
            "trusted": check.trusted,
            "tests": check.tests,
            "names": check.names,
            "in_place": check.in_place,
        }
        payload |= {"case": case, "detail limit": DETAIL_LIMIT}
        talk = Talk(
            {source_w: check.program.encode("utf-8", "surrogatepass"), tests_w: json.dumps(payload).encode()},
            {verdict_r: 1 << 16, output_r: KEPT_OUTPUT},
        )
        try:
            try:
                given = [source_r, tests_r, verdict_w, output_w]
                socket.send_fds(self._control, [json.dumps(request).encode()], given)
            except OSError:
                return None
            finally:
                for descriptor in given:
                    os.close(descriptor)
            report = talk.until_report(self._control, started + limits.timeout + GRACE)
            if report is None:
                self._kill()
                if not talk.late:
                    return None
                report = {"stopped": "timeout", "status": None, "clean": False}
            talk.drain(0.2)
        finally:
            talk.close()
        if "failure" in report:
            return None
        self.retired = not report["clean"] or self._checks >= CHECKS
        if self._work is not None:
            workdir.empty(self._work)
        output = bytes(talk.read[output_r]).decode("utf-8", "replace")
        return _verdict(bytes(talk.read[verdict_r]), report, output, limits, time.monotonic() - started)

    def usable(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def end(self) -> None:
        """Kill it, wait until it is gone, and remove its files."""
        self._control.close()  # the warm parent ends by itself, and everything inside with it
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._kill()
        if self._work is not None:
            workdir.remove(self._work)

    def forget(self) -> None:
        """In a forked child: let go of the parent's sandbox without touching it."""
        self._process.returncode = 0
        self._control.close()

    def _kill(self) -> None:
        # The guard kills the warm parent and waits for its end, and with that goes the whole pid namespace. Were the
        # guard killed itself, the warm parent would still die (its parent-death signal), with nobody to bury it.
        self._process.terminate()
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _verdict(message: bytes, report: dict[str, Any], output: str, limits: Limits, seconds: float) -> Verdict:
    """The tests' word, if it is whole; otherwise what the warm parent saw."""
    output = printable(output)
    if report["stopped"] == "timeout":
        return Verdict(False, "timeout", f"more than {limits.timeout:g} s", output, seconds)
    if report["stopped"] == "memory":
        return Verdict(
            False,
            "memory",
            f"more than {limits.memory_mb} MiB or {limits.processes} processes in all",
            output,
            seconds,
        )
    if len(message) > 4 and struct.unpack(">I", message[:4])[0] == len(message) - 4:
        said = json.loads(message[4:])
        reason, detail = said["reason"], printable(said["detail"])
        if reason not in REASONS:
            raise SandboxError(f"the tests' process gave an unknown reason: {reason!r}")
        if reason == "wrong answer" and report["status"]:  # a script that failed: its output is incomplete
            words = {3: "syntax", 4: "memory", 5: "forbidden", 6: "exception"}
            reason = words.get(os.waitstatus_to_exitcode(report["status"]), reason)
        return Verdict(reason == "passed", reason, detail, output, seconds)
    return Verdict(False, "no answer", "the tests' process ended before its verdict", output, seconds)


def _start(strict: bool, alive: set[_Sandbox]) -> _Sandbox:
    """A sandbox at the best level this machine gives."""
    why: list[str] = []
    for level, name in enumerate(LEVELS):
        if name == "root" and os.geteuid() != 0:
            continue
        cores = sorted(os.sched_getaffinity(0))
        sandbox = _Sandbox(level, cores[next(_turns) % len(cores)])
        alive.add(sandbox)
        failure = sandbox.ready()
        if failure is None:
            lacking = list(sandbox.missing)
            if name == "none":
                lacking.insert(0, f"namespaces ({'; '.join(why)})")
            elif name == "root":
                lacking.insert(0, f"a user namespace ({'; '.join(why)})")
            sandbox.missing = lacking
            if lacking:
                _complain(lacking, strict, sandbox, alive)
            return sandbox
        why.append(f"{name}: {failure}")
        sandbox.end()
        alive.discard(sandbox)
    raise SandboxError(f"no sandbox can be started here: {'; '.join(why)}")


def _complain(missing: Sequence[str], strict: bool, sandbox: _Sandbox, alive: set[_Sandbox]) -> None:
    text = f"this machine does not give the sandbox all its layers; missing: {'; '.join(missing)}"
    if strict:
        sandbox.end()
        alive.discard(sandbox)
        raise SandboxError(f"{text}. strict=True refuses to run programs without them")
    if text not in _warned:
        _warned.add(text)
        warnings.warn(f"{text}. `bstar-trl sandbox-check` shows what is left", stacklevel=2)


_default: LocalSandbox | None = None
_default_lock = threading.Lock()


def run_tests(
    program: str,
    tests: Sequence[str],
    *,
    setup: str = "",
    timeout: float = 5.0,
    memory_mb: int = 512,
    trusted: str = "",
    names: Sequence[str] | None = None,
    in_place: bool = False,
    executor: Any = None,
) -> Verdict:
    """Run a program against tests, in the sandbox of this machine or another executor.

    Args:
        program (`str`): the source to be judged.
        tests (`Sequence[str]`): statements, usually assertions. They use the program's names.
        setup (`str`): statements before the tests, which may build objects of the program's own classes.
        timeout (`float`): seconds for everything.
        memory_mb (`int`): MiB for all of the program's processes and the tests together.
        trusted (`str`): definitions for the tests that the program must not replace.
        names (`Sequence[str]`, *optional*): the only names the tests take from the program; None: all they use.
        in_place (`bool`): the program's functions may change their arguments; every call gives these back.
        executor (`Executor`, *optional*): where to run it; None: a sandbox on this machine.

    Returns:
        `Verdict`: whether it passed, and why (not). Whatever the program does is data.

    Raises:
        ConfigurationError: an argument that makes no sense.
        SandboxError: the executor cannot do its work.
    """
    global _default
    limits = Limits(timeout=timeout, memory_mb=memory_mb)
    check = as_check(program, tests, setup=setup, trusted=trusted, names=names, in_place=in_place)
    if executor is None:
        with _default_lock:
            if _default is None:
                _default = LocalSandbox(DIRECT_CALLERS)
                atexit.register(_default.close)
        executor = _default
    verdict: Verdict = executor.run(check, limits)
    return verdict


def close() -> None:
    """End the sandboxes that `run_tests` has started. The next call starts new ones."""
    if _default is not None:
        _default.close()
