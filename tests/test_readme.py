"""The README's snippet constructs and trains as it stands, and its commands exist."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from policies import make_guesser
from test_layers import ORDER

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
NAMES = ("Ann", "Bo", "Cem", "Dee")


def make_rows() -> list[dict[str, str]]:
    """Word problems in GSM8K's shape."""
    return [
        {
            "question": f"{name} has {first} apples and buys {second} more. How many apples does {name} have?",
            "answer": f"{name} has {first} + {second} = {first + second} apples.\n#### {first + second}",
        }
        for first in range(1, 5)
        for second in range(1, 4)
        for name in NAMES
    ]


@pytest.mark.slow
def test_the_snippet_trains_as_it_stands(tmp_path):
    (snippet,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    rows = make_rows()
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_guesser(str(tmp_path / "policy"), [row["question"] for row in rows])
    # All that changes: what would be downloaded, and how it ends.
    for old, new in (
        ('"Qwen/Qwen2.5-1.5B-Instruct"', '"policy"'),
        (
            'load_dataset("openai/gsm8k", "main", split="train")',
            'load_dataset("json", data_files="rows.jsonl", split="train")',
        ),
    ):
        assert snippet.count(old) == 1
        snippet = snippet.replace(old, new)
    snippet += "\nimport json\njson.dump(trainer.balance.history, open('history.json', 'w'))\n"
    (tmp_path / "script.py").write_text(snippet)
    environment = os.environ | {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "OMP_NUM_THREADS": "2"}
    run = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stderr[-3000:]
    history = json.loads((tmp_path / "history.json").read_text())
    # 48 rows: n* = 5, N = 48, so an epoch is one iteration; three epochs.
    assert len(history) == 3
    assert all(0 < entry["balance/score"] <= 1 for entry in history)
    assert list((tmp_path / "wandb").glob("offline-run-*"))


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_are_targets(target):
    assert f"make {target} " in README
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_links_and_pictures_are_there():
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_table_of_rooms_names_each_room_in_the_order_of_imports():
    (table,) = re.findall(r"^\| room \| job \|\n(.*?)\n\n", CONTRIBUTING, flags=re.MULTILINE | re.DOTALL)
    cells = [line.split("|")[1] for line in table.splitlines()]
    assert [room for cell in cells for room in re.findall(r"`(\w+)(?:\.py|/)`", cell)] == ORDER


def test_the_make_targets_that_contributing_names_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    named = re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)  ", CONTRIBUTING)
    assert len(named) >= 5
    assert set(named) <= set(targets)
