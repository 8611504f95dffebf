"""Annotations on disk: real processes, killed and started again; what loads; what is refused."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from conftest import make_model, make_tokenizer
from datasets import Dataset, load_dataset
from trl.data_utils import is_conversational

from bstar_trl.cli import main
from bstar_trl.engines import TransformersEngine
from bstar_trl.errors import ConfigurationError, DatasetError
from bstar_trl.inputs.datasets import load_queries
from bstar_trl.inputs.rewards import load_verifier
from bstar_trl.prm_training.annotate import Annotator, Recipe, annotate
from bstar_trl.prm_training.annotation_files import AnnotationFolder, _write, _write_shard
from bstar_trl.prm_training.data import load_rows
from bstar_trl.rewards import AnswerMatch, MultipleChoice, UnitTests
from bstar_trl.testbed import policy_path
from bstar_trl.testbed.rewards import SumMatch
from bstar_trl.testbed.task import answer_of, make_dataset

RECIPE = Recipe(solutions=4, completions=3, separator="=", max_new_tokens=40, group_size=3)


def command(output_dir, dataset, **changes):
    options = {
        "model": policy_path(),
        "dataset": dataset,
        "output-dir": output_dir,
        "verifier": "bstar_trl.testbed.rewards:SumMatch",
        "separator": "=",
        "max-new-tokens": 40,
        "solutions": 4,
        "group-size": 2,
        "labels": "hard",
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    return [sys.executable, "-m", "bstar_trl.cli", "annotate", *words]


def run(*arguments, **changes) -> subprocess.CompletedProcess:
    return subprocess.run(command(*arguments, **changes), capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def sums(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("queries") / "sums.jsonl"
    make_dataset(16, (5,), seed=4).to_json(str(path))
    return path


@pytest.fixture(scope="module")
def engine():
    return TransformersEngine(policy_path())


def shards(path: Path) -> dict[str, bytes]:
    return {item.name: item.read_bytes() for item in sorted(path.glob("*.parquet"))}


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_happened(tmp_path, sums):
    undisturbed = run(tmp_path / "whole", sums)
    assert undisturbed.returncode == 0, undisturbed.stderr[-2000:]
    assert re.search(r"[0-9.]+ responses/s, [0-9,]+ tokens/s", undisturbed.stderr)
    assert len(shards(tmp_path / "whole")) == 8
    process = subprocess.Popen(command(tmp_path / "killed", sums), stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while len(shards(tmp_path / "killed")) < 2 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = {item: item.stat().st_mtime_ns for item in (tmp_path / "killed").glob("*.parquet")}
    assert 2 <= len(before) < 8
    (tmp_path / "killed" / ".annotated-00007-of-00008.parquet.tmp").write_bytes(b"half of a shard")
    resumed = run(tmp_path / "killed", sums)
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert shards(tmp_path / "killed") == shards(tmp_path / "whole")
    assert {item: item.stat().st_mtime_ns for item in before} == before  # nothing was done twice
    assert not list((tmp_path / "killed").glob(".*"))
    assert resumed.stdout.splitlines()[1:] == undisturbed.stdout.splitlines()[1:]
    # A third time there is nothing to do.
    again = run(tmp_path / "killed", sums)
    assert again.stdout == resumed.stdout
    assert "query" not in again.stderr
    rows = load_dataset("parquet", data_files=str(tmp_path / "killed" / "*.parquet"), split="train")
    steps = sum(map(len, rows["labels"]))
    last = sum(rows["ended"])
    sampled = sum(sum(attempts) for attempts in rows["attempts"]) - last
    assert f"{len(rows)} solutions of 16 queries, {steps} steps" in again.stdout
    share = sum(map(sum, rows["labels"])) / steps
    assert f"right steps: {share:.1%}" in again.stdout
    count = int(again.stdout.split("completions: ")[1].split(",")[0])
    assert count <= sampled  # common steps stand in several rows
    assert f"of {8 * steps} without savings ({count / (8 * steps):.1%})" in again.stdout


def test_the_folder_is_what_train_prm_reads(tmp_path, engine):
    AnnotationFolder(tmp_path / "steps", make_dataset(4, (5,)), RECIPE, {}).fill(engine, SumMatch())
    rows = load_rows([tmp_path / "steps"])
    written = load_dataset("parquet", data_files=str(tmp_path / "steps" / "*.parquet"), split="train")
    assert len(rows) == 4 * 4
    for name in ("prompt", "completions", "labels", "correct"):
        assert rows[name][:] == written[name][:]


def test_an_interrupted_folder_is_finished_with_equal_shards(tmp_path, engine):
    queries = make_dataset(9, (5,))
    whole = AnnotationFolder(tmp_path / "whole", queries, RECIPE, {})
    whole.fill(engine, SumMatch())
    calls = 0

    def interrupting(completions, answer, **columns):
        nonlocal calls
        calls += 1
        if calls == 4:  # solutions and completions of the first group, solutions of the second
            raise KeyboardInterrupt
        return [float(answer_of(text) == gold) for text, gold in zip(completions, answer, strict=True)]

    folder = AnnotationFolder(tmp_path / "interrupted", queries, RECIPE, {})
    with pytest.raises(KeyboardInterrupt):
        folder.fill(engine, interrupting)
    assert folder.unfinished == [1, 2]
    finished = folder.shard(0).stat().st_mtime_ns
    folder = AnnotationFolder(tmp_path / "interrupted", queries, RECIPE, {})
    folder.fill(engine, SumMatch())
    assert folder.shard(0).stat().st_mtime_ns == finished
    assert shards(folder.path) == shards(whole.path)
    assert folder.counts() == whole.counts()


@pytest.mark.parametrize("labels", ["hard", "soft"])
def test_shards_load_as_stepwise_supervision(tmp_path, sums, engine, labels):
    queries = load_queries(str(sums)).select(range(7))
    recipe = Recipe(**{**vars(RECIPE), "labels": labels})
    folder = AnnotationFolder(tmp_path / "out", queries, recipe, {"model": "policy"})
    assert folder.unfinished == [0, 1, 2]
    folder.fill(engine, SumMatch())
    assert folder.unfinished == []
    found = load_dataset("parquet", data_files=str(tmp_path / "out" / "*.parquet"), split="train")
    assert found.to_list() == list(annotate(engine, queries, SumMatch(), recipe))
    assert found.features["prompt"].dtype == "string"
    assert found.features["completions"].feature.dtype == "string"
    assert found.features["labels"].feature.dtype == ("bool" if labels == "hard" else "float64")
    assert not is_conversational(found[0])
    assert list(dict.fromkeys(found["prompt"])) == queries["prompt"]
    answers = dict(zip(queries["prompt"], queries["answer"], strict=True))
    for row in found:
        right = row["ended"] and answer_of("=".join(row["completions"])) == answers[row["prompt"]]
        assert row["correct"] == right
    assert len({label for row in found["labels"] for label in row}) > (2 if labels == "soft" else 1)


def test_a_shard_without_rows_loads_too(tmp_path, engine):
    queries = make_dataset(4, (5,))
    golds = queries["answer"]
    queries = queries.remove_columns("answer").add_column("answer", [None, None, None, golds[3]])

    def verifier(completions, answer, **columns):
        return [
            None if gold is None else float(text.endswith(gold))
            for text, gold in zip(completions, answer, strict=True)
        ]

    folder = AnnotationFolder(tmp_path, queries, RECIPE, {})
    folder.fill(engine, verifier)
    assert len(shards(tmp_path)) == 2
    found = load_dataset("parquet", data_files=str(tmp_path / "*.parquet"), split="train")
    assert set(found["id"]) == {"3"}
    assert folder.counts().unjudged == 3
    assert folder.counts().queries == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"temperature": 0.5}, "temperature was 1.0 and is now 0.5"),
        ({"labels": "hard"}, "labels was 'soft' and is now 'hard'"),
        ({"model": "other"}, "model was 'policy' and is now 'other'"),
        ({"queries": 1}, "queries_digest was"),
        ({"prompt": "1+1="}, "queries_digest was"),
        ({"answer": "1"}, "queries_digest was"),
    ],
)
def test_other_settings_are_refused(tmp_path, change, message):
    queries = make_dataset(3, (5,))
    AnnotationFolder(tmp_path, queries, Recipe(), {})  # nothing was annotated with these: they do not bind
    AnnotationFolder(tmp_path, queries, RECIPE, {"model": "policy"}).shard(0).write_bytes(b"")
    AnnotationFolder(tmp_path, queries, RECIPE, {"model": "policy"})
    if "queries" in change:
        queries = make_dataset(3, (5,), seed=1)
    if change.keys() & set(queries.column_names):
        queries = queries.map(lambda row, place: {**row, **change} if place == 2 else row, with_indices=True)
    recipe = Recipe(**{**vars(RECIPE), **{name: value for name, value in change.items() if hasattr(RECIPE, name)}})
    with pytest.raises(ConfigurationError, match=message) as error:
        AnnotationFolder(tmp_path, queries, recipe, {"model": change.get("model", "policy")})
    assert "use another folder" in str(error.value)


def test_a_shard_is_there_whole_or_not_at_all(tmp_path, engine):
    """A disk that is full in the middle of writing."""
    folder = AnnotationFolder(tmp_path, make_dataset(3, (5,)), RECIPE, {})
    annotated = Annotator(engine, SumMatch(), RECIPE).annotate(list(folder.dataset))

    def torn(path):
        _write_shard(annotated, RECIPE, path)
        os.truncate(path, path.stat().st_size // 2)
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        _write(folder.shard(0), torn)
    assert folder.unfinished == [0]
    assert shards(tmp_path) == {}
    folder.fill(engine, SumMatch())
    assert [len(pq.read_table(folder.shard(0)))] == [len(annotated.rows)]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("text", "message"),
    [('{"prompt": "1+1=", "answer"', "cannot read .*torn.jsonl: "), ("", "(cannot read .*torn.jsonl: |no rows)")],
)
def test_files_that_hold_no_queries(tmp_path, text, message):
    (tmp_path / "torn.jsonl").write_text(text)
    with pytest.raises(DatasetError, match=message):
        load_queries(str(tmp_path / "torn.jsonl"))


def test_options_of_vllm_belong_to_the_settings(tmp_path, sums, capsys):
    words = command(tmp_path / "out", sums, vllm_option="max_model_len=512")[3:]
    assert main(words) == 2
    assert "--vllm_option needs --engine vllm" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="with vLLM it would sample, on a GPU")
def test_options_of_vllm_are_written_down_before_vllm_is_looked_for(tmp_path, sums):
    words = command(tmp_path / "out", sums, vllm_option="max_model_len=512")[3:]
    assert main([*words, "--engine", "vllm"]) == 1
    assert json.loads((tmp_path / "out" / "annotation.json").read_text())["vllm_option"] == {"max_model_len": 512}


def test_a_folder_of_other_files_is_left_alone(tmp_path):
    (tmp_path / "mine.parquet").write_bytes(b"")
    with pytest.raises(ConfigurationError, match=r"holds mine.parquet, but no annotation.json"):
        AnnotationFolder(tmp_path, make_dataset(3, (5,)), RECIPE, {})
    assert [item.name for item in tmp_path.iterdir()] == ["mine.parquet"]


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(ConfigurationError, match="taken cannot be made"):
        AnnotationFolder(tmp_path / "taken", make_dataset(3, (5,)), RECIPE, {})


def test_a_prompt_that_does_not_fit_is_told_before_anything_is_sampled(tmp_path):
    engine = TransformersEngine(make_model(), make_tokenizer())
    queries = Dataset.from_dict({"prompt": ["1"] * 6 + ["1" * 250], "answer": ["1"] * 7})
    folder = AnnotationFolder(tmp_path, queries, RECIPE, {})
    with pytest.raises(DatasetError, match="row 6: a prompt of 250 tokens"):
        folder.fill(engine, SumMatch())
    assert folder.unfinished == [0, 1, 2]


def test_the_manifest_says_how_the_data_was_made(tmp_path):
    AnnotationFolder(tmp_path, make_dataset(3, (5,)), RECIPE, {"model": "policy", "stop": []})
    manifest = json.loads((tmp_path / "annotation.json").read_text())
    assert manifest | {"model": "policy", "separator": "=", "solutions": 4, "queries": 3} == manifest


@pytest.mark.parametrize("suffix", ["jsonl", "parquet", "csv", "folder"])
def test_queries_come_from_files(tmp_path, suffix):
    dataset = Dataset.from_dict({"question": ["1+1", "2+2"], "answer": ["2", "4"], "prompt": ["x", "y"]})
    path = str(tmp_path / f"queries.{suffix}")
    write = {"jsonl": dataset.to_json, "parquet": dataset.to_parquet, "csv": dataset.to_csv}
    write.get(suffix, dataset.save_to_disk)(path)
    assert load_queries(path, prompt_column="question")["prompt"] == ["1+1", "2+2"]
    assert load_queries(path)["prompt"] == ["x", "y"]
    with pytest.raises(DatasetError, match="no column 'query', but question, answer, prompt"):
        load_queries(path, prompt_column="query")


def test_verifiers_have_short_names_or_are_imported(tmp_path, monkeypatch):
    assert isinstance(load_verifier("answer"), AnswerMatch)
    assert isinstance(load_verifier("choice"), MultipleChoice)
    assert isinstance(load_verifier("tests"), UnitTests)
    assert isinstance(load_verifier("bstar_trl.testbed.rewards:SumMatch"), SumMatch)
    (tmp_path / "my_rewards_here.py").write_text("def exact(completions, **columns): return [1.0]\nnumber = 3\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert load_verifier("my_rewards_here:exact")(completions=["x"]) == [1.0]
    with pytest.raises(ConfigurationError, match="must be callable"):
        load_verifier("my_rewards_here:number")
    for name in ("my_rewards_here:nothing", "no_such_module_here:x"):
        with pytest.raises(ConfigurationError, match=f"cannot import '{name}'"):
            load_verifier(name)
    with pytest.raises(ConfigurationError, match=r"answer, choice, tests, .*or module:attribute; got 'sum'"):
        load_verifier("sum")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"temperature": 0}, "temperature must be greater than 0 and finite, got 0.0"),
        ({"solutions": 0}, "must be a whole number of at least 1, got 0"),
        ({"vllm_option": "4096"}, "must be like max_model_len=4096, got '4096'"),
        ({"labels": "both"}, "invalid choice: 'both'"),
        ({"dataset": "missing.jsonl"}, "there is no file missing.jsonl"),
        ({"verifier": "sum"}, "module:attribute; got 'sum'"),
        ({"dataset": "no/such-dataset"}, "cannot load the dataset 'no/such-dataset'"),
        ({"verifier": "answer", "prompt_column": "answer"}, "'AnswerMatch' needs the dataset column(s) answer"),
    ],
)
def test_wrong_arguments_are_explained(tmp_path, sums, changes, message, capsys):
    words = command(tmp_path / "out", **{"dataset": sums, **changes})
    try:
        found = main(words[3:])
    except SystemExit as stop:
        found = stop.code
    assert found == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_written_counts_survive_in_the_shards(tmp_path, engine):
    queries = make_dataset(4, (5,))
    folder = AnnotationFolder(tmp_path, queries, RECIPE, {})
    folder.fill(engine, SumMatch())
    total = AnnotationFolder(tmp_path, queries, RECIPE, {}).counts()
    rows = [row for shard in sorted(tmp_path.glob("*.parquet")) for row in pq.read_table(shard).to_pylist()]
    assert total.solutions == len(rows)
    assert total.steps == sum(len(row["labels"]) for row in rows)
    assert total.queries == 4
