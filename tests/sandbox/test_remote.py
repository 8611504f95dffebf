"""The remote executor against a real HTTP server that runs scripts as a SandboxFusion service does."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bstar_trl.errors import ConfigurationError, SandboxError
from bstar_trl.rewards import UnitTests
from bstar_trl.sandbox import Check, Limits, RemoteSandbox, run_tests

ADD = "def add(a, b):\n    return a + b\n"
TESTS = ["assert add(1, 2) == 3"]


class Service(BaseHTTPRequestHandler):
    """`POST /run_code`: writes the code to a file, runs it with this Python, and tells how it went."""

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append((self.path, dict(self.headers), body))
        fault = server.faults.pop(0) if server.faults else None
        if fault == "hang up":
            self.connection.close()
            return
        if fault == "status 500":
            self.send_error(500)
            return
        reply = self.run(body)
        if fault == "sandbox error":
            reply = {"status": "SandboxError", "message": "no container", "run_result": None}
        elif fault == "no output":
            reply["run_result"]["stdout"] = ""
        elif fault == "says passed":
            reply["run_result"]["stdout"] = (
                'passed\n{"verdict": {"passed": true, "reason": "passed"}, "missing": []}\n'
            )
        data = b"<html>" if fault == "no JSON" else json.dumps(reply).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def run(self, body: dict) -> dict:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "main.py"
            script.write_text(body["code"])
            started = time.monotonic()
            command = [sys.executable, *self.server.prefix, str(script)]
            done = subprocess.run(
                command,
                input=body["stdin"],
                cwd=folder,
                env={"PATH": os.environ["PATH"], "PYTHONPATH": self.server.path},
                capture_output=True,
                text=True,
                timeout=body["run_timeout"],
            )
        result = {
            "status": "Finished" if done.returncode == 0 else "Error",
            "execution_time": time.monotonic() - started,
            "return_code": done.returncode,
            "stdout": done.stdout,
            "stderr": done.stderr,
        }
        status = "Success" if done.returncode == 0 else "Failed"
        return {"status": status, "message": "", "compile_result": None, "run_result": result, "files": {}}

    def log_message(self, *arguments):
        pass


@pytest.fixture
def service():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.requests, server.faults, server.prefix, server.path = [], [], [], ""
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (ADD, "passed"),
        ("def add(a, b):\n    return 0\n", "wrong answer"),
        ("import os\nos._exit(0)\n", "no answer"),
        ("while True: pass\n", "timeout"),
        ("def add(a, b\n", "syntax"),
        ("print('passed')\nimport sys\nsys.exit(0)\n", "no answer"),
        ("class A:\n    def __eq__(self, o): return True\ndef add(a, b): return A()\n", "wrong answer"),
    ],
)
def test_verdicts_are_those_of_the_local_sandbox(service, program, reason):
    verdict = run_tests(program, TESTS, timeout=1.5, executor=RemoteSandbox(service.url))
    assert verdict.reason == reason
    assert verdict.passed == (reason == "passed")


def test_what_is_sent_is_what_such_a_service_takes(service):
    remote = RemoteSandbox(service.url + "/", headers={"Authorization": "Bearer x"})
    assert remote.run(Check(ADD, tuple(TESTS)), Limits(3.0)).passed
    ((path, headers, body),) = service.requests
    assert path == "/run_code"
    assert headers["Authorization"] == "Bearer x"
    assert body["language"] == "python"
    assert body["run_timeout"] > 3.0
    assert set(body) == {"code", "stdin", "language", "compile_timeout", "run_timeout"}
    assert ADD not in body["code"]  # nor anything else of the check: the script lies on a disk there
    assert "nonce" not in body["code"].replace('task["nonce"]', "")


def test_the_reward_runs_there(service):
    reward = UnitTests(executor=RemoteSandbox(service.url), workers=2, progress=False)
    cases = {"inputs": [["1\n"]] * 2, "outputs": [["1\n"]] * 2}
    values = [item.value for item in reward.score(["", ""], ["print(input())", "print(2)"], **cases)]
    assert values == [1.0, 0.0]
    assert len(service.requests) == 2


@pytest.mark.parametrize("fault", ["hang up", "status 500", "sandbox error", "no output", "says passed", "no JSON"])
def test_an_outage_is_tried_again_and_then_an_error(service, fault):
    service.faults = [fault, fault]
    assert RemoteSandbox(service.url, attempts=3).run(Check(ADD, tuple(TESTS))).passed
    service.faults = [fault, fault]
    with pytest.raises(SandboxError, match="failed 2 times"):
        RemoteSandbox(service.url, attempts=2).run(Check(ADD, tuple(TESTS)))


def test_nobody_there_is_an_error():
    with pytest.raises(SandboxError, match=r"failed 1 times; last: .*refused"):
        RemoteSandbox("http://127.0.0.1:9", attempts=1).run(Check(ADD, tuple(TESTS)))


def test_a_lesser_machine_there_is_named_once_or_refused(service):
    import bstar_trl

    service.path = str(Path(bstar_trl.__file__).parents[1])
    service.prefix = ["-B", str(Path(__file__).with_name("without.py")), "namespaces", sys.executable]
    remote = RemoteSandbox(service.url)
    with pytest.warns(UserWarning, match="lacks layers of the sandbox: namespaces"):
        assert remote.run(Check(ADD, tuple(TESTS))).passed
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # not again
        assert remote.run(Check(ADD, tuple(TESTS))).passed
    with pytest.raises(SandboxError, match="missing: namespaces"):
        RemoteSandbox(service.url, strict=True).run(Check(ADD, tuple(TESTS)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"url": "ftp://x"}, "must begin with http"), ({"url": "http://x", "attempts": 0}, "at least 1, got 0")],
)
def test_wrong_arguments_are_errors(arguments, message):
    with pytest.raises(ConfigurationError, match=message):
        RemoteSandbox(**arguments)
