"""The command line as typed: real processes, wrong arguments, and a short demo."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import trl
from PIL import Image

METRICS = ("pass@1", "valid@1", "greedy_valid", "pass@32", "pass@32-4", "valid@32-4", "distinct_valid")


def run(*words: str, cwd) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-m", "bstar_trl.cli", *words]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=500)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "COMMAND"),
        (["nothing"], "invalid choice: 'nothing'"),
        (["demo", "--iterations", "0"], "must be a whole number of at least 1, got 0"),
        (["demo", "--iterations", "many"], "must be a whole number of at least 1, got many"),
        (["demo", "--seed", "-1"], "must be a whole number of at least 0, got -1"),
        (["demo", "--reward", "oracle"], "invalid choice: 'oracle'"),
        (["demo", "--setting", "1"], "must be two numbers like 1.0,0.0, got '1'"),
        (["demo", "--setting", "0,0"], "temperature must be greater than 0"),
        (["demo", "--setting", "0.8,0.5"], "--static"),
    ],
)
def test_wrong_arguments_are_explained(tmp_path, words, message):
    result = run(*words, cwd=tmp_path)
    assert result.returncode == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert not any(tmp_path.iterdir())


def test_output_dir_that_cannot_be_written_is_told_at_once(tmp_path):
    (tmp_path / "taken").write_text("a file")
    result = run("demo", "--output-dir", "taken", cwd=tmp_path)
    assert result.returncode == 2
    assert "taken" in result.stderr
    assert "Traceback" not in result.stderr


def test_a_missing_matplotlib_is_told_before_the_training(tmp_path):
    # A real absence: whatever starts Python with this folder on its path cannot import matplotlib.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] == 'matplotlib':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n"
    )
    command = [sys.executable, "-m", "bstar_trl.cli", "demo", "--iterations", "1", "--output-dir", "out"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    assert "No module named 'matplotlib'): pip install 'bstar-trl[report]'" in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not (tmp_path / "out").exists()


def test_help_names_the_command(tmp_path):
    result = run("--help", cwd=tmp_path)
    assert result.returncode == 0
    for command in ("train", "evaluate", "report", "demo", "annotate", "train-prm", "sandbox-check", "env"):
        assert f"    {command}" in result.stdout


def test_env_tells_versions(tmp_path):
    result = run("env", cwd=tmp_path)
    assert result.returncode == 0
    lines = dict(line.removeprefix("- ").split(": ", 1) for line in result.stdout.splitlines())
    assert lines["torch"] == torch.__version__
    assert lines["trl"] == trl.__version__
    assert lines["Python"] == platform.python_version()
    assert lines["deepspeed"] == "not installed"


def test_hyphens_are_taken_too(tmp_path):
    for word in ("--output-dir", "--output_dir"):
        result = run("demo", f"{word}={tmp_path / 'out'}", "--iterations", "0", cwd=tmp_path)
        assert result.returncode == 2
        assert "argument --iterations" in result.stderr


@pytest.mark.slow
@pytest.mark.parametrize("static", [False, True], ids=["balanced", "static"])
def test_demo_writes_its_summary_and_picture(tmp_path, static):
    words = ["demo", "--iterations", "1", "--output-dir", "out", *(["--static"] if static else [])]
    result = run(*words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert set(summary) == {"initial", "iterations", "final"}
    names = {f"{name}{suffix}" for name in METRICS for suffix in ("", "_6")}
    assert set(summary["initial"]) == set(summary["final"]) == names
    (row,) = summary["iterations"]
    assert names | {
        "temperature",
        "threshold",
        "balance_score",
        "selected",
        "lucky_share",
        "lucky_share_available",
        "estimated_lucky_share",
        "reward@16-4",
        "completions",
        "seconds",
    } == set(row)
    assert {name: row[name] for name in names} == summary["final"]
    assert row["completions"] == 300 * 16  # the process reward model picks the best of all of them
    assert 0 < row["selected"] <= 1200
    if static:
        assert (row["temperature"], row["threshold"]) == (1.0, 0.0)
    with Image.open(tmp_path / "out" / "curves.png") as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 400
    table = [line.split() for line in result.stdout.splitlines()]
    assert [words[0] for words in table if words and words[0] in ("start", "1")] == ["start", "1"]
    assert f"{row['valid@1']:.3f}" in result.stdout


def test_sandbox_check_tries_every_layer(tmp_path):
    result = run("sandbox-check", cwd=tmp_path)
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert len([line for line in lines if line.startswith(("holds", "FAILS"))]) >= 15
    missing = [line for line in lines if line.startswith(("FAILS", "missing"))]
    assert result.returncode == (1 if missing else 0)
    assert missing or lines[-1] == "This machine gives every layer."


@pytest.mark.parametrize("lacking", ["namespaces", "landlock"])
def test_sandbox_check_names_what_is_missing(tmp_path, lacking):
    without = Path(__file__).parent / "sandbox" / "without.py"
    command = [sys.executable, str(without), lacking, sys.executable, "-m", "bstar_trl.cli", "sandbox-check"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert result.returncode == 1
    missing = [line for line in result.stdout.splitlines() if line.startswith("missing: ")]
    assert any(
        {"namespaces": "missing: namespaces", "landlock": "missing: Landlock"}[lacking] in line for line in missing
    )
