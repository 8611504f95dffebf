"""Reads what an offline W&B run wrote: the `.wandb` file, and the tables beside it.

A `.wandb` file is a header of 7 bytes (`:W&B`, a magic number, a version) and LevelDB log blocks of 32 KiB. A block
holds chunks: CRC-32 (4 bytes, little-endian), length (2 bytes), type (1 byte: 1 whole, 2 first, 3 middle, 4 last),
payload.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from wandb.proto import wandb_internal_pb2

BLOCK = 32768
HEADER = 7
WHOLE, FIRST, LAST = 1, 2, 4


@dataclass
class WandbRun:
    """What a run logged: its names, its configuration, and a row for each call of `wandb.log`."""

    name: str = ""
    project: str = ""
    config: dict = field(default_factory=dict)
    history: list[dict] = field(default_factory=list)
    axes: dict[str, str] = field(default_factory=dict)  # of metrics by name or glob


def read_payloads(raw: bytes) -> Iterator[bytes]:
    """The payloads of a log, put together from their chunks; every checksum is verified."""
    assert raw[:4] == b":W&B", raw[:8]
    place, payload = HEADER, b""
    while place + HEADER <= len(raw):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # padding at the end of a block
            place += left
            continue
        checksum, length, kind = struct.unpack("<IHB", raw[place : place + HEADER])
        if kind == 0:  # zeros behind the last chunk
            return
        data = raw[place + HEADER : place + HEADER + length]
        assert zlib.crc32(data, zlib.crc32(bytes([kind]))) == checksum, f"wrong checksum at byte {place}"
        place += HEADER + length
        payload = data if kind in (WHOLE, FIRST) else payload + data
        if kind in (WHOLE, LAST):
            yield payload


def values_of(items) -> dict:
    """Keys and values of a message's items; nested keys are joined by slashes."""
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def read_run(folder: Path) -> WandbRun:
    """The run in a folder `offline-run-*`."""
    (path,) = folder.glob("run-*.wandb")
    run = WandbRun()
    for payload in read_payloads(path.read_bytes()):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(payload)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            run.history.append(values_of(record.history.item))
        elif kind == "config":
            run.config |= values_of(record.config.update)
        elif kind == "metric":
            metric = record.metric
            run.axes[metric.name or metric.glob_name] = metric.step_metric
        elif kind == "run":
            run.name, run.project = record.run.display_name, record.run.project
            run.config |= values_of(record.run.config.update)
    return run


def read_tables(folder: Path, name: str) -> list[pd.DataFrame]:
    """The tables that a run sent under this name, in the order of their steps."""
    paths = (folder / "files" / "media" / "table").glob(f"{name}_*.table.json")
    tables = [json.loads(path.read_text()) for path in sorted(paths, key=lambda path: int(path.name.split("_")[1]))]
    return [pd.DataFrame(table["data"], columns=table["columns"]) for table in tables]
