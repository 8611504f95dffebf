"""Datasets by name: files, folders, the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..errors import DatasetError

KINDS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def read_dataset(source: str, *, config: str | None = None, split: str = "train") -> Dataset:
    """Read a dataset without changing it.

    Args:
        source (`str`): a file (JSON lines, parquet, CSV), a folder of such files or one that `save_to_disk` wrote, or
            a Hub id. A folder with parquet files is read from these alone; JSON beside them describes the data.
        config (`str`, *optional*): configuration of a dataset on the Hub.
        split (`str`): split of a dataset on the Hub, or of a saved folder with several splits.

    Raises:
        DatasetError: the dataset cannot be read; the message names the source.
    """
    path = Path(source)
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return _of_split(load_from_disk(source), source, split)
    if path.is_dir():
        return _read_files(source, sorted(item for item in path.rglob("*") if item.suffix in KINDS))
    if path.is_file() and path.suffix not in KINDS:
        raise DatasetError(f"a dataset file must be one of {', '.join(KINDS)}, got {source}")
    if path.suffix in KINDS:
        if not path.exists():
            raise DatasetError(f"cannot read {source}: there is no file {source}")
        return _read_files(source, [path])
    try:
        return load_dataset(source, config, split=split)
    except (DatasetGenerationError, OSError, ValueError) as error:  # no such dataset or split, no network
        raise DatasetError(f"cannot load the dataset {source!r}: {error.__cause__ or error}") from error


def load_queries(
    name: str, *, config: str | None = None, split: str = "train", prompt_column: str = "prompt"
) -> Dataset:
    """Read a dataset of queries, and give it a column `prompt`.

    Args:
        name, config, split: as in `read_dataset`.
        prompt_column (`str`): the column of prompts.

    Raises:
        DatasetError: the dataset cannot be read, has no such column, or has no rows.
    """
    found = read_dataset(name, config=config, split=split)
    if prompt_column not in found.column_names:
        raise DatasetError(
            f"{name} has no column {prompt_column!r}, but {', '.join(found.column_names)}: name the column of prompts"
        )
    if prompt_column != "prompt":
        if "prompt" in found.column_names:
            found = found.remove_columns("prompt")
        found = found.rename_column(prompt_column, "prompt")
    if not len(found):
        raise DatasetError(f"{name} has no rows")
    return found


def _read_files(source: str, files: list[Path]) -> Dataset:
    files = [file for file in files if file.suffix == ".parquet"] or files
    kinds = sorted({KINDS[file.suffix] for file in files})
    if not kinds:
        raise DatasetError(f"the folder {source} holds no file that ends in {', '.join(KINDS)}")
    if len(kinds) > 1:
        raise DatasetError(f"the folder {source} holds {' and '.join(kinds)} files: name the files to read")
    try:
        return load_dataset(kinds[0], data_files=[str(file) for file in files], split="train")
    except (DatasetGenerationError, OSError, ValueError, StopIteration) as error:
        cause = error.__cause__ or error
        raise DatasetError(f"cannot read {source}: {str(cause) or 'it has no rows'}") from error


def _of_split(found: Any, source: str, split: str) -> Dataset:
    if isinstance(found, Dataset):
        return found
    assert isinstance(found, DatasetDict)
    if split not in found:
        raise DatasetError(f"{source} has the splits {', '.join(found)}, got {split!r}")
    return found[split]
