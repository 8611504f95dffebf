"""Rows of any shape become queries: columns, templates, conversations."""

from __future__ import annotations

import json

import pytest

from bstar_trl.errors import ConfigurationError, DatasetError
from bstar_trl.launch.prompts import evaluation_rows, training_rows
from bstar_trl.options import DataOptions

GSM8K = [
    {"question": "2+2?", "answer": "2+2=4\n#### 4", "level": 1},
    {"question": "{x}?", "answer": "#### 5", "level": 2},
]


@pytest.fixture
def rows(tmp_path):
    def read(rows: list[dict], *, is_chat: bool = False, **options: object) -> list[dict]:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return training_rows(DataOptions(dataset_name=str(path), **options), is_chat=is_chat).to_list()

    return read


def test_a_question_becomes_the_prompt(rows):
    found = rows(GSM8K)
    assert [row["prompt"] for row in found] == ["2+2?", "{x}?"]
    assert [(row["answer"], row["level"]) for row in found] == [("2+2=4\n#### 4", 1), ("#### 5", 2)]
    assert [row["prompt"] for row in rows([{"prompt": "a", "answer": "b"}])] == ["a"]
    assert [row["prompt"] for row in rows([{"problem": "a", "answer": "b"}])] == ["a"]
    assert len(rows(GSM8K, max_rows=1)) == 1
    assert len(rows(GSM8K, max_rows=9)) == 2


def test_templates_name_columns(rows):
    found = rows(GSM8K, prompt_template="Q ({level}): {question}\nA:")
    assert [row["prompt"] for row in found] == ["Q (1): 2+2?\nA:", "Q (2): {x}?\nA:"]  # a row's braces are its own
    nested = [{"question": "Which?", "choices": {"text": ["a", "b"]}, "answer": "A"}]
    assert rows(nested, prompt_template="{question} A. {choices[text][0]}")[0]["prompt"] == "Which? A. a"


def test_conversations_where_the_tokenizer_has_a_template(rows):
    found = rows(GSM8K, is_chat=True, system_prompt="Think.")
    assert found[0]["prompt"] == [{"role": "system", "content": "Think."}, {"role": "user", "content": "2+2?"}]
    assert rows(GSM8K, is_chat=True)[0]["prompt"] == [{"role": "user", "content": "2+2?"}]
    assert rows(GSM8K, is_chat=True, chat=False)[0]["prompt"] == "2+2?"
    assert rows(GSM8K, chat=True)[0]["prompt"] == [{"role": "user", "content": "2+2?"}]
    spoken = [{"prompt": [{"role": "user", "content": "a"}], "answer": "b"}]
    assert rows(spoken, is_chat=True)[0]["prompt"] == spoken[0]["prompt"]
    with pytest.raises(ConfigurationError, match="are conversations"):
        rows(spoken, is_chat=True, system_prompt="Think.")
    with pytest.raises(ConfigurationError, match="system_prompt needs a conversation"):
        rows(GSM8K, system_prompt="Think.")


def test_the_answer_may_have_another_name(rows):
    assert rows([{"question": "a", "solution": "b"}])[0]["answer"] == "b"
    assert rows([{"question": "a", "gold": "b", "answer": "c"}], answer_column="gold")[0]["answer"] == "b"
    assert "answer" not in rows([{"prompt": "a", "tests": ["b"]}])[0]  # unit tests need none
    assert rows([{"text": "a", "answer": "b"}], prompt_column="text")[0]["prompt"] == "a"


def test_a_function_changes_rows(rows, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own_rows.py").write_text(
        "def to_row(row):\n    return {'prompt': row['question'] * 2, 'answer': row['answer'][-1]}\n"
    )
    found = rows(GSM8K, row_function="own_rows.py:to_row")
    assert [(row["prompt"], row["answer"]) for row in found] == [("2+2?2+2?", "4"), ("{x}?{x}?", "5")]


def test_evaluation_rows(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps({"question": name, "answer": "1"}) + "\n")
    options = DataOptions(dataset_name=str(tmp_path / "train.jsonl"))
    assert evaluation_rows(options, is_chat=False) is None
    options.eval_dataset_name = str(tmp_path / "test.jsonl")
    assert evaluation_rows(options, is_chat=False)["prompt"][:] == ["test"]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"prompt_column": "qestion"},
            DatasetError,
            r"no column 'qestion' \(did you mean 'question'\?\), but question",
        ),
        ({"answer_column": "gold"}, DatasetError, "no column 'gold', but question, answer, level: set answer_column"),
        ({"prompt_template": "Q: {qestion}"}, ConfigurationError, r"no column 'qestion' \(did you mean 'question'"),
        ({"prompt_template": "Q: {question"}, ConfigurationError, "a brace itself is written twice"),
        ({"prompt_template": "Q:"}, ConfigurationError, "names no column"),
        ({"max_rows": 0}, ConfigurationError, "max_rows must be at least 1, got 0"),
        ({"row_function": "nothing_here:x"}, ConfigurationError, "cannot import 'nothing_here:x'"),
    ],
)
def test_rows_that_do_not_fit_are_told(rows, options, error, message):
    with pytest.raises(error, match=message):
        rows(GSM8K, **options)


def test_rows_without_a_question(rows):
    with pytest.raises(
        DatasetError, match="no column 'prompt' or 'question' or 'problem', but text: set prompt_column"
    ):
        rows([{"text": "a"}])
