"""What a command line names: a dataset of queries, and a verifier."""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, DatasetError
from ..rewards import AnswerMatch, MultipleChoice, UnitTests
from ..rewards.base import RewardFn

if TYPE_CHECKING:
    from datasets import Dataset

FILES = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}
VERIFIERS = ("answer", "choice", "tests")


def load_queries(
    name: str, *, config: str | None = None, split: str = "train", prompt_column: str = "prompt"
) -> Dataset:
    """A dataset of queries, with a column `prompt`.

    Args:
        name (`str`): a file (JSON lines, parquet, CSV), a folder that `save_to_disk` wrote, or an id on the Hub.
        config (`str`, *optional*): of a dataset on the Hub.
        split (`str`): of a dataset on the Hub or a folder of several.
        prompt_column (`str`): the column of prompts.

    Raises:
        DatasetError: it cannot be loaded, has no such column, or no rows.
    """
    from datasets import DatasetDict, load_dataset, load_from_disk
    from datasets.exceptions import DatasetGenerationError

    path = Path(name)
    if path.is_file():
        if path.suffix not in FILES:
            raise DatasetError(f"a dataset file must be one of {', '.join(FILES)}, got {name}")
        try:
            found: Any = load_dataset(FILES[path.suffix], data_files=str(path), split="train")
        except (DatasetGenerationError, ValueError, StopIteration) as error:
            cause = error.__cause__ or error
            raise DatasetError(f"cannot read {name}: {str(cause) or 'it has no rows'}") from error
    elif (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        found = load_from_disk(name)
        if isinstance(found, DatasetDict):
            if split not in found:
                raise DatasetError(f"{name} has the splits {', '.join(found)}, got {split!r}")
            found = found[split]
    elif path.suffix in FILES:
        raise DatasetError(f"there is no file {name}")
    else:
        try:
            found = load_dataset(name, config, split=split)
        except (OSError, ValueError) as error:  # not there, no such split, or the Hub cannot be reached
            raise DatasetError(f"cannot load the dataset {name!r}: {error}") from error
    if prompt_column not in found.column_names:
        raise DatasetError(
            f"{name} has no column {prompt_column!r}, but {', '.join(found.column_names)}: say which one holds the "
            "prompts"
        )
    if prompt_column != "prompt":
        if "prompt" in found.column_names:
            found = found.remove_columns("prompt")
        found = found.rename_column(prompt_column, "prompt")
    if not len(found):
        raise DatasetError(f"{name} has no rows")
    return found


def load_verifier(name: str) -> Any:
    """A verifier by its short name, or `module:attribute`: a `RewardFn` class or object, or TRL's kind of function.

    Modules of the working directory are found.

    Raises:
        ConfigurationError: there is no such verifier.
    """
    if name == "answer":
        return AnswerMatch()
    if name == "choice":
        return MultipleChoice()
    if name == "tests":
        return UnitTests(progress=False)
    module_name, _, attribute = name.partition(":")
    if not attribute:
        raise ConfigurationError(f"a verifier is one of {', '.join(VERIFIERS)}, or module:attribute; got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"cannot import the verifier {name!r}: {error}") from error
    if isinstance(found, type) and issubclass(found, RewardFn):
        found = found()
    if not callable(found):
        raise ConfigurationError(f"a verifier must be callable, {name!r} is {type(found).__name__}")
    return found
