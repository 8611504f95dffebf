"""Annotations on disk: one parquet shard per group of queries, and a manifest of the settings.

After a kill, a run continues with the groups that have no shard. Seeds depend only on a query's index, so the shards
equal those of an uninterrupted run.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import Dataset
from tqdm.auto import tqdm

from ..engines import TextEngine
from ..errors import ConfigurationError
from .annotate import Annotated, Annotator, Counts, Recipe
from .data import MANIFEST

COUNTS = b"bstar_trl.counts"  # in a shard's metadata


class AnnotationFolder:
    """The shards of one annotation: `annotated-00000-of-00470.parquet` and so on, in the queries' order.

    Read them with `load_dataset("parquet", data_files=f"{output_dir}/*.parquet")`.

    Args:
        output_dir (`str` or `Path`): created if it does not exist.
        dataset (`Dataset`): the queries, as [`annotate`] takes them.
        recipe (`Recipe`): how to annotate.
        settings (`Mapping`): everything else that the result depends on, ready for JSON: models, engine, verifier. A
            run continues only with equal settings.

    Raises:
        ConfigurationError: the folder cannot be created, or holds annotations with other settings, or other parquet
            files.
    """

    def __init__(self, output_dir: str | Path, dataset: Dataset, recipe: Recipe, settings: Mapping[str, Any]):
        self.path = Path(output_dir)
        self.dataset = dataset
        self.recipe = recipe
        self.num_groups = -(-len(dataset) // recipe.group_size)
        manifest = {
            **settings,
            **dataclasses.asdict(recipe),
            "queries": len(dataset),
            "queries_digest": _digest(dataset),
        }
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"output_dir {self.path} cannot be made: {error}") from error
        file = self.path / MANIFEST
        found = sorted(self.path.glob("*.parquet"))
        if found and not file.exists():
            raise ConfigurationError(
                f"{self.path} holds {found[0].name}, but no {MANIFEST} with its settings: use another folder"
            )
        if found:
            _compare(json.loads(file.read_text()), json.loads(json.dumps(manifest)), self.path)
        else:
            _write(file, lambda path: path.write_text(json.dumps(manifest, indent=2) + "\n"))

    @property
    def unfinished(self) -> list[int]:
        """The groups without a shard."""
        return [group for group in range(self.num_groups) if not self.shard(group).exists()]

    def shard(self, group: int) -> Path:
        """The file of a group of queries."""
        return self.path / f"annotated-{group:05d}-of-{self.num_groups:05d}.parquet"

    def fill(self, engine: TextEngine, verifier: Any, *, completer: TextEngine | None = None) -> None:
        """Annotate the missing groups. Arguments and errors as in [`annotate`]."""
        annotator = Annotator(engine, verifier, self.recipe, completer=completer)
        unfinished = self.unfinished
        size = self.recipe.group_size
        places = {group: range(group * size, min((group + 1) * size, len(self.dataset))) for group in unfinished}
        missing = sum(len(item) for item in places.values())
        try:
            for group in unfinished:  # refuses a prompt that does not fit before the first sample
                annotator.prompt_ids(self._rows(places[group]), places[group].start)
            with tqdm(total=len(self.dataset), initial=len(self.dataset) - missing, unit="query") as bar:
                for group in unfinished:
                    annotated = annotator.annotate(self._rows(places[group]), places[group].start)
                    _write(self.shard(group), partial(_write_shard, annotated, self.recipe))
                    seconds = max(1e-9, bar.format_dict["elapsed"])
                    speeds = annotator.num_responses / seconds, annotator.num_tokens / seconds
                    bar.set_postfix_str("{:,.1f} responses/s, {:,.0f} tokens/s".format(*speeds), refresh=False)
                    bar.update(len(places[group]))
        finally:
            annotator.close()

    def counts(self) -> Counts:
        """The sums over all finished shards."""
        total = Counts()
        for group in range(self.num_groups):
            if self.shard(group).exists():
                total += Counts(**json.loads(pq.read_schema(self.shard(group)).metadata[COUNTS]))
        return total

    def _rows(self, places: range) -> list[dict[str, Any]]:
        return [self.dataset[place] for place in places]


def _write_shard(annotated: Annotated, recipe: Recipe, path: Path) -> None:
    schema = _schema(recipe, annotated.counts)
    with pq.ParquetWriter(path, schema) as writer:
        if annotated.rows:  # `datasets` cannot read a row group without rows; it can read a file without row groups
            writer.write_table(pa.Table.from_pylist(annotated.rows, schema=schema))


def _schema(recipe: Recipe, counts: Counts) -> pa.Schema:
    label = pa.float64() if recipe.labels == "soft" else pa.bool_()
    return pa.schema(
        {
            "prompt": pa.string(),
            "completions": pa.list_(pa.string()),
            "labels": pa.list_(label),
            "id": pa.string(),
            "correct": pa.bool_(),
            "ended": pa.bool_(),
            "successes": pa.list_(pa.int64()),
            "attempts": pa.list_(pa.int64()),
        },
        metadata={COUNTS: json.dumps(dataclasses.asdict(counts)).encode()},
    )


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write a file at once, so that neither a reader nor a resumed run finds half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    write(temporary)
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def _digest(dataset: Dataset) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for row in dataset:
        digest.update(json.dumps(row, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _compare(there: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    different = [
        f"{name} was {there.get(name)!r} and is now {now.get(name)!r}"
        for name in {**there, **now}
        if there.get(name) != now.get(name)
    ]
    if different:
        raise ConfigurationError(
            f"{path} holds annotations with other settings: {'; '.join(different)}. Repeat its settings to continue, "
            "or use another folder"
        )
