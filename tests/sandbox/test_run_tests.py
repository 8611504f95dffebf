"""`run_tests` from outside: what it says, what it costs, what it leaves behind, and which input it refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

from bstar_trl import sandbox
from bstar_trl.errors import BStarError, ConfigurationError, SandboxError
from bstar_trl.sandbox import REASONS, Check, Limits, LocalSandbox, RemoteSandbox, run_tests

ADD = "def add(a, b):\n    return a + b\n"


@pytest.fixture(autouse=True, scope="module")
def _closed():
    yield
    sandbox.close()


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def inside_of(process: int) -> list[int]:
    """Every process below this one."""
    found = []
    for task in Path(f"/proc/{process}/task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            found += [child, *inside_of(child)]
    return found


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def gone(processes: list[int], seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while any(map(alive, processes)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(map(alive, processes))


def test_a_right_program_passes():
    verdict = run_tests(ADD, ["assert add(1, 2) == 3", "assert add('a', 'b') == 'ab'"])
    assert verdict.passed
    assert verdict.reason == "passed"
    assert 0 < verdict.seconds < 5


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("def add(a, b):\n    return a - b\n", "wrong answer"),
        ("def add(a, b):\n    raise KeyError(a)\n", "exception"),
        ("def add(a, b):\n    while True: pass\n", "timeout"),
        ("def add(a, b):\n    return bytearray(1 << 40)\n", "memory"),
        ("def add(a, b)\n", "syntax"),
        ("import os\nos._exit(0)\n", "no answer"),
        ("import socket\ndef add(a, b):\n    socket.socket()\n", "forbidden"),
    ],
)
def test_each_failure_has_its_reason(program, reason):
    verdict = run_tests(program, ["assert add(1, 2) == 3"], timeout=2)
    assert not verdict.passed
    assert verdict.reason == reason
    assert verdict.reason in REASONS
    assert verdict.detail


def test_the_detail_names_the_test_that_failed():
    verdict = run_tests(ADD, ["assert add(1, 2) == 3", "assert add(1, 2) == 4, 'not four'"])
    assert verdict.detail == "assert add(1, 2) == 4, 'not four' not four"


def test_output_is_kept_up_to_a_limit():
    verdict = run_tests(
        "print('hello', flush=True)\nimport sys\nprint('err', file=sys.stderr)\n" + ADD, ["assert add(1, 2) == 3"]
    )
    assert verdict.output == "hello\nerr\n"
    verdict = run_tests("print('x' * 10_000_000)\n" + ADD, ["assert add(1, 2) == 3"])
    assert verdict.passed
    assert verdict.output == "x" * (16 << 10)


def test_setup_runs_after_the_program_and_before_the_tests():
    program = "class Node:\n    def __init__(self, v):\n        self.v, self.left = v, None\ndef depth(n):\n"
    program += "    return 0 if n is None else 1 + depth(n.left)\n"
    setup = "root = Node(1)\nroot.left = Node(2)\n"
    assert run_tests(program, ["assert depth(root) == 2", "assert root.left.v == 2"], setup=setup).passed
    assert run_tests(program, ["assert depth(root) == 3"], setup=setup).reason == "wrong answer"


class TestInPlace:
    """With `in_place` every argument comes back from every call; without it none does."""

    def test_what_a_function_did_is_seen(self):
        program = (
            "def sort_it(xs, seen, *, key):\n    xs.sort()\n    seen.add(len(xs))\n    key['k'] = 1\n    return 5\n"
        )
        tests = [
            "xs, seen, key = [3, 1, 2], set(), {}\nassert sort_it(xs, seen, key=key) == 5",
            "assert xs == [1, 2, 3] and seen == {3} and key == {'k': 1}",
        ]
        assert run_tests(program, tests, in_place=True).passed
        assert run_tests(program, tests).reason == "wrong answer"

    def test_wrong_changes_are_seen_too(self):
        tests = ["xs = [2, 1]\nf(xs)\nassert xs == [1, 2]"]
        assert run_tests("def f(xs):\n    xs.clear()\n", tests, in_place=True).reason == "wrong answer"

    def test_aliases_among_arguments_and_the_result_stay_aliases(self):
        program = "def f(rows, row):\n    row.append(rows)\n    return rows\n"
        tests = ["row = []\nrows = [row]\nassert f(rows, row) is rows and rows[0] is row and row == [rows]"]
        assert run_tests(program, tests, in_place=True).passed

    def test_emptying_what_the_expected_value_is_made_of_gains_nothing(self):
        program = "def f(xs):\n    xs.clear()\n    return []\n"
        assert run_tests(program, ["xs = [2, 1]\nassert f(xs) == sorted(xs)"]).reason == "wrong answer"


@pytest.mark.parametrize(
    ("test", "what"),
    [
        ("class A: pass\nf(A())", "an object of class A"),
        ("class A(int): pass\nf([A(1)])", "an object of class A"),
        ("class A: pass\nf(A)", "the class A"),
        ("class A:\n    def __call__(self): pass\nf(a=A())", "an object of class A"),
        ("from collections import namedtuple\nP = namedtuple('P', 'x')\nf(P(1))", "an object of class P"),
        ("import io\nf(io.StringIO())", "an object of class StringIO"),
        ("class A: pass\nf(1, lambda: A())", "an object of class A"),
        ("class A: pass\ntry: f(A())\nexcept BaseException: pass", "an object of class A"),
    ],
)
def test_objects_of_the_tests_own_classes_do_not_cross(test, what):
    verdict = run_tests("def f(x=0, g=None, a=0):\n    return g and g()\n", [test])
    assert verdict.reason == "bad tests"
    assert what in verdict.detail


@pytest.mark.parametrize(
    "expression",
    [
        *(
            "x + 1",
            "1 + x",
            "x + x",
            "-x",
            "abs(x)",
            "x < 1",
            "1 < x",
            "x <= x",
            "int(x)",
            "float(x)",
            "round(x)",
            "[1][x]",
        ),
        *(
            "hash(x)",
            "{x}",
            "sum([x])",
            "sorted([x, x])",
            "max(x, 1)",
            "x @ x",
            "divmod(x, 2)",
            "complex(x)",
            "bytes(x)",
        ),
    ],
)
def test_handles_have_no_operators_and_no_conversions(expression):
    names = " ".join(
        f"__{name}__" for name in ("add", "radd", "neg", "lt", "gt", "abs", "int", "float", "round", "index")
    )
    program = "class A:\n    def anything(self, *a): return 0\n"
    program += f"for name in '{names} __le__ __hash__ __matmul__ __divmod__ __complex__ __bytes__'.split():\n"
    program += "    setattr(A, name, A.anything)\ndef f(): return A()\n"
    verdict = run_tests(program, [f"x = f()\n{expression}"])
    assert verdict.reason == "exception"
    assert "an object of the program has no __" in verdict.detail


def test_handles_are_true_and_equal_to_themselves_alone():
    program = "class A:\n    def __eq__(self, other): return True\n    def __bool__(self): return False\n"
    program += "one = A()\ndef f(): return one\ndef g(): return A()\n"
    assert run_tests(
        program, ["assert f() and f() == f() and f() is f() and f() != g() and f() != 3 and 3 != f()"]
    ).passed


def test_tests_that_leave_open_which_name_is_the_programs_cannot_judge():
    verdict = run_tests("def sum(xs): return 3\n", ["assert isinstance(sum([1, 2]), int)"])
    assert verdict.reason == "bad tests"
    assert "which of int, isinstance, sum is the program's" in verdict.detail
    assert run_tests("def sum(xs): return 3\n", ["assert isinstance(sum([1, 2]), int)"], names=["sum"]).passed


def test_names_of_python_mean_python_unless_nothing_else_is_asked_for():
    assert run_tests("def abs(x): return 0\ndef f(): return 9\n", ["assert abs(f() - 3) < 1"]).reason == "wrong answer"
    assert run_tests("def sum(xs): return 0\n", ["assert sum([1, 2]) == 3"]).reason == "wrong answer"


def test_trusted_names_are_not_the_programs():
    program = "def poly(xs, x): return 0\ndef find_zero(xs): return 99\n"
    trusted = "def poly(xs, x): return sum(c * x ** i for i, c in enumerate(xs))\n"
    tests = ["assert abs(poly([-2, 1], find_zero([-2, 1]))) < 1e-6"]
    assert run_tests(program, tests).passed  # the hack, where nothing says that `poly` is given
    assert run_tests(program, tests, trusted=trusted, names=["find_zero"]).reason == "wrong answer"


def test_names_of_python_that_are_named_are_the_programs():
    for trusted, test in (("def check(c): assert c(2, 3) == 8", "check(pow)"), ("", "assert pow(2, 3) == 8")):
        assert run_tests("x = 1\n", [test], trusted=trusted, names=["pow"]).reason == "exception"
        right = "def pow(a, b): return 8\n"
        assert run_tests(right, [test], trusted=trusted, names=["pow"]).passed
        assert not run_tests(right.replace("8", "9"), [test], trusted=trusted, names=["pow"]).passed


def test_only_the_named_names_are_taken():
    assert run_tests(ADD, ["assert add(1, 1) == 2"], names=["sub"]).reason == "exception"


def test_tests_that_do_not_compile_are_nobodys_fault():
    assert run_tests(ADD, ["assert add(1, 2) =="]).reason == "bad tests"


def test_standard_input_and_output():
    pool = LocalSandbox(1)
    double = "import sys\nfor line in sys.stdin:\n    print(int(line) * 2)\n"
    assert pool.run(Check(double, cases=(("1\n2\n", "2\n4\n"), ("", ""), ("5", "10")))).passed
    assert pool.run(Check(double, cases=(("1\n", "3\n"),))).reason == "wrong answer"
    for read in ("open(0)", "open('/dev/stdin')", "pathlib.Path('/dev/stdin').open()"):
        assert pool.run(Check(f"import pathlib\nprint({read}.read())", cases=(("5\n", "5\n"),))).passed
    written = "with open('/dev/stdin') as f, open('/dev/stdout', 'w') as o:\n    o.write(f.readline())"
    assert pool.run(Check(written, cases=(("5\n6\n", "5\n"),))).passed
    assert pool.run(Check("print(2", cases=(("", "2"),))).reason == "syntax"
    assert pool.run(Check("import os\nos._exit(0)", cases=(("", "2"),))).reason == "wrong answer"
    assert pool.run(Check("while True: pass", cases=(("", "2"),)), Limits(1.0)).reason == "timeout"
    pool.close()


@pytest.mark.parametrize("memory_mb", [64, 256])
def test_the_memory_limit_is_kept(memory_mb):
    tests = ["assert f() == 1"]
    within = f"def f():\n    x = bytearray({memory_mb - 40} << 20)\n    return 1\n"
    beyond = f"def f():\n    x = bytearray({memory_mb + 40} << 20)\n    return 1\n"
    assert run_tests(within, tests, memory_mb=memory_mb).passed
    assert run_tests(beyond, tests, memory_mb=memory_mb).reason == "memory"


def test_the_time_limit_is_kept():
    started = time.monotonic()
    assert run_tests("while True: pass", ["assert True"], timeout=0.5).reason == "timeout"
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tests": "assert True"}, "tests must be a list of str, got str"),
        ({"tests": []}, "got none"),
        ({"tests": [1]}, r"tests\[0\] must be a str, got int"),
        ({"program": None}, "program must be a str, got NoneType"),
        ({"timeout": 0}, "timeout must be a positive number of seconds, 86400 at most, got 0"),
        ({"timeout": float("nan")}, "timeout"),
        ({"timeout": "5"}, "timeout must be .* got '5'"),
        ({"timeout": True}, "timeout must be .* got True"),
        ({"timeout": 1e300}, "timeout must be .* got 1e"),
        ({"memory_mb": 1}, "memory_mb must be an int of at least 64 and at most 1048576, got 1"),
        ({"memory_mb": 1e3}, "memory_mb must be an int .* got 1000.0"),
        ({"memory_mb": 1 << 40}, "memory_mb must be .* got 1099511627776"),
        ({"names": "add"}, "names must be a list of str, or None, got 'add'"),
        ({"names": [1]}, "names must be a list of str"),
        ({"in_place": 1}, "in_place must be a bool, got 1"),
    ],
)
def test_wrong_arguments_are_errors(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        run_tests(**{"program": ADD, "tests": ["assert True"], **arguments})


def test_workers_below_one_are_an_error():
    with pytest.raises(ConfigurationError, match="workers must be an int of at least 1 and at most 4096, got 0"):
        LocalSandbox(0)


def test_errors_are_standard_errors_too():
    assert issubclass(SandboxError, BStarError)
    assert issubclass(SandboxError, RuntimeError)


def test_closing_leaves_nothing():
    before = descriptors(), threading.active_count()
    pool = LocalSandbox(2)
    for _ in range(3):
        assert pool.run(Check(ADD, ("assert add(1, 2) == 3",))).passed
    sandboxes = [
        process for item in pool._pool._alive for process in [item._process.pid, *inside_of(item._process.pid)]
    ]
    assert len(sandboxes) == 2  # a guard and its warm parent: the children are gone already
    pool.close()
    assert gone(sandboxes, 3)
    assert (descriptors(), threading.active_count()) == before
    assert pool.run(Check(ADD, ("assert add(1, 2) == 3",))).passed  # and starts again
    pool.close()


def test_a_killed_sandbox_is_replaced():
    pool = LocalSandbox(1)
    check = Check(ADD, ("assert add(1, 2) == 3",))
    assert pool.run(check).passed
    for process in inside_of(next(iter(pool._pool._alive))._process.pid):
        os.kill(process, signal.SIGKILL)
    assert pool.run(check).passed
    pool.close()


def test_a_fork_of_the_host_has_its_own_sandboxes():
    pool = LocalSandbox(1)
    check = Check(ADD, ("assert add(1, 2) == 3",))
    assert pool.run(check).passed
    child = os.fork()
    if child == 0:
        status = 1
        try:
            status = 0 if pool.run(check).passed else 2
            pool.close()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert pool.run(check).passed
    pool.close()


@pytest.mark.parametrize(
    "way", ["return", "sys.exit(3)", "os._exit(0)", "1 / 0", "os.kill(os.getpid(), 9)", "in a check"]
)
def test_however_the_interpreter_ends_nothing_is_left(way):
    script = f"""
    import os, sys, threading, time
    from bstar_trl.sandbox import run_tests
    def main():
        run_tests("x = 1", ["assert x == 1"])
        if {way!r} == "in a check":
            sleeper = "import os, time\\nos.fork()\\ntime.sleep(60)"
            check = lambda: run_tests(sleeper, ["assert True"], timeout=60)
            threading.Thread(target=check, daemon=True).start()
            time.sleep(1)
        print("ready", flush=True)
        sys.stdin.readline()
        {way if way not in ("in a check",) else "os.kill(os.getpid(), 9)"}
    main()
    """
    host = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert host.stdout.readline() == "ready\n"
    inside = inside_of(host.pid)
    assert len(inside) >= (5 if way == "in a check" else 2)
    host.communicate("go\n", timeout=30)
    assert gone(inside)


def test_an_interrupt_ends_the_check():
    script = """
    import signal
    from bstar_trl.sandbox import run_tests
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell starts background jobs with it ignored
    print("ready", flush=True)
    run_tests("import time\\ntime.sleep(60)", ["assert True"], timeout=60)
    """
    host = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert host.stdout.readline() == "ready\n"
    time.sleep(1)
    inside = inside_of(host.pid)
    host.send_signal(signal.SIGINT)
    host.communicate(timeout=20)
    assert inside
    assert gone(inside)


@pytest.mark.parametrize("executor", [None, "remote"])
def test_what_a_program_says_fits_any_log(executor):
    said = r"a\ud800\x1b[31m\x00b\n\t\x85"
    program = f"print('\\x1b[2J\\x07')\ndef f():\n    raise ValueError('{said}')\n"
    if executor is None:
        verdict = run_tests(program, ["f()"])
        assert verdict.output.strip() == r"\x1b[2J\x07"
    else:
        raw = {"passed": False, "reason": "exception", "detail": "a\ud800\x1b[31m\x00b\n\t\x85", "output": "\x1b"}
        line = "nonce " + json.dumps({"verdict": raw, "missing": []})
        verdict = RemoteSandbox("http://nowhere")._verdict({"run_result": {"stdout": line}}, "nonce")
        assert verdict.output == r"\x1b"
    verdict.detail.encode()
    assert r"a\ud800\x1b[31m\x00b" in verdict.detail
    assert "\n\t" in verdict.detail
    assert verdict.detail.endswith(r"\x85")


def test_a_script_ends_as_scripts_do():
    pool = LocalSandbox(1)
    program = "import atexit\natexit.register(print, 'end')\nprint('start')\nexit()\nprint('never')"
    assert pool.run(Check(program, cases=(("", "start\nend\n"),))).passed
    pool.close()


SENDS_RAW = """
import json, os, struct, sys
def f(*arguments):
    frame = sys._getframe()
    while 'message' not in frame.f_locals: frame = frame.f_back
    reply = json.loads(REPLY) | {'nonce': frame.f_locals['message']['nonce']}
    data = json.dumps(reply).encode()
    os.write(4, struct.pack('>I', len(data)) + data)
    os._exit(0)
"""
ERROR = [[["builtins", "ValueError"]], ["l"], {}]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize(
    "reply",
    [
        *({"value": value} for value in ([], [1], {}, ["h"], ["h", "0", False], ["h", 7], ["h", True, False])),
        *({"value": value} for value in (["k", 9], ["k", "x"], ["k"], ["g", "int"], ["m", "os", "system"], ["r", 9])),
        *(
            {"value": value}
            for value in (["d", 1], ["K", ["l"]], ["D"], ["I", 1], ["R", 1, 2, 0], ["s", ["h", 0, False]])
        ),
        *({"error": error} for error in (None, [], ["exception"], 5, "passed", ERROR[:2], [*ERROR, 1])),
        *({"error": error} for error in ([[], ["l"], {}], [[["builtins", "eval"]], ["l"], {}], [ERROR[0], 5, {}])),
        *({"error": error} for error in ([[["sys", "exit"]], ["l"], {}], [ERROR[0], ["l"], []], [5, ["l"], {}])),
        {},
    ],
    ids=lambda reply: str(reply)[:60],
)
def test_a_malformed_reply_decides_the_check(reply, in_place):
    # Tests that catch everything do not hide it, and nothing but the verdict comes of it.
    tests = ["try:\n    x = f([1])\nexcept BaseException:\n    pass"]
    if in_place:
        reply = {"arguments": [["l", 2]]} | reply
    verdict = run_tests(SENDS_RAW.replace("REPLY", repr(json.dumps(reply))), tests, in_place=in_place)
    assert verdict.reason == "forbidden", verdict


@pytest.mark.parametrize("arguments", [None, 5, [], [5], [["l"], ["l"]], [["l", ["i", "zz"]]]], ids=str)
def test_malformed_arguments_decide_the_check(arguments):
    program = SENDS_RAW.replace("REPLY", repr(json.dumps({"value": None, "arguments": arguments})))
    assert run_tests(program, ["f([1])"], in_place=True).reason == "forbidden"


NODE = "class Node:\n    def __init__(self, value): self.value = value\n"


@pytest.mark.parametrize(
    ("program", "test", "reason"),
    [
        # A function that is called like a standard module, beside one name of Python's own.
        ("def select(xs, n): return xs[:n]", "assert sorted(select([2, 1, 3], 2)) == [1, 2]", "passed"),
        ("def msvcrt(x): return x", "assert msvcrt(1) == 1", "passed"),
        # An error in a message must not take the place of the failed assertion.
        (
            NODE + "def f(): return Node(1)",
            "x = f()\ntry:\n    assert x.value == 2, f'{x}'\nexcept TypeError: pass",
            "wrong answer",
        ),
        ("def f(): return 1.5", "x = f()\ntry:\n    assert x == 2, f'{x:d}'\nexcept ValueError: pass", "bad tests"),
        ("def f(): return [1]", "x = f()\ntry:\n    assert x == 2, x[5]\nexcept IndexError: pass", "bad tests"),
        ("def f(): return [1]", "x = f()\ntry:\n    assert x == 2, x\nexcept IndexError: pass", "wrong answer"),
    ],
)
def test_names_objects_and_messages(program, test, reason):
    assert run_tests(program, [test]).reason == reason
