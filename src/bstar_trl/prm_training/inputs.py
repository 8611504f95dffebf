"""What a command line names: a dataset of queries, and a verifier."""

from __future__ import annotations

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

from ..errors import ConfigurationError, DatasetError
from ..rewards import AnswerMatch, MultipleChoice, UnitTests
from ..rewards.base import RewardFn

if TYPE_CHECKING:
    from datasets import Dataset

VERIFIERS = ("answer", "choice", "tests")


def load_queries(
    name: str, *, config: str | None = None, split: str = "train", prompt_column: str = "prompt"
) -> Dataset:
    """A dataset of queries, with a column `prompt`.

    Args:
        name (`str`): a file, a folder or an id on the Hub, as `read_dataset` takes them.
        config (`str`, *optional*): of a dataset on the Hub.
        split (`str`): of a dataset on the Hub or a folder of several.
        prompt_column (`str`): the column of prompts.

    Raises:
        DatasetError: it cannot be loaded, has no such column, or no rows.
    """
    from .sources import read_dataset

    found = read_dataset(name, config=config, split=split)
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
