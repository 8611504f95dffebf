"""Step-labelled rows: what is read, what is refused, and on which tokens the labels land."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from conftest import DATA, SHARED, make_tokenizer, skip_without
from datasets import Dataset, concatenate_datasets
from policies import make_text_tokenizer

from bstar_trl.errors import ConfigurationError, DatasetError
from bstar_trl.inputs.datasets import load_queries
from bstar_trl.prm.formats import TokenClassification
from bstar_trl.prm.steps import split_steps
from bstar_trl.prm_training.data import IGNORED, check_row, encode_rows, load_rows

PRMBENCH = DATA / "prmbench.jsonl"
REAL_FILES = ["process_first_error.jsonl", "process_prm800k_ratings.jsonl", "process_prmbench.jsonl"]


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_row(**changes) -> dict:
    return {"prompt": "1+2=", "completions": ["a", "bc"], "labels": [True, False], **changes}


def test_labels_of_every_kind_become_probabilities(tmp_path):
    rows = load_rows(
        [
            write(tmp_path / "hard.jsonl", make_row()),
            write(tmp_path / "whole.jsonl", make_row(labels=[1, 0], correct=True)),
            write(tmp_path / "soft.jsonl", make_row(labels=[0.875, 0.0], answer_correct=False, final_answer="7")),
            write(tmp_path / "unjudged.jsonl", make_row(labels=[None, True])),
            write(
                tmp_path / "ratings.jsonl", {**make_row(completions=list("abc"), ratings=[1, 0, -1]), "labels": None}
            ),
        ]
    )
    assert rows["labels"][:] == [[1.0, 0.0], [1.0, 0.0], [0.875, 0.0], [None, 1.0], [1.0, 1.0, 0.0]]
    assert rows["correct"][:] == [None, True, False, None, None]
    assert rows["final_answer"][:] == [None, None, "7", None, None]


def test_neutral_ratings_mean_what_is_asked_for():
    row = {"prompt": "p", "completions": list("abc"), "ratings": [1, 0, -1]}
    assert check_row(row, neutral_label=0.25)["labels"] == [1.0, 0.25, 0.0]
    with pytest.raises(ConfigurationError, match=r"neutral_label must be in 0\.\.1, got 2"):
        load_rows([PRMBENCH], neutral_label=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": [True]}, "got 1 labels, expected 2"),
        ({"labels": [0.5, 1.5]}, r"a label must be in 0\.\.1, got 1\.5"),
        ({"labels": [0.5, -0.1]}, r"in 0\.\.1, got -0\.1"),
        ({"labels": [0.5, float("nan")]}, r"in 0\.\.1, got nan"),
        ({"labels": ["right", "wrong"]}, r"in 0\.\.1, got 'right'"),
        ({"labels": None, "ratings": [1, 2]}, "a rating must be 1, 0 or -1, got 2"),
        ({"labels": None}, "the column 'labels' .or 'ratings'. is needed, got prompt, completions, labels"),
        ({"completions": []}, "a list of at least one step, got"),
        ({"completions": ["a", "  \n"]}, r"step 2 must be a text that is not empty, got '  \\n'"),
        ({"completions": "a"}, "must be a list of at least one step, got 'a'"),
        ({"prompt": [{"role": "user", "content": "x"}]}, "'prompt' must be a text"),
        ({"correct": "yes"}, "'correct' must be true or false, got 'yes'"),
    ],
)
def test_rows_that_break_the_format_are_refused(changes, message):
    with pytest.raises(DatasetError, match=message):
        check_row(make_row(**changes))


def test_errors_name_the_file_and_the_row(tmp_path):
    path = write(tmp_path / "rows.jsonl", make_row(), make_row(labels=[True]))
    with pytest.raises(DatasetError, match=r"row 1 of .*rows\.jsonl: every step needs a label"):
        load_rows([path])


def test_sources_that_cannot_be_read_are_errors(tmp_path):
    with pytest.raises(DatasetError, match=r"cannot read .*missing\.jsonl"):
        load_rows([tmp_path / "missing.jsonl"])
    with pytest.raises(DatasetError, match="holds no file that ends in"):
        load_rows([tmp_path])
    (tmp_path / "broken.json").write_text("{no json")
    with pytest.raises(DatasetError, match=r"cannot read .*broken\.json"):
        load_rows([tmp_path / "broken.json"])
    with pytest.raises(DatasetError, match="no rows in no sources"):
        load_rows([])


def test_parquet_and_folders_are_read(tmp_path):
    for part in range(2):
        Dataset.from_list([make_row(prompt=f"{part}")]).to_parquet(tmp_path / f"part-{part}.parquet")
    assert load_rows([tmp_path])["prompt"][:] == ["0", "1"]
    assert load_rows([tmp_path / "part-1.parquet"])["prompt"][:] == ["1"]


def test_folders_of_every_sort_are_read(tmp_path):
    rows = Dataset.from_list([make_row(prompt="a"), make_row(prompt="b")])
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "shards").mkdir()
    rows.to_parquet(tmp_path / "shards" / "part.parquet")
    (tmp_path / "shards" / "about.json").write_text('{"what": "this is no row"}')
    for folder in ("saved", "shards"):
        assert load_rows([tmp_path / folder])["prompt"][:] == ["a", "b"]
        assert load_queries(str(tmp_path / folder))["prompt"][:] == ["a", "b"]
    rows.to_csv(tmp_path / "shards" / "part.csv")
    (tmp_path / "shards" / "part.parquet").unlink()
    with pytest.raises(DatasetError, match="holds csv and json files: name the files to read"):
        load_rows([tmp_path / "shards"])


def test_a_label_stands_on_the_last_token_of_its_separator():
    # A token per character: prompt 4, then 1 + 2 and 2 + 2 with the separator "=\n".
    rows = Dataset.from_list([check_row(make_row())])
    encoded = encode_rows(rows, make_tokenizer(), separator="=\n").dataset[0]
    assert encoded["positions"] == [4 + 1 + 2 - 1, 4 + 1 + 2 + 2 + 2 - 1]
    assert encoded["targets"] == [1.0, 0.0]
    assert make_tokenizer().decode(encoded["input_ids"]) == "1+2=a=\nbc=\n"


@pytest.mark.parametrize(
    ("completions", "labels", "separator", "targets"),
    [
        (["a\nb", "c"], [1, 0], "\n", [IGNORED, 1.0, 0.0]),
        (["a\n\nb\n\nc", "d"], [0, 1], "\n\n", [IGNORED, IGNORED, 0.0, 1.0]),
        (["a\n", "b"], [1, 0], "\n", [1.0, 0.0]),
        (["a\n", "b"], [1, 0], "\n\n", [1.0, 0.0]),
        (["1+2=3", "3"], [0.25, None], "=", [IGNORED, 0.25, IGNORED]),
        (["=", "a"], [0, 1], "=", [1.0]),
        (["a ки\nb", "c"], [1, 0], " ки\n", [IGNORED, 1.0, 0.0]),
        (["a", "b"], [1, 0], "\n", [1.0, 0.0]),
    ],
)
def test_training_lays_out_what_scoring_lays_out(completions, labels, separator, targets, caplog):
    """Steps that hold the separator: the same tokens, and labels where scores are read."""
    rows = Dataset.from_list([check_row(make_row(completions=["a"], labels=[1]))] * 2)
    rows = concatenate_datasets(
        [rows, Dataset.from_list([check_row(make_row(completions=completions, labels=labels))])]
    )
    tokenizer, family = make_tokenizer(), TokenClassification(separator)
    encoding = encode_rows(rows, tokenizer, separator=separator)
    trained = encoding.dataset[2]
    response = separator.join(completions)
    (scored,) = family.lay_out(tokenizer, ["1+2="], [split_steps(response, family.split)])
    (given,) = family.lay_out(tokenizer, ["1+2="], [completions])
    assert trained["input_ids"] == scored.token_ids == given.token_ids
    assert trained["positions"] == scored.positions == given.positions
    assert trained["targets"] == targets
    assert trained["steps"] == len(targets)
    assert encoding.dropped_steps == 0
    said = [record.message for record in caplog.records if "hold the separator" in record.message]
    assert len(said) == (split_steps(response, separator) != completions)  # once, or not at all
    assert all("1 of 3 rows" in text and "row 2" in text and repr(separator) in text for text in said)


def test_a_row_of_separators_alone_is_left_out():
    rows = Dataset.from_list([check_row(make_row(completions=["=", "=="], labels=[1, 0])), check_row(make_row())])
    encoding = encode_rows(rows, make_tokenizer(), separator="=")
    assert encoding.dataset["row"][:] == [1]
    assert encoding.left_out_rows == 1


def test_too_long_rows_lose_whole_steps_and_are_counted():
    rows = Dataset.from_list(
        [
            check_row(make_row(completions=["a", "bc", "d"], labels=[1, 0, 1])),  # 4 + 2 + 3 + 2 = 11 tokens
            check_row(make_row(completions=["abcdefgh"], labels=[0])),  # 13 tokens: nothing left
            check_row(make_row(completions=["a", "b"], labels=[None, None])),
            check_row(make_row(completions=["a", "bcd"], labels=[None, 0])),  # 10 tokens: as long as allowed
        ]
    )
    encoding = encode_rows(rows, make_tokenizer(), max_length=10)
    assert encoding.dataset["row"][:] == [0, 3]
    assert encoding.dataset["targets"][:] == [[1.0, 0.0], [IGNORED, 0.0]]
    assert encoding.dataset["steps"][:] == [3, 2]
    assert [len(row) for row in encoding.dataset["input_ids"]] == [9, 10]
    assert (encoding.truncated_rows, encoding.dropped_steps, encoding.left_out_rows) == (2, 2, 2)
    assert "2 rows were too long and lost 2 steps; 2 rows" in encoding.loss_report
    assert encode_rows(rows.select([0, 3]), make_tokenizer()).loss_report is None
    with pytest.raises(DatasetError, match="not one row has a labelled step within max_length=3"):
        encode_rows(rows, make_tokenizer(), max_length=3)


def test_a_separator_without_tokens_is_refused():
    rows = Dataset.from_list([check_row(make_row())])
    with pytest.raises(ConfigurationError, match="the separator must have at least one token, but '' has none"):
        encode_rows(rows, make_tokenizer(), separator="")


def check_real_rows(path: Path) -> None:
    """The tokens from one position to the next are those of one line and its separator; a step's last line has the
    step's label."""
    rows = load_rows([path])
    raw = [json.loads(line) for line in path.read_text().splitlines()]
    tokenizer = make_text_tokenizer([row["prompt"] + "".join(row["completions"]) + "\n" for row in raw])
    encoding = encode_rows(rows, tokenizer)
    assert len(encoding.dataset) == len(raw)
    for row, encoded in zip(raw, encoding.dataset, strict=True):
        labels = row["labels"] if "labels" in row else [rating >= 0 for rating in row["ratings"]]
        lines = [[line for line in step.split("\n") if line.strip()] for step in row["completions"]]
        assert encoded["targets"] == [
            float(label) if place == len(step) - 1 else IGNORED
            for step, label in zip(lines, labels, strict=True)
            for place in range(len(step))
        ]
        ends = [position + 1 for position in encoded["positions"]]
        texts = [tokenizer.decode(encoded["input_ids"][start:end]) for start, end in pairwise([0, *ends])]
        first, *others = (line for step in lines for line in step)
        assert texts == [row["prompt"] + first + "\n", *(line + "\n" for line in others)]


def test_labels_of_real_rows_land_on_the_right_tokens():
    check_real_rows(PRMBENCH)


@pytest.mark.parametrize("name", REAL_FILES)
def test_labels_of_all_real_rows_land_on_the_right_tokens(name):
    check_real_rows(skip_without(SHARED / "data" / name))
