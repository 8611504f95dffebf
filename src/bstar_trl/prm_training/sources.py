"""Datasets by name: files, folders, the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetGenerationError

from ..errors import DatasetError

KINDS = {".json": "json", ".jsonl": "json", ".parquet": "parquet", ".csv": "csv"}


def read_dataset(source: str, *, config: str | None = None, split: str = "train") -> Dataset:
    """A dataset, as it is.

    Args:
        source (`str`): a file (JSON lines, parquet, CSV), a folder of such files or one that `save_to_disk` wrote, or
            an id on the Hub. Of a folder with parquet, its parquet: JSON beside it tells about the data.
        config (`str`, *optional*): of a dataset on the Hub.
        split (`str`): of a dataset on the Hub, or a saved folder of several.

    Raises:
        DatasetError: it cannot be read; the message names the source.
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
    except (DatasetGenerationError, OSError, ValueError) as error:  # not there, no such split, no network
        raise DatasetError(f"cannot load the dataset {source!r}: {error.__cause__ or error}") from error


def _read_files(source: str, files: list[Path]) -> Dataset:
    files = [file for file in files if file.suffix == ".parquet"] or files
    kinds = sorted({KINDS[file.suffix] for file in files})
    if not kinds:
        raise DatasetError(f"the folder {source} holds no file that ends in {', '.join(KINDS)}")
    if len(kinds) > 1:
        raise DatasetError(f"the folder {source} holds {' and '.join(kinds)} files: name those that are meant")
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
