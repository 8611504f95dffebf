"""Worker processes: time limits that hold, from any thread, and nothing left behind."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import bstar_trl
from bstar_trl.answers import AnswerComparer
from bstar_trl.answers.workers import WorkerPool
from bstar_trl.errors import ConfigurationError, RewardError

SOURCE = str(Path(bstar_trl.__file__).parents[1])
MEMORY = 1 << 30
# One is a long chain of big multiplications in C, where no Python signal handler runs; the other a real response.
HANGS = [("5", r"9^{9^{9^{9}}}"), (r"-\sqrt{3}", r"\frac{\sin 80 (-1 + 4 \cos 80)}{\cos 80}")]


def children() -> set[int]:
    """The worker processes of this one that are alive, zombies included."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                if int(stat[1]) == os.getpid() and b"worker.py" in (entry / "cmdline").read_bytes():
                    found.add(int(entry.name))
            except (FileNotFoundError, ProcessLookupError):
                continue
    return found


def cpu_seconds(pid: int) -> float:
    stat = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(stat[11]) + int(stat[12])) / os.sysconf("SC_CLK_TCK")


def wait_until_busy(pid: int, spent: float) -> None:
    """Returns once the process has computed more than these seconds, and so is in the middle of its work."""
    deadline = time.monotonic() + 60
    while cpu_seconds(pid) < spent + 0.1:
        assert time.monotonic() < deadline, f"process {pid} computes nothing"
        time.sleep(0.01)


def gone(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True  # ended; a container without an init keeps the entry
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def pool():
    before = children()
    pool = WorkerPool(time_limit=20, memory_limit=MEMORY, workers=2)
    yield pool
    pool.close()
    assert children() == before


@pytest.mark.parametrize(("gold", "answer"), HANGS)
def test_a_comparison_that_hangs_costs_its_limit_and_the_others_go_on(gold, answer):
    comparer = AnswerComparer(time_limit=2.0, workers=1)
    responses = [r"\boxed{1 + x}", rf"\boxed{{{answer}}}", r"\boxed{x + 2}", r"\boxed{x + 1}"]
    verdicts = []

    def compare():
        verdicts.extend(comparer.compare(["x + 1", gold, "x + 1", "1 + 1x"], responses))

    thread = threading.Thread(target=compare)  # off the main thread, where signals do not work
    started = time.monotonic()
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    assert time.monotonic() - started >= 2.0
    assert [verdict.correct for verdict in verdicts] == [True, False, False, True]
    assert verdicts[1].reason == "comparison timed out"
    comparer.close()


def test_equal_pairs_of_a_batch_are_compared_once():
    comparer = AnswerComparer(time_limit=1.0, workers=1)
    started = time.monotonic()
    verdicts = comparer.compare(["5"] * 30, [r"\boxed{9^{9^{9^{9}}}}"] * 30)
    assert [verdict.reason for verdict in verdicts] == ["comparison timed out"] * 30
    assert time.monotonic() - started < 25
    comparer.close()


def test_several_threads_share_the_workers(pool):
    pairs = [("x + 1", f"1 + x + {number - 5}") for number in range(10)]
    results = {}

    def compare(index):
        results[index] = pool.compare(pairs)

    threads = [threading.Thread(target=compare, args=(index,)) for index in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    expected = ["equal" if number == 5 else "different" for number in range(10)]
    assert [results[index] for index in range(5)] == [expected] * 5
    assert len(children()) <= 2


def test_close_leaves_nothing_and_the_pool_stays_usable(pool):
    assert pool.compare([("x + 1", "1 + x")]) == ["equal"]
    (first,) = children()
    pool.close()
    assert children() == set()
    assert pool.compare([("x + 1", "1 + x")]) == ["equal"]
    assert children() != {first}


def test_close_waits_for_nobody_and_still_leaves_nothing(pool):
    pool.time_limit = 3.0
    pool.compare([("x", "y")])
    (worker,) = children()
    spent = cpu_seconds(worker)
    results = []
    thread = threading.Thread(target=lambda: results.extend(pool.compare([("5", "9^{9^{9}}")])))
    thread.start()
    wait_until_busy(worker, spent)
    pool.close()  # in the middle of a comparison, which goes on
    thread.join(60)
    assert results == ["timed out"]
    assert children() == set()


def test_a_forgotten_pool_ends_its_workers():
    pool = WorkerPool(time_limit=20, memory_limit=MEMORY, workers=1)
    pool.compare([("x", "y")])
    assert len(children()) == 1
    del pool
    assert children() == set()


def test_a_worker_killed_from_outside_is_replaced(pool):
    pool.compare([("x", "y")])
    pool.compare([("x + 1", f"x + {number}") for number in range(8)])
    for idle in children():
        os.kill(idle, signal.SIGKILL)
    assert pool.compare([("x + 1", "1 + x")]) == ["equal"]

    # In the middle of a comparison: once may be anybody's doing, and is tried again.
    results = []
    thread = threading.Thread(target=lambda: results.extend(pool.compare([("5", "9^{9^{9}}")])))
    pool.time_limit = 3.0
    (busy,) = children()
    spent = cpu_seconds(busy)
    thread.start()
    wait_until_busy(busy, spent)
    os.kill(busy, signal.SIGKILL)
    thread.join(60)
    assert results == ["timed out"]


def test_a_worker_that_dies_twice_is_the_responses_fault(pool):
    pool.compare([("x", "y")])
    results = []
    thread = threading.Thread(target=lambda: results.extend(pool.compare([("5", "9^{9^{9}}")])))
    thread.start()
    while thread.is_alive():
        time.sleep(0.1)
        for pid in children():
            if cpu_seconds(pid) > 3:  # well past its start
                os.kill(pid, signal.SIGKILL)
    assert results == ["crashed"]


def test_memory_is_bounded(pool):
    pool = WorkerPool(time_limit=60, memory_limit=256 << 20, workers=1)
    assert pool.compare([("5", "2^{900000000}")]) == ["different"]  # 112 MB, several times over
    assert children() == set()  # what grew large is retired
    assert pool.compare([("x + 1", "1 + x")]) == ["equal"]
    (worker,) = children()
    assert f"{256 << 20} " in re.search("Max address space.*", Path(f"/proc/{worker}/limits").read_text())[0]
    pool.close()


def test_a_fork_has_workers_of_its_own(pool):
    pool.compare([("x", "y")])
    mine = children()
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            outcome = pool.compare([("x + 1", "1 + x")])[0].encode() if children() == set() else b"inherited"
            pool.close()
            os.write(write, outcome if children() == set() else b"left behind")
        finally:
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(read, 100) == b"equal"
    os.close(read)
    os.close(write)
    assert children() == mine
    assert pool.compare([("x + 1", "1 + x")]) == ["equal"]
    assert children() == mine


def test_a_pool_travels_without_its_workers(pool):
    pool.compare([("x", "y")])
    copy = pickle.loads(pickle.dumps(pool))
    assert (copy.time_limit, copy.memory_limit, copy.workers) == (20, MEMORY, 2)
    assert copy.compare([("x + 1", "1 + x")]) == ["equal"]
    copy.close()


def test_no_worker_is_an_error_not_a_zero(pool, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(RewardError, match="cannot start"):
        pool.compare([("x + 1", "1 + x"), ("x", "y")])


def test_a_worker_that_cannot_import_is_an_error(pool, monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RewardError, match="broken on purpose"):
        pool.compare([("x + 1", "1 + x")])


@pytest.mark.parametrize(
    "limits",
    [{"time_limit": 0}, {"time_limit": float("inf")}, {"memory_limit": 1 << 20}, {"workers": 0}],
)
def test_limits_are_checked(limits):
    with pytest.raises(ConfigurationError, match=next(iter(limits))):
        AnswerComparer(**limits)


SCRIPT = """
import os, sys
from pathlib import Path
sys.path.insert(0, {source!r})
from bstar_trl.rewards import AnswerMatch
print("main runs", flush=True)
reward = AnswerMatch(workers=1, time_limit={limit})
print(reward([""], [r"\\boxed{{1+x}}"], answer=["x+1"]), "torch" in sys.modules)
{children}
(worker,) = children()
print(worker, "torch" in open(f"/proc/{{worker}}/maps").read(), flush=True)
if {wait}:
    reward([""], ["#### 9^{{9^{{9^{{9}}}}}}"], answer=["5"])
"""


def test_a_script_without_a_main_guard_works_and_leaves_nothing():
    script = SCRIPT.format(source=SOURCE, children=inspect.getsource(children), limit=5, wait=False)
    done = subprocess.run([sys.executable, "-I", "-"], input=script, capture_output=True, text=True, timeout=120)
    first, second, third = done.stdout.splitlines()  # and so the script ran once
    assert (first, second) == ("main runs", "[1.0] False")
    pid, torch = third.split()
    assert torch == "False"
    assert gone(int(pid), 5)
    assert done.stderr == ""


@pytest.mark.slow
def test_a_hung_worker_ends_when_its_parent_is_killed():
    script = SCRIPT.format(source=SOURCE, children=inspect.getsource(children), limit=4, wait=True)
    parent = subprocess.Popen([sys.executable, "-I", "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    lines = [parent.stdout.readline() for _ in range(3)]
    pid = int(lines[2].split()[0])
    wait_until_busy(pid, cpu_seconds(pid))  # in the middle of the comparison that hangs
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert not gone(pid, 0.2)
    assert gone(pid, 30)
