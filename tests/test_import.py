"""`import bstar_trl` and `bstar-trl --help` answer at once: nothing heavy is imported for them."""

from __future__ import annotations

import json
import subprocess
import sys

import bstar_trl

HEAVY = ("torch", "transformers", "trl", "datasets", "accelerate", "peft", "pandas", "matplotlib", "numpy")
REPORT = f"import json, sys; print(json.dumps([name for name in {HEAVY} if name in sys.modules]))"


def imported_by(code: str) -> tuple[list[str], str]:
    """What a fresh interpreter has imported of the heavy packages after `code`, and what it printed before."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{REPORT}"], capture_output=True, text=True, check=True, timeout=120
    )
    *printed, last = done.stdout.splitlines()
    return json.loads(last), "\n".join(printed)


def test_the_package_alone_is_light():
    assert imported_by("import bstar_trl; bstar_trl.__version__; dir(bstar_trl)")[0] == []


def test_help_is_light():
    # The console script as it is declared, called as the shell calls it.
    code = """
from importlib.metadata import entry_points
(script,) = entry_points(group="console_scripts", name="bstar-trl")
main = script.load()
try:
    main(["--help"])
except SystemExit as stop:
    assert not stop.code
"""
    heavy, printed = imported_by(code)
    assert heavy == []
    assert "usage: bstar-trl" in printed


def test_the_pure_parts_need_numpy_alone():
    heavy, _ = imported_by("import bstar_trl.balance, bstar_trl.selection, bstar_trl.metrics, bstar_trl.records")
    assert heavy == ["numpy"]


def test_light_records_come_without_torch():
    assert "torch" not in imported_by("from bstar_trl import Setting, Rollouts, Completion")[0]


def test_every_public_name_is_there():
    for name in bstar_trl.__all__:
        assert getattr(bstar_trl, name).__name__ == name
        assert name in dir(bstar_trl)


def test_an_unknown_name_is_an_attribute_error():
    assert not hasattr(bstar_trl, "BalancedTrainer")
