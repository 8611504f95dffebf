"""What the benchmark of a real language model makes of its runs, on results made by hand."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import real


def judged(greedy: list[bool], right: int) -> dict:
    """Each query with so many of 8 samples right, all of them valid."""
    sampled = [[place < right for place in range(8)] for _ in greedy]
    return {"greedy": greedy, "sampled": sampled, "valid": sampled}


def summary(greedy: list[bool], right: int) -> dict:
    return {"figures": {"completions": 0, "tokens": 0, "minutes": 0}, "judged": {"words": judged(greedy, right)}}


RESULTS = {
    "start": {0: summary([False] * 4, 0), 1: summary([False] * 4, 0)},
    "Online RFT": {0: summary([True, False, False, False], 2), 1: summary([True] * 2 + [False] * 2, 2)},
    "default": {0: summary([True] * 4, 4), 1: summary([True] * 4, 4), 2: summary([False] * 4, 0)},
}


def test_differences_are_paired_by_seed_and_query():
    found = real.differences(RESULTS, "words", "mean", "default", "Online RFT")
    # Means of greedy and sampled: 0.75 against 0.625 where RFT's greedy response is right, 0.125 elsewhere.
    assert found.tolist() == [[0.125, 0.625, 0.625, 0.625], [0.125, 0.125, 0.625, 0.625]]
    assert real.differences(RESULTS, "words", "mean", "default", "default").size == 0
    assert real.differences(RESULTS, "words", "pass@8", "default", "start").tolist() == [[1.0] * 4] * 2


def test_intervals():
    assert real.bootstrap(np.full((3, 10), 0.25)) == (0.25, 0.25, 0.25)
    rng = np.random.default_rng(0)
    mean, low, high = real.bootstrap(rng.normal(0.0, 1.0, (1, 400)))
    assert (high - low) / 2 == pytest.approx(1.96 / 20, rel=0.1)  # one seed: the queries alone
    assert low < mean < high
    by_seed = np.repeat([[-0.1], [0.0], [0.1]], 50, axis=1)
    # Drawing three of three: sd of the mean is sqrt(2/3) / 10 / sqrt(3); the seeds alone decide.
    assert real.bootstrap(by_seed)[2] == pytest.approx(0.1, abs=0.04)
    assert real.seeds_needed(by_seed) == f"{(1.96 * 0.1 / 0.01) ** 2:.0f}"


def test_the_table_holds_every_arm():
    lines = list(real.table(RESULTS))
    (row,) = (line for line in lines if line.startswith("| default | 3"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2:7] == ["0.500", "0.667", "0.333", "0.667", "0.333"]  # mean, greedy, pass@1, pass@8, valid@1
    assert cells[7] == "+0.750 (+0.750 to +0.750)"
    assert cells[8] == "+1.000 (+1.000 to +1.000)"


def test_results_of_other_data_count_as_none(tmp_path):
    adapter = "start/adapter_model.safetensors"
    for name in ("model/model.safetensors", adapter, "train.jsonl", "test.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    options = argparse.Namespace(
        model=str(tmp_path / "model"),
        adapter=tmp_path / "start",
        train=str(tmp_path / "train.jsonl"),
        test=[str(tmp_path / "test.jsonl")],
        rows=100,
        output_dir=tmp_path,
    )
    folder = real.folder_of(tmp_path, "default", 3)
    folder.mkdir()
    (folder / "summary.json").write_text(json.dumps({"what": real.described("default", options), "figures": {}}))
    assert real._read(options, "default", 3)["figures"] == {}
    assert real._read(options, "SFT", 3) is None
    for changed in (adapter, "test.jsonl"):
        before = (tmp_path / changed).read_text()
        (tmp_path / changed).write_text("something else")
        assert real._read(options, "default", 3) is None
        (tmp_path / changed).write_text(before)
        assert real._read(options, "default", 3) is not None
