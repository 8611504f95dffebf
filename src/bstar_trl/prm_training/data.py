"""Solutions with a label for each step: read them, check them, and tokenise them.

The format is TRL's stepwise supervision: `prompt`, `completions` (the steps) and `labels`, one per step. A label is
the probability that the step is right: a bool, a number in [0, 1] such as Math-Shepherd's soft estimates, or `None`
for a step without a judgement. A column `ratings` in place of `labels` is read as PRM800K's (1, 0, -1).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, Features, Value, concatenate_datasets
from datasets import Sequence as ListOf

from ..errors import ConfigurationError, DatasetError
from ..inputs.datasets import read_dataset
from ..prm.steps import SEPARATOR, lay_out_steps, reread

logger = logging.getLogger(__name__)

MANIFEST = "annotation.json"  # beside the shards of an annotation; holds its settings
IGNORED = -100.0  # in place of a missing label
FEATURES = Features(
    {
        "prompt": Value("string"),
        "completions": ListOf(Value("string")),
        "labels": ListOf(Value("float64")),
        "correct": Value("bool"),
        "final_answer": Value("string"),
    }
)
ENCODED = Features(
    {
        "input_ids": ListOf(Value("int32")),
        "positions": ListOf(Value("int32")),
        "targets": ListOf(Value("float64")),
        "row": Value("int64"),
        "steps": Value("int32"),
    }
)


@dataclass(frozen=True)
class Encoding:
    """Tokenised rows, and counts of the rows and steps that did not fit.

    Attributes:
        dataset (`Dataset`): `input_ids`; `positions`, the token that bears each step's label; `targets`, the labels
            (`IGNORED` for a step without one); `row`, the index of the source row; `steps`, the number of steps
            before truncation. A step that holds the separator counts as several.
        truncated_rows (`int`): rows longer than `max_length`, which lost their last steps.
        dropped_steps (`int`): the number of steps that these rows lost.
        left_out_rows (`int`): rows without any labelled step within `max_length`; they are not in the dataset.
    """

    dataset: Dataset
    truncated_rows: int
    dropped_steps: int
    left_out_rows: int

    @property
    def figures(self) -> dict[str, float]:
        """Counts for logs."""
        return {
            "rows": len(self.dataset),
            "steps": sum(map(len, self.dataset["targets"])),
            "truncated_rows": self.truncated_rows,
            "left_out_rows": self.left_out_rows,
        }

    @property
    def loss_report(self) -> str | None:
        """One sentence, or `None` if every step fits."""
        if not self.truncated_rows and not self.left_out_rows:
            return None
        return (
            f"{self.truncated_rows} rows were too long and lost {self.dropped_steps} steps; {self.left_out_rows} rows "
            "without a labelled step within max_length were left out"
        )


def load_rows(sources: Sequence[str | Path], *, neutral_label: float = 1.0) -> Dataset:
    """Read stepwise-supervision rows and check every one.

    Args:
        sources: files, folders of files, or datasets of the Hub, as `read_dataset` takes them; `name:split` names a
            split other than `train`.
        neutral_label (`float`): the label of PRM800K's rating 0, "neither wrong nor any progress", in [0, 1]. Rating
            1 means right and -1 wrong. PRM800K's authors count neutral steps as right.

    Returns:
        `Dataset`: `prompt`, `completions`, `labels` (floats), `correct` (the column `correct` or `answer_correct`,
        else null) and `final_answer` (else null).

    Raises:
        DatasetError: a source cannot be read, there are no rows, or a row breaks the format; the message names source
            and row.
        ConfigurationError: `neutral_label` is outside [0, 1].
    """
    if not 0 <= neutral_label <= 1:
        raise ConfigurationError(f"neutral_label must be in 0..1, got {neutral_label}")
    parts = []
    for source in sources:
        raw = _source(str(source))
        part = raw.map(
            _checked,
            with_indices=True,
            fn_kwargs={"source": str(source), "neutral_label": float(neutral_label)},
            remove_columns=raw.column_names,
            features=FEATURES,
            desc="Checking",
        )
        parts.append(part)
    if not sum(map(len, parts)):
        raise DatasetError(f"no rows in {', '.join(map(str, sources)) or 'no sources'}")
    return concatenate_datasets(parts)


def annotated_separator(source: str | Path) -> str | None:
    """The separator of steps in a folder of annotations, from its manifest; None for any other source."""
    file = Path(source) / MANIFEST
    if not file.is_file():
        return None
    found = json.loads(file.read_text()).get("separator")
    return None if found is None else str(found)


def check_row(row: Mapping[str, Any], *, neutral_label: float = 1.0) -> dict[str, Any]:
    """One row as `load_rows` returns it.

    Raises:
        DatasetError: the row breaks the format.
    """
    prompt, steps = row.get("prompt"), row.get("completions")
    if not isinstance(prompt, str):
        raise DatasetError(f"'prompt' must be a text, got {prompt!r:.60}")
    if not isinstance(steps, list) or not steps:
        raise DatasetError(f"'completions' must be a list of at least one step, got {steps!r:.60}")
    for place, step in enumerate(steps):
        if not isinstance(step, str) or not step.strip():
            raise DatasetError(f"step {place + 1} must be a text that is not empty, got {step!r:.60}")
    labels = _labels_of(row, neutral_label)
    if len(labels) != len(steps):
        raise DatasetError(f"every step needs a label: got {len(labels)} labels, expected {len(steps)}")
    correct = row.get("correct", row.get("answer_correct"))
    if correct not in (None, True, False):
        raise DatasetError(f"'correct' must be true or false, got {correct!r:.60}")
    answer = row.get("final_answer")
    return {
        "prompt": prompt,
        "completions": steps,
        "labels": labels,
        "correct": correct if correct is None else bool(correct),
        "final_answer": answer if answer is None else str(answer),
    }


def encode_rows(
    rows: Dataset, tokenizer: Any, *, separator: str = SEPARATOR, max_length: int | None = None
) -> Encoding:
    """Tokenise rows of `load_rows` in the layout of `lay_out_steps`.

    A row longer than `max_length` tokens loses whole steps from its end; no step is cut in two. A step that holds the
    separator is split there, because `ProcessReward` splits responses there; its last part bears the label, the parts
    before it have none. A warning says in how many rows.

    Raises:
        ConfigurationError: the separator has no tokens, so no token could bear the label.
        DatasetError: not one row has a labelled step within `max_length`.
    """
    if not tokenizer(separator, add_special_tokens=False)["input_ids"]:
        raise ConfigurationError(f"the separator must have at least one token, but {separator!r} has none")
    read = [reread(steps, separator)[0] != steps for steps in rows["completions"]]
    if any(read):
        logger.warning(
            "%d of %d rows have steps that hold the separator %r (the first is row %d): they are split there, as "
            "responses are when they are scored, and only the last part of such a step has its label. Another "
            "separator may suit these rows better.",
            sum(read),
            len(rows),
            separator,
            read.index(True),
        )
    encoded = rows.map(
        _encoded,
        with_indices=True,
        fn_kwargs={"tokenizer": tokenizer, "separator": separator, "max_length": max_length},
        remove_columns=rows.column_names,
        features=ENCODED,
        desc="Tokenising",
    )
    lost = [steps - len(kept) for steps, kept in zip(encoded["steps"], encoded["targets"], strict=True)]
    labelled = [row for row, kept in enumerate(encoded["targets"]) if any(label != IGNORED for label in kept)]
    if not labelled:
        raise DatasetError(f"not one row has a labelled step within max_length={max_length} tokens")
    return Encoding(
        encoded.select(labelled),
        truncated_rows=sum(count > 0 for count in lost),
        dropped_steps=sum(lost),
        left_out_rows=len(rows) - len(labelled),
    )


def _source(source: str) -> Dataset:
    name, colon, split = source.rpartition(":")
    return read_dataset(name, split=split) if colon and not Path(source).exists() else read_dataset(source)


def _checked(row: Mapping[str, Any], index: int, *, source: str, neutral_label: float) -> dict[str, Any]:
    try:
        return check_row(row, neutral_label=neutral_label)
    except DatasetError as error:
        raise DatasetError(f"row {index} of {source}: {error}") from None


def _labels_of(row: Mapping[str, Any], neutral_label: float) -> list[float | None]:
    if row.get("labels") is not None:
        return [_number(label, "label", "in 0..1", lambda value: 0 <= value <= 1) for label in row["labels"]]
    if row.get("ratings") is None:
        raise DatasetError(f"the column 'labels' (or 'ratings') is needed, got {', '.join(row)}")
    meaning = {1: 1.0, 0: neutral_label, -1: 0.0}
    ratings = [_number(item, "rating", "1, 0 or -1", lambda value: value in meaning) for item in row["ratings"]]
    return [None if rating is None else meaning[int(rating)] for rating in ratings]


def _number(value: Any, name: str, allowed: str, is_allowed: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, bool | int | float) or not is_allowed(value):
        raise DatasetError(f"a {name} must be {allowed}, got {value!r:.60}")
    return float(value)


def _encoded(
    row: Mapping[str, Any], index: int, *, tokenizer: Any, separator: str, max_length: int | None
) -> dict[str, Any]:
    steps, ending = reread(row["completions"], separator)
    targets = [IGNORED] * len(steps)
    for place, label in zip(ending, row["labels"], strict=True):
        if place is not None and label is not None:
            targets[place] = label
    token_ids, positions = lay_out_steps(tokenizer, row["prompt"], steps, separator=separator)
    if max_length is not None:
        positions = [position for position in positions if position < max_length]
    return {
        "input_ids": token_ids[: positions[-1] + 1] if positions else [],
        "positions": positions,
        "targets": targets[: len(positions)],
        "row": index,
        "steps": len(steps),
    }
