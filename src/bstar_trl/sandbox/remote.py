"""Checks on another machine, over the HTTP interface of SandboxFusion (`POST /run_code`).

Such a service runs one script in one container and returns its output: by itself no better than the exit status of a
program that judges itself. So the script sent is this package's own sandbox. It gets the program and the tests on its
standard input, separates the three parties there as `host.py` does here, and prints the verdict behind a word that
only it knows. A reply without that word is an outage, hence an error; never a failed test.
"""

from __future__ import annotations

import http.client
import json
import secrets
import time
import urllib.request
import warnings
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..errors import ConfigurationError, SandboxError
from .verdicts import REASONS, Check, Limits, Verdict, printable

START_MARGIN = 20.0  # seconds for the service to start a container and the sandbox in it
SCRIPT = """
import ctypes, json, os, sys, tempfile
ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # not dumpable: nobody reads this process through /proc
task = json.loads(sys.stdin.buffer.read())
with tempfile.TemporaryDirectory() as folder:
    os.chmod(folder, 0o755)
    for name, source in task["files"].items():
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.write(source)
    sys.path.insert(0, folder)
    from bstar_trl.sandbox.remote import answer
    print("\\n" + task["nonce"] + " " + json.dumps(answer(task)))
"""


class RemoteSandbox:
    """Checks programs on a SandboxFusion-compatible service; an `Executor`.

    Args:
        url (`str`): where the service listens; `/run_code` is added.
        strict (`bool`): refuse a service whose machine lacks a layer of the isolation. Otherwise a warning says, once,
            what is missing.
        attempts (`int`): how often a check is tried when the service fails.
        headers (`Mapping[str, str]`, *optional*): for every request, for example an authorization.

    Raises:
        ConfigurationError: a URL that is none, or fewer than one attempt.
    """

    def __init__(self, url: str, *, strict: bool = False, attempts: int = 3, headers: Mapping[str, str] | None = None):
        if not url.startswith(("http://", "https://")):
            raise ConfigurationError(f"url must begin with http:// or https://, got {url!r}")
        if attempts < 1:
            raise ConfigurationError(f"attempts must be at least 1, got {attempts}")
        self.url = url.rstrip("/") + "/run_code"
        self.strict = strict
        self.attempts = attempts
        self.headers = dict(headers or {})
        self._files = _sources()
        self._warned = False

    def run(self, check: Check, limits: Limits | None = None) -> Verdict:
        """Run one check.

        Raises:
            SandboxError: the service failed `attempts` times, or (with `strict`) a layer of its isolation is missing.
        """
        limits = limits or Limits()
        failures: list[str] = []
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(min(0.2 * 2**attempt, 5.0))
            nonce = secrets.token_hex(16)
            try:
                return self._verdict(self._post(check, limits, nonce), nonce)
            except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as error:
                failures.append(f"{type(error).__name__}: {error}"[:300])
        raise SandboxError(f"{self.url} failed {self.attempts} times; last: {failures[-1]}")

    def close(self) -> None:
        """Nothing is held between checks."""

    def _post(self, check: Check, limits: Limits, nonce: str) -> dict[str, Any]:
        task = {"files": self._files, "nonce": nonce, "check": asdict(check), "limits": asdict(limits)}
        body = {
            "code": SCRIPT,
            "stdin": json.dumps(task | {"strict": self.strict}),
            "language": "python",
            "compile_timeout": START_MARGIN,
            "run_timeout": limits.timeout + START_MARGIN,
        }
        headers = {"Content-Type": "application/json"} | self.headers
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=limits.timeout + 2 * START_MARGIN) as response:
            reply: dict[str, Any] = json.loads(response.read())
        return reply

    def _verdict(self, reply: dict[str, Any], nonce: str) -> Verdict:
        result = reply.get("run_result") or {}
        lines = [line for line in (result.get("stdout") or "").splitlines() if line.startswith(nonce + " ")]
        if len(lines) != 1:
            what = {"status": reply.get("status"), "message": reply.get("message"), "run": result.get("status")}
            raise ValueError(f"no verdict from the service: {what}, {(result.get('stderr') or '')[-200:]!r}")
        said = json.loads(lines[0][len(nonce) :])
        if "error" in said:
            raise SandboxError(f"{self.url}: {said['error']}")
        if said["missing"] and not self._warned:
            self._warned = True
            warnings.warn(f"{self.url} lacks layers of the sandbox: {'; '.join(said['missing'])}", stacklevel=3)
        verdict = Verdict(**said["verdict"])
        if verdict.reason not in REASONS or verdict.passed != (verdict.reason == "passed"):
            raise ValueError(f"no such verdict: {verdict.reason!r}")
        return replace(verdict, detail=printable(verdict.detail), output=printable(verdict.output))


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """At the service: run the check in a sandbox there; the verdict, or why there is none."""
    from .host import LocalSandbox

    values = dict(task["check"])
    for name in ("tests", "names", "cases"):
        if values[name] is not None:
            values[name] = tuple(tuple(item) if name == "cases" else item for item in values[name])
    sandbox = LocalSandbox(1, strict=task["strict"])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what is missing goes back with the verdict
            verdict = sandbox.run(Check(**values), Limits(**task["limits"]))
            return {"verdict": asdict(verdict), "missing": sandbox.missing()}
    except SandboxError as error:
        return {"error": str(error)}
    finally:
        sandbox.close()


def _sources() -> dict[str, str]:
    """This package's own files that the service needs."""
    here = Path(__file__).parent
    paths = [here.parent / "errors.py", here.parent / "concurrency" / "pool.py", *sorted(here.rglob("*.py"))]
    files = {f"bstar_trl/{path.relative_to(here.parent)}": path.read_text("utf-8") for path in paths}
    return files | {"bstar_trl/__init__.py": "", "bstar_trl/concurrency/__init__.py": ""}
