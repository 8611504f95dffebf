"""The adversarial suite: as this user and as an ordinary one, one caller and eight; and on lesser machines."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from adversaries import EVERYTHING

import bstar_trl
from bstar_trl.sandbox import LocalSandbox
from bstar_trl.sandbox.probe import missing_layers
from bstar_trl.sandbox.walls.seccomp import MACHINES, ONLY_OWN

HERE = Path(__file__).parent
PACKAGE = Path(bstar_trl.__file__).parent
ORDINARY = 54321  # a user id that nothing else has
MISSING = missing_layers()
complete = pytest.mark.skipif(bool(MISSING), reason=f"this machine lacks {MISSING}")
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def readable_python() -> str | None:
    """A Python of at least 3.11 that an ordinary user can run."""
    for path in (sys.executable, shutil.which("python3", path="/usr/bin:/usr/local/bin")):
        if path:
            code = "import sys; sys.exit(sys.version_info < (3, 11))"
            try:
                if subprocess.run([path, "-c", code], user=ORDINARY, cwd="/", capture_output=True).returncode == 0:
                    return path
            except PermissionError:
                continue
    return None


@pytest.fixture(scope="module")
def folder():
    """The package and the suite where any user can read them."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        shutil.copytree(PACKAGE / "sandbox", f"{name}/bstar_trl/sandbox")
        os.mkdir(f"{name}/bstar_trl/concurrency")
        for file in ("__init__.py", "errors.py", "concurrency/__init__.py", "concurrency/pool.py"):
            shutil.copy(PACKAGE / file, f"{name}/bstar_trl/{file}")
        for file in ("adversaries.py", "programs.txt", "run_suite.py", "without.py"):
            shutil.copy(HERE / file, name)
        subprocess.run(["chmod", "-R", "a+rX", name], check=True)
        yield name


def suite(folder: str, *words: str, python: str = sys.executable, user: int | None = None, without: str | None = None):
    """What went wrong, by program; and what was said on standard error."""
    command = [python, "-B", "run_suite.py", *words]
    if without:
        command = [python, "-B", "without.py", without, *command]
    environment = {"PYTHONPATH": folder, "PATH": os.environ["PATH"], "HOME": "/tmp"}
    options = {} if user is None else {"user": user, "group": user, "extra_groups": []}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=500, **options)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads(done.stdout)
    assert report["user"] == (os.getuid() if user is None else user)
    chosen = list(words[2:]) or [case.name for case in EVERYTHING]
    assert report["programs"] == len(chosen) * int(words[1])
    return report["wrong"], done.stderr


def test_there_are_enough_programs():
    assert len(EVERYTHING) >= 500
    assert len({case.name for case in EVERYTHING}) == len(EVERYTHING)
    assert {case.group for case in EVERYTHING} == {"HONEST", "WRONG", "HACKS", "ATTACKS", "BOMBS"}


@complete
def test_eight_callers_at_once(folder):
    wrong, said = suite(folder, "8", "1")
    assert wrong == {}
    assert said == ""


@complete
@root
def test_eight_callers_as_an_ordinary_user(folder):
    python = readable_python()
    if python is None:
        pytest.skip("no Python that an ordinary user can run")
    wrong, said = suite(folder, "8", "1", python=python, user=ORDINARY)
    assert wrong == {}
    assert said == ""


@complete
@pytest.mark.slow
def test_twice_in_a_row(folder):
    assert suite(folder, "1", "2")[0] == {}


@complete
@root
@pytest.mark.slow
def test_twice_in_a_row_as_an_ordinary_user(folder):
    python = readable_python()
    if python is None:
        pytest.skip("no Python that an ordinary user can run")
    assert suite(folder, "1", "2", python=python, user=ORDINARY)[0] == {}


GROUPS = {group: [case.name for case in EVERYTHING if case.group == group] for group in ("HONEST", "WRONG", "HACKS")}
# What needs a file system or a /dev/shm of its own.
NEEDS_MOUNTS = {
    "multiprocessing pool",
    "process pool executor",
    "process pool",
    "multiprocessing queue",
    "module file in the way",
}


@complete
@pytest.mark.parametrize(
    ("without", "missing"),
    [("users", "a user namespace"), ("namespaces", "namespaces (user"), ("landlock", "Landlock: the kernel has none")],
)
def test_a_lesser_machine_is_named_and_still_not_fooled(folder, without, missing):
    if without == "users" and os.geteuid() != 0:
        pytest.skip("only root has namespaces without a user namespace")
    names = [name for group in GROUPS.values() for name in group if name not in NEEDS_MOUNTS]
    wrong, said = suite(folder, "4", "1", *names, without=without)
    assert wrong == {}
    assert said.count("UserWarning") == 1
    assert missing in said


PRIORITIES = """
import ctypes, os, resource, time
libc = ctypes.CDLL(None, use_errno=True)
def call(number, *arguments):
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), 'refused')
def f(target):
    other = os.fork() if target == 'other' else 0
    if target == 'other' and not other:
        time.sleep(5)
        os._exit(0)
    done = []
    for act in (
        lambda: resource.prlimit(other, resource.RLIMIT_CORE, (0, 0)),
        lambda: os.setpriority(os.PRIO_PROCESS, other, 5),
        lambda: os.sched_setscheduler(other, os.SCHED_BATCH, os.sched_param(0)),
        lambda: os.sched_setaffinity(other, os.sched_getaffinity(0)),
        lambda: os.sched_setparam(other, os.sched_param(0)),
        lambda: call(SETATTR, other, (ctypes.c_uint32 * 12)(48, os.SCHED_BATCH, 0, 0, 5), 0),
        lambda: call(IOPRIO, 1, other, (2 << 13) + 7),
    ):
        try: act(); done.append(1)
        except PermissionError: done.append(0)
    try: os.setpriority(os.PRIO_USER, 0, 19); done.append(1)
    except PermissionError: done.append(0)
    return done
"""


@complete
def test_processes_that_are_seen_keep_their_limits_and_priorities(folder):
    tests = ["assert f('other') == [0] * 8", "assert f('own') == [1] * 7 + [0]"]
    numbers = {name: ONLY_OWN[name][MACHINES[platform.machine()][0]] for name in ("sched_setattr", "ioprio_set")}
    program = f"SETATTR, IOPRIO = {numbers['sched_setattr']}, {numbers['ioprio_set']}" + PRIORITIES
    code = f"from bstar_trl.sandbox import run_tests; print(run_tests({program!r}, {tests!r}))"
    command = [sys.executable, "-B", "without.py", "namespaces", sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": folder}, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("Verdict(passed=True"), done.stdout + done.stderr


@complete
@pytest.mark.parametrize("without", ["namespaces", "landlock"])
def test_strict_refuses_a_lesser_machine(folder, without):
    code = "from bstar_trl.sandbox import Check, LocalSandbox; LocalSandbox(strict=True).run(Check('', ('assert 1',)))"
    command = [sys.executable, "-B", "without.py", without, sys.executable, "-c", code]
    done = subprocess.run(command, cwd=folder, env={"PYTHONPATH": folder}, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(
        "bstar_trl.errors.SandboxError: this machine does not give the sandbox all its layers; missing:"
    )
    assert ("namespaces" if without == "namespaces" else "Landlock") in last
    assert "strict=True refuses" in last


@complete
def test_strict_runs_on_a_complete_machine():
    pool = LocalSandbox(1, strict=True)
    assert pool.missing() == []
    pool.close()
