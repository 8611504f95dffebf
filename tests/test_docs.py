"""The documentation: its Python runs, its configurations and commands exist, and the menu has every page."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import CHAT_TEMPLATE, TESTS
from policies import make_text_tokenizer, teach
from prms import make_qwen
from test_readme import make_rows

from bstar_trl.cli import main
from bstar_trl.launch.parsing import GROUPS, parse

ROOT = TESTS.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
SKIP = "<!-- skip: next -->"
BLOCK = re.compile(rf"^(?P<skip>{SKIP}\n\n)?(?P<indent> *)```(?P<language>\w+)\n(?P<code>.*?)^ *```$", re.M | re.S)
GSM8K_CARD = """---
configs:
- config_name: main
  data_files:
  - {split: train, path: rows.jsonl}
  - {split: test, path: rows.jsonl}
---
"""


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """Line and text of the page's blocks in this language, but for those that it says to skip."""
    text = page.read_text(encoding="utf-8")
    return [
        (text[: match.start("code")].count("\n"), match["code"])
        for match in BLOCK.finditer(text)
        if match["language"] == language and not match["skip"]
    ]


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Path:
    """A folder in which names of the Hub are tiny models and rows."""
    folder = tmp_path_factory.mktemp("room")
    rows = make_rows()
    questions = [row["question"] for row in rows]
    policy = folder / "Qwen/Qwen2.5-1.5B-Instruct"
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz=.,?#\n<>-"
    tokenizer = make_text_tokenizer([*questions, letters])
    # It says one of nine numbers, so that some of its responses are right.
    prompts = [f"u={question}\na=" for question in questions]
    teach(str(policy), tokenizer, prompts, [f"\n#### {digit}" for digit in range(1, 10)])
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(policy)
    (folder / "Qwen/Qwen2.5-0.5B-Instruct").symlink_to(policy)
    make_qwen(folder / "Qwen/Qwen2.5-Math-PRM-7B")
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "openai/gsm8k").mkdir(parents=True)
    (folder / "openai/gsm8k/README.md").write_text(GSM8K_CARD)
    for name in ("openai/gsm8k/rows.jsonl", "questions.jsonl", "held_out.jsonl"):
        (folder / name).write_text(text)
    return folder


def run_in(room: Path, arguments: list[str]) -> None:
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "PYTHONPATH": str(room)}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=room, env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_runs_from_top_to_bottom(page, room, tmp_path):
    # Empty lines put each block where it stands in the page, so that an error names the page's line.
    script, lines = "", 0
    for line, code in blocks(page, "python"):
        script += "\n" * (line - lines) + code
        lines = script.count("\n")
    (tmp_path / "page.py").write_text(script)
    run_in(room, [str(tmp_path / "page.py")])


@pytest.mark.slow
def test_the_notebook_runs_from_top_to_bottom(room):
    code = (
        "import sys, nbformat, nbclient\n"
        "notebook = nbformat.read(sys.argv[1], 4)\n"
        "assert not any(cell.get('outputs') for cell in notebook.cells)\n"
        "nbclient.NotebookClient(notebook, timeout=400, kernel_name='python3').execute()\n"
    )
    run_in(room, ["-c", code, str(DOCS / "quickstart.ipynb")])


CONFIGURATIONS = [
    pytest.param(page, code, id=f"{page.stem}-{line}") for page in PAGES for line, code in blocks(page, "yaml")
]


@pytest.mark.slow
@pytest.mark.parametrize(("page", "code"), CONFIGURATIONS)
def test_configurations_are_those_of_the_command(page, code, room, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for item in room.iterdir():
        (tmp_path / item.name).symlink_to(item)
    keys = yaml.safe_load(code)
    for name in re.findall(r"(\w+)\.py:\w+", code):  # a file of the reader
        functions = "".join(f"def {item}(**given): ...\n" for item in re.findall(rf"{name}\.py:(\w+)", code))
        (tmp_path / f"{name}.py").write_text(functions)
    (tmp_path / "config.yaml").write_text(code)
    needed = {"model_name_or_path": "model", "dataset_name": "rows.jsonl", "output_dir": "out"}
    parse(
        ["config.yaml", *(word for name, value in needed.items() if name not in keys for word in (f"--{name}", value))]
    )


COMMANDS = [
    pytest.param(command, id=f"{page.stem}-{number}")
    for page in [*PAGES, ROOT / "README.md"]
    for number, command in enumerate(
        line.split("#")[0].strip()
        for line in page.read_text(encoding="utf-8").replace("\\\n", " ").splitlines()
        if re.match(r" *bstar-trl [a-z-]+( |$)", line)
    )
]


@pytest.mark.parametrize("command", COMMANDS)
def test_options_of_commands_exist(command, capsys):
    name = re.search(r"\bbstar-trl ([a-z_-]+)", command)[1]
    with contextlib.suppress(SystemExit):
        main([name, "--help"])
    known = set(re.findall(r"--([\w-]+)", capsys.readouterr().out))
    if name == "train":  # its help leaves out what is rarely used
        known |= {item.name for group in GROUPS for item in dataclasses.fields(group)}
    assert set(re.findall(r" --([\w-]+)", command)) <= known


def test_every_page_is_in_the_menu_and_exists():
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    listed = re.findall(r"'([\w-]+\.md)'", str(menu))
    assert sorted(listed) == [page.name for page in PAGES]
