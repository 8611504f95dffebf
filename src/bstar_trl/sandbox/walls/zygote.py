"""The warm parent: enters the sandbox once, then forks a fresh pair of processes for each check.

Started as `python -m bstar_trl.sandbox.walls.zygote`, with a socket to the host as its standard input. It never sees a
program or a test: the host hands it pipes, which go on to the two children. Its own process tree is

    guard (outside: dies with the host, and takes everything along)
      warm parent (first process of the new pid namespace)
        program (first process of its own pid namespace)      tests (the same)

The children are killed after every check, whatever they say, and with them all that they have started.
"""

from __future__ import annotations

import builtins
import contextlib
import gc
import io
import json
import math
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..bridge import program_side, scripts, tests_side, wire
from . import landlock, seccomp, watch
from .namespaces import (
    DEVICES,
    LEVELS,
    LIBC,
    NEW_PID,
    NOBODY,
    PR_SET_CHILD_SUBREAPER,
    PR_SET_DUMPABLE,
    PR_SET_PDEATHSIG,
    Ground,
    build_root,
    check,
    confine,
    enter_namespaces,
    fresh_files,
    open_sources,
    take_inside_id,
    visible_paths,
)

# What programs import most, and what costs little memory: every page of the warm parent makes each fork dearer.
PRELOADED = """
abc array ast bisect cmath collections copy dataclasses datetime decimal enum fractions functools heapq io itertools
json math operator os queue random re statistics string struct textwrap threading time traceback types typing
"""
STANDARD_FILES: dict[Any, int] = {
    kind(f"/dev/{name}"): number for number, name in enumerate(("stdin", "stdout", "stderr")) for kind in (str, Path)
}
TICK = 0.02  # seconds between two looks at the memory
THREAD_STACK = 2 << 20
OTHER_SANDBOXES = 400  # processes that they may have, where they are counted together
GUARD_TICK = 0.5
SPARE_MEMORY = 32 << 20  # bytes: the interpreter itself


def main() -> None:
    """The guard; its child is the warm parent."""
    settings = json.loads(sys.argv[1])
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    for name in PRELOADED.split():
        __import__(name)
    host = settings["host"]
    ground = Ground(LEVELS[settings["level"]], visible_paths(), work=settings["work"] or "/tmp", core=settings["core"])
    ground.proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    try:
        enter_namespaces(ground.level)
    except OSError as error:
        _say(control, failure=str(error))
        return
    if ground.level == "none":
        check(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")  # should the warm parent be killed
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(tell)
        _become_warm_parent(control, ground, int(os.read(told, 20)))
    os.write(tell, str(child).encode())
    control.close()
    _guard(child, host, ground, settings["work"])


def _guard(child: int, host: int, ground: Ground, work: str | None) -> NoReturn:
    """Wait for the warm parent's end; make it end if the host has gone, however it went. Then clear up."""
    ended = os.pidfd_open(child)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGKILL))
    while not select.select([ended], [], [], GUARD_TICK)[0]:
        if os.getppid() != host:
            break
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if ground.level == "none":
        watch.kill_below(ground.proc, os.getpid())
    if work is not None:
        from . import workdir

        workdir.remove(work)
    os._exit(0)


def _become_warm_parent(control: socket.socket, ground: Ground, pid: int) -> NoReturn:
    try:
        _settle(ground, pid)
    except OSError as error:
        _say(control, failure=str(error))
        os._exit(1)
    if seccomp.supported():
        seccomp.program()  # made once
    threading.stack_size(THREAD_STACK)
    gc.collect()
    gc.freeze()
    _say(control, level=ground.level, missing=ground.missing)
    try:
        _serve(control, ground)
    finally:
        os._exit(0)


def _settle(ground: Ground, pid: int) -> None:
    """From the guard's fork to the place where children can be forked."""
    ground.own_pid, host_proc = pid, ground.proc
    # The two children of a check take turns; on one core that costs a fifth less than across two. See `_spread`.
    os.sched_setaffinity(0, {ground.core})
    sys.executable = os.path.realpath(sys.executable)  # what a program can start again
    if ground.level == "none":
        check(LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "subreaper")
        if os.geteuid() == 0 and _readable_by_all(ground.readable):
            ground.run_as = NOBODY
        elif os.geteuid() == 0:
            ground.missing.append("another user: programs run as root, for nobody else can read this Python")
        ground.writable = [ground.work, "/dev/null"]
        ground.readable += [f"/dev/{name}" for name in DEVICES]
    else:
        sources = open_sources(ground.readable)
        if ground.level == "user":
            take_inside_id()
        proc = build_root(sources)
        if proc >= 0:
            ground.proc, ground.own_pid = proc, os.getpid()
        ground.work, ground.readable, ground.writable = "/tmp", ["/"], ["/tmp", "/dev/null"]
        if ground.level == "root":
            ground.run_as = NOBODY
        os.chdir("/tmp")
    if ground.level != "user":
        user = os.geteuid() if ground.run_as is None else ground.run_as
        ground.others = OTHER_SANDBOXES + watch.threads_of(host_proc, user)
    if host_proc != ground.proc:
        os.close(host_proc)
    LIBC.prctl(PR_SET_DUMPABLE, 1 if ground.level == "user" else 0, 0, 0, 0)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if not seccomp.supported():
        ground.missing.append(f"seccomp: no filter is known for {os.uname().machine}")
    if not landlock.version(LIBC):
        ground.missing.append("Landlock: the kernel has none")
    if ground.own_pid not in watch.processes(ground.proc):
        raise OSError(1, "procfs does not show the sandbox's own processes")


def _readable_by_all(paths: Sequence[str]) -> bool:
    for path in paths:
        parts = os.path.realpath(path).split("/")
        for end in range(2, len(parts) + 1):
            if not os.stat("/".join(parts[:end])).st_mode & (1 if end < len(parts) else 4):
                return False
    return True


def _serve(control: socket.socket, ground: Ground) -> None:
    """One check after the other, until the host hangs up."""
    own_namespace = os.open("self/ns/pid", os.O_RDONLY, dir_fd=ground.proc) if ground.level != "none" else -1
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 4096, 4)
        if not message:
            return
        request = json.loads(message)
        deadline = time.monotonic() + request["timeout"]
        ours, theirs = socket.socketpair()
        source, payload, verdict, output = descriptors
        try:
            one = _fork(ground, own_namespace, request, [source, theirs.fileno(), output], _program_main)
            two = _fork(ground, own_namespace, request, [payload, ours.fileno(), verdict], _tests_main)
        except OSError as error:
            watch.kill_below(ground.proc, ground.own_pid)
            _say(control, failure=f"cannot start a check: {error}")
            continue
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            ours.close()
            theirs.close()
        _say(control, **_supervise(control, ground, request, deadline, one, two))


def _fork(
    ground: Ground,
    own_namespace: int,
    request: dict[str, Any],
    descriptors: Sequence[int],
    work: Callable[[dict[str, Any]], None],
) -> int:
    """A confined child that has these three descriptors as 3, 4 and 5, and nothing else of ours."""
    if own_namespace >= 0:
        check(LIBC.unshare(NEW_PID), "unshare")
    child = os.fork()
    if child:
        if own_namespace >= 0:
            check(LIBC.setns(own_namespace, NEW_PID), "setns")
        return child
    try:
        _prepare_child(ground, request, descriptors)
        work(request)
    except BaseException as error:
        with contextlib.suppress(BaseException):
            sys.stderr.write(f"{type(error).__name__}: {error}\n")
            sys.stderr.flush()
    finally:
        os._exit(70)


def _prepare_child(ground: Ground, request: dict[str, Any], descriptors: Sequence[int]) -> None:
    os.setsid()
    with contextlib.suppress(OSError):
        score = os.open("self/oom_score_adj", os.O_WRONLY, dir_fd=ground.proc)
        os.write(score, b"1000")
    kept = [os.dup2(descriptor, 100 + place) for place, descriptor in enumerate(descriptors)]
    for place, descriptor in enumerate(kept):
        os.dup2(descriptor, 3 + place)
    os.closerange(6, 1024)
    if ground.level != "none":
        fresh_files(request["disk"])
    os.chdir(ground.work)
    confine(
        ground,
        memory=(request["memory"] << 20) + SPARE_MEMORY,
        seconds=(math.ceil(request["timeout"]) + 1) * len(ground.cores),
        processes=request["processes"],
        disk=request["disk"] << 20,
    )


def _program_main(request: dict[str, Any]) -> None:
    source = _read_all(3).decode("utf-8", "surrogatepass")
    os.dup2(5, 1)
    os.dup2(5, 2)
    os.close(3)
    os.close(5)
    if request["script"]:
        os.dup2(4, 0)
        os.dup2(4, 1)
        os.close(4)
        _open_standard_files_by_name()
        program_side.run_script(source)
    program_side.serve(source, 4)


def _tests_main(request: dict[str, Any]) -> None:
    LIBC.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    os.dup2(0, 1)
    os.dup2(0, 2)
    payload = json.loads(_read_all(3))
    os.close(3)
    if request["script"]:
        reason, detail = scripts.judge_output(4, *payload["case"])
    else:
        reason, detail = tests_side.judge(4, payload)
    wire.send(5, {"reason": reason, "detail": detail[: payload["detail limit"]]})
    os._exit(0)


def _open_standard_files_by_name() -> None:
    """`open("/dev/stdin")`: the sandbox has no procfs, which such a name leads to."""
    plain_open = open

    def open_named(file: Any, *arguments: Any, **keywords: Any) -> Any:
        number = STANDARD_FILES.get(file) if isinstance(file, str | os.PathLike) else None
        return plain_open(file if number is None else os.dup(number), *arguments, **keywords)

    builtins.open = io.open = open_named


def _read_all(descriptor: int) -> bytes:
    pieces = []
    while piece := os.read(descriptor, 1 << 16):
        pieces.append(piece)
    return b"".join(pieces)


def _supervise(
    control: socket.socket, ground: Ground, request: dict[str, Any], deadline: float, one: int, two: int
) -> dict[str, Any]:
    """Wait for the tests' end, within the limits; then end everything. How it went, not what came out."""
    limit = (request["memory"] << 20) + SPARE_MEMORY
    program_end, tests_end = os.pidfd_open(one), os.pidfd_open(two)
    poll = select.poll()
    for descriptor in (program_end, tests_end, control.fileno()):
        poll.register(descriptor, select.POLLIN if descriptor != control.fileno() else 0)
    stopped = None
    spread = False
    status: int | None = None
    while stopped is None:
        remaining = deadline - time.monotonic()
        events = dict(poll.poll(max(0, math.ceil(1000 * min(TICK, remaining)))))
        if tests_end in events or control.fileno() in events:
            break
        if program_end in events:
            status = os.waitpid(one, 0)[1]
            poll.unregister(program_end)
            if ground.level == "none":
                watch.kill_below(ground.proc, ground.own_pid, spare=two)
        if not events:
            if time.monotonic() >= deadline:
                stopped = "timeout"
            if not spread:
                _spread((one, two), ground.cores)
                spread = True
            memory, count = watch.used_below(ground.proc, ground.own_pid)
            if stopped is None and (memory > limit or count > request["processes"]):
                stopped = "memory"
    for child in (one, two):
        if child != one or status is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)[1]
            status = ended if child == one else status
    os.close(program_end)
    os.close(tests_end)
    clean = ground.level != "none" or watch.kill_below(ground.proc, ground.own_pid)
    return {"stopped": stopped, "status": status, "clean": clean}


def _spread(children: Sequence[int], cores: set[int]) -> None:
    """A check that takes longer than a moment may use every core."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.sched_setaffinity(child, cores)


def _say(control: socket.socket, **message: Any) -> None:
    with contextlib.suppress(BrokenPipeError):
        control.send(json.dumps(message).encode())


if __name__ == "__main__":
    main()
