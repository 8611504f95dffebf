"""Rows of any shape as the trainer takes them: a prompt, and the columns that rewards read."""

from __future__ import annotations

import dataclasses
import re
import string
from typing import Any

from datasets import Dataset

from ..arguments import meant
from ..errors import ConfigurationError, DatasetError
from ..inputs.datasets import read_dataset
from ..inputs.rewards import imported
from ..options import DataOptions

QUESTIONS = ("prompt", "question", "problem")
ANSWERS = ("answer", "solution")


def training_rows(options: DataOptions, *, is_chat: bool) -> Dataset:
    """The rows to train on.

    Args:
        options (`DataOptions`): which, and how a row becomes a prompt.
        is_chat (`bool`): whether the tokenizer has a chat template.

    Raises:
        DatasetError: the dataset cannot be read, lacks a column, or has no rows.
        ConfigurationError: the template does not fit the columns.
    """
    assert options.dataset_name is not None  # `parse` has seen to it
    rows = read_dataset(options.dataset_name, config=options.dataset_config, split=options.dataset_train_split)
    return as_queries(rows, options.dataset_name, options, is_chat=is_chat)


def evaluation_rows(options: DataOptions, *, is_chat: bool) -> Dataset | None:
    """The rows to evaluate on, if the options name any; errors as of [`training_rows`]."""
    if options.eval_dataset_name is None and options.dataset_test_split is None:
        return None
    return training_rows(rows_to_evaluate(options), is_chat=is_chat)


def rows_to_evaluate(options: DataOptions) -> DataOptions:
    """The same options, with what [`evaluation_rows`] reads as the data itself; without any, the training data."""
    if options.eval_dataset_name is None and options.dataset_test_split is None:
        return options
    return dataclasses.replace(
        options,
        dataset_name=options.eval_dataset_name or options.dataset_name,
        dataset_config=options.dataset_config if options.eval_dataset_name is None else None,
        dataset_train_split=options.dataset_test_split or "train",
        eval_dataset_name=None,
        dataset_test_split=None,
    )


def as_queries(rows: Dataset, source: str, options: DataOptions, *, is_chat: bool) -> Dataset:
    """Rows with a column `prompt`, and `answer` where there is one; other columns stay as they are.

    Args:
        rows (`Dataset`): as they were read.
        source (`str`): their name, for messages.
        options, is_chat: as of [`training_rows`].
    """
    if options.max_rows is not None:
        if options.max_rows < 1:
            raise ConfigurationError(f"max_rows must be at least 1, got {options.max_rows}")
        rows = rows.select(range(min(options.max_rows, len(rows))))
    if not len(rows):
        raise DatasetError(f"{source} has no rows")
    if options.row_function is not None:
        rows = rows.map(imported(options.row_function), desc="Rows")
    names = rows.column_names
    question = _column(source, names, options.prompt_column, QUESTIONS, "prompt_column")
    if options.answer_column is not None or "answer" not in names:
        answer = _column(source, names, options.answer_column, ANSWERS, "answer_column", needed=False)
        if answer not in ("", "answer"):
            rows = rows.remove_columns("answer") if "answer" in names else rows
            rows = rows.rename_column(answer, "answer")
            names, question = rows.column_names, "answer" if question == answer else question
    template = options.prompt_template
    in_messages = not isinstance(rows[0][question], str)
    if in_messages and (template is not None or options.system_prompt):
        raise ConfigurationError(
            f"the prompts of {source} are conversations: prompt_template and system_prompt are for text"
        )
    if template is not None:
        _check_template(template, names)
    chat = (is_chat if options.chat is None else options.chat) and not in_messages
    if options.system_prompt and not chat:
        raise ConfigurationError(
            "system_prompt needs a conversation, but prompts are sent as text (no chat template, or chat is false): "
            "leave system_prompt out (prompt_template can hold its text), or take an instruct model"
        )
    system = [] if not options.system_prompt else [{"role": "system", "content": options.system_prompt}]

    def prompt_of(row: dict[str, Any]) -> dict[str, Any]:
        text = row[question] if template is None else template.format_map(row)
        return {"prompt": [*system, {"role": "user", "content": text}] if chat else text}

    if question == "prompt" and template is None and not chat:
        return rows
    return rows.map(prompt_of, desc="Prompts")


def _column(
    source: str, names: list[str], wanted: str | None, usual: tuple[str, ...], option: str, *, needed: bool = True
) -> str:
    """The column that is there; "" where none is, nor is needed."""
    found = [name for name in ([wanted] if wanted is not None else usual) if name in names]
    if found:
        return found[0]
    if wanted is None and not needed:
        return ""
    missing = repr(wanted) if wanted is not None else " or ".join(map(repr, usual))
    close = "" if wanted is None else meant(wanted, names)
    raise DatasetError(f"{source} has no column {missing}{close}, but {', '.join(names)}: set {option}")


def _check_template(template: str, names: list[str]) -> None:
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
        fields = [re.split(r"[.\[]", field)[0] for field in fields]  # `choices[text][0]` is of the column `choices`
    except ValueError as error:
        raise ConfigurationError(f"prompt_template {template!r}: {error} (a brace itself is written twice)") from error
    for field in fields:
        if field not in names:
            raise ConfigurationError(
                f"prompt_template: there is no column {field!r}{meant(field, names)}; the rows have {', '.join(names)}"
            )
    if not fields:
        raise ConfigurationError(
            f"prompt_template names no column, so all prompts would be equal: write one in braces, like "
            f"{{{names[0]}}}; got {template!r}"
        )
