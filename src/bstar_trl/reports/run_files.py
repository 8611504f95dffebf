"""What a run leaves in its folder while it goes on: every line of its log, so that a killed run has a report, too."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from ..errors import ConfigurationError
from .history import Row, iteration_rows

FOLDER = "run_log"  # in the output folder
LOG, DETAILS, FACTS = "log.jsonl", "iterations.jsonl", "run.json"


class RunRecorder(TrainerCallback):
    """Writes each line of the trainer's log into `<output_dir>/run_log/log.jsonl` as it comes, and what an iteration
    found beyond single figures into `iterations.jsonl`.

    A run that starts anew starts new files. A resumed one keeps the lines up to its checkpoint: what a killed run
    logged after it is trained, and logged, again.

    Args:
        output_dir (`str` or `Path`): the run's.
        num_iterations (`Callable`): how many iterations the run has begun.
    """

    def __init__(self, output_dir: str | Path, num_iterations: Callable[[], int]):
        self.folder = Path(output_dir) / FOLDER
        self.num_iterations = num_iterations
        self._written = 0  # lines of the trainer's log
        self._is_writer = False  # the main process's is

    def begin(self, facts: Mapping[str, str]) -> None:
        """Called by the trainer, on the main process, with what the run is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / FACTS).write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """The log so far: nothing, or that of the checkpoint."""
        self._is_writer = state.is_world_process_zero
        if self._is_writer:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / LOG).write_text("".join(map(_line, state.log_history)), encoding="utf-8")
            self._written = len(state.log_history)
            path = self.folder / DETAILS
            found = list(_read_lines(path)) if path.exists() else []
            kept = [entry for entry in found if entry["iteration"] <= self.num_iterations()]
            path.write_text("".join(map(_line, kept)), encoding="utf-8")

    def add(self, iteration: int, details: Mapping[str, Any]) -> None:
        """Called by the trainer when the next iteration begins to train.

        Args:
            iteration (`int`): iterations begun before it.
            details (`Mapping`): ready for JSON.
        """
        if self._is_writer:
            with (self.folder / DETAILS).open("a", encoding="utf-8") as file:
                file.write(_line({"iteration": iteration + 1, **details}))

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """A line has come."""
        self._catch_up(state)

    on_evaluate = on_log
    on_train_end = on_log

    def _catch_up(self, state: Any) -> None:
        if self._is_writer:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.writelines(map(_line, state.log_history[self._written :]))
            self._written = len(state.log_history)


@dataclass(frozen=True)
class RunFiles:
    """What is left of a run.

    Args:
        name: of its folder.
        facts: what it was, by title; empty where it did not say.
        rows: its log by iteration.
        details: what each iteration found beyond single figures, as `training.details` says.
        seconds: how long it has trained, by its log; 0 where it says nothing.
        finished: whether it reached its end.
        missing: what a report would hold, had the run left it, in words.
    """

    name: str
    facts: Mapping[str, str]
    rows: list[Row]
    details: list[dict[str, Any]]
    seconds: float
    finished: bool
    missing: tuple[str, ...]


def read_run(folder: str | Path) -> RunFiles:
    """Read what a run has left in its output folder, or in one of its checkpoints.

    Raises:
        ConfigurationError: there is no such folder, or no log in it.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ConfigurationError(f"there is no folder {folder}")
    missing = []
    log = path / FOLDER / LOG
    if log.exists():
        lines = list(_read_lines(log))
    elif (state := _last_state(path)) is not None:
        lines = json.loads(state.read_text(encoding="utf-8"))["log_history"]
        missing.append(f"what came after {state.parent.name}: there is no {FOLDER}/{LOG}")
    else:
        raise ConfigurationError(
            f"{folder} holds no run: neither {FOLDER}/{LOG} nor a checkpoint; name the output_dir of a training"
        )
    facts_path = path / FOLDER / FACTS
    facts = json.loads(facts_path.read_text(encoding="utf-8")) if facts_path.exists() else {}
    if not facts:
        missing.append("what the run was (base, data, rewards, sizes)")
    rows = iteration_rows(lines)
    if not rows:
        missing.append("figures: no iteration has ended yet")
    elif not any(name.startswith("eval_") for row in rows for name in row):
        missing.append("evaluations: none was logged (eval_strategy)")
    details_path = path / FOLDER / DETAILS
    details = list(_read_lines(details_path)) if details_path.exists() else []
    if rows and not details:
        missing.append("maps, histograms and responses of its iterations")
    summary = next((line for line in reversed(lines) if "train_runtime" in line), None)
    return RunFiles(
        name=path.resolve().name,
        facts=facts,
        rows=rows,
        details=details,
        seconds=float(summary["train_runtime"]) if summary is not None else 0.0,
        finished=summary is not None,
        missing=tuple(missing),
    )


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a log; the last one may be torn, if the run was killed while it wrote."""
    texts = path.read_text(encoding="utf-8").splitlines()
    for number, text in enumerate(texts):
        try:
            yield json.loads(text)
        except json.JSONDecodeError as error:
            if number != len(texts) - 1:
                raise ConfigurationError(f"{path}, line {number + 1}, is no JSON: {error}") from error


def _last_state(path: Path) -> Path | None:
    """`trainer_state.json` of this checkpoint, or of the last one in this folder."""
    if (path / "trainer_state.json").exists():
        return path / "trainer_state.json"
    found = [
        (int(match[1]), item)
        for item in path.glob("checkpoint-*/trainer_state.json")
        if (match := re.fullmatch(r"checkpoint-(\d+)", item.parent.name))
    ]
    return max(found)[1] if found else None


def _line(entry: Mapping[str, Any]) -> str:
    finite = {
        name: value if not isinstance(value, float) or math.isfinite(value) else None for name, value in entry.items()
    }
    return json.dumps(finite) + "\n"
