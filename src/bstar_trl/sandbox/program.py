"""The program's side: runs it as a script, or as a module that lends its functions and objects to the tests.

Everything here runs beside hostile code and can be changed by it. Nothing is lost by that: whatever it sends is data
to the tests, judged there.
"""

from __future__ import annotations

import atexit
import builtins
import contextlib
import io
import os
import sys
import threading
import types
from pathlib import Path
from typing import Any, NoReturn

from .codec import send
from .lender import Lender, flush, reason_for

STANDARD_FILES: dict[Any, int] = {
    kind(f"/dev/{name}"): number for number, name in enumerate(("stdin", "stdout", "stderr")) for kind in (str, Path)
}
STATUSES = {"syntax": 3, "memory": 4, "forbidden": 5, "exception": 6}  # of a script; they only word a failure


def run_script(source: str) -> NoReturn:
    """Run the program as a script, on its standard input and output. Its exit status only words a failure."""
    sys.argv = ["program.py"]
    _open_standard_files_by_name()
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    reason, status = _run(source, module.__dict__), 0
    if reason:
        status = STATUSES.get(reason[0], 0)
        sys.stderr.write(reason[1] + "\n")
    threading._shutdown()  # type: ignore[attr-defined]  # waits for the program's threads, as a script's end does
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    flush()
    os._exit(status)


def serve(source: str, channel: int) -> NoReturn:
    """Load the program as a module, say what became of it, and answer the tests' requests until they end."""
    sys.argv = ["program.py"]
    module = sys.modules["program"] = types.ModuleType("program")
    home = os.getpid()
    failure = _run(source, module.__dict__)
    if os.getpid() != home:  # the program forked, and the child came back here too
        os._exit(0)
    flush()
    if failure:
        send(channel, {"failed": failure[0], "detail": failure[1]})
        os._exit(1)
    send(channel, {"loaded": True})
    with contextlib.suppress(EOFError):
        Lender(module.__dict__, channel).serve()
    os._exit(0)


def _run(source: str, names: dict[str, Any]) -> tuple[str, str] | None:
    """Compile and run; what went wrong, if anything: the reason and a line about it."""
    for name in ("exit", "quit"):  # `site`, which is not loaded, would define them
        setattr(builtins, name, sys.exit)
    try:
        code = compile(source, "program.py", "exec", dont_inherit=True)
    except BaseException as error:  # a hostile source exhausts memory or stack, or is no text at all
        return "syntax", _describe(error)
    try:
        exec(code, names)
    except BaseException as error:
        return reason_for(error), _describe(error)
    return None


def _open_standard_files_by_name() -> None:
    """`open("/dev/stdin")`: the sandbox has no procfs, which such a name leads to."""
    plain_open = open

    def open_named(file: Any, *arguments: Any, **keywords: Any) -> Any:
        number = STANDARD_FILES.get(file) if isinstance(file, str | os.PathLike) else None
        return plain_open(file if number is None else os.dup(number), *arguments, **keywords)

    builtins.open = io.open = open_named


def _describe(error: BaseException) -> str:
    try:
        return f"{type(error).__name__}: {error}"[:400]
    except BaseException:  # the text comes from the program's own code, which may raise whatever it likes
        return "an exception that cannot be shown"
